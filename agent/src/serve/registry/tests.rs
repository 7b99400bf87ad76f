use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kdc_bundles::index::{Artifact, ArtifactKind, Blob, Digest, INDEX_VERSION, Index};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

const PIECE: usize = 16;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Content in memory, proved as a bundle proves it.
struct Memory {
    index: Index,
    contents: BTreeMap<Digest, Vec<u8>>,
    reads: Arc<AtomicUsize>,
}

impl Memory {
    /// Images by name and platform; each has a manifest and a layer that tell of both.
    fn new(images: &[(&str, Option<&str>)]) -> Self {
        let mut contents = BTreeMap::new();
        let mut add = |content: String| {
            let digest = Digest::of(content.as_bytes());
            contents.insert(digest.clone(), content.into_bytes());
            digest
        };
        let artifacts = images.iter().map(|(name, platform)| {
            let digest = add(manifest_of(name, *platform));
            Artifact {
                name: (*name).to_owned(),
                kind: ArtifactKind::Image,
                platform: platform.map(str::to_owned),
                version: None,
                media_type: MANIFEST.to_owned(),
                blobs: vec![digest.clone(), add(layer_of(name))],
                digest,
                roles: Vec::new(),
                unpack_to: None,
                licence: None,
                source: None,
            }
        });
        let artifacts = artifacts.collect();
        let blobs = contents.iter().map(|(digest, content)| Blob {
            digest: digest.clone(),
            size: content.len() as u64,
            pieces: content.chunks(PIECE).map(Digest::of).collect(),
        });
        let index = Index {
            version: INDEX_VERSION,
            name: "sample".to_owned(),
            bundle_version: "1".to_owned(),
            piece_size: PIECE as u64,
            parameters: BTreeMap::new(),
            artifacts,
            blobs: blobs.collect(),
        };
        Self { index, contents, reads: Arc::default() }
    }

    fn registry(self) -> Registry {
        Registry::new(self, Limits::default()).unwrap()
    }
}

fn manifest_of(name: &str, platform: Option<&str>) -> String {
    format!("{{\"of\":\"{name}\",\"platform\":{platform:?}}}")
}

fn layer_of(name: &str) -> String {
    format!("the layer of {name}, longer than three pieces of sixteen bytes")
}

impl Source for Memory {
    fn index(&self) -> &Index {
        &self.index
    }

    fn has(&self, ordinal: usize) -> bool {
        self.contents.contains_key(&self.index.blobs[ordinal].digest)
    }

    fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let blob = &self.index.blobs[ordinal];
        let content = self.contents.get(&blob.digest).ok_or(SourceError::Absent)?;
        *buffer = content.chunks(PIECE).nth(piece).unwrap().to_vec();
        if Digest::of(buffer) == blob.pieces[piece] {
            return Ok(());
        }
        Err(SourceError::Unreadable("it was changed".into()))
    }
}

/// A connection to a registry, whose window takes that many bytes.
fn connect(registry: &Registry, window: usize) -> DuplexStream {
    let (client, server) = tokio::io::duplex(window);
    let registry = registry.clone();
    tokio::spawn(async move { registry.converse(server).await });
    client
}

/// What comes back, until the connection ends.
async fn send(registry: &Registry, request: &str) -> String {
    let mut client = connect(registry, 1 << 16);
    // A connection that breaks off is told by what is missing.
    let _refused = client.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _cut = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn ask(registry: &Registry, method: &str, path: &str, headers: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    send(registry, &head).await
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    let named =
        |line: &'a str| line.split_once(": ").filter(|(found, _)| found.eq_ignore_ascii_case(name));
    head.lines().find_map(named).map(|(_, value)| value)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn an_image_is_served_by_tag_by_digest_and_blob_by_blob() {
    let name = "registry.k8s.io/pause:3.10";
    let registry = Memory::new(&[(name, None)]).registry();
    let (manifest, layer) = (manifest_of(name, None), layer_of(name));
    let digests = [&manifest, &layer].map(|text| Digest::of(text.as_bytes()));
    let at = "/v2/registry.k8s.io/pause";
    for (path, content, media_type) in [
        (format!("{at}/manifests/3.10"), &manifest, MANIFEST),
        (format!("{at}/manifests/{}", digests[0]), &manifest, MANIFEST),
        (format!("{at}/blobs/{}", digests[0]), &manifest, "application/octet-stream"),
        (format!("{at}/blobs/{}", digests[1]), &layer, "application/octet-stream"),
        ("/v2/pause/manifests/3.10?ns=registry.k8s.io".to_owned(), &manifest, MANIFEST),
    ] {
        let digest = Digest::of(content.as_bytes());
        for method in ["GET", "HEAD"] {
            let answer = ask(&registry, method, &path, "").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{method} {path}: {answer}");
            assert_eq!(header(&answer, "content-length"), Some(&*content.len().to_string()));
            assert_eq!(header(&answer, "content-type"), Some(media_type));
            assert_eq!(header(&answer, "docker-content-digest"), Some(digest.as_str()));
            let expected = if method == "GET" { content.as_str() } else { "" };
            assert_eq!(body(&answer), expected, "{method} {path}");
        }
        let known = format!("if-none-match: \"{digest}\"\r\n");
        let answer = ask(&registry, "GET", &path, &known).await;
        assert!(answer.starts_with("HTTP/1.1 304 "), "{answer}");
    }
}

#[tokio::test]
async fn any_stretch_of_a_blob_can_be_had_and_joins_up() {
    let name = "registry.k8s.io/pause:3.10";
    let registry = Memory::new(&[(name, None)]).registry();
    let layer = layer_of(name);
    let path = format!("/v2/registry.k8s.io/pause/blobs/{}", Digest::of(layer.as_bytes()));
    for first in 0..layer.len() {
        for last in [first, (first + PIECE).min(layer.len() - 1), layer.len() - 1] {
            let range = format!("range: bytes={first}-{last}\r\n");
            let answer = ask(&registry, "GET", &path, &range).await;
            assert!(answer.starts_with("HTTP/1.1 206 "), "{answer}");
            assert_eq!(body(&answer), &layer[first..=last]);
            let expected = format!("bytes {first}-{last}/{}", layer.len());
            assert_eq!(header(&answer, "content-range"), Some(&*expected));
        }
    }
    let range = format!("range: bytes={}-\r\n", layer.len());
    let answer = ask(&registry, "GET", &path, &range).await;
    assert!(answer.starts_with("HTTP/1.1 416 "), "{answer}");
    assert_eq!(header(&answer, "content-range"), Some(&*format!("bytes */{}", layer.len())));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_codes_of_the_specification() {
    let registry = Memory::new(&[("a.io/x:1", None), ("a.io/y:1", None)]).registry();
    let foreign = Digest::of(layer_of("a.io/y:1").as_bytes());
    let nothing = Digest::of(b"nothing");
    for (method, path, status, code) in [
        ("GET", "/".to_owned(), 404, "UNSUPPORTED"),
        ("GET", "/v2/a.io/z/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/x/tags/list?ns=b.io".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/a.io/x/manifests/2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/a.io/x/manifests/{nothing}"), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/a.io/x/blobs/{nothing}"), 404, "BLOB_UNKNOWN"),
        // It is in the bundle, but no part of this repository.
        ("GET", format!("/v2/a.io/x/blobs/{foreign}"), 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/a.io/x/blobs/sha256:zz".to_owned(), 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/_catalog?n=x".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("POST", "/v2/a.io/x/blobs/uploads/".to_owned(), 405, "UNSUPPORTED"),
        ("DELETE", "/v2/a.io/x/manifests/1".to_owned(), 405, "UNSUPPORTED"),
    ] {
        let answer = ask(&registry, method, &path, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
        let document: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(document["errors"][0]["code"], code, "{method} {path}");
    }
    let base = ask(&registry, "GET", "/v2/", "").await;
    assert_eq!(header(&base, "docker-distribution-api-version"), Some("registry/2.0"));
}

#[tokio::test]
async fn lists_are_paged_and_the_link_leads_to_the_next_page() {
    let names: Vec<_> = (0..7).map(|number| format!("a.io/x:{number}")).collect();
    let mut images: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
    images.extend([("b.io/x:1", None), ("c.io/x:1", None)]);
    let registry = Memory::new(&images).registry();
    for (first, field, expected) in [
        ("/v2/x/tags/list?n=2&ns=a.io", "tags", vec!["0", "1", "2", "3", "4", "5", "6"]),
        ("/v2/_catalog?n=2", "repositories", vec!["a.io/x", "b.io/x", "c.io/x"]),
        ("/v2/_catalog?n=3", "repositories", vec!["a.io/x", "b.io/x", "c.io/x"]),
        ("/v2/_catalog?n=0", "repositories", vec![]),
        ("/v2/_catalog", "repositories", vec!["a.io/x", "b.io/x", "c.io/x"]),
    ] {
        let (mut path, mut found) = (first.to_owned(), Vec::new());
        loop {
            let answer = ask(&registry, "GET", &path, "").await;
            let document: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
            let page = document[field].as_array().unwrap().clone();
            assert!(page.len() <= 3 || !first.contains("n="), "{path}");
            found.extend(page);
            let Some(link) = header(&answer, "link") else { break };
            path = link.strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
        }
        assert_eq!(found, expected, "{first}");
    }
}

#[tokio::test]
async fn a_tag_of_several_platforms_leads_to_a_list_of_them() {
    let platforms = [Some("linux/amd64"), Some("linux/arm64/v8")];
    let images = platforms.map(|platform| ("docker.io/library/busybox:1", platform));
    let registry = Memory::new(&images).registry();
    // Docker asks a mirror without naming its registry.
    let answer = ask(&registry, "GET", "/v2/library/busybox/manifests/1", "").await;
    let list: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    let digest = Digest::of(body(&answer).as_bytes());
    assert_eq!(header(&answer, "docker-content-digest"), Some(digest.as_str()));
    assert_eq!(header(&answer, "content-type"), list["mediaType"].as_str());
    assert_eq!(list["manifests"][1]["platform"]["variant"], "v8");
    for (platform, one) in platforms.iter().zip(list["manifests"].as_array().unwrap()) {
        let path = format!("/v2/library/busybox/manifests/{}", one["digest"].as_str().unwrap());
        let answer = ask(&registry, "GET", &path, "").await;
        assert_eq!(body(&answer), manifest_of(images[0].0, *platform));
        assert_eq!(body(&answer).len() as u64, one["size"].as_u64().unwrap());
    }
    let again = ask(&registry, "GET", &format!("/v2/library/busybox/manifests/{digest}"), "").await;
    assert_eq!(body(&again), body(&answer));
}

#[test]
fn two_images_that_would_have_one_name_are_refused() {
    let images = [("busybox:1", None), ("docker.io/library/busybox:1", None)];
    let error = Registry::new(Memory::new(&images), Limits::default()).err().unwrap();
    assert!(error.to_string().contains("`busybox:1` and `docker.io/library/busybox:1`"), "{error}");
}

#[tokio::test]
async fn a_damaged_piece_is_never_sent() {
    let name = "a.io/x:1";
    let layer = layer_of(name);
    let path = format!("/v2/a.io/x/blobs/{}", Digest::of(layer.as_bytes()));
    for damaged in [0, 2] {
        let mut memory = Memory::new(&[(name, None)]);
        let content = memory.contents.get_mut(&Digest::of(layer.as_bytes())).unwrap();
        content[damaged * PIECE] ^= 1;
        let answer = ask(&memory.registry(), "GET", &path, "").await;
        if damaged == 0 {
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            assert!(!body(&answer).contains("changed"), "what failed inside stays inside");
        } else {
            let proved = &layer[..damaged * PIECE];
            assert!(proved.starts_with(body(&answer)), "it breaks off before: {answer}");
        }
    }
}

#[tokio::test]
async fn what_a_node_lacks_is_unknown_and_no_error() {
    let name = "a.io/x:1";
    let digest = Digest::of(layer_of(name).as_bytes());
    let mut memory = Memory::new(&[(name, None)]);
    memory.contents.remove(&digest);
    let registry = memory.registry();
    for method in ["GET", "HEAD"] {
        let answer = ask(&registry, method, &format!("/v2/a.io/x/blobs/{digest}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_left_and_all_of_them_hold_no_more_than_the_budget() {
    let name = "a.io/x:1";
    let memory = Memory::new(&[(name, None)]);
    let reads = Arc::clone(&memory.reads);
    let limits = Limits { content_bytes: 4 * PIECE as u64, ..Limits::default() };
    let registry = Registry::new(memory, limits).unwrap();
    let digest = Digest::of(layer_of(name).as_bytes());
    let request = format!("GET /v2/a.io/x/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut clients = Vec::new();
    for _ in 0..10 {
        let (mut client, server) = tokio::io::duplex(8);
        let registry = registry.clone();
        let task = tokio::spawn(async move { registry.converse(server).await });
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push((client, task));
    }
    tokio::time::sleep(limits.idle / 2).await;
    let held = reads.load(Ordering::SeqCst);
    assert!((1..=4).contains(&held), "{held} pieces were read");
    // Those that waited for the budget get their turn when the first are left, and are left as well.
    for (client, task) in clients {
        tokio::time::timeout(limits.idle * 20, task).await.unwrap().unwrap();
        drop(client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_too_much_is_left() {
    let registry = Memory::new(&[("a.io/x:1", None)]).registry();
    let silent = connect(&registry, 64);
    let half = send(&registry, "GET /v2/ HTTP/1.1\r\nhost: ").await;
    assert!(!half.starts_with("HTTP/1.1 200"), "{half}");
    drop(silent);
    let long = format!("x: {}\r\n", "y".repeat(2 * MAX_HEAD_BYTES));
    let answer = ask(&registry, "GET", "/v2/", &long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
