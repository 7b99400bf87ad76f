//! The one place that writes to the terminal.

use std::{
    io::{BufRead, IsTerminal},
    os::fd::AsFd,
    time::Instant,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, SigmaskHow, Signal},
};

use secrecy::SecretString;
use serde::Serialize;

use super::{
    Complaint, Look, News, Observer, Output, can_ask,
    human::{MOST_LINES, Moving},
    json::JsonLines,
    plain::{Lines, render_elapsed},
    render_line, to_stderr, to_stdout,
};

/// Shows news, documents and complaints in the form the operator chose.
#[derive(Debug)]
pub struct Screen {
    look: Look,
    started: Instant,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Moving(Moving),
    Plain(Lines),
    Json(JsonLines),
    /// `--output json` of a command whose stdout is one document.
    Quiet,
}

impl Screen {
    /// A screen for a command on `nodes` nodes. `streams` says that stdout may carry JSON lines of
    /// progress; where not, it carries one document only.
    #[must_use]
    pub fn new(look: Look, nodes: usize, streams: bool) -> Self {
        let moving = std::io::stderr().is_terminal() && nodes <= MOST_LINES;
        let progress = match look.output {
            Output::Human if moving => Progress::Moving(Moving::new()),
            Output::Human | Output::Plain => Progress::Plain(Lines::default()),
            Output::Json if streams => Progress::Json(JsonLines::default()),
            Output::Json => Progress::Quiet,
        };
        Self { look, started: Instant::now(), progress }
    }

    /// How the operator wants to be talked to.
    #[must_use]
    pub fn look(&self) -> Look {
        self.look
    }

    /// Since the screen was made.
    #[must_use]
    pub fn elapsed(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    /// The moving lines have done their work; what follows is text.
    pub fn settle(&self) {
        if let Progress::Moving(moving) = &self.progress {
            moving.finish();
        }
    }

    /// Show the data a command was asked for, on stdout: as text, or as one JSON line.
    pub fn document<T: Serialize>(&self, document: &T, human: impl FnOnce() -> String) {
        match self.look.output {
            Output::Json => to_stdout(&format!("{}\n", render_line(document))),
            Output::Human | Output::Plain => to_stdout(&human()),
        }
    }

    /// Show the table at the end, on stdout; with `--output json` its line was told already.
    pub fn table(&self, text: &str) {
        if self.look.output != Output::Json {
            to_stdout(text);
        }
    }

    /// Show text as it is on stdout, whatever the form.
    pub fn raw(&self, text: &str) {
        to_stdout(text);
    }

    /// Say something to the operator, on stderr.
    pub fn say(&self, line: &str) {
        match &self.progress {
            Progress::Moving(moving) => moving.print(line),
            Progress::Plain(_) | Progress::Json(_) | Progress::Quiet => {
                to_stderr(&format!("{line}\n"));
            }
        }
    }

    /// Show what went wrong: on stderr for people, with `--output json` also as a line on stdout.
    pub fn complain(&self, complaint: &Complaint) {
        if self.look.output == Output::Json {
            #[derive(Serialize)]
            struct Error<'a> {
                event: &'static str,
                #[serde(flatten)]
                complaint: &'a Complaint,
            }
            to_stdout(&format!("{}\n", render_line(&Error { event: "error", complaint })));
        }
        to_stderr(&complaint.render(self.look.colored()));
    }

    /// Ask a yes/no question; `None` where nobody can answer. Only `y` and `yes` mean yes.
    #[must_use]
    pub fn confirm(&self, question: &str) -> Option<bool> {
        let answer = self.ask(&format!("{question} [y/N]"))?;
        Some(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Ask for a secret, without echo; `None` where nobody can answer or nothing is typed.
    #[must_use]
    pub fn ask_secret(&self, question: &str) -> Option<SecretString> {
        if !can_ask() {
            return None;
        }
        let read = || read_hidden(question).ok();
        let answer = match &self.progress {
            Progress::Moving(moving) => moving.suspend(read),
            Progress::Plain(_) | Progress::Json(_) | Progress::Quiet => read(),
        };
        answer.filter(|answer| !answer.is_empty()).map(SecretString::from)
    }

    /// Ask for one line of text; `None` where nobody can answer.
    #[must_use]
    pub fn ask(&self, question: &str) -> Option<String> {
        if !can_ask() {
            return None;
        }
        let read = || {
            to_stderr(&format!("{question} "));
            Some(read_line())
        };
        match &self.progress {
            Progress::Moving(moving) => moving.suspend(read),
            Progress::Plain(_) | Progress::Json(_) | Progress::Quiet => read(),
        }
    }
}

/// A line that is typed; empty where it can't be read or Ctrl-C comes first, which is never a yes.
fn read_line() -> String {
    let stdin = std::io::stdin();
    // A read goes on after a signal and a poll does not: else Ctrl-C would wait for Enter.
    if poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {
        return String::new();
    }
    let mut line = String::new();
    match stdin.lock().read_line(&mut line) {
        Ok(_) => line.trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// A line that is typed without being seen. The reader turns Ctrl-C into a signal while the terminal
/// still hides what is typed: held back until it doesn't, so that no shell is left blind.
pub(crate) fn read_hidden(question: &str) -> std::io::Result<String> {
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    let before = interrupt.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let answer = rpassword::prompt_password(format!("{question} "));
    before.thread_set_mask()?;
    answer
}

impl Observer for Screen {
    fn news(&self, news: &News) {
        match &self.progress {
            Progress::Moving(moving) => moving.news(news),
            Progress::Json(lines) => lines.news(news),
            Progress::Quiet => {}
            Progress::Plain(lines) => {
                if let Some(line) = lines.render(news) {
                    let elapsed = render_elapsed(self.started.elapsed());
                    to_stderr(&format!("{elapsed:>7}  {line}\n"));
                }
            }
        }
    }
}
