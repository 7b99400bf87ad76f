//! `audit show`: the lines of all nodes, by time.

use std::sync::Arc;

use kdc_agent::audit::{Line, export};
use kdc_profiles::moment;
use serde::Serialize;
use serde_json::Value;

use super::{Whose, gather::gather, tell_what_lacks, verdict::complaint};
use crate::{
    command::{CommandError, site::Site},
    show::{Complaint, Look, Screen, table},
};

/// Longest value that is shown whole; digests are known by less.
const MOST_SHOWN: usize = 60;

/// Show what was done on the nodes, by whom and when, the newest last; exit 3 where a log is not what was written
///
/// WHO is the login on the node, and what the installer said of its operator. Lines that `kdc-control` handed over
/// carry the time at which it acted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install audit show\n  \
    kdc-install audit show --kind run --last 10\n  \
    kdc-install audit show --only w1 --last 0 --output json | jq '.lines[].kind'")]
pub(super) struct Show {
    /// How many lines; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    last: usize,
    /// Only kinds that begin with this (`run`, `undo`, `heal`, `licence`, `plan`, `control`, `log`)
    #[arg(long, value_name = "KIND", default_value = "")]
    kind: String,
    #[command(flatten)]
    whose: Whose,
}

/// The line of `--output json` (docs/schemas/audit.v1.json).
#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    /// `audit`.
    event: &'static str,
    /// Cluster.
    cluster: String,
    /// By time, then node, then number.
    lines: Vec<ShownLine>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ShownLine {
    /// Node.
    node: String,
    #[serde(flatten)]
    line: Line,
}

impl ShownLine {
    /// When it happened: what was handed over says so itself.
    fn at(&self) -> u64 {
        match self.line.kind.as_str() {
            "control.spooled" => self.line.body["at"].as_u64().unwrap_or(self.line.at),
            _ => self.line.at,
        }
    }

    fn kind(&self) -> &str {
        match self.line.kind.as_str() {
            "control.spooled" => self.line.body["entry"].as_str().unwrap_or(&self.line.kind),
            kind => kind,
        }
    }

    fn row(&self) -> Vec<String> {
        let who = &self.line.who;
        let at = i64::try_from(self.at() / 1000).unwrap_or(i64::MAX);
        let mut person = [&who.login, &who.operator].map(String::as_str).to_vec();
        person.retain(|text| !text.is_empty());
        let whom = if person.is_empty() { who.part.clone() } else { person.join(", ") };
        let body = match self.line.kind.as_str() {
            "control.spooled" => &self.line.body["said"],
            _ => &self.line.body,
        };
        let (node, kind) = (self.node.clone(), self.kind().to_owned());
        vec![
            moment::render(at),
            node,
            self.line.seq.to_string(),
            kind,
            plain(&whom),
            in_words(body),
        ]
    }
}

impl Show {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let site = Site::load(&self.whose.cluster)?;
        let cluster = site.cluster.name.clone();
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
        let gathered = gather(site, &self.whose, &screen).await?;
        tell_what_lacks(&gathered, &screen);
        let mut lines = Vec::new();
        let mut keep = |node: &str, line: &Line| {
            let shown = ShownLine { node: node.to_owned(), line: line.clone() };
            if shown.kind().starts_with(&self.kind) {
                lines.push(shown);
            }
        };
        let verdicts =
            export::verify(&gathered.file, &gathered.keys, &mut keep).map_err(|cause| {
                let path = "the nodes' answer".into();
                CommandError::NotAnExport { path, reason: cause.to_string() }
            })?;
        let lines = newest(lines, self.last);
        let shown = Shown { event: "audit", cluster, lines };
        screen.document(&shown, || {
            let rows: Vec<Vec<String>> = shown.lines.iter().map(ShownLine::row).collect();
            table::render(&["TIME", "NODE", "LINE", "KIND", "WHO", "WHAT"], &rows)
        });
        complaint(&verdicts).map_or(Ok(()), Err)
    }
}

/// By time, the newest last, no more than asked for.
fn newest(mut lines: Vec<ShownLine>, last: usize) -> Vec<ShownLine> {
    lines.sort_by(|left, right| {
        (left.at(), &left.node, left.line.seq).cmp(&(right.at(), &right.node, right.line.seq))
    });
    let surplus = if last == 0 { 0 } else { lines.len().saturating_sub(last) };
    lines.split_off(surplus)
}

/// What nodes say is shown without anything that a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `name=value`, one after the other.
fn in_words(body: &Value) -> String {
    let short = |text: &str| {
        let text = text.strip_prefix("sha256:").map_or(text, |hex| hex.get(..12).unwrap_or(hex));
        let text = plain(text);
        match text.char_indices().nth(MOST_SHOWN) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    };
    let word = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) if text.is_empty() => return None,
            Value::String(text) => short(text),
            other => short(&other.to_string()),
        };
        Some(format!("{}={value}", plain(name)))
    };
    let words: Vec<String> = body.as_object().into_iter().flatten().filter_map(word).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use kdc_agent::audit::Who;
    use serde_json::json;

    use super::{super::Verified, *};

    fn line(node: &str, seq: u64, at: u64, kind: &str, body: Value) -> ShownLine {
        let (kind, boot, prev) = (kind.to_owned(), String::new(), String::new());
        let who = Who { login: "ops".to_owned(), ..Who::part("serve") };
        ShownLine { node: node.to_owned(), line: Line { seq, prev, at, boot, kind, who, body } }
    }

    #[test]
    fn lines_stand_by_the_time_at_which_it_happened_and_the_newest_are_kept() {
        let spooled = json!({ "at": 1000, "entry": "control.acted", "said": { "action": "x" } });
        let lines = vec![
            line("w1", 4, 3000, "run.ended", json!({ "outcome": "finished", "detail": "" })),
            line("cp1", 9, 9000, "control.spooled", spooled),
            line(
                "cp1",
                2,
                2000,
                "run.started",
                json!({ "plan": format!("sha256:{}", "a".repeat(64)) }),
            ),
        ];
        let all: Vec<Vec<String>> = newest(lines, 0).iter().map(ShownLine::row).collect();
        let kinds: Vec<&str> = all.iter().map(|row| &*row[3]).collect();
        assert_eq!(kinds, ["control.acted", "run.started", "run.ended"]);
        assert_eq!(all[0][0], "1970-01-01T00:00:01Z");
        assert_eq!(all[1][5], "plan=aaaaaaaaaaaa");
        assert_eq!((all[2][4].as_str(), all[2][5].as_str()), ("ops", "outcome=finished"));
        let few = newest(vec![line("a", 1, 1, "k", json!({})), line("a", 2, 2, "k", json!({}))], 1);
        assert_eq!(few[0].line.seq, 2);
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown() {
        let row = line("w1", 1, 1, "k", json!({ "detail": "\u{1b}[31mred" })).row();
        assert_eq!(row[5], "detail= [31mred");
    }

    /// `docs/schemas/audit.v1.json` is what the commands say; `KDC_WRITE_SCHEMAS=1` writes it anew.
    #[test]
    fn the_schema_in_the_documentation_is_that_of_the_lines() {
        #[derive(schemars::JsonSchema)]
        #[serde(untagged)]
        #[expect(dead_code, reason = "only its schema is asked for")]
        enum Said<'a> {
            Shown(Shown),
            Verified(Verified<'a>),
            Exported(super::super::Exported),
        }
        let schema = schemars::schema_for!(Said);
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schemas/audit.v1.json");
        if std::env::var_os("KDC_WRITE_SCHEMAS").is_some() {
            fs_err::write(path, &schema).unwrap();
        }
        let written = fs_err::read_to_string(path).unwrap();
        assert_eq!(written, schema, "run this test with KDC_WRITE_SCHEMAS=1");
    }
}
