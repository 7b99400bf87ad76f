//! How far one node is on the way from what was wanted to what was proved. A pure function decides; its record is an
//! annotation of the node, written before what it announces, so that the next leader goes on where this one stopped.
//!
//! ```text
//!            entry differs, or is without effect      another pod is Ready        no difference
//! (nothing) ─────────────────────────────► Restarting ─────────────► Verifying ─────────────► Applied
//!     │ all as wanted already                  │ not Ready in time       │ differences stay      │ entry drifted: put back
//!     └──────────────► Applied                 ▼                         ▼                       │ effect drifted: Restarting
//!                                          Returning ◄───────────────────┘                       ▼ (a limit an hour)
//!                                              │ another pod is Ready                         Drifted
//!                                              ▼
//!                                          RolledBack: the old entry; not tried again before something else is wanted
//! ```

use serde::{Deserialize, Serialize};

/// The annotation.
pub const STATE_ANNOTATION: &str = "kdc.dev/hami-state";

/// Longest text of it that is read.
const MAX_BYTES: usize = 128 * 1024;
const HOUR_SECS: u64 = 3600;

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The entry is written; the plugin's pod is to go, and another to come.
    Restarting,
    /// The plugin runs with the entry; what it says is compared.
    Verifying,
    /// It said what was wanted.
    Applied,
    /// It was proved once, and is not so now; the hour's repairs are used up, or did not help.
    Drifted,
    /// It was not taken: the old entry is written, the pod is to go once more.
    Returning,
    /// The old entry is in force.
    RolledBack,
    /// Not wanted any more: the entry goes, then the pod that read it, then this record.
    Leaving,
}

/// A node's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Digest of what is wanted.
    pub wanted: String,
    /// Where it is.
    pub phase: Phase,
    /// Since when, in Unix seconds.
    pub since: u64,
    /// The pod that is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its entries before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Its entry was kdc's before this change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ours: bool,
    /// What was once proved is being put back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repair: bool,
    /// When something was repaired, in Unix seconds, within the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<u64>,
    /// Since when what the node says differs from what was proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs_since: Option<u64>,
    /// kdc set the node's label.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub labelled: bool,
    /// Why it is not as wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Progress {
    /// Read the annotation; what makes no sense is as if there were none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    /// The annotation's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers serialise")
    }

    /// Its turn is going on: no other node begins.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Restarting | Phase::Verifying | Phase::Returning)
    }

    fn new(wanted: &str, phase: Phase, now: u64) -> Self {
        Self {
            wanted: wanted.to_owned(),
            phase,
            since: now,
            pod: None,
            before: Vec::new(),
            ours: false,
            repair: false,
            repairs: Vec::new(),
            differs_since: None,
            labelled: false,
            reasons: Vec::new(),
        }
    }

    /// The same, now there.
    pub(super) fn at(&self, phase: Phase, now: u64) -> Self {
        Self { phase, since: now, ..self.clone() }
    }
}

/// A plugin's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Kubernetes says Ready.
    pub ready: bool,
    /// It is on its way out.
    pub leaving: bool,
    /// Image of the plugin.
    pub image: String,
}

/// What a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Digest of what is wanted now.
    pub wanted: &'a str,
    /// The node's entries as they are.
    pub entries: &'a [String],
    /// They are not what is wanted.
    pub entry_differs: bool,
    /// What the plugin said against what is wanted.
    pub differences: &'a [String],
    /// The plugin's pods on the node.
    pub pods: &'a [PodSeen],
    /// No other node is busy.
    pub turn: bool,
    /// Unix seconds.
    pub now: u64,
}

/// How patient, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait for a pod to be Ready.
    pub ready_secs: u64,
    /// Longest wait for what the plugin says: it looks every 30 s.
    pub verify_secs: u64,
    /// Most repairs of a node an hour.
    pub repairs_an_hour: usize,
}

/// What follows: the record as it is to be, and what the config is to say of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The record.
    pub progress: Option<Progress>,
    /// What its entry is to be.
    pub entry: Entry,
    /// Delete this pod.
    pub delete: Option<(String, String)>,
    /// Something happened that people should hear of: (it is good, reason, words).
    pub event: Option<(bool, &'static str, String)>,
}

/// What the config is to say of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// What is wanted.
    Wanted,
    /// What it says.
    Kept,
    /// What it said before.
    Before,
}

/// Decide for a node on which HAMi's plugin is wanted.
#[must_use]
pub fn decide(progress: Option<&Progress>, seen: &Seen<'_>, patience: &Patience) -> Decision {
    let same = |known: &&Progress| known.wanted == seen.wanted && known.phase != Phase::Leaving;
    let Some(known) = progress.filter(same) else {
        return begin(progress, seen);
    };
    match known.phase {
        Phase::Restarting => restarting(known, seen, patience),
        Phase::Verifying => verifying(known, seen, patience),
        Phase::Applied | Phase::Drifted => proved(known, seen, patience),
        Phase::Returning => returning(known, seen, patience),
        // The latter is never looked at here.
        Phase::RolledBack | Phase::Leaving => Decision::quiet(Some(known.clone()), Entry::Kept),
    }
}

impl Decision {
    fn quiet(progress: Option<Progress>, entry: Entry) -> Self {
        Self { progress, entry, delete: None, event: None }
    }

    fn told(
        progress: Progress,
        entry: Entry,
        good: bool,
        reason: &'static str,
        words: String,
    ) -> Self {
        Self { progress: Some(progress), entry, delete: None, event: Some((good, reason, words)) }
    }
}

/// Something else is wanted than before, or for the first time.
fn begin(progress: Option<&Progress>, seen: &Seen<'_>) -> Decision {
    if !seen.turn {
        return Decision::quiet(progress.cloned(), Entry::Kept);
    }
    let mut new = Progress::new(seen.wanted, Phase::Restarting, seen.now);
    new.labelled = progress.is_some_and(|known| known.labelled);
    if !seen.entry_differs && seen.differences.is_empty() {
        new.phase = Phase::Applied;
        let words = "the settings were in force already".to_owned();
        return Decision::told(new, Entry::Wanted, true, "GpuSharingApplied", words);
    }
    // In the middle of another change: what was before that one is what can be gone back to.
    let mid = progress.filter(|known| known.is_busy() && !known.repair);
    new.before = mid.map_or_else(|| seen.entries.to_vec(), |known| known.before.clone());
    new.pod = current(seen).map(|pod| pod.uid.clone());
    Decision::quiet(Some(new), Entry::Wanted)
}

/// The pod that serves now, or is about to.
fn current<'a>(seen: &Seen<'a>) -> Option<&'a PodSeen> {
    seen.pods.iter().find(|pod| !pod.leaving)
}

/// The pod that is to go, while it is there.
fn to_go(known: &Progress, seen: &Seen<'_>) -> Option<(String, String)> {
    let pod = seen.pods.iter().find(|pod| !pod.leaving && Some(&pod.uid) == known.pod.as_ref())?;
    Some((pod.name.clone(), pod.uid.clone()))
}

fn another_is_ready(known: &Progress, seen: &Seen<'_>) -> bool {
    seen.pods.iter().any(|pod| pod.ready && !pod.leaving && Some(&pod.uid) != known.pod.as_ref())
}

fn restarting(known: &Progress, seen: &Seen<'_>, patience: &Patience) -> Decision {
    if another_is_ready(known, seen) && !seen.entry_differs {
        return Decision::quiet(Some(known.at(Phase::Verifying, seen.now)), Entry::Wanted);
    }
    if seen.now.saturating_sub(known.since) >= patience.ready_secs {
        return failed(
            known,
            seen,
            vec![format!("the device plugin's pod was not Ready within {} s", patience.ready_secs)],
        );
    }
    // Not before the config says what the next pod should read.
    let delete = if seen.entry_differs { None } else { to_go(known, seen) };
    Decision { delete, ..Decision::quiet(Some(known.clone()), Entry::Wanted) }
}

fn verifying(known: &Progress, seen: &Seen<'_>, patience: &Patience) -> Decision {
    if seen.differences.is_empty() {
        let mut applied = known.at(Phase::Applied, seen.now);
        (applied.pod, applied.repair, applied.differs_since) = (None, false, None);
        applied.before.clear();
        applied.reasons.clear();
        let words = "the device plugin took the settings".to_owned();
        return Decision::told(applied, Entry::Wanted, true, "GpuSharingApplied", words);
    }
    if seen.now.saturating_sub(known.since) >= patience.verify_secs {
        return failed(known, seen, seen.differences.to_vec());
    }
    Decision::quiet(Some(known.clone()), Entry::Wanted)
}

/// It was not taken. What was proved once stays; what never was goes back.
fn failed(known: &Progress, seen: &Seen<'_>, reasons: Vec<String>) -> Decision {
    let words = reasons.join("; ");
    if known.repair {
        let mut drifted = known.at(Phase::Drifted, seen.now);
        (drifted.pod, drifted.repair, drifted.reasons) = (None, false, reasons);
        drifted.before.clear();
        return Decision::told(drifted, Entry::Wanted, false, "GpuSharingDrifted", words);
    }
    let mut back = known.at(Phase::Returning, seen.now);
    back.reasons = reasons;
    back.pod = current(seen).map(|pod| pod.uid.clone());
    let words =
        format!("the device plugin did not take the settings, the old ones are put back: {words}");
    Decision::told(back, Entry::Before, false, "GpuSharingNotTaken", words)
}

fn returning(known: &Progress, seen: &Seen<'_>, patience: &Patience) -> Decision {
    let put_back = seen.entries == known.before;
    let late = seen.now.saturating_sub(known.since) >= patience.ready_secs;
    if put_back && (another_is_ready(known, seen) || late) {
        let mut back = known.at(Phase::RolledBack, seen.now);
        back.pod = None;
        back.before.clear();
        if late {
            back.reasons.push(
                "the device plugin did not come back with the old settings either".to_owned(),
            );
        }
        let words = format!("the old settings are in force: {}", back.reasons.join("; "));
        return Decision::told(back, Entry::Kept, false, "GpuSharingRolledBack", words);
    }
    let delete = if put_back { to_go(known, seen) } else { None };
    Decision { delete, ..Decision::quiet(Some(known.clone()), Entry::Before) }
}

/// It was proved; see whether it still holds.
fn proved(known: &Progress, seen: &Seen<'_>, patience: &Patience) -> Decision {
    let mut new = known.clone();
    new.repairs.retain(|at| seen.now.saturating_sub(*at) < HOUR_SECS);
    let may_repair = new.repairs.len() < patience.repairs_an_hour;
    if seen.entry_differs {
        if !may_repair {
            return stay_drifted(new, seen, "its entry was changed", patience);
        }
        new.repairs.push(seen.now);
        let words = "its entry was changed by somebody else and is put back".to_owned();
        return Decision::told(new, Entry::Wanted, true, "GpuSharingRepaired", words);
    }
    if seen.differences.is_empty() {
        (new.differs_since, new.phase) = (None, Phase::Applied);
        new.reasons.clear();
        return Decision::quiet(Some(new), Entry::Wanted);
    }
    let since = *new.differs_since.get_or_insert(seen.now);
    if seen.now.saturating_sub(since) < patience.verify_secs || !seen.turn {
        return Decision::quiet(Some(new), Entry::Wanted);
    }
    if !may_repair {
        return stay_drifted(new, seen, "what the device plugin says was changed", patience);
    }
    new.repairs.push(seen.now);
    let mut again = new.at(Phase::Restarting, seen.now);
    (again.repair, again.differs_since) = (true, None);
    again.pod = current(seen).map(|pod| pod.uid.clone());
    let words = format!("the device plugin is restarted: {}", seen.differences.join("; "));
    Decision::told(again, Entry::Wanted, true, "GpuSharingRepaired", words)
}

/// The hour's repairs are used up.
fn stay_drifted(mut new: Progress, seen: &Seen<'_>, what: &str, patience: &Patience) -> Decision {
    let limit = patience.repairs_an_hour;
    let mut reasons = vec![format!(
        "{what}; it was repaired {limit} times within the hour and stays so until then"
    )];
    reasons.extend(seen.differences.iter().cloned());
    if new.phase == Phase::Drifted && !new.reasons.is_empty() {
        return Decision::quiet(Some(new), Entry::Kept);
    }
    (new.phase, new.since) = (Phase::Drifted, seen.now);
    let words = reasons.join("; ");
    new.reasons = reasons;
    Decision::told(new, Entry::Kept, false, "GpuSharingDrifted", words)
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
