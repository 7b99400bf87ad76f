//! The hands at the console: the QEMU guest agent, for what comes before SSH (address, host key, clock).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// How long one command may take in a machine that computes forty times slower than its host.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// A connection to the guest agent of one machine. Only one can be open at a time.
#[derive(Debug)]
pub struct Guest {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Guest {
    /// Connect and wait until the guest answers, at most `limit`.
    ///
    /// # Errors
    /// When the guest doesn't answer in time.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            match Self::try_connect(socket) {
                Ok(guest) => return Ok(guest),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("guest agent silent for {limit:?}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn try_connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("can't connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut guest = Self { reader: BufReader::new(stream.try_clone()?), stream };
        guest.synchronise()?;
        guest.stream.set_read_timeout(Some(COMMAND_LIMIT))?;
        Ok(guest)
    }

    /// Answers to a caller that went away may still be in the pipe: skip to our own.
    fn synchronise(&mut self) -> Result<()> {
        let id: u32 = rand::random();
        self.send("guest-sync", json!({ "id": id }))?;
        for _ in 0..1000 {
            if self.receive()?["return"] == json!(id) {
                return Ok(());
            }
        }
        bail!("the guest agent never answered our sync")
    }

    fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        let mut line = serde_json::to_vec(&json!({ "execute": command, "arguments": arguments }))?;
        line.push(b'\n');
        self.stream.write_all(&line).context("the guest agent's socket is closed")
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line).context("no answer from the guest agent")?;
        serde_json::from_str(&line).with_context(|| format!("guest agent said {line:?}"))
    }

    fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments)?;
        let mut answer = self.receive()?;
        if let Some(error) = answer.get("error") {
            bail!("{command}: {error}");
        }
        Ok(answer["return"].take())
    }

    /// Run a program, with `input` on its stdin.
    ///
    /// # Errors
    /// When it can't be started or takes too long; its own failure is in the output.
    pub fn run(&mut self, argv: &[&str], input: &[u8]) -> Result<Output> {
        let [program, arguments @ ..] = argv else { bail!("empty command") };
        let started = self.call(
            "guest-exec",
            json!({ "path": program, "arg": arguments, "capture-output": true,
                    "input-data": STANDARD.encode(input) }),
        )?;
        let deadline = Instant::now() + COMMAND_LIMIT;
        while Instant::now() < deadline {
            let status = self.call("guest-exec-status", json!({ "pid": started["pid"] }))?;
            if status["exited"] == json!(true) {
                return output_of(&status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("`{program}` still runs in the machine after {COMMAND_LIMIT:?}")
    }

    /// Run a program that must succeed; its stdout.
    ///
    /// # Errors
    /// When it fails; its stderr is in the error.
    pub fn must(&mut self, argv: &[&str], input: &[u8]) -> Result<String> {
        let output = self.run(argv, input)?;
        if !output.status.success() {
            bail!("{argv:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn output_of(status: &Value) -> Result<Output> {
    use std::os::unix::process::ExitStatusExt as _;
    let bytes = |field: &str| -> Result<Vec<u8>> {
        Ok(STANDARD.decode(status[field].as_str().unwrap_or_default())?)
    };
    let code = status["exitcode"].as_i64().map_or(255, |code| code & 0xff);
    Ok(Output {
        status: std::process::ExitStatus::from_raw(i32::try_from(code)? << 8),
        stdout: bytes("out-data")?,
        stderr: bytes("err-data")?,
    })
}
