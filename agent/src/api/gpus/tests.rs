use super::*;
use crate::{
    api::page::Format,
    gpu::{
        Surveyor,
        node::NodeGpus,
        report::{Gpu, Memory, MigInstance, Switch},
        verdict::judge,
        watch::FORM,
        xid::{Teller, XidLog, XidRecord, XidTable},
    },
    inventory::Found,
};

const PCI: [&str; 3] = ["0000:18:00.0", "0000:2a:00.0", "0000:3b:00.0"];

fn gpu(at: usize) -> Gpu {
    let mut gpu = Gpu::unasked(u32::try_from(at).ok(), GpuState::Answers, "NVML", "a test");
    gpu.pci = Found::present(PCI[at].to_owned(), "a test");
    gpu.uuid = Found::present(format!("GPU-{at}"), "a test");
    gpu.model = Found::present("NVIDIA H100 80GB HBM3".to_owned(), "a test");
    let total_bytes = 85_520_809_984;
    let memory =
        Memory { total_bytes, used_bytes: 3 << 20, free_bytes: 7 << 20, reserved_bytes: 0 };
    gpu.live.memory = Found::present(memory, "a test");
    gpu.live.power_milliwatts = Found::present(112_500, "a test");
    gpu.live.throttle_reasons =
        Found::present(vec!["gpuIdle".to_owned(), "swPowerCap".to_owned()], "a test");
    gpu
}

fn part() -> MigInstance {
    MigInstance {
        uuid: Found::present("MIG-a".to_owned(), "a test"),
        name: Found::present("NVIDIA A100-SXM4-40GB MIG 1g.5gb".to_owned(), "a test"),
        gpu_instance: Found::present(7, "a test"),
        compute_instance: Found::present(0, "a test"),
        memory: gpu(2).live.memory,
    }
}

/// Two healthy GPUs, of which the third is cut, and a lost one between them that had an error twice.
pub(crate) fn published() -> Published {
    let empty = tempfile::tempdir().unwrap();
    let mut report = Surveyor::only_bus(&Look::at(empty.path()), "a test");
    report.library = Library::Answered;
    report.driver_version = Found::present("580.95.05".to_owned(), "a test");
    report.cuda_version = Found::present("13.0".to_owned(), "a test");
    report.gpus = vec![gpu(0), gpu(1), gpu(2)];
    let mut lost = Gpu::unasked(Some(1), GpuState::Lost, "NVML", "it is gone");
    (lost.pci, lost.uuid) = (report.gpus[1].pci.clone(), report.gpus[1].uuid.clone());
    report.gpus[1] = lost;
    report.gpus[2].mig.instances = Found::present(vec![part()], "a test");
    let error = XidRecord {
        slot: Some("0000:2a:00".to_owned()),
        xid: 79,
        nonfatal: false,
        count: 2,
        last_microseconds: 5,
        teller: Teller::KernelLog,
        recovery_action: None,
        text: "GPU has fallen off the bus".to_owned(),
        settled: false,
    };
    let verdicts = judge(&report, &XidLog::new(""), &XidTable::builtin());
    Published {
        form: FORM,
        agent_version: "1".to_owned(),
        boot: boot_id(&Look::machine()),
        at_unix_ms: 5,
        at_boot_ms: u64::try_from(since_boot().as_millis()).unwrap(),
        surveyed_boot_ms: None,
        sampled_boot_ms: None,
        node: NodeGpus { report, errors: vec![error], verdicts, warnings: Vec::new() },
    }
}

fn page(gpus: &Gpus) -> String {
    let mut page = Page::new(Format::OpenMetrics, String::new());
    gpus.tell(&mut page);
    page.finish()
}

struct Place {
    folder: tempfile::TempDir,
    gpus: Gpus,
    events: Events,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gpus = Gpus::at(folder.path().join("gpus.json"));
        Self { folder, gpus, events: Events::default() }
    }

    fn settle(&self, document: &Published) -> Result<Option<String>, String> {
        let text = serde_json::to_vec(document).unwrap();
        fs_err::write(self.folder.path().join("gpus.json"), text).unwrap();
        self.gpus.settle(&self.events)
    }

    /// Kind, reason and what is to be done, of every event so far.
    fn events(&self) -> Vec<(String, String, String)> {
        let told = self.events.after(None).events;
        let field = |event: &crate::daemon::events::Event, name: &str| {
            event.fields.get(name).cloned().unwrap_or_default()
        };
        told.iter()
            .map(|event| {
                (
                    event.kind.clone(),
                    event.reason.clone(),
                    field(event, "action") + &field(event, "new"),
                )
            })
            .collect()
    }
}

#[test]
fn a_page_has_dcgm_exporters_names_labels_and_units_and_no_zero_for_what_nobody_knows() {
    let place = Place::new();
    assert_eq!(place.settle(&published()).unwrap().as_deref(), Some("2 of 3 GPUs answer"));
    let page = page(&place.gpus);
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    let labels = |at: usize, bus: &str, model: &str| {
        format!(
            "gpu=\"{at}\",UUID=\"GPU-{at}\",pci_bus_id=\"{bus}\",device=\"nvidia{at}\",modelName=\"{model}\",Hostname=\"{host}\""
        )
    };
    let first = labels(0, "00000000:18:00.0", "NVIDIA H100 80GB HBM3");
    let third = labels(2, "00000000:3B:00.0", "NVIDIA H100 80GB HBM3");
    let lost = labels(1, "00000000:2A:00.0", "");
    for line in [
        format!("DCGM_FI_DEV_POWER_USAGE{{{first}}} 112.5"),
        format!("DCGM_FI_DEV_FB_USED{{{first}}} 3"),
        format!("DCGM_FI_DEV_FB_USED{{{third},GPU_I_PROFILE=\"1g.5gb\",GPU_I_ID=\"7\"}} 3"),
        format!("DCGM_FI_DEV_XID_ERRORS{{{lost}}} 79"),
        format!("DCGM_FI_DEV_XID_ERRORS{{{first}}} 0"),
        "kdc_gpu_up{gpu=\"1\",uuid=\"GPU-1\",pci_bus_id=\"00000000:2A:00.0\"} 0".to_owned(),
        "kdc_gpu_errors_total{gpu=\"1\",uuid=\"GPU-1\",pci_bus_id=\"00000000:2A:00.0\"} 2".to_owned(),
        "kdc_gpu_errors_total{gpu=\"0\",uuid=\"GPU-0\",pci_bus_id=\"00000000:18:00.0\"} 0".to_owned(),
        "kdc_gpu_xid_errors_total{gpu=\"1\",uuid=\"GPU-1\",pci_bus_id=\"00000000:2A:00.0\",xid=\"79\"} 2".to_owned(),
        "kdc_gpu_verdict{uuid=\"GPU-1\",pci_bus_id=\"00000000:2A:00.0\",action=\"rebootNode\"} 1".to_owned(),
        "kdc_gpu_verdict{uuid=\"GPU-0\",pci_bus_id=\"00000000:18:00.0\",action=\"none\"} 0".to_owned(),
        "kdc_gpu_cordon{uuid=\"GPU-1\",pci_bus_id=\"00000000:2A:00.0\"} 1".to_owned(),
        "kdc_gpu_library_info{state=\"answered\",driver=\"580.95.05\",nvml=\"\",cuda=\"13.0\"} 1".to_owned(),
        "kdc_gpu_throttled{gpu=\"0\",uuid=\"GPU-0\",pci_bus_id=\"00000000:18:00.0\",reason=\"swPowerCap\"} 1".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    assert!(!page.contains("DCGM_FI_DEV_GPU_TEMP"), "nobody knows it");
    assert!(
        !page.contains(&format!("DCGM_FI_DEV_FB_USED{{{third}}}")),
        "its parts are told instead"
    );
    assert!(!page.contains("gpuIdle"));
    let families: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let once: std::collections::BTreeSet<&&str> = families.iter().collect();
    assert_eq!(once.len(), families.len(), "a family comes once");
}

#[test]
fn what_is_stale_unreadable_or_gone_is_told_and_its_numbers_are_not() {
    let place = Place::new();
    assert_eq!(place.gpus.settle(&place.events), Ok(None), "nobody publishes here");
    assert_eq!((page(&place.gpus).as_str(), place.gpus.health()), ("# EOF\n", None));
    let mut old = published();
    old.at_boot_ms = old.at_boot_ms.saturating_sub(600_000);
    // A machine that was booted this minute has nothing so old.
    if old.at_boot_ms > 0 {
        let why = place.settle(&old).unwrap_err();
        assert!(why.contains("has said nothing for 600 seconds"), "{why}");
        let page = page(&place.gpus);
        assert!(
            page.contains("kdc_gpu_report_age_seconds 600") && !page.contains("DCGM_"),
            "{page}"
        );
    }
    let other_boot = Published { boot: "another".to_owned(), ..published() };
    assert!(place.settle(&other_boot).unwrap_err().contains("an unknown number of seconds"));
    assert_eq!(page(&place.gpus), "# EOF\n");
    assert_eq!(place.gpus.health().unwrap().status, GpusStatus::Stale);
    assert!(place.gpus.fresh().is_none());
    fs_err::write(place.folder.path().join("gpus.json"), "{\"form\":").unwrap();
    let why = place.gpus.settle(&place.events).unwrap_err();
    assert!(
        why.starts_with("error[AGENT-067]") && why.contains("systemctl restart kdc-gpu"),
        "{why}"
    );
    assert!(place.gpus.health().is_none());
    assert!(place.events().is_empty(), "{:?}", place.events());
}

#[test]
fn health_names_every_gpu_with_what_is_to_be_done() {
    let place = Place::new();
    place.settle(&published()).unwrap();
    let health = place.gpus.health().unwrap();
    assert_eq!((health.status, health.library.clone()), (GpusStatus::Sick, Library::Answered));
    let lost = &health.gpus[1];
    assert_eq!((lost.state.clone(), lost.verdict.cordon), (Some(GpuState::Lost), true));
    assert!(health.gpus.len() == 3 && health.age_ms.unwrap() < 60_000);
    let mut well = published();
    well.node.verdicts.iter_mut().for_each(|verdict| verdict.action = Action::None);
    place.settle(&well).unwrap();
    assert_eq!(place.gpus.health().unwrap().status, GpusStatus::Ok);
}

#[test]
fn new_errors_and_other_verdicts_are_events_and_old_ones_are_not() {
    let place = Place::new();
    let mut document = published();
    place.settle(&document).unwrap();
    // Errors of before the daemon are no news; what is to be done still is.
    let first = place.events();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!((first[0].0.as_str(), first[0].2.as_str()), ("gpu-verdict", "reboot the node"));
    place.settle(&document).unwrap();
    assert_eq!(place.events().len(), 1, "nothing new");
    document.node.errors[0].count = 5;
    document.node.errors.push(XidRecord {
        slot: None,
        xid: 31,
        count: 1,
        ..document.node.errors[0].clone()
    });
    let verdict = &mut document.node.verdicts[1];
    (verdict.action, verdict.cordon, verdict.reason) =
        (Action::None, false, "nothing is wrong".to_owned());
    place.settle(&document).unwrap();
    let told: Vec<(String, String)> =
        place.events()[1..].iter().map(|(kind, _, what)| (kind.clone(), what.clone())).collect();
    let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(told, [("gpu-error", "3"), ("gpu-error", "1"), ("gpu-verdict", "nothing")]);
    // After a reboot counts begin anew: what is there then came before anybody looked.
    document.node.verdicts[1].reason = "x".to_owned();
    document.node.errors[0].count = 9;
    let boot = document.boot.clone();
    document.boot = "another".to_owned();
    assert!(place.settle(&document).is_err());
    document.boot = boot;
    place.settle(&document).unwrap();
    assert_eq!(place.events().len(), 4);
}

#[test]
fn a_mode_of_mig_and_of_parts_is_told() {
    let place = Place::new();
    let mut document = published();
    document.node.report.gpus[2].mig.mode =
        Found::present(Switch { current: true, pending: true }, "a test");
    place.settle(&document).unwrap();
    let page = page(&place.gpus);
    assert!(page.contains("kdc_gpu_mig_instances{gpu=\"2\""), "{page}");
    assert!(
        page.lines()
            .any(|line| line.starts_with("DCGM_FI_DEV_MIG_MODE{gpu=\"2\"") && line.ends_with(" 1"))
    );
}
