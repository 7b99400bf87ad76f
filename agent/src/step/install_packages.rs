//! `InstallPackages`: with `dpkg`, in one transaction, from the bundle's own files.
//!
//! Services that packages bring are not started by their installation (a `policy-rc.d` says so
//! for that moment): a service starts when a later step has configured it. Undo purges what this
//! step installed, and removes the directories such software fills but its package forgets.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    PackageSource,
    change::{Change, Context, StepError},
    containerd::OWNED,
    snapshot::{PathState, look, make_parents, put_file, restore, restore_owned_directory},
};
use crate::host::{Attributes, Host, HostError, Program};

/// Asked by Debian's maintainer scripts before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Exit code 101: "the action is forbidden by policy".
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by kdc while it installs packages.\nexit 101\n";

/// Where package files lie while dpkg reads them.
const STAGE: &str = "/var/lib/kdc/packages";

/// Made by package installs, and shared with other packages.
const SHARED: &[&str] = &[
    "/var/lib/systemd/deb-systemd-helper-enabled/multi-user.target.wants",
    "/var/lib/systemd/deb-systemd-helper-enabled",
    "/var/lib/systemd/deb-systemd-helper-masked",
    "/var/lib/systemd/deb-systemd-user-helper-enabled",
    "/var/lib/systemd/deb-systemd-user-helper-masked",
    "/etc/systemd/system/multi-user.target.wants",
    "/opt/cni",
    "/etc/iproute2/rt_protos.d",
];

/// Packages that are installed, whatever their version.
pub(crate) struct InstallPackages<'a> {
    pub(crate) packages: &'a [PackageSource],
}

/// How a package is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Presence {
    Absent,
    /// Removed but not purged.
    ConfigurationOnly,
    /// Unpacked or configured half-way.
    Broken,
    Installed(String),
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    packages: BTreeMap<String, Presence>,
    policy: PathState,
    owned: BTreeMap<String, PathState>,
    /// Directories of [`SHARED`] that were missing.
    missing: Vec<String>,
}

fn presence(host: &dyn Host, names: &[&str]) -> Result<BTreeMap<String, Presence>, StepError> {
    let program = Program::new("dpkg-query")
        .args(["--show", "--showformat", "${Package}\\t${Version}\\t${db:Status-Status}\\n", "--"])
        .args(names.iter().copied());
    // Exit 1 says that some names are unknown; the others are listed all the same.
    let output = host.run(&program)?;
    let text = if output.code == 1 { output.text() } else { output.checked(&program)?.text() };
    let mut found: BTreeMap<String, Presence> =
        names.iter().map(|name| ((*name).to_owned(), Presence::Absent)).collect();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[name, version, status] = fields.as_slice() else { continue };
        let presence = match status {
            "installed" | "triggers-pending" | "triggers-awaited" => {
                Presence::Installed(version.to_owned())
            }
            "config-files" => Presence::ConfigurationOnly,
            "not-installed" => Presence::Absent,
            _ => Presence::Broken,
        };
        found.insert(name.to_owned(), presence);
    }
    Ok(found)
}

/// Run dpkg; wait while another package manager has the lock.
fn dpkg(context: &Context<'_>, program: &Program) -> Result<(), StepError> {
    const TRIES: u32 = 60;
    for attempt in 0.. {
        match context.host.run_checked(program) {
            Err(HostError::Failed { tail, .. })
                if attempt < TRIES && tail.contains("lock") && tail.contains("another process") =>
            {
                if attempt % 6 == 0 {
                    context.say("waiting for another package manager to end");
                }
                context.host.sleep(Duration::from_secs(5));
            }
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Ok(())
}

fn dpkg_program() -> Program {
    Program::new("dpkg")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
        .env("NEEDRESTART_SUSPEND", "1")
        .within_secs(1800)
}

impl InstallPackages<'_> {
    fn names(&self) -> Vec<&str> {
        self.packages.iter().map(|package| package.name.as_str()).collect()
    }

    /// Copy the missing packages' files out of the store, each proved before dpkg sees it.
    fn stage(
        &self,
        context: &Context<'_>,
        wanted: &[&PackageSource],
    ) -> Result<Vec<String>, StepError> {
        let host = context.host;
        make_parents(host, STAGE)?;
        host.remove_tree(STAGE)?;
        host.make_directory(STAGE, Attributes::root(0o755))?;
        let mut paths = Vec::new();
        for package in wanted {
            let path = format!("{STAGE}/{}.deb", package.digest.hex());
            host.write_from(
                &path,
                &mut context.blobs.open(&package.digest)?,
                Attributes::root(0o644),
            )?;
            paths.push(path);
        }
        Ok(paths)
    }
}

impl Change for InstallPackages<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let packages = if self.packages.is_empty() {
            BTreeMap::new()
        } else {
            presence(context.host, &self.names())?
        };
        let mut owned = BTreeMap::new();
        // Of other packages these are not the concern: a runtime may come another way.
        let runtime = self.names().iter().any(|name| name.starts_with("container"));
        for path in OWNED.iter().filter(|_| runtime) {
            owned.insert((*path).to_owned(), look(context, path)?);
        }
        let mut missing = Vec::new();
        for path in SHARED {
            if context.host.stat(path)?.is_none() {
                missing.push((*path).to_owned());
            }
        }
        Ok(Before { packages, policy: look(context, POLICY)?, owned, missing })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        self.packages.iter().all(|package| {
            matches!(before.packages.get(&package.name), Some(Presence::Installed(_)))
        })
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let now = presence(context.host, &self.names())?;
        let wanted: Vec<&PackageSource> = self
            .packages
            .iter()
            .filter(|package| !matches!(now.get(&package.name), Some(Presence::Installed(_))))
            .collect();
        if !wanted.is_empty() {
            let files = self.stage(context, &wanted)?;
            put_file(context.host, POLICY, &mut POLICY_TEXT.as_bytes(), 0o755)?;
            let install = dpkg_program()
                .args(["--force-confdef", "--force-confold", "--install"])
                .args(files);
            let installed = dpkg(context, &install);
            restore(context, POLICY, &before.policy)?;
            installed?;
        }
        restore(context, POLICY, &before.policy)?;
        Ok(context.host.remove_tree(STAGE)?)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let names: Vec<&str> = before.packages.keys().map(String::as_str).collect();
        let now = if names.is_empty() { BTreeMap::new() } else { presence(host, &names)? };
        let ours = |was: Presence, verb: &str| -> Result<(), StepError> {
            let gone = |name: &&str| matches!(now.get(*name), Some(Presence::Absent));
            let names: Vec<&str> = names
                .iter()
                .copied()
                .filter(|name| before.packages.get(*name) == Some(&was) && !gone(name))
                .collect();
            if names.is_empty() {
                return Ok(());
            }
            put_file(host, POLICY, &mut POLICY_TEXT.as_bytes(), 0o755)?;
            let taken = dpkg(context, &dpkg_program().arg(verb).args(names));
            restore(context, POLICY, &before.policy)?;
            taken
        };
        ours(Presence::Absent, "--purge")?;
        ours(Presence::ConfigurationOnly, "--remove")?;
        restore(context, POLICY, &before.policy)?;
        host.remove_tree(STAGE)?;
        for (path, state) in &before.owned {
            restore_owned_directory(context, path, state)?;
        }
        for path in before.missing.iter().rev().chain(&before.missing) {
            host.remove_directory(path)?;
        }
        super::systemd::reload(host)?;
        Ok(())
    }

    fn summary(&self) -> String {
        format!("install packages: {}", self.names().join(", "))
    }

    fn detail(&self, before: &Before) -> String {
        let missing: Vec<&str> = self
            .names()
            .into_iter()
            .filter(|name| !matches!(before.packages.get(*name), Some(Presence::Installed(_))))
            .collect();
        format!("installs {}", missing.join(", "))
    }
}
