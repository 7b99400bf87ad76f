//! Whole ways: two bundles, an update, and the second bundle again; then everything that may go
//! wrong on the way.

use std::io::Write as _;

use kdc_bundles::{
    index::{Artifact, ArtifactKind, Digest, INDEX_VERSION, Index},
    keys::TrustedKeys,
    open::BundleFile,
    signing::SigningKey,
    write::{hash_blob, write_file},
};
use proptest::prelude::*;

use super::{
    layout::{Coding, Part, XzEncoder},
    ops::{Op, Packed, Reference},
    spool::Spool,
    update::{Manifest, OldBlob},
    *,
};
use crate::Silent;

/// A builder with a key, and a folder for everything.
struct Site {
    folder: tempfile::TempDir,
    key: SigningKey,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: SigningKey::generate().unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&self) -> TrustedKeys {
        TrustedKeys::new(vec![self.key.public()]).unwrap()
    }

    /// Writes a bundle with these packages.
    fn bundle(&self, file: &str, packages: &[(&str, Vec<u8>)]) -> BundleFile {
        let hashed = packages.iter().map(|(name, content)| {
            let blob = hash_blob(content.as_slice(), 4096, &mut |_| {}).unwrap();
            (*name, content, blob)
        });
        let hashed: Vec<_> = hashed.collect();
        let artifact = |name: &str, digest: &Digest| Artifact {
            name: name.to_owned(),
            kind: ArtifactKind::Package,
            platform: None,
            version: None,
            unpack_to: None,
            media_type: "a/b".to_owned(),
            digest: digest.clone(),
            blobs: vec![digest.clone()],
            roles: Vec::new(),
            licence: None,
            source: None,
        };
        let mut artifacts: Vec<_> =
            hashed.iter().map(|(name, _, blob)| artifact(name, &blob.digest)).collect();
        artifacts.sort_by(|left, right| left.name.cmp(&right.name));
        let mut blobs: Vec<_> = hashed.iter().map(|(_, _, blob)| blob.clone()).collect();
        blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
        blobs.dedup();
        let index = Index {
            version: INDEX_VERSION,
            name: "test".to_owned(),
            bundle_version: file.to_owned(),
            piece_size: 4096,
            parameters: Default::default(),
            artifacts,
            blobs,
        };
        let open = |digest: &Digest| {
            let found = hashed.iter().find(|(_, _, blob)| blob.digest == *digest);
            Ok(found.unwrap().1.as_slice())
        };
        write_file(&self.path(file), &index, &self.key, open, &mut |_| {}).unwrap();
        BundleFile::open(&self.path(file), &self.keys()).unwrap()
    }

    fn holdings(&self, bundle: &str) -> Holdings {
        let mut holdings = Holdings::new();
        holdings.add_bundle(BundleFile::open(&self.path(bundle), &self.keys()).unwrap());
        holdings
    }

    fn diff(&self) -> Diffed {
        let new = BundleFile::open(&self.path("new"), &self.keys()).unwrap();
        let old = OldSide::same(self.holdings("old")).unwrap();
        diff(&old, &new, &self.path("update"), &mut Silent).unwrap()
    }

    fn patch(&self) -> Result<Patched, DeltaError> {
        let (update, made) = (self.path("update"), self.path("made"));
        patch(&self.holdings("old"), &update, &self.keys(), &made, &mut Silent)
    }

    fn assert_same(&self) {
        self.patch().unwrap();
        let (made, new) = (self.path("made"), self.path("new"));
        assert!(fs_err::read(made).unwrap() == fs_err::read(new).unwrap(), "the bundles differ");
    }

    fn names(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Puts a made-up update in place of the real one.
    fn forge(&self, change: impl FnOnce(&mut Manifest, &mut Vec<u8>)) {
        let opened = update::UpdateFile::open(&self.path("update"), &self.keys()).unwrap();
        let mut manifest = opened.manifest.clone();
        assert_eq!(manifest.patches.len(), 1, "one patch is what a forger changes here");
        let mut operations = Vec::new();
        std::io::Read::read_to_end(&mut opened.operations(0), &mut operations).unwrap();
        change(&mut manifest, &mut operations);
        manifest.patches[0].size = operations.len() as u64;
        manifest.patches[0].digest = Digest::of(&operations);
        let mut spool = Spool::new(self.folder.path()).unwrap();
        spool.put(&operations).unwrap();
        let signed = (opened.index.to_bytes(), opened.signature);
        let path = self.path("update");
        update::write(&path, &manifest, (&signed.0, &signed.1), &spool).unwrap();
    }
}

/// Bytes that don't compress, the same for the same seed.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn xz(content: &[u8], threads: u32) -> Vec<u8> {
    let mut builder = liblzma::stream::MtStreamBuilder::new();
    builder.preset(1).check(liblzma::stream::Check::Crc64).threads(threads);
    let stream = match threads {
        0 => liblzma::stream::Stream::new_easy_encoder(6, liblzma::stream::Check::Crc32).unwrap(),
        _ => builder.encoder().unwrap(),
    };
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A Debian package, as far as its outside goes.
fn deb(content: &[u8]) -> Vec<u8> {
    let mut deb = b"!<arch>\n".to_vec();
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", xz(&tar(&[("./control", b"Package: x\n".to_vec())]), 1)),
        ("data.tar.xz", xz(content, 2)),
    ];
    for (name, content) in members {
        let size = content.len();
        writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, 100_644).unwrap();
        deb.extend(&content);
        deb.resize(deb.len().next_multiple_of(2), b'\n');
    }
    deb
}

fn changed(content: &[u8]) -> Vec<u8> {
    let mut changed = content.to_vec();
    let middle = changed.len() / 2;
    changed.splice(middle..middle + 10, *b"another thing");
    changed
}

/// One pair of versions in every packing: what the update has to save is what changed.
#[test]
fn what_is_compressed_is_compared_decompressed_and_comes_out_byte_for_byte() {
    let old = tar(&[("usr/a-1.1", noise(1, 300_000)), ("usr/b", noise(2, 200_000))]);
    let new = tar(&[("usr/a-1.2", changed(&noise(1, 300_000))), ("usr/b", noise(2, 200_000))]);
    type Pack = fn(&[u8]) -> Vec<u8>;
    let packings: [(&str, Pack); 5] = [
        ("plain", <[u8]>::to_vec),
        ("gzip", gzip),
        ("xz", |content| xz(content, 0)),
        ("xz in blocks", |content| xz(&content.repeat(3), 2)),
        ("deb", deb),
    ];
    for (name, pack) in packings {
        let site = Site::new();
        site.bundle("old", &[("x", pack(&old)), ("same", noise(9, 5000))]);
        site.bundle("new", &[("x", pack(&new)), ("same", noise(9, 5000))]);
        let made = site.diff();
        assert_eq!((made.unchanged, made.patched, made.whole), (1, 1, 0), "{name}");
        assert!(made.update_bytes < 30_000, "{name}: {made:?}");
        site.assert_same();
        assert_eq!(site.names(), ["made", "new", "old", "update"]);
    }
}

#[test]
fn what_is_new_travels_whole_and_what_is_gone_does_not() {
    let site = Site::new();
    site.bundle("old", &[("gone", noise(1, 50_000)), ("kept", noise(2, 50_000))]);
    site.bundle("new", &[("kept", noise(2, 50_000)), ("new", noise(3, 70_000)), ("nil", vec![])]);
    let made = site.diff();
    assert_eq!((made.blobs, made.unchanged, made.patched, made.whole), (3, 1, 0, 2));
    assert!((70_000..85_000).contains(&made.update_bytes), "{made:?}");
    site.assert_same();
}

/// A stream that nothing makes again is compared as it is.
#[test]
fn a_stream_that_does_not_come_out_again_is_left_alone() {
    let mut broken = xz(&noise(1, 50_000), 1);
    let end = broken.len() - 40;
    broken[end] ^= 1;
    let mut filtered = liblzma::stream::Filters::new();
    let options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    filtered.x86().lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filtered, liblzma::stream::Check::None);
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
    encoder.write_all(&noise(2, 50_000)).unwrap();
    let site = Site::new();
    let odd = [broken, encoder.finish().unwrap(), gzip(&noise(3, 9000))[..5000].to_vec()];
    let named = |version: u8| {
        let mut all = Vec::new();
        for (number, stream) in odd.iter().enumerate() {
            let mut stream = stream.clone();
            stream.extend([version; 20]);
            all.push((["a", "b", "c"][number], stream));
        }
        all
    };
    site.bundle("old", &named(1));
    site.bundle("new", &named(2));
    assert!(site.diff().update_bytes < 40_000);
    site.assert_same();
}

#[test]
fn an_inventory_alone_is_enough_for_an_update_and_old_contents_make_it_smaller() {
    let site = Site::new();
    let old = tar(&[("usr/a", noise(1, 900_000))]);
    let new = tar(&[("usr/a", changed(&noise(1, 900_000)))]);
    site.bundle("old", &[("x", xz(&old, 1))]);
    let bundle = site.bundle("new", &[("x", xz(&new, 1))]);
    let taken = Inventory::take(&site.holdings("old"), site.folder.path(), &mut Silent).unwrap();
    taken.save(&site.path("inventory")).unwrap();
    let loaded = Inventory::load(&site.path("inventory")).unwrap();
    assert_eq!(loaded, taken);

    let update = site.path("update");
    let blind = OldSide::listed(loaded.clone(), Holdings::new());
    let from_chunks = diff(&blind, &bundle, &update, &mut Silent).unwrap();
    assert!(from_chunks.update_bytes < 40_000, "{from_chunks:?}");
    site.assert_same();

    let seeing = OldSide::listed(loaded, site.holdings("old"));
    let from_contents = diff(&seeing, &bundle, &update, &mut Silent).unwrap();
    assert!(from_contents.update_bytes < from_chunks.update_bytes, "{from_contents:?}");
    site.assert_same();
}

#[test]
fn a_folder_of_blobs_serves_as_the_old_side_and_a_damaged_file_in_it_is_named() {
    let site = Site::new();
    let old = noise(1, 200_000);
    site.bundle("old", &[("x", old.clone())]);
    site.bundle("new", &[("x", changed(&old)), ("y", old.clone())]);
    site.diff();
    let blobs = site.path("store/blobs/sha256");
    fs_err::create_dir_all(&blobs).unwrap();
    let blob = blobs.join(Digest::of(&old).hex());
    fs_err::write(&blob, &old).unwrap();
    let mut store = Holdings::new();
    store.add_folder(&site.path("store"), &site.keys()).unwrap();
    let (update, made) = (site.path("update"), site.path("made"));
    patch(&store, &update, &site.keys(), &made, &mut Silent).unwrap();
    assert_eq!(fs_err::read(&made).unwrap(), fs_err::read(site.path("new")).unwrap());

    fs_err::remove_file(&made).unwrap();
    let mut damaged = old;
    damaged[77] ^= 1;
    fs_err::write(&blob, &damaged).unwrap();
    let error = patch(&store, &update, &site.keys(), &made, &mut Silent).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("is damaged"), "{error}: {cause}");
    assert_eq!(site.names(), ["new", "old", "store", "update"]);
}

#[test]
fn a_foreign_base_is_refused_by_the_digests_that_it_lacks() {
    let site = Site::new();
    site.bundle("old", &[("x", noise(1, 50_000)), ("y", noise(2, 5000))]);
    site.bundle("new", &[("x", changed(&noise(1, 50_000))), ("y", noise(2, 5000))]);
    site.diff();
    site.bundle("old", &[("x", noise(7, 50_000)), ("y", noise(2, 5000))]);
    let error = site.patch().unwrap_err();
    assert!(matches!(error, DeltaError::Foreign { count: 1, .. }), "{error}");
    assert!(error.to_string().contains(Digest::of(&noise(1, 50_000)).as_str()), "{error}");
    assert_eq!(site.names(), ["new", "old", "update"]);
}

#[test]
fn an_update_for_another_key_is_refused() {
    let site = Site::new();
    site.bundle("old", &[("x", noise(1, 5000))]);
    site.bundle("new", &[("x", noise(2, 5000))]);
    site.diff();
    let other = Site::new();
    let (update, made) = (site.path("update"), site.path("made"));
    let error =
        patch(&site.holdings("old"), &update, &other.keys(), &made, &mut Silent).unwrap_err();
    assert!(matches!(error, DeltaError::Untrusted { .. }), "{error}");
    assert_eq!(site.names(), ["new", "old", "update"]);
}

/// Every byte of an update counts: none can be flipped, none can be missing, none can be more.
#[test]
fn a_damaged_update_is_refused_wherever_the_damage_is() {
    let site = Site::new();
    site.bundle("old", &[("x", gzip(&noise(1, 60_000)))]);
    site.bundle("new", &[("x", gzip(&changed(&noise(1, 60_000)))), ("y", noise(2, 300))]);
    site.diff();
    let update = site.path("update");
    let good = fs_err::read(&update).unwrap();
    let step = good.len() / 400;
    let mut damaged: Vec<Vec<u8>> = (0..400).map(|at| good[..at * step].to_vec()).collect();
    for at in 0..400 {
        let mut flipped = good.clone();
        flipped[at * step + at % step] ^= 1 << (at % 8);
        damaged.push(flipped);
    }
    damaged.push([good.as_slice(), &[0]].concat());
    for bytes in damaged {
        fs_err::write(&update, &bytes).unwrap();
        let error = site.patch().unwrap_err();
        let named = matches!(error, DeltaError::Damaged { .. } | DeltaError::Untrusted { .. });
        assert!(named, "{error}");
        assert!(error.hint().is_some());
        assert_eq!(site.names(), ["new", "old", "update"]);
    }
    fs_err::write(&update, &good).unwrap();
    site.assert_same();
}

/// Changes manifest and operations of an update.
type Forgery = Box<dyn Fn(&mut Manifest, &mut Vec<u8>)>;

/// Operations that are one frame of zeros, which says that it holds `length` bytes.
fn frame(length: u64, content: usize) -> Forgery {
    Box::new(move |_, operations| {
        operations.clear();
        let frame = zstd::bulk::compress(&vec![0; content], 19).unwrap();
        let packed = Packed { length, frame };
        let op = Op::Frame { references: Vec::new(), packed };
        op.write(operations).unwrap();
        Op::End.write(operations).unwrap();
    })
}

/// Operations that are changes, of which each stream says that it holds `stated` bytes.
fn changes(length: u64, stated: u64, content: usize) -> Forgery {
    Box::new(move |_, operations| {
        operations.clear();
        let frame = zstd::bulk::compress(&vec![0; content], 19).unwrap();
        let stream = || Packed { length: stated, frame: frame.clone() };
        let references = vec![Reference { base: 0, start: 0, length: 50_000 }];
        let streams = [stream(), stream(), stream(), stream()];
        Op::Changed { references, length, streams }.write(operations).unwrap();
        Op::End.write(operations).unwrap();
    })
}

fn operations(bytes: &'static [u8]) -> Forgery {
    Box::new(move |_, operations| *operations = bytes.to_vec())
}

fn manifest(change: impl Fn(&mut Manifest) + 'static) -> Forgery {
    Box::new(move |manifest, _| change(manifest))
}

/// Says of the base that it is one stream of that kind.
fn base_is(coding: Coding, unpacked: u64) -> Forgery {
    manifest(move |manifest| {
        let OldBlob { size, layout, .. } = &mut manifest.bases[0];
        *layout = vec![Part { coding: coding.clone(), packed: *size, unpacked }];
    })
}

/// Says of the new blob that it is a stream of that kind.
fn blob_is(coding: Coding) -> Forgery {
    manifest(move |manifest| manifest.patches[0].layout[0].coding = coding.clone())
}

/// Updates that no `diff` made, with good digests: refused by what they would do.
#[test]
fn a_hostile_update_makes_nothing_and_takes_no_more_than_is_allowed() {
    let beyond = |_: &mut Manifest, operations: &mut Vec<u8>| {
        operations.clear();
        let stretch = Reference { base: 0, start: 1 << 40, length: 40_000 };
        Op::Copy(stretch).write(operations).unwrap();
    };
    let chunks = |chunks| Coding::Deflate { chunks };
    let wide = XzEncoder { preset: 9, check: 4, block_bytes: None };
    let forgeries: [(&str, Forgery); 23] = [
        ("a frame that outgrows what it says", frame(4000, 100_000_000)),
        ("a frame beyond the blob", frame(60_000_000, 60_000_000)),
        ("a frame of too many bytes", frame(100_000_000, 100)),
        ("other content", frame(50_003, 50_003)),
        ("changes that outgrow what they say", changes(50_003, 1000, 100_000_000)),
        ("changes beyond the blob", changes(60_000_000, 30, 30)),
        ("changes of too many bytes", changes(1 << 40, 1 << 40, 100)),
        ("changes that make nothing", changes(50_003, 30, 30)),
        ("too few bytes", operations(&[0])),
        ("no operation", operations(&[])),
        ("an unknown operation", operations(&[9])),
        ("bytes after the end", Box::new(|_, operations| operations.push(0))),
        ("a stretch beyond its base", Box::new(beyond)),
        ("no base", manifest(|manifest| manifest.patches[0].bases.clear())),
        ("an unknown base", manifest(|manifest| manifest.patches[0].bases = vec![3])),
        ("a base that expands", base_is(Coding::Xz { encoder: None }, 1 << 40)),
        ("a base that is no stream", base_is(chunks(Vec::new()), 5000)),
        ("no encoder", blob_is(Coding::Xz { encoder: None })),
        ("an encoder that needs too much", blob_is(Coding::Xz { encoder: Some(wide) })),
        ("chunks that overflow", blob_is(chunks(vec![(u64::MAX, 1)]))),
        ("a blob twice", manifest(|manifest| manifest.patches.push(manifest.patches[0].clone()))),
        ("another version", manifest(|manifest| manifest.version = 3)),
        ("another index", manifest(|manifest| manifest.index = Digest::of(b""))),
    ];
    for (name, forgery) in forgeries {
        let site = Site::new();
        site.bundle("old", &[("x", noise(1, 50_000))]);
        site.bundle("new", &[("x", changed(&noise(1, 50_000)))]);
        site.diff();
        site.forge(forgery);
        let error = site.patch().expect_err(name);
        let refused = matches!(error, DeltaError::Damaged { .. } | DeltaError::Blob { .. });
        assert!(refused, "{name}: {error:?}");
        assert_eq!(site.names(), ["new", "old", "update"], "{name}");
    }
}

#[test]
fn a_damaged_inventory_is_refused() {
    let site = Site::new();
    site.bundle("old", &[("x", noise(1, 100_000))]);
    let path = site.path("inventory");
    let taken = Inventory::take(&site.holdings("old"), site.folder.path(), &mut Silent).unwrap();
    taken.save(&path).unwrap();
    let good = fs_err::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        fs_err::write(&path, &flipped).unwrap();
        let error = Inventory::load(&path).unwrap_err();
        assert!(matches!(error, DeltaError::Damaged { kind: "inventory", .. }), "{error}");
    }
    fs_err::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(Inventory::load(&path).is_err());
    fs_err::write(&path, &good).unwrap();
    assert_eq!(Inventory::load(&path).unwrap(), taken);
}

/// An inventory that lies about chunks costs an update that does not work, and nothing else.
#[test]
fn an_update_from_a_false_inventory_makes_nothing() {
    let site = Site::new();
    let content = noise(1, 400_000);
    site.bundle("old", &[("x", content.clone())]);
    let taken = Inventory::take(&site.holdings("old"), site.folder.path(), &mut Silent).unwrap();
    let text = serde_json::to_string(&taken).unwrap();
    let text = text.replace(Digest::of(&content).hex(), Digest::of(&noise(5, 400_000)).hex());
    let lying: Inventory = serde_json::from_str(&text).unwrap();
    let new = site.bundle("new", &[("x", changed(&content))]);
    let old = OldSide::listed(lying, Holdings::new());
    diff(&old, &new, &site.path("update"), &mut Silent).unwrap();
    site.bundle("old", &[("x", noise(5, 400_000))]);
    let error = site.patch().unwrap_err();
    assert!(matches!(error, DeltaError::Blob { .. }), "{error}");
    assert_eq!(site.names(), ["new", "old", "update"]);
}

/// Versions of a blob: edits of a common ancestor, packed in any way.
fn version() -> impl Strategy<Value = Vec<u8>> {
    let edit = (0..60_000_usize, 0..2000_usize, 0..3000_usize, any::<u64>());
    (prop::collection::vec(edit, 0..6), 0..4_u8).prop_map(|(edits, packing)| {
        let mut content = noise(42, 60_000);
        for (at, gone, more, seed) in edits {
            let at = at.min(content.len());
            let end = (at + gone).min(content.len());
            content.splice(at..end, noise(seed, more));
        }
        match packing {
            0 => content,
            1 => gzip(&content),
            2 => deb(&tar(&[("./a", content.clone()), ("./b", content)])),
            _ => tar(&[("a", content)]),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_two_bundles_have_an_update_that_makes_the_second_of_the_first(
        old in prop::collection::vec(version(), 1..4),
        new in prop::collection::vec(version(), 1..4),
    ) {
        let names = ["a", "b", "c"];
        let named = |contents: Vec<Vec<u8>>| -> Vec<_> { names.into_iter().zip(contents).collect() };
        let site = Site::new();
        site.bundle("old", &named(old));
        site.bundle("new", &named(new));
        site.diff();
        site.assert_same();
    }
}

proptest! {
    #[test]
    fn any_bytes_as_operations_are_judged_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0..3_u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut base = Spool::new(folder.path()).unwrap();
        base.put(&noise(1, 1000)).unwrap();
        let mut target = Spool::new(folder.path()).unwrap();
        let input = [&[kind], bytes.as_slice()].concat();
        let _ = ops::carry_out(&mut input.as_slice(), &[base], &mut target, 5000);
        prop_assert!(target.length() <= 5000);
    }

    #[test]
    fn any_bytes_are_unpacked_without_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        magic in 0..4_usize,
    ) {
        let magics: [&[u8]; 4] = [b"", b"\x1f\x8b\x08\0", b"\xfd7zXZ\0\0\x04", b"!<arch>\n"];
        bytes.splice(..0, magics[magic].iter().copied());
        let folder = tempfile::tempdir().unwrap();
        for purpose in [unpack::Purpose::Base, unpack::Purpose::Target] {
            let mut out = Spool::new(folder.path()).unwrap();
            let mut blob = std::io::Cursor::new(&bytes);
            let parts = unpack::open_up(&mut blob, bytes.len() as u64, &mut out, purpose).unwrap();
            let length = layout::unpacked_bytes(&parts, bytes.len() as u64);
            prop_assert_eq!(length, Some(out.length()));
            members::divide(&out, &parts).unwrap();
            if purpose == unpack::Purpose::Target {
                let mut again = Vec::new();
                unpack::pack(&out, &parts, &mut again).unwrap();
                prop_assert_eq!(&again, &bytes);
            }
        }
    }
}
