//! `EnableVirtualFunctions`: GPUs that offer virtual GPUs (NVIDIA vGPU), now and at every boot.
//!
//! What a host offers is read where the kernel shows it, not guessed from versions: newer drivers have a file
//! `nvidia/creatable_vgpu_types` at each virtual function, older ones `mdev_supported_types` at those or at the card itself. Cards
//! with virtual functions have them switched on by the program of NVIDIA's vGPU manager, which kdc doesn't bring; which
//! type each one gets is for whoever makes the virtual machine. Boots forget them, so a unit has them on again.

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    bind_vfio::all_but,
    enable_iommu, in_use,
    pci::{self, PciDevice},
    reboot, watch_pause,
};
use crate::{
    host::{Host, Program},
    step::{
        change::{Change, Context, StepError},
        snapshot::{PathState, look, make_parents, put_file, restore},
        systemd::UNIT_DIR,
    },
};

/// Virtual functions, on.
pub(crate) struct EnableVirtualFunctions<'a> {
    pub(crate) except: &'a [String],
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// The GPUs that are meant, by address.
    gpus: BTreeMap<String, GpuBefore>,
    /// Why it can't be done as things are now.
    not_now: Option<String>,
    unit: PathState,
    link: PathState,
}

/// How a GPU was.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GpuBefore {
    /// Virtual functions that it can have; zero where it has none at all.
    most: u32,
    /// Those that were on.
    on: u32,
    /// It offers types of virtual GPUs.
    offers: bool,
}

/// NVIDIA's program that switches virtual functions on and off.
const MANAGER: &str = "/usr/lib/nvidia/sriov-manage";

const UNIT: &str = "kdc-gpu-functions.service";

fn unit_path() -> String {
    format!("{UNIT_DIR}/{UNIT}")
}

fn link_path() -> String {
    format!("{UNIT_DIR}/multi-user.target.wants/{UNIT}")
}

impl Before {
    /// The unit that has them on at every boot; none where no GPU has virtual functions.
    fn unit_text(&self) -> Option<String> {
        let with_functions = self.gpus.iter().filter(|(_, gpu)| gpu.most > 0);
        let lines: String = with_functions
            .map(|(address, _)| format!("ExecStart={MANAGER} -e {address}\n"))
            .collect();
        (!lines.is_empty()).then(|| unit(&lines))
    }
}

fn unit(lines: &str) -> String {
    format!(
        "[Unit]\nDescription=Virtual functions of this node's GPUs, on as kdc was told\n\
         After=systemd-modules-load.service nvidia-vgpud.service nvidia-vgpu-mgr.service\n\
         Before=kdc-gpu.service kubelet.service\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n{lines}TimeoutStartSec=300\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// The device, or one of its virtual functions, has types of virtual GPUs.
fn has_types(host: &dyn Host, device: &PciDevice) -> Result<bool, StepError> {
    let newer = host.stat(&device.path("nvidia/creatable_vgpu_types"))?.is_some();
    let older = host.list(&device.path("mdev_supported_types"))?;
    Ok(newer || older.is_some_and(|types| !types.is_empty()))
}

/// Virtual functions of a GPU that are on.
fn functions(host: &dyn Host, gpu: &PciDevice) -> Result<Vec<PciDevice>, StepError> {
    let mut found = Vec::new();
    for name in host.list(gpu.path("").trim_end_matches('/'))?.unwrap_or_default() {
        if name.starts_with("virtfn") {
            let target = host.read_link(&gpu.path(&name))?;
            let address = target.rsplit('/').next().unwrap_or_default();
            found.extend(pci::device(host, address)?);
        }
    }
    Ok(found)
}

fn look_at(host: &dyn Host, gpu: &PciDevice) -> Result<GpuBefore, StepError> {
    let most = host.read_text(&gpu.path("sriov_totalvfs"))?.unwrap_or_default();
    let functions = functions(host, gpu)?;
    let mut offers = !functions.is_empty();
    for function in &functions {
        offers &= has_types(host, function)?;
    }
    offers |= has_types(host, gpu)?;
    Ok(GpuBefore {
        most: most.trim().parse().unwrap_or_default(),
        on: gpu.virtual_functions,
        offers,
    })
}

fn no_types(address: &str, driver: Option<&str>) -> StepError {
    StepError::Refused {
        what: format!(
            "GPU {address} offers no virtual GPUs (its driver is {})",
            driver.unwrap_or("none")
        ),
        hint: "install NVIDIA's vGPU manager, the driver for hosts of virtual machines; not every card has vGPU"
            .to_owned(),
    }
}

/// Run NVIDIA's program for one GPU.
fn manage(host: &dyn Host, switch: &str, address: &str) -> Result<(), StepError> {
    let program = Program::new(MANAGER).args([switch, address]).within_secs(180);
    match host.run_checked(&program) {
        Err(error) if error.is_missing_program() => Err(StepError::Refused {
            what: format!("NVIDIA's vGPU manager is not installed ({MANAGER} is missing)"),
            hint: "install the driver for hosts of virtual machines, then run this again"
                .to_owned(),
        }),
        done => Ok(done.map(|_| ())?),
    }
}

/// Nobody uses the GPU or one of its virtual functions.
fn refuse_if_used(host: &dyn Host, gpu: &PciDevice) -> Result<(), StepError> {
    let functions = functions(host, gpu)?;
    let mut users = in_use::users(host, &[gpu])?;
    for function in &functions {
        users.extend(in_use::users(host, &[function])?);
        let kind = host.read_text(&function.path("nvidia/current_vgpu_type"))?.unwrap_or_default();
        if !["", "0"].contains(&kind.trim()) {
            users.push(format!("{} is a virtual GPU of type {}", function.address, kind.trim()));
        }
    }
    for name in host.list("/sys/bus/mdev/devices")?.unwrap_or_default() {
        let target = host.read_link(&format!("/sys/bus/mdev/devices/{name}"))?;
        let of = |device: &PciDevice| target.contains(&format!("/{}/", device.address));
        if of(gpu) || functions.iter().any(of) {
            users.push(format!("the virtual GPU {name} is on it"));
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    users.sort();
    users.dedup();
    Err(StepError::Refused {
        what: format!("GPU {} is in use: {}", gpu.address, users.join("; ")),
        hint: "end what uses it, then run this again".to_owned(),
    })
}

impl EnableVirtualFunctions<'_> {
    fn meant(&self, host: &dyn Host) -> Result<Vec<PciDevice>, StepError> {
        let all = pci::devices(host)?;
        let named = all_but(host, &all, self.except)?;
        Ok(all.into_iter().filter(|device| named.contains(&device.address)).collect())
    }

    /// Switch on what is off; which GPUs were touched is in `touched`, also where it fails.
    fn switch_on(
        &self,
        host: &dyn Host,
        before: &Before,
        touched: &mut Vec<String>,
    ) -> Result<(), StepError> {
        let meant = self.meant(host)?;
        let mut off = Vec::new();
        for gpu in &meant {
            let now = look_at(host, gpu)?;
            if now.offers {
                continue;
            }
            // Some are on that offer nothing: it was us, when a power cut ended our work, or it is not this driver.
            let theirs = now.on > 0 && before.gpus.get(&gpu.address).is_none_or(|was| was.on > 0);
            if now.most == 0 || theirs || gpu.driver.as_deref() != Some("nvidia") {
                return Err(no_types(&gpu.address, gpu.driver.as_deref()));
            }
            off.push(gpu);
        }
        if !off.is_empty() && !pci::has_groups(host)? {
            let mut waiting = reboot::waiting(host)?;
            return Err(match waiting.remove(enable_iommu::REQUEST) {
                Some(why) => StepError::Reboot { why },
                None => StepError::Refused {
                    what: "virtual functions need the IOMMU, and there are no IOMMU groups"
                        .to_owned(),
                    hint: "switch the IOMMU (VT-d, AMD-Vi) on in the firmware".to_owned(),
                },
            });
        }
        if !off.is_empty() {
            watch_pause::pause(host)?;
        }
        for gpu in &off {
            refuse_if_used(host, gpu)?;
        }
        for gpu in off {
            touched.push(gpu.address.clone());
            if gpu.virtual_functions > 0 {
                manage(host, "-d", &gpu.address)?;
            }
            manage(host, "-e", &gpu.address)?;
            let now = pci::device(host, &gpu.address)?;
            let offers = match &now {
                Some(now) => look_at(host, now)?.offers,
                None => false,
            };
            if !offers {
                return Err(no_types(&gpu.address, gpu.driver.as_deref()));
            }
        }
        Ok(())
    }

    fn make(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let (host, mut touched) = (context.host, Vec::new());
        if let Err(error) = self.switch_on(host, before, &mut touched) {
            for address in touched.iter().rev() {
                if let Err(worse) = manage(host, "-d", address) {
                    context.say(&format!("virtual functions of {address} stay on: {worse}"));
                }
            }
            return Err(error);
        }
        let Some(text) = before.unit_text() else { return Ok(()) };
        put_file(host, &unit_path(), &mut text.as_bytes(), 0o644)?;
        make_parents(host, &link_path())?;
        Ok(host.make_link(&link_path(), &unit_path())?)
    }

    fn take_back(context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let mut ours = Vec::new();
        for (address, was) in &before.gpus {
            let now = pci::device(host, address)?;
            ours.extend(now.filter(|now| was.on == 0 && now.virtual_functions > 0));
        }
        if !ours.is_empty() {
            watch_pause::pause(host)?;
        }
        for gpu in &ours {
            refuse_if_used(host, gpu)?;
        }
        restore(context, &link_path(), &before.link)?;
        restore(context, &unit_path(), &before.unit)?;
        for gpu in ours.iter().rev() {
            manage(host, "-d", &gpu.address)?;
        }
        Ok(())
    }
}

impl Change for EnableVirtualFunctions<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let host = context.host;
        let (meant, not_now) = match self.meant(host) {
            Ok(meant) => (meant, None),
            Err(error @ StepError::Refused { .. }) => (Vec::new(), Some(error.to_string())),
            Err(error) => return Err(error),
        };
        let mut gpus = BTreeMap::new();
        for gpu in meant {
            let was = look_at(host, &gpu)?;
            gpus.insert(gpu.address, was);
        }
        let (unit, link) = (look(context, &unit_path())?, look(context, &link_path())?);
        Ok(Before { gpus, not_now, unit, link })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        let at_boot = before.unit_text().is_none_or(|text| {
            before.unit.is_file(&Digest::of(text.as_bytes()), 0o644)
                && before.link == PathState::Link { target: unit_path() }
        });
        before.not_now.is_none() && at_boot && before.gpus.values().all(|gpu| gpu.offers)
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let made = self.make(context, before);
        // Whatever came of it, the watch goes on.
        let resumed = watch_pause::resume(context.host);
        made.and(resumed)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let taken = Self::take_back(context, before);
        let resumed = watch_pause::resume(context.host);
        taken.and(resumed)
    }

    fn summary(&self) -> String {
        "switch on the virtual functions of every NVIDIA GPU, for virtual GPUs".to_owned()
    }

    fn detail(&self, before: &Before) -> String {
        if let Some(why) = &before.not_now {
            return why.clone();
        }
        let one = |(address, gpu): (&String, &GpuBefore)| match (gpu.offers, gpu.most) {
            (true, _) => format!("{address} offers virtual GPUs"),
            (false, 0) => format!("{address} has no virtual functions and offers no virtual GPUs"),
            (false, most) => format!("{address}: up to {most} virtual functions on"),
        };
        let gpus: Vec<String> = before.gpus.iter().map(one).collect();
        format!("{}; the same at every boot", gpus.join("; "))
    }
}

#[cfg(test)]
#[path = "enable_virtual_functions_tests.rs"]
mod tests;
