//! Pushing one file to one node, against `scp` over the same sshd in the same run.
//!
//! Prints the median ratio of wall time and of client CPU over paired rounds (`scp` = 1), and fails
//! when a bar is missed. `KDC_PUSH_MIB` sets the size (1024), `KDC_PUSH_ROUNDS` the rounds (3).
//! Both sides write to memory on the far end; neither checks digests there. Then the same with a line
//! between them that makes a round trip take 20 ms (`KDC_PUSH_FAR_MIB`, 256): there it is the rate that
//! counts, since windows bound it and not processors.

#![expect(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kdc_agent::wire::MissingPieces;
use kdc_bundles::index::{Blob, Digest, Index, PIECE_SIZE};
use kdc_install::ssh::{AgentBinary, Keyring, PieceSource, Reach, Session, Silent, Target, Trust};
use kdc_tests::{
    far::Far,
    sshd::{Options, Sshd},
};
use nix::sys::resource::{Usage, UsageWho, getrusage};

/// Bars of `docs/ssh.md`.
const WALL: f64 = 0.60;
const CPU: f64 = 0.35;
/// Rate, `scp` = 1, over a line of that length.
const FAR_RATE: f64 = 1.8;
const ONE_WAY: Duration = Duration::from_millis(10);

struct Source(File);

impl PieceSource for Source {
    fn read_at(&self, _: &Digest, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}

/// What one transfer took.
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn cpu(who: UsageWho) -> anyhow::Result<Duration> {
    let total = |usage: &Usage| usage.user_time() + usage.system_time();
    let time = total(&getrusage(who)?);
    Ok(Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec())?))
}

fn measure(who: UsageWho, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
    let (started, before) = (Instant::now(), cpu(who)?);
    work()?;
    Ok(Cost { wall: started.elapsed(), cpu: cpu(who)? - before })
}

fn scp(server: &Sshd, port: u16, file: &Path) -> anyhow::Result<()> {
    let key = server.path("id");
    let mut command = std::process::Command::new("scp");
    command.args([
        "-q",
        "-F",
        "none",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]);
    command.args(["-o", "LogLevel=ERROR", "-P", &port.to_string(), "-i"]).arg(key);
    let status = command.arg(file).arg("root@127.0.0.1:/dev/shm/scp.out").status()?;
    anyhow::ensure!(status.success(), "scp failed");
    Ok(())
}

async fn push(target: &Target, agent: &AgentBinary, file: &Path, size: u64) -> anyhow::Result<()> {
    let digest = Digest::of(b"the file");
    let blob = Blob { digest: digest.clone(), size, pieces: Vec::new() };
    let index = Index {
        version: 1,
        name: "bench".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: PIECE_SIZE,
        parameters: std::collections::BTreeMap::new(),
        artifacts: Vec::new(),
        blobs: vec![blob],
    };
    let last = u32::try_from(size.div_ceil(PIECE_SIZE))?;
    let missing = [MissingPieces { blob: digest.clone(), ranges: vec![(0, last)] }];
    let source = Source(fs_err::File::open(file)?.into_parts().0);
    let session = Session::open(target, agent).await?;
    let received = session.send_pieces(&index, &digest, &missing, &source, &|_| {}).await?;
    anyhow::ensure!(received.bytes == size, "{} of {size} bytes arrived", received.bytes);
    session.close().await;
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() -> anyhow::Result<()> {
    // `cargo test --all-targets` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let (size, far_size) =
        (number("KDC_PUSH_MIB", 1024) << 20, number("KDC_PUSH_FAR_MIB", 256) << 20);
    let environment = vec!["KDC_FAKE_SINK=/dev/shm/push.out".to_owned()];
    let server = Sshd::start(&Options { environment, ..Options::default() })?;
    let folder = tempfile::tempdir_in("/dev/shm").context("room in memory for the file")?;
    let files =
        [("near", size), ("far", far_size)].map(|(name, size)| (folder.path().join(name), size));
    for (file, size) in &files {
        let mut random = fs_err::File::open("/dev/urandom")?.into_parts().0;
        std::io::copy(&mut (&mut random).take(*size), &mut File::create_new(file)?)?;
    }
    let agent = AgentBinary::load(Path::new(env!("CARGO_BIN_EXE_fake-agent")))?;
    let pinned = Some(fs_err::read_to_string(server.path("host_ed25519.pub"))?);
    let target = |port: u16| {
        let reach = Reach {
            host: "127.0.0.1".to_owned(),
            port,
            user: "root".to_owned(),
            identities: vec![server.path("id")],
            identities_only: true,
            trust: Trust { pinned: pinned.clone(), ..Trust::default() },
        };
        let keyring = Arc::new(Keyring::with_agent(Arc::new(Silent), None));
        Target::Ssh { node: "n".to_owned(), reach: Box::new(reach), jump: None, keyring }
    };
    let line = Far::towards(server.port, ONE_WAY)?;
    let near = compare("round", &server, &target(server.port), server.port, &agent, &files[0])?;
    let (wall, cpu) = (median(near.walls), median(near.cpus));
    println!(
        "push of {} MiB, scp = 1: wall {wall:.2} (bar {WALL}), client cpu {cpu:.2} (bar {CPU})",
        size >> 20
    );
    let far = compare("far round", &server, &target(line.port), line.port, &agent, &files[1])?;
    let rate = 1.0 / median(far.walls);
    println!(
        "far push of {} MiB at {} ms round trip, scp = 1: rate {rate:.2} (bar {FAR_RATE})",
        far_size >> 20,
        2 * ONE_WAY.as_millis()
    );
    anyhow::ensure!(wall <= WALL && cpu <= CPU && rate >= FAR_RATE, "a bar was missed");
    Ok(())
}

/// Ours over theirs, a round each.
#[derive(Default)]
struct Ratios {
    walls: Vec<f64>,
    cpus: Vec<f64>,
}

/// Pairs of transfers of a file of that size, `scp` first.
fn compare(
    name: &str,
    server: &Sshd,
    target: &Target,
    port: u16,
    agent: &AgentBinary,
    (file, size): &(PathBuf, u64),
) -> anyhow::Result<Ratios> {
    let mut ratios = Ratios::default();
    for round in 1..=number("KDC_PUSH_ROUNDS", 3) {
        let theirs = measure(UsageWho::RUSAGE_CHILDREN, || scp(server, port, file))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ours =
            measure(UsageWho::RUSAGE_SELF, || runtime.block_on(push(target, agent, file, *size)))?;
        let ratio = |ours: Duration, theirs: Duration| ours.as_secs_f64() / theirs.as_secs_f64();
        ratios.walls.push(ratio(ours.wall, theirs.wall));
        ratios.cpus.push(ratio(ours.cpu, theirs.cpu));
        println!(
            "{name} {round}: scp {:.2} s wall {:.2} s cpu; push {:.2} s wall {:.2} s cpu",
            theirs.wall.as_secs_f64(),
            theirs.cpu.as_secs_f64(),
            ours.wall.as_secs_f64(),
            ours.cpu.as_secs_f64()
        );
    }
    Ok(ratios)
}
