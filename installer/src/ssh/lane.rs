//! A lane: one running command with its stdin, stdout and stderr, over SSH or as a child process.

use std::{process::Stdio, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client::Msg};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use super::dial::Link;

/// A channel must open by then.
const OPEN: Duration = Duration::from_secs(30);

/// Read at once from a child process.
const READ_BYTES: usize = 64 * 1024;

/// Opens lanes to one node.
#[derive(Clone)]
pub(super) enum Opener {
    Ssh(Arc<Link>),
    Local,
}

/// What a lane brings.
#[derive(Debug)]
pub(super) enum Heard {
    /// Bytes of stdout.
    Out(Bytes),
    /// Bytes of stderr.
    Err(Bytes),
    /// The command ended, and how, in words.
    End(String),
}

/// Hears what the command says. Cancel safe.
pub(super) enum LaneReader {
    Ssh { half: ChannelReadHalf, exit: Option<String> },
    Local(Box<LocalReader>),
}

/// Feeds the command's stdin.
pub(super) enum LaneWriter {
    Ssh(ChannelWriteHalf<Msg>),
    Local(Option<ChildStdin>),
}

pub(super) struct LocalReader {
    child: Child,
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
    out_bytes: BytesMut,
    err_bytes: BytesMut,
}

/// `text` as one word of a POSIX shell (and of fish).
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Opener {
    /// Run `script` with `/bin/sh`; also says how long the node took to open the channel.
    pub(super) async fn run(
        &self,
        script: &str,
        arguments: &[&str],
    ) -> Result<(LaneReader, LaneWriter, Duration), String> {
        match self {
            Self::Ssh(link) => {
                let started = Instant::now();
                let opening = link.handle.channel_open_session();
                let channel: Channel<Msg> = match timeout(OPEN, opening).await {
                    Ok(Ok(channel)) => channel,
                    Ok(Err(error)) => return Err(format!(": {error}")),
                    Err(_) => return Err(": no channel opens".to_owned()),
                };
                let took = started.elapsed();
                let mut command = format!("exec /bin/sh -c {} kdc", quote(script));
                for argument in arguments {
                    command.push(' ');
                    command.push_str(&quote(argument));
                }
                channel.exec(true, command).await.map_err(|error| format!(": {error}"))?;
                let (half, writer) = channel.split();
                Ok((LaneReader::Ssh { half, exit: None }, LaneWriter::Ssh(writer), took))
            }
            Self::Local => {
                let mut child = Command::new("/bin/sh")
                    .arg("-c")
                    .arg(script)
                    .arg("kdc")
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()
                    .map_err(|error| format!(": /bin/sh: {error}"))?;
                let writer = LaneWriter::Local(child.stdin.take());
                let reader = LocalReader {
                    out: child.stdout.take(),
                    err: child.stderr.take(),
                    child,
                    out_bytes: BytesMut::new(),
                    err_bytes: BytesMut::new(),
                };
                Ok((LaneReader::Local(Box::new(reader)), writer, Duration::ZERO))
            }
        }
    }

    /// What the server said when it ended the connection, if it did.
    pub(super) fn last_words(&self) -> String {
        match self {
            Self::Ssh(link) => {
                let words = link.last_words.lock().ok().and_then(|words| words.clone());
                words.map_or_else(String::new, |words| format!(": {words}"))
            }
            Self::Local => String::new(),
        }
    }
}

impl LaneReader {
    /// The next thing the command says; after [`Heard::End`] nothing more comes.
    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::Ssh { half, exit } => loop {
                match half.wait().await {
                    Some(ChannelMsg::Data { data }) => return Heard::Out(data),
                    Some(ChannelMsg::ExtendedData { data, .. }) => return Heard::Err(data),
                    Some(ChannelMsg::ExitStatus { exit_status }) => {
                        *exit = Some(format!("exit status {exit_status}"));
                    }
                    Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                        *exit = Some(format!("killed by {signal_name:?}"));
                    }
                    Some(ChannelMsg::Failure) => {
                        *exit = Some("the server runs no commands".to_owned())
                    }
                    Some(_) => {}
                    None => return Heard::End(exit.take().unwrap_or_default()),
                }
            },
            Self::Local(local) => local.next().await,
        }
    }
}

impl LocalReader {
    async fn next(&mut self) -> Heard {
        loop {
            self.out_bytes.reserve(READ_BYTES);
            self.err_bytes.reserve(READ_BYTES);
            let (count, is_out) = match (&mut self.out, &mut self.err) {
                (Some(out), Some(err)) => tokio::select! {
                    count = out.read_buf(&mut self.out_bytes) => (count, true),
                    count = err.read_buf(&mut self.err_bytes) => (count, false),
                },
                (Some(out), None) => (out.read_buf(&mut self.out_bytes).await, true),
                (None, Some(err)) => (err.read_buf(&mut self.err_bytes).await, false),
                (None, None) => {
                    let ended = self.child.wait().await;
                    return Heard::End(
                        ended.map_or_else(|e| e.to_string(), |status| status.to_string()),
                    );
                }
            };
            match (count, is_out) {
                (Ok(0) | Err(_), true) => self.out = None,
                (Ok(0) | Err(_), false) => self.err = None,
                (Ok(_), true) => return Heard::Out(self.out_bytes.split().freeze()),
                (Ok(_), false) => return Heard::Err(self.err_bytes.split().freeze()),
            }
        }
    }
}

impl LaneWriter {
    /// Send bytes; returns when they are handed over, so a slow node slows the sender. Not cancel
    /// safe.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), String> {
        match self {
            Self::Ssh(half) => half.data_bytes(bytes).await.map_err(|error| format!(": {error}")),
            Self::Local(Some(stdin)) => {
                let written = async {
                    stdin.write_all(&bytes).await?;
                    stdin.flush().await
                };
                written.await.map_err(|error| format!(": {error}"))
            }
            Self::Local(None) => Err(": the command's input is closed".to_owned()),
        }
    }

    /// End the command's stdin. A lane that is gone already has nothing to end.
    pub(super) async fn finish(&mut self) {
        match self {
            Self::Ssh(half) => drop(half.eof().await),
            Self::Local(stdin) => drop(stdin.take()),
        }
    }
}

/// The last bytes of something that may be long.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    const BYTES: usize = 2048;

    /// Take in more.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(Self::BYTES);
        self.0.drain(..surplus);
    }

    /// As one line for an error message, control characters left out.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        lines.join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_local_lane_gives_back_what_it_is_fed_and_says_how_it_ended() {
        let script = "read line; printf '%s|%s' \"$line\" \"$1\"; echo oops >&2; exit 3";
        let (mut reader, mut writer, _) = Opener::Local.run(script, &["it's"]).await.unwrap();
        writer.send(Bytes::from_static(b"hello\n")).await.unwrap();
        writer.finish().await;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let end = loop {
            match reader.next().await {
                Heard::Out(bytes) => out.extend_from_slice(&bytes),
                Heard::Err(bytes) => err.extend_from_slice(&bytes),
                Heard::End(how) => break how,
            }
        };
        assert_eq!((out.as_slice(), err.as_slice()), (&b"hello|it's"[..], &b"oops\n"[..]));
        assert!(end.contains('3'), "{end}");
    }

    #[test]
    fn a_tail_keeps_the_end_in_one_clean_line() {
        let mut tail = Tail::default();
        tail.push(&[b'x'; 5000]);
        tail.push(b"\n\x1b[31mred\x07\r\n\nlast\n");
        assert!(tail.text().ends_with("x / [31mred / last"), "{}", tail.text());
        assert!(tail.text().len() < Tail::BYTES);
    }
}
