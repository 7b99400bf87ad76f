//! One finished line at a time: `   12.3s  w1        step 12/41 runtime containerd-config done`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::news::{News, Row};

/// Renders news as lines, leaving out what would only repeat the line before.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Tenths of its bytes that a node's last line told of.
    tenths: Mutex<BTreeMap<String, u64>>,
}

impl Lines {
    /// The line for `news`, without elapsed time and line end; `None` where it adds nothing.
    pub(super) fn render(&self, news: &News) -> Option<String> {
        let (node, text) = match news {
            News::Started { command, cluster, nodes } => {
                ("", format!("{command} of cluster `{cluster}` on {} node(s)", nodes.len()))
            }
            News::Stage { node, stage } => (node.as_str(), stage.word().to_owned()),
            News::Bytes { node, sent_bytes, total_bytes } => {
                self.moved(node, *sent_bytes, *total_bytes)?;
                (node.as_str(), render_sent(*sent_bytes, *total_bytes))
            }
            News::Run { node, run, resumed } => (
                node.as_str(),
                format!("run {run} {}", if *resumed { "resumed" } else { "started" }),
            ),
            News::Step { node, number, of, phase, step, state } => {
                let place = render_place(*number, *of);
                (node.as_str(), format!("step {place} {phase} {step} {}", state.word()))
            }
            News::Waiting { node, value } => (node.as_str(), render_waiting(value)),
            News::Note { node, step, text } => (node.as_str(), format!("note {step}: {text}")),
            News::Lost { node, cause, retry_in_ms } => (
                node.as_str(),
                format!(
                    "connection lost ({cause}); the node carries on; next try in {}",
                    render_elapsed(Duration::from_millis(*retry_in_ms))
                ),
            ),
            News::Back { node } => (node.as_str(), "connected again".to_owned()),
            News::NodeFailed { node, code, message, .. } => {
                (node.as_str(), format!("failed [{code}] {message}"))
            }
            News::Proof { claim, holds, detail } => {
                ("", format!("{} {claim} ({detail})", if *holds { "proved" } else { "NOT PROVED" }))
            }
            News::Finished { nodes, .. } => ("", format!("finished: {}", count_results(nodes))),
        };
        Some(if node.is_empty() { text } else { format!("{node:<12} {text}") })
    }

    /// `Some` when the bytes crossed another tenth since the last line.
    fn moved(&self, node: &str, sent: u64, total: u64) -> Option<()> {
        let tenth = sent.saturating_mul(10).checked_div(total).unwrap_or(10);
        let mut tenths = self.tenths.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tenths.insert(node.to_owned(), tenth);
        (before != Some(tenth)).then_some(())
    }
}

/// `12/41`, or `12` where nobody knows how many there are.
pub(super) fn render_place(number: usize, of: usize) -> String {
    if of == 0 { number.to_string() } else { format!("{number}/{of}") }
}

/// `12.0 of 300.0 MiB sent`.
pub(super) fn render_sent(sent: u64, total: u64) -> String {
    format!("{} of {} sent", render_bytes(sent), render_bytes(total))
}

/// What a node waits for, in words.
pub(super) fn render_waiting(value: &str) -> String {
    match value {
        "join" => "waiting for a control plane to let it join".to_owned(),
        "joined" => "waiting for the other nodes to join".to_owned(),
        other => format!("waiting for `{other}`"),
    }
}

/// `1.5 GiB`: binary units, one decimal.
#[must_use]
pub fn render_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `12.3s`, `2m10s`, `1h02m`.
#[must_use]
pub fn render_elapsed(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..60 => format!("{seconds}.{}s", elapsed.subsec_millis() / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `2 changed, 1 as wanted`, in the order of first appearance.
pub(super) fn count_results(rows: &[Row]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        let word = row.result.word();
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    let words: Vec<String> = counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
    if words.is_empty() { "no nodes".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{super::news::StepState, *};

    #[test]
    fn sizes_and_times_read_like_words() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "1677721.5 TiB"),
        ] {
            assert_eq!(render_bytes(bytes), text, "{bytes}");
        }
        for (ms, text) in [(0, "0.0s"), (12_345, "12.3s"), (130_000, "2m10s"), (3_725_000, "1h02m")]
        {
            assert_eq!(render_elapsed(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn bytes_are_told_once_a_tenth() {
        let lines = Lines::default();
        let told = (0..=1000)
            .filter_map(|sent| {
                lines.render(&News::Bytes {
                    node: "w1".into(),
                    sent_bytes: sent,
                    total_bytes: 1000,
                })
            })
            .count();
        assert_eq!(told, 11);
    }

    #[test]
    fn a_step_is_one_line_to_grep() {
        let line = Lines::default().render(&News::Step {
            node: "w1".into(),
            number: 12,
            of: 41,
            phase: "runtime".into(),
            step: "containerd-config".into(),
            state: StepState::Done,
        });
        assert_eq!(line.as_deref(), Some("w1           step 12/41 runtime containerd-config done"));
    }
}
