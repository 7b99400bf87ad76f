//! The programs of the fake machine: as much of the real ones' behaviour as steps rely on.

use serde_json::json;

use super::{Node, Tree, mig, names_in, sysfs};
use crate::host::{Attributes, Kind, Output, Program, parent};

/// Files that a package brings, besides its entry in the package list.
fn files_of(package: &str) -> &'static [&'static str] {
    match package {
        "containerd" => {
            &["/usr/bin/containerd", "/usr/bin/ctr", "/lib/systemd/system/containerd.service"]
        }
        "iptables" => &["/usr/sbin/iptables-save", "/usr/sbin/iptables-restore"],
        "nftables" => &["/usr/sbin/nft"],
        _ => &[],
    }
}

const ALWAYS: &[&str] =
    &["dpkg", "dpkg-query", "systemctl", "modprobe", "swapoff", "swapon", "ip", "umount", "ufw"];

/// What the daemon is told to serve, and what it says that it serves.
const TOLD: &str = "/etc/kdc/registry.json";
const SERVED: &str = "/run/kdc/registry.json";

/// Images in containerd, and those that the node's registry has: name → digest of the manifest.
const IMAGES: &str = "/var/lib/containerd/images";
const REGISTRY: &str = "/@registry";

const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

pub(super) fn put(tree: &mut Tree, path: &str, text: &str) {
    make(tree, parent(path));
    let (attributes, content) = (Attributes::root(0o644), text.as_bytes().to_vec());
    tree.insert(path.to_owned(), Node { kind: Kind::File, attributes, content });
}

fn make(tree: &mut Tree, path: &str) {
    if path != "/" && !tree.contains_key(path) {
        make(tree, parent(path));
        let (kind, attributes) = (Kind::Directory, Attributes::root(0o755));
        tree.insert(path.to_owned(), Node { kind, attributes, content: Vec::new() });
    }
}

pub(super) fn text(tree: &Tree, path: &str) -> String {
    tree.get(path)
        .map(|node| String::from_utf8_lossy(&node.content).into_owned())
        .unwrap_or_default()
}

fn remove(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.retain(|known, _| known != path && !known.starts_with(&below));
}

fn has(tree: &Tree, path: &str) -> bool {
    tree.contains_key(path)
}

/// Run a program; `None` if it is not installed. `during`: it is cut off half-way.
pub(super) fn run(
    tree: &mut Tree,
    program: &Program,
    input: &[u8],
    during: bool,
) -> Option<Output> {
    let name = program.name();
    if name == "/proc/self/exe" {
        return Some(mig::ask(tree, input, during));
    }
    let installed = ALWAYS.contains(&name)
        || (name.starts_with('/') && has(tree, name))
        || ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
            .iter()
            .any(|at| has(tree, &format!("{at}/{name}")));
    if !installed {
        return None;
    }
    let args: Vec<&str> = program.arguments().iter().map(String::as_str).collect();
    let last = args.last().copied().unwrap_or_default();
    Some(match name {
        "dpkg-query" => dpkg_query(tree, &args),
        "dpkg" => dpkg(tree, &args, during),
        "systemctl" => systemctl(tree, &args),
        "modprobe" => modprobe(tree, args.contains(&"-r"), last),
        "swapoff" => {
            put(tree, "/proc/swaps", "Filename Type Size Used Priority\n");
            Output::ok("")
        }
        "swapon" => {
            let line = format!("Filename Type Size Used Priority\n{last} file 1 0 -2\n");
            put(tree, "/proc/swaps", &line);
            Output::ok("")
        }
        "ufw" => ufw(tree, &args),
        "containerd" if args.contains(&"dump") => {
            // As much of its merging as there is to merge: the last file that has a table.
            let drop_in = text(tree, "/etc/containerd/conf.d/99-kdc-nvidia.toml");
            let main = text(tree, "/etc/containerd/config.toml");
            Output::ok(if drop_in.is_empty() { main } else { drop_in })
        }
        "/usr/lib/nvidia/sriov-manage" => {
            sysfs::manage_functions(tree, args[0] == "-e", last, during);
            Output::ok("")
        }
        "nvidia-ctk" => Output::ok(cdi_spec(tree)),
        "update-grub" => collect(tree, "/etc/default/grub.d", "/boot/grub/grub.cfg"),
        "update-initramfs" => collect(tree, "/etc/modprobe.d", "/boot/initrd.img"),
        "kernelstub" => kernelstub(tree, args.contains(&"--add-options"), last),
        "containerd" => Output::ok("containerd github.com/containerd/containerd 1.6.20 x\n"),
        "ctr" => ctr(tree, &args),
        "crictl" if args.contains(&"pull") => pull(tree, last, during),
        "nft" => nft(tree, &args),
        "iptables-save" => Output::ok(text(tree, "/@iptables")),
        "iptables-restore" => {
            put(tree, "/@iptables", &String::from_utf8_lossy(input));
            Output::ok("")
        }
        "ip" => {
            remove(tree, "/sys/class/net/cni0");
            Output::ok("")
        }
        "kubeadm" => kubeadm(tree, args.first().copied().unwrap_or_default(), during),
        "kubectl" => kubectl(tree, &args, input),
        _ => Output::ok(""),
    })
}

fn dpkg_query(tree: &Tree, args: &[&str]) -> Output {
    let names = args.iter().skip_while(|arg| **arg != "--").skip(1);
    let mut output = Output::default();
    for name in names {
        match tree.get(&format!("/@packages/{name}")) {
            Some(node) => {
                let status = String::from_utf8_lossy(&node.content).into_owned();
                output.stdout.extend(format!("{name}\t1\t{status}\n").bytes());
            }
            None => output.code = 1,
        }
    }
    output
}

fn dpkg(tree: &mut Tree, args: &[&str], during: bool) -> Output {
    if args.contains(&"--install") {
        let files: Vec<&&str> = args.iter().filter(|arg| arg.ends_with(".deb")).collect();
        let allowed = !has(tree, "/usr/sbin/policy-rc.d");
        for (count, file) in files.iter().enumerate() {
            let name = text(tree, file);
            if during && count == 1 {
                put(tree, &format!("/@packages/{name}"), "unpacked");
                break;
            }
            put(tree, &format!("/@packages/{name}"), "installed");
            for path in files_of(&name) {
                put(tree, path, "x");
            }
            if name == "containerd" {
                put(tree, &format!("{WANTS}/containerd.service"), "");
                if let Some(node) = tree.get_mut(&format!("{WANTS}/containerd.service")) {
                    node.kind = Kind::Link;
                    node.content = b"/lib/systemd/system/containerd.service".to_vec();
                }
                if allowed {
                    put(tree, "/@active/containerd.service", "");
                }
            }
        }
        return Output::ok("");
    }
    for name in args.iter().skip_while(|arg| **arg != "--purge").skip(1) {
        remove(tree, &format!("/@packages/{name}"));
        for path in files_of(name) {
            remove(tree, path);
        }
        if *name == "containerd" {
            remove(tree, &format!("{WANTS}/containerd.service"));
            remove(tree, "/@active/containerd.service");
            if names_in(tree, "/lib/systemd/system").is_empty() {
                remove(tree, "/lib/systemd");
            }
        }
        if during {
            break;
        }
    }
    Output::ok("")
}

fn systemctl(tree: &mut Tree, args: &[&str]) -> Output {
    let unit = args.last().copied().unwrap_or_default();
    let files = ["/etc/systemd/system", "/lib/systemd/system"].map(|at| format!("{at}/{unit}"));
    let loaded = files.iter().any(|path| has(tree, path));
    let (link, active) = (format!("{WANTS}/{unit}"), format!("/@active/{unit}"));
    match args.first().copied().unwrap_or_default() {
        "show" => {
            let enabled = if has(tree, &link) { "enabled" } else { "disabled" };
            return Output::ok(format!(
                "LoadState={}\nUnitFileState={}\nActiveState={}\n",
                if loaded { "loaded" } else { "not-found" },
                if loaded { enabled } else { "" },
                if has(tree, &active) { "active" } else { "inactive" },
            ));
        }
        "daemon-reload" | "reset-failed" | "reload" => {}
        _ if !loaded => return Output::failed(5, "Unit not found"),
        "enable" => {
            put(tree, &link, files[0].as_str());
            if let Some(node) = tree.get_mut(&link) {
                node.kind = Kind::Link;
            }
        }
        "disable" => remove(tree, &link),
        "start" | "restart" => {
            put(tree, &active, "");
            if unit == "containerd.service" {
                put(tree, "/var/lib/containerd/meta", "");
                put(tree, "/run/containerd/containerd.sock", "");
            }
            if unit == "kdc-agent.service" {
                // Its two files have one field of one name.
                remove(tree, SERVED);
                if has(tree, TOLD) {
                    let told = text(tree, TOLD);
                    put(tree, SERVED, &told);
                }
            }
        }
        "stop" => {
            remove(tree, &active);
            if unit == "kdc-agent.service" {
                remove(tree, SERVED);
            }
        }
        _ => return Output::failed(1, "unknown verb"),
    }
    Output::ok("")
}

/// A program that makes one file of all in a folder.
fn collect(tree: &mut Tree, folder: &str, made: &str) -> Output {
    let names = names_in(tree, folder);
    let all: String = names.iter().map(|name| text(tree, &format!("{folder}/{name}"))).collect();
    put(tree, made, &all);
    Output::ok("")
}

fn kernelstub(tree: &mut Tree, add: bool, options: &str) -> Output {
    let file = "/etc/kernelstub/configuration";
    let before = text(tree, file);
    let ours = format!(" {options}");
    let without = before.replace(&ours, "");
    put(tree, file, &if add { format!("{without}{ours}") } else { without });
    Output::ok("")
}

/// A specification with every GPU that the driver has.
fn cdi_spec(tree: &Tree) -> String {
    let mut spec = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n".to_owned();
    for address in names_in(tree, "/proc/driver/nvidia/gpus") {
        let told = text(tree, &format!("/proc/driver/nvidia/gpus/{address}/information"));
        let minor =
            told.lines().find_map(|line| line.strip_prefix("Device Minor:")).unwrap_or("0").trim();
        spec.push_str(&format!(
            "- name: \"{minor}\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia{minor}\n"
        ));
    }
    let instances = tree.keys().filter(|path| {
        path.starts_with("/proc/driver/nvidia/capabilities/") && path.ends_with("/access")
    });
    for path in instances {
        let told = text(tree, path);
        let minor = told.trim().strip_prefix("DeviceFileMinor: ").unwrap_or("0").to_owned();
        spec.push_str(&format!(
            "- name: \"cap{minor}\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia-caps/nvidia-cap{minor}\n"
        ));
    }
    spec
}

fn modprobe(tree: &mut Tree, unload: bool, module: &str) -> Output {
    if module == "vfio-pci" {
        if unload {
            sysfs::remove_driver(tree, module);
        } else {
            sysfs::add_driver(tree, module);
        }
    }
    let module = module.replace('-', "_");
    let line = format!("{module} 1 0 - Live 0\n");
    let modules = text(tree, "/proc/modules").replace(&line, "");
    put(tree, "/proc/modules", &if unload { modules } else { format!("{modules}{line}") });
    Output::ok("")
}

fn ufw(tree: &mut Tree, args: &[&str]) -> Output {
    let port = format!("/@ufw/{}", args.last().copied().unwrap_or_default().replace('/', "|"));
    match args.first().copied() {
        Some("status") => {
            let ports = names_in(tree, "/@ufw");
            let line = |port: &String| format!("{} ALLOW Anywhere\n", port.replace('|', "/"));
            let lines: String = ports.iter().map(line).collect();
            return Output::ok(format!("Status: active\n{lines}"));
        }
        Some("allow") => put(tree, &port, ""),
        _ => remove(tree, &port),
    }
    Output::ok("")
}

fn image(name: &str) -> String {
    format!("{IMAGES}/{}", name.replace('/', "|"))
}

fn ctr(tree: &mut Tree, args: &[&str]) -> Output {
    if !has(tree, "/@active/containerd.service") {
        return Output::failed(1, "no socket");
    }
    let last = args.last().copied().unwrap_or_default();
    if args.contains(&"list") && args.contains(&"images") {
        let mut all = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n".to_owned();
        for name in names_in(tree, IMAGES) {
            let value = text(tree, &format!("{IMAGES}/{name}"));
            all.push_str(&format!("{} t {value}\n", name.replace('|', "/")));
        }
        return Output::ok(all);
    }
    if let Some(at) = args.iter().position(|arg| *arg == "label") {
        let path = image(args[at + 1]);
        let value = format!("{},{last}", text(tree, &path));
        put(tree, &path, &value);
    } else if args.contains(&"tag") {
        let from = text(tree, &image(args[args.len() - 2]));
        put(tree, &image(last), &from);
    } else if args.contains(&"remove") {
        let names = args.iter().skip_while(|arg| **arg != "remove").skip(1);
        for name in names.filter(|name| **name != "--sync") {
            remove(tree, &image(name));
        }
        if names_in(tree, IMAGES).is_empty() {
            remove(tree, IMAGES);
        }
    }
    Output::ok("")
}

/// CRI's pull: the image by its name, by its digest, and by its id.
fn pull(tree: &mut Tree, name: &str, during: bool) -> Output {
    let digest = text(tree, &format!("{REGISTRY}/{}", name.replace('/', "|")));
    if !has(tree, "/@active/containerd.service") || !has(tree, SERVED) || digest.is_empty() {
        return Output::failed(1, "not found");
    }
    let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    let names = [name.to_owned(), format!("sha256:1d-{digest}"), format!("{repository}@{digest}")];
    for name in names.iter().take(if during { 1 } else { 3 }) {
        put(tree, &image(name), &format!("{digest} 1 io.cri-containerd.image=managed"));
    }
    Output::ok("")
}

fn nft(tree: &mut Tree, args: &[&str]) -> Output {
    if args.first() == Some(&"delete") {
        remove(tree, &format!("/@nft/{}", args[2..].join(" ")));
        return Output::ok("");
    }
    let tables = names_in(tree, "/@nft");
    Output::ok(tables.iter().map(|table| format!("table {table}\n")).collect::<String>())
}

/// What Kubernetes leaves on a node, in the order it comes.
const LEFT: &[(&str, &str)] = &[
    ("/etc/kubernetes/pki/ca.crt", "ca"),
    ("/etc/kubernetes/kubelet.conf", "k"),
    ("/var/lib/kubelet/config.yaml", "c"),
    ("/@active/kubelet.service", ""),
    ("/etc/kubernetes/manifests/kube-apiserver.yaml", "m"),
    ("/etc/kubernetes/manifests/kube-controller-manager.yaml", "m"),
    ("/etc/kubernetes/manifests/kube-scheduler.yaml", "m"),
    ("/sys/class/net/cni0", ""),
    ("/sys/fs/cgroup/cpu/kubepods/burstable/pod1/tasks", ""),
    ("/@nft/ip nat", ""),
    ("/proc/sys/kernel/panic", "10\n"),
    ("/var/lib/etcd/member", "e"),
    ("/etc/kubernetes/admin.conf", "a"),
];

/// What kubeadm prints: its phases, and secrets among them and below.
const SAID: &str = "[certs] Generating \"ca\" certificate and key\n\
    [upload-certs] Using certificate key:\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
    [bootstrap-token] Using token: abcdef.0123456789abcdef\n\
    Then you can join any number of nodes:\n\
    kubeadm join 10.0.0.1:6443 --token abcdef.0123456789abcdef\n\
    [phase] done\n";

fn kubeadm(tree: &mut Tree, verb: &str, during: bool) -> Output {
    match verb {
        "reset" => {
            for path in ["/etc/kubernetes/manifests", "/etc/kubernetes/pki", "/var/lib/etcd/member"]
            {
                remove(tree, path);
            }
        }
        _ if has(tree, "/etc/kubernetes/pki") => return Output::failed(1, "not empty"),
        _ => {
            let half = if during { LEFT.len() / 2 } else { LEFT.len() };
            for (path, content) in &LEFT[..half] {
                put(tree, path, content);
            }
            // A join has its own file until the kubelet has its certificate.
            if during && verb == "join" {
                put(tree, "/etc/kubernetes/bootstrap-kubelet.conf", "b");
            }
            // A control group's own files are no entries that keep it from being removed.
            remove(tree, "/sys/fs/cgroup/cpu/kubepods/burstable/pod1/tasks");
            if !during {
                put(tree, "/var/lib/etcd/coredns", "");
            }
        }
    }
    Output::ok(SAID)
}

fn kubectl(tree: &mut Tree, args: &[&str], input: &[u8]) -> Output {
    let input = String::from_utf8_lossy(input).into_owned();
    let object = "/var/lib/etcd/object";
    let labels = "/var/lib/etcd/labels";
    let up = has(tree, "/etc/kubernetes/admin.conf") && has(tree, "/@active/kubelet.service");
    if !up {
        return Output::failed(1, "connection refused");
    }
    let verbs =
        ["--raw", "diff", "apply", "delete", "label", "deployment/coredns", "nodes", "node"];
    match verbs.into_iter().find(|verb| args.contains(verb)).unwrap_or_default() {
        "--raw" => Output::ok("ok"),
        "diff" if text(tree, object) == input => Output::ok(""),
        "diff" => Output::failed(1, "differs"),
        "apply" => {
            put(tree, object, &input);
            Output::ok("")
        }
        "delete" => {
            remove(tree, object);
            Output::ok("")
        }
        "label" => {
            let given: String = args.iter().filter(|a| a.starts_with("x=")).copied().collect();
            put(tree, labels, &given);
            Output::ok("")
        }
        "deployment/coredns" if has(tree, "/var/lib/etcd/coredns") => {
            let status = json!({"readyReplicas": 1});
            Output::ok(json!({"kind": "Deployment", "status": status}).to_string())
        }
        "nodes" | "node" => {
            let value = text(tree, labels).replace("x=", "");
            let condition = json!([{"type": "Ready", "status": "True"}]);
            let labels = if value.is_empty() { json!({}) } else { json!({"x": value}) };
            let node = json!({"metadata": {"name": "n1", "labels": labels},
                "status": {"conditions": condition}});
            let list = args.contains(&"nodes");
            Output::ok(if list { json!({"items": [node]}) } else { node }.to_string())
        }
        _ if args.contains(&"--filename=-") && has(tree, object) => {
            let metadata = json!({"name": "o"});
            Output::ok(json!({"kind": "ConfigMap", "metadata": metadata}).to_string())
        }
        _ => Output::ok(""),
    }
}
