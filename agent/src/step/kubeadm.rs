//! What `kubeadm init` and `kubeadm join` leave on a node, and taking all of it back.
//!
//! `kubeadm reset` alone leaves rules, links, mounts, kernel parameters and directories behind, by
//! its own words. So the node is photographed before, and undo compares with the picture.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    change::{Context, StepError},
    configure_host_routes::{BRIDGE, link_exists, remove_link},
    containerd::{SOCKET, answers, ctr},
    firewall::{self, Rules},
    set_sysctl,
    snapshot::{PathState, look, restore_owned_directory},
    systemd::{look_at, restore_activity, systemctl},
};
use crate::host::{Attributes, Host, HostError, Kind, Output, Program, mask_secrets};

/// The kubelet's unit.
pub(crate) const KUBELET: &str = "kubelet.service";

/// Directories that only Kubernetes fills.
const DIRECTORIES: &[&str] = &[
    "/etc/kubernetes",
    "/var/lib/kubelet",
    "/var/lib/etcd",
    "/var/lib/cni",
    "/var/lib/dockershim",
    "/var/log/pods",
    "/var/log/containers",
    "/run/kubernetes",
    "/run/kdc/kubectl-cache",
    "/usr/libexec/kubernetes",
];

/// What the kubelet makes where a static pod or kube-proxy mounts it from the host and it is missing.
const MOUNT_SOURCES: &[&str] =
    &["/etc/ssl/certs", "/etc/ssl", "/usr/lib/modules", "/lib/modules", "/run/xtables.lock"];

/// Directories a mount of ours may lie under.
const MOUNTS: &[&str] = &[
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/run/containerd",
    "/run/netns/cni-",
    "/var/run/netns/cni-",
];

/// Kernel parameters that kubelet, kube-proxy and CNI plugins set.
const SYSCTLS: &[&str] = &[
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
];

/// Links that CNI plugins and kube-proxy make.
const LINKS: &[&str] = &[BRIDGE, "kube-ipvs0", "nodelocaldns"];

/// Root of the control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A node before Kubernetes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// What decides whether the step is as wanted.
    pub(crate) ready: bool,
    directories: BTreeMap<String, PathState>,
    /// Those of [`MOUNT_SOURCES`] that were missing.
    missing_sources: Vec<String>,
    network_namespaces: PathState,
    sysctls: BTreeMap<String, String>,
    links: Vec<String>,
    rules: Rules,
    kubelet_active: bool,
}

/// Photograph the node; `ready` is the step's own judgement.
pub(crate) fn photograph(context: &Context<'_>, ready: bool) -> Result<Before, StepError> {
    let host = context.host;
    let mut directories = BTreeMap::new();
    for path in DIRECTORIES {
        directories.insert((*path).to_owned(), look(context, path)?);
    }
    let mut missing_sources = Vec::new();
    for path in MOUNT_SOURCES {
        if host.stat(path)?.is_none() {
            missing_sources.push((*path).to_owned());
        }
    }
    let mut sysctls = BTreeMap::new();
    for key in SYSCTLS {
        if let Some(value) = set_sysctl::live(host, key)? {
            sysctls.insert((*key).to_owned(), value);
        }
    }
    let mut links = Vec::new();
    for link in LINKS {
        if link_exists(host, link)? {
            links.push((*link).to_owned());
        }
    }
    Ok(Before {
        ready,
        directories,
        missing_sources,
        network_namespaces: look(context, "/run/netns")?,
        sysctls,
        links,
        rules: firewall::look(host)?,
        kubelet_active: look_at(host, KUBELET)?.active,
    })
}

/// Before `init` or `join`: refuse a Kubernetes that is not ours, clear away a half-made one that is.
pub(crate) fn make_room(context: &Context<'_>, before: &Before) -> Result<(), StepError> {
    let holds = |state: &PathState| {
        matches!(state, PathState::Directory { names, .. }
            if names.iter().any(|name| name.ends_with(".conf") || name == "pki"))
    };
    if before.directories.get("/etc/kubernetes").is_some_and(holds) {
        return Err(StepError::Refused {
            what: "a Kubernetes that kdc did not install is in /etc/kubernetes, or ours does not \
                   answer"
                .to_owned(),
            hint: "start it, or undo or reset it, then apply again".to_owned(),
        });
    }
    let names = context.host.list("/etc/kubernetes")?.unwrap_or_default();
    if names.is_empty() {
        return Ok(());
    }
    context.say("clearing away a half-made Kubernetes");
    take_down(context, before)
}

/// Remove a configuration that a dead process left; the one for `join` carries a token.
pub(crate) fn forget_config(host: &dyn Host) -> Result<(), StepError> {
    for verb in ["init", "join"] {
        host.remove(&format!("/run/kdc/kubeadm-{verb}.yaml"))?;
    }
    Ok(())
}

/// Run kubeadm with a configuration that only root can read, showing its phases.
pub(crate) fn run(
    context: &Context<'_>,
    verb: &str,
    config: &str,
    options: &[&str],
) -> Result<(), StepError> {
    let host = context.host;
    let path = format!("/run/kdc/kubeadm-{verb}.yaml");
    if host.stat("/run/kdc")?.is_none() {
        host.make_directory("/run/kdc", Attributes::root(0o700))?;
    }
    host.write(&path, config.as_bytes(), Attributes::root(0o600))?;
    let program = Program::new("kubeadm")
        .args([verb, "--config", path.as_str()])
        .args(options.iter().copied())
        .within_secs(30 * 60);
    let mut show = |line: &str| {
        if line.starts_with('[') {
            context.say(line);
        }
    };
    let ended = host.stream(&program, &mut |_| Ok(()), &mut show);
    host.remove(&path)?;
    ended?.checked(&program)?;
    Ok(())
}

/// Output of a clean-up call. A missing program or a bad end is told, not fatal: what it should
/// have removed is looked for again below.
fn try_run(context: &Context<'_>, program: &Program) -> Result<Option<Output>, StepError> {
    match context.host.run(program) {
        Ok(output) if output.good() => Ok(Some(output)),
        Ok(output) => {
            context.say(&format!("`{}`: {}", program.line(), output.tail()));
            Ok(None)
        }
        Err(error) if error.is_missing_program() => Ok(None),
        Err(error @ HostError::Deadline { .. }) => {
            context.say(&mask_secrets(&error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Put the node back to the picture.
pub(crate) fn take_down(context: &Context<'_>, before: &Before) -> Result<(), StepError> {
    let host = context.host;
    forget_config(host)?;
    if look_at(host, KUBELET)?.active {
        host.run_checked(&systemctl(["stop", "--", KUBELET]))?;
    }
    stop_pods(context)?;
    if host.stat("/etc/kubernetes")?.is_some()
        && before.directories.values().any(PathState::is_missing)
    {
        let reset = ["reset", "--force", "--cri-socket", SOCKET];
        try_run(context, &Program::new("kubeadm").args(reset).within_secs(180))?;
    }
    // It starts nothing, but an older one restarts the kubelet's socket users.
    if look_at(host, KUBELET)?.active {
        host.run_checked(&systemctl(["stop", "--", KUBELET]))?;
    }
    stop_pods(context)?;
    unmount(context)?;
    for (path, state) in &before.directories {
        restore_owned_directory(context, path, state)?;
    }
    remove_sources(context, &before.missing_sources)?;
    remove_namespaces(context, &before.network_namespaces)?;
    for link in LINKS.iter().filter(|link| !before.links.iter().any(|known| known == *link)) {
        remove_link(host, link)?;
    }
    remove_control_groups(context)?;
    firewall::restore(context, &before.rules)?;
    for key in SYSCTLS {
        set_sysctl::restore_live(context, key, before.sysctls.get(*key))?;
    }
    restore_activity(context, KUBELET, before.kubelet_active)
}

/// Stop and remove every pod: through CRI, which frees their network, then whatever is left.
fn stop_pods(context: &Context<'_>) -> Result<(), StepError> {
    if !answers(context.host)? {
        return Ok(());
    }
    let endpoint = format!("unix://{SOCKET}");
    let crictl = || Program::new("crictl").args(["--runtime-endpoint", endpoint.as_str()]);
    let lines = |output: Option<Output>| -> Vec<String> {
        let text = output.map(|output| output.text()).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let pods = lines(try_run(context, &crictl().args(["pods", "-q"]))?);
    for verb in ["stopp", "rmp"] {
        for pod in &pods {
            try_run(context, &crictl().args([verb, pod.as_str()]))?;
        }
    }
    for task in lines(try_run(context, &ctr(["tasks", "list", "--quiet"]))?) {
        try_run(context, &ctr(["tasks", "delete", "--force", task.as_str()]))?;
    }
    for container in lines(try_run(context, &ctr(["containers", "list", "--quiet"]))?) {
        try_run(context, &ctr(["containers", "delete", container.as_str()]))?;
    }
    Ok(())
}

/// Mount points under ours, innermost first, from `/proc/self/mountinfo`.
fn mounts(text: &str) -> Vec<String> {
    let ours = |path: &String| {
        MOUNTS.iter().any(|start| path.starts_with(start) && path.len() > start.len())
    };
    let mut paths: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| path.replace("\\040", " "))
        .filter(ours)
        .collect();
    paths.reverse();
    paths
}

fn unmount(context: &Context<'_>) -> Result<(), StepError> {
    let text = context.host.read_text("/proc/self/mountinfo")?.unwrap_or_default();
    for mount in mounts(&text) {
        try_run(context, &Program::new("umount").args(["--lazy", "--", mount.as_str()]))?;
    }
    Ok(())
}

/// Mount sources that were missing, as far as they are still empty.
fn remove_sources(context: &Context<'_>, missing: &[String]) -> Result<(), StepError> {
    let host = context.host;
    for path in missing {
        match host.stat(path)? {
            Some(stat) if stat.kind == Kind::Directory => {
                host.remove_directory(path)?;
            }
            Some(stat) if stat.kind == Kind::File && stat.size == 0 => host.remove(path)?,
            _ => {}
        }
    }
    Ok(())
}

/// Names that CNI left under `/run/netns`.
fn remove_namespaces(context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
    let host = context.host;
    for name in host.list("/run/netns")?.unwrap_or_default() {
        if name.starts_with("cni-") {
            host.remove(&format!("/run/netns/{name}"))?;
        }
    }
    if before.is_missing() && !host.remove_directory("/run/netns")? {
        context.say("/run/netns is not empty; it stays");
    }
    Ok(())
}

/// The control groups of pods, in every hierarchy, innermost first.
fn remove_control_groups(context: &Context<'_>) -> Result<(), StepError> {
    let host = context.host;
    if host.stat(&format!("{CGROUPS}/kubepods.slice"))?.is_some() {
        try_run(context, &systemctl(["stop", "--", "kubepods.slice"]))?;
    }
    let mut roots = vec![CGROUPS.to_owned()];
    for name in host.list(CGROUPS)?.unwrap_or_default() {
        roots.push(format!("{CGROUPS}/{name}"));
    }
    for root in roots {
        for name in ["kubepods", "kubepods.slice"] {
            let path = format!("{root}/{name}");
            if host.stat(&path)?.is_some() {
                remove_group(context, &path, 0)?;
            }
        }
    }
    Ok(())
}

fn remove_group(context: &Context<'_>, path: &str, depth: usize) -> Result<(), StepError> {
    let host = context.host;
    for name in host.list(path)?.unwrap_or_default() {
        let inner = format!("{path}/{name}");
        if depth < 8 && host.stat(&inner)?.is_some_and(|stat| stat.kind == Kind::Directory) {
            remove_group(context, &inner, depth + 1)?;
        }
    }
    // A process in it may be just ending.
    for _ in 0..10 {
        if let Ok(true) = host.remove_directory(path) {
            return Ok(());
        }
        host.sleep(Duration::from_millis(200));
    }
    if !host.remove_directory(path)? {
        context.say(&format!("control group {path} is not empty; it stays until a reboot"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_our_directories_go_and_inner_ones_first() {
        let text = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
            2 1 8:1 / /var/lib/kubelet rw - ext4 /dev/sdb rw\n\
            3 2 0:9 / /var/lib/kubelet/pods/a/volumes rw - tmpfs tmpfs rw\n\
            4 3 0:9 / /var/lib/kubelet/pods/a/volumes/b\\040c rw - tmpfs tmpfs rw\n\
            5 1 0:3 net:[1] /run/netns/cni-1234 rw - nsfs nsfs rw\n\
            6 1 0:3 net:[2] /run/netns/other rw - nsfs nsfs rw\n";
        assert_eq!(
            mounts(text),
            [
                "/run/netns/cni-1234",
                "/var/lib/kubelet/pods/a/volumes/b c",
                "/var/lib/kubelet/pods/a/volumes",
            ]
        );
    }
}
