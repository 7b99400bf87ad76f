//! The driver's library (NVML), asked. Only the child process of a survey runs this: the library may hang or crash, and
//! then takes nothing with it but that child (`docs/decisions`, "GPUs are asked by a child process").

use std::path::Path;

use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError};

use super::report::{Gpu, Library};
use crate::inventory::Found;

mod device;
mod fields;
mod instances;
pub(super) mod mig;
mod raw;
mod watch;

pub(super) use watch::{Sight, Watch};

/// Most GPUs that are looked at; the largest servers have 16.
pub(super) const MOST_GPUS: u32 = 128;

/// What the driver says of itself.
pub(super) struct Driver {
    pub(super) driver_version: Found<String>,
    pub(super) nvml_version: Found<String>,
    pub(super) cuda_version: Found<String>,
    pub(super) gpus: u32,
}

/// Load the library by the usual loader, or from the path that was configured.
pub(super) fn open(library: Option<&Path>) -> Result<Nvml, Library> {
    let mut builder = Nvml::builder();
    if let Some(path) = library {
        builder.lib_path(path.as_os_str());
    }
    builder.init().map_err(|error| refusal(&error))
}

/// Versions, and how many GPUs there are.
pub(super) fn driver(nvml: &Nvml) -> Result<Driver, Library> {
    let gpus = nvml.device_count().map_err(|error| refusal(&error))?.min(MOST_GPUS);
    let cuda = nvml.sys_cuda_driver_version().map(|version| {
        format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version))
    });
    Ok(Driver {
        driver_version: found("nvmlSystemGetDriverVersion", nvml.sys_driver_version()),
        nvml_version: found("nvmlSystemGetNVMLVersion", nvml.sys_nvml_version()),
        cuda_version: found("nvmlSystemGetCudaDriverVersion_v2", cuda),
        gpus,
    })
}

/// Everything about one GPU. It never fails: what can't be had says why.
pub(super) fn gpu(nvml: &Nvml, index: u32) -> Gpu {
    device::read(nvml, index)
}

/// An answer of the library with its place.
fn found<T>(call: &str, answer: Result<T, NvmlError>) -> Found<T> {
    match answer {
        Ok(value) => Found::present(value, call),
        // This model, or this mode, has no such thing.
        Err(NvmlError::NotSupported) => Found::absent(call),
        Err(error) => Found::unknown(call, in_words(&error)),
    }
}

fn in_words(error: &NvmlError) -> String {
    match error {
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
            "this driver's library has no such function".to_owned()
        }
        NvmlError::GpuLost => "the GPU fell off the bus".to_owned(),
        NvmlError::ResetRequired => "the GPU wants a reset first".to_owned(),
        NvmlError::UnexpectedVariant(code) => format!("NVML answered {code}, which is not known"),
        other => other.to_string(),
    }
}

/// Why the library as a whole can't be used.
fn refusal(error: &NvmlError) -> Library {
    match error {
        NvmlError::DriverNotLoaded => Library::DriverNotLoaded,
        NvmlError::LibRmVersionMismatch => Library::VersionMismatch,
        NvmlError::LibloadingError(loader) => of_loader(&loader.to_string()),
        NvmlError::FailedToLoadSymbol(reason) => Library::Unusable { reason: reason.clone() },
        other => Library::Failed { reason: in_words(other) },
    }
}

/// The loader has one kind of error for "no such file" and "no library": only its words differ. They are not
/// translated, since this program sets no locale.
fn of_loader(words: &str) -> Library {
    let mut parts = words.splitn(3, ": ");
    let (file, what, why) = (parts.next(), parts.next(), parts.next());
    let missing = what == Some("cannot open shared object file")
        && why == Some("No such file or directory")
        // Another file: one that the library itself needs.
        && file.is_some_and(|file| file.ends_with("libnvidia-ml.so.1") || file.starts_with('/'));
    let reason = words.to_owned();
    if missing { Library::Absent { reason } } else { Library::Unusable { reason } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_differs_from_one_that_is_no_library() {
        for (words, absent) in [
            ("libnvidia-ml.so.1: cannot open shared object file: No such file or directory", true),
            (
                "/opt/x/libnvidia-ml.so.1: cannot open shared object file: No such file or directory",
                true,
            ),
            ("libnvidia-ml.so.1: cannot open shared object file: Permission denied", false),
            ("libother.so.3: cannot open shared object file: No such file or directory", false),
            ("/usr/lib/libnvidia-ml.so.1: file too short", false),
            ("/usr/lib/libnvidia-ml.so.1: invalid ELF header", false),
            ("", false),
        ] {
            assert_eq!(matches!(of_loader(words), Library::Absent { .. }), absent, "{words}");
        }
    }
}
