//! A generated bundle to ten servers that feed each other, against the time to one in the same run.
//!
//! Light servers of a lab, whose links, and the operator's, carry 200 Mbit/s each way. Time is from the first question
//! (the agents are there by then) to the start of the last run, which is when the last store is whole; the installer's bytes are those of its
//! device, all headers included. Prints both ratios and fails when a bar is missed. `KDC_PEERS_MIB` sets the size
//! (1024), `KDC_PEERS_SERVERS` the servers (10), `KDC_PEERS_RATE` the links (on few cores ten fast ones are bound by the kernel).

#![expect(clippy::print_stdout, reason = "a bench reports on stdout")]
#![expect(clippy::unwrap_used, reason = "as in the tests whose kit it uses")]

#[path = "../tests/kit/feeding.rs"]
mod feeding;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use feeding::{Made, Watched, feed_until};
use kdc_tests::{
    lab::{Lab, LightServer, Wanted, network},
    server::{Fault, Server as _},
};

/// Bars: time against the time to one, bytes against the bundle.
const BARS: (f64, f64) = (1.5, 1.3);

/// What every link carries, unless `KDC_PEERS_RATE` says otherwise.
const RATE: &str = "200mbit";

fn rate() -> String {
    std::env::var("KDC_PEERS_RATE").unwrap_or_else(|_| RATE.to_owned())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Seconds until all stores were whole, and what the workstation sent against the bundle.
fn measure(lab: &Lab, servers: &[LightServer], made: &Made) -> anyhow::Result<(f64, f64)> {
    let watched = Watched::default();
    let began = Mutex::new(None);
    let started = || watched.started.lock().unwrap().len();
    // What the runs do with it is another matter.
    feed_until(lab, servers, made, &watched, || async {
        let sent = network::sent_by_workstation(lab.state());
        *began.lock().unwrap() = Some((Instant::now(), sent));
        while started() < servers.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let Some((began, before)) = began.into_inner()? else { anyhow::bail!("it did not begin") };
    let sent = network::sent_by_workstation(lab.state())? - before?;
    let last = watched.started.lock().unwrap().iter().map(|(_, at)| *at).max();
    let last = last.ok_or_else(|| anyhow::anyhow!("no run was started"))?;
    let took = last.saturating_duration_since(began).as_secs_f64();
    anyhow::ensure!(started() == servers.len(), "{} of {} fed", started(), servers.len());
    let ratio = sent as f64 / made.bytes() as f64;
    println!(
        "  {} servers: {took:.1} s, the installer sent {ratio:.2} x the bundle",
        servers.len()
    );
    Ok((took, ratio))
}

fn main() -> anyhow::Result<()> {
    // `cargo test --all-targets` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let (mib, count) = (number("KDC_PEERS_MIB", 1024), number("KDC_PEERS_SERVERS", 10));
    let folder = tempfile::tempdir()?;
    let fresh = |name: &str| {
        let folder = folder.path().join(name);
        fs_err::create_dir(&folder).map(|()| Made::new(&folder, &[mib / 2, mib / 4, mib / 4]))
    };
    let (for_one, for_all) = (fresh("one")?, fresh("all")?);
    let name = format!("bench-peers-{}", std::process::id());
    let lab =
        Lab::up(&Wanted::named(&name, usize::try_from(count)?), &|line| println!("  {line}"))?;
    let measured = (|| {
        let servers = lab.servers()?;
        network::shape_workstation(lab.state(), Some(&rate()))?;
        for server in &servers {
            server.inflict(&Fault::Shape(rate()))?;
        }
        let (one, _) = measure(&lab, &servers[..1], &for_one)?;
        let (all, sent) = measure(&lab, &servers, &for_all)?;
        Ok((one, all, sent))
    })();
    lab.down()?;
    let (one, all, sent): (f64, f64, f64) = measured.map_err(|error: anyhow::Error| error)?;
    let time = all / one;
    println!(
        "peers: {mib} MiB to {count} servers {all:.1} s, to one {one:.1} s: {time:.2} x (bar {}); the installer sent \
         {sent:.2} x the bundle (bar {})",
        BARS.0, BARS.1
    );
    anyhow::ensure!(time <= BARS.0 && sent <= BARS.1, "a bar was missed");
    Ok(())
}
