//! GPUs watched: the driver's errors as they come, and the numbers that change.

use std::{collections::BTreeSet, time::Duration};

use nvml_wrapper::{
    EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
};

use super::{
    device::{Asked, address},
    fields::{self, Fields},
    in_words,
};
use crate::{
    gpu::{
        report::{GpuState, Live, RowRemaps},
        sample::{GpuSample, NvmlXid},
    },
    inventory::Found,
};

/// The fields that decide whether a GPU is sick.
const HEALTH_FIELDS: &[u32] = &[
    fields::REMAPPED_CORRECTABLE,
    fields::REMAPPED_UNCORRECTABLE,
    fields::REMAP_PENDING,
    fields::REMAP_FAILURE,
    fields::RECOVERY_ACTION,
];

/// What came of waiting.
pub(in crate::gpu) enum Sight {
    /// An error.
    Xid(NvmlXid),
    /// Nothing until the time was up.
    Nothing,
    /// This library can't wait, or not now; the caller sleeps instead.
    Blind,
}

/// GPUs whose errors are listened to.
pub(in crate::gpu) struct Watch<'n> {
    nvml: &'n Nvml,
    errors: Option<EventSet<'n>>,
}

impl<'n> Watch<'n> {
    /// Listen to these GPUs.
    pub(in crate::gpu) fn begin(nvml: &'n Nvml, gpus: &[u32]) -> Self {
        Self { nvml, errors: listen(nvml, gpus) }
    }

    /// Wait for an error of a GPU.
    pub(in crate::gpu) fn wait(&self, most: Duration) -> Sight {
        let Some(set) = &self.errors else { return Sight::Blind };
        let event = match set.wait(u32::try_from(most.as_millis()).unwrap_or(u32::MAX)) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => return Sight::Nothing,
            // A lost GPU makes every call end at once.
            Err(_) => return Sight::Blind,
        };
        match event.event_data {
            Some(XidError::Value(xid)) => {
                let pci = event.device.pci_info().ok().map(|info| address(&info));
                Sight::Xid(NvmlXid { pci, xid })
            }
            Some(XidError::Unknown) | None => Sight::Nothing,
        }
    }

    /// What one GPU says now.
    pub(in crate::gpu) fn sample(&self, index: u32) -> GpuSample {
        let device = match self.nvml.device_by_index(index) {
            Ok(device) => device,
            Err(error) => return unasked(index, &error),
        };
        let asked = Asked::new(&device);
        let fields = Fields::ask(&device, HEALTH_FIELDS);
        let live = asked.live();
        GpuSample {
            index,
            pci: device.pci_info().ok().map(|info| address(&info)),
            uuid: device.uuid().ok(),
            state: asked.state(),
            recovery_action: Asked::recovery_action(&fields),
            row_remaps: RowRemaps {
                correctable: fields.get(fields::REMAPPED_CORRECTABLE),
                uncorrectable: fields.get(fields::REMAPPED_UNCORRECTABLE),
                pending: fields.is_set(fields::REMAP_PENDING),
                failed: fields.is_set(fields::REMAP_FAILURE),
            },
            live,
        }
    }
}

fn unasked(index: u32, error: &NvmlError) -> GpuSample {
    let (source, reason) = ("nvmlDeviceGetHandleByIndex_v2", in_words(error));
    GpuSample {
        index,
        pci: None,
        uuid: None,
        state: match error {
            NvmlError::GpuLost => GpuState::Lost,
            NvmlError::ResetRequired => GpuState::ResetRequired,
            _ => GpuState::Breaks { reason: reason.clone() },
        },
        recovery_action: Found::unknown(source, &reason),
        row_remaps: RowRemaps::unasked(source, &reason),
        live: Live::unasked(source, &reason),
    }
}

/// A set with the errors of every GPU that can tell them. One that refuses takes the whole set with it (the wrapper
/// frees it), so it is left out and the others are asked again.
fn listen<'n>(nvml: &'n Nvml, gpus: &[u32]) -> Option<EventSet<'n>> {
    let mut deaf = BTreeSet::new();
    'again: loop {
        let mut set = nvml.create_event_set().ok()?;
        let mut some = false;
        for index in gpus.iter().filter(|index| !deaf.contains(*index)) {
            let kind = EventTypes::CRITICAL_XID_ERROR;
            let Ok(device) = nvml.device_by_index(*index) else { continue };
            if !device.supported_event_types().is_ok_and(|known| known.contains(kind)) {
                continue;
            }
            match device.register_events(kind, set) {
                Ok(same) => (set, some) = (same, true),
                Err(_) => {
                    deaf.insert(*index);
                    continue 'again;
                }
            }
        }
        return some.then_some(set);
    }
}
