//! Who uses a device: mounts, swap, and what is built on it.

use std::collections::{BTreeMap, BTreeSet};

use super::{BLOCK, Mount};
use crate::inventory::{Found, sight::Sight};

/// Who uses which device: mounts and swap, by number and by name.
pub(super) struct Uses {
    mounts: Result<BTreeMap<String, BTreeSet<String>>, (String, String)>,
    swaps: Found<BTreeSet<String>>,
    /// Names that people know (`vg-root`) of what is built on devices.
    known_as: BTreeMap<String, String>,
}

impl Uses {
    pub(super) fn probe(sight: &Sight, mounts: &Found<Vec<Mount>>, names: &[String]) -> Self {
        let mounts = match mounts {
            Found::Present { value, .. } => {
                let mut by_device: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
                for mount in value {
                    // btrfs and others mount under a number that no device has: hence by name too.
                    for key in [&mount.number, &mount.device] {
                        by_device.entry(key.clone()).or_default().insert(mount.mount_point.clone());
                    }
                }
                Ok(by_device)
            }
            Found::Absent { source } => Err((source.clone(), "not there".to_owned())),
            Found::Unknown { source, reason } => Err((source.clone(), reason.clone())),
        };
        let swaps = sight.text("/proc/swaps").map(|text| {
            let device = |line: &str| line.split_ascii_whitespace().next().map(str::to_owned);
            text.lines().skip(1).filter_map(device).collect()
        });
        let mapped = names.iter().filter(|name| name.starts_with("dm-")).filter_map(|name| {
            let known = sight.text(&format!("{BLOCK}/{name}/dm/name"));
            Some((name.clone(), known.value()?.clone()))
        });
        Self { mounts, swaps, known_as: mapped.collect() }
    }

    /// All the names of a device under `/dev`.
    fn paths(&self, name: &str) -> Vec<String> {
        let mut paths = vec![format!("/dev/{}", name.replace('!', "/"))];
        paths.extend(self.known_as.get(name).map(|known| format!("/dev/mapper/{known}")));
        paths
    }

    pub(super) fn mounts(&self, name: &str, number: &Found<String>) -> Found<Vec<String>> {
        let by_device = match &self.mounts {
            Ok(by_device) => by_device,
            Err((source, reason)) => return Found::unknown(source, reason),
        };
        let keys = self.paths(name).into_iter().chain(number.value().cloned());
        let points: BTreeSet<&String> =
            keys.filter_map(|key| by_device.get(&key)).flatten().collect();
        Found::present(points.into_iter().cloned().collect(), "/proc/self/mountinfo")
    }

    /// Absent where the kernel has no swap at all.
    pub(super) fn is_swap(&self, name: &str) -> Found<bool> {
        let is_one =
            |swaps: BTreeSet<String>| self.paths(name).iter().any(|path| swaps.contains(path));
        self.swaps.clone().map(is_one)
    }

    pub(super) fn holders(&self, sight: &Sight, name: &str) -> Found<Vec<String>> {
        sight.names(&format!("{BLOCK}/{name}/holders")).map(|names| {
            let named = |name: String| self.known_as.get(&name).cloned().unwrap_or(name);
            names.into_iter().map(named).collect()
        })
    }
}
