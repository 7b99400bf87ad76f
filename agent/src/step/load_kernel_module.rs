//! `LoadKernelModule`: now with `modprobe`, at every boot through `/etc/modules-load.d`.
//!
//! Pods and their network make the kernel load more by itself: `veth`, and a module for each kind of firewall rule.
//! They hold ours, and bring sysctls of their own; undo unloads those that came since and that nobody uses.

use std::collections::BTreeSet;

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
    /// All that was loaded; not known to journals of older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loaded: Option<BTreeSet<String>>,
}

/// How the names of modules begin that the kernel loads for pods and their network. Nothing else is unloaded: a
/// driver counts no users while its device is at work.
const FOR_PODS: &[&str] = &[
    "br_netfilter",
    "bridge",
    "crc32c_",
    "ip6_tables",
    "ip6t_",
    "ip6table_",
    "ip_set",
    "ip_tables",
    "ip_vs",
    "ipt_",
    "iptable_",
    "libcrc32c",
    "llc",
    "nf_",
    "nfnetlink",
    "nft_",
    "overlay",
    "stp",
    "veth",
    "x_tables",
    "xt_",
];

/// Most modules that are unloaded; each needs those above it gone first.
const MAX_UNLOADS: usize = 256;

/// Loaded modules, and whether nobody uses them.
fn listed(host: &dyn Host) -> Result<Vec<(String, bool)>, StepError> {
    let text = host.read_text("/proc/modules")?.unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (name, users) = (words.next()?.to_owned(), words.nth(1)?);
        Some((name, users == "0"))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Unloads what the kernel loaded for pods since `before`, from the top down.
fn unload_followers(host: &dyn Host, before: &BTreeSet<String>) -> Result<(), StepError> {
    let mut tried = BTreeSet::new();
    for _ in 0..MAX_UNLOADS {
        let found = listed(host)?.into_iter().find(|(name, unused)| {
            let ours = FOR_PODS.iter().any(|beginning| name.starts_with(beginning));
            *unused && ours && !before.contains(name) && !tried.contains(name)
        });
        let Some((name, _)) = found else { return Ok(()) };
        // One that came into use meanwhile stays: the caller says what stays of its own.
        host.run(&Program::new("modprobe").args(["-r", "--", &name]))?;
        tried.insert(name);
    }
    Ok(())
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
        let loaded = listed(context.host)?.into_iter().map(|(name, _)| name).collect();
        Ok(Before { module, file: look(context, &self.file())?, loaded: Some(loaded) })
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
        if let (true, Some(loaded)) = (ours, &before.loaded) {
            unload_followers(context.host, loaded)?;
        }
        if ours && presence(context.host, self.module)? == Presence::Loaded {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn undo_unloads_what_pods_brought_and_no_driver() {
        let host = FakeHost::debian();
        host.plant(
            "/proc/modules",
            "xt_mark 1 0 - Live 0\nx_tables 1 1 xt_held, Live 0\nxt_old 1 0 - Live 0\n\
             e1000 1 0 - Live 0\nusb_storage 1 0 - Live 0\nveth 1 0 - Live 0\n",
        );
        let before = BTreeSet::from(["xt_old".to_owned(), "e1000".to_owned()]);
        unload_followers(&host, &before).unwrap();
        let left: Vec<String> = listed(&host).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["x_tables", "xt_old", "e1000", "usb_storage"]);
    }
}
