use super::*;
use crate::license::fingerprint::Part;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Now, in these tests.
fn now() -> Timestamp {
    Timestamp::from_unix(100 * DAY)
}

/// A node that was enrolled and seen so many seconds ago.
fn node(name: &str, enrolled: i64, seen: i64) -> Enrolled {
    Enrolled {
        name: name.to_owned(),
        roles: BTreeSet::from([Role::Worker]),
        enrolled_at: now().plus_seconds(-enrolled),
        seen_at: now().plus_seconds(-seen),
        fingerprint: Some(Fingerprint::of(&[(Part::MachineId, format!("machine of {name}"))])),
        gpus: 0,
    }
}

fn as_machine(of: &str, node: Enrolled) -> Enrolled {
    let fingerprint = Fingerprint::of(&[(Part::MachineId, format!("machine of {of}"))]);
    Enrolled { fingerprint: Some(fingerprint), ..node }
}

fn count(nodes: &[Enrolled]) -> Count {
    Count::of(nodes, &CountRule::default(), now())
}

fn names(count: &Count) -> Vec<&str> {
    count.counted.iter().map(|node| &*node.name).collect()
}

#[test]
fn nodes_count_in_the_order_of_their_enrolment_whatever_the_order_they_are_listed_in() {
    let mut nodes = vec![node("c", DAY, 0), node("a", 3 * DAY, 0), node("b", 2 * DAY, 0)];
    for _ in 0..3 {
        nodes.rotate_left(1);
        assert_eq!(names(&count(&nodes)), ["a", "b", "c"]);
        assert_eq!(count(&nodes).over(2), ["c"]);
    }
    assert!(count(&nodes).over(3).is_empty());
}

#[test]
fn one_machine_under_two_names_counts_once_and_lives_under_either() {
    let again = as_machine("a", node("a-again", DAY, 0));
    let found = count(&[node("a", 3 * DAY, 2 * DAY), again]);
    assert_eq!(names(&found), ["a"]);
    assert!(!found.counted[0].missing);
    let why = Uncounted::Same { machine: "a".to_owned() };
    assert_eq!(found.left_out, [LeftOut { name: "a-again".to_owned(), why }]);
}

#[test]
fn without_fingerprints_names_tell_nodes_apart() {
    let bare = |name: &str| Enrolled { fingerprint: None, ..node(name, DAY, 0) };
    assert_eq!(names(&count(&[bare("a"), bare("b"), bare("a")])), ["a", "b"]);
}

#[test]
fn a_missed_heartbeat_neither_frees_a_place_nor_changes_who_is_over() {
    for silent in [0, 299, 301, HOUR, 6 * DAY] {
        let found =
            count(&[node("a", 30 * DAY, silent), node("b", 29 * DAY, 0), node("c", 28 * DAY, 0)]);
        assert_eq!((names(&found), found.over(2)), (vec!["a", "b", "c"], vec!["c".to_owned()]));
        assert_eq!(found.present(), if silent > 300 { 2 } else { 3 });
    }
}

#[test]
fn who_shows_no_sign_of_life_for_days_counts_no_more_until_it_is_back() {
    let gone = node("a", 30 * DAY, 7 * DAY + 1);
    let found = count(&[gone.clone(), node("b", 29 * DAY, 0)]);
    assert_eq!(names(&found), ["b"]);
    assert!(matches!(found.left_out[0].why, Uncounted::Dead { .. }));
    let back = Enrolled { seen_at: now(), ..gone };
    assert_eq!(names(&count(&[back, node("b", 29 * DAY, 0)])), ["a", "b"]);
}

#[test]
fn a_node_enrolled_after_another_fell_silent_stands_in_its_place_and_for_one_only() {
    let nodes = [
        node("a", 30 * DAY, 0),
        node("b", 29 * DAY, 2 * HOUR),
        node("c", 28 * DAY, 3 * HOUR),
        node("d", HOUR, 0),
    ];
    let found = count(&nodes);
    assert_eq!(names(&found), ["a", "b", "d"]);
    let why = Uncounted::Replaced { by: "d".to_owned() };
    assert_eq!(found.left_out, [LeftOut { name: "c".to_owned(), why }]);
    // Enrolled before the other fell silent, it stands for itself.
    let found = count(&[node("b", 29 * DAY, HOUR), node("d", 2 * HOUR, 0)]);
    assert_eq!(names(&found), ["b", "d"]);
    // And when the silent one is back, both count.
    let found = count(&[node("b", 29 * DAY, 0), node("d", 2 * HOUR, 0)]);
    assert_eq!(names(&found), ["b", "d"]);
}

#[test]
fn only_the_roles_that_the_licence_counts_do() {
    let rule = CountRule { roles: BTreeSet::from([Role::Worker]), ..CountRule::default() };
    let plane = Enrolled { roles: BTreeSet::from([Role::ControlPlane]), ..node("cp", DAY, 0) };
    let both = [Role::ControlPlane, Role::Worker];
    let both = Enrolled { roles: BTreeSet::from(both), ..node("both", DAY, 0) };
    let found = Count::of(&[plane, both, node("w", DAY, 0)], &rule, now());
    assert_eq!(names(&found), ["both", "w"]);
    assert_eq!(found.left_out, [LeftOut { name: "cp".to_owned(), why: Uncounted::Role }]);
}

#[test]
fn too_many_is_said_after_a_while_and_taken_back_at_once() {
    let window = Window::default();
    let at = |seconds| now().plus_seconds(seconds);
    let first = Excess::default().after(true, at(0));
    assert!(!first.has_lasted(&window, at(0)) && !first.has_lasted(&window, at(9_999)));
    let second = first.after(true, at(300));
    assert!(!second.has_lasted(&window, at(300)));
    let third = second.after(true, at(600));
    assert!(third.has_lasted(&window, at(600)));
    let cleared = third.after(false, at(601));
    assert_eq!(cleared, Excess::default());
    assert!(!cleared.has_lasted(&window, at(601)));
    // A clock that goes back makes it neither negative nor endless.
    assert_eq!(third.after(true, at(-50)).since, Some(at(-50)));
    assert_eq!(third.seconds(at(-50)), 0);
}

#[test]
fn what_is_published_is_read_again() {
    let found =
        count(&[node("a", DAY, 0), as_machine("a", node("b", HOUR, 0)), node("c", DAY, 8 * DAY)]);
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Count>(&text).unwrap(), found);
    for left in &found.left_out {
        assert!(!left.why.in_words().is_empty());
    }
}
