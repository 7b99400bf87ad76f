//! Operations: how they are written in an update, and what they do at the site.
//!
//! Little-endian numbers. `1`: copy (base: u16, start: u64, length: u64). `2`: a zstd frame (length of
//! its content: u32, references: u16, each base: u16, start: u64, length: u64; length of the
//! frame: u32, the frame). `0`: the end. Whoever reads them trusts none of these numbers: what comes
//! out is bounded by the caller, and proved by him.

use std::io::{self, Read, Write};

use zstd::zstd_safe::DCtx;

use super::spool::{Spool, invalid};

/// Most content of one frame.
const MAX_FRAME_CONTENT: u64 = 64 * 1024 * 1024;

/// Most old bytes that one frame refers to.
const MAX_PREFIX: u64 = 64 * 1024 * 1024;

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
    Frame { references: Vec<Reference>, length: u64, frame: Vec<u8> },
    /// Nothing more.
    End,
}

impl Reference {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let base = u16::try_from(self.base).map_err(|_| invalid("too many bases"))?;
        output.write_all(&base.to_le_bytes())?;
        output.write_all(&self.start.to_le_bytes())?;
        output.write_all(&self.length.to_le_bytes())
    }

    fn read(input: &mut impl Read) -> io::Result<Self> {
        let base = usize::from(u16::from_le_bytes(array(input)?));
        let (start, length) =
            (u64::from_le_bytes(array(input)?), u64::from_le_bytes(array(input)?));
        Ok(Self { base, start, length })
    }

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

fn number(length: u64) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_le_bytes).map_err(|_| invalid("a frame is too long"))
}

impl Op {
    /// Writes it.
    pub(super) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Self::End => output.write_all(&[0]),
            Self::Copy(reference) => {
                output.write_all(&[1])?;
                reference.write(output)
            }
            Self::Frame { references, length, frame } => {
                output.write_all(&[2])?;
                output.write_all(&number(*length)?)?;
                let count = u16::try_from(references.len());
                let count = count.map_err(|_| invalid("too many references"))?;
                output.write_all(&count.to_le_bytes())?;
                for reference in references {
                    reference.write(output)?;
                }
                output.write_all(&number(frame.len() as u64)?)?;
                output.write_all(frame)
            }
        }
    }

    /// Reads one; memory only for what is allowed.
    pub(super) fn read(input: &mut impl Read) -> io::Result<Self> {
        let [kind] = array(input)?;
        match kind {
            0 => Ok(Self::End),
            1 => Ok(Self::Copy(Reference::read(input)?)),
            2 => {
                let length = u64::from(u32::from_le_bytes(array(input)?));
                let count = u16::from_le_bytes(array(input)?);
                let references =
                    (0..count).map(|_| Reference::read(input)).collect::<io::Result<Vec<_>>>()?;
                let packed = u64::from(u32::from_le_bytes(array(input)?));
                // A frame is hardly longer than its content, however random that is.
                let sane = length <= MAX_FRAME_CONTENT && packed <= length + length / 128 + 1024;
                let prefix =
                    references.iter().try_fold(0_u64, |sum, one| sum.checked_add(one.length));
                if !sane || prefix.is_none_or(|bytes| bytes > MAX_PREFIX) {
                    return Err(invalid("a frame of more bytes than is allowed"));
                }
                let mut frame = vec![0; packed as usize];
                input.read_exact(&mut frame)?;
                Ok(Self::Frame { references, length, frame })
            }
            _ => Err(invalid("an operation that is not known")),
        }
    }
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
            Op::Frame { references, length, frame } => {
                if length > left {
                    return Err(invalid("the operations make too many bytes"));
                }
                target.put(&decompress(&references, bases, &frame, length)?)?;
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

fn decompress(
    references: &[Reference],
    bases: &[Spool],
    frame: &[u8],
    length: u64,
) -> io::Result<Vec<u8>> {
    let total: u64 = references.iter().map(|reference| reference.length).sum();
    let mut prefix = vec![0; total as usize];
    let mut at = 0;
    for reference in references {
        let end = at + reference.length as usize;
        reference.of(bases)?.read_at(&mut prefix[at..end], reference.start)?;
        at = end;
    }
    let failed = |code| {
        let name = zstd::zstd_safe::get_error_name(code);
        invalid(format!("a frame can't be decompressed: {name}"))
    };
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(&prefix).map_err(failed)?;
    }
    // The content never outgrows this: a frame that would is an error of the decoder.
    let mut plain = Vec::with_capacity(length as usize);
    context.decompress(&mut plain, frame).map_err(failed)?;
    if plain.len() as u64 == length {
        Ok(plain)
    } else {
        Err(invalid("a frame holds another number of bytes than it says"))
    }
}
