//! What was done, kept over restarts of the agent and of the node: limits and backoff count it.
//!
//! One small file, written whole and atomically, and written *before* each action: an action that
//! can't be written down is not done. Ages go by the clock that runs since boot; what an earlier
//! boot did is taken to be as young as this boot, so neither a step of the node's clock nor a
//! reboot makes room for more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, Kind};
use crate::{
    host::{Attributes, Host, HostError, parent},
    step::snapshot::make_parents,
};

/// Where it is kept.
pub(super) const HISTORY_PATH: &str = "/var/lib/kdc/heal/history.json";

/// The window that limits count in.
pub(super) const WINDOW: Duration = Duration::from_secs(3600);

/// Deeds that are kept. More than all limits together allow within the window is refused, so what
/// falls out at the end is never needed for a limit.
const MOST_DEEDS: usize = 1024;

/// Largest file that is read: as many deeds with the longest texts.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Longest text in a deed.
const MAX_TEXT_BYTES: usize = 512;

const VERSION: u32 = 1;

/// A moment that no step of the clock moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Which boot of the node.
    pub boot: String,
    /// Milliseconds since then.
    pub since_boot_ms: u64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// If the kernel doesn't say which boot this is, or how long ago it was.
    pub fn now(host: &dyn Host) -> Result<Self, HostError> {
        let text = |path: &str| {
            host.read_text(path)?.ok_or_else(|| HostError::File {
                action: "read",
                path: path.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            })
        };
        let boot = text("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let uptime = text("/proc/uptime")?;
        let seconds = uptime.split(' ').next().and_then(|word| word.parse::<f64>().ok());
        let seconds = seconds.filter(|seconds| *seconds >= 0.0).ok_or_else(|| HostError::File {
            action: "understand",
            path: "/proc/uptime".to_owned(),
            source: std::io::ErrorKind::InvalidData.into(),
        })?;
        let ms = Duration::from_secs_f64(seconds).as_millis();
        Ok(Self { boot, since_boot_ms: u64::try_from(ms).unwrap_or(u64::MAX) })
    }

    /// How long ago an earlier moment was, at least.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        let ms = if self.boot == earlier.boot {
            self.since_boot_ms.saturating_sub(earlier.since_boot_ms)
        } else {
            self.since_boot_ms
        };
        Duration::from_millis(ms)
    }
}

/// How an action came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// It was begun, and nobody wrote down how it ended: it may have been cut off.
    Begun,
    /// It was done.
    Done,
    /// It failed.
    Failed {
        /// Why.
        why: String,
    },
}

impl End {
    /// The word for it in metrics and tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

/// An action that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deed {
    /// Counts up; never used twice.
    pub number: u64,
    /// When, for limits.
    pub at: Moment,
    /// When, for people: milliseconds since 1970 by the node's clock.
    pub at_unix_ms: u64,
    /// What.
    pub action: Action,
    /// How it came out.
    #[serde(flatten)]
    pub end: End,
}

/// All deeds that still count, oldest first, and a few older ones for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct History {
    #[serde(default)]
    version: u32,
    /// The deeds.
    pub deeds: Vec<Deed>,
    /// How many actions of each remedy came out how, since the file was begun.
    #[serde(default)]
    pub counts: std::collections::BTreeMap<String, u64>,
}

/// The history can't be used: nothing is repaired then, since nobody knows how often it was.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file system would not.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It makes no sense.
    #[error("{HISTORY_PATH} makes no sense: {reason}")]
    Format {
        /// What is wrong.
        reason: String,
    },
    /// Too much was done within the window to be kept track of.
    #[error("{HISTORY_PATH} is full: {MOST_DEEDS} actions within an hour")]
    Full,
}

impl HistoryError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Host(error) => error.hint(),
            Self::Format { .. } => Some(format!(
                "look at it, then remove {HISTORY_PATH}: limits count from zero again"
            )),
            Self::Full => Some("find out who writes what is put back".to_owned()),
        }
    }
}

impl History {
    /// Read it; empty where there is none yet.
    ///
    /// # Errors
    /// If it can't be read or makes no sense.
    pub fn load(host: &dyn Host) -> Result<Self, HistoryError> {
        match host.read(HISTORY_PATH, MAX_BYTES)? {
            None => Ok(Self { version: VERSION, ..Self::default() }),
            Some(bytes) => Self::parse(&bytes),
        }
    }

    /// From the file's bytes.
    ///
    /// # Errors
    /// If they make no sense.
    pub fn parse(bytes: &[u8]) -> Result<Self, HistoryError> {
        let wrong = |reason: String| HistoryError::Format { reason };
        let history: Self =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if history.version != VERSION {
            return Err(wrong(format!("version {}; this build knows {VERSION}", history.version)));
        }
        if history.deeds.len() > MOST_DEEDS {
            return Err(wrong(format!("{} deeds; at most {MOST_DEEDS}", history.deeds.len())));
        }
        Ok(history)
    }

    /// Write it down whole.
    ///
    /// # Errors
    /// If it can't be; then nothing may be done on its word.
    pub fn save(&self, host: &dyn Host) -> Result<(), HistoryError> {
        let directory = parent(HISTORY_PATH);
        if host.stat(directory)?.is_none() {
            make_parents(host, directory)?;
            host.make_directory(directory, Attributes::root(0o700))?;
        }
        let text = serde_json::to_vec(self)
            .map_err(|error| HistoryError::Format { reason: error.to_string() })?;
        Ok(host.write(HISTORY_PATH, &text, Attributes::root(0o600))?)
    }

    /// An action begins; answers its number. Write the history down before it is done.
    ///
    /// # Errors
    /// If there is no room: the window is full of deeds.
    pub fn begin(
        &mut self,
        action: &Action,
        at: &Moment,
        at_unix_ms: u64,
    ) -> Result<u64, HistoryError> {
        while self.deeds.len() >= MOST_DEEDS {
            if at.since(&self.deeds[0].at) <= WINDOW {
                return Err(HistoryError::Full);
            }
            self.deeds.remove(0);
        }
        let number = self.deeds.last().map_or(1, |last| last.number + 1);
        let mut action = action.clone();
        for text in [&mut action.reason, &mut action.what, &mut action.subject] {
            cut(text);
        }
        self.deeds.push(Deed { number, at: at.clone(), at_unix_ms, action, end: End::Begun });
        Ok(number)
    }

    /// An action came out.
    pub fn end(&mut self, number: u64, end: End) {
        let Some(deed) = self.deeds.iter_mut().find(|deed| deed.number == number) else { return };
        let mut end = end;
        if let End::Failed { why } = &mut end {
            cut(why);
        }
        let key = format!("{} {}", deed.action.remedy.as_str(), end.word());
        deed.end = end;
        *self.counts.entry(key).or_default() += 1;
    }

    /// The deeds of the last hour on one thing of a kind, oldest first.
    pub fn on<'a>(
        &'a self,
        kind: Kind,
        subject: &'a str,
        now: &'a Moment,
    ) -> impl Iterator<Item = &'a Deed> {
        self.of(kind, now).filter(move |deed| deed.action.subject == subject)
    }

    /// The deeds of the last hour on things of a kind, oldest first.
    pub fn of<'a>(&'a self, kind: Kind, now: &'a Moment) -> impl Iterator<Item = &'a Deed> {
        self.deeds
            .iter()
            .filter(move |deed| deed.action.remedy.kind() == kind && now.since(&deed.at) <= WINDOW)
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        heal::Remedy,
        host::fake::{Accident, FakeHost},
    };

    fn moment(boot: &str, seconds: u64) -> Moment {
        Moment { boot: boot.to_owned(), since_boot_ms: seconds * 1000 }
    }

    fn action(subject: &str) -> Action {
        Action {
            remedy: Remedy::SetSysctl,
            subject: subject.to_owned(),
            reason: "it is 0".to_owned(),
            what: "set it".to_owned(),
            origin: None,
        }
    }

    #[test]
    fn what_an_earlier_boot_did_is_as_young_as_this_boot() {
        for (now, earlier, seconds) in [
            (moment("a", 100), moment("a", 40), 60),
            (moment("a", 40), moment("a", 100), 0),
            (moment("b", 40), moment("a", 100_000), 40),
        ] {
            assert_eq!(now.since(&earlier), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn it_comes_back_as_it_was_written_and_nonsense_is_refused() {
        let host = FakeHost::debian();
        let mut history = History::load(&host).unwrap();
        assert_eq!(history.deeds, []);
        let number = history.begin(&action("s"), &moment("a", 1), 7).unwrap();
        history.save(&host).unwrap();
        history.end(number, End::Failed { why: "x".repeat(9000) });
        history.save(&host).unwrap();
        let back = History::load(&host).unwrap();
        assert_eq!(back, history);
        assert_eq!(back.counts["set-sysctl failed"], 1);
        for (text, part) in [
            ("", "EOF"),
            ("{\"version\":9,\"deeds\":[]}", "version 9"),
            ("{\"version\":1,\"deeds\":[],\"x\":1}", "unknown field"),
        ] {
            host.plant(HISTORY_PATH, text);
            let error = History::load(&host).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(error.hint().unwrap().contains("remove"));
        }
    }

    #[test]
    fn a_history_that_cant_be_written_says_so() {
        let host = FakeHost::debian();
        let history = History::load(&host).unwrap();
        let next = host.calls().len();
        host.plan_accident(next, Accident::Fail);
        assert!(history.save(&host).is_err());
    }

    #[test]
    fn a_full_history_forgets_what_no_limit_counts_and_nothing_else() {
        let mut history = History::default();
        for second in 0..1024 {
            history.begin(&action("s"), &moment("a", second), 0).unwrap();
        }
        let next = |history: &mut History, now| history.begin(&action("s"), &moment("a", now), 0);
        assert!(matches!(next(&mut history, 2000), Err(HistoryError::Full)));
        assert_eq!(next(&mut history, 3602).unwrap(), 1025);
        assert_eq!(history.deeds.len(), 1024);
        assert_eq!(history.deeds[0].number, 2);
    }
}
