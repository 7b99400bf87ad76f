//! The GPUs of the fake machine that can be cut: `/@gpus/<index>` has one as `gpu-instances` tells it.
//!
//! As much of a driver as steps rely on: instances don't overlap, one that is in use does not go, and where
//! `/@gpus-want-a-reset` is there, MIG starts and stops with the next reset only.

use super::{Tree, names_in, programs};
use crate::{
    gpu::{
        mig::{Answer, CutGpu, CutInstance, GpuOrders, Order, Part, Question},
        report::Library,
    },
    host::Output,
};

const GPUS: &str = "/@gpus";

/// The n-th order from now on that the driver refuses, counted down.
const STUBBORN: &str = "/@gpus-stubborn";

fn gpus(tree: &Tree) -> Vec<CutGpu> {
    let read = |name: &String| {
        serde_json::from_str(&programs::text(tree, &format!("{GPUS}/{name}"))).unwrap()
    };
    names_in(tree, GPUS).iter().map(read).collect()
}

/// `gpu-instances` with this on its standard input. `during`: cut off after the first order.
pub(super) fn ask(tree: &mut Tree, input: &[u8], during: bool) -> Output {
    let answer = match serde_json::from_slice(input).unwrap() {
        _ if !tree.contains_key(GPUS) => {
            Answer::Refused { library: Library::Absent { reason: "no such file".to_owned() } }
        }
        Question::Look => Answer::Seen { gpus: gpus(tree) },
        Question::Change(orders) => change(tree, &orders, during),
    };
    Output::ok(serde_json::to_vec(&answer).unwrap())
}

fn change(tree: &mut Tree, all: &[GpuOrders], during: bool) -> Answer {
    for GpuOrders { uuid, orders } in all {
        let mut gpu = gpus(tree).into_iter().find(|gpu| gpu.uuid == *uuid).unwrap();
        for order in orders {
            if let Err(reason) = refuses(tree).and_then(|()| carry_out(tree, &mut gpu, order)) {
                return Answer::Stopped { doing: format!("{order:?}"), reason };
            }
            let text = serde_json::to_string(&gpu).unwrap();
            programs::put(tree, &format!("{GPUS}/{}", gpu.index), &format!("{text}\n"));
            if during {
                return Answer::Done;
            }
        }
    }
    Answer::Done
}

fn refuses(tree: &mut Tree) -> Result<(), String> {
    if !tree.contains_key(STUBBORN) {
        return Ok(());
    }
    let left: u32 = programs::text(tree, STUBBORN).trim().parse().unwrap();
    if left > 0 {
        programs::put(tree, STUBBORN, &(left - 1).to_string());
        return Ok(());
    }
    tree.remove(STUBBORN);
    Err("it would not".to_owned())
}

fn carry_out(tree: &Tree, gpu: &mut CutGpu, order: &Order) -> Result<(), String> {
    let mode = gpu.mode.as_mut().ok_or("no MIG")?;
    match order {
        Order::Mode { on } => {
            mode.pending = *on;
            if mode.current != *on && !tree.contains_key("/@gpus-want-a-reset") {
                if !gpu.processes.is_empty() || !gpu.instances.is_empty() {
                    return Err("somebody uses it".to_owned());
                }
                mode.current = *on;
            }
        }
        Order::Destroy { instance } => {
            if gpu.processes.iter().any(|process| process.instance == Some(*instance)) {
                return Err("somebody uses it".to_owned());
            }
            gpu.instances.retain(|known| known.id != *instance);
        }
        Order::Create { profile, start, size, parts } => {
            let known =
                gpu.profiles.iter().find(|known| known.id == *profile).ok_or("no profile")?;
            let overlaps =
                |one: &CutInstance| one.start < start + size && *start < one.start + one.size;
            if !mode.current
                || !known.starts.contains(start)
                || known.size != *size
                || gpu.instances.iter().any(overlaps)
            {
                return Err("the GPU has no room for it".to_owned());
            }
            let whole = Part {
                profile: *profile,
                start: 0,
                size: known.compute_slices,
                id: None,
                uuid: None,
            };
            let parts = if parts.is_empty() { vec![whole] } else { parts.clone() };
            let named = |(id, part): (u32, Part)| Part {
                id: Some(id),
                uuid: Some(format!("MIG-{}-{start}-{id}", gpu.index)),
                ..part
            };
            let parts = (0..).zip(parts).map(named).collect();
            // A number that comes from the place, so that who makes the same again has the same.
            let (id, profile, start, size) = (start + 1, *profile, *start, *size);
            gpu.instances.push(CutInstance { id, profile, start, size, parts });
            gpu.instances.sort_by_key(|instance| instance.start);
        }
    }
    Ok(())
}
