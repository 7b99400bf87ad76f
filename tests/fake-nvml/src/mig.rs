//! MIG: a GPU with `mig` in the file can be cut, and remembers how.
//!
//! What changes lies in `KDC_FAKE_NVML` with `.state` behind it, so that the next process finds it, as it would find a
//! GPU. A call fails where the file says so under its name, or under its name and a number (`nvmlGpuInstanceDestroy 2`):
//! then the call of that number, counted over all processes. As a real driver does it: an instance that a program runs on isn't taken
//! away, nor one that has compute instances; places don't overlap; switching MIG on waits for a reset where `wantsReset`
//! is true or a program has the GPU.
//!
//! ```yaml
//! mig:
//!   wantsReset: false
//!   profiles: [{kind: 0, id: 19, name: 1g.10gb, slices: 1, size: 1, starts: [0, 1, 2, 3, 4, 5, 6]}]
//! ```

use std::{
    collections::BTreeMap,
    ffi::{c_char, c_uint},
    path::PathBuf,
};

use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_t, nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t,
    nvmlComputeInstanceProfileInfo_t, nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t,
    nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_v2_t, nvmlReturn_t,
};
use serde::{Deserialize, Serialize};

use crate::{
    Answer, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS, gpu, put,
    world::{self, Gpu, Thing, failure, thing, world},
};

const IN_USE: nvmlReturn_t = 19;
const NO_RESOURCES: nvmlReturn_t = 23;

/// What a GPU can be cut into.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Mig {
    wants_reset: bool,
    profiles: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    /// Under which number of nvml.h it is asked for.
    kind: u32,
    id: u32,
    name: String,
    /// Of compute.
    slices: u32,
    /// Of memory.
    size: u32,
    starts: Vec<u32>,
}

/// How all GPUs are cut.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    gpus: BTreeMap<usize, Cut>,
    /// How often each call came.
    calls: BTreeMap<String, u32>,
}

/// How one GPU is cut.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Cut {
    current: u32,
    pending: u32,
    instances: Vec<Instance>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Instance {
    profile: u32,
    start: u32,
    size: u32,
    /// Profile, first slice, slices.
    parts: Vec<(u32, u32, u32)>,
}

impl Instance {
    /// A number that comes from the place.
    fn id(&self) -> u32 {
        self.start + 1
    }
}

fn path() -> PathBuf {
    let mut path = std::env::var_os("KDC_FAKE_NVML").expect("KDC_FAKE_NVML names the file of GPUs");
    path.push(".state");
    path.into()
}

fn load() -> State {
    match fs_err::read_to_string(path()) {
        Ok(text) => serde_yaml::from_str(&text).expect("a state as it was written"),
        Err(_) => State::default(),
    }
}

fn save(state: &State) {
    let text = serde_yaml::to_string(state).expect("a state has a form");
    fs_err::write(path(), text).expect("the state is written");
}

/// Count this call, fail as the file says, and give what there is of the GPU.
fn called(device: nvmlDevice_t, call: &str) -> Answer<(usize, &'static Gpu, &'static Mig, State)> {
    let gpu = gpu(device, call)?;
    let mig = gpu.mig.as_ref().ok_or(NOT_SUPPORTED)?;
    let mut state = load();
    let count = state.calls.entry(call.to_owned()).or_default();
    *count += 1;
    let numbered = format!("{call} {count}");
    save(&state);
    failure(&gpu.fail, &numbered)?;
    state.gpus.entry(device as usize).or_default();
    Ok((device as usize, gpu, mig, state))
}

fn profile_by_kind(mig: &Mig, kind: u32) -> Answer<&Profile> {
    mig.profiles.iter().find(|profile| profile.kind == kind).ok_or(NOT_SUPPORTED)
}

fn profile(mig: &Mig, id: u32) -> Answer<&Profile> {
    mig.profiles.iter().find(|profile| profile.id == id).ok_or(INVALID_ARGUMENT)
}

/// Handles: the GPU's, then one more than the first slice, then one more than the compute instance's number.
const STEP: usize = 100;

fn instance_handle(device: usize, instance: &Instance) -> usize {
    (device * STEP + instance.id() as usize) * STEP
}

fn device_of(handle: usize) -> usize {
    handle / STEP / STEP
}

/// The GPU, and the place of an instance in its list.
fn instance_of(
    handle: usize,
    call: &str,
) -> Answer<(usize, &'static Gpu, &'static Mig, State, usize)> {
    let (device, gpu, mig, state) = called(device_of(handle) as nvmlDevice_t, call)?;
    let id = handle / STEP % STEP;
    let at = state.gpus[&device].instances.iter().position(|one| one.id() as usize == id);
    Ok((device, gpu, mig, state, at.ok_or(INVALID_ARGUMENT)?))
}

/// The modes, for those that can be cut.
pub(crate) fn mode(device: nvmlDevice_t) -> Option<Answer<(c_uint, c_uint)>> {
    let Some(Thing::Gpu(known)) = thing(device as usize) else { return None };
    known.mig.as_ref()?;
    let answer = gpu(device, "nvmlDeviceGetMigMode").map(|_| {
        let cut = load().gpus.remove(&(device as usize)).unwrap_or_default();
        (cut.current, cut.pending)
    });
    Some(answer)
}

/// The parts of a GPU that can be cut: GPU instance, compute instance, UUID.
pub(crate) fn parts(device: usize) -> Option<Vec<(u32, u32, String)>> {
    world().gpus.get(device.checked_sub(1)?)?.mig.as_ref()?;
    let cut = load().gpus.remove(&device).unwrap_or_default();
    let parts = cut.instances.iter().flat_map(|one| {
        let name = move |part: &(u32, u32, u32)| {
            (one.id(), part.1, format!("MIG-{device}-{}-{}", one.id(), part.1))
        };
        one.parts.iter().map(name)
    });
    Some(parts.collect())
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceSetMigMode(
    device: nvmlDevice_t,
    mode: c_uint,
    at_once: *mut nvmlReturn_t,
) -> nvmlReturn_t {
    let done = called(device, "nvmlDeviceSetMigMode").and_then(|(at, gpu, mig, mut state)| {
        let cut = state.gpus.get_mut(&at).ok_or(INVALID_ARGUMENT)?;
        let busy = !gpu.computing.is_empty() || !gpu.drawing.is_empty();
        cut.pending = mode;
        let status = if cut.current == mode {
            SUCCESS
        } else if mig.wants_reset || busy || !cut.instances.is_empty() {
            IN_USE
        } else {
            cut.current = mode;
            SUCCESS
        };
        save(&state);
        Ok(status)
    });
    // SAFETY: as nvml.h.
    unsafe { put(done, at_once) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetGpuInstanceProfileInfoV(
    device: nvmlDevice_t,
    kind: c_uint,
    answer: *mut nvmlGpuInstanceProfileInfo_v2_t,
) -> nvmlReturn_t {
    let wanted = size_of::<nvmlGpuInstanceProfileInfo_v2_t>() | (2 << 24);
    // SAFETY: the caller's structure, which says its version first.
    if unsafe { (*answer).version } as usize != wanted {
        return 25;
    }
    let info = called(device, "nvmlDeviceGetGpuInstanceProfileInfoV").and_then(|(_, _, mig, _)| {
        let profile = profile_by_kind(mig, kind)?;
        let mut name: [c_char; 96] = [0; 96];
        for (place, letter) in name.iter_mut().zip(format!("MIG {}", profile.name).bytes()) {
            *place = letter.cast_signed();
        }
        Ok(nvmlGpuInstanceProfileInfo_v2_t {
            version: c_uint::try_from(wanted).unwrap_or(0),
            id: profile.id,
            isP2pSupported: 0,
            sliceCount: profile.slices,
            instanceCount: c_uint::try_from(profile.starts.len()).unwrap_or(0),
            multiprocessorCount: 16 * profile.slices,
            copyEngineCount: profile.slices,
            decoderCount: 0,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: 9984 * u64::from(profile.size),
            name,
        })
    });
    // SAFETY: as nvml.h.
    unsafe { put(info, answer) }
}

/// Write a list where there is room for it: its length alone where no list is given.
unsafe fn put_list<T>(list: Answer<Vec<T>>, count: *mut c_uint, places: *mut T) -> nvmlReturn_t {
    let list = match list {
        Ok(list) => list,
        Err(code) => return code,
    };
    // SAFETY: as nvml.h; lists without a length of the caller's have room for every instance.
    unsafe {
        count.write(c_uint::try_from(list.len()).unwrap_or(0));
        if !places.is_null() {
            for (at, one) in list.into_iter().enumerate() {
                places.add(at).write(one);
            }
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(
    device: nvmlDevice_t,
    id: c_uint,
    places: *mut nvmlGpuInstancePlacement_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    let call = "nvmlDeviceGetGpuInstancePossiblePlacements_v2";
    let list = called(device, call).and_then(|(_, _, mig, _)| {
        let profile = profile(mig, id)?;
        let place = |start: &u32| nvmlGpuInstancePlacement_t { start: *start, size: profile.size };
        Ok(profile.starts.iter().map(place).collect())
    });
    // SAFETY: as nvml.h.
    unsafe { put_list(list, count, places) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetGpuInstances(
    device: nvmlDevice_t,
    id: c_uint,
    places: *mut nvmlGpuInstance_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    let list = called(device, "nvmlDeviceGetGpuInstances").and_then(|(at, _, mig, state)| {
        profile(mig, id)?;
        let cut = &state.gpus[&at];
        if cut.current == 0 {
            return Err(NOT_SUPPORTED);
        }
        let ours = cut.instances.iter().filter(|one| one.profile == id);
        Ok(ours.map(|one| instance_handle(at, one) as nvmlGpuInstance_t).collect())
    });
    // SAFETY: as nvml.h.
    unsafe { put_list(list, count, places) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceCreateGpuInstanceWithPlacement(
    device: nvmlDevice_t,
    id: c_uint,
    place: *const nvmlGpuInstancePlacement_t,
    answer: *mut nvmlGpuInstance_t,
) -> nvmlReturn_t {
    // SAFETY: the caller's structure.
    let place = unsafe { *place };
    let call = "nvmlDeviceCreateGpuInstanceWithPlacement";
    let made = called(device, call).and_then(|(at, _, mig, mut state)| {
        let known = profile(mig, id)?;
        let cut = state.gpus.get_mut(&at).ok_or(INVALID_ARGUMENT)?;
        let overlaps = |one: &Instance| {
            one.start < place.start + place.size && place.start < one.start + one.size
        };
        if cut.current == 0 {
            return Err(NOT_SUPPORTED);
        }
        if place.size != known.size || !known.starts.contains(&place.start) {
            return Err(INVALID_ARGUMENT);
        }
        if cut.instances.iter().any(overlaps) {
            return Err(NO_RESOURCES);
        }
        let one = Instance { profile: id, start: place.start, size: place.size, parts: Vec::new() };
        let handle = instance_handle(at, &one);
        cut.instances.push(one);
        save(&state);
        Ok(handle as nvmlGpuInstance_t)
    });
    // SAFETY: as nvml.h.
    unsafe { put(made, answer) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlGpuInstanceGetInfo(
    instance: nvmlGpuInstance_t,
    answer: *mut nvmlGpuInstanceInfo_t,
) -> nvmlReturn_t {
    let info = instance_of(instance as usize, "nvmlGpuInstanceGetInfo").map(
        |(device, _, _, state, at)| {
            let one = &state.gpus[&device].instances[at];
            nvmlGpuInstanceInfo_t {
                device: device as nvmlDevice_t,
                id: one.id(),
                profileId: one.profile,
                placement: nvmlGpuInstancePlacement_t { start: one.start, size: one.size },
            }
        },
    );
    // SAFETY: as nvml.h.
    unsafe { put(info, answer) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlGpuInstanceDestroy(
    instance: nvmlGpuInstance_t,
) -> nvmlReturn_t {
    let done = instance_of(instance as usize, "nvmlGpuInstanceDestroy").and_then(
        |(device, gpu, _, mut state, at)| {
            let cut = state.gpus.get_mut(&device).ok_or(INVALID_ARGUMENT)?;
            let id = cut.instances[at].id();
            let used = gpu.computing.iter().any(|process| process.gpu_instance == Some(id));
            if used || !cut.instances[at].parts.is_empty() {
                return Err(IN_USE);
            }
            cut.instances.remove(at);
            save(&state);
            Ok(())
        },
    );
    done.err().unwrap_or(SUCCESS)
}

/// A compute instance has as many slices as its profile's number says: 1 to 7, and no more than its GPU instance.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
    instance: nvmlGpuInstance_t,
    kind: c_uint,
    _engines: c_uint,
    answer: *mut nvmlComputeInstanceProfileInfo_t,
) -> nvmlReturn_t {
    let call = "nvmlGpuInstanceGetComputeInstanceProfileInfo";
    let info = instance_of(instance as usize, call).and_then(|(device, _, mig, state, at)| {
        let slices = match kind {
            0..=3 => kind + 1,
            4 => 7,
            _ => return Err(INVALID_ARGUMENT),
        };
        let whole = profile(mig, state.gpus[&device].instances[at].profile)?.slices;
        if slices > whole {
            return Err(NOT_SUPPORTED);
        }
        Ok(nvmlComputeInstanceProfileInfo_t {
            id: slices,
            sliceCount: slices,
            instanceCount: whole / slices,
            multiprocessorCount: 16 * slices,
            sharedCopyEngineCount: 1,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
        })
    });
    // SAFETY: as nvml.h.
    unsafe { put(info, answer) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlGpuInstanceGetComputeInstances(
    instance: nvmlGpuInstance_t,
    id: c_uint,
    places: *mut nvmlComputeInstance_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    let call = "nvmlGpuInstanceGetComputeInstances";
    let list = instance_of(instance as usize, call).map(|(device, _, _, state, at)| {
        let ours = state.gpus[&device].instances[at].parts.iter().filter(|part| part.0 == id);
        ours.map(|part| (instance as usize + part.1 as usize + 1) as nvmlComputeInstance_t)
            .collect()
    });
    // SAFETY: as nvml.h.
    unsafe { put_list(list, count, places) }
}

fn add_part(
    instance: nvmlGpuInstance_t,
    call: &str,
    id: u32,
    start: Option<u32>,
) -> Answer<nvmlComputeInstance_t> {
    let (device, _, mig, mut state, at) = instance_of(instance as usize, call)?;
    let cut = state.gpus.get_mut(&device).ok_or(INVALID_ARGUMENT)?;
    let one = &mut cut.instances[at];
    let whole = profile(mig, one.profile)?.slices;
    let taken =
        |start: u32| one.parts.iter().any(|part| part.1 < start + id && start < part.1 + part.2);
    let start = match start {
        Some(start) => Some(start).filter(|start| start + id <= whole && !taken(*start)),
        None => (0..=whole.saturating_sub(id)).find(|start| !taken(*start)),
    };
    let start = start.filter(|_| id <= whole).ok_or(NO_RESOURCES)?;
    one.parts.push((id, start, id));
    let handle = instance as usize + start as usize + 1;
    save(&state);
    Ok(handle as nvmlComputeInstance_t)
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlGpuInstanceCreateComputeInstance(
    instance: nvmlGpuInstance_t,
    id: c_uint,
    answer: *mut nvmlComputeInstance_t,
) -> nvmlReturn_t {
    let made = add_part(instance, "nvmlGpuInstanceCreateComputeInstance", id, None);
    // SAFETY: as nvml.h.
    unsafe { put(made, answer) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlGpuInstanceCreateComputeInstanceWithPlacement(
    instance: nvmlGpuInstance_t,
    id: c_uint,
    place: *const nvmlComputeInstancePlacement_t,
    answer: *mut nvmlComputeInstance_t,
) -> nvmlReturn_t {
    // SAFETY: the caller's structure.
    let start = unsafe { (*place).start };
    let call = "nvmlGpuInstanceCreateComputeInstanceWithPlacement";
    // SAFETY: as nvml.h.
    unsafe { put(add_part(instance, call, id, Some(start)), answer) }
}

/// The instance of a compute instance, and its first slice there, which is its number too.
fn part_of(handle: usize) -> (usize, usize) {
    (handle / STEP * STEP, (handle % STEP).wrapping_sub(1))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlComputeInstanceGetInfo_v2(
    part: nvmlComputeInstance_t,
    answer: *mut nvmlComputeInstanceInfo_t,
) -> nvmlReturn_t {
    let (instance, number) = part_of(part as usize);
    let info = instance_of(instance, "nvmlComputeInstanceGetInfo_v2").and_then(
        |(device, _, _, state, at)| {
            let parts = &state.gpus[&device].instances[at].parts;
            let known = parts.iter().find(|part| part.1 as usize == number);
            let (id, start, size) = *known.ok_or(NOT_FOUND)?;
            Ok(nvmlComputeInstanceInfo_t {
                device: device as nvmlDevice_t,
                gpuInstance: instance as nvmlGpuInstance_t,
                id: start,
                profileId: id,
                placement: nvmlComputeInstancePlacement_t { start, size },
            })
        },
    );
    // SAFETY: as nvml.h.
    unsafe { put(info, answer) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlComputeInstanceDestroy(
    part: nvmlComputeInstance_t,
) -> nvmlReturn_t {
    let (instance, number) = part_of(part as usize);
    let done = instance_of(instance, "nvmlComputeInstanceDestroy").and_then(
        |(device, gpu, _, mut state, at)| {
            let cut = state.gpus.get_mut(&device).ok_or(INVALID_ARGUMENT)?;
            let one = &mut cut.instances[at];
            let used = gpu.computing.iter().any(|process| process.gpu_instance == Some(one.id()));
            if used {
                return Err(IN_USE);
            }
            one.parts.retain(|part| part.1 as usize != number);
            save(&state);
            Ok(())
        },
    );
    done.err().unwrap_or(SUCCESS)
}

/// The GPU with this UUID.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    answer: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: the caller's text ends with a zero.
    let uuid = unsafe { std::ffi::CStr::from_ptr(uuid) }.to_string_lossy();
    let found = world().gpus.iter().position(|gpu| gpu.uuid.as_deref() == Some(&*uuid));
    let handle = found.map(|index| world::handle(index) as nvmlDevice_t).ok_or(NOT_FOUND);
    // SAFETY: as nvml.h.
    unsafe { put(handle, answer) }
}
