//! Members of the file: their names, their fixed tar headers, and what the OCI files say.
//!
//! A header has no freedom: name and size follow from the index, everything else is constant. So a
//! reader makes the header it expects and compares bytes instead of interpreting what it finds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::index::{ArtifactKind, Digest, Index};

/// Name of the first member.
pub const INDEX_NAME: &str = "kdc-index.json";

/// Name of the second member.
pub const SIGNATURE_NAME: &str = "kdc-index.json.minisig";

/// A tar block: the size of a header, and what members are padded to.
pub const BLOCK: usize = 512;

/// Two zero blocks end the file.
pub const END_BYTES: usize = 2 * BLOCK;

/// Largest size that eleven octal digits can state; above it the size is written in binary.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// The member that holds a blob.
#[must_use]
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Zero bytes after content of that size.
#[must_use]
pub fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

/// The one header a member of that name (under 100 bytes) and size has.
#[must_use]
pub fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= MAX_OCTAL {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The size a header states in octal, if the whole header is one we would write for `name`.
#[must_use]
pub fn stated_size(block: &[u8; BLOCK], name: &str) -> Option<u64> {
    let digits = std::str::from_utf8(&block[124..135]).ok()?;
    let size = u64::from_str_radix(digits, 8).ok()?;
    (header(name, size) == *block).then_some(size)
}

/// The name a header bears, made fit to print.
#[must_use]
pub fn shown_name(block: &[u8; BLOCK]) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "the end of the archive".to_owned();
    }
    let length = block[..100].iter().position(|byte| *byte == 0).unwrap_or(100);
    let name = String::from_utf8_lossy(&block[..length]);
    format!("a member named `{}`", crate::index::check::shown(&name))
}

/// The two members that make the file an OCI image layout, as they follow from the index.
#[must_use]
pub fn oci_members(index: &Index) -> [(&'static str, Vec<u8>); 2] {
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    [("oci-layout", layout), ("index.json", oci_index(index))]
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<Descriptor<'a>>,
    annotations: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform<'a>>,
    annotations: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Platform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
}

impl<'a> Platform<'a> {
    fn new(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (os, architecture) = (parts.next()?, parts.next()?);
        Some(Self { architecture, os, variant: parts.next() })
    }
}

/// The layout's `index.json`: every artifact in the index's order. Images carry the reference that
/// image tools look for, everything else a title.
fn oci_index(index: &Index) -> Vec<u8> {
    let manifests = index.artifacts.iter().map(|artifact| {
        let name_key = match artifact.kind {
            ArtifactKind::Image => "org.opencontainers.image.ref.name",
            _ => "org.opencontainers.image.title",
        };
        let mut annotations = BTreeMap::from([(name_key, artifact.name.as_str())]);
        if let Some(version) = &artifact.version {
            annotations.insert("org.opencontainers.image.version", version);
        }
        Descriptor {
            media_type: &artifact.media_type,
            digest: &artifact.digest,
            size: index.blob(&artifact.digest).map_or(0, |blob| blob.size),
            platform: artifact.platform.as_deref().and_then(Platform::new),
            annotations,
        }
    });
    let document = OciIndex {
        schema_version: 2,
        media_type: "application/vnd.oci.image.index.v1+json",
        manifests: manifests.collect(),
        annotations: BTreeMap::from([
            ("org.opencontainers.image.title", index.name.as_str()),
            ("org.opencontainers.image.version", index.bundle_version.as_str()),
        ]),
    };
    serde_json::to_vec(&document).expect("strings, numbers and lists always have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_one_that_another_tar_reads() {
        let name = blob_name(&Digest::of(b"x"));
        for size in [0, 1, 511, 1 << 20, MAX_OCTAL, MAX_OCTAL + 1, 1 << 40] {
            let mut found = tar::Header::new_ustar();
            found.as_mut_bytes().copy_from_slice(&header(&name, size));
            assert_eq!(found.size().unwrap(), size);
            assert_eq!(found.path().unwrap().to_str().unwrap(), name);
            let sum: u32 = {
                let mut blank = header(&name, size);
                blank[148..156].fill(b' ');
                blank.iter().map(|byte| u32::from(*byte)).sum()
            };
            assert_eq!(found.cksum().unwrap(), sum);
            assert!(found.as_ustar().is_some());
            assert_eq!(found.mode().unwrap(), 0o644);
            assert_eq!(found.mtime().unwrap(), 0);
        }
    }

    #[test]
    fn a_stated_size_needs_the_whole_header_to_be_right() {
        let good = header(INDEX_NAME, 1234);
        assert_eq!(stated_size(&good, INDEX_NAME), Some(1234));
        for at in 0..BLOCK {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(stated_size(&bad, INDEX_NAME), None, "byte {at}");
        }
    }

    #[test]
    fn padding_fills_the_last_block() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), expected, "{size}");
        }
    }
}
