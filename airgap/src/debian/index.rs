//! `Packages`: the index of one component, stanza by stanza.

use std::io::{self, BufRead, Read};

use kdc_bundles::index::Digest;

/// Longest line read.
const MAX_LINE: u64 = 1024 * 1024;

/// Largest index read, unpacked, 512 MiB; Debian's largest has about 60.
pub(crate) const MAX_INDEX: u64 = 512 * 1024 * 1024;

/// Largest stanza read: the list of a suite's files is one.
const MAX_STANZA: usize = 16 * 1024 * 1024;

/// Most packages of one index; Debian has about 65 000.
const MAX_PACKAGES: usize = 500_000;

/// A binary package, as far as it matters here. Relations are kept as text until they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) machine: Box<str>,
    pub(crate) priority: Box<str>,
    pub(crate) file: Box<str>,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) pre_depends: Option<Box<str>>,
    pub(crate) depends: Option<Box<str>>,
    pub(crate) provides: Option<Box<str>>,
    pub(crate) conflicts: Option<Box<str>>,
    pub(crate) breaks: Option<Box<str>>,
    /// Place in the definition's list of archives.
    pub(crate) archive: usize,
}

/// Fields of a stanza, lower-case names.
pub(crate) type Stanza = Vec<(String, String)>;

/// The value of a field.
pub(crate) fn field<'s>(stanza: &'s Stanza, name: &str) -> Option<&'s str> {
    stanza.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

/// Reads stanzas one after the other.
pub(crate) struct Stanzas<R> {
    input: io::Take<R>,
    line: u64,
}

impl<R: BufRead> Stanzas<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input: input.take(MAX_INDEX + 1), line: 0 }
    }

    /// The next one; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Stanza>, String> {
        let (mut stanza, mut size) = (Stanza::new(), 0);
        loop {
            let mut line = Vec::new();
            let read = (&mut self.input).take(MAX_LINE).read_until(b'\n', &mut line);
            let length = read.map_err(|error| format!("line {}: {error}", self.line + 1))?;
            self.line += 1;
            let wrong = |what: &str| Err(format!("line {}: {what}", self.line));
            if self.input.limit() == 0 {
                return wrong("the index is larger than any that is read");
            }
            if length as u64 == MAX_LINE {
                return wrong("the line is too long");
            }
            size += length;
            if size > MAX_STANZA && !stanza.is_empty() {
                return wrong("the stanza is too long");
            }
            let Ok(text) = std::str::from_utf8(&line) else { return wrong("it is not UTF-8") };
            let text = text.trim_end();
            if text.is_empty() {
                size = 0;
                if !stanza.is_empty() {
                    return Ok(Some(stanza));
                }
                if length == 0 {
                    return Ok(None);
                }
                continue;
            }
            if text.starts_with([' ', '\t']) {
                let Some((_, value)) = stanza.last_mut() else {
                    return wrong("it goes on with a field that isn't there");
                };
                value.push('\n');
                value.push_str(text.trim_start());
                continue;
            }
            let Some((name, value)) = text.split_once(':') else { return wrong("it is no field") };
            let name = name.to_ascii_lowercase();
            if field(&stanza, &name).is_some() {
                return wrong("the field stands here a second time");
            }
            stanza.push((name, value.trim().to_owned()));
        }
    }
}

/// The packages of an index that fit the machine.
pub(crate) fn read(
    input: impl BufRead,
    machine: &str,
    archive: usize,
) -> Result<Vec<Package>, String> {
    let (mut stanzas, mut packages) = (Stanzas::new(input), Vec::new());
    while let Some(stanza) = stanzas.next()? {
        let package = package(&stanza, archive);
        let package =
            package.map_err(|what| format!("stanza before line {}: {what}", stanzas.line))?;
        if matches!(&*package.machine, found if found == machine || found == "all") {
            packages.push(package);
        }
        if packages.len() > MAX_PACKAGES {
            return Err(format!("more than {MAX_PACKAGES} packages"));
        }
    }
    Ok(packages)
}

fn package(stanza: &Stanza, archive: usize) -> Result<Package, String> {
    let needed =
        |name: &str| field(stanza, name).ok_or_else(|| format!("a package has no `{name}`"));
    let optional = |name: &str| field(stanza, name).map(Box::from);
    let file = needed("filename")?;
    let harmless = file.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !harmless || !file.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#".contains(&byte)) {
        return Err(format!("`{}` is no place in an archive", file.escape_debug()));
    }
    let name = needed("package")?;
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(letters) {
        return Err(format!("`{}` is no package's name", name.escape_debug()));
    }
    let version = needed("version")?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".+~:-".contains(&byte);
    if version.is_empty() || version.len() > 256 || !version.bytes().all(fits) {
        return Err(format!("`{}` is no version of `{name}`", version.escape_debug()));
    }
    let digest = format!("sha256:{}", needed("sha256")?);
    Ok(Package {
        name: name.into(),
        version: version.into(),
        machine: needed("architecture")?.into(),
        priority: field(stanza, "priority").unwrap_or("optional").into(),
        file: file.into(),
        size: needed("size")?.parse().map_err(|_| format!("`{name}` has no size"))?,
        digest: digest.parse().map_err(|error| format!("`{name}`: {error}"))?,
        pre_depends: optional("pre-depends"),
        depends: optional("depends"),
        provides: optional("provides"),
        conflicts: optional("conflicts"),
        breaks: optional("breaks"),
        archive,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stanza(more: &str) -> String {
        let digest = "a".repeat(64);
        format!(
            "Package: tool\nVersion: 1.0\nArchitecture: amd64\nFilename: pool/t/tool_1.0.deb\n\
             Size: 7\nSHA256: {digest}\n{more}\n"
        )
    }

    #[test]
    fn packages_of_the_machine_and_of_all_are_read() {
        let mut text = stanza("Depends: a,\n b\nTag: x\n");
        text += &stanza("").replace("amd64", "all").replace("tool", "data");
        text += &stanza("").replace("amd64", "arm64").replace("tool", "other");
        let packages = read(text.as_bytes(), "amd64", 0).unwrap();
        let names: Vec<_> = packages.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["tool", "data"]);
        assert_eq!(packages[0].depends.as_deref(), Some("a,\nb"));
        assert!(read(&b"\n\n"[..], "amd64", 0).unwrap().is_empty());
    }

    #[test]
    fn an_index_that_makes_no_sense_is_refused_with_its_line() {
        for (text, part) in [
            (" x\n".to_owned(), "line 1"),
            ("Package tool\n".to_owned(), "no field"),
            ("Package: a\nPackage: b\n".to_owned(), "line 2: the field"),
            (stanza("").replace("Size: 7", "Size: -7"), "no size"),
            (stanza("").replace(&"a".repeat(64), "12"), "not a digest"),
            (stanza("").replace("pool/t", "../../etc"), "no place"),
            (stanza("").replace("Version: ", "Version: 1 | other "), "is no version"),
            (stanza("").replace("Package: tool", "Package: ../tool"), "no package's name"),
            (stanza("").replace("Filename: pool/t/tool_1.0.deb\n", ""), "no `filename`"),
            (format!("X: {}\n", "y".repeat(2 << 20)), "too long"),
        ] {
            let error = read(text.as_bytes(), "amd64", 0).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(bytes.as_slice(), "amd64", 0);
        }
    }
}
