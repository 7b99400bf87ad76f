//! The bundle's parameters that plans depend on, proved: every missing or odd one is told at once.

use kdc_bundles::index::Index;

/// Configuration API of kubeadm; which one a kubeadm speaks depends on its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigApi {
    /// Kubernetes 1.15 to 1.30; extra arguments are maps.
    V1Beta2,
    /// Kubernetes 1.22 on; extra arguments are maps.
    V1Beta3,
    /// Kubernetes 1.31 on; extra arguments are lists, time-outs have a section of their own.
    V1Beta4,
}

impl ConfigApi {
    /// As it stands in a document.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1Beta2 => "kubeadm.k8s.io/v1beta2",
            Self::V1Beta3 => "kubeadm.k8s.io/v1beta3",
            Self::V1Beta4 => "kubeadm.k8s.io/v1beta4",
        }
    }
}

/// A taint, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; left out when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect.
    pub effect: String,
}

/// What a bundle says about the Kubernetes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// `v1.20.2`.
    pub kubernetes_version: String,
    /// Which documents its kubeadm reads.
    pub config_api: ConfigApi,
    /// `k8s.gcr.io`.
    pub image_prefix: String,
    /// Sandbox image that kubelet and containerd agree on.
    pub pause_image: String,
    /// `/run/containerd/containerd.sock`, with or without `unix://`, as its kubeadm wants it.
    pub cri_socket: String,
    /// Directory of the CNI plugins.
    pub cni_bin_dir: String,
    /// Taint that keeps workloads off control-plane nodes.
    pub control_plane_taint: Taint,
    /// Label key that marks control-plane nodes.
    pub control_plane_label: String,
    /// Image that acceptance runs its pods from.
    pub test_image: Option<String>,
    /// Systems the packages are for (`debian 12`); may be empty.
    pub systems: Vec<String>,
}

/// A bundle that does not say what a plan needs to know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bundle `{bundle}` can't be planned with: {}", problems.join("; "))]
pub struct ParameterError {
    /// Name of the bundle.
    pub bundle: String,
    /// Each parameter that is missing or can't be used, with what would be right.
    pub problems: Vec<String>,
}

impl Parameters {
    /// Read the parameters of a bundle.
    ///
    /// # Errors
    /// Every parameter that is missing or can't be used.
    pub fn read(index: &Index) -> Result<Self, ParameterError> {
        let mut reader = Reader { index, problems: Vec::new() };
        let api = reader.text("kubeadmConfigApi", "`v1beta2`, `v1beta3` or `v1beta4`");
        let config_api = match api.as_str() {
            "v1beta2" => ConfigApi::V1Beta2,
            "v1beta3" => ConfigApi::V1Beta3,
            "v1beta4" => ConfigApi::V1Beta4,
            other => {
                reader.odd("kubeadmConfigApi", other, "`v1beta2`, `v1beta3` or `v1beta4`");
                ConfigApi::V1Beta4
            }
        };
        let taint = reader.text("controlPlaneTaint", "`key:Effect`");
        let control_plane_taint = parse_taint(&taint).unwrap_or_else(|| {
            reader.odd("controlPlaneTaint", &taint, "`key:Effect` or `key=value:Effect`");
            Taint { key: String::new(), value: String::new(), effect: String::new() }
        });
        let kubernetes_version = reader.text("kubernetesVersion", "e.g. `v1.20.2`");
        if !is_version(&kubernetes_version) {
            reader.odd("kubernetesVersion", &kubernetes_version, "`v` and three numbers");
        }
        let cri_socket = reader.text("criSocket", "`/run/containerd/containerd.sock`");
        let cni_bin_dir = reader.text("cniBinDir", "an absolute folder");
        if !cni_bin_dir.starts_with('/') {
            reader.odd("cniBinDir", &cni_bin_dir, "an absolute folder");
        }
        let systems = index.parameters.get("systems").map(String::as_str).unwrap_or_default();
        let parameters = Self {
            kubernetes_version,
            config_api,
            image_prefix: reader.text("imagePrefix", "e.g. `registry.k8s.io`"),
            pause_image: reader.text("pauseImage", "a full image reference"),
            cri_socket,
            cni_bin_dir,
            control_plane_taint,
            control_plane_label: reader.text("controlPlaneLabel", "a label's key"),
            test_image: index.parameters.get("testImage").cloned(),
            systems: systems
                .split(',')
                .map(|system| system.trim().to_owned())
                .filter(|system| !system.is_empty())
                .collect(),
        };
        if reader.problems.is_empty() {
            return Ok(parameters);
        }
        Err(ParameterError { bundle: index.name.clone(), problems: reader.problems })
    }
}

struct Reader<'i> {
    index: &'i Index,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&mut self, name: &str, expected: &str) -> String {
        if let Some(text) = self.index.parameters.get(name).filter(|text| !text.is_empty()) {
            return text.clone();
        }
        self.problems.push(format!("parameter `{name}` is missing (expected {expected})"));
        String::new()
    }

    /// Note a value that can't be used; one that is missing was told of already.
    fn odd(&mut self, name: &str, found: &str, expected: &str) {
        if !found.is_empty() {
            self.problems.push(format!("parameter `{name}` is `{found}` (expected {expected})"));
        }
    }
}

fn is_version(text: &str) -> bool {
    let Some(text) = text.strip_prefix('v') else { return false };
    let mut numbers = text.splitn(3, '.');
    let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
    let (major, minor) = (number(numbers.next()), number(numbers.next()));
    let patch = numbers.next().and_then(|patch| patch.split(['-', '+']).next());
    major && minor && number(patch)
}

/// `key:Effect` or `key=value:Effect`.
#[must_use]
pub fn parse_taint(text: &str) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let known = matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute");
    (known && !key.is_empty()).then(|| Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_bundle_does_not_say_is_told_at_once() {
        let mut index = crate::plan::samples::index();
        assert!(Parameters::read(&index).is_ok());
        index.parameters.remove("pauseImage");
        index.parameters.insert("kubeadmConfigApi".to_owned(), "v1beta1".to_owned());
        index.parameters.insert("kubernetesVersion".to_owned(), "1.20".to_owned());
        index.parameters.insert("controlPlaneTaint".to_owned(), "x:Never".to_owned());
        let error = Parameters::read(&index).expect_err("four problems");
        assert_eq!(error.problems.len(), 4, "{error}");
        for name in ["pauseImage", "kubeadmConfigApi", "kubernetesVersion", "controlPlaneTaint"] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn versions_with_a_suffix_are_versions() {
        for (text, good) in
            [("v1.20.2", true), ("v1.33.0-rc.1", true), ("1.20.2", false), ("v1.20", false)]
        {
            assert_eq!(is_version(text), good, "{text}");
        }
    }
}
