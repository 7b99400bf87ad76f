//! The main job, for real: fresh servers become a cluster, survive what happens to installers, and become
//! themselves again. Each test says what an operator would care about.
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

mod kit;

use std::{
    collections::BTreeSet,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kdc_tests::{
    differ::{Snapshot, diff},
    lab::LightServer,
    operator::{Operator, built},
    server::{Fault, Server},
};
use kit::{TestLab, sh};
use serde_json::Value;

fn operator(lab: &TestLab, profile: &str, servers: &[LightServer]) -> Operator {
    let servers: Vec<&dyn Server> = servers.iter().map(|server| server as &dyn Server).collect();
    Operator::new(lab, profile, &servers).unwrap()
}

fn snapshots(servers: &[LightServer]) -> Vec<Snapshot> {
    servers.iter().map(|server| Snapshot::of(server).unwrap()).collect()
}

/// Every host is as it was, or the differences are told, node by node.
fn assert_as_before(before: &[Snapshot], servers: &[LightServer]) {
    let mut told = String::new();
    for (before, server) in before.iter().zip(servers) {
        for difference in diff(before, &Snapshot::of(server).unwrap()) {
            told.push_str(&format!("{}: {difference}\n", server.name()));
        }
    }
    assert!(told.is_empty(), "undo left differences:\n{told}");
}

/// Its cache goes where a reboot clears it: what the test itself leaves would be blamed on undo.
fn kubectl(server: &LightServer, words: &str) -> String {
    let kubeconfig = "--kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/test-kubectl";
    sh(server, &format!("kubectl {kubeconfig} {words}"))
}

fn ready_nodes(server: &LightServer) -> usize {
    kubectl(server, "get nodes --no-headers").matches(" Ready ").count()
}

/// What every process of the lab shows to others, looked at again and again while `work` goes on.
fn watching_processes<T>(work: impl FnOnce() -> T) -> (T, BTreeSet<Vec<u8>>) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for process in fs_err::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        // A process may end between the listing and the look.
                        seen.extend(fs_err::read(process.path().join(file)));
                    }
                }
                std::thread::sleep(Duration::from_millis(30));
            }
            seen
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watcher.join().unwrap())
    })
}

/// The secrets that an install made: join tokens and private keys, by where they are.
fn generated_secrets(control_plane: &LightServer) -> Vec<(String, String)> {
    let listed = kubectl(control_plane, "-n kube-system get secrets -o json");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let mut found = Vec::new();
    for secret in listed["items"].as_array().unwrap() {
        if let Some(token) = secret["data"]["token-secret"].as_str() {
            let token = String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
            found.push((secret["metadata"]["name"].as_str().unwrap().to_owned(), token));
        }
    }
    assert!(!found.is_empty(), "the join made a token, or this test looks in the wrong place");
    for file in ["ca.key", "sa.key", "apiserver.key"] {
        let pem = sh(control_plane, &format!("cat /etc/kubernetes/pki/{file}"));
        found.push((file.to_owned(), pem.lines().nth(3).unwrap().to_owned()));
    }
    let admin = sh(control_plane, "grep client-key-data /etc/kubernetes/admin.conf");
    found.push(("admin.conf".into(), admin.split_whitespace().nth(1).unwrap()[..64].to_owned()));
    found
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// `ps`, journals, logs, plans, reports: no secret is in any of them.
fn assert_not_shown(
    secrets: &[(String, String)],
    servers: &[LightServer],
    operator: &Operator,
    shown: &BTreeSet<Vec<u8>>,
) {
    let mut places: Vec<(String, Vec<u8>)> =
        shown.iter().map(|text| ("a process's words".to_owned(), text.clone())).collect();
    for server in servers {
        let logs = "journalctl --no-pager -o export; find /var/log -type f -exec cat {} +; \
                    find /var/lib/kdc/runs -name '*.json*' -exec cat {} +";
        places.push((format!("logs of {}", server.name()), sh(server, logs).into_bytes()));
    }
    for file in fs_err::read_dir(operator.home()).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        // The kubeconfig is where the admin key belongs; its mode is asserted elsewhere.
        if file.path().is_file() && !name.ends_with(".kubeconfig") {
            places.push((name, fs_err::read(file.path()).unwrap()));
        }
    }
    for (place, text) in &places {
        for (name, secret) in secrets {
            assert!(!contains(text, secret), "the secret of {name} shows in {place}");
        }
    }
}

#[test]
fn three_fresh_servers_become_a_cluster_and_then_themselves_again() {
    let lab = TestLab::up("install", 3, |wanted| wanted.gateway = true);
    let servers = lab.servers().unwrap();
    let operator = operator(&lab, "cluster", &servers);
    let before = snapshots(&servers);
    let capture = lab.capture(&["10.244.0.0/16", "10.96.0.0/12"]).unwrap();

    let (applied, shown) = watching_processes(|| operator.apply().unwrap());
    fs_err::write(operator.home().join("apply.log"), [applied.stdout, applied.stderr].concat())
        .unwrap();
    assert_eq!(ready_nodes(&servers[0]), 3);
    let kubeconfig = operator.home().join("test.kubeconfig");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs_err::metadata(&kubeconfig).unwrap());
    assert_eq!(mode & 0o777, 0o600, "the kubeconfig is the operator's alone");
    assert_not_shown(&generated_secrets(&servers[0]), &servers, &operator, &shown);

    nothing_to_do(&operator, &servers);

    operator.undo().unwrap();
    assert_as_before(&before, &servers);
    let outside = capture.stop().unwrap();
    assert!(outside.is_empty(), "packets left the lab: {outside:#?}");
}

/// A second apply says so, is quick, and writes not one file that it would have to write.
fn nothing_to_do(operator: &Operator, servers: &[LightServer]) {
    let places = "/etc /usr /opt /root /home /var/lib/kdc /var/lib/dpkg /var/tmp";
    for server in servers {
        sh(server, "touch /run/before-second-apply; sleep 1.1");
    }
    let again = operator.apply().unwrap();
    let said = again.stdout_text() + &again.stderr_text();
    assert!(said.contains("nothing to do"), "{said}");
    for server in servers {
        let written =
            sh(server, &format!("find {places} -xdev -newer /run/before-second-apply -type f"));
        // The kubelet and the API server keep their own files fresh; those aren't in `places`.
        assert_eq!(written, "", "the second apply wrote on {}", server.name());
    }
}

/// How many kills one install gets: a sample here, the whole in `make test-deep`.
fn kills() -> u32 {
    if std::env::var_os("KDC_DEEP").is_some() { 20 } else { 3 }
}

#[test]
fn an_installer_killed_at_random_moments_is_finished_by_the_next() {
    let lab = TestLab::up("kill", 2, |_| {});
    let servers = lab.servers().unwrap();
    let operator = operator(&lab, "cluster", &servers);
    let before = snapshots(&servers);
    let seed: u64 = rand::random();
    println!("seed of the moments: {seed}");
    let mut random = Moments(seed);
    let deep = std::env::var_os("KDC_DEEP").is_some();
    for number in 0..kills() {
        let words = operator.with_bundle(&["apply", "--output", "plain", "--yes"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut installer = operator.command(&words).unwrap();
        let mut child = installer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Half of the moments fall into the first ten seconds, where most things begin.
        let longest = if number % 2 == 0 { 10_000 } else { 60_000 };
        let moment = Duration::from_millis(random.below(longest));
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        println!("killed after {moment:?}");
        if deep {
            // Twenty installs, each killed once, each finished and taken back.
            operator.apply().unwrap();
            assert_eq!(ready_nodes(&servers[0]), 2);
            operator.undo().unwrap();
            assert_as_before(&before, &servers);
        }
    }
    operator.apply().unwrap();
    assert_eq!(ready_nodes(&servers[0]), 2);
    operator.undo().unwrap();
    assert_as_before(&before, &servers);
}

/// A row of moments that a printed seed brings back (xorshift).
struct Moments(u64);

impl Moments {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn a_link_cut_while_sending_and_while_running_costs_little() {
    let lab = TestLab::up("cut", 1, |_| {});
    let servers = lab.servers().unwrap();
    let operator = operator(&lab, "single", &servers);
    let words = operator.with_bundle(&["plan", "--output", "plain", "--save", "plan.json"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let planned = operator.run(&words).unwrap();
    assert!(planned.succeeded(), "{}", planned.stderr_text());
    let plan = fs_err::read(operator.home().join("plan.json")).unwrap();
    let plan: Value = serde_json::from_slice(&plan).unwrap();

    // Slow enough that the cut falls into the sending.
    servers[0].inflict(&Fault::Shape("300mbit".into())).unwrap();
    let words = operator.with_bundle(&["apply", "--output", "plain", "--yes"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let log = operator.home().join("apply.log");
    let file = fs_err::File::create(&log).unwrap();
    let mut installer = operator.command(&words).unwrap();
    let errors = file.try_clone().unwrap();
    let mut child =
        installer.stdout(file.into_parts().0).stderr(errors.into_parts().0).spawn().unwrap();
    for stage in [" sent", "runtime packages begun"] {
        wait_for(&log, stage);
        std::thread::sleep(Duration::from_secs(3));
        servers[0].inflict(&Fault::Cut).unwrap();
        std::thread::sleep(Duration::from_secs(30));
        servers[0].inflict(&Fault::Mend).unwrap();
    }
    let status = child.wait().unwrap();
    let said = fs_err::read_to_string(&log).unwrap();
    assert!(status.success(), "{said}");
    assert_eq!(ready_nodes(&servers[0]), 1);

    let wanted = plan["nodes"][0]["bytesToSend"].as_u64().unwrap();
    let sent = report(&operator)["nodes"][0]["sentBytes"].as_u64().unwrap();
    println!("sent {sent} of {wanted} bytes");
    assert!(sent <= wanted + wanted / 20, "sent {sent} bytes where {wanted} were needed");
}

fn wait_for(log: &std::path::Path, text: &str) {
    let limit = Instant::now() + Duration::from_secs(120);
    while !fs_err::read_to_string(log).unwrap_or_default().contains(text) {
        assert!(Instant::now() < limit, "the installer never said `{text}`");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn report(operator: &Operator) -> Value {
    let mut files = fs_err::read_dir(operator.home()).unwrap().flatten();
    let file = files.find(|file| file.file_name().to_string_lossy().starts_with("kdc-report-"));
    serde_json::from_slice(&fs_err::read(file.expect("a report").path()).unwrap()).unwrap()
}

#[test]
fn the_programs_are_small() {
    // Built for release by `make test` before this runs; stripped by the profile.
    let release = built("kdc-install").unwrap();
    let release = release.parent().unwrap().parent().unwrap().join("release");
    for (name, most_mib) in [("kdc-agent", 12), ("kdc-install", 30)] {
        let size = fs_err::metadata(release.join(name))
            .unwrap_or_else(|error| panic!("{error}; cargo build --release -p {name} makes it"))
            .len();
        println!("{name}: {size} bytes");
        assert!(size <= most_mib << 20, "{name} has {size} bytes, more than {most_mib} MiB");
    }
}
