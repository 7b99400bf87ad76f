//! Programs of the real machine: started, fed, listened to, and ended at their deadline.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{sys::signal, unistd::Pid};

use super::{
    Feed, HostError, Output, Program,
    program::{MAX_STDOUT_BYTES, TAIL_BYTES},
};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest line handed to a listener; the rest of a longer one comes as further lines.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// How long a killed program may take to be gone. Only one that sleeps in a driver takes longer, and nobody waits for that.
const GRACE: Duration = Duration::from_secs(5);

/// Run a program on this machine, as [`super::Host::stream`] promises.
pub(super) fn stream(
    program: &Program,
    feed: Feed<'_>,
    line: &mut dyn FnMut(&str),
) -> Result<Output, HostError> {
    let mut child = spawn(program)?;
    let listening = listen(&mut child);
    let mut stdin = child.stdin.take();
    let group = child.id();
    std::thread::scope(|scope| {
        let fed = scope.spawn(move || {
            let Some(pipe) = stdin.as_mut() else { return Ok(()) };
            let fed = feed(pipe).and_then(|()| pipe.flush());
            if fed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
                // Before the pipe closes: half an input must not look like a whole one.
                kill_group(group);
            }
            fed
        });
        let ended = attend(program, &mut child, &listening, || fed.is_finished(), line);
        if ended.is_err() {
            kill_group(group);
        }
        let fed = fed.join().unwrap_or_else(|_| Err(io::Error::other("the feeder panicked")));
        match (ended, fed) {
            (Err(error), _) => Err(error),
            (Ok(_), Err(source)) if source.kind() != io::ErrorKind::BrokenPipe => {
                Err(HostError::Feed { program: program.name().to_owned(), source })
            }
            (Ok(output), _) => Ok(output),
        }
    })
}

/// Start in a process group of its own, so that a deadline ends its children too.
fn spawn(program: &Program) -> Result<Child, HostError> {
    Command::new(program.name())
        .args(program.arguments())
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C")])
        .envs(program.environment().iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| HostError::Start { program: program.name().to_owned(), source })
}

fn kill_group(leader: u32) {
    if let Ok(id) = i32::try_from(leader) {
        // The group may be gone already, which is what we want.
        let _gone = signal::killpg(Pid::from_raw(id), signal::Signal::SIGKILL);
    }
}

/// What a program's pipes deliver.
enum Heard {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// Read both pipes on threads of their own; the channel ends when both are closed.
fn listen(child: &mut Child) -> mpsc::Receiver<Heard> {
    // Bounded, so that a program which talks faster than we listen waits instead of filling memory.
    let (sender, receiver) = mpsc::sync_channel(64);
    if let Some(stdout) = child.stdout.take() {
        let sender = sender.clone();
        std::thread::spawn(move || relay(stdout, |line| sender.send(Heard::Out(line)).is_ok()));
    }
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || relay(stderr, |line| sender.send(Heard::Err(line)).is_ok()));
    }
    receiver
}

fn relay(pipe: impl Read, mut send: impl FnMut(Vec<u8>) -> bool) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        // A pipe that cannot be read is as good as closed: the exit status tells the rest.
        match (&mut pipe).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if !send(line) => return,
            Ok(_) => {}
        }
    }
}

/// Collect output until the program has ended and its pipes are closed, or its time is up.
fn attend(
    program: &Program,
    child: &mut Child,
    listening: &mpsc::Receiver<Heard>,
    fed: impl Fn() -> bool,
    line: &mut dyn FnMut(&str),
) -> Result<Output, HostError> {
    let start = Instant::now();
    let mut output = Output::default();
    let mut ended: Option<(ExitStatus, Instant)> = None;
    let wait_failed =
        |source| HostError::File { action: "wait for", path: program.name().to_owned(), source };
    loop {
        if ended.is_none() && start.elapsed() > program.deadline() {
            kill_group(child.id());
            let until = Instant::now() + GRACE;
            while child.try_wait().map_err(wait_failed)?.is_none() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            let (seconds, tail) = (program.deadline().as_secs(), output.tail());
            return Err(HostError::Deadline { program: program.line(), seconds, tail });
        }
        let closed = match listening.recv_timeout(Duration::from_millis(20)) {
            Ok(Heard::Out(bytes)) => {
                line(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
                if output.stdout.len() + bytes.len() <= MAX_STDOUT_BYTES {
                    output.stdout.extend(bytes);
                }
                continue;
            }
            Ok(Heard::Err(bytes)) => {
                output.stderr.extend(bytes);
                let extra = output.stderr.len().saturating_sub(TAIL_BYTES);
                output.stderr.drain(..extra);
                continue;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => false,
            Err(mpsc::RecvTimeoutError::Disconnected) => true,
        };
        if closed {
            // The pipes ended, so the program is about to: no need to burn a core meanwhile.
            std::thread::sleep(Duration::from_millis(2));
        }
        if ended.is_none() {
            ended = child.try_wait().map_err(wait_failed)?.map(|status| (status, Instant::now()));
        }
        // A daemon that a program left behind may hold its pipes open for ever: two seconds of grace.
        if let Some((status, at)) = ended
            && (closed || at.elapsed() > Duration::from_secs(2))
            && (fed() || at.elapsed() > Duration::from_secs(2))
        {
            output.code = status.code().or(status.signal().map(|n| 128 + n)).unwrap_or(1);
            return Ok(output);
        }
    }
}
