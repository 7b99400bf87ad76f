//! How far a node may mend itself: the cluster file's `spec.selfHealing`, and `selfHealing` in the
//! agent's own configuration, which are written alike.
//!
//! ```yaml
//! selfHealing:
//!   mode: report            # off | report | repair
//!   kinds:                  # otherwise for some; `mode: off` is off whatever stands here
//!     sysctl: repair
//!     service: report
//!   perHour: 12             # most actions of one kind within an hour
//!   perSubject: 3           # most actions on one thing within an hour; then somebody else writes it
//!   backoffSecs: 30         # before the second action on one thing; doubles with each
//!   intervalSecs: 60        # between two looks
//!   restarts: false         # may a repair restart a service, or have systemd read its units again?
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fields::{Fields, Place},
    problem::Problems,
};

/// What may be done about things that are not as wanted.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "HealingMode")]
pub enum Mode {
    /// Nothing is even looked at.
    Off,
    /// It is told.
    #[default]
    Report,
    /// It is told and put back.
    Repair,
}

/// Every mode with its word.
pub const MODES: [(&str, Mode); 3] =
    [("off", Mode::Off), ("report", Mode::Report), ("repair", Mode::Repair)];

impl Mode {
    /// The word for it in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Report => "report",
            Self::Repair => "repair",
        }
    }
}

/// What is watched, by kind.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "HealingKind")]
pub enum Kind {
    /// Kernel parameters.
    Sysctl,
    /// Kernel modules, now and at boot.
    Module,
    /// Files and programs that kdc put in place.
    File,
    /// Directories that kdc made.
    Directory,
    /// Units of systemd: their files, and whether they run and start at boot.
    Unit,
    /// Services of the cluster that have failed.
    Service,
    /// Routes between the nodes' pods.
    Route,
    /// File systems that should be mounted.
    Mount,
    /// Swap that should be off.
    Swap,
    /// Packages that should be installed.
    Package,
    /// When certificates end.
    Certificate,
    /// How large etcd's data is.
    Etcd,
    /// How full disks are.
    Disk,
    /// How far the node's clock is off.
    Clock,
}

/// Every kind with its word.
pub const KINDS: [(&str, Kind); 14] = [
    ("sysctl", Kind::Sysctl),
    ("module", Kind::Module),
    ("file", Kind::File),
    ("directory", Kind::Directory),
    ("unit", Kind::Unit),
    ("service", Kind::Service),
    ("route", Kind::Route),
    ("mount", Kind::Mount),
    ("swap", Kind::Swap),
    ("package", Kind::Package),
    ("certificate", Kind::Certificate),
    ("etcd", Kind::Etcd),
    ("disk", Kind::Disk),
    ("clock", Kind::Clock),
];

impl Kind {
    /// The word for it in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    /// Nothing of this kind is ever put back: what would have to be done may hurt what runs, or
    /// needs a decision.
    #[must_use]
    pub fn is_only_told(self) -> bool {
        !matches!(
            self,
            Self::Sysctl
                | Self::Module
                | Self::File
                | Self::Directory
                | Self::Unit
                | Self::Service
                | Self::Route
        )
    }
}

/// How often things of a kind may be put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most actions within an hour.
    pub per_hour: u32,
    /// Most actions on one thing within an hour.
    pub per_subject: u32,
    /// Seconds before the second action on one thing; doubles with each further one.
    pub backoff_secs: u32,
}

/// How far a node may mend itself, proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SelfHealing {
    /// For every kind that `kinds` does not name.
    pub mode: Mode,
    /// Otherwise for some kinds.
    pub kinds: BTreeMap<Kind, Mode>,
    /// Most actions of one kind within an hour.
    pub per_hour: u32,
    /// Most actions on one thing within an hour.
    pub per_subject: u32,
    /// Seconds before the second action on one thing; doubles with each further one.
    pub backoff_secs: u32,
    /// Seconds between two looks.
    pub interval_secs: u32,
    /// A repair may restart a service, or have systemd read its units again.
    pub restarts: bool,
}

impl Default for SelfHealing {
    fn default() -> Self {
        Self {
            mode: Mode::Report,
            kinds: BTreeMap::new(),
            per_hour: 12,
            per_subject: 3,
            backoff_secs: 30,
            interval_secs: 60,
            restarts: false,
        }
    }
}

impl SelfHealing {
    /// What may be done about things of this kind.
    ///
    /// Keeping the routes between pods is what the pod network consists of, so that goes on unless it
    /// is named, or all is off.
    #[must_use]
    pub fn mode_of(&self, kind: Kind) -> Mode {
        let asked = match (self.mode, self.kinds.get(&kind)) {
            (Mode::Off, _) => Mode::Off,
            (_, Some(mode)) => *mode,
            (_, None) if kind == Kind::Route => Mode::Repair,
            (mode, None) => mode,
        };
        if kind.is_only_told() { asked.min(Mode::Report) } else { asked }
    }

    /// How often things of this kind may be put right.
    ///
    /// A link that goes up and down takes the routes with it each time, and pods can't do without
    /// them: they have limits of their own.
    #[must_use]
    pub fn limits_of(&self, kind: Kind) -> Limits {
        if kind == Kind::Route {
            return Limits { per_hour: 60, per_subject: 60, backoff_secs: 0 };
        }
        let Self { per_hour, per_subject, backoff_secs, .. } = *self;
        Limits { per_hour, per_subject, backoff_secs }
    }
}

impl SelfHealing {
    /// As a file of the agent's own configuration.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct File<'a> {
            self_healing: &'a SelfHealing,
        }
        let text = serde_yaml::to_string(&File { self_healing: self }).expect("words and numbers");
        format!(
            "# Written by kdc from the cluster file. Put your own in a file with a later name.\n{text}"
        )
    }
}

/// What a file says of it; what it leaves open stays open, so that files can be laid over another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    mode: Option<Mode>,
    kinds: BTreeMap<Kind, Mode>,
    per_hour: Option<u32>,
    per_subject: Option<u32>,
    backoff_secs: Option<u32>,
    interval_secs: Option<u32>,
    restarts: Option<bool>,
}

impl Said {
    /// Read `selfHealing`; mistakes are noted.
    pub fn read(place: &Place<'_>, problems: &mut Problems) -> Self {
        let mut said = Self::default();
        let Some(mut fields) = place.fields(problems) else { return said };
        said.mode = fields.optional("mode").and_then(|place| place.one_of(problems, &MODES));
        if let Some(place) = fields.optional("kinds") {
            said.kinds = read_kinds(&place, problems);
        }
        said.per_hour = number(&mut fields, "perHour", (1, 60), problems);
        said.per_subject = number(&mut fields, "perSubject", (1, 10), problems);
        said.backoff_secs = number(&mut fields, "backoffSecs", (1, 3600), problems);
        said.interval_secs = number(&mut fields, "intervalSecs", (1, 3600), problems);
        said.restarts = fields.optional("restarts").and_then(|place| place.boolean(problems));
        fields.finish(problems);
        said
    }

    /// Lay this over what earlier files said.
    pub fn lay_over(self, settings: &mut SelfHealing) {
        let Self { mode, kinds, per_hour, per_subject, backoff_secs, interval_secs, restarts } =
            self;
        settings.mode = mode.unwrap_or(settings.mode);
        settings.kinds.extend(kinds);
        settings.per_hour = per_hour.unwrap_or(settings.per_hour);
        settings.per_subject = per_subject.unwrap_or(settings.per_subject);
        settings.backoff_secs = backoff_secs.unwrap_or(settings.backoff_secs);
        settings.interval_secs = interval_secs.unwrap_or(settings.interval_secs);
        settings.restarts = restarts.unwrap_or(settings.restarts);
    }
}

fn number(
    fields: &mut Fields<'_>,
    name: &'static str,
    (least, most): (u64, u64),
    problems: &mut Problems,
) -> Option<u32> {
    let number = fields.optional(name)?.number(problems, least, most)?;
    u32::try_from(number).ok()
}

fn read_kinds(place: &Place<'_>, problems: &mut Problems) -> BTreeMap<Kind, Mode> {
    let mut kinds = BTreeMap::new();
    let Some(mut fields) = place.fields(problems) else { return kinds };
    for (word, kind) in KINDS {
        let Some(place) = fields.optional(word) else { continue };
        let Some(mode) = place.one_of(problems, &MODES) else { continue };
        if kind.is_only_told() && mode == Mode::Repair {
            let what = format!("nothing of the kind `{word}` is ever put back by itself");
            place.wrong(problems, what, "`report` or `off`");
        }
        kinds.insert(kind, mode);
    }
    fields.finish(problems);
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn read(text: &str) -> Result<SelfHealing, String> {
        let mut problems = Problems::new("agent.yaml");
        let mut settings = SelfHealing::default();
        if let Some(tree) = yaml::parse(text, &mut problems) {
            Said::read(&Place::root(&tree), &mut problems).lay_over(&mut settings);
        }
        problems.finish(Some(settings)).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_not_said_is_told_and_only_routes_are_put_back() {
        let settings = SelfHealing::default();
        for (word, kind) in KINDS {
            let kept = if kind == Kind::Route { Mode::Repair } else { Mode::Report };
            assert_eq!(settings.mode_of(kind), kept, "{word}");
            assert_eq!(kind.as_str(), word);
        }
    }

    #[test]
    fn a_kind_goes_its_own_way_unless_all_is_off_and_some_are_never_put_back() {
        let text = "mode: repair\nkinds: {sysctl: off, file: report}\n";
        let mut settings = read(text).unwrap();
        for (kind, mode) in [
            (Kind::Sysctl, Mode::Off),
            (Kind::File, Mode::Report),
            (Kind::Module, Mode::Repair),
            (Kind::Disk, Mode::Report),
            (Kind::Swap, Mode::Report),
        ] {
            assert_eq!(settings.mode_of(kind), mode, "{kind:?}");
        }
        settings.kinds.insert(Kind::Swap, Mode::Repair);
        assert_eq!(settings.mode_of(Kind::Swap), Mode::Report);
        settings.mode = Mode::Off;
        assert!(KINDS.iter().all(|(_, kind)| settings.mode_of(*kind) == Mode::Off));
    }

    #[test]
    fn what_is_written_for_the_agent_reads_back_the_same() {
        let mut settings = SelfHealing { mode: Mode::Repair, per_hour: 7, ..Default::default() };
        settings.kinds.insert(Kind::Unit, Mode::Off);
        let text = settings.to_yaml();
        let inner: String = text
            .lines()
            .filter(|line| !line.starts_with(['#', 's']))
            .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
            .collect();
        assert_eq!(read(&inner).unwrap(), settings, "{text}");
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text =
            "mode: fix\nkinds:\n  sysctls: repair\n  swap: repair\nperHour: 0\nrestarts: 7\n";
        let said = read(text).unwrap_err();
        for part in [
            "agent.yaml:1: mode: `fix`",
            "agent.yaml:3: kinds.sysctls",
            "did you mean that?",
            "agent.yaml:4: kinds.swap: nothing of the kind `swap` is ever put back",
            "agent.yaml:5: perHour",
            "agent.yaml:6: restarts",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
