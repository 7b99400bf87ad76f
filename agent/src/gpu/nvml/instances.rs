//! MIG instances: the calls that `nvml-wrapper` has no words for, made on the library it loaded.
//!
//! A GPU instance is a run of a GPU's memory and compute slices; compute instances share one. What the library fills
//! in comes out of here as plain numbers and text, so that no caller needs a pointer.
#![expect(
    unsafe_code,
    reason = "C functions without a wrapper; they run in a child process only, which may crash"
)]

use std::mem::MaybeUninit;

use nvml_wrapper::{
    Device, Nvml,
    error::{NvmlError, nvml_sym, nvml_try},
};
use nvml_wrapper_sys::bindings::{
    NVML_COMPUTE_INSTANCE_PROFILE_COUNT, NVML_GPU_INSTANCE_PROFILE_COUNT, nvmlComputeInstance_t,
    nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t, nvmlComputeInstanceProfileInfo_t,
    nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
    nvmlGpuInstanceProfileInfo_v2_t,
};

/// Most instances or places that one call tells; a GPU has eight slices of memory today.
const MOST: usize = 64;

/// Kinds of profiles asked for. Newer headers than ours have more, and a library says which it doesn't know.
const GPU_PROFILES: u32 = NVML_GPU_INSTANCE_PROFILE_COUNT + 8;
const COMPUTE_PROFILES: u32 = NVML_COMPUTE_INSTANCE_PROFILE_COUNT + 4;

/// Every compute instance shares the engines of its GPU instance: the only kind there is.
const SHARED_ENGINES: u32 = 0;

/// A run of slices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) start: u32,
    pub(super) size: u32,
}

/// A profile of GPU instances.
#[derive(Debug)]
pub(super) struct GpuProfile {
    pub(super) id: u32,
    /// `1g.10gb`.
    pub(super) name: String,
    pub(super) compute_slices: u32,
}

/// A profile of compute instances.
#[derive(Debug, Clone, Copy)]
pub(super) struct ComputeProfile {
    pub(super) id: u32,
    pub(super) slices: u32,
}

/// A GPU instance, as long as the library is loaded.
#[derive(Clone, Copy)]
pub(super) struct GpuInstance<'n> {
    nvml: &'n Nvml,
    handle: nvmlGpuInstance_t,
}

/// A compute instance, as long as the library is loaded.
#[derive(Clone, Copy)]
pub(super) struct ComputeInstance<'n> {
    nvml: &'n Nvml,
    handle: nvmlComputeInstance_t,
}

/// What an instance says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) id: u32,
    pub(super) profile: u32,
    pub(super) place: Place,
}

/// A profile that this GPU, or this library, doesn't have.
fn unless_unknown<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Err(NvmlError::NotSupported | NvmlError::InvalidArg) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Text of a C array, without the word that stands before every profile.
fn profile_name(letters: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = letters
        .iter()
        .map(|letter| letter.cast_unsigned())
        .take_while(|letter| *letter != 0)
        .collect();
    let name = String::from_utf8_lossy(&bytes).into_owned();
    name.strip_prefix("MIG ").map_or_else(|| name.clone(), str::to_owned)
}

/// Switch MIG on or off. The answer is what the driver says of doing so at once; the mode that is pending counts later.
pub(super) fn set_mode(device: &Device<'_>, on: bool) -> Result<(), NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceSetMigMode.as_ref())?;
    let mut at_once = 0;
    // SAFETY: the handle is of this library, which is loaded as long as `device` lives, and one number is written.
    nvml_try(unsafe { call(device.handle(), u32::from(on), &raw mut at_once) })
}

/// Every profile of GPU instances that this GPU has.
pub(super) fn gpu_profiles(device: &Device<'_>) -> Result<Vec<GpuProfile>, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetGpuInstanceProfileInfoV.as_ref())?;
    let mut profiles: Vec<GpuProfile> = Vec::new();
    for kind in 0..GPU_PROFILES {
        let mut info = MaybeUninit::<nvmlGpuInstanceProfileInfo_v2_t>::zeroed();
        let size = u32::try_from(size_of::<nvmlGpuInstanceProfileInfo_v2_t>()).unwrap_or(u32::MAX);
        // SAFETY: the handle as above; the structure is the one of the function's signature, zeroed, and says its own
        // size and version, as nvml.h asks. All its fields are numbers.
        let answer = unsafe {
            (*info.as_mut_ptr()).version = size | (2 << 24);
            nvml_try(call(device.handle(), kind, info.as_mut_ptr())).map(|()| info.assume_init())
        };
        let Some(info) = unless_unknown(answer)? else { continue };
        // Two kinds may be one profile on this GPU.
        if !profiles.iter().any(|known| known.id == info.id) {
            let name = profile_name(&info.name);
            profiles.push(GpuProfile { id: info.id, name, compute_slices: info.sliceCount });
        }
    }
    Ok(profiles)
}

/// Where the driver allows instances of a profile.
pub(super) fn places(device: &Device<'_>, profile: u32) -> Result<Vec<Place>, NvmlError> {
    let call =
        nvml_sym(device.nvml().lib().nvmlDeviceGetGpuInstancePossiblePlacements_v2.as_ref())?;
    let mut found = [nvmlGpuInstancePlacement_t { start: 0, size: 0 }; MOST];
    let mut count = 0;
    // SAFETY: as above; without a list only their number is written.
    nvml_try(unsafe { call(device.handle(), profile, std::ptr::null_mut(), &raw mut count) })?;
    if count as usize > MOST {
        return Err(NvmlError::InsufficientSize(Some(count as usize)));
    }
    // SAFETY: as above; the list has room for as many as `count` says.
    nvml_try(unsafe { call(device.handle(), profile, found.as_mut_ptr(), &raw mut count) })?;
    let found = found.iter().take(count as usize);
    Ok(found.map(|place| Place { start: place.start, size: place.size }).collect())
}

/// Every GPU instance of a profile.
pub(super) fn gpu_instances<'n>(
    device: &Device<'n>,
    profile: u32,
) -> Result<Vec<GpuInstance<'n>>, NvmlError> {
    let nvml = device.nvml();
    let call = nvml_sym(nvml.lib().nvmlDeviceGetGpuInstances.as_ref())?;
    let (mut found, mut count) = ([std::ptr::null_mut(); MOST], 0);
    // SAFETY: as above; a GPU has fewer instances than the list has room for.
    nvml_try(unsafe { call(device.handle(), profile, found.as_mut_ptr(), &raw mut count) })?;
    let handles = found.into_iter().take(count as usize);
    Ok(handles.map(|handle| GpuInstance { nvml, handle }).collect())
}

/// Make a GPU instance of a profile at a place.
pub(super) fn create<'n>(
    device: &Device<'n>,
    profile: u32,
    place: Place,
) -> Result<GpuInstance<'n>, NvmlError> {
    let nvml = device.nvml();
    let call = nvml_sym(nvml.lib().nvmlDeviceCreateGpuInstanceWithPlacement.as_ref())?;
    let place = nvmlGpuInstancePlacement_t { start: place.start, size: place.size };
    let mut handle = std::ptr::null_mut();
    // SAFETY: as above; one handle is written.
    nvml_try(unsafe { call(device.handle(), profile, &raw const place, &raw mut handle) })?;
    Ok(GpuInstance { nvml, handle })
}

impl<'n> GpuInstance<'n> {
    /// Its number, profile and place.
    pub(super) fn told(self) -> Result<Told, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlGpuInstanceGetInfo.as_ref())?;
        let mut info = MaybeUninit::<nvmlGpuInstanceInfo_t>::zeroed();
        // SAFETY: the handle came from this library; handles and numbers, zeroed before.
        let info = unsafe {
            nvml_try(call(self.handle, info.as_mut_ptr()))?;
            info.assume_init()
        };
        let place = Place { start: info.placement.start, size: info.placement.size };
        Ok(Told { id: info.id, profile: info.profileId, place })
    }

    /// Every profile of compute instances that it can have.
    pub(super) fn profiles(self) -> Result<Vec<ComputeProfile>, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlGpuInstanceGetComputeInstanceProfileInfo.as_ref())?;
        let mut profiles: Vec<ComputeProfile> = Vec::new();
        for kind in 0..COMPUTE_PROFILES {
            let mut info = MaybeUninit::<nvmlComputeInstanceProfileInfo_t>::zeroed();
            // SAFETY: as above.
            let answer = unsafe {
                nvml_try(call(self.handle, kind, SHARED_ENGINES, info.as_mut_ptr()))
                    .map(|()| info.assume_init())
            };
            let Some(info) = unless_unknown(answer)? else { continue };
            if !profiles.iter().any(|known| known.id == info.id) {
                profiles.push(ComputeProfile { id: info.id, slices: info.sliceCount });
            }
        }
        Ok(profiles)
    }

    /// Every compute instance of a profile in it.
    pub(super) fn parts(self, profile: u32) -> Result<Vec<ComputeInstance<'n>>, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlGpuInstanceGetComputeInstances.as_ref())?;
        let (mut found, mut count) = ([std::ptr::null_mut(); MOST], 0);
        // SAFETY: as above; an instance has fewer parts than the list has room for.
        nvml_try(unsafe { call(self.handle, profile, found.as_mut_ptr(), &raw mut count) })?;
        let handles = found.into_iter().take(count as usize);
        let nvml = self.nvml;
        Ok(handles.map(|handle| ComputeInstance { nvml, handle }).collect())
    }

    /// Make a compute instance in it; without a place, where the driver likes.
    pub(super) fn create_part(self, profile: u32, place: Option<Place>) -> Result<(), NvmlError> {
        let (lib, mut made) = (self.nvml.lib(), std::ptr::null_mut());
        let Some(place) = place else {
            let call = nvml_sym(lib.nvmlGpuInstanceCreateComputeInstance.as_ref())?;
            // SAFETY: as above; one handle is written.
            return nvml_try(unsafe { call(self.handle, profile, &raw mut made) });
        };
        let call = nvml_sym(lib.nvmlGpuInstanceCreateComputeInstanceWithPlacement.as_ref())?;
        let place = nvmlComputeInstancePlacement_t { start: place.start, size: place.size };
        // SAFETY: as above.
        nvml_try(unsafe { call(self.handle, profile, &raw const place, &raw mut made) })
    }

    /// Take it away. It must have no compute instance.
    pub(super) fn destroy(self) -> Result<(), NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlGpuInstanceDestroy.as_ref())?;
        // SAFETY: as above; the handle is not used after it.
        nvml_try(unsafe { call(self.handle) })
    }
}

impl ComputeInstance<'_> {
    /// Its number, profile and place.
    pub(super) fn told(self) -> Result<Told, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlComputeInstanceGetInfo_v2.as_ref())?;
        let mut info = MaybeUninit::<nvmlComputeInstanceInfo_t>::zeroed();
        // SAFETY: the handle came from this library; handles and numbers, zeroed before.
        let info = unsafe {
            nvml_try(call(self.handle, info.as_mut_ptr()))?;
            info.assume_init()
        };
        let place = Place { start: info.placement.start, size: info.placement.size };
        Ok(Told { id: info.id, profile: info.profileId, place })
    }

    /// Take it away.
    pub(super) fn destroy(self) -> Result<(), NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlComputeInstanceDestroy.as_ref())?;
        // SAFETY: as above; the handle is not used after it.
        nvml_try(unsafe { call(self.handle) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_named_as_the_cluster_file_names_it() {
        let letters = |text: &str| {
            let bytes = text.bytes().chain([0, b'x']);
            bytes.map(|byte| byte.cast_signed() as std::ffi::c_char).collect::<Vec<_>>()
        };
        for (told, name) in
            [("MIG 1g.10gb+me", "1g.10gb+me"), ("1g.5gb", "1g.5gb"), ("", ""), ("MIG", "MIG")]
        {
            assert_eq!(profile_name(&letters(told)), name, "{told}");
        }
    }
}
