//! What lies where in an unpacked form: the files of the tars in it, and which file of the old
//! version goes with which of the new one.

use std::{collections::HashMap, io};

use super::{
    chunks::{self, Chunk, Fineness},
    layout::Part,
    spool::Spool,
};

/// Files of one blob that are told apart; a tar with more is one stretch.
const MAX_UNITS: usize = 200_000;

/// A stretch with a name: a file of a tar with its header, or a whole part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) start: u64,
    /// Where the file's content begins, after its header.
    pub(super) body: u64,
    pub(super) end: u64,
}

/// Divides an unpacked form into units that cover it, in order.
pub(super) fn divide(content: &Spool, parts: &[Part]) -> io::Result<Vec<Unit>> {
    let (mut units, mut at) = (Vec::new(), 0);
    for (number, part) in parts.iter().enumerate() {
        let end = at + part.unpacked;
        let first = units.len();
        let mut magic = [0; 5];
        let is_tar = part.unpacked >= 1024 && {
            content.read_at(&mut magic, at + 257)?;
            magic == *b"ustar"
        };
        if is_tar {
            files(content, at, end, &mut units);
        }
        if units.len() == first {
            units.push(Unit { name: format!("part {number}"), start: at, body: at, end });
        }
        // Whatever precedes the first file or follows the last belongs to it.
        units[first].start = at;
        if let Some(last) = units.last_mut() {
            last.end = end;
        }
        at = end;
    }
    Ok(units)
}

/// Cuts an unpacked form into chunks, none of which reaches over an end of a file's header or content:
/// headers hold times that are others with every build.
pub(super) fn cut(
    content: &Spool,
    units: &[Unit],
    fineness: Fineness,
    mut take: impl FnMut(Chunk),
) -> io::Result<()> {
    for unit in units {
        for (start, end) in [(unit.start, unit.body), (unit.body, unit.end)] {
            chunks::cut(&mut content.range(start, end - start), start, fineness, &mut take)?;
        }
    }
    Ok(())
}

/// The files of the tar between `start` and `end`; none if it can't be read.
fn files(content: &Spool, start: u64, end: u64, units: &mut Vec<Unit>) {
    let first = units.len();
    let mut archive = tar::Archive::new(content.leaps(start, end - start));
    let Ok(entries) = archive.entries_with_seek() else { return };
    for entry in entries {
        let Ok(entry) = entry else { return units.truncate(first) };
        if entry.size() == 0 {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let at = start + entry.raw_header_position();
        if units.len() == MAX_UNITS || at > end {
            return units.truncate(first);
        }
        if let Some(last) = units[first..].last_mut() {
            last.end = at;
        }
        let body = start + entry.raw_file_position();
        units.push(Unit { name, start: at, body: body.clamp(at, end), end });
    }
}

/// Old units by name, by name without numbers, and by file name alone.
#[derive(Debug, Default)]
pub(super) struct Mates {
    exact: HashMap<String, (usize, usize)>,
    numberless: HashMap<String, (usize, usize)>,
    file: HashMap<String, (usize, usize)>,
}

impl Mates {
    /// Adds the units of base number `base`; the first of a name counts.
    pub(super) fn add(&mut self, base: usize, units: &[Unit]) {
        for (number, unit) in units.iter().enumerate() {
            let place = (base, number);
            self.exact.entry(unit.name.clone()).or_insert(place);
            self.numberless.entry(without_numbers(&unit.name)).or_insert(place);
            self.file.entry(without_numbers(file_name(&unit.name))).or_insert(place);
        }
    }

    /// Base and number of the unit that was this one, or was like it.
    pub(super) fn find(&self, name: &str) -> Option<(usize, usize)> {
        let found = self.exact.get(name).or_else(|| self.numberless.get(&without_numbers(name)));
        found.or_else(|| self.file.get(&without_numbers(file_name(name)))).copied()
    }
}

fn file_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// `lib/6.1.0-55-amd64/x.ko` and `lib/6.1.0-56-amd64/x.ko` are the same file of two versions.
pub(super) fn without_numbers(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for letter in name.chars() {
        if !letter.is_ascii_digit() {
            text.push(letter);
        } else if !text.ends_with('#') {
            text.push('#');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_finds_its_older_self_by_path_then_without_numbers_then_by_name() {
        let unit = |name: &str| Unit { name: name.to_owned(), start: 0, body: 0, end: 1 };
        let mut mates = Mates::default();
        mates.add(0, &[unit("lib/6.1.0-55-amd64/x.ko"), unit("bin/tool"), unit("lib/libz.so.1.9")]);
        assert_eq!(mates.find("bin/tool"), Some((0, 1)));
        assert_eq!(mates.find("lib/6.1.0-56-amd64/x.ko"), Some((0, 0)));
        assert_eq!(mates.find("usr/lib/libz.so.1.10"), Some((0, 2)));
        assert_eq!(mates.find("bin/other"), None);
    }
}
