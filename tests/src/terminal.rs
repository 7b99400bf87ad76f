//! A program on a terminal of its own, and somebody who reads there and types.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::openpty,
    sys::termios::{LocalFlags, tcgetattr},
};

/// Somebody who waits longer than this for a program to say something gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs on a terminal. Killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    /// The side of the keyboard and the screen.
    ours: File,
    screen: Vec<u8>,
    /// What was waited for already ends here.
    read_to: usize,
}

impl Terminal {
    /// Starts a program with the terminal as its controlling one, which is where passwords are asked for.
    ///
    /// # Errors
    /// There is no terminal to be had, or `setsid` (util-linux) is missing.
    pub fn start(argv: &[&str], change: impl FnOnce(&mut Command)) -> Result<Self> {
        let pair = openpty(None, None).context("cannot make a terminal")?;
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(argv).env_clear();
        change(&mut command);
        let theirs = pair.slave;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        let child = command.spawn().context("setsid (util-linux) is needed for this test")?;
        Ok(Self { child, ours: File::from(pair.master), screen: Vec::new(), read_to: 0 })
    }

    /// All that was on the screen until now.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen).into_owned()
    }

    /// What is typed is not shown now.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn hides_typing(&self) -> Result<bool> {
        Ok(!tcgetattr(&self.ours)?.local_flags.contains(LocalFlags::ECHO))
    }

    /// Waits until the program has said these words since the last time.
    ///
    /// # Errors
    /// It ended or stayed silent; the error has the screen.
    pub fn until(&mut self, words: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let fresh = &self.screen[self.read_to..];
            let found = fresh.windows(words.len()).position(|part| part == words.as_bytes());
            if let Some(at) = found {
                self.read_to += at + words.len();
                return Ok(());
            }
            let more = self.hear(PATIENCE.saturating_sub(started.elapsed()))?;
            ensure!(more, "`{words}` was not said:\n{}", self.screen());
        }
    }

    /// Waits for these words and for typing to be hidden, then types the answer.
    ///
    /// # Errors
    /// As [`Terminal::until`].
    pub fn answer_hidden(&mut self, words: &str, answer: &str) -> Result<()> {
        self.until(words)?;
        let started = Instant::now();
        while !self.hides_typing()? {
            ensure!(started.elapsed() < PATIENCE, "what is typed would be shown");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.press(&format!("{answer}\n"))
    }

    /// Waits for these words, then types the answer.
    ///
    /// # Errors
    /// As [`Terminal::until`].
    pub fn answer(&mut self, words: &str, answer: &str) -> Result<()> {
        self.until(words)?;
        self.press(&format!("{answer}\n"))
    }

    /// Types as it is (`\x03` is Ctrl-C).
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.ours.write_all(keys.as_bytes())?)
    }

    /// Waits for the program's end; its exit code (128 and the signal, where one ended it) and the whole screen.
    ///
    /// # Errors
    /// It doesn't end.
    pub fn end(mut self) -> Result<(i32, String)> {
        let started = Instant::now();
        while self.hear(PATIENCE.saturating_sub(started.elapsed()))? {}
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status.code().unwrap_or(-1), self.screen()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("it does not end:\n{}", self.screen())
    }

    /// Hears more; false when the program let go of the terminal or said nothing for so long.
    fn hear(&mut self, limit: Duration) -> Result<bool> {
        let mut waiting = [PollFd::new(self.ours.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::try_from(limit)?)? == 0 {
            return Ok(false);
        }
        let mut bytes = [0; 4096];
        match self.ours.read(&mut bytes) {
            Ok(count) => {
                self.screen.extend_from_slice(&bytes[..count]);
                Ok(count > 0)
            }
            // What a terminal says when its last program let go of it.
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // `setsid` and the program; the hang-up of the terminal ends whatever is left of them.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
