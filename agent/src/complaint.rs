//! What stops this program, in the words an operator needs.

use kdc_agent::{
    audit::AuditError, control, daemon, gpu, run::RunError, store::peer::PeerError, wire::Failure,
};

/// With its code and the next thing to try, where there are such.
pub(super) fn in_full(error: &anyhow::Error) -> String {
    let run = error.downcast_ref::<RunError>().map(Failure::from);
    let peer = || error.downcast_ref::<PeerError>().map(Failure::from);
    let control = || error.downcast_ref::<control::ControlError>().map(Failure::from);
    let license = || error.downcast_ref::<control::license::node::NodeError>().map(Failure::from);
    let audit = || error.downcast_ref::<AuditError>().map(AuditError::failure);
    let daemon = || error.downcast_ref::<daemon::DaemonError>().map(Failure::from);
    let watch = || error.downcast_ref::<gpu::watch::WatchError>().map(Failure::from);
    let other = || error.downcast_ref::<Failure>().cloned();
    let known = run
        .or_else(peer)
        .or_else(control)
        .or_else(license)
        .or_else(daemon)
        .or_else(watch)
        .or_else(audit)
        .or_else(other);
    let Some(Failure { code, message, hint }) = known else {
        return format!("error: {error:#}");
    };
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("error[{code}]: {message}{hint}")
}
