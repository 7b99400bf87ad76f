//! Units of systemd: their state, and the links that enabling leaves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::change::{Context, StepError};
use crate::host::{Host, HostError, Kind, Program};

/// Where an administrator's units and links live.
pub(crate) const UNIT_DIR: &str = "/etc/systemd/system";

/// State of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnitState {
    /// `loaded`, `not-found`, `masked`.
    pub(crate) load: String,
    /// `enabled`, `disabled`, `static`; empty where there is no unit file.
    pub(crate) file: String,
    /// Runs, or is about to.
    pub(crate) active: bool,
    /// Links of this unit under [`UNIT_DIR`], path → target.
    pub(crate) links: BTreeMap<String, String>,
    /// Directories `*.wants` and `*.requires` under [`UNIT_DIR`].
    pub(crate) directories: Vec<String>,
}

impl UnitState {
    /// Starts at boot. A unit that cannot be enabled counts as it is.
    pub(crate) fn is_enabled(&self) -> bool {
        matches!(self.file.as_str(), "enabled" | "static" | "indirect" | "alias" | "generated")
    }
}

/// `systemctl` with arguments and a deadline that leaves room for slow stops.
pub(crate) fn systemctl<const N: usize>(arguments: [&str; N]) -> Program {
    Program::new("systemctl").args(arguments).within_secs(180)
}

/// Have systemd read its unit files again.
pub(crate) fn reload(host: &dyn Host) -> Result<(), HostError> {
    host.run_checked(&systemctl(["daemon-reload"])).map(|_| ())
}

/// Look at a unit.
pub(crate) fn look_at(host: &dyn Host, unit: &str) -> Result<UnitState, StepError> {
    let program = systemctl(["show", "-p", "LoadState,UnitFileState,ActiveState", "--", unit]);
    let text = host.run_checked(&program)?.text();
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let (links, directories) = links_of(host, unit)?;
    Ok(UnitState {
        load: value("LoadState").to_owned(),
        file: value("UnitFileState").to_owned(),
        active: matches!(value("ActiveState"), "active" | "activating" | "reloading"),
        links,
        directories,
    })
}

type Links = (BTreeMap<String, String>, Vec<String>);

fn links_of(host: &dyn Host, unit: &str) -> Result<Links, HostError> {
    let mut links = BTreeMap::new();
    let mut directories = Vec::new();
    for name in host.list(UNIT_DIR)?.unwrap_or_default() {
        let path = format!("{UNIT_DIR}/{name}");
        if name.ends_with(".wants") || name.ends_with(".requires") {
            let inner = format!("{path}/{unit}");
            if is_link(host, &inner)? {
                links.insert(inner.clone(), host.read_link(&inner)?);
            }
            directories.push(path);
        } else if is_link(host, &path)? {
            let target = host.read_link(&path)?;
            if name == unit || target.ends_with(&format!("/{unit}")) {
                links.insert(path, target);
            }
        }
    }
    Ok((links, directories))
}

fn is_link(host: &dyn Host, path: &str) -> Result<bool, HostError> {
    Ok(host.stat(path)?.is_some_and(|stat| stat.kind == Kind::Link))
}

/// Make a unit's links those of `before`, and remove the directories they left empty.
pub(crate) fn restore_links(
    context: &Context<'_>,
    unit: &str,
    before: &UnitState,
) -> Result<(), StepError> {
    let host = context.host;
    let (now, directories) = links_of(host, unit)?;
    for path in now.keys().filter(|path| !before.links.contains_key(*path)) {
        host.remove(path)?;
    }
    for (path, target) in
        before.links.iter().filter(|(path, target)| now.get(*path) != Some(target))
    {
        super::snapshot::make_parents(host, path)?;
        host.make_link(path, target)?;
    }
    for directory in directories.iter().filter(|path| !before.directories.contains(path)) {
        host.remove_directory(directory)?;
    }
    Ok(())
}

/// Start or stop a unit so that it is as before, and forget that it ever failed.
pub(crate) fn restore_activity(
    context: &Context<'_>,
    unit: &str,
    was_active: bool,
) -> Result<(), StepError> {
    let now = look_at(context.host, unit)?;
    if now.load == "not-found" && !now.active {
        return Ok(());
    }
    if was_active && !now.active {
        context.host.run_checked(&systemctl(["start", "--", unit]))?;
    }
    if !was_active {
        if now.active {
            context.host.run_checked(&systemctl(["stop", "--", unit]))?;
        }
        // Only fails where there is nothing to forget.
        context.host.run(&systemctl(["reset-failed", "--", unit]))?;
    }
    Ok(())
}
