//! Labels for the node, through node-feature-discovery's local source: a file in `features.d`.
//!
//! NFD reads the folder each minute and needs no credential of ours for it. The file is replaced
//! whole (a dot file, then a rename; NFD leaves dot files alone), says when it is out of date, and is
//! only there where NFD's folder is, unless the configuration asks for it.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kdc_profiles::moment;

use crate::{
    daemon::config::Labels,
    gpu::{report::Gpu, watch::Published, xid::Action},
};

/// Our file in NFD's folder.
pub(crate) const PATH: &str = "/etc/kubernetes/node-feature-discovery/features.d/kdc";

/// Its name.
const FILE: &str = "kdc";

/// Labels of an agent that is gone are dropped after this.
const GOOD_FOR: Duration = Duration::from_secs(3600);

/// The file is written anew when so much of that has passed.
const ANEW_AFTER: Duration = Duration::from_secs(1200);

/// Keeps the file as the configuration wants it.
#[derive(Debug)]
pub(crate) struct Labeler {
    folder: PathBuf,
    pci: PathBuf,
    written: Option<(String, Instant)>,
}

/// The labels could not be written.
#[derive(Debug, thiserror::Error)]
#[error("labels can't be written to `{}`", path.display())]
pub(crate) struct LabelsError {
    path: PathBuf,
    source: io::Error,
}

impl LabelsError {
    pub(crate) fn code(&self) -> &'static str {
        "AGENT-058"
    }
}

impl Labeler {
    /// For this node.
    pub(crate) fn system() -> Self {
        Self::new(crate::host::parent(PATH).as_ref(), Path::new("/sys/bus/pci/devices"))
    }

    fn new(folder: &Path, pci: &Path) -> Self {
        Self { folder: folder.to_owned(), pci: pci.to_owned(), written: None }
    }

    /// One round. Says how many labels are there; nothing where none are wanted.
    /// `gpus` is what is known of them beyond the bus, where that is known.
    pub(crate) fn settle(
        &mut self,
        wanted: Labels,
        gpus: Option<&Published>,
    ) -> Result<Option<String>, LabelsError> {
        let path = self.folder.join(FILE);
        let failed = |source| LabelsError { path: path.clone(), source };
        let wants = match wanted {
            Labels::Never => false,
            Labels::Auto => self.folder.is_dir(),
            Labels::Always => {
                fs_err::create_dir_all(&self.folder).map_err(failed)?;
                true
            }
        };
        if !wants {
            self.written = None;
            return match fs_err::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(source)),
                _ => Ok(None),
            };
        }
        let labels = labels(&self.pci) + &gpus.map(of_gpus).unwrap_or_default();
        let same = |(text, at): &(String, Instant)| *text == labels && at.elapsed() < ANEW_AFTER;
        if !(self.written.as_ref().is_some_and(same) && path.exists()) {
            let until = SystemTime::now() + GOOD_FOR;
            let text = format!("# +expiry-time={}\n{labels}", rfc3339(until));
            self.replace(&path, &text).map_err(failed)?;
            self.written = Some((labels.clone(), Instant::now()));
        }
        Ok(Some(format!("{} labels for node-feature-discovery", labels.lines().count())))
    }

    /// Whole or not at all, also where the power goes.
    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        // One name: what a killed agent left is taken by the next.
        let scratch = self.folder.join(".kdc.tmp");
        let mut file = fs_err::File::create(&scratch)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs_err::rename(&scratch, path)?;
        Ok(())
    }
}

/// `key=value` lines; NFD puts `feature.node.kubernetes.io/` before each key.
fn labels(pci: &Path) -> String {
    let mut text = format!("kdc-agent.version={}\n", env!("CARGO_PKG_VERSION"));
    let mut drivers: Vec<String> = Vec::new();
    let devices = fs_err::read_dir(pci).map(|entries| entries.flatten().collect::<Vec<_>>());
    for device in devices.unwrap_or_default() {
        let read =
            |name: &str| fs_err::read_to_string(device.path().join(name)).unwrap_or_default();
        // NVIDIA, and a display controller of any sort.
        if read("vendor").trim_end() == "0x10de" && read("class").starts_with("0x03") {
            let driver = fs_err::read_link(device.path().join("driver")).ok();
            let name =
                driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            drivers.push(name.unwrap_or_else(|| "none".to_owned()));
        }
    }
    if let Some(first) = drivers.first() {
        let one = if drivers.iter().all(|driver| driver == first) { first } else { "mixed" };
        text.push_str(&format!("kdc-gpu.count={}\nkdc-gpu.driver={one}\n", drivers.len()));
    }
    text
}

/// What the driver knows of the GPUs; a GPU that can't be asked has no say.
fn of_gpus(published: &Published) -> String {
    let node = &published.node;
    let gpus = &node.report.gpus;
    let mut text = String::new();
    let mut label = |name: &str, value: Option<String>| {
        if let Some(value) = value.map(|value| as_label(&value)).filter(|value| !value.is_empty()) {
            text.push_str(&format!("kdc-gpu.{name}={value}\n"));
        }
    };
    label("driver-version", node.report.driver_version.value().cloned());
    label("cuda-version", node.report.cuda_version.value().cloned());
    label("model", common(gpus, |gpu| gpu.model.value().cloned()));
    let mib = |gpu: &Gpu| Some((gpu.live.memory.value()?.total_bytes >> 20).to_string());
    label("memory-mib", common(gpus, mib));
    label("compute", common(gpus, |gpu| gpu.compute_capability.value().cloned()));
    label("mig", common(gpus, |gpu| gpu.mig.mode.value().map(|mode| mode.current.to_string())));
    let sick = node.verdicts.iter().filter(|verdict| verdict.action != Action::None).count();
    label("sick", (!gpus.is_empty()).then(|| sick.to_string()));
    text
}

/// What all GPUs have in common that say it; `mixed` where they differ.
fn common(gpus: &[Gpu], of: impl Fn(&Gpu) -> Option<String>) -> Option<String> {
    let mut all: Vec<String> = gpus.iter().filter_map(of).collect();
    all.dedup();
    match all.as_slice() {
        [_, _, ..] => Some("mixed".to_owned()),
        _ => all.pop(),
    }
}

/// A value as Kubernetes takes it: letters, digits, `-_.` between them, at most 63.
fn as_label(value: &str) -> String {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let text: String =
        value.chars().map(|letter| if good(letter) { letter } else { '-' }).take(63).collect();
    text.trim_matches(|letter: char| !letter.is_ascii_alphanumeric()).to_owned()
}

/// `2026-11-23T17:00:00Z`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    moment::render(i64::try_from(seconds).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_453_200, "2026-11-23T17:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_the_driver_knows_of_gpus_becomes_labels_that_kubernetes_takes() {
        let published = crate::api::gpus::tests::published();
        assert_eq!(
            of_gpus(&published),
            "kdc-gpu.driver-version=580.95.05\nkdc-gpu.cuda-version=13.0\n\
             kdc-gpu.model=NVIDIA-H100-80GB-HBM3\nkdc-gpu.memory-mib=81559\nkdc-gpu.sick=1\n"
        );
        assert_eq!(as_label(" (NVIDIA) RTX\u{2122} 4090 "), "NVIDIA--RTX--4090");
        assert_eq!(as_label(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn labels_come_and_go_as_asked_and_never_half() {
        let folder = tempfile::tempdir().unwrap();
        let (features, pci) = (folder.path().join("nfd/features.d"), folder.path().join("pci"));
        for (name, vendor, class, driver) in [
            ("0000:01:00.0", "0x10de", "0x030200", Some("nvidia")),
            ("0000:02:00.0", "0x10de", "0x030000", Some("vfio-pci")),
            ("0000:02:00.1", "0x10de", "0x040300", None),
            ("0000:03:00.0", "0x1af4", "0x020000", None),
        ] {
            let device = pci.join(name);
            fs_err::create_dir_all(&device).unwrap();
            fs_err::write(device.join("vendor"), format!("{vendor}\n")).unwrap();
            fs_err::write(device.join("class"), format!("{class}\n")).unwrap();
            if let Some(driver) = driver {
                let target = format!("../../../bus/pci/drivers/{driver}");
                fs_err::os::unix::fs::symlink(target, device.join("driver")).unwrap();
            }
        }
        let mut labeler = Labeler::new(&features, &pci);
        assert_eq!(labeler.settle(Labels::Auto, None).unwrap(), None, "NFD is not here");
        assert!(!features.exists());
        let said = labeler.settle(Labels::Always, None).unwrap();
        assert_eq!(said.as_deref(), Some("3 labels for node-feature-discovery"));
        let text = fs_err::read_to_string(features.join("kdc")).unwrap();
        assert!(text.starts_with("# +expiry-time=20"), "{text}");
        assert!(text.ends_with("\nkdc-gpu.count=2\nkdc-gpu.driver=mixed\n"), "{text}");
        fs_err::remove_file(features.join("kdc")).unwrap();
        labeler.settle(Labels::Auto, None).unwrap();
        assert!(features.join("kdc").exists(), "somebody took it away");
        assert_eq!(fs_err::read_dir(&features).unwrap().count(), 1, "nothing beside it");
        assert_eq!(labeler.settle(Labels::Never, None).unwrap(), None);
        assert!(!features.join("kdc").exists());
        // Where it can't be written it says so, and the next round tries again.
        fs_err::create_dir(features.join("kdc")).unwrap();
        let error = labeler.settle(Labels::Always, None).unwrap_err();
        assert_eq!(error.code(), "AGENT-058");
    }
}
