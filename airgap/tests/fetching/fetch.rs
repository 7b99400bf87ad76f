//! Fetching from a web server that does everything wrong: what can be mended is, what can't is refused
//! by name, and then nothing is left behind.

use std::time::Duration;

use kdc_airgap::{FetchError, Fetcher};
use kdc_bundles::index::Digest;

use crate::peers::{Builder, Part, Running, Server, answer, certificates, free_port, good, run};

/// Larger than any buffer on the way.
fn content() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(|number| number.to_le_bytes()).step_by(3).collect()
}

fn file(url: &str, digest: Option<&Digest>) -> String {
    let digest = digest.map(|digest| format!(", digest: \"{digest}\"")).unwrap_or_default();
    format!("artifacts: [{{name: x, kind: file, source: {{url: {{url: \"{url}\"{digest}}}}}}}]\n")
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let (content, digest) = (content(), Digest::of(&content()));
    let cuts = [1_000_000, 1_000_001, 3_500_000];
    let whole = content.clone();
    // Cut three times, each further on; and once the connection closes before any answer.
    let server = Server::start(move |question| match cuts.get(question.nth) {
        Some(cut) => {
            let from = question.from.unwrap_or(0) as usize;
            let all = whole.len();
            let range = format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1);
            let (status, headers) =
                if from > 0 { ("206 Partial Content", range.as_str()) } else { ("200 OK", "") };
            answer(status, headers, all - from, &whole[from..*cut])
        }
        None if question.nth == 3 => Vec::new(),
        None => good(question, &whole, ""),
    });
    let builder = Builder::new();
    let lock = builder.lock(&file(&server.url("x"), Some(&digest))).unwrap();
    assert_eq!(lock.artifacts[0].digest, digest.to_string());
    assert_eq!(lock.artifacts[0].size, content.len() as u64);
    assert_eq!(server.starts("x"), [0, 1_000_000, 1_000_001, 3_500_000, 3_500_000]);
    assert_eq!(builder.left(), 0);
}

#[test]
fn the_next_run_goes_on_where_the_last_one_gave_up_and_damage_in_between_is_mended() {
    let (content, digest) = (content(), Digest::of(&content()));
    let whole = content.clone();
    let server = Server::start(move |question| match question.nth {
        0 => answer("200 OK", "", whole.len(), &whole[..2_000_000]),
        1..3 => answer("503 Service Unavailable", "", 0, b""),
        _ => good(question, &whole, ""),
    });
    let builder = Builder::new();
    let body = file(&server.url("x"), Some(&digest));
    let error = builder.lock(&body).unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    let partial = builder.at("cache/partial").join(digest.hex());
    assert_eq!(fs_err::metadata(&partial).unwrap().len(), 2_000_000);
    // What lies there was damaged: it is found out at the end, and fetched from the beginning.
    let mut bytes = fs_err::read(&partial).unwrap();
    bytes[5] ^= 1;
    fs_err::write(&partial, bytes).unwrap();
    builder.lock(&body).unwrap();
    assert_eq!(server.starts("x"), [0, 2_000_000, 2_000_000, 2_000_000, 0]);
    assert_eq!(fs_err::read(builder.cache().path(&digest)).unwrap(), content);
    assert_eq!(builder.left(), 0);
}

#[test]
fn servers_that_know_no_ranges_or_change_the_file_are_asked_from_the_beginning() {
    let content = content();
    let other: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    for (digest, expected) in [(Some(Digest::of(&content)), &content), (None, &other)] {
        let (first, second) = (content.clone(), expected.clone());
        let server = Server::start(move |question| match question.nth {
            0 => answer("200 OK", "ETag: \"1\"\r\n", first.len(), &first[..1_000_000]),
            // `If-Range` doesn't hold any more, or was never looked at.
            _ => answer("200 OK", "ETag: \"2\"\r\n", second.len(), &second),
        });
        let builder = Builder::new();
        let lock = builder.lock(&file(&server.url("x"), digest.as_ref())).unwrap();
        assert_eq!(lock.artifacts[0].digest, Digest::of(expected).to_string());
        assert_eq!(server.starts("x"), [0, 1_000_000]);
        let questions = server.questions.lock().unwrap();
        assert!(questions[1].head.contains("if-range: \"1\""), "{}", questions[1].head);
    }
}

#[test]
fn a_busy_server_is_asked_again_and_a_missing_file_is_not() {
    let server = Server::start(|question| match (question.path.as_str(), question.nth) {
        ("busy", 0) => answer("503 Busy", "Retry-After: 0\r\n", 4, b"busy"),
        ("busy", 1) => answer("429 Too Many Requests", "", 0, b""),
        ("busy", _) => answer("200 OK", "", 2, b"ok"),
        _ => answer("404 Not Found", "", 0, b""),
    });
    let builder = Builder::new();
    builder.lock(&file(&server.url("busy"), None)).unwrap();
    let error = builder.refusal(&file(&server.url("none?token=secret"), None));
    assert!(error.contains("404") && !error.contains("secret"), "{error}");
    assert_eq!((server.starts("busy").len(), server.starts("none?token=secret").len()), (3, 1));
}

#[test]
fn what_no_patience_mends_is_refused_and_leaves_nothing() {
    let digest = Digest::of(b"right");
    let endless =
        || Part::Send(b"ffff\r\n".iter().copied().chain([0; 0xffff]).chain(*b"\r\n").collect());
    let server =
        Server::start(move |question| match question.path.as_str() {
            "wrong" => answer("200 OK", "", 5, b"wrong"),
            "loop" => answer("302 Found", "Location: /loop\r\n", 0, b""),
            "nowhere" => answer("302 Found", "", 0, b""),
            "script" => answer("302 Found", "Location: file:///etc/passwd\r\n", 0, b""),
            "short" => answer("200 OK", "", 100, b"right"),
            "range" => answer("206 Partial Content", "Content-Range: bytes 7-9/10\r\n", 3, b"abc"),
            "slow" => {
                let mut parts = answer("200 OK", "", 100, b"a");
                parts.push(Part::Wait(Duration::from_secs(5)));
                parts
            }
            "crawl" => {
                let mut parts = answer("200 OK", "", 1000, b"");
                parts.extend((0..100).flat_map(|_| {
                    [Part::Send(b"a".to_vec()), Part::Wait(Duration::from_millis(30))]
                }));
                parts
            }
            "endless" => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut parts = vec![Part::Send(head.to_vec())];
                parts.extend((0..40).map(|_| endless()));
                parts
            }
            _ => answer("404 Not Found", "", 0, b""),
        });
    let mut builder = Builder::new();
    builder.options.patience.stall = Duration::from_millis(300);
    for (path, digest, part) in [
        ("wrong", Some(&digest), "not sha256:"),
        ("loop", None, "redirect"),
        ("nowhere", None, "redirect without a place"),
        ("script", None, "not the web"),
        ("short", None, "can't be reached"),
        ("range", None, "doesn't begin at byte 0"),
        ("slow", None, "sent nothing for"),
        ("crawl", None, "sent nothing for"),
        ("endless", None, "can't be reached"),
    ] {
        let error = builder.refusal(&file(&server.url(path), digest));
        assert!(error.contains(part) && error.contains(path), "{path}: {error}");
    }
    assert!(builder.cache().list().unwrap().is_empty());
}

/// What a lock states is a limit too, before the first byte where the server says how much comes.
#[test]
fn more_or_fewer_bytes_than_the_lock_says_are_refused() {
    let server = Server::start(|question| match (question.path.as_str(), question.nth) {
        ("grows", 0) => answer("200 OK", "", 5, b"right"),
        ("grows", _) => {
            let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nright and more".to_vec();
            vec![Part::Send(head)]
        }
        ("lies", 0) => answer("200 OK", "", 5, b"right"),
        ("lies", _) => answer("200 OK", "", 50_000_000, &[0; 1000]),
        ("cut", 0) => answer("200 OK", "", 5, b"right"),
        _ => vec![Part::Send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrig".to_vec())],
    });
    for (path, part) in
        [("grows", "not 5 as stated"), ("lies", "50000000 bytes, not 5"), ("cut", "3 of 5")]
    {
        let builder = Builder::new();
        let lock = builder.lock(&file(&server.url(path), None)).unwrap();
        builder.cache().remove(&Digest::of(b"right")).unwrap();
        let fetcher = builder.fetcher();
        let result = run(kdc_airgap::lock::fetch(&fetcher, &lock, &mut kdc_airgap::Silent));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{path}: {error}");
        assert!(builder.cache().list().unwrap().is_empty());
        // Only a cut one is kept, to go on with.
        assert_eq!(builder.left(), usize::from(path == "cut"), "{path}");
    }
}

#[test]
fn offline_takes_what_is_there_and_asks_nobody() {
    let server = Server::start(|question| good(question, b"right", ""));
    let mut builder = Builder::new();
    let body = file(&server.url("x"), Some(&Digest::of(b"right")));
    let lock = builder.lock(&body).unwrap();
    builder.options.offline = true;
    builder.lock(&body).unwrap();
    run(kdc_airgap::lock::fetch(&builder.fetcher(), &lock, &mut kdc_airgap::Silent)).unwrap();
    let error = builder.refusal(&file(&server.url("y"), Some(&Digest::of(b"other"))));
    assert!(error.contains("--offline"), "{error}");
    assert_eq!(server.questions.lock().unwrap().len(), 1);
}

#[test]
fn open_lines_and_other_kinds_of_addresses_are_refused_before_anybody_is_asked() {
    let builder = Builder::new();
    for (url, part) in [
        ("http://192.0.2.1/x", "over http only with a `digest`"),
        ("ftp://192.0.2.1/x", "only https:"),
        ("https://me:secret@192.0.2.1/x", "carries a login"),
        ("file:///nowhere/at/all", "can't be read"),
    ] {
        let error = builder.refusal(&file(url, None));
        assert!(error.contains(part) && !error.contains("secret"), "{error}");
    }
    builder.put("local", "here");
    let url = format!("file://{}", builder.at("local").display());
    let lock = builder.lock(&file(&url, None)).unwrap();
    assert_eq!(lock.artifacts[0].digest, Digest::of(b"here").to_string());
    let error = builder.refusal(&file(&url, Some(&Digest::of(b"there"))));
    assert!(error.contains("as stated"), "{error}");
}

/// A TLS server of the system's openssl that gives the files of its folder as whole answers.
fn tls_server(folder: &std::path::Path, until: &str) -> (Running, String) {
    certificates(folder, "20200101000000Z", until);
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nright";
    fs_err::write(folder.join("good"), good).unwrap();
    let down = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n\
                Location: http://127.0.0.1:9/x\r\n\r\n";
    fs_err::write(folder.join("down"), down).unwrap();
    let port = free_port();
    let accept = port.to_string();
    let arguments = [
        "s_server",
        "-accept",
        &accept,
        "-cert",
        "server.pem",
        "-key",
        "server.key",
        "-HTTP",
        "-quiet",
    ];
    let running = Running::start("openssl", &arguments, folder, port);
    (running, format!("https://localhost:{port}"))
}

#[test]
fn only_an_authority_that_was_given_vouches_for_a_private_server() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, url) = tls_server(folder.path(), "20991231000000Z");
    let mut builder = Builder::new();
    let error = builder.refusal(&file(&format!("{url}/good"), None));
    assert!(error.contains("certificate") && error.contains("--ca"), "{error}");
    builder.options.authorities = vec![folder.path().join("ca.pem")];
    let lock = builder.lock(&file(&format!("{url}/good"), None)).unwrap();
    assert_eq!(lock.artifacts[0].digest, Digest::of(b"right").to_string());
    let error = builder.refusal(&file(&format!("{url}/down"), None));
    assert!(error.contains("not protected by TLS"), "{error}");
    // The name counts too.
    let error =
        builder.refusal(&file(&format!("{url}/good").replace("localhost", "127.0.0.1"), None));
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn an_expired_certificate_is_refused_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, url) = tls_server(folder.path(), "20210101000000Z");
    let mut builder = Builder::new();
    builder.options.authorities = vec![folder.path().join("ca.pem")];
    let error = builder.refusal(&file(&format!("{url}/good"), None));
    assert!(error.contains("certificate") && error.contains("xpired"), "{error}");
}

#[test]
fn an_authority_that_is_none_is_refused_by_name() {
    let mut builder = Builder::new();
    builder.put("ca.pem", "nonsense");
    builder.options.authorities = vec![builder.at("ca.pem")];
    let error = Fetcher::new(builder.cache(), builder.options.clone()).unwrap_err();
    assert!(matches!(error, FetchError::Authority { .. }), "{error}");
    assert!(error.to_string().contains("ca.pem"), "{error}");
}
