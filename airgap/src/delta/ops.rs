//! Operations: how they are written in an update, and what they do at the site.
//!
//! `1`: copy (a reference). `2`: a zstd frame (length of its content; references; length of the frame, the
//! frame). `3`: old bytes with changes (length of what is made; references; the four streams of [`Changes`],
//! each the length of its content and of its frame, the frame; the last one with the references
//! as prefix). `0`: the end. Numbers are those of [`number`]. References are their count, then for
//! each the base, how far it begins from the end of the last one (of the same operation), its length.
//! Whoever reads them trusts none of these numbers: what comes out is bounded by the caller, and proved
//! by him.

use std::io::{self, Read, Write};

use zstd::zstd_safe::DCtx;

use super::{
    changes::Changes,
    number::{self, put, put_signed},
    spool::{Spool, invalid},
};

/// Most bytes that one operation makes, but for a copy.
const MAX_CONTENT: u64 = 64 * 1024 * 1024;

/// Most old bytes that one frame refers to.
const MAX_PREFIX: u64 = 64 * 1024 * 1024;

/// Most stretches that one operation refers to.
pub(super) const MAX_REFERENCES: u64 = 100_000;

/// Old bytes copied at once.
const COPY_BYTES: u64 = 1024 * 1024;

/// A stretch of an old form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) base: usize,
    pub(super) start: u64,
    pub(super) length: u64,
}

/// What adds to the new form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// Old bytes as they are.
    Copy(Reference),
    /// Compressed bytes, with old ones as prefix.
    Frame { references: Vec<Reference>, packed: Packed },
    /// Old bytes with changes: how many come out, and the streams of [`Changes`].
    Changed { references: Vec<Reference>, length: u64, streams: [Packed; STREAMS] },
    /// Nothing more.
    End,
}

/// Streams that [`Changes`] has.
pub(super) const STREAMS: usize = 4;

/// A zstd frame and the length of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) length: u64,
    pub(super) frame: Vec<u8>,
}

impl Packed {
    fn write(&self, output: &mut Vec<u8>) {
        put(output, self.length);
        put(output, self.frame.len() as u64);
        output.extend_from_slice(&self.frame);
    }

    /// Reads a frame of no more than `most` bytes; it is hardly longer than them, however random they
    /// are.
    fn read(input: &mut impl Read, most: u64) -> io::Result<Self> {
        let (length, packed) = (number::take(input)?, number::take(input)?);
        if length > most || packed > length + length / 128 + 1024 {
            return Err(invalid("a frame of more bytes than is allowed"));
        }
        let mut frame = vec![0; packed as usize];
        input.read_exact(&mut frame)?;
        Ok(Self { length, frame })
    }
}

impl Reference {
    fn of<'s>(&self, bases: &'s [Spool]) -> io::Result<&'s Spool> {
        let base = bases.get(self.base).ok_or_else(|| invalid("a base that is not there"))?;
        let within = self.start.checked_add(self.length).is_some_and(|end| end <= base.length());
        if within { Ok(base) } else { Err(invalid("a stretch beyond the end of its base")) }
    }
}

fn array<const LENGTH: usize>(input: &mut impl Read) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Op {
    /// Writes it.
    pub(super) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        match self {
            Self::End => bytes.push(0),
            Self::Copy(reference) => {
                bytes.push(1);
                put_references(&mut bytes, std::slice::from_ref(reference));
            }
            Self::Frame { references, packed } => {
                bytes.push(2);
                put_references(&mut bytes, references);
                packed.write(&mut bytes);
            }
            Self::Changed { references, length, streams } => {
                bytes.push(3);
                put_references(&mut bytes, references);
                put(&mut bytes, *length);
                streams.iter().for_each(|stream| stream.write(&mut bytes));
            }
        }
        output.write_all(&bytes)
    }

    /// Reads one; memory only for what is allowed.
    pub(super) fn read(input: &mut impl Read) -> io::Result<Self> {
        let [kind] = array(input)?;
        match kind {
            0 => Ok(Self::End),
            1 => match take_references(input, u64::MAX)?.as_slice() {
                [reference] => Ok(Self::Copy(*reference)),
                _ => Err(invalid("a copy of more than one stretch")),
            },
            2 => {
                let references = take_references(input, MAX_PREFIX)?;
                Ok(Self::Frame { references, packed: Packed::read(input, MAX_CONTENT)? })
            }
            3 => {
                let references = take_references(input, MAX_PREFIX)?;
                let length = number::take(input)?;
                if length > MAX_CONTENT {
                    return Err(invalid("changes of more bytes than is allowed"));
                }
                let mut left = stream_bytes(length);
                let mut stream = || {
                    let stream = Packed::read(input, left)?;
                    left -= stream.length;
                    Ok::<_, io::Error>(stream)
                };
                let streams = [stream()?, stream()?, stream()?, stream()?];
                Ok(Self::Changed { references, length, streams })
            }
            _ => Err(invalid("an operation that is not known")),
        }
    }
}

/// Most bytes of all streams of changes that make `length` bytes.
pub(super) fn stream_bytes(length: u64) -> u64 {
    length + length / 2 + 1024
}

fn put_references(output: &mut Vec<u8>, references: &[Reference]) {
    put(output, references.len() as u64);
    let mut last = 0_u64;
    for reference in references {
        put(output, reference.base as u64);
        put_signed(output, reference.start.wrapping_sub(last) as i64);
        put(output, reference.length);
        last = reference.start.wrapping_add(reference.length);
    }
}

/// Reads references to no more than `most` bytes.
fn take_references(input: &mut impl Read, most: u64) -> io::Result<Vec<Reference>> {
    let count = number::take(input)?;
    if count > MAX_REFERENCES {
        return Err(invalid("too many references"));
    }
    let (mut references, mut last, mut left) = (Vec::new(), 0_u64, most);
    for _ in 0..count {
        let base = usize::try_from(number::take(input)?).unwrap_or(usize::MAX);
        let (start, length) = (number::take_from(last, input)?, number::take(input)?);
        last = start.checked_add(length).ok_or_else(|| invalid("a stretch that never ends"))?;
        left = left
            .checked_sub(length)
            .ok_or_else(|| invalid("references to more bytes than is allowed"))?;
        references.push(Reference { base, start, length });
    }
    Ok(references)
}

/// Carries out the operations in `input`: they have to make exactly `length` bytes at the end of
/// `target`, and nothing may follow them.
pub(super) fn carry_out(
    input: &mut impl Read,
    bases: &[Spool],
    target: &mut Spool,
    length: u64,
) -> io::Result<()> {
    let end = target.length() + length;
    loop {
        let left = end - target.length();
        match Op::read(input)? {
            Op::End if left == 0 => break,
            Op::End => return Err(invalid("the operations make too few bytes")),
            Op::Copy(reference) => {
                let base = reference.of(bases)?;
                if reference.length > left {
                    return Err(invalid("the operations make too many bytes"));
                }
                copy(base, reference, target)?;
            }
            Op::Frame { references, packed } => {
                if packed.length > left {
                    return Err(invalid("the operations make too many bytes"));
                }
                target.put(&decompress(&prefix(&references, bases)?, &packed)?)?;
            }
            Op::Changed { references, length, streams } => {
                if length > left {
                    return Err(invalid("the operations make too many bytes"));
                }
                let old = prefix(&references, bases)?;
                target.put(&change(&old, streams, length)?)?;
            }
        }
    }
    match input.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(invalid("bytes after the last operation")),
    }
}

fn copy(base: &Spool, reference: Reference, target: &mut Spool) -> io::Result<()> {
    let (mut buffer, mut done) = (Vec::new(), 0);
    while done < reference.length {
        buffer.resize(COPY_BYTES.min(reference.length - done) as usize, 0);
        base.read_at(&mut buffer, reference.start + done)?;
        target.put(&buffer)?;
        done += buffer.len() as u64;
    }
    Ok(())
}

/// The bytes that references point to, one after the other.
fn prefix(references: &[Reference], bases: &[Spool]) -> io::Result<Vec<u8>> {
    let total: u64 = references.iter().map(|reference| reference.length).sum();
    let mut prefix = vec![0; total as usize];
    let mut at = 0;
    for reference in references {
        let end = at + reference.length as usize;
        reference.of(bases)?.read_at(&mut prefix[at..end], reference.start)?;
        at = end;
    }
    Ok(prefix)
}

fn change(old: &[u8], streams: [Packed; STREAMS], length: u64) -> io::Result<Vec<u8>> {
    let [steps, gaps, words, fresh] = streams;
    let changes = Changes {
        steps: decompress(&[], &steps)?,
        gaps: decompress(&[], &gaps)?,
        words: decompress(&[], &words)?,
        fresh: decompress(old, &fresh)?,
    };
    changes.apply(old, length as usize)
}

fn decompress(prefix: &[u8], packed: &Packed) -> io::Result<Vec<u8>> {
    let failed = |code| {
        let name = zstd::zstd_safe::get_error_name(code);
        invalid(format!("a frame can't be decompressed: {name}"))
    };
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    // The content never outgrows this: a frame that would is an error of the decoder.
    let mut plain = Vec::with_capacity(packed.length as usize);
    context.decompress(&mut plain, &packed.frame).map_err(failed)?;
    if plain.len() as u64 == packed.length {
        Ok(plain)
    } else {
        Err(invalid("a frame holds another number of bytes than it says"))
    }
}
