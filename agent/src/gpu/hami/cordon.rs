//! Which GPUs of a node get no new pods: those its agent found sick, beside those somebody put there by hand.
//!
//! What kdc put there is on record in an annotation of its own, and only that is ever taken away again. Unknown is not
//! well: a GPU that nobody tells of stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::health::GpuVerdict;

/// UUIDs that kdc put into [`super::CORDON_ANNOTATION`].
pub const RECORD_ANNOTATION: &str = "kdc.dev/hami-cordoned";
/// `off` here: kdc takes back what it cordoned on the node, and cordons nothing.
pub const SWITCH_ANNOTATION: &str = "kdc.dev/gpu-cordon";

/// Both annotations as they should be; `None`: not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordons {
    /// What HAMi's scheduler reads.
    pub cordoned: Option<String>,
    /// What of it is ours.
    pub record: Option<String>,
    /// GPUs cordoned now that were not before.
    pub added: Vec<String>,
    /// GPUs of ours that are not cordoned any more.
    pub removed: Vec<String>,
}

fn items(text: Option<&str>) -> Vec<&str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// Bring together what is there, what of it is ours, and the verdicts by UUID.
#[must_use]
pub fn merge(
    cordoned: Option<&str>,
    record: Option<&str>,
    verdicts: &BTreeMap<&str, (GpuVerdict, &str)>,
    switched_off: bool,
) -> Cordons {
    let there = items(cordoned);
    let ours: BTreeSet<&str> = items(record).into_iter().collect();
    let sick = |uuid: &str| {
        !switched_off && verdicts.get(uuid).is_some_and(|(what, _)| *what == GpuVerdict::Cordon)
    };
    let well = |uuid: &str| {
        switched_off || verdicts.get(uuid).is_some_and(|(what, _)| *what == GpuVerdict::Ok)
    };
    let added: Vec<String> = verdicts
        .keys()
        .filter(|uuid| sick(uuid) && !there.contains(*uuid))
        .map(|uuid| (*uuid).to_owned())
        .collect();
    let removed: Vec<String> =
        ours.iter().filter(|uuid| well(uuid)).map(|uuid| (*uuid).to_owned()).collect();
    let kept = |uuid: &&str| !removed.iter().any(|gone| gone == uuid);
    if added.is_empty() && removed.is_empty() {
        let text = |text: Option<&str>| text.map(str::to_owned);
        return Cordons { cordoned: text(cordoned), record: text(record), added, removed };
    }
    let join = |list: Vec<&str>| (!list.is_empty()).then(|| list.join(","));
    let new_list: Vec<&str> =
        there.iter().copied().filter(kept).chain(added.iter().map(String::as_str)).collect();
    let new_ours: BTreeSet<&str> =
        ours.iter().copied().filter(kept).chain(added.iter().map(String::as_str)).collect();
    let record = join(new_ours.into_iter().collect());
    Cordons { cordoned: join(new_list), record, added, removed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_cordoned_stays_and_only_ours_goes() {
        let (sick, well) = ((GpuVerdict::Cordon, "Xid 79"), (GpuVerdict::Ok, ""));
        // cordoned, record, verdicts of a and b, switch, cordoned after, record after
        let table = [
            (None, None, None, None, false, None, None),
            (None, None, Some(sick), None, false, Some("a"), Some("a")),
            (Some("a"), Some("a"), Some(sick), None, false, Some("a"), Some("a")),
            (Some("a"), Some("a"), Some(well), None, false, None, None),
            // Nobody tells of it: it stays.
            (Some("a"), Some("a"), None, None, false, Some("a"), Some("a")),
            // Put there by hand, so it is not ours and stays.
            (Some("a"), None, Some(sick), None, false, Some("a"), None),
            (Some("a"), None, Some(well), None, false, Some("a"), None),
            (Some(" x, ,a "), Some("a"), Some(well), Some(sick), false, Some("x,b"), Some("b")),
            (Some(" x ,, "), None, Some(well), None, false, Some(" x ,, "), None),
            (Some("x,a"), Some("a"), Some(sick), None, true, Some("x"), None),
            (None, None, Some(sick), None, true, None, None),
            // Taken away by hand while it is sick: put back.
            (None, Some("a"), Some(sick), None, false, Some("a"), Some("a")),
        ];
        for (number, (there, ours, a, b, off, then, record)) in table.into_iter().enumerate() {
            let verdicts: BTreeMap<&str, _> = [("a", a), ("b", b)]
                .into_iter()
                .filter_map(|(uuid, what)| Some((uuid, what?)))
                .collect();
            let merged = merge(there, ours, &verdicts, off);
            assert_eq!(
                (merged.cordoned.as_deref(), merged.record.as_deref()),
                (then, record),
                "row {number}"
            );
            let again = merge(merged.cordoned.as_deref(), merged.record.as_deref(), &verdicts, off);
            assert_eq!(
                (again.cordoned, again.record),
                (merged.cordoned, merged.record),
                "row {number} again"
            );
        }
    }
}
