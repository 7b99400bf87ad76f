//! The steps of one node, in phases: host, runtime, images, network, kubernetes, finish.

use std::collections::{BTreeMap, BTreeSet};

use kdc_agent::{
    control::{self, Wanted},
    daemon::{
        self,
        registry::{REGISTRY_PATH, RegistryFile},
    },
    facts::{CgroupVersion, Facts},
    image_name::ImageName,
    step::{COMPONENT, Condition, Content, ImageSource, PackageSource, PlannedStep, Step},
    store::peer::PEER_PORT,
};
use kdc_bundles::index::{Artifact, ArtifactKind, Index};
use kdc_profiles::cluster::{Node, Role};
use serde::Serialize;

use super::{Inputs, PlanError, cgroup_of, gpu, ranges, ranges::Ranges, select::Selection};
use crate::distribution::{
    containerd,
    kubeadm::{
        ClusterFacts, KUBELET_DROP_IN, KUBELET_UNIT, NodeFacts, init_documents, join_document,
    },
    parameters::Parameters,
};

/// Id of the step that makes the first control plane.
pub(super) const INIT_STEP: &str = "control-plane-init";
/// Id of the step that joins a node.
pub(super) const JOIN_STEP: &str = "join";

/// How long a closing condition may take; an emulated machine needs most of it.
const WAIT_SECS: u64 = 900;

const AGENT_PATH: &str = "/usr/local/bin/kdc-agent";

/// What all nodes share.
pub(super) struct Context<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) parameters: &'a Parameters,
    pub(super) kubeadm: ClusterFacts<'a>,
    pub(super) ranges: &'a Ranges,
    /// Address and pod range of every node.
    pub(super) peers: &'a BTreeMap<String, String>,
    /// Sorted by role and name.
    pub(super) nodes: &'a [&'a Node],
}

/// Every step of one node, in order.
pub(super) fn steps(
    context: &Context<'_>,
    node: &Node,
    facts: &Facts,
    selection: &Selection<'_>,
) -> Result<Vec<PlannedStep>, PlanError> {
    let mut list = List { steps: Vec::new(), phase: "host" };
    host_steps(&mut list, context, node, selection);
    list.phase = "runtime";
    runtime_steps(&mut list, context, node, facts, selection)?;
    list.phase = "images";
    image_steps(&mut list, context, selection);
    list.phase = "network";
    network_steps(&mut list, context, node)?;
    list.phase = "kubernetes";
    let kubeadm_node = NodeFacts {
        name: &node.name,
        address: node.address,
        cgroup: cgroup_of(facts, &node.name)?,
    };
    if node.role == Role::ControlPlane {
        let config = init_documents(&context.kubeadm, &kubeadm_node).map_err(PlanError::Yaml)?;
        list.push(INIT_STEP, Step::InitControlPlane { config });
        list.push("api-ready", wait(Condition::ApiReady));
        list.phase = "finish";
        finish_steps(&mut list, context)?;
        control_steps(&mut list, context);
        let for_pods =
            |node: &&Node| gpu::configures_runtime(node.gpu.as_ref(), gpu::has_toolkit(selection));
        if context.nodes.iter().any(for_pods) {
            let manifests = gpu::RUNTIME_CLASS.to_owned();
            let name = "runtime class nvidia".to_owned();
            list.push("gpu-runtime-class", Step::ApplyManifests { name, manifests });
        }
    } else {
        let config = join_document(&context.kubeadm, &kubeadm_node).map_err(PlanError::Yaml)?;
        list.push_after(JOIN_STEP, Step::JoinNode { config }, "join");
    }
    list.phase = "finish";
    list.extend(gpu::watch_steps(node.gpu.as_ref(), facts));
    list.extend(gpu::last_steps(node.gpu.as_ref()));
    Ok(list.steps)
}

struct List {
    steps: Vec<PlannedStep>,
    phase: &'static str,
}

impl List {
    fn push(&mut self, id: impl Into<String>, step: Step) {
        let phase = self.phase.to_owned();
        self.steps.push(PlannedStep { id: id.into(), phase, step, needs: Vec::new() });
    }

    fn extend(&mut self, steps: Vec<(&'static str, Step)>) {
        steps.into_iter().for_each(|(id, step)| self.push(id, step));
    }

    fn push_after(&mut self, id: impl Into<String>, step: Step, value: &str) {
        self.push(id, step);
        if let Some(last) = self.steps.last_mut() {
            last.needs.push(value.to_owned());
        }
    }
}

fn wait(condition: Condition) -> Step {
    Step::WaitUntil { condition, timeout_secs: WAIT_SECS }
}

fn host_steps(list: &mut List, context: &Context<'_>, node: &Node, selection: &Selection<'_>) {
    let host = &context.inputs.profile.host;
    let digest = selection.agent.digest.clone();
    list.push("agent-binary", Step::PlaceBinary { path: AGENT_PATH.to_owned(), digest });
    list.push("etc-kdc", Step::CreateDirectory { path: "/etc/kdc".to_owned(), mode: 0o755 });
    for module in &host.modules {
        let step = Step::LoadKernelModule { module: module.clone() };
        list.push(format!("module-{module}"), step);
    }
    for (key, value) in &host.sysctls {
        let step = Step::SetSysctl { key: key.clone(), value: value.clone() };
        list.push(format!("sysctl-{key}"), step);
    }
    if context.inputs.cluster.settings.disable_swap {
        list.push("swap-off", Step::DisableSwap);
    }
    let mut ports = host.ports.get(&node.role).cloned().unwrap_or_default();
    if context.inputs.cluster.nodes.len() > 1 {
        // Content that a node lacks comes from the others' agents.
        ports.push(format!("{PEER_PORT}/tcp"));
    }
    if !ports.is_empty() {
        list.push("firewall", Step::OpenFirewall { ports });
    }
    list.extend(gpu::host_steps(node.gpu.as_ref()));
}

fn runtime_steps(
    list: &mut List,
    context: &Context<'_>,
    node: &Node,
    facts: &Facts,
    selection: &Selection<'_>,
) -> Result<(), PlanError> {
    let packages = packages(context, selection, node, facts)?;
    if !packages.is_empty() {
        list.push("packages", Step::InstallPackages { packages });
    }
    archive_steps(list, selection);
    let parameters = context.parameters;
    let toolkit = gpu::has_toolkit(selection);
    let step = Step::ConfigureContainerd {
        sandbox_image: parameters.pause_image.clone(),
        cni_bin_dir: parameters.cni_bin_dir.clone(),
        systemd_cgroup: cgroup_of(facts, &node.name)? == CgroupVersion::V2,
        restrict_oom_score_adj: facts.cap_sys_resource.value() == Some(&false),
        registries: registries(context.inputs.index),
        drop_ins: gpu::configures_runtime(node.gpu.as_ref(), toolkit),
    };
    list.push("containerd-config", step);
    list.extend(gpu::runtime_steps(node.gpu.as_ref(), toolkit));
    list.push("containerd-state", unit_state(containerd::UNIT_NAME, Some(true)));
    for binary in &selection.binaries {
        let path = format!("/usr/local/bin/{}", binary.name);
        let step = Step::PlaceBinary { path, digest: binary.digest.clone() };
        list.push(format!("binary-{}", binary.name), step);
    }
    let step = Step::InstallUnit {
        unit: "kubelet.service".to_owned(),
        content: KUBELET_UNIT.to_owned(),
        drop_ins: BTreeMap::from([("10-kubeadm.conf".to_owned(), KUBELET_DROP_IN.to_owned())]),
    };
    list.push("kubelet-unit", step);
    // kubeadm starts it once its configuration is there.
    list.push("kubelet-state", unit_state("kubelet.service", None));
    Ok(())
}

/// What comes as archives, and the unit that containerd's lacks.
fn archive_steps(list: &mut List, selection: &Selection<'_>) {
    for (archive, target) in selection.archives() {
        let step =
            Step::UnpackArchive { digest: archive.digest.clone(), target: target.to_owned() };
        list.push(format!("archive-{}", archive.name), step);
    }
    let mut archives = selection.archives();
    if let Some((_, target)) = archives.find(|(archive, _)| containerd::is_containerd(archive)) {
        let step = Step::InstallUnit {
            unit: containerd::UNIT_NAME.to_owned(),
            content: containerd::unit(target),
            drop_ins: BTreeMap::new(),
        };
        list.push("containerd-unit", step);
    }
}

fn unit_state(unit: &str, active: Option<bool>) -> Step {
    Step::SetUnitState { unit: unit.to_owned(), enabled: true, active }
}

/// All packages that fit, or those the profile names.
fn packages(
    context: &Context<'_>,
    selection: &Selection<'_>,
    node: &Node,
    facts: &Facts,
) -> Result<Vec<PackageSource>, PlanError> {
    let wanted = &context.inputs.profile.host.packages;
    for name in wanted {
        if !selection.packages.iter().any(|package| package.name == *name) {
            return Err(PlanError::MissingArtifact {
                node: node.name.clone(),
                kind: "package",
                name: name.clone(),
                platform: facts.platform.clone(),
            });
        }
    }
    let fits = |package: &&&Artifact| wanted.is_empty() || wanted.contains(&package.name);
    let source = |package: &&Artifact| {
        let version = package.version.clone();
        Ok(PackageSource {
            name: package.name.clone(),
            version: version
                .ok_or_else(|| PlanError::PackageWithoutVersion { name: package.name.clone() })?,
            digest: package.digest.clone(),
        })
    };
    selection.packages.iter().filter(fits).map(source).collect()
}

/// What the cluster file says of self-healing, for the agent.
const HEALING_PATH: &str = "/etc/kdc/agent.d/50-cluster.yaml";

/// Every registry that an image of the bundle names, and `_default`: what the bundle lacks is refused
/// by the node itself, at once, and nobody outside is asked for it.
fn registries(index: &Index) -> Vec<String> {
    let images = index.artifacts.iter().filter(|one| one.kind == ArtifactKind::Image);
    let names = images.filter_map(|image| ImageName::parse(&image.name));
    let registries: BTreeSet<String> = names.map(|name| name.registry).collect();
    registries.into_iter().chain(["_default".to_owned()]).collect()
}

/// The node serves its own images, and containerd pulls them.
fn image_steps(list: &mut List, context: &Context<'_>, selection: &Selection<'_>) {
    let index = context.inputs.index_digest;
    let step = Step::WriteFile {
        path: REGISTRY_PATH.to_owned(),
        mode: 0o644,
        content: Content::Text(RegistryFile { index: index.clone() }.to_text()),
    };
    list.push("registry", step);
    if let Some(healing) = &context.inputs.cluster.self_healing {
        let step = Step::WriteFile {
            path: HEALING_PATH.to_owned(),
            mode: 0o644,
            content: Content::Text(healing.to_yaml()),
        };
        list.push("self-healing", step);
    }
    let step = Step::InstallUnit {
        unit: daemon::UNIT_NAME.to_owned(),
        content: daemon::unit().to_owned(),
        drop_ins: BTreeMap::new(),
    };
    list.push("agent-unit", step);
    list.push("agent-state", unit_state(daemon::UNIT_NAME, Some(true)));
    let step = Step::PullImages { index: index.clone(), images: images(selection) };
    list.push("images", step);
}

fn images(selection: &Selection<'_>) -> Vec<ImageSource> {
    let source = |image: &&Artifact| ImageSource {
        name: image.name.clone(),
        manifest: image.digest.clone(),
        blobs: image.blobs.clone(),
    };
    selection.images.iter().map(source).collect()
}

fn network_steps(list: &mut List, context: &Context<'_>, node: &Node) -> Result<(), PlanError> {
    let network = &context.inputs.cluster.network;
    let mut peers = context.peers.clone();
    peers.remove(&node.address.to_string());
    let step = Step::ConfigureHostRoutes {
        pod_cidr: ranges::of(context.ranges, node)?.to_string(),
        cluster_cidr: network.pod_cidr.clone(),
        service_cidr: network.service_cidr.clone(),
        peers,
    };
    list.push("host-routes", step);
    Ok(())
}

/// What a component's template can name.
#[derive(Serialize)]
struct ComponentValues<'a> {
    cluster: &'a kdc_profiles::cluster::Cluster,
    parameters: &'a BTreeMap<String, String>,
    nodes: Vec<&'a Node>,
}

fn finish_steps(list: &mut List, context: &Context<'_>) -> Result<(), PlanError> {
    let names = context.nodes.iter().map(|node| node.name.clone()).collect();
    list.push_after("nodes-ready", wait(Condition::NodesReady { nodes: names }), "joined");
    for node in context.nodes {
        let mut labels = node.labels.clone();
        if node.role == Role::ControlPlane {
            labels.entry(context.parameters.control_plane_label.clone()).or_default();
        }
        if labels.is_empty() && node.taints.is_empty() {
            continue;
        }
        let taints = node.taints.clone();
        let step = Step::SetNodeLabels { node: node.name.clone(), labels, taints };
        list.push(format!("labels-{}", node.name), step);
    }
    let cluster = super::without_access(context.inputs.cluster);
    let values = ComponentValues {
        cluster: &cluster,
        parameters: &context.inputs.index.parameters,
        nodes: cluster.nodes.iter().collect(),
    };
    for component in &context.inputs.profile.components {
        let render = |template: &String| {
            kdc_profiles::template::render(&component.name, template, &values).map_err(|source| {
                PlanError::Component { component: component.name.clone(), source }
            })
        };
        for template in &component.images {
            let name = render(template)?;
            if !context.inputs.index.artifacts.iter().any(|artifact| artifact.name == name) {
                return Err(PlanError::MissingComponentImage {
                    component: component.name.clone(),
                    image: name,
                });
            }
        }
        if let Some(template) = &component.manifests {
            let manifests = render(template)?;
            let step = Step::ApplyManifests { name: component.name.clone(), manifests };
            list.push(format!("{COMPONENT}{}", component.name), step);
        }
        for ready in &component.ready {
            let (namespace, workload) = ready.split_once('/').unwrap_or(("default", ready));
            let condition = Condition::WorkloadReady {
                namespace: namespace.to_owned(),
                workload: workload.to_owned(),
            };
            list.push(format!("ready-{}", ready.replace('/', "-")), wait(condition));
        }
    }
    Ok(())
}

/// What concerns the whole cluster, and who sees to it: its licence, and what the GPUs of all nodes are for. Where nothing
/// is said of GPUs, what was is withdrawn.
fn control_steps(list: &mut List, context: &Context<'_>) {
    let license = context.inputs.cluster.license.as_ref();
    let settings = control::Settings {
        taint_over_license: license.is_some_and(|license| license.taint_over_limit),
    };
    let rights = Step::ApplyManifests {
        name: "kdc-control".to_owned(),
        manifests: control::manifests(&settings),
    };
    list.push("control-rights", rights);
    let wanted = Wanted::of(context.inputs.cluster);
    if wanted.nodes.is_empty() {
        list.push("gpu-withdrawn", Step::WithdrawGpuControl);
    } else {
        let manifests = wanted.manifests();
        list.push("gpu-wanted", Step::ApplyManifests { name: "gpu".to_owned(), manifests });
    }
    let step = Step::InstallUnit {
        unit: control::UNIT_NAME.to_owned(),
        content: control::unit().to_owned(),
        drop_ins: BTreeMap::new(),
    };
    list.push("control-unit", step);
    list.push("control-state", unit_state(control::UNIT_NAME, Some(true)));
}
