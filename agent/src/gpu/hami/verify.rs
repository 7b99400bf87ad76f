//! Whether a plugin took the settings: what it should have made against what it says, difference by difference.

use super::{effective::Effective, health::GpuHealth, health::GpuVerdict, register::Registered};

/// What a node says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// The register annotation, read; `None`: there is none.
    pub registered: Option<&'a [Registered]>,
    /// Devices that kubelet hands out; `None`: it does not know the resource.
    pub allocatable: Option<u64>,
    /// What the node's own agent sees, where it tells.
    pub health: Option<&'a GpuHealth>,
}

/// Memory may differ by what rounding leaves.
const SLACK_MIB: u64 = 2;

/// Every difference in words; none: it took them.
#[must_use]
pub fn differences(effective: &Effective, resource: &str, said: &Said<'_>) -> Vec<String> {
    let Some(registered) = said.registered else {
        return vec!["the device plugin has registered nothing".to_owned()];
    };
    let mut found = Vec::new();
    if registered.is_empty() {
        found.push(
            "the device plugin has registered no GPU; one that runs without NVIDIA's runtime sees none"
                .to_owned(),
        );
    }
    for gpu in registered {
        of_gpu(&mut found, effective, gpu, said.health);
    }
    for gpu in said.health.map(|health| health.gpus.as_slice()).unwrap_or_default() {
        let excluded = effective.excluded_uuids.contains(&gpu.uuid)
            || gpu
                .index
                .is_some_and(|index| effective.excluded_indexes.contains(&u64::from(index)));
        let missing = !registered.iter().any(|known| known.id == gpu.uuid);
        // What is sick may be lost to the plugin too.
        if missing && !excluded && gpu.verdict == GpuVerdict::Ok {
            found.push(format!("{} is not registered", gpu.uuid));
        }
    }
    let healthy: u64 = registered.iter().filter(|gpu| gpu.health).map(|gpu| gpu.count).sum();
    match said.allocatable {
        Some(devices) if effective.shares() && devices != healthy => {
            found.push(format!("kubelet hands out {devices} of `{resource}`, not {healthy}"));
        }
        None if !registered.is_empty() => found.push(format!("kubelet knows no `{resource}`")),
        Some(_) | None => {}
    }
    found
}

fn of_gpu(
    found: &mut Vec<String>,
    effective: &Effective,
    gpu: &Registered,
    health: Option<&GpuHealth>,
) {
    let id = &gpu.id;
    if effective.excluded_uuids.contains(id)
        || effective.excluded_indexes.contains(&u64::from(gpu.index))
    {
        found.push(format!("{id} is excluded, and registered"));
        return;
    }
    if !gpu.mode.is_empty() && gpu.mode != effective.mode {
        found.push(format!("{id} is in mode `{}`, not `{}`", gpu.mode, effective.mode));
    }
    if !effective.shares() {
        return;
    }
    if gpu.count != effective.split_count {
        found.push(format!("{id} is shared by {}, not {}", gpu.count, effective.split_count));
    }
    let cores = (effective.core_scaling * 100.0).round();
    if (gpu.devcore as f64 - cores).abs() > 1.0 {
        found.push(format!("{id} gives {} % of its cores, not {cores} %", gpu.devcore));
    }
    let known = health.and_then(|health| health.gpus.iter().find(|known| known.uuid == *id));
    if let Some(memory) = known.and_then(|known| known.memory_mib) {
        let wanted = (memory as f64 * effective.memory_scaling) as u64;
        if gpu.devmem.abs_diff(wanted) > SLACK_MIB {
            found.push(format!("{id} gives {} MiB, not {wanted}", gpu.devmem));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            effective::{Defaults, effective},
            health::GpuCondition,
        },
        *,
    };

    const UUID: &str = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec";
    const OTHER: &str = "GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448";

    fn registered() -> Vec<Registered> {
        let gpu = |id: &str, index, numa| Registered {
            id: id.to_owned(),
            index,
            count: 4,
            devmem: 24576,
            devcore: 100,
            model: "NVIDIA-A30".to_owned(),
            numa,
            mode: "hami-core".to_owned(),
            health: true,
        };
        vec![gpu(UUID, 0, 0), gpu(OTHER, 1, 1)]
    }

    fn health() -> GpuHealth {
        let gpu = |uuid: &str, index| GpuCondition {
            uuid: uuid.to_owned(),
            index: Some(index),
            model: None,
            memory_mib: Some(16384),
            mig: None,
            verdict: GpuVerdict::Ok,
            reason: String::new(),
        };
        GpuHealth { gpus: vec![gpu(UUID, 0), gpu(OTHER, 1)] }
    }

    fn wanted(more: &str) -> Effective {
        let text = format!(
            r#"{{"nodeconfig":[{{"name":"w1","devicesplitcount":4,"devicememoryscaling":1.5{more}}}]}}"#
        );
        effective(Some(&text), "w1", &Defaults::default())
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table, a difference a row")]
    fn what_was_taken_has_no_difference_and_each_difference_is_told() {
        type Alter = fn(&mut Vec<Registered>, &mut GpuHealth, &mut Option<u64>);
        let table: &[(&str, Alter, &[&str])] = &[
            ("", |_, _, _| {}, &[]),
            (
                "",
                |gpus, _, _| gpus[0].count = 10,
                &["shared by 10, not 4", "hands out 8 of `nvidia.com/gpu`, not 14"],
            ),
            ("", |gpus, _, _| gpus[1].devmem = 16384, &["gives 16384 MiB, not 24576"]),
            ("", |gpus, _, _| gpus[1].devmem = 24575, &[]),
            ("", |gpus, _, _| gpus[1].mode = "mig".to_owned(), &["in mode `mig`, not `hami-core`"]),
            ("", |gpus, _, _| gpus[1].mode.clear(), &[]),
            (
                "",
                |gpus, _, allocatable| {
                    gpus.pop();
                    *allocatable = Some(4);
                },
                &["is not registered"],
            ),
            (
                "",
                |gpus, health, allocatable| {
                    gpus.pop();
                    *allocatable = Some(4);
                    health.gpus[1].verdict = GpuVerdict::Cordon;
                },
                &[],
            ),
            (
                "",
                |gpus, _, allocatable| {
                    gpus[0].health = false;
                    *allocatable = Some(4);
                },
                &[],
            ),
            (
                "",
                |gpus, health, _| {
                    gpus.clear();
                    health.gpus.clear();
                },
                &["no GPU", "hands out 8"],
            ),
            ("", |_, _, allocatable| *allocatable = None, &["kubelet knows no"]),
            (
                r#","devicecorescaling":2"#,
                |_, _, _| {},
                &["gives 100 % of its cores, not 200 %"; 2],
            ),
            (r#","filterdevices":{"index":[1]}"#, |_, _, _| {}, &["is excluded, and registered"]),
            (
                r#","filterdevices":{"index":[1]}"#,
                |gpus, _, allocatable| {
                    gpus.pop();
                    *allocatable = Some(4);
                },
                &[],
            ),
            (
                r#","operatingmode":"mig""#,
                |gpus, _, _| {
                    gpus.iter_mut().for_each(|g| {
                        g.mode = "mig".to_owned();
                        g.count = 7;
                    })
                },
                &[],
            ),
        ];
        for (number, (more, alter, wanted_words)) in table.iter().enumerate() {
            let (mut gpus, mut health, mut allocatable) = (registered(), health(), Some(8));
            alter(&mut gpus, &mut health, &mut allocatable);
            let said = Said { registered: Some(&gpus), allocatable, health: Some(&health) };
            let found = differences(&wanted(more), "nvidia.com/gpu", &said);
            assert_eq!(found.len(), wanted_words.len(), "row {number}: {found:?}");
            for (found, words) in found.iter().zip(*wanted_words) {
                assert!(found.contains(words), "row {number}: {found}");
            }
        }
        assert_eq!(differences(&wanted(""), "r", &Said::default()).len(), 1);
    }
}
