//! Undo over many nodes: workers first, all at once; control planes when no worker is left in
//! force, since a worker may need them to leave.

use std::time::{Duration, Instant};

use kdc_agent::wire::{Event, EventBody, Outcome, Reply, RequestBody};

use super::{
    Door, Hand,
    conduct::{NodeEnd, NodeResult},
    each,
    link::Link,
    wrong_answer,
};
use crate::{
    show::{
        News,
        news::{Stage, StepState},
    },
    ssh::SshError,
};

/// Pause before looking again at an undo that is said to go on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The agent's answer to `Undo` where nothing is in force.
const NOTHING_IN_FORCE: &str = "AGENT-030";

/// How often an undo that ended without a word is taken up again.
const RESUMES: u32 = 3;

/// Undo everything in force on these nodes, and have the agents remove themselves. A node's
/// failure does not stop the others.
pub async fn take_back<D: Door>(links: &[&Link<'_, D>], parallel: usize) -> Vec<NodeResult> {
    let began = Instant::now();
    each(links.iter().copied(), parallel, |link| async move {
        let mut run = String::new();
        let end = match undo_one(link, &mut run).await {
            Ok(outcome) => NodeEnd::Run(outcome),
            Err(error) => {
                link.observer().news(&News::NodeFailed {
                    node: link.node().to_owned(),
                    code: error.code().to_owned(),
                    message: error.to_string(),
                    hint: error.hint(),
                });
                NodeEnd::Lost(error)
            }
        };
        NodeResult { end, run, sent_bytes: 0, elapsed: began.elapsed() }
    })
    .await
}

async fn undo_one<D: Door>(link: &Link<'_, D>, run: &mut String) -> Result<Outcome, SshError> {
    let mut outcome = Outcome::Undone { steps: 0 };
    if has_runs(link).await? {
        link.stage(Stage::Undoing);
        outcome = undo_runs(link, run).await?;
        if !matches!(outcome, Outcome::Undone { .. }) {
            return Ok(outcome);
        }
    }
    link.stage(Stage::Departing);
    link.tell(RequestBody::Depart, "depart").await?;
    Ok(outcome)
}

async fn has_runs<D: Door>(link: &Link<'_, D>) -> Result<bool, SshError> {
    match link.ask(RequestBody::Runs).await? {
        Reply::Runs { runs } => Ok(runs
            .iter()
            .any(|run| run.in_force || !matches!(run.outcome, Outcome::Undone { .. }))),
        _ => Err(wrong_answer(link.node(), "runs")),
    }
}

async fn undo_runs<D: Door>(link: &Link<'_, D>, run: &mut String) -> Result<Outcome, SshError> {
    let mut resumes = 0;
    loop {
        let (started, resumed) = match link.ask(RequestBody::Undo).await {
            Ok(Reply::Started { run, resumed }) => (run, resumed),
            Ok(_) => return Err(wrong_answer(link.node(), "undo")),
            Err(error) if error.code() == NOTHING_IN_FORCE => {
                return Ok(Outcome::Undone { steps: 0 });
            }
            Err(error) => return Err(error),
        };
        let node = link.node().to_owned();
        link.observer().news(&News::Run { node, run: started.clone(), resumed });
        run.clone_from(&started);
        match follow(link, &started).await? {
            Outcome::Interrupted if resumes < RESUMES => resumes += 1,
            outcome => return Ok(outcome),
        }
    }
}

/// Follow the undo to its end, over cut connections.
async fn follow<D: Door>(link: &Link<'_, D>, run: &str) -> Result<Outcome, SshError> {
    let (mut seen, mut number) = (0, 0);
    loop {
        let hand = link.hand().await?;
        let observer = link.observer();
        let (node, after) = (link.node().to_owned(), seen);
        let mut on_event = |event: Event| {
            if event.seq > 0 && event.seq <= seen {
                return;
            }
            seen = seen.max(event.seq);
            if let Some(news) = tell(&node, &event, &mut number) {
                observer.news(&news);
            }
        };
        match hand.attach(run, after, &mut on_event).await {
            Ok(Outcome::Running { .. }) => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(outcome) => return Ok(outcome),
            Err(error) if error.is_link() => link.drop_hand(&hand, &error).await,
            Err(error) => return Err(error),
        }
    }
}

fn tell(node: &str, event: &Event, number: &mut usize) -> Option<News> {
    let node = node.to_owned();
    let (step, state) = match &event.body {
        EventBody::Undone { step } => {
            *number += 1;
            (step, StepState::Undone)
        }
        EventBody::StepFailed { step, .. } => (step, StepState::Failed),
        EventBody::Note { step, text } => {
            return Some(News::Note { node, step: step.clone(), text: text.clone() });
        }
        _ => return None,
    };
    let phase = "undo".to_owned();
    Some(News::Step { node, number: *number, of: 0, phase, step: step.clone(), state })
}
