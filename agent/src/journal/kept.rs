//! Contents that undo needs, beside the journal.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use kdc_bundles::index::Digest;
use sha2::{Digest as _, Sha256};

use super::write::sync_directory;
use crate::step::{Keep, StepError};

/// Contents kept for undo, in `before/` beside the journal, named by their sha256.
#[derive(Debug, Clone)]
pub struct KeptContents {
    directory: PathBuf,
}

impl KeptContents {
    /// Those of the run in `run_dir`.
    #[must_use]
    pub fn of_run(run_dir: &Path) -> Self {
        Self { directory: run_dir.join("before") }
    }
}

impl Keep for KeptContents {
    fn keep(&self, digest: &Digest, content: &mut dyn Read) -> Result<(), StepError> {
        let wrong = |what: String| StepError::Kept { digest: digest.clone(), what };
        let failed = |error: std::io::Error| wrong(format!("cannot be written: {error}"));
        fs_err::create_dir_all(&self.directory).map_err(failed)?;
        let private = std::fs::Permissions::from_mode(0o700);
        fs_err::set_permissions(&self.directory, private).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = content.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(failed)?;
        }
        if Digest::from_bytes(&hasher.finalize().into()) != *digest {
            return Err(wrong("changed while it was copied".to_owned()));
        }
        file.as_file().sync_all().map_err(failed)?;
        file.persist(self.directory.join(digest.hex())).map_err(|error| failed(error.error))?;
        sync_directory(&self.directory).map_err(failed)?;
        self.directory.parent().map_or(Ok(()), sync_directory).map_err(failed)
    }

    fn kept(&self, digest: &Digest) -> Result<Box<dyn Read + '_>, StepError> {
        let path = self.directory.join(digest.hex());
        let wrong = |what: String| StepError::Kept { digest: digest.clone(), what };
        let open = || fs_err::File::open(&path);
        let mut first = open().map_err(|error| wrong(format!("cannot be opened: {error}")))?;
        match crate::step::snapshot::digest_of(&mut first) {
            Ok(found) if found == *digest => {}
            Ok(_) => return Err(wrong("is not what it was".to_owned())),
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        }
        Ok(Box::new(open().map_err(|error| wrong(format!("cannot be opened: {error}")))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_content_comes_back_and_a_damaged_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptContents::of_run(directory.path());
        let digest = Digest::of(b"was");
        kept.keep(&digest, &mut &b"was"[..]).unwrap();
        let mut text = String::new();
        kept.kept(&digest).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "was");
        let other = Digest::of(b"other");
        assert!(kept.keep(&other, &mut &b"was"[..]).is_err());
        fs_err::write(directory.path().join("before").join(digest.hex()), "not").unwrap();
        assert!(kept.kept(&digest).is_err());
        let mode = fs_err::metadata(directory.path().join("before")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
