use std::io::Read as _;

use kdc_bundles::{
    index::{Artifact, ArtifactKind, INDEX_VERSION},
    signing::SigningKey,
};
use proptest::prelude::*;

use super::*;
use crate::{
    small_disk::{PAGE as PAGE_BYTES, SmallDisk},
    wire::piece::{PIECE_HEADER_BYTES, PieceHeader},
};

const PIECE: u64 = 8;

struct Site {
    folder: tempfile::TempDir,
    key: SigningKey,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: SigningKey::generate().unwrap() }
    }

    fn store(&self, boot: &str) -> Store {
        Store::at_boot(&self.folder.path().join("kdc/store"), boot)
    }

    fn public(&self) -> String {
        self.key.public().to_text()
    }

    /// A shelf with tiny pieces; a signed index has larger ones.
    fn shelf(&self, boot: &str, contents: &[&[u8]]) -> Shelf {
        let index = index_of(contents, PIECE);
        let text = String::from_utf8(index.to_bytes()).unwrap();
        self.store(boot).lay_out(&text, index, "", &[]).unwrap()
    }
}

fn blob_of(content: &[u8], piece_size: u64) -> Blob {
    Blob {
        digest: Digest::of(content),
        size: content.len() as u64,
        pieces: content.chunks(piece_size as usize).map(Digest::of).collect(),
    }
}

pub(crate) fn index_of(contents: &[&[u8]], piece_size: u64) -> Index {
    let mut blobs: Vec<Blob> = contents.iter().map(|c| blob_of(c, piece_size)).collect();
    blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
    let artifacts = blobs.iter().map(|blob| Artifact {
        name: format!("file-{}", blob.digest.hex()),
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
    });
    Index {
        version: INDEX_VERSION,
        name: "lab".into(),
        bundle_version: "1".into(),
        piece_size,
        parameters: std::collections::BTreeMap::default(),
        artifacts: artifacts.collect(),
        blobs,
    }
}

/// The stream that a sender makes of `pieces` of `content`.
fn stream(shelf: &Shelf, content: &[u8], pieces: &[u32]) -> Vec<u8> {
    let digest = Digest::of(content);
    let ordinal = shelf.index().blobs.iter().position(|blob| blob.digest == digest).unwrap();
    let mut bytes = Vec::new();
    for piece in pieces {
        let slice = content.chunks(PIECE as usize).nth(*piece as usize).unwrap();
        let header = PieceHeader {
            blob: u32::try_from(ordinal).unwrap(),
            piece: *piece,
            length: u32::try_from(slice.len()).unwrap(),
        };
        bytes.extend(header.to_bytes());
        bytes.extend(slice);
    }
    bytes
}

fn ended(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(PieceHeader::END.to_bytes());
    bytes
}

fn read(shelf: &Shelf, content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    shelf.open(&Digest::of(content)).unwrap().read_to_end(&mut out)?;
    Ok(out)
}

const TEXT: &[u8] = b"eight by eight bytes, and a shorter end.";

#[test]
fn an_index_is_kept_only_when_a_given_key_signed_exactly_these_bytes() {
    let (site, stranger) = (Site::new(), Site::new());
    let index = index_of(&[TEXT, b""], 4096);
    let text = String::from_utf8(index.to_bytes()).unwrap();
    let store = site.store("b1");
    let good = site.key.sign(&index);
    for (case, text, signature, keys) in [
        ("other bytes", format!("{text} "), good.clone(), vec![site.public()]),
        ("other key", text.clone(), good.clone(), vec![stranger.public()]),
        ("no key", text.clone(), good.clone(), vec![]),
        ("no signature", text.clone(), String::new(), vec![site.public()]),
        ("not a key", text.clone(), good.clone(), vec!["key".into()]),
    ] {
        let refused = store.keep_index(&text, &signature, &keys).unwrap_err();
        assert_eq!(refused.code(), "AGENT-010", "{case}");
        assert!(!site.folder.path().join("kdc").exists(), "{case}: something was written");
    }
    let kept = store.keep_index(&text, &good, &[stranger.public(), site.public()]).unwrap();
    assert_eq!(store.shelf(kept.digest()).unwrap().index(), &index);
    assert_eq!(read(&kept, b"").unwrap(), b"");
}

#[test]
fn an_index_changed_on_the_disk_is_not_believed() {
    let site = Site::new();
    let index = index_of(&[TEXT], 4096);
    let text = String::from_utf8(index.to_bytes()).unwrap();
    let signature = site.key.sign(&index);
    let shelf = site.store("b1").keep_index(&text, &signature, &[site.public()]).unwrap();
    let path = shelf.store.root.join(format!("index/{}.json", shelf.digest().hex()));
    let changed = fs_err::read_to_string(&path).unwrap().replace("lab", "bad");
    fs_err::write(&path, changed).unwrap();
    assert_eq!(site.store("b1").shelf(shelf.digest()).unwrap_err().code(), "AGENT-010");
}

#[test]
fn a_signed_index_that_breaks_the_rules_is_refused() {
    let site = Site::new();
    let mut index = index_of(&[TEXT], 4096);
    index.blobs[0].size += 4096;
    let text = String::from_utf8(index.to_bytes()).unwrap();
    let signature = site.key.sign(&index);
    let refused = site.store("b1").keep_index(&text, &signature, &[site.public()]).unwrap_err();
    assert_eq!(refused.code(), "AGENT-011");
}

#[test]
fn pieces_in_any_order_make_a_blob_that_shows_only_when_it_is_whole() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    let blob = Digest::of(TEXT);
    assert_eq!(shelf.missing(std::slice::from_ref(&blob)).unwrap()[0].ranges, [(0, 5)]);
    let first = receive(&shelf, ended(stream(&shelf, TEXT, &[4, 1])).as_slice());
    assert_eq!((first.pieces, first.bytes, first.failure), (2, 16, None));
    assert_eq!(shelf.missing(std::slice::from_ref(&blob)).unwrap()[0].ranges, [(0, 1), (2, 4)]);
    assert_eq!(shelf.open(&blob).unwrap_err().code(), "AGENT-014");
    let rest = receive(&shelf, ended(stream(&shelf, TEXT, &[3, 0, 2])).as_slice());
    assert_eq!(rest.failure, None);
    assert!(shelf.missing(&[blob]).unwrap().is_empty());
    assert_eq!(read(&shelf, TEXT).unwrap(), TEXT);
    assert_eq!(fs_err::read_dir(shelf.store.root.join("partial")).unwrap().count(), 0);
}

#[test]
fn a_bad_piece_stops_the_stream_and_keeps_what_was_good() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    let mut bytes = stream(&shelf, TEXT, &[0, 1, 2]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let received = receive(&shelf, ended(bytes).as_slice());
    assert_eq!(received.pieces, 2);
    assert_eq!(received.failure.unwrap().code, "AGENT-015");
    assert_eq!(shelf.missing(&[Digest::of(TEXT)]).unwrap()[0].ranges, [(2, 5)]);
}

#[test]
fn a_header_the_index_does_not_allow_is_refused() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    for header in [
        PieceHeader { blob: 1, piece: 0, length: 8 },
        PieceHeader { blob: 0, piece: 5, length: 8 },
        PieceHeader { blob: 0, piece: 0, length: 7 },
        PieceHeader { blob: 0, piece: 0, length: u32::MAX },
    ] {
        let received = receive(&shelf, header.to_bytes().as_slice());
        assert_eq!(received.failure.unwrap().code, "AGENT-016", "{header:?}");
    }
    let cut = receive(&shelf, [0_u8; 5].as_slice());
    assert_eq!(cut.failure.unwrap().code, "AGENT-016");
}

#[test]
fn a_stream_cut_at_any_byte_costs_at_most_the_piece_it_was_cut_in() {
    let all: Vec<u32> = (0..u32::try_from(TEXT.len().div_ceil(PIECE as usize)).unwrap()).collect();
    let whole = stream(&Site::new().shelf("b1", &[TEXT]), TEXT, &all);
    for cut in 0..=whole.len() {
        let site = Site::new();
        let shelf = site.shelf("b1", &[TEXT]);
        let received = receive(&shelf, &whole[..cut]);
        assert!(received.failure.is_some(), "cut at {cut}: the end mark did not come");
        let missing = shelf.missing(&[Digest::of(TEXT)]).unwrap();
        let again: Vec<u32> =
            missing.iter().flat_map(|blob| &blob.ranges).flat_map(|&(from, to)| from..to).collect();
        let begun = cut.div_ceil(PIECE_HEADER_BYTES + PIECE as usize);
        let sent_again = again.iter().filter(|piece| (**piece as usize) < begun).count();
        assert!(sent_again <= 1, "cut at {cut}: {sent_again} pieces are sent again");
        let resumed = receive(&shelf, &*ended(stream(&shelf, TEXT, &again)));
        assert_eq!(resumed.failure, None, "cut at {cut}");
        assert_eq!(read(&shelf, TEXT).unwrap(), TEXT, "cut at {cut}");
    }
}

#[test]
fn a_partial_of_another_boot_is_proved_again_and_only_lost_pieces_come_twice() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    receive(&shelf, ended(stream(&shelf, TEXT, &[0, 1, 2, 3])).as_slice());
    // A power cut: the map says four pieces, the data of one never reached the disk.
    let data = shelf.store.root.join("partial").join(Digest::of(TEXT).hex());
    let mut content = fs_err::read(&data).unwrap();
    content[8..16].fill(0);
    fs_err::write(&data, content).unwrap();

    let same_boot = site.shelf("b1", &[TEXT]);
    assert_eq!(same_boot.missing(&[Digest::of(TEXT)]).unwrap()[0].ranges, [(4, 5)]);
    let rebooted = site.shelf("b2", &[TEXT]);
    assert_eq!(rebooted.missing(&[Digest::of(TEXT)]).unwrap()[0].ranges, [(1, 2), (4, 5)]);
    receive(&rebooted, ended(stream(&rebooted, TEXT, &[1, 4])).as_slice());
    assert_eq!(read(&rebooted, TEXT).unwrap(), TEXT);
}

#[test]
fn a_kill_between_the_last_piece_and_its_name_costs_nothing() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    let mut partial = Partial::open(&shelf.store, &blob_of(TEXT, PIECE), PIECE).unwrap().unwrap();
    for (piece, bytes) in (0..).zip(TEXT.chunks(PIECE as usize)) {
        partial.put(piece, bytes).unwrap();
    }
    drop(partial);
    assert!(shelf.missing(&[Digest::of(TEXT)]).unwrap().is_empty());
    assert_eq!(read(&shelf, TEXT).unwrap(), TEXT);
}

#[test]
fn a_file_that_fails_is_named() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    let mut partial = Partial::open(&shelf.store, &blob_of(TEXT, PIECE), PIECE).unwrap().unwrap();
    let map = shelf.store.root.join(format!("partial/{}.have", Digest::of(TEXT).hex()));
    fs_err::write(&map, "").unwrap();
    let failure = Failure::from(partial.put(0, &TEXT[..8]).unwrap_err());
    assert!(failure.message.contains(&map.display().to_string()), "{failure}");
}

#[test]
fn bytes_that_rot_on_the_disk_are_never_handed_out_and_are_asked_for_again() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT]);
    receive(&shelf, ended(stream(&shelf, TEXT, &[0, 1, 2, 3, 4])).as_slice());
    let path = shelf.store.blob_path(&Digest::of(TEXT));
    let mut content = fs_err::read(&path).unwrap();
    content[9] ^= 1;
    fs_err::write(&path, &content).unwrap();
    let mut source = shelf.open(&Digest::of(TEXT)).unwrap();
    let mut out = Vec::new();
    let refused = source.read_to_end(&mut out).unwrap_err();
    assert!(refused.to_string().contains("piece 1"), "{refused}");
    assert_eq!(out, &TEXT[..8], "only the proved piece came out");
    assert_eq!(shelf.missing(&[Digest::of(TEXT)]).unwrap()[0].ranges, [(0, 5)]);
}

#[test]
fn several_receivers_fill_one_store_at_once() {
    let site = Site::new();
    let contents: Vec<Vec<u8>> = (0..6_u8).map(|seed| vec![seed; 700]).collect();
    let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    site.shelf("b1", &slices);
    std::thread::scope(|scope| {
        for worker in 0..4_u32 {
            let (site, slices) = (&site, &slices);
            scope.spawn(move || {
                let shelf = site.shelf("b1", slices);
                let mut bytes = Vec::new();
                for content in slices {
                    // Overlapping shares: every piece is sent by two of the four.
                    let share: Vec<u32> =
                        (0..88).filter(|p| p % 4 == worker || (p + 1) % 4 == worker).collect();
                    bytes.extend(stream(&shelf, content, &share));
                }
                assert_eq!(receive(&shelf, ended(bytes).as_slice()).failure, None);
            });
        }
    });
    let shelf = site.shelf("b1", &slices);
    for content in slices {
        assert_eq!(read(&shelf, content).unwrap(), content);
    }
    assert_eq!(fs_err::read_dir(shelf.store.root.join("partial")).unwrap().count(), 0);
}

#[test]
fn pruning_keeps_what_is_named_and_the_index() {
    let site = Site::new();
    let shelf = site.shelf("b1", &[TEXT, b"other", b""]);
    receive(&shelf, ended(stream(&shelf, TEXT, &[0, 1, 2, 3, 4])).as_slice());
    receive(&shelf, ended(stream(&shelf, b"other", &[0])).as_slice());
    let keep = Keep {
        blobs: [Digest::of(TEXT), Digest::of(b"")].into(),
        indexes: [shelf.digest().clone()].into(),
    };
    let surplus = shelf.store.surplus(&keep).unwrap();
    let names: Vec<_> = surplus.iter().map(|file| file.path.file_name().unwrap()).collect();
    assert_eq!(names, [Digest::of(b"other").hex()]);
    shelf.store.remove(&surplus).unwrap();
    assert_eq!(read(&shelf, TEXT).unwrap(), TEXT);
    assert_eq!(read(&shelf, b"").unwrap(), b"");
    assert!(shelf.open(&Digest::of(b"other")).is_err());
    let index = shelf.store.root.join(format!("index/{}.json", shelf.digest().hex()));
    assert!(index.is_file());
    assert!(shelf.store.empty().unwrap() > 0);
    assert!(shelf.open(&Digest::of(TEXT)).is_err() && !index.exists());
}

#[test]
fn a_full_disk_is_named_with_what_is_needed() {
    let cause = std::io::Error::from_raw_os_error(28);
    let error = write_failed(cause, Path::new("/proc/self/x"), &Digest::of(b""), 4096);
    let text = error.to_string();
    assert!(text.contains("/proc") && text.contains("4096 more bytes"), "{text}");
    assert_eq!(error.code(), "AGENT-017");
}

#[test]
fn on_a_full_disk_the_store_says_so_keeps_what_came_and_asks_only_for_the_rest() {
    let name = "store::tests::\
                on_a_full_disk_the_store_says_so_keeps_what_came_and_asks_only_for_the_rest";
    let Some(disk) = SmallDisk::within(name, 64) else { return };
    let content: Vec<u8> = (0..40 * PAGE_BYTES)
        .map(|place| (place % 251) as u8 ^ (place / PAGE_BYTES) as u8)
        .collect();
    let index = index_of(&[&content], PAGE_BYTES as u64);
    let text = String::from_utf8(index.to_bytes()).unwrap();
    let store = Store::at_boot(&disk.root().join("store"), "b1");
    disk.leave(0);
    let refused = store.lay_out(&text, index.clone(), "", &[]).unwrap_err();
    assert_eq!(refused.code(), "AGENT-017", "{refused}");
    disk.free();
    let shelf = store.lay_out(&text, index, "", &[]).unwrap();
    let blob = Digest::of(&content);
    let everything = |ranges: &[(u32, u32)]| {
        let mut bytes = Vec::new();
        for piece in ranges.iter().flat_map(|(start, end)| *start..*end) {
            let slice = content.chunks(PAGE_BYTES).nth(piece as usize).unwrap();
            bytes.extend(PieceHeader { blob: 0, piece, length: PAGE_BYTES as u32 }.to_bytes());
            bytes.extend(slice);
        }
        ended(bytes)
    };
    let mut came = 0;
    for left in [0, 1, 2, 9] {
        disk.leave(left);
        let missing = shelf.missing(std::slice::from_ref(&blob)).unwrap()[0].ranges.clone();
        let received = receive(&shelf, everything(&missing).as_slice());
        let failure = received.failure.unwrap();
        assert_eq!(failure.code, "AGENT-017", "{left}: {failure}");
        let root = disk.root().display().to_string();
        assert!(failure.message.contains(&root), "{failure}");
        came += received.pieces;
        disk.free();
        let missing = shelf.missing(std::slice::from_ref(&blob)).unwrap()[0].ranges.clone();
        assert_eq!(missing, [(u32::try_from(came).unwrap(), 40)], "{left}");
    }
    assert!(came > 5, "{came}");
    let missing = shelf.missing(std::slice::from_ref(&blob)).unwrap()[0].ranges.clone();
    let received = receive(&shelf, everything(&missing).as_slice());
    assert_eq!((received.pieces, received.failure), (40 - came, None));
    assert_eq!(read(&shelf, &content).unwrap(), content);
}

proptest! {
    /// Whatever a broken sender writes, nothing that is not in the index becomes visible.
    #[test]
    fn garbage_never_becomes_a_blob(garbage in prop::collection::vec(any::<u8>(), 0..120)) {
        let site = Site::new();
        let shelf = site.shelf("b1", &[b"one"]);
        let received = receive(&shelf, garbage.as_slice());
        prop_assert!(received.failure.is_some());
        prop_assert!(shelf.open(&Digest::of(b"one")).is_err());
    }

    /// Gaps and map say the same thing.
    #[test]
    fn gaps_cover_exactly_the_zeroes(have in prop::collection::vec(0_u8..2, 0..60)) {
        let mut again = vec![1_u8; have.len()];
        for (start, end) in gaps(&have) {
            again[start as usize..end as usize].fill(0);
        }
        prop_assert_eq!(again, have);
    }
}

#[test]
fn any_piece_of_a_complete_blob_can_be_read_and_a_damaged_one_is_put_out_of_sight() {
    let site = Site::new();
    let content = b"twenty bytes of text";
    let shelf = site.shelf("a", &[content]);
    let mut buffer = b"old".to_vec();
    let absent = shelf.read_piece(0, 0, &mut buffer).unwrap_err();
    assert!(matches!(absent, StoreError::Absent { .. }), "{absent}");
    assert!(buffer.is_empty());

    let path = shelf.store.blob_path(&Digest::of(content));
    fs_err::write(&path, content).unwrap();
    for (number, piece) in content.chunks(PIECE as usize).enumerate().rev() {
        shelf.read_piece(0, number, &mut buffer).unwrap();
        assert_eq!(buffer, piece);
    }
    for (ordinal, piece) in [(0, 3), (1, 0)] {
        let error = shelf.read_piece(ordinal, piece, &mut buffer).unwrap_err();
        assert_eq!(error.code(), "AGENT-013", "{error}");
    }

    fs_err::write(&path, b"twenty bytes of tezt").unwrap();
    shelf.read_piece(0, 0, &mut buffer).unwrap();
    let damaged = shelf.read_piece(0, 2, &mut buffer).unwrap_err();
    assert!(Failure::from(damaged).message.contains("piece 2"));
    assert!(buffer.is_empty() && !path.exists(), "the next `Missing` asks for it again");
    assert!(matches!(shelf.read_piece(0, 0, &mut buffer), Err(StoreError::Absent { .. })));
}
