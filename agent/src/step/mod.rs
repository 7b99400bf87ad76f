//! Steps: the closed set of changes that kdc makes to a node, and can take back.
//!
//! A step looks (`probe`), is judged (`is_satisfied_by`, pure), then applies; what stood there
//! before is in the journal before the first change. *Found as wanted* is recorded as found and is
//! never undone. The words here are the words of the plan, the journal, the progress and the docs.

mod apply_manifests;
mod archive;
mod behaviour;
pub mod change;
mod configure_containerd;
mod configure_host_routes;
mod containerd;
mod create_directory;
mod disable_swap;
mod firewall;
pub mod gpu;
mod init_control_plane;
mod install_packages;
mod install_unit;
mod join_node;
mod kubeadm;
pub(crate) mod kubectl;
mod load_kernel_module;
mod open_firewall;
mod pull_images;
mod remove_file;
mod set_node_labels;
mod set_sysctl;
mod set_unit_state;
pub(crate) mod snapshot;
pub(crate) mod systemd;
mod unpack_archive;
mod wait_until;
mod withdraw_gpu_control;
mod write_file;

use std::collections::BTreeMap;

pub use change::{Before, BlobError, BlobSource, Context, Keep, REBOOT, StepError, Values};
use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

/// Bytes a step puts on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Content {
    /// Small text that may be shown in a plan. Never a secret.
    Text(String),
    /// A blob of the bundle, proved against the signed index by this node's store.
    Blob(Digest),
}

/// One operating-system package from the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PackageSource {
    /// Package name as the package manager knows it.
    pub name: String,
    /// Version as the package manager prints it.
    pub version: String,
    /// The package file in the store.
    pub digest: Digest,
}

/// One image from the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageSource {
    /// Full reference (`k8s.gcr.io/pause:3.2`).
    pub name: String,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Every blob of the image, manifest first.
    pub blobs: Vec<Digest>,
}

/// A condition that [`Step::WaitUntil`] waits for. Probing one changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "condition", rename_all = "camelCase", deny_unknown_fields)]
pub enum Condition {
    /// The API server answers `/readyz` with the admin kubeconfig.
    ApiReady,
    /// Every named node is registered and Ready.
    NodesReady {
        /// Node names.
        nodes: Vec<String>,
    },
    /// A Deployment or DaemonSet has all its replicas ready.
    WorkloadReady {
        /// Namespace.
        namespace: String,
        /// `deployment/coredns`, `daemonset/kube-proxy`.
        workload: String,
    },
    /// A unit is active.
    UnitActive {
        /// Unit name with suffix.
        unit: String,
    },
}

/// The unit of change and undo on one node.
///
/// Adding one means: probe, judge, apply, undo, summary, and a test of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Step {
    /// Make a directory (and remember which of its parents were missing).
    CreateDirectory {
        /// Absolute path.
        path: String,
        /// Permission bits, e.g. `0o755`.
        mode: u32,
    },
    /// Write a whole file, atomically.
    WriteFile {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
        /// What to write.
        content: Content,
    },
    /// Remove a file that would be in the way; undo puts it back.
    RemoveFile {
        /// Absolute path.
        path: String,
    },
    /// Put an executable from the bundle in place (mode 0755).
    PlaceBinary {
        /// Absolute path.
        path: String,
        /// Blob with the executable.
        digest: Digest,
    },
    /// Install packages that are missing, in one transaction; undo purges only those.
    InstallPackages {
        /// Wanted packages.
        packages: Vec<PackageSource>,
    },
    /// Load a kernel module now and at every boot. Built-in counts as loaded.
    LoadKernelModule {
        /// Module name.
        module: String,
    },
    /// Set a sysctl now and at every boot.
    SetSysctl {
        /// Dotted key.
        key: String,
        /// Wanted value.
        value: String,
    },
    /// Turn swap off now and at every boot. Only in plans whose cluster file asks for it.
    DisableSwap,
    /// Write a systemd unit and its drop-ins and have systemd read them.
    InstallUnit {
        /// Unit name with suffix (`kubelet.service`).
        unit: String,
        /// The unit file.
        content: String,
        /// Drop-in files by name (`10-kubeadm.conf`).
        #[serde(default)]
        drop_ins: BTreeMap<String, String>,
    },
    /// Enable, disable, start or stop a unit.
    SetUnitState {
        /// Unit name with suffix.
        unit: String,
        /// Wanted: starts at boot.
        enabled: bool,
        /// Wanted: runs now. `None` leaves it as it is.
        active: Option<bool>,
    },
    /// Unpack a tar, plain or compressed with gzip or zstd, below a directory. Every name is checked,
    /// and nothing that is there already is replaced.
    UnpackArchive {
        /// Blob with the archive.
        digest: Digest,
        /// Absolute directory.
        target: String,
    },
    /// Have containerd pull images, by name, from this node's own registry; pinned against garbage
    /// collection.
    PullImages {
        /// The index whose images the registry serves.
        index: Digest,
        /// Images.
        images: Vec<ImageSource>,
    },
    /// What plans had before [`Step::PullImages`]: told and taken back as that, in no new plan.
    ImportImages {
        /// Images.
        images: Vec<ImageSource>,
    },
    /// Write containerd's configuration (keeping what stood there for undo) and restart it.
    ConfigureContainerd {
        /// The sandbox image kubelet and containerd agree on.
        sandbox_image: String,
        /// Directory of the CNI plugins.
        cni_bin_dir: String,
        /// `true` for the systemd cgroup driver (cgroup v2), `false` for cgroupfs (v1).
        systemd_cgroup: bool,
        /// Needed where root lacks `CAP_SYS_RESOURCE`.
        restrict_oom_score_adj: bool,
        /// Registries (`registry.k8s.io`, `_default` for all others) whose images come from this
        /// node's own registry, and from nowhere else.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        registries: Vec<String>,
        /// It also reads `/etc/containerd/conf.d/*.toml`, where a later step puts its own part.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        drop_ins: bool,
    },
    /// Give containerd the runtime for NVIDIA GPUs, keeping all that its configuration says, and
    /// restart it.
    ConfigureNvidiaRuntime {
        /// Pods that name no runtime get it too.
        default: bool,
    },
    /// Have NVIDIA's program write what runtimes read to give pods GPUs (CDI).
    WriteCdiSpec,
    /// Keep a driver (nouveau) from taking GPUs at boot; one that is loaded goes with a reboot.
    BlacklistModule {
        /// Module name.
        module: String,
    },
    /// Have the boot loader tell the kernel to use the IOMMU, which takes a reboot.
    EnableIommu,
    /// Hand GPUs to `vfio-pci` for virtual machines, whole IOMMU groups at a time.
    BindVfio {
        /// PCI addresses; all NVIDIA GPUs where none is named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gpus: Vec<String>,
        /// NVIDIA GPUs that stay where none is named: by UUID, or by their place in the order of addresses.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
        /// The machine's first screen may go too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        display: bool,
    },
    /// Have NVIDIA's vGPU manager switch on the virtual functions of GPUs, now and at every boot, and prove that they offer
    /// virtual GPUs.
    EnableVirtualFunctions {
        /// GPUs that stay as they are: by UUID, or by their place in the order of addresses.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
    /// Cut GPUs into fixed MIG instances, now and at every boot; where MIG starts with a reboot only, that is asked for.
    SetMigGeometry {
        /// Instances by profile, on every GPU that is meant.
        geometry: BTreeMap<String, u8>,
        /// GPUs that stay as they are: by UUID, or by the driver's index.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
    /// Let ports in through the host's own firewall, if it has one that is active.
    OpenFirewall {
        /// `6443/tcp`.
        ports: Vec<String>,
    },
    /// The pod network of `cni: host-routes`: CNI configuration for this node's own range and a
    /// route to every peer's, kept by `kdc-agent.service`.
    ConfigureHostRoutes {
        /// This node's pod range.
        pod_cidr: String,
        /// The whole cluster's pod range; traffic that leaves it is masqueraded.
        cluster_cidr: String,
        /// The Service range; gets a route too, since a node without a default route could not
        /// reach a Service address otherwise.
        service_cidr: String,
        /// Peer address → peer pod range.
        peers: BTreeMap<String, String>,
    },
    /// `kubeadm init` with this configuration (no secrets in it).
    InitControlPlane {
        /// Kubeadm documents, YAML.
        config: String,
    },
    /// `kubeadm join`; waits for the value `join` (see [`PlannedStep::needs`]).
    JoinNode {
        /// Kubeadm `JoinConfiguration` without its discovery part, YAML. The node adds token and
        /// CA hash from the value `join`, in a file only root can read, removed afterwards.
        config: String,
    },
    /// `kubectl apply` of manifests, with the admin kubeconfig.
    ApplyManifests {
        /// What they are, for people.
        name: String,
        /// YAML documents.
        manifests: String,
    },
    /// Set labels and taints of a node object, with the admin kubeconfig.
    SetNodeLabels {
        /// Node name.
        node: String,
        /// Labels to set.
        labels: BTreeMap<String, String>,
        /// Taints to set, `key=value:Effect`.
        taints: Vec<String>,
    },
    /// End what kdc does for GPUs in a cluster: everything that `kdc-control.service` set for HAMi goes; what
    /// others set stays.
    WithdrawGpuControl,
    /// Wait, bounded; the plan's deadline and the current state are in the progress.
    WaitUntil {
        /// What for.
        condition: Condition,
        /// Give up after this long.
        timeout_secs: u64,
    },
}

impl Step {
    /// Blobs of the bundle that the step reads when it is applied.
    #[must_use]
    pub fn blobs(&self) -> Vec<&Digest> {
        match self {
            Self::PullImages { images, .. } | Self::ImportImages { images } => {
                images.iter().flat_map(|image| &image.blobs).collect()
            }
            Self::InstallPackages { packages } => {
                packages.iter().map(|package| &package.digest).collect()
            }
            Self::PlaceBinary { digest, .. }
            | Self::UnpackArchive { digest, .. }
            | Self::WriteFile { content: Content::Blob(digest), .. } => vec![digest],
            _ => Vec::new(),
        }
    }
}

/// A step at its place in a node's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedStep {
    /// Stable within the plan (`containerd-config`); journal and progress name it.
    pub id: String,
    /// The group people see (`host`, `runtime`, `images`, `kubernetes`, `network`, `finish`).
    pub phase: String,
    /// What to do.
    pub step: Step,
    /// Names of values that must have been provided over the wire before the step starts:
    /// `join` (credentials from a control plane, a secret), `joined` (all nodes have joined).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// Everything one node has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePlan {
    /// Node name from the cluster file.
    pub node: String,
    /// Cluster name.
    pub cluster: String,
    /// Digest of the signed index whose blobs the steps name.
    pub index: Digest,
    /// Steps in order.
    pub steps: Vec<PlannedStep>,
}

impl NodePlan {
    /// Digest over the plan's canonical JSON: two equal plans resume the same run.
    ///
    /// # Errors
    /// Never in practice: a plan always serialises.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        Ok(Digest::of(&serde_json::to_vec(self)?))
    }

    /// Components of the profile whose manifests it applies.
    pub fn components(&self) -> impl Iterator<Item = String> {
        self.steps.iter().filter_map(|step| step.id.strip_prefix(COMPONENT)).map(str::to_owned)
    }
}

/// What ids of steps begin with that apply a component's manifests; its name comes after it.
pub const COMPONENT: &str = "component-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_every_condition_comes_back_from_json() {
        let conditions = [
            Condition::ApiReady,
            Condition::NodesReady { nodes: vec!["w1".to_owned()] },
            Condition::WorkloadReady {
                namespace: "kube-system".to_owned(),
                workload: "deployment/coredns".to_owned(),
            },
            Condition::UnitActive { unit: "containerd.service".to_owned() },
        ];
        for condition in conditions {
            let step = Step::WaitUntil { condition, timeout_secs: 60 };
            let text = serde_json::to_string(&step).expect("serialises");
            let back: Step = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(back, step);
        }
    }
}
