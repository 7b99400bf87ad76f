//! GPUs, asked as on a node: the real program starts its real child, which loads a library by the real loader. Only the
//! library is a fake (`tests/fake-nvml`), with GPUs and failures from a file.
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

#[path = "gpu/instances.rs"]
mod instances;
#[path = "gpu/kit.rs"]
mod kit;
#[path = "gpu/watch.rs"]
mod watch;

use std::time::{Duration, Instant};

use kdc_agent::{
    facts::Look,
    gpu::{
        GpuReport, Sampler, Seen, Settings, Surveyor,
        report::{GpuState, Library, RecoveryAction, Switch},
    },
};
use kit::{FOUR, Machine, Pick as _};

#[test]
fn four_gpus_are_told_in_full_each_value_with_the_call_it_came_from() {
    let report = Machine::new(FOUR).survey();
    assert_eq!(report.library, Library::Answered);
    assert_eq!(report.driver_version.value().unwrap(), "580.95.05");
    assert_eq!(report.cuda_version.value().unwrap(), "13.0");
    assert_eq!(report.gpus.len(), 4);
    let gpu = report.at(0);
    assert_eq!(gpu.state, GpuState::Answers);
    assert_eq!(gpu.pci.value().unwrap(), "0000:18:00.0");
    assert_eq!(gpu.pci.source(), "nvmlDeviceGetPciInfo_v3");
    assert_eq!(gpu.kernel_driver.value().unwrap(), "nvidia");
    assert_eq!(gpu.serial.value().unwrap(), "1650000000000");
    assert_eq!(gpu.compute_capability.value().unwrap(), "9.0");
    let memory = gpu.live.memory.value().unwrap();
    assert_eq!((memory.total_bytes, memory.used_bytes), (85_520_809_984, 1_000_000));
    assert_eq!(*gpu.ecc.mode.value().unwrap(), Switch { current: true, pending: true });
    assert_eq!(*gpu.ecc.uncorrected_aggregate.value().unwrap(), 3);
    assert_eq!(*gpu.row_remaps.correctable.value().unwrap(), 2);
    assert_eq!(gpu.row_remaps.correctable.source(), "nvmlDeviceGetFieldValues 142");
    assert_eq!(*gpu.recovery_action.value().unwrap(), RecoveryAction::None);
    let links = gpu.nvlinks.value().unwrap();
    assert_eq!(links.len(), 2);
    assert_eq!(links[1].remote.value().unwrap(), "0000:2a:00.0");
    assert_eq!(links[1].active.value(), None, "the file doesn't say, so it is not supported");
    let live = &gpu.live;
    assert_eq!(*live.power_milliwatts.value().unwrap(), 112_000);
    assert_eq!(*live.energy_millijoules.value().unwrap(), 9_000_000_000);
    assert_eq!(*live.sm_clock_mhz.value().unwrap(), 1980);
    assert_eq!(*live.memory_temperature_celsius.value().unwrap(), 52);
    assert_eq!(live.throttle_reasons.value().unwrap(), &["gpuIdle", "swPowerCap"]);
    assert_eq!((live.pcie.generation.value(), live.pcie.width_max.value()), (Some(&5), Some(&16)));
    // One program in both lists is one.
    let processes = gpu.processes.value().unwrap();
    assert_eq!(processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [4242, 4343]);
    assert_eq!(processes[0].used_bytes, Some(1_000_000));
}

#[test]
fn what_a_consumer_card_does_not_have_is_absent_and_no_error() {
    let report = Machine::new(FOUR).survey();
    let gpu = report.at(3);
    assert_eq!(gpu.state, GpuState::Answers);
    assert!(gpu.ecc.mode.reason().is_none() && gpu.ecc.mode.value().is_none());
    assert!(gpu.live.memory.reason().is_none() && gpu.live.memory.value().is_none());
    assert_eq!(gpu.row_remaps.failed.reason(), None);
    assert_eq!(gpu.serial.value(), None);
}

#[test]
fn a_gpu_cut_into_parts_names_each_with_its_ids() {
    let report = Machine::new(FOUR).survey();
    let gpu = report.at(2);
    assert_eq!(*gpu.mig.mode.value().unwrap(), Switch { current: true, pending: true });
    let parts = gpu.mig.instances.value().unwrap();
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[1].uuid.value().unwrap(), "MIG-b");
    assert_eq!(
        (*parts[1].gpu_instance.value().unwrap(), *parts[1].compute_instance.value().unwrap()),
        (9, 1)
    );
    assert_eq!(parts[0].memory.value().unwrap().total_bytes, 10_000);
    assert_eq!(gpu.processes.value().unwrap()[0].gpu_instance, Some(7));
}

#[test]
fn without_a_library_the_bus_tells_what_it_can() {
    let machine = Machine::new(FOUR);
    fs_err::remove_file(machine.library()).unwrap();
    let report = machine.survey();
    assert!(matches!(report.library, Library::Absent { .. }), "{:?}", report.library);
    assert_eq!(report.gpus.len(), 4);
    let gpu = &report.gpus[1];
    assert_eq!(gpu.pci.value().unwrap(), "0000:2a:00.0");
    assert_eq!(gpu.uuid.value().unwrap(), "GPU-22222222-0000-0000-0000-000000000000");
    assert!(gpu.uuid.source().ends_with("/0000:2a:00.0/information"));
    assert!(gpu.live.memory.reason().unwrap().contains("not installed"));
}

#[test]
fn a_file_that_is_no_library_is_told_from_none() {
    let machine = Machine::new(FOUR);
    for garbage in [&b""[..], b"not a library", &[0x7f, b'E', b'L', b'F', 0, 0, 0, 0]] {
        fs_err::write(machine.library(), garbage).unwrap();
        let report = machine.survey();
        assert!(matches!(report.library, Library::Unusable { .. }), "{:?}", report.library);
        assert_eq!(report.gpus.len(), 4);
    }
}

#[test]
fn a_library_with_three_functions_gives_what_it_has() {
    let machine = Machine::new(FOUR);
    machine.keep_only(&["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"]);
    let report = machine.survey();
    assert_eq!(report.library, Library::Answered);
    assert_eq!(
        report.driver_version.reason().unwrap(),
        "this driver's library has no such function"
    );
    assert_eq!(report.gpus.len(), 4);
    let gpu = &report.gpus[0];
    assert_eq!(gpu.pci.value().unwrap(), "0000:18:00.0", "from the bus");
    assert_eq!(gpu.live.memory.reason().unwrap(), "this driver's library has no such function");
}

#[test]
fn a_library_of_before_r510_still_tells_its_memory() {
    let machine = Machine::new(FOUR);
    machine.drop_functions(&["nvmlDeviceGetMemoryInfo_v2"]);
    let report = machine.survey();
    let memory = &report.at(0).live.memory;
    assert_eq!(memory.source(), "nvmlDeviceGetMemoryInfo");
    assert_eq!(memory.value().unwrap().used_bytes, 501_000_000, "with what the driver keeps");
}

#[test]
fn without_its_init_function_it_can_not_be_used() {
    let machine = Machine::new(FOUR);
    machine.drop_functions(&["nvmlInit_v2"]);
    assert!(matches!(machine.survey().library, Library::Unusable { .. }));
}

#[test]
fn a_driver_that_is_not_loaded_and_one_of_another_version_are_told_apart() {
    for (code, library) in [(9, Library::DriverNotLoaded), (18, Library::VersionMismatch)] {
        let report = Machine::new(&format!("fail: {{nvmlInit_v2: {code}}}")).survey();
        assert_eq!(report.library, library);
        assert_eq!(report.gpus.len(), 4, "the bus still shows them");
        assert!(report.library.hint().is_some());
    }
}

/// The healthy ones are there in full.
fn others_are_well(report: &GpuReport, sick: usize) {
    assert_eq!(report.library, Library::Answered, "{report:#?}");
    assert_eq!(report.gpus.len(), 4);
    for at in (0..4).filter(|at| *at != sick) {
        let gpu = &report.gpus[at];
        assert_eq!(gpu.state, GpuState::Answers);
        assert!(gpu.uuid.value().is_some() && gpu.live.temperature_celsius.value().is_some());
    }
    // And which one is sick is known.
    assert_eq!(report.gpus[sick].pci.value().unwrap(), "0000:2a:00.0");
    let uuid = "GPU-22222222-0000-0000-0000-000000000000";
    assert_eq!(report.gpus[sick].uuid.value().unwrap(), uuid);
}

#[test]
fn one_lost_gpu_hides_nothing_whether_its_handle_fails_or_every_call() {
    for call in ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetTemperature", "*"] {
        let report =
            Machine::new(&FOUR.replace("#1", &format!("fail: {{\"{call}\": 15}}"))).survey();
        others_are_well(&report, 1);
        assert_eq!(report.gpus[1].state, GpuState::Lost, "{call}");
    }
}

#[test]
fn a_gpu_that_wants_a_reset_says_so() {
    let report = Machine::new(&FOUR.replace("#1", "fail: {nvmlDeviceGetPowerUsage: 16}")).survey();
    others_are_well(&report, 1);
    assert_eq!(report.gpus[1].state, GpuState::ResetRequired);
    assert_eq!(*report.gpus[1].live.temperature_celsius.value().unwrap(), 42);
}

#[test]
fn a_call_that_hangs_is_ended_in_time_and_only_its_gpu_is_missing() {
    let machine = Machine::new(&FOUR.replace("#1", "fail: {nvmlDeviceGetTemperature: hang}"));
    let began = Instant::now();
    let report = machine.survey();
    assert!(began.elapsed() < machine.settings().patience * 6, "{:?}", began.elapsed());
    others_are_well(&report, 1);
    let GpuState::Breaks { reason } = &report.gpus[1].state else { panic!("{:?}", report.gpus[1]) };
    assert!(reason.contains("did not answer within") && reason.contains("GPU 1"), "{reason}");
}

#[test]
fn a_crash_takes_only_the_child_and_the_other_gpus_are_asked_by_another() {
    let machine = Machine::new(&FOUR.replace("#1", "fail: {nvmlDeviceGetUUID: crash}"));
    let report = machine.survey();
    others_are_well(&report, 1);
    let GpuState::Breaks { reason } = &report.gpus[1].state else { panic!("{:?}", report.gpus[1]) };
    assert!(reason.contains("signal 6"), "{reason}");
}

#[test]
fn an_init_that_hangs_or_crashes_is_told_once_and_bounded() {
    for (how, hung) in [("hang", true), ("crash", false)] {
        let report = Machine::new(&format!("fail: {{nvmlInit_v2: {how}}}")).survey();
        assert_eq!(matches!(report.library, Library::Hung { .. }), hung, "{:?}", report.library);
        assert_eq!(matches!(report.library, Library::Crashed { .. }), !hung);
        assert_eq!(report.gpus.len(), 4);
    }
}

#[test]
fn a_configured_path_is_loaded_and_the_loaders_own_search_is_not() {
    let machine = Machine::new(FOUR);
    let elsewhere = machine.folder().join("driver-container.so");
    fs_err::rename(machine.library(), &elsewhere).unwrap();
    let mut settings = machine.settings();
    settings.library = Some(elsewhere);
    assert_eq!(Surveyor::new(settings.clone()).survey().library, Library::Answered);
    settings.library = Some(machine.folder().join("nothing.so"));
    assert!(matches!(Surveyor::new(settings).survey().library, Library::Absent { .. }));
}

#[test]
fn a_gpu_given_to_a_virtual_machine_is_there_though_nvml_does_not_see_it() {
    let machine = Machine::new(FOUR);
    machine.add_to_bus("0000:ff:00.0", "vfio-pci");
    let report = machine.survey();
    assert_eq!(report.gpus.len(), 5);
    assert_eq!(report.gpus[4].state, GpuState::NotNvidias);
    assert_eq!(report.gpus[4].kernel_driver.value().unwrap(), "vfio-pci");
}

#[test]
fn a_machine_without_gpus_and_without_a_driver_is_a_short_answer() {
    let machine = Machine::new("gpus: []");
    fs_err::remove_file(machine.library()).unwrap();
    let mut settings = machine.settings();
    settings.look = Look::at(&machine.folder().join("empty"));
    let report = Surveyor::new(settings).survey();
    assert!(matches!(report.library, Library::Absent { .. }) && report.gpus.is_empty());
}

#[test]
fn a_program_that_can_not_be_started_is_an_answer_too() {
    let mut settings = Machine::new(FOUR).settings();
    settings.program = "/nonexistent/kdc-agent".into();
    let report = Surveyor::new(settings).survey();
    assert!(matches!(report.library, Library::Failed { .. }), "{:?}", report.library);
}

#[test]
fn output_without_end_or_without_sense_is_cut_off() {
    for script in ["#!/bin/sh\nexec yes\n", "#!/bin/sh\nexec tr '\\0' x </dev/zero\n"] {
        let machine = Machine::new(FOUR);
        let settings = Settings { program: machine.script("talker", script), ..machine.settings() };
        let began = Instant::now();
        let report = Surveyor::new(settings).survey();
        assert!(matches!(report.library, Library::Failed { .. }), "{:?}", report.library);
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}

/// Wait for what is looked for, through everything else.
fn until<T>(sampler: &mut Sampler, mut wanted: impl FnMut(Seen) -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = wanted(sampler.wait()) {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it never came");
    }
}

#[test]
fn a_sampler_tells_rounds_and_the_drivers_errors_between_them() {
    let machine = Machine::new(&FOUR.replace("#1", "xids: [[50, 79]]"));
    let mut sampler = Sampler::new(machine.settings(), Duration::from_millis(200));
    let (mut rounds, mut xids) = (0, Vec::new());
    until(&mut sampler, |seen| {
        match seen {
            Seen::Round(round) => {
                assert_eq!(round.len(), 4);
                assert_eq!(*round[0].live.temperature_celsius.value().unwrap(), 41);
                rounds += 1;
            }
            Seen::Xid(xid) => xids.push((xid.pci.unwrap(), xid.xid)),
            Seen::Down { library, .. } => panic!("{library:?}"),
        }
        (rounds >= 3 && !xids.is_empty()).then_some(())
    });
    assert_eq!(xids, [("0000:2a:00.0".to_owned(), 79)]);
}

#[test]
fn a_sampler_leaves_a_gpu_that_hangs_out_and_goes_on_with_the_others() {
    let machine = Machine::new(&FOUR.replace("#1", "fail: {nvmlDeviceGetPowerUsage: hang}"));
    let mut sampler = Sampler::new(machine.settings(), Duration::from_millis(100));
    let mut down = 0;
    let round = until(&mut sampler, |seen| match seen {
        Seen::Round(round) => Some(round),
        Seen::Down { library, again } => {
            assert!(matches!(library, Library::Hung { .. }) && again >= Duration::from_secs(1));
            down += 1;
            None
        }
        Seen::Xid(_) => None,
    });
    assert_eq!((down, round.len()), (1, 4));
    assert!(matches!(round[1].state, GpuState::Breaks { .. }));
    assert!(round[3].live.temperature_celsius.value().is_some());
}

#[test]
fn a_sampler_without_a_library_waits_longer_and_longer() {
    let machine = Machine::new(FOUR);
    fs_err::remove_file(machine.library()).unwrap();
    let mut sampler = Sampler::new(machine.settings(), Duration::from_millis(100));
    let pauses: Vec<Duration> = (0..2)
        .map(|_| match sampler.wait() {
            Seen::Down { library: Library::Absent { .. }, again } => again,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pauses, [Duration::from_secs(1), Duration::from_secs(2)]);
}

#[test]
fn a_child_that_sleeps_in_the_kernel_is_never_joined_by_a_second() {
    let Some(disk) = kit::Frozen::new() else { return };
    let file = disk.file();
    let failure = format!("fail: {{nvmlDeviceGetTemperature: \"write {}\"}}", file.display());
    let machine = Machine::new(&FOUR.replace("#1", &failure));
    let mut surveyor = Surveyor::new(machine.settings());
    disk.freeze();
    let report = surveyor.survey();
    assert_eq!(report.library, Library::Answered);
    assert_eq!(report.gpus[0].state, GpuState::Answers, "what was told before stays");
    let reason = report.gpus[3].uuid.source().to_owned();
    assert!(matches!(report.gpus[3].state, GpuState::NotAsked { .. }), "{reason}");
    let began = Instant::now();
    let stuck = surveyor.survey();
    assert!(matches!(stuck.library, Library::Stuck { .. }), "{:?}", stuck.library);
    assert!(began.elapsed() < Duration::from_secs(1), "nothing was started");
    disk.thaw();
    let began = Instant::now();
    while matches!(surveyor.survey().library, Library::Stuck { .. }) {
        assert!(began.elapsed() < Duration::from_secs(20), "a thawed child ends");
        std::thread::sleep(Duration::from_millis(50));
    }
}
