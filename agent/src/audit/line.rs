//! One line of the log, in its one spelling.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Entry, Who, body};

/// `prev` of the first line.
pub const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Longest line that is written or read.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// What stands in a line, but for its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Number, from 1, without a gap.
    pub seq: u64,
    /// Digest of the line before.
    pub prev: String,
    /// Milliseconds since the epoch, by the node's clock.
    pub at: u64,
    /// Which boot of the node.
    #[serde(default)]
    pub boot: String,
    /// What kind of deed ([`Entry`]).
    pub kind: String,
    /// Who.
    #[serde(default)]
    pub who: Who,
    /// What: the kind's fields.
    #[serde(default)]
    pub body: Value,
}

impl Line {
    /// The line for an entry; everything in it is cut to its bounds.
    #[must_use]
    pub fn of(entry: &Entry, who: &Who, (seq, prev): (u64, &str), (at, boot): (u64, &str)) -> Self {
        let (kind, said) = entry.parts();
        let Who { part, login, from, operator } = who;
        Self {
            seq,
            prev: prev.to_owned(),
            at,
            boot: boot.to_owned(),
            kind,
            who: Who {
                part: body::text(part),
                login: body::text(login),
                from: body::text(from),
                operator: body::text(operator),
            },
            body: body::bounded(&said),
        }
    }

    /// Its bytes with the line end, and its digest.
    #[must_use]
    pub fn render(&self) -> (String, String) {
        let bare = serde_json::to_string(self).expect("texts and numbers serialise");
        let sum = hex::encode(Sha256::digest(bare.as_bytes()));
        (format!("{},\"sum\":\"{sum}\"}}\n", &bare[..bare.len() - 1]), sum)
    }
}

/// Why bytes are no line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotALine {
    /// Its digest does not fit, so its bytes are not those that were written.
    Changed(String),
    /// The digest fits, and what it is over can't be understood.
    Unreadable(String),
}

impl std::fmt::Display for NotALine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Changed(why) | Self::Unreadable(why)) = self;
        formatter.write_str(why)
    }
}

/// Read one line, without its end: what it says, and its digest.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<(Line, String), NotALine> {
    let changed = |why: &str| NotALine::Changed(why.to_owned());
    if bytes.len() > MAX_LINE_BYTES {
        return Err(changed("it is longer than any line that is written"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| changed("it is no UTF-8"))?;
    let (bare, sum) = text
        .rsplit_once(",\"sum\":\"")
        .and_then(|(bare, sum)| Some((bare, sum.strip_suffix("\"}")?)))
        .ok_or_else(|| changed("it has no digest"))?;
    let bare = format!("{bare}}}");
    if hex::encode(Sha256::digest(bare.as_bytes())) != sum {
        return Err(changed("its digest does not fit it"));
    }
    let line: Line =
        serde_json::from_str(&bare).map_err(|error| NotALine::Unreadable(error.to_string()))?;
    if !is_sum(&line.prev) {
        return Err(NotALine::Unreadable("`prev` is no digest".to_owned()));
    }
    Ok((line, sum.to_owned()))
}

/// The digest that a line states, whether it fits or not.
pub(super) fn stated_sum(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let sum = text.rsplit_once(",\"sum\":\"")?.1.strip_suffix("\"}")?;
    is_sum(sum).then(|| sum.to_owned())
}

/// Whether a text is a sha256 as it is written here.
#[must_use]
pub fn is_sum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
