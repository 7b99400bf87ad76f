//! The part of a bundle before its blobs, and the reader that knows where it stands.

use std::io::{self, Read};

use crate::{
    error::VerifyError,
    index::{Index, IndexError, MAX_INDEX_BYTES},
    keys::{KeyId, TrustedKeys},
    member::{self, BLOCK, INDEX_NAME, SIGNATURE_NAME},
    signature::{self, MAX_SIGNATURE_BYTES, SignatureError},
};

/// A reader that counts, and that names the member in every error.
pub(crate) struct Source<R> {
    inner: R,
    offset: u64,
}

impl<R: Read> Source<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, offset: 0 }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `buffer` with bytes of `member`.
    pub(crate) fn fill(&mut self, buffer: &mut [u8], member: &str) -> Result<(), VerifyError> {
        let (member, offset) = (|| member.to_owned(), self.offset);
        self.inner.read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => VerifyError::Truncated { member: member(), offset },
            _ => VerifyError::Read { member: member(), offset, source },
        })?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    pub(crate) fn block(&mut self, member: &str) -> Result<[u8; BLOCK], VerifyError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block, member)?;
        Ok(block)
    }

    /// Reads the header of `member` and refuses any other.
    pub(crate) fn header(&mut self, member: &str, size: u64) -> Result<(), VerifyError> {
        let offset = self.offset;
        let block = self.block(member)?;
        check_header(&block, member, size, offset)
    }

    /// Reads the zeros after `size` bytes of `member`.
    pub(crate) fn padding(&mut self, member: &str, size: u64) -> Result<(), VerifyError> {
        let offset = self.offset;
        let mut zeros = [0; BLOCK];
        let zeros = &mut zeros[..member::padding(size)];
        self.fill(zeros, member)?;
        check_padding(zeros, member, offset)
    }

    /// Reads the end of the archive and makes sure that nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), VerifyError> {
        const END: &str = "the end of the archive";
        for _ in 0..member::END_BYTES / BLOCK {
            let offset = self.offset;
            let block = self.block(END)?;
            if block.iter().any(|byte| *byte != 0) {
                return Err(VerifyError::Extra { offset, found: member::shown_name(&block) });
            }
        }
        let offset = self.offset;
        // A byte over is what is asked for here; a plain `read` may be interrupted.
        match self.fill(&mut [0], END) {
            Ok(()) => Err(VerifyError::Trailing { offset }),
            Err(VerifyError::Truncated { .. }) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

pub(crate) fn check_header(
    block: &[u8; BLOCK],
    member: &str,
    size: u64,
    offset: u64,
) -> Result<(), VerifyError> {
    if *block == member::header(member, size) {
        return Ok(());
    }
    let bears_name = block[..member.len()] == *member.as_bytes() && block[member.len()] == 0;
    let found = if bears_name {
        "one with that name but other size, mode or owner".to_owned()
    } else {
        member::shown_name(block)
    };
    Err(VerifyError::Header { member: member.to_owned(), offset, found })
}

pub(crate) fn check_padding(zeros: &[u8], member: &str, offset: u64) -> Result<(), VerifyError> {
    if zeros.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(VerifyError::Padding { member: member.to_owned(), offset })
}

/// What the head of a bundle gives.
pub(crate) struct Prelude {
    pub(crate) index: Index,
    pub(crate) index_bytes: Vec<u8>,
    pub(crate) signature: String,
    /// Who signed: with keys the trusted one that proved the index, without the first that the
    /// file states.
    pub(crate) signer: KeyId,
    /// Everybody who signed, as the file states it.
    pub(crate) signers: Vec<KeyId>,
}

/// Reads index, signature and OCI files. With keys the index is proved before it is parsed; without
/// them nothing is proved, which only [`crate::open::read_unproved`] may ask for.
pub(crate) fn read<R: Read>(
    source: &mut Source<R>,
    keys: Option<&TrustedKeys>,
) -> Result<Prelude, VerifyError> {
    let index_bytes = read_index(source)?;
    let signature = read_signature(source)?;
    let wrong = |source| VerifyError::Signature { source };
    let signers = signature::signers(&signature).map_err(wrong)?;
    let (index, signer) = match keys {
        Some(keys) => {
            let proved = signature::prove_index(&index_bytes, &signature, keys).map_err(wrong)?;
            (proved.index, proved.signer)
        }
        None => {
            let index = Index::parse(&index_bytes);
            (index.map_err(|source| wrong(SignatureError::Index { source }))?, signers[0])
        }
    };
    for (name, content) in member::oci_members(&index) {
        let size = content.len() as u64;
        source.header(name, size)?;
        let offset = source.offset();
        let mut found = vec![0; content.len()];
        source.fill(&mut found, name)?;
        if let Some(at) = found.iter().zip(&content).position(|(left, right)| left != right) {
            let offset = offset + at as u64;
            return Err(VerifyError::Derived { member: name.to_owned(), offset });
        }
        source.padding(name, size)?;
    }
    Ok(Prelude { index, index_bytes, signature, signer, signers })
}

fn read_index<R: Read>(source: &mut Source<R>) -> Result<Vec<u8>, VerifyError> {
    let block = source.block(INDEX_NAME)?;
    let Some(size) = member::stated_size(&block, INDEX_NAME) else {
        return Err(VerifyError::NotABundle { found: member::shown_name(&block) });
    };
    if size > MAX_INDEX_BYTES {
        let source = SignatureError::Index { source: IndexError::TooLarge { found: size } };
        return Err(VerifyError::Signature { source });
    }
    content(source, INDEX_NAME, size)
}

fn read_signature<R: Read>(source: &mut Source<R>) -> Result<String, VerifyError> {
    let offset = source.offset();
    let block = source.block(SIGNATURE_NAME)?;
    let stated = member::stated_size(&block, SIGNATURE_NAME);
    let Some(size) = stated.filter(|size| *size <= MAX_SIGNATURE_BYTES) else {
        let found = member::shown_name(&block);
        // A whole, well-formed bundle without a signature goes on with `oci-layout`.
        if block.starts_with(b"oci-layout\0") {
            return Err(VerifyError::Unsigned { found });
        }
        return Err(VerifyError::Header { member: SIGNATURE_NAME.to_owned(), offset, found });
    };
    let bytes = content(source, SIGNATURE_NAME, size)?;
    String::from_utf8(bytes).map_err(|_| VerifyError::Signature {
        source: SignatureError::Malformed { what: "it is not text" },
    })
}

/// Content and padding of a small member whose size was judged.
fn content<R: Read>(source: &mut Source<R>, name: &str, size: u64) -> Result<Vec<u8>, VerifyError> {
    let mut bytes = vec![0; size as usize];
    source.fill(&mut bytes, name)?;
    source.padding(name, size)?;
    Ok(bytes)
}
