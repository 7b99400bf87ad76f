//! Who uses a GPU now. Nobody may lose one under his hands: not a process, not a virtual machine, not a pod.

use serde::Deserialize;

use super::pci::PciDevice;
use crate::{
    host::{Host, HostError},
    step::change::StepError,
};

/// What the kubelet has handed out, and to whom.
const CHECKPOINT: &str = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint";

/// What NVIDIA's driver says of a GPU that it has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: Option<String>,
    pub(crate) minor: Option<u32>,
}

/// What the driver says of the GPU at this address.
pub(crate) fn identity(host: &dyn Host, address: &str) -> Result<Identity, StepError> {
    let path = format!("/proc/driver/nvidia/gpus/{address}/information");
    let text = host.read_text(&path)?.unwrap_or_default();
    let value = |name: &str| {
        let (_, value) = text
            .lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))?;
        Some(value.trim().to_owned())
    };
    Ok(Identity {
        uuid: value("GPU UUID").filter(|uuid| uuid.starts_with("GPU-") && !uuid.contains('?')),
        minor: value("Device Minor").and_then(|minor| minor.parse().ok()),
    })
}

/// Everybody who uses one of these devices, each in words. Empty if nobody does.
pub(crate) fn users(host: &dyn Host, devices: &[&PciDevice]) -> Result<Vec<String>, StepError> {
    let mut nodes = Vec::new();
    let mut identities = Vec::new();
    for device in devices {
        nodes.extend(device.group.map(|group| format!("/dev/vfio/{group}")));
        if device.is_nvidia_gpu() {
            let identity = identity(host, &device.address)?;
            match (identity.minor, device.driver.as_deref()) {
                (Some(minor), _) => nodes.push(format!("/dev/nvidia{minor}")),
                // Not known which it is, so any counts.
                (None, Some("nvidia")) => nodes.push("/dev/nvidia".to_owned()),
                (None, _) => {}
            }
            identities.push((*device, identity));
        }
    }
    let mut users = processes(host, &nodes, devices)?;
    users.extend(pods(host, &identities)?);
    Ok(users)
}

/// A process that ended while we looked is none.
fn unless_gone<T>(result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Err(HostError::File { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound
                || source.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        result => result.map(Some),
    }
}

fn processes(
    host: &dyn Host,
    nodes: &[String],
    devices: &[&PciDevice],
) -> Result<Vec<String>, StepError> {
    let mut users = Vec::new();
    // Without it nobody can be seen, which is not the same as nobody.
    let pids = host.list("/proc")?.ok_or_else(|| StepError::Format {
        what: "/proc".to_owned(),
        reason: "it is not there, so who uses the GPU can't be seen".to_owned(),
    })?;
    for pid in pids {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let held = held_node(host, &pid, nodes)?;
        let what = match held {
            Some(node) => Some(format!("has {node} open")),
            None => machine_of(host, &pid, devices)?
                .map(|address| format!("runs a virtual machine with {address}")),
        };
        if let Some(what) = what {
            users.push(format!("{} {what}", process(host, &pid)?));
        }
    }
    Ok(users)
}

/// A process for people: `process 9 (trainer) of pod default/train-0`.
pub(super) fn process(host: &dyn Host, pid: &str) -> Result<String, StepError> {
    let read = |file: &str| unless_gone(host.read_text(&format!("/proc/{pid}/{file}")));
    let name = read("comm")?.flatten().unwrap_or_default();
    let groups = read("cgroup")?.flatten().unwrap_or_default();
    let whose = match pod_of(&groups) {
        Some(uid) => format!(" of {}", pod(host, &uid)?),
        None => String::new(),
    };
    Ok(format!("process {pid} ({}){whose}", name.trim()))
}

/// The UID of the pod in whose control group a process is: `…/kubepods-burstable-pod<uid>.slice/…`, dashes as underscores, or
/// `…/kubepods/burstable/pod<uid>/…`.
fn pod_of(groups: &str) -> Option<String> {
    groups.split(['/', '\n']).filter(|part| part.contains("pod")).find_map(|part| {
        let uid = part.trim_end_matches(".slice").rsplit_once("pod")?.1.replace('_', "-");
        let plain = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        (plain && uid.len() >= 32).then_some(uid)
    })
}

/// A pod for people, by its name where its logs tell it: `pod default/train-0`.
fn pod(host: &dyn Host, uid: &str) -> Result<String, StepError> {
    for folder in host.list("/var/log/pods")?.unwrap_or_default() {
        let mut parts = folder.splitn(3, '_');
        if let (Some(namespace), Some(name), Some(known)) =
            (parts.next(), parts.next(), parts.next())
            && known == uid
        {
            return Ok(format!("pod {namespace}/{name}"));
        }
    }
    Ok(format!("pod {uid}"))
}

/// Every process that has one of these files open, in words.
pub(super) fn holders(host: &dyn Host, nodes: &[String]) -> Result<Vec<String>, StepError> {
    processes(host, nodes, &[])
}

/// The first of the device nodes that this process has open.
fn held_node(host: &dyn Host, pid: &str, nodes: &[String]) -> Result<Option<String>, StepError> {
    let folder = format!("/proc/{pid}/fd");
    let Some(Some(open)) = unless_gone(host.list(&folder))? else { return Ok(None) };
    for fd in open {
        let Some(target) = unless_gone(host.read_link(&format!("{folder}/{fd}")))? else {
            continue;
        };
        let any = |node: &&String| match node.as_str() {
            "/dev/nvidia" => target
                .strip_prefix("/dev/nvidia")
                .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())),
            node => target == node,
        };
        if nodes.iter().any(|node| any(&node)) {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

/// The device that a process hands to a virtual machine.
fn machine_of(
    host: &dyn Host,
    pid: &str,
    devices: &[&PciDevice],
) -> Result<Option<String>, StepError> {
    let read = unless_gone(host.read_text(&format!("/proc/{pid}/cmdline")))?;
    let Some(Some(line)) = read else { return Ok(None) };
    let program =
        line.split('\0').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if !["qemu", "kvm", "cloud-hypervisor", "firecracker"]
        .iter()
        .any(|vmm| program.starts_with(vmm))
    {
        return Ok(None);
    }
    let named = |device: &&&PciDevice| {
        let short = device.address.strip_prefix("0000:").unwrap_or(&device.address);
        line.contains(&device.address) || line.contains(&format!("host={short}"))
    };
    Ok(devices.iter().find(named).map(|device| device.address.clone()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    #[serde(default)]
    pod_device_entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    /// A map by NUMA node, in older kubelets a list.
    #[serde(rename = "DeviceIDs", default)]
    devices: serde_json::Value,
}

impl Entry {
    fn names(&self) -> Vec<&str> {
        let lists: Vec<&serde_json::Value> = match &self.devices {
            serde_json::Value::Object(nodes) => nodes.values().collect(),
            list => vec![list],
        };
        let items = lists.into_iter().filter_map(|list| list.as_array()).flatten();
        items.filter_map(serde_json::Value::as_str).collect()
    }

    fn is_for(&self, device: &PciDevice, identity: &Identity) -> bool {
        if !self.resource.starts_with("nvidia.com/") {
            return false;
        }
        // Without its UUID we could not tell, so it counts.
        let Some(uuid) = &identity.uuid else { return true };
        let group = device.group.map(|group| group.to_string());
        // A slice's own UUID does not tell whose it is.
        self.names().iter().any(|name| {
            name.starts_with("MIG-")
                || name.contains(uuid.as_str())
                || name.contains(&device.address)
                || Some(*name) == group.as_deref()
        })
    }
}

/// Devices that the kubelet has given to a pod.
pub(super) struct Allocation {
    /// The pod, for people.
    pub(super) pod: String,
    /// `nvidia.com/gpu`.
    pub(super) resource: String,
    /// The devices, as their plugin names them.
    pub(super) names: Vec<String>,
}

/// What the kubelet has given to pods of this node. Those that are gone stay in its record for a while; their folders do not.
fn entries(host: &dyn Host) -> Result<Vec<Entry>, StepError> {
    let Some(text) = host.read_text(CHECKPOINT)? else { return Ok(Vec::new()) };
    let record: Checkpoint = serde_json::from_str(&text).map_err(|error| StepError::Format {
        what: format!("the kubelet's record {CHECKPOINT}"),
        reason: error.to_string(),
    })?;
    let mut entries = Vec::new();
    for entry in record.data.pod_device_entries.unwrap_or_default() {
        let plain = entry.pod.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain && host.stat(&format!("/var/lib/kubelet/pods/{}", entry.pod))?.is_some() {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// NVIDIA devices that pods of this node have.
pub(super) fn allocations(host: &dyn Host) -> Result<Vec<Allocation>, StepError> {
    let ours = entries(host)?.into_iter().filter(|entry| entry.resource.starts_with("nvidia.com/"));
    ours.map(|entry| {
        let names = entry.names().into_iter().map(str::to_owned).collect();
        Ok(Allocation { pod: pod(host, &entry.pod)?, resource: entry.resource, names })
    })
    .collect()
}

/// Pods to which the kubelet has given one of these.
fn pods(host: &dyn Host, devices: &[(&PciDevice, Identity)]) -> Result<Vec<String>, StepError> {
    let mut users = Vec::new();
    for entry in entries(host)? {
        if devices.iter().any(|(device, identity)| entry.is_for(device, identity)) {
            users.push(format!("{} was given {}", pod(host, &entry.pod)?, entry.resource));
        }
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_process_is_named_with_its_program_and_its_pod() {
        let uid = "0f2f8a5e-1c7b-4c39-9d0e-5b8f3a1c2d4e";
        for (groups, named, told) in [
            ("0::/user.slice\n", true, "process 9 (trainer)"),
            (
                &*format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-x.scope\n",
                    uid.replace('-', "_")
                ),
                true,
                "process 9 (trainer) of pod default/train-0",
            ),
            (
                &*format!("1:cpu:/kubepods/besteffort/pod{uid}/abc\n0::/\n"),
                false,
                &*format!("process 9 (trainer) of pod {uid}"),
            ),
            ("0::/podman.slice/x\n", true, "process 9 (trainer)"),
        ] {
            let host = FakeHost::debian();
            host.plant("/proc/9/comm", "trainer\n");
            host.plant("/proc/9/cgroup", groups);
            if named {
                host.plant_tree(&format!("/var/log/pods/default_train-0_{uid}/\n"));
            }
            assert_eq!(process(&host, "9").unwrap(), told, "{groups}");
        }
        // One that ended meanwhile.
        assert_eq!(process(&FakeHost::debian(), "9").unwrap(), "process 9 ()");
    }
}
