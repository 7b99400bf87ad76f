//! Etcd: how large its database is against what it may be, and whether it says it is ill.
//!
//! Etcd refuses all writes once its file reaches the quota (`NOSPACE`), and the cluster stands still.
//! The file does not shrink by itself: what was deleted in it stays as free room until somebody
//! defragments it.

mod read;

use serde::{Deserialize, Serialize};

use super::{Thresholds, words};
use crate::{
    facts::{Known, Look},
    heal::{Kind, State, Watched},
};

/// What etcd allows itself where nothing else is said.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;

const KIND: Kind = Kind::Etcd;

/// Free room in the file that is worth a defragmentation: more than half of it, and that much.
const LOOSE_BYTES: u64 = 512 * 1024 * 1024;

/// Etcd asks its peers every 100 ms whether they live; a disk that needs that long for a write loses it the leader.
const SLOW_WRITE_SECS: f64 = 0.1;

/// Writes that are too few to say anything.
const FEW_WRITES: u64 = 1000;

/// Etcd on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    /// Its folder.
    pub data: String,
    /// What its file may grow to, by its flags.
    pub quota_bytes: u64,
    /// What its file has.
    pub file_bytes: Known<u64>,
    /// What its log of changes has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_bytes: Option<u64>,
    /// What it says of itself; nothing where it listens for that question nowhere on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Known<Asked>>,
}

/// What etcd says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// What its file has.
    pub total_bytes: u64,
    /// What of it is in use.
    pub used_bytes: Option<u64>,
    /// What it may grow to.
    pub quota_bytes: Option<u64>,
    /// Whether its cluster has a leader.
    pub has_leader: Option<bool>,
    /// Why it calls itself ill: `ALARM NOSPACE`.
    pub complaint: Option<String>,
    /// How long writes took.
    pub writes: Option<Writes>,
}

/// How long writes to the log of changes took to reach the disk, since etcd was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writes {
    /// How many there were.
    pub count: u64,
    /// Seconds, all of them together.
    pub sum_secs: f64,
    /// 99 of 100 took no longer than that.
    pub most_within_secs: Option<f64>,
}

impl Etcd {
    /// Look at etcd on a node; nothing where there is none.
    #[must_use]
    pub fn read(look: &Look) -> Option<Self> {
        read::read(look)
    }

    /// What the file may grow to.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.answer().and_then(|asked| asked.quota_bytes).unwrap_or(self.quota_bytes)
    }

    /// What the file has, as etcd says it, else as the disk does.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        let asked = self.answer().map(|asked| asked.total_bytes);
        asked.or_else(|| self.file_bytes.value().copied())
    }

    fn answer(&self) -> Option<&Asked> {
        self.asked.as_ref().and_then(Known::value)
    }
}

/// What is to be said about etcd.
#[must_use]
pub fn judge(etcd: &Etcd, thresholds: &Thresholds) -> Vec<Watched> {
    let mut findings = vec![judge_size(etcd, thresholds)];
    match &etcd.asked {
        None => {}
        Some(Known::Unknown(reason)) => {
            let hint = "see whether etcd runs: `crictl ps -a --name etcd`, then its log";
            findings.push(Watched::unknown(KIND, "etcd health", reason).with_hint(hint));
        }
        Some(Known::Known(asked)) => {
            findings.push(judge_health(asked));
            findings.extend(judge_writes(etcd, asked));
        }
    }
    findings
}

fn judge_size(etcd: &Etcd, thresholds: &Thresholds) -> Watched {
    let subject = format!("etcd database {}", etcd.data);
    let (Some(size), quota) = (etcd.size(), etcd.quota()) else {
        let reason = match &etcd.file_bytes {
            Known::Unknown(reason) => reason.clone(),
            Known::Known(_) => String::new(),
        };
        return Watched::unknown(KIND, subject, reason);
    };
    let percent =
        u64::try_from(u128::from(size) * 100 / u128::from(quota.max(1))).unwrap_or(u64::MAX);
    let used = etcd.answer().and_then(|asked| asked.used_bytes);
    let loose = used.map_or(0, |used| size.saturating_sub(used));
    let mut text = format!("{} of {} ({percent} %)", words::bytes(size), words::bytes(quota));
    if let Some(used) = used {
        text = format!("{text}, {} in use", words::bytes(used));
    }
    let state = match percent {
        percent if percent >= thresholds.etcd_fail_percent => State::Fail,
        percent if percent >= thresholds.etcd_warn_percent => State::Warn,
        _ if loose > size / 2 && loose > LOOSE_BYTES => State::Warn,
        _ => State::Ok,
    };
    let finding = Watched::new(KIND, subject, state.clone(), text);
    match state {
        State::Ok => finding,
        _ if loose > size / 4 => finding.with_hint(DEFRAGMENT),
        _ => finding.with_hint(
            "find what fills it (`kubectl get --raw /metrics | grep apiserver_storage_objects`), or raise \
             --quota-backend-bytes of every etcd, to 8 GiB at most",
        ),
    }
}

const DEFRAGMENT: &str = "`etcdctl defrag`, one member after the other, the leader last (it stands still \
                          meanwhile); after an alarm `etcdctl alarm disarm`";

fn judge_health(asked: &Asked) -> Watched {
    let finding = |state, text: String| Watched::new(KIND, "etcd health", state, text);
    match asked {
        Asked { complaint: Some(reason), .. } if reason.contains("NOSPACE") => {
            finding(State::Fail, format!("it refuses all writes: {reason}")).with_hint(DEFRAGMENT)
        }
        Asked { has_leader: Some(false), .. } => finding(
            State::Fail,
            "its cluster has no leader: nothing can be written".to_owned(),
        )
        .with_hint(
            "more than half of the control planes must run and reach each other on port 2380",
        ),
        Asked { complaint: Some(reason), .. } => {
            finding(State::Fail, format!("it calls itself ill: {reason}"))
                .with_hint("see etcd's log: `crictl logs $(crictl ps -q --name etcd)`")
        }
        _ => finding(State::Ok, "it has a leader and no alarm".to_owned()),
    }
}

fn judge_writes(etcd: &Etcd, asked: &Asked) -> Option<Watched> {
    let writes = asked.writes.as_ref().filter(|writes| writes.count >= FEW_WRITES)?;
    let (state, text) = match writes.most_within_secs {
        Some(within) => {
            let slow = within > SLOW_WRITE_SECS;
            let state = if slow { State::Warn } else { State::Ok };
            let millis = within * 1000.0;
            (state, format!("99 % of its writes reach the disk within {millis:.0} ms"))
        }
        None => (State::Warn, "many of its writes take more than eight seconds".to_owned()),
    };
    let finding = Watched::new(KIND, "etcd writes", state.clone(), text);
    let hint = format!("give {} a disk of its own, one that is fast when asked to sync", etcd.data);
    Some(if state == State::Ok { finding } else { finding.with_hint(hint) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    fn etcd(total: u64, used: u64) -> Etcd {
        let asked = Asked {
            total_bytes: total,
            used_bytes: Some(used),
            quota_bytes: None,
            has_leader: Some(true),
            complaint: None,
            writes: None,
        };
        Etcd {
            data: "/var/lib/etcd".to_owned(),
            quota_bytes: 2 * GIB,
            file_bytes: Known::Known(total),
            wal_bytes: None,
            asked: Some(Known::Known(asked)),
        }
    }

    fn judged(etcd: &Etcd) -> Vec<(&'static str, String, String)> {
        let told = judge(etcd, &Thresholds::default()).into_iter();
        told.map(|one| (one.state.word(), one.text, one.hint.unwrap_or_default())).collect()
    }

    #[test]
    fn a_database_is_judged_against_its_quota_and_by_the_room_that_is_loose_in_it() {
        let mib = |number: u64| number << 20;
        for (total, used, state, text, hint) in [
            (mib(100), mib(90), "ok", "100 MiB of 2.0 GiB (4 %), 90 MiB in use", ""),
            (mib(1638), mib(1600), "ok", "1.6 GiB of 2.0 GiB (79 %), 1.6 GiB in use", ""),
            (
                mib(1639),
                mib(1600),
                "warn",
                "1.6 GiB of 2.0 GiB (80 %), 1.6 GiB in use",
                "raise --quota",
            ),
            (
                mib(1946),
                mib(1900),
                "fail",
                "1.9 GiB of 2.0 GiB (95 %), 1.9 GiB in use",
                "raise --quota",
            ),
            (
                mib(1946),
                mib(100),
                "fail",
                "1.9 GiB of 2.0 GiB (95 %), 100 MiB in use",
                "etcdctl defrag",
            ),
            (
                mib(1100),
                mib(500),
                "warn",
                "1.1 GiB of 2.0 GiB (53 %), 500 MiB in use",
                "etcdctl defrag",
            ),
            (mib(800), mib(300), "ok", "800 MiB of 2.0 GiB (39 %), 300 MiB in use", ""),
        ] {
            let first = judged(&etcd(total, used)).swap_remove(0);
            assert_eq!((first.0, first.1.as_str()), (state, text));
            assert!(first.2.contains(hint) && first.2.is_empty() == hint.is_empty(), "{}", first.2);
        }
    }

    #[test]
    fn its_own_word_of_its_health_counts_alarms_first() {
        let with = |change: &dyn Fn(&mut Asked)| {
            let mut etcd = etcd(GIB / 10, GIB / 10);
            if let Some(Known::Known(asked)) = &mut etcd.asked {
                change(asked);
            }
            judged(&etcd).swap_remove(1)
        };
        assert_eq!(with(&|_| {}).0, "ok");
        let full = with(&|asked| asked.complaint = Some("ALARM NOSPACE".to_owned()));
        assert!(
            full.0 == "fail"
                && full.1.contains("refuses all writes")
                && full.2.contains("alarm disarm")
        );
        let alone = with(&|asked| asked.has_leader = Some(false));
        assert!(alone.0 == "fail" && alone.1.contains("no leader") && alone.2.contains("2380"));
        let ill = with(&|asked| asked.complaint = Some("ALARM CORRUPT".to_owned()));
        assert!(ill.0 == "fail" && ill.1.contains("CORRUPT"), "{ill:?}");
    }

    #[test]
    fn slow_writes_are_told_once_there_were_enough_of_them() {
        let with = |count, within| {
            let mut etcd = etcd(GIB / 10, GIB / 10);
            if let Some(Known::Known(asked)) = &mut etcd.asked {
                asked.writes = Some(Writes { count, sum_secs: 1.0, most_within_secs: within });
            }
            judged(&etcd).get(2).map(|one| (one.0, one.1.clone()))
        };
        assert_eq!(with(999, Some(8.0)), None);
        assert_eq!(
            with(1000, Some(0.008)).unwrap().1,
            "99 % of its writes reach the disk within 8 ms"
        );
        assert_eq!(with(1000, Some(0.128)).unwrap().0, "warn");
        assert_eq!(with(1000, None).unwrap().0, "warn");
    }

    #[test]
    fn what_could_not_be_asked_is_unknown_and_the_file_still_counts() {
        let mut silent = etcd(GIB, GIB);
        silent.asked = Some(Known::Unknown("connection refused".to_owned()));
        let told = judged(&silent);
        assert_eq!((told[0].0, told[1].0), ("ok", "unknown"));
        silent.file_bytes = Known::Unknown("permission denied".to_owned());
        assert_eq!(judged(&silent)[0].0, "unknown");
        silent.asked = None;
        assert_eq!(judged(&silent).len(), 1, "one that listens nowhere is not asked");
    }
}
