//! What is said of GPUs, mistake by mistake.

use super::super::{
    Cluster,
    gpu::{CudaLog, Gpu, GpuMode},
    parse,
};
use crate::problem::Problems;

/// A file whose worker has this as `gpu`, and that has these further lines.
fn file(gpu: &str, more: &str) -> String {
    format!(
        "apiVersion: kdc.dev/v1\nkind: Cluster\nmetadata: {{name: demo}}\nspec:\n  nodes:\n    \
         - {{name: cp1, role: control-plane, address: 10.0.0.11}}\n    - name: w1\n      role: worker\n      \
         address: 10.0.0.12\n      labels: {{model: a100}}\n      gpu: {gpu}\n{more}"
    )
}

fn read(gpu: &str, more: &str) -> Result<Cluster, Problems> {
    parse(&file(gpu, more), "cluster.yaml")
}

fn gpu_of_worker(gpu: &str, more: &str) -> Option<Gpu> {
    let cluster = read(gpu, more).unwrap_or_else(|problems| panic!("{problems}"));
    cluster.nodes[1].gpu.clone()
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let said = "{mode: hami, splitCount: 4, memoryScaling: 1.5, coreScaling: 2, preconfiguredMemoryMiB: 4096, \
                numaTopology: true, logLevel: warnings, exclude: {indexes: [3, 1], \
                uuids: [GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec]}}";
    let gpu = gpu_of_worker(said, "").expect("a gpu");
    assert_eq!(
        (gpu.mode, gpu.split_count, gpu.log_level),
        (GpuMode::Hami, Some(4), Some(CudaLog::Warnings))
    );
    assert_eq!(gpu.memory_scaling.map(|scaling| scaling.hundredths()), Some(150));
    assert_eq!((gpu.numa_topology, gpu.preconfigured_memory_mib), (true, Some(4096)));
    assert_eq!(gpu.exclude.indexes, [1, 3]);
    let json = serde_json::to_string(&gpu).expect("JSON");
    assert_eq!(serde_json::from_str::<Gpu>(&json).expect("the same"), gpu, "{json}");
    assert!(gpu.is_for_hami() && gpu_of_worker("{mode: mig}", "").expect("a gpu").is_for_hami());
    assert!(
        !gpu_of_worker("{mode: mig, geometry: {1g.10gb: 7}}", "").expect("a gpu").is_for_hami()
    );
}

#[test]
fn a_class_is_for_those_it_names_or_whose_labels_it_names_and_a_nodes_own_word_goes_over_it() {
    let class = |whom: &str| {
        format!("  gpuClasses:\n    - {{name: shared, {whom}, mode: hami, splitCount: 8}}\n")
    };
    for whom in ["nodes: [w1]", "nodeSelector: {model: a100}"] {
        assert_eq!(
            gpu_of_worker("", &class(whom)).expect("its class's").split_count,
            Some(8),
            "{whom}"
        );
        assert_eq!(
            gpu_of_worker("{mode: whole}", &class(whom)),
            Some(Gpu::of(GpuMode::Whole)),
            "{whom}"
        );
    }
    assert_eq!(gpu_of_worker("", &class("nodes: [cp1]")), None);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a trap a line")]
fn each_silent_trap_is_refused_with_its_reason() {
    let class = |text: &str| format!("  gpuClasses:\n    - {text}\n");
    let table: &[(&str, String, &str, &str, &str)] = &[
        ("{mode: MIG}", String::new(), "mode", "`MIG` is not known", "did you mean `mig`"),
        ("{mode: hamy}", String::new(), "mode", "not known", "did you mean `hami`"),
        ("{mode: hami-core}", String::new(), "mode", "not known", "`hami`"),
        ("{splitCount: 4}", String::new(), "mode", "missing", "`hami`"),
        ("{mode: hami, splitcount: 4}", String::new(), "splitcount", "no such field", "`splitCount`"),
        ("{mode: hami, splitCount: 0}", String::new(), "splitCount", "`0`", "from 1 to 256"),
        ("{mode: hami, splitCount: \"4\"}", String::new(), "splitCount", "`4`", "whole number"),
        ("{mode: hami, memoryScaling: 0.8}", String::new(), "memoryScaling", "`0.8`", "from 1 to 10"),
        ("{mode: hami, memoryScaling: 0}", String::new(), "memoryScaling", "`0`", "from 1 to 10"),
        ("{mode: hami, memoryScaling: 50}", String::new(), "memoryScaling", "`50`", "from 1 to 10"),
        ("{mode: hami, coreScaling: \"2\"}", String::new(), "coreScaling", "no number", "e.g. `1.5`"),
        ("{mode: hami, numaTopology: false}", String::new(), "numaTopology", "can't take effect", "for the cluster"),
        (
            "{mode: hami, preconfiguredMemoryMiB: 0}",
            String::new(),
            "preconfiguredMemoryMiB",
            "`0`",
            "from 1",
        ),
        ("{mode: hami, logLevel: 3}", String::new(), "logLevel", "`3` is not known", "`infos`"),
        ("{mode: mig, splitCount: 4}", String::new(), "splitCount", "does nothing with mode `mig`", "`hami`"),
        ("{mode: mig, memoryScaling: 2}", String::new(), "memoryScaling", "does nothing", "`hami`"),
        ("{mode: hami, geometry: {1g.10gb: 7}}", String::new(), "geometry", "does nothing", "`mig`"),
        ("{mode: mig, geometry: {1g: 7}}", String::new(), "geometry.1g", "no MIG profile", "nvidia-smi"),
        ("{mode: mig, geometry: {1g.10gb: 0}}", String::new(), "geometry.1g.10gb", "`0`", "from 1 to 16"),
        ("{mode: mig, geometry: {}}", String::new(), "geometry", "no profile", "no `geometry`"),
        ("{mode: whole, exclude: {indexes: [0]}}", String::new(), "exclude", "does nothing", "`passthrough`"),
        ("{mode: hami, exclude: {}}", String::new(), "exclude", "no GPU", "no `exclude`"),
        ("{mode: hami, exclude: {indexes: [0, 0]}}", String::new(), "exclude.indexes[1]", "second time", "once"),
        ("{mode: hami, exclude: {indexes: [64]}}", String::new(), "exclude.indexes[0]", "`64`", "from 0 to 63"),
        ("{mode: hami, exclude: {uuids: [GPU-1]}}", String::new(), "exclude.uuids[0]", "no GPU's UUID", "-L"),
        ("{mode: hami, exclude: {uuid: [GPU-1]}}", String::new(), "exclude.uuid", "no such field", "`uuids`"),
        ("", class("{name: a, nodes: [W1], mode: hami}"), "nodes[0]", "no node `W1`", "did you mean `w1`"),
        ("", class("{name: a, nodes: [w9x], mode: hami}"), "nodes[0]", "no node `w9x`", "spec.nodes"),
        ("", class("{name: a, nodes: [], mode: hami}"), "nodes", "no node of this file", "at least one"),
        ("", class("{name: a, mode: hami}"), "", "in one way", "`nodes` or `nodeSelector`"),
        ("", class("{name: a, nodes: [w1], nodeSelector: {model: a100}, mode: hami}"), "", "in one way", "or"),
        ("", class("{name: a, nodeSelector: {model: A100}, mode: hami}"), "nodeSelector", "no node has", "labels"),
        ("", class("{name: a, nodeSelector: {}, mode: hami}"), "nodeSelector", "no node has", "labels"),
        ("", class("{name: A, nodes: [w1], mode: hami}"), "name", "class's name", "lower-case"),
        (
            "",
            "  gpuClasses:\n    - {name: b, nodes: [w1], mode: whole}\n    - {name: a, nodes: [w1], mode: hami}\n"
                .to_owned(),
            "",
            "in class `b` and in `a`",
            "at most one",
        ),
        (
            "",
            "  gpuClasses:\n    - {name: b, nodes: [w1], mode: whole}\n    - {name: b, nodes: [cp1], mode: hami}\n"
                .to_owned(),
            "",
            "is also the name",
            "of its own",
        ),
    ];
    for (gpu, more, field, what, expected) in table {
        let text = file(gpu, more);
        let problems = parse(&text, "cluster.yaml").expect_err(&text);
        let found = problems.list().iter().find(|problem| {
            let below = problem.field.ends_with(field);
            below && problem.what.contains(what) && problem.expected.contains(expected)
        });
        let found =
            found.unwrap_or_else(|| panic!("{field}: {what}; {expected}:\n{problems}\n{text}"));
        let line = if more.is_empty() { 11..=11 } else { 12..=14 };
        assert!(line.contains(&found.line), "{problems}");
    }
}

#[test]
fn labels_that_mean_virtual_machines_or_keep_the_plugin_away_are_refused_where_hami_is_wanted() {
    for (label, refused) in [
        ("nvidia.com/gpu.workload.config: vm-passthrough", "virtual machines"),
        ("kube-dc.com/gpu.workload-mode: vm-vgpu", "virtual machines"),
        ("gpu: 'off'", "keeps HAMi's device plugin away"),
    ] {
        let labelled = |mode: &str| {
            let text = file(&format!("{{mode: {mode}}}"), "").replace("model: a100", label);
            parse(&text, "cluster.yaml")
        };
        let problems = labelled("hami").expect_err(label);
        assert!(problems.to_string().contains(refused), "{problems}");
        assert_eq!(problems.list()[0].line, 7);
        assert!(labelled("passthrough").is_ok(), "{label}");
    }
    assert!(read("{mode: hami}", "").is_ok());
}
