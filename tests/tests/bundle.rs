//! A bundle is used as it was signed, or not at all: every way to change the file is refused, by
//! the whole-file proof and by random access alike, and the refusal names the member.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{collections::BTreeMap, path::Path};

use kdc_bundles::{
    error::VerifyError,
    index::{Artifact, ArtifactKind, Blob, Digest, INDEX_VERSION, Index},
    keys::TrustedKeys,
    medium::Medium,
    member,
    open::{BundleFile, read_unproved},
    signature::SignatureError,
    signing::SigningKey,
    verify::verify,
    write::{hash_blob, write},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const PIECE: u64 = 4096;

/// A bundle in memory and the key that signed it.
struct Sample {
    bytes: Vec<u8>,
    key: SigningKey,
    index: Index,
    contents: BTreeMap<Digest, Vec<u8>>,
}

impl Sample {
    fn new() -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let sizes = [0, 1, 512, 4095, 4096, 4097, 50_000, 123_456];
        let contents = sizes.map(|size| {
            let content: Vec<u8> = (0..size).map(|_| random.random()).collect();
            (Digest::of(&content), content)
        });
        let contents = BTreeMap::from(contents);
        let blobs: Vec<Blob> = contents
            .values()
            .map(|content| hash_blob(content.as_slice(), PIECE, &mut |_| {}).unwrap())
            .collect();
        let artifacts = blobs.iter().enumerate().map(|(number, blob)| Artifact {
            name: format!("tool-{number}"),
            kind: ArtifactKind::Binary,
            platform: Some("linux/amd64".to_owned()),
            version: None,
            media_type: "application/octet-stream".to_owned(),
            digest: blob.digest.clone(),
            blobs: vec![blob.digest.clone()],
            roles: Vec::new(),
            unpack_to: None,
            licence: None,
            source: None,
        });
        let index = Index {
            version: INDEX_VERSION,
            name: "sample".to_owned(),
            bundle_version: "1.0".to_owned(),
            piece_size: PIECE,
            parameters: BTreeMap::new(),
            artifacts: artifacts.collect(),
            blobs: blobs.clone(),
        };
        let key = SigningKey::generate().unwrap();
        let bytes = build(&index, &key, &contents);
        Self { bytes, key, index, contents }
    }

    fn keys(&self) -> TrustedKeys {
        TrustedKeys::new(vec![self.key.public()]).unwrap()
    }

    /// Header, content and padding of every member; the end blocks last.
    fn members(&self) -> Vec<Vec<u8>> {
        let mut rest = self.bytes.as_slice();
        let mut members = Vec::new();
        while rest.len() > member::END_BYTES {
            let size = std::str::from_utf8(&rest[124..135]).unwrap();
            let size = usize::from_str_radix(size, 8).unwrap();
            let (member, more) = rest.split_at(member::BLOCK + size.next_multiple_of(512));
            members.push(member.to_vec());
            rest = more;
        }
        members.push(rest.to_vec());
        members
    }

    /// Both readers refuse it, and for the same reason wherever both look at the reason.
    fn refusal(&self, bytes: &[u8], folder: &Path) -> VerifyError {
        let error = verify(bytes, &self.keys()).expect_err("verify has to refuse");
        let path = folder.join("changed.bundle");
        fs_err::write(&path, bytes).unwrap();
        match BundleFile::open(&path, &self.keys()) {
            // Random access looks at the places of all members before it reads one.
            Err(VerifyError::Truncated { .. }) => {
                assert!(matches!(error, VerifyError::Truncated { .. }), "{error}");
            }
            Err(other) => assert_eq!(other.to_string(), error.to_string()),
            Ok(open) => {
                let all: Result<Vec<_>, _> = (open.index().blobs.iter())
                    .map(|blob| open.copy_blob(&blob.digest, &mut Vec::new()))
                    .collect();
                let other = all.expect_err("a blob has to be refused");
                assert_eq!(other.to_string(), error.to_string());
            }
        }
        error
    }
}

fn build(index: &Index, key: &SigningKey, contents: &BTreeMap<Digest, Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let open = |digest: &Digest| Ok(contents[digest].as_slice());
    let length = write(&mut bytes, index, key, open, &mut |_| {}).unwrap();
    assert_eq!(length, bytes.len() as u64);
    bytes
}

#[test]
fn an_untouched_bundle_is_proved_and_gives_every_byte() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let proved = verify(sample.bytes.as_slice(), &sample.keys()).unwrap();
    assert_eq!(proved.index, sample.index);
    assert_eq!(proved.signer, sample.key.public().id());
    assert_eq!(proved.file_bytes, sample.bytes.len() as u64);
    let path = folder.path().join("b");
    fs_err::write(&path, &sample.bytes).unwrap();
    let open = BundleFile::open(&path, &sample.keys()).unwrap();
    assert_eq!(open.digest(), &proved.digest);
    let mut bytes = Vec::new();
    for (digest, content) in &sample.contents {
        assert_eq!(open.read_blob(digest, 1 << 20).unwrap(), *content);
        let ordinal = open.index().ordinal(digest).unwrap();
        for (piece, expected) in content.chunks(PIECE as usize).enumerate() {
            open.read_piece_into(ordinal, piece, &mut bytes).unwrap();
            assert_eq!(bytes, expected);
        }
        let past = content.len().div_ceil(PIECE as usize);
        let error = open.read_piece_into(ordinal, past, &mut bytes).unwrap_err();
        assert!(matches!(error, VerifyError::NoSuchPiece { .. }), "{error}");
    }
    let error = open.read_piece_into(99, 0, &mut bytes).unwrap_err();
    assert!(matches!(error, VerifyError::NoSuchBlob { .. }), "{error}");
}

#[test]
fn one_flipped_byte_at_200_random_places_is_refused_200_times() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..200 {
        let mut bytes = sample.bytes.clone();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= random.random_range(1..=255_u8);
        let error = sample.refusal(&bytes, folder.path());
        println!("byte {at}: {error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn every_byte_outside_the_blobs_counts_in_each_of_its_bits() {
    let sample = Sample::new();
    let (mut offset, last) = (0, sample.members().len() - 1);
    for (number, member) in sample.members().iter().enumerate() {
        let blob = number >= 4 && number < last;
        // Of two blobs the header and the padding; the content is for the test above.
        if blob && number > 5 {
            offset += member.len();
            continue;
        }
        let size = if blob { sample.index.blobs[number - 4].size as usize } else { 0 };
        for at in (0..member.len()).filter(|at| !blob || *at < 512 || *at >= 512 + size) {
            // Every bit of a signature; one of each byte elsewhere, a different one each time.
            let bits = if number == 1 { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let mut bytes = sample.bytes.clone();
                bytes[offset + at] ^= 1 << bit;
                assert!(verify(bytes.as_slice(), &sample.keys()).is_err(), "{number} {at} {bit}");
            }
        }
        offset += member.len();
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let length = sample.bytes.len();
    let mut lengths: Vec<usize> = (0..length).step_by(4999).collect();
    lengths.extend((0..length).step_by(1024));
    lengths.extend(length - 1025..length - 1000);
    for length in lengths {
        let error = sample.refusal(&sample.bytes[..length], folder.path());
        assert!(matches!(error, VerifyError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn a_byte_after_the_end_is_refused() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    for extra in [vec![0], vec![1], vec![0; 512], vec![0; 10_240]] {
        let bytes = [sample.bytes.clone(), extra].concat();
        let error = sample.refusal(&bytes, folder.path());
        let end = sample.bytes.len() as u64;
        assert!(matches!(error, VerifyError::Trailing { offset } if offset == end), "{error}");
    }
}

#[test]
fn each_missing_doubled_or_moved_member_is_refused_by_name() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let members = sample.members();
    let name = |member: &Vec<u8>| {
        let end = member.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(member[..end].to_vec()).unwrap()
    };
    for number in 0..members.len() - 1 {
        let mut missing = members.clone();
        let gone = name(&missing.remove(number));
        let error = sample.refusal(&missing.concat(), folder.path()).to_string();
        assert!(error.contains(&gone), "missing {gone}: {error}");

        let mut doubled = members.clone();
        doubled.insert(number + 1, members[number].clone());
        let error = sample.refusal(&doubled.concat(), folder.path()).to_string();
        assert!(error.contains(&name(&members[number])), "doubled: {error}");

        if number + 2 < members.len() {
            let mut moved = members.clone();
            moved.swap(number, number + 1);
            let error = sample.refusal(&moved.concat(), folder.path()).to_string();
            assert!(error.contains(&name(&members[number])), "moved: {error}");
        }
    }
    let mut extra = members.clone();
    let mut member = member::header("../../etc/passwd\x1b[2J", 3).to_vec();
    member.extend([b'x'; 512]);
    extra.insert(members.len() - 1, member);
    let error = sample.refusal(&extra.concat(), folder.path()).to_string();
    assert!(error.contains("passwd") && !error.contains('\x1b'), "{error}");
}

#[test]
fn unsigned_and_foreign_signatures_are_told_apart() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let mut unsigned = sample.members();
    unsigned.remove(1);
    let error = sample.refusal(&unsigned.concat(), folder.path());
    assert!(matches!(error, VerifyError::Unsigned { .. }), "{error}");

    let other = SigningKey::generate().unwrap();
    let foreign = build(&sample.index, &other, &sample.contents);
    let error = sample.refusal(&foreign, folder.path());
    let VerifyError::Signature { source: SignatureError::WrongKey { signers, trusted, .. } } =
        &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (signers.clone(), trusted.clone()),
        (vec![other.public().id()], sample.keys().ids())
    );

    let error = sample.refusal(b"#!/bin/sh\n".repeat(100).as_slice(), folder.path());
    assert!(matches!(error, VerifyError::NotABundle { .. }), "{error}");
}

#[test]
fn either_of_two_keys_is_enough() {
    let sample = Sample::new();
    let other = SigningKey::generate().unwrap();
    for keys in [[other.public(), sample.key.public()], [sample.key.public(), other.public()]] {
        let keys = TrustedKeys::new(keys.to_vec()).unwrap();
        assert_eq!(
            verify(sample.bytes.as_slice(), &keys).unwrap().signer,
            sample.key.public().id()
        );
    }
    assert!(
        verify(sample.bytes.as_slice(), &TrustedKeys::new(vec![other.public()]).unwrap()).is_err()
    );
}

#[test]
fn a_signature_over_another_index_does_not_fit() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let mut later = sample.index.clone();
    later.bundle_version = "2.0".to_owned();
    let later = Sample { bytes: build(&later, &sample.key, &sample.contents), ..Sample::new() };
    let mut mixed = sample.members();
    mixed[1] = later.members()[1].clone();
    let error = sample.refusal(&mixed.concat(), folder.path());
    let forged = matches!(error, VerifyError::Signature { source: SignatureError::Forged { .. } });
    assert!(forged, "{error}");
}

#[test]
fn the_same_inputs_and_key_give_the_same_bytes() {
    let sample = Sample::new();
    assert_eq!(build(&sample.index, &sample.key, &sample.contents), sample.bytes);
}

#[test]
fn another_tar_reads_it_and_finds_an_oci_layout() {
    let sample = Sample::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.tar");
    fs_err::write(&path, &sample.bytes).unwrap();
    let text = path.to_str().unwrap();
    let listed = kdc_tests::program::must(&["tar", "-tf", text]).unwrap();
    let mut expected: Vec<String> =
        ["kdc-index.json", "kdc-index.json.minisig", "oci-layout", "index.json"]
            .map(str::to_owned)
            .to_vec();
    expected.extend(sample.index.blobs.iter().map(|blob| member::blob_name(&blob.digest)));
    assert_eq!(listed.stdout_text().lines().collect::<Vec<_>>(), expected);
    let index = kdc_tests::program::must(&["tar", "-xOf", text, "index.json"]).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index.stdout_text()).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), sample.index.artifacts.len());
    assert_eq!(manifests[0]["platform"]["architecture"], "amd64");
    assert_eq!(manifests[0]["digest"], sample.index.artifacts[0].digest.as_str());
}

#[test]
fn a_file_that_changes_after_it_was_opened_is_noticed() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("b");
    fs_err::write(&path, &sample.bytes).unwrap();
    let open = BundleFile::open(&path, &sample.keys()).unwrap();
    let mut bytes = sample.bytes.clone();
    let end = bytes.len();
    bytes[4 * 512..end - 1024].fill(7);
    fs_err::write(&path, &bytes).unwrap();
    let mut buffer = vec![1, 2, 3];
    let ordinal = open.index().blobs.iter().position(|blob| blob.size > PIECE).unwrap();
    let error = open.read_piece_into(ordinal, 0, &mut buffer).unwrap_err();
    assert!(matches!(error, VerifyError::Piece { .. }), "{error}");
    assert!(buffer.is_empty(), "unproved bytes were handed out");
}

#[test]
fn bytes_for_whoever_proves_them_are_the_blobs_own_and_never_its_neighbours() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("b");
    fs_err::write(&path, &sample.bytes).unwrap();
    let open = BundleFile::open(&path, &sample.keys()).unwrap();
    let ordinal = open.index().blobs.iter().position(|blob| blob.size > PIECE).unwrap();
    let blob = &open.index().blobs[ordinal];
    let whole = open.read_blob(&blob.digest, blob.size).unwrap();
    let (size, from) = (whole.len(), 3);
    let mut buffer = vec![0; size - from];
    open.read_unproved(ordinal, from as u64, &mut buffer).unwrap();
    assert_eq!(buffer, whole[from..]);
    for offset in [from as u64 + 1, blob.size, u64::MAX] {
        let error = open.read_unproved(ordinal, offset, &mut buffer).unwrap_err();
        assert!(matches!(error, VerifyError::NoSuchPiece { .. }), "{error}");
    }
    let nobody = open.read_unproved(open.index().blobs.len(), 0, &mut buffer).unwrap_err();
    assert!(matches!(nobody, VerifyError::NoSuchBlob { .. }), "{nobody}");
}

#[test]
fn looking_without_a_key_reads_a_foreign_bundle_but_no_damaged_index() {
    let (sample, folder) = (Sample::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("b");
    fs_err::write(&path, &sample.bytes).unwrap();
    let found = read_unproved(&Medium::file(&path).unwrap()).unwrap();
    assert_eq!(
        (found.index, found.claimed_signers),
        (sample.index, vec![sample.key.public().id()])
    );
    fs_err::write(&path, &sample.bytes[..700]).unwrap();
    assert!(read_unproved(&Medium::file(&path).unwrap()).is_err());
}
