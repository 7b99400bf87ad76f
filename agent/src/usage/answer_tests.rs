use proptest::prelude::*;

use super::*;
use crate::{
    meter::record::{Amounts, Marks, Record},
    usage::{
        batch,
        calendar::DAY,
        samples,
        store::Store,
        tenant::{Change, Owner},
    },
};

/// 2000-02-28, midnight.
const START: i64 = 951_696_000;
const HOUR: i64 = 3600;

fn owned(namespace: &str, at: i64, organization: &str) -> Change {
    let owner =
        Owner { organization: organization.to_owned(), project: format!("{organization}-p") };
    Change { namespace: namespace.to_owned(), at, uid: "1".to_owned(), owner }
}

fn tenants() -> Tenants {
    Tenants::of([
        owned("acme-shop", 0, "acme"),
        owned("acme-lab", 0, "acme"),
        owned("beta-web", 0, "beta"),
    ])
}

fn store_of(batches: &[Vec<Record>]) -> (tempfile::TempDir, Shelf) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    for records in batches {
        store.take(&batch::encode(records).unwrap(), "test").unwrap();
    }
    store.commit().unwrap();
    let shelf = store.shelf().clone();
    (folder, shelf)
}

fn ask(span: (i64, i64), by: &[Dimension]) -> Query {
    Query {
        span: Span { from: span.0, to: span.1 },
        by: by.to_vec(),
        of: Scope::Pods,
        only: Only::default(),
    }
}

fn get(shelf: &Shelf, tenants: &Tenants, query: &Query) -> Answer {
    answer(shelf, tenants, query, &Beside { now: i64::MAX / 8, ..Beside::default() }).unwrap()
}

fn total(answer: &Answer, resource: Resource) -> u128 {
    answer.lines.iter().map(|line| line.amounts.get(&resource).map_or(0, |total| total.0)).sum()
}

/// Hours of two nodes over two days, and the day's records of the first of them, made of its hours.
fn site() -> Vec<Vec<Record>> {
    let mut batches = Vec::new();
    let mut day: Vec<Record> = Vec::new();
    for hour in 0..48 {
        let first = u64::try_from(hour).unwrap() * 5 + 1;
        for (node, journal) in [("n1", [1; 16]), ("n2", [2; 16])] {
            batches.push(samples::stretch(
                (node, journal),
                Level::Hour,
                4,
                START + hour * HOUR,
                first,
            ));
        }
        if hour < 24 {
            for record in &batches[batches.len() - 2] {
                match day.iter_mut().find(|known| known.subject == record.subject) {
                    Some(known) => known.amounts.merge(&record.amounts),
                    None => day.push(record.clone()),
                }
            }
        }
    }
    for (place, record) in day.iter_mut().enumerate() {
        (record.level, record.from, record.to) = (Level::Day, START, START + DAY);
        record.seq = place as u64 + 1;
    }
    batches.push(day);
    batches
}

#[test]
fn a_day_is_told_by_its_record_or_by_its_hours_and_never_by_both() {
    let (_folder, shelf) = store_of(&site());
    let whole = get(&shelf, &tenants(), &ask((START, START + 2 * DAY), &[]));
    let hours: u128 = (0..48)
        .map(|hour| {
            total(
                &get(
                    &shelf,
                    &tenants(),
                    &ask((START + hour * HOUR, START + (hour + 1) * HOUR), &[]),
                ),
                Resource::CpuTime,
            )
        })
        .sum();
    assert_eq!(total(&whole, Resource::CpuTime), hours);
    // Two nodes with the same four pods, 48 hours.
    let once: u128 = (0..4).map(|number| 3600 * (1_000 + number * 77)).sum();
    assert_eq!(hours, once * 2 * 48);
    assert_eq!(whole.coverage.nodes, 2);
    assert_eq!((whole.coverage.from, whole.coverage.to), (Some(START), Some(START + 2 * DAY)));
    // Of the first node one record for each pod and day one, of the rest one for each hour.
    assert_eq!(whole.coverage.records, 4 + 4 * 24 + 4 * 48);
    assert!(whole.coverage.words(Span { from: START, to: START + 2 * DAY }).is_empty());
}

#[test]
fn nodes_are_asked_for_by_themselves_and_never_added_to_their_pods() {
    let (_folder, shelf) = store_of(&site());
    let mut query = ask((START, START + DAY), &[Dimension::Node]);
    let pods = get(&shelf, &tenants(), &query);
    query.of = Scope::Nodes;
    let nodes = get(&shelf, &tenants(), &query);
    let per_hour = 12_345;
    for (pods, nodes) in pods.lines.iter().zip(&nodes.lines) {
        assert_eq!(pods.key, nodes.key);
        assert_eq!(
            nodes.amounts[&Resource::CpuTime].0,
            pods.amounts[&Resource::CpuTime].0 + per_hour * 24
        );
    }
}

#[test]
fn one_tenant_or_device_or_node_is_what_it_is_in_the_list_of_all() {
    let (_folder, shelf) = store_of(&site());
    let span = (START, START + 2 * DAY);
    let all = get(&shelf, &tenants(), &ask(span, &[Dimension::Organization, Dimension::Namespace]));
    let keys: Vec<String> = all.lines.iter().map(|line| line.key.join("/")).collect();
    assert_eq!(keys, ["/kube-system", "acme/acme-lab", "acme/acme-shop", "beta/beta-web"]);
    for (only, of) in [("acme", 1..3), ("beta", 3..4), ("", 0..1)] {
        let mut query = ask(span, &[]);
        query.only.organization = Some(only.to_owned());
        let one = get(&shelf, &tenants(), &query);
        let sum: u128 = all.lines[of].iter().map(|line| line.amounts[&Resource::CpuTime].0).sum();
        assert_eq!(total(&one, Resource::CpuTime), sum, "{only}");
    }
    let mut query = ask(span, &[Dimension::Device]);
    let devices = get(&shelf, &tenants(), &query);
    assert_eq!(
        devices.lines.iter().map(|line| line.key[0].as_str()).collect::<Vec<_>>(),
        ["", "GPU-1", "eth0"]
    );
    query.only.device = Some("GPU-1".to_owned());
    query.only.node = Some("n2".to_owned());
    let gpu = get(&shelf, &tenants(), &query);
    assert_eq!(total(&gpu, Resource::GpuAllocated), 3600 * 250 * 48);
    assert_eq!(total(&gpu, Resource::CpuTime), 0);
    let mut nobody = ask(span, &[]);
    nobody.only.namespace = Some("not-there".to_owned());
    assert_eq!(get(&shelf, &tenants(), &nobody).lines, []);
}

#[test]
fn a_namespace_that_changes_hands_at_noon_is_billed_by_the_hour() {
    let (_folder, shelf) = store_of(&site());
    let noon = START + 12 * HOUR;
    let tenants = Tenants::of([owned("acme-shop", 0, "acme"), owned("acme-shop", noon, "gamma")]);
    let mut query = ask((START, START + DAY), &[Dimension::Organization]);
    query.only.namespace = Some("acme-shop".to_owned());
    let halves = get(&shelf, &tenants, &query);
    let sums: Vec<(&str, u128)> = halves
        .lines
        .iter()
        .map(|line| (line.key[0].as_str(), line.amounts[&Resource::CpuTime].0))
        .collect();
    assert_eq!(sums, [("acme", 3600 * 1000 * 12 * 2), ("gamma", 3600 * 1000 * 12 * 2)]);
}

#[test]
fn where_hours_are_gone_the_day_says_what_was_used_and_to_whom_it_belonged_at_its_begin() {
    let mut batches = site();
    let day = batches.pop().unwrap();
    let (_folder, shelf) = store_of(&[day]);
    let noon = START + 12 * HOUR;
    let tenants = Tenants::of([owned("acme-shop", 0, "acme"), owned("acme-shop", noon, "gamma")]);
    let mut query = ask((START, START + DAY), &[Dimension::Organization]);
    query.only.namespace = Some("acme-shop".to_owned());
    let whole = get(&shelf, &tenants, &query);
    assert_eq!(whole.lines.len(), 1);
    assert_eq!(total(&whole, Resource::CpuTime), 3600 * 1000 * 24);
    // Half of it can't be known: it is not counted, and said.
    let half = get(&shelf, &tenants, &ask((START, noon), &[]));
    assert_eq!((half.lines.len(), half.coverage.coarse), (0, vec!["2000-02-28".to_owned()]));
}

#[test]
fn what_other_control_planes_have_is_added_once() {
    let batches = site();
    let (here, there): (Vec<_>, Vec<_>) =
        batches.iter().cloned().enumerate().partition(|(place, _)| place % 3 == 0);
    let strip = |part: Vec<(usize, Vec<Record>)>| {
        part.into_iter().map(|(_, records)| records).collect::<Vec<_>>()
    };
    let (_all, whole) = store_of(&batches);
    let (_some, some) = store_of(&strip(here));
    let mut others: Vec<Vec<u8>> =
        batches.iter().map(|records| batch::encode(records).unwrap()).collect();
    others.extend(strip(there).iter().map(|records| batch::encode(records).unwrap()));
    let query = ask((START, START + 2 * DAY), &[Dimension::Namespace, Dimension::Hour]);
    let beside = Beside { batches: others, now: i64::MAX / 8 };
    let merged = answer(&some, &tenants(), &query, &beside).unwrap();
    assert_eq!(merged.lines, get(&whole, &tenants(), &query).lines);
}

#[test]
fn gaps_holes_and_nodes_that_are_behind_are_said() {
    let mut batches = site();
    batches[1][1].marks = Marks { gap_seconds: 45, resets: 1, clock_steps: 2, ..Marks::default() };
    batches.remove(4);
    let (_folder, shelf) = store_of(&batches);
    let query = ask((START, START + 3 * DAY), &[Dimension::Node]);
    let beside = Beside { now: START + 3 * DAY, ..Beside::default() };
    let answer = answer(&shelf, &tenants(), &query, &beside).unwrap();
    let coverage = answer.coverage;
    assert_eq!((coverage.gap_seconds, coverage.resets, coverage.clock_steps), (45, 1, 2));
    assert_eq!(answer.lines.iter().map(|line| line.gap_seconds).collect::<Vec<_>>(), [0, 45]);
    assert_eq!(coverage.holes.len(), 1);
    assert_eq!(
        (coverage.holes[0].node.as_str(), coverage.holes[0].numbers.runs()),
        ("n1", &[(11, 15)][..])
    );
    assert_eq!(
        coverage.behind.iter().map(|one| (one.node.as_str(), one.until)).collect::<Vec<_>>(),
        [("n1", START + 2 * DAY), ("n2", START + 2 * DAY)]
    );
}

#[test]
fn times_that_are_none_are_refused() {
    let (_folder, shelf) = store_of(&[]);
    for (from, to) in [(0, 0), (HOUR, 0), (5, HOUR), (0, HOUR + 1), (-HOUR, HOUR)] {
        let error =
            answer(&shelf, &tenants(), &ask((from, to), &[]), &Beside::default()).unwrap_err();
        assert_eq!(error.code(), "AGENT-135", "{from} {to}");
    }
    let empty = get(&shelf, &tenants(), &ask((0, HOUR), &[]));
    assert_eq!(empty.lines, []);
}

fn records() -> impl Strategy<Value = Vec<Vec<Record>>> {
    // Node, hour, pods with amounts and an owner's namespace each.
    let pod = (0_usize..4, 0_u64..u64::MAX / 1000, 0_u64..1 << 40);
    prop::collection::vec((0_u8..3, 0_i64..60, prop::collection::vec(pod, 1..5)), 1..40).prop_map(
        |parts| {
            let mut next = [1_u64; 3];
            let batch = |(node, hour, pods): (u8, i64, Vec<(usize, u64, u64)>)| {
                let first = next[usize::from(node)];
                next[usize::from(node)] += pods.len() as u64 + 1;
                let name = format!("n{node}");
                let mut records = samples::stretch(
                    (&name, [node; 16]),
                    Level::Hour,
                    pods.len(),
                    START + hour * HOUR,
                    first,
                );
                for (record, (namespace, cpu, memory)) in records.iter_mut().skip(1).zip(pods) {
                    let mut amounts = Amounts::default();
                    amounts.add(Resource::CpuTime, None, cpu);
                    amounts.add(Resource::Memory, None, memory);
                    amounts.add(
                        Resource::GpuUsed,
                        Some(["GPU-1", "GPU-2"][namespace % 2]),
                        memory / 3,
                    );
                    record.amounts = amounts;
                    if let crate::meter::record::Subject::Pod(pod) = &mut record.subject {
                        pod.namespace = samples::NAMESPACES[namespace].to_owned();
                    }
                }
                records
            };
            parts.into_iter().map(batch).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever the parts, they come to the whole: by any dimensions, cut at any hours, tenant by tenant, node by node.
    #[test]
    fn sums_over_any_partition_of_time_and_tenants_equal_the_total(
        batches in records(),
        cuts in prop::collection::btree_set(1_i64..60, 0..6),
        handed in prop::collection::vec((0_usize..4, 0_i64..60, 0_usize..3), 0..5),
        by in prop::sample::subsequence(vec![
            Dimension::Organization, Dimension::Project, Dimension::Namespace, Dimension::Workload, Dimension::Node,
            Dimension::Device, Dimension::Month, Dimension::Day, Dimension::Hour,
        ], 0..6),
    ) {
        let (_folder, shelf) = store_of(&batches);
        let organizations = ["acme", "beta", "gamma"];
        let changes = handed.into_iter().map(|(namespace, hour, organization)| {
            owned(samples::NAMESPACES[namespace], START + hour * HOUR + 7, organizations[organization])
        });
        let tenants = Tenants::of(tenants().changes().cloned().chain(changes));
        let span = (START, START + 60 * HOUR);
        let mut wanted = [0_u128; RESOURCES];
        for record in batches.iter().flatten().filter(|record| record.subject != crate::meter::record::Subject::Node) {
            record.amounts.iter().for_each(|one| wanted[one.resource as usize] += u128::from(one.value));
        }
        let sums = |answers: &[Answer]| {
            let mut sums = [0_u128; RESOURCES];
            for line in answers.iter().flat_map(|answer| &answer.lines) {
                line.amounts.iter().for_each(|(resource, total)| sums[*resource as usize] += total.0);
            }
            sums
        };
        let whole = get(&shelf, &tenants, &ask(span, &by));
        prop_assert_eq!(sums(std::slice::from_ref(&whole)), wanted, "by {:?}", by);
        prop_assert_eq!(fold(&whole.lines, &[]), get(&shelf, &tenants, &ask(span, &[])).lines);

        let mut ends: Vec<i64> = cuts.iter().map(|hour| START + hour * HOUR).collect();
        ends.push(span.1);
        let starts = std::iter::once(span.0).chain(ends.iter().copied());
        let parts: Vec<Answer> = starts.zip(&ends).map(|(from, to)| get(&shelf, &tenants, &ask((from, *to), &by))).collect();
        prop_assert_eq!(sums(&parts), wanted, "cut at {:?}", cuts);

        let each = |change: &dyn Fn(&mut Only, &str), names: &[&str]| -> Vec<Answer> {
            names.iter().map(|name| {
                let mut query = ask(span, &by);
                change(&mut query.only, name);
                get(&shelf, &tenants, &query)
            }).collect()
        };
        let own = |name: &str| Some(name.to_owned());
        prop_assert_eq!(sums(&each(&|only, name| only.organization = own(name), &["", "acme", "beta", "gamma"])), wanted);
        prop_assert_eq!(sums(&each(&|only, name| only.namespace = own(name), &samples::NAMESPACES)), wanted);
        prop_assert_eq!(sums(&each(&|only, name| only.node = own(name), &["n0", "n1", "n2"])), wanted);
    }
}
