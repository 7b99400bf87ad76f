//! What became of checking logs, for people.

use kdc_agent::audit::export::Verdict;

use crate::show::{Complaint, Exit, table};

/// Problems of one log that are listed below an error; the table above it has them all.
const MOST_CAUSES: usize = 8;

/// A table of the logs; below it what is wrong with each, and what is worth knowing.
pub(super) fn render(verdicts: &[Verdict]) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |one| one.to_string());
    let row = |verdict: &Verdict| {
        let findings = &verdict.findings;
        let problems = findings.problems.len() as u64 + findings.untold;
        let state = match problems {
            0 => "good".to_owned(),
            1 => findings.problems.first().map_or("bad", |one| one.word()).to_owned(),
            more => format!("{more} problems"),
        };
        vec![
            verdict.node.clone(),
            verdict.key.clone(),
            findings.lines.to_string(),
            number(findings.first),
            number(findings.last),
            state,
        ]
    };
    let rows: Vec<Vec<String>> = verdicts.iter().map(row).collect();
    let mut text = table::render(&["NODE", "KEY", "LINES", "FROM", "TO", "STATE"], &rows);
    for Verdict { node, findings, held_against, .. } in verdicts {
        for problem in &findings.problems {
            text.push_str(&format!("{node}: {}: {problem}\n", problem.word()));
        }
        if findings.untold > 0 {
            text.push_str(&format!("{node}: and {} problems more\n", findings.untold));
        }
        for remark in &findings.remarks {
            text.push_str(&format!("{node}: line {}: {}\n", remark.seq, remark.words));
        }
        if !held_against.is_empty() {
            text.push_str(&format!("{node}: held against {}\n", held_against.join(", ")));
        }
    }
    text
}

/// The refusal, where a log is not what was written.
pub(super) fn complaint(verdicts: &[Verdict]) -> Option<Complaint> {
    let bad: Vec<&Verdict> =
        verdicts.iter().filter(|verdict| !verdict.findings.is_good()).collect();
    if bad.is_empty() {
        return None;
    }
    let text = format!("{} of {} audit log(s) are not what was written", bad.len(), verdicts.len());
    let mut complaint = Complaint::new("KDC-035", Exit::Refused, text).hint(
        "keep nodes and exports as they are, and compare with an older export; docs/audit.md says what each finding means",
    );
    for Verdict { node, findings, .. } in bad {
        let problems = findings.problems.iter().take(MOST_CAUSES);
        complaint.causes.extend(problems.map(|one| format!("{node}: {}: {one}", one.word())));
    }
    Some(complaint)
}

#[cfg(test)]
mod tests {
    use kdc_agent::audit::{
        Entry, Log, Moment, Who, export,
        key::{NamedKey, parse_keys},
    };

    use super::*;

    fn verdicts(harm: impl Fn(&str) -> String) -> Vec<Verdict> {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::at(&folder.path().join("audit"));
        for number in 1..4 {
            let (outcome, detail) = ("done".to_owned(), String::new());
            let entry = Entry::HealEnded { number, outcome, detail };
            let moment = Moment { at_unix_ms: number, boot: String::new() };
            log.append(&entry, &Who::part("heal"), &moment).unwrap();
        }
        let path = log.folder().join("00000000000000000001.jsonl");
        fs_err::write(&path, harm(&fs_err::read_to_string(&path).unwrap())).unwrap();
        let file = export::of_log(&log, "w1", 9).unwrap();
        let key = export::parse(&file).unwrap()[0].title.key.clone();
        let keys: Vec<NamedKey> = parse_keys(&format!("w1 {key}")).unwrap();
        export::verify(&file, &keys, &mut |_, _| {}).unwrap()
    }

    #[test]
    fn a_good_log_is_one_row_and_no_refusal() {
        let good = verdicts(str::to_owned);
        let text = render(&good);
        assert!(text.contains("4      1     4   good"), "{text}");
        assert!(text.contains("w1: held against the node's own head"), "{text}");
        assert_eq!(complaint(&good), None);
    }

    #[test]
    fn what_is_wrong_with_a_log_is_named_and_ends_with_exit_3() {
        let bad = verdicts(|text| text.replacen("done", "gone", 1));
        assert!(render(&bad).contains("changed-line"), "{}", render(&bad));
        let complaint = complaint(&bad).unwrap();
        assert_eq!((&*complaint.code, complaint.exit), ("KDC-035", Exit::Refused));
        assert!(complaint.causes[0].starts_with("w1: changed-line: line 2"), "{complaint:?}");
    }
}
