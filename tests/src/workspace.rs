//! The workspace's own programs, as its sources are now.
//!
//! `cargo test -p kdc-tests` builds neither `kdc-install` nor `kdc-agent`: they are programs of other packages. Since a
//! test of yesterday's program tells nothing, the first one that asks has cargo build them all. A test that was started by
//! hand has no cargo to ask: there a program that is older than one of its sources is refused.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};

use crate::program::must;

/// The root of the workspace's checkout.
#[must_use]
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Every Rust source in a folder and below it.
///
/// # Errors
/// When a folder can't be read.
pub fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// A program of this workspace, beside the running test, built from the sources as they are.
///
/// # Errors
/// When it can't be built, isn't there, or is older than one of its sources.
pub fn built(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    BUILT
        .get_or_init(|| freshen().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    find(name)
}

fn find(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("`{name}` isn't built; `cargo build --workspace` makes it"))
}

/// Once in a test program: sources that change while it runs are for the next one.
fn freshen() -> Result<()> {
    match std::env::var_os("CARGO") {
        Some(cargo) => build(&cargo),
        None => ["kdc-install", "kdc-agent"].iter().try_for_each(|name| refuse_stale(&find(name)?)),
    }
}

/// Has cargo build every program into the folder that the running test was built into. Its lock keeps other builds away.
fn build(cargo: &OsStr) -> Result<()> {
    let own = std::env::current_exe()?;
    // TARGET/PROFILE/deps/TEST
    let (Some(profile), Some(target)) = (own.ancestors().nth(2), own.ancestors().nth(3)) else {
        bail!("`{}` doesn't lie where cargo puts tests", own.display());
    };
    let manifest = checkout().join("Cargo.toml");
    // What cargo told this test of its own package is not for the others: build scripts (ring's) watch these, and all that
    // stands on them would be compiled again, here and then once more by the next `cargo test`.
    let ours: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        })
        .collect();
    let mut words: Vec<&OsStr> = vec!["env".as_ref()];
    words.extend(ours.iter().flat_map(|name| [OsStr::new("-u"), name.as_os_str()]));
    words.extend([cargo, "build".as_ref(), "--quiet".as_ref(), "--workspace".as_ref()]);
    words.extend([OsStr::new("--manifest-path"), manifest.as_os_str()]);
    words.extend([OsStr::new("--target-dir"), target.as_os_str()]);
    if profile.ends_with("release") {
        words.push("--release".as_ref());
    }
    must(&words).map(drop)
}

/// Refuses a program that is older than a source that cargo made it from.
///
/// # Errors
/// With the source that is newer, and what builds the program again.
pub fn refuse_stale(program: &Path) -> Result<()> {
    let text = fs_err::read_to_string(program.with_extension("d"))?;
    let built = fs_err::metadata(program)?.modified()?;
    for source in sources(&text) {
        // A source that is gone was replaced by others, which are newer.
        let Ok(metadata) = fs_err::metadata(&source) else { continue };
        if metadata.modified()? > built {
            bail!(
                "`{}` is older than its source `{}`; `cargo build --workspace` (with --release for a release) \
                 makes it anew",
                program.display(),
                source.display()
            );
        }
    }
    Ok(())
}

/// The sources that cargo's list names: `PROGRAM: SOURCE SOURCE`, spaces in names escaped.
fn sources(text: &str) -> Vec<PathBuf> {
    let (_, listed) = text.split_once(": ").unwrap_or_default();
    let escaped = listed.trim().replace("\\ ", "\0");
    escaped.split(' ').map(|name| PathBuf::from(name.replace('\0', " "))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_program_older_than_one_of_its_sources_is_refused_with_the_sources_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (program, old, new) = (at("program"), at("old.rs"), at("with space.rs"));
        for file in [&program, &old, &new] {
            fs_err::write(file, "").unwrap();
        }
        let listed = format!("{}: {} {}\n", program.display(), old.display(), new.display());
        fs_err::write(at("program.d"), listed.replace("with space", "with\\ space")).unwrap();
        let now = SystemTime::now();
        let set = |file: &Path, at: SystemTime| {
            fs_err::File::open(file).unwrap().into_parts().0.set_modified(at).unwrap();
        };
        set(&old, now - Duration::from_secs(60));
        set(&program, now - Duration::from_secs(30));

        set(&new, now - Duration::from_secs(60));
        refuse_stale(&program).unwrap();

        set(&new, now);
        let refused = refuse_stale(&program).unwrap_err().to_string();
        assert!(refused.contains("with space.rs"), "{refused}");
    }
}
