//! How fast a bundle is proved, as a ratio to `openssl dgst -sha256` over the same file in the same
//! run: above 1 is faster. `KDC_BENCH_MIB` sets the size.
//!
//! `cargo bench -p kdc-bundles --features create --bench verify`

#![expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]

use std::{
    collections::BTreeMap,
    error::Error,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kdc_bundles::{
    index::{Artifact, ArtifactKind, Digest, INDEX_VERSION, Index, PIECE_SIZE},
    keys::TrustedKeys,
    signing::SigningKey,
    verify::verify,
    write::{hash_blob, write_file},
};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mebibytes = std::env::var("KDC_BENCH_MIB").ok();
    let mebibytes: u64 = mebibytes.map_or(Ok(512), |text| text.parse())?;
    // In memory where there is some: the disk is not what is measured.
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }?;
    let path = folder.path().join("bench.bundle");
    let key = SigningKey::generate()?;
    make(&path, &key, mebibytes)?;
    let keys = TrustedKeys::new(vec![key.public()])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(time(|| openssl(&path))?);
        ours.push(time(|| Ok(verify(fs_err::File::open(&path)?, &keys).map(drop)?))?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let rate = |time: Duration| mebibytes as f64 * 1.048_576 / time.as_secs_f64();
    println!(
        "verify {mebibytes} MiB: {:.0} MB/s, openssl dgst -sha256 {:.0} MB/s, ratio {:.2} on {} cores",
        rate(ours),
        rate(theirs),
        theirs.as_secs_f64() / ours.as_secs_f64(),
        std::thread::available_parallelism()?
    );
    Ok(())
}

fn time(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn openssl(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new("openssl");
    let status = command.args(["dgst", "-sha256"]).arg(path).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err("openssl failed".into()) }
}

/// A bundle with one blob of that size.
fn make(path: &Path, key: &SigningKey, mebibytes: u64) -> Result<(), Box<dyn Error>> {
    let content = || std::io::repeat(0x5a).take(mebibytes << 20);
    let blob = hash_blob(content(), PIECE_SIZE, &mut |_| {})?;
    let artifact = Artifact {
        name: "content".to_owned(),
        kind: ArtifactKind::File,
        platform: None,
        version: None,
        media_type: "application/octet-stream".to_owned(),
        digest: blob.digest.clone(),
        blobs: vec![blob.digest.clone()],
        roles: Vec::new(),
        unpack_to: None,
        licence: None,
        source: None,
    };
    let index = Index {
        version: INDEX_VERSION,
        name: "bench".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: PIECE_SIZE,
        parameters: BTreeMap::new(),
        artifacts: vec![artifact],
        blobs: vec![blob],
    };
    write_file(path, &index, key, |_: &Digest| Ok(content()), &mut |_| {})?;
    Ok(())
}
