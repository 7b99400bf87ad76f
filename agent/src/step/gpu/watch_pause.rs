//! kdc's own watch of the GPUs (`kdc-gpu.service`) has them open. It steps aside while a step needs them free.
//!
//! A mark in `/run` says that it was stopped by us, so that whoever goes on after a crash starts it again.

use crate::{
    gpu::watch::UNIT_NAME,
    host::{Attributes, Host},
    step::{
        change::StepError,
        snapshot::make_parents,
        systemd::{UNIT_DIR, look_at, systemctl},
    },
};

const MARK: &str = "/run/kdc/gpu-watch-paused";

/// Stop the watch, if it runs.
pub(super) fn pause(host: &dyn Host) -> Result<(), StepError> {
    let unit = format!("{UNIT_DIR}/{UNIT_NAME}");
    if host.stat(&unit)?.is_none() || !look_at(host, UNIT_NAME)?.active {
        return Ok(());
    }
    make_parents(host, MARK)?;
    host.write(MARK, b"", Attributes::root(0o644))?;
    host.run_checked(&systemctl(["stop", "--", UNIT_NAME]))?;
    Ok(())
}

/// Start it again, if it was stopped by us.
pub(super) fn resume(host: &dyn Host) -> Result<(), StepError> {
    if host.stat(MARK)?.is_none() {
        return Ok(());
    }
    host.run_checked(&systemctl(["start", "--", UNIT_NAME]))?;
    Ok(host.remove(MARK)?)
}
