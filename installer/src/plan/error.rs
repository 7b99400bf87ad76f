//! Why a plan can't be made.

use crate::distribution::parameters::ParameterError;

/// A plan can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No facts of a node were given.
    #[error("there are no facts of node `{node}`")]
    MissingFacts {
        /// Which node.
        node: String,
    },
    /// The bundle does not say what a plan needs to know.
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    /// The bundle lacks something every install needs.
    #[error("node `{node}` needs the {kind} `{name}` for {platform}, and the bundle has none")]
    MissingArtifact {
        /// For which node.
        node: String,
        /// Kind of artifact.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Platform of the node.
        platform: String,
    },
    /// A package in the bundle has no version, so nobody could tell whether it is installed.
    #[error("package `{name}` in the bundle has no version")]
    PackageWithoutVersion {
        /// Which package.
        name: String,
    },
    /// An artifact names a blob that the index does not describe.
    #[error("the bundle's index names the blob {digest} and does not describe it")]
    MissingBlob {
        /// Which blob.
        digest: String,
    },
    /// No node with the role control-plane.
    #[error("no node of the cluster is a control plane")]
    NoControlPlane,
    /// More than one control plane.
    #[error("`{second}` would be a second control plane, which this version can't make")]
    SeveralControlPlanes {
        /// The one too many.
        second: String,
    },
    /// A compute instance that shares a GPU instance with others, which no step makes.
    #[error(
        "`gpu.geometry` of `{node}` names `{profile}`, a share of an instance, which this version can't make"
    )]
    SharedInstance {
        /// Which node.
        node: String,
        /// The profile.
        profile: String,
        /// The profile of the instance that it shares.
        whole: String,
    },
    /// The pod range has no room for all nodes.
    #[error("the pod range {range} has no room for {nodes} nodes")]
    PodRangeFull {
        /// The range.
        range: String,
        /// How many nodes.
        nodes: usize,
    },
    /// A range in the cluster that is none; a proved cluster file has none such.
    #[error("the cluster has a bad range")]
    Range(#[from] kdc_profiles::cidr::CidrError),
    /// Which cgroup driver fits could not be told.
    #[error("the cgroup hierarchy of node `{node}` is unknown: {reason}")]
    UnknownCgroup {
        /// Which node.
        node: String,
        /// Why.
        reason: String,
    },
    /// The profile names a check that there is not.
    #[error("profile `{profile}` asks for the check `{check}`, and there is none")]
    UnknownCheck {
        /// Which profile.
        profile: String,
        /// The name.
        check: String,
    },
    /// A component needs an image that the bundle lacks.
    #[error("component `{component}` needs the image `{image}`, and the bundle has none")]
    MissingComponentImage {
        /// Which component.
        component: String,
        /// Which image.
        image: String,
    },
    /// A component's manifests could not be rendered.
    #[error("component `{component}` can't be rendered")]
    Component {
        /// Which component.
        component: String,
        /// Why.
        source: kdc_profiles::template::TemplateError,
    },
    /// A document could not be written as YAML.
    #[error("a kubeadm document can't be written")]
    Yaml(#[source] serde_yaml::Error),
    /// A value could not be written as JSON.
    #[error("the plan can't be written")]
    Json(#[source] serde_json::Error),
}

impl PlanError {
    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingFacts { node } => {
                Some(format!("check that `{node}` can be reached: `kdc-install check`"))
            }
            Self::Parameters(_) => Some(
                "add them to `parameters` in the bundle's definition and create it anew".into(),
            ),
            Self::MissingArtifact { kind, name, .. } => {
                Some(format!("add the {kind} `{name}` to the bundle's definition"))
            }
            Self::MissingComponentImage { image, .. } => {
                Some(format!("add the image `{image}` to the bundle's definition"))
            }
            Self::PackageWithoutVersion { name } => {
                Some(format!("add `version` to `{name}` in the bundle's definition"))
            }
            Self::MissingBlob { .. } => Some("create the bundle anew".into()),
            Self::NoControlPlane => Some("give one node `role: control-plane`".into()),
            Self::SeveralControlPlanes { second } => {
                Some(format!("give `{second}` the role `worker`"))
            }
            Self::SharedInstance { whole, .. } => {
                Some(format!("name the instance as a whole: `{whole}`"))
            }
            Self::PodRangeFull { .. } => {
                Some("set a larger `spec.network.podCIDR`; each node gets a /24".into())
            }
            Self::UnknownCgroup { node, .. } => {
                Some(format!("look at `stat -f /sys/fs/cgroup` on `{node}`"))
            }
            Self::UnknownCheck { .. } => Some(
                "correct `spec.checks` in the profile; `kdc-install check --output json` has every id".into(),
            ),
            Self::Component { .. } => Some("correct the profile's template".into()),
            Self::Range(_) | Self::Yaml(_) | Self::Json(_) => None,
        }
    }
}
