//! `BindVfio`: GPUs handed to `vfio-pci`, whole IOMMU groups at a time, for virtual machines.
//!
//! The kernel binds one function after the other, so a failure half-way is put back in reverse. A udev
//! rule by address *and* model has the same done at every boot, before the driver of the card is loaded; ids in
//! `modprobe.d` would take every card of that model. Nothing here ever reloads systemd.

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    in_use,
    pci::{self, PciDevice},
    reboot,
    vfio_group::{Refusal, choose},
    watch_pause,
};
use crate::{
    host::Host,
    step::{
        change::{Change, Context, StepError},
        snapshot::{PathState, look, put_file, restore},
    },
};

/// Devices for virtual machines.
pub(crate) struct BindVfio<'a> {
    pub(crate) gpus: &'a [String],
    pub(crate) except: &'a [String],
    pub(crate) display: bool,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Every function of the machine but bridges: where it is refused at first, those that go are known later.
    devices: BTreeMap<String, DeviceBefore>,
    /// Those that go.
    chosen: Vec<String>,
    rules: PathState,
    /// Why it can't be done as things are now.
    not_now: Option<String>,
}

/// How a function was bound.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceBefore {
    driver: Option<String>,
    driver_override: Option<String>,
    vendor: u16,
    device: u16,
}

const DRIVER: &str = "vfio-pci";
const DRIVERS: &str = "/sys/bus/pci/drivers";
const RULES: &str = "/etc/udev/rules.d/05-kdc-vfio.rules";

impl DeviceBefore {
    /// We have it, or had it when a power cut ended our work.
    fn is_touched(&self, now: &PciDevice) -> bool {
        self.driver.as_deref() != Some(DRIVER)
            && (is_bound(now)
                || now.driver_override.as_deref() == Some(DRIVER)
                || (now.driver.is_none() && self.driver.is_some()))
    }
}

/// The rule of each function: its driver is set before any is loaded for it, then it is bound.
fn rules<'a>(devices: impl IntoIterator<Item = (&'a str, u16, u16)>) -> String {
    let mut text =
        "# Written by kdc: these devices are for virtual machines. Undo takes this file away.\n"
            .to_owned();
    for (address, vendor, device) in devices {
        text.push_str(&format!(
            "ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{address}\", ATTR{{vendor}}==\"{vendor:#06x}\", \
             ATTR{{device}}==\"{device:#06x}\", ATTR{{driver_override}}=\"{DRIVER}\", \
             RUN+=\"/sbin/modprobe {DRIVER}\", \
             RUN+=\"/bin/sh -c 'echo {address} > /sys/bus/pci/drivers_probe'\"\n"
        ));
    }
    text
}

fn refused(refusal: &Refusal) -> StepError {
    StepError::Refused { what: refusal.to_string(), hint: refusal.hint() }
}

/// Every NVIDIA GPU but those that are named: by UUID, or by their place in the order of addresses.
pub(super) fn all_but(
    host: &dyn Host,
    all: &[PciDevice],
    except: &[String],
) -> Result<Vec<String>, StepError> {
    let mut found = Vec::new();
    for device in all.iter().filter(|device| device.is_nvidia_gpu()) {
        found.push((in_use::identity(host, &device.address)?.uuid, device.address.clone()));
    }
    let mut stay = std::collections::BTreeSet::new();
    for name in except {
        let place = found.iter().enumerate().position(|(place, (uuid, _))| {
            uuid.as_deref() == Some(name) || place.to_string() == *name
        });
        // One that is not found would go with the others, whatever it is.
        let absent = || refused(&Refusal::NotExcepted { name: name.clone() });
        stay.insert(place.ok_or_else(absent)?);
    }
    let gone = found.into_iter().enumerate().filter(|(place, _)| !stay.contains(place));
    let named: Vec<String> = gone.map(|(_, (_, address))| address).collect();
    if named.is_empty() { Err(refused(&Refusal::NoGpu)) } else { Ok(named) }
}

impl BindVfio<'_> {
    /// The addresses that are named, by what is excepted too.
    fn named(&self, host: &dyn Host, all: &[PciDevice]) -> Result<Vec<String>, StepError> {
        if self.except.is_empty() || !self.gpus.is_empty() {
            return Ok(self.gpus.to_vec());
        }
        all_but(host, all, self.except)
    }

    /// The functions that go.
    fn chosen(&self, host: &dyn Host) -> Result<Vec<PciDevice>, StepError> {
        let all = pci::devices(host)?;
        if !pci::has_groups(host)? {
            let waits = reboot::waiting(host)?;
            if let Some(why) = waits.get(super::enable_iommu::REQUEST) {
                return Err(StepError::Reboot { why: why.clone() });
            }
        }
        let named = self.named(host, &all)?;
        let chosen = choose(&all, &named, self.display).map_err(|refusal| refused(&refusal))?;
        Ok(chosen.into_iter().cloned().collect())
    }
}

/// Nobody uses them; asked right before they are taken away from whoever has them.
fn refuse_if_used(host: &dyn Host, devices: &[&PciDevice]) -> Result<(), StepError> {
    let users = in_use::users(host, devices)?;
    if let (false, Some(device)) = (users.is_empty(), devices.first()) {
        let address = device.address.clone();
        return Err(refused(&Refusal::InUse { address, by: users.join("; ") }));
    }
    Ok(())
}

fn is_bound(device: &PciDevice) -> bool {
    device.driver.as_deref() == Some(DRIVER)
}

/// Give a function to a driver; `None` leaves it with none. `only` is the one driver that may have it.
fn give(
    host: &dyn Host,
    address: &str,
    driver: Option<&str>,
    only: Option<&str>,
) -> Result<(), StepError> {
    let Some(device) = pci::device(host, address)? else {
        return Err(refused(&Refusal::Absent { address: address.to_owned() }));
    };
    // First, so that no other driver takes it in between.
    if device.driver_override.as_deref() != only {
        // The kernel takes an empty line for "any".
        host.set_kernel_value(&device.path("driver_override"), only.unwrap_or("\n"))?;
    }
    if device.driver.as_deref() == driver {
        return Ok(());
    }
    if let Some(old) = &device.driver {
        host.set_kernel_value(&format!("{DRIVERS}/{old}/unbind"), address)?;
    }
    let Some(driver) = driver else { return Ok(()) };
    host.set_kernel_value(&format!("{DRIVERS}/{driver}/bind"), address)?;
    match pci::device(host, address)?.and_then(|device| device.driver) {
        Some(now) if now == driver => Ok(()),
        now => Err(StepError::Refused {
            what: format!(
                "{address} should have the driver {driver} and has {}",
                now.as_deref().unwrap_or("none")
            ),
            hint: "look at `dmesg` on the node".to_owned(),
        }),
    }
}

/// Put functions back that are ours now, the last first. Goes on after a failure and tells the first one.
fn give_back(context: &Context<'_>, before: &Before) -> Result<(), StepError> {
    let mut first = Ok(());
    for (address, was) in before.devices.iter().rev() {
        let given = pci::device(context.host, address).and_then(|now| match now {
            Some(now) if was.is_touched(&now) => give_to_former(context, address, was),
            _ => Ok(()),
        });
        if let Err(error) = given {
            context.say(&format!("{address} is not back with its driver: {error}"));
            first = first.and(Err(error));
        }
    }
    first
}

fn give_to_former(
    context: &Context<'_>,
    address: &str,
    was: &DeviceBefore,
) -> Result<(), StepError> {
    let only = was.driver_override.as_deref();
    match was.driver.as_deref() {
        Some(driver) if context.host.stat(&format!("{DRIVERS}/{driver}"))?.is_none() => {
            context.say(&format!(
                "{address} has no driver until a reboot: {driver} is not loaded any more"
            ));
            give(context.host, address, None, only)
        }
        driver => give(context.host, address, driver, only),
    }
}

impl BindVfio<'_> {
    /// Take what is named from its drivers.
    fn take(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let chosen = self.chosen(host)?;
        if chosen.iter().any(|device| !before.devices.contains_key(&device.address)) {
            // It could not be looked at when this step began, so undo would not know what was.
            return Err(StepError::Refused {
                what: "the GPUs of this node are others than when this run looked at them"
                    .to_owned(),
                hint: "undo this run, then apply again".to_owned(),
            });
        }
        if host.stat(&format!("{DRIVERS}/{DRIVER}"))?.is_none() {
            return Err(StepError::Refused {
                what: format!("the driver {DRIVER} is not loaded"),
                hint: "load it with a step before this one; the kernel may lack it".to_owned(),
            });
        }
        let free: Vec<&PciDevice> = chosen.iter().filter(|device| !is_bound(device)).collect();
        if !free.is_empty() {
            watch_pause::pause(host)?;
        }
        refuse_if_used(host, &free)?;
        for device in &chosen {
            if let Err(error) = give(host, &device.address, Some(DRIVER), Some(DRIVER)) {
                context.say(&format!("{} could not be taken; all go back", device.address));
                // Whatever stays is told there; the first failure is the reason.
                return Err(give_back(context, before).err().map_or(error, |_| {
                    StepError::Refused {
                        what: format!(
                            "{} could not be taken, nor all be given back",
                            device.address
                        ),
                        hint: "look at `dmesg` on the node, then undo".to_owned(),
                    }
                }));
            }
        }
        let text = rules(chosen.iter().map(|one| (one.address.as_str(), one.vendor, one.device)));
        put_file(host, RULES, &mut text.as_bytes(), 0o644)
    }
}

impl Change for BindVfio<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let rules = look(context, RULES)?;
        let (chosen, not_now) = match self.chosen(context.host) {
            Ok(chosen) => (chosen, None),
            Err(error @ (StepError::Refused { .. } | StepError::Reboot { .. })) => {
                (Vec::new(), Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let chosen = chosen.into_iter().map(|device| device.address).collect();
        let all = pci::devices(context.host)?.into_iter().filter(|device| !device.is_bridge());
        let devices = all.map(|device| {
            let PciDevice { address, driver, driver_override, vendor, device, .. } = device;
            (address, DeviceBefore { driver, driver_override, vendor, device })
        });
        Ok(Before { devices: devices.collect(), chosen, rules, not_now })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        let of = |address: &'_ String| before.devices.get_key_value(address);
        let chosen: Vec<_> = before.chosen.iter().filter_map(of).collect();
        let text = rules(chosen.iter().map(|(at, one)| (at.as_str(), one.vendor, one.device)));
        before.not_now.is_none()
            && chosen.iter().all(|(_, device)| device.driver.as_deref() == Some(DRIVER))
            && before.rules.is_file(&Digest::of(text.as_bytes()), 0o644)
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let taken = self.take(context, before);
        // Whatever came of it, the watch goes on.
        let resumed = watch_pause::resume(context.host);
        taken.and(resumed)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let mut mine = Vec::new();
        for (address, was) in &before.devices {
            let now = pci::device(context.host, address)?;
            mine.extend(now.filter(|now| is_bound(now) && was.is_touched(now)));
        }
        refuse_if_used(context.host, &mine.iter().collect::<Vec<_>>())?;
        restore(context, RULES, &before.rules)?;
        give_back(context, before)
    }

    fn summary(&self) -> String {
        match self.gpus {
            [] => "hand every NVIDIA GPU to virtual machines".to_owned(),
            gpus => format!("hand {} to virtual machines", gpus.join(", ")),
        }
    }

    fn detail(&self, before: &Before) -> String {
        if let Some(why) = &before.not_now {
            return why.clone();
        }
        let one = |address: &String| {
            let was = before.devices.get(address).and_then(|was| was.driver.as_deref());
            format!("{address} from {}", was.unwrap_or("no driver"))
        };
        let devices: Vec<String> = before.chosen.iter().map(one).collect();
        format!("gives {DRIVER} {}, now and at every boot", devices.join(", "))
    }
}

#[cfg(test)]
#[path = "bind_vfio_tests.rs"]
mod tests;
