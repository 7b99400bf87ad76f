//! Staging: one exec that finds or takes the agent, checks it, and becomes it.
//!
//! The conversation is by lines that start with a mark no login shell prints: `NEED` asks for the
//! bytes, `ROOT`, `FREE` and `PASSWORD` say how the agent is started, the rest are refusals. After
//! the start the same channel carries frames, the agent's greeting first.

use std::time::Duration;

use bytes::Bytes;
use kdc_agent::wire::{Hello, PROTOCOL, frame::Decoder};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;

use super::{
    AgentBinary, Keyring, SecretKind, SshError,
    error::At,
    lane::{Heard, LaneReader, LaneWriter, Opener, Tail, quote},
};

const SCRIPT: &str = include_str!("stage.sh");

/// Login shells run their rc files before the first line comes.
const FIRST_LINE_SECS: u64 = 60;

/// The upload must move at least this often.
const STALL_SECS: u64 = 30;

/// Digest check and sudo's own delays.
const GREETING_SECS: u64 = 30;

const CHUNK_BYTES: usize = 256 * 1024;

/// What login shells may print before our first line.
const MAX_NOISE_BYTES: usize = 1024 * 1024;

/// How the agent becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rise {
    /// The login is root.
    Root,
    /// sudo asks for nothing.
    Free,
    /// sudo wants a password on stdin.
    Password,
}

/// Where the agent is on the node and how it is started.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) rise: Rise,
    pub(super) mark: String,
}

/// A started agent that greeted.
pub(super) struct Started {
    pub(super) reader: LaneReader,
    pub(super) writer: LaneWriter,
    pub(super) decoder: Decoder,
    pub(super) hello: Hello,
    pub(super) place: Place,
    pub(super) round_trip: Duration,
    /// The agent's bytes were sent.
    pub(super) uploaded: bool,
}

/// Who and where, for staging and its errors.
pub(super) struct Staging<'a> {
    pub(super) opener: &'a Opener,
    pub(super) at: &'a At,
    pub(super) user: &'a str,
    pub(super) keyring: &'a Keyring,
}

/// The script without its comments, as it goes over the wire.
fn script() -> String {
    let kept = SCRIPT.lines().filter(|line| !line.trim_start().starts_with('#'));
    kept.fold(String::new(), |text, line| text + line + "\n")
}

/// Find or upload the agent, start it, and wait for its greeting.
pub(super) async fn start(with: &Staging<'_>, agent: &AgentBinary) -> Result<Started, SshError> {
    let hex = agent.digest().hex();
    let mark = format!("kdc-{}", &hex[..16]);
    let size = agent.size().to_string();
    let (reader, mut writer, round_trip) =
        with.opener
            .run(&script(), &[&mark, hex, &size])
            .await
            .map_err(|detail| with.lost("opening a channel", detail))?;
    let mut talk = Talk::new(reader, &mark);
    let mut line = with.hear(&mut talk, FIRST_LINE_SECS).await?;
    let uploaded = line.0 == "NEED";
    if uploaded {
        line = with.upload(&mut talk, &mut writer, agent).await?;
    }
    let rise = with.judge(&line, agent)?;
    let place = Place { path: line.1, rise, mark };
    if rise == Rise::Password {
        let mut password = with.sudo_password().await?.expose_secret().to_owned();
        password.push('\n');
        writer
            .send(Bytes::from(password))
            .await
            .map_err(|detail| with.lost("starting the agent", detail))?;
    }
    let mut decoder = Decoder::default();
    decoder.feed(&talk.buffer);
    let hello = match timeout(
        Duration::from_secs(GREETING_SECS),
        with.greeting(&mut talk.reader, &mut decoder, &mut talk.said, rise),
    )
    .await
    {
        Ok(hello) => hello?,
        Err(_) => return Err(with.silent(&talk.said, &format!("within {GREETING_SECS} s"))),
    };
    with.compatible(&hello)?;
    Ok(Started { reader: talk.reader, writer, decoder, hello, place, round_trip, uploaded })
}

impl Staging<'_> {
    async fn upload(
        &self,
        talk: &mut Talk,
        writer: &mut LaneWriter,
        agent: &AgentBinary,
    ) -> Result<(String, String), SshError> {
        let stall = Duration::from_secs(STALL_SECS);
        let content = agent.content();
        let sending = async {
            for start in (0..content.len()).step_by(CHUNK_BYTES) {
                let end = (start + CHUNK_BYTES).min(content.len());
                match timeout(stall, writer.send(content.slice(start..end))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(detail)) => return Err(self.lost("uploading the agent", detail)),
                    Err(_) => return Err(self.late("uploading the agent", STALL_SECS)),
                }
            }
            Ok(())
        };
        tokio::pin!(sending);
        tokio::select! {
            // A full disk speaks up before all is sent.
            early = talk.line() => early.map_err(|end| self.ended(talk, &end)),
            sent = &mut sending => {
                sent?;
                self.hear(talk, GREETING_SECS).await
            }
        }
    }

    async fn hear(&self, talk: &mut Talk, secs: u64) -> Result<(String, String), SshError> {
        match timeout(Duration::from_secs(secs), talk.line()).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(end)) => Err(self.ended(talk, &end)),
            Err(_) => Err(self.late("waiting for the login shell", secs)),
        }
    }

    /// What the node's line means: how the agent is started, or why not.
    fn judge(&self, line: &(String, String), agent: &AgentBinary) -> Result<Rise, SshError> {
        let (at, rest) = (self.at.clone(), line.1.clone());
        Err(match line.0.as_str() {
            "ROOT" => return Ok(Rise::Root),
            "FREE" => return Ok(Rise::Free),
            "PASSWORD" => return Ok(Rise::Password),
            "NOSUDO" => SshError::NoSudo { at },
            "LACKS" => SshError::NoProgram { at, program: rest },
            "FULL" => SshError::DiskFull { at, places: rest },
            "NOPLACE" if rest.contains("full") => SshError::DiskFull { at, places: rest },
            "NOPLACE" => SshError::NoExec { at, places: rest },
            "DAMAGED" => SshError::Damaged {
                at,
                expected: agent.digest().to_string(),
                found: format!("sha256:{rest}"),
            },
            other => SshError::Unexpected {
                node: at.node,
                during: "staging the agent".to_owned(),
                detail: format!("`{other}`"),
            },
        })
    }

    async fn sudo_password(&self) -> Result<SecretString, SshError> {
        let kind = SecretKind::Sudo { user: self.user.to_owned() };
        let password = self.keyring.secret(kind, &self.at.node).await;
        password.ok_or_else(|| SshError::SudoPassword { at: self.at.clone() })
    }

    async fn greeting(
        &self,
        reader: &mut LaneReader,
        decoder: &mut Decoder,
        said: &mut Tail,
        rise: Rise,
    ) -> Result<Hello, SshError> {
        loop {
            match decoder.take::<Hello>() {
                Ok(Some(hello)) => return Ok(hello),
                Ok(None) => {}
                Err(error) => return Err(self.silent(said, &error.to_string())),
            }
            match reader.next().await {
                Heard::Out(bytes) => decoder.feed(&bytes),
                Heard::Err(bytes) => {
                    said.push(&bytes);
                    if rise != Rise::Root
                        && let Some(error) = self.sudo_says(said).await
                    {
                        return Err(error);
                    }
                }
                Heard::End(how) => return Err(self.silent(said, &how)),
            }
        }
    }

    /// sudo's refusals, in the C locale that the script sets.
    async fn sudo_says(&self, said: &Tail) -> Option<SshError> {
        let text = said.text();
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let at = self.at.clone();
        if says(&["not in the sudoers", "may not run sudo", "is not allowed to", "must have a tty"])
        {
            return Some(SshError::NotSudoer { at, said: text });
        }
        if says(&["try again", "incorrect password"]) {
            self.keyring.forget(&SecretKind::Sudo { user: self.user.to_owned() }).await;
            return Some(SshError::WrongSudoPassword { at });
        }
        says(&["password is required", "no password was provided"])
            .then_some(SshError::SudoPassword { at })
    }

    fn compatible(&self, hello: &Hello) -> Result<(), SshError> {
        let (oldest, newest) = PROTOCOL;
        if hello.newest >= oldest && hello.oldest <= newest {
            return Ok(());
        }
        Err(SshError::Protocol {
            at: self.at.clone(),
            version: hello.agent_version.clone(),
            oldest: hello.oldest,
            newest: hello.newest,
            ours: format!("{oldest} to {newest}"),
        })
    }

    /// The login ended before the script said anything, or in the middle.
    fn ended(&self, talk: &Talk, how: &str) -> SshError {
        let at = self.at.clone();
        let said = talk.said.text();
        if how.is_empty() {
            return self.lost("staging the agent", self.opener.last_words());
        }
        let said = if said.is_empty() { format!(": {how}") } else { format!(": {how}: {said}") };
        SshError::NoShell { at, said }
    }

    fn silent(&self, said: &Tail, how: &str) -> SshError {
        let text = said.text();
        let mut parts = vec![how.to_owned(), text];
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            return self.lost("starting the agent", self.opener.last_words());
        }
        SshError::AgentSilent { at: self.at.clone(), said: format!(": {}", parts.join(": ")) }
    }

    fn lost(&self, during: &str, detail: String) -> SshError {
        SshError::Lost { node: self.at.node.clone(), during: during.to_owned(), detail }
    }

    fn late(&self, during: &str, secs: u64) -> SshError {
        SshError::Deadline { node: self.at.node.clone(), during: during.to_owned(), secs }
    }
}

impl Place {
    /// Command line of a further lane: a mark, so that noise before it is told apart, then the
    /// agent with these arguments.
    pub(super) fn script(&self, arguments: &str) -> String {
        let path = quote(&self.path);
        let rise = match self.rise {
            Rise::Root => "",
            Rise::Free => "sudo -n -- ",
            Rise::Password => "sudo -S -p '' -- ",
        };
        format!("printf '%s GO\\n' {}; exec {rise}{path} {arguments}", quote(&self.mark))
    }
}

/// Lines of the node that start with our mark, picked out of whatever else it prints.
pub(super) struct Talk {
    pub(super) reader: LaneReader,
    /// Bytes that came and were not used: after the last line, the agent's frames.
    pub(super) buffer: Vec<u8>,
    /// The end of what else was printed.
    pub(super) said: Tail,
    mark: String,
    noise: usize,
}

impl Talk {
    pub(super) fn new(reader: LaneReader, mark: &str) -> Self {
        Self { reader, buffer: Vec::new(), said: Tail::default(), mark: mark.to_owned(), noise: 0 }
    }

    /// The next marked line as word and rest; the error says how the command ended. Cancel safe.
    pub(super) async fn line(&mut self) -> Result<(String, String), String> {
        loop {
            while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Some(found) = self.marked(&line) {
                    return Ok(found);
                }
                self.noise += line.len();
                self.said.push(&line);
            }
            if self.noise + self.buffer.len() > MAX_NOISE_BYTES {
                return Err("it prints without end".to_owned());
            }
            match self.reader.next().await {
                Heard::Out(bytes) => self.buffer.extend_from_slice(&bytes),
                Heard::Err(bytes) => self.said.push(&bytes),
                Heard::End(how) => {
                    self.said.push(&self.buffer);
                    return Err(how);
                }
            }
        }
    }

    /// Noise without a line end may stand before the mark on the same line.
    fn marked(&self, line: &[u8]) -> Option<(String, String)> {
        let text = String::from_utf8_lossy(line);
        let (_, rest) = text.split_once(&format!("{} ", self.mark))?;
        let (word, rest) = rest.trim_end().split_once(' ').unwrap_or((rest.trim_end(), ""));
        Some((word.to_owned(), rest.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_small_and_loses_only_comments_on_the_wire() {
        assert!(SCRIPT.lines().count() <= 50);
        assert!(!script().contains("\n#"));
        assert!(script().contains("exec \"$agent\" serve --stdio"));
    }

    #[tokio::test]
    async fn marked_lines_are_found_in_noise() {
        let noise = "echo hi; printf 'prompt> '; printf 'm NEED /a b\\nm ROOT\\nframes'";
        let (reader, _, _) = Opener::Local.run(noise, &[]).await.unwrap();
        let mut talk = Talk::new(reader, "m");
        assert_eq!(talk.line().await, Ok(("NEED".to_owned(), "/a b".to_owned())));
        assert_eq!(talk.line().await, Ok(("ROOT".to_owned(), String::new())));
        assert_eq!(talk.buffer, b"frames");
        assert!(talk.line().await.is_err());
        assert!(talk.said.text().contains("hi"));
    }
}
