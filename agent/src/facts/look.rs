//! Where probes look: a root path, so that a recorded tree reads like a machine.

use std::path::{Path, PathBuf};

use super::Known;

/// Most bytes a probe reads of one file; the package list of a large machine has about 5 MiB.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Room for one file to begin with. The kernel makes `/proc/net/tcp` anew for each read, a walk over all
/// its connections: two reads are to do, not the eight that a buffer takes which grows from nothing.
pub(crate) const USUAL_FILE_BYTES: usize = 16 * 1024;

/// The machine's root, or a recorded tree.
#[derive(Debug, Clone)]
pub struct Look {
    root: PathBuf,
}

impl Look {
    /// This machine.
    #[must_use]
    pub fn machine() -> Self {
        Self::at(Path::new("/"))
    }

    /// A tree laid out like a machine.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Is this the machine itself, whose kernel and devices may be asked, and not a recorded tree?
    #[must_use]
    pub fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The real place of an absolute path.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Is there anything at this path?
    #[must_use]
    pub fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// The text of a file, or why it can't be had. Bytes that are not UTF-8 become `�`.
    ///
    /// # Errors
    /// The reason in words, with the path.
    pub fn text(&self, absolute: &str) -> Result<String, String> {
        use std::io::Read as _;
        let file = fs_err::File::open(self.path(absolute)).map_err(|cause| cause.to_string())?;
        let mut bytes = Vec::with_capacity(USUAL_FILE_BYTES);
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|cause| cause.to_string())?;
        if bytes.len() as u64 == MAX_FILE_BYTES {
            return Err(format!("{absolute} is larger than {MAX_FILE_BYTES} bytes"));
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(mixed) => String::from_utf8_lossy(mixed.as_bytes()).into_owned(),
        })
    }

    /// Read a file and parse it.
    pub(super) fn parsed<T>(
        &self,
        absolute: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Known<T> {
        match self.text(absolute).and_then(|text| parse(&text)) {
            Ok(value) => Known::Known(value),
            Err(reason) => Known::Unknown(reason),
        }
    }

    /// Names in a directory, sorted; empty where it is missing.
    pub(super) fn names(&self, absolute: &str) -> Vec<String> {
        let Ok(entries) = fs_err::read_dir(self.path(absolute)) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }
}
