//! `SetMigGeometry`: GPUs cut into fixed MIG instances, now and at every boot.
//!
//! Instances are gone after a reset and a reboot, and on newer cards MIG itself is off again. So the geometry is written down
//! (`/etc/kdc/gpu-instances.json`), and a unit makes it at boot, before anybody opens a GPU. Where MIG can't start without a
//! reset that the driver won't make now, the node is told, asks for a reboot, and the unit does the rest then. systemd is
//! never reloaded, since that takes devices away from running containers: it finds the unit at the next boot.

use std::{cell::Cell, collections::BTreeMap};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    blacklist_module,
    mig_child::{self, change},
    mig_cut::{orders, orders_back, stands, waits},
    mig_geometry::{MigRefusal, in_words},
    mig_use::{Uses, uses},
    reboot, watch_pause,
};
use crate::{
    gpu::mig::{CutGpu, GpuOrders, Order},
    host::Host,
    step::{
        change::{Change, Context, StepError},
        snapshot::{PathState, look, make_parents, put_file, restore},
        systemd::UNIT_DIR,
    },
};

/// A geometry on GPUs.
pub(crate) struct SetMigGeometry<'a> {
    pub(crate) geometry: &'a BTreeMap<String, u8>,
    pub(crate) except: &'a [String],
}

/// The geometry as it is written down for every boot.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    geometry: BTreeMap<String, u8>,
    except: Vec<String>,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Every GPU of the node and how it was cut.
    gpus: Vec<CutGpu>,
    /// UUIDs of those that are meant.
    meant: Vec<String>,
    /// Why it can't be done as things are now.
    not_now: Option<String>,
    file: PathState,
    unit: PathState,
    link: PathState,
    request: PathState,
}

/// Under which name it asks for a reboot.
const REQUEST: &str = "mig";

const FILE: &str = "/etc/kdc/gpu-instances.json";
const UNIT: &str = "kdc-gpu-instances.service";
const UNIT_TEXT: &str = include_str!("kdc-gpu-instances.service");

/// Switching on, making instances, and a look whether they stand.
const ROUNDS: usize = 3;

fn unit_path() -> String {
    format!("{UNIT_DIR}/{UNIT}")
}

fn link_path() -> String {
    format!("{UNIT_DIR}/multi-user.target.wants/{UNIT}")
}

/// Every GPU of the node. Without its driver, what the driver waits for is told.
fn look_at_gpus(host: &dyn Host) -> Result<Vec<CutGpu>, StepError> {
    match mig_child::look(host) {
        Err(refused @ StepError::Refused { .. }) => {
            let mut waiting = reboot::waiting(host)?;
            Err(waiting
                .remove(blacklist_module::NOUVEAU)
                .map_or(refused, |why| StepError::Reboot { why }))
        }
        seen => seen,
    }
}

fn refused(refusals: &[MigRefusal]) -> Result<(), StepError> {
    let Some(first) = refusals.first() else { return Ok(()) };
    let all: Vec<String> = refusals.iter().map(MigRefusal::to_string).collect();
    Err(StepError::Refused { what: all.join("; "), hint: first.hint() })
}

fn names<'g>(gpus: impl IntoIterator<Item = &'g CutGpu>) -> String {
    let names: Vec<String> =
        gpus.into_iter().map(|gpu| format!("{} ({})", gpu.uuid, gpu.pci)).collect();
    names.join(", ")
}

impl SetMigGeometry<'_> {
    /// What is written down.
    fn text(&self) -> String {
        let written = Written { geometry: self.geometry.clone(), except: self.except.to_vec() };
        // Names and numbers always have a form in JSON.
        let text = serde_json::to_string_pretty(&written).unwrap_or_default();
        format!("{text}\n")
    }

    /// The GPUs that are meant.
    fn meant<'g>(&self, gpus: &'g [CutGpu]) -> Result<Vec<&'g CutGpu>, StepError> {
        for name in self.except {
            let named = |gpu: &CutGpu| gpu.uuid == *name || gpu.index.to_string() == *name;
            if !gpus.iter().any(named) {
                // One that is not found would be cut with the others, whatever it is.
                return Err(StepError::Refused {
                    what: format!("no GPU of this node is `{name}`, which should stay as it is"),
                    hint: "name it as `nvidia-smi -L` does, by UUID or number".to_owned(),
                });
            }
        }
        let stays = |gpu: &&CutGpu| {
            !self.except.iter().any(|name| gpu.uuid == *name || gpu.index.to_string() == *name)
        };
        let meant: Vec<&CutGpu> = gpus.iter().filter(stays).collect();
        if meant.is_empty() {
            return Err(StepError::Refused {
                what: "there is no NVIDIA GPU in this machine that could be cut".to_owned(),
                hint: "take `geometry` off this node, or exclude fewer GPUs".to_owned(),
            });
        }
        Ok(meant)
    }

    /// Have the GPUs cut as wanted; those that wait for their reset come back. `changed` says whether anything was ordered.
    fn make(&self, host: &dyn Host, changed: &Cell<bool>) -> Result<Vec<CutGpu>, StepError> {
        for round in 0..=ROUNDS {
            let gpus = look_at_gpus(host)?;
            let (mut todo, mut refusals, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
            let meant = self.meant(&gpus)?;
            if round == 0 && meant.iter().any(|gpu| gpu.mode.is_some_and(|mode| !mode.current)) {
                watch_pause::pause(host)?;
            }
            for gpu in meant {
                if stands(gpu, self.geometry) {
                    continue;
                }
                if round > 0 && waits(gpu) {
                    waiting.push(gpu.clone());
                    continue;
                }
                match orders(gpu, &uses(host, gpu, &gpus)?, self.geometry) {
                    Ok(orders) => todo.push(GpuOrders { uuid: gpu.uuid.clone(), orders }),
                    Err(refusal) => refusals.push(refusal),
                }
            }
            refused(&refusals)?;
            if todo.is_empty() {
                return Ok(waiting);
            }
            if round == ROUNDS {
                break;
            }
            changed.set(true);
            change(host, todo)?;
        }
        Err(StepError::Refused {
            what: "the driver did as it was told, and the instances are not there".to_owned(),
            hint: "look at `dmesg` and `nvidia-smi mig -lgi` on the node".to_owned(),
        })
    }

    /// What has to be ordered to bring back what was.
    fn way_back(&self, host: &dyn Host, before: &Before) -> Result<Vec<GpuOrders>, StepError> {
        let gpus = look_at_gpus(host)?;
        let (mut todo, mut refusals) = (Vec::new(), Vec::new());
        for was in before.gpus.iter().filter(|gpu| before.is_ours(gpu)) {
            let Some(now) = gpus.iter().find(|gpu| gpu.uuid == was.uuid) else {
                return Err(StepError::Refused {
                    what: format!("GPU {} is gone", was.uuid),
                    hint: "undo again when it is back; its instances went with it".to_owned(),
                });
            };
            if now.mode != was.mode {
                watch_pause::pause(host)?;
            }
            match orders_back(now, &uses(host, now, &gpus)?, was) {
                Ok(orders) if orders.is_empty() => {}
                Ok(orders) => todo.push(GpuOrders { uuid: was.uuid.clone(), orders }),
                Err(refusal) => refusals.push(refusal),
            }
        }
        refused(&refusals)?;
        Ok(todo)
    }

    /// What would be done on one GPU, in words.
    fn words(&self, gpu: &CutGpu) -> String {
        let todo = match orders(gpu, &Uses::default(), self.geometry) {
            Err(refusal) => return refusal.to_string(),
            Ok(todo) => todo,
        };
        let name = |profile: u32| {
            let known = gpu.profiles.iter().find(|known| known.id == profile);
            known.map_or("an instance", |known| known.name.as_str())
        };
        let mut parts = Vec::new();
        for order in &todo {
            parts.push(match order {
                Order::Mode { .. } => {
                    let geometry = in_words(self.geometry);
                    format!(
                        "switches MIG on, which resets it or waits for a reboot; makes {geometry}"
                    )
                }
                Order::Destroy { instance } => {
                    let known = gpu.instances.iter().find(|known| known.id == *instance);
                    let name = known.map_or("an instance", |known| name(known.profile));
                    format!("takes away {name} (instance {instance})")
                }
                Order::Create { profile, start, .. } => {
                    format!("makes {} at slice {start}", name(*profile))
                }
            });
        }
        let todo = if parts.is_empty() { "stays".to_owned() } else { parts.join(", ") };
        format!("{} ({}): {todo}", gpu.uuid, gpu.model)
    }
}

impl SetMigGeometry<'_> {
    /// Cut the GPUs, and have the boot do the same.
    fn cut(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let gpus = look_at_gpus(host)?;
        let known = |gpu: &&CutGpu| before.gpus.iter().any(|was| was.uuid == gpu.uuid);
        if !self.meant(&gpus)?.iter().all(known) {
            // They could not be looked at when this step began, so undo would not know what was.
            return Err(StepError::Refused {
                what: "the GPUs of this node are others than when this run looked at them"
                    .to_owned(),
                hint: "undo this run, then apply again".to_owned(),
            });
        }
        context.say(&self.detail(before));
        let changed = Cell::new(false);
        let waiting = match self.make(host, &changed) {
            Err(error) if changed.get() => {
                return Err(roll_back(self, context, before, error));
            }
            made => made?,
        };
        put_file(host, FILE, &mut self.text().as_bytes(), 0o644)?;
        put_file(host, &unit_path(), &mut UNIT_TEXT.as_bytes(), 0o644)?;
        make_parents(host, &link_path())?;
        host.make_link(&link_path(), &unit_path())?;
        if waiting.is_empty() {
            // Asked for by an attempt before this one, which the driver has caught up with.
            return restore(context, &reboot::path(REQUEST), &before.request);
        }
        reboot::ask(context, REQUEST, &format!("MIG starts on {}", names(&waiting)))
    }

    /// Bring back what was, and have the boot do nothing.
    fn bring_back(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let todo = self.way_back(host, before)?;
        restore(context, &link_path(), &before.link)?;
        restore(context, &unit_path(), &before.unit)?;
        restore(context, FILE, &before.file)?;
        restore(context, &reboot::path(REQUEST), &before.request)?;
        if todo.is_empty() {
            return Ok(());
        }
        change(host, todo)?;
        let gpus = look_at_gpus(host)?;
        let was = |gpu: &&CutGpu| {
            let was = before.gpus.iter().find(|was| was.uuid == gpu.uuid && before.is_ours(was));
            was.and_then(|was| was.mode)
                .zip(gpu.mode)
                .is_some_and(|(was, now)| was.current != now.current && was.pending == now.pending)
        };
        let waiting: Vec<&CutGpu> = gpus.iter().filter(was).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        reboot::ask(context, REQUEST, &format!("MIG is as before on {}", names(waiting)))
    }
}

impl Before {
    fn is_ours(&self, gpu: &CutGpu) -> bool {
        // Where those that are meant could not be told, all that we know of may be ours.
        self.meant.is_empty() || self.meant.contains(&gpu.uuid)
    }
}

/// Bring back what was, after a failure; what it is told with.
fn roll_back(
    step: &SetMigGeometry<'_>,
    context: &Context<'_>,
    before: &Before,
    error: StepError,
) -> StepError {
    context.say("the GPUs could not be cut as wanted; all goes back to what it was");
    let back = step.way_back(context.host, before).and_then(|todo| change(context.host, todo));
    let Err(worse) = back else { return error };
    StepError::Refused {
        what: format!("{error}; and what was could not be brought back: {worse}"),
        hint: "look at `nvidia-smi mig -lgi` on the node, then undo".to_owned(),
    }
}

impl Change for SetMigGeometry<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let mut gpus = look_at_gpus(context.host)?;
        let (meant, not_now) = match self.meant(&gpus) {
            Ok(meant) => (meant.into_iter().map(|gpu| gpu.uuid.clone()).collect(), None),
            Err(error @ StepError::Refused { .. }) => (Vec::new(), Some(error.to_string())),
            Err(error) => return Err(error),
        };
        // Who runs on them now is no part of what undo brings back.
        gpus.iter_mut().for_each(|gpu| gpu.processes.clear());
        Ok(Before {
            gpus,
            meant,
            not_now,
            file: look(context, FILE)?,
            unit: look(context, &unit_path())?,
            link: look(context, &link_path())?,
            request: look(context, &reboot::path(REQUEST))?,
        })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        let file =
            |state: &PathState, text: &str| state.is_file(&Digest::of(text.as_bytes()), 0o644);
        // Told and asked for already: only the reboot is left.
        let asked = !before.request.is_missing();
        before.not_now.is_none()
            && file(&before.file, &self.text())
            && file(&before.unit, UNIT_TEXT)
            && before.link == PathState::Link { target: unit_path() }
            && before
                .gpus
                .iter()
                .filter(|gpu| before.meant.contains(&gpu.uuid))
                .all(|gpu| stands(gpu, self.geometry) || (waits(gpu) && asked))
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let cut = self.cut(context, before);
        let resumed = watch_pause::resume(context.host);
        cut.and(resumed)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let brought_back = self.bring_back(context, before);
        let resumed = watch_pause::resume(context.host);
        brought_back.and(resumed)
    }

    fn summary(&self) -> String {
        format!("cut every GPU into {}", in_words(self.geometry))
    }

    fn detail(&self, before: &Before) -> String {
        if let Some(why) = &before.not_now {
            return why.clone();
        }
        let meant = before.gpus.iter().filter(|gpu| before.meant.contains(&gpu.uuid));
        let words: Vec<String> = meant.map(|gpu| self.words(gpu)).collect();
        format!("{}; the same at every boot", words.join("; "))
    }
}

/// Make the instances that were written down, at boot. Does nothing where they stand.
///
/// # Errors
/// If the GPUs can't be cut so; nothing is brought back, since nothing stood there.
pub fn settle_instances(host: &dyn Host, say: &dyn Fn(&str)) -> Result<(), StepError> {
    let Some(text) = host.read_text(FILE)? else { return Ok(()) };
    let written: Written = serde_json::from_str(&text)
        .map_err(|error| StepError::Format { what: FILE.to_owned(), reason: error.to_string() })?;
    let step = SetMigGeometry { geometry: &written.geometry, except: &written.except };
    let made = step.make(host, &Cell::new(false));
    watch_pause::resume(host)?;
    let waiting = made?;
    if !waiting.is_empty() {
        return Err(StepError::Reboot { why: format!("MIG starts on {}", names(&waiting)) });
    }
    say(&format!("cut as wanted: {}", in_words(&written.geometry)));
    Ok(())
}

#[cfg(test)]
#[path = "set_mig_geometry_tests.rs"]
mod tests;
