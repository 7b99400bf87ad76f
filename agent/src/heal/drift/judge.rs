//! How a thing stands, from what its step's probe saw. Pure, but for the search for other writers.

use kdc_bundles::index::Digest;
use serde::Deserialize as _;

use super::{
    super::State,
    looking::{Looking, UnitSeen},
};
use crate::{
    host::{Attributes, Host as _},
    step::{Before, Content, Step, snapshot::PathState, systemd::UNIT_DIR},
};

/// What is to be said of a thing that is not as wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) state: State,
    pub(super) text: String,
    pub(super) wanted: Option<String>,
    pub(super) found: Option<String>,
    pub(super) hint: Option<String>,
    /// Something stands against putting it back.
    pub(super) blocked: bool,
}

impl Difference {
    fn new(state: State, text: impl Into<String>) -> Self {
        let (wanted, found, hint) = (None, None, None);
        Self { state, text: text.into(), wanted, found, hint, blocked: false }
    }

    fn between(mut self, wanted: impl Into<String>, found: impl Into<String>) -> Self {
        (self.wanted, self.found) = (Some(wanted.into()), Some(found.into()));
        self
    }

    fn blocked(mut self, hint: impl Into<String>) -> Self {
        (self.blocked, self.hint) = (true, Some(hint.into()));
        self
    }
}

/// What differs; the step said already that something does.
pub(super) fn difference(step: &Step, before: &Before, looking: &Looking<'_>) -> Difference {
    let special = match step {
        Step::SetSysctl { key, value } => sysctl(key, value, before, looking),
        Step::LoadKernelModule { module } => Some(module_state(module, before)),
        Step::WriteFile { path, mode, content } => {
            let wanted = match content {
                Content::Text(text) => Digest::of(text.as_bytes()),
                Content::Blob(digest) => digest.clone(),
            };
            of_path(path, &before.0, &wanted, *mode)
        }
        Step::PlaceBinary { path, digest } => of_path(path, &before.0, digest, 0o755),
        Step::RemoveFile { path } => {
            let text = format!("{path} is there again");
            Some(Difference::new(State::Warn, text).between("nothing", "a file"))
        }
        Step::CreateDirectory { path, mode } => directory(path, *mode, before),
        Step::DisableSwap => Some(swap(before)),
        Step::InstallUnit { unit, content, drop_ins } => {
            let drop_ins =
                drop_ins.iter().map(|(name, text)| (format!("{UNIT_DIR}/{unit}.d/{name}"), text));
            let files = drop_ins.chain([(format!("{UNIT_DIR}/{unit}"), content)]);
            files
                .filter_map(|(path, text)| {
                    let state = before.0.get("files")?.get(&path)?;
                    of_path(&path, state, &Digest::of(text.as_bytes()), 0o644)
                })
                .reduce(joined)
        }
        Step::SetUnitState { unit, enabled, active } => {
            looking.unit(unit).map(|seen| unit_state(unit, &seen, *enabled, *active))
        }
        _ => None,
    };
    special.unwrap_or_else(|| {
        let detail = step.detail(before).unwrap_or_default();
        let text = format!("it is not as kdc left it; putting it back {detail}");
        Difference::new(State::Warn, text)
    })
}

fn joined(mut one: Difference, other: Difference) -> Difference {
    one.text = format!("{}; {}", one.text, other.text);
    if other.state == State::Fail {
        one.state = State::Fail;
    }
    one
}

fn sysctl(key: &str, value: &str, before: &Before, looking: &Looking<'_>) -> Option<Difference> {
    let wanted = value.split_whitespace().collect::<Vec<_>>().join(" ");
    let path = format!("/etc/sysctl.d/99-kdc-{key}.conf");
    let mut difference = match before.0.get("live")?.as_str() {
        None => {
            let text = format!("this kernel has no parameter {key} any more");
            let hint = "its module may have been unloaded: `modprobe` it";
            Difference::new(State::Fail, text).between(wanted, "nothing").blocked(hint)
        }
        Some(live) if live == wanted => {
            let line = format!("{key} = {value}\n");
            let state = before.0.get("file")?;
            let file = of_path(&path, state, &Digest::of(line.as_bytes()), 0o644)?;
            let text = format!("{}: {key} would be otherwise after a reboot", file.text);
            Difference { text, state: State::Warn, ..file }
        }
        Some(live) => Difference::new(State::Fail, format!("{key} is {live} and not {wanted}"))
            .between(wanted, live),
    };
    if difference.hint.is_none() {
        difference.hint = other_writer(looking, key, value);
    }
    Some(difference)
}

/// A file that sets the same parameter to something else.
fn other_writer(looking: &Looking<'_>, key: &str, value: &str) -> Option<String> {
    let folders =
        ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"];
    let names = |folder: &&str| {
        let names = looking.list(folder).ok().flatten().unwrap_or_default();
        names.into_iter().take(64).map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    let paths = folders.iter().flat_map(names).chain(["/etc/sysctl.conf".to_owned()]);
    let dotted = |word: &str| word.trim().trim_start_matches('-').replace('/', ".");
    for path in paths.filter(|path| !path.contains("/99-kdc-")) {
        let text = looking.read_text(&path).ok().flatten().unwrap_or_default();
        let sets = |line: &str| {
            let (name, set) = line.split_once('=')?;
            (dotted(name) == key.replace('/', ".") && set.trim() != value).then_some(())
        };
        let comment = |line: &&str| !line.trim_start().starts_with(['#', ';']);
        if text.lines().filter(comment).any(|line| sets(line).is_some()) {
            return Some(format!("{path} sets it to something else"));
        }
    }
    None
}

fn module_state(module: &str, before: &Before) -> Difference {
    let there = before.0.get("module").and_then(|word| word.as_str()) != Some("absent");
    if there {
        let path = format!("/etc/modules-load.d/kdc-{module}.conf");
        let text = format!("{path} is not as wanted: {module} may be missing after a reboot");
        return Difference::new(State::Warn, text);
    }
    Difference::new(State::Fail, format!("{module} is not loaded")).between("loaded", "not loaded")
}

fn swap(before: &Before) -> Difference {
    let active = before.0.get("active").and_then(|list| list.as_array());
    if active.is_some_and(|list| !list.is_empty()) {
        let hint = "`swapoff -a` when memory is free enough to take what is in it";
        let mut difference =
            Difference::new(State::Fail, "swap is on, and the kubelet does not expect it");
        difference.hint = Some(hint.to_owned());
        return difference.between("off", "on");
    }
    Difference::new(State::Warn, "/etc/fstab turns swap on at the next boot")
}

fn directory(path: &str, mode: u32, before: &Before) -> Option<Difference> {
    let wanted = format!("a directory, mode {mode:o}, root's");
    Some(match PathState::deserialize(&before.0).ok()? {
        PathState::Missing { .. } => {
            Difference::new(State::Fail, format!("{path} is missing")).between(wanted, "nothing")
        }
        PathState::Directory { attributes, .. } => {
            let found = attributes_in_words(attributes);
            let text = format!("{path} has {found}");
            Difference::new(State::Warn, text).between(wanted, found)
        }
        PathState::File { .. } | PathState::Link { .. } => {
            Difference::new(State::Fail, format!("{path} is no directory"))
                .between(wanted, "a file or link")
                .blocked(format!("move {path} away"))
        }
    })
}

fn attributes_in_words(Attributes { mode, uid, gid }: Attributes) -> String {
    format!("mode {mode:o}, owner {uid}:{gid}")
}

/// What differs about a file. Its content is never shown: it may be a secret.
fn of_path(
    path: &str,
    state: &serde_json::Value,
    wanted: &Digest,
    mode: u32,
) -> Option<Difference> {
    let short = |digest: &Digest| format!("sha256 {}", &digest.hex()[..12]);
    let wants = format!("{}, mode {mode:o}", short(wanted));
    Some(match PathState::deserialize(state).ok()? {
        PathState::Missing { .. } => {
            Difference::new(State::Fail, format!("{path} is missing")).between(wants, "nothing")
        }
        PathState::File { attributes, digest } if digest != *wanted => {
            let found = format!("{}, mode {:o}", short(&digest), attributes.mode);
            Difference::new(State::Warn, format!("{path} has another content"))
                .between(wants, found)
        }
        PathState::File { attributes, .. } if attributes != Attributes::root(mode) => {
            let found = attributes_in_words(attributes);
            Difference::new(State::Warn, format!("{path} has {found}")).between(wants, found)
        }
        // As wanted: another file of the step differs.
        PathState::File { .. } => return None,
        PathState::Link { target } => {
            let text = format!("{path} is a link to {target}");
            Difference::new(State::Warn, text).between(wants, format!("a link to {target}"))
        }
        PathState::Directory { .. } => {
            Difference::new(State::Fail, format!("{path} is a directory"))
                .between(wants, "a directory")
                .blocked(format!("move {path} away"))
        }
    })
}

fn unit_state(unit: &str, seen: &UnitSeen, enabled: bool, active: Option<bool>) -> Difference {
    let word =
        |yes: bool, yes_word: &'static str, no: &'static str| if yes { yes_word } else { no };
    let mut wanted = word(enabled, "starts at boot", "does not start at boot").to_owned();
    if let Some(active) = active {
        wanted = format!("{wanted}, {}", word(active, "runs", "does not run"));
    }
    let file = if seen.file.is_empty() { "no unit file" } else { &seen.file };
    let found = format!("{}, {file}", seen.active);
    let runs = matches!(seen.active.as_str(), "active" | "activating" | "reloading");
    let bad = active == Some(true) && !runs;
    let state = if bad { State::Fail } else { State::Warn };
    let text = format!("{unit} is {found}");
    let difference = Difference::new(state, text).between(wanted, found);
    match (seen.load.as_str(), seen.active.as_str()) {
        ("masked", _) => difference.blocked(format!("`systemctl unmask {unit}` if it should run")),
        ("not-found", _) => difference.blocked("its unit file is missing"),
        // Whether and when it is started again is told beside it, with the service.
        (_, "failed") => difference.blocked(format!("see `journalctl -u {unit}`")),
        // Running something is put back; ending something never is.
        _ if active == Some(false) && runs || !enabled && seen.file == "enabled" => {
            difference.blocked(format!("`systemctl disable --now {unit}` if nobody needs it"))
        }
        _ => difference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn seen(load: &str, file: &str, active: &str) -> UnitSeen {
        let (load, file, active) = (load.to_owned(), file.to_owned(), active.to_owned());
        UnitSeen { load, file, active, stale: false }
    }

    #[test]
    fn what_runs_against_the_wish_is_told_and_never_ended() {
        for (unit, enabled, active, blocked) in [
            (seen("loaded", "enabled", "inactive"), true, Some(true), false),
            (seen("loaded", "disabled", "active"), true, Some(true), false),
            (seen("loaded", "enabled", "active"), false, Some(false), true),
            (seen("loaded", "disabled", "active"), true, Some(false), true),
            (seen("masked", "masked", "inactive"), true, Some(true), true),
            (seen("not-found", "", "inactive"), true, Some(true), true),
            (seen("loaded", "enabled", "failed"), true, Some(true), true),
        ] {
            let difference = unit_state("u.service", &unit, enabled, active);
            assert_eq!(difference.blocked, blocked, "{unit:?}");
            assert_eq!(difference.hint.is_some(), blocked, "{unit:?}");
        }
    }

    #[test]
    fn a_files_content_is_never_told() {
        let secret = "token: abcdef.0123456789abcdef";
        let digest = Digest::of(secret.as_bytes());
        let state = PathState::File { attributes: Attributes::root(0o644), digest };
        let value = serde_json::to_value(&state).unwrap();
        let said = of_path("/etc/x", &value, &Digest::of(b"other"), 0o600).unwrap();
        let said = format!("{said:?}");
        assert!(said.contains("another content"), "{said}");
        assert!(!said.contains("abcdef.0"), "{said}");
        assert_eq!(of_path("/etc/x", &value, &Digest::of(secret.as_bytes()), 0o644), None);
        let mode = of_path("/etc/x", &value, &Digest::of(secret.as_bytes()), 0o600).unwrap();
        assert_eq!(mode.text, "/etc/x has mode 644, owner 0:0");
    }

    #[test]
    fn who_else_sets_a_parameter_is_named() {
        let host = FakeHost::debian();
        host.plant("/etc/sysctl.d/50-theirs.conf", "# a.b = 3\n-a/b=2\n");
        host.plant("/etc/sysctl.d/99-kdc-a.b.conf", "a.b = 9\n");
        let looking = Looking::new(&host);
        let hint = other_writer(&looking, "a.b", "1").unwrap();
        assert_eq!(hint, "/etc/sysctl.d/50-theirs.conf sets it to something else");
        assert_eq!(other_writer(&looking, "a.b", "2"), None);
        assert_eq!(other_writer(&looking, "a.c", "2"), None);
    }
}
