//! A program to run, and what came of it.

use std::time::Duration;

use super::HostError;

/// Most bytes of standard output that are kept; what comes after is read and dropped.
pub(super) const MAX_STDOUT_BYTES: usize = 16 * 1024 * 1024;

/// How much of the end of standard error is kept, and shown in errors.
pub(super) const TAIL_BYTES: usize = 1024;

/// A program with its arguments. Its environment is empty but for a fixed `PATH`, `HOME=/root`,
/// `LC_ALL=C` and what [`Program::env`] adds.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    input: Vec<u8>,
    deadline: Duration,
}

/// Shows what is run, never what is fed to it.
impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.line())
    }
}

impl Program {
    /// A program found on the fixed `PATH`, with a deadline of 60 seconds.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            input: Vec::new(),
            deadline: Duration::from_secs(60),
        }
    }

    /// Add one argument. Never a secret.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Add arguments. Never a secret.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Set a variable of its environment. Never a secret.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What it reads on standard input: the place for secrets.
    #[must_use]
    pub fn with_input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long it may take, in seconds.
    #[must_use]
    pub fn within_secs(self, seconds: u64) -> Self {
        self.within(Duration::from_secs(seconds))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.args
    }

    /// What was added to its environment.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    /// What it reads.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// How long it may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Name and arguments for people, cut to 200 characters.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.name.clone();
        for argument in &self.args {
            line.push(' ');
            line.push_str(argument);
        }
        if line.chars().count() > 200 {
            line = line.chars().take(199).collect();
            line.push('…');
        }
        line
    }
}

/// How a program ended and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Exit code; 128 plus the signal if one ended it.
    pub code: i32,
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// The last KiB of standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// A good end that wrote `stdout`.
    #[must_use]
    pub fn ok(stdout: impl Into<Vec<u8>>) -> Self {
        Self { code: 0, stdout: stdout.into(), stderr: Vec::new() }
    }

    /// A bad end.
    #[must_use]
    pub fn failed(code: i32, stderr: impl Into<Vec<u8>>) -> Self {
        Self { code, stdout: Vec::new(), stderr: stderr.into() }
    }

    /// It ended well.
    #[must_use]
    pub fn good(&self) -> bool {
        self.code == 0
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The end of what it said: standard error, else standard output; one line, secrets masked.
    #[must_use]
    pub fn tail(&self) -> String {
        let words = if self.stderr.iter().all(u8::is_ascii_whitespace) {
            &self.stdout
        } else {
            &self.stderr
        };
        let text = String::from_utf8_lossy(&words[words.len().saturating_sub(TAIL_BYTES)..]);
        mask_secrets(&text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The output, or the error it stands for.
    ///
    /// # Errors
    /// [`HostError::Failed`] if the exit code is not 0.
    pub fn checked(self, program: &Program) -> Result<Self, HostError> {
        if self.good() {
            return Ok(self);
        }
        let status = match self.code {
            code if code > 128 => format!("signal {}", code - 128),
            code => format!("exit {code}"),
        };
        Err(HostError::Failed { program: program.line(), status, tail: self.tail() })
    }
}

/// Replace bootstrap tokens (`abcdef.0123456789abcdef`) and other long words of key material
/// that tools of Kubernetes print.
#[must_use]
pub fn mask_secrets(text: &str) -> String {
    let is_word =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '/' | '=' | '_' | '-');
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        masked.push_str(&rest[..start]);
        let word_end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |end| start + end);
        let word = &rest[start..word_end];
        let digest = masked.ends_with("sha256:");
        masked.push_str(if is_secret(word) && !digest { "****" } else { word });
        rest = &rest[word_end..];
    }
    masked.push_str(rest);
    masked
}

/// A bootstrap token, a 64-digit certificate key, or base64 too long to be a name.
fn is_secret(word: &str) -> bool {
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let word = word.trim_end_matches('.');
    let word =
        word.rsplit_once('=').map_or(word, |(_, value)| if value.len() > 8 { value } else { word });
    if let Some((id, secret)) = word.split_once('.')
        && (id.len(), secret.len()) == (6, 16)
        && plain(id)
        && plain(secret)
    {
        return true;
    }
    let hex = word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let base64 = word.len() > 100 && !word.contains('.') && word.matches('/').count() < 8;
    hex || base64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_keys_are_masked_and_other_words_are_not() {
        let key = "a".repeat(64);
        let cases = [
            ("use abcdef.0123456789abcdef now", "use **** now".to_owned()),
            ("--token=abcdef.0123456789abcdef.", "****".to_owned()),
            (&format!("key {key}"), "key ****".to_owned()),
            (&format!("image sha256:{key}"), format!("image sha256:{key}")),
            ("[certs] Using /etc/kubernetes/pki", "[certs] Using /etc/kubernetes/pki".to_owned()),
            ("10.96.0.1, node-1.example.internal", "10.96.0.1, node-1.example.internal".to_owned()),
        ];
        for (text, expected) in cases {
            assert_eq!(mask_secrets(text), expected);
        }
    }

    #[test]
    fn an_error_carries_the_end_of_what_was_said() {
        let program = Program::new("dpkg").args(["--install", "x.deb"]);
        let error = Output::failed(2, "a\nb  c\n").checked(&program).unwrap_err();
        assert_eq!(error.to_string(), "`dpkg --install x.deb` failed (exit 2): a b c");
    }

    #[test]
    fn input_never_shows() {
        let program = Program::new("kubectl").arg("apply").with_input("secret");
        assert_eq!(format!("{program:?}"), "kubectl apply");
    }
}
