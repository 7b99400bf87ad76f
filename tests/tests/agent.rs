//! The agent's daemon as a program: what it tells, to whom, and that nothing it is asked or told breaks it. Its unit, with
//! a real systemd, is in `agent_unit.rs`; what it costs, in `tests/bench/agent.sh`.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as a test does")]

#[path = "kit/daemon.rs"]
mod daemon;
#[path = "agent/gpu.rs"]
mod gpu;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use daemon::{Around, Daemon, samples};
use kdc_tests::{program::must, workspace::checkout};
use nix::sys::signal::Signal;

/// What `tests/setup.sh` put there.
fn tool(path: &str) -> String {
    let tool = checkout().join("target/tools").join(path);
    assert!(tool.exists(), "`{}` is missing; `tests/setup.sh` installs it", tool.display());
    tool.display().to_string()
}

struct Exporter(Child);

impl Exporter {
    /// Debian's prometheus-node-exporter with the collectors that the agent has too.
    fn start(port: u16) -> Self {
        let collectors = [
            "cpu",
            "meminfo",
            "loadavg",
            "diskstats",
            "filesystem",
            "netdev",
            "netclass",
            "netstat",
            "sockstat",
            "softnet",
            "vmstat",
            "pressure",
            "stat",
            "filefd",
            "conntrack",
            "hwmon",
        ];
        let mut exporter = Command::new(tool("prometheus/usr/bin/prometheus-node-exporter"));
        exporter
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--collector.disable-defaults");
        exporter.args(collectors.map(|name| format!("--collector.{name}")));
        let child = exporter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + daemon::PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "node_exporter does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It is going either way.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn scrape(port: u16) -> String {
    must(&["curl", "-sf", &format!("http://127.0.0.1:{port}/metrics")]).unwrap().stdout_text()
}

/// Name of a sample's family.
fn family(sample: &str) -> &str {
    sample.split('{').next().unwrap_or(sample)
}

/// Families with their types, from the announcements of a classic page.
fn types(page: &str) -> BTreeMap<&str, &str> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split_once(' ')).collect()
}

/// Gauges move between the looks too; counters must lie in between, but for the second our sample is old.
fn slack(family: &str, high: f64) -> f64 {
    // Other programs' files, sockets and processes.
    let others = ["node_filefd", "node_sockstat", "node_procs"];
    (high.abs() * 0.05).max(match family {
        name if name.contains("_bytes") => 64.0 * 1024.0 * 1024.0,
        name if name.starts_with("node_load") => 3.0,
        name if others.iter().any(|part| name.starts_with(part)) => 200.0_f64.max(high.abs() / 2.0),
        _ => 20.0,
    })
}

#[test]
fn what_node_exporter_tells_too_has_the_same_names_labels_and_values() {
    let daemon = Daemon::start("");
    let port = free_port();
    let _exporter = Exporter::start(port);
    // The second look at a slow source is there before the comparison.
    std::thread::sleep(Duration::from_millis(1500));
    let before = scrape(port);
    std::thread::sleep(Duration::from_millis(1100));
    let ours = daemon.metrics();
    let after = scrape(port);
    let (ours, before_samples, after_samples) = (ours.as_str(), samples(&before), samples(&after));
    let (our_types, their_types) = (types(ours), types(&after));
    let our_samples = samples(ours);
    // What the kernel told neither of us the same moment: links and processes of other tests come and go.
    let lasting = |name: &str| {
        let lies_in = |start: &&str| name.contains(&format!("mountpoint=\"{start}"));
        // Debian has its exporter leave these out.
        let left_out = name.contains("ive_") && name.contains("\"lo\"")
            || name.contains("node_network_transmit_") && name.contains("\"lo\"")
            || ["/run", "/mnt", "/media"].iter().any(lies_in);
        let fleeting = name.contains("kdc") || name.contains("device=\"veth");
        !fleeting && !left_out && !name.starts_with("process_")
    };
    let (mut shared, mut wrong) = (0, Vec::new());
    for (name, kind) in our_types.iter().filter(|(name, _)| their_types.contains_key(*name)) {
        if their_types[name] != *kind {
            wrong.push(format!("{name} is a {kind} and not a {}", their_types[name]));
        }
    }
    for (name, value) in our_samples
        .iter()
        .filter(|(name, _)| their_types.contains_key(family(name)) && lasting(name))
    {
        let (Some(low), Some(high)) = (before_samples.get(name), after_samples.get(name)) else {
            if !before_samples.contains_key(name) && !after_samples.contains_key(name) {
                wrong.push(format!("{name} is ours alone"));
            }
            continue;
        };
        shared += 1;
        let (low, high) = (low.min(*high), high.max(*low));
        let slack = (high - low).max(slack(family(name), high));
        if *value < low - slack || *value > high + slack {
            wrong.push(format!("{name} is {value}, but node_exporter has {low} to {high}"));
        }
    }
    let families: BTreeSet<&str> = our_samples.keys().map(|name| family(name)).collect();
    for name in after_samples.keys().filter(|name| lasting(name) && families.contains(family(name)))
    {
        if !our_samples.contains_key(name) && before_samples.contains_key(name) {
            wrong.push(format!("{name} is theirs alone"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(shared > 150, "only {shared} samples are shared");
}

#[test]
fn a_page_is_good_openmetrics_and_good_classic_text_to_prometheus_own_checker() {
    let daemon = Daemon::start("");
    let open =
        daemon.ask("GET", "/metrics", "accept: application/openmetrics-text;version=1.0.0\r\n");
    assert_eq!(
        open.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.body.ends_with("# EOF\n") && open.body.matches("# EOF").count() == 1);
    let classic = daemon.ask("GET", "/metrics", "accept: */*\r\n");
    assert_eq!(classic.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(samples(&open.body).len(), samples(&classic.body).len());
    let names: Vec<&str> =
        classic.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let unique: BTreeSet<&str> = names.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), unique.len(), "a family comes twice");
    let mut checker = Command::new(tool("prometheus/usr/bin/promtool"));
    let mut checker = checker
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checker.stdin.take().unwrap().write_all(classic.body.as_bytes()).unwrap();
    let output = checker.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Its opinions of node_exporter's names are not about us.
    let ours: Vec<&str> =
        said.lines().filter(|line| line.starts_with("kdc_") || line.contains("error")).collect();
    assert_eq!(ours, Vec::<&str>::new());
    assert_eq!(samples(&classic.body)["kdc_agent_config_in_force"], 1.0);
}

#[test]
fn rules_and_dashboard_name_only_what_a_page_has() {
    let monitoring = checkout().join("docs/monitoring");
    let promtool = tool("prometheus/usr/bin/promtool");
    must(&[&promtool, "check", "rules", &monitoring.join("kdc-alerts.yaml").display().to_string()])
        .unwrap();
    must(&[
        &promtool,
        "test",
        "rules",
        &monitoring.join("kdc-alerts.test.yaml").display().to_string(),
    ])
    .unwrap();
    let daemon = Daemon::start("");
    let _gpus = gpu::Watched::beside(&daemon, gpu::FOUR);
    let page = daemon.metrics();
    let mut known: BTreeSet<&str> = types(&page).into_keys().collect();
    // Not on every machine, or Prometheus' own.
    known.extend([
        "up",
        "node_hwmon_temp_celsius",
        "node_nf_conntrack_entries",
        "node_nf_conntrack_entries_limit",
    ]);
    known.extend([
        "kdc_runs_in_force",
        "kdc_store_bytes",
        "kdc_agent_part_up",
        "kdc_agent_source_up",
    ]);
    // Only where there are such things, and systemd, which is needed to look at them.
    known.extend([
        "kdc_certificate_expiry_timestamp_seconds",
        "kdc_etcd_db_bytes",
        "kdc_etcd_quota_bytes",
        "kdc_etcd_healthy",
        "kdc_etcd_has_leader",
        "kdc_watch_findings",
        "kdc_heal_actions_total",
        "kdc_heal_held",
        "kdc_heal_last_look_timestamp_seconds",
        "kdc_heal_switched_off",
        "node_timex_sync_status",
        "node_systemd_unit_state",
    ]);
    for file in ["kdc-alerts.yaml", "kdc-nodes.json"] {
        let text = fs_err::read_to_string(monitoring.join(file)).unwrap();
        for word in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
            let is_metric =
                ["node_", "kdc_", "process_", "DCGM_"].iter().any(|start| word.starts_with(start));
            assert!(!is_metric || known.contains(word), "{file} names `{word}`, which no page has");
        }
    }
}

/// Holds answers against the schemas of `agent/openapi.yaml`, and the document against its own.
const VALIDATOR: &str = r##"
import json, sys, yaml
from openapi_spec_validator import validate
from jsonschema import Draft202012Validator
document = yaml.safe_load(open(sys.argv[1]))
validate(document)
for name, instance in json.load(sys.stdin):
    schema = {"$ref": "#/components/schemas/" + name, "components": document["components"]}
    Draft202012Validator(schema).validate(instance)
print(" ".join(sorted(document["paths"])))
"##;

/// Holds answers against their schemas; gives the document's paths.
fn validate(instances: &[(&str, &serde_json::Value)]) -> String {
    let mut validator = Command::new(tool("openapi/bin/python3"))
        .args(["-c", VALIDATOR])
        .arg(checkout().join("agent/openapi.yaml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_string(instances).unwrap();
    validator.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = validator.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn answers_are_as_the_checked_in_document_says() {
    let daemon = Daemon::start("");
    let json =
        |answer: &daemon::Answer| serde_json::from_str::<serde_json::Value>(&answer.body).unwrap();
    let health = daemon.ask("GET", "/v1/health", "");
    let facts = daemon.ask("GET", "/v1/facts", "");
    assert_eq!((health.status, facts.status), (200, 200), "{health:?} {facts:?}");
    let mut instances = vec![("Health", json(&health)), ("Facts", json(&facts))];
    for (method, path, headers, status) in [
        ("GET", "/v2/health", "", 404),
        ("POST", "/v1/health", "", 405),
        ("DELETE", "/metrics", "", 405),
        ("GET", "/v1/events?since=1", "", 400),
        ("GET", "/v1/events", "last-event-id: \u{1}\r\n", 400),
    ] {
        let answer = daemon.ask(method, path, headers);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        if headers.is_empty() {
            assert_eq!(
                answer.headers["content-type"], "application/problem+json",
                "{method} {path}"
            );
            instances.push(("Problem", json(&answer)));
        }
    }
    let event = follow(&daemon, "").next_event();
    instances.push(("Event", serde_json::from_str(&event["data"]).unwrap()));
    let instances: Vec<(&str, &serde_json::Value)> =
        instances.iter().map(|(name, value)| (*name, value)).collect();
    let paths = validate(&instances);
    assert_eq!(paths.trim(), "/metrics /v1/events /v1/facts /v1/health");
    for path in paths.split_whitespace() {
        assert_ne!(daemon.ask("HEAD", path, "").status, 404, "{path}");
    }
}

/// A client that follows the events.
struct Follower(BufReader<TcpStream>);

fn follow(daemon: &Daemon, headers: &str) -> Follower {
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.set_read_timeout(Some(daemon::PATIENCE)).unwrap();
    write!(stream, "GET /v1/events HTTP/1.1\r\nhost: x\r\n{headers}\r\n").unwrap();
    Follower(BufReader::new(stream))
}

impl Follower {
    /// The fields of the next event.
    fn next_event(&mut self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            let line = line.trim_end();
            if line.is_empty() && fields.contains_key("event") {
                return fields;
            }
            if let Some((name, value)) = line.split_once(": ") {
                fields.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// What this machine's disks and clock are like is not what a test is about.
    fn next_but_findings(&mut self) -> BTreeMap<String, String> {
        loop {
            let event = self.next_event();
            if !event["event"].starts_with("finding-") {
                return event;
            }
        }
    }

    fn until(&mut self, kind: &str) -> BTreeMap<String, String> {
        loop {
            let event = self.next_event();
            if event["event"] == kind {
                return event;
            }
        }
    }
}

/// Metrics are of the last sample, up to a second ago.
fn in_force(daemon: &Daemon) -> f64 {
    samples(&daemon.metrics())["kdc_agent_config_in_force"]
}

fn until(is_so: impl Fn() -> bool, otherwise: &str) {
    let end = Instant::now() + daemon::PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_bad_configuration_keeps_the_old_one_and_is_told_everywhere_and_a_good_one_is_taken() {
    let mut daemon = Daemon::start("events: {keep: 100}\nlabels: {nodeFeatures: never}\n");
    let mut follower = follow(&daemon, "");
    let first = follower.until("configured");
    daemon.configure(
        "agent.d/20-bad.yaml",
        "labels:\n  nodeFeatures: allways\nmetrics: {intervall: 5}\n",
    );
    daemon.signal(Signal::SIGHUP);
    daemon.told("RELOADING=1");
    let told = daemon.told("READY=1");
    assert!(told.contains("STATUS=the configuration was not taken"), "{told}");
    assert!(told.contains("20-bad.yaml:2: labels.nodeFeatures"), "{told}");
    let refused = follower.until("configuration-refused");
    assert!(refused["data"].contains("20-bad.yaml:3: metrics.intervall"), "{refused:?}");
    until(|| in_force(&daemon) == 0.0, "the refused settings count as in force");
    assert_eq!(samples(&daemon.metrics())["kdc_agent_config_errors_total"], 1.0);
    assert!(daemon.ask("GET", "/v1/health", "").body.contains("\"status\":\"degraded\""));

    daemon.configure("agent.d/20-bad.yaml", "labels:\n  nodeFeatures: always\n");
    daemon.signal(Signal::SIGHUP);
    daemon.told("READY=1");
    follower.until("configured");
    let labels = daemon.path("etc/kubernetes/node-feature-discovery/features.d/kdc");
    until(|| labels.exists(), "no labels were written");
    until(|| in_force(&daemon) == 1.0, "the good settings don't count as in force");
    // Who comes back with the last it saw gets the rest, in order and once.
    let mut again = follow(&daemon, &format!("last-event-id: {}\r\n", first["id"]));
    assert_eq!(again.next_but_findings()["id"], refused["id"]);
    assert_eq!(again.next_but_findings()["event"], "configured");
    assert_eq!(follow(&daemon, "last-event-id: gone-1\r\n").next_event()["event"], "missed");
    assert_eq!(daemon.end(), 0);
}

#[test]
fn only_clients_with_a_certificate_of_the_named_authority_are_let_in() {
    let keys = tempfile::tempdir().unwrap();
    let place = keys.path().display();
    let script = format!(
        "cd {place} && for who in server ca other; do openssl req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=$who \
         -addext subjectAltName=IP:127.0.0.1 -keyout $who.key -out $who.crt; done && \
         openssl req -newkey ed25519 -nodes -subj /CN=client -keyout client.key -out client.csr && \
         printf 'extendedKeyUsage=clientAuth\\nsubjectAltName=DNS:client' > ext && \
         openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -days 2 -extfile ext -out client.crt"
    );
    must(&["sh", "-ec", &script]).unwrap();
    let daemon = Daemon::start(&format!(
        "api: {{tls: {{certificate: {place}/server.crt, key: {place}/server.key, clientAuthorities: {place}/ca.crt}}}}\n"
    ));
    let url = format!("https://{}/v1/health", daemon.address);
    let ask = |who: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "10", "--cacert"])
            .arg(keys.path().join("server.crt"))
            .arg(&url);
        if let Some(who) = who {
            curl.arg("--cert").arg(keys.path().join(format!("{who}.crt")));
            curl.arg("--key").arg(keys.path().join(format!("{who}.key")));
        }
        curl.output().unwrap()
    };
    let good = ask(Some("client"));
    assert!(
        String::from_utf8_lossy(&good.stdout).contains("\"status\""),
        "{good:?} {}",
        daemon.log()
    );
    for stranger in [None, Some("other")] {
        let output = ask(stranger);
        assert!(!output.status.success() && output.stdout.is_empty(), "{stranger:?}: {output:?}");
    }
    assert!(daemon.try_ask("GET", "/metrics", "").is_err(), "plain HTTP is not spoken");
}

#[test]
fn what_clients_do_badly_costs_them_their_connection_and_nobody_else_anything() {
    let daemon = Daemon::start("");
    let long = format!("x: {}\r\n", "y".repeat(64 * 1024));
    assert!(daemon.try_ask("GET", "/metrics", &long).map_or(true, |answer| answer.status == 431));
    let mut garbage = TcpStream::connect(daemon.address).unwrap();
    garbage.write_all(b"\x16\x03\x01\x00nonsense\r\n\r\n").unwrap();
    // More than are answered at once: those that wait say nothing and go away again.
    let idle: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(daemon.address).unwrap()).collect();
    assert_eq!(daemon.ask("GET", "/v1/health", "").status, 200);
    drop(idle);
    let streams: Vec<Follower> = (0..16).map(|_| follow(&daemon, "")).collect();
    std::thread::sleep(Duration::from_millis(200));
    let answer = daemon.ask("GET", "/v1/events", "");
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "15"));
    assert_eq!(daemon.ask("GET", "/v1/health", "").status, 200);
    drop(streams);
}

/// Where labels go, on a disk of eight pages.
const LABELS: &str = "/etc/kubernetes/node-feature-discovery/features.d";

/// Write until nothing more fits.
fn fill(file: &std::path::Path) {
    let mut file = fs_err::OpenOptions::new().create(true).append(true).open(file).unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
}

#[test]
fn a_full_disk_is_told_leaves_nothing_half_written_and_is_got_over() {
    let prepare = format!("mkdir -p {LABELS}\n mount -t tmpfs -o size=32k small {LABELS}");
    let around = |_: &std::path::Path| Around { prepare, ..Around::default() };
    let mut daemon = Daemon::start_in("labels: {nodeFeatures: auto}\n", around);
    let mut follower = follow(&daemon, "");
    let (labels, ballast) =
        (daemon.inside(&format!("{LABELS}/kdc")), daemon.inside(&format!("{LABELS}/ballast")));
    until(|| labels.exists(), "no labels were written");
    let good = fs_err::read_to_string(&labels).unwrap();
    until(
        || {
            // It may have looked in between, so all of it again.
            let _written_anew = fs_err::remove_file(&labels);
            fill(&ballast);
            // Have it look at once, and not within a minute.
            daemon.signal(Signal::SIGHUP);
            daemon.ask("GET", "/v1/health", "").body.contains("No space left")
        },
        "a full disk is not told",
    );
    let failed = follower.until("part-failed");
    assert!(
        failed["data"].contains("labels") && failed["data"].contains("No space left"),
        "{failed:?}"
    );
    let health = daemon.ask("GET", "/v1/health", "");
    assert!(health.body.contains("\"status\":\"degraded\""), "{}", health.body);
    assert_eq!(samples(&daemon.metrics())["kdc_agent_part_up{part=\"labels\"}"], 0.0);
    assert_eq!(daemon.ask("GET", "/v1/facts", "").status, 200, "the rest goes on");
    assert!(!labels.exists(), "half of the labels would pass for all of them");
    fs_err::remove_file(&ballast).unwrap();
    follower.until("part-recovered");
    let again = fs_err::read_to_string(&labels).unwrap();
    assert_eq!(again.lines().skip(1).collect::<Vec<_>>(), good.lines().skip(1).collect::<Vec<_>>());
    assert_eq!(daemon.end(), 0);
}

#[test]
fn a_file_system_whose_server_is_dead_stops_nothing_but_what_is_told_of_it() {
    // Nobody ever answers on this connection, so whoever asks the file system for anything waits until the daemon ends.
    let prepare = "mount -t tmpfs dead /var/lib\n mkdir /var/lib/kubelet /var/lib/kdc\n exec 9<>/dev/fuse\n \
                   mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 dead /var/lib/kubelet"
        .to_owned();
    let around = |_: &std::path::Path| Around { prepare, ..Around::default() };
    let mut daemon = Daemon::start_in("", around);
    until(
        || {
            // Rounds follow each other; disks are told at the end of one, once their room was sampled.
            daemon.signal(Signal::SIGHUP);
            daemon.metrics().contains("kdc_watch_findings{kind=\"disk\"")
        },
        "the watch hangs",
    );
    let page = daemon.metrics();
    assert!(!page.contains("mountpoint=\"/var/lib/kubelet\""), "it was asked");
    for part in ["samples", "watch", "records", "api"] {
        let name = format!("kdc_agent_part_up{{part=\"{part}\"}}");
        assert_eq!(samples(&page)[&name], 1.0, "{part}: {}", daemon.log());
    }
    let before = samples(&page)["kdc_agent_samples_total"];
    until(
        || samples(&daemon.metrics())["kdc_agent_samples_total"] > before,
        "sampling stands still",
    );
    assert_eq!(daemon.end(), 0);
}

/// A wall clock that a file sets ahead; the one that runs since boot is the kernel's.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("TEST_CLOCK"), "r") : NULL;
    long ahead = 0;
    if (file != NULL) {
        if (fscanf(file, "%ld", &ahead) == 1) now->tv_sec += ahead;
        fclose(file);
    }
    return result;
}
"#;

#[test]
fn a_step_of_the_clock_is_told_with_its_size_and_moves_nothing_else() {
    let around = |folder: &std::path::Path| {
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs_err::write(&source, CLOCK).unwrap();
        fs_err::write(folder.join("ahead"), "0").unwrap();
        let (from, to) = (source.display().to_string(), library.display().to_string());
        must(&["cc", "-shared", "-fPIC", "-O1", "-o", &to, &from]).unwrap();
        let environment = vec![("LD_PRELOAD", library), ("TEST_CLOCK", folder.join("ahead"))];
        Around { environment, ..Around::default() }
    };
    let mut daemon = Daemon::start_in("metrics: {intervalMs: 100}\n", around);
    let mut follower = follow(&daemon, "");
    let set = |ahead: &str| {
        // Whole or not at all, as clocks are set.
        fs_err::write(daemon.path("ahead.new"), ahead).unwrap();
        fs_err::rename(daemon.path("ahead.new"), daemon.path("ahead")).unwrap();
        daemon.signal(Signal::SIGHUP);
    };
    for (ahead, seconds, direction) in
        [("86400", 86_400.0, "forward"), ("-3600", -90_000.0, "back")]
    {
        let before = samples(&daemon.metrics())["kdc_agent_samples_total"];
        set(ahead);
        let event = follower.until("clock-stepped");
        let data: serde_json::Value = serde_json::from_str(&event["data"]).unwrap();
        let told: f64 = data["fields"]["seconds"].as_str().unwrap().parse().unwrap();
        assert!((told - seconds).abs() < 5.0, "{told} seconds: {data}");
        assert!(data["reason"].as_str().unwrap().contains(direction), "{data}");
        until(
            || samples(&daemon.metrics())["kdc_agent_samples_total"] > before + 5.0,
            "sampling stands still",
        );
        let page = samples(&daemon.metrics());
        let age = page["kdc_agent_sample_age_seconds"];
        assert!((0.0..30.0).contains(&age), "a sample is {age} seconds old");
        let failed: Vec<_> = page
            .iter()
            .filter(|(name, up)| name.starts_with("kdc_agent_part_up") && **up == 0.0)
            .collect();
        assert_eq!(failed, Vec::new(), "{}", daemon.log());
    }
    assert_eq!(samples(&daemon.metrics())["kdc_clock_steps_total"], 2.0);
    assert_eq!(daemon.end(), 0);
}

fn deep() -> bool {
    std::env::var_os("KDC_DEEP").is_some()
}

/// Counters of the kernel's, which outlive the daemon.
fn lasting_counters(page: &str) -> BTreeMap<String, f64> {
    let types = types(page);
    let counter = |name: &String| {
        family(name).starts_with("node_") && types.get(family(name)) == Some(&"counter")
    };
    let gone = |name: &String| name.contains("veth") || name.contains("device=\"loop");
    samples(page).into_iter().filter(|(name, _)| counter(name) && !gone(name)).collect()
}

#[test]
fn killed_again_and_again_under_load_no_counter_goes_back_and_no_file_is_half_written() {
    let rounds = if deep() { 100 } else { 5 };
    let mut daemon = Daemon::start("labels: {nodeFeatures: always}\nmetrics: {intervalMs: 100}\n");
    let labels = daemon.path("etc/kubernetes/node-feature-discovery/features.d");
    let (mut last, mut started) = (BTreeMap::new(), 0.0);
    for round in 0..rounds {
        let page = std::thread::scope(|scope| {
            let load: Vec<_> = (0..4)
                .map(|_| {
                    scope
                        .spawn(|| (0..25).for_each(|_| drop(daemon.try_ask("GET", "/metrics", ""))))
                })
                .collect();
            // At another moment each time, reloads among it.
            std::thread::sleep(Duration::from_millis(37 * (round % 7)));
            daemon.signal(Signal::SIGHUP);
            let page = daemon.metrics();
            load.into_iter().for_each(|thread| thread.join().unwrap());
            page
        });
        daemon.kill();
        let now = lasting_counters(&page);
        let back: Vec<_> = last
            .iter()
            .filter(|(name, value)| now.get(*name).is_some_and(|now| now < *value))
            .collect();
        assert_eq!(back, Vec::new(), "in round {round}");
        last = now;
        // The daemon's own begin anew, and say so.
        let begun = samples(&page)["process_start_time_seconds"];
        assert!(begun > started, "round {round}: {begun} after {started}");
        started = begun;
        for entry in fs_err::read_dir(&labels).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = fs_err::read_to_string(entry.path()).unwrap();
            assert!(name == ".kdc.tmp" || name == "kdc", "round {round}: {name} was left");
            if name == "kdc" {
                assert!(
                    text.starts_with("# +expiry-time=") && text.contains("kdc-agent.version="),
                    "{text}"
                );
                assert!(text.ends_with('\n'), "{text}");
            }
        }
        daemon.run();
    }
    assert_eq!(daemon.end(), 0);
}

#[test]
fn a_soak_of_scrapes_leaves_memory_and_descriptors_as_they_were() {
    let time = if deep() { Duration::from_secs(1800) } else { Duration::from_secs(15) };
    let daemon = Daemon::start("");
    let cost = |daemon: &Daemon| {
        let numbers = samples(&daemon.metrics());
        (numbers["process_resident_memory_bytes"], numbers["process_open_fds"])
    };
    (0..200).for_each(|_| drop(daemon.metrics()));
    std::thread::sleep(Duration::from_secs(1));
    let (memory, descriptors) = cost(&daemon);
    let (begun, mut scrapes) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        assert_eq!(daemon.ask("GET", "/metrics", "").status, 200);
        scrapes += 1;
        let due = Duration::from_millis(10) * scrapes;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let (memory_after, descriptors_after) = cost(&daemon);
    let rate = f64::from(scrapes) / time.as_secs_f64();
    let grown = (memory_after - memory) / 1024.0;
    println!(
        "soak: {scrapes} scrapes, {rate:.0} a second, memory {:.1} MiB, {grown:+.0} KiB, descriptors {descriptors} to {descriptors_after}",
        memory_after / 1048576.0
    );
    assert!(grown < 512.0, "memory grew by {grown} KiB to {memory_after} bytes");
    assert!(
        descriptors_after <= descriptors + 1.0,
        "{descriptors} descriptors became {descriptors_after}"
    );
}
