//! The main job, for real: fresh servers become a cluster, and then themselves again; no secret shows, no packet leaves,
//! and a second `apply` writes nothing. What interrupts an install is in `interrupted.rs`.
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

#[path = "kit/cluster.rs"]
mod cluster;
#[path = "kit/gpu_sharing.rs"]
mod gpu_sharing;
mod kit;
#[path = "kit/licence_file.rs"]
mod licence_file;
#[path = "kit/site_license.rs"]
mod site_license;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster::{assert_as_before, kubectl, operator, ready_nodes, snapshots};
use kdc_agent::license::{
    Timestamp,
    envelope::{self, Purpose},
};
use kdc_bundles::signing::SigningKey;
use kdc_tests::{
    lab::LightServer,
    operator::{Operator, built, checkout},
    server::{Fault, Server},
    workspace::refuse_stale,
};
use kit::{TestLab, sh};
use serde_json::Value;

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
                    find /var/lib/kdc/runs -name '*.json*' -exec cat {} +; cat /run/kdc/notes";
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
    let lab = TestLab::up("install", 4, |wanted| wanted.gateway = true);
    let mut servers = lab.servers().unwrap();
    let fourth = servers.pop().unwrap();
    let operator = operator(&lab, "cluster", &servers);
    let before = snapshots(&servers);
    let capture = lab.capture(&["10.244.0.0/16", "10.96.0.0/12"]).unwrap();

    let (applied, shown) = watching_processes(|| operator.apply().unwrap());
    let said = applied.stdout_text() + &applied.stderr_text();
    fs_err::write(operator.home().join("apply.log"), &said).unwrap();
    assert_eq!(ready_nodes(&servers[0]), 3);
    let kubeconfig = operator.home().join("test.kubeconfig");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs_err::metadata(&kubeconfig).unwrap());
    assert_eq!(mode & 0o777, 0o600, "the kubeconfig is the operator's alone");
    for phase in ["note control-plane-init: [certs]", "note join: [kubelet-start]"] {
        assert!(said.contains(phase), "kubeadm's phases are not told: {said}");
    }
    for server in &servers {
        let proved =
            format!("proved no pod, kubelet, containerd or kdc-agent of {} ", server.name());
        assert!(said.contains(&proved), "{proved} is not told: {said}");
    }
    assert_not_shown(&generated_secrets(&servers[0]), &servers, &operator, &shown);

    let licensed = site_license::Licensed { operator: &operator, servers: &servers };
    licensed.has_settled();
    nothing_to_do(&operator, &servers);
    what_was_done_is_on_record(&operator, &servers);
    a_node_too_many_is_refused_and_nothing_changes(&lab, &operator, &servers, &fourth);
    what_nothing_needs_is_pruned_and_nothing_else(&operator, &servers[1]);
    certificates_and_etcd_are_watched(&servers[0]);
    images_are_kept_once(&servers);
    a_removed_image_comes_back_and_an_unknown_one_is_refused_at_once(&servers);
    gpu_sharing::Sharing { operator: &operator, control_plane: &servers[0], worker: &servers[1] }
        .is_set_up_proved_and_withdrawn();
    licensed.goes_through_every_state_and_the_workload_does_not_notice();
    let outside = capture.stop().unwrap();
    assert!(outside.is_empty(), "packets left the lab: {outside:#?}");
    a_pod_that_reaches_outside_is_told(&operator, &servers[0]);

    let capture = lab.capture(&["10.244.0.0/16", "10.96.0.0/12"]).unwrap();
    operator.undo().unwrap();
    assert_as_before(&before, &servers);
    let outside = capture.stop().unwrap();
    assert!(outside.is_empty(), "packets left the lab: {outside:#?}");
}

/// A licence that the tests' key signed, whose window is short enough for a test; debug builds take it.
fn issue(nodes: u32) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let now = Timestamp::from_unix(i64::try_from(now).unwrap());
    let payload = serde_json::json!({
        "id": "lab", "serial": 1, "type": "internal", "customer": "T", "issuedAt": now.to_string(),
        "notBefore": now.to_string(), "expiresAt": now.plus_days(90).to_string(), "maxNodes": nodes,
        "count": {"window": {"missingSeconds": 5}},
    });
    let payload = payload.to_string().into_bytes();
    let key = SigningKey::load(&checkout().join("tests/license/test.key"), None).unwrap();
    let signature = key.sign_bytes(&Purpose::License.signed_bytes(&payload));
    envelope::render(key.id(), &payload, &signature)
}

/// An operator who wants these nodes, with a licence for so many.
fn licensed(lab: &TestLab, nodes: &[&LightServer], limit: u32) -> Operator {
    let nodes: Vec<&dyn Server> = nodes.iter().map(|node| *node as &dyn Server).collect();
    let operator = Operator::new(lab, "cluster", &nodes).unwrap();
    fs_err::write(operator.home().join("l.json"), issue(limit)).unwrap();
    let text = fs_err::read_to_string(operator.cluster_file()).unwrap();
    let text = text.replacen("spec:\n", "spec:\n  license:\n    file: l.json\n", 1);
    fs_err::write(operator.cluster_file(), text).unwrap();
    operator
}

fn planned(operator: &Operator) -> kdc_tests::server::Output {
    let words = operator.with_bundle(&["plan", "--output", "plain"]);
    operator.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

/// The fourth node on a licence for three: the cluster's own count, exit 3, and not a file on any node.
fn a_node_too_many_is_refused_and_nothing_changes(
    lab: &TestLab,
    three: &Operator,
    servers: &[LightServer],
    fourth: &LightServer,
) {
    let written = |server: &LightServer| {
        let places = "/etc /usr /opt /root /home /var/lib/kdc /var/lib/dpkg /var/tmp";
        // A server that kdc was never on has not all of them; what lives by itself is no plan's.
        let alive = "-not -path '/var/lib/kdc/audit*' -not -path '/var/lib/kdc/license/*'";
        let places = format!("$(ls -d {places} 2>/dev/null)");
        sh(server, &format!("find {places} -xdev -newer /run/before-plan -type f {alive}"))
    };
    let all: Vec<&LightServer> = servers.iter().chain([fourth]).collect();
    for server in all.iter().copied() {
        sh(server, "touch /run/before-plan; sleep 1.1");
    }
    let refused = planned(&licensed(lab, &all, 3));
    let said = refused.stderr_text();
    assert_eq!(refused.code, 3, "{said}");
    for words in ["KDC-034", "4 nodes would count, and the licence is for 3", "new: `node4`"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    for server in all.iter().copied() {
        assert_eq!(written(server), "", "planning wrote on {}", server.name());
    }
    // The same licence lets the three be what they are, whatever it is asked.
    let three_of_three = planned(&licensed(lab, &all[..3], 3));
    assert_eq!(three_of_three.code, 0, "{}", three_of_three.stderr_text());
    assert!(three_of_three.stdout_text().contains("valid: licence `lab` is good until"));
    assert_eq!(planned(three).code, 0);
}

#[test]
#[ignore = "two installs and a dead node: `make test-deep`"]
fn a_dead_node_is_replaced_at_the_limit() {
    let lab = TestLab::up("replace", 4, |_| {});
    let servers = lab.servers().unwrap();
    let [control_plane, worker, dying, fresh] = &servers[..] else { unreachable!() };
    licensed(&lab, &[control_plane, worker, dying], 3).apply().unwrap();
    assert_eq!(ready_nodes(control_plane), 3);
    // Installed in the cluster by `apply`: it counts without being named, too.
    let four = licensed(&lab, &[control_plane, worker, dying, fresh], 3);
    assert_eq!(planned(&four).code, 3);
    dying.inflict(&Fault::Kill).unwrap();
    let replacing = licensed(&lab, &[control_plane, worker, fresh], 3);
    let end = std::time::Instant::now() + Duration::from_secs(600);
    loop {
        let plan = planned(&replacing);
        if plan.code == 0 {
            break;
        }
        // Until the cluster has noticed that it is gone, its place is taken.
        assert_eq!(plan.code, 3, "{}", plan.stderr_text());
        assert!(std::time::Instant::now() < end, "{}", plan.stderr_text());
        std::thread::sleep(Duration::from_secs(2));
    }
    replacing.apply().unwrap();
    assert_eq!(ready_nodes(control_plane), 3);
}

/// What may go wrong with a control plane by and by is looked at, and on a new one nothing of it is wrong.
fn certificates_and_etcd_are_watched(control_plane: &LightServer) {
    let space = format!("--net={}", control_plane.network_namespace().unwrap().display());
    let ask = |path: &str| {
        let url = format!("http://127.0.0.1:328{path}");
        let curl = ["nsenter", &space, "curl", "-sf", "--max-time", "10", &url];
        kdc_tests::program::must(&curl).unwrap().stdout_text()
    };
    // The first look was before there was a cluster, and the next may be ten minutes away.
    sh(control_plane, "systemctl reload kdc-agent");
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let wanted = [
        "kdc_etcd_has_leader 1",
        "kdc_etcd_healthy 1",
        "kdc_etcd_quota_bytes 2147483648",
        "expiry_timestamp_seconds{path=\"/etc/kubernetes/pki/etcd/server.crt\",subject=",
        "expiry_timestamp_seconds{path=\"/etc/kubernetes/admin.conf\",subject=\"kubernetes-admin\"}",
        "expiry_timestamp_seconds{path=\"/var/lib/kubelet/pki/kubelet-client-current.pem\"",
        "node_systemd_unit_state{name=\"kubelet.service\",state=\"active\",type=\"\"} 1",
    ];
    loop {
        let page = ask("/metrics");
        let missing: Vec<_> = wanted.iter().filter(|line| !page.contains(**line)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < end, "{missing:?} in\n{page}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let health: Value = serde_json::from_str(&ask("/v1/health")).unwrap();
    let watched = health["watched"].as_array().unwrap();
    for kind in ["certificate", "etcd", "service"] {
        let of_kind: Vec<&Value> = watched.iter().filter(|one| one["kind"] == kind).collect();
        assert!(!of_kind.is_empty(), "{kind}: {health}");
        // A slow disk is this machine's, and worth a warning.
        let good = |one: &&Value| one["state"] == "ok" || one["subject"] == "etcd writes";
        assert!(of_kind.iter().all(good), "{of_kind:?}");
    }
}

/// Pieces of a bundle that was never applied; what is in force stays, and is proved by what comes after.
fn what_nothing_needs_is_pruned_and_nothing_else(operator: &Operator, worker: &LightServer) {
    let stray = format!("/var/lib/kdc/store/blobs/sha256/{}", "5".repeat(64));
    sh(worker, &format!("head -c 3000000 /dev/zero >{stray}"));
    let prune = |more: &[&str]| {
        let words = [&["bundle", "prune", "nodes", "--output", "json"], more].concat();
        let words = operator.with_bundle(&words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = operator.run(&words).unwrap();
        let said = output.stdout_text();
        assert!(output.succeeded(), "{said}{}", output.stderr_text());
        let told = said.lines().last().unwrap();
        let told: serde_json::Value = serde_json::from_str(told).unwrap();
        let files = told["nodes"].as_array().unwrap().iter().map(|node| node["files"].as_u64());
        files.collect::<Option<Vec<_>>>().unwrap()
    };
    assert_eq!(prune(&["--dry-run"]), [0, 1, 0]);
    sh(worker, &format!("test -f {stray}"));
    assert_eq!(prune(&[]), [0, 1, 0]);
    sh(worker, &format!("test ! -e {stray}"));
    assert_eq!(prune(&[]), [0, 0, 0]);
}

const CTR: &str = "ctr --namespace k8s.io";

/// Compressed in the store, unpacked in containerd, and pinned. Manifests and configurations are small.
fn images_are_kept_once(servers: &[LightServer]) {
    for server in servers {
        let content =
            "cd /var/lib/containerd/io.containerd.content.v1.content/blobs; find . -type f";
        assert!(sh(server, content).lines().count() >= 8, "manifests and configurations are there");
        let large = sh(server, &format!("{content} -size +64k"));
        assert_eq!(large, "", "layers are in containerd's content too");
        let layers = "find /var/lib/kdc/store/blobs -size +1M | wc -l";
        assert!(sh(server, layers).trim().parse::<u32>().unwrap() >= 4, "the store has none");
        let listed = sh(server, &format!("{CTR} images ls | grep -v -e @ -e ^sha256: -e ^REF"));
        assert!(listed.lines().count() >= 4, "{listed}");
        for image in listed.lines() {
            assert!(image.contains("io.cri-containerd.pinned=pinned"), "{image}");
        }
    }
}

/// From loopback, since there is no way out; nobody outside is asked, not even for a name, and the capture sees that.
fn a_removed_image_comes_back_and_an_unknown_one_is_refused_at_once(servers: &[LightServer]) {
    let (control_plane, worker) = (&servers[0], &servers[1]);
    sh(worker, "crictl rmi docker.io/kdc/busybox:1 && ! crictl inspecti docker.io/kdc/busybox:1");
    // A worker was never sent this one: the control plane gives it. What others have is known some seconds late.
    let pull = "crictl pull k8s.gcr.io/kube-scheduler:v1.20.2";
    sh(worker, &format!("for _ in 1 2 3 4; do {pull} && exit; sleep 4; done; exit 1"));
    let on_worker = |name: &str, image: &str| {
        let overrides =
            format!(r#"{{"apiVersion":"v1","spec":{{"nodeName":"{}"}}}}"#, worker.name());
        let words = "--restart=Never --image-pull-policy=Always";
        let pod = format!("run {name} --image={image} {words} --overrides '{overrides}'");
        kubectl(control_plane, &format!("{pod} -- sleep 1000"));
    };
    on_worker("again", "kdc/busybox:1");
    kubectl(control_plane, "wait pod again --for=condition=Ready --timeout=60s");
    for (name, image) in [("unknown", "docker.io/kdc/unknown:1"), ("foreign", "quay.io/no/such:1")]
    {
        on_worker(name, image);
        let events = format!(
            "get events --field-selector involvedObject.name={name},reason=Failed -o jsonpath='{{.items[*].message}}'"
        );
        let began = std::time::Instant::now();
        let told = loop {
            let told = kubectl(control_plane, &events);
            if told.contains("not found") {
                break told;
            }
            assert!(began.elapsed() < Duration::from_secs(15), "the kubelet says: {told}");
            std::thread::sleep(Duration::from_millis(200));
        };
        assert!(told.contains(image), "{told}");
    }
    kubectl(control_plane, "delete pod again unknown foreign --grace-period=0 --force");
}

/// What the bridge's capture would see, kdc proves by itself: with the pod, and where to.
fn a_pod_that_reaches_outside_is_told(operator: &Operator, control_plane: &LightServer) {
    let tries =
        "--restart=Never --image-pull-policy=IfNotPresent -- wget -q -O - http://192.0.2.1/";
    kubectl(control_plane, &format!("run outside --image=docker.io/kdc/busybox:1 {tries}"));
    // Nobody answers it, so it goes on; connection tracking remembers it for two minutes after.
    kubectl(control_plane, "wait pod outside --for=condition=Ready --timeout=60s");
    kubectl(control_plane, "delete pod outside --grace-period=0 --force");
    sh(control_plane, "rm /var/lib/kdc/acceptance.json");
    let arguments = operator.with_bundle(&["apply", "--output", "plain", "--yes"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let refused = operator.run(&arguments).unwrap();
    let said = refused.stdout_text() + &refused.stderr_text();
    assert_eq!(refused.code, 4, "{said}");
    for part in ["KDC-025", "NOT PROVED no pod", "pod 10.244.", "reached for 192.0.2.1:80/tcp"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// A second apply says so, is quick, and writes not one file that it would have to write.
fn nothing_to_do(operator: &Operator, servers: &[LightServer]) {
    let places = "/etc /usr /opt /root /home /var/lib/kdc /var/lib/dpkg /var/tmp";
    // The log is written by parts that work by themselves, too: of installers it must not say more than before.
    let lines = |server: &LightServer| {
        sh(server, "cat /var/lib/kdc/audit/*.jsonl | grep -c '\"part\":\"serve\"'")
    };
    let before: Vec<String> = servers.iter().map(lines).collect();
    for server in servers {
        sh(server, "touch /run/before-second-apply; sleep 1.1");
    }
    let again = operator.apply().unwrap();
    let said = again.stdout_text() + &again.stderr_text();
    assert!(said.contains("nothing to do"), "{said}");
    for server in servers {
        let written = sh(
            server,
            &format!(
                "find {places} -xdev -newer /run/before-second-apply -type f -not -path '/var/lib/kdc/audit*' \
                 -not -path '/var/lib/kdc/license/*'"
            ),
        );
        // The kubelet and the API server keep their own files fresh, and the control plane's part what it remembers of
        // the licence; those aren't in `places`, or are left out.
        assert_eq!(written, "", "the second apply wrote on {}", server.name());
    }
    assert_eq!(servers.iter().map(lines).collect::<Vec<_>>(), before);
}

/// The heads of all logs that the cluster keeps.
fn kept_heads(control_plane: &LightServer) -> Value {
    let asked = "-n kube-system get configmap kdc-audit --ignore-not-found -o json";
    let map: Value = serde_json::from_str(&kubectl(control_plane, asked)).unwrap_or_default();
    serde_json::from_str(map["data"]["heads.json"].as_str().unwrap_or("{}")).unwrap()
}

/// Each node has its lines, the cluster keeps their heads, an export is good by its keys alone, and a node whose log is put
/// back to what it was before is told.
fn what_was_done_is_on_record(operator: &Operator, servers: &[LightServer]) {
    let control_plane = &servers[0];
    within_five_minutes("all heads are kept", &|| {
        servers.iter().all(|one| kept_heads(control_plane)[one.name()]["seq"].is_u64())
    });
    each_node_has_its_lines(operator, servers);
    an_export_is_good_by_its_keys_alone(operator);
    a_log_put_back_is_told(operator, control_plane, &servers[1]);
}

fn with_bundle(operator: &Operator, words: &[&str]) -> kdc_tests::server::Output {
    let words = operator.with_bundle(words);
    operator.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

fn within_five_minutes(what: &str, holds: &dyn Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(300);
    while !holds() {
        assert!(std::time::Instant::now() < end, "not within five minutes: {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn each_node_has_its_lines(operator: &Operator, servers: &[LightServer]) {
    let shown = with_bundle(operator, &["audit", "show", "--last", "0", "--output", "json"]);
    assert!(shown.succeeded(), "{}{}", shown.stdout_text(), shown.stderr_text());
    let shown: Value = serde_json::from_str(shown.stdout_text().lines().last().unwrap()).unwrap();
    let lines = shown["lines"].as_array().unwrap();
    for server in servers {
        let of = |kind: &str| {
            let fits = |line: &&Value| line["node"] == server.name() && line["kind"] == kind;
            lines.iter().find(fits).unwrap_or_else(|| panic!("{kind} on {}", server.name()))
        };
        assert_eq!(of("run.ended")["body"]["outcome"], "finished");
        assert_eq!(of("node.enrolled")["body"]["cluster"], "test");
        let who = &of("run.started")["who"];
        let said = |name: &str| who[name].as_str().unwrap_or_default().to_owned();
        assert!(!said("login").is_empty() && said("operator").contains('@'), "{who}");
    }
}

fn an_export_is_good_by_its_keys_alone(operator: &Operator) {
    let good = with_bundle(operator, &["audit", "export", "-o", "site.audit"]);
    assert!(good.succeeded(), "{}{}", good.stdout_text(), good.stderr_text());
    let offline = |file: &str| {
        let words = ["audit", "verify", file, "--public-keys", "site.audit.pub"];
        operator.run(&words).unwrap()
    };
    assert!(offline("site.audit").succeeded(), "{}", offline("site.audit").stdout_text());
    let text = fs_err::read_to_string(operator.home().join("site.audit")).unwrap();
    assert!(text.contains(r#""content":"license""#), "who counts is not in it");
    let harmed = text.replacen("\"outcome\":\"finished\"", "\"outcome\":\"finishee\"", 1);
    fs_err::write(operator.home().join("harmed.audit"), harmed).unwrap();
    let bad = offline("harmed.audit");
    assert!(
        !bad.succeeded() && bad.stdout_text().contains("changed-line"),
        "{}",
        bad.stdout_text()
    );
}

fn a_log_put_back_is_told(operator: &Operator, control_plane: &LightServer, worker: &LightServer) {
    let kept =
        |server: &LightServer| kept_heads(control_plane)[server.name()]["seq"].as_u64().unwrap();
    let before = kept(worker);
    sh(worker, "cp -a /var/lib/kdc/audit /run/audit-before");
    assert!(with_bundle(operator, &["plan"]).succeeded());
    sh(worker, "/usr/local/bin/kdc-agent audit-settle");
    within_five_minutes("the next head is kept", &|| kept(worker) > before);
    sh(
        worker,
        "cp -a /var/lib/kdc/audit /run/audit-after; cp -a /run/audit-before/. /var/lib/kdc/audit/",
    );
    let cut = with_bundle(operator, &["audit", "verify"]);
    let said = cut.stdout_text() + &cut.stderr_text();
    assert!(
        !cut.succeeded() && said.contains("cut-tail") && said.contains("the cluster"),
        "{said}"
    );
    sh(
        worker,
        "cp -a /run/audit-after/. /var/lib/kdc/audit/; rm -r /run/audit-before /run/audit-after",
    );
    let again = with_bundle(operator, &["audit", "verify"]);
    assert!(again.succeeded(), "{}{}", again.stdout_text(), again.stderr_text());
}

#[test]
fn the_programs_are_small() {
    // Built for release by `make test` before this runs; stripped by the profile.
    let release = built("kdc-install").unwrap();
    let release = release.parent().unwrap().parent().unwrap().join("release");
    for (name, most_mib) in [("kdc-agent", 12), ("kdc-install", 30)] {
        let program = release.join(name);
        refuse_stale(&program)
            .unwrap_or_else(|error| panic!("{error:#}; cargo build --release -p {name} makes it"));
        let size = fs_err::metadata(program).unwrap().len();
        println!("{name}: {size} bytes");
        assert!(size <= most_mib << 20, "{name} has {size} bytes, more than {most_mib} MiB");
    }
}
