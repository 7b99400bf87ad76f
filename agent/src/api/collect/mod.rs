//! What the kernel says of this node, once a second.
//!
//! ```text
//!  /proc, kept open ──► sampler thread ──► newest texts ─┐
//!  statvfs          ──► rooms thread   ──► newest figures ├─► a scrape parses and writes them
//!  /sys attributes  ──► (every 15 s)   ──► newest figures ┘
//! ```
//!
//! A sample is the text of some twenty small files, read into buffers that are used again and again:
//! no parsing, no allocation. A scrape never waits for the kernel; it parses the newest sample. Names
//! and labels are node_exporter's where it has them (a test compares the two side by side). All is
//! read under a root folder, so recorded machines serve as fixtures.

mod devices;
mod disk;
mod filesystem;
mod kernel;
mod memory;
mod network;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fs_err::os::unix::fs::FileExt as _;

use self::{devices::Devices, filesystem::FileSystems, kernel::Processors};
use super::page::{Kind, Page};

/// A file whose text is a part of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stat,
    Load,
    Memory,
    Paging,
    Disks,
    Links,
    Netstat,
    Snmp,
    Snmp6,
    Sockets,
    Sockets6,
    Softnet,
    CpuPressure,
    IoPressure,
    MemoryPressure,
    FileHandles,
    Tracked,
    TrackedMost,
}

/// Every source with its path below the root, and the name that metrics give it.
const SOURCES: &[(Source, &str, &str)] = &[
    (Source::Stat, "proc/stat", "stat"),
    (Source::Load, "proc/loadavg", "loadavg"),
    (Source::Memory, "proc/meminfo", "meminfo"),
    (Source::Paging, "proc/vmstat", "vmstat"),
    (Source::Disks, "proc/diskstats", "diskstats"),
    (Source::Links, "proc/net/dev", "netdev"),
    (Source::Netstat, "proc/net/netstat", "netstat"),
    (Source::Snmp, "proc/net/snmp", "snmp"),
    (Source::Snmp6, "proc/net/snmp6", "snmp6"),
    (Source::Sockets, "proc/net/sockstat", "sockstat"),
    (Source::Sockets6, "proc/net/sockstat6", "sockstat6"),
    (Source::Softnet, "proc/net/softnet_stat", "softnet"),
    (Source::CpuPressure, "proc/pressure/cpu", "pressure_cpu"),
    (Source::IoPressure, "proc/pressure/io", "pressure_io"),
    (Source::MemoryPressure, "proc/pressure/memory", "pressure_memory"),
    (Source::FileHandles, "proc/sys/fs/file-nr", "filefd"),
    (Source::Tracked, "proc/sys/net/netfilter/nf_conntrack_count", "conntrack"),
    (Source::TrackedMost, "proc/sys/net/netfilter/nf_conntrack_max", "conntrack_max"),
];

/// Longest text of one source; a machine with 8192 processors stays below.
const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// Samples until a source that could not be opened is tried again.
const SAMPLES_UNTIL_RETRY: u32 = 30;

/// Between two looks at attributes in `/sys`, some of which ask the device.
const DEVICES_EVERY: Duration = Duration::from_secs(15);

/// Shortest time between two samples.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Whole numbers in a text, up to the first word that is none.
fn numbers(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split_ascii_whitespace().map_while(|word| word.parse().ok())
}

/// The newest texts of all sources.
#[derive(Debug)]
pub(crate) struct Sample {
    texts: Vec<Vec<u8>>,
    states: Vec<Option<bool>>,
    taken: Option<Instant>,
    page_bytes: u64,
}

impl Sample {
    fn empty() -> Self {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        Self {
            texts: vec![Vec::new(); SOURCES.len()],
            states: vec![None; SOURCES.len()],
            taken: None,
            page_bytes: page.and_then(|bytes| bytes.try_into().ok()).unwrap_or(4096),
        }
    }

    fn text(&self, source: Source) -> &str {
        std::str::from_utf8(&self.texts[source as usize]).unwrap_or_default()
    }

    fn page_bytes(&self) -> u64 {
        self.page_bytes
    }
}

/// Reads one source again and again.
struct Reader {
    path: PathBuf,
    file: Option<fs_err::File>,
    buffer: Vec<u8>,
    wait: u32,
}

impl Reader {
    /// The text as it is now is in the buffer; `None` where there is no such file.
    fn read(&mut self) -> io::Result<Option<()>> {
        if self.file.is_none() {
            if self.wait > 0 {
                self.wait -= 1;
                return Ok(None);
            }
            self.wait = SAMPLES_UNTIL_RETRY;
            match fs_err::File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &self.file else { return Ok(None) };
        match fill(file, &mut self.buffer) {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                // It may have gone with its module; opened anew it says so.
                self.file = None;
                Err(error)
            }
        }
    }
}

fn fill(file: &fs_err::File, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut length = 0;
    buffer.resize(buffer.capacity().max(4096), 0);
    loop {
        if length == buffer.len() {
            if length >= MAX_TEXT_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            buffer.resize(length * 2, 0);
        }
        match file.read_at(&mut buffer[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    buffer.truncate(length);
    Ok(())
}

/// What the threads and the scrapes share.
#[derive(Debug)]
struct Shared {
    root: PathBuf,
    sample: Mutex<Sample>,
    processors: Mutex<Processors>,
    rooms: FileSystems,
    devices: Mutex<Devices>,
    interval_ms: AtomicU64,
    samples: AtomicU64,
    stop: AtomicBool,
}

/// Takes samples for as long as it lives.
#[derive(Debug)]
pub(crate) struct Sampler {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the sampler saw last; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sampler {
    /// Starts sampling the machine whose files lie under `root`.
    pub(crate) fn start(root: &Path, interval: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            sample: Mutex::new(Sample::empty()),
            processors: Mutex::default(),
            rooms: FileSystems::default(),
            devices: Mutex::default(),
            interval_ms: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut sampler = Self { shared, threads: Vec::new() };
        sampler.set_interval(interval);
        let builder = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let shared = Arc::clone(&sampler.shared);
        sampler.threads.push(builder("sampler").spawn(move || sample_on(&shared))?);
        let shared = Arc::clone(&sampler.shared);
        // Never waited for: what it asks may hang for good.
        let rooms = builder("rooms").spawn(move || {
            paced(&shared, |shared| {
                shared.rooms.look(&shared.root.join("proc"));
            })
        })?;
        sampler.threads.push(rooms);
        Ok(sampler)
    }

    /// From now on that long between two samples.
    pub(crate) fn set_interval(&self, interval: Duration) {
        let millis = interval.max(LEAST_INTERVAL).as_millis();
        self.shared.interval_ms.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What it saw.
    pub(crate) fn samples(&self) -> Samples {
        Samples { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
    }
}

/// Does `work` once an interval, by the monotonic clock; what was missed is not made up for.
fn paced(shared: &Shared, mut work: impl FnMut(&Shared)) {
    let mut due = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now < due {
            std::thread::park_timeout(due - now);
            continue;
        }
        work(shared);
        due += Duration::from_millis(shared.interval_ms.load(Ordering::Relaxed));
        due = due.max(Instant::now());
    }
}

fn sample_on(shared: &Shared) {
    let mut readers: Vec<Reader> = SOURCES
        .iter()
        .map(|(_, path, _)| Reader {
            path: shared.root.join(path),
            file: None,
            buffer: Vec::new(),
            wait: 0,
        })
        .collect();
    let mut devices_due = Instant::now();
    paced(shared, |shared| {
        take(shared, &mut readers);
        if Instant::now() >= devices_due {
            devices_due = Instant::now() + DEVICES_EVERY;
            let found = Devices::look(&shared.root.join("sys"));
            *lock(&shared.devices) = found;
        }
    });
}

fn take(shared: &Shared, readers: &mut [Reader]) {
    for (place, reader) in readers.iter_mut().enumerate() {
        let was_waiting = reader.file.is_none() && reader.wait > 0;
        let read = reader.read();
        let mut sample = lock(&shared.sample);
        match read {
            Ok(Some(())) => {
                std::mem::swap(&mut sample.texts[place], &mut reader.buffer);
                sample.states[place] = Some(true);
            }
            Ok(None) if was_waiting => {}
            Ok(None) => {
                sample.texts[place].clear();
                sample.states[place] = None;
            }
            Err(error) => {
                if sample.states[place] != Some(false) {
                    tracing::warn!(path = %reader.path.display(), %error, "a source can't be read");
                }
                sample.texts[place].clear();
                sample.states[place] = Some(false);
            }
        }
    }
    lock(&shared.sample).taken = Some(Instant::now());
    shared.samples.fetch_add(1, Ordering::Relaxed);
}

impl Samples {
    /// How old the newest sample is; `None` before the first.
    pub(crate) fn age(&self) -> Option<Duration> {
        lock(&self.shared.sample).taken.map(|taken| taken.elapsed())
    }

    /// Size of a page of memory.
    pub(crate) fn page_bytes(&self) -> u64 {
        lock(&self.shared.sample).page_bytes
    }

    /// How long a look at file systems waits already.
    pub(crate) fn rooms_wait(&self) -> Option<Duration> {
        self.shared.rooms.waits()
    }

    /// What is left of the file system that is mounted there.
    pub(crate) fn room(&self, point: &str) -> Option<crate::heal::watch::disk::Room> {
        self.shared.rooms.room(point)
    }

    /// Whether file systems were looked at yet.
    pub(crate) fn has_rooms(&self) -> bool {
        self.shared.rooms.has_rooms()
    }

    /// Every family of the kernel's, and how sampling goes.
    pub(crate) fn tell(&self, page: &mut Page) {
        let shared = &self.shared;
        {
            let sample = lock(&shared.sample);
            tell(page, &sample, &mut lock(&shared.processors));
            page.family("kdc_agent_source_up", Kind::Gauge, "Whether a source could be read.");
            for (state, (_, _, name)) in sample.states.iter().zip(SOURCES) {
                if let Some(good) = state {
                    page.sample(&[("source", name)], *good);
                }
            }
            if let Some(taken) = sample.taken {
                let help = "Age of the newest sample.";
                let age = taken.elapsed().as_secs_f64();
                page.single("kdc_agent_sample_age_seconds", Kind::Gauge, help, age);
            }
        }
        shared.rooms.tell(page);
        lock(&shared.devices).tell(page);
        let samples = shared.samples.load(Ordering::Relaxed);
        page.single("kdc_agent_samples_total", Kind::Counter, "Samples taken.", samples);
    }
}

fn tell(page: &mut Page, sample: &Sample, processors: &mut Processors) {
    kernel::stat(page, sample, processors);
    kernel::load(page, sample);
    kernel::pressure(page, sample);
    kernel::limits(page, sample);
    memory::meminfo(page, sample);
    memory::vmstat(page, sample);
    disk::diskstats(page, sample);
    network::links(page, sample);
    network::protocols(page, sample);
    network::sockets(page, sample);
    network::softnet(page, sample);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::api::page::Format;

    fn sample_of(texts: &[(Source, &str)]) -> Sample {
        let mut sample = Sample { page_bytes: 4096, ..Sample::empty() };
        for (source, text) in texts {
            sample.texts[*source as usize] = text.as_bytes().to_vec();
        }
        sample
    }

    /// The page of a sample with these texts.
    pub(crate) fn page_of(texts: &[(Source, &str)]) -> String {
        let mut page = Page::new(Format::Classic, String::new());
        tell(&mut page, &sample_of(texts), &mut Processors::default());
        page.finish()
    }

    #[test]
    fn sources_stand_where_their_numbers_say() {
        for (place, (source, _, _)) in SOURCES.iter().enumerate() {
            assert_eq!(*source as usize, place);
        }
    }

    #[test]
    fn this_machine_is_sampled_without_a_family_or_a_series_twice() {
        let sampler = Sampler::start(Path::new("/"), Duration::from_millis(100)).unwrap();
        let samples = sampler.samples();
        while samples.shared.samples.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        let mut page = Page::new(Format::Classic, String::new());
        samples.tell(&mut page);
        let page = page.finish();
        let mut seen = BTreeSet::new();
        for line in page.lines() {
            let name = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
            assert!(seen.insert(name), "{name} comes twice");
        }
        for family in ["node_cpu_seconds_total", "node_memory_MemTotal_bytes", "node_load1"] {
            assert!(page.contains(&format!("# TYPE {family} ")), "{family} in\n{page}");
        }
        assert!(page.contains("kdc_agent_source_up{source=\"stat\"} 1\n"), "{page}");
    }

    #[test]
    fn a_source_that_goes_and_comes_back_is_read_again_and_one_that_fails_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loadavg");
        let mut reader = Reader { path: path.clone(), file: None, buffer: Vec::new(), wait: 0 };
        assert_eq!(reader.read().unwrap(), None, "it is not there");
        fs_err::write(&path, "x".repeat(10_000)).unwrap();
        for _ in 0..SAMPLES_UNTIL_RETRY {
            assert_eq!(reader.read().unwrap(), None, "not looked for each time");
        }
        assert_eq!(reader.read().unwrap(), Some(()));
        assert_eq!(reader.buffer.len(), 10_000);
        fs_err::write(&path, "short").unwrap();
        reader.read().unwrap();
        assert_eq!(reader.buffer, b"short");
        let mut folder_reader =
            Reader { path: folder.path().to_owned(), file: None, buffer: Vec::new(), wait: 0 };
        assert!(folder_reader.read().is_err(), "a folder has no text");
    }

    proptest! {
        /// Whatever the kernel writes, a page comes out of it.
        #[test]
        fn no_text_breaks_a_page(texts in prop::collection::vec("(cpu|x)?[a-z0-9 :=.\n\t-]{0,80}", SOURCES.len())) {
            let texts: Vec<(Source, &str)> =
                SOURCES.iter().zip(&texts).map(|((source, _, _), text)| (*source, text.as_str())).collect();
            page_of(&texts);
        }
    }
}
