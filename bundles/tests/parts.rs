//! Parts: whatever is lost up to what parity allows is rebuilt and proved, and more is refused by
//! name. Reading a set gives the same bytes as reading the file.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use kdc_bundles::{
    error::VerifyError,
    index::{Artifact, ArtifactKind, Digest, INDEX_VERSION, Index},
    keys::TrustedKeys,
    medium::{Medium, MediumError},
    open::{BundleFile, read_unproved},
    parts::{
        Checked, HEAD_BYTES, PartHead, PartKind, PartSet, RepairError, Split, SplitError, check,
        join, repair, split,
    },
    signing::SigningKey,
    verify::verify,
    write::{hash_blob, write, write_parts},
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tempfile::TempDir;

const PIECE: u64 = 4096;

/// A bundle of some hundred pieces, whole and in parts.
struct Sample {
    folder: TempDir,
    key: SigningKey,
    index: Index,
    contents: BTreeMap<Digest, Vec<u8>>,
    bytes: Vec<u8>,
}

impl Sample {
    /// The same content whatever the name; keys differ.
    fn new(name: &str) -> Self {
        Self::of(name, &[0, 1, 4095, 4096, 4097, 50_000, 130_000, 300_000])
    }

    fn of(name: &str, sizes: &[usize]) -> Self {
        let mut random = StdRng::seed_from_u64(3);
        let contents = sizes.iter().map(|size| {
            let mut content = vec![0; *size];
            random.fill(content.as_mut_slice());
            content
        });
        Self::of_contents(name, contents.collect(), PIECE)
    }

    fn of_contents(name: &str, contents: Vec<Vec<u8>>, piece_size: u64) -> Self {
        let contents = contents.into_iter().map(|content| (Digest::of(&content), content));
        let contents: BTreeMap<_, _> = contents.collect();
        let blobs: Vec<_> = contents
            .values()
            .map(|content| hash_blob(content.as_slice(), piece_size, &mut |_| {}).unwrap())
            .collect();
        let artifacts = blobs.iter().enumerate().map(|(number, blob)| Artifact {
            name: format!("tool-{number}"),
            kind: ArtifactKind::Binary,
            platform: None,
            version: None,
            media_type: "application/octet-stream".to_owned(),
            digest: blob.digest.clone(),
            blobs: vec![blob.digest.clone()],
            roles: Vec::new(),
            licence: None,
            source: None,
            unpack_to: None,
        });
        let index = Index {
            version: INDEX_VERSION,
            name: name.to_owned(),
            bundle_version: "1.0".to_owned(),
            piece_size,
            parameters: BTreeMap::new(),
            artifacts: artifacts.collect(),
            blobs: blobs.clone(),
        };
        let key = SigningKey::generate().unwrap();
        let mut bytes = Vec::new();
        let open = |digest: &Digest| Ok(contents[digest].as_slice());
        write(&mut bytes, &index, &key, open, &mut |_| {}).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("whole"), &bytes).unwrap();
        fs_err::create_dir(folder.path().join("stick")).unwrap();
        Self { folder, key, index, contents, bytes }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&self) -> TrustedKeys {
        TrustedKeys::new(vec![self.key.public()]).unwrap()
    }

    /// Splits into `stick/`; 48,000 gives 12 data parts.
    fn split(&self, size: u64, parity_percent: u8) -> Vec<PathBuf> {
        let whole = Medium::file(&self.at("whole")).unwrap();
        let how = Split { size, parity_percent };
        split(whole, &self.keys(), &self.at("stick/b"), how, &mut |_, _| {}).unwrap().paths
    }

    fn find(&self) -> PartSet {
        let Medium::Parts(set) = Medium::find(&[self.at("stick")]).unwrap() else {
            panic!("a file was found")
        };
        set
    }

    fn check(&self) -> Checked {
        check(&self.find(), &self.keys(), &mut |_| {}).unwrap()
    }

    /// Numbers of the parts that are not good.
    fn bad(&self) -> Vec<u32> {
        self.check().bad_parts().iter().map(|part| part.number).collect()
    }

    fn repair(&self, save: Option<&Path>) -> Result<Vec<u32>, RepairError> {
        let set = self.find();
        let checked = check(&set, &self.keys(), &mut |_| {}).unwrap();
        let repaired = repair(&set, &checked, save, &mut |_| {})?;
        Ok(repaired.parts.iter().map(|(number, _)| *number).collect())
    }

    fn read_whole(&self, paths: &[PathBuf]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Medium::find(paths).unwrap().reader().read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn nothing_unfinished(&self, folder: &str) {
        for entry in fs_err::read_dir(self.at(folder)).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(!name.to_string_lossy().starts_with('.'), "{name:?} was left behind");
        }
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs_err::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs_err::write(path, bytes).unwrap();
}

fn payload_start(path: &Path) -> usize {
    let bytes = fs_err::read(path).unwrap();
    PartHead::parse(bytes.first_chunk::<HEAD_BYTES>().unwrap()).unwrap().set.payload_start()
        as usize
}

#[test]
fn parts_are_smaller_than_asked_and_read_like_the_file() {
    let sample = Sample::new("sample");
    for (size, parity) in [(60_000, 10), (45_000, 0), (u64::MAX, 50), (100_000, 100)] {
        let paths = sample.split(size, parity);
        for path in &paths {
            let length = fs_err::metadata(path).unwrap().len();
            assert!(length < size, "{} has {length} of {size}", path.display());
        }
        // One named part is enough, and so is the folder.
        for start in [paths[0].clone(), paths[paths.len() - 1].clone(), sample.at("stick")] {
            assert!(sample.read_whole(&[start]) == sample.bytes, "{size}");
        }
        let set = Medium::find(&paths).unwrap();
        assert_eq!(verify(set.reader(), &sample.keys()).unwrap().index, sample.index);
        let open = BundleFile::open(&sample.at("stick"), &sample.keys()).unwrap();
        for (digest, content) in &sample.contents {
            assert!(open.read_blob(digest, 1 << 20).unwrap() == *content);
        }
        assert_eq!(read_unproved(&set).unwrap().file_bytes, sample.bytes.len() as u64);
        assert!(sample.check().is_whole());
        sample.nothing_unfinished("stick");
        for path in paths {
            fs_err::remove_file(path).unwrap();
        }
    }
}

#[test]
fn the_same_split_gives_the_same_parts_from_create_and_from_the_file() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 20);
    fs_err::create_dir(sample.at("created")).unwrap();
    let how = Split { size: 60_000, parity_percent: 20 };
    let open = |digest: &Digest| Ok(sample.contents[digest].as_slice());
    let created = sample.at("created/b");
    let made = write_parts(&created, &sample.index, &sample.key, how, open, &mut |_| {}).unwrap();
    assert_eq!(made.paths.len(), paths.len());
    for (left, right) in made.paths.iter().zip(&paths) {
        assert_eq!(left.file_name(), right.file_name());
        assert!(fs_err::read(left).unwrap() == fs_err::read(right).unwrap());
    }
}

#[test]
fn each_part_alone_says_what_it_is_and_a_data_part_proves_all_of_itself() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 10);
    for (place, path) in paths.iter().enumerate() {
        let alone = tempfile::tempdir().unwrap();
        let copy = alone.path().join("x");
        fs_err::copy(path, &copy).unwrap();
        let Medium::Parts(set) = Medium::find(&[alone.path()]).unwrap() else { panic!() };
        let checked = check(&set, &sample.keys(), &mut |_| {}).unwrap();
        assert!(checked.parts[place].is_good());
        assert_eq!(checked.bad_parts().len(), paths.len() - 1);
        // Every byte of it counts, wherever it lies: the first, the last, and some between.
        let length = fs_err::metadata(path).unwrap().len() as usize;
        let middle = (HEAD_BYTES..length).step_by(if place == 0 { 511 } else { 4999 });
        for at in middle.chain([payload_start(path) - 1, payload_start(path), length - 1]) {
            flip(&copy, at);
            let Medium::Parts(set) = Medium::find(&[alone.path()]).unwrap() else { panic!() };
            match check(&set, &sample.keys(), &mut |_| {}) {
                Ok(checked) => assert!(!checked.parts[place].is_good(), "part {place} byte {at}"),
                // The only copy of the index is damaged.
                Err(VerifyError::Medium(MediumError::NoIndex { .. })) => {
                    assert!(at < payload_start(&copy), "part {place} byte {at}");
                }
                Err(other) => panic!("{other}"),
            }
            flip(&copy, at);
        }
    }
}

#[test]
fn bad_missing_doubled_and_foreign_parts_are_told_apart() {
    let (sample, other) = (Sample::new("sample"), Sample::new("other"));
    let paths = sample.split(60_000, 25);
    let total = paths.len() as u32;
    flip(&paths[1], payload_start(&paths[1]) + 10);
    fs_err::remove_file(&paths[2]).unwrap();
    fs_err::copy(&paths[4], sample.at("stick/double")).unwrap();
    let cut = fs_err::read(&paths[5]).unwrap();
    fs_err::write(&paths[5], &cut[..cut.len() - 5]).unwrap();
    let long = [fs_err::read(&paths[6]).unwrap(), vec![0]].concat();
    fs_err::write(&paths[6], long).unwrap();
    flip(&paths[7], 3000);
    flip(&paths[8], HEAD_BYTES + 5);
    let last = paths.last().unwrap();
    flip(last, payload_start(last) + 1);
    let foreign = other.split(60_000, 0);
    fs_err::copy(&foreign[0], sample.at("stick/foreign")).unwrap();

    // The folder alone does not say which of the two is meant; a part does.
    let error = Medium::find(&[sample.at("stick")]).unwrap_err().to_string();
    assert!(error.contains("sample 1.0") && error.contains("other 1.0"), "{error}");
    let Medium::Parts(set) = Medium::find(&[&paths[0]]).unwrap() else { panic!() };
    let strays: Vec<_> = set.strays().iter().map(|stray| stray.what.as_str()).collect();
    assert_eq!(strays.len(), 2, "{strays:?}");
    assert!(strays.iter().any(|what| what.contains("head is damaged")), "{strays:?}");
    assert!(strays.contains(&"part 1 of other 1.0"), "{strays:?}");
    let checked = check(&set, &sample.keys(), &mut |_| {}).unwrap();
    let said: Vec<_> = checked.bad_parts().iter().map(ToString::to_string).collect();
    let expected = [
        "part 2 ",
        "part 3 is missing",
        "part 6 ",
        "part 7 ",
        "part 8 is missing",
        "part 9 ",
        &format!("parity part {total} "),
    ];
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
    for (place, word) in [(0, "1 place"), (2, "is cut"), (3, "1 bytes after"), (5, "index")] {
        assert!(said[place].contains(word), "{}", said[place]);
    }
    assert_eq!(checked.parts[4].copies.len(), 2);
    assert!(!checked.is_readable() && !checked.is_whole());
}

#[test]
fn parts_on_several_sticks_in_any_order_are_one_bundle() {
    let sample = Sample::new("sample");
    let mut paths = sample.split(60_000, 0);
    paths.shuffle(&mut rand::rng());
    let sticks: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for (place, path) in paths.iter().enumerate() {
        let folder = sticks[place % 3].path().join("deep/er");
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::rename(path, folder.join(format!("p{place}"))).unwrap();
    }
    let folders: Vec<_> = sticks.iter().rev().map(|stick| stick.path().to_owned()).collect();
    assert!(sample.read_whole(&folders) == sample.bytes);
    let error = BundleFile::open(&folders[0], &sample.keys()).unwrap_err();
    let VerifyError::Medium(MediumError::Missing { numbers, .. }) = &error else {
        panic!("{error}")
    };
    assert!(!numbers.is_empty() && error.hint().unwrap().contains("beside the others"));
    let opened = BundleFile::prove(Medium::find(&folders).unwrap(), &sample.keys(), &mut |_| {});
    assert_eq!(opened.unwrap().index(), &sample.index);
}

#[test]
fn of_two_copies_the_good_one_is_used() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 0);
    fs_err::create_dir(sample.at("stick/more")).unwrap();
    fs_err::copy(&paths[3], sample.at("stick/more/copy")).unwrap();
    flip(&paths[3], payload_start(&paths[3]) + 9);
    let found = || Medium::find(&[sample.at("stick")]).unwrap();
    assert!(BundleFile::prove(found(), &sample.keys(), &mut |_| {}).is_ok());
    let joined = sample.at("joined");
    join(found(), &sample.keys(), &joined, &mut |_| {}).unwrap();
    assert!(fs_err::read(joined).unwrap() == sample.bytes);
    assert!(sample.check().is_whole(), "one of its copies is good");
}

#[test]
fn joining_gives_the_file_or_nothing() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 10);
    fs_err::create_dir(sample.at("out")).unwrap();
    let joined = sample.at("out/joined");
    let go = || {
        let medium = Medium::find(&[sample.at("stick")]).unwrap();
        join(medium, &sample.keys(), &joined, &mut |_| {})
    };
    assert_eq!(go().unwrap(), sample.bytes.len() as u64);
    assert!(fs_err::read(&joined).unwrap() == sample.bytes);
    fs_err::remove_file(&joined).unwrap();
    flip(&paths[2], payload_start(&paths[2]) + 70);
    let error = go().unwrap_err();
    assert!(error.to_string().contains("part 3 "), "{error}");
    assert!(error.hint().unwrap().contains("bundle repair"));
    assert!(!joined.exists());
    sample.nothing_unfinished("out");
}

#[test]
fn splitting_a_damaged_bundle_leaves_nothing() {
    let sample = Sample::new("sample");
    flip(&sample.at("whole"), sample.bytes.len() / 2);
    let how = Split { size: 60_000, parity_percent: 10 };
    let whole = Medium::file(&sample.at("whole")).unwrap();
    let result = split(whole, &sample.keys(), &sample.at("stick/b"), how, &mut |_, _| {});
    assert!(result.unwrap_err().to_string().contains("piece"));
    assert_eq!(fs_err::read_dir(sample.at("stick")).unwrap().count(), 0);
}

#[test]
fn a_size_that_can_not_be_is_refused_with_the_least_that_can() {
    let sample = Sample::new("sample");
    let go = |size| {
        let whole = Medium::file(&sample.at("whole")).unwrap();
        let how = Split { size, parity_percent: 10 };
        split(whole, &sample.keys(), &sample.at("stick/b"), how, &mut |_, _| {})
    };
    let error = go(5000).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<SplitError>();
    let Some(SplitError::TooSmall { least, .. }) = source else { panic!("{error}") };
    assert!(go(*least).is_ok() && go(least - 1000).is_err(), "{least}");
}

#[test]
fn another_key_or_another_bundles_parts_are_refused() {
    let (sample, other) = (Sample::new("sample"), Sample::new("other"));
    sample.split(60_000, 10);
    let error = check(&sample.find(), &other.keys(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, VerifyError::Signature { .. }), "{error}");
    let named = [sample.at("stick"), other.at("whole")];
    let error = Medium::find(&named).unwrap_err().to_string();
    assert!(error.contains("sample 1.0") && error.contains("other 1.0"), "{error}");
}

#[test]
fn zeros_take_no_room_and_are_rebuilt_like_anything_else() {
    use std::os::unix::fs::MetadataExt;
    let sample = Sample::of_contents("sample", vec![vec![0; 8_000_000]], 1 << 20);
    let paths = sample.split(3_000_000, 40);
    for path in &paths {
        assert!(fs_err::metadata(path).unwrap().blocks() * 512 < 1_000_000, "{}", path.display());
    }
    fs_err::remove_file(&paths[1]).unwrap();
    assert_eq!(sample.repair(None).unwrap(), [2]);
    assert!(sample.check().is_whole());
    let joined = sample.at("joined");
    let medium = Medium::find(&[sample.at("stick")]).unwrap();
    join(medium, &sample.keys(), &joined, &mut |_| {}).unwrap();
    assert!(fs_err::read(&joined).unwrap() == sample.bytes);
    assert!(fs_err::metadata(&joined).unwrap().blocks() * 512 < 1_000_000);
}

#[test]
fn a_damaged_head_is_told_and_its_part_is_rebuilt_from_those_beside_it() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 10);
    let good = fs_err::read(&paths[0]).unwrap();
    flip(&paths[0], 2000);
    let alone = tempfile::tempdir().unwrap();
    let lone = alone.path().join("b.part-1-of-9");
    fs_err::copy(&paths[0], &lone).unwrap();
    for start in [alone.path(), &lone] {
        let error = Medium::find(&[start]).unwrap_err().to_string();
        assert!(error.contains("its head is damaged"), "{error}");
    }
    let Medium::Parts(set) = Medium::find(&[&paths[0]]).unwrap() else { panic!() };
    assert_eq!((set.missing(PartKind::Data), set.strays().len()), (vec![1], 1));
    assert_eq!(sample.repair(None).unwrap(), [1]);
    assert!(fs_err::read(&paths[0]).unwrap() == good, "under the name that the others have");
}

#[test]
fn a_part_of_another_bundle_is_never_replaced() {
    let (sample, other) = (Sample::new("sample"), Sample::new("other"));
    let (paths, foreign) = (sample.split(60_000, 10), other.split(60_000, 10));
    fs_err::copy(&foreign[1], &paths[1]).unwrap();
    let Medium::Parts(set) = Medium::find(&[&paths[0]]).unwrap() else { panic!() };
    let checked = check(&set, &sample.keys(), &mut |_| {}).unwrap();
    let error = repair(&set, &checked, None, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is in the way"), "{error}");
    assert!(fs_err::read(&paths[1]).unwrap() == fs_err::read(&foreign[1]).unwrap());
}

#[test]
fn a_folder_without_a_bundle_or_with_too_much_in_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("notes.txt"), "x").unwrap();
    let error = Medium::find(&[folder.path()]).unwrap_err();
    assert!(error.to_string().contains("none of 1 files"), "{error}");
    for number in 0..10_001 {
        fs_err::write(folder.path().join(number.to_string()), "").unwrap();
    }
    let error = Medium::find(&[folder.path()]).unwrap_err();
    assert!(matches!(error, VerifyError::Medium(MediumError::TooMany { .. })), "{error}");
}

#[test]
fn more_damage_than_parity_is_refused_by_name_and_changes_nothing() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 10);
    let parity = paths.len() - sample.find().head().data_parts as usize;
    for path in &paths[..parity + 1] {
        flip(path, payload_start(path) + 100);
    }
    let before: Vec<_> = paths.iter().map(|path| fs_err::read(path).unwrap()).collect();
    let error = sample.repair(None).unwrap_err();
    let RepairError::TooMuch { lost, .. } = &error else { panic!("{error}") };
    assert_eq!(*lost, (1..=parity as u32 + 1).collect::<Vec<_>>());
    assert!(error.hint().unwrap().contains("at least 1 of parts 1, 2"), "{:?}", error.hint());
    for (path, before) in paths.iter().zip(before) {
        assert!(fs_err::read(path).unwrap() == before, "{} changed", path.display());
    }
    sample.nothing_unfinished("stick");
}

#[test]
fn parity_that_lies_rebuilds_nothing() {
    let sample = Sample::new("sample");
    let paths = sample.split(60_000, 10);
    // Whoever changes a parity part can make its digests fit again: nothing in it is signed.
    let last = paths.last().unwrap();
    let mut bytes = fs_err::read(last).unwrap();
    let start = payload_start(last);
    let head = PartHead::parse(bytes.first_chunk::<HEAD_BYTES>().unwrap()).unwrap();
    assert_eq!(head.kind, PartKind::Parity);
    let slice = bytes.len() - 32 - start;
    bytes[start + 7] ^= 1;
    let digest =
        kdc_bundles::parts::slice_digest(&head.id, head.number, 0, &bytes[start..start + slice]);
    bytes.splice(start + slice.., hex::decode(digest.hex()).unwrap());
    fs_err::write(last, bytes).unwrap();
    let parity = paths.len() - head.set.data_parts as usize;
    for path in &paths[..parity] {
        fs_err::remove_file(path).unwrap();
    }
    let error = sample.repair(None).unwrap_err();
    assert!(matches!(error, RepairError::Forged { .. }), "{error}");
    assert!(!paths[0].exists());
    sample.nothing_unfinished("stick");
}

/// Slices are a MiB in small sets: parts of 3.5 MiB have four of them.
#[test]
fn damage_at_different_places_of_more_parts_than_parity_is_rebuilt() {
    let sample = Sample::of("sample", &[9_000_000, 2_500_000, 77]);
    let paths = sample.split(3_500_000, 20);
    assert_eq!((paths.len(), sample.find().head().data_parts), (5, 4));
    let kept: Vec<_> = paths.iter().map(|path| fs_err::read(path).unwrap()).collect();
    let damage = |part: usize, mebibyte: usize| {
        flip(&paths[part], payload_start(&paths[part]) + (mebibyte << 20) + 70_000);
    };
    // Three parts of which one byte each is bad, and parity for one.
    damage(0, 0);
    damage(1, 2);
    damage(4, 1);
    assert_eq!(sample.bad(), [1, 2, 5]);
    assert_eq!(sample.repair(None).unwrap(), [1, 2, 5]);
    for (path, kept) in paths.iter().zip(&kept) {
        assert!(fs_err::read(path).unwrap() == *kept, "{}", path.display());
    }
    // Two bad bytes at the same place of two parts.
    damage(0, 1);
    damage(2, 1);
    assert!(matches!(sample.repair(None), Err(RepairError::TooMuch { .. })));
    // Another copy of the first, bad at another place: together they have all of it.
    fs_err::write(sample.at("stick/copy"), &kept[0]).unwrap();
    flip(&sample.at("stick/copy"), payload_start(&paths[0]) + 9);
    let saved = sample.at("saved");
    fs_err::create_dir(&saved).unwrap();
    assert_eq!(sample.repair(Some(&saved)).unwrap(), [1, 3]);
    for part in [0, 2] {
        let new = saved.join(paths[part].file_name().unwrap());
        assert!(fs_err::read(new).unwrap() == kept[part], "{part}");
    }
    assert_eq!(sample.bad(), [1, 3], "what is saved elsewhere replaces nothing");
    assert!(sample.repair(Some(&saved)).unwrap_err().to_string().contains("is in the way"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The bar: any share of the parts that parity was made for, deleted or corrupted anyhow.
    #[test]
    fn any_tenth_of_the_parts_is_rebuilt(
        size in 30_000_u64..120_000,
        percent in prop::sample::select(vec![10_u8, 10, 25, 50]),
        seed in any::<u64>(),
    ) {
        let sample = Sample::new("sample");
        let paths = sample.split(size, percent);
        let kept: Vec<_> = paths.iter().map(|path| fs_err::read(path).unwrap()).collect();
        let mut random = StdRng::seed_from_u64(seed);
        let share = (paths.len() * usize::from(percent) / 100).max(1);
        let mut chosen: Vec<_> = (0..paths.len()).collect();
        chosen.shuffle(&mut random);
        chosen.truncate(share);
        for place in &chosen {
            match random.random_range(0..4) {
                0 => fs_err::remove_file(&paths[*place]).unwrap(),
                1 => flip(&paths[*place], random.random_range(0..kept[*place].len())),
                2 => {
                    let length = random.random_range(0..kept[*place].len());
                    fs_err::write(&paths[*place], &kept[*place][..length]).unwrap();
                }
                _ => {
                    let mut bytes = kept[*place].clone();
                    let start = random.random_range(0..bytes.len());
                    random.fill(&mut bytes[start..]);
                    fs_err::write(&paths[*place], bytes).unwrap();
                }
            }
        }
        chosen.sort_unstable();
        let repaired = sample.repair(None).unwrap();
        let expected: Vec<u32> = chosen.iter().map(|place| *place as u32 + 1).collect();
        prop_assert_eq!(repaired, expected);
        for (path, kept) in paths.iter().zip(kept) {
            prop_assert!(fs_err::read(path).unwrap() == kept, "{}", path.display());
        }
        prop_assert!(sample.check().is_whole());
        let medium = Medium::find(&[sample.at("stick")]).unwrap();
        prop_assert!(verify(medium.reader(), &sample.keys()).is_ok());
    }
}
