//! `InRelease`: the signed document at the head of a suite, from which every other digest follows.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use kdc_bundles::index::Digest;

use super::index::{Stanzas, field};

/// Largest such document read.
pub(crate) const MAX_RELEASE: u64 = 16 * 1024 * 1024;

/// How far ahead of ours an archive's clock may be.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// A suite, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    files: BTreeMap<String, (Digest, u64)>,
    by_hash: bool,
    /// Packages for any machine have an index of their own.
    separate_all: bool,
}

/// An index file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// Below the suite's folder.
    pub(crate) path: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Release {
    /// Reads a document whose signature has been checked, and holds it to what was asked for.
    pub(crate) fn parse(text: &str, suite: &str, now: SystemTime) -> Result<Self, String> {
        let stanza = Stanzas::new(text.as_bytes()).next()?.ok_or("it is empty")?;
        let get = |name: &str| field(&stanza, name);
        // An old or another suite, well signed, is still not this one.
        let names = [get("suite"), get("codename")];
        if !names.contains(&Some(suite)) {
            let found: Vec<_> = names.into_iter().flatten().collect();
            return Err(format!("it is for `{}`, not for `{suite}`", found.join("`, `")));
        }
        let time = |name: &str| get(name).map(parse_time).transpose();
        if time("date")?.ok_or("it has no `Date`")? > now + SKEW {
            return Err("it was made in the future; check the clock".to_owned());
        }
        if let Some(until) = time("valid-until")?.filter(|until| *until < now) {
            let ago = now.duration_since(until).unwrap_or_default().as_secs() / 3600;
            return Err(format!(
                "it has been out of date for {ago} hours (Valid-Until: {}); the archive or mirror \
                 is not kept up",
                get("valid-until").unwrap_or_default()
            ));
        }
        let machines = get("architectures").unwrap_or_default();
        let has_all = machines.split_whitespace().any(|machine| machine == "all");
        let without = get("no-support-for-architecture-all").is_some_and(|text| text == "Packages");
        Ok(Self {
            files: parse_files(get("sha256").ok_or("it has no SHA256 digests")?)?,
            by_hash: get("acquire-by-hash").is_some_and(|text| text.eq_ignore_ascii_case("yes")),
            separate_all: has_all && !without,
        })
    }

    /// The package indexes of a component for a machine.
    pub(crate) fn indexes(&self, component: &str, machine: &str) -> Result<Vec<IndexFile>, String> {
        let own = self.index(component, machine).ok_or_else(|| {
            format!("it lists no packages of component `{component}` for {machine}")
        })?;
        let all = self.separate_all.then(|| self.index(component, "all")).flatten();
        Ok([Some(own), all].into_iter().flatten().collect())
    }

    fn index(&self, component: &str, machine: &str) -> Option<IndexFile> {
        ["xz", "gz", ""].iter().find_map(|form| {
            let folder = format!("{component}/binary-{machine}");
            let dot = if form.is_empty() { "" } else { "." };
            let path = format!("{folder}/Packages{dot}{form}");
            let (digest, size) = self.files.get(&path)?.clone();
            Some(IndexFile { path, digest, size })
        })
    }

    /// Where an index file is had: by its digest, where the archive offers that, since the plain
    /// name changes under us while an archive is updated.
    pub(crate) fn place(&self, index: &IndexFile) -> String {
        match index.path.rsplit_once('/') {
            Some((folder, _)) if self.by_hash => {
                format!("{folder}/by-hash/SHA256/{}", index.digest.hex())
            }
            _ => index.path.clone(),
        }
    }
}

fn parse_files(text: &str) -> Result<BTreeMap<String, (Digest, u64)>, String> {
    let mut files = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let wrong = || format!("`{}` is no digest, size and name", line.escape_debug());
        let [digest, size, path] = words.as_slice() else { return Err(wrong()) };
        let digest = format!("sha256:{digest}").parse().map_err(|_| wrong())?;
        let size = size.parse().map_err(|_| wrong())?;
        files.insert((*path).to_owned(), (digest, size));
    }
    Ok(files)
}

/// `Sat, 09 Nov 2024 10:00:00 UTC`.
fn parse_time(text: &str) -> Result<SystemTime, String> {
    let zone = ["UTC", "+0000", "Z"].iter().find_map(|zone| text.strip_suffix(zone));
    let text = zone.map_or_else(|| text.to_owned(), |rest| format!("{}GMT", rest));
    // `Sat, 9 Nov` is written by some.
    let padded = match text.as_bytes() {
        [_, _, _, b',', b' ', digit, b' ', ..] if digit.is_ascii_digit() => {
            format!("{}0{}", &text[..5], &text[5..])
        }
        _ => text.clone(),
    };
    httpdate::parse_http_date(&padded).map_err(|_| format!("`{}` is no time", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(more: &str) -> String {
        let digest = "a".repeat(64);
        format!(
            "Origin: x\nSuite: stable\nCodename: bookworm\nDate: Sat, 09 Nov 2024 10:00:00 UTC\n\
             Architectures: all amd64\n{more}SHA256:\n {digest} 12 main/binary-amd64/Packages.xz\n \
             {digest} 99 main/binary-amd64/Packages\n {digest} 5 main/binary-all/Packages.gz\n"
        )
    }

    fn at(hours: u64) -> SystemTime {
        parse_time("Sat, 09 Nov 2024 10:00:00 UTC").unwrap() + Duration::from_secs(hours * 3600)
    }

    #[test]
    fn the_best_packed_index_of_each_component_is_found() {
        let release = Release::parse(&text(""), "bookworm", at(1)).unwrap();
        let indexes = release.indexes("main", "amd64").unwrap();
        let paths: Vec<_> = indexes.iter().map(|index| index.path.as_str()).collect();
        assert_eq!(paths, ["main/binary-amd64/Packages.xz", "main/binary-all/Packages.gz"]);
        assert_eq!(release.place(&indexes[0]), "main/binary-amd64/Packages.xz");
        assert!(release.indexes("contrib", "amd64").unwrap_err().contains("contrib"));
        assert!(release.indexes("main", "arm64").unwrap_err().contains("arm64"));
        let more = "Acquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\n";
        let release = Release::parse(&text(more), "stable", at(1)).unwrap();
        let indexes = release.indexes("main", "amd64").unwrap();
        assert_eq!(indexes.len(), 1);
        let by_hash = format!("main/binary-amd64/by-hash/SHA256/{}", "a".repeat(64));
        assert_eq!(release.place(&indexes[0]), by_hash);
    }

    #[test]
    fn a_release_of_another_suite_or_time_is_refused() {
        let until = "Valid-Until: Sat, 9 Nov 2024 13:00:00 +0000\n";
        for (more, suite, hours, part) in [
            ("", "trixie", 1, "not for `trixie`"),
            (until, "bookworm", 5, "out of date for 2 hours"),
            ("Valid-Until: soon\n", "bookworm", 1, "no time"),
        ] {
            let error = Release::parse(&text(more), suite, at(hours)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        Release::parse(&text(until), "bookworm", at(2)).unwrap();
        let early = at(0) - Duration::from_secs(48 * 3600);
        assert!(Release::parse(&text(""), "bookworm", early).unwrap_err().contains("future"));
    }
}
