//! Services that a cluster's node lives by: whether they run, and which may be started again.
//!
//! | systemd says | told | mended |
//! |---|---|---|
//! | runs | ok; a warning where it was restarted three times and the last was not ten minutes ago | no |
//! | failed | fails | where kdc's receipt says that it should run: [`Remedy::RestartService`] |
//! | waits to be restarted by systemd itself | a warning, fails from the third time on | no |
//! | stopped, however it ended then | a warning: somebody stopped it, and knows why | never |
//! | masked, disabled | a warning, as above | never |
//! | being started or stopped | ok, it is on its way | no |
//!
//! Starting is `systemctl start`, which does nothing to a unit that runs by then. Nothing here stops one.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    facts::{Known, Look},
    heal::{Action, Kind, Remedy, State, Watched},
    host::{Host, HostError, Program},
    journal,
    run::{self, RUNS_DIR, Standing, standing},
    step::Step,
};

const KIND: Kind = Kind::Service;

/// Looked at where they are installed, whoever did that.
const KNOWN: &[&str] = &[
    "containerd.service",
    "k3s-agent.service",
    "k3s.service",
    "kdc-agent.service",
    "kdc-control.service",
    "kdc-gpu.service",
    "kubelet.service",
    "rke2-agent.service",
    "rke2-server.service",
];

/// Most units that are asked about; more than a receipt holds.
const MOST_UNITS: usize = 64;

/// What systemd is asked for.
const PROPERTIES: &str = "Id,LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,Type,RemainAfterExit,\
                          ConditionResult,ActiveEnterTimestampMonotonic,ActiveExitTimestampMonotonic,\
                          ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic,ExecMainStatus";

/// Restarts that are a loop, where the last was not longer ago than that.
const LOOP: u64 = 3;
const LOOP_WITHIN: Duration = Duration::from_secs(600);

/// A unit, as systemd tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Name with suffix.
    pub unit: String,
    /// `loaded`, `not-found`, `masked`.
    pub load: String,
    /// `enabled`, `disabled`, `static`.
    pub file: String,
    /// `active`, `failed`, `inactive`, `activating`.
    pub active: String,
    /// `running`, `auto-restart`, `dead`.
    pub sub: String,
    /// `success`, `exit-code`, `start-limit-hit`.
    pub result: String,
    /// How often systemd restarted it by itself.
    pub restarts: u64,
    /// It does its work and ends.
    pub one_shot: bool,
    /// Its conditions (`ConditionPathExists=`) were met.
    pub conditions_met: bool,
    /// When it began to run, in microseconds since boot.
    pub active_since_us: u64,
    /// What its program ended with.
    pub status: i64,
    /// It was being stopped when its program ended.
    pub stopped: bool,
    /// Kdc's receipt says that it should run.
    pub owned: bool,
}

/// Units that kdc started and that should run: those that a step of a run in force has set going. One
/// that ran before is not kdc's.
pub(super) fn owned(look: &Look) -> Known<BTreeSet<String>> {
    let units = || -> Result<BTreeSet<String>, run::RunError> {
        let runs = look.path(RUNS_DIR);
        let mut units = BTreeSet::new();
        for summary in run::in_force(&runs)? {
            let folder = runs.join(&summary.run);
            let reading = journal::load(&folder)?;
            for planned in run::load_plan(&folder)?.steps {
                let done = matches!(standing(&reading.records, &planned.id), Standing::Done(_));
                if let Step::SetUnitState { unit, active: Some(active), .. } = planned.step
                    && done
                {
                    // The newest run has the last word.
                    if active {
                        units.insert(unit)
                    } else {
                        units.remove(&unit)
                    };
                }
            }
        }
        Ok(units)
    };
    units().map_or_else(|error| Known::Unknown(error.to_string()), Known::Known)
}

/// Ask systemd about the known units and those of the receipt.
///
/// # Errors
/// When systemd gives no answer.
pub fn read(host: &dyn Host, owned: &BTreeSet<String>) -> Result<Vec<Service>, HostError> {
    let known = KNOWN.iter().map(|unit| (*unit).to_owned());
    let units: BTreeSet<String> = known.chain(owned.iter().cloned()).take(MOST_UNITS).collect();
    let program = Program::new("systemctl")
        .args(["show", "--no-pager", "-p", PROPERTIES, "--"])
        .args(units)
        .within_secs(30);
    let text = host.run_checked(&program)?.text();
    Ok(parse(&text, owned))
}

/// What `systemctl show` says of several units, a paragraph each.
fn parse(text: &str, owned: &BTreeSet<String>) -> Vec<Service> {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    let services = paragraphs.map(|paragraph| {
        let value = |name: &str| {
            let line =
                paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        let number = |name: &str| value(name).parse::<u64>().unwrap_or(0);
        let unit = value("Id");
        let result = value("Result");
        // The unit left `active` while its program still ran: not the program's own end came first.
        let left = number("ActiveExitTimestampMonotonic");
        let begun = number("ExecMainStartTimestampMonotonic");
        let ended = number("ExecMainExitTimestampMonotonic");
        // Of those systemd's own stops (watchdog, time limit) are no wish of anybody's.
        let own_end = matches!(result.as_str(), "exit-code" | "signal" | "core-dump");
        Service {
            stopped: own_end && begun <= left && left < ended,
            owned: owned.contains(&unit),
            load: value("LoadState"),
            file: value("UnitFileState"),
            active: value("ActiveState"),
            sub: value("SubState"),
            result,
            restarts: number("NRestarts"),
            one_shot: value("Type") == "oneshot",
            conditions_met: value("ConditionResult") != "no",
            active_since_us: number("ActiveEnterTimestampMonotonic"),
            status: value("ExecMainStatus").parse().unwrap_or(0),
            unit,
        }
    });
    // One that nobody installed and nobody promised is none.
    services.filter(|service| service.owned || service.load != "not-found").collect()
}

/// What is to be said about services, that long after boot.
#[must_use]
pub fn judge(services: &[Service], up: Duration) -> Vec<Watched> {
    services.iter().filter_map(|service| judge_one(service, up)).collect()
}

fn judge_one(service: &Service, up: Duration) -> Option<Watched> {
    let Service { unit, .. } = service;
    let finding = |state, text: String| Watched::new(KIND, subject(unit), state, text);
    let log = format!("see `systemctl status {unit}` and `journalctl -u {unit}`");
    Some(match service.load.as_str() {
        "masked" => finding(State::Warn, "somebody masked it".to_owned())
            .with_hint(format!("it is left as it is; `systemctl unmask {unit}` lets it run again")),
        "not-found" => finding(State::Fail, "its unit file is gone".to_owned())
            .with_hint("run `kdc-install apply` again: it puts the file back"),
        "loaded" => match service.active.as_str() {
            "active" | "reloading" => judge_running(service, up, log),
            "failed" if service.stopped => {
                let text = format!("somebody stopped it, and it ended badly: {}", ended(service));
                finding(State::Warn, text).with_hint(left_as_it_is(unit))
            }
            "failed" => judge_failed(service).with_hint(log),
            "activating" if service.sub == "auto-restart" => {
                let state = if service.restarts >= LOOP { State::Fail } else { State::Warn };
                let text = format!(
                    "it ended ({}) and systemd restarts it, {} times so far",
                    ended(service),
                    service.restarts
                );
                finding(state, text).with_hint(log)
            }
            "activating" | "deactivating" => {
                finding(State::Ok, format!("it is {}", service.active))
            }
            _ => return judge_stopped(service),
        },
        other => finding(State::Fail, format!("systemd can't read its unit file ({other})"))
            .with_hint(log),
    })
}

fn subject(unit: &str) -> String {
    format!("service {unit}")
}

fn left_as_it_is(unit: &str) -> String {
    format!("it is left as it is; `systemctl start {unit}` starts it")
}

fn judge_running(service: &Service, up: Duration, log: String) -> Watched {
    let since = up.saturating_sub(Duration::from_micros(service.active_since_us));
    let often = service.restarts >= LOOP && since < LOOP_WITHIN;
    let finding = |state, text| Watched::new(KIND, subject(&service.unit), state, text);
    if !often {
        return finding(State::Ok, "it runs".to_owned());
    }
    let (restarts, ago) = (service.restarts, since.as_secs());
    let text = format!("it runs, after {restarts} restarts, the last {ago} seconds ago");
    finding(State::Warn, text).with_hint(log)
}

fn judge_failed(service: &Service) -> Watched {
    let Service { unit, owned, .. } = service;
    let text = format!("it failed: {}", ended(service));
    let finding = Watched::new(KIND, subject(unit), State::Fail, text.clone());
    let disabled = matches!(service.file.as_str(), "disabled" | "masked");
    // What kdc never started, or somebody has taken from boot since, is not kdc's to start.
    if !owned || disabled {
        return finding;
    }
    finding.with_remedy(Action {
        remedy: Remedy::RestartService,
        subject: subject(unit),
        reason: text,
        what: format!("start {unit}"),
        origin: None,
    })
}

/// Not running and not failed: that was somebody's wish, or the unit's own.
fn judge_stopped(service: &Service) -> Option<Watched> {
    let Service { unit, .. } = service;
    let finding = |text: &str, hint: String| {
        Some(Watched::new(KIND, subject(unit), State::Warn, text).with_hint(hint))
    };
    if service.one_shot {
        return Some(Watched::new(KIND, subject(unit), State::Ok, "it did its work"));
    }
    if !service.conditions_met {
        let hint = format!("`systemctl status {unit}` names the condition");
        return finding("it did not start, since a condition of its unit is not met", hint);
    }
    // One that kdc did not start, and that does not start at boot, is a matter of taste.
    let wanted = service.owned || service.file == "enabled";
    if !wanted {
        return None;
    }
    finding("somebody stopped it, or it ended by itself and well", left_as_it_is(unit))
}

/// How the last run ended.
fn ended(service: &Service) -> String {
    match service.result.as_str() {
        "start-limit-hit" => {
            "it ended too often within a short time, and systemd gave up".to_owned()
        }
        "exit-code" => format!("exit code {}", service.status),
        "signal" | "core-dump" => format!("killed by signal {}", service.status),
        "oom-kill" => "the kernel killed it for lack of memory".to_owned(),
        "timeout" => "it did not start or stop in time".to_owned(),
        "watchdog" => "it hung".to_owned(),
        "success" => "well".to_owned(),
        other => other.chars().filter(|letter| !letter.is_control()).take(64).collect(),
    }
}

/// Start a unit that has failed. Looks again right before: one that runs by now, or that somebody
/// stopped, masked or disabled meanwhile, is left as it is.
///
/// # Errors
/// When systemd does not start it.
pub fn start_again(host: &dyn Host, unit: &str) -> Result<bool, HostError> {
    let owned = BTreeSet::from([unit.to_owned()]);
    let now = read(host, &owned)?.into_iter().find(|service| service.unit == unit);
    let Some(now) = now.filter(judge_failed_now) else { return Ok(false) };
    let systemctl = |verb: &str| {
        // It is begun and not waited for: kubelet may take minutes.
        let program = Program::new("systemctl").args(["--no-ask-password", verb]);
        let program = if verb == "start" { program.arg("--no-block") } else { program };
        host.run_checked(&program.args(["--", unit]).within_secs(60)).map(|_| ())
    };
    if now.result == "start-limit-hit" {
        systemctl("reset-failed")?;
    }
    systemctl("start")?;
    Ok(true)
}

fn judge_failed_now(service: &Service) -> bool {
    service.load == "loaded"
        && service.active == "failed"
        && !service.stopped
        && !matches!(service.file.as_str(), "disabled" | "masked")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Duration = Duration::from_secs(100_000);

    fn service(unit: &str) -> Service {
        Service {
            unit: unit.to_owned(),
            load: "loaded".to_owned(),
            file: "enabled".to_owned(),
            active: "active".to_owned(),
            sub: "running".to_owned(),
            result: "success".to_owned(),
            conditions_met: true,
            active_since_us: 1_000_000,
            owned: true,
            ..Service::default()
        }
    }

    /// State, text, and whether it would be started.
    fn judged(change: impl FnOnce(&mut Service)) -> Option<(&'static str, String, bool)> {
        let mut service = service("kubelet.service");
        change(&mut service);
        let told = judge(&[service], UP).pop()?;
        if let Some(remedy) = &told.remedy {
            assert_eq!((remedy.remedy, &remedy.subject), (Remedy::RestartService, &told.subject));
        }
        assert!(told.state == State::Ok || told.hint.is_some(), "{told:?}");
        Some((told.state.word(), told.text, told.remedy.is_some()))
    }

    fn failed(service: &mut Service) {
        (service.active, service.sub) = ("failed".to_owned(), "failed".to_owned());
        (service.result, service.status) = ("exit-code".to_owned(), 7);
    }

    #[test]
    fn only_one_that_failed_and_is_kdcs_is_started_again() {
        let told = judged(failed).unwrap();
        assert_eq!(told, ("fail", "it failed: exit code 7".to_owned(), true));
        let foreign = judged(|service| {
            failed(service);
            service.owned = false;
        });
        assert_eq!(foreign.unwrap(), ("fail", "it failed: exit code 7".to_owned(), false));
        let disabled = judged(|service| {
            failed(service);
            service.file = "disabled".to_owned();
        });
        assert!(!disabled.unwrap().2, "somebody took it from boot");
        let gave_up = judged(|service| {
            failed(service);
            service.result = "start-limit-hit".to_owned();
        });
        assert!(gave_up.unwrap().1.contains("systemd gave up"));
    }

    #[test]
    fn one_that_somebody_stopped_or_masked_is_told_and_left() {
        let stopped = |service: &mut Service| {
            (service.active, service.sub) = ("inactive".to_owned(), "dead".to_owned());
        };
        let badly = judged(|service| {
            failed(service);
            service.stopped = true;
        });
        let badly = badly.unwrap();
        assert!(
            badly.0 == "warn" && badly.1.contains("somebody stopped it") && !badly.2,
            "{badly:?}"
        );
        let told = judged(stopped).unwrap();
        assert!(told.0 == "warn" && told.1.contains("somebody stopped it") && !told.2, "{told:?}");
        let masked = judged(|service| service.load = "masked".to_owned()).unwrap();
        assert_eq!(masked, ("warn", "somebody masked it".to_owned(), false));
        let foreign = judged(|service| {
            stopped(service);
            (service.owned, service.file) = (false, "disabled".to_owned());
        });
        assert_eq!(foreign, None, "not installed to run");
        let condition = judged(|service| {
            stopped(service);
            service.conditions_met = false;
        });
        assert!(condition.unwrap().1.contains("condition"));
        let work = judged(|service| {
            stopped(service);
            service.one_shot = true;
        });
        assert_eq!(work.unwrap().0, "ok");
        let gone = judged(|service| service.load = "not-found".to_owned()).unwrap();
        assert!(gone.0 == "fail" && !gone.2, "{gone:?}");
    }

    #[test]
    fn a_loop_of_restarts_is_told_and_left_to_systemd() {
        let waits = |restarts| {
            judged(move |service| {
                (service.active, service.sub) =
                    ("activating".to_owned(), "auto-restart".to_owned());
                service.restarts = restarts;
            })
            .unwrap()
        };
        assert_eq!((waits(1).0, waits(3).0), ("warn", "fail"));
        assert!(!waits(9).2);
        let runs = |restarts, since: u64| {
            judged(move |service| {
                service.restarts = restarts;
                service.active_since_us = (UP.as_secs() - since) * 1_000_000;
            })
            .unwrap()
        };
        assert_eq!((runs(2, 10).0, runs(3, 10).0, runs(3, 601).0), ("ok", "warn", "ok"));
        assert_eq!(judged(|service| service.active = "activating".to_owned()).unwrap().0, "ok");
    }

    #[test]
    fn whether_a_stop_came_before_the_end_is_seen_from_the_order_of_times() {
        let none = BTreeSet::new();
        for (result, begun, left, ended, stopped) in [
            ("exit-code", 10, 20, 21, true),
            // It ended by itself, and then the unit left `active`.
            ("exit-code", 10, 20, 20, false),
            ("exit-code", 10, 21, 20, false),
            // It never became active this time.
            ("exit-code", 30, 20, 31, false),
            ("exit-code", 30, 0, 31, false),
            // systemd stopped it for a reason of its own.
            ("watchdog", 10, 20, 21, false),
            ("start-limit-hit", 10, 20, 21, false),
        ] {
            let text = format!(
                "Id=x.service\nLoadState=loaded\nActiveState=failed\nResult={result}\n\
                 ExecMainStartTimestampMonotonic={begun}\nActiveExitTimestampMonotonic={left}\n\
                 ExecMainExitTimestampMonotonic={ended}\n"
            );
            assert_eq!(parse(&text, &none)[0].stopped, stopped, "{result} {begun} {left} {ended}");
        }
    }

    #[test]
    fn what_systemctl_shows_is_read_a_paragraph_a_unit() {
        let text = "Type=notify\nId=containerd.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\
            NRestarts=4\nActiveEnterTimestampMonotonic=123\nUnitFileState=enabled\nConditionResult=yes\n\n\
            Id=k3s.service\nLoadState=not-found\nActiveState=inactive\n\nId=mine.service\nLoadState=not-found\n\
            ActiveState=inactive\nConditionResult=no\n";
        let services = parse(text, &BTreeSet::from(["mine.service".to_owned()]));
        let units: Vec<&str> = services.iter().map(|service| service.unit.as_str()).collect();
        assert_eq!(units, ["containerd.service", "mine.service"]);
        assert_eq!(
            (services[0].restarts, services[0].active_since_us, services[0].owned),
            (4, 123, false)
        );
        assert!(services[1].owned && !services[1].conditions_met);
    }
}
