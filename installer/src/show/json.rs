//! JSON lines on stdout, one a piece of news, each with `"v":1`. Byte counts at most 5 a second a
//! node: they are the only news that may be dropped.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{News, Observer, render_line, to_stdout};

/// Least time between two byte counts of one node.
const BYTES_PAUSE: Duration = Duration::from_millis(200);

/// Writes every piece of news as a line.
#[derive(Debug, Default)]
pub(super) struct JsonLines {
    last_bytes: Mutex<BTreeMap<String, Instant>>,
}

impl JsonLines {
    /// False for byte counts that come too fast; the last one of a node always passes.
    fn passes(&self, news: &News, now: Instant) -> bool {
        let News::Bytes { node, sent_bytes, total_bytes } = news else { return true };
        let mut last = self.last_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = last.get(node).is_some_and(|then| now.duration_since(*then) < BYTES_PAUSE);
        if soon && sent_bytes < total_bytes {
            return false;
        }
        last.insert(node.clone(), now);
        true
    }
}

impl Observer for JsonLines {
    fn news(&self, news: &News) {
        if self.passes(news, Instant::now()) {
            to_stdout(&format!("{}\n", render_line(news)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_thinned_but_the_last_one_is_told() {
        let lines = JsonLines::default();
        let now = Instant::now();
        let bytes = |sent_bytes| News::Bytes { node: "w1".into(), sent_bytes, total_bytes: 100 };
        assert!(lines.passes(&bytes(1), now));
        assert!(!lines.passes(&bytes(2), now));
        assert!(lines.passes(&bytes(3), now + BYTES_PAUSE));
        assert!(lines.passes(&bytes(100), now + BYTES_PAUSE));
        assert!(lines.passes(&News::Back { node: "w1".into() }, now));
    }

    #[test]
    fn a_line_starts_with_its_version() {
        let line = render_line(&News::Waiting { node: "w1".into(), value: "join".into() });
        assert_eq!(line, r#"{"v":1,"event":"waiting","node":"w1","value":"join"}"#);
    }

    /// `docs/schemas/output.v1.json` is what `News` says; `KDC_WRITE_SCHEMAS=1` writes it anew.
    #[test]
    fn the_checked_in_schema_is_that_of_the_lines() {
        let schema = schemars::schema_for!(News);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schemas/output.v1.json");
        if std::env::var_os("KDC_WRITE_SCHEMAS").is_some() {
            fs_err::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            fs_err::write(path, &text).unwrap();
        }
        let same = fs_err::read_to_string(path).unwrap() == text;
        assert!(same, "the lines changed: run with KDC_WRITE_SCHEMAS=1, and think of the version");
    }
}
