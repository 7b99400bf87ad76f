//! What of a step's work can be watched: its subject, its kind, what would put it back.

use std::time::Duration;

use super::super::{Kind, Remedy};
use crate::step::{Content, PlannedStep, Step};

/// Large files are read again after this long even where nothing says that they changed.
const READ_AGAIN: Duration = Duration::from_secs(3600);

/// What says nothing of its changes is looked at this often.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What a look at a thing costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cost {
    /// Next to nothing: it is looked at each time.
    Cheap,
    /// A large file is read, or a program runs: only where one of these files changed, and after
    /// this long.
    Dear(Vec<String>, Duration),
}

/// Something that a step left on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) subject: String,
    pub(super) kind: Kind,
    /// None: only told.
    pub(super) remedy: Option<Remedy>,
    /// Putting it back restarts a service.
    pub(super) restarts: bool,
    pub(super) cost: Cost,
    /// The unit whose state is asked for.
    pub(super) unit: Option<String>,
}

impl Thing {
    fn new(kind: Kind, subject: impl Into<String>, remedy: Option<Remedy>) -> Self {
        let (restarts, cost, unit) = (false, Cost::Cheap, None);
        Self { subject: subject.into(), kind, remedy, restarts, cost, unit }
    }

    fn dear(mut self, paths: &[&str], again: Duration) -> Self {
        self.cost = Cost::Dear(paths.iter().map(|path| (*path).to_owned()).collect(), again);
        self
    }

    fn of_unit(mut self, unit: &str) -> Self {
        self.unit = Some(unit.to_owned());
        self
    }

    /// What a step left; none where it left nothing that lasts on the host, or too much to watch
    /// (the thousands of files of an archive, images).
    #[expect(clippy::too_many_lines, reason = "one short arm a step, and a table wants no parts")]
    pub(super) fn of(planned: &PlannedStep) -> Option<Self> {
        let file = |path: &str, remedy| Self::new(Kind::File, format!("file {path}"), remedy);
        let unit_kind = |subject: String, remedy| Self::new(Kind::Unit, subject, Some(remedy));
        Some(match &planned.step {
            Step::SetSysctl { key, .. } => {
                Self::new(Kind::Sysctl, format!("sysctl {key}"), Some(Remedy::SetSysctl))
            }
            Step::LoadKernelModule { module } => {
                Self::new(Kind::Module, format!("module {module}"), Some(Remedy::LoadModule))
            }
            Step::WriteFile { path, content: Content::Text(_), .. } => {
                file(path, Some(Remedy::PutBackFile))
            }
            Step::WriteFile { path, content: Content::Blob(_), .. }
            | Step::PlaceBinary { path, .. } => {
                file(path, Some(Remedy::PutBackFile)).dear(&[path], READ_AGAIN)
            }
            // What lies there now is somebody's, and was never seen by the step.
            Step::RemoveFile { path } => file(path, None),
            Step::CreateDirectory { path, .. } => {
                let remedy = Some(Remedy::PutBackDirectory);
                Self::new(Kind::Directory, format!("directory {path}"), remedy)
            }
            // Turning it off moves all it holds into memory, which may cost a workload its life.
            Step::DisableSwap => Self::new(Kind::Swap, "swap", None),
            Step::InstallUnit { unit, .. } => {
                unit_kind(format!("unit-file {unit}"), Remedy::PutBackUnit).of_unit(unit)
            }
            Step::SetUnitState { unit, .. } => {
                unit_kind(format!("unit {unit}"), Remedy::StartUnit).of_unit(unit)
            }
            Step::InstallPackages { .. } => {
                let subject = format!("packages {}", planned.id);
                Self::new(Kind::Package, subject, None).dear(&["/var/lib/dpkg/status"], READ_AGAIN)
            }
            Step::ConfigureContainerd { registries, .. } => {
                let hosts = registries
                    .iter()
                    .map(|registry| format!("/etc/containerd/certs.d/{registry}/hosts.toml"));
                let config = "/etc/containerd/config.toml";
                let paths: Vec<String> = hosts.chain([config.to_owned()]).collect();
                let mut thing = file(config, Some(Remedy::PutBackFile));
                thing.cost = Cost::Dear(paths, READ_AGAIN);
                thing.restarts = true;
                thing.of_unit("containerd.service")
            }
            Step::ConfigureHostRoutes { .. } => {
                Self::new(Kind::File, "files of the pod network", Some(Remedy::PutBackFile))
                    .of_unit(crate::daemon::UNIT_NAME)
            }
            // What would put these back restarts containerd, takes GPUs from who has them, or needs
            // a reboot.
            Step::ConfigureNvidiaRuntime { .. } => {
                file("containerd's runtime for NVIDIA GPUs", None)
                    .dear(&[], ASK_AGAIN)
                    .of_unit("containerd.service")
            }
            Step::WriteCdiSpec => file("CDI specification of the GPUs", None).dear(&[], ASK_AGAIN),
            Step::BlacklistModule { module } => {
                Self::new(Kind::Module, format!("module {module} kept away"), None)
            }
            Step::EnableIommu => Self::new(Kind::Module, "IOMMU in use", None).dear(&[], ASK_AGAIN),
            Step::BindVfio { .. } => {
                Self::new(Kind::Module, "GPUs bound to vfio-pci", None).dear(&[], ASK_AGAIN)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Condition;

    fn of(step: Step) -> Option<Thing> {
        let (id, phase) = ("one".to_owned(), "host".to_owned());
        Thing::of(&PlannedStep { id, phase, step, needs: Vec::new() })
    }

    #[test]
    fn swap_packages_and_what_others_put_there_are_told_and_never_changed() {
        for step in [
            Step::DisableSwap,
            Step::RemoveFile { path: "/etc/x".to_owned() },
            Step::InstallPackages { packages: Vec::new() },
            Step::EnableIommu,
            Step::WriteCdiSpec,
        ] {
            assert_eq!(of(step.clone()).unwrap().remedy, None, "{step:?}");
        }
    }

    #[test]
    fn every_remedy_is_of_the_things_own_kind() {
        for step in [
            Step::SetSysctl { key: "a.b".to_owned(), value: "1".to_owned() },
            Step::LoadKernelModule { module: "m".to_owned() },
            Step::CreateDirectory { path: "/x".to_owned(), mode: 0o755 },
            Step::SetUnitState { unit: "u.service".to_owned(), enabled: true, active: None },
        ] {
            let thing = of(step).unwrap();
            assert_eq!(thing.remedy.unwrap().kind(), thing.kind);
        }
    }

    #[test]
    fn what_lasts_only_in_the_cluster_is_not_the_hosts() {
        let condition = Condition::ApiReady;
        assert_eq!(of(Step::WaitUntil { condition, timeout_secs: 1 }), None);
    }
}
