//! `kdc-agent heal`, for people.

use super::{Deed, Held, Report, Watched};
use crate::columns::aligned;

/// A report as a table: what is not as wanted first, then what is held back, then what was done.
#[must_use]
pub fn render(report: &Report, all: bool) -> String {
    let mut lines = Vec::new();
    let switched = match &report.off {
        Some(by) => format!("; repairs are switched off: {by}"),
        None => String::new(),
    };
    lines.push(format!("self-healing: {}{switched}", report.mode.as_str()));
    if let Some(why) = &report.skipped {
        lines.push(format!("nothing was looked at: {why}"));
    }
    let states = report.states();
    let count = |word| states.get(word).copied().unwrap_or_default();
    lines.push(format!(
        "watched: {} ({} as wanted, {} warn, {} fail, {} could not be looked at)",
        report.findings.len(),
        count("ok"),
        count("warn"),
        count("fail"),
        count("unknown")
    ));
    let shown: Vec<&Watched> =
        report.findings.iter().filter(|one| all || one.state.word() != "ok").collect();
    section(&mut lines, "", findings(&shown, report.at_unix_ms));
    section(&mut lines, "held back", report.held.iter().map(held).collect());
    section(
        &mut lines,
        "to be done at the next look",
        report
            .act
            .iter()
            .map(|action| {
                vec![action.remedy.as_str().to_owned(), action.subject.clone(), action.what.clone()]
            })
            .collect(),
    );
    section(
        &mut lines,
        "done",
        report.deeds.iter().rev().map(|one| deed(one, report.at_unix_ms)).collect(),
    );
    lines.join("\n")
}

fn section(lines: &mut Vec<String>, title: &str, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    lines.push(String::new());
    if !title.is_empty() {
        lines.push(format!("{title}:"));
    }
    lines.extend(aligned(&rows));
}

fn findings(shown: &[&Watched], now_unix_ms: u64) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for one in shown {
        let since = one.since_unix_ms.filter(|_| one.state.word() != "ok");
        let since =
            since.map_or(String::new(), |since| format!("since {}", ago(now_unix_ms, since)));
        let mut text = one.text.clone();
        if let (Some(wanted), Some(found)) = (&one.wanted, &one.found) {
            text = format!("{text} (wanted: {wanted}; found: {found})");
        }
        if let Some(hint) = &one.hint {
            text = format!("{text}; {hint}");
        }
        rows.push(vec![one.state.word().to_owned(), one.subject.clone(), since, text]);
    }
    rows
}

fn held(one: &Held) -> Vec<String> {
    let action = &one.action;
    vec![action.remedy.as_str().to_owned(), action.subject.clone(), one.why.in_words()]
}

fn deed(one: &Deed, now_unix_ms: u64) -> Vec<String> {
    let why = match &one.end {
        super::End::Failed { why } => why.clone(),
        _ => one.action.reason.clone(),
    };
    let when = format!("{} ago", ago(now_unix_ms, one.at_unix_ms));
    let action = &one.action;
    vec![
        when,
        one.end.word().to_owned(),
        action.remedy.as_str().to_owned(),
        action.subject.clone(),
        why,
    ]
}

/// How long it is from then to now, in one unit.
fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    let seconds = now_unix_ms.saturating_sub(then_unix_ms) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heal::{Action, Kind, Mode, Remedy, State, Why};

    #[test]
    fn what_is_wrong_and_what_is_held_back_stands_first_with_its_reason() {
        let action = Action {
            remedy: Remedy::SetSysctl,
            subject: "sysctl a".to_owned(),
            reason: "a is 0 and not 1".to_owned(),
            what: "set a = 1".to_owned(),
            origin: None,
        };
        let mut wrong = Watched::new(Kind::Sysctl, "sysctl a", State::Fail, "a is 0 and not 1")
            .with_difference("1", "0")
            .with_remedy(action.clone());
        wrong.since_unix_ms = Some(40_000);
        let report = Report {
            at_unix_ms: 100_000,
            mode: Mode::Report,
            off: Some("the file is there".to_owned()),
            skipped: None,
            findings: vec![wrong, Watched::new(Kind::File, "file b", State::Ok, "as wanted")],
            act: Vec::new(),
            held: vec![Held { action, why: Why::NotAllowed { mode: Mode::Report } }],
            deeds: Vec::new(),
            counts: [].into(),
            unseen: 0,
            interval_secs: 60,
        };
        assert_eq!(
            render(&report, false),
            "self-healing: report; repairs are switched off: the file is there\n\
             watched: 2 (1 as wanted, 0 warn, 1 fail, 0 could not be looked at)\n\
             \n\
             fail  sysctl a  since 60 s  a is 0 and not 1 (wanted: 1; found: 0)\n\
             \n\
             held back:\n\
             set-sysctl  sysctl a  the configuration says `report` for it"
        );
        assert!(render(&report, true).contains("ok    file b"));
    }
}
