//! The child process that asks NVML, and the lines it tells its parent.
//!
//! It says what it is about to do before it does it ([`Line::Asking`]): when it hangs or dies, its parent knows over which
//! GPU, and starts another that leaves that one out. It ends by itself when its parent is gone (nobody reads its lines) or
//! when one round takes far too long (an alarm), so that nothing of it is left behind.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    nvml::{self, Driver, Sight, Watch},
    report::{Gpu, Library},
    sample::{GpuSample, NvmlXid},
};
use crate::inventory::Found;

/// A round that takes longer than this ends the process, whatever its parent does.
const LONGEST_ROUND: Duration = Duration::from_secs(120);

/// What is to be asked.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The library, where it isn't the usual one.
    pub library: Option<PathBuf>,
    /// GPUs to leave out, by NVML's number.
    pub skip: BTreeSet<u32>,
    /// Sample again and again, instead of reading everything once.
    pub every: Option<Duration>,
}

/// What a child tells its parent, one JSON document a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Line {
    /// The library as a whole can't be used.
    Refused { library: Library },
    /// The library answers.
    Driver {
        driver_version: Found<String>,
        nvml_version: Found<String>,
        cuda_version: Found<String>,
        gpus: u32,
    },
    /// The next question is about this GPU.
    Asking { index: u32 },
    /// All about one GPU.
    Gpu { gpu: Box<Gpu> },
    /// One GPU at one moment.
    Sample { sample: Box<GpuSample> },
    /// An error of a GPU.
    Xid { xid: NvmlXid },
    /// Every GPU was asked.
    Round,
}

/// Ask, and tell it in lines. Ends after one round, or with `every` when nobody reads any more.
///
/// # Errors
/// When the lines can't be written.
pub fn answer(question: &Question, output: &mut impl Write) -> io::Result<()> {
    rearm();
    let nvml = match nvml::open(question.library.as_deref()) {
        Ok(nvml) => nvml,
        Err(library) => return tell(output, &Line::Refused { library }),
    };
    let Driver { driver_version, nvml_version, cuda_version, gpus } = match nvml::driver(&nvml) {
        Ok(driver) => driver,
        Err(library) => return tell(output, &Line::Refused { library }),
    };
    tell(output, &Line::Driver { driver_version, nvml_version, cuda_version, gpus })?;
    let asked: Vec<u32> = (0..gpus).filter(|index| !question.skip.contains(index)).collect();
    if let Some(every) = question.every {
        return watch(&Watch::begin(&nvml, &asked), &asked, every, output);
    }
    for index in asked {
        tell(output, &Line::Asking { index })?;
        let gpu = Box::new(nvml::gpu(&nvml, index));
        tell(output, &Line::Gpu { gpu })?;
    }
    tell(output, &Line::Round)
}

fn watch(
    watch: &Watch<'_>,
    gpus: &[u32],
    every: Duration,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut next = Instant::now();
    loop {
        rearm();
        for index in gpus {
            tell(output, &Line::Asking { index: *index })?;
            let sample = Box::new(watch.sample(*index));
            tell(output, &Line::Sample { sample })?;
        }
        tell(output, &Line::Round)?;
        // Behind time (a suspended machine), rounds are left out, not caught up with.
        next = (next + every).max(Instant::now());
        while let Some(left) = next.checked_duration_since(Instant::now())
            && !left.is_zero()
        {
            match watch.wait(left) {
                Sight::Xid(xid) => tell(output, &Line::Xid { xid })?,
                Sight::Nothing => {}
                Sight::Blind => std::thread::sleep(left),
            }
        }
    }
}

fn tell(output: &mut impl Write, line: &Line) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    output.write_all(&bytes)?;
    output.flush()
}

fn rearm() {
    let seconds = u32::try_from(LONGEST_ROUND.as_secs()).unwrap_or(u32::MAX);
    // Nobody catches the signal: it ends the process.
    nix::unistd::alarm::set(seconds);
}
