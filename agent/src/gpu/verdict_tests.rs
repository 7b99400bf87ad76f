use super::*;
use crate::{
    gpu::{kernel_log::parse_record, report::Library},
    inventory::Found,
};

const UUID: &str = "GPU-11111111-0000-0000-0000-000000000000";

/// A GPU that says of itself that all is well.
fn well() -> Gpu {
    let mut gpu = Gpu::unasked(Some(0), GpuState::Answers, "NVML", "the test doesn't say");
    gpu.pci = Found::present("0000:05:00.0".to_owned(), "bus");
    gpu.uuid = Found::present(UUID.to_owned(), "nvmlDeviceGetUUID");
    gpu
}

fn report(gpus: Vec<Gpu>) -> GpuReport {
    let version = || Found::unknown("NVML", "the test doesn't say");
    GpuReport {
        library: Library::Answered,
        driver_version: version(),
        nvml_version: version(),
        cuda_version: version(),
        gpus,
    }
}

fn log(messages: &[&str]) -> XidLog {
    let mut log = XidLog::new("b");
    for (sequence, message) in messages.iter().enumerate() {
        let text = format!("4,{sequence},{}000000,-;NVRM: {message}", sequence * 100);
        log.take_line(&parse_record(text.as_bytes()).unwrap(), std::time::Duration::ZERO, false);
    }
    log
}

fn verdict(gpu: Gpu, messages: &[&str]) -> Verdict {
    let mut verdicts = judge(&report(vec![gpu]), &log(messages), &XidTable::builtin());
    assert_eq!(verdicts.len(), 1);
    verdicts.remove(0)
}

fn field(action: RecoveryAction) -> Gpu {
    Gpu { recovery_action: Found::present(action, "nvmlDeviceGetFieldValues 230"), ..well() }
}

#[test]
fn every_line_of_the_corpus_comes_to_what_stands_beside_it() {
    let text = include_str!("../../tests/fixtures/kernel-log/xids.txt");
    let mut cases = 0;
    for case in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = case.splitn(5, ' ');
        let mut next = || words.next().unwrap();
        let (slot, xid, action, cordon, record) = (next(), next(), next(), next(), next());
        let mut log = XidLog::new("b");
        let record = parse_record(record.as_bytes()).expect(case);
        let told = log.take_line(&record, std::time::Duration::ZERO, true).cloned();
        cases += 1;
        let Some(told) = told else {
            assert_eq!(xid, "-", "{case}");
            assert!(log.records().is_empty());
            continue;
        };
        assert_eq!(
            (told.slot.as_deref().unwrap_or("-"), told.xid.to_string()),
            (slot, xid.to_owned()),
            "{case}"
        );
        let gpu = Gpu { pci: Found::present(format!("{slot}.0"), "bus"), ..well() };
        // Once of a GPU that is known, once of one that isn't.
        for gpus in [vec![gpu], Vec::new()] {
            let verdicts = judge(&report(gpus), &log, &XidTable::builtin());
            let verdict = verdicts.last().expect(case);
            let written = serde_json::to_value(verdict.action).unwrap();
            assert_eq!(written, action, "{case}\n{verdict:?}");
            assert_eq!(verdict.cordon, cordon == "yes", "{case}\n{verdict:?}");
        }
    }
    assert!(cases > 35, "{cases}");
}

#[test]
fn the_driver_is_asked_first_then_memory_then_the_table_then_signs() {
    let failed = Found::present(true, "nvmlDeviceGetFieldValues 145");
    let reset = &["Xid (PCI:0000:05:00): 95, x"][..];
    let application = &["Xid (PCI:0000:05:00): 31, x"][..];
    let worn = |gpu: Gpu| {
        let mut gpu = gpu;
        gpu.row_remaps.failed = failed.clone();
        gpu
    };
    let lost = |gpu: Gpu| Gpu { state: GpuState::Lost, ..gpu };
    for (gpu, messages, action, cordon, also) in [
        (well(), &[][..], Action::None, false, 0),
        (field(RecoveryAction::None), &[], Action::None, false, 0),
        (field(RecoveryAction::ResetGpu), &[], Action::ResetGpu, true, 0),
        (worn(field(RecoveryAction::ResetGpu)), reset, Action::ResetGpu, true, 2),
        (worn(field(RecoveryAction::None)), reset, Action::ReplaceHardware, true, 0),
        (worn(well()), reset, Action::ReplaceHardware, true, 1),
        (lost(well()), reset, Action::ResetGpu, true, 1),
        (lost(well()), &[], Action::RebootNode, true, 0),
        // The driver is content: what asked for a reset is settled, what a program did is not.
        (field(RecoveryAction::None), reset, Action::None, false, 0),
        (field(RecoveryAction::None), application, Action::RestartApplication, false, 0),
        (field(RecoveryAction::Other(7)), &[], Action::AskHuman, true, 0),
        (field(RecoveryAction::DrainPeers), &[], Action::AskHuman, true, 0),
    ] {
        let said = format!("{:?} {:?} {messages:?}", gpu.state, gpu.recovery_action);
        let verdict = verdict(gpu, messages);
        assert_eq!((verdict.action, verdict.cordon), (action, cordon), "{said}\n{verdict:?}");
        assert_eq!(verdict.also.len(), also, "{said}\n{verdict:?}");
        assert_eq!(verdict.uuid.as_deref(), Some(UUID));
    }
}

#[test]
fn where_the_field_is_mute_the_last_xid_154_speaks_for_the_driver() {
    let changed = |to: &str| {
        format!("Xid (PCI:0000:05:00): 154, GPU recovery action changed from 0x0 (None) to {to}")
    };
    let lost = || Gpu { state: GpuState::Lost, ..well() };
    let reboot = verdict(lost(), &["Xid (PCI:0000:05:00): 79, x", &changed("0x2 (OS Reboot)")]);
    assert_eq!(
        (reboot.action, reboot.source.as_str()),
        (Action::RebootNode, "kernel log, Xid 154")
    );
    let settled = verdict(
        well(),
        &["Xid (PCI:0000:05:00): 95, x", &changed("0x1 (PF FLR)"), &changed("0x0 (None)")],
    );
    assert_eq!(settled.action, Action::None, "{settled:?}");
    let field_wins = verdict(field(RecoveryAction::None), &[&changed("0x2 (OS Reboot)")]);
    assert_eq!(field_wins.action, Action::None, "the field is of now: {field_wins:?}");
}

#[test]
fn what_can_wait_keeps_no_work_away() {
    let mut gpu = well();
    gpu.row_remaps.pending = Found::present(true, "nvmlDeviceGetFieldValues 144");
    let verdict = verdict(gpu, &[]);
    assert_eq!((verdict.action, verdict.cordon), (Action::ResetGpu, false));
}

#[test]
fn a_gpu_that_breaks_its_reader_gets_no_work_but_one_that_nobody_asked_does() {
    let with = |state| verdict(Gpu { state, ..well() }, &[]);
    let breaks = with(GpuState::Breaks { reason: "it hangs".to_owned() });
    assert_eq!((breaks.action, breaks.cordon), (Action::AskHuman, true));
    let unasked = with(GpuState::NotAsked { reason: "no driver".to_owned() });
    assert_eq!((unasked.action, unasked.cordon), (Action::None, false));
    assert_eq!(with(GpuState::NotNvidias).action, Action::None);
}

#[test]
fn errors_of_a_gpu_that_is_not_in_the_report_are_told_with_the_name_from_the_log() {
    let log = log(&["GPU at PCI:0000:09:00: GPU-gone", "Xid (PCI:0000:09:00): 79, x"]);
    let verdicts = judge(&report(vec![well()]), &log, &XidTable::builtin());
    assert_eq!(verdicts.len(), 2);
    assert_eq!((verdicts[0].action, verdicts[1].action), (Action::None, Action::RebootNode));
    assert_eq!(verdicts[1].uuid.as_deref(), Some("GPU-gone"));
}
