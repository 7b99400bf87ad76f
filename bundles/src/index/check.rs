//! Judging an index: nothing that passes here can surprise the code that follows it.
//!
//! An index is read only after its signature was found good, so these checks are about mistakes of
//! the builder rather than about attackers; they are as strict as if they were not.

use std::{collections::BTreeSet, io};

use super::{Artifact, ArtifactKind, Blob, INDEX_VERSION, Index, MAX_INDEX_BYTES};

/// Smallest piece an index may ask for.
pub const MIN_PIECE_SIZE: u64 = 4 * 1024;

/// Largest piece an index may ask for: readers hold several pieces in memory at once.
pub const MAX_PIECE_SIZE: u64 = 4 * 1024 * 1024;

/// Largest blob, 1 TiB.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;

/// Longest name, version or media type.
const MAX_TEXT: usize = 512;

/// Longest value of a parameter, licence or source.
const MAX_VALUE: usize = 4096;

/// Why bytes are not an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// More bytes than [`MAX_INDEX_BYTES`].
    #[error("the index has {found} bytes; at most {MAX_INDEX_BYTES} are read")]
    TooLarge {
        /// Its size.
        found: u64,
    },
    /// A later format.
    #[error("the index has format version {found}; this build reads version {INDEX_VERSION}")]
    Version {
        /// The version it states.
        found: u64,
    },
    /// Not JSON, or not the JSON of an index.
    #[error("the index can't be read")]
    Json {
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The same content written in another way (spaces, order of fields, escapes).
    #[error("the index is not in its one canonical form (compact JSON, fields in order)")]
    NotCanonical,
    /// A rule is broken.
    #[error("the index is wrong at {place}: {what}")]
    Invalid {
        /// The artifact, blob or field.
        place: String,
        /// The rule, and what was found.
        what: String,
    },
}

impl IndexError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Version { .. } => Some("use the kdc-install that built this bundle".to_owned()),
            Self::TooLarge { .. }
            | Self::Json { .. }
            | Self::NotCanonical
            | Self::Invalid { .. } => Some("build the bundle again".to_owned()),
        }
    }
}

/// Only the version, so that a later format is named as such and not as an unknown field.
#[derive(serde::Deserialize)]
struct VersionOnly {
    version: u64,
}

impl Index {
    /// Reads and judges an index. Call it on bytes whose signature was checked
    /// ([`crate::signature::verify_index`] does both).
    ///
    /// # Errors
    /// When the bytes are not the canonical form of an index that obeys every rule.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let found = bytes.len() as u64;
        if found > MAX_INDEX_BYTES {
            return Err(IndexError::TooLarge { found });
        }
        let json = |source| IndexError::Json { source };
        let version = serde_json::from_slice::<VersionOnly>(bytes).map_err(json)?.version;
        if version != u64::from(INDEX_VERSION) {
            return Err(IndexError::Version { found: version });
        }
        let index: Self = serde_json::from_slice(bytes).map_err(json)?;
        let mut rest = Compare { left: bytes };
        let same = serde_json::to_writer(&mut rest, &index).is_ok() && rest.left.is_empty();
        if !same {
            return Err(IndexError::NotCanonical);
        }
        index.check()?;
        Ok(index)
    }

    /// The one way to write this index.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists always have a JSON form")
    }

    /// Judges an index that was built here, by the rules [`Index::parse`] holds others to.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn check(&self) -> Result<(), IndexError> {
        name("`name`", &self.name)?;
        name("`bundleVersion`", &self.bundle_version)?;
        let piece_size = self.piece_size;
        let sane = (MIN_PIECE_SIZE..=MAX_PIECE_SIZE).contains(&piece_size);
        require(sane && piece_size.is_power_of_two(), "`pieceSize`", || {
            format!("{piece_size} is not a power of two from {MIN_PIECE_SIZE} to {MAX_PIECE_SIZE}")
        })?;
        for (key, value) in &self.parameters {
            let place = format!("parameter `{}`", shown(key));
            name(&place, key)?;
            text(&place, value, MAX_VALUE)?;
        }
        self.check_blobs()?;
        self.check_artifacts()
    }

    fn check_blobs(&self) -> Result<(), IndexError> {
        for pair in self.blobs.windows(2) {
            require(pair[0].digest < pair[1].digest, pair[1].digest.as_str(), || {
                "blobs are not sorted by digest, each once".to_owned()
            })?;
        }
        let mut total: u64 = 0;
        for blob in &self.blobs {
            check_blob(blob, self.piece_size)?;
            // At most 64 MiB of index over 2^40 bytes a blob: far from overflow, but say so.
            total = total.checked_add(blob.size).ok_or_else(|| IndexError::Invalid {
                place: blob.digest.to_string(),
                what: "the sizes of all blobs overflow".to_owned(),
            })?;
        }
        Ok(())
    }

    fn check_artifacts(&self) -> Result<(), IndexError> {
        for pair in self.artifacts.windows(2) {
            let (left, right) = (&pair[0], &pair[1]);
            require(sort_key(left) < sort_key(right), &place(right), || {
                "artifacts are not sorted by kind, name and platform, each once".to_owned()
            })?;
            let same = (left.kind, &left.name) == (right.kind, &right.name);
            require(!(same && left.platform.is_none()), &place(right), || {
                "the same artifact is there for any platform and for one".to_owned()
            })?;
        }
        let mut used = BTreeSet::new();
        for artifact in &self.artifacts {
            check_artifact(artifact)?;
            for digest in &artifact.blobs {
                require(self.blob(digest).is_some(), &place(artifact), || {
                    format!("its blob {digest} is not in the list of blobs")
                })?;
                used.insert(digest);
            }
        }
        match self.blobs.iter().find(|blob| !used.contains(&blob.digest)) {
            None => Ok(()),
            Some(blob) => Err(IndexError::Invalid {
                place: blob.digest.to_string(),
                what: "no artifact needs this blob".to_owned(),
            }),
        }
    }
}

fn check_blob(blob: &Blob, piece_size: u64) -> Result<(), IndexError> {
    let place = blob.digest.as_str();
    require(blob.size <= MAX_BLOB_BYTES, place, || {
        format!("{} bytes are more than the {MAX_BLOB_BYTES} allowed", blob.size)
    })?;
    let expected = blob.size.div_ceil(piece_size);
    require(blob.pieces.len() as u64 == expected, place, || {
        format!("{} bytes need {expected} pieces, {} are listed", blob.size, blob.pieces.len())
    })?;
    // A lone piece is the whole blob, so the two digests are one claim made twice.
    let agree = match blob.pieces.as_slice() {
        [] => blob.digest == super::Digest::of(b""),
        [only] => blob.digest == *only,
        _ => true,
    };
    require(agree, place, || "the digest of its content and of its piece differ".to_owned())
}

fn check_artifact(artifact: &Artifact) -> Result<(), IndexError> {
    let place = place(artifact);
    artifact_name(&place, &artifact.name)?;
    if let Some(platform) = &artifact.platform {
        let parts: Vec<_> = platform.split('/').collect();
        let good = (2..=3).contains(&parts.len()) && parts.iter().all(|part| is_name(part));
        require(good, &place, || format!("`{}` is not a platform", shown(platform)))?;
    }
    if let Some(version) = &artifact.version {
        text(&place, version, MAX_TEXT)?;
    }
    text(&place, &artifact.media_type, MAX_TEXT)?;
    require(artifact.media_type.contains('/'), &place, || "no media type".to_owned())?;
    for value in [&artifact.licence, &artifact.source].into_iter().flatten() {
        text(&place, value, MAX_VALUE)?;
    }
    for role in &artifact.roles {
        name(&place, role)?;
    }
    check_unpack_to(&place, artifact)?;
    require(artifact.blobs.first() == Some(&artifact.digest), &place, || {
        "its list of blobs does not begin with its root blob".to_owned()
    })?;
    let distinct: BTreeSet<_> = artifact.blobs.iter().collect();
    require(distinct.len() == artifact.blobs.len(), &place, || "a blob is listed twice".to_owned())
}

fn check_unpack_to(place: &str, artifact: &Artifact) -> Result<(), IndexError> {
    match (artifact.kind, &artifact.unpack_to) {
        (ArtifactKind::Archive, None) => {
            require(false, place, || "an archive has no `unpackTo`".to_owned())
        }
        (ArtifactKind::Archive, Some(directory)) => {
            require(is_node_directory(directory), place, || {
                format!("`unpackTo` is `{}`, not a folder below `/`", shown(directory))
            })
        }
        (kind, Some(_)) => {
            require(false, place, || format!("`unpackTo` is for archives, and this is a {kind}"))
        }
        (_, None) => Ok(()),
    }
}

/// What artifacts are sorted by.
pub(crate) fn sort_key(artifact: &Artifact) -> impl Ord + '_ {
    (artifact.kind, artifact.name.as_str(), artifact.platform.as_deref())
}

fn place(artifact: &Artifact) -> String {
    format!("artifact `{}`", shown(&artifact.name))
}

fn require(good: bool, place: &str, what: impl FnOnce() -> String) -> Result<(), IndexError> {
    if good { Ok(()) } else { Err(IndexError::Invalid { place: place.to_owned(), what: what() }) }
}

/// Letters, digits and `.-_+`, beginning with a letter or digit; at most 128.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+');
    text.len() <= 128
        && text.bytes().all(good)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

fn name(place: &str, value: &str) -> Result<(), IndexError> {
    require(is_name(value), place, || {
        format!("`{}` is not letters, digits and `.-_+` (at most 128)", shown(value))
    })
}

/// Whether an artifact may be called that: printable, no blanks, and harmless as a path.
#[must_use]
pub fn is_artifact_name(text: &str) -> bool {
    let harmless = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
    !text.is_empty()
        && text.len() <= MAX_TEXT
        && harmless
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

fn artifact_name(place: &str, value: &str) -> Result<(), IndexError> {
    require(is_artifact_name(value), place, || {
        "the name has blanks, unprintable characters, or empty, `.` or `..` path parts".to_owned()
    })
}

/// An absolute directory other than `/`, in one spelling: no blanks, no empty, `.` or `..` part.
#[must_use]
pub fn is_node_directory(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(is_artifact_name)
}

fn text(place: &str, value: &str, most: usize) -> Result<(), IndexError> {
    let good = value.len() <= most && !value.chars().any(char::is_control);
    require(good, place, || format!("a text has control characters or over {most} bytes"))
}

/// A text from outside, made safe to print: no control characters, not endless.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

/// A writer that says no to the first byte that differs.
struct Compare<'a> {
    left: &'a [u8],
}

impl io::Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .strip_prefix(bytes)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::index::{ArtifactKind, Digest};

    fn blob(content: &[u8]) -> Blob {
        let pieces = content.chunks(4096).map(Digest::of).collect();
        Blob { digest: Digest::of(content), size: content.len() as u64, pieces }
    }

    fn sample(contents: &[Vec<u8>]) -> Index {
        let mut blobs: Vec<_> = contents.iter().map(|content| blob(content)).collect();
        blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
        blobs.dedup();
        let artifacts = blobs.iter().enumerate().map(|(number, blob)| Artifact {
            name: format!("example.com/a-{number:04}:1"),
            kind: ArtifactKind::Image,
            platform: (number % 2 == 0).then(|| "linux/arm64/v8".to_owned()),
            version: Some("1 (\"odd\" \u{e4})".to_owned()),
            media_type: "a/b".to_owned(),
            digest: blob.digest.clone(),
            blobs: vec![blob.digest.clone()],
            roles: vec!["worker".to_owned()],
            unpack_to: None,
            licence: None,
            source: Some("x".to_owned()),
        });
        Index {
            version: INDEX_VERSION,
            name: "n".to_owned(),
            bundle_version: "1+b".to_owned(),
            piece_size: 4096,
            parameters: BTreeMap::from([("k".to_owned(), "v w".to_owned())]),
            artifacts: artifacts.collect(),
            blobs,
        }
    }

    fn two() -> Index {
        sample(&[vec![1; 5000], vec![2; 10]])
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9000), 0..6)
        ) {
            let index = sample(&contents);
            prop_assert_eq!(Index::parse(&index.to_bytes()).unwrap(), index);
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Index::parse(&bytes).is_err());
        }

        /// Signed or not: what still reads after a change says something else than before.
        #[test]
        fn no_two_texts_are_the_same_index(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let index = two();
            let mut bytes = index.to_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            if let Ok(other) = Index::parse(&bytes) {
                prop_assert_ne!(other, index);
            }
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Break = fn(&mut Index);
        let cases: &[(Break, &str)] = &[
            (|i| i.name = "a b".to_owned(), "`name`"),
            (|i| i.bundle_version = "../1".to_owned(), "`bundleVersion`"),
            (|i| i.piece_size = 0, "`pieceSize`"),
            (|i| i.piece_size = 5000, "power of two"),
            (|i| i.piece_size = 1 << 40, "`pieceSize`"),
            (|i| _ = i.parameters.insert("a b".to_owned(), String::new()), "parameter `a b`"),
            (|i| _ = i.parameters.insert("a".to_owned(), "\n".to_owned()), "control characters"),
            (|i| i.blobs.reverse(), "not sorted by digest"),
            (|i| i.blobs.push(i.blobs[1].clone()), "not sorted by digest"),
            (|i| i.blobs[0].size = u64::MAX, "allowed"),
            (|i| i.blobs[0].pieces.clear(), "are listed"),
            (|i| i.blobs[0].pieces.push(Digest::of(b"")), "are listed"),
            (|i| i.artifacts.reverse(), "not sorted by kind"),
            (|i| i.artifacts[1] = i.artifacts[0].clone(), "not sorted by kind"),
            (|i| i.artifacts[0].name = "/etc/passwd".to_owned(), "not sorted|path parts"),
            (|i| i.artifacts[1].name = "z/../x".to_owned(), "path parts"),
            (|i| i.artifacts[0].platform = Some("linux".to_owned()), "not a platform"),
            (|i| i.artifacts[0].media_type = "x".to_owned(), "no media type"),
            (|i| i.artifacts[0].roles = vec!["a b".to_owned()], "a b"),
            (|i| i.artifacts[1].unpack_to = Some("/opt".to_owned()), "for archives"),
            (|i| i.artifacts[1].kind = ArtifactKind::Archive, "no `unpackTo`"),
            (|i| i.artifacts[0].blobs.clear(), "root blob"),
            (|i| i.artifacts[0].digest = Digest::of(b"?"), "root blob"),
            (|i| i.artifacts[0].blobs.push(Digest::of(b"?")), "not in the list of blobs"),
            (|i| i.artifacts[0].blobs = vec![i.artifacts[0].digest.clone(); 2], "listed twice"),
            (|i| _ = i.artifacts.pop(), "no artifact needs"),
        ];
        two().check().unwrap();
        for (number, (change, expected)) in cases.iter().enumerate() {
            let mut index = two();
            change(&mut index);
            let error = Index::parse(&index.to_bytes()).unwrap_err().to_string();
            let named = expected.split('|').any(|part| error.contains(part));
            assert!(named, "case {number}: {error}");
        }
    }

    #[test]
    fn an_artifact_for_any_platform_excludes_one_for_a_platform() {
        let mut index = two();
        index.artifacts[0].platform = None;
        index.artifacts[1].name = index.artifacts[0].name.clone();
        index.artifacts[1].platform = Some("linux/amd64".to_owned());
        assert!(index.check().unwrap_err().to_string().contains("any platform and for one"));
    }

    #[test]
    fn an_archive_says_where_it_goes_and_only_to_a_folder_below_the_root() {
        let mut index = two();
        index.artifacts[1].kind = ArtifactKind::Archive;
        for (directory, good) in [
            ("/usr/local", true),
            ("/opt/cni/bin", true),
            ("/", false),
            ("usr/local", false),
            ("/usr/../etc", false),
            ("/usr/local/", false),
            ("/a b", false),
            ("", false),
        ] {
            index.artifacts[1].unpack_to = Some(directory.to_owned());
            let read = Index::parse(&index.to_bytes());
            assert_eq!(read.is_ok(), good, "{directory:?}: {read:?}");
        }
    }

    #[test]
    fn a_lone_piece_is_the_blob_itself() {
        let mut index = two();
        let lone = index.blobs.iter().position(|blob| blob.pieces.len() == 1).unwrap();
        index.blobs[lone].pieces[0] = Digest::of(b"other");
        assert!(index.check().unwrap_err().to_string().contains("differ"));
    }

    #[test]
    fn another_spelling_or_a_later_format_is_refused_as_such() {
        let text = String::from_utf8(two().to_bytes()).unwrap();
        let spaced = text.replacen(':', ": ", 1);
        let error = Index::parse(spaced.as_bytes()).unwrap_err();
        assert!(matches!(error, IndexError::NotCanonical), "{error}");
        let later = text.replacen("\"version\":1", "\"version\":2,\"new\":true", 1);
        let error = Index::parse(later.as_bytes()).unwrap_err();
        assert!(matches!(error, IndexError::Version { found: 2 }), "{error}");
        let unknown = text.replacen("\"version\":1", "\"version\":1,\"new\":true", 1);
        let error = Index::parse(unknown.as_bytes()).unwrap_err();
        assert!(matches!(error, IndexError::Json { .. }), "{error}");
    }
}
