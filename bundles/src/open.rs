//! Random access to a bundle file, with every byte proved before it is handed out.
//!
//! Opening proves the signature, the index and the place of every member, but reads no blob. What is
//! read later is proved piece by piece, so a file that changes after it was opened is noticed too.

use std::{
    io::{BufReader, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::{
    error::VerifyError,
    index::{Blob, Digest, Index},
    keys::{KeyId, TrustedKeys},
    layout::Layout,
    medium::{Medium, MediumError},
    member::{self, BLOCK},
    parts::{self, PartSet},
    prelude::{self, Source},
    verify,
};

/// A bundle that is open for reading pieces. Shared freely between threads and tasks: it has no
/// position, and its methods block only for a piece's read and hash.
#[derive(Debug)]
pub struct BundleFile {
    medium: Medium,
    index: Index,
    index_bytes: Vec<u8>,
    signature: String,
    signer: KeyId,
    digest: Digest,
    layout: Layout,
}

impl BundleFile {
    /// Opens the bundle at `path` (a file, one of its parts, or a folder that holds it) and proves
    /// index and layout against `keys`.
    ///
    /// # Errors
    /// When it can't be found or read, is not signed by one of the keys, or is not laid out exactly
    /// as its index says.
    pub fn open(path: &Path, keys: &TrustedKeys) -> Result<Self, VerifyError> {
        Self::open_medium(Medium::find(&[path])?, keys)
    }

    /// As [`BundleFile::open`], of a medium that was found before.
    ///
    /// # Errors
    /// As [`BundleFile::open`].
    pub fn open_medium(medium: Medium, keys: &TrustedKeys) -> Result<Self, VerifyError> {
        medium.complete()?;
        let mut source = Source::new(BufReader::new(medium.reader()));
        let head = prelude::read(&mut source, Some(keys))?;
        let sizes = (head.index_bytes.len() as u64, head.signature.len() as u64);
        let opened = Self {
            layout: Layout::of(&head.index, sizes.0, sizes.1),
            digest: Digest::of(&head.index_bytes),
            index: head.index,
            index_bytes: head.index_bytes,
            signature: head.signature,
            signer: head.signer,
            medium,
        };
        opened.check_layout()?;
        Ok(opened)
    }

    /// Proves every byte of a medium and opens it. Of parts that are there twice the good ones are
    /// used. `bytes` is told how many bytes were read.
    ///
    /// # Errors
    /// At anything that is not as it was signed; of parts, all that are bad are named.
    pub fn prove(
        mut medium: Medium,
        keys: &TrustedKeys,
        bytes: &mut dyn FnMut(u64),
    ) -> Result<Self, VerifyError> {
        let digest = match &mut medium {
            Medium::File(_) => verify::verify_with(medium.reader(), keys, bytes)?.digest,
            Medium::Parts(set) => Self::choose_copies(set, keys, bytes)?,
        };
        let opened = Self::open_medium(medium, keys)?;
        if opened.digest == digest {
            return Ok(opened);
        }
        // Somebody put another file in its place between the two looks.
        let found = "another bundle than a moment ago".to_owned();
        Err(VerifyError::NotABundle { found })
    }

    /// Proves every byte of the parts and keeps the good copies; gives the bundle's identity.
    pub(crate) fn choose_copies(
        set: &mut PartSet,
        keys: &TrustedKeys,
        bytes: &mut dyn FnMut(u64),
    ) -> Result<Digest, VerifyError> {
        let checked = parts::check(set, keys, bytes)?;
        if !checked.is_readable() {
            let (bundle, bad) = (set.label(), checked.bad_parts());
            let repairable = checked.is_repairable();
            return Err(MediumError::Damaged { bundle, bad, repairable }.into());
        }
        set.retain(|copy| checked.is_sound(copy.path()));
        Ok(checked.digest)
    }

    /// Checks header and padding of every blob, and the end.
    fn check_layout(&self) -> Result<(), VerifyError> {
        for (ordinal, blob) in self.index.blobs.iter().enumerate() {
            let name = member::blob_name(&blob.digest);
            let start = self.layout.start(ordinal).expect("the layout is of this index");
            let (mut block, offset) = ([0; BLOCK], start - BLOCK as u64);
            self.read_at(&mut block, offset, &name)?;
            prelude::check_header(&block, &name, blob.size, offset)?;
            let end = start + blob.size;
            let zeros = &mut block[..member::padding(blob.size)];
            self.read_at(zeros, end, &name)?;
            prelude::check_padding(zeros, &name, end)?;
        }
        let end = self.layout.length();
        let mut block = [0; BLOCK];
        for at in (end - member::END_BYTES as u64..end).step_by(BLOCK) {
            self.read_at(&mut block, at, "the end of the archive")?;
            if block.iter().any(|byte| *byte != 0) {
                return Err(VerifyError::Extra { offset: at, found: member::shown_name(&block) });
            }
        }
        if self.medium.length() == end {
            Ok(())
        } else {
            Err(VerifyError::Trailing { offset: end })
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64, member: &str) -> Result<(), VerifyError> {
        let member = || member.to_owned();
        self.medium.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                VerifyError::Truncated { member: member(), offset }
            }
            _ => VerifyError::Read { member: member(), offset, source },
        })
    }

    /// The file's path; of parts, that of the first.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.medium.path()
    }

    /// Where it lies.
    #[must_use]
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// What lies where in it.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The proved index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The bytes that are signed, for nodes that prove them again.
    #[must_use]
    pub fn index_bytes(&self) -> &[u8] {
        &self.index_bytes
    }

    /// The signature over [`BundleFile::index_bytes`].
    #[must_use]
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The key that signed.
    #[must_use]
    pub fn signer(&self) -> KeyId {
        self.signer
    }

    /// Digest of the index's bytes: the bundle's identity.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Length of the bundle as one file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.layout.length()
    }

    /// Reads piece `piece` of the blob with that ordinal into `buffer` (its old content is lost)
    /// and proves it.
    ///
    /// # Errors
    /// When there is no such piece, or it can't be read, or it is not what the index says; then
    /// `buffer` is empty.
    pub fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), VerifyError> {
        let result = self.fill_piece(ordinal, piece, buffer);
        if result.is_err() {
            buffer.clear();
        }
        result
    }

    /// Fills `into` with bytes of the blob with that ordinal, from `offset` in it, as they lie there: for
    /// whoever hands them to somebody that proves them, as an agent does with every piece it is sent.
    ///
    /// # Errors
    /// When the blob has no such bytes, or they can't be read.
    pub fn read_unproved(
        &self,
        ordinal: usize,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), VerifyError> {
        let (Some(blob), Some(start)) = (self.index.blobs.get(ordinal), self.layout.start(ordinal))
        else {
            return Err(VerifyError::NoSuchBlob { digest: format!("number {ordinal}") });
        };
        let member = member::blob_name(&blob.digest);
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > blob.size) {
            let piece = usize::try_from(offset / self.index.piece_size).unwrap_or(usize::MAX);
            return Err(VerifyError::NoSuchPiece { member, piece });
        }
        self.read_at(into, start + offset, &member)
    }

    fn fill_piece(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), VerifyError> {
        let (Some(blob), Some(start)) = (self.index.blobs.get(ordinal), self.layout.start(ordinal))
        else {
            return Err(VerifyError::NoSuchBlob { digest: format!("number {ordinal}") });
        };
        let member = || member::blob_name(&blob.digest);
        let Some(length) = self.index.piece_length(blob, piece) else {
            return Err(VerifyError::NoSuchPiece { member: member(), piece });
        };
        buffer.resize(length as usize, 0);
        let offset = start + piece as u64 * self.index.piece_size;
        self.read_at(buffer, offset, &member())?;
        let (expected, found) = (&blob.pieces[piece], Digest::of(buffer));
        if *expected == found {
            return Ok(());
        }
        let expected = expected.clone();
        Err(VerifyError::Piece { member: member(), piece, offset, expected, found })
    }

    /// Writes the blob with that digest to `writer`, each piece proved before it is written and the
    /// whole against its digest at the end.
    ///
    /// # Errors
    /// When the index has no such blob, or a piece or the whole is not what the index says.
    pub fn copy_blob(&self, digest: &Digest, writer: &mut impl Write) -> Result<u64, VerifyError> {
        let Some(ordinal) = self.index.ordinal(digest) else {
            return Err(VerifyError::NoSuchBlob { digest: digest.to_string() });
        };
        let blob = &self.index.blobs[ordinal];
        let mut whole = Sha256::new();
        let mut buffer = Vec::new();
        for piece in 0..blob.pieces.len() {
            self.read_piece_into(ordinal, piece, &mut buffer)?;
            whole.update(&buffer);
            writer.write_all(&buffer).map_err(|source| VerifyError::Write {
                member: member::blob_name(digest),
                source,
            })?;
        }
        check_whole(blob, Digest::from_bytes(&whole.finalize().into()))?;
        Ok(blob.size)
    }

    /// The whole content of a blob of at most `most` bytes (a manifest, a configuration), proved.
    ///
    /// # Errors
    /// As [`BundleFile::copy_blob`]; a larger blob is `NoSuchBlob` to this call.
    pub fn read_blob(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, VerifyError> {
        let small = self.index.blob(digest).is_some_and(|blob| blob.size <= most);
        if !small {
            let digest = format!("{digest} of at most {most} bytes");
            return Err(VerifyError::NoSuchBlob { digest });
        }
        let mut content = Vec::new();
        self.copy_blob(digest, &mut content)?;
        Ok(content)
    }
}

fn check_whole(blob: &Blob, found: Digest) -> Result<(), VerifyError> {
    if found == blob.digest {
        return Ok(());
    }
    Err(VerifyError::Blob { member: member::blob_name(&blob.digest), found })
}

/// What a bundle says about itself, with nothing proved: fit for showing, never for acting on.
#[derive(Debug, Clone)]
pub struct UnprovedIndex {
    /// What the file says it holds.
    pub index: Index,
    /// Digest of the index's bytes.
    pub digest: Digest,
    /// Who the file says signed it.
    pub claimed_signers: Vec<KeyId>,
    /// Length of the file.
    pub file_bytes: u64,
}

/// Reads the index of a bundle without a key.
///
/// # Errors
/// When the head of the file is not that of a bundle, or parts are missing.
pub fn read_unproved(medium: &Medium) -> Result<UnprovedIndex, VerifyError> {
    medium.complete()?;
    medium.complete()?;
    let head = prelude::read(&mut Source::new(BufReader::new(medium.reader())), None)?;
    Ok(UnprovedIndex {
        digest: Digest::of(&head.index_bytes),
        index: head.index,
        claimed_signers: head.signers,
        file_bytes: medium.length(),
    })
}
