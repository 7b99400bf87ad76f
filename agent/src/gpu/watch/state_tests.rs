use super::*;
use crate::{
    facts::Look,
    gpu::{
        Surveyor,
        kernel_log::parse_record,
        report::{Live, RecoveryAction, RowRemaps},
    },
    inventory::Found,
};

const NOW: Duration = Duration::from_secs(100);

fn gpu(index: u32) -> Gpu {
    let mut gpu = Gpu::unasked(Some(index), GpuState::Answers, "NVML", "a test");
    gpu.pci = Found::present(format!("0000:0{index}:00.0"), "a test");
    gpu.uuid = Found::present(format!("GPU-{index}"), "a test");
    gpu.kernel_driver = Found::present("nvidia".to_owned(), "a test");
    gpu
}

fn report(gpus: Vec<Gpu>) -> GpuReport {
    let empty = tempfile::tempdir().unwrap();
    let mut report = Surveyor::only_bus(&Look::at(empty.path()), "a test");
    (report.library, report.gpus) = (Library::Answered, gpus);
    report
}

fn sample(index: u32, celsius: u32) -> GpuSample {
    let mut live = Live::unasked("NVML", "a test");
    live.temperature_celsius = Found::present(celsius, "a test");
    GpuSample {
        index,
        pci: None,
        uuid: Some(format!("GPU-{index}")),
        state: GpuState::Answers,
        recovery_action: Found::present(RecoveryAction::None, "a test"),
        row_remaps: RowRemaps::unasked("NVML", "a test"),
        live,
    }
}

fn state() -> State {
    State::new("boot", XidTable::builtin(), report(Vec::new()), XidLog::new("boot"))
}

fn document(state: &State) -> Published {
    state.document(NOW, 7)
}

#[test]
fn samples_are_laid_over_the_survey_until_a_newer_one_or_until_they_fail() {
    let mut state = state();
    state.survey(report(vec![gpu(0), gpu(1)]), NOW);
    assert_eq!(state.sample(vec![sample(1, 50)], NOW + Duration::from_secs(1)), Next::Nothing);
    let celsius = |state: &State, at: usize| {
        document(state).node.report.gpus[at].live.temperature_celsius.value().copied()
    };
    assert_eq!((celsius(&state, 0), celsius(&state, 1)), (None, Some(50)));
    assert_eq!(document(&state).sampled_boot_ms, Some(101_000));
    state.survey(report(vec![gpu(0), gpu(1)]), NOW + Duration::from_secs(2));
    assert_eq!(celsius(&state, 1), None, "the survey is the newer word");
    let _next = state.sample(vec![sample(1, 51)], NOW + Duration::from_secs(3));
    assert_eq!(celsius(&state, 1), Some(51));
    state.down();
    assert_eq!((celsius(&state, 1), document(&state).sampled_boot_ms), (None, None));
}

#[test]
fn a_sample_that_tells_of_a_change_calls_for_a_survey_and_the_verdict_follows_at_once() {
    let mut state = state();
    state.survey(report(vec![gpu(0)]), NOW);
    let next = |state: &mut State, one: GpuSample| state.sample(vec![one], NOW);
    assert_eq!(next(&mut state, sample(0, 40)), Next::Nothing);
    assert_eq!(next(&mut state, sample(0, 41)), Next::Nothing);
    assert!(!document(&state).node.verdicts[0].cordon);
    let lost = GpuSample { state: GpuState::Lost, uuid: None, ..sample(0, 41) };
    assert_eq!(next(&mut state, lost.clone()), Next::Survey);
    assert_eq!(next(&mut state, lost), Next::Nothing, "it is the same still");
    let verdict = &document(&state).node.verdicts[0];
    assert!(verdict.cordon && verdict.action == Action::RebootNode, "{verdict:?}");
    assert_eq!(verdict.uuid.as_deref(), Some("GPU-0"));
    let wish = Found::present(RecoveryAction::ResetGpu, "a test");
    let wishes = GpuSample { recovery_action: wish, ..sample(0, 41) };
    assert_eq!(next(&mut state, wishes), Next::Survey);
    assert_eq!(state.sample(vec![sample(0, 1), sample(1, 1)], NOW), Next::Survey, "one more");
}

#[test]
fn a_gpu_that_left_the_bus_is_lost_and_not_forgotten() {
    let mut state = state();
    state.survey(report(vec![gpu(0), gpu(1)]), NOW);
    state.survey(report(vec![gpu(0)]), NOW);
    let told = document(&state);
    let gone = &told.node.report.gpus[1];
    assert_eq!(
        (gone.state.clone(), gone.uuid.value().unwrap().as_str()),
        (GpuState::Lost, "GPU-1")
    );
    assert!(told.node.verdicts[1].cordon && !told.node.verdicts[0].cordon);
    assert!(status(&told).starts_with("0000:01:00.0: the GPU fell off the bus: reboot the node;"));
    // It comes back.
    state.survey(report(vec![gpu(0), gpu(1)]), NOW);
    assert!(!document(&state).node.verdicts[1].cordon);
    // Where the bus never showed it, a library that hangs has lost nothing.
    let mut off_bus = gpu(2);
    off_bus.kernel_driver = Found::unknown("/sys", "it was not looked for");
    state.survey(report(vec![off_bus]), NOW);
    let mut hung = report(vec![gpu(0), gpu(1)]);
    hung.library = Library::Hung { during: "loading it".to_owned(), seconds: 1 };
    state.survey(hung, NOW);
    let told = document(&state);
    assert!(matches!(told.node.report.gpus[2].state, GpuState::NotAsked { .. }));
    assert!(!told.node.verdicts[2].cordon, "unknown is not sick");
}

#[test]
fn errors_of_log_and_library_are_told_once_each_and_counted() {
    let mut state = state();
    state.survey(report(vec![gpu(1)]), NOW);
    let line = b"4,9,50,-;NVRM: Xid (PCI:0000:01:00): 79, pid=7, GPU has fallen off the bus.";
    let record = parse_record(line).unwrap();
    let said = state.line(&record, Duration::ZERO, true).unwrap();
    assert!(said.starts_with("0000:01:00: Xid 79, 1 since boot"), "{said}");
    assert_eq!(state.line(&record, Duration::ZERO, true), None, "the same line");
    let event = NvmlXid { pci: Some("0000:01:00.0".to_owned()), xid: 79 };
    assert_eq!(state.event(&event, Duration::from_secs(1), NOW), None, "the same error");
    let told = document(&state);
    assert_eq!((told.node.errors.len(), told.node.errors[0].count), (1, 1));
    assert!(told.node.verdicts[0].cordon);
}

#[test]
fn what_can_not_be_looked_at_is_told_as_long_as_it_can_not() {
    let mut state = state();
    assert!(!state.has_gpus());
    state.warn("log", Some("no log".to_owned()));
    assert_eq!(document(&state).node.warnings, ["no log"]);
    assert_eq!(status(&document(&state)), "no log; 0 of 0 GPUs answer");
    state.warn("log", None);
    assert!(document(&state).node.warnings.is_empty());
    let mut silent = report(Vec::new());
    silent.library = Library::DriverNotLoaded;
    state.survey(silent, NOW);
    assert!(status(&document(&state)).starts_with("NVML the NVIDIA kernel module is not loaded"));
}
