//! What an answer does not know, in words.

use super::{
    calendar::{Span, moment_text},
    query::Coverage,
};

/// Nodes that are named; the others are counted.
const NAMED: usize = 5;

impl Coverage {
    /// One sentence for each thing that a reader must know to trust the answer; none where all is whole.
    #[must_use]
    pub fn words(&self, span: Span) -> Vec<String> {
        let mut words = Vec::new();
        if self.gap_seconds > 0 {
            words.push(format!(
                "In {} nobody looked, over all records together. What counters grew by meanwhile is counted; what has none (memory, \
                 storage, allocation) is not.",
                seconds(self.gap_seconds)
            ));
        }
        for (resource, missing) in &self.missing_seconds {
            words.push(format!(
                "For {} the resource {} could not be read.",
                seconds(*missing),
                resource.name()
            ));
        }
        if self.clock_steps > 0 {
            words.push(format!(
                "Clocks jumped {} times: amounts are right, the hours that they stand at may be off.",
                self.clock_steps
            ));
        }
        self.who_is_missing(&mut words);
        if !self.coarse.is_empty() {
            words.push(format!(
                "Of {} only whole days are kept by now: hours of them are not counted. Ask for whole days instead of from {} to {}.",
                self.coarse.join(", "),
                moment_text(span.from),
                moment_text(span.to)
            ));
        }
        words.extend(self.damaged.iter().map(|file| {
            format!("The store's file {file} can't be read; ask another control plane.")
        }));
        words
    }

    /// Records that never came, and nodes that are behind.
    fn who_is_missing(&self, words: &mut Vec<String>) {
        for hole in self.holes.iter().take(NAMED) {
            let runs = hole
                .numbers
                .runs()
                .iter()
                .take(3)
                .map(|(first, last)| format!("{first} to {last}"));
            words.push(format!(
                "Of node {} {} records of {}s never came (journal {}, numbers {}).",
                hole.node,
                hole.numbers.count(),
                hole.level.name(),
                hole.journal,
                runs.collect::<Vec<_>>().join(", ")
            ));
        }
        if self.holes.len() > NAMED {
            words.push(format!("{} more journals have such holes.", self.holes.len() - NAMED));
        }
        for behind in self.behind.iter().take(NAMED) {
            words.push(format!(
                "Node {} has sent nothing for the time after {}; what it measured since then comes when it is back.",
                behind.node,
                moment_text(behind.until)
            ));
        }
        if self.behind.len() > NAMED {
            words.push(format!("{} more nodes are behind.", self.behind.len() - NAMED));
        }
    }
}

fn seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{:.1} hours", seconds as f64 / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        meter::record::{JournalId, Level, Resource},
        usage::query::{Behind, Hole},
    };

    #[test]
    fn what_is_whole_needs_no_words_and_what_is_not_gets_some() {
        let span = Span { from: 0, to: 7200 };
        assert_eq!(Coverage::default().words(span), Vec::<String>::new());
        let hole = Hole {
            node: "n1".to_owned(),
            journal: JournalId::from_bytes([1; 16]),
            level: Level::Hour,
            numbers: vec![(3, 4)].into(),
        };
        let coverage = Coverage {
            gap_seconds: 8000,
            clock_steps: 2,
            missing_seconds: [(Resource::GpuUsed, 60)].into(),
            holes: vec![hole; 7],
            behind: vec![Behind { node: "n2".to_owned(), until: 3600 }; 6],
            coarse: vec!["1970-01-01".to_owned()],
            damaged: vec!["days/1970-01.log from byte 7 on".to_owned()],
            ..Coverage::default()
        };
        let words = coverage.words(span).join("\n");
        for wanted in [
            "2.2 hours nobody looked",
            "60 seconds the resource gpuUsed",
            "jumped 2 times",
            "node n1 2 records of hours never came",
            "numbers 3 to 4",
            "2 more journals",
            "Node n2 has sent nothing for the time after 1970-01-01T01:00:00Z",
            "1 more nodes",
            "only whole days",
            "days/1970-01.log",
        ] {
            assert!(words.contains(wanted), "{wanted}: {words}");
        }
    }
}
