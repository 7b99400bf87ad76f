//! What follows from which events, and what never may.

use kdc_agent::step::{PlannedStep, Step};
use kdc_bundles::index::Digest;
use proptest::prelude::*;

use super::*;

fn plan(node: &str, steps: &[(&str, Step)]) -> NodePlan {
    let planned = |(id, step): &(&str, Step)| PlannedStep {
        id: (*id).to_owned(),
        phase: "kubernetes".to_owned(),
        step: step.clone(),
        needs: Vec::new(),
    };
    NodePlan {
        node: node.to_owned(),
        cluster: "c".to_owned(),
        index: Digest::of(b"index"),
        steps: steps.iter().map(planned).collect(),
    }
}

fn board() -> Board {
    let init = Step::InitControlPlane { config: String::new() };
    let join = Step::JoinNode { config: String::new() };
    Board::new(&[
        plan("cp", &[("init", init), ("swap", Step::DisableSwap)]),
        plan("w1", &[("join", join.clone())]),
        plan("w2", &[("join", join)]),
    ])
}

fn event(seq: u64, body: EventBody) -> Event {
    Event { run: "r".to_owned(), seq, at_unix_ms: 0, body }
}

fn done(seq: u64, step: &str) -> Event {
    event(seq, EventBody::Done { step: step.to_owned() })
}

fn awaiting(seq: u64, value: &str) -> Event {
    event(seq, EventBody::Awaiting { step: "join".to_owned(), value: value.to_owned() })
}

#[test]
fn a_worker_gets_its_join_once_the_control_plane_is_up() {
    let mut board = board();
    board.take_in(1, &awaiting(1, JOIN));
    assert_eq!(board.take_due(), []);
    board.take_in(0, &done(1, "init"));
    assert_eq!(board.take_due(), [Due::Join { to: 1, from: 0 }]);
    assert_eq!(board.take_due(), [], "each value is taken once");
}

#[test]
fn the_control_plane_hears_that_all_joined_only_when_all_did() {
    let mut board = board();
    board.take_in(0, &done(1, "init"));
    board.take_in(0, &awaiting(2, JOINED));
    board.take_in(1, &done(1, "join"));
    assert_eq!(board.take_due(), []);
    board.take_in(2, &event(1, EventBody::Found { step: "join".to_owned() }));
    assert_eq!(board.take_due(), [Due::Joined { to: 0 }]);
}

#[test]
fn a_replayed_event_is_not_news() {
    let mut board = board();
    assert!(board.take_in(0, &done(1, "init")).is_some());
    assert!(board.take_in(0, &done(1, "init")).is_none());
    assert_eq!(board.seq(0), 1);
}

#[test]
fn a_value_that_got_lost_with_a_reboot_is_due_again() {
    let mut board = board();
    board.take_in(0, &done(1, "init"));
    board.take_in(1, &awaiting(1, JOIN));
    assert_eq!(board.take_due().len(), 1);
    board.still_awaits(1, Some(JOIN));
    assert_eq!(board.take_due().len(), 1);
    board.still_awaits(1, None);
    assert_eq!(board.take_due().len(), 0);
}

#[test]
fn only_so_many_join_at_once_and_a_place_is_free_again_when_one_has_joined_or_failed() {
    let init = Step::InitControlPlane { config: String::new() };
    let join = Step::JoinNode { config: String::new() };
    let count = JOINS_AT_ONCE + 3;
    let mut plans = vec![plan("cp", &[("init", init)])];
    plans.extend((1..=count).map(|number| plan(&format!("w{number}"), &[("join", join.clone())])));
    let mut board = Board::new(&plans);
    board.take_in(0, &done(1, "init"));
    for place in 1..=count {
        board.take_in(place, &awaiting(1, JOIN));
    }
    assert_eq!(board.take_due().len(), JOINS_AT_ONCE);
    assert_eq!(board.take_due(), [], "all places are taken");
    board.take_in(1, &done(2, "join"));
    board.end(2, Ended::Badly);
    let next: Vec<usize> = board.take_due().iter().map(Due::to).collect();
    assert_eq!(next, [JOINS_AT_ONCE + 1, JOINS_AT_ONCE + 2]);
    // Values lost with a reboot hold no place.
    board.still_awaits(3, Some(JOIN));
    assert_eq!(board.take_due(), [Due::Join { to: 3, from: 0 }]);
}

#[test]
fn a_run_that_could_never_join_is_not_worth_starting() {
    let mut board = board();
    assert_eq!(board.lacks_for_good(1), None, "the control plane may still come up");
    board.end(0, Ended::Badly);
    assert_eq!(board.lacks_for_good(1), Some(JOIN));
    assert_eq!(board.lacks_for_good(0), None, "a control plane does not join");
}

#[test]
fn when_the_control_plane_fails_the_waiting_workers_wait_in_vain() {
    let mut board = board();
    board.take_in(1, &awaiting(1, JOIN));
    board.end(0, Ended::Badly);
    assert_eq!(board.waits_in_vain(1), Some(JOIN));
    assert!(!board.is_settled(), "w2 still works towards its join");
    board.take_in(2, &awaiting(1, JOIN));
    assert!(board.is_settled());
}

#[test]
fn when_a_worker_fails_the_control_plane_waits_in_vain() {
    let mut board = board();
    board.take_in(0, &done(1, "init"));
    board.take_in(0, &awaiting(2, JOINED));
    board.end(1, Ended::Badly);
    assert_eq!(board.waits_in_vain(0), Some(JOINED));
    assert!(!board.is_settled(), "w2 may still finish");
    board.take_in(2, &done(1, "join"));
    board.end(2, Ended::Well);
    assert!(board.is_settled());
}

fn any_event() -> impl Strategy<Value = (usize, Event)> {
    let step = prop_oneof!["init", "join", "swap", "nonsense"];
    let value = prop_oneof![Just(JOIN), Just(JOINED), Just("other")];
    let body = prop_oneof![
        step.clone().prop_map(|step| EventBody::Done { step }),
        step.clone().prop_map(|step| EventBody::Begun { step }),
        step.prop_map(|step| EventBody::Found { step }),
        value.prop_map(|value| EventBody::Awaiting {
            step: "join".to_owned(),
            value: value.to_owned()
        }),
    ];
    (0..3_usize, 0..9_u64, body).prop_map(|(place, seq, body)| (place, event(seq, body)))
}

proptest! {
    /// Whatever happens, `joined` is never said before the others joined, and a join comes only
    /// from a control plane that is up.
    #[test]
    fn no_value_is_due_too_early(events in prop::collection::vec(any_event(), 0..60)) {
        let mut board = board();
        for (place, event) in events {
            board.take_in(place, &event);
            for due in board.take_due() {
                match due {
                    Due::Joined { to } => prop_assert!(board.all_others_joined(to)),
                    Due::Join { from, .. } => prop_assert!(board.nodes[from].is_open()),
                }
            }
        }
    }
}
