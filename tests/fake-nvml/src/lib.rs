//! A stand-in for the NVIDIA driver's library: `libnvidia-ml.so.1` with GPUs from the YAML file that `KDC_FAKE_NVML` names.
//!
//! It is a real shared library with the real names and layouts (those of `nvml.h`), so that what is tested takes the real
//! way: the loader, the symbols, the calls. What a call answers stands in the file under the call's own name; what isn't
//! there is `NVML_ERROR_NOT_SUPPORTED`, as a consumer card says. Any call can be made to fail with a code, hang, crash its
//! process, or fall asleep in the kernel.
//!
//! ```yaml
//! driver: 580.95.05
//! fail: {nvmlInit_v2: 9}                 # of the whole library
//! gpus:
//!   - uuid: GPU-11111111-0000-0000-0000-000000000000
//!     name: NVIDIA H100 80GB HBM3
//!     pci: "00000000:18:00.0"
//!     answers: {nvmlDeviceGetTemperature: 41, nvmlDeviceGetClockInfo 1: 1980}
//!     fields: {230: 0}
//!     fail: {"*": 15, nvmlDeviceGetName: hang, nvmlDeviceGetUUID: crash, nvmlDeviceGetSerial: "write /mnt/frozen/x"}
//! ```
#![expect(unsafe_code, reason = "a C library is made of such functions")]
#![expect(
    clippy::missing_safety_doc,
    missing_docs,
    reason = "names and contracts are those of nvml.h"
)]

use std::{
    ffi::{c_char, c_int, c_uint, c_ulonglong},
    time::Duration,
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t, nvmlMemory_t, nvmlMemory_v2_t,
    nvmlPciInfo_t, nvmlProcessInfo_t, nvmlReturn_t, nvmlUtilization_t,
};

mod mig;
mod world;

use world::{Gpu, Part, Process, Thing, failure, thing, world};

const SUCCESS: nvmlReturn_t = 0;
const INVALID_ARGUMENT: nvmlReturn_t = 2;
const NOT_SUPPORTED: nvmlReturn_t = 3;
const NOT_FOUND: nvmlReturn_t = 6;
const TOO_SMALL: nvmlReturn_t = 7;
const TIMEOUT: nvmlReturn_t = 10;

/// What a call ends with: a value to write, or a code.
type Answer<T> = Result<T, nvmlReturn_t>;

/// Write the answer where the caller wants it.
unsafe fn put<T>(answer: Answer<T>, place: *mut T) -> nvmlReturn_t {
    match answer {
        Ok(_) if place.is_null() => INVALID_ARGUMENT,
        Ok(value) => {
            // SAFETY: the caller's place, as nvml.h wants it.
            unsafe { place.write(value) };
            SUCCESS
        }
        Err(code) => code,
    }
}

/// Write text with its final zero, as far as it fits.
unsafe fn put_text(answer: Answer<&str>, place: *mut c_char, length: c_uint) -> nvmlReturn_t {
    let text = match answer {
        Ok(text) => text,
        Err(code) => return code,
    };
    if text.len() >= length as usize {
        return TOO_SMALL;
    }
    // SAFETY: `length` bytes are the caller's, and text and zero are fewer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    SUCCESS
}

/// The number that the file has for a call.
fn number(device: nvmlDevice_t, call: &str, name: &str) -> Answer<u64> {
    let gpu = gpu(device, call)?;
    gpu.answers.get(name).copied().ok_or(NOT_SUPPORTED)
}

fn narrow(value: u64) -> c_uint {
    c_uint::try_from(value).unwrap_or(c_uint::MAX)
}

/// The GPU of a handle, unless the call fails on it.
fn gpu(device: nvmlDevice_t, call: &str) -> Answer<&'static Gpu> {
    match thing(device as usize) {
        Some(Thing::Gpu(gpu) | Thing::Part(gpu, _)) => failure(&gpu.fail, call).map(|()| gpu),
        None => Err(INVALID_ARGUMENT),
    }
}

macro_rules! numbers {
    ($($name:ident: $type:ty),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, answer: *mut $type) -> nvmlReturn_t {
            let name = stringify!($name);
            let value = number(device, name, name).map(|value| <$type>::try_from(value).unwrap_or(<$type>::MAX));
            // SAFETY: as nvml.h.
            unsafe { put(value, answer) }
        }
    )*};
}

numbers! {
    nvmlDeviceGetPersistenceMode: c_uint,
    nvmlDeviceGetPowerUsage: c_uint,
    nvmlDeviceGetEnforcedPowerLimit: c_uint,
    nvmlDeviceGetTotalEnergyConsumption: c_ulonglong,
    nvmlDeviceGetCurrentClocksThrottleReasons: c_ulonglong,
    nvmlDeviceGetCurrPcieLinkGeneration: c_uint,
    nvmlDeviceGetMaxPcieLinkGeneration: c_uint,
    nvmlDeviceGetCurrPcieLinkWidth: c_uint,
    nvmlDeviceGetMaxPcieLinkWidth: c_uint,
    nvmlDeviceGetPcieReplayCounter: c_uint,
    nvmlDeviceGetSupportedEventTypes: c_ulonglong,
}

/// Two numbers, under the call's name with ` 0` and ` 1`.
macro_rules! pairs {
    ($($name:ident: $type:ty),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, first: *mut $type, second: *mut $type) -> nvmlReturn_t {
            let name = stringify!($name);
            for (number_of, place) in [(0, first), (1, second)] {
                let value = number(device, name, &format!("{name} {number_of}"));
                // SAFETY: as nvml.h.
                let code = unsafe { put(value.map(|value| <$type>::try_from(value).unwrap_or(<$type>::MAX)), place) };
                if code != SUCCESS {
                    return code;
                }
            }
            SUCCESS
        }
    )*};
}

pairs! {
    nvmlDeviceGetCudaComputeCapability: c_int,
    nvmlDeviceGetEccMode: c_uint,
    nvmlDeviceGetEncoderUtilization: c_uint,
    nvmlDeviceGetDecoderUtilization: c_uint,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    let name = "nvmlDeviceGetMigMode";
    let written = |place| number(device, name, &format!("{name} {place}")).map(narrow);
    let modes = mig::mode(device)
        .unwrap_or_else(|| written(0).and_then(|current| Ok((current, written(1)?))));
    match modes {
        Err(code) => code,
        // SAFETY: as nvml.h.
        Ok((now, later)) => unsafe {
            current.write(now);
            pending.write(later);
            SUCCESS
        },
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    device: nvmlDevice_t,
    answer: *mut c_uint,
) -> nvmlReturn_t {
    let name = "nvmlDeviceGetMaxMigDeviceCount";
    let count = match mig::parts(device as usize) {
        Some(_) => gpu(device, name).map(|_| 7),
        None => number(device, name, name).map(narrow),
    };
    // SAFETY: as nvml.h.
    unsafe { put(count, answer) }
}

/// A number of a kind, under the call's name with the kind.
macro_rules! numbers_of_kind {
    ($($name:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, kind: c_uint, answer: *mut c_uint) -> nvmlReturn_t {
            let name = stringify!($name);
            // SAFETY: as nvml.h.
            unsafe { put(number(device, name, &format!("{name} {kind}")).map(narrow), answer) }
        }
    )*};
}

numbers_of_kind! { nvmlDeviceGetClockInfo, nvmlDeviceGetTemperature, nvmlDeviceGetNvLinkState }

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    failure(&world().fail, "nvmlInit_v2").err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    failure(&world().fail, "nvmlShutdown").err().unwrap_or(SUCCESS)
}

macro_rules! texts_of_system {
    ($($name:ident: $field:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(place: *mut c_char, length: c_uint) -> nvmlReturn_t {
            let text = failure(&world().fail, stringify!($name)).map(|()| world().$field.as_str());
            // SAFETY: as nvml.h.
            unsafe { put_text(text, place, length) }
        }
    )*};
}

texts_of_system! { nvmlSystemGetDriverVersion: driver, nvmlSystemGetNVMLVersion: nvml }

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(answer: *mut c_int) -> nvmlReturn_t {
    let value = failure(&world().fail, "nvmlSystemGetCudaDriverVersion_v2").map(|()| world().cuda);
    // SAFETY: as nvml.h.
    unsafe { put(value, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(answer: *mut c_uint) -> nvmlReturn_t {
    let count = failure(&world().fail, "nvmlDeviceGetCount_v2")
        .map(|()| c_uint::try_from(world().gpus.len()).unwrap_or(0));
    // SAFETY: as nvml.h.
    unsafe { put(count, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    answer: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let handle = world::handle(index as usize);
    let known = gpu(handle as nvmlDevice_t, "nvmlDeviceGetHandleByIndex_v2");
    // SAFETY: as nvml.h.
    unsafe { put(known.map(|_| handle as nvmlDevice_t), answer) }
}

/// A text of a GPU or of a part of it.
unsafe fn text_of(
    device: nvmlDevice_t,
    call: &str,
    of_gpu: fn(&Gpu) -> Option<&str>,
    of_part: fn(&Part) -> Option<&str>,
    place: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    let text = gpu(device, call).and_then(|gpu| {
        let text = match thing(device as usize) {
            Some(Thing::Part(_, part)) => of_part(part),
            _ => of_gpu(gpu),
        };
        text.ok_or(NOT_SUPPORTED)
    });
    // SAFETY: as nvml.h.
    unsafe { put_text(text, place, length) }
}

macro_rules! texts {
    ($($name:ident: $of_gpu:expr, $of_part:expr);* $(;)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, place: *mut c_char, length: c_uint) -> nvmlReturn_t {
            // SAFETY: as nvml.h.
            unsafe { text_of(device, stringify!($name), $of_gpu, $of_part, place, length) }
        }
    )*};
}

texts! {
    nvmlDeviceGetName: |gpu| gpu.name.as_deref(), |part| part.name.as_deref();
    nvmlDeviceGetUUID: |gpu| gpu.uuid.as_deref(), |part| part.uuid.as_deref();
    nvmlDeviceGetSerial: |gpu| gpu.serial.as_deref(), |_| None;
}

/// `00000000:18:00.0` as nvml.h wants it.
fn pci_info(address: &str) -> Option<nvmlPciInfo_t> {
    let (domain, rest) = address.split_once(':')?;
    let (bus, device) = rest.split_once(':')?;
    let hex = |text: &str| c_uint::from_str_radix(text, 16).ok();
    let mut bus_id = [0; 32];
    for (place, letter) in bus_id.iter_mut().zip(address.bytes().take(31)) {
        *place = letter.cast_signed();
    }
    Some(nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: hex(domain)?,
        bus: hex(bus)?,
        device: hex(device.split_once('.')?.0)?,
        pciDeviceId: 0x2330_10de,
        pciSubSystemId: 0,
        busId: bus_id,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(
    device: nvmlDevice_t,
    answer: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    let info = gpu(device, "nvmlDeviceGetPciInfo_v3")
        .and_then(|gpu| pci_info(&gpu.pci).ok_or(INVALID_ARGUMENT));
    // SAFETY: as nvml.h.
    unsafe { put(info, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: nvmlDevice_t,
    link: c_uint,
    answer: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    let info = gpu(device, "nvmlDeviceGetNvLinkRemotePciInfo_v2").and_then(|gpu| {
        let remote = gpu.links.get(link as usize).ok_or(NOT_SUPPORTED)?;
        pci_info(remote).ok_or(INVALID_ARGUMENT)
    });
    // SAFETY: as nvml.h.
    unsafe { put(info, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    error: c_uint,
    counter: c_uint,
    answer: *mut c_ulonglong,
) -> nvmlReturn_t {
    let call = "nvmlDeviceGetTotalEccErrors";
    // SAFETY: as nvml.h.
    unsafe { put(number(device, call, &format!("{call} {error} {counter}")), answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    answer: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    let call = "nvmlDeviceGetUtilizationRates";
    let both = number(device, call, &format!("{call} 0"))
        .and_then(|gpu| Ok((gpu, number(device, call, &format!("{call} 1"))?)));
    let rates =
        both.map(|(gpu, memory)| nvmlUtilization_t { gpu: narrow(gpu), memory: narrow(memory) });
    // SAFETY: as nvml.h.
    unsafe { put(rates, answer) }
}

fn memory(device: nvmlDevice_t, call: &str) -> Answer<[u64; 4]> {
    let gpu = gpu(device, call)?;
    let memory = match thing(device as usize) {
        Some(Thing::Part(_, part)) => part.memory,
        _ => gpu.memory,
    };
    memory.ok_or(NOT_SUPPORTED)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    answer: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    let memory = memory(device, "nvmlDeviceGetMemoryInfo_v2");
    let memory = memory.map(|[total, reserved, free, used]| nvmlMemory_v2_t {
        version: 2,
        total,
        reserved,
        free,
        used,
    });
    // SAFETY: as nvml.h.
    unsafe { put(memory, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(
    device: nvmlDevice_t,
    answer: *mut nvmlMemory_t,
) -> nvmlReturn_t {
    let memory = memory(device, "nvmlDeviceGetMemoryInfo");
    let memory = memory.map(|[total, reserved, free, used]| nvmlMemory_t {
        total,
        free,
        used: used + reserved,
    });
    // SAFETY: as nvml.h.
    unsafe { put(memory, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    let gpu = match gpu(device, "nvmlDeviceGetFieldValues") {
        Ok(gpu) => gpu,
        Err(code) => return code,
    };
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller's list has `count` entries.
        let value = unsafe { &mut *values.add(at) };
        match gpu.fields.get(&value.fieldId) {
            Some(number) => {
                (value.nvmlReturn, value.valueType) = (SUCCESS, 3);
                value.value.ullVal = *number;
            }
            None => value.nvmlReturn = NOT_SUPPORTED,
        }
    }
    SUCCESS
}

/// The list of programs, or how many there are where the caller's list is too small.
unsafe fn put_processes(
    processes: Answer<&[Process]>,
    count: *mut c_uint,
    places: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let processes = match processes {
        Ok(processes) => processes,
        Err(code) => return code,
    };
    // SAFETY: as nvml.h; `count` says how many places there are.
    unsafe {
        let room = count.replace(c_uint::try_from(processes.len()).unwrap_or(0)) as usize;
        if room < processes.len() {
            return TOO_SMALL;
        }
        for (at, process) in processes.iter().enumerate() {
            places.add(at).write(nvmlProcessInfo_t {
                pid: process.pid,
                usedGpuMemory: process.memory,
                gpuInstanceId: process.gpu_instance.unwrap_or(u32::MAX),
                computeInstanceId: process.compute_instance.unwrap_or(u32::MAX),
            });
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    places: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let gpu = gpu(device, "nvmlDeviceGetComputeRunningProcesses_v3");
    // SAFETY: as nvml.h.
    unsafe { put_processes(gpu.map(|gpu| gpu.computing.as_slice()), count, places) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    places: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let gpu = gpu(device, "nvmlDeviceGetGraphicsRunningProcesses_v3");
    // SAFETY: as nvml.h.
    unsafe { put_processes(gpu.map(|gpu| gpu.drawing.as_slice()), count, places) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    answer: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let handle = gpu(device, "nvmlDeviceGetMigDeviceHandleByIndex")
        .and_then(|_| world::part_handle(device as usize, index as usize).ok_or(NOT_FOUND));
    // SAFETY: as nvml.h.
    unsafe { put(handle.map(|handle| handle as nvmlDevice_t), answer) }
}

macro_rules! numbers_of_part {
    ($($name:ident: $field:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, answer: *mut c_uint) -> nvmlReturn_t {
            let id = gpu(device, stringify!($name)).and_then(|_| match thing(device as usize) {
                Some(Thing::Part(_, part)) => Ok(part.$field),
                _ => Err(INVALID_ARGUMENT),
            });
            // SAFETY: as nvml.h.
            unsafe { put(id, answer) }
        }
    )*};
}

numbers_of_part! { nvmlDeviceGetGpuInstanceId: gpu_instance, nvmlDeviceGetComputeInstanceId: compute_instance }

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(answer: *mut nvmlEventSet_t) -> nvmlReturn_t {
    let set = failure(&world().fail, "nvmlEventSetCreate").map(|()| 1_usize as nvmlEventSet_t);
    // SAFETY: as nvml.h.
    unsafe { put(set, answer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(_set: nvmlEventSet_t) -> nvmlReturn_t {
    world::listen_to_nothing();
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _types: c_ulonglong,
    _set: nvmlEventSet_t,
) -> nvmlReturn_t {
    match gpu(device, "nvmlDeviceRegisterEvents") {
        Ok(_) => {
            world::listen_to(device as usize);
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    _set: nvmlEventSet_t,
    answer: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let event = failure(&world().fail, "nvmlEventSetWait_v2").and_then(|()| {
        let most = Duration::from_millis(u64::from(timeout_ms));
        let (device, xid) = world::next_event(most).ok_or(TIMEOUT)?;
        Ok(nvmlEventData_t {
            device: device as nvmlDevice_t,
            eventType: 8,
            eventData: xid,
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        })
    });
    // SAFETY: as nvml.h.
    unsafe { put(event, answer) }
}
