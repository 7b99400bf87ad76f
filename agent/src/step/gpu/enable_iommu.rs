//! `EnableIommu`: the kernel arguments that isolate devices from each other.
//!
//! The proof is not the argument but `/sys/kernel/iommu_groups`: where it has entries, nothing is to do. Otherwise
//! the boot loader is told, and the node waits for a reboot that kdc asks for and never makes.

use serde::{Deserialize, Serialize};

use super::{
    boot_loader::{
        self, CMDLINE, GRUB_DROP_IN, Loader, appended, configured, grub_drop_in, kernelstub,
        refresh,
    },
    pci, reboot,
};
use crate::{
    host::Host,
    step::{
        change::{Change, Context, StepError},
        snapshot::{PathState, look, put_file, restore},
    },
};

/// Under which name it asks for a reboot.
pub(crate) const REQUEST: &str = "iommu";

/// The IOMMU, on.
pub(crate) struct EnableIommu;

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Devices are in groups now.
    groups: bool,
    loader: Option<Loader>,
    /// Arguments that the loader does not have yet.
    missing: Vec<String>,
    /// Arguments that the running kernel has.
    live: Vec<String>,
    /// The loader's file.
    file: Option<PathState>,
    request: PathState,
}

/// What the kernel of this processor is told.
fn wanted(host: &dyn Host) -> Result<Vec<&'static str>, StepError> {
    let text = host.read_text("/proc/cpuinfo")?.unwrap_or_default();
    let vendor = text.lines().find_map(|line| line.strip_prefix("vendor_id")?.split_once(':'));
    Ok(match vendor.map(|(_, vendor)| vendor.trim()) {
        Some("GenuineIntel") => vec!["intel_iommu=on", "iommu=pt"],
        Some("AuthenticAMD") => vec!["amd_iommu=on", "iommu=pt"],
        // Others have it on from the firmware, or not at all.
        _ => Vec::new(),
    })
}

fn file_of(loader: Loader) -> Option<&'static str> {
    match loader {
        Loader::Grub => Some(GRUB_DROP_IN),
        Loader::Proxmox | Loader::KernelInstall => Some(CMDLINE),
        Loader::Kernelstub => None,
    }
}

/// Somebody switched it off on purpose: that is not overruled.
fn refuse_contradiction(words: &[String]) -> Result<(), StepError> {
    let off = ["intel_iommu=off", "amd_iommu=off", "iommu=off", "iommu=soft"];
    match words.iter().find(|word| off.contains(&word.as_str())) {
        Some(word) => Err(StepError::Refused {
            what: format!("the boot loader of this node tells the kernel `{word}`"),
            hint: format!("take `{word}` out of the boot loader's files if it may go"),
        }),
        None => Ok(()),
    }
}

impl Before {
    fn missing(&self) -> Vec<&str> {
        self.missing.iter().map(String::as_str).collect()
    }
}

impl Change for EnableIommu {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let host = context.host;
        let loader = boot_loader::loader(host)?;
        let there = match loader {
            Some(loader) => configured(host, loader)?,
            None => Vec::new(),
        };
        let missing = |argument: &&&str| !there.iter().any(|word| word == **argument);
        let wanted = wanted(host)?;
        let missing =
            wanted.iter().filter(missing).map(|argument| (*argument).to_owned()).collect();
        let line = host.read_text("/proc/cmdline")?.unwrap_or_default();
        let live = line.split_whitespace().filter(|word| wanted.contains(word));
        let file = loader.and_then(file_of).map(|path| look(context, path)).transpose()?;
        Ok(Before {
            groups: pci::has_groups(host)?,
            loader,
            missing,
            live: live.map(str::to_owned).collect(),
            file,
            request: look(context, &reboot::path(REQUEST))?,
        })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        // Told and asked for already: only the reboot is left.
        let waits =
            before.loader.is_some() && before.missing.is_empty() && !before.request.is_missing();
        before.groups || waits
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let wanted = wanted(host)?;
        if wanted.is_empty() || (before.missing.is_empty() && before.live.len() == wanted.len()) {
            return Err(StepError::Refused {
                what: "the kernel was told to use the IOMMU and there are no IOMMU groups"
                    .to_owned(),
                hint: "switch the IOMMU (VT-d, AMD-Vi, SMMU) on in the firmware".to_owned(),
            });
        }
        let Some(loader) = before.loader else {
            return Err(StepError::Refused {
                what: "the boot loader of this node is none that kdc understands".to_owned(),
                hint: format!("add `{}` to the kernel's arguments and reboot", wanted.join(" ")),
            });
        };
        refuse_contradiction(&configured(host, loader)?)?;
        let missing = before.missing();
        if !missing.is_empty() {
            match (loader, &before.file) {
                (Loader::Grub, _) => {
                    let text = grub_drop_in(&missing);
                    put_file(host, GRUB_DROP_IN, &mut text.as_bytes(), 0o644)?;
                }
                (Loader::Kernelstub, _) => kernelstub(host, true, &missing)?,
                (_, Some(PathState::File { digest, attributes })) => {
                    let line = context.kept_bytes(digest)?;
                    let text = appended(&String::from_utf8_lossy(&line), &missing);
                    host.write(CMDLINE, text.as_bytes(), *attributes)?;
                }
                _ => {
                    return Err(StepError::Refused {
                        what: format!("{CMDLINE} is not a plain file"),
                        hint: format!("add `{}` to the kernel's arguments", missing.join(" ")),
                    });
                }
            }
            refresh(host, loader)?;
        }
        reboot::ask(context, REQUEST, &format!("the kernel starts with {}", wanted.join(" ")))
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        restore(context, &reboot::path(REQUEST), &before.request)?;
        let (Some(loader), false) = (before.loader, before.missing.is_empty()) else {
            return Ok(());
        };
        match (file_of(loader), &before.file) {
            (Some(path), Some(state)) => restore(context, path, state)?,
            _ => {
                let there = configured(host, loader)?;
                let ours =
                    before.missing().into_iter().filter(|one| there.iter().any(|word| word == one));
                let ours: Vec<&str> = ours.collect();
                if !ours.is_empty() {
                    kernelstub(host, false, &ours)?;
                }
            }
        }
        refresh(host, loader)?;
        let line = host.read_text("/proc/cmdline")?.unwrap_or_default();
        let still = line.split_whitespace().any(|word| {
            before.missing.iter().any(|ours| ours == word)
                && !before.live.iter().any(|was| was == word)
        });
        if still {
            reboot::ask(context, REQUEST, "the kernel starts without the IOMMU's arguments again")?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        "isolate devices with the IOMMU; the node then waits for a reboot".to_owned()
    }

    fn detail(&self, before: &Before) -> String {
        match (before.loader, before.missing.is_empty()) {
            (None, _) => "the boot loader is none that kdc understands".to_owned(),
            (Some(_), true) => "the boot loader is told; there are no IOMMU groups".to_owned(),
            (Some(_), false) => {
                format!("tells the kernel {} from the next boot on", before.missing.join(" "))
            }
        }
    }
}

#[cfg(test)]
#[path = "enable_iommu_tests.rs"]
mod tests;
