//! A page of metrics, as text: OpenMetrics 1.0 or the older format of Prometheus.
//!
//! A family is announced with [`Page::family`] and written with its first sample, so a family
//! without samples leaves no trace. Both formats have the same samples; they differ in how a family
//! is announced (OpenMetrics leaves `_total` and `_info` out of its name) and in how the page ends.
//!
//! ```
//! use kdc_agent::api::page::{Format, Kind, Page};
//!
//! let mut page = Page::new(Format::OpenMetrics, String::new());
//! page.family("kdc_agent_events_total", Kind::Counter, "Events, by kind.");
//! page.sample(&[("kind", "reloaded")], 3_u64);
//! assert_eq!(
//!     page.finish(),
//!     "# HELP kdc_agent_events Events, by kind.\n# TYPE kdc_agent_events counter\n\
//!      kdc_agent_events_total{kind=\"reloaded\"} 3\n# EOF\n"
//! );
//! ```

use std::fmt::Write as _;

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
    /// `text/plain; version=0.0.4`.
    Classic,
}

impl Format {
    /// The media type of a page.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format that a client's `Accept` header prefers; the older one where it says nothing of
    /// OpenMetrics 1.0.0 (or of 0.0.1, of which our pages are good ones too).
    #[must_use]
    pub fn preferred(accept: Option<&str>) -> Self {
        let (mut open, mut classic) = (0.0, 0.0);
        for range in accept.unwrap_or_default().split(',').take(32) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1.0, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", text)) => weight = text.parse().unwrap_or(0.0_f32),
                    Some(("version", text)) => version = Some(text.trim_matches('"')),
                    _ => {}
                }
            }
            match (kind.to_ascii_lowercase().as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    open = f32::max(open, weight);
                }
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => {
                    classic = f32::max(classic, weight);
                }
                _ => {}
            }
        }
        if open > 0.0 && open >= classic { Self::OpenMetrics } else { Self::Classic }
    }
}

/// What the samples of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a new start; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Always 1, labels tell; the name ends in `_info`.
    Info,
    /// The kernel doesn't say.
    Unknown,
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Whole(u64::from(truth))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// A page under way.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
    /// The announcement that waits for its family's first sample.
    announced: String,
    name: String,
    series: usize,
}

impl Page {
    /// An empty page in a text that may have been used before: its room is kept, what it says is not.
    #[must_use]
    pub fn new(format: Format, mut room: String) -> Self {
        room.clear();
        let (announced, name) = (String::new(), String::new());
        Self { format, text: room, announced, name, series: 0 }
    }

    /// The samples that follow are of this family. A family comes once on a page.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.name.clear();
        self.name.push_str(name);
        self.announced.clear();
        let (short, word) = match (kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => (strip(name, "_total"), "counter"),
            (Kind::Counter, Format::Classic) => (name, "counter"),
            (Kind::Gauge, _) => (name, "gauge"),
            (Kind::Info, Format::OpenMetrics) => (strip(name, "_info"), "info"),
            (Kind::Info, Format::Classic) => (name, "gauge"),
            (Kind::Unknown, Format::OpenMetrics) => (name, "unknown"),
            (Kind::Unknown, Format::Classic) => (name, "untyped"),
        };
        let _ = write!(self.announced, "# HELP {short} {help}\n# TYPE {short} {word}\n");
    }

    /// One sample of the family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.text.push_str(&self.announced);
        self.announced.clear();
        self.text.push_str(&self.name);
        for (position, (label, text)) in labels.iter().enumerate() {
            self.text.push(if position == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, text);
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = match value.into() {
            Value::Whole(number) => writeln!(self.text, "{number}"),
            Value::Real(number) if number.is_infinite() => {
                writeln!(self.text, "{}Inf", if number > 0.0 { '+' } else { '-' })
            }
            Value::Real(number) => writeln!(self.text, "{number}"),
        };
        self.series += 1;
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Into<Value>) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// How many samples there are so far.
    #[must_use]
    pub fn series(&self) -> usize {
        self.series
    }

    /// The text, with the mark of its end where the format has one.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn strip<'a>(name: &'a str, suffix: &str) -> &'a str {
    debug_assert!(name.ends_with(suffix), "{name} should end in {suffix}");
    name.strip_suffix(suffix).unwrap_or(name)
}

fn escape(text: &mut String, raw: &str) {
    if !raw.contains(['\\', '"', '\n']) {
        return text.push_str(raw);
    }
    for letter in raw.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_format_they_prefer() {
        use Format::{Classic, OpenMetrics};
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                          version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (None, Classic),
            (Some("*/*"), Classic),
            (Some(prometheus), OpenMetrics),
            (Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), OpenMetrics),
            (Some("application/openmetrics-text;version=2.0.0,text/plain;q=0.1"), Classic),
            (Some("text/plain, application/openmetrics-text;q=0.5"), Classic),
            (Some("application/openmetrics-text;q=0"), Classic),
            (Some("application/openmetrics-text;q=nonsense"), Classic),
            (Some(";;;==,,\u{1F600}"), Classic),
        ] {
            assert_eq!(Format::preferred(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn both_formats_have_the_same_samples_and_announce_them_as_they_should() {
        let page = |format| {
            let mut page = Page::new(format, "of an earlier page".to_owned());
            page.family("x_total", Kind::Counter, "Nothing of it.");
            page.family("kdc_agent_build_info", Kind::Info, "What this is.");
            page.sample(&[("version", "1\\2\"3\n4"), ("b", "")], 1_u64);
            page.single("node_load1", Kind::Gauge, "1m load average.", 0.25);
            page.family("node_intr_total", Kind::Counter, "Interrupts.");
            page.sample(&[], u64::MAX);
            page.family("node_vmstat_pgfault", Kind::Unknown, "Field pgfault.");
            page.sample(&[("a", "b")], f64::INFINITY);
            assert_eq!(page.series(), 4);
            page.finish()
        };
        let classic = "# HELP kdc_agent_build_info What this is.\n# TYPE kdc_agent_build_info gauge\n\
                       kdc_agent_build_info{version=\"1\\\\2\\\"3\\n4\",b=\"\"} 1\n\
                       # HELP node_load1 1m load average.\n# TYPE node_load1 gauge\nnode_load1 0.25\n\
                       # HELP node_intr_total Interrupts.\n# TYPE node_intr_total counter\n\
                       node_intr_total 18446744073709551615\n\
                       # HELP node_vmstat_pgfault Field pgfault.\n# TYPE node_vmstat_pgfault untyped\n\
                       node_vmstat_pgfault{a=\"b\"} +Inf\n";
        assert_eq!(page(Format::Classic), classic);
        let open = classic
            .replace("HELP kdc_agent_build_info", "HELP kdc_agent_build")
            .replace("TYPE kdc_agent_build_info gauge", "TYPE kdc_agent_build info")
            .replace("HELP node_intr_total", "HELP node_intr")
            .replace("TYPE node_intr_total", "TYPE node_intr")
            .replace("untyped", "unknown");
        assert_eq!(page(Format::OpenMetrics), format!("{open}# EOF\n"));
    }
}
