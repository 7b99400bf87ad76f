//! From the MIG instances that a GPU has to those that are wanted: what goes, what stays, what is made, and where.
//! Pure.
//!
//! An instance takes a run of the GPU's memory slices, and the driver allows each profile at certain places only. So "two of
//! these and one of those" may not fit although the sum does. What is as wanted already stays as it is; nothing
//! that somebody uses is taken away.

use std::collections::{BTreeMap, BTreeSet};

/// A profile that the driver offers for a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    /// `1g.10gb`.
    pub(super) name: String,
    /// Slices that it takes.
    pub(super) size: u8,
    /// First slices at which the driver allows it.
    pub(super) starts: Vec<u8>,
}

/// An instance on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instance {
    /// The driver's number of it.
    pub(super) id: u32,
    /// Name of its profile.
    pub(super) profile: String,
    /// Its first slice.
    pub(super) start: u8,
    /// Slices that it takes.
    pub(super) size: u8,
    /// Who uses it, in words; `None` if nobody does.
    pub(super) used_by: Option<String>,
}

/// A GPU as the driver tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MigGpu {
    /// Its UUID.
    pub(super) uuid: String,
    /// It has MIG.
    pub(super) supported: bool,
    /// MIG is on.
    pub(super) enabled: bool,
    /// Who uses the GPU as a whole, in words.
    pub(super) used_by: Option<String>,
    /// What the driver offers. Some tell it only while MIG is on.
    pub(super) profiles: Vec<Profile>,
    /// What is there.
    pub(super) instances: Vec<Instance>,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Work {
    /// Switch MIG on first, which resets the GPU.
    pub(super) enable: bool,
    /// Numbers of instances to take away.
    pub(super) destroy: Vec<u32>,
    /// Profiles to make, each at its first slice.
    pub(super) create: Vec<(String, u8)>,
}

/// A geometry that is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MigRefusal {
    /// The card can't be cut.
    #[error("GPU {uuid} knows no MIG")]
    NoMig {
        /// Which GPU.
        uuid: String,
    },
    /// The driver offers no such profile.
    #[error("GPU {uuid} has no profile `{profile}`; it has {known}")]
    NoProfile {
        /// Which GPU.
        uuid: String,
        /// Which profile.
        profile: String,
        /// Those that there are.
        known: String,
    },
    /// They don't fit together.
    #[error("{geometry} do not fit on GPU {uuid} together; {fits} would")]
    NoRoom {
        /// Which GPU.
        uuid: String,
        /// The geometry, in words.
        geometry: String,
        /// As much of it as there is room for, the largest first.
        fits: String,
    },
    /// Somebody uses what would go.
    #[error("GPU {uuid} is in use: {by}")]
    InUse {
        /// Which GPU.
        uuid: String,
        /// By whom.
        by: String,
    },
}

impl MigRefusal {
    /// The next thing to try.
    #[must_use]
    pub(super) fn hint(&self) -> String {
        match self {
            Self::NoMig { .. } => "take `geometry` off this node, or exclude this GPU".to_owned(),
            Self::NoProfile { .. } => {
                "name profiles as the driver does: `nvidia-smi mig -lgip`".to_owned()
            }
            Self::NoRoom { .. } => {
                "ask for fewer or smaller instances: `nvidia-smi mig -lgipp`".to_owned()
            }
            Self::InUse { .. } => "end what uses it, then run this again".to_owned(),
        }
    }
}

/// Most slices of a GPU.
const MAX_SLICES: u8 = 64;

/// Slices from `start` on, as bits; `None` if they reach too far.
fn slices(start: u8, size: u8) -> Option<u64> {
    let end = start.checked_add(size).filter(|end| *end <= MAX_SLICES && size > 0)?;
    let upto = |place: u8| if place == 64 { u64::MAX } else { (1 << place) - 1 };
    Some(upto(end) & !upto(start))
}

/// Places for these profiles beside what is taken, the first that there are; the largest profile is placed first. Of
/// profiles alike the next one goes behind the last (`after`): their order makes no difference.
fn place(profiles: &[&Profile], taken: u64, after: Option<u8>) -> Option<Vec<(String, u8)>> {
    let Some((first, rest)) = profiles.split_first() else { return Some(Vec::new()) };
    let mut tried = BTreeSet::new();
    for start in &first.starts {
        let Some(bits) = slices(*start, first.size) else { continue };
        if bits & taken != 0 || after.is_some_and(|last| *start < last) || !tried.insert(*start) {
            continue;
        }
        let alike = rest.first().is_some_and(|next| next.name == first.name);
        if let Some(mut others) = place(rest, taken | bits, alike.then_some(*start)) {
            others.push((first.name.clone(), *start));
            return Some(others);
        }
    }
    None
}

/// What has to be done so that the GPU has exactly these instances.
///
/// # Errors
/// If the card can't have them, or somebody uses what would go.
pub(super) fn plan(gpu: &MigGpu, wanted: &BTreeMap<String, u8>) -> Result<Work, MigRefusal> {
    let uuid = || gpu.uuid.clone();
    if !gpu.supported {
        return Err(MigRefusal::NoMig { uuid: uuid() });
    }
    let in_use = |by: &str| MigRefusal::InUse { uuid: uuid(), by: by.to_owned() };
    if let (false, Some(by)) = (gpu.enabled, &gpu.used_by) {
        return Err(in_use(by));
    }
    if gpu.profiles.is_empty() && !gpu.enabled {
        return Ok(Work { enable: true, ..Work::default() });
    }
    let mut asked: Vec<&Profile> = Vec::new();
    for (name, count) in wanted {
        let Some(profile) = gpu.profiles.iter().find(|profile| profile.name == *name) else {
            let known: Vec<&str> = gpu.profiles.iter().map(|one| one.name.as_str()).collect();
            let (profile, known) = (name.clone(), known.join(", "));
            return Err(MigRefusal::NoProfile { uuid: uuid(), profile, known });
        };
        asked.extend(std::iter::repeat_n(profile, usize::from(*count)));
    }
    asked.sort_by_key(|profile| (std::cmp::Reverse(profile.size), profile.name.clone()));
    if !gpu.enabled {
        let create = fit(gpu, &asked, wanted, 0)?;
        return Ok(Work { enable: true, destroy: Vec::new(), create });
    }
    keep_most(gpu, asked, wanted)
}

/// Keeps what is wanted and there; where the rest does not fit beside it, begins anew.
fn keep_most(
    gpu: &MigGpu,
    asked: Vec<&Profile>,
    wanted: &BTreeMap<String, u8>,
) -> Result<Work, MigRefusal> {
    let (mut left, mut taken, mut destroy) = (asked.clone(), 0, Vec::new());
    // Those in use first: of two alike, the other one goes.
    let mut there: Vec<&Instance> = gpu.instances.iter().collect();
    there.sort_by_key(|instance| (instance.used_by.is_none(), instance.start));
    for instance in there {
        match left.iter().position(|profile| profile.name == instance.profile) {
            Some(at) => {
                left.remove(at);
                taken |= slices(instance.start, instance.size).unwrap_or_default();
            }
            None => destroy.push(instance),
        }
    }
    let create = match fit(gpu, &left, wanted, taken) {
        Ok(create) => create,
        Err(_) => {
            destroy = gpu.instances.iter().collect();
            fit(gpu, &asked, wanted, 0)?
        }
    };
    if let Some(by) = destroy.iter().find_map(|instance| instance.used_by.as_ref()) {
        return Err(MigRefusal::InUse { uuid: gpu.uuid.clone(), by: by.clone() });
    }
    let mut destroy: Vec<u32> = destroy.into_iter().map(|instance| instance.id).collect();
    destroy.sort_unstable();
    Ok(Work { enable: false, destroy, create })
}

/// Places beside what is taken, the first slices first.
fn fit(
    gpu: &MigGpu,
    asked: &[&Profile],
    wanted: &BTreeMap<String, u8>,
    taken: u64,
) -> Result<Vec<(String, u8)>, MigRefusal> {
    let mut placed = placed(asked, taken).ok_or_else(|| MigRefusal::NoRoom {
        uuid: gpu.uuid.clone(),
        geometry: in_words(wanted),
        fits: what_fits(asked),
    })?;
    placed.sort_by_key(|(_, start)| *start);
    Ok(placed)
}

fn placed(asked: &[&Profile], taken: u64) -> Option<Vec<(String, u8)>> {
    let all: u64 = asked.iter().map(|profile| u64::from(profile.size)).sum();
    if all > u64::from(MAX_SLICES) { None } else { place(asked, taken, None) }
}

/// As many of them as fit on a GPU without any, the largest first.
fn what_fits(asked: &[&Profile]) -> String {
    let mut fits: Vec<&Profile> = Vec::new();
    for profile in asked {
        fits.push(profile);
        if placed(&fits, 0).is_none() {
            fits.pop();
        }
    }
    let mut counts = BTreeMap::<String, u8>::new();
    for profile in fits {
        let count = counts.entry(profile.name.clone()).or_default();
        *count = count.saturating_add(1);
    }
    if counts.is_empty() { "nothing of it".to_owned() } else { in_words(&counts) }
}

/// `1 x 3g.40gb and 2 x 1g.10gb`.
pub(super) fn in_words(geometry: &BTreeMap<String, u8>) -> String {
    let parts: Vec<String> =
        geometry.iter().map(|(name, count)| format!("{count} x {name}")).collect();
    parts.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100 with 80 GB, as its driver's `mig -lgipp` has it: seven compute slices, eight of memory.
    fn h100(instances: &[(u32, &str, u8)]) -> MigGpu {
        let profile = |name: &str, size, starts: &[u8]| Profile {
            name: name.to_owned(),
            size,
            starts: starts.to_vec(),
        };
        let profiles = vec![
            profile("1g.10gb", 1, &[0, 1, 2, 3, 4, 5, 6]),
            profile("1g.20gb", 2, &[0, 2, 4, 6]),
            profile("2g.20gb", 2, &[0, 2, 4]),
            profile("3g.40gb", 4, &[0, 4]),
            profile("4g.40gb", 4, &[0]),
            profile("7g.80gb", 8, &[0]),
        ];
        let instance = |(id, name, start): &(u32, &str, u8)| Instance {
            id: *id,
            profile: (*name).to_owned(),
            start: *start,
            size: profiles.iter().find(|one| one.name == *name).unwrap().size,
            used_by: None,
        };
        let instances = instances.iter().map(instance).collect();
        MigGpu {
            uuid: "GPU-1".to_owned(),
            supported: true,
            enabled: true,
            used_by: None,
            profiles,
            instances,
        }
    }

    fn geometry(parts: &[(&str, u8)]) -> BTreeMap<String, u8> {
        parts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_is_as_wanted_stays_and_only_the_rest_is_made() {
        let there = h100(&[(1, "3g.40gb", 0), (2, "1g.10gb", 4), (3, "1g.10gb", 5)]);
        let wanted = geometry(&[("3g.40gb", 1), ("1g.10gb", 2)]);
        assert_eq!(plan(&there, &wanted).unwrap(), Work::default());
        let work =
            plan(&there, &geometry(&[("3g.40gb", 1), ("1g.10gb", 1), ("1g.20gb", 1)])).unwrap();
        assert_eq!(work.destroy, [3]);
        assert_eq!(work.create, [("1g.20gb".to_owned(), 6)]);
        let work = plan(&there, &geometry(&[])).unwrap();
        assert_eq!((work.destroy, work.create.len()), (vec![1, 2, 3], 0));
    }

    #[test]
    fn where_the_rest_does_not_fit_beside_what_stays_all_is_made_anew() {
        // The one slice stands in the middle of where the large one must be.
        let there = h100(&[(7, "1g.10gb", 2)]);
        let work = plan(&there, &geometry(&[("1g.10gb", 1), ("4g.40gb", 1)])).unwrap();
        assert_eq!(work.destroy, [7]);
        assert_eq!(work.create, [("4g.40gb".to_owned(), 0), ("1g.10gb".to_owned(), 4)]);
    }

    #[test]
    fn nothing_that_somebody_uses_is_taken_away() {
        let mut there = h100(&[(1, "1g.10gb", 0), (2, "1g.10gb", 1)]);
        there.instances[1].used_by = Some("pod p".to_owned());
        // Of two alike the idle one goes.
        assert_eq!(plan(&there, &geometry(&[("1g.10gb", 1)])).unwrap().destroy, [1]);
        let refused = plan(&there, &geometry(&[("7g.80gb", 1)])).unwrap_err();
        assert_eq!(refused.to_string(), "GPU GPU-1 is in use: pod p");
        let mut off = h100(&[]);
        (off.enabled, off.used_by) = (false, Some("process 9".to_owned()));
        assert!(matches!(plan(&off, &geometry(&[("1g.10gb", 1)])), Err(MigRefusal::InUse { .. })));
        off.used_by = None;
        let work = plan(&off, &geometry(&[("1g.10gb", 1)])).unwrap();
        assert!(work.enable && work.create.len() == 1, "{work:?}");
        // A driver that tells its profiles only while MIG is on: that first.
        off.profiles.clear();
        let work = plan(&off, &geometry(&[("1g.10gb", 1)])).unwrap();
        assert_eq!(work, Work { enable: true, ..Work::default() });
    }

    #[test]
    fn what_the_card_can_t_have_is_refused_with_what_it_can() {
        let mut none = h100(&[]);
        none.supported = false;
        for (gpu, wanted, told) in [
            (none, vec![("1g.10gb", 1)], "knows no MIG"),
            (h100(&[]), vec![("1g.5gb", 1)], "no profile `1g.5gb`; it has 1g.10gb, 1g.20gb"),
            (
                h100(&[]),
                vec![("4g.40gb", 2)],
                "2 x 4g.40gb do not fit on GPU GPU-1 together; 1 x 4g.40gb would",
            ),
            (h100(&[]), vec![("1g.10gb", 8)], "together; 7 x 1g.10gb would"),
            (
                h100(&[]),
                vec![("3g.40gb", 2), ("1g.10gb", 1)],
                "1 x 1g.10gb and 2 x 3g.40gb do not fit on GPU GPU-1 together; 2 x 3g.40gb would",
            ),
            (h100(&[]), vec![("1g.10gb", 255), ("2g.20gb", 255)], "do not fit"),
        ] {
            let refused = plan(&gpu, &geometry(&wanted)).unwrap_err();
            assert!(refused.to_string().contains(told), "{told}: {refused}");
            assert!(!refused.hint().is_empty());
        }
    }

    proptest::proptest! {
        /// Whatever was there: after the work exactly what is wanted is there, each where the driver allows it.
        #[test]
        fn a_plan_ends_with_what_is_wanted(
            before in proptest::collection::vec(0_usize..6, 0..7),
            wanted in proptest::collection::vec(0_usize..6, 0..7),
        ) {
            let empty = h100(&[]);
            let count = |list: &[usize]| {
                let mut counts = BTreeMap::<String, u8>::new();
                for at in list {
                    *counts.entry(empty.profiles[*at].name.clone()).or_default() += 1;
                }
                counts
            };
            let first = plan(&empty, &count(&before)).map(|work| work.create).unwrap_or_default();
            let first: Vec<(u32, &str, u8)> =
                first.iter().zip(1..).map(|((name, start), id)| (id, name.as_str(), *start)).collect();
            let gpu = h100(&first);
            let possible = plan(&empty, &count(&wanted)).is_ok();
            let work = plan(&gpu, &count(&wanted));
            proptest::prop_assert_eq!(work.is_ok(), possible);
            if let Ok(work) = work {
                let mut now: Vec<(String, u8)> = gpu.instances.iter()
                    .filter(|instance| !work.destroy.contains(&instance.id))
                    .map(|instance| (instance.profile.clone(), instance.start)).collect();
                now.extend(work.create);
                let (mut counts, mut taken) = (BTreeMap::<String, u8>::new(), 0_u64);
                for (name, start) in now {
                    let profile = gpu.profiles.iter().find(|one| one.name == name).unwrap();
                    proptest::prop_assert!(profile.starts.contains(&start));
                    let bits = slices(start, profile.size).unwrap();
                    proptest::prop_assert_eq!(taken & bits, 0);
                    taken |= bits;
                    *counts.entry(name).or_default() += 1;
                }
                proptest::prop_assert_eq!(counts, count(&wanted));
            }
        }
    }
}
