//! A daemon of its own for a test: on a free port of loopback, with a folder for its configuration, an `/etc` that only it
//! writes to, and a service manager that is this test.
#![expect(clippy::unwrap_used, reason = "a test's kit fails as a test does")]
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Daemon {
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    manager: UnixDatagram,
    child: Option<Child>,
    around: Around,
}

/// What a test has the daemon live in.
#[derive(Debug, Default)]
pub struct Around {
    /// Shell lines, in its mount namespace and before it begins.
    pub prepare: String,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Daemon {
    /// Starts one and waits until it says that it is ready.
    pub fn start(configuration: &str) -> Self {
        Self::start_in(configuration, |_| Around::default())
    }

    /// The same, in what `around` makes of its folder.
    pub fn start_in(configuration: &str, around: impl FnOnce(&Path) -> Around) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for name in ["config/agent.d", "etc", "work"] {
            fs_err::create_dir_all(folder.path().join(name)).unwrap();
        }
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let around = around(folder.path());
        let mut daemon = Self { folder, address: free, manager, child: None, around };
        daemon.configure("agent.yaml", &format!("api:\n  address: {free}\n"));
        daemon.configure("agent.d/10-test.yaml", configuration);
        daemon.run();
        daemon
    }

    /// A file of its configuration.
    pub fn configure(&self, name: &str, text: &str) {
        fs_err::write(self.path("config").join(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the program, and waits until it says that it is ready.
    pub fn run(&mut self) {
        let agent = kdc_tests::workspace::built("kdc-agent").unwrap();
        let place = self.folder.path().display();
        // Labels are written below /etc; the host's own stays as it is.
        let script = format!(
            "mount -t overlay overlay -o lowerdir=/etc,upperdir={place}/etc,workdir={place}/work /etc\n\
             {}\n exec {} daemon --config {place}/config --gpus {place}/gpus.json",
            self.around.prepare,
            agent.display()
        );
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script])
            .env("NOTIFY_SOCKET", self.path("notify"))
            .envs(self.around.environment.iter().map(|(name, value)| (*name, value.as_path())))
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .stdin(Stdio::null())
            .stderr(fs_err::File::create(self.path("log")).unwrap().into_parts().0)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.told("READY=1");
    }

    /// Waits until the service manager is told so, and returns all that came with it.
    pub fn told(&self, word: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 8192];
        while Instant::now() < until {
            let length = self
                .manager
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("`{word}` was not said ({error}): {}", self.log()));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(word) {
                return text;
            }
        }
        panic!("`{word}` was not said within {PATIENCE:?}: {}", self.log());
    }

    pub fn log(&self) -> String {
        fs_err::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A path as the daemon sees it, in its own mount namespace.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said is of no use any more.
        self.manager.set_nonblocking(true).unwrap();
        while self.manager.recv(&mut [0; 64]).is_ok() {}
        self.manager.set_nonblocking(false).unwrap();
    }

    /// Asks it to end, and returns its exit status.
    pub fn end(&mut self) -> i32 {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.child.take().unwrap().wait().unwrap();
        status.code().unwrap_or(-1)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.try_ask(method, path, headers)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", self.log()))
    }

    pub fn try_ask(&self, method: &str, path: &str, headers: &str) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        parse(&text).ok_or_else(|| std::io::Error::other(format!("no answer: {text}")))
    }

    /// The classic page.
    pub fn metrics(&self) -> String {
        self.ask("GET", "/metrics", "").body
    }
}

/// Head and body; chunks are put together.
fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body = match headers.get("transfer-encoding").map(String::as_str) {
        Some("chunked") => {
            let (mut whole, mut rest) = (String::new(), body);
            while let Some((size, after)) = rest.split_once("\r\n") {
                let size = usize::from_str_radix(size, 16).ok()?;
                whole.push_str(after.get(..size)?);
                rest = after.get(size + 2..)?;
            }
            whole
        }
        _ => body.to_owned(),
    };
    Some(Answer { status, headers, body })
}

/// Every sample of a page by name and labels.
pub fn samples(page: &str) -> BTreeMap<String, f64> {
    page.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (name, value) =
                line.rsplit_once(' ').unwrap_or_else(|| panic!("`{line}` is no sample"));
            let value = match value {
                "+Inf" => f64::INFINITY,
                value => value.parse().unwrap_or_else(|_| panic!("`{line}` has no number")),
            };
            (name.to_owned(), value)
        })
        .collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It is going either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
