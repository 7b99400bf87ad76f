//! `kdc-agent.service` on a server with a real systemd: how confined it is, readiness, reload and status text, that it comes
//! back, and that what changes the network is done by a unit of its own.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as a test does")]

mod kit;

use std::time::{Duration, Instant};

use kdc_agent::{
    api::Health,
    step::{Content, NodePlan, PlannedStep, Step},
};
use kdc_bundles::index::Digest;
use kdc_tests::{
    differ::{Snapshot, diff},
    lab::LightServer,
    program::must,
    server::Server,
    workspace,
};
use kit::{TestLab, sh};

const PATIENCE: Duration = Duration::from_secs(30);

/// The agent and its unit on a server, as an install puts them there.
fn place(server: &LightServer) {
    let root = server.root().unwrap();
    let agent = workspace::built("kdc-agent").unwrap();
    fs_err::copy(agent, root.join("usr/local/bin/kdc-agent")).unwrap();
    fs_err::create_dir_all(root.join("etc/kdc/agent.d")).unwrap();
    fs_err::write(root.join("etc/systemd/system/kdc-agent.service"), kdc_agent::daemon::unit())
        .unwrap();
    sh(server, "systemctl daemon-reload && systemctl enable --now --quiet kdc-agent");
}

fn status(server: &LightServer) -> String {
    sh(server, "systemctl show -p StatusText --value kdc-agent")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks the API on the server's own loopback.
fn ask(server: &LightServer, path: &str) -> String {
    let space = format!("--net={}", server.network_namespace().unwrap().display());
    let url = format!("http://127.0.0.1:328{path}");
    must(&["nsenter", &space, "curl", "-sf", "--max-time", "10", &url]).unwrap().stdout_text()
}

#[test]
fn the_unit_is_confined_ready_reloaded_and_comes_back_and_another_one_changes_the_network() {
    let lab = TestLab::up("agent", 1, |_| {});
    let server = lab.server("node1").unwrap();
    place(&server);

    // Ready means that it was asked for nothing and answers.
    assert!(
        ask(&server, "/v1/health").contains("\"status\":\"ok\""),
        "{}",
        ask(&server, "/v1/health")
    );
    assert!(status(&server).contains("API on 127.0.0.1:328"), "{}", status(&server));
    let security = sh(&server, "systemd-analyze security --no-pager kdc-agent.service");
    let level = security
        .lines()
        .find_map(|line| line.split("exposure level for kdc-agent.service: ").nth(1));
    let level: f64 = level.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    println!("systemd-analyze security kdc-agent.service: {level}");
    assert!(level <= 3.0, "{security}");
    // Confined as it is, it sees the node as the node is.
    let page = ask(&server, "/metrics");
    for line in ["kdc_agent_part_up{part=\"samples\"} 1", "node_boot_time_seconds ", "node_load1 "]
    {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    assert!(ask(&server, "/v1/facts").contains("agentVersion"));

    // A bad configuration is told and not taken, a good one is.
    let drop_in = server.root().unwrap().join("etc/kdc/agent.d/10.yaml");
    fs_err::write(&drop_in, "metrics: {intervallMs: 5}\n").unwrap();
    sh(&server, "systemctl reload kdc-agent");
    until("the refusal is in the status text", || {
        status(&server).contains("10.yaml:1: metrics.intervallMs")
    });
    assert_eq!(sh(&server, "systemctl is-active kdc-agent").trim(), "active");
    fs_err::write(&drop_in, "metrics: {intervalMs: 500}\n").unwrap();
    sh(&server, "systemctl reload kdc-agent");
    until("the good one is taken", || !status(&server).contains("not taken"));

    // It is killed and comes back, with another process.
    let pid = sh(&server, "systemctl show -p MainPID --value kdc-agent");
    sh(&server, "systemctl kill -s KILL kdc-agent");
    until("it comes back", || {
        let now = sh(&server, "systemctl show -p MainPID,ActiveState --value kdc-agent");
        now.contains("active") && !now.contains(pid.trim()) && !now.contains("activating")
    });

    gpus(&server);
    certificate(&server);
    routes(&server);
    drift(&server);
}

/// The GPUs' own unit: it rests where there is none, and under all that confines it a library is loaded, asked and published.
fn gpus(server: &LightServer) {
    use kdc_agent::gpu::watch;
    let root = server.root().unwrap();
    let units = root.join("etc/systemd/system");
    fs_err::write(units.join(watch::UNIT_NAME), watch::unit()).unwrap();
    sh(server, "systemctl daemon-reload && systemctl enable --now --quiet kdc-gpu");
    let state = || sh(server, "systemctl show -p ActiveState,SubState --value kdc-gpu");
    until("without a GPU it ends, and that is well", || state().trim() == "active\nexited");
    assert!(!root.join("run/kdc/gpus.json").exists());
    // A driver with four GPUs is put in.
    let library = workspace::built("libkdc_fake_nvml.so").unwrap();
    fs_err::copy(library, root.join("usr/lib/libnvidia-ml.so.1")).unwrap();
    fs_err::write(root.join("etc/kdc/fake.yaml"), include_str!("../../agent/tests/gpu/four.yaml"))
        .unwrap();
    fs_err::create_dir_all(units.join("kdc-gpu.service.d")).unwrap();
    let fake = "[Service]\nEnvironment=KDC_FAKE_NVML=/etc/kdc/fake.yaml\n";
    fs_err::write(units.join("kdc-gpu.service.d/10.conf"), fake).unwrap();
    sh(server, "systemctl daemon-reload && systemctl restart kdc-gpu");
    let told = |what: &str| ask(server, "/v1/health").contains(what);
    until("the daemon tells of them", || told("GPU-33333333"));
    until("they are sampled", || {
        ask(server, "/metrics").contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"")
    });
    let security = sh(server, "systemd-analyze security --no-pager kdc-gpu.service");
    let level = security.lines().find_map(|line| line.split("level for kdc-gpu.service: ").nth(1));
    let level: f64 = level.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!(level <= 2.5, "{security}");
    let pid = || sh(server, "systemctl show -p MainPID --value kdc-gpu");
    let before = pid();
    sh(server, "systemctl kill -s KILL kdc-gpu");
    until("it comes back", || {
        pid() != before && pid().trim() != "0" && state().contains("running")
    });
    sh(server, "systemctl stop kdc-gpu");
    assert!(!root.join("run/kdc/gpus.json").exists(), "what nobody keeps young is taken away");
}

/// A certificate that ends is told with the next step, by a unit that may read it; so is what else that unit sees.
fn certificate(server: &LightServer) {
    let folder = server.root().unwrap().join("etc/kubernetes/pki");
    fs_err::create_dir_all(&folder).unwrap();
    let (key, certificate) = (folder.join("apiserver.key"), folder.join("apiserver.crt"));
    let (to, key) = (certificate.display().to_string(), key.display().to_string());
    let request = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "5"];
    let names = ["-subj", "/CN=kube-apiserver", "-keyout", &key, "-out", &to];
    must(&[request.as_slice(), names.as_slice()].concat()).unwrap();
    // Root's alone, as kubeadm's folder may be.
    must(&["chmod", "600", &to]).unwrap();
    sh(server, "systemctl reload kdc-agent");
    until("the certificate is told", || {
        let health = ask(server, "/v1/health");
        health.contains(" days (for kube-apiserver)")
            && health.contains("`kubeadm certs renew apiserver`")
            && health.contains("\"status\":\"degraded\"")
    });
    let page = ask(server, "/metrics");
    for line in [
        "kdc_certificate_expiry_timestamp_seconds{path=\"/etc/kubernetes/pki/apiserver.crt\",subject=\"kube-apiserver\"} ",
        "kdc_watch_findings{kind=\"certificate\",state=\"fail\"} 1",
        "node_systemd_unit_state{name=\"kdc-agent.service\",state=\"active\",type=\"\"} 1",
        "node_timex_sync_status ",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    fs_err::remove_dir_all(folder.parent().unwrap()).unwrap();
    sh(server, "systemctl reload kdc-agent");
    until("nothing is told of what is gone", || {
        !ask(server, "/v1/health").contains("apiserver.crt")
    });
}

/// The daemon may not change routes; the unit that it asks does, and takes them away again.
fn routes(server: &LightServer) {
    let root = server.root().unwrap();
    let address = server.address().to_string();
    let peer = format!("{}.250", address.rsplit_once('.').unwrap().0);
    let file = format!(
        r#"{{"podCidr":"10.244.0.0/24","clusterCidr":"10.244.0.0/16","serviceCidr":"10.96.0.0/12","peers":{{"{peer}":"10.244.9.0/24"}}}}"#
    );
    fs_err::write(root.join("etc/kdc/routes.json"), file).unwrap();
    let wanted = format!("10.244.9.0/24 via {peer}");
    until("the route is there", || sh(server, "ip route").contains(&wanted));
    // There is no iptables on a bare server: that is told, and keeps no route away.
    until("what failed is told", || status(server).contains("error[AGENT-057]"));
    assert!(ask(server, "/v1/health").contains("\"status\":\"degraded\""));
    sh(server, "ip route del 10.244.9.0/24");
    until("the route comes back", || sh(server, "ip route").contains(&wanted));
    let capabilities =
        sh(server, "grep CapBnd /proc/$(systemctl show -p MainPID --value kdc-agent)/status");
    assert_eq!(capabilities.trim(), "CapBnd:\t0000000000000400", "only a port below 1024");
    fs_err::remove_file(root.join("etc/kdc/routes.json")).unwrap();
    until("the route goes with the file", || !sh(server, "ip route").contains("10.244.9.0"));
    until("nothing is left on record", || !root.join("run/kdc/routes-applied.json").exists());
}

const CONF: &str = "/etc/kdc-test.conf";
const UNIT: &str = "kdc-test.service";
const TTL: &str = "/proc/sys/net/ipv4/ip_default_ttl";

/// A run that leaves one thing of each kind.
fn plan(module: Option<&str>) -> NodePlan {
    let unit = UNIT.to_owned();
    let text = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    let content = Content::Text("wanted\n".to_owned());
    let mut steps = vec![
        Step::SetSysctl { key: "net.ipv4.ip_default_ttl".to_owned(), value: "65".to_owned() },
        Step::WriteFile { path: CONF.to_owned(), mode: 0o644, content },
        Step::CreateDirectory { path: "/etc/kdc-test.d".to_owned(), mode: 0o750 },
        Step::InstallUnit {
            unit: unit.clone(),
            content: text.to_owned(),
            drop_ins: std::collections::BTreeMap::new(),
        },
        Step::SetUnitState { unit, enabled: true, active: Some(true) },
    ];
    steps.extend(module.map(|module| Step::LoadKernelModule { module: module.to_owned() }));
    let planned = |(number, step)| PlannedStep {
        id: format!("step-{number}"),
        phase: "host".to_owned(),
        step,
        needs: Vec::new(),
    };
    NodePlan {
        node: "node1".to_owned(),
        cluster: "test".to_owned(),
        index: Digest::of(b""),
        steps: steps.into_iter().enumerate().map(planned).collect(),
    }
}

/// What is changed behind kdc's back is told, put back where that is allowed and not switched off, not too often, and
/// undo afterwards leaves the host as it was.
fn drift(server: &LightServer) {
    let root = server.root().unwrap();
    let before = Snapshot::of(server).unwrap();
    let modules = sh(server, "cat /proc/modules 2>/dev/null || true");
    let module = modules.split(' ').next().filter(|name| !name.is_empty());
    let load_file = module.map(|module| format!("/etc/modules-load.d/kdc-{module}.conf"));
    kdc_agent::run::create(&root.join("var/lib/kdc/runs"), "r1", &plan(module)).unwrap();
    sh(server, "kdc-agent run r1");
    let configure = |text: &str| {
        let text = format!("selfHealing: {{intervalSecs: 1, {text}}}\n");
        fs_err::write(root.join("etc/kdc/agent.d/20.yaml"), text).unwrap();
        // It would be taken without that too, but only at the next look.
        sh(server, "systemctl reload kdc-agent");
    };
    configure("mode: report");
    let spoil = || {
        sh(server, &format!("echo 7 > {TTL}; echo foreign > {CONF}; rmdir /etc/kdc-test.d"));
        sh(server, &format!("systemctl stop {UNIT}; echo '#' >> /etc/systemd/system/{UNIT}"));
        load_file.iter().for_each(|path| drop(sh(server, &format!("rm {path}"))));
    };
    let stands = || sh(server, &format!("cat {TTL} {CONF}; systemctl is-active {UNIT} || true"));
    spoil();
    let mut subjects: Vec<String> = ["sysctl net.ipv4.ip_default_ttl", "directory /etc/kdc-test.d"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("file {CONF}"), format!("unit {UNIT}"), format!("unit-file {UNIT}")])
        .collect();
    subjects.extend(module.map(|module| format!("module {module}")));
    for subject in &subjects {
        until(&format!("{subject} is told"), || {
            let health: Health = serde_json::from_str(&ask(server, "/v1/health")).unwrap();
            health.watched.iter().any(|one| one.subject == *subject && one.state.word() != "ok")
        });
    }
    until("the status text tells it", || status(server).contains("not as wanted: "));
    let shown = sh(server, "kdc-agent heal");
    assert!(shown.contains("wanted: 65; found: 7"), "{shown}");
    assert!(!shown.contains("foreign"), "no content is shown: {shown}");
    // Switched off on the node, whatever is allowed.
    sh(server, "touch /etc/kdc/no-repair");
    configure("mode: repair, backoffSecs: 1");
    until("it is held back", || ask(server, "/v1/health").contains("\"why\":\"switched-off\""));
    assert_eq!(stands(), "7\nforeign\ninactive\n");
    sh(server, "rm /etc/kdc/no-repair");
    until("all is put back", || stands() == "65\nwanted\nactive\n");
    until("and nothing is left to tell", || !status(server).contains("not as wanted"));
    assert_eq!(sh(server, "stat -c %a /etc/kdc-test.d").trim(), "750");
    load_file.iter().for_each(|path| assert!(root.join(path.trim_start_matches('/')).exists()));
    let page = ask(server, "/metrics");
    for line in [
        "kdc_heal_actions_total{remedy=\"set-sysctl\",outcome=\"done\"} 1",
        "kdc_heal_actions_total{remedy=\"put-back-routes\",outcome=\"done\"} ",
        "kdc_agent_events_total{kind=\"finding-opened\"} ",
        "kdc_agent_events_total{kind=\"repair-done\"} ",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    held_and_undone(server, &before, &configure);
}

/// Somebody writes it again: kdc stops and says so. Then all is taken back.
fn held_and_undone(server: &LightServer, before: &Snapshot, configure: &dyn Fn(&str)) {
    configure("mode: repair, perSubject: 1");
    sh(server, &format!("echo 7 > {TTL}"));
    until("it is told as a conflict", || {
        ask(server, "/v1/health").contains("\"why\":\"conflict\"")
    });
    assert_eq!(sh(server, &format!("cat {TTL}")).trim(), "7", "not put back once more");
    let shown = sh(server, "kdc-agent heal");
    assert!(shown.contains("something else writes it each time"), "{shown}");
    sh(server, "kdc-agent undo-run u1");
    until("nothing repairs any more", || {
        !sh(server, "systemctl is-active kdc-heal || true").starts_with("activ")
            && !status(server).contains("not as wanted")
    });
    let after = Snapshot::of(server).unwrap();
    let ours = |name: &str| name.starts_with("/var/lib/kdc") || name.starts_with("/etc/kdc/");
    let found: Vec<_> =
        diff(before, &after).into_iter().filter(|difference| !ours(&difference.name)).collect();
    assert_eq!(found, [], "undo after repairs leaves the host as it was");
}

/// A daemon whose loop does not turn is killed and started again: nothing else feeds the watchdog.
#[test]
#[ignore = "half a minute of waiting: `make test-deep`"]
fn a_daemon_that_hangs_is_started_again() {
    let lab = TestLab::up("agentdog", 1, |_| {});
    let server = lab.server("node1").unwrap();
    place(&server);
    let folder = server.root().unwrap().join("etc/systemd/system/kdc-agent.service.d");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("10.conf"), "[Service]\nWatchdogSec=16\n").unwrap();
    sh(&server, "systemctl daemon-reload && systemctl restart kdc-agent");
    let pid = sh(&server, "systemctl show -p MainPID --value kdc-agent");
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(
        sh(&server, "systemctl show -p MainPID --value kdc-agent"),
        pid,
        "it is fed while it turns"
    );
    sh(&server, &format!("kill -STOP {pid}"));
    until("another process takes its place", || {
        let now = sh(&server, "systemctl show -p MainPID --value kdc-agent");
        now != pid && now.trim() != "0"
    });
}
