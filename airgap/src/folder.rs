//! A folder as a tar that is the same for the same content: entries sorted by name, no owner, no
//! time, and of the modes only whether a file may be executed.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use kdc_bundles::index::Digest;

use crate::{cache::Cache, problem::chain};

/// Most entries of a folder.
const MAX_ENTRIES: usize = 1_000_000;

/// Deepest folder in a folder.
const MAX_DEPTH: usize = 64;

/// Packs the folder into the cache.
pub(crate) fn pack(cache: &Cache, folder: &Path) -> Result<(Digest, u64), String> {
    // Through a pipe: what is read is hashed on its way, whatever its size.
    let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    std::thread::scope(|scope| {
        let packer = scope.spawn(move || write_tar(folder, io::BufWriter::new(writer)));
        let inserted = cache.insert(Whole { inner: reader, check: Some(packer) });
        inserted.map_err(|error| chain(&error))
    })
}

/// What the packer writes; its end is only an end if the packer has no error.
struct Whole<'s> {
    inner: io::PipeReader,
    check: Option<std::thread::ScopedJoinHandle<'s, Result<(), String>>>,
}

impl io::Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if length == 0
            && let Some(packer) = self.check.take()
        {
            let result = packer.join().unwrap_or_else(|_| Err("packing it broke off".to_owned()));
            result.map_err(io::Error::other)?;
        }
        Ok(length)
    }
}

fn write_tar(folder: &Path, output: impl Write) -> Result<(), String> {
    let mut tar = tar::Builder::new(output);
    let mut left = MAX_ENTRIES;
    append(&mut tar, folder, &PathBuf::new(), MAX_DEPTH, &mut left)?;
    let mut output = tar.into_inner().map_err(|error| error.to_string())?;
    output.flush().map_err(|error| error.to_string())
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    folder: &Path,
    below: &Path,
    depth: usize,
    left: &mut usize,
) -> Result<(), String> {
    let place = folder.join(below);
    if depth == 0 {
        return Err(format!("`{}` is nested more than {MAX_DEPTH} deep", place.display()));
    }
    let entries = fs_err::read_dir(&place).map_err(|error| error.to_string())?;
    let names: io::Result<Vec<_>> = entries.map(|entry| entry.map(|one| one.file_name())).collect();
    let mut names = names.map_err(|error| error.to_string())?;
    names.sort();
    for name in names {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| format!("`{}` has more than {MAX_ENTRIES} entries", folder.display()))?;
        let below = below.join(name);
        let path = folder.join(&below);
        let metadata = fs_err::symlink_metadata(&path).map_err(|error| error.to_string())?;
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        let kind = metadata.file_type();
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            let name = below.join("");
            tar.append_data(&mut header, name, io::empty()).map_err(|error| error.to_string())?;
            append(tar, folder, &below, depth - 1, left)?;
        } else if kind.is_file() {
            append_file(tar, &path, &below, header, &metadata)?;
        } else if kind.is_symlink() {
            let target = fs_err::read_link(&path).map_err(|error| error.to_string())?;
            check_link(&path, &below, &target)?;
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &below, &target).map_err(|error| error.to_string())?;
        } else {
            return Err(format!("`{}` is neither file, folder nor link", path.display()));
        }
    }
    Ok(())
}

fn append_file(
    tar: &mut tar::Builder<impl Write>,
    path: &Path,
    below: &Path,
    mut header: tar::Header,
    metadata: &std::fs::Metadata,
) -> Result<(), String> {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};
    let runs = metadata.permissions().mode() & 0o111 != 0;
    header.set_mode(if runs { 0o755 } else { 0o644 });
    header.set_size(metadata.len());
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let mut content = file.take(metadata.len());
    tar.append_data(&mut header, below, &mut content).map_err(|error| error.to_string())?;
    if content.limit() != 0 {
        return Err(format!("`{}` became shorter while it was read", path.display()));
    }
    Ok(())
}

/// A link out of the folder would point at whatever lies there on a node.
fn check_link(path: &Path, below: &Path, target: &Path) -> Result<(), String> {
    use std::path::Component;
    let mut depth = below.components().count() - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => {
                let (path, target) = (path.display(), target.display());
                return Err(format!("the link `{path}` leads out of its folder, to `{target}`"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        (folder, cache)
    }

    fn fill(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(&path, name).unwrap();
        }
        let mode = std::fs::Permissions::from_mode(0o700);
        fs_err::set_permissions(folder.join("b/run"), mode).unwrap();
        symlink("../a", folder.join("b/link")).unwrap();
    }

    #[test]
    fn the_same_content_gives_the_same_tar_whenever_it_was_made() {
        let (folder, cache) = cache();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fill(&one, &["a", "b/run", "b/text", "c/d/e"]);
        fill(&two, &["c/d/e", "b/text", "b/run", "a"]);
        let early = std::time::SystemTime::UNIX_EPOCH;
        fs_err::File::open(two.join("a")).unwrap().file().set_modified(early).unwrap();
        let (digest, _) = pack(&cache, &one).unwrap();
        assert_eq!(pack(&cache, &two).unwrap().0, digest);
        let file = fs_err::File::open(cache.path(&digest)).unwrap();
        let mut tar = tar::Archive::new(file);
        let entries = tar.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
        });
        let expected = [
            ("a", 0o644),
            ("b/", 0o755),
            ("b/link", 0o777),
            ("b/run", 0o755),
            ("b/text", 0o644),
            ("c/", 0o755),
            ("c/d/", 0o755),
            ("c/d/e", 0o644),
        ];
        let expected = expected.map(|(name, mode)| (name.to_owned(), mode));
        assert_eq!(entries.collect::<Vec<_>>(), expected);
        fs_err::write(two.join("a"), "other").unwrap();
        assert_ne!(pack(&cache, &two).unwrap().0, digest);
    }

    #[test]
    fn a_link_that_leads_out_and_a_folder_that_is_none_are_refused() {
        let (folder, cache) = cache();
        for target in ["/etc/passwd", "../x", "a/../../x"] {
            let inside = folder.path().join("inside");
            fs_err::create_dir_all(&inside).unwrap();
            symlink(target, inside.join("link")).unwrap();
            let error = pack(&cache, &inside).unwrap_err();
            assert!(error.contains("leads out"), "{error}");
            fs_err::remove_dir_all(&inside).unwrap();
        }
        assert!(pack(&cache, &folder.path().join("none")).is_err());
        assert!(cache.list().unwrap().is_empty());
    }
}
