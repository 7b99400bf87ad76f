//! What a `.deb` says of itself: the control file in the tar in the `ar` archive.

use std::io::{self, BufReader, Read};

use crate::debian::index::{Stanzas, field};

/// Members looked at before the control archive; there is one.
const MAX_MEMBERS: usize = 4;

/// Largest control archive, unpacked; the largest ones hold lists of many thousand files.
const MAX_CONTROL_ARCHIVE: u64 = 32 * 1024 * 1024;

/// Largest control file.
const MAX_CONTROL: u64 = 1024 * 1024;

/// Files of the control archive looked at.
const MAX_FILES: usize = 1000;

/// The fields that documents take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) architecture: String,
    pub(super) maintainer: Option<String>,
    /// Source package, with its version where that differs.
    pub(super) source: Option<String>,
    pub(super) homepage: Option<String>,
}

/// Reads the control file of a package; bounded, whatever the package is.
pub(crate) fn read(mut package: impl Read) -> Result<Control, String> {
    let mut magic = [0; 8];
    let failed = |error: io::Error| format!("the package can't be read: {error}");
    package.read_exact(&mut magic).map_err(failed)?;
    if magic != *b"!<arch>\n" {
        return Err("it is not a Debian package".to_owned());
    }
    for _ in 0..MAX_MEMBERS {
        let mut header = [0; 60];
        package.read_exact(&mut header).map_err(failed)?;
        let text = |from: usize, to: usize| {
            std::str::from_utf8(&header[from..to]).unwrap_or_default().trim_end().to_owned()
        };
        let name = text(0, 16).trim_end_matches('/').to_owned();
        let size: u64 =
            text(48, 58).parse().map_err(|_| "a member of the package has no size".to_owned())?;
        let member = (&mut package).take(size);
        match name.strip_prefix("control.tar") {
            Some("") => return control(member),
            Some(".gz") => return control(flate2::read::GzDecoder::new(member)),
            Some(".xz") => return control(liblzma::read::XzDecoder::new(member)),
            Some(".zst") => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(member));
                return control(decoder.map_err(|error| error.to_string())?);
            }
            Some(other) => {
                return Err(format!("`control.tar{}` is not known", other.escape_debug()));
            }
            None => {
                let padded = size + size % 2;
                let skipped = io::copy(&mut (&mut package).take(padded), &mut io::sink());
                skipped.map_err(failed)?;
            }
        }
    }
    Err("the package has no control archive".to_owned())
}

fn control(archive: impl Read) -> Result<Control, String> {
    let failed = |error: io::Error| format!("the control archive can't be read: {error}");
    let mut archive = tar::Archive::new(archive.take(MAX_CONTROL_ARCHIVE));
    for entry in archive.entries().map_err(failed)?.take(MAX_FILES) {
        let entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.into_owned();
        if path.strip_prefix(".").unwrap_or(&path) == std::path::Path::new("control") {
            return parse(entry.take(MAX_CONTROL));
        }
    }
    Err("the control archive has no `control`".to_owned())
}

fn parse(text: impl Read) -> Result<Control, String> {
    let stanza = Stanzas::new(BufReader::new(text)).next()?.unwrap_or_default();
    let optional = |name: &str| field(&stanza, name).map(str::to_owned);
    let needed = |name: &str| optional(name).ok_or_else(|| format!("`control` has no `{name}`"));
    Ok(Control {
        package: needed("package")?,
        version: needed("version")?,
        architecture: needed("architecture")?,
        maintainer: optional("maintainer"),
        source: optional("source"),
        homepage: optional("homepage"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const CONTROL: &str = "Package: curl\nVersion: 8.5.0-2+deb12u1\nArchitecture: amd64\n\
        Source: curl (8.5.0-2)\nMaintainer: A. Person <a@example.org>\nDescription: x\n more\n";

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn package(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in members {
            let size = content.len();
            writeln!(bytes, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, 100644).unwrap();
            bytes.extend_from_slice(content);
            if size % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_control_file_is_found_in_whatever_it_is_packed() {
        let tar = archive(&[("./md5sums", b"x"), ("./control", CONTROL.as_bytes())]);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&tar).unwrap();
        let forms = [
            ("control.tar", tar.clone()),
            ("control.tar.gz", gzip(&tar)),
            ("control.tar.xz/", xz.finish().unwrap()),
        ];
        for (name, content) in forms {
            let package = package(&[("debian-binary", b"2.0\n "), (name, &content)]);
            let found = read(package.as_slice()).unwrap();
            assert_eq!(
                (found.package.as_str(), found.version.as_str()),
                ("curl", "8.5.0-2+deb12u1")
            );
            assert_eq!(found.maintainer.unwrap(), "A. Person <a@example.org>");
            assert_eq!(found.source.unwrap(), "curl (8.5.0-2)");
        }
    }

    #[test]
    fn what_is_no_package_is_said_so_and_nothing_is_read_without_end() {
        let no_control = archive(&[("other", b"")]);
        let endless = gzip(&archive(&[("zeros", &vec![0; (MAX_CONTROL_ARCHIVE + 1024) as usize])]));
        let many: Vec<(&str, &[u8])> = vec![("x", b""); 10];
        for (bytes, expected) in [
            (b"#!/bin/sh\n".to_vec(), "not a Debian package"),
            (b"!<arch>\n".to_vec(), "can't be read"),
            (package(&[("control.tar.lz", b"")]), "not known"),
            (package(&many), "no control archive"),
            (package(&[("control.tar", &no_control)]), "no `control`"),
            (package(&[("control.tar.gz", &endless)]), "control archive"),
            (package(&[("control.tar", &archive(&[("control", b"Package: a\n")]))]), "`version`"),
        ] {
            let error = read(bytes.as_slice()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
