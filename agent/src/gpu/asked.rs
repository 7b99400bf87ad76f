//! A child process that is asked about GPUs, seen from its parent: every wait has an end, what it says has a limit, and a
//! child that can't be ended (it sleeps in the driver) is kept, so that no second one is put beside it.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::process::ExitStatusExt as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::child::{Line, Question};

/// Longest line; a GPU with four thousand processes has half of that.
const LONGEST_LINE: usize = 1024 * 1024;
/// How long a killed child may take to be gone. Only one that sleeps in the kernel takes longer.
const GRACE: Duration = Duration::from_secs(2);

/// How a child is started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    /// The program: this one.
    pub(super) program: PathBuf,
}

/// What was heard of a child.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line.
    Line(Box<Line>),
    /// Something that is no line of ours.
    Nonsense(String),
    /// It closed its output: it is about to end.
    Closed,
    /// The time was up.
    Late,
}

/// How a child ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It is gone.
    Gone(ExitStatus),
    /// It was killed and sleeps on.
    Sleeps(Sleeping),
}

impl Ended {
    /// `signal 11`, `exit 1`; nothing where it went well.
    pub(super) fn in_words(&self) -> Option<String> {
        match self {
            Self::Gone(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => Some(format!("signal {signal}")),
                (None, Some(0)) => None,
                (None, code) => Some(format!("exit {}", code.unwrap_or(-1))),
            },
            Self::Sleeps(_) => Some("it can't be ended".to_owned()),
        }
    }
}

/// A child that was killed and is still there.
#[derive(Debug)]
pub(super) struct Sleeping(Child);

impl Sleeping {
    /// Its process id, if it is still there.
    pub(super) fn still(&mut self) -> Option<u32> {
        match self.0.try_wait() {
            Ok(None) => Some(self.0.id()),
            // Gone, or not ours any more.
            Ok(Some(_)) | Err(_) => None,
        }
    }
}

/// A child that is being listened to.
#[derive(Debug)]
pub(super) struct Asked {
    child: Child,
    output: ChildStdout,
    heard: Vec<u8>,
}

impl Asked {
    /// Start one.
    pub(super) fn start(start: &Start, question: &Question) -> io::Result<Self> {
        let mut child = Command::new(&start.program)
            .args(arguments(question))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // The library writes there as it likes; what matters comes in lines.
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no pipe was made"))?;
        Ok(Self { child, output, heard: Vec::new() })
    }

    /// The next line, waited for until then.
    pub(super) fn hear(&mut self, until: Instant) -> Heard {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return match serde_json::from_slice(&line) {
                    Ok(line) => Heard::Line(Box::new(line)),
                    Err(error) => Heard::Nonsense(error.to_string()),
                };
            }
            if self.heard.len() > LONGEST_LINE {
                return Heard::Nonsense(format!("a line of more than {LONGEST_LINE} bytes"));
            }
            if !self.readable(until) {
                return Heard::Late;
            }
            let mut some = [0; 16 * 1024];
            match self.output.read(&mut some) {
                Ok(0) => return Heard::Closed,
                Ok(read) => self.heard.extend_from_slice(&some[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Heard::Closed,
            }
        }
    }

    fn readable(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut pipes = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            // Rounded up, so that the last fraction of a millisecond isn't spent in a loop.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            match poll(&mut pipes, timeout.unwrap_or(PollTimeout::MAX)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// See it off: one that closed its output has until `GRACE` to go by itself, any other is killed.
    pub(super) fn end(mut self, closed: bool) -> Ended {
        if closed && let Some(status) = gone(&mut self.child, GRACE) {
            return Ended::Gone(status);
        }
        // It may have gone in this very moment.
        let _gone = self.child.kill();
        match gone(&mut self.child, GRACE) {
            Some(status) => Ended::Gone(status),
            None => Ended::Sleeps(Sleeping(self.child)),
        }
    }
}

/// Wait for the end of a child, but not for ever.
fn gone(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + most;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => return None,
            // Somebody else collected it.
            Err(_) => return Some(ExitStatus::from_raw(0)),
        }
    }
}

fn arguments(question: &Question) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["gpu-survey".into()];
    if let Some(library) = &question.library {
        arguments.extend(["--library".into(), library.into()]);
    }
    if !question.skip.is_empty() {
        let skip: Vec<String> = question.skip.iter().map(u32::to_string).collect();
        arguments.extend(["--skip".into(), skip.join(",").into()]);
    }
    if let Some(every) = question.every {
        arguments.extend(["--every-ms".into(), every.as_millis().to_string().into()]);
    }
    arguments
}
