//! What is new in a document, as events: errors that came since, and verdicts that are others now.

use std::collections::BTreeMap;

use crate::{
    daemon::events::Events,
    gpu::{
        verdict::Verdict,
        watch::Published,
        xid::{Action, XidRecord},
    },
};

/// Push what is new. Where there was no document before, errors may be old ones: only verdicts are told then.
pub(super) fn tell(before: Option<&Published>, now: &Published, events: &Events) {
    let before = before.filter(|before| before.boot == now.boot);
    if let Some(before) = before {
        let counted: BTreeMap<_, u64> =
            before.node.errors.iter().map(|error| (kind(error), error.count)).collect();
        for error in &now.node.errors {
            let new = error.count.saturating_sub(counted.get(&kind(error)).copied().unwrap_or(0));
            if new > 0 {
                of_error(error, new, events);
            }
        }
    }
    let judged: BTreeMap<_, &Verdict> = before
        .iter()
        .flat_map(|before| &before.node.verdicts)
        .map(|verdict| (name(verdict), verdict))
        .collect();
    for verdict in &now.node.verdicts {
        let was =
            judged.get(name(verdict)).map_or((Action::None, false), |was| (was.action, was.cordon));
        if was != (verdict.action, verdict.cordon) {
            of_verdict(verdict, events);
        }
    }
}

fn kind(error: &XidRecord) -> (Option<&str>, u32, bool) {
    (error.slot.as_deref(), error.xid, error.nonfatal)
}

/// A GPU goes by its address here: a lost one may have no other name.
fn name(verdict: &Verdict) -> &str {
    verdict.pci.as_deref().or(verdict.uuid.as_deref()).unwrap_or_default()
}

fn of_error(error: &XidRecord, new: u64, events: &Events) {
    let slot = error.slot.as_deref().unwrap_or("unknown");
    let reason = format!("Xid {}: {}", error.xid, error.text);
    let fields: [(&'static str, &dyn std::fmt::Display); 4] =
        [("pci", &slot), ("xid", &error.xid), ("new", &new), ("count", &error.count)];
    events.push("gpu-error", reason, &fields);
}

fn of_verdict(verdict: &Verdict, events: &Events) {
    let (pci, uuid) = (verdict.pci.as_deref(), verdict.uuid.as_deref());
    let (pci, uuid) = (pci.unwrap_or("unknown"), uuid.unwrap_or("unknown"));
    let reason = match verdict.source.as_str() {
        "" => verdict.reason.clone(),
        source => format!("{} ({source})", verdict.reason),
    };
    let action = verdict.action.in_words();
    let fields: [(&'static str, &dyn std::fmt::Display); 4] =
        [("pci", &pci), ("uuid", &uuid), ("action", &action), ("cordon", &verdict.cordon)];
    events.push("gpu-verdict", reason, &fields);
}
