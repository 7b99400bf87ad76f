//! What waits for a reboot. kdc asks for one and never makes one.
//!
//! The request lies in `/run`, so the reboot itself takes it away. It is not `/run/reboot-required`: that one
//! makes other programs reboot machines by themselves.

use std::collections::BTreeMap;

use crate::{
    host::{Attributes, Host, HostError},
    step::{
        change::{Context, StepError},
        snapshot::make_parents,
    },
};

const FOLDER: &str = "/run/kdc/reboot";

/// Where the request of a step lies.
pub(crate) fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// Ask for a reboot, and say so.
pub(crate) fn ask(context: &Context<'_>, name: &str, why: &str) -> Result<(), StepError> {
    let path = path(name);
    make_parents(context.host, &path)?;
    context.host.write(&path, format!("{why}\n").as_bytes(), Attributes::root(0o644))?;
    context.say(&format!("this node waits for a reboot: {why}"));
    Ok(())
}

/// Everything that waits for a reboot of this node: which step, and why.
///
/// # Errors
/// If the requests cannot be read.
pub fn waiting(host: &dyn Host) -> Result<BTreeMap<String, String>, HostError> {
    let mut waiting = BTreeMap::new();
    for name in host.list(FOLDER)?.unwrap_or_default() {
        if let Some(why) = host.read_text(&path(&name))?.filter(|_| !name.starts_with('.')) {
            waiting.insert(name, why.trim().to_owned());
        }
    }
    Ok(waiting)
}
