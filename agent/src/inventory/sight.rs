//! How probes read: below a root, bounded, each answer a [`Found`] with its path; and on a tape, where
//! what they touched is to be recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read as _},
    sync::{Mutex, PoisonError},
};

use super::Found;
use crate::facts::{Look, USUAL_FILE_BYTES};

/// Most bytes of one file; `/proc/cpuinfo` of 1024 CPUs has 2 MiB, `pci.ids` 1.5 MiB.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Most names taken of one directory.
const MAX_NAMES: usize = 4096;
/// Where a recorded tree holds what the kernel was asked without a file.
pub(super) const ANSWERS: &str = "/kdc-recorded";

/// What probes touched, so that a recorder can copy exactly that.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// Files read and links resolved.
    pub(super) paths: BTreeSet<String>,
    /// Directories listed.
    pub(super) lists: BTreeSet<String>,
    /// Contents that are kept as they are here: excerpts, and answers of the kernel.
    pub(super) contents: BTreeMap<String, String>,
}

/// A probe's eyes.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    look: &'a Look,
    tape: Option<Mutex<Tape>>,
}

impl<'a> Sight<'a> {
    /// Look, and leave no trace.
    pub(super) fn new(look: &'a Look) -> Self {
        Self { look, tape: None }
    }

    /// Look, and write down where.
    pub(super) fn taping(look: &'a Look) -> Self {
        Self { look, tape: Some(Mutex::default()) }
    }

    /// What was touched.
    pub(super) fn into_tape(self) -> Tape {
        let tape = self.tape.unwrap_or_default();
        tape.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// May devices and the kernel be asked?
    pub(super) fn is_machine(&self) -> bool {
        self.look.is_machine()
    }

    fn note(&self, write: impl FnOnce(&mut Tape)) {
        if let Some(tape) = &self.tape {
            write(&mut tape.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Is there anything at this path?
    pub(super) fn exists(&self, path: &str) -> bool {
        self.note(|tape| {
            tape.paths.insert(path.to_owned());
        });
        self.look.exists(path)
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, path: &str) -> Found<Vec<u8>> {
        self.note(|tape| {
            tape.paths.insert(path.to_owned());
        });
        self.read(path)
    }

    fn read(&self, path: &str) -> Found<Vec<u8>> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::with_capacity(USUAL_FILE_BYTES);
            let file = fs_err::File::open(self.look.path(path))?;
            file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) if bytes.len() as u64 == MAX_FILE_BYTES => {
                Found::unknown(path, format!("larger than {MAX_FILE_BYTES} bytes"))
            }
            Ok(bytes) => Found::present(bytes, path),
            Err(cause) => failed(path, &cause),
        }
    }

    /// The text of a file without blanks around it; an empty file is absent. Bytes that are not
    /// UTF-8 become `�`, control characters blanks: names come from firmware and go to terminals.
    pub(super) fn text(&self, path: &str) -> Found<String> {
        let text = self.bytes(path).map(|bytes| clean(&bytes));
        if text.value().is_some_and(String::is_empty) { Found::absent(path) } else { text }
    }

    /// A file that holds one decimal number.
    pub(super) fn number(&self, path: &str) -> Found<u64> {
        self.text(path).parsed(|text| text.parse().map_err(|_| format!("`{text}` is no number")))
    }

    /// A file that holds 0 or 1.
    pub(super) fn flag(&self, path: &str) -> Found<bool> {
        self.number(path).map(|number| number != 0)
    }

    /// Those lines of a text that are wanted; a recording keeps no others.
    pub(super) fn excerpt(
        &self,
        path: &str,
        pick: impl FnOnce(&str) -> Vec<String>,
    ) -> Found<Vec<String>> {
        let lines = self.read(path).map(|bytes| pick(&String::from_utf8_lossy(&bytes)));
        if let Some(lines) = lines.value() {
            self.note(|tape| drop(tape.contents.insert(path.to_owned(), lines.join("\n") + "\n")));
        }
        lines
    }

    /// Where a symbolic link points, as it is written.
    pub(super) fn link(&self, path: &str) -> Found<String> {
        self.note(|tape| {
            tape.paths.insert(path.to_owned());
        });
        match fs_err::read_link(self.look.path(path)) {
            Ok(target) => Found::present(target.to_string_lossy().into_owned(), path),
            Err(cause) => failed(path, &cause),
        }
    }

    /// The last part of where a symbolic link points: drivers, groups and parents are named so.
    pub(super) fn link_name(&self, path: &str) -> Found<String> {
        self.link(path).map(|target| target.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// The names in a directory, sorted.
    pub(super) fn names(&self, path: &str) -> Found<Vec<String>> {
        self.note(|tape| {
            tape.lists.insert(path.to_owned());
        });
        let entries = match fs_err::read_dir(self.look.path(path)) {
            Ok(entries) => entries,
            Err(cause) => return failed(path, &cause),
        };
        let mut names: Vec<String> = entries
            .take(MAX_NAMES)
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            // Recordings keep their empty directories with such.
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        Found::present(names, path)
    }

    /// What the kernel says when asked without a file: asked here, or as it was recorded.
    pub(super) fn answer(
        &self,
        name: &str,
        source: &str,
        ask: impl FnOnce() -> Result<Vec<u8>, String>,
    ) -> Found<Vec<u8>> {
        let path = format!("{ANSWERS}/{name}.hex");
        if !self.is_machine() {
            return self.recorded(&path, source);
        }
        match ask() {
            Ok(bytes) => {
                self.note(|tape| drop(tape.contents.insert(path, hex::encode(&bytes) + "\n")));
                Found::present(bytes, source)
            }
            Err(reason) => {
                let path = failure_path(&path);
                self.note(|tape| drop(tape.contents.insert(path, format!("{reason}\n"))));
                Found::unknown(source, reason)
            }
        }
    }

    /// An answer as it was recorded, or why there was none.
    fn recorded(&self, path: &str, source: &str) -> Found<Vec<u8>> {
        match self.read(path) {
            Found::Present { value, .. } => Found::present(value, source)
                .parsed(|text| hex::decode(text.trim_ascii()).map_err(|cause| cause.to_string())),
            Found::Absent { .. } => match self.text(&failure_path(path)) {
                Found::Present { value, .. } => Found::unknown(source, value),
                Found::Absent { .. } | Found::Unknown { .. } => {
                    Found::unknown(source, "not recorded")
                }
            },
            Found::Unknown { reason, .. } => Found::unknown(source, reason),
        }
    }
}

/// Where the reason is kept why something did not answer.
fn failure_path(path: &str) -> String {
    path.replace(".hex", ".failed")
}

fn failed<T>(path: &str, cause: &std::io::Error) -> Found<T> {
    match cause.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Found::absent(path),
        kind => Found::unknown(path, kind.to_string()),
    }
}

/// Text without blanks and zero bytes around it, safe to print on one line.
pub(super) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_empty_and_senseless_are_three_answers() {
        let place = tempfile::tempdir().unwrap();
        fs_err::write(place.path().join("number"), "12\n").unwrap();
        fs_err::write(place.path().join("empty"), " \n").unwrap();
        fs_err::write(place.path().join("words"), "a\u{1b}b\0\n").unwrap();
        fs_err::create_dir(place.path().join("folder")).unwrap();
        let look = Look::at(place.path());
        let sight = Sight::new(&look);
        assert_eq!(sight.number("/number"), Found::present(12, "/number"));
        assert_eq!(sight.number("/empty"), Found::absent("/empty"));
        assert_eq!(sight.number("/missing"), Found::absent("/missing"));
        assert_eq!(sight.text("/words"), Found::present("a b".to_owned(), "/words"));
        assert!(sight.number("/words").reason().unwrap().contains("is no number"));
        assert!(sight.text("/folder").reason().is_some());
        assert!(sight.answer("netlink", "netlink", || Ok(vec![1])).reason().is_some());
    }
}
