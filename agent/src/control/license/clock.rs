//! What the leader knows of the time besides its own clock.
//!
//! Other nodes' kubelets write heartbeats with their own clocks, and every node tells when its audit log was written last.
//! Of those the lower median counts, and only of two or more: a single node that lies, or whose battery died, neither
//! raises the floor nor confirms a jump.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::{
    facts::Look as Root,
    license::{
        Timestamp,
        clock::{Anchor, Look},
    },
};

/// Folders of the system in which something is written now and then.
const FOLDERS: &[&str] = &["/etc", "/var/lib", "/var/lib/dpkg", "/var/log", "/var/log/journal"];
/// When this program was made, where whoever built it says so.
const BUILT: Option<&str> = option_env!("SOURCE_DATE_EPOCH");
/// A word of the kernel's that is older proves nothing of now.
const KEPT_FOR: i64 = 1200;

/// A look at this machine's clocks.
#[must_use]
pub fn look(root: &Root, boot_id: &str) -> Look {
    let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec());
    let mut anchors = Vec::new();
    let built = BUILT.and_then(|text| text.parse().ok()).map(Timestamp::from_unix);
    anchors.extend(built.map(|at| (Anchor::Build, at)));
    let written = FOLDERS.iter().filter_map(|path| {
        let time = fs_err::metadata(root.path(path)).ok()?.modified().ok()?;
        Some(moment(time))
    });
    anchors.extend(written.max().map(|at| (Anchor::Files, at)));
    Look { wall: moment(SystemTime::now()), boottime, boot_id: boot_id.to_owned(), anchors }
}

fn moment(time: SystemTime) -> Timestamp {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// What other nodes' heartbeats say.
#[must_use]
pub fn of_others(beats: Vec<Timestamp>) -> Option<(Anchor, Timestamp)> {
    agreed(beats).map(|at| (Anchor::ApiServer, at))
}

/// When the nodes' audit logs were written last, by their heads: also of nodes that are silent now.
#[must_use]
pub fn of_audit_logs(written: Vec<Timestamp>) -> Option<(Anchor, Timestamp)> {
    agreed(written).map(|at| (Anchor::Audit, at))
}

/// The lower median of two or more.
fn agreed(mut moments: Vec<Timestamp>) -> Option<Timestamp> {
    if moments.len() < 2 {
        return None;
    }
    moments.sort_unstable();
    moments.get((moments.len() - 1) / 2).copied()
}

/// What the kernel of this machine said a short while ago, as its agent published it.
#[must_use]
pub fn of_time_servers(kept: Option<&str>, wall: Timestamp) -> Option<(Anchor, Timestamp)> {
    let at = kept.and_then(Timestamp::parse)?;
    (wall.since(at).abs() <= KEPT_FOR).then_some((Anchor::TimeServers, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::license::clock::{ClockRecord, Doubt, judge};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_800_000_000 + seconds)
    }

    #[test]
    fn one_node_that_lies_changes_nothing_and_two_that_agree_confirm() {
        assert_eq!(of_others(Vec::new()), None);
        assert_eq!(of_others(vec![at(9)]), None);
        for (beats, wanted) in [
            (vec![at(5), at(900_000_000)], at(5)),
            (vec![at(900_000_000), at(5), at(6)], at(6)),
            (vec![at(-900_000_000), at(5), at(6), at(7)], at(5)),
        ] {
            assert_eq!(of_others(beats.clone()), Some((Anchor::ApiServer, wanted)));
            assert_eq!(of_audit_logs(beats), Some((Anchor::Audit, wanted)));
        }
    }

    #[test]
    fn an_old_word_of_the_kernel_does_not_confirm_a_clock_that_jumped_since() {
        let word = at(0).to_string();
        assert!(of_time_servers(Some(&word), at(600)).is_some());
        assert!(of_time_servers(Some(&word), at(400 * 86_400)).is_none());
        assert!(
            of_time_servers(Some("yes"), at(0)).is_none() && of_time_servers(None, at(0)).is_none()
        );
    }

    #[test]
    fn a_leader_whose_clock_jumped_a_year_ahead_of_the_others_doubts_it() {
        let jumped = Look {
            wall: at(400 * 86_400),
            boottime: 1000,
            boot_id: "b".to_owned(),
            anchors: of_others(vec![at(10), at(12)]).into_iter().collect(),
        };
        let record =
            ClockRecord { floor: at(0), boot_id: "b".to_owned(), boottime: 990, ahead: None };
        let (reading, record) = judge(&record, &jumped);
        assert!(matches!(reading.doubt, Some(Doubt::Ahead { .. })), "{reading:?}");
        assert!(record.floor < at(86_400));
    }

    #[test]
    fn a_cluster_whose_clocks_are_set_back_knows_when_its_logs_were_written() {
        let hour = 3600;
        let set_back = Look {
            wall: at(-6 * hour),
            boottime: 60,
            boot_id: "b".to_owned(),
            anchors: of_audit_logs(vec![at(20 * hour), at(21 * hour)]).into_iter().collect(),
        };
        let record = ClockRecord { floor: at(0), ..ClockRecord::default() };
        let (reading, record) = judge(&record, &set_back);
        let Some(Doubt::Behind { because, .. }) = reading.doubt else { panic!("{reading:?}") };
        assert_eq!((because.as_str(), record.floor), ("the audit log was written", at(20 * hour)));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = look(&Root::machine(), "b");
        assert!(seen.wall > at(-800_000_000) && seen.boottime > 0);
    }
}
