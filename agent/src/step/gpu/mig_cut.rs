//! How a GPU is cut and how it should be: what has to be ordered for the one to become the other. Pure.

use std::collections::BTreeMap;

use super::{
    mig_geometry::{Instance, MigGpu, MigRefusal, Profile, plan},
    mig_use::Uses,
};
use crate::gpu::mig::{CutGpu, CutInstance, CutProfile, Order, Part};

/// Slices as the planner counts them; no driver has more than fit.
fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn profile_of<'g>(gpu: &'g CutGpu, instance: &CutInstance) -> Option<&'g CutProfile> {
    gpu.profiles.iter().find(|profile| profile.id == instance.profile)
}

/// The name of an instance's profile, if one compute instance has all of it. Any other is none of those that a cluster
/// file can name.
fn name_of(gpu: &CutGpu, instance: &CutInstance) -> Option<String> {
    let profile = profile_of(gpu, instance)?;
    match instance.parts.as_slice() {
        [part] if part.start == 0 && part.size == profile.compute_slices => {
            Some(profile.name.clone())
        }
        _ => None,
    }
}

/// MIG is on, and the GPU has exactly these instances.
pub(super) fn stands(gpu: &CutGpu, wanted: &BTreeMap<String, u8>) -> bool {
    let mut counts = BTreeMap::<String, u8>::new();
    for instance in &gpu.instances {
        let Some(name) = name_of(gpu, instance) else { return false };
        *counts.entry(name).or_default() += 1;
    }
    gpu.mode.is_some_and(|mode| mode.current) && counts == *wanted
}

/// MIG starts with the next reset, and not before.
pub(super) fn waits(gpu: &CutGpu) -> bool {
    gpu.mode.is_some_and(|mode| mode.pending && !mode.current)
}

fn first<'w>(users: impl IntoIterator<Item = &'w String>) -> Option<String> {
    let users: Vec<&str> = users.into_iter().map(String::as_str).collect();
    (!users.is_empty()).then(|| users.join("; "))
}

/// What is to be ordered so that the GPU is cut as wanted: where MIG is off, it is switched on first and the rest ordered
/// after another look.
pub(super) fn orders(
    gpu: &CutGpu,
    uses: &Uses,
    wanted: &BTreeMap<String, u8>,
) -> Result<Vec<Order>, MigRefusal> {
    let profiles = gpu.profiles.iter().map(|profile| Profile {
        name: profile.name.clone(),
        size: small(profile.size),
        starts: profile.starts.iter().copied().map(small).collect(),
    });
    let instances = gpu.instances.iter().map(|instance| Instance {
        id: instance.id,
        profile: name_of(gpu, instance).unwrap_or_default(),
        start: small(instance.start),
        size: small(instance.size),
        used_by: uses.instances.get(&instance.id).and_then(first),
    });
    let mig = MigGpu {
        uuid: gpu.uuid.clone(),
        supported: gpu.mode.is_some(),
        enabled: gpu.mode.is_some_and(|mode| mode.current),
        used_by: first(&uses.whole),
        profiles: profiles.collect(),
        instances: instances.collect(),
    };
    let work = plan(&mig, wanted)?;
    if work.enable {
        return Ok(vec![Order::Mode { on: true }]);
    }
    let gone = work.destroy.into_iter().map(|instance| Order::Destroy { instance });
    let made = work.create.into_iter().filter_map(|(name, start)| {
        let profile = gpu.profiles.iter().find(|profile| profile.name == name)?;
        let (start, size) = (u32::from(start), profile.size);
        Some(Order::Create { profile: profile.id, start, size, parts: Vec::new() })
    });
    Ok(gone.chain(made).collect())
}

/// The same instance, whatever number it has: profile, place, and how it is cut itself.
fn is_same(one: &CutInstance, other: &CutInstance) -> bool {
    let cut = |instance: &CutInstance| -> Vec<(u32, u32, u32)> {
        instance.parts.iter().map(|part| (part.profile, part.start, part.size)).collect()
    };
    (one.profile, one.start, one.size, cut(one))
        == (other.profile, other.start, other.size, cut(other))
}

/// What is to be ordered so that the GPU is cut as it was. An instance that goes and that somebody uses is a refusal.
pub(super) fn orders_back(
    now: &CutGpu,
    uses: &Uses,
    was: &CutGpu,
) -> Result<Vec<Order>, MigRefusal> {
    let (Some(mode), Some(mode_was)) = (now.mode, was.mode) else { return Ok(Vec::new()) };
    let in_use = |by: String| MigRefusal::InUse { uuid: now.uuid.clone(), by };
    let mut orders = Vec::new();
    if mode.current
        && !mode_was.current
        && let Some(by) = first(&uses.whole)
    {
        return Err(in_use(by));
    }
    if !mode.current && mode_was.current {
        orders.push(Order::Mode { on: true });
    }
    for instance in &now.instances {
        if was.instances.iter().any(|known| is_same(known, instance)) {
            continue;
        }
        if let Some(by) = uses.instances.get(&instance.id).and_then(first) {
            return Err(in_use(by));
        }
        orders.push(Order::Destroy { instance: instance.id });
    }
    let plain = |part: &Part| Part { id: None, uuid: None, ..part.clone() };
    let gone =
        was.instances.iter().filter(|one| !now.instances.iter().any(|now| is_same(one, now)));
    orders.extend(gone.map(|instance| Order::Create {
        profile: instance.profile,
        start: instance.start,
        size: instance.size,
        parts: instance.parts.iter().map(plain).collect(),
    }));
    if mode.pending != mode_was.pending || mode.current && !mode_was.current {
        orders.push(Order::Mode { on: mode_was.pending });
    }
    Ok(orders)
}
