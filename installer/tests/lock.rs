//! `bundle lock` and `bundle create` as whole commands: the same lock gives the same bytes on two
//! machines' worth of surroundings, and a lock of another definition is refused.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

const DEFINITION: &str = "apiVersion: kdc.dev/v1\nkind: BundleDefinition\n\
                          metadata: {name: site, version: \"1\"}\nartifacts:\n\
                          - {name: tool, kind: binary, source: {url: {url: \"file://@/tool\"}}}\n\
                          - {name: settings, kind: file, source: {folder: settings}}\n";

/// A builder's machine: a home of its own, and files that were never touched by another.
struct Machine {
    home: tempfile::TempDir,
    locale: &'static str,
}

impl Machine {
    fn new(locale: &'static str) -> Self {
        let machine = Self { home: tempfile::tempdir().unwrap(), locale };
        fs_err::create_dir_all(machine.home.path().join("work/settings/b")).unwrap();
        for (name, content) in [("settings/a", "one"), ("settings/b/\u{e4}", "two")] {
            fs_err::write(machine.home.path().join("work").join(name), content).unwrap();
        }
        machine
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join("work").join(name)
    }

    fn run(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        Command::new(assert_cmd::cargo::cargo_bin!("kdc-install"))
            .args(["bundle"])
            .args(arguments)
            .args(["--output", "json"])
            .current_dir(self.home.path().join("work"))
            .env("HOME", self.home.path())
            .env("XDG_CACHE_HOME", self.home.path().join("cache"))
            .env("LC_ALL", self.locale)
            .env_remove("DOCKER_CONFIG")
            .assert()
    }

    fn answer(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).success().get_output().stdout.clone();
        serde_json::from_slice(&output).unwrap()
    }
}

fn share(elsewhere: &Path, machine: &Machine, definition: &str) {
    let definition = definition.replace('@', &elsewhere.display().to_string());
    fs_err::write(machine.at("site.yaml"), definition).unwrap();
}

#[test]
fn the_same_lock_makes_the_same_bundle_on_two_machines() {
    let elsewhere = tempfile::tempdir().unwrap();
    fs_err::write(elsewhere.path().join("tool"), vec![7; 3_000_000]).unwrap();
    let (one, two) = (Machine::new("C"), Machine::new("tr_TR.UTF-8"));
    for machine in [&one, &two] {
        share(elsewhere.path(), machine, DEFINITION);
    }
    one.run(&["key", "new", "-o", "site.key", "--unencrypted"]).success();
    let create = ["create", "-f", "site.yaml", "-o", "site.bundle", "--key", "site.key"];
    let refused = one.run(&create).code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("BDL-005") && said.contains("bundle lock"), "{said}");
    assert!(!one.at("site.bundle").exists());

    let locked = one.answer(&["lock", "-f", "site.yaml"]);
    assert_eq!((locked["changed"].as_bool(), locked["artifacts"].as_u64()), (Some(true), Some(2)));
    let text = fs_err::read_to_string(one.at("site.lock.yaml")).unwrap();
    assert_eq!(one.answer(&["lock", "-f", "site.yaml"])["changed"], false);
    assert_eq!(fs_err::read_to_string(one.at("site.lock.yaml")).unwrap(), text);

    for name in ["site.lock.yaml", "site.key"] {
        fs_err::copy(one.at(name), two.at(name)).unwrap();
    }
    let first = one.answer(&create);
    let second = two.answer(&create);
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(
        fs_err::read(one.at("site.bundle")).unwrap(),
        fs_err::read(two.at("site.bundle")).unwrap()
    );

    // Once more from the cache alone, when what it came from is gone.
    fs_err::remove_file(elsewhere.path().join("tool")).unwrap();
    fs_err::remove_file(one.at("site.bundle")).unwrap();
    let again = one.answer(&[&create[..], &["--offline"]].concat());
    assert_eq!(again["digest"], first["digest"]);
}

#[test]
fn a_lock_of_another_definition_is_refused() {
    let elsewhere = tempfile::tempdir().unwrap();
    fs_err::write(elsewhere.path().join("tool"), "tool").unwrap();
    let machine = Machine::new("C");
    share(elsewhere.path(), &machine, DEFINITION);
    machine.run(&["key", "new", "-o", "site.key", "--unencrypted"]).success();
    machine.run(&["lock", "-f", "site.yaml"]).success();
    share(
        elsewhere.path(),
        &machine,
        &DEFINITION.replace("kind: file", "roles: [worker], kind: file"),
    );
    let create = ["create", "-f", "site.yaml", "-o", "site.bundle", "--key", "site.key"];
    let refused = machine.run(&create).code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("BDL-008") && said.contains("another definition"), "{said}");
    assert!(!machine.at("site.bundle").exists());
    // Comments and the order of fields are not another definition.
    share(elsewhere.path(), &machine, &format!("# a comment\n{DEFINITION}"));
    machine.run(&create).success();
    // What can't be had is told, and no lock is written.
    fs_err::remove_file(machine.at("site.lock.yaml")).unwrap();
    fs_err::remove_file(elsewhere.path().join("tool")).unwrap();
    let refused = machine.run(&["lock", "-f", "site.yaml"]).code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("BDL-008") && said.contains("binary `tool`"), "{said}");
    assert!(!machine.at("site.lock.yaml").exists());
    for (flag, value, part) in [("--ca", "none.pem", "BDL-009"), ("--mirror", "x", "HOST=")] {
        let refused = machine.run(&["lock", "-f", "site.yaml", flag, value]).code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains(part), "{said}");
    }
}
