//! The renderer: what it keeps, what it writes, what it refuses.

use kdc_profiles::cluster::gpu::Excluded;
use proptest::prelude::*;

use super::{
    super::health::{GpuCondition, GpuVerdict},
    *,
};

const UUID: &str = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec";
/// As the chart of 2.10 writes it.
const CHART: &str = include_str!("../../../tests/fixtures/hami/config-2.10.json");

fn gpu(split: u16) -> Gpu {
    Gpu { split_count: Some(split), ..Gpu::of(GpuMode::Hami) }
}

fn view(gpus: &[(&str, u32, Option<bool>)]) -> NodeView {
    let gpu = |(uuid, index, mig): &(&str, u32, Option<bool>)| GpuCondition {
        uuid: (*uuid).to_owned(),
        index: Some(*index),
        model: Some("Tesla T4".to_owned()),
        memory_mib: Some(16384),
        mig: *mig,
        verdict: GpuVerdict::Ok,
        reason: String::new(),
    };
    let health = (!gpus.is_empty()).then(|| GpuHealth { gpus: gpus.iter().map(gpu).collect() });
    NodeView { labels: BTreeMap::new(), health }
}

fn run(
    existing: Option<&str>,
    wanted: &[(&str, Gpu)],
    owned: &[&str],
    nodes: &[(&str, NodeView)],
) -> Rendering {
    let named = |(name, value): &(&str, Gpu)| ((*name).to_owned(), value.clone());
    let viewed = |(name, value): &(&str, NodeView)| ((*name).to_owned(), value.clone());
    render(&Inputs {
        existing,
        wanted: &wanted.iter().map(named).collect(),
        owned: &owned.iter().map(|name| (*name).to_owned()).collect(),
        nodes: &nodes.iter().map(viewed).collect(),
        defaults: &Defaults::default(),
    })
}

fn nodes() -> Vec<(&'static str, NodeView)> {
    ["w1", "w2", "w3"].map(|name| (name, view(&[]))).to_vec()
}

fn words(rendering: &Rendering) -> String {
    rendering
        .problems
        .iter()
        .map(|problem| format!("{:?} {:?} {}\n", problem.weight, problem.node, problem.what))
        .collect()
}

#[test]
fn an_entry_is_added_beside_the_charts_sample_which_is_kept_and_told_of() {
    let rendering = run(Some(CHART), &[("w1", gpu(4))], &[], &nodes());
    let text = rendering.text.clone().unwrap();
    insta::assert_snapshot!(text, @r#"
    {
    "nodeconfig": [
    {
                "name": "your-node-name",
                "operatingmode": "hami-core",
                "devicememoryscaling": 1,
                "devicesplitcount": 10,
                "preconfigureddevicememory": 0,
                "migstrategy": "none",
                "filterdevices": {
                  "uuid": [],
                  "index": []
                }
            },
    {"name":"w1","operatingmode":"hami-core","devicesplitcount":4}
    ]
    }
    "#);
    assert_eq!(rendering.changed, BTreeSet::from(["w1".to_owned()]));
    assert!(
        words(&rendering)
            .contains("\"your-node-name\") an entry is for a node that the cluster does not have")
    );
}

#[test]
fn what_is_said_beside_our_fields_stays_letter_by_letter() {
    let foreign =
        r#"{ "name":"w2",  "devicesplitcount": 7, "é": 1.50, "deep":{"z":1,"a":[1 ,2]} }"#;
    let text = format!(
        r#"{{"zeta": 1e3, "nodeconfig": [{foreign}, {{"name":"w1","migstrategy":"none","DeviceSplitCount":2,"own":1.0}},
           {{"name":"w1","devicememoryscaling":3}}, {{"name":"w1","note":"keep"}}], "alpha": {{"b":1}}}}"#
    );
    let rendering = run(Some(&text), &[("w1", gpu(4))], &[], &nodes());
    let new = rendering.text.unwrap();
    for kept in [
        foreign,
        "\"zeta\": 1e3",
        "\"alpha\": {\"b\":1}",
        "\"own\":1.0",
        "\"migstrategy\":\"none\"",
        "\"note\":\"keep\"",
    ] {
        assert!(new.contains(kept), "{kept}\n{new}");
    }
    assert!(!new.contains("DeviceSplitCount") && !new.contains("devicememoryscaling"), "{new}");
    assert!(
        new.find("zeta") < new.find("nodeconfig") && new.find("nodeconfig") < new.find("alpha"),
        "{new}"
    );
    let again = run(Some(&new), &[("w1", gpu(4))], &["w1"], &nodes());
    assert_eq!(again.text.unwrap(), new);
}

#[test]
fn a_text_that_says_what_is_wanted_stays_as_it_is_to_the_letter() {
    let text = "  {\"nodeconfig\" : [ {\"devicesplitcount\":4, \"name\":\"w1\",\"operatingmode\":\"hami-core\",
        \"devicememoryscaling\":2,\"filterdevices\":{\"index\":[3]}} ]}";
    let wanted = Gpu {
        memory_scaling: Some("2.0".parse().unwrap()),
        exclude: Excluded { uuids: Vec::new(), indexes: vec![3] },
        ..gpu(4)
    };
    let rendering = run(Some(text), &[("w1", wanted)], &[], &nodes());
    assert_eq!((rendering.text.as_deref(), rendering.changed.len()), (Some(text), 0));
    assert!(rendering.owned.contains("w1"));
}

#[test]
fn every_field_is_written_in_the_type_that_hami_wants() {
    let wanted = Gpu {
        memory_scaling: Some("1.5".parse().unwrap()),
        core_scaling: Some("1".parse().unwrap()),
        preconfigured_memory_mib: Some(4096),
        numa_topology: true,
        log_level: Some(CudaLog::Infos),
        exclude: Excluded { uuids: vec![UUID.to_owned()], indexes: vec![1] },
        ..gpu(4)
    };
    let text =
        run(None, &[("w1", wanted), ("w2", Gpu::of(GpuMode::Mig))], &[], &nodes()).text.unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value,
        json!({"nodeconfig": [
            {"name": "w1", "operatingmode": "hami-core", "devicesplitcount": 4, "devicememoryscaling": 1.5,
             "devicecorescaling": 1.0, "preconfigureddevicememory": 4096, "enablenumatopology": true,
             "libcudaloglevel": "3", "filterdevices": {"uuid": [UUID], "index": [1]}},
            {"name": "w2", "operatingmode": "mig"}
        ]})
    );
    assert!(entries_of(&text).is_ok());
}

#[test]
fn what_is_not_wanted_any_more_goes_and_only_that() {
    let both = run(None, &[("w1", gpu(4)), ("w2", gpu(2))], &[], &nodes());
    let text = both.text.unwrap().replace("\"name\":\"w2\"", "\"name\":\"w2\",\"mine\":1");
    let one = run(Some(&text), &[], &["w1", "w2"], &nodes());
    let value: Value = serde_json::from_str(&one.text.unwrap()).unwrap();
    assert_eq!(value, json!({"nodeconfig": [{"name": "w2", "mine": 1}]}));
    assert!(one.owned.is_empty());
    // Nobody said that w2's entry is ours: it stays.
    let kept = run(Some(&text), &[("w1", gpu(4))], &[], &nodes());
    assert_eq!(kept.text.as_deref(), Some(text.as_str()));
}

#[test]
fn a_text_that_hami_can_not_read_is_never_written_over() {
    for (text, why) in [
        ("{", "no JSON object"),
        ("[]", "no JSON object"),
        (r#"{"nodeconfig":{}}"#, "no list"),
        (r#"{"nodeconfig":[],"NodeConfig":[]}"#, "more than once"),
        (r#"{"nodeconfig":[1]}"#, "entry 0"),
        (
            r#"{"nodeconfig":[{"name":"x","libcudaloglevel":3}]}"#,
            "`libcudaloglevel: 3`, and it must be a text in quotes",
        ),
        (r#"{"nodeconfig":[{"name":"x","devicesplitcount":-1}]}"#, "whole number from 0"),
        (r#"{"nodeconfig":[{"name":"x","devicesplitcount":1.5}]}"#, "whole number from 0"),
        (r#"{"nodeconfig":[{"name":"x","devicememoryscaling":"2"}]}"#, "a number"),
        (r#"{"nodeconfig":[{"name":"x","filterdevices":{"uuid":[1]}}]}"#, "an object with `uuid`"),
        (r#"{"nodeconfig":[{"name":["w1"]}]}"#, "a text in quotes"),
    ] {
        let rendering = run(Some(text), &[("w1", gpu(4))], &["w2"], &nodes());
        assert_eq!(rendering.text, None, "{text}");
        assert_eq!(rendering.problems[0].weight, Weight::Everything);
        assert!(rendering.problems[0].what.contains(why), "{text}: {}", words(&rendering));
        assert!(rendering.owned.contains("w2"), "what was ours stays known");
    }
}

#[test]
fn a_node_whose_settings_can_not_work_is_left_as_it_is_and_told_why() {
    let hide_all =
        Gpu { exclude: Excluded { uuids: vec![UUID.to_owned()], indexes: vec![1] }, ..gpu(4) };
    let labelled = |label: &str, value: &str| {
        let mut view = view(&[]);
        view.labels.insert(label.to_owned(), value.to_owned());
        view
    };
    let other = "GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448";
    let table: &[(&str, Gpu, NodeView, &str)] = &[
        ("w9", gpu(4), view(&[]), "no node of that name"),
        ("W1", gpu(4), view(&[]), "there is `w1`"),
        ("w1", hide_all, view(&[(UUID, 0, None), (other, 1, None)]), "hides all 2 GPUs"),
        ("w1", Gpu::of(GpuMode::Mig), view(&[(UUID, 0, Some(false))]), "Tesla T4 GPU-0055"),
        ("w1", gpu(4), labelled("nvidia.com/gpu.workload.config", "vm-vgpu"), "virtual machines"),
    ];
    for (node, gpu, view, why) in table {
        let rendering = run(Some(CHART), &[(node, gpu.clone())], &[], &[("w1", view.clone())]);
        assert_eq!(rendering.text.as_deref(), Some(CHART), "{why}");
        let problem = rendering.problems.iter().find(|problem| problem.weight == Weight::Node);
        assert!(
            problem.is_some_and(|problem| problem.what.contains(why)),
            "{why}: {}",
            words(&rendering)
        );
    }
    let exclude =
        Gpu { exclude: Excluded { uuids: vec![other.to_owned()], indexes: vec![5] }, ..gpu(4) };
    let noted = run(None, &[("w1", exclude)], &[], &[("w1", view(&[(UUID, 0, None)]))]);
    assert!(noted.changed.contains("w1"));
    assert_eq!(
        noted.problems.iter().filter(|p| p.what.contains("which the node does not have")).count(),
        2
    );
}

#[test]
fn entries_of_others_that_have_no_effect_are_told_of_and_kept() {
    let text = r#"{"nodeconfig":[{"name":"W2","devicesplitcount":3},{"name":"w3","operatingmode":"mgi","devicesplitcount":0}]}"#;
    let rendering = run(Some(text), &[("w1", gpu(4))], &[], &nodes());
    let told = words(&rendering);
    for words in [
        "for `W2`, and the node is `w2`",
        "operating mode `mgi`",
        "`devicesplitcount: 0` can't take effect",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let new = rendering.text.unwrap();
    assert!(
        new.contains(r#"{"name":"W2","devicesplitcount":3}"#) && new.contains("\"mgi\""),
        "{new}"
    );
}

#[test]
fn a_nodes_entries_can_be_put_back_as_they_were() {
    let text = r#"{"nodeconfig":[{"name":"w1","a":1.0},{"name":"w2"},{"name":"w1","b": 2}]}"#;
    let before = entries_of_node(text, "w1");
    assert_eq!(before.len(), 2);
    let new = run(Some(text), &[("w1", gpu(4))], &[], &nodes()).text.unwrap();
    let back = with_entries_of_node(&new, "w1", &before).unwrap();
    assert_eq!(entries_of_node(&back, "w1"), before);
    assert_eq!(entries_of_node(&back, "w2"), entries_of_node(text, "w2"));
    let none = with_entries_of_node(&new, "w1", &[]).unwrap();
    assert!(entries_of_node(&none, "w1").is_empty());
}

/// Two writers that both read, then both write: the second's `resourceVersion` is old, so it renders anew from what
/// the first wrote. Whoever is first, both entries are there.
#[test]
fn two_writers_at_once_lose_nothing_when_the_second_renders_anew() {
    for (first, second) in [("w1", "w2"), ("w2", "w1")] {
        let one = run(Some(CHART), &[(first, gpu(4))], &[], &nodes()).text.unwrap();
        let both = run(Some(&one), &[(second, gpu(2))], &[], &nodes()).text.unwrap();
        for name in [first, second, "your-node-name"] {
            assert_eq!(entries_of_node(&both, name).len(), 1, "{name}: {both}");
        }
    }
}

/// Any JSON, with names that HAMi knows more often than not.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (0.0..100.0_f64).prop_map(Value::from),
        "[a-zA-Z0-9 \\\\\"é-]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_entry() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("w1"), Just("w2"), Just("W1"), Just("other")];
    let extra = proptest::collection::btree_map("[a-z]{1,6}", any_json(), 0..4);
    (name, extra, proptest::option::of(0_u32..20), proptest::option::of(0.0..9.0_f64)).prop_map(
        |(name, extra, split, scaling)| {
            let mut entry: serde_json::Map<_, _> = extra.into_iter().collect();
            entry.insert("name".to_owned(), json!(name));
            entry.extend(split.map(|split| ("devicesplitcount".to_owned(), json!(split))));
            entry.extend(scaling.map(|scaling| ("devicememoryscaling".to_owned(), json!(scaling))));
            Value::Object(entry)
        },
    )
}

/// What is not ours in a text: entries of other nodes whole, and what entries of ours say beside our fields.
fn not_ours(text: &str) -> Vec<Value> {
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let entries = value["nodeconfig"].as_array().cloned().unwrap_or_default();
    let mut kept = Vec::new();
    for mut entry in entries {
        let ours = entry["name"] == "w1";
        if let (true, Some(fields)) = (ours, entry.as_object_mut()) {
            fields.retain(|name, _| name != "name" && !OURS.contains(&name.as_str()));
            kept.extend(fields.iter().map(|(name, value)| json!({ name: value })));
        } else {
            kept.push(entry);
        }
    }
    kept
}

proptest! {
    /// No text makes it panic, and a text that it can't read is not written over.
    #[test]
    fn any_text_gets_an_answer(text in "\\PC{0,200}", cut in 0_usize..400) {
        let half = CHART.get(..cut.min(CHART.len())).unwrap_or_default();
        for text in [text.clone(), format!("{half}{text}"), format!("{{\"nodeconfig\":[{text}]}}")] {
            let rendering = run(Some(&text), &[("w1", gpu(4))], &["w2"], &nodes());
            if let Some(new) = rendering.text {
                prop_assert!(entries_of(&new).is_ok());
            }
        }
    }

    /// What is not ours is never lost, and a second look changes nothing.
    #[test]
    fn foreign_entries_are_kept_and_rendering_twice_is_rendering_once(
        entries in proptest::collection::vec(any_entry(), 0..8),
        more in proptest::collection::btree_map("[a-m]{1,4}", any_json(), 0..3),
        split in 1_u16..50,
    ) {
        let mut document: serde_json::Map<_, _> = more.into_iter().collect();
        document.insert("nodeconfig".to_owned(), Value::Array(entries));
        let text = Value::Object(document.clone()).to_string();
        let rendering = run(Some(&text), &[("w1", gpu(split))], &[], &nodes());
        prop_assert!(rendering.text.is_some() || entries_of(&text).is_err());
        if let Some(new) = rendering.text {
            prop_assert_eq!(not_ours(&new), not_ours(&text));
            // Both are read back: reading rounds numbers that writing does not.
            let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
            for name in document.keys().filter(|name| *name != "nodeconfig") {
                prop_assert_eq!(&read(&new)[name], &read(&text)[name]);
            }
            let again = run(Some(&new), &[("w1", gpu(split))], &["w1"], &nodes());
            prop_assert!(again.changed.is_empty());
            prop_assert_eq!(again.text.as_deref(), Some(new.as_str()));
            let gone = run(Some(&new), &[], &["w1"], &nodes()).text.expect("it is read");
            prop_assert_eq!(not_ours(&gone), not_ours(&text));
        }
    }
}
