//! Checks: judgements over [`Facts`], pure, so that every one of them is a table in a test.
//!
//! A check that could not look says `unknown`, and unknown never counts as passed: the operator
//! sees what could not be seen, and why. Every check is listed in `docs/checks.md` with what it
//! means and what to do; a test holds the two together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::{Facts, Known};

mod conflict;
mod host;
mod size;

/// How a check came out, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but the operator should know.
    Warn,
    /// Could not look: never counts as passed.
    Unknown,
    /// Would not work; nothing is changed until it is mended.
    Fail,
}

impl Verdict {
    /// The word for it in every output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Fail => "fail",
        }
    }

    /// An install may not start with this.
    #[must_use]
    pub fn refuses(self) -> bool {
        matches!(self, Self::Fail | Self::Unknown)
    }
}

/// What one check found on one node, or across nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable id (`swap`), listed in `docs/checks.md`.
    pub id: String,
    /// For people, a few words.
    pub title: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// The next thing to do, when it is not ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What a plan needs of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Needs {
    /// Cluster to be built; what its own receipt put here is no conflict.
    pub cluster: String,
    /// The agent runs as root.
    pub root: bool,
    /// Platforms the bundle has everything for (`linux/amd64`).
    pub platforms: Vec<String>,
    /// Systems the bundle's packages are for (`debian 12`); empty when it says nothing.
    pub systems: Vec<String>,
    /// Logical CPUs, at least.
    pub cpus: u32,
    /// Memory, at least.
    pub memory_bytes: u64,
    /// Bytes written below each path, at the peak; several paths may share a file system.
    pub disk_bytes: BTreeMap<String, u64>,
    /// Files made below each path, about.
    pub inodes: BTreeMap<String, u64>,
    /// Ports that must be free (`6443/tcp`, `30000-32767/tcp`).
    pub ports: Vec<String>,
    /// Kernel modules that will be loaded.
    pub modules: Vec<String>,
    /// Programs that must be there before, since the bundle does not bring them.
    pub programs: Vec<String>,
    /// The plan turns swap off.
    pub disables_swap: bool,
    /// Pod network `host-routes`, which keeps its own routes.
    pub host_routes: bool,
}

/// A check's fixed parts; its name in code, docs and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckInfo {
    /// Stable id.
    pub id: &'static str,
    /// For people, a few words.
    pub title: &'static str,
}

type Judge = fn(&Facts, &Needs) -> Judgement;

/// What a check says, before it is put together with its id.
pub(crate) struct Judgement {
    verdict: Verdict,
    detail: String,
    fix: Option<String>,
}

impl Judgement {
    pub(crate) fn ok(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, detail: detail.into(), fix: None }
    }

    pub(crate) fn warn(detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn fail(detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn unknown(what: &str, reason: &str) -> Self {
        Self {
            verdict: Verdict::Unknown,
            detail: format!("could not read {what}: {reason}"),
            fix: Some("make it readable for root on the node, then check again".to_owned()),
        }
    }
}

/// Judge a fact, or say that it is unknown.
pub(crate) fn known<T>(
    fact: &Known<T>,
    what: &str,
    judge: impl FnOnce(&T) -> Judgement,
) -> Judgement {
    match fact {
        Known::Known(value) => judge(value),
        Known::Unknown(reason) => Judgement::unknown(what, reason),
    }
}

/// What kdc itself put on this node for this cluster is no conflict.
pub(crate) fn is_ours(facts: &Facts, needs: &Needs) -> bool {
    facts.ownership.cluster.as_deref() == Some(needs.cluster.as_str())
}

const CHECKS: &[(&str, &str, Judge)] = &[
    ("root", "root on the node", host::root),
    ("systemd", "systemd runs the node", host::systemd),
    ("platform", "platform is in the bundle", host::platform),
    ("system", "operating system fits the packages", host::system),
    ("kernel", "kernel is new enough", host::kernel),
    ("cgroup", "cgroup hierarchy is known", host::cgroup),
    ("hostname", "host name is valid", host::hostname),
    ("clock", "clock is sane", host::clock),
    ("cpus", "enough CPUs", size::cpus),
    ("memory", "enough memory", size::memory),
    ("disk", "enough free disk", size::disk),
    ("inodes", "enough free inodes", size::inodes),
    ("swap", "swap is off", size::swap),
    ("foreign-software", "no other container software", conflict::foreign),
    ("ports", "ports are free", conflict::ports),
    ("modules", "kernel modules", conflict::modules),
    ("writable", "file systems are writable", conflict::writable),
    ("executable", "file systems may execute", conflict::executable),
    ("default-route", "default route", conflict::default_route),
    ("resolver", "resolv.conf is there", conflict::resolver),
    ("programs", "programs are there", conflict::programs),
];

/// Every node check there is, in the order they are shown.
#[must_use]
pub fn all() -> Vec<CheckInfo> {
    CHECKS.iter().map(|(id, title, _)| CheckInfo { id, title }).collect()
}

/// Judge a node: every check, always in the same order.
#[must_use]
pub fn judge(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    CHECKS
        .iter()
        .map(|(id, title, judge)| {
            let Judgement { verdict, detail, fix } = judge(facts, needs);
            Finding { id: (*id).to_owned(), title: (*title).to_owned(), verdict, detail, fix }
        })
        .collect()
}

#[cfg(test)]
mod tests;
