//! `kdc-agent gpu-watch` as a process: whatever the library does, it stays up and publishes what is known.

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kdc_agent::gpu::{
    report::{Gpu, GpuState, Library},
    watch::{self, Published},
    xid::Action,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::kit::{FOUR, Machine};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A watch over a machine, with a service manager that is this test.
struct Watch {
    machine: Machine,
    manager: UnixDatagram,
    child: Option<Child>,
}

impl Watch {
    /// One that is not started yet.
    fn over(machine: Machine) -> Self {
        let manager = UnixDatagram::bind(machine.folder().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        fs_err::write(machine.folder().join("kmsg"), "").unwrap();
        let boot = machine.folder().join("root/proc/sys/kernel/random");
        fs_err::create_dir_all(&boot).unwrap();
        fs_err::write(boot.join("boot_id"), "11111111-2222-3333-4444-555555555555\n").unwrap();
        Self { machine, manager, child: None }
    }

    fn of(gpus: &str) -> Self {
        Self::over(Machine::new(gpus)).started()
    }

    fn started(mut self) -> Self {
        self.start();
        self
    }

    fn start(&mut self) {
        let place = |name: &str| self.machine.folder().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdc-agent"));
        command.arg("gpu-watch");
        for (option, name) in [
            ("--document", "gpus.json"),
            ("--counted", "xids.json"),
            ("--kernel-log", "kmsg"),
            ("--table", "xid.yaml"),
            ("--root", "root"),
            ("--program", "kdc-agent"),
        ] {
            command.arg(option).arg(place(name));
        }
        command.args(["--every-ms", "200", "--survey-ms", "1000", "--patience-ms", "5000"]);
        command.env("NOTIFY_SOCKET", place("notify")).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        self.told("READY=1");
    }

    /// Wait until the service manager is told so.
    fn told(&self, word: &str) {
        let mut buffer = [0; 8192];
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let length = self.manager.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).contains(word) {
                return;
            }
        }
        panic!("{word} was never told");
    }

    fn document(&self) -> Option<Published> {
        watch::read(&self.machine.folder().join("gpus.json")).unwrap()
    }

    /// Wait until the document is so. The process must live meanwhile, and whatever is published must be whole.
    fn until(&mut self, what: &str, holds: impl Fn(&Published) -> bool) -> Published {
        let began = Instant::now();
        loop {
            let document = self.document();
            if let Some(document) = document.filter(|document| holds(document)) {
                return document;
            }
            let child = self.child.as_mut().unwrap();
            assert_eq!(
                child.try_wait().unwrap(),
                None,
                "it ended while this was waited for: {what}"
            );
            assert!(began.elapsed() < PATIENCE, "{what}: {:#?}", self.document());
            // Its words wait for nobody.
            let _words = self.manager.recv(&mut [0; 8192]);
        }
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// Its exit status, once it has ended.
    fn ended(&mut self) -> std::process::ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

fn surveyed(document: &Published) -> bool {
    document.surveyed_boot_ms.is_some()
}

fn celsius(gpu: &Gpu) -> Option<u32> {
    gpu.live.temperature_celsius.value().copied()
}

/// Every GPU is told of with its name, and all but one are well.
fn one_is_sick(document: &Published, sick: usize) -> bool {
    let gpus = &document.node.report.gpus;
    let well = |at: &usize| gpus[*at].state == GpuState::Answers && celsius(&gpus[*at]).is_some();
    gpus.len() == 4
        && gpus.iter().all(|gpu| gpu.uuid.value().is_some() && gpu.pci.value().is_some())
        && (0..4).filter(|at| *at != sick).all(|at| well(&at))
        && gpus[sick].state != GpuState::Answers
}

#[test]
fn watched_four_healthy_gpus_are_published_sampled_and_fresh() {
    let mut watch = Watch::of(FOUR);
    let document = watch.until("all are well and sampled", |document| {
        surveyed(document) && document.sampled_boot_ms.is_some()
    });
    assert_eq!(document.node.report.library, Library::Answered);
    assert_eq!(
        document.node.report.gpus.iter().filter_map(celsius).collect::<Vec<_>>(),
        [41, 42, 33, 30]
    );
    assert!(document.node.verdicts.iter().all(|verdict| verdict.action == Action::None));
    let boot = "11111111-2222-3333-4444-555555555555";
    assert!(document.age(boot, watch::since_boot()).unwrap() < PATIENCE);
    let before = document.at_boot_ms;
    watch.until("the next one comes", |document| document.at_boot_ms > before);
    watch.told("WATCHDOG=1");
    // Stopped, it takes away what nobody keeps young.
    watch.signal(Signal::SIGTERM);
    assert!(watch.ended().success());
    assert_eq!(watch.document(), None);
}

#[test]
fn watched_without_a_library_the_bus_is_published() {
    let machine = Machine::new(FOUR);
    fs_err::remove_file(machine.library()).unwrap();
    let mut watch = Watch::over(machine).started();
    let document = watch.until("the survey", surveyed);
    assert!(matches!(document.node.report.library, Library::Absent { .. }));
    assert_eq!(document.node.report.gpus.len(), 4);
    assert!(document.node.verdicts.iter().all(|verdict| !verdict.cordon), "unknown is not sick");
}

#[test]
fn watched_an_empty_file_and_garbage_are_no_library_and_end_nothing() {
    for garbage in [&b""[..], b"not a library"] {
        let machine = Machine::new(FOUR);
        fs_err::write(machine.library(), garbage).unwrap();
        let mut watch = Watch::over(machine).started();
        let document = watch.until("the survey", surveyed);
        assert!(matches!(document.node.report.library, Library::Unusable { .. }));
        assert_eq!(document.node.report.gpus.len(), 4);
    }
}

#[test]
fn watched_a_library_of_three_symbols_gives_what_it_has() {
    let machine = Machine::new(FOUR);
    machine.keep_only(&["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"]);
    let mut watch = Watch::over(machine).started();
    let document = watch.until("survey and sample", |document| {
        surveyed(document) && document.sampled_boot_ms.is_some()
    });
    assert_eq!(document.node.report.library, Library::Answered);
    assert_eq!(document.node.report.gpus.len(), 4);
    assert!(document.node.report.gpus.iter().all(|gpu| gpu.uuid.value().is_some()), "from the bus");
}

#[test]
fn watched_a_driver_of_another_version_is_told_with_all_gpus() {
    let mut watch = Watch::of("fail: {nvmlInit_v2: 18}");
    let document = watch.until("the survey", surveyed);
    assert_eq!(document.node.report.library, Library::VersionMismatch);
    assert_eq!(document.node.report.gpus.len(), 4);
}

#[test]
fn watched_one_lost_gpu_of_four_is_cordoned_and_the_others_go_on() {
    let mut watch = Watch::of(&FOUR.replace("#1", "fail: {\"*\": 15}"));
    let document = watch.until("GPU 1 is lost", |document| one_is_sick(document, 1));
    assert_eq!(document.node.report.gpus[1].state, GpuState::Lost);
    let verdict = &document.node.verdicts[1];
    assert!(verdict.cordon && verdict.action == Action::RebootNode, "{verdict:?}");
    assert_eq!(verdict.uuid.as_deref(), Some("GPU-22222222-0000-0000-0000-000000000000"));
    watch.told("STATUS=0000:2a:00.0: the GPU fell off the bus");
}

#[test]
fn watched_a_slow_gpu_is_waited_for_and_a_hung_or_crashing_one_is_left_out() {
    let mut watch = Watch::of(&FOUR.replace("#1", "fail: {nvmlDeviceGetTemperature: slow 300}"));
    let document = watch.until("all answer", |document| {
        document.sampled_boot_ms.is_some()
            && document.node.report.gpus.iter().all(|gpu| celsius(gpu).is_some())
    });
    assert!(document.node.report.gpus.iter().all(|gpu| gpu.state == GpuState::Answers));
    drop(watch);
    for how in ["hang", "crash"] {
        let gpus = FOUR.replace("#1", &format!("fail: {{nvmlDeviceGetPowerUsage: {how}}}"));
        let mut watch = Watch::of(&gpus);
        let document = watch.until("the others are well", |document| {
            one_is_sick(document, 1) && document.sampled_boot_ms.is_some()
        });
        assert!(matches!(document.node.report.gpus[1].state, GpuState::Breaks { .. }), "{how}");
        assert!(document.node.verdicts[1].cordon && !document.node.verdicts[0].cordon, "{how}");
        watch.told("WATCHDOG=1");
    }
}

#[test]
fn watched_a_machine_without_gpus_is_left_alone_with_exit_0() {
    let machine = Machine::new("gpus: []");
    fs_err::remove_file(machine.library()).unwrap();
    fs_err::remove_dir_all(machine.folder().join("root/sys")).unwrap();
    let mut watch = Watch::over(machine).started();
    assert!(watch.ended().success());
    assert_eq!(watch.document(), None);
}

#[test]
fn watched_errors_are_counted_once_over_log_library_and_a_killed_watch() {
    let line = |number: u32, text: &str| {
        format!("4,{number},{number}000000,-;NVRM: Xid (PCI:0000:{text}\n")
    };
    let mut watch = Watch::over(Machine::new(FOUR));
    let log = watch.machine.folder().join("kmsg");
    fs_err::write(&log, line(5, "18:00): 31, pid=1, MMU fault")).unwrap();
    watch.start();
    let counted = |xid: u32, count: u64| {
        move |document: &Published| {
            let of = document.node.errors.iter().find(|error| error.xid == xid);
            surveyed(document) && of.is_some_and(|error| error.count == count)
        }
    };
    watch.until("what was in the log", counted(31, 1));
    use std::io::Write as _;
    let mut file = fs_err::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(line(6, "3b:00): 79, GPU has fallen off the bus.").as_bytes()).unwrap();
    let document = watch.until("what came since", counted(79, 1));
    assert!(document.node.verdicts[2].cordon && !document.node.verdicts[0].cordon);
    // Killed and started again, it has what it had, and reads no line twice.
    watch.signal(Signal::SIGKILL);
    assert!(!watch.ended().success());
    file.write_all(line(7, "18:00): 31, pid=2, MMU fault").as_bytes()).unwrap();
    watch.start();
    let document = watch.until("the same and one more", counted(31, 2));
    assert!(counted(79, 1)(&document), "{:?}", document.node.errors);
}
