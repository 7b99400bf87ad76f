//! CDI specifications, read as far as it takes to know whether a pod that asks for a GPU could start. Pure.
//!
//! A specification names device nodes, libraries and hooks by path. After a change of driver or cards it names what is
//! gone, and every pod fails with "unresolvable CDI devices" or a mount error: it is *stale*.

use std::collections::BTreeSet;

use serde::Deserialize;

/// The kind that NVIDIA's GPUs have.
pub(crate) const KIND: &str = "nvidia.com/gpu";

/// One specification.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    pub(crate) kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(default)]
    device_nodes: Vec<Node>,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    hooks: Vec<Hook>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: String,
}

#[derive(Debug, Deserialize)]
struct Hook {
    path: String,
}

impl Spec {
    /// Read a specification, YAML or JSON.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    /// Everything on the host that a pod with one of its devices needs.
    pub(crate) fn needs(&self) -> BTreeSet<&str> {
        let edits = self.devices.iter().map(|device| &device.container_edits);
        let mut paths = BTreeSet::new();
        for edits in edits.chain([&self.container_edits]) {
            let node = |node: &'_ Node| node.host_path.is_none();
            paths.extend(
                edits.device_nodes.iter().filter(|one| node(one)).map(|one| one.path.as_str()),
            );
            paths.extend(edits.device_nodes.iter().filter_map(|node| node.host_path.as_deref()));
            paths.extend(edits.mounts.iter().map(|mount| mount.host_path.as_str()));
            paths.extend(edits.hooks.iter().map(|hook| hook.path.as_str()));
        }
        paths
    }

    /// Names of its devices.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().map(|device| device.name.as_str())
    }
}

/// What is wrong with the specifications of a node, as one file after the other has them; `None` if every GPU can be
/// had. `minors`: the GPUs of the driver. `exists`: a path is there.
pub(crate) fn fault(
    specs: &[(String, Spec)],
    minors: &BTreeSet<u32>,
    exists: impl Fn(&str) -> bool,
) -> Option<String> {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    let ours: Vec<&(String, Spec)> = specs.iter().filter(|(_, spec)| spec.kind == KIND).collect();
    if ours.is_empty() {
        return Some(format!("no specification of {KIND} is there"));
    }
    for (path, spec) in ours {
        let folder = crate::host::parent(path);
        for name in spec.names() {
            if !seen.insert((folder, name)) {
                return Some(format!(
                    "{path} has the device `{name}` that another file of {folder} has"
                ));
            }
        }
        let needs = spec.needs();
        if let Some(gone) = needs.iter().find(|path| !exists(path)) {
            return Some(format!("{path} is stale: it needs {gone}, which is gone"));
        }
        nodes.extend(needs.into_iter().map(str::to_owned));
    }
    let lacking = minors.iter().find(|minor| !nodes.contains(&format!("/dev/nvidia{minor}")))?;
    Some(format!("no specification has the GPU /dev/nvidia{lacking}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    \
        deviceNodes:\n    - path: /dev/nvidia0\n- name: all\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n\
        containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n  deviceNodes:\n  - {path: /dev/nvidiactl, hostPath: /host/nvidiactl}\n  \
        hooks:\n  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [x]}\n  \
        mounts:\n  - {hostPath: /lib/libcuda.so.580.1, containerPath: /lib/libcuda.so.580.1}\n";

    fn specs(paths: &[&str]) -> Vec<(String, Spec)> {
        paths.iter().map(|path| ((*path).to_owned(), Spec::parse(SPEC).unwrap())).collect()
    }

    #[test]
    fn what_a_pod_could_not_start_with_is_told() {
        let minors = |list: &[u32]| list.iter().copied().collect::<BTreeSet<_>>();
        let all = |_: &str| true;
        let one = specs(&["/etc/cdi/nvidia.yaml"]);
        assert_eq!(fault(&one, &minors(&[0]), all), None);
        let told = |fault: Option<String>, words: &str| {
            let fault = fault.unwrap_or_default();
            assert!(fault.contains(words), "{words}: {fault}");
        };
        told(fault(&[], &minors(&[0]), all), "no specification of");
        told(fault(&one, &minors(&[0, 1]), all), "has the GPU /dev/nvidia1");
        let updated = |path: &str| path != "/lib/libcuda.so.580.1";
        told(fault(&one, &minors(&[0]), updated), "is stale: it needs /lib/libcuda.so.580.1");
        let hidden = |path: &str| path != "/host/nvidiactl";
        told(fault(&one, &minors(&[0]), hidden), "needs /host/nvidiactl");
        assert_eq!(fault(&one, &minors(&[0]), |path| path != "/dev/nvidiactl"), None);
        let hookless = |path: &str| path != "/usr/bin/nvidia-cdi-hook";
        told(fault(&one, &minors(&[0]), hookless), "nvidia-cdi-hook");
        let twice = specs(&["/etc/cdi/a.yaml", "/etc/cdi/b.yaml"]);
        told(fault(&twice, &minors(&[0]), all), "that another file of /etc/cdi has");
        // The folder that is read later wins: that is none.
        let both = specs(&["/etc/cdi/a.yaml", "/var/run/cdi/a.yaml"]);
        assert_eq!(fault(&both, &minors(&[0]), all), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-zA-Z:\\-\n {}\\[\\]/.\"0-9]{0,200}") {
            drop(Spec::parse(&text));
        }
    }
}
