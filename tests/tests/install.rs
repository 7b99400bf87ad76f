//! The main job, for real: fresh servers become a cluster, and then themselves again; no secret shows, no packet leaves,
//! and a second `apply` writes nothing. What interrupts an install is in `interrupted.rs`.
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

#[path = "kit/cluster.rs"]
mod cluster;
mod kit;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster::{assert_as_before, kubectl, operator, ready_nodes, snapshots};
use kdc_tests::{
    lab::LightServer,
    operator::{Operator, built},
    server::Server,
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
    let lab = TestLab::up("install", 3, |wanted| wanted.gateway = true);
    let servers = lab.servers().unwrap();
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

    nothing_to_do(&operator, &servers);
    images_are_kept_once(&servers);
    a_removed_image_comes_back_and_an_unknown_one_is_refused_at_once(&servers);
    let outside = capture.stop().unwrap();
    assert!(outside.is_empty(), "packets left the lab: {outside:#?}");
    a_pod_that_reaches_outside_is_told(&operator, &servers[0]);

    let capture = lab.capture(&["10.244.0.0/16", "10.96.0.0/12"]).unwrap();
    operator.undo().unwrap();
    assert_as_before(&before, &servers);
    let outside = capture.stop().unwrap();
    assert!(outside.is_empty(), "packets left the lab: {outside:#?}");
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
