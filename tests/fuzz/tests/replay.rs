//! Every input that was ever kept is judged again: what was mended once stays mended.

use std::collections::BTreeSet;

use kdc_fuzz::{TARGETS, corpus};

#[test]
fn the_corpus_is_replayed() {
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in fs_err::read_dir(corpus().join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&fs_err::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "`{name}` has no inputs");
    }
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let folders = fs_err::read_dir(corpus()).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders.collect::<BTreeSet<_>>(), names);
    let manifest =
        fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
    }
}

#[test]
fn the_archive_that_fuzzing_starts_from_resolves() {
    let seed = fs_err::read_to_string(corpus().join("debian/seed")).unwrap();
    let mut parts = seed.splitn(3, '\0');
    let mut next = || parts.next().unwrap();
    let (release, packages, include) = (next(), next(), next());
    let include: Vec<String> = include.lines().map(str::to_owned).collect();
    let chosen = kdc_airgap::debian_closure(release, packages.as_bytes(), &include).unwrap();
    let names: Vec<&str> = chosen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["app", "base", "exim", "lib"]);
}
