//! Nodes that feed each other, for real: light servers, real agents, a generated bundle of files, no Kubernetes.
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

#[path = "kit/feeding.rs"]
mod feeding;
mod kit;

use std::time::{Duration, Instant};

use feeding::{Made, Watched, feed_until};
use kdc_install::fleet::conduct::NodeResult;
use kdc_tests::{
    lab::LightServer,
    server::{Fault, Server},
};
use kit::{TestLab, sh};

/// What came of feeding.
struct Fed {
    results: Vec<NodeResult>,
    /// From the first question to the start of the last run.
    took: Duration,
}

impl Fed {
    /// Bytes that the installer sent to all of them.
    fn sent(&self) -> u64 {
        self.results.iter().map(|result| result.sent_bytes).sum()
    }

    fn all_installed(&self) -> bool {
        self.results.iter().all(|result| result.end.is_installed())
    }
}

/// Feed them to the end.
fn feed(lab: &TestLab, servers: &[LightServer], made: &Made, watched: &Watched) -> Fed {
    let began = Instant::now();
    let results = feed_until(lab, servers, made, watched, std::future::pending).unwrap();
    let last = watched.started.lock().unwrap().iter().map(|(_, at)| *at).max();
    let took = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(began));
    Fed { results, took }
}

/// Every store is whole and every file written, as the signed index says; nobody shares any more.
fn assert_fed(servers: &[LightServer], made: &Made, fed: &Fed) {
    assert!(fed.all_installed(), "{:?}", fed.results);
    for server in servers {
        for file in made.files() {
            let (hex, name) = (file.digest.hex(), &file.name);
            for place in [format!("/var/lib/kdc/store/blobs/sha256/{hex}"), format!("/opt/{name}")]
            {
                let sum = sh(server, &format!("sha256sum < {place}"));
                assert_eq!(sum[..64], *hex, "{place} on {}", server.name());
            }
        }
        let units = sh(server, "systemctl list-units --plain --no-legend 'kdc-share*' || true");
        assert!(!units.contains("running"), "{}: {units}", server.name());
    }
}

fn ratio(fed: &Fed, made: &Made) -> f64 {
    fed.sent() as f64 / made.bytes() as f64
}

#[test]
fn nodes_feed_each_other_and_finish_where_they_can_not() {
    let lab = TestLab::up("peers", 3, |_| {});
    let servers = lab.servers().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fresh = |name: &str| {
        let folder = folder.path().join(name);
        fs_err::create_dir(&folder).unwrap();
        Made::new(&folder, &[40, 3, 21])
    };

    let made = fresh("all good");
    let watched = Watched::default();
    let fed = feed(&lab, &servers, &made, &watched);
    println!(
        "three servers: {:.1} s, the installer sent {:.2} x",
        fed.took.as_secs_f64(),
        ratio(&fed, &made)
    );
    assert_fed(&servers, &made, &fed);
    assert!(ratio(&fed, &made) < 1.6, "it sent {:.2} x the bundle", ratio(&fed, &made));
    for server in &servers {
        let said = watched.stored.lock().unwrap();
        let most = said.iter().filter(|(node, _)| node == server.name()).map(|(_, bytes)| *bytes);
        assert_eq!(most.max(), Some(made.bytes()), "what people see are the bytes in the store");
    }

    // The installer dies when about all of it is somewhere: the nodes finish by themselves, and the next one goes on.
    let made = fresh("killed");
    let rate = "200mbit";
    for server in &servers {
        server.inflict(&Fault::Shape(rate.into())).unwrap();
    }
    let watched = Watched::default();
    let some = || watched.stored.lock().unwrap().iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let killed = feed_until(&lab, &servers, &made, &watched, || async {
        while some() < made.bytes() * 7 / 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(killed.is_none(), "it was done before it could be killed");
    // Seven tenths were somewhere: what is missing there is here soon, without any installer.
    std::thread::sleep(Duration::from_secs(4));
    let fed = feed(&lab, &servers, &made, &Watched::default());
    println!("after a killed installer the next one sent {:.2} x", ratio(&fed, &made));
    assert_fed(&servers, &made, &fed);
    assert!(ratio(&fed, &made) < 0.9, "the second one sent {:.2} x", ratio(&fed, &made));

    // No node reaches another.
    for server in &servers {
        server.inflict(&Fault::Unshape).unwrap();
        for other in servers.iter().filter(|other| other.name() != server.name()) {
            sh(server, &format!("ip route add blackhole {}/32", other.address()));
        }
    }
    let made = fresh("blocked");
    let fed = feed(&lab, &servers, &made, &Watched::default());
    println!(
        "nobody reaches anybody: {:.1} s, {:.2} x",
        fed.took.as_secs_f64(),
        ratio(&fed, &made)
    );
    assert_fed(&servers, &made, &fed);
    assert!((2.9..3.1).contains(&ratio(&fed, &made)), "it sent {:.2} x", ratio(&fed, &made));
}
