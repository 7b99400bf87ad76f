//! One look at everything, and one round of repairs.
//!
//! Both are done by processes that end: a look by a child of the daemon, confined as that is
//! (`kdc-agent heal-look`); repairs, and looks for which the daemon has no right, by a unit of its own
//! (`kdc-heal.service`). The unit takes nobody's word for what is wrong: it looks and decides anew.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use super::{
    Action, Decision, End, History, HistoryError, Kind, Mode, Moment, NO_REPAIR_PATH, Report,
    SelfHealing, Switch, Watched, decide,
    drift::{self, Eyes},
    ledger::locked,
    repair,
    report::{DEEDS_TOLD, Memory},
    watch::service,
};
use crate::{
    audit::{Entry, Log, Who},
    daemon::config,
    host::Host,
    run::{self, Receipt},
    step::Step,
};

/// Where things are for a round.
pub struct Round<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// Runs and their journals.
    pub runs: PathBuf,
    /// Folder with `agent.yaml` and `agent.d`.
    pub config: PathBuf,
    /// What is remembered between looks; nothing is where there is no such file.
    pub memory: Option<String>,
    /// This process may read everything.
    pub all_rights: bool,
    /// Where actions are put on record.
    pub audit: Option<Log>,
    /// The memory is written; who looks only for a person leaves it as it is.
    pub remembers: bool,
}

/// What a round goes by.
struct Ground {
    settings: SelfHealing,
    switch: Switch,
    history: History,
    now: Option<Moment>,
}

impl Round<'_> {
    /// Look at everything, and say what would be done. Changes nothing but the memory.
    #[must_use]
    pub fn look(&self) -> Report {
        let ground = self.ground();
        let (findings, unseen, skipped) = self.findings(&ground);
        let decision = ground.decide(&findings);
        ground.report(self.host.now_unix_ms(), findings, decision, unseen, skipped)
    }

    /// Look, do what is to be done, and look again.
    ///
    /// # Errors
    /// If another process repairs at this moment, or the history can't be written; then nothing more
    /// was done.
    pub fn repair(&self) -> Result<Report, HistoryError> {
        let _lock = locked()?;
        let report = self.look();
        let mut history = History::load(self.host)?;
        for action in &report.act {
            let settings = self.ground().settings;
            self.act(action, &settings, &mut history)?;
        }
        Ok(if report.act.is_empty() { report } else { self.look() })
    }

    /// Written down, done, written down.
    fn act(
        &self,
        action: &Action,
        settings: &SelfHealing,
        history: &mut History,
    ) -> Result<(), HistoryError> {
        let now = Moment::now(self.host)?;
        let number = history.begin(action, &now, self.host.now_unix_ms())?;
        history.save(self.host)?;
        let (what, reason) = (&action.what, &action.reason);
        tracing::info!(subject = action.subject, what, reason, "repair");
        self.record(&Entry::HealBegun {
            number,
            remedy: action.remedy.as_str().to_owned(),
            subject: action.subject.clone(),
            reason: reason.clone(),
        });
        let end = match repair::carry_out(self.host, &self.runs, action, settings) {
            Ok(()) => End::Done,
            Err(why) => {
                tracing::error!(subject = action.subject, why, "the repair failed");
                End::Failed { why }
            }
        };
        let detail = match &end {
            End::Failed { why } => why.clone(),
            End::Begun | End::Done => what.clone(),
        };
        let outcome = end.word().to_owned();
        self.record(&Entry::HealEnded { number, outcome, detail });
        history.end(number, end);
        history.save(self.host)
    }

    /// A repair waits for no log; the history is what it must be written down in.
    fn record(&self, entry: &Entry) {
        if let Some(log) = &self.audit {
            log.note(entry, &Who::part("heal"));
        }
    }

    fn ground(&self) -> Ground {
        let loaded = config::load(&self.config);
        let settings = loaded.as_ref().map(|all| all.healing.clone()).unwrap_or_default();
        let mut off = match self.host.stat(NO_REPAIR_PATH) {
            Ok(None) => None,
            Ok(Some(_)) => Some(format!("{NO_REPAIR_PATH} is there")),
            Err(error) => Some(format!("{NO_REPAIR_PATH} can't be looked for: {error}")),
        };
        if let Err(error) = loaded {
            off.get_or_insert_with(|| format!("the configuration can't be used: {error}"));
        }
        let history = History::load(self.host).unwrap_or_else(|error| {
            off.get_or_insert_with(|| {
                let hint = error.hint().unwrap_or_default();
                format!("nobody knows what was done before: {error}; {hint}")
            });
            History::default()
        });
        let now = Moment::now(self.host);
        if let Err(error) = &now {
            off.get_or_insert_with(|| format!("there is no clock to count by: {error}"));
        }
        Ground { settings, switch: off.map_or(Switch::On, Switch::Off), history, now: now.ok() }
    }

    fn findings(&self, ground: &Ground) -> (Vec<Watched>, usize, Option<String>) {
        if ground.settings.mode == Mode::Off {
            return (Vec::new(), 0, Some("the configuration switches self-healing off".to_owned()));
        }
        let receipts: Vec<Receipt> = match run::receipts(&self.runs) {
            Ok(Ok(receipts)) => receipts,
            Ok(Err(run)) => {
                return (Vec::new(), 0, Some(format!("run {run} is at work on this node")));
            }
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                return (
                    Vec::new(),
                    0,
                    Some(format!("what kdc did here is not known: {error}; {hint}")),
                );
            }
        };
        let mut memory = match &self.memory {
            Some(path) => Memory::load(self.host, path),
            None => Memory::default(),
        };
        let now = ground.now.clone().unwrap_or(Moment { boot: String::new(), since_boot_ms: 0 });
        let dear_at_once = if self.all_rights { usize::MAX } else { 1 };
        let eyes = Eyes { host: self.host, settings: &ground.settings, now: &now, dear_at_once };
        let drift = drift::look(&eyes, &receipts, &mut memory.drift);
        let mut findings = drift.findings;
        if ground.settings.mode_of(Kind::Service) != Mode::Off {
            findings.extend(self.failed_services(&receipts, &now));
        }
        memory.settle(&mut findings, self.all_rights, &now, self.host.now_unix_ms());
        if let Some(path) = self.memory.as_ref().filter(|_| self.remembers)
            && let Err(error) = memory.save(self.host, path)
        {
            tracing::warn!(%error, "what was seen is not remembered");
        }
        (findings, drift.unseen, None)
    }
}

/// Services of kdc's that failed and may be started again; how all of them stand is told elsewhere.
impl Round<'_> {
    fn failed_services(&self, receipts: &[Receipt], now: &Moment) -> Vec<Watched> {
        let owned: BTreeSet<String> = receipts
            .iter()
            .flat_map(|receipt| &receipt.steps)
            .filter_map(|(planned, owned)| match &planned.step {
                Step::SetUnitState { unit, active: Some(true), .. } if *owned => Some(unit.clone()),
                _ => None,
            })
            .collect();
        if owned.is_empty() {
            return Vec::new();
        }
        let up = Duration::from_millis(now.since_boot_ms);
        match service::read(self.host, &owned) {
            Ok(services) => {
                let all = service::judge(&services, up).into_iter();
                all.filter(|finding| finding.remedy.is_some()).collect()
            }
            Err(error) => {
                tracing::warn!(%error, "services could not be looked at");
                Vec::new()
            }
        }
    }
}

impl Ground {
    fn decide(&self, findings: &[Watched]) -> Decision {
        let Some(now) = &self.now else { return Decision::default() };
        decide(findings, &self.history, &self.settings, &self.switch, now)
    }

    fn report(
        self,
        at_unix_ms: u64,
        findings: Vec<Watched>,
        decision: Decision,
        unseen: usize,
        skipped: Option<String>,
    ) -> Report {
        let History { deeds, counts, .. } = self.history;
        let from = deeds.len().saturating_sub(DEEDS_TOLD);
        let off = match self.switch {
            Switch::On => None,
            Switch::Off(by) => Some(by),
        };
        Report {
            at_unix_ms,
            mode: self.settings.mode,
            off,
            skipped,
            findings,
            act: decision.act,
            held: decision.held,
            deeds: deeds[from..].to_vec(),
            counts,
            unseen,
            interval_secs: self.settings.interval_secs,
        }
    }
}
