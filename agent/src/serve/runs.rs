//! Starting, watching and taking back runs. The runs themselves are units of their own.

use std::{path::Path, time::Duration};

use tokio::sync::mpsc::Sender;

use super::{Places, ServeError, tail::Tail};
use crate::{
    accept,
    audit::{self, Moment, Who},
    facts::now_unix_ms,
    host::{Host, Program},
    journal,
    run::{self, FileValues, Note, NoteReader, RunError},
    step::NodePlan,
    store::peer,
    traffic,
    wire::{Message, Outcome, Reply, RunSummary, SecretText},
};

/// How long a started unit may take until its journal says so.
const BEGIN_SECS: u64 = 30;

/// How long a run that has written its end down may take to let go of its journal.
const LEAVE_SECS: u64 = 30;

/// Largest value that is handed to a run, which reads no more than 1 MiB: join credentials are 1 KiB.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Between two looks at a journal.
const POLL: Duration = Duration::from_millis(75);

/// The run that goes on here. One that has written its end down and still holds its journal is about
/// to leave, or was started again and has yet to say so: which of the two is waited for.
pub(super) fn busy_run(host: &dyn Host, places: &Places) -> Result<Option<RunSummary>, ServeError> {
    busy_after(places, &mut |pause| host.sleep(pause))
}

fn busy_after(
    places: &Places,
    sleep: &mut dyn FnMut(Duration),
) -> Result<Option<RunSummary>, ServeError> {
    let mut waited = Duration::ZERO;
    loop {
        let running = |run: &RunSummary| matches!(run.outcome, Outcome::Running { .. });
        let Some(busy) = run::list(&places.runs)?.into_iter().find(running) else {
            return Ok(None);
        };
        if waited.as_secs() >= LEAVE_SECS || !run::has_ended(&places.runs.join(&busy.run))? {
            return Ok(Some(busy));
        }
        sleep(POLL);
        waited += POLL;
    }
}

/// Start the run of a plan, or take up an unfinished one of an equal plan.
pub(super) fn start(
    host: &dyn Host,
    places: &Places,
    who: &Who,
    run: &str,
    plan: &NodePlan,
) -> Result<Reply, ServeError> {
    let digest = plan.digest().map_err(|cause| RunError::Plan {
        path: places.runs.join(run),
        reason: cause.to_string(),
    })?;
    if let Some(busy) = busy_run(host, places)? {
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
    if let Err(error) = traffic::begin(host, resumed) {
        // The proof says then since when it counts: no reason to stop a run.
        tracing::warn!(%error, "the no-route counters could not be noted");
    }
    // What changes a node is not begun without its line.
    let entry = audit::Entry::run_started(&id, plan, &digest, resumed);
    places.audit.append(&entry, who, &Moment::now())?;
    start_unit(host, places, &id, "run")?;
    Ok(Reply::Started { run: id, resumed })
}

/// Start to take back everything in force. A run that still goes on is stopped first.
pub(super) fn start_undo(host: &dyn Host, places: &Places, who: &Who) -> Result<Reply, ServeError> {
    if let Some(busy) = busy_run(host, places)? {
        if busy.run.starts_with("undo-") {
            return Ok(Reply::Started { run: busy.run, resumed: true });
        }
        let unit = format!("kdc-run-{}.service", busy.run);
        host.run_checked(&Program::new("systemctl").args(["stop", &unit]).within_secs(60))?;
    }
    let in_force = run::in_force(&places.runs)?;
    if in_force.is_empty() {
        return Err(ServeError::NothingInForce);
    }
    peer::end(host, &places.share)?;
    // What was proved here is about to be taken back.
    accept::forget(host)?;
    let id = format!("undo-{}", now_unix_ms());
    let runs = in_force.into_iter().map(|run| run.run).collect();
    places.audit.note(&audit::Entry::UndoStarted { undo: id.clone(), runs }, who);
    start_unit(host, places, &id, "undo-run")?;
    Ok(Reply::Started { run: id, resumed: false })
}

fn start_unit(host: &dyn Host, places: &Places, id: &str, verb: &str) -> Result<(), ServeError> {
    let directory = places.runs.join(id);
    let before = lines_in(&directory)?;
    run::forget_notes(&places.volatile);
    let mut notes = NoteReader::new(&places.volatile, id);
    run::start_unit(host, id, &places.agent, &[verb.to_owned(), id.to_owned()])?;
    // Who attaches next must not take an older end in this journal for the end of this start.
    let mut waited = Duration::ZERO;
    while lines_in(&directory)? <= before {
        if let Some(failure) = notes.look().into_iter().find_map(Note::into_stopped) {
            return Err(ServeError::Stopped { run: id.to_owned(), failure });
        }
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
    let bytes = value.expose().len();
    if bytes > MAX_VALUE_BYTES {
        return Err(ServeError::ValueSize { name: name.to_owned(), bytes, limit: MAX_VALUE_BYTES });
    }
    if !places.runs.join(run).is_dir() {
        return Err(ServeError::NoRun { run: run.to_owned() });
    }
    FileValues::of_run(host, run).provide(name, value)?;
    Ok(Reply::Done)
}

/// Replay a run's events after `after`, then follow it until it ends.
pub(crate) async fn attach(
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
    let mut tail = Tail::new(places, run, after);
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

#[cfg(test)]
mod tests {
    use kdc_bundles::index::Digest;

    use super::*;
    use crate::{
        journal::{Entry, Journal},
        run::{NoteWriter, Observer as _},
        wire::{Event, EventBody, Failure},
    };

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
        let audit = crate::audit::Log::at(&folder.join("audit"));
        Places { runs: folder.to_owned(), volatile: folder.join("run"), audit, ..Places::system() }
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

    #[test]
    fn a_run_that_wrote_its_end_is_given_the_time_to_leave_and_any_other_is_busy_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let mut journal = begun(&folder.path().join("r1"));
        let mut never = |_| panic!("nothing to wait for");
        assert_eq!(busy_after(&places, &mut never).unwrap().unwrap().run, "r1");

        let outcome = Outcome::Undone { steps: 1 };
        journal.append(3, Entry::Ended { outcome }).unwrap();
        let mut slept = Duration::ZERO;
        let stays = busy_after(&places, &mut |pause| slept += pause).unwrap();
        assert_eq!(stays.unwrap().run, "r1");
        assert!(slept.as_secs() >= LEAVE_SECS);

        let mut journal = Some(journal);
        let mut leaves = |_| drop(journal.take());
        assert_eq!(busy_after(&places, &mut leaves).unwrap(), None);
    }

    fn note(text: &str) -> Event {
        let body = EventBody::Note { step: "c".into(), text: text.into() };
        Event { run: "r1".into(), seq: 0, at_unix_ms: 1, body }
    }

    /// The next event, in a word: its number, or what is noted.
    async fn next(receive: &mut tokio::sync::mpsc::Receiver<Message>) -> String {
        match receive.recv().await {
            Some(Message::Event(Event { body: EventBody::Note { text, .. }, .. })) => text,
            Some(Message::Event(event)) => event.seq.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn notes_come_in_their_place_and_who_attaches_anew_hears_only_the_current_one() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let mut journal = begun(&folder.path().join("r1"));
        let writer = NoteWriter::begin(&places.volatile, "r1");
        writer.recorded(2);
        writer.event(&note("of the step before"));
        let (send, mut receive) = tokio::sync::mpsc::channel(16);
        let (first, sent) = (places.clone(), send.clone());
        let first = tokio::spawn(async move { attach(&first, "r1", 0, &sent).await });
        assert_eq!(next(&mut receive).await, "2");
        assert_eq!(next(&mut receive).await, "of the step before");
        journal.append(3, Entry::Done { step: "b".into() }).unwrap();
        writer.recorded(3);
        writer.event(&note("[certs] one"));
        writer.event(&note("[certs] two"));
        for wanted in ["3", "[certs] one", "[certs] two"] {
            assert_eq!(next(&mut receive).await, wanted);
        }
        let (again, sent) = (places.clone(), send.clone());
        let again = tokio::spawn(async move { attach(&again, "r1", 2, &sent).await });
        for wanted in ["3", "[certs] two"] {
            assert_eq!(next(&mut receive).await, wanted, "attached anew");
        }
        writer.event(&note("[etcd] three"));
        for _ in [&first, &again] {
            assert_eq!(next(&mut receive).await, "[etcd] three");
        }
        let outcome = Outcome::Finished { changed: 1, found: 1 };
        journal.append(4, Entry::Ended { outcome: outcome.clone() }).unwrap();
        for attached in [first, again] {
            let reply = attached.await.unwrap().unwrap();
            assert_eq!(reply, Reply::Ended { outcome: outcome.clone() });
        }
        // Whoever attaches now hears nothing of what was said before the end.
        let reply = attach(&places, "r1", 3, &send).await.unwrap();
        assert_eq!(reply, Reply::Ended { outcome });
        for _ in 0..3 {
            assert_eq!(next(&mut receive).await, "4");
        }
        assert!(receive.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_could_not_go_on_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let journal = begun(&folder.path().join("r1"));
        let writer = NoteWriter::begin(&places.volatile, "r1");
        writer.recorded(2);
        let failure = Failure {
            code: "JOURNAL-001".into(),
            message: "cannot write the journal: No space left on device".into(),
            hint: Some("check disk space".into()),
        };
        writer.stopped(&failure, 5);
        drop(journal);
        let (send, _receive) = tokio::sync::mpsc::channel(16);
        let told = Failure::from(attach(&places, "r1", 0, &send).await.unwrap_err());
        assert_eq!(told.code, "AGENT-035");
        for part in ["run r1", "JOURNAL-001", "No space left"] {
            assert!(told.message.contains(part), "{told}");
        }
        assert_eq!(told.hint.as_deref(), Some("check disk space"));
    }

    #[test]
    fn a_value_larger_than_any_run_needs_is_refused_before_it_is_written() {
        let host = crate::host::fake::FakeHost::debian();
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let give = |bytes: usize| {
            let value = SecretText::new("x".repeat(bytes));
            provide(&host, &places, "r1", "join", &value).unwrap_err().code()
        };
        assert_eq!(give(MAX_VALUE_BYTES + 1), "AGENT-037");
        assert_eq!(give(MAX_VALUE_BYTES), "AGENT-025", "small enough, but there is no such run");
        assert!(host.calls().is_empty());
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
