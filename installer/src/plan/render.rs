//! A plan as text for people: what, where, why, in which order.

use std::fmt::Write;

use kdc_agent::step::{Condition, Step};

use super::{ClusterPlan, PlannedNode};

/// The whole plan as text. Nodes whose steps read alike are shown once, with all their names.
#[must_use]
pub fn render(plan: &ClusterPlan) -> String {
    let mut text = String::new();
    let bundle = &plan.bundle;
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "Cluster {} · profile {} on {} · bundle {} {} ({})",
        plan.cluster,
        plan.profile,
        plan.distribution,
        bundle.name,
        bundle.version,
        bundle.index.hex().get(..12).unwrap_or_default(),
    );
    let mut groups: Vec<(Vec<String>, Vec<&PlannedNode>)> = Vec::new();
    for node in &plan.nodes {
        let lines = node_lines(node);
        match groups.iter_mut().find(|(known, _)| *known == lines) {
            Some((_, nodes)) => nodes.push(node),
            None => groups.push((lines, vec![node])),
        }
    }
    for (lines, nodes) in &groups {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let role = nodes.first().map_or("", |node| node.role.as_str());
        let _ = writeln!(text, "\n{role} {}", shorten(&names, 12));
        for node in nodes.iter().take(12) {
            let disk: u64 = node.peak_disk_bytes.values().sum();
            let _ = writeln!(
                text,
                "  {} at {}, pods {}; to send {}, peak disk {}",
                node.name,
                node.address,
                node.pod_cidr,
                mib(node.bytes_to_send),
                mib(disk),
            );
        }
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    if !plan.gates.is_empty() {
        let _ = writeln!(text, "\nBetween nodes");
    }
    for gate in &plan.gates {
        let after: Vec<&str> = gate.after.iter().map(String::as_str).collect();
        let waiting: Vec<&str> = gate.awaited_by.iter().map(String::as_str).collect();
        let after = if after.is_empty() { "at once".to_owned() } else { shorten(&after, 6) };
        let _ = writeln!(text, "  {} waits for `{}`: {after}", shorten(&waiting, 6), gate.value);
    }
    text
}

fn node_lines(node: &PlannedNode) -> Vec<String> {
    let mut lines = Vec::new();
    let mut phase = "";
    for planned in &node.plan.steps {
        if planned.phase != phase {
            phase = &planned.phase;
            lines.push(format!("  {phase}: {}", why(phase)));
        }
        let needs = if planned.needs.is_empty() {
            String::new()
        } else {
            format!(" (waits for {})", planned.needs.join(", "))
        };
        lines.push(format!("    {:<26} {}{needs}", planned.id, summary(&planned.step)));
    }
    lines
}

/// Why a phase is there.
fn why(phase: &str) -> &'static str {
    match phase {
        "host" => "make the server fit for containers, and place the agent",
        "runtime" => "containerd and the Kubernetes programs from the bundle",
        "images" => "from this node's own store, so that nothing is ever asked for outside",
        "network" => "pods reach pods on other nodes",
        "kubernetes" => "make or join the cluster",
        "finish" => "wait until it is whole, label nodes, install components",
        _ => "",
    }
}

/// One line of what a step does; paths and names, never contents.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one short arm a step, and a table wants no parts")]
pub fn summary(step: &Step) -> String {
    match step {
        Step::CreateDirectory { path, mode } => format!("make {path} ({mode:o})"),
        Step::WriteFile { path, mode, .. } => format!("write {path} ({mode:o})"),
        Step::RemoveFile { path } => format!("remove {path}"),
        Step::PlaceBinary { path, .. } => format!("place {path}"),
        Step::InstallPackages { packages } => {
            let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
            format!("install {} packages: {}", names.len(), shorten(&names, 6))
        }
        Step::LoadKernelModule { module } => format!("load {module}, now and at boot"),
        Step::SetSysctl { key, value } => format!("set {key} = {value}, now and at boot"),
        Step::DisableSwap => "turn swap off, now and at boot".to_owned(),
        Step::InstallUnit { unit, .. } => format!("install {unit}"),
        Step::SetUnitState { unit, enabled, active } => {
            let boot = if *enabled { "enable" } else { "disable" };
            let now = match active {
                Some(true) => " and start",
                Some(false) => " and stop",
                None => "",
            };
            format!("{boot}{now} {unit}")
        }
        Step::UnpackArchive { target, .. } => format!("unpack below {target}"),
        Step::PullImages { images, .. } | Step::ImportImages { images } => {
            let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
            format!("pull {} images: {}", names.len(), shorten(&names, 4))
        }
        Step::ConfigureContainerd { sandbox_image, systemd_cgroup, .. } => {
            let driver = if *systemd_cgroup { "systemd" } else { "cgroupfs" };
            format!("containerd with {sandbox_image}, cgroup driver {driver}; restart it")
        }
        Step::ConfigureNvidiaRuntime { default } => {
            let pods = if *default { "every pod" } else { "pods that name it" };
            format!("containerd's runtime for NVIDIA GPUs, for {pods}; restart it")
        }
        Step::WriteCdiSpec => "specify GPUs for container runtimes (CDI)".to_owned(),
        Step::BlacklistModule { module } => {
            format!("keep {module} from loading; if it is loaded, ask for a reboot")
        }
        Step::EnableIommu => "kernel arguments of the IOMMU; ask for a reboot".to_owned(),
        Step::BindVfio { gpus, .. } if gpus.is_empty() => {
            "hand every NVIDIA GPU to virtual machines (vfio-pci)".to_owned()
        }
        Step::BindVfio { gpus, .. } => {
            format!("hand {} to virtual machines (vfio-pci)", gpus.join(", "))
        }
        Step::EnableVirtualFunctions { .. } => {
            "virtual functions of every NVIDIA GPU on, which have to offer virtual GPUs".to_owned()
        }
        Step::SetMigGeometry { geometry, except } => {
            let parts: Vec<String> =
                geometry.iter().map(|(profile, count)| format!("{count} x {profile}")).collect();
            let but = if except.is_empty() {
                String::new()
            } else {
                format!(" but {}", except.join(", "))
            };
            let reboot = "switch MIG on if it is off, which may ask for a reboot";
            format!("cut every GPU{but} into {}; {reboot}", parts.join(" and "))
        }
        Step::OpenFirewall { ports } => format!("let in {}", ports.join(", ")),
        // The node's own range stands in its heading, so that nodes alike read alike.
        Step::ConfigureHostRoutes { cluster_cidr, peers, .. } => {
            format!("CNI for this node's share of {cluster_cidr}, routes to {} nodes", peers.len())
        }
        Step::InitControlPlane { .. } => "kubeadm init".to_owned(),
        Step::JoinNode { .. } => "kubeadm join".to_owned(),
        Step::ApplyManifests { name, .. } => format!("apply manifests of {name}"),
        Step::SetNodeLabels { node, labels, taints } => {
            format!("{node}: {} labels, {} taints", labels.len(), taints.len())
        }
        Step::WithdrawGpuControl => "what kdc set for HAMi, if anything, is withdrawn".to_owned(),
        Step::WaitUntil { condition, timeout_secs } => {
            let what = match condition {
                Condition::ApiReady => "the API server is ready".to_owned(),
                Condition::NodesReady { nodes } => format!("{} nodes are Ready", nodes.len()),
                Condition::WorkloadReady { namespace, workload } => {
                    format!("{namespace}/{workload} is ready")
                }
                Condition::UnitActive { unit } => format!("{unit} is active"),
            };
            format!("wait until {what} (at most {timeout_secs} s)")
        }
    }
}

/// The first few of a list, and how many more there are.
fn shorten(list: &[&str], most: usize) -> String {
    if list.len() <= most {
        return list.join(", ");
    }
    let shown = list.get(..most).unwrap_or(list).join(", ");
    format!("{shown} and {} more", list.len() - most)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}
