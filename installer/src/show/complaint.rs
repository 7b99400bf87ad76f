//! How kdc says that something went wrong: code, what and where, the causes, the next thing to try.
//!
//! Every error of every module ends up as one [`Complaint`] at the edge, and is shown once:
//!
//! ```text
//! error[NET-004]: node `w1` refused the connection at 10.66.0.12:22
//! cause: connection refused
//! hint: start sshd on `w1`, or set `ssh.port` in the cluster file
//! ```

use kdc_agent::wire::Failure;
use serde::Serialize;

/// What the process tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Everything asked for is done.
    Ok = 0,
    /// We broke, or the world did something nobody planned for.
    Internal = 1,
    /// The command line or a file the operator wrote is wrong.
    Usage = 2,
    /// A check said no; nothing was changed.
    Refused = 3,
    /// Something was changed and the work stopped; `apply` again or `undo` can go on.
    Interrupted = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One thing that went wrong, in the words an operator needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Complaint {
    /// Stable code, listed in `docs/errors.md`.
    pub code: Box<str>,
    /// What happened, and where.
    pub message: String,
    /// Why, outermost first; never repeats the message.
    pub causes: Vec<String>,
    /// The one next thing to try.
    pub hint: Option<String>,
    /// What the process ends with when this is what stops it.
    pub exit: Exit,
    /// The single failures behind this one, such as one a node; in the nodes' order.
    pub parts: Vec<Complaint>,
}

impl Complaint {
    /// A complaint with nothing but its code, words and exit.
    #[must_use]
    pub fn new(code: &str, exit: Exit, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            exit,
            parts: Vec::new(),
        }
    }

    /// The complaint that `error` makes: its own words, and its sources as causes.
    #[must_use]
    pub fn from_error(code: &str, exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut complaint = Self::new(code, exit, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if complaint.causes.last() != Some(&text) && complaint.message != text {
                complaint.causes.push(text);
            }
            source = cause.source();
        }
        complaint
    }

    /// With the next thing to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the next thing to try, if there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// With a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// With the single failures behind it.
    #[must_use]
    pub fn parts(mut self, parts: Vec<Complaint>) -> Self {
        self.parts = parts;
        self
    }

    /// What an agent complained about, said of its node.
    #[must_use]
    pub fn from_agent(node: &str, failure: &Failure, exit: Exit) -> Self {
        let mut complaint =
            Self::new(&failure.code, exit, format!("node `{node}`: {}", failure.message));
        complaint.hint.clone_from(&failure.hint);
        complaint
    }

    /// The text for people: one block a failure, the parts first, the sum of it last. Colour only
    /// repeats what the words say.
    #[must_use]
    pub fn render(&self, colored: bool) -> String {
        let (red, blue, plain) =
            if colored { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
        let mut text: String = self.parts.iter().map(|part| part.render(colored)).collect();
        text.push_str(&format!("{red}error[{}]{plain}: {}\n", self.code, self.message));
        for cause in &self.causes {
            text.push_str(&format!("cause: {cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{blue}hint{plain}: {hint}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't read the cluster file")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_said_once_with_its_cause_and_hint() {
        let error = Outer(std::io::Error::other("disk is on fire"));
        let text =
            Complaint::from_error("KDC-002", Exit::Usage, &error).hint("buy water").render(false);
        assert_eq!(
            text,
            "error[KDC-002]: can't read the cluster file\ncause: disk is on fire\nhint: buy water\n"
        );
    }

    #[test]
    fn every_part_keeps_its_own_code_and_the_sum_comes_last() {
        let part =
            |code, node| Complaint::new(code, Exit::Refused, format!("node `{node}` said no"));
        let text = Complaint::new("KDC-010", Exit::Refused, "2 of 3 nodes failed")
            .parts(vec![part("NET-001", "a"), part("NET-002", "b")])
            .render(false);
        assert_eq!(
            text,
            "error[NET-001]: node `a` said no\nerror[NET-002]: node `b` said no\n\
             error[KDC-010]: 2 of 3 nodes failed\n"
        );
    }
}
