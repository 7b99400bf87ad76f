//! `ConfigureNvidiaRuntime`: containerd's `nvidia` runtime, added to whatever configuration is there.
//!
//! Pods get GPUs through NVIDIA's wrapper of runc. What the files say is decided in [`super::runtime_config`];
//! here they are found, written, proved with containerd's own dump before it restarts, and put back if that
//! dump does not show the runtime.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::runtime_config::{
    ConfigFile, DROP_IN, Edit, Misfit, Wanted, current_binary, dump_has, imports, plan,
};
use crate::{
    host::{Attributes, Host, Kind, Program},
    step::{
        change::{Change, Context, StepError},
        containerd::{CONFIG, UNIT, Version, installed_version, wait_for_socket},
        snapshot::{PathState, look, make_parents, restore},
        systemd::{look_at, restore_activity, systemctl},
    },
};

/// containerd with NVIDIA's runtime.
pub(crate) struct ConfigureNvidiaRuntime {
    pub(crate) default: bool,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// The files that may be written.
    files: BTreeMap<String, PathState>,
    active: bool,
    judged: Judged,
}

/// What looking found out. No text of a file: passwords of registries may be in it.
#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Judged {
    AsWanted,
    /// This file would be written.
    ToWrite {
        path: String,
    },
    /// It can't be done as things are now; an earlier step of the plan may change that.
    NotNow {
        what: String,
    },
}

/// Where the program lies, by package and by the GPU operator.
const BINARIES: &[&str] = &[
    "/usr/bin/nvidia-container-runtime",
    "/usr/local/bin/nvidia-container-runtime",
    "/usr/local/nvidia/toolkit/nvidia-container-runtime",
];

/// Most files that `imports` may lead to.
const MAX_FILES: usize = 64;

/// All files of containerd's configuration, in the order in which it reads them.
fn files(host: &dyn Host) -> Result<Vec<ConfigFile>, StepError> {
    let Some(text) = host.read_text(CONFIG)? else { return Ok(Vec::new()) };
    let mut files = vec![ConfigFile { path: CONFIG.to_owned(), text }];
    let mut next = 0;
    while let Some(file) = files.get(next) {
        next += 1;
        for pattern in imports(file).map_err(refused)? {
            for path in expand(host, &pattern)? {
                if files.iter().any(|file| file.path == path) {
                    continue;
                }
                if files.len() == MAX_FILES {
                    return Err(StepError::Refused {
                        what: format!("{CONFIG} imports more than {MAX_FILES} files"),
                        hint: "merge some of them".to_owned(),
                    });
                }
                let text = host.read_text(&path)?.unwrap_or_default();
                files.push(ConfigFile { path, text });
            }
        }
    }
    Ok(files)
}

/// The files that a pattern of `imports` names, our own one even where it is not there yet.
fn expand(host: &dyn Host, pattern: &str) -> Result<Vec<String>, StepError> {
    let pattern = match pattern.strip_prefix('/') {
        Some(_) => pattern.to_owned(),
        None => format!("/etc/containerd/{}", pattern.trim_start_matches("./")),
    };
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", &pattern));
    let Some((head, tail)) = name.split_once('*') else { return Ok(vec![pattern]) };
    if folder.contains('*') || tail.contains('*') || pattern.contains(['?', '[']) {
        return Err(StepError::Refused {
            what: format!("the configuration of containerd imports `{pattern}`"),
            hint: "write the pattern with one `*`, in the file's name".to_owned(),
        });
    }
    let mut names = host.list(folder)?.unwrap_or_default();
    if let Some(ours) = DROP_IN.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'))
        && !names.iter().any(|name| name == ours)
    {
        names.push(ours.to_owned());
    }
    let long = head.len() + tail.len();
    names.retain(|name| name.len() >= long && name.starts_with(head) && name.ends_with(tail));
    names.retain(|name| !name.starts_with('.') || head.starts_with('.'));
    names.sort();
    Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

fn refused(misfit: Misfit) -> StepError {
    StepError::Refused { what: misfit.to_string(), hint: misfit.hint() }
}

impl ConfigureNvidiaRuntime {
    /// What there is to write, and the runtime's program.
    fn edit(&self, host: &dyn Host, version: Version) -> Result<(Edit, String), StepError> {
        if host.stat(CONFIG)?.is_some_and(|stat| stat.kind == Kind::Link) {
            return Err(StepError::Refused {
                what: format!("{CONFIG} is a link, so something else writes it"),
                hint: "have that add the runtime, or put a file in the link's place".to_owned(),
            });
        }
        let files = files(host)?;
        let current = current_binary(&files, version).map_err(refused)?;
        let mut known = current.iter().map(String::as_str).chain(BINARIES.iter().copied());
        let binary = loop {
            let Some(path) = known.next() else {
                return Err(StepError::Refused {
                    what: "nvidia-container-runtime is not installed".to_owned(),
                    hint: "put the package nvidia-container-toolkit into the bundle".to_owned(),
                });
            };
            if path.starts_with('/') && host.stat(path)?.is_some() {
                break path.to_owned();
            }
        };
        let wanted = Wanted { binary: &binary, default: self.default, containerd: version };
        let edit = plan(CONFIG, &files, &wanted).map_err(refused)?;
        Ok((edit, binary))
    }

    fn judge(&self, host: &dyn Host) -> Result<Judged, StepError> {
        let Some(version) = installed_version(host)? else {
            return Ok(Judged::NotNow { what: "containerd is not installed".to_owned() });
        };
        match self.edit(host, version) {
            Ok((Edit::AsWanted, _)) => Ok(Judged::AsWanted),
            Ok((Edit::Write { path, .. }, _)) => Ok(Judged::ToWrite { path }),
            Err(StepError::Refused { what, .. }) => Ok(Judged::NotNow { what }),
            Err(error) => Err(error),
        }
    }
}

/// Have containerd say what it reads; what it does not show it would not do.
fn prove(host: &dyn Host, binary: &str) -> Result<(), StepError> {
    let dump = Program::new("containerd").args(["--config", CONFIG, "config", "dump"]);
    let output = host.run(&dump)?;
    if output.good() && dump_has(&output.text(), binary) {
        return Ok(());
    }
    let why = if output.good() { "it does not show the runtime".to_owned() } else { output.tail() };
    Err(StepError::Refused {
        what: format!("containerd would not take the changed configuration: {why}"),
        hint: "nothing was restarted and the files are as before; look at `containerd config dump`"
            .to_owned(),
    })
}

impl Change for ConfigureNvidiaRuntime {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let mut files = BTreeMap::new();
        for path in [CONFIG, DROP_IN] {
            files.insert(path.to_owned(), look(context, path)?);
        }
        let active = look_at(context.host, UNIT)?.active;
        Ok(Before { files, active, judged: self.judge(context.host)? })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        matches!(before.judged, Judged::AsWanted)
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let Some(version) = installed_version(host)? else {
            return Err(StepError::Refused {
                what: "containerd is not installed".to_owned(),
                hint: "put containerd into the bundle: its package, or its archive".to_owned(),
            });
        };
        let (edit, binary) = self.edit(host, version)?;
        if let Edit::Write { path, text } = edit {
            // As closed as the main file: a copy of its table may carry passwords.
            let attributes = match before.files.get(CONFIG) {
                Some(PathState::File { attributes, .. }) => *attributes,
                _ => Attributes::root(0o644),
            };
            make_parents(host, &path)?;
            host.write(&path, text.as_bytes(), attributes)?;
        }
        if let Err(error) = prove(host, &binary) {
            for (path, state) in &before.files {
                restore(context, path, state)?;
            }
            return Err(error);
        }
        host.run_checked(&systemctl(["restart", "--", UNIT]))?;
        wait_for_socket(context)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        for (path, state) in &before.files {
            restore(context, path, state)?;
        }
        if before.active {
            context.host.run_checked(&systemctl(["restart", "--", UNIT]))?;
            return Ok(());
        }
        restore_activity(context, UNIT, false)
    }

    fn summary(&self) -> String {
        let pods = if self.default { "every pod" } else { "pods that name it" };
        format!("give containerd the nvidia runtime, for {pods}")
    }

    fn detail(&self, before: &Before) -> String {
        let service = if before.active { "restarts" } else { "starts" };
        match &before.judged {
            Judged::AsWanted => "the runtime is there".to_owned(),
            Judged::ToWrite { path } => {
                let file = before.files.get(path).map(|state| state.write_detail(path));
                format!("{} and {service} containerd", file.unwrap_or_else(|| path.clone()))
            }
            Judged::NotNow { what } => what.clone(),
        }
    }
}
