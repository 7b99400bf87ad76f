//! A blob on the way: the sparse data file and its have-map.
//!
//! The map file starts with a header naming the boot that wrote it and the piece size, then has one
//! byte a piece: 1 is *proved and written*. Opening and finishing happen under a lock on the map
//! file; writing pieces needs none, since every writer of a piece writes the same proved bytes.

use std::{
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

use kdc_bundles::index::{Blob, Digest};
use nix::fcntl::{Flock, FlockArg};

use super::{
    Store, StoreError, error::of, piece_count, piece_length, sync_directory, write_failed,
};

const HEADER_BYTES: usize = 96;

/// An open partial blob.
#[derive(Debug)]
pub(super) struct Partial {
    blob: Blob,
    piece_size: u64,
    data: fs_err::File,
    data_path: PathBuf,
    map: std::fs::File,
    map_path: PathBuf,
    /// Every piece before this one is known to be there.
    full_until: usize,
}

impl Partial {
    /// Has some process begun this blob?
    pub(super) fn exists(store: &Store, blob: &Blob) -> bool {
        map_path(store, &blob.digest).exists()
    }

    /// Another process finished the blob, or removed it: what is written here now is lost.
    pub(super) fn is_gone(&self) -> bool {
        self.map.metadata().is_ok_and(|meta| meta.nlink() == 0)
    }

    /// Open or begin. `None` when the blob is complete by now.
    pub(super) fn open(
        store: &Store,
        blob: &Blob,
        piece_size: u64,
    ) -> Result<Option<Self>, StoreError> {
        let (map_path, data_path) = (map_path(store, &blob.digest), data_path(store, &blob.digest));
        let failed = |cause| write_failed(cause, &map_path, &blob.digest, blob.size);
        loop {
            if store.has(blob) {
                return Ok(None);
            }
            let map = lock(open_private(&map_path).map_err(failed)?.into_file())?;
            // Between open and lock another process may have finished the blob and removed the map.
            if !same_file(&map, &map_path) {
                continue;
            }
            let data = open_private(&data_path).map_err(failed)?;
            let partial = Self {
                blob: blob.clone(),
                piece_size,
                data,
                data_path: data_path.clone(),
                map: map.try_clone()?,
                map_path: map_path.clone(),
                full_until: 0,
            };
            partial.settle(&store.boot)?;
            drop(map);
            return Ok(Some(partial));
        }
    }

    /// Bring data and map to a state that tells the truth. Called under the lock.
    fn settle(&self, boot: &str) -> Result<(), StoreError> {
        let header = header(boot, self.piece_size);
        let pieces = self.blob.pieces.len();
        let mut found = vec![0; HEADER_BYTES + pieces];
        let map_length = self.map.metadata().map_err(of(&self.map_path))?.len();
        let sizes_fit =
            map_length == found.len() as u64 && self.data.metadata()?.len() == self.blob.size;
        if sizes_fit {
            self.map.read_exact_at(&mut found, 0).map_err(of(&self.map_path))?;
            if found[..HEADER_BYTES] == header {
                return Ok(());
            }
        }
        let failed = |cause| write_failed(cause, &self.map_path, &self.blob.digest, self.blob.size);
        if sizes_fit && piece_size_of(&found[..HEADER_BYTES]) == Some(self.piece_size) {
            self.prove_again(&mut found[HEADER_BYTES..])?;
        } else {
            self.data.set_len(self.blob.size).map_err(failed)?;
            found[HEADER_BYTES..].fill(0);
            self.map.set_len(0).map_err(failed)?;
        }
        // The header is last: a kill before it means that all of this is done again.
        self.map.write_all_at(&found[HEADER_BYTES..], HEADER_BYTES as u64).map_err(failed)?;
        self.map.write_all_at(&header, 0).map_err(failed)
    }

    fn prove_again(&self, have: &mut [u8]) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        for (piece, slot) in (0_u32..).zip(have).filter(|(_, slot)| **slot != 0) {
            let length = piece_length(&self.blob, self.piece_size, piece);
            buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            let place = u64::from(piece) * self.piece_size;
            let read = self.data.file().read_exact_at(&mut buffer, place);
            read.map_err(of(&self.data_path))?;
            let proved = Digest::of(&buffer) == self.blob.pieces[piece as usize];
            *slot = u8::from(proved);
        }
        Ok(())
    }

    /// Store the bytes of a piece that the caller has proved. Returns true when the map is full.
    pub(super) fn put(&mut self, piece: u32, bytes: &[u8]) -> Result<bool, StoreError> {
        let slot = (HEADER_BYTES + piece as usize) as u64;
        let mut have = [0];
        self.map.read_exact_at(&mut have, slot).map_err(of(&self.map_path))?;
        if have == [0] {
            let written = self
                .data
                .file()
                .write_all_at(bytes, u64::from(piece) * self.piece_size)
                .and_then(|()| self.map.write_all_at(&[1], slot));
            if let Err(cause) = written {
                let needed = self.bytes_to_come();
                return Err(write_failed(cause, &self.data_path, &self.blob.digest, needed));
            }
        }
        self.is_full()
    }

    fn bytes_to_come(&self) -> u64 {
        let have = self.have().unwrap_or_default();
        (0_u32..)
            .zip(&have)
            .filter(|(_, have)| **have == 0)
            .map(|(piece, _)| piece_length(&self.blob, self.piece_size, piece))
            .sum()
    }

    /// The have-map, one byte a piece.
    pub(super) fn have(&self) -> Result<Vec<u8>, StoreError> {
        let mut have = vec![0; piece_count(&self.blob) as usize];
        self.map.read_exact_at(&mut have, HEADER_BYTES as u64).map_err(of(&self.map_path))?;
        Ok(have)
    }

    /// Looks on from the first gap seen last time, so that a whole blob costs one pass.
    fn is_full(&mut self) -> Result<bool, StoreError> {
        let mut window = [0; 512];
        while self.full_until < self.blob.pieces.len() {
            let take = window.len().min(self.blob.pieces.len() - self.full_until);
            let at = (HEADER_BYTES + self.full_until) as u64;
            self.map.read_exact_at(&mut window[..take], at).map_err(of(&self.map_path))?;
            match window[..take].iter().position(|have| *have == 0) {
                Some(gap) => {
                    self.full_until += gap;
                    return Ok(false);
                }
                None => self.full_until += take,
            }
        }
        Ok(true)
    }

    /// Make the full partial a blob: on the disk first, then under its name.
    pub(super) fn complete(self, store: &Store) -> Result<(), StoreError> {
        let have = self.have()?;
        let map = lock(self.map)?;
        // A piece that was found damaged since then is to come again first.
        if !same_file(&map, &self.map_path) || have.contains(&0) {
            return Ok(());
        }
        let failed = |cause| write_failed(cause, &self.data_path, &self.blob.digest, 0);
        self.data.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        if let Err(cause) = self.data.sync_all() {
            // After a failed fsync the kernel may have dropped the pages: believe none of them.
            map.set_len(0).map_err(of(&self.map_path))?;
            return Err(failed(cause));
        }
        let target = store.blob_path(&self.blob.digest);
        fs_err::rename(&self.data_path, &target).map_err(failed)?;
        sync_directory(&store.root.join("blobs/sha256"))?;
        fs_err::remove_file(&self.map_path)?;
        Ok(())
    }
}

/// The have-map of a blob that this boot began, one byte a piece; `None` where there is none that can
/// be believed. Changes nothing.
pub(super) fn peek(store: &Store, blob: &Blob, piece_size: u64) -> Option<Vec<u8>> {
    let map = fs_err::File::open(map_path(store, &blob.digest)).ok()?;
    let mut found = vec![0; HEADER_BYTES + blob.pieces.len()];
    map.file().read_exact_at(&mut found, 0).ok()?;
    (found[..HEADER_BYTES] == header(&store.boot, piece_size))
        .then(|| found.split_off(HEADER_BYTES))
}

/// Reads and proves a piece of a blob that is still on its way; `buffer` is empty when that fails. A
/// piece that is not what it was goes out of the have-map, so that it is asked for again.
pub(super) fn read_piece(
    store: &Store,
    blob: &Blob,
    piece_size: u64,
    piece: u32,
    buffer: &mut Vec<u8>,
) -> Result<(), StoreError> {
    buffer.clear();
    let (map_path, data_path) = (map_path(store, &blob.digest), data_path(store, &blob.digest));
    let absent = || StoreError::Absent { blob: blob.digest.clone() };
    let there = peek(store, blob, piece_size).is_some_and(|have| have[piece as usize] != 0);
    let data = there.then(|| fs_err::File::open(&data_path).ok()).flatten().ok_or_else(absent)?;
    let length = piece_length(blob, piece_size, piece);
    buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
    let read = data.file().read_exact_at(buffer, u64::from(piece) * piece_size);
    if read.is_ok() && Digest::of(buffer) == blob.pieces[piece as usize] {
        return Ok(());
    }
    buffer.clear();
    read.map_err(of(&data_path))?;
    let map = fs_err::OpenOptions::new().write(true).open(&map_path)?;
    map.file().write_all_at(&[0], (HEADER_BYTES + piece as usize) as u64).map_err(of(&map_path))?;
    let place = "on this node's disk; it is asked for again";
    Err(StoreError::Mismatch { blob: blob.digest.clone(), piece, place })
}

/// Blobs that are on their way, by the hex digits of their digests.
pub(super) fn begun(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut begun = Vec::new();
    let entries = match fs_err::read_dir(store.root.join("partial")) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(begun),
        Err(cause) => return Err(cause.into()),
    };
    for entry in entries {
        let name = entry?.file_name();
        begun.extend(name.to_string_lossy().strip_suffix(".have").map(str::to_owned));
    }
    Ok(begun)
}

fn data_path(store: &Store, blob: &Digest) -> PathBuf {
    store.root.join("partial").join(blob.hex())
}

fn map_path(store: &Store, blob: &Digest) -> PathBuf {
    store.root.join("partial").join(format!("{}.have", blob.hex()))
}

fn open_private(path: &std::path::Path) -> std::io::Result<fs_err::File> {
    let mut options = fs_err::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn lock(file: std::fs::File) -> Result<Flock<std::fs::File>, StoreError> {
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, cause)| StoreError::Io(cause.into()))
}

fn same_file(file: &std::fs::File, path: &std::path::Path) -> bool {
    match (file.metadata(), fs_err::metadata(path)) {
        (Ok(ours), Ok(theirs)) => ours.ino() == theirs.ino() && ours.dev() == theirs.dev(),
        _ => false,
    }
}

fn header(boot: &str, piece_size: u64) -> [u8; HEADER_BYTES] {
    let text = format!("kdc-have 1 {piece_size} {boot}");
    let mut header = [b' '; HEADER_BYTES];
    let take = text.len().min(HEADER_BYTES - 1);
    header[..take].copy_from_slice(&text.as_bytes()[..take]);
    header[HEADER_BYTES - 1] = b'\n';
    header
}

fn piece_size_of(header: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(header).ok()?;
    text.strip_prefix("kdc-have 1 ")?.split(' ').next()?.parse().ok()
}
