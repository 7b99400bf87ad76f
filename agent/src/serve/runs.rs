//! Starting, watching and taking back runs. The runs themselves are units of their own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::mpsc::Sender;

use super::{Places, ServeError};
use crate::{
    facts::now_unix_ms,
    host::{Host, Program},
    journal::{self, Entry, Record},
    run::{self, FileValues, RunError},
    step::NodePlan,
    wire::{Event, Message, Outcome, Reply, RunSummary, SecretText},
};

/// How long a started unit may take until its journal says so.
const BEGIN_SECS: u64 = 30;

/// Between two looks at a journal.
const POLL: Duration = Duration::from_millis(75);

/// Looks without news after which the run's process is looked for.
const QUIET_POLLS: u32 = 14;

fn busy_run(places: &Places) -> Result<Option<RunSummary>, ServeError> {
    let running = |run: &RunSummary| matches!(run.outcome, Outcome::Running { .. });
    Ok(run::list(&places.runs)?.into_iter().find(running))
}

/// Start the run of a plan, or take up an unfinished one of an equal plan.
pub(super) fn start(
    host: &dyn Host,
    places: &Places,
    run: &str,
    plan: &NodePlan,
) -> Result<Reply, ServeError> {
    let digest = plan.digest().map_err(|cause| RunError::Plan {
        path: places.runs.join(run),
        reason: cause.to_string(),
    })?;
    if let Some(busy) = busy_run(places)? {
        if busy.plan == digest {
            return Ok(Reply::Started { run: busy.run, resumed: true });
        }
        return Err(ServeError::Busy { run: busy.run });
    }
    let unfinished = run::unfinished(&places.runs, &digest)?;
    let resumed = unfinished.is_some();
    let id = unfinished.unwrap_or_else(|| run.to_owned());
    if !resumed {
        run::create(&places.runs, &id, plan)?;
    }
    start_unit(host, places, &id, "run")?;
    Ok(Reply::Started { run: id, resumed })
}

/// Start to take back everything in force. A run that still goes on is stopped first.
pub(super) fn start_undo(host: &dyn Host, places: &Places) -> Result<Reply, ServeError> {
    if let Some(busy) = busy_run(places)? {
        if busy.run.starts_with("undo-") {
            return Ok(Reply::Started { run: busy.run, resumed: true });
        }
        let unit = format!("kdc-run-{}.service", busy.run);
        host.run_checked(&Program::new("systemctl").args(["stop", &unit]).within_secs(60))?;
    }
    if run::in_force(&places.runs)?.is_empty() {
        return Err(ServeError::NothingInForce);
    }
    let id = format!("undo-{}", now_unix_ms());
    start_unit(host, places, &id, "undo-run")?;
    Ok(Reply::Started { run: id, resumed: false })
}

fn start_unit(host: &dyn Host, places: &Places, id: &str, verb: &str) -> Result<(), ServeError> {
    let directory = places.runs.join(id);
    let before = lines_in(&directory)?;
    run::start_unit(host, id, &places.agent, &[verb.to_owned(), id.to_owned()])?;
    // Who attaches next must not take an older end in this journal for the end of this start.
    let mut waited = Duration::ZERO;
    while lines_in(&directory)? <= before {
        if waited.as_secs() >= BEGIN_SECS {
            return Err(ServeError::NotBegun { run: id.to_owned(), seconds: BEGIN_SECS });
        }
        host.sleep(POLL);
        waited += POLL;
    }
    Ok(())
}

fn lines_in(run_dir: &Path) -> Result<usize, ServeError> {
    if !run_dir.is_dir() {
        return Ok(0);
    }
    Ok(journal::load(run_dir).map_err(RunError::from)?.records.len())
}

/// Hand a value to a run.
pub(super) fn provide(
    host: &dyn Host,
    places: &Places,
    run: &str,
    name: &str,
    value: &SecretText,
) -> Result<Reply, ServeError> {
    run::check_run_id(run)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(ServeError::ValueName { name: name.to_owned() });
    }
    if !places.runs.join(run).is_dir() {
        return Err(ServeError::NoRun { run: run.to_owned() });
    }
    FileValues::of_run(host, run).provide(name, value)?;
    Ok(Reply::Done)
}

/// Replay a run's events after `after`, then follow it until it ends.
pub(super) async fn attach(
    places: &Places,
    run: &str,
    after: u64,
    events: &Sender<Message>,
) -> Result<Reply, ServeError> {
    run::check_run_id(run)?;
    let directory = places.runs.join(run);
    if !directory.is_dir() {
        return Err(ServeError::NoRun { run: run.to_owned() });
    }
    let mut tail = Tail { run: run.to_owned(), directory, seen: after, length: 0, quiet: 0 };
    loop {
        let (told, outcome) = tail.look()?;
        for event in told {
            if events.send(Message::Event(event)).await.is_err() {
                return Ok(Reply::Ended { outcome: Outcome::Interrupted });
            }
        }
        if let Some(outcome) = outcome {
            return Ok(Reply::Ended { outcome });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Follows one journal.
struct Tail {
    run: String,
    directory: PathBuf,
    seen: u64,
    length: u64,
    quiet: u32,
}

impl Tail {
    /// What is new, and how it ended if it did.
    fn look(&mut self) -> Result<(Vec<Event>, Option<Outcome>), ServeError> {
        let path = self.directory.join(journal::FILE_NAME);
        let length = fs_err::metadata(path).map_or(0, |meta| meta.len());
        if length == self.length && self.quiet < QUIET_POLLS {
            self.quiet += 1;
            return Ok((Vec::new(), None));
        }
        let quiet = length == self.length;
        (self.length, self.quiet) = (length, 0);
        let records = journal::load(&self.directory).map_err(RunError::from)?.records;
        let told = self.events_of(&records);
        let outcome = match records.last().map(|record| &record.entry) {
            Some(Entry::Ended { outcome }) => Some(outcome.clone()),
            // No news for a second: is anybody writing it at all?
            _ if quiet && !journal::is_busy(&self.directory).map_err(RunError::from)? => {
                Some(Outcome::Interrupted)
            }
            _ => None,
        };
        Ok((told, outcome))
    }

    fn events_of(&mut self, records: &[Record]) -> Vec<Event> {
        let new = records.iter().filter(|record| record.seq > self.seen);
        let told = new.filter_map(|record| {
            let body = record.entry.event()?;
            let (run, at_unix_ms) = (self.run.clone(), record.at_unix_ms);
            Some(Event { run, seq: record.seq, at_unix_ms, body })
        });
        let told = told.collect();
        self.seen = self.seen.max(records.last().map_or(0, |record| record.seq));
        told
    }
}

#[cfg(test)]
mod tests {
    use kdc_bundles::index::Digest;

    use super::*;
    use crate::{journal::Journal, wire::EventBody};

    fn begun(directory: &Path) -> Journal {
        fs_err::create_dir_all(directory).unwrap();
        let mut journal = Journal::open(directory).unwrap();
        let opened = Entry::Opened {
            version: journal::JOURNAL_VERSION,
            run: "r1".into(),
            cluster: "lab".into(),
            node: "cp1".into(),
            plan: Digest::of(b""),
            agent: "0".into(),
        };
        journal.append(1, opened).unwrap();
        journal.append(2, Entry::Found { step: "a".into() }).unwrap();
        journal
    }

    fn places(folder: &Path) -> Places {
        Places { runs: folder.to_owned(), ..Places::system() }
    }

    #[tokio::test(start_paused = true)]
    async fn attach_replays_from_any_point_and_ends_with_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begun(&folder.path().join("r1"));
        journal.append(3, Entry::Done { step: "b".into() }).unwrap();
        let outcome = Outcome::Finished { changed: 1, found: 1 };
        journal.append(4, Entry::Ended { outcome: outcome.clone() }).unwrap();
        for (after, wanted) in [(0, vec![2, 3, 4]), (2, vec![3, 4]), (9, vec![])] {
            let (send, mut receive) = tokio::sync::mpsc::channel(16);
            let reply = attach(&places(folder.path()), "r1", after, &send).await.unwrap();
            assert_eq!(reply, Reply::Ended { outcome: outcome.clone() });
            drop(send);
            let mut seen = Vec::new();
            while let Some(Message::Event(event)) = receive.recv().await {
                seen.push(event.seq);
            }
            assert_eq!(seen, wanted, "after {after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_process_is_gone_is_interrupted_and_a_live_one_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let journal = begun(&folder.path().join("r1"));
        let (send, mut receive) = tokio::sync::mpsc::channel(16);
        let places = places(folder.path());
        let attached = attach(&places, "r1", 0, &send);
        let patience = Duration::from_secs(60);
        let held = tokio::time::timeout(patience, attached).await;
        assert!(held.is_err(), "while its process lives it has not ended");
        drop(journal);
        let reply = attach(&places, "r1", 1, &send).await.unwrap();
        assert_eq!(reply, Reply::Ended { outcome: Outcome::Interrupted });
        let first = receive.recv().await;
        assert!(matches!(first, Some(Message::Event(Event { body: EventBody::Found { .. }, .. }))));
    }

    #[tokio::test]
    async fn a_run_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (send, _receive) = tokio::sync::mpsc::channel(1);
        let places = places(folder.path());
        assert_eq!(attach(&places, "r9", 0, &send).await.unwrap_err().code(), "AGENT-025");
        assert_eq!(attach(&places, "../x", 0, &send).await.unwrap_err().code(), "RUN-005");
    }
}
