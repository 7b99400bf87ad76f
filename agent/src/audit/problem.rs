//! What can be wrong with a log, each by its own name and in words.

use serde::{Deserialize, Serialize};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "problem", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Problem {
    /// A line's bytes are not those that were written.
    ChangedLine {
        /// Its place among the lines that are there, from 1.
        line: u64,
        /// The number it should carry, where the lines around it say so.
        seq: Option<u64>,
        /// What does not fit.
        why: String,
    },
    /// A line is whole but does not follow from the one before: that one, or all before it, was written anew.
    Rewritten {
        /// The line that does not follow.
        seq: u64,
    },
    /// Numbers are left out.
    MissingLines {
        /// The last line before the gap.
        after: u64,
        /// The first one behind it.
        next: u64,
    },
    /// A number stands where a smaller one was expected to be over: lines were put in or swapped.
    OutOfOrder {
        /// The number found.
        seq: u64,
        /// The number expected.
        expected: u64,
    },
    /// The last line has no end.
    TornLine {
        /// How much of it there is.
        bytes: u64,
    },
    /// A signed head names a line that is not there any more.
    CutTail {
        /// The last line that is there.
        last: u64,
        /// The line that the head names.
        head: u64,
        /// Who knows that head.
        known_to: String,
    },
    /// A signed head knows a line with another content.
    OtherLine {
        /// The line.
        seq: u64,
        /// Who knows that head.
        known_to: String,
    },
    /// The head that is known elsewhere is that of another log.
    OtherLog {
        /// Who knows it.
        known_to: String,
    },
    /// Another key signed.
    WrongKey {
        /// Id of the key that was expected.
        expected: String,
        /// Id of the one that is there.
        found: String,
    },
    /// A checkpoint inside does not fit what stands before it.
    BadCheckpoint {
        /// Its line.
        seq: u64,
    },
    /// The first lines are not there, and no `log.dropped` says that they went for room.
    MissingStart {
        /// The first line that is there.
        first: u64,
    },
    /// What was signed as a whole is not what is here.
    BadSeal,
    /// A key was given, and nothing here is signed by it.
    NothingOfKey {
        /// Whose key it is.
        node: String,
        /// Its id.
        key: String,
    },
}

impl Problem {
    /// The word for it in tables and JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::ChangedLine { .. } => "changed-line",
            Self::Rewritten { .. } => "rewritten",
            Self::MissingLines { .. } => "missing-lines",
            Self::OutOfOrder { .. } => "out-of-order",
            Self::TornLine { .. } => "torn-line",
            Self::CutTail { .. } => "cut-tail",
            Self::OtherLine { .. } => "other-line",
            Self::OtherLog { .. } => "other-log",
            Self::WrongKey { .. } => "wrong-key",
            Self::BadCheckpoint { .. } => "bad-checkpoint",
            Self::MissingStart { .. } => "missing-start",
            Self::BadSeal => "bad-seal",
            Self::NothingOfKey { .. } => "nothing-of-key",
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ChangedLine { line, seq: Some(seq), why } => {
                write!(to, "line {seq} (the {line}. that is here) was changed: {why}")
            }
            Self::ChangedLine { line, seq: None, why } => {
                write!(to, "the {line}. line that is here was changed: {why}")
            }
            Self::Rewritten { seq } => write!(
                to,
                "line {seq} does not follow from the line before it: that one was written anew"
            ),
            Self::MissingLines { after, next } => {
                write!(to, "lines {} to {} are missing", after + 1, next - 1)
            }
            Self::OutOfOrder { seq, expected } => {
                write!(to, "line {seq} stands where line {expected} was expected")
            }
            Self::TornLine { bytes } => {
                write!(to, "the last line is torn: {bytes} bytes of it are there")
            }
            Self::CutTail { last, head, known_to } => write!(
                to,
                "the tail was cut off: {known_to} knows line {head}, the log ends with line {last}"
            ),
            Self::OtherLine { seq, known_to } => {
                write!(to, "line {seq} is not the one that {known_to} knows")
            }
            Self::OtherLog { known_to } => write!(
                to,
                "this is another log than the one that {known_to} knows: it was begun anew"
            ),
            Self::WrongKey { expected, found } => {
                write!(to, "signed by key {found}; expected is key {expected}")
            }
            Self::BadCheckpoint { seq } => {
                write!(to, "the checkpoint in line {seq} does not fit what stands before it")
            }
            Self::MissingStart { first } => write!(
                to,
                "the log begins with line {first}, and nothing says that older lines went for room"
            ),
            Self::BadSeal => write!(to, "the seal does not fit: what it is over was changed"),
            Self::NothingOfKey { node, key } => {
                write!(to, "nothing here is signed by key {key}, which is `{node}`'s")
            }
        }
    }
}
