//! Which crate may know which, and how long a file may be. Arrows are kept as a table so that a new one is a
//! reviewed change.

use std::{path::Path, process::Command};

use kdc_tests::workspace::rust_files;

const MAY_USE: &[(&str, &[&str])] = &[
    ("kdc-profiles", &[]),
    ("kdc-bundles", &[]),
    ("kdc-agent", &["kdc-bundles", "kdc-profiles"]),
    ("kdc-airgap", &["kdc-bundles", "kdc-profiles"]),
    ("kdc-install", &["kdc-agent", "kdc-airgap", "kdc-bundles", "kdc-profiles"]),
    // It feeds readers wherever they are; the agent's read the kernel's log.
    ("kdc-fuzz", &["kdc-agent", "kdc-airgap", "kdc-bundles"]),
    // A library of somebody else's, as far as kdc can tell.
    ("kdc-fake-nvml", &[]),
    // Tests reach into all of them; only they may use the installer.
    ("kdc-tests", &["kdc-agent", "kdc-airgap", "kdc-bundles", "kdc-install", "kdc-profiles"]),
];

fn packages() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let packages = packages();
    let ours: Vec<_> =
        packages.iter().map(|package| package["name"].as_str().expect("name")).collect();
    for package in &packages {
        let name = package["name"].as_str().expect("name");
        let row = MAY_USE.iter().find(|(known, _)| *known == name);
        let (_, may_use) = row.unwrap_or_else(|| panic!("`{name}` has no row in MAY_USE"));
        // A crate may name itself: so its own tests turn on a feature of it.
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("name");
            assert!(
                !ours.contains(&used) || used == name || may_use.contains(&used),
                "`{name}` must not use `{used}`; if it should, say so in MAY_USE"
            );
        }
    }
    let gone: Vec<_> = MAY_USE.iter().filter(|(name, _)| !ours.contains(name)).collect();
    assert!(gone.is_empty(), "MAY_USE names crates that don't exist: {gone:?}");
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for package in packages() {
        let manifest = package["manifest_path"].as_str().expect("manifest_path");
        let text = fs_err::read_to_string(manifest).expect("the manifest is readable");
        assert!(
            text.contains("[lints]\nworkspace = true\n"),
            "{manifest} has no `[lints] workspace = true`"
        );
    }
}

/// Lines of a file before its tests.
const MOST_LINES: usize = 400;

/// Whole files of tests and of what stands in for the outside in them.
fn is_of_tests(path: &Path) -> bool {
    let name = path.file_stem().expect("a file").to_string_lossy();
    let inside = |folder: &str| path.components().any(|part| part.as_os_str() == folder);
    name.ends_with("tests")
        || ["fake", "simulation"].contains(&&*name)
        || inside("tests")
        || inside("fake")
}

#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let checkout = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let crates = ["installer", "agent", "airgap", "bundles", "profiles", "tests"];
    let mut found = Vec::new();
    for crate_name in crates {
        found
            .extend(rust_files(&checkout.join(crate_name).join("src")).expect("a crate's sources"));
    }
    assert!(found.len() > 200, "only {} sources were found", found.len());
    for path in found {
        let inside = path.strip_prefix(checkout).expect("below the checkout");
        // The test kit's own crate is `tests`.
        if is_of_tests(inside.strip_prefix("tests").unwrap_or(inside)) {
            continue;
        }
        let text = fs_err::read_to_string(&path).expect("a source");
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines before its tests", inside.display());
    }
}
