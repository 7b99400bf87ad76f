//! xz streams, there and back: which settings of liblzma made a stream, found by trying.
//!
//! `dpkg-deb` and `xz` hand liblzma a preset and a check; everything else follows, and liblzma
//! gives the same bytes for the same settings whatever the number of threads. So the header says which
//! presets can have made a stream, each is run against it, and the first byte that differs ends a try.

use std::io::{self, BufRead, Read, Write};

use liblzma::stream::{Action, Check, MtStreamBuilder, PRESET_EXTREME, Status, Stream};

use super::{
    layout::XzEncoder,
    spool::{Range, Spool, invalid},
};

/// First bytes of an xz stream.
pub(super) const MAGIC: &[u8] = b"\xfd7zXZ\0";

/// Memory for a decoder: what preset 9 needs, and some.
const MAX_DECODER_BYTES: u64 = 80 * 1024 * 1024;

/// Memory for an encoder with one thread. A stream that needs more (presets 8 and 9) is left alone.
const MAX_ENCODER_BYTES: u64 = 320 * 1024 * 1024;

/// Encoders run in that many threads while all of them need no more than [`MAX_ENCODER_BYTES`].
const MAX_THREADS: u32 = 2;

const OUTPUT: usize = 64 * 1024;

/// Stream header, and as much of the first block's as names its filter.
const HEAD: usize = 40;

/// Decompresses one stream; its reader may be anything that ends where the stream ends.
pub(super) fn decoder<R: Read>(stream: R) -> io::Result<impl Read> {
    let settings = Stream::new_stream_decoder(MAX_DECODER_BYTES, 0).map_err(io::Error::other)?;
    Ok(liblzma::read::XzDecoder::new_stream(stream, settings))
}

/// Settings that make `packed` out of the `length` bytes of `plain` from `start` on, if any do.
pub(super) fn find_encoder<R: Read + io::Seek>(
    packed: &mut R,
    (packed_start, packed_end): (u64, u64),
    plain: &Spool,
    (start, length): (u64, u64),
) -> io::Result<Option<XzEncoder>> {
    let mut head = [0; HEAD];
    packed.seek(io::SeekFrom::Start(packed_start))?;
    packed.read_exact(&mut head)?;
    for encoder in candidates(&head) {
        packed.seek(io::SeekFrom::Start(packed_start))?;
        let expected = (&mut *packed).take(packed_end - packed_start);
        let mut same = Same { expected: io::BufReader::with_capacity(OUTPUT, expected) };
        match encode(encoder, &mut plain.range(start, length), &mut same) {
            Ok(()) if same.expected.fill_buf()?.is_empty() => return Ok(Some(encoder)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What can have made a stream that begins so: stream header (12 bytes), then the first block's.
fn candidates(head: &[u8; HEAD]) -> Vec<XzEncoder> {
    let (check, size, flags) = (head[7] & 0x0f, head[12], head[13]);
    if size == 0 || head[6] != 0 {
        return Vec::new();
    }
    // With both sizes in the header the filter comes after two numbers of one to nine bytes.
    let with_sizes = flags & 0xc0 == 0xc0;
    let presets: Vec<u32> = match (flags, dictionary_preset(head, with_sizes)) {
        (0x00 | 0xc0, Some(presets)) => presets.to_vec(),
        _ => return Vec::new(),
    };
    let all = presets.iter().flat_map(|preset| [*preset, preset | PRESET_EXTREME]);
    all.map(|preset| XzEncoder {
        preset,
        check,
        block_bytes: with_sizes.then(|| block_bytes(preset)),
    })
    .collect()
}

/// Presets whose dictionary has the size that the filter's property states.
fn dictionary_preset(head: &[u8; HEAD], with_sizes: bool) -> Option<&'static [u32]> {
    let mut at = 14;
    for _ in 0..if with_sizes { 2 } else { 0 } {
        while *head.get(at)? & 0x80 != 0 {
            at += 1;
        }
        at += 1;
    }
    // LZMA2 has the number 0x21 and one byte of properties.
    if head.get(at..at + 2)? != [0x21, 1] {
        return None;
    }
    Some(match head.get(at + 2)? {
        12 => &[0],
        16 => &[1],
        18 => &[2],
        20 => &[3, 4],
        22 => &[6, 5],
        24 => &[7],
        _ => return None,
    })
}

/// What the multi-threaded encoder takes unless told otherwise: three dictionaries, at least 1 MiB.
fn block_bytes(preset: u32) -> u64 {
    const KIB: u64 = 1024;
    let dictionary = match preset & 0x1f {
        0 => 256 * KIB,
        1 => KIB * KIB,
        2 => 2 * KIB * KIB,
        3 | 4 => 4 * KIB * KIB,
        5 | 6 => 8 * KIB * KIB,
        _ => 16 * KIB * KIB,
    };
    (3 * dictionary).max(KIB * KIB)
}

fn stream(encoder: XzEncoder) -> io::Result<Stream> {
    let preset = encoder.preset & !PRESET_EXTREME;
    let check = match encoder.check {
        0 => Check::None,
        1 => Check::Crc32,
        4 => Check::Crc64,
        10 => Check::Sha256,
        _ => return Err(invalid("an xz stream has a check that is not known")),
    };
    if preset > 7 || encoder.block_bytes.is_some_and(|bytes| bytes != block_bytes(preset)) {
        return Err(invalid("an xz stream needs more memory to make than is allowed"));
    }
    let Some(block_bytes) = encoder.block_bytes else {
        return Stream::new_easy_encoder(encoder.preset, check).map_err(io::Error::other);
    };
    let mut builder = MtStreamBuilder::new();
    builder.preset(encoder.preset).check(check).block_size(block_bytes);
    let available = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    for threads in (1..=MAX_THREADS.min(available)).rev() {
        builder.threads(threads);
        if builder.memusage() <= MAX_ENCODER_BYTES {
            return builder.encoder().map_err(io::Error::other);
        }
    }
    Err(invalid("an xz stream needs more memory to make than is allowed"))
}

/// Compresses all of `plain`.
pub(super) fn encode(
    encoder: XzEncoder,
    plain: &mut io::BufReader<Range<'_>>,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut stream = stream(encoder)?;
    let mut buffer = vec![0; OUTPUT];
    loop {
        let input = plain.fill_buf()?;
        let action = if input.is_empty() { Action::Finish } else { Action::Run };
        let (read, written) = (stream.total_in(), stream.total_out());
        let status = stream.process(input, &mut buffer, action).map_err(io::Error::other)?;
        let read = (stream.total_in() - read) as usize;
        let written = (stream.total_out() - written) as usize;
        plain.consume(read);
        output.write_all(&buffer[..written])?;
        if matches!(status, Status::StreamEnd) {
            return output.flush();
        }
    }
}

/// A writer that refuses the first byte that is not the expected one.
struct Same<R> {
    expected: R,
}

impl<R: BufRead> Write for Same<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let expected = self.expected.fill_buf()?;
        let length = expected.len().min(bytes.len());
        if length == 0 || expected[..length] != bytes[..length] {
            return Err(invalid("not the same stream"));
        }
        self.expected.consume(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
