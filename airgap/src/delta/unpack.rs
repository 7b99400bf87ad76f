//! From a blob to its unpacked form, and back.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use super::{
    deflate,
    layout::{self, Coding, MAX_PARTS, Part, is_sane_expansion},
    spool::{Spool, invalid},
    xz,
};

/// Streams shorter than this stay as they are.
const WORTH_BYTES: u64 = 1024;

const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER: u64 = 60;

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// What a blob is unpacked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To refer to: it never has to be packed again.
    Base,
    /// To be made at the site: only streams that come out bit by bit are unpacked.
    Target,
    /// To travel as it is: nothing is unpacked.
    Whole,
}

/// Finds the streams in a blob of `size` bytes and unpacks them into `out`.
pub(super) fn open_up<R: Read + Seek>(
    blob: &mut R,
    size: u64,
    out: &mut Spool,
    purpose: Purpose,
) -> io::Result<Vec<Part>> {
    let mut opening = Opening { blob, out, purpose, parts: Vec::new() };
    let mut at = 0;
    let head = opening.head(0, size)?;
    if purpose == Purpose::Whole {
        // Nothing to look for.
    } else if head.starts_with(AR_MAGIC) {
        at = opening.archive(size)?;
    } else if head.starts_with(deflate::MAGIC) || head.starts_with(xz::MAGIC) {
        at = opening.stream(0, size)?;
    }
    opening.raw(at, size - at)?;
    Ok(opening.parts)
}

struct Opening<'o, R> {
    blob: &'o mut R,
    out: &'o mut Spool,
    purpose: Purpose,
    parts: Vec<Part>,
}

impl<R: Read + Seek> Opening<'_, R> {
    fn head(&mut self, at: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.blob.seek(SeekFrom::Start(at))?;
        (&mut *self.blob).take(AR_HEADER.min(end - at)).read_to_end(&mut head)?;
        Ok(head)
    }

    fn raw(&mut self, at: u64, length: u64) -> io::Result<()> {
        self.blob.seek(SeekFrom::Start(at))?;
        let mut rest = (&mut *self.blob).take(length);
        if self.out.append(&mut rest, length)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        layout::push(&mut self.parts, Part::raw(length));
        Ok(())
    }

    /// The members of an ar archive; gives where it stopped understanding.
    fn archive(&mut self, end: u64) -> io::Result<u64> {
        let mut at = AR_MAGIC.len() as u64;
        self.raw(0, at)?;
        while at + AR_HEADER <= end && self.parts.len() < MAX_PARTS / 2 {
            let head = self.head(at, end)?;
            let size = head.get(48..58).and_then(|text| std::str::from_utf8(text).ok());
            let size: Option<u64> = size.and_then(|text| text.trim_end().parse().ok());
            let content = at + AR_HEADER;
            let Some(next) = size.and_then(|size| content.checked_add(size)) else { break };
            if next > end || !head.ends_with(b"`\n") {
                break;
            }
            self.raw(at, AR_HEADER)?;
            let done = self.stream(content, next)?;
            let padded = (next + next % 2).min(end);
            self.raw(done, padded - done)?;
            at = padded;
        }
        Ok(at)
    }

    /// The streams between `at` and `end`; gives where it stopped.
    fn stream(&mut self, mut at: u64, end: u64) -> io::Result<u64> {
        while end - at >= WORTH_BYTES && self.parts.len() < MAX_PARTS - 4 {
            let head = self.head(at, end)?;
            let next = if head.starts_with(deflate::MAGIC) {
                self.gzip(at, end)?
            } else if head.starts_with(xz::MAGIC) {
                self.xz(at, end)?
            } else {
                None
            };
            let Some(next) = next else { break };
            at = next;
        }
        Ok(at)
    }

    /// One gzip member: header and trailer as they are, deflate between them.
    fn gzip(&mut self, at: u64, end: u64) -> io::Result<Option<u64>> {
        let Some(header) = deflate::read_header(self.blob, at)? else { return Ok(None) };
        let (body, before) = (at + header, self.out.length());
        if body >= end {
            return Ok(None);
        }
        self.raw(at, header)?;
        let part = match self.purpose {
            Purpose::Target => self.take_apart(body, end)?,
            Purpose::Base | Purpose::Whole => self.inflate(body, end)?,
        };
        let Some(part) = part else {
            // The header is there already: what follows joins it.
            debug_assert_eq!(self.out.length(), before + header);
            return self.raw(body, end - body).map(|()| Some(end));
        };
        let next = body + part.packed;
        self.parts.push(part);
        let trailer = 8.min(end - next);
        self.raw(next, trailer)?;
        Ok(Some(next + trailer))
    }

    fn take_apart(&mut self, at: u64, end: u64) -> io::Result<Option<Part>> {
        let start = self.out.length();
        let Some(found) = deflate::take_apart(self.blob, at, end, self.out)? else {
            return Ok(None);
        };
        let unpacked = self.out.length() - start;
        if !is_sane_expansion(found.packed, unpacked) {
            self.out.cut(start)?;
            return Ok(None);
        }
        let coding = Coding::Deflate { chunks: found.chunks };
        Ok(Some(Part { coding, packed: found.packed, unpacked }))
    }

    fn inflate(&mut self, at: u64, end: u64) -> io::Result<Option<Part>> {
        self.blob.seek(SeekFrom::Start(at))?;
        let stream = BufReader::with_capacity(BUFFER, (&mut *self.blob).take(end - at));
        let mut decoder = flate2::bufread::DeflateDecoder::new(stream);
        let coding = Coding::Deflate { chunks: Vec::new() };
        let unpacked = append_stream(self.out, &mut decoder, end - at)?;
        let packed = decoder.total_in();
        Ok(unpacked.map(|unpacked| Part { coding, packed, unpacked }))
    }

    /// One xz stream that ends at `end`.
    fn xz(&mut self, at: u64, end: u64) -> io::Result<Option<u64>> {
        self.blob.seek(SeekFrom::Start(at))?;
        let (start, packed) = (self.out.length(), end - at);
        let mut decoder = xz::decoder((&mut *self.blob).take(packed))?;
        let unpacked = append_stream(self.out, &mut decoder, packed)?;
        drop(decoder);
        let Some(unpacked) = unpacked else { return Ok(None) };
        let mut encoder = None;
        if self.purpose == Purpose::Target {
            encoder = xz::find_encoder(self.blob, (at, end), self.out, (start, unpacked))?;
            if encoder.is_none() {
                self.out.cut(start)?;
                return Ok(None);
            }
        }
        self.parts.push(Part { coding: Coding::Xz { encoder }, packed, unpacked });
        Ok(Some(end))
    }
}

/// Adds a stream's plain text; `None`, and nothing added, if it is damaged or too good to be true.
fn append_stream(out: &mut Spool, decoder: &mut impl Read, packed: u64) -> io::Result<Option<u64>> {
    let start = out.length();
    let most = packed.saturating_mul(512).max(1 << 27);
    match out.append(&mut Decoding(decoder), most) {
        Ok(unpacked) if is_sane_expansion(packed, unpacked) => Ok(Some(unpacked)),
        Ok(_) => out.cut(start).map(|()| None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => out.cut(start).map(|()| None),
        Err(error) => Err(error),
    }
}

/// A decoder whose complaints are about content, so that what the disk says is not taken for them.
struct Decoding<R>(R);

impl<R: Read> Read for Decoding<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::InvalidData => error,
            _ => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

/// Unpacks a blob as a layout says.
pub(super) fn unpack_as<R: Read + Seek>(
    blob: &mut R,
    parts: &[Part],
    out: &mut Spool,
) -> io::Result<()> {
    let mut at = 0;
    for part in parts {
        blob.seek(SeekFrom::Start(at))?;
        let mut stream = BufReader::with_capacity(BUFFER, (&mut *blob).take(part.packed));
        let added = match part.coding {
            Coding::Raw => out.append(&mut stream, part.unpacked)?,
            Coding::Deflate { .. } => {
                let decoder = flate2::bufread::DeflateDecoder::new(stream);
                out.append(&mut Decoding(decoder), part.unpacked)?
            }
            Coding::Xz { .. } => out.append(&mut Decoding(xz::decoder(stream)?), part.unpacked)?,
        };
        if added != part.unpacked {
            return Err(invalid("a stream is shorter than it was said to be"));
        }
        at += part.packed;
    }
    Ok(())
}

/// Packs an unpacked form: the blob, if form and layout are what they were.
pub(super) fn pack(unpacked: &Spool, parts: &[Part], output: &mut impl Write) -> io::Result<()> {
    let mut at = 0;
    for part in parts {
        let mut exact = Exact { inner: &mut *output, left: part.packed };
        let mut stretch = unpacked.range(at, part.unpacked);
        match &part.coding {
            Coding::Raw => _ = io::copy(&mut stretch, &mut exact)?,
            Coding::Xz { encoder: Some(encoder) } => {
                xz::encode(*encoder, &mut stretch, &mut exact)?;
            }
            Coding::Deflate { chunks } => {
                let length = chunks.iter().try_fold(0_u64, |sum, (plain, corrections)| {
                    sum.checked_add(*plain)?.checked_add(*corrections)
                });
                if length != Some(part.unpacked) {
                    return Err(invalid("a deflate stream has chunks that don't make it up"));
                }
                deflate::put_together(unpacked, at, chunks, &mut exact)?;
            }
            Coding::Xz { encoder: None } => {
                return Err(invalid("an xz stream is to be made, but with what is not said"));
            }
        }
        if exact.left != 0 {
            return Err(invalid("a stream came out shorter than it was"));
        }
        at += part.unpacked;
    }
    output.flush()
}

/// A writer that takes a certain number of bytes and no more.
struct Exact<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Exact<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(invalid("a stream came out longer than it was"));
        }
        let written = self.inner.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
