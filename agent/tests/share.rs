//! The real program: nodes that share on loopback, and one of them killed again and again.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kdc_agent::{
    store::{
        Shelf, Store,
        peer::{self, Folder},
        receive,
    },
    wire::{
        Peer,
        piece::{PIECE_HEADER_BYTES, PieceHeader},
    },
};
use kdc_bundles::{
    index::{Artifact, ArtifactKind, Blob, Digest, INDEX_VERSION, Index, PIECE_SIZE},
    signing::SigningKey,
};
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};

const SOON: Duration = Duration::from_secs(120);

/// What a sharing node may hold in memory beside its program.
const MOST_MEMORY_KIB: u64 = 32 * 1024;

fn content(seed: u64, mib: usize) -> Vec<u8> {
    let mut bytes = vec![0; mib * 1024 * 1024 + 3];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn index_of(contents: &[Vec<u8>]) -> Index {
    let blob = |content: &Vec<u8>| Blob {
        digest: Digest::of(content),
        size: content.len() as u64,
        pieces: content.chunks(PIECE_SIZE as usize).map(Digest::of).collect(),
    };
    let mut blobs: Vec<Blob> = contents.iter().map(blob).collect();
    blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
    let artifact = |blob: &Blob| Artifact {
        name: blob.digest.hex().to_owned(),
        kind: ArtifactKind::File,
        platform: None,
        version: None,
        media_type: "application/octet-stream".into(),
        digest: blob.digest.clone(),
        blobs: vec![blob.digest.clone()],
        roles: Vec::new(),
        unpack_to: None,
        licence: None,
        source: None,
    };
    Index {
        version: INDEX_VERSION,
        name: "lab".into(),
        bundle_version: "1".into(),
        piece_size: PIECE_SIZE,
        parameters: std::collections::BTreeMap::default(),
        artifacts: blobs.iter().map(artifact).collect(),
        blobs,
    }
}

struct Node {
    place: PathBuf,
    shelf: Shelf,
    certificate: Digest,
    process: Option<Child>,
}

impl Node {
    fn new(place: &Path, index: &Index, key: &SigningKey) -> Self {
        let text = String::from_utf8(index.to_bytes()).unwrap();
        let store = Store::at(&place.join("store"));
        let shelf = store.keep_index(&text, &key.sign(index), &[key.public().to_text()]).unwrap();
        let blobs: Vec<Digest> = index.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let certificate =
            peer::prepare(&Folder::at(&place.join("share")), shelf.digest(), &blobs).unwrap();
        Self { place: place.to_owned(), shelf, certificate, process: None }
    }

    fn start(&mut self) -> u16 {
        let status = self.place.join("share/status.json");
        let _ = fs_err::remove_file(&status);
        let process = Command::new(env!("CARGO_BIN_EXE_kdc-agent"))
            .args(["share", "--port", "0", "--store"])
            .arg(self.place.join("store"))
            .arg("--folder")
            .arg(self.place.join("share"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begun = Instant::now();
        loop {
            if let Ok(text) = fs_err::read_to_string(&status) {
                let status: serde_json::Value = serde_json::from_str(&text).unwrap();
                return u16::try_from(status["port"].as_u64().unwrap()).unwrap();
            }
            assert!(begun.elapsed() < SOON, "it never listened");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn missing(&self) -> u32 {
        let blobs: Vec<Digest> =
            self.shelf.index().blobs.iter().map(|blob| blob.digest.clone()).collect();
        let missing = self.shelf.missing(&blobs).unwrap();
        missing.iter().flat_map(|blob| &blob.ranges).map(|(start, end)| end - start).sum()
    }

    /// The most memory its process ever had, without the pages of its own program: those of an
    /// unoptimised one are more than all else, and say nothing about sharing.
    fn peak_kib(&self) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let status = fs_err::read_to_string(format!("/proc/{id}/status")).unwrap();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        kib("VmHWM:") - kib("RssFile:")
    }

    fn peer(&self, port: u16) -> Peer {
        let (address, certificate) = (Ipv4Addr::LOCALHOST.into(), self.certificate.clone());
        Peer { name: "n".into(), address, port, certificate }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn introduce(nodes: &[&Node], ports: &[u16]) {
    let peers: Vec<Peer> = nodes.iter().zip(ports).map(|(node, port)| node.peer(*port)).collect();
    for node in nodes {
        peer::introduce(&Folder::at(&node.place.join("share")), &peers).unwrap();
    }
}

fn fill(node: &Node, contents: &[Vec<u8>]) {
    for content in contents {
        let blob = node.shelf.index().ordinal(&Digest::of(content)).unwrap();
        for (piece, bytes) in (0..).zip(content.chunks(PIECE_SIZE as usize)) {
            let blob = u32::try_from(blob).unwrap();
            let header = PieceHeader { blob, piece, length: u32::try_from(bytes.len()).unwrap() };
            let head: [u8; PIECE_HEADER_BYTES] = header.to_bytes();
            let stream = [&head[..], bytes, &PieceHeader::END.to_bytes()].concat();
            assert_eq!(receive(&node.shelf, stream.as_slice()).failure, None);
        }
    }
}

#[test]
fn a_node_that_is_killed_again_and_again_keeps_what_it_had_and_becomes_whole() {
    let place = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let contents = [content(1, 30), content(2, 20), content(3, 14)];
    let index = index_of(&contents);
    let mut full = Node::new(&place.path().join("full"), &index, &key);
    let mut fresh = Node::new(&place.path().join("fresh"), &index, &key);
    fill(&full, &contents);
    let port = full.start();
    let all = fresh.missing();
    // Some pieces at least, then death at whatever it is doing.
    let wait_for = |fresh: &Node, most: u32| {
        let begun = Instant::now();
        while fresh.missing() > most {
            assert!(begun.elapsed() < SOON, "{} of {all} still missing", fresh.missing());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut kills_on_the_way = 0;
    for _ in 0..4 {
        let before = fresh.missing();
        let again = fresh.start();
        introduce(&[&full, &fresh], &[port, again]);
        wait_for(&fresh, before.saturating_sub(5));
        let had = fresh.missing();
        fresh.kill();
        let has = fresh.missing();
        assert!(has <= had, "{has} pieces are missing after a kill, {had} were before");
        kills_on_the_way += u32::from(has > 0);
    }
    assert!(kills_on_the_way > 0, "it was always whole before it was killed");
    let last = fresh.start();
    introduce(&[&full, &fresh], &[port, last]);
    wait_for(&fresh, 0);
    for content in &contents {
        let mut found = Vec::new();
        let mut blob = fresh.shelf.open(&Digest::of(content)).unwrap();
        std::io::Read::read_to_end(&mut blob, &mut found).unwrap();
        assert!(found == *content);
    }
    let peak = full.peak_kib();
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
}

#[test]
fn three_nodes_become_whole_from_one_and_hold_little_in_memory() {
    let place = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let contents = [content(4, 64), content(5, 32)];
    let index = index_of(&contents);
    let mut nodes: Vec<Node> = ["full", "one", "two", "three"]
        .iter()
        .map(|name| Node::new(&place.path().join(name), &index, &key))
        .collect();
    fill(&nodes[0], &contents);
    let ports: Vec<u16> = nodes.iter_mut().map(Node::start).collect();
    let begun = Instant::now();
    introduce(&nodes.iter().collect::<Vec<_>>(), &ports);
    while nodes.iter().any(|node| node.missing() > 0) {
        assert!(begun.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed();
    let peaks: Vec<u64> = nodes.iter().map(Node::peak_kib).collect();
    println!("96 MiB to three nodes in {took:?}; peaks {peaks:?} KiB");
    assert!(peaks.iter().all(|peak| *peak < MOST_MEMORY_KIB), "{peaks:?} KiB");
}
