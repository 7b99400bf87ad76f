//! A run in a unit of its own, so that it outlives the SSH session that asked for it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{RunError, check_run_id};
use crate::host::{Host, Program};

/// Start `kdc-run-<id>.service`: `binary` with `arguments`, not restarted, logging to the journal
/// of systemd. Answers once the program was executed.
///
/// # Errors
/// If systemd will not start it.
pub fn start_unit(
    host: &dyn Host,
    run: &str,
    binary: &Path,
    arguments: &[String],
) -> Result<(), RunError> {
    check_run_id(run)?;
    let program = Program::new("systemd-run")
        .arg(format!("--unit=kdc-run-{run}.service"))
        .arg(format!("--description=kdc run {run}"))
        .args(["--quiet", "--collect", "--no-ask-password"])
        .args(["--property=Type=exec", "--property=Restart=no", "--property=KillMode=mixed"])
        // A step that is cut off is applied again by resume, so a shutdown need not wait for it.
        .args(["--property=TimeoutStopSec=20s", "--property=StandardInput=null"])
        .args(["--property=StandardOutput=journal", "--property=StandardError=journal"])
        .args(["--property=UMask=0022"])
        .arg("--")
        .arg(binary.to_string_lossy())
        .args(arguments.iter().cloned());
    host.run_checked(&program)?;
    Ok(())
}

/// A flag that SIGTERM and SIGINT set, looked at between steps.
///
/// # Errors
/// If the signals cannot be listened to.
pub fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let set = Arc::clone(&stop);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            set.store(true, Ordering::Relaxed);
        });
    });
    Ok(stop)
}
