//! Recording a machine: exactly the files that the probes read, as a tree that they can read again.
//!
//! A probe run with a tape says what it touched; this copies it, with the symbolic links on the way, so
//! that a machine nobody has any more stays a test. What was asked of the kernel or of a device is kept
//! as text below `/kdc-recorded`. Nothing else of the machine is in it.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    AskGpus, Inventory, see,
    sight::{ANSWERS, Sight, Tape},
};
use crate::facts::Look;

/// Most bytes kept of one file; what probes read whole is smaller.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Kept in a directory that is empty otherwise, since version control keeps no empty ones.
const PLACEHOLDER: &str = ".kept";
/// Most links followed on one way.
const MAX_LINKS: usize = 16;

/// A recording failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is something already.
    #[error("`{place}` is not empty; name a folder that is, or that is not there yet")]
    NotEmpty {
        /// Where the recording was to go.
        place: PathBuf,
    },
    /// The tree can't be written.
    #[error("the recording can't be written")]
    Write {
        /// What the system says, with the path.
        #[from]
        source: std::io::Error,
    },
}

/// Record what the probes read below `look` into an empty folder. Where `anonymous`, serial numbers,
/// UUIDs, MACs and the host name are replaced by others of the same form.
///
/// # Errors
/// When the folder isn't empty or can't be written.
pub fn record(look: &Look, place: &Path, anonymous: bool) -> Result<Inventory, RecordError> {
    fs_err::create_dir_all(place)?;
    if fs_err::read_dir(place)?.next().is_some() {
        return Err(RecordError::NotEmpty { place: place.to_owned() });
    }
    let sight = Sight::taping(look);
    let inventory = see(&sight, &AskGpus::Library);
    let masks = if anonymous { Masks::of(&inventory) } else { Masks::default() };
    let recorder = Recorder { look, place, masks: &masks, tape: &sight.into_tape() };
    recorder.write()?;
    Ok(inventory)
}

struct Recorder<'a> {
    look: &'a Look,
    place: &'a Path,
    masks: &'a Masks,
    tape: &'a Tape,
}

impl Recorder<'_> {
    fn write(&self) -> std::io::Result<()> {
        for path in &self.tape.paths {
            self.copy(path)?;
        }
        for path in &self.tape.lists {
            self.list(path)?;
        }
        for (path, text) in &self.tape.contents {
            let target = self.target(path);
            if let Some(folder) = target.parent() {
                fs_err::create_dir_all(folder)?;
            }
            let bytes = match path.starts_with(ANSWERS) {
                true => self.masks.answer(text),
                false => self.masks.apply(text.as_bytes()),
            };
            fs_err::write(target, bytes)?;
        }
        keep_empty(self.place)
    }

    fn target(&self, path: &str) -> PathBuf {
        let masked = self.masks.apply(path.trim_start_matches('/').as_bytes());
        self.place.join(String::from_utf8_lossy(&masked).as_ref())
    }

    /// Walk to a path, writing down links on the way; then keep what is at its end.
    fn copy(&self, path: &str) -> std::io::Result<()> {
        let Some(end) = self.walk(path)? else { return Ok(()) };
        let target = self.target(&end);
        let Ok(meta) = fs_err::metadata(self.look.path(&end)) else { return Ok(()) };
        if meta.is_dir() {
            return fs_err::create_dir_all(target);
        }
        // A device is no content; what it said is among the answers.
        if !meta.is_file() || self.tape.contents.contains_key(path) {
            return Ok(());
        }
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let file = fs_err::File::open(self.look.path(&end))?;
        // Some files refuse to be read (the speed of a link that is down): as if they were not there.
        if file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).is_err() {
            return Ok(());
        }
        if let Some(folder) = target.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let bytes = if end == "/proc/sys/kernel/hostname" && self.masks.any() {
            b"recorded\n".to_vec()
        } else {
            self.masks.apply(&bytes)
        };
        fs_err::write(target, bytes)
    }

    /// Where a path ends when all its links are followed; `None` where it leads nowhere.
    fn walk(&self, path: &str) -> std::io::Result<Option<String>> {
        let mut todo: Vec<String> = parts(path);
        let (mut done, mut links) = (Vec::<String>::new(), 0);
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(part);
            let here = format!("/{}", done.join("/"));
            let Ok(meta) = fs_err::symlink_metadata(self.look.path(&here)) else { return Ok(None) };
            // Each process has its own there.
            if !meta.is_symlink() || here == "/proc/self" {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Ok(None);
            }
            let to = self.link(&here, done.len())?;
            done.pop();
            todo.extend(parts(&to));
        }
        Ok(Some(format!("/{}", done.join("/"))))
    }

    /// Write one link down; absolute ones are made to stay in the tree.
    fn link(&self, here: &str, depth: usize) -> std::io::Result<String> {
        let to = fs_err::read_link(self.look.path(here))?.to_string_lossy().into_owned();
        let relative = match to.strip_prefix('/') {
            Some(rest) => format!("{}{rest}", "../".repeat(depth - 1)),
            None => to,
        };
        let target = self.target(here);
        if fs_err::symlink_metadata(&target).is_err() {
            if let Some(folder) = target.parent() {
                fs_err::create_dir_all(folder)?;
            }
            let masked = self.masks.apply(relative.as_bytes());
            fs_err::os::unix::fs::symlink(String::from_utf8_lossy(&masked).as_ref(), target)?;
        }
        Ok(relative)
    }

    /// The names in a directory: links as they are, the rest empty where nothing of it was read.
    fn list(&self, path: &str) -> std::io::Result<()> {
        let Some(end) = self.walk(path)? else { return Ok(()) };
        let Ok(entries) = fs_err::read_dir(self.look.path(&end)) else { return Ok(()) };
        fs_err::create_dir_all(self.target(&end))?;
        for entry in entries {
            let entry = entry?;
            let here = format!("{end}/{}", entry.file_name().to_string_lossy());
            let target = self.target(&here);
            let kind = entry.file_type()?;
            if fs_err::symlink_metadata(&target).is_ok() {
                continue;
            }
            if kind.is_symlink() {
                self.link(&here, parts(&here).len())?;
            } else if !kind.is_dir() {
                fs_err::write(target, b"")?;
            } else if !end.starts_with("/sys/firmware/dmi/") {
                // Of SMBIOS only the structures that were read are wanted.
                fs_err::create_dir_all(target)?;
            }
        }
        Ok(())
    }
}

/// The parts of a path, last first.
fn parts(path: &str) -> Vec<String> {
    let normal = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        _ => None,
    };
    Path::new(path).components().rev().filter_map(normal).collect()
}

fn keep_empty(folder: &Path) -> std::io::Result<()> {
    let mut empty = true;
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        empty = false;
        if entry.file_type()?.is_dir() {
            keep_empty(&entry.path())?;
        }
    }
    if empty {
        fs_err::write(folder.join(PLACEHOLDER), b"")?;
    }
    Ok(())
}

/// What identifies a machine, and what stands for it: bytes of the same length and form.
#[derive(Debug, Default)]
struct Masks(BTreeMap<Vec<u8>, Vec<u8>>);

/// Fields whose values identify a machine.
const IDENTIFYING: &[&str] = &[
    "assetTag",
    "boardSerial",
    "chassisId",
    "chassisSerial",
    "mac",
    "nodeGuid",
    "permanentMac",
    "serial",
    "systemName",
    "uuid",
    "wwn",
];

impl Masks {
    fn of(inventory: &Inventory) -> Self {
        let mut masks = Self(BTreeMap::new());
        masks.gather(&serde_json::to_value(inventory).unwrap_or_default(), false);
        // Something is masked even on a machine that has nothing: the host name.
        masks.0.entry(b"\0".to_vec()).or_insert_with(|| b"\0".to_vec());
        masks
    }

    fn any(&self) -> bool {
        !self.0.is_empty()
    }

    fn gather(&mut self, value: &serde_json::Value, identifying: bool) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    let inherits = identifying && key == "value";
                    self.gather(value, inherits || IDENTIFYING.contains(&key.as_str()));
                }
            }
            serde_json::Value::Array(list) => {
                list.iter().for_each(|value| self.gather(value, identifying));
            }
            serde_json::Value::String(text) if identifying => self.add(text),
            _ => {}
        }
    }

    /// Three characters are everywhere; and a MAC of zeros or ones is nobody's.
    fn add(&mut self, text: &str) {
        let told = text.chars().any(|c| c.is_ascii_alphanumeric() && !"0fF".contains(c));
        if text.len() < 4 || !told {
            return;
        }
        for text in [text.to_owned(), text.to_uppercase(), text.to_lowercase()] {
            let other = disguise(&text);
            if let (Some(from), Some(to)) = (mac_bytes(&text), mac_bytes(&other)) {
                self.0.insert(from, to);
            }
            self.0.insert(text.into_bytes(), other.into_bytes());
        }
    }

    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (from, to) in &self.0 {
            let mut at = 0;
            while let Some(found) =
                bytes[at..].windows(from.len()).position(|window| window == from.as_slice())
            {
                bytes[at + found..at + found + from.len()].copy_from_slice(to);
                at += found + from.len();
            }
        }
        bytes
    }

    /// Answers are written in hex: what they hold is masked, not how it is written.
    fn answer(&self, text: &str) -> Vec<u8> {
        match hex::decode(text.trim()) {
            Ok(bytes) => (hex::encode(self.apply(&bytes)) + "\n").into_bytes(),
            Err(_) => text.as_bytes().to_vec(),
        }
    }
}

fn mac_bytes(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.filter(|bytes| bytes.len() == 6)
}

/// Another text of the same form: digits stay digits, hexadecimal letters such, others letters. The
/// first half of a MAC tells the maker, and stays.
fn disguise(text: &str) -> String {
    let digest = Sha256::digest(text.to_lowercase());
    let keep = if mac_bytes(text).is_some() { 9 } else { 0 };
    let other = |(at, c): (usize, char)| {
        let byte = digest[at % digest.len()];
        let among = |first: u8, count: u8| char::from(first + byte % count);
        match c {
            _ if at < keep => c,
            '0'..='9' => among(b'0', 10),
            'a'..='f' => among(b'a', 6),
            'A'..='F' => among(b'A', 6),
            'g'..='z' => among(b'g', 20),
            'G'..='Z' => among(b'G', 20),
            other => other,
        }
    };
    text.chars().enumerate().map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::collect;

    #[test]
    fn a_machine_reads_from_its_recording_as_it_read_itself() {
        let place = tempfile::tempdir().unwrap();
        let live = record(&Look::machine(), place.path(), false).unwrap();
        let again = collect(&Look::at(place.path()));
        let (live, again) = (serde_json::to_value(&live).unwrap(), serde_json::to_value(&again));
        for (part, value) in again.unwrap().as_object().unwrap() {
            assert_eq!(&live[part], value, "{part}");
        }
        let refused = record(&Look::machine(), place.path(), false).unwrap_err();
        assert!(matches!(refused, RecordError::NotEmpty { .. }));
    }

    #[test]
    fn what_identifies_is_replaced_by_something_of_the_same_form_everywhere() {
        let mut masks = Masks::default();
        masks.add("S3Z8NB0K1234");
        masks.add("52:54:00:ab:cd:ef");
        masks.add("abc");
        masks.add("00:00:00:00:00:00");
        let text = b"ata-MODEL_S3Z8NB0K1234 52:54:00:ab:cd:ef abc 00:00:00:00:00:00".to_vec();
        let masked = masks.apply(&text);
        assert_eq!(masked.len(), text.len());
        let masked = String::from_utf8(masked).unwrap();
        assert!(!masked.contains("S3Z8NB0K1234") && !masked.contains("ab:cd:ef"), "{masked}");
        assert!(masked.contains(" 52:54:00:") && masked.contains(" abc "), "{masked}");
        assert!(masked.ends_with("00:00:00:00:00:00"));
        let binary = hex::encode([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        let answer = String::from_utf8(masks.answer(&binary)).unwrap();
        assert!(answer.starts_with("525400") && !answer.contains("abcdef"), "{answer}");
    }
}
