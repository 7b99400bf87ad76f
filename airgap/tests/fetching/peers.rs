//! Who a builder talks to, on loopback: a web server that breaks in every way, a registry. The Debian archive
//! is next door.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use kdc_airgap::{
    Cache, FetchOptions, Fetcher, LockError, LockRequest, Silent, fetch::Patience, lock,
};
use kdc_profiles::{
    definition::{BundleDefinition, parse},
    lock::BundleLock,
};
use tempfile::TempDir;

/// A question to the web server.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) path: String,
    /// Where a range begins.
    pub(crate) from: Option<u64>,
    /// The whole head, in lower case.
    pub(crate) head: String,
    /// How many came before for the same path.
    pub(crate) nth: usize,
}

/// Pieces of an answer.
pub(crate) enum Part {
    Send(Vec<u8>),
    Wait(Duration),
}

/// A web server that answers exactly what it is told, and closes.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) questions: Arc<Mutex<Vec<Question>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Question) -> Vec<Part> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let questions = Arc::new(Mutex::new(Vec::<Question>::new()));
        let (asked, answer) = (Arc::clone(&questions), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream.unwrap(), &asked, &*answer));
            }
        });
        Self { port, questions }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Where each question for the path began.
    pub(crate) fn starts(&self, path: &str) -> Vec<u64> {
        let questions = self.questions.lock().unwrap();
        let those = questions.iter().filter(|question| question.path == path);
        those.map(|question| question.from.unwrap_or(0)).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    asked: &Mutex<Vec<Question>>,
    answer: &dyn Fn(&Question) -> Vec<Part>,
) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push_str(&line.to_lowercase());
    }
    let Some(path) = head.split(' ').nth(1).map(|path| path.trim_start_matches('/').to_owned())
    else {
        return;
    };
    let from = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let from = from.and_then(|range| range.trim_end_matches('-').parse().ok());
    let question = {
        let mut all = asked.lock().unwrap();
        let nth = all.iter().filter(|one| one.path == path).count();
        let question = Question { path, from, head, nth };
        all.push(question.clone());
        question
    };
    for part in answer(&question) {
        match part {
            Part::Send(bytes) if stream.write_all(&bytes).is_err() => return,
            Part::Send(_) => {}
            Part::Wait(time) => std::thread::sleep(time),
        }
    }
}

/// An answer with a length stated.
pub(crate) fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<Part> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    );
    vec![Part::Send([head.as_bytes(), body].concat())]
}

/// A good answer, with or without a range.
pub(crate) fn good(question: &Question, content: &[u8], headers: &str) -> Vec<Part> {
    match question.from {
        Some(from) if (from as usize) < content.len() => {
            let (rest, all) = (&content[from as usize..], content.len());
            let headers = format!("Content-Range: bytes {from}-{}/{all}\r\n{headers}", all - 1);
            answer("206 Partial Content", &headers, rest.len(), rest)
        }
        _ => answer("200 OK", headers, content.len(), content),
    }
}

/// A builder: a folder for definitions, a cache, and no patience.
pub(crate) struct Builder {
    pub(crate) home: TempDir,
    pub(crate) options: FetchOptions,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let patience = Patience {
            attempts: 3,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(20),
            answer: Duration::from_secs(20),
            stall: Duration::from_secs(20),
        };
        let home = tempfile::tempdir().unwrap();
        // Nobody's own logins.
        let config = home.path().join("docker.json");
        fs_err::write(&config, "{}").unwrap();
        let docker_config = Some(config);
        Self { home, options: FetchOptions { patience, docker_config, ..FetchOptions::default() } }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs_err::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs_err::write(self.at(name), content).unwrap();
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::open(&self.at("cache")).unwrap()
    }

    pub(crate) fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.cache(), self.options.clone()).unwrap()
    }

    pub(crate) fn lock(&self, body: &str) -> Result<BundleLock, LockError> {
        self.lock_again(body, None, &[])
    }

    pub(crate) fn lock_again(
        &self,
        body: &str,
        old: Option<&BundleLock>,
        update: &[String],
    ) -> Result<BundleLock, LockError> {
        let definition = definition(body);
        let request = LockRequest {
            definition: &definition,
            folder: self.home.path(),
            old,
            update,
            now: SystemTime::now(),
        };
        run(lock(&self.fetcher(), &request, &mut Silent))
    }

    /// What is wrong with it; nothing may be left behind.
    pub(crate) fn refusal(&self, body: &str) -> String {
        let error = self.lock(body).expect_err("this has to be refused");
        assert_eq!(self.left(), 0, "something is left in the cache after: {error}");
        error.to_string()
    }

    /// Downloads that are not whole.
    pub(crate) fn left(&self) -> usize {
        fs_err::read_dir(self.at("cache/partial")).unwrap().count()
    }
}

/// Runs it on a runtime like the command's.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn definition(body: &str) -> BundleDefinition {
    let head = "apiVersion: kdc.dev/v1\nkind: BundleDefinition\n\
                metadata: {name: sample, version: \"1\"}\n";
    parse(&format!("{head}{body}"), "d.yaml").unwrap_or_else(|problems| panic!("{problems}"))
}

/// A program run to its end; its output.
pub(crate) fn must(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program} (tests/setup.sh installs it): {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program that runs until the end of the test.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(program: &str, arguments: &[&str], folder: &Path, port: u16) -> Self {
        let log = fs_err::File::create(folder.join("log")).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.file().try_clone().unwrap())
            .stderr(log.file().try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} (tests/setup.sh installs it): {error}"));
        let mut running = Self(child);
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || fs_err::read_to_string(folder.join("log")).unwrap();
            assert!(running.0.try_wait().unwrap().is_none(), "{program} ended: {}", log());
            assert!(since.elapsed() < Duration::from_secs(30), "{program} is silent: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A private authority and a certificate of it for `localhost`, valid from one time to another
/// (`openssl`'s notation): `ca.pem`, `server.pem`, `server.key`.
pub(crate) fn certificates(folder: &Path, not_before: &str, not_after: &str) {
    let openssl = |arguments: &str| {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        must("openssl", &arguments, folder);
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {new_key} -keyout ca.key -out ca.pem -days 3650 -subj /CN=site-authority"
    ));
    openssl(&format!("req {new_key} -keyout server.key -out server.csr -subj /CN=localhost"));
    fs_err::create_dir_all(folder.join("issued")).unwrap();
    fs_err::write(folder.join("index.txt"), "").unwrap();
    fs_err::write(folder.join("serial"), "01").unwrap();
    let config = "[ca]\ndefault_ca = site\n[site]\ndatabase = index.txt\nserial = serial\n\
                  new_certs_dir = issued\ndefault_md = sha256\npolicy = any\nx509_extensions = server\n\
                  [any]\ncommonName = supplied\n[server]\nsubjectAltName = DNS:localhost\n\
                  extendedKeyUsage = serverAuth\nbasicConstraints = CA:false\n";
    fs_err::write(folder.join("ca.conf"), config).unwrap();
    openssl(&format!(
        "ca -batch -config ca.conf -cert ca.pem -keyfile ca.key -in server.csr -out server.pem \
         -notext -startdate {not_before} -enddate {not_after}"
    ));
}
