//! Debian packages with everything they depend on.
//!
//! ```text
//! keyring ── InRelease (signed, dated, for this suite) ── Packages.xz (digest) ── *.deb (digests)
//! ```
//!
//! Every arrow is a proof: of what an archive says, only what its signature covers is believed, so the
//! line to it may be an open one. Only indexes are fetched while locking; the packages themselves
//! come when a bundle is made.

mod closure;
pub(crate) mod index;
mod keyring;
mod relation;
mod release;
mod version;

use std::{
    io::{BufReader, Read as _},
    path::Path,
    time::SystemTime,
};

use kdc_bundles::index::Digest;
use kdc_profiles::definition::{Archive, PackageSet};
use reqwest::Url;

use self::{
    closure::Universe,
    index::Package,
    keyring::{Keyring, MAX_KEYRING},
    release::{IndexFile, MAX_RELEASE, Release},
};
use crate::{
    fetch::{Ask, FetchError, Fetcher, Wanted, parse_address},
    problem::chain,
};

/// Largest packed index read.
const MAX_PACKED: u64 = 128 * 1024 * 1024;

/// Most that unpacking an index may take.
const MAX_UNPACKER: u64 = 128 * 1024 * 1024;

/// A package of a set, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) url: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What `include` comes to in the documents of one archive, whose signatures are somebody else's affair: names with
/// versions, sorted. It fetches nothing: for whoever has the documents.
///
/// # Errors
/// In words: a document that makes no sense, or everything that can't be had.
pub fn close_over(
    release: &str,
    packages: &[u8],
    include: &[String],
) -> Result<Vec<(String, String)>, Vec<String>> {
    let one = |what: String| vec![what];
    let release = Release::parse(release, "stable", SystemTime::UNIX_EPOCH).map_err(one)?;
    for index in release.indexes("main", "amd64").map_err(one)? {
        let _ = release.place(&index);
    }
    let packages = index::read(packages, "amd64", 0).map_err(one)?;
    let universe = Universe::new(packages, "amd64").map_err(one)?;
    let chosen = universe.close(include, &Default::default())?;
    Ok(chosen.iter().map(|one| (one.name.to_string(), one.version.to_string())).collect())
}

/// What Debian calls the machine of a platform.
fn machine(platform: &str) -> Result<&'static str, String> {
    Ok(match platform {
        "linux/amd64" => "amd64",
        "linux/arm64" => "arm64",
        "linux/arm" => "armhf",
        "linux/386" => "i386",
        "linux/ppc64le" => "ppc64el",
        "linux/s390x" => "s390x",
        "linux/riscv64" => "riscv64",
        _ => return Err(format!("Debian has no packages for `{platform}`")),
    })
}

/// Every package of the set and what it needs; or every problem.
pub(crate) async fn resolve(
    fetcher: &Fetcher,
    folder: &Path,
    set: &PackageSet,
    now: SystemTime,
) -> Result<Vec<Resolved>, Vec<String>> {
    let machine = machine(&set.platform).map_err(|what| vec![what])?;
    let mut packages = Vec::new();
    let mut problems = Vec::new();
    for (place, archive) in set.archives.iter().enumerate() {
        match read_archive(fetcher, folder, archive, machine, place, now).await {
            Ok(found) => packages.extend(found),
            Err(what) => problems.push(format!("{} {}: {what}", archive.url, archive.suite)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let universe = Universe::new(packages, machine).map_err(|what| vec![what])?;
    let found = universe.close(&set.include, &set.assume_installed)?;
    found.into_iter().map(|package| resolved(set, package).map_err(|what| vec![what])).collect()
}

fn resolved(set: &PackageSet, package: &Package) -> Result<Resolved, String> {
    let base = base(&set.archives[package.archive])?;
    let url = base.join(&package.file).map_err(|error| error.to_string())?;
    Ok(Resolved {
        name: package.name.to_string(),
        version: package.version.to_string(),
        url: url.to_string(),
        digest: package.digest.clone(),
        size: package.size,
    })
}

/// The folder above `dists`, with a `/` at its end.
fn base(archive: &Archive) -> Result<Url, String> {
    let text = format!("{}/", archive.url.trim_end_matches('/'));
    parse_address(&text).map_err(|error| error.to_string())
}

async fn read_archive(
    fetcher: &Fetcher,
    folder: &Path,
    archive: &Archive,
    machine: &str,
    place: usize,
    now: SystemTime,
) -> Result<Vec<Package>, String> {
    let keyring = read_keyring(&folder.join(&archive.keyring))?;
    let words = archive.components.iter().chain([&archive.suite]);
    for word in words {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
        if !word.bytes().all(good) || word.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!("`{word}` is no name of a suite or component"));
        }
    }
    let suite = base(archive)?.join(&format!("dists/{}/", archive.suite));
    let suite = suite.map_err(|error| error.to_string())?;
    let url = suite.join("InRelease").map_err(|error| error.to_string())?;
    let fetched = fetcher.small(&Ask::new(&url), MAX_RELEASE).await;
    let (bytes, _) = fetched.map_err(|error| error.in_one_line())?;
    let text = String::from_utf8(bytes).map_err(|_| "InRelease is not UTF-8".to_owned())?;
    let release = keyring
        .read_signed(&text, now)
        .and_then(|signed| Release::parse(&signed, &archive.suite, now))
        .map_err(|what| format!("InRelease is refused: {what}"))?;
    let mut packages = Vec::new();
    for component in &archive.components {
        let indexes = release.indexes(component, machine);
        for index in indexes.map_err(|what| format!("InRelease: {what}"))? {
            let bytes = fetch_index(fetcher, &suite, &release, &index).await?;
            let found = unpack(&index.path, &bytes, machine, place);
            packages.extend(found.map_err(|what| format!("{}: {what}", index.path))?);
        }
    }
    Ok(packages)
}

fn read_keyring(path: &Path) -> Result<Keyring, String> {
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_KEYRING).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Keyring::parse(&bytes).map_err(|what| format!("the keyring `{}`: {what}", path.display()))
}

/// The packed index, proved.
async fn fetch_index(
    fetcher: &Fetcher,
    suite: &Url,
    release: &Release,
    index: &IndexFile,
) -> Result<Vec<u8>, String> {
    if index.size > MAX_PACKED {
        return Err(format!("{} has {} bytes, more than are read", index.path, index.size));
    }
    let join = |path: &str| suite.join(path).map_err(|error| error.to_string());
    for _ in 0..2 {
        let mut wanted = Wanted::new(join(&release.place(index))?);
        (wanted.digest, wanted.size) = (Some(index.digest.clone()), Some(index.size));
        let mut result = fetcher.download(&wanted, &|_| {}).await;
        if matches!(&result, Err(FetchError::Status { .. })) {
            wanted.url = join(&index.path)?;
            result = fetcher.download(&wanted, &|_| {}).await;
        }
        result.map_err(|error| chain(&error))?;
        let found = fetcher.cache().read_small(&index.digest, MAX_PACKED);
        // What has rotted in the cache is fetched again.
        if let Some(bytes) = found.map_err(|error| chain(&error))? {
            return Ok(bytes);
        }
    }
    Err(format!("{} does not stay in the cache", index.path))
}

fn unpack(path: &str, bytes: &[u8], machine: &str, place: usize) -> Result<Vec<Package>, String> {
    if path.ends_with(".xz") {
        let flags = liblzma::stream::CONCATENATED;
        let stream = liblzma::stream::Stream::new_stream_decoder(MAX_UNPACKER, flags);
        let stream = stream.map_err(|error| error.to_string())?;
        let decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
        return index::read(BufReader::new(decoder), machine, place);
    }
    if path.ends_with(".gz") {
        let decoder = flate2::bufread::MultiGzDecoder::new(bytes);
        return index::read(BufReader::new(decoder), machine, place);
    }
    index::read(bytes, machine, place)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_index_that_unpacks_without_end_is_refused() {
        // Half a gigabyte of empty lines in half a megabyte.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let mut block = vec![b' '; 1 << 19];
        block.push(b'\n');
        for _ in 0..(index::MAX_INDEX >> 19) + 1 {
            encoder.write_all(&block).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        let error = unpack("Packages.gz", &bomb, "amd64", 0).unwrap_err();
        assert!(error.contains("larger than any"), "{error}");
    }

    #[test]
    fn what_is_no_archive_of_its_name_is_refused() {
        for path in ["Packages.xz", "Packages.gz", "Packages"] {
            assert!(unpack(path, b"nonsense", "amd64", 0).is_err(), "{path}");
        }
    }
}
