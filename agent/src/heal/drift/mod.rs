//! Drift: what kdc put on the node, against what stands there now.
//!
//! Wanted is what the receipts say: each step of the runs in force that leaves something on the host
//! is looked at again with its own probe, on a host that can only be looked at ([`looking`]). Where
//! several runs made the same thing, the newest counts. A step that found things as wanted never
//! changed them, so they are not kdc's: that they changed is told, and never put back.
//!
//! Most things are a small file or a line of `/proc` and cost nothing. What is dear (a program of
//! a hundred megabytes, a program that has to run) is looked at when a file's stamp changed, and
//! else one such thing a look, each once an hour ([`Memory`]).

mod judge;
mod looking;
mod mounts;
mod thing;

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use self::{
    judge::difference,
    looking::Looking,
    thing::{Cost, Thing},
};
use super::{Action, Kind, Mode, Moment, Origin, SelfHealing, State, Watched};
use crate::{
    daemon::settle,
    host::{Host, HostError, Stamp},
    run::{KeepNothing, NoValues, Receipt},
    step::{PlannedStep, StepError, change::Context},
    store::EmptyShelf,
};

/// What need not be looked at again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Memory {
    dear: BTreeMap<String, Kept>,
}

/// A dear thing as it was seen last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    step: Digest,
    stamps: Vec<Option<Stamp>>,
    at: Moment,
    looked: Looked,
}

/// How a thing stands, before anybody asks what may be done about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Looked {
    finding: Watched,
    /// Something stands against putting it back.
    blocked: bool,
    /// The right to look was missing.
    unseen: bool,
}

/// What a look at everything found.
#[derive(Debug, Default)]
pub(super) struct Drift {
    pub(super) findings: Vec<Watched>,
    /// Things that could not be looked at for want of rights: a process that has them may.
    pub(super) unseen: usize,
}

/// How a look is done.
pub(super) struct Eyes<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) settings: &'a SelfHealing,
    pub(super) now: &'a Moment,
    /// Dear things that are looked at without need.
    pub(super) dear_at_once: usize,
}

/// A step whose work should stand.
struct Wanted<'a> {
    thing: Thing,
    planned: &'a PlannedStep,
    origin: Origin,
    owned: bool,
}

/// Look at everything that the receipts name, and at what belongs to it.
pub(super) fn look(eyes: &Eyes<'_>, receipts: &[Receipt], memory: &mut Memory) -> Drift {
    let wanted: Vec<Wanted<'_>> = wanted(receipts)
        .into_iter()
        .filter(|wanted| eyes.settings.mode_of(wanted.thing.kind) != Mode::Off)
        .collect();
    let looking = Looking::new(eyes.host);
    let mut units: Vec<&str> =
        wanted.iter().filter_map(|wanted| wanted.thing.unit.as_deref()).collect();
    units.sort_unstable();
    units.dedup();
    let asked = looking.ask_units(&units);
    let mut budget = eyes.dear_at_once;
    let mut drift = Drift::default();
    for wanted in &wanted {
        let looked = match (&asked, &wanted.thing.unit) {
            (Err(error), Some(_)) => Looked {
                finding: Watched::unknown(
                    wanted.thing.kind,
                    &wanted.thing.subject,
                    error.to_string(),
                ),
                blocked: true,
                unseen: false,
            },
            _ => look_at(wanted, eyes, &looking, memory, &mut budget),
        };
        drift.unseen += usize::from(looked.unseen);
        drift.findings.push(finished(looked, wanted, eyes.settings));
    }
    memory.dear.retain(|subject, _| wanted.iter().any(|one| one.thing.subject == *subject));
    drift.findings.extend(routes(eyes));
    drift.findings.extend(mounts::look(eyes));
    drift
}

/// The newest step for each thing; of equal ones the one that changed something.
fn wanted(receipts: &[Receipt]) -> Vec<Wanted<'_>> {
    let mut things: Vec<Wanted<'_>> = Vec::new();
    for receipt in receipts {
        for (planned, owned) in &receipt.steps {
            let Some(thing) = Thing::of(planned) else { continue };
            let origin = Origin { run: receipt.run.clone(), step: planned.id.clone() };
            let one = Wanted { thing, planned, origin, owned: *owned };
            match things.iter_mut().find(|known| known.thing.subject == one.thing.subject) {
                // It was as that run wanted it: the earlier one still says how.
                Some(_) if !owned => {}
                Some(known) => *known = one,
                None => things.push(one),
            }
        }
    }
    things
}

fn look_at(
    wanted: &Wanted<'_>,
    eyes: &Eyes<'_>,
    looking: &Looking<'_>,
    memory: &mut Memory,
    budget: &mut usize,
) -> Looked {
    let Cost::Dear(paths, again) = &wanted.thing.cost else { return probe(wanted, looking) };
    let text = serde_json::to_vec(&wanted.planned.step).expect("a step always serialises");
    let step = Digest::of(&text);
    let stamps: Vec<Option<Stamp>> =
        paths.iter().map(|path| eyes.host.stamp(path).ok().flatten()).collect();
    let kept = memory.dear.get(&wanted.thing.subject).filter(|kept| kept.step == step);
    if let Some(kept) = kept
        && kept.stamps == stamps
    {
        if eyes.now.since(&kept.at) < *again || *budget == 0 {
            return kept.looked.clone();
        }
        *budget -= 1;
    } else if kept.is_none() {
        if *budget == 0 {
            let reason = "it is large, and its turn comes: one such thing is read at each look";
            let finding = Watched::unknown(wanted.thing.kind, &wanted.thing.subject, reason);
            return Looked { finding, blocked: true, unseen: false };
        }
        *budget -= 1;
    }
    let looked = probe(wanted, looking);
    let (at, kept) = (eyes.now.clone(), looked.clone());
    memory.dear.insert(wanted.thing.subject.clone(), Kept { step, stamps, at, looked: kept });
    looked
}

/// Have the step look, and judge.
fn probe(wanted: &Wanted<'_>, looking: &Looking<'_>) -> Looked {
    let Thing { kind, subject, .. } = &wanted.thing;
    let note = |_: &str| ();
    let context = Context::new(looking, &EmptyShelf, &NoValues, &KeepNothing, &note);
    let step = &wanted.planned.step;
    let judged = step.probe(&context).and_then(|before| {
        context.drop_pending();
        Ok((step.is_satisfied_by(&before)?, before))
    });
    let plain = |finding| Looked { finding, blocked: false, unseen: false };
    match judged {
        Ok((true, _)) => plain(Watched::new(*kind, subject, State::Ok, "as wanted")),
        Ok((false, before)) => {
            let difference = difference(step, &before, looking);
            let mut finding = Watched::new(*kind, subject, difference.state, difference.text);
            (finding.wanted, finding.found) = (difference.wanted, difference.found);
            finding.hint = difference.hint;
            Looked { finding, blocked: difference.blocked, unseen: false }
        }
        Err(error) => {
            let unseen = matches!(&error, StepError::Host(HostError::File { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied);
            let finding = Watched::unknown(*kind, subject, error.failure().message);
            Looked { finding, blocked: true, unseen }
        }
    }
}

/// With its remedy, where there may be one.
fn finished(looked: Looked, wanted: &Wanted<'_>, settings: &SelfHealing) -> Watched {
    let Looked { mut finding, blocked, .. } = looked;
    if !matches!(finding.state, State::Warn | State::Fail) {
        return finding;
    }
    let Some(remedy) = wanted.thing.remedy.filter(|_| !blocked) else { return finding };
    if !wanted.owned {
        let by_hand = "kdc found it as wanted and never changed it, so kdc does not put it back: do \
                       it by hand, or run `kdc-install apply`";
        finding.hint.get_or_insert_with(|| by_hand.to_owned());
        return finding;
    }
    if wanted.thing.restarts && !settings.restarts {
        let told =
            "putting it back restarts a service, which `selfHealing.restarts` does not allow";
        finding.hint.get_or_insert_with(|| told.to_owned());
        return finding;
    }
    let action = Action {
        remedy,
        subject: finding.subject.clone(),
        reason: finding.text.clone(),
        what: wanted.planned.step.summary(),
        origin: Some(wanted.origin.clone()),
    };
    finding.with_remedy(action)
}

/// The subject of the routes between the nodes' pods.
pub(crate) const ROUTES_SUBJECT: &str = "routes to the other nodes' pods";

/// Routes that the daemon has on record and the kernel has not. Who puts them back is the daemon's
/// part for routes, every few seconds ([`settle`]); here it is told.
fn routes(eyes: &Eyes<'_>) -> Option<Watched> {
    if eyes.settings.mode_of(Kind::Route) == Mode::Off {
        return None;
    }
    Some(match settle::missing(eyes.host) {
        Ok(None) => return None,
        Ok(Some(missing)) if missing.is_empty() => {
            Watched::new(Kind::Route, ROUTES_SUBJECT, State::Ok, "as wanted")
        }
        Ok(Some(missing)) => {
            let text = format!("missing: {}", missing.join(", "));
            Watched::new(Kind::Route, ROUTES_SUBJECT, State::Fail, text)
                .with_hint("`ip route`, `journalctl -u kdc-routes`")
        }
        Err(error) => Watched::unknown(Kind::Route, ROUTES_SUBJECT, error.to_string()),
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
