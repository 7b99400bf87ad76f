//! What reads bytes from outside, one function a reader: whatever the bytes are, it neither panics nor
//! takes memory without bound, and what it accepts has the properties that the code after it relies on.
//!
//! `make fuzz` hunts with libFuzzer (`targets/`, one line each); `tests/replay.rs` runs every function
//! over its corpus in `make test`. A new reader gets a function here, a line in [`TARGETS`], a `[[bin]]`
//! with its file in `targets/`, and a folder in `corpus/` with at least one good input.

#![expect(clippy::unwrap_used, reason = "a target ends at the first surprise, with its place")]

mod audit;

pub use audit::audit;

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use kdc_agent::{
    control::license::{kept::Kept, node::NodeDocument, publish::Published, record::Record},
    gpu::{
        kernel_log::{GpuMessage, KernelLog, parse_message, parse_record, slot},
        xid::XidLog,
    },
    license::{
        License, LicenseKeys, Timestamp,
        clock::Reading,
        envelope::{self, MAX_FILE_BYTES},
        keys::LicenseKey,
        revocation::Revocations,
        state::{self, Inputs},
    },
};
use kdc_airgap::layout::Layout as OciLayout;
use kdc_bundles::{
    index::{Artifact, ArtifactKind, Blob, Digest, INDEX_VERSION, Index},
    keys::{TrustedKey, TrustedKeys},
    layout::Layout,
    medium::Medium,
    open::{BundleFile, read_unproved},
    parts::{self, Geometry, HEAD_BYTES, PartHead, Split},
    signature::verify_index,
};
use sha2::{Digest as _, Sha256};

/// A name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its corpus.
pub const TARGETS: &[Target] = &[
    ("index", index),
    ("pieces", pieces),
    ("signature", signature),
    ("bundle", bundle),
    ("part", part),
    ("tar", tar),
    ("oci", oci),
    ("debian", debian),
    ("kernel_log", kernel_log),
    ("license", license),
    ("license_site", license_site),
    ("audit", audit),
];

/// Bytes read of anything that claims to be large.
const MOST: u64 = 4 * 1024 * 1024;

/// Where the corpora lie.
#[must_use]
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The key that the seeds in the corpus were signed with.
fn keys() -> TrustedKeys {
    TrustedKeys::parse([include_str!("../corpus-key.pub")]).unwrap()
}

/// A folder in memory where there is one: targets run thousands of times a second.
fn folder() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap()
}

/// An index that is accepted has one spelling, a layout without gaps, and parts that cover it.
pub fn index(data: &[u8]) {
    let Ok(index) = Index::parse(data) else { return };
    assert_eq!(index.to_bytes(), data);
    judge(&index);
}

/// The piece table: any numbers in an index, most of which are nonsense.
pub fn pieces(data: &[u8]) {
    let mut numbers = data.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    });
    let piece_size = numbers.next().unwrap_or(0);
    let mut blobs = Vec::new();
    while let (Some(size), Some(extra)) = (numbers.next(), numbers.next()) {
        // As many pieces as the size needs, give or take one; more than fit here are too few.
        let needed = size.div_ceil(piece_size.max(1)).min(64);
        let count = needed.saturating_add(extra % 3).saturating_sub(u64::from(extra % 3 > 0));
        let pieces = (0..count).map(|piece| Digest::of(&piece.to_le_bytes())).collect::<Vec<_>>();
        let digest = match pieces.as_slice() {
            [one] => one.clone(),
            [] => Digest::of(b""),
            _ => Digest::of(&(blobs.len() as u64).to_le_bytes()),
        };
        blobs.push(Blob { digest, size, pieces });
    }
    blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
    let artifacts = blobs.iter().enumerate().map(|(number, blob)| Artifact {
        name: format!("a{number:06}"),
        kind: ArtifactKind::File,
        platform: None,
        version: None,
        media_type: "a/b".to_owned(),
        digest: blob.digest.clone(),
        blobs: vec![blob.digest.clone()],
        roles: Vec::new(),
        licence: None,
        source: None,
        unpack_to: None,
    });
    let index = Index {
        version: INDEX_VERSION,
        name: "n".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size,
        parameters: BTreeMap::new(),
        artifacts: artifacts.collect(),
        blobs: blobs.clone(),
    };
    let good = index.check().is_ok();
    assert_eq!(good, Index::parse(&index.to_bytes()).is_ok());
    if good {
        judge(&index);
    }
}

/// What other code takes for granted of an index that was accepted.
fn judge(index: &Index) {
    assert!(index.content_bytes() < 1 << 62);
    for blob in &index.blobs {
        let lengths = (0..blob.pieces.len()).map(|piece| index.piece_length(blob, piece).unwrap());
        assert_eq!(lengths.sum::<u64>(), blob.size);
    }
    let layout = Layout::of(index, index.to_bytes().len() as u64, 300);
    let mut offset = 0;
    for _ in 0..5000 {
        let Some(stretch) = layout.at(index, offset) else { break };
        assert!(stretch.start == offset && (stretch.length > 0), "{stretch:?} at {offset}");
        assert_eq!(layout.at(index, stretch.end() - 1), Some(stretch));
        offset = stretch.end();
    }
    let text = "s".repeat(300);
    for (size, parity_percent) in [(1 << 20, 0), (4 << 30, 10), (u64::MAX, 100)] {
        let how = Split { size, parity_percent };
        let path = Path::new("b");
        // Only planned: nothing is written before the first byte comes.
        let _ = parts::PartsWriter::new(path, index, &index.to_bytes(), &text, how);
    }
}

/// A signature, then a zero byte, then what it is over.
pub fn signature(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, rest) = data.split_at(at);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = TrustedKey::parse(text, "the input");
    if let Ok(index) = verify_index(rest.get(1..).unwrap_or_default(), text, &keys()) {
        assert_eq!(Some(index.to_bytes().as_slice()), rest.get(1..));
    }
}

/// A whole bundle file: its tar, found in a folder, opened and read.
pub fn bundle(data: &[u8]) {
    let folder = folder();
    fs_err::write(folder.path().join("b"), data).unwrap();
    let Ok(medium) = Medium::find(&[folder.path()]) else { return };
    let _ = read_unproved(&medium);
    let proved = kdc_bundles::verify::verify(medium.reader(), &keys());
    let opened = BundleFile::open_medium(medium, &keys());
    if proved.is_ok() {
        assert!(opened.is_ok(), "whatever is proved whole can be opened");
    }
    let Ok(opened) = opened else { return };
    let mut all = true;
    for blob in &opened.index().blobs {
        all &= opened.copy_blob(&blob.digest, &mut std::io::sink()).is_ok();
    }
    assert_eq!(all, proved.is_ok(), "both readers judge alike");
}

/// A part: its head (whose own digest is made to fit, or nothing would get past it), then the rest.
pub fn part(data: &[u8]) {
    let mut bytes = data.to_vec();
    if bytes.len() >= HEAD_BYTES {
        let digest = Sha256::digest(&bytes[..HEAD_BYTES - 32]);
        bytes[HEAD_BYTES - 32..HEAD_BYTES].copy_from_slice(&digest);
    }
    if let Some(block) = bytes.first_chunk::<HEAD_BYTES>()
        && let Ok(head) = PartHead::parse(block)
    {
        assert!(head.to_block() == *block && head.file_bytes() > HEAD_BYTES as u64);
    }
    let folder = folder();
    fs_err::write(folder.path().join("b.part-1-of-2"), bytes).unwrap();
    let Ok(medium) = Medium::find(&[folder.path()]) else { return };
    let _ = read_unproved(&medium);
    let mut some = Vec::new();
    let _ = medium.reader().take(MOST).read_to_end(&mut some);
    let Medium::Parts(set) = &medium else { return };
    let Ok(checked) = parts::check(set, &keys(), &mut |_| {}) else { return };
    let layout = Layout::of(&checked.index, set.head().index_bytes, set.head().signature_bytes);
    let again = Geometry::of(set.head(), &checked.index, &layout).unwrap();
    assert_eq!(again, checked.geometry);
    assert_eq!(checked.is_whole(), checked.bad_parts().is_empty());
}

/// An OCI layout in a tar.
pub fn tar(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("layout.tar");
    fs_err::write(&path, data).unwrap();
    look_into(&path);
}

/// An OCI layout whose documents come one after the other, parted by zero bytes: `index.json` first,
/// then blobs. `@1` in a document is replaced with digest and size of blob 1, of those after it only.
pub fn oci(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let documents: Vec<&str> = text.split('\0').take(64).collect();
    let folder = folder();
    let blobs = folder.path().join("blobs/sha256");
    fs_err::create_dir_all(&blobs).unwrap();
    fs_err::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut known: BTreeMap<usize, String> = BTreeMap::new();
    for (number, document) in documents.iter().enumerate().rev() {
        let mut text = (*document).to_owned();
        for (number, digest) in &known {
            text = text.replace(&format!("@{number}\""), &format!("{digest}\""));
        }
        if text.len() as u64 > MOST {
            return;
        }
        if number == 0 {
            fs_err::write(folder.path().join("index.json"), text).unwrap();
        } else {
            let digest = Digest::of(text.as_bytes());
            fs_err::write(blobs.join(digest.hex()), text).unwrap();
            known.insert(number, digest.to_string());
        }
    }
    look_into(folder.path());
}

/// What a Debian archive publishes, and what is asked of it, parted by zero bytes: `Release`, `Packages`, a package a line.
pub fn debian(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (release, packages, include) = (next(), next(), next());
    let Ok(release) = std::str::from_utf8(release) else { return };
    let include = String::from_utf8_lossy(include);
    let include: Vec<String> = include.lines().take(16).map(str::to_owned).collect();
    let Ok(chosen) = kdc_airgap::debian_closure(release, packages, &include) else { return };
    assert!(chosen.is_sorted() && chosen.windows(2).all(|two| two[0].0 != two[1].0), "{chosen:?}");
    // What was chosen needs nothing else.
    let all: Vec<String> =
        chosen.iter().map(|(name, version)| format!("{name} (= {version})")).collect();
    assert_eq!(kdc_airgap::debian_closure(release, packages, &all).as_ref(), Ok(&chosen));
}

/// The kernel's log: records as `/dev/kmsg` gives them. Read twice, it counts the same; its errors have addresses that can
/// be compared, and texts that a terminal shows as they are.
pub fn kernel_log(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("kmsg");
    fs_err::write(&path, data).unwrap();
    let read = |mut counted: XidLog| {
        let mut log = KernelLog::open(&path, counted.sequence()).unwrap();
        log.read(|record| {
            counted.take_line(record, std::time::Duration::ZERO, false);
        })
        .unwrap();
        counted
    };
    let once = read(XidLog::new("boot"));
    assert_eq!(read(once.clone()), once);
    for record in once.records() {
        assert!(record.count > 0 && record.text.chars().count() <= 240);
        assert!(!record.text.contains(char::is_control));
    }
    for line in data.split(|byte| *byte == b'\n') {
        let Some(record) = parse_record(line) else { continue };
        let Some(GpuMessage::Xid(xid)) = parse_message(record.message) else { continue };
        assert_eq!(slot(&xid.slot), xid.slot);
        assert!(xid.slot.len() >= 10 && xid.slot.is_ascii() && xid.xid < 100_000);
    }
}

/// A licence's file, and a licence's payload that nobody signed. What is accepted with its signature is one of the seeds,
/// byte for byte; what a payload says, whatever it says, can be judged.
pub fn license(data: &[u8]) {
    static KNOWN: OnceLock<(LicenseKeys, Vec<u8>)> = OnceLock::new();
    let (keys, seed) = KNOWN.get_or_init(|| {
        let key = fs_err::read_to_string(corpus().with_file_name("license-key.pub")).unwrap();
        let key = LicenseKey::parse(&key, "the corpus' key").unwrap();
        let seed = fs_err::read(corpus().join("license/seed")).unwrap();
        (LicenseKeys::new(vec![key]).unwrap(), seed)
    });
    if let Ok(opened) = envelope::open(data, keys) {
        let line = data.strip_suffix(b"\n").unwrap_or(data);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert_eq!(Some(line), seed.strip_suffix(b"\n"), "somebody forged a signature");
        judge_license(&opened.license);
    }
    if let Ok((_, list)) = Revocations::open(data, keys) {
        assert!(list.check().is_ok());
    }
    for license in [
        envelope::inspect_unproved(data).map(|(_, license)| license).ok(),
        // The fuzzer can't spell base64: the payload alone is parsed too, within the bounds of one.
        (data.len() <= MAX_FILE_BYTES).then(|| License::parse(data).ok()).flatten(),
    ] {
        license.iter().for_each(judge_license);
    }
}

/// What a site keeps of its licence in ConfigMaps and files, which anybody with rights there may have changed. Whatever is
/// read is written and read again as the same, and what both sides know is known in either order.
pub fn license_site(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let keys = LicenseKeys::default();
    if let Ok(mut kept) = Kept::parse(text) {
        assert_eq!(Kept::parse(&kept.to_text()), Ok(kept.clone()));
        // Without a key nothing is good.
        assert!(kept.read(&keys).licenses.is_empty());
        assert!(Kept::default().merge(&kept, &keys).files.is_empty());
        kept.remove(None);
        assert!(kept.files.is_empty() && kept.removed.len() <= 256);
    }
    if let Ok(record) = Record::parse(text) {
        assert_eq!(Record::parse(&record.to_text()), Ok(record.clone()));
        let merged = record.clone().merge(&Record::default());
        assert!(merged.clock.floor >= record.clock.floor);
        assert_eq!(merged.trial, Record::default().merge(&record).trial);
        let mut later = record;
        later.forget_gone(Timestamp::from_unix(i64::MAX));
        assert!(later.gone.is_empty());
    }
    if let Ok(published) = Published::parse(text) {
        assert_eq!(Published::parse(&published.to_text()), Ok(published.clone()));
        let document = NodeDocument { v: 1, node: "w1".to_owned(), published };
        let text = serde_json::to_vec(&document).unwrap();
        assert_eq!(serde_json::from_slice::<NodeDocument>(&text).unwrap(), document);
    }
}

fn judge_license(license: &License) {
    assert!(license.check().is_ok());
    let again = License::parse(&license.to_payload().unwrap()).unwrap();
    assert_eq!(again, *license);
    let ends = [
        license.not_before,
        license.expires_at.unwrap_or_default(),
        Timestamp::from_unix(i64::MAX),
    ];
    for now in ends {
        let clock = Reading::sure(now);
        let standing = state::judge(&Inputs {
            clock: &clock,
            cluster: Some("cluster"),
            trial: None,
            licenses: std::slice::from_ref(license),
            revoked: &Revocations::default(),
            refused: None,
            nodes: Some(&[]),
            excess: Default::default(),
        });
        assert!(!standing.reason.is_empty() && standing.over.is_empty());
    }
}

fn look_into(path: &Path) {
    let Ok(layout) = OciLayout::open(path) else { return };
    for reference in [None, Some("app:1")] {
        for platform in [None, Some("linux/amd64")] {
            if let Ok(image) = layout.find(reference, platform) {
                assert!(!image.blobs.is_empty());
            }
        }
    }
}
