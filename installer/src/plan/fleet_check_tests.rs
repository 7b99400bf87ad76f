//! One table for the checks across nodes.

use std::collections::BTreeSet;

use super::*;
use crate::plan::samples;

struct World {
    cluster: Cluster,
    index: Index,
    facts: BTreeMap<String, Facts>,
    offsets: BTreeMap<String, i64>,
}

impl World {
    fn good() -> Self {
        let cluster = samples::cluster_of(3);
        let facts = samples::facts(&cluster);
        let offsets = cluster.nodes.iter().map(|node| (node.name.clone(), 120)).collect();
        Self { cluster, index: samples::index(), facts, offsets }
    }

    fn judge(&self) -> Vec<FleetFinding> {
        judge(&Fleet {
            cluster: &self.cluster,
            index: &self.index,
            facts: &self.facts,
            clock_offset_ms: &self.offsets,
        })
    }

    fn facts_of(&mut self, node: &str) -> &mut Facts {
        self.facts.get_mut(node).expect(node)
    }
}

#[test]
fn good_nodes_pass_every_check() {
    let findings = World::good().judge();
    assert_eq!(findings.len(), CHECKS.len());
    for found in findings {
        assert_eq!(found.finding.verdict, Verdict::Ok, "{found:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a case a line")]
fn each_check_names_the_nodes_and_the_fix() {
    type Case = (&'static str, Verdict, &'static [&'static str], &'static str, fn(&mut World));
    let table: &[Case] = &[
        ("facts", Verdict::Unknown, &["w2"], "no facts of w2", |world| {
            world.facts.remove("w2");
        }),
        ("fleet-hostname", Verdict::Fail, &["w1", "w2"], "hostnamectl", |world| {
            world.facts_of("w2").hostname = "w1".to_owned();
        }),
        ("fleet-machine-id", Verdict::Fail, &["cp1", "w1"], "cloned", |world| {
            let id = world.facts["cp1"].machine_id.clone();
            world.facts_of("w1").machine_id = id;
        }),
        ("fleet-machine-id", Verdict::Unknown, &["w1"], "denied", |world| {
            world.facts_of("w1").machine_id = Known::Unknown("denied".to_owned());
        }),
        ("fleet-address", Verdict::Fail, &["w1"], "behind NAT", |world| {
            world.cluster.nodes[1].address = "192.0.2.7".parse().expect("address");
        }),
        ("fleet-address", Verdict::Fail, &["w1", "w2"], "is set on w1 and w2", |world| {
            let mut twice = world.facts["w2"].addresses.value().expect("known").clone();
            twice.extend(world.facts["w1"].addresses.value().expect("known").clone());
            world.facts_of("w2").addresses = Known::Known(twice);
        }),
        ("fleet-clock", Verdict::Fail, &["w2"], "600 s ahead of", |world| {
            world.offsets.insert("w2".to_owned(), 600_120);
        }),
        ("fleet-clock", Verdict::Fail, &["cp1"], "31 s behind", |world| {
            world.offsets.insert("cp1".to_owned(), 120 - 31_000);
        }),
        ("fleet-clock", Verdict::Unknown, &["w1"], "not compared", |world| {
            world.offsets.remove("w1");
        }),
        ("fleet-name", Verdict::Warn, &["w1"], "storage-7", |world| {
            world.facts_of("w1").hostname = "storage-7.example.com".to_owned();
        }),
        ("fleet-name", Verdict::Fail, &["w1"], "another node's", |world| {
            world.facts_of("w1").hostname = "cp1".to_owned();
            world.facts_of("cp1").hostname = "w1".to_owned();
        }),
        ("fleet-ranges", Verdict::Fail, &["w1"], "spec.network.podCIDR", |world| {
            let mut address = world.facts["w1"].addresses.value().expect("known")[0].clone();
            address.address = "10.244.9.1/24".to_owned();
            world.facts_of("w1").addresses = Known::Known(vec![address]);
        }),
        ("fleet-platform", Verdict::Fail, &["w1"], "linux/arm64", |world| {
            world.facts_of("w1").platform = "linux/arm64".to_owned();
        }),
        ("fleet-ownership", Verdict::Fail, &["cp1"], "`other`", |world| {
            world.facts_of("cp1").ownership.cluster = Some("other".to_owned());
        }),
    ];
    for (id, verdict, nodes, words, change) in table {
        let mut world = World::good();
        change(&mut world);
        let findings = world.judge();
        let found = findings
            .iter()
            .find(|found| found.finding.id == *id && found.nodes == *nodes)
            .unwrap_or_else(|| panic!("{id} of {nodes:?}: {findings:#?}"));
        assert_eq!(found.finding.verdict, *verdict, "{found:?}");
        let fix = found.finding.fix.clone().expect("a fix");
        assert!(format!("{} {fix}", found.finding.detail).contains(words), "{found:?}");
    }
}

#[test]
fn what_this_cluster_put_on_a_node_is_no_conflict() {
    let mut world = World::good();
    let mut address = world.facts["w1"].addresses.value().expect("known")[0].clone();
    let own = address.clone();
    address.address = "10.244.12.1/24".to_owned();
    world.facts_of("w1").addresses = Known::Known(vec![own, address]);
    world.facts_of("w1").ownership.cluster = Some("demo".to_owned());
    assert!(world.judge().iter().all(|found| found.finding.verdict == Verdict::Ok));
}

#[test]
fn two_nodes_whose_clocks_differ_are_told() {
    let mut world = World::good();
    world.cluster.nodes.pop();
    world.facts.remove("w2");
    world.offsets = BTreeMap::from([("cp1".to_owned(), 0), ("w1".to_owned(), 600_000)]);
    let fails = world.judge().iter().filter(|found| found.finding.verdict == Verdict::Fail).count();
    assert_eq!(fails, 1);
}

#[test]
fn every_check_across_nodes_stands_in_the_docs() {
    let docs = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md"))
        .expect("docs/checks.md");
    let mut seen: BTreeSet<&str> = kdc_agent::check::all().iter().map(|check| check.id).collect();
    for (id, _) in CHECKS {
        assert!(seen.insert(id), "{id} comes twice");
        assert!(docs.contains(&format!("| `{id}` |")), "docs/checks.md lacks {id}");
    }
}
