//! What the operator sees: data on stdout, talk on stderr, in one of three forms.
//!
//! Core code tells an [`Observer`] what happens, as [`News`], and never prints. The command layer
//! has three observers (human, plain lines, JSON lines) and the [`Screen`], the one place that
//! writes to the terminal.

use std::io::{IsTerminal, Write};

use serde::Serialize;

pub mod complaint;
mod human;
mod json;
pub mod news;
pub mod plain;
mod screen;
pub mod table;

pub(crate) use self::screen::read_hidden;
pub use self::{
    complaint::{Complaint, Exit},
    news::{NEWS_VERSION, News},
    screen::Screen,
};

/// Told of everything that happens; shows it or keeps it.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn news(&self, news: &News);
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn news(&self, _: &News) {}
}

/// Form of everything the command says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// One moving line a node on a terminal, plain lines elsewhere.
    Human,
    /// One finished line at a time, stable enough to grep.
    Plain,
    /// JSON lines on stdout, each with `"v":1` (docs/schemas/output.v1.json).
    Json,
}

/// When to use colour. Meaning never rests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Even into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// How the operator wants to be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The form.
    pub output: Output,
    /// When to use colour.
    pub color: Color,
}

impl Look {
    /// Colour on stderr, now.
    fn colored(self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        }
    }
}

/// A JSON line: the version in front of what it carries.
#[derive(Debug, Serialize)]
struct Line<'a, T: Serialize> {
    v: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// `body` as one JSON line without its line end.
fn render_line<T: Serialize>(body: &T) -> String {
    serde_json::to_string(&Line { v: NEWS_VERSION, body })
        .unwrap_or_else(|error| format!(r#"{{"v":{NEWS_VERSION},"event":"unshowable: {error}"}}"#))
}

/// Write to stdout; a reader that went away stops the showing and not the work.
fn to_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Write to stderr; as [`to_stdout`].
fn to_stderr(text: &str) {
    let mut out = std::io::stderr().lock();
    let _gone = out.write_all(text.as_bytes());
}

/// Both ends are a terminal: the operator can see a question and answer it.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}
