//! The GPUs of the file, handles to them, and how calls go wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::c_int,
    io::Write as _,
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde::Deserialize;

/// What goes wrong, by the call's name; `*` is every call.
pub(crate) type Failures = BTreeMap<String, Failure>;

/// How a call goes wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Failure {
    /// It ends with a code of nvml.h.
    Code(u32),
    /// `hang`, `crash`, `slow MILLISECONDS`, `write PATH`.
    Word(String),
}

/// Everything there is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct World {
    pub(crate) driver: String,
    pub(crate) nvml: String,
    pub(crate) cuda: c_int,
    pub(crate) fail: Failures,
    pub(crate) gpus: Vec<Gpu>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            driver: "580.95.05".to_owned(),
            nvml: "13.580.95.05".to_owned(),
            cuda: 13_000,
            fail: Failures::new(),
            gpus: Vec::new(),
        }
    }
}

/// One GPU.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Gpu {
    pub(crate) uuid: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) pci: String,
    /// Total, reserved, free, used.
    pub(crate) memory: Option<[u64; 4]>,
    pub(crate) answers: BTreeMap<String, u64>,
    pub(crate) fields: BTreeMap<u32, u64>,
    /// PCI addresses at the other ends of its links.
    pub(crate) links: Vec<String>,
    pub(crate) parts: Vec<Part>,
    /// It can be cut; its parts are then as its state has them.
    pub(crate) mig: Option<crate::mig::Mig>,
    pub(crate) computing: Vec<Process>,
    pub(crate) drawing: Vec<Process>,
    /// Errors that it has so many milliseconds after somebody first listens.
    pub(crate) xids: Vec<(u64, u64)>,
    pub(crate) fail: Failures,
}

/// A part of a GPU.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Part {
    pub(crate) uuid: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) gpu_instance: u32,
    pub(crate) compute_instance: u32,
    pub(crate) memory: Option<[u64; 4]>,
}

/// A program on a GPU.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) memory: u64,
    pub(crate) gpu_instance: Option<u32>,
    pub(crate) compute_instance: Option<u32>,
}

/// What a handle stands for.
pub(crate) enum Thing {
    Gpu(&'static Gpu),
    Part(&'static Gpu, &'static Part),
}

/// Numbers of parts lie above those of GPUs.
const PARTS: usize = 1000;

/// The file, read once.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let path = std::env::var_os("KDC_FAKE_NVML").expect("KDC_FAKE_NVML names the file of GPUs");
        let text = fs_err::read_to_string(path).expect("the file of GPUs is readable");
        serde_yaml::from_str(&text).expect("the file of GPUs is as `World` has it")
    })
}

/// The handle of a GPU: its number from one, since zero is no handle.
pub(crate) fn handle(index: usize) -> usize {
    index + 1
}

/// The handle of a part of a GPU.
pub(crate) fn part_handle(gpu: usize, index: usize) -> Option<usize> {
    let count = match crate::mig::parts(gpu) {
        Some(parts) => parts.len(),
        None => world().gpus.get(gpu.checked_sub(1)?)?.parts.len(),
    };
    (index < count).then_some(gpu * PARTS + index + 1)
}

/// What a handle stands for.
pub(crate) fn thing(handle: usize) -> Option<Thing> {
    let (gpu, part) = if handle < PARTS { (handle, 0) } else { (handle / PARTS, handle % PARTS) };
    let known = world().gpus.get(gpu.checked_sub(1)?)?;
    let Some(part) = part.checked_sub(1) else { return Some(Thing::Gpu(known)) };
    let Some(mut cut) = crate::mig::parts(gpu) else {
        return Some(Thing::Part(known, known.parts.get(part)?));
    };
    if part >= cut.len() {
        return None;
    }
    let (gpu_instance, compute_instance, uuid) = cut.swap_remove(part);
    let part = Part { uuid: Some(uuid), gpu_instance, compute_instance, ..Part::default() };
    // As long-lived as the parts of the file; a process asks for a few of them.
    Some(Thing::Part(known, Box::leak(Box::new(part))))
}

/// Go wrong as the file says, if it says so of this call.
pub(crate) fn failure(failures: &Failures, call: &str) -> Result<(), u32> {
    match failures.get(call).or_else(|| failures.get("*")) {
        None => Ok(()),
        Some(Failure::Code(code)) => Err(*code),
        Some(Failure::Word(word)) => match word.split_once(' ') {
            None if word == "hang" => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            None if word == "crash" => std::process::abort(),
            Some(("slow", millis)) => {
                let millis = millis.parse().expect("`slow MILLISECONDS`");
                std::thread::sleep(Duration::from_millis(millis));
                Ok(())
            }
            Some(("write", path)) => {
                // On a frozen file system this sleeps where no signal reaches it, as a call into a sick driver does.
                let file = fs_err::OpenOptions::new().append(true).open(path);
                let written = file.and_then(|mut file| file.write_all(b"x"));
                written.map_err(|_| 999)
            }
            _ => panic!("`{word}` is no way to go wrong"),
        },
    }
}

/// Who is listened to, since when, and how many of their errors were told.
struct Listening {
    since: Instant,
    told: BTreeMap<usize, usize>,
    to: BTreeSet<usize>,
}

static LISTENING: Mutex<Option<Listening>> = Mutex::new(None);

/// Tell errors of this one too.
pub(crate) fn listen_to(handle: usize) {
    let mut guard = LISTENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let new = || Listening { since: Instant::now(), told: BTreeMap::new(), to: BTreeSet::new() };
    guard.get_or_insert_with(new).to.insert(handle);
}

/// Tell errors of none.
pub(crate) fn listen_to_nothing() {
    let mut guard = LISTENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(listening) = guard.as_mut() {
        listening.to.clear();
    }
}

/// Wait for the next error, and say whose and which.
pub(crate) fn next_event(most: Duration) -> Option<(usize, u64)> {
    let until = Instant::now() + most;
    loop {
        {
            let mut guard = LISTENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let Listening { since, told, to } = guard.as_mut()?;
            for handle in to.iter().copied() {
                let Some(gpu) = world().gpus.get(handle - 1) else { continue };
                let next = told.entry(handle).or_default();
                if let Some((after, xid)) = gpu.xids.get(*next)
                    && since.elapsed() >= Duration::from_millis(*after)
                {
                    *next += 1;
                    return Some((handle, *xid));
                }
            }
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
