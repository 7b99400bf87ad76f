//! Deflate streams, there and back: plain text, and the little that a stream does differently from
//! what is expected of its compressor (`preflate-rs`), so that any compressor's output can be made
//! again.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use preflate_rs::{ExitCode, PreflateConfig, PreflateStreamProcessor, RecreateStreamProcessor};

use super::spool::{Spool, invalid};

/// First bytes of a gzip member with deflate in it.
pub(super) const MAGIC: &[u8] = b"\x1f\x8b\x08";

/// Plain text that is looked at in one go.
pub(super) const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// Corrections of one chunk; a stream that needs more is no bargain.
pub(super) const MAX_CORRECTIONS: u64 = 2 * 1024 * 1024;

/// Compressed bytes that are looked at in one go: a block that is longer can't be taken apart.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// The library counts positions in 31 bits.
pub(super) const MAX_PLAIN_BYTES: u64 = 1 << 30;

/// Longest gzip header that is read.
const MAX_HEADER: usize = 64 * 1024;

/// A stream taken apart.
pub(super) struct Found {
    /// Its length in the blob.
    pub(super) packed: u64,
    /// Lengths of plain text and corrections.
    pub(super) chunks: Vec<(u64, u64)>,
}

/// Length of a gzip member's header at the start of `bytes`; `None` if it has none, or an odd one.
pub(super) fn header_bytes(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.get(3)?;
    if !bytes.starts_with(MAGIC) || flags & 0xe0 != 0 {
        return None;
    }
    let mut at = 10;
    if flags & 4 != 0 {
        at += 2 + usize::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            at += bytes.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    at += if flags & 2 != 0 { 2 } else { 0 };
    (at <= bytes.len()).then_some(at)
}

/// Reads as much of a header as can matter.
pub(super) fn read_header<R: Read + Seek>(blob: &mut R, at: u64) -> io::Result<Option<u64>> {
    blob.seek(SeekFrom::Start(at))?;
    let mut head = Vec::new();
    blob.take(MAX_HEADER as u64).read_to_end(&mut head)?;
    Ok(header_bytes(&head).map(|length| length as u64))
}

/// Takes the stream at `at` apart: plain text goes to the end of `plain`, then the corrections.
/// `None` (and nothing added) if it can't be done with gain.
pub(super) fn take_apart<R: Read + Seek>(
    blob: &mut R,
    at: u64,
    end: u64,
    plain: &mut Spool,
) -> io::Result<Option<Found>> {
    let start = plain.length();
    let config = PreflateConfig {
        plain_text_limit: CHUNK_BYTES,
        verify_compression: true,
        ..PreflateConfig::default()
    };
    let mut processor = PreflateStreamProcessor::new(&config);
    let mut found = Found { packed: 0, chunks: Vec::new() };
    let mut corrections = Vec::new();
    let mut window = Vec::new();
    while !processor.is_done() {
        blob.seek(SeekFrom::Start(at + found.packed))?;
        window.clear();
        let rest = (end - at - found.packed).min(WINDOW_BYTES as u64);
        blob.take(rest).read_to_end(&mut window)?;
        let chunk = match processor.decompress(&window) {
            Ok(chunk) => chunk,
            Err(error) => {
                plain.cut(start)?;
                return is_content(error.exit_code()).then_some(None).ok_or_else(|| {
                    io::Error::other(format!("a deflate stream can't be taken apart: {error}"))
                });
            }
        };
        let text = processor.plain_text().text();
        plain.put(text)?;
        found.packed += chunk.compressed_size as u64;
        found.chunks.push((text.len() as u64, chunk.corrections.len() as u64));
        corrections.extend_from_slice(&chunk.corrections);
        let stuck = chunk.compressed_size == 0 && !processor.is_done();
        let dear = corrections.len() as u64 > found.packed / 2 + 1024;
        let (length, own) = (plain.length() - start, chunk.corrections.len() as u64);
        if stuck || dear || own > MAX_CORRECTIONS || length > MAX_PLAIN_BYTES {
            plain.cut(start)?;
            return Ok(None);
        }
        processor.shrink_to_dictionary();
    }
    plain.put(&corrections)?;
    Ok(Some(found))
}

/// Whether that is about the stream, and not about the library or the machine.
fn is_content(code: ExitCode) -> bool {
    !matches!(code, ExitCode::AssertionFailure)
}

/// Puts a stream together again: `chunks` says how the unpacked form from `start` on is made up.
pub(super) fn put_together(
    unpacked: &Spool,
    start: u64,
    chunks: &[(u64, u64)],
    output: &mut impl Write,
) -> io::Result<()> {
    let mut processor = RecreateStreamProcessor::new();
    let mut plain_at = start;
    let mut corrections_at = start + chunks.iter().map(|(plain, _)| plain).sum::<u64>();
    for (plain, corrections) in chunks {
        if *plain > 2 * CHUNK_BYTES as u64 || *corrections > MAX_CORRECTIONS {
            return Err(invalid("a deflate stream has a chunk of more bytes than is allowed"));
        }
        let mut text = vec![0; *plain as usize];
        unpacked.read_at(&mut text, plain_at)?;
        let mut notes = vec![0; *corrections as usize];
        unpacked.read_at(&mut notes, corrections_at)?;
        let (bytes, _) = processor
            .recompress(&mut Cursor::new(text), &notes)
            .map_err(|error| invalid(format!("a deflate stream can't be made: {error}")))?;
        output.write_all(&bytes)?;
        plain_at += plain;
        corrections_at += corrections;
    }
    Ok(())
}
