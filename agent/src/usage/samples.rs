//! Records for tests: a node and some pods of some tenants.

use crate::meter::record::{Amounts, JournalId, Level, Marks, Pod, Record, Resource, Subject};

/// Namespaces that pods are in, by turns.
pub(crate) const NAMESPACES: [&str; 4] = ["acme-shop", "acme-lab", "beta-web", "kube-system"];

/// The node's record and those of so many pods, for the hour that begins then, numbered from `first`.
pub(crate) fn hour(pods: usize, from: i64, first: u64) -> Vec<Record> {
    stretch(("n1", [7; 16]), Level::Hour, pods, from, first)
}

/// The same of whatever node and level.
pub(crate) fn stretch(
    (node, journal): (&str, [u8; 16]),
    level: Level,
    pods: usize,
    from: i64,
    first: u64,
) -> Vec<Record> {
    let record = |seq: u64, subject: Subject, amounts: Amounts| Record {
        journal: JournalId::from_bytes(journal),
        seq,
        level,
        from,
        to: from + level.seconds(),
        node: node.to_owned(),
        subject,
        amounts,
        marks: Marks::default(),
    };
    let (mut all, mut whole) = (Vec::new(), Amounts::default());
    for place in 0..pods {
        let number = place as u64;
        let mut amounts = Amounts::default();
        let seconds = level.seconds().unsigned_abs();
        amounts.add(Resource::CpuTime, None, seconds * (1_000 + number * 77));
        amounts.add(Resource::Memory, None, seconds * (1 << 28) + number);
        amounts.add(Resource::NetworkSent, Some("eth0"), 1_000_003 * (number + 1));
        if place % 3 == 1 {
            amounts.add(Resource::GpuAllocated, Some("GPU-1"), seconds * 250);
        }
        whole.merge(&amounts);
        let subject = Subject::Pod(Pod {
            uid: format!("{node}-{place}"),
            namespace: NAMESPACES[place % NAMESPACES.len()].to_owned(),
            name: format!("pod-{place}"),
            ..Pod::default()
        });
        all.push(record(first + 1 + number, subject, amounts));
    }
    whole.add(Resource::CpuTime, None, 12_345);
    all.insert(0, record(first, Subject::Node, whole));
    all
}
