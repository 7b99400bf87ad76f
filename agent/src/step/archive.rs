//! Reading an archive: what is in it, member by member, checked before anybody acts on it.
//!
//! A tar, plain or compressed with gzip or zstd, told apart by its first bytes. It is read as a
//! stream: memory depends neither on its size nor on what it unpacks to. A member is a file, a
//! directory or a link that stays inside; everything else is refused, and so is whatever would make
//! the place of a member depend on the order of members (a name twice, a name below a link). Owners,
//! times and set-uid bits of an archive mean nothing here.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use kdc_bundles::index::Digest;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::change::{BlobError, StepError};

/// Most members of an archive.
const MAX_MEMBERS: usize = 20_000;

/// Most bytes of an archive, decompressed.
const MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Longest name of a member, and longest target of a link.
const MAX_NAME: usize = 1024;

/// Most bytes of all names and targets together: they go into one line of the journal.
const MAX_NAMES: usize = 4 * 1024 * 1024;

/// Longest of the members that only tell about the next one (long names, extended headers).
const MAX_EXTENSION: u64 = 64 * 1024;

const READ_AHEAD: usize = 128 * 1024;

/// One member, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its place below the target: no empty, `.` or `..` part, no slash at either end.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: MemberKind,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// A directory with these permission bits.
    Directory { mode: u32 },
    /// A file with these permission bits.
    File { mode: u32 },
    /// A link that leads to something below the target, as far as the archive decides.
    Link { target: String },
}

/// Takes one member and its content.
pub(crate) type Each<'a> = &'a mut dyn FnMut(&Member, &mut dyn Read) -> Result<(), StepError>;

/// Hand every member of the archive to `each`, in the archive's order, and read it to its very end:
/// only there has `content` proved all of itself.
///
/// # Errors
/// If the archive is not one, breaks a rule, cannot be read, or `each` says no.
pub(crate) fn walk(
    digest: &Digest,
    content: Box<dyn Read + Send>,
    each: Each<'_>,
) -> Result<(), StepError> {
    let failure = Rc::default();
    let content = Noted { content, failure: Rc::clone(&failure) };
    let result = walk_noted(digest, content, each);
    match failure.take() {
        // Then it is the store that would not, not the archive that is wrong.
        Some(source) => Err(BlobError::Read { digest: digest.clone(), source }.into()),
        None => result,
    }
}

fn walk_noted(digest: &Digest, content: Noted, each: Each<'_>) -> Result<(), StepError> {
    let refused = |what: String| refusal(digest, &what);
    let unread = |error: io::Error| refused(format!("cannot be read: {error}"));
    let plain = Limited { content: decompressed(content).map_err(unread)?, left: MAX_BYTES };
    let mut archive = tar::Archive::new(plain);
    let (mut rules, mut long) = (Rules::default(), LongNames::default());
    for entry in archive.entries().map_err(unread)?.raw(true) {
        let mut entry = entry.map_err(unread)?;
        rules.count += 1;
        if rules.count > MAX_MEMBERS {
            return Err(refused(format!("has more than {MAX_MEMBERS} members")));
        }
        if long.take_from(&mut entry).map_err(refused)? {
            continue;
        }
        if let Some(member) = rules.judge(&entry, std::mem::take(&mut long)).map_err(refused)? {
            each(&member, &mut entry)?;
        }
    }
    if rules.seen.is_empty() {
        return Err(refused("has nothing in it, or is no tar".to_owned()));
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(unread)
}

/// An archive that will not be unpacked.
pub(crate) fn refusal(digest: &Digest, what: &str) -> StepError {
    StepError::Refused {
        what: format!("archive {digest} {what}"),
        hint: "build the bundle again from a well-formed archive".to_owned(),
    }
}

/// Names too long for a tar header: members of their own kind carry them, before the one they mean.
#[derive(Default)]
struct LongNames {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl LongNames {
    /// Take what this member says about the next one; `false` if it is a member of its own.
    fn take_from<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, String> {
        let kind = entry.header().entry_type();
        let ours = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !ours {
            return Ok(false);
        }
        if entry.size() > MAX_EXTENSION {
            return Err(format!("has an extended header of over {MAX_EXTENSION} bytes"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
        if kind.is_gnu_longname() || kind.is_gnu_longlink() {
            bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
            let place = if kind.is_gnu_longname() { &mut self.name } else { &mut self.target };
            *place = Some(bytes);
        } else if kind.is_pax_local_extensions() {
            self.take_pax(&bytes)?;
        }
        Ok(true)
    }

    fn take_pax(&mut self, bytes: &[u8]) -> Result<(), String> {
        for record in tar::PaxExtensions::new(bytes) {
            let record = record.map_err(|error| format!("has a bad extended header: {error}"))?;
            match record.key_bytes() {
                b"path" => self.name = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.target = Some(record.value_bytes().to_vec()),
                b"size" => return Err("has a member too large for a tar header".to_owned()),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err("has a sparse file, which is not taken".to_owned());
                }
                // Times, owners, comments.
                _ => {}
            }
        }
        Ok(())
    }
}

/// What was seen so far, and the rules that the next member must fit.
#[derive(Default)]
struct Rules {
    count: usize,
    name_bytes: usize,
    /// Path to "is a directory".
    seen: BTreeMap<String, bool>,
}

impl Rules {
    /// The member this entry is; `None` for the archive's own root.
    fn judge<R: Read>(
        &mut self,
        entry: &tar::Entry<'_, R>,
        long: LongNames,
    ) -> Result<Option<Member>, String> {
        let name = text(long.name.unwrap_or_else(|| entry.path_bytes().into_owned()))?;
        let target = long.target.or_else(|| entry.link_name_bytes().map(Into::into));
        let target = text(target.unwrap_or_default())?;
        let header = entry.header();
        // No set-uid, no set-gid, nothing that others than root can write.
        let mode = header.mode().map_err(|error| format!("`{name}` has no mode: {error}"))? & 0o755;
        let Some(path) = place(&name)? else { return Ok(None) };
        let kind = match header.entry_type() {
            // Before ustar a directory was a file whose name ends with a slash.
            tar::EntryType::Regular if name.ends_with('/') => MemberKind::Directory { mode },
            tar::EntryType::Regular => MemberKind::File { mode },
            tar::EntryType::Directory => MemberKind::Directory { mode },
            tar::EntryType::Symlink if stays_inside(&path, &target) => MemberKind::Link { target },
            tar::EntryType::Symlink => {
                return Err(format!("has a link `{name}` to `{target}`, which is outside"));
            }
            other => {
                return Err(format!("has `{name}`, a {other:?}: not a file, folder or link"));
            }
        };
        self.remember(&path, &kind)?;
        Ok(Some(Member { path, kind }))
    }

    fn remember(&mut self, path: &str, kind: &MemberKind) -> Result<(), String> {
        let is_directory = matches!(kind, MemberKind::Directory { .. });
        self.name_bytes += path.len();
        if let MemberKind::Link { target } = kind {
            self.name_bytes += target.len();
        }
        if self.name_bytes > MAX_NAMES {
            return Err(format!("has names of over {MAX_NAMES} bytes together"));
        }
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            if self.seen.get(parent) == Some(&false) {
                return Err(format!("has `{path}` below `{parent}`, which is no folder in it"));
            }
            above = parent;
        }
        let below = format!("{path}/");
        let has_members = self
            .seen
            .range(below.clone()..)
            .next()
            .is_some_and(|(next, _)| next.starts_with(&below));
        if !is_directory && has_members {
            return Err(format!("has members below `{path}`, which is no folder in it"));
        }
        match self.seen.insert(path.to_owned(), is_directory) {
            Some(_) => Err(format!("has `{path}` twice")),
            None => Ok(()),
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() > MAX_NAME {
        return Err(format!("has a name of over {MAX_NAME} bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text),
        _ => Err("has a name that is no UTF-8, or has control characters".to_owned()),
    }
}

/// Where a member goes below the target; `None` for the target itself.
fn place(name: &str) -> Result<Option<String>, String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if name.starts_with('/') || parts.contains(&"..") {
        return Err(format!("has `{name}`, which would lie outside"));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// `..` is followed only at the start, and only as far as the link lies deep: behind a name it
/// could leave by way of another link.
fn stays_inside(path: &str, target: &str) -> bool {
    let mut rest = target;
    let mut depth = path.matches('/').count();
    while let Some(above) =
        rest.strip_prefix("..").filter(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        if depth == 0 {
            return false;
        }
        depth -= 1;
        rest = above.trim_start_matches('/');
    }
    !target.is_empty() && !target.starts_with('/') && !rest.split('/').any(|part| part == "..")
}

/// Remembers why reading failed: the readers above it wrap errors each in its own way.
struct Noted {
    content: Box<dyn Read + Send>,
    failure: Rc<RefCell<Option<io::Error>>>,
}

impl Read for Noted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.content.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                self.failure.replace(Some(error));
                Err(kind.into())
            }
            result => result,
        }
    }
}

/// Fails, rather than ends, once more bytes come than are allowed.
struct Limited {
    content: Box<dyn Read>,
    left: u64,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!("it unpacks to more than {MAX_BYTES} bytes"))
        })?;
        Ok(count)
    }
}

/// The plain tar, whatever it was compressed with.
fn decompressed(content: Noted) -> io::Result<Box<dyn Read>> {
    let mut content = BufReader::with_capacity(READ_AHEAD, content);
    let other = |name: &str| {
        Err(io::Error::other(format!(
            "it is compressed with {name}; gzip, zstd and plain are read"
        )))
    };
    match content.fill_buf()? {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(content))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let zstd = Zstd { source: content, frame: FrameDecoder::new(), begun: false };
            Ok(Box::new(zstd))
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => other("xz"),
        [b'B', b'Z', b'h', ..] => other("bzip2"),
        _ => Ok(Box::new(content)),
    }
}

/// Every frame of a zstd stream, one after the other. A window of over 100 MiB is refused.
struct Zstd<R> {
    source: R,
    frame: FrameDecoder,
    begun: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Go on to the next frame; `false` at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.source) {
                Ok(()) => {
                    self.begun = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let wanted = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(wanted), &mut io::sink())? < wanted {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.begun && !self.next_frame()? {
                return Ok(0);
            }
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(buffer.len());
                self.frame.decode_blocks(&mut self.source, some).map_err(io::Error::other)?;
            }
            let count = self.frame.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let stated = self.frame.get_checksum_from_data();
            if stated.is_some() && stated != self.frame.get_calculated_checksum() {
                return Err(io::Error::other("a zstd frame has another checksum than it states"));
            }
            self.begun = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use tar::EntryType;

    use super::*;

    /// Name, kind, and content or target.
    type Made<'a> = (&'a str, EntryType, &'a str);

    /// A tar of members as a builder would not write them: any name, any kind.
    fn tar_of(members: &[Made<'_>]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, text) in members {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6775);
            let content = if *kind == EntryType::Symlink {
                header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
                ""
            } else {
                text
            };
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    /// Path, mode or target, content.
    type Told = (String, String, String);

    fn read(bytes: &[u8]) -> Result<Vec<Told>, StepError> {
        let mut told = Vec::new();
        let content = Box::new(io::Cursor::new(bytes.to_vec()));
        walk(&Digest::of(bytes), content, &mut |member, content| {
            let mut text = String::new();
            content.read_to_string(&mut text).unwrap();
            let kind = match &member.kind {
                MemberKind::Directory { mode } => format!("d{mode:o}"),
                MemberKind::File { mode } => format!("{mode:o}"),
                MemberKind::Link { target } => format!("-> {target}"),
            };
            told.push((member.path.clone(), kind, text));
            Ok(())
        })?;
        Ok(told)
    }

    const GOOD: &[Made<'_>] = &[
        ("./", EntryType::Directory, ""),
        ("./bin/", EntryType::Directory, ""),
        ("bin/tool", EntryType::Regular, "text"),
        ("bin/old", EntryType::Symlink, "../lib/tool"),
        ("old-tar/", EntryType::Regular, ""),
    ];

    #[test]
    fn an_archive_reads_alike_however_it_is_compressed() {
        let plain = tar_of(GOOD);
        let (left, right) = plain.split_at(1000);
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let expected = [
            ("bin", "d755", ""),
            ("bin/tool", "755", "text"),
            ("bin/old", "-> ../lib/tool", ""),
            ("old-tar", "d755", ""),
        ]
        .map(|(path, kind, text)| (path.to_owned(), kind.to_owned(), text.to_owned()));
        for (how, bytes) in [
            ("plain", plain.clone()),
            ("gzip", gzip(&plain)),
            ("gzip of two members", [gzip(left), gzip(right)].concat()),
            ("zstd", zstd(&plain)),
            ("zstd of two frames", [zstd(left), zstd(right)].concat()),
            ("zstd with other frames", [&skippable[..], &zstd(&plain), &skippable].concat()),
        ] {
            let found = read(&bytes).unwrap_or_else(|error| panic!("{how}: {error}"));
            assert_eq!(found, expected, "{how}");
        }
    }

    #[test]
    fn names_longer_than_a_header_are_read_in_both_spellings() {
        let long = format!("{}/tool", "deep/".repeat(60));
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        let mut gnu = tar::Builder::new(Vec::new());
        gnu.append_data(&mut header, &long, &b"x"[..]).unwrap();
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("mtime", &b"1.5"[..]), ("path", long.as_bytes())]).unwrap();
        header.set_path("short").unwrap();
        header.set_cksum();
        pax.append(&header, &b"x"[..]).unwrap();
        for bytes in [gnu.into_inner().unwrap(), pax.into_inner().unwrap()] {
            assert_eq!(read(&bytes).unwrap()[0].0, long.replace("//", "/"));
        }
    }

    #[test]
    fn what_could_leave_the_target_or_depends_on_order_is_refused_with_its_name() {
        use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
        let cases: &[(&[Made<'_>], &str)] = &[
            (&[("/etc/passwd", Regular, "x")], "`/etc/passwd`, which would lie outside"),
            (&[("a/../../b", Regular, "x")], "`a/../../b`, which would lie outside"),
            (&[("a\tb", Regular, "x")], "control characters"),
            (&[("a", Symlink, "/etc")], "link `a` to `/etc`, which is outside"),
            (&[("a", Symlink, "..")], "which is outside"),
            (&[("a/b", Symlink, "../../c")], "which is outside"),
            (&[("a/b/c", Symlink, "d/../../../e")], "which is outside"),
            (&[("a", Symlink, "")], "which is outside"),
            (&[("a", Link, "b")], "`a`, a Link"),
            (&[("a", Char, "")], "`a`, a Char"),
            (&[("a", Block, "")], "`a`, a Block"),
            (&[("a", Fifo, "")], "`a`, a Fifo"),
            (&[("a", Regular, ""), ("./a", Regular, "")], "`a` twice"),
            (&[("a", Symlink, "b"), ("a/c", Regular, "")], "`a/c` below `a`"),
            (&[("a/c/d", Regular, ""), ("a", Symlink, "b")], "members below `a`"),
            (&[("a", Regular, ""), ("a/b/", Directory, "")], "`a/b` below `a`"),
            (&[("./", Directory, "")], "nothing in it"),
        ];
        for (members, expected) in cases {
            let error = read(&tar_of(members)).unwrap_err().to_string();
            assert!(error.contains(expected), "{members:?}: {error}");
        }
    }

    #[test]
    fn links_that_stay_inside_are_taken() {
        for (path, target, inside) in [
            ("a", "b", true),
            ("a", "b/c", true),
            ("a/b", "../c", true),
            ("a/b/c", "../../d/e", true),
            ("a/b", "..", true),
            ("a/b", "../..", false),
            ("a/b", "..c", true),
            ("a/b", "c/..", false),
        ] {
            assert_eq!(stays_inside(path, target), inside, "{path} -> {target}");
        }
    }

    #[test]
    fn what_is_no_whole_archive_is_refused() {
        let plain = tar_of(GOOD);
        let (zipped, squeezed) = (gzip(&plain), zstd(&plain));
        let mut wrong = squeezed.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        for (how, bytes, expected) in [
            ("nothing", Vec::new(), "nothing in it"),
            ("a text", vec![b'x'; 2000], "cannot be read"),
            ("half a gzip", zipped[..zipped.len() / 2].to_vec(), "cannot be read"),
            ("a gzip with more behind it", [&zipped[..], b"more"].concat(), "cannot be read"),
            ("half a zstd", squeezed[..squeezed.len() / 2].to_vec(), "cannot be read"),
            ("a zstd with another checksum", wrong, "checksum"),
            ("xz", b"\xfd7zXZ\0....".to_vec(), "xz; gzip, zstd"),
        ] {
            let error = read(&bytes).expect_err(how).to_string();
            assert!(error.contains(expected), "{how}: {error}");
        }
    }

    #[test]
    fn an_archive_that_unpacks_without_end_is_stopped() {
        let mut limited = Limited { content: Box::new(io::repeat(0)), left: 1000 };
        let error = io::copy(&mut limited, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("unpacks to more than"), "{error}");
        let many: Vec<(String, EntryType, &str)> =
            (0..=MAX_MEMBERS).map(|n| (n.to_string(), EntryType::Regular, "")).collect();
        let many: Vec<_> =
            many.iter().map(|(name, kind, text)| (&name[..], *kind, *text)).collect();
        let error = read(&tar_of(&many)).unwrap_err().to_string();
        assert!(error.contains("more than 20000 members"), "{error}");
    }

    #[test]
    fn a_store_that_fails_is_not_taken_for_a_bad_archive() {
        struct Torn;
        impl Read for Torn {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("piece 1 differs"))
            }
        }
        for bytes in [tar_of(GOOD), gzip(&tar_of(GOOD)), zstd(&tar_of(GOOD))] {
            let digest = Digest::of(&bytes);
            let content = io::Cursor::new(bytes[..bytes.len() - 1].to_vec()).chain(Torn);
            let error = walk(&digest, Box::new(content), &mut |_, _| Ok(())).unwrap_err();
            assert!(matches!(error, StepError::Blob(BlobError::Read { .. })), "{error}");
        }
    }
}
