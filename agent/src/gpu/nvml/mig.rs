//! MIG instances, looked at and changed as ordered. Only the child process of `kdc-agent gpu-instances` runs this.

use std::collections::BTreeMap;

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use super::{
    MOST_GPUS, device, in_words,
    instances::{self, GpuInstance, GpuProfile, Place},
    raw, refusal,
};
use crate::gpu::{
    mig::{CutGpu, CutInstance, CutProcess, CutProfile, GpuOrders, Mode, Order, Part},
    report::Library,
};

/// `NVML_ERROR_INSUFFICIENT_RESOURCES`, for which `nvml-wrapper` has no word.
const INSUFFICIENT_RESOURCES: u32 = 23;

/// Most compute instances of a GPU that are named.
const MOST_PARTS: u32 = 64;

/// Most programs of one GPU that are told.
const MOST_PROCESSES: usize = 256;

/// An order that the driver refused.
pub(in crate::gpu) struct Failure {
    pub(in crate::gpu) doing: String,
    pub(in crate::gpu) reason: String,
}

/// Every GPU and how it is cut. One that can't be asked is no GPU that could be left as it is: the whole look fails.
pub(in crate::gpu) fn look(nvml: &Nvml) -> Result<Vec<CutGpu>, Library> {
    let count = nvml.device_count().map_err(|error| refusal(&error))?.min(MOST_GPUS);
    (0..count)
        .map(|index| {
            one(nvml, index).map_err(|error| Library::Failed {
                reason: format!("GPU {index} can't be asked: {}", in_words(&error)),
            })
        })
        .collect()
}

fn one(nvml: &Nvml, index: u32) -> Result<CutGpu, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let mode = match device.mig_mode() {
        Ok(mode) => Some(Mode { current: mode.current == 1, pending: mode.pending == 1 }),
        // An old driver lacks the call; a card without MIG refuses it.
        Err(
            NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound,
        ) => None,
        Err(error) => return Err(error),
    };
    let mut gpu = CutGpu {
        index,
        uuid: device.uuid()?,
        pci: device::address(&device.pci_info()?),
        model: device.name()?,
        mode,
        profiles: Vec::new(),
        instances: Vec::new(),
        processes: processes(&device)?,
    };
    let Some(mode) = mode else { return Ok(gpu) };
    let profiles = instances::gpu_profiles(&device)?;
    gpu.profiles = offered(&device, &profiles, mode)?;
    if mode.current {
        gpu.instances = standing(&device, &profiles)?;
    }
    Ok(gpu)
}

fn offered(
    device: &Device<'_>,
    profiles: &[GpuProfile],
    mode: Mode,
) -> Result<Vec<CutProfile>, NvmlError> {
    let mut offered = Vec::new();
    for profile in profiles {
        let places = match instances::places(device, profile.id) {
            // Told later, once MIG is on.
            Err(NvmlError::NotSupported) if !mode.current => continue,
            places => places?,
        };
        offered.push(CutProfile {
            id: profile.id,
            name: profile.name.clone(),
            size: places.first().map_or(0, |place| place.size),
            compute_slices: profile.compute_slices,
            starts: places.iter().map(|place| place.start).collect(),
        });
    }
    Ok(offered)
}

fn standing(device: &Device<'_>, profiles: &[GpuProfile]) -> Result<Vec<CutInstance>, NvmlError> {
    let names = names(device)?;
    let mut standing = Vec::new();
    for profile in profiles {
        for instance in instances::gpu_instances(device, profile.id)? {
            let told = instance.told()?;
            let mut parts = Vec::new();
            for kind in instance.profiles()? {
                for part in instance.parts(kind.id)? {
                    let part = part.told()?;
                    parts.push(Part {
                        profile: part.profile,
                        start: part.place.start,
                        size: part.place.size,
                        id: Some(part.id),
                        uuid: names.get(&(told.id, part.id)).cloned(),
                    });
                }
            }
            parts.sort_by_key(|part| part.start);
            let Place { start, size } = told.place;
            standing.push(CutInstance { id: told.id, profile: told.profile, start, size, parts });
        }
    }
    standing.sort_by_key(|instance| instance.start);
    Ok(standing)
}

/// The UUID of each compute instance, by GPU instance and its own number.
fn names(device: &Device<'_>) -> Result<BTreeMap<(u32, u32), String>, NvmlError> {
    let mut names = BTreeMap::new();
    for number in 0..device.mig_device_count()?.min(MOST_PARTS) {
        let part = match device.mig_device_by_index(number) {
            Ok(part) => part,
            // Numbers without a part lie between those with one.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => continue,
            Err(error) => return Err(error),
        };
        names.insert((raw::gpu_instance(&part)?, raw::compute_instance(&part)?), part.uuid()?);
    }
    Ok(names)
}

fn processes(device: &Device<'_>) -> Result<Vec<CutProcess>, NvmlError> {
    let mut found: Vec<CutProcess> = Vec::new();
    for asked in [device.running_compute_processes(), device.running_graphics_processes()] {
        let processes = match asked {
            // A card for computing has no graphics to ask for.
            Err(NvmlError::NotSupported) => continue,
            processes => processes?,
        };
        for process in processes {
            let one = CutProcess { pid: process.pid, instance: process.gpu_instance_id };
            if found.len() < MOST_PROCESSES && !found.contains(&one) {
                found.push(one);
            }
        }
    }
    Ok(found)
}

/// Carry out what was ordered, up to the first order that fails.
pub(in crate::gpu) fn change(nvml: &Nvml, all: &[GpuOrders]) -> Result<(), Failure> {
    for GpuOrders { uuid, orders } in all {
        let failed = |doing: String| {
            move |error: NvmlError| Failure { doing, reason: words_of_refusal(&error) }
        };
        let device =
            nvml.device_by_uuid(uuid.as_str()).map_err(failed(format!("find GPU {uuid}")))?;
        for order in orders {
            carry_out(&device, order).map_err(failed(format!("{} on GPU {uuid}", words(order))))?;
        }
    }
    Ok(())
}

fn words_of_refusal(error: &NvmlError) -> String {
    match error {
        NvmlError::InUse => "somebody uses it".to_owned(),
        NvmlError::UnexpectedVariant(INSUFFICIENT_RESOURCES) => {
            "the GPU has no room for it".to_owned()
        }
        NvmlError::NoPermission => "only root may do that".to_owned(),
        error => in_words(error),
    }
}

fn words(order: &Order) -> String {
    match order {
        Order::Mode { on: true } => "switch MIG on".to_owned(),
        Order::Mode { on: false } => "switch MIG off".to_owned(),
        Order::Destroy { instance } => format!("take away instance {instance}"),
        Order::Create { profile, start, .. } => {
            format!("make an instance of profile {profile} at slice {start}")
        }
    }
}

fn carry_out(device: &Device<'_>, order: &Order) -> Result<(), NvmlError> {
    match order {
        Order::Mode { on } => instances::set_mode(device, *on),
        Order::Destroy { instance } => match by_number(device, *instance)? {
            Some(found) => destroy(found),
            None => Ok(()),
        },
        Order::Create { profile, start, size, parts } => {
            let place = Place { start: *start, size: *size };
            let made = instances::create(device, *profile, place)?;
            fill(made, parts)
        }
    }
}

fn by_number<'n>(device: &Device<'n>, id: u32) -> Result<Option<GpuInstance<'n>>, NvmlError> {
    for profile in instances::gpu_profiles(device)? {
        for instance in instances::gpu_instances(device, profile.id)? {
            if instance.told()?.id == id {
                return Ok(Some(instance));
            }
        }
    }
    Ok(None)
}

fn destroy(instance: GpuInstance<'_>) -> Result<(), NvmlError> {
    for profile in instance.profiles()? {
        for part in instance.parts(profile.id)? {
            part.destroy()?;
        }
    }
    instance.destroy()
}

fn fill(instance: GpuInstance<'_>, parts: &[Part]) -> Result<(), NvmlError> {
    let Some((first, rest)) = parts.split_first() else {
        let profiles = instance.profiles()?;
        let whole = profiles.iter().max_by_key(|profile| profile.slices);
        return instance.create_part(whole.ok_or(NvmlError::NotSupported)?.id, None);
    };
    if rest.is_empty() && first.start == 0 {
        // Drivers before 535 can't be told a place, and one alone needs none.
        return instance.create_part(first.profile, None);
    }
    for part in parts {
        let place = Place { start: part.start, size: part.size };
        instance.create_part(part.profile, Some(place))?;
    }
    Ok(())
}
