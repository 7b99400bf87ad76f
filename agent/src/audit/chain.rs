//! Walking a chain of lines: pure, and with a name for everything that can be wrong with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::problem::Problem;
use super::{
    Head,
    key::PublicKey,
    line::{Line, NO_SUM, NotALine, parse, stated_sum},
};

/// Problems that are told one by one; further ones are counted.
const MOST_TOLD: usize = 200;

/// Something worth telling that is as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// The line that says so.
    pub seq: u64,
    /// Its kind: `log.recovered`, `log.damaged`, `log.dropped`, `log.key`.
    pub kind: String,
    /// In words.
    pub words: String,
}

/// What a walk came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// Lines that are whole.
    pub lines: u64,
    /// Number of the first.
    pub first: Option<u64>,
    /// Number of the last.
    pub last: Option<u64>,
    /// Digest of the last.
    pub head: Option<String>,
    /// Which log, as it says itself.
    pub chain: Option<String>,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
    /// Further problems that are not told.
    pub untold: u64,
    /// What is worth knowing.
    pub remarks: Vec<Remark>,
}

impl Findings {
    /// All is as it was written.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// Note a problem.
    pub fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MOST_TOLD {
            self.problems.push(problem);
        } else {
            self.untold += 1;
        }
    }
}

/// A walk over lines, in order.
#[derive(Debug, Default)]
pub struct Walk {
    findings: Findings,
    /// The line that the next one has to follow.
    before: Option<(u64, String)>,
    /// `prev` of the first line.
    first_prev: Option<String>,
    /// What went for room: last line and its digest.
    dropped: BTreeMap<u64, String>,
    /// The key in force, as the log says.
    key: Option<PublicKey>,
    /// Lines looked at.
    looked: u64,
    /// Digests of lines that are asked for.
    wanted: BTreeMap<u64, Option<String>>,
}

impl Walk {
    /// One that remembers the digests of these lines too.
    #[must_use]
    pub fn remembering(seqs: impl IntoIterator<Item = u64>) -> Self {
        Self { wanted: seqs.into_iter().map(|seq| (seq, None)).collect(), ..Self::default() }
    }

    /// The last whole line: number and digest.
    #[must_use]
    pub fn last(&self) -> Option<&(u64, String)> {
        self.before.as_ref()
    }

    /// The key in force at this point.
    #[must_use]
    pub fn key(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Take in bytes that begin with a line; answers how many belong to lines with an end.
    pub fn feed(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&Line)) -> usize {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line(&rest[..end], on_line);
            rest = &rest[end + 1..];
        }
        bytes.len() - rest.len()
    }

    fn line(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&Line)) {
        self.looked += 1;
        let place = self.looked;
        let expected = self.before.as_ref().map(|(seq, _)| seq + 1);
        let (line, sum) = match parse(bytes) {
            Ok(read) => read,
            Err(NotALine::Changed(why) | NotALine::Unreadable(why)) => {
                self.findings.problem(Problem::ChangedLine { line: place, seq: expected, why });
                // What follows was written after the line as it was, whose digest it may still state.
                if let Some(seq) = expected {
                    self.before = Some((seq, stated_sum(bytes).unwrap_or_default()));
                }
                return;
            }
        };
        self.link(&line);
        self.own(&line);
        self.findings.lines += 1;
        self.findings.first.get_or_insert(line.seq);
        self.findings.last = Some(line.seq);
        self.findings.head = Some(sum.clone());
        if let Some(wanted) = self.wanted.get_mut(&line.seq) {
            *wanted = Some(sum.clone());
        }
        self.before = Some((line.seq, sum));
        on_line(&line);
    }

    /// Does it follow from the line before?
    fn link(&mut self, line: &Line) {
        let Some((seq, sum)) = &self.before else {
            if line.seq == 1 && line.prev != NO_SUM {
                self.findings.problem(Problem::Rewritten { seq: 1 });
            }
            self.first_prev.get_or_insert(line.prev.clone());
            return;
        };
        let expected = seq + 1;
        if line.seq > expected {
            let problem = Problem::MissingLines { after: *seq, next: line.seq };
            self.findings.problem(problem);
        } else if line.seq < expected {
            self.findings.problem(Problem::OutOfOrder { seq: line.seq, expected });
        } else if line.prev != *sum && !sum.is_empty() {
            self.findings.problem(Problem::Rewritten { seq: line.seq });
        }
    }

    /// What the log says of itself.
    fn own(&mut self, line: &Line) {
        let text = |name: &str| line.body[name].as_str().unwrap_or_default().to_owned();
        let mut remark = |words: String| {
            if self.findings.remarks.len() < MOST_TOLD {
                let (seq, kind) = (line.seq, line.kind.clone());
                self.findings.remarks.push(Remark { seq, kind, words });
            }
        };
        match line.kind.as_str() {
            "log.opened" => {
                self.key = text("key").parse().ok();
                self.findings.chain = Some(text("chain"));
            }
            "log.key" => {
                remark(format!("the key is another from here on: {}", text("reason")));
                self.key = text("key").parse().ok();
            }
            "log.recovered" => {
                remark(format!("a torn line of {} bytes was cut off here", line.body["bytes"]));
            }
            "log.damaged" => remark(format!("what stands before is damaged: {}", text("what"))),
            "log.dropped" => {
                if let Some(through) = line.body["through"].as_u64() {
                    remark(format!("lines up to {through} went for room"));
                    self.dropped.insert(through, text("sum"));
                }
            }
            "log.checkpoint" => self.checkpoint(line),
            _ => {}
        }
    }

    fn checkpoint(&mut self, line: &Line) {
        let head: Option<Head> = serde_json::from_value(line.body.clone()).ok();
        let signer = head.as_ref().and_then(Head::signer);
        let (Some(head), Some(signer)) = (head, signer) else {
            return self.findings.problem(Problem::BadCheckpoint { seq: line.seq });
        };
        let covers = head.seq + 1 == line.seq && head.sum == line.prev;
        let chain = self.findings.chain.get_or_insert_with(|| head.chain.clone());
        if !covers || *chain != head.chain {
            self.findings.problem(Problem::BadCheckpoint { seq: line.seq });
        }
        let expected = self.key.get_or_insert_with(|| signer.clone());
        if *expected != signer {
            let (expected, found) = (expected.id(), signer.id());
            self.findings.problem(Problem::WrongKey { expected, found });
        }
    }

    /// Hold it against a head that somebody keeps; name its line to [`Self::remembering`] before.
    pub fn compare(&mut self, head: &Head, known_to: &str) {
        let known_to = known_to.to_owned();
        let Some(signer) = head.signer() else { return };
        if self.findings.chain.as_ref().is_some_and(|chain| *chain != head.chain) {
            return self.findings.problem(Problem::OtherLog { known_to });
        }
        if let Some(key) = self.key.as_ref().filter(|key| **key != signer) {
            // It may be of before the key changed; then the log says so and the line has to fit all the same.
            if !self.findings.remarks.iter().any(|remark| remark.kind == "log.key") {
                let (expected, found) = (key.id(), signer.id());
                self.findings.problem(Problem::WrongKey { expected, found });
            }
        }
        let last = self.before.as_ref().map_or(0, |(seq, _)| *seq);
        if head.seq > last {
            let problem = Problem::CutTail { last, head: head.seq, known_to };
            return self.findings.problem(problem);
        }
        if let Some(Some(sum)) = self.wanted.get(&head.seq)
            && *sum != head.sum
        {
            self.findings.problem(Problem::OtherLine { seq: head.seq, known_to });
        }
    }

    /// Nothing follows: what has no end is torn, and a start that is not there must have gone for room.
    #[must_use]
    pub fn finish(mut self, torn_bytes: usize) -> Findings {
        if torn_bytes > 0 {
            self.findings.problem(Problem::TornLine { bytes: torn_bytes as u64 });
        }
        if let (Some(first), Some(prev)) = (self.findings.first, &self.first_prev)
            && first > 1
            && self.dropped.get(&(first - 1)) != Some(prev)
        {
            self.findings.problem(Problem::MissingStart { first });
        }
        self.findings
    }
}
