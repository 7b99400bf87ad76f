//! `bundle serve` has the same small memory whatever the bundle's size: a sparse bundle of `KDC_GIB`
//! (1) GiB is pulled whole, while 40 other clients ask for it and take nothing.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write},
    net::TcpStream,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use kdc_bundles::{
    index::{Artifact, ArtifactKind, Blob, Digest, INDEX_VERSION, Index, PIECE_SIZE},
    signing::SigningKey,
    write::{hash_blob, write},
};

/// The bar.
const MOST_KIB: u64 = 200 * 1024;

const STALLED: usize = 40;

/// Leaves holes where zeros are written.
struct Holes(std::fs::File);

impl Write for Holes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.iter().all(|byte| *byte == 0) {
            self.0.seek(SeekFrom::Current(i64::try_from(bytes.len()).unwrap()))?;
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = self.0.stream_position()?;
        self.0.set_len(length)
    }
}

/// A sparse layer; every 512th MiB or so has bytes in it.
fn layer(folder: &Path, gib: u64) -> Blob {
    let file = std::fs::File::create_new(folder.join("layer")).unwrap();
    file.set_len(gib << 30).unwrap();
    for place in 0..gib * 2 {
        file.write_all_at(&place.to_le_bytes(), (place << 29) + place * 1_000_003).unwrap();
    }
    let file = fs_err::File::open(folder.join("layer")).unwrap();
    hash_blob(BufReader::with_capacity(1 << 20, file), PIECE_SIZE, &mut |_| {}).unwrap()
}

fn bundle(folder: &Path, gib: u64) -> Digest {
    let layer = layer(folder, gib);
    let digest = layer.digest.clone();
    let manifest = hash_blob(&b"{}"[..], PIECE_SIZE, &mut |_| {}).unwrap();
    let root = manifest.digest.clone();
    let image = Artifact {
        name: "registry.site/large:1".to_owned(),
        kind: ArtifactKind::Image,
        platform: None,
        version: None,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: root.clone(),
        blobs: vec![root.clone(), digest.clone()],
        roles: Vec::new(),
        unpack_to: None,
        licence: None,
        source: None,
    };
    let mut blobs = vec![layer, manifest];
    blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
    let index = Index {
        version: INDEX_VERSION,
        name: "large".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: PIECE_SIZE,
        parameters: std::collections::BTreeMap::new(),
        artifacts: vec![image],
        blobs,
    };
    let key = SigningKey::generate().unwrap();
    fs_err::write(folder.join("key.pub"), key.public().to_text()).unwrap();
    let open = |wanted: &Digest| -> io::Result<Box<dyn io::Read>> {
        if *wanted == root {
            return Ok(Box::new(&b"{}"[..]));
        }
        Ok(Box::new(fs_err::File::open(folder.join("layer"))?))
    };
    let file = std::fs::File::create_new(folder.join("large.bundle")).unwrap();
    write(Holes(file), &index, &key, open, &mut |_| {}).unwrap();
    fs_err::remove_file(folder.join("layer")).unwrap();
    digest
}

/// Ends with the test.
struct Serving(Child, String);

impl Serving {
    fn start(folder: &Path) -> Self {
        let serve = "bundle serve large.bundle --key key.pub --listen 127.0.0.1:0 --output json";
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("kdc-install"))
            .current_dir(folder)
            .args(serve.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = said["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        Self(child, address)
    }

    fn ask(&self, digest: &Digest) -> TcpStream {
        let mut stream = TcpStream::connect(&self.1).unwrap();
        let path = format!("/v2/registry.site/large/blobs/{digest}");
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// The most that was ever resident, as the kernel counts it.
    fn peak_kib(&self) -> u64 {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn memory_is_flat_while_a_large_blob_is_pulled_and_others_stall() {
    let gib = std::env::var("KDC_GIB").map_or(1, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let digest = bundle(folder.path(), gib);
    let serving = Serving::start(folder.path());
    let stalled: Vec<_> = (0..STALLED).map(|_| serving.ask(&digest)).collect();
    let began = Instant::now();
    let mut reader = BufReader::with_capacity(1 << 20, serving.ask(&digest));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let taken = io::copy(&mut reader.take(gib << 30), &mut io::sink()).unwrap();
    assert_eq!(taken, gib << 30);
    let peak = serving.peak_kib();
    println!("{gib} GiB in {:.1?}; peak memory {} MiB", began.elapsed(), peak / 1024);
    assert!(peak <= MOST_KIB, "{peak} KiB");
    drop(stalled);
}
