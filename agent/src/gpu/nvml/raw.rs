//! The few calls that `nvml-wrapper` has no words for, made on the library it loaded.
#![expect(
    unsafe_code,
    reason = "C functions without a wrapper; they run in the child process of a survey only"
)]

use std::mem::MaybeUninit;

use nvml_wrapper::{
    Device,
    error::{NvmlError, nvml_sym, nvml_try},
};

use crate::gpu::report::Memory;

/// Id of the GPU instance that a part of a GPU belongs to.
pub(super) fn gpu_instance(part: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(part.nvml().lib().nvmlDeviceGetGpuInstanceId.as_ref())?;
    let mut id = 0;
    // SAFETY: the handle is of this library, which is loaded as long as `part` lives, and one number is written.
    nvml_try(unsafe { call(part.handle(), &raw mut id) })?;
    Ok(id)
}

/// Id of the compute instance that a part of a GPU is.
pub(super) fn compute_instance(part: &Device<'_>) -> Result<u32, NvmlError> {
    let call = nvml_sym(part.nvml().lib().nvmlDeviceGetComputeInstanceId.as_ref())?;
    let mut id = 0;
    // SAFETY: as above.
    nvml_try(unsafe { call(part.handle(), &raw mut id) })?;
    Ok(id)
}

/// Memory as drivers before R510 tell it: what they keep for themselves counts as used.
pub(super) fn memory(device: &Device<'_>) -> Result<Memory, NvmlError> {
    let call = nvml_sym(device.nvml().lib().nvmlDeviceGetMemoryInfo.as_ref())?;
    let mut answer = MaybeUninit::zeroed();
    // SAFETY: as above; the memory handed over has the size of the structure in the function's own signature.
    nvml_try(unsafe { call(device.handle(), answer.as_mut_ptr()) })?;
    // SAFETY: three numbers, for which all bit patterns are valid, and zeroed before.
    let answer = unsafe { answer.assume_init() };
    Ok(Memory {
        total_bytes: answer.total,
        used_bytes: answer.used,
        free_bytes: answer.free,
        reserved_bytes: 0,
    })
}
