//! Ctrl-C: it ends the watching, never the work of a node.

use super::CommandError;
use crate::show::{Complaint, Exit};

/// Do `work` until it is done or Ctrl-C comes; `has_changed` says whether a node was changed by then.
pub(crate) async fn until_ctrl_c<T>(
    has_changed: impl Fn() -> bool,
    work: impl Future<Output = Result<T, Complaint>>,
) -> Result<T, Complaint> {
    tokio::select! {
        biased;
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(interrupted(has_changed())),
            Err(error) => Err(CommandError::Runtime(error).into()),
        },
        done = work => done,
    }
}

fn interrupted(changed: bool) -> Complaint {
    if changed {
        return Complaint::new("KDC-018", Exit::Interrupted, "you stopped watching")
            .cause("the nodes carry on by themselves until they need one another")
            .hint("run the same command again, here or elsewhere: it attaches and finishes");
    }
    Complaint::new("KDC-018", Exit::Refused, "stopped; nothing was changed")
}
