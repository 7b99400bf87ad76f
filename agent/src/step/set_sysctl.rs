//! `SetSysctl`: now through `/proc/sys`, at every boot through `/etc/sysctl.d`.

use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, look, put_file, restore},
};
use crate::host::Host;
use kdc_bundles::index::Digest;

/// A kernel parameter.
pub(crate) struct SetSysctl<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: &'a str,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// The live value; `None` where the kernel has no such key.
    live: Option<String>,
    file: PathState,
}

/// The file behind a dotted key.
pub(crate) fn live_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// The live value of a key, white space folded.
pub(crate) fn live(host: &dyn Host, key: &str) -> Result<Option<String>, StepError> {
    Ok(host.read_text(&live_path(key))?.map(|text| fold(&text)))
}

/// Set a key back if it changed. Keys the kernel no longer has are left alone.
pub(crate) fn restore_live(
    context: &Context<'_>,
    key: &str,
    before: Option<&String>,
) -> Result<(), StepError> {
    let Some(wanted) = before else { return Ok(()) };
    match live(context.host, key)? {
        Some(now) if now != *wanted => {
            Ok(context.host.set_kernel_value(&live_path(key), &format!("{wanted}\n"))?)
        }
        _ => Ok(()),
    }
}

fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl SetSysctl<'_> {
    fn file(&self) -> String {
        format!("/etc/sysctl.d/99-kdc-{}.conf", self.key.replace('/', "."))
    }

    fn line(&self) -> String {
        format!("{} = {}\n", self.key, self.value)
    }
}

impl Change for SetSysctl<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        Ok(Before { live: live(context.host, self.key)?, file: look(context, &self.file())? })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.live.as_deref() == Some(&fold(self.value))
            && before.file.is_file(&Digest::of(self.line().as_bytes()), 0o644)
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        match live(context.host, self.key)? {
            None => {
                return Err(StepError::Refused {
                    what: format!("this kernel has no parameter {}", self.key),
                    hint: "load the kernel module it belongs to, or drop it from the profile"
                        .to_owned(),
                });
            }
            Some(now) if now == fold(self.value) => {}
            Some(_) => {
                let value = format!("{}\n", self.value);
                context.host.set_kernel_value(&live_path(self.key), &value)?;
            }
        }
        put_file(context.host, &self.file(), &mut self.line().as_bytes(), 0o644)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        restore(context, &self.file(), &before.file)?;
        restore_live(context, self.key, before.live.as_ref())
    }

    fn summary(&self) -> String {
        format!("set {} = {}", self.key, self.value)
    }

    fn detail(&self, before: &Before) -> String {
        match before.live.as_deref() {
            Some(live) if live == fold(self.value) => {
                format!("makes {} last over a reboot", self.key)
            }
            Some(live) => format!("changes {} from {live} to {}", self.key, self.value),
            None => format!("{} is not there yet", self.key),
        }
    }
}
