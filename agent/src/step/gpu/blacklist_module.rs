//! `BlacklistModule`: a driver that must not take a GPU at boot (nouveau).
//!
//! The initial RAM disk may have the driver too, so it is built again, as the distribution does it. One that is loaded
//! now stays until a reboot, which is asked for: a screen may hang on it.

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::reboot;
use crate::{
    host::Program,
    step::{
        change::{Change, Context, StepError},
        load_kernel_module::{Presence, presence},
        snapshot::{PathState, look, put_file, restore},
    },
};

/// Under which name the driver asks for a reboot that keeps NVIDIA's from GPUs.
pub(super) const NOUVEAU: &str = "blacklist-nouveau";

/// A module that is not loaded by itself.
pub(crate) struct BlacklistModule<'a> {
    pub(crate) module: &'a str,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    loaded: bool,
    file: PathState,
    request: PathState,
}

impl BlacklistModule<'_> {
    fn file(&self) -> String {
        format!("/etc/modprobe.d/kdc-blacklist-{}.conf", self.module)
    }

    fn text(&self) -> String {
        let module = self.module;
        // The options are for one that something loads all the same.
        format!(
            "# Written by kdc. Undo takes this file away.\nblacklist {module}\noptions {module} modeset=0\n"
        )
    }

    fn request(&self) -> String {
        format!("blacklist-{}", self.module)
    }
}

/// Build the initial RAM disk again, with whichever tool this system has.
fn rebuild(context: &Context<'_>) -> Result<(), StepError> {
    let tools = [
        Program::new("update-initramfs").args(["-u", "-k", "all"]),
        Program::new("dracut").args(["--force", "--regenerate-all"]),
    ];
    for tool in tools {
        match context.host.run_checked(&tool.within_secs(600)) {
            Err(error) if error.is_missing_program() => {}
            result => return Ok(result.map(|_| ())?),
        }
    }
    context.say(
        "no tool is known that builds the initial RAM disk; build it again if it has that driver",
    );
    Ok(())
}

impl Change for BlacklistModule<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !self.module.bytes().all(plain) || self.module.is_empty() {
            return Err(StepError::Format {
                what: "the name of a kernel module".to_owned(),
                reason: format!("`{}`", self.module),
            });
        }
        Ok(Before {
            loaded: presence(context.host, self.module)? == Presence::Loaded,
            file: look(context, &self.file())?,
            request: look(context, &reboot::path(&self.request()))?,
        })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.file.is_file(&Digest::of(self.text().as_bytes()), 0o644)
            && (!before.loaded || !before.request.is_missing())
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        put_file(context.host, &self.file(), &mut self.text().as_bytes(), 0o644)?;
        rebuild(context)?;
        if before.loaded {
            let why = format!("the driver {} is loaded and goes with it", self.module);
            reboot::ask(context, &self.request(), &why)?;
        }
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        restore(context, &self.file(), &before.file)?;
        restore(context, &reboot::path(&self.request()), &before.request)?;
        rebuild(context)
    }

    fn summary(&self) -> String {
        format!("keep the driver {} from loading", self.module)
    }

    fn detail(&self, before: &Before) -> String {
        let file = self.file();
        let loaded = if before.loaded { "; it is loaded until a reboot" } else { "" };
        format!("{}, builds the initial RAM disk again{loaded}", before.file.write_detail(&file))
    }
}
