//! `WriteCdiSpec`: what runtimes read to give a pod a GPU (CDI), made by NVIDIA's own `nvidia-ctk`.
//!
//! kdc writes none of its own: the hooks that a specification calls come with that program, and it alone knows the
//! libraries of every driver. What is there is proved path by path; a stale one is made again in its place.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    cdi_spec::{KIND, Spec, fault},
    in_use::identity,
    mig_use::capability,
};
use crate::{
    host::{Host, HostError, Program},
    step::{
        change::{Change, Context, StepError},
        snapshot::{PathState, look, put_file, restore},
    },
};

/// Specifications of the node's GPUs.
pub(crate) struct WriteCdiSpec;

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// The file that is written.
    path: String,
    file: PathState,
    /// NVIDIA's driver has this node's GPUs.
    driver: bool,
    /// What is wrong with what is there.
    fault: Option<String>,
}

/// Where runtimes look, the folder that wins last.
const FOLDERS: &[&str] = &["/etc/cdi", "/var/run/cdi"];

/// Where it goes if none is there.
const SPEC: &str = "/etc/cdi/nvidia.yaml";

/// Largest specification.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Most GPUs of a node.
const MAX_GPUS: usize = 64;

const DRIVER: &str = "/proc/driver/nvidia";

/// Specifications, each with its file.
type Specs = Vec<(String, Spec)>;

/// Every specification that can be read, and what is wrong with one that can't.
fn specs(host: &dyn Host) -> Result<(Specs, Option<String>), StepError> {
    let (mut specs, mut fault) = (Vec::new(), None);
    for folder in FOLDERS {
        for name in host.list(folder)?.unwrap_or_default() {
            let known = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
            if !known || name.starts_with('.') {
                continue;
            }
            let path = format!("{folder}/{name}");
            let Some(text) = host.read_text(&path)? else { continue };
            match Spec::parse(&text) {
                Ok(spec) => specs.push((path, spec)),
                Err(reason) => fault = fault.or(Some(format!("{path} cannot be read: {reason}"))),
            }
        }
    }
    Ok((specs, fault))
}

/// Numbers of the GPUs that the driver has.
fn minors(host: &dyn Host) -> Result<BTreeSet<u32>, StepError> {
    let mut minors = BTreeSet::new();
    let gpus = host.list(&format!("{DRIVER}/gpus"))?.unwrap_or_default();
    for address in gpus.iter().take(MAX_GPUS) {
        minors.extend(identity(host, address)?.minor);
    }
    Ok(minors)
}

/// Device files of the MIG instances that stand, each with the instance.
fn instances(host: &dyn Host) -> Result<Vec<(String, String)>, StepError> {
    let root = format!("{DRIVER}/capabilities");
    let mut found = Vec::new();
    for gpu in host.list(&root)?.unwrap_or_default().iter().take(MAX_GPUS) {
        let folder = format!("{root}/{gpu}/mig");
        for instance in host.list(&folder)?.unwrap_or_default() {
            let parts = host.list(&format!("{folder}/{instance}"))?.unwrap_or_default();
            for part in parts.iter().filter(|part| part.starts_with("ci")) {
                let file = capability(host, &format!("{folder}/{instance}/{part}/access"))?;
                found.extend(file.map(|file| (file, format!("{gpu}/{instance}/{part}"))));
            }
        }
    }
    Ok(found)
}

/// What of the paths of these specifications is there.
fn judge(host: &dyn Host, specs: &[(String, Spec)]) -> Result<Option<String>, StepError> {
    let minors = minors(host)?;
    let mut gone = BTreeSet::new();
    for path in
        specs.iter().filter(|(_, spec)| spec.kind == KIND).flat_map(|(_, spec)| spec.needs())
    {
        if !path.starts_with('/') || host.stat(path)?.is_none() {
            gone.insert(path.to_owned());
        }
    }
    if let Some(fault) = fault(specs, &minors, |path| !gone.contains(path)) {
        return Ok(Some(fault));
    }
    let needed: BTreeSet<&str> = specs.iter().flat_map(|(_, spec)| spec.needs()).collect();
    let unknown = instances(host)?.into_iter().find(|(file, _)| !needed.contains(file.as_str()));
    Ok(unknown.map(|(_, name)| format!("the MIG instance {name} is in no specification")))
}

/// Have NVIDIA's program tell the specification; it changes nothing.
fn generate(host: &dyn Host) -> Result<String, StepError> {
    let program =
        Program::new("nvidia-ctk").args(["cdi", "generate", "--format=yaml"]).within_secs(120);
    let mut text = String::new();
    let output = host.stream(&program, &mut |_| Ok(()), &mut |line| {
        if text.len() < MAX_TEXT {
            text.push_str(line);
            text.push('\n');
        }
    });
    match output {
        Err(error) if error.is_missing_program() => {
            return Err(StepError::Refused {
                what: "nvidia-ctk is not installed".to_owned(),
                hint: "put the package nvidia-container-toolkit into the bundle".to_owned(),
            });
        }
        output => output?.checked(&program)?,
    };
    if text.len() >= MAX_TEXT {
        let reason = format!("it is larger than {MAX_TEXT} bytes");
        return Err(HostError::Answer { program: program.line(), reason }.into());
    }
    Ok(text)
}

impl Change for WriteCdiSpec {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let host = context.host;
        let (specs, unread) = specs(host)?;
        // A stale one is replaced where it lies, since from elsewhere it would still be in force.
        let ours = specs.iter().rev().find(|(_, spec)| spec.kind == KIND);
        let path = ours.map_or_else(|| SPEC.to_owned(), |(path, _)| path.clone());
        let fault = match unread {
            Some(fault) => Some(fault),
            None => judge(host, &specs)?,
        };
        let driver = host.stat(&format!("{DRIVER}/version"))?.is_some();
        Ok(Before { file: look(context, &path)?, path, driver, fault })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        // Without a driver there is nothing to specify; the toolkit's own unit does it when one comes.
        before.fault.is_none() || (!before.driver && before.file.is_missing())
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        if host.stat(&format!("{DRIVER}/version"))?.is_none() {
            return Err(StepError::Refused {
                what: "no NVIDIA driver is loaded, so there is nothing to specify".to_owned(),
                hint: "install the driver and reboot; where the GPU operator brings it, it brings this too"
                    .to_owned(),
            });
        }
        let text = generate(host)?;
        let program = "nvidia-ctk cdi generate".to_owned();
        let spec = Spec::parse(&text)
            .map_err(|reason| HostError::Answer { program: program.clone(), reason })?;
        let made = [(before.path.clone(), spec)];
        if let Some(reason) = judge(host, &made)? {
            return Err(HostError::Answer { program, reason }.into());
        }
        put_file(host, &before.path, &mut text.as_bytes(), 0o644)?;
        let (specs, unread) = specs(host)?;
        match unread.map_or_else(|| judge(host, &specs), |fault| Ok(Some(fault)))? {
            None => Ok(()),
            Some(what) => Err(StepError::Refused {
                what,
                hint: "remove that file, or have what wrote it write it again".to_owned(),
            }),
        }
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        restore(context, &before.path, &before.file)
    }

    fn summary(&self) -> String {
        "specify the node's GPUs for container runtimes (CDI)".to_owned()
    }

    fn detail(&self, before: &Before) -> String {
        let why = before.fault.as_deref().unwrap_or("as wanted");
        format!("{why}; {}", before.file.write_detail(&before.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::fake::FakeHost, step::gpu::kit_tests::context};

    #[test]
    fn instances_that_were_made_since_are_specified_too() {
        let host = FakeHost::debian();
        let gpu = "/proc/driver/nvidia/capabilities/gpu0/mig";
        host.plant_tree("/proc/driver/nvidia/version = 580.126.20\n/dev/nvidia0 = x\n");
        let told = "Model: x\\nDevice Minor: \t 0";
        host.plant_tree(&format!("/proc/driver/nvidia/gpus/0000:17:00.0/information = {told}\n"));
        host.plant("/usr/bin/nvidia-ctk", "");
        let context = context(&host);
        let before = Change::probe(&WriteCdiSpec, &context).unwrap();
        WriteCdiSpec.apply(&context, &before).unwrap();
        assert!(WriteCdiSpec.is_satisfied_by(&Change::probe(&WriteCdiSpec, &context).unwrap()));
        // The GPU was cut.
        for (place, minor) in [("gi1/access", 12), ("gi1/ci0/access", 13)] {
            host.plant(&format!("{gpu}/{place}"), &format!("DeviceFileMinor: {minor}\n"));
            host.plant(&format!("/dev/nvidia-caps/nvidia-cap{minor}"), "");
        }
        let before = Change::probe(&WriteCdiSpec, &context).unwrap();
        assert!(!WriteCdiSpec.is_satisfied_by(&before));
        let told = WriteCdiSpec.detail(&before);
        assert!(told.contains("the MIG instance gpu0/gi1/ci0 is in no specification"), "{told}");
        WriteCdiSpec.apply(&context, &before).unwrap();
        assert!(WriteCdiSpec.is_satisfied_by(&Change::probe(&WriteCdiSpec, &context).unwrap()));
    }
}
