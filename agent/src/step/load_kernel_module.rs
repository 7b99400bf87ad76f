//! `LoadKernelModule`: now with `modprobe`, at every boot through `/etc/modules-load.d`.

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, look, put_file, restore},
};
use crate::host::{Host, Program};

/// A module that is loaded, or built in.
pub(crate) struct LoadKernelModule<'a> {
    pub(crate) module: &'a str,
}

/// How a module is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Presence {
    Absent,
    Loaded,
    BuiltIn,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    module: Presence,
    file: PathState,
}

/// What shows that a module without parameters is built in: `/sys/module` then does not name it.
const EVIDENCE: &[(&str, &str)] = &[
    ("br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ("tun", "/dev/net/tun"),
];

/// How a module is there. One that shows under `/sys/module` without being listed as loaded is
/// built in; so is one that the kernel's own list names.
pub(crate) fn presence(host: &dyn Host, module: &str) -> Result<Presence, StepError> {
    let name = module.replace('-', "_");
    let loaded = host.read_text("/proc/modules")?.unwrap_or_default();
    if loaded.lines().any(|line| line.split(' ').next() == Some(&name)) {
        return Ok(Presence::Loaded);
    }
    let evidence = EVIDENCE.iter().filter(|(known, _)| *known == name).map(|(_, path)| *path);
    for path in evidence.map(str::to_owned).chain([format!("/sys/module/{name}")]) {
        if host.stat(&path)?.is_some() {
            return Ok(Presence::BuiltIn);
        }
    }
    let release = host.read_text("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    let list = format!("/lib/modules/{}/modules.builtin", release.trim());
    let built_in = host.read_text(&list)?.unwrap_or_default();
    let is_it = |line: &str| {
        let file = line.rsplit('/').next().unwrap_or_default();
        file.split(".ko").next().is_some_and(|stem| stem.replace('-', "_") == name)
    };
    Ok(if built_in.lines().any(is_it) { Presence::BuiltIn } else { Presence::Absent })
}

impl LoadKernelModule<'_> {
    fn file(&self) -> String {
        format!("/etc/modules-load.d/kdc-{}.conf", self.module)
    }

    fn line(&self) -> String {
        format!("{}\n", self.module)
    }
}

impl Change for LoadKernelModule<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let module = presence(context.host, self.module)?;
        Ok(Before { module, file: look(context, &self.file())? })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        match before.module {
            Presence::BuiltIn => true,
            Presence::Loaded => before.file.is_file(&Digest::of(self.line().as_bytes()), 0o644),
            Presence::Absent => false,
        }
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        if presence(context.host, self.module)? == Presence::Absent {
            let program = Program::new("modprobe").args(["--", self.module]);
            context.host.run_checked(&program)?;
        }
        put_file(context.host, &self.file(), &mut self.line().as_bytes(), 0o644)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        restore(context, &self.file(), &before.file)?;
        let ours = before.module == Presence::Absent
            && presence(context.host, self.module)? == Presence::Loaded;
        if ours {
            let program = Program::new("modprobe").args(["-r", "--", self.module]);
            let output = context.host.run(&program)?;
            if !output.good() {
                let why = output.tail();
                context.say(&format!("module {} stays loaded until a reboot: {why}", self.module));
            }
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("load kernel module {}", self.module)
    }

    fn detail(&self, before: &Before) -> String {
        match before.module {
            Presence::Absent => format!("loads {}, now and at every boot", self.module),
            Presence::Loaded | Presence::BuiltIn => {
                format!("has {} loaded at every boot", self.module)
            }
        }
    }
}
