//! HAMi's per-node settings: what is wanted, what HAMi makes of it, and whether it took it. Pure; [`crate::control`]
//! reads and writes the cluster.
//!
//! The settings of *all* nodes lie in one JSON text, `config.json`, in one ConfigMap. HAMi's device plugin reads it
//! when it starts, ignores what it does not like without a word, and tells what it made of it in an annotation of its
//! node. So there is one writer ([`render`]), which keeps what is not its own letter by letter, and nothing counts as
//! done before the annotation says it ([`verify`]).
//!
//! | Word | Meaning |
//! |---|---|
//! | **entry** | what `config.json` says of one node; several entries of one name are all applied, in order |
//! | **defaults** | what holds for nodes and fields without an entry ([`effective::Defaults`]) |
//! | **effective** | what a plugin that starts now makes of both ([`effective::effective`]) |
//! | **register** | what the plugin says it has made ([`register`]) |

mod advice;
pub mod cordon;
pub mod effective;
pub mod health;
mod object;
pub mod register;
pub mod render;
pub mod verify;
pub mod version;

/// ConfigMap with [`CONFIG_KEY`], and name of the plugin's DaemonSet.
pub const CONFIG_MAP: &str = "hami-device-plugin";
/// Key of the per-node settings.
pub const CONFIG_KEY: &str = "config.json";
/// ConfigMap with [`DEFAULTS_KEY`].
pub const DEFAULTS_MAP: &str = "hami-scheduler-device";
/// Key of the defaults.
pub const DEFAULTS_KEY: &str = "device-config.yaml";
/// Where the plugin says what it has made.
pub const REGISTER_ANNOTATION: &str = "hami.io/node-nvidia-register";
/// GPUs that get no new pods, by UUID with commas between.
pub const CORDON_ANNOTATION: &str = "hami.io/device-cordon";
/// Label that the plugin's DaemonSet goes by, and its value.
pub const NODE_LABEL: (&str, &str) = ("gpu", "on");
/// Label of the plugin's pods.
pub const POD_SELECTOR: &str = "app.kubernetes.io/component=hami-device-plugin";
/// Labels by which other software says that a node's GPUs are for virtual machines, with values `vm-…`.
pub const VM_LABELS: &[&str] = &["nvidia.com/gpu.workload.config", "kube-dc.com/gpu.workload-mode"];
/// Largest text of HAMi's that is read: what a ConfigMap can hold.
pub const MAX_TEXT: usize = 1024 * 1024;

/// Something an operator should know about the settings.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How much of it is not done for that.
    pub weight: Weight,
    /// The node it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// How much is not done because of a problem.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Nothing is written.
    Everything,
    /// That node's entry stays as it is.
    Node,
    /// All is done; something has no effect, or not the one it seems to have.
    Nothing,
}

impl Problem {
    fn of(weight: Weight, node: &str, what: impl Into<String>) -> Self {
        Self { weight, node: Some(node.to_owned()), what: what.into() }
    }

    fn everything(what: impl Into<String>) -> Self {
        Self { weight: Weight::Everything, node: None, what: what.into() }
    }
}
