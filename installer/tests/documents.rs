//! What a bundle says about itself, judged by others' tools, and how a site changes a builder's key:
//! whole commands. `tests/setup.sh` installs the tools: `minisign`, `dpkg-deb`, SPDX's own validator.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kdc_bundles::index::Digest;
use serde_json::{Value, json};

const NO_SITE: &str = "/etc/kdc-install/trust.yaml";

/// A builder's folder, which is its home too.
struct Builder(tempfile::TempDir);

impl Builder {
    fn new() -> Self {
        let builder = Self(tempfile::tempdir().unwrap());
        builder.put("tool", b"#!/bin/sh\n");
        builder.put("notes", b"");
        let chart = b"apiVersion: v2\nname: app\nversion: 3.1.0\n";
        builder.put("chart/app/Chart.yaml", chart);
        ok(Command::new("tar").current_dir(builder.at("chart")).args([
            "-czf",
            "../chart.tgz",
            "app",
        ]));
        builder.package();
        builder.image();
        builder.put("b.yaml", DEFINITION.as_bytes());
        builder.good("key new -o old.key --unencrypted");
        builder.good("key new -o new.key --unencrypted");
        builder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs_err::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs_err::write(self.at(name), content).unwrap();
    }

    /// A real `.deb`.
    fn package(&self) {
        let control = "Package: hello\nVersion: 2.10-3+deb12u1\nArchitecture: amd64\n\
            Maintainer: Debian Hello Team <hello@example.org>\nSource: hello-src (2.10-3)\n\
            Homepage: https://example.org/hello\nDescription: greets\n";
        self.put("deb/DEBIAN/control", control.as_bytes());
        ok(Command::new("dpkg-deb")
            .args(["--build", "--root-owner-group"])
            .args([self.at("deb"), self.at("hello.deb")]));
    }

    /// An image of one layer.
    fn image(&self) {
        let blob = |content: &str, media_type: &str| {
            let digest = Digest::of(content.as_bytes());
            self.put(&format!("images/blobs/sha256/{}", digest.hex()), content.as_bytes());
            json!({"mediaType": media_type, "digest": digest, "size": content.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "config": blob(r#"{"os":"linux","architecture":"amd64"}"#, "application/vnd.oci.image.config.v1+json"),
            "layers": [blob("layer", "application/vnd.oci.image.layer.v1.tar")],
        });
        let manifest = blob(&manifest.to_string(), "application/vnd.oci.image.manifest.v1+json");
        self.put("images/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        self.put("images/index.json", index.to_string().as_bytes());
    }

    fn run(&self, arguments: &str, epoch: Option<&str>) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("kdc-install"));
        command.current_dir(self.0.path()).env("HOME", self.0.path());
        command.env("XDG_CACHE_HOME", self.at("cache")).env_remove("SOURCE_DATE_EPOCH");
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        command.arg("bundle").args(arguments.split_whitespace()).output().unwrap()
    }

    /// What it printed on stdout.
    fn good(&self, arguments: &str) -> String {
        let output = self.run(arguments, None);
        assert!(output.status.success(), "`{arguments}`: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn bad(&self, arguments: &str, code: i32, said: &str) {
        let output = self.run(arguments, None);
        assert_eq!(output.status.code(), Some(code), "`{arguments}`: {}", text(&output));
        assert!(
            text(&output).contains(said),
            "`{arguments}` has to say `{said}`: {}",
            text(&output)
        );
    }

    fn create(&self) {
        self.good("create -f b.yaml -o kdc.bundle --key old.key --key new.key");
    }

    fn id(&self, key: &str) -> String {
        let public = fs_err::read_to_string(self.at(&format!("{key}.pub"))).unwrap();
        kdc_bundles::keys::TrustedKey::parse(&public, key).unwrap().id().to_string()
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned()).concat()
}

fn ok(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    output.stdout
}

const DEFINITION: &str = r#"apiVersion: kdc.dev/v1
kind: BundleDefinition
metadata: {name: sample, version: "1.2+b"}
artifacts:
- {name: tool, kind: binary, platform: linux/amd64, version: "1", licence: Apache-2.0 OR MIT, source: {path: tool}}
- {name: notes, kind: file, licence: LicenseRef-house AND MIT, source: {path: notes}}
- {name: old, kind: file, licence: GPL 2 or so, source: {path: notes}}
- {name: charts/app, kind: chart, version: "3.1.0", source: {path: chart.tgz}}
- {name: hello, kind: package, platform: linux/amd64, licence: GPL-3.0-or-later, source: {path: hello.deb}}
- {name: broken, kind: package, platform: linux/amd64, source: {path: tool}}
- {name: "registry.example.org:5000/team/App:v1", kind: image, platform: linux/amd64, source: {oci: {layout: images}}}
"#;

/// SPDX's own validator, where `tests/setup.sh` puts it.
fn validator() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/spdx/bin/pyspdxtools")
}

#[test]
fn the_sbom_is_one_that_spdx_s_own_validator_accepts() {
    let builder = Builder::new();
    builder.create();
    let sbom = builder.good("inspect kdc.bundle --key new.key.pub --sbom");
    builder.put("sbom.spdx.json", sbom.as_bytes());
    let check = |name: &str| {
        let mut command = Command::new(validator());
        command.arg("-i").arg(builder.at(name)).arg("--version").arg("SPDX-2.3");
        command.output().unwrap_or_else(|error| panic!("run tests/setup.sh: {error}"))
    };
    let said = check("sbom.spdx.json");
    assert!(said.status.success(), "{}", text(&said));
    // And it would have said so.
    builder.put("bad.spdx.json", sbom.replace("\"CONTAINS\"", "\"HOLDS\"").as_bytes());
    assert!(!check("bad.spdx.json").status.success());
    let undefined =
        sbom.replace("\"licenseId\": \"LicenseRef-house\"", "\"licenseId\": \"LicenseRef-x\"");
    builder.put("undefined.spdx.json", undefined.as_bytes());
    assert!(!check("undefined.spdx.json").status.success());
}

#[test]
fn the_sbom_names_everything_inside_with_what_is_known_of_it() {
    let builder = Builder::new();
    builder.create();
    let sbom: Value =
        serde_json::from_str(&builder.good("inspect kdc.bundle --key new.key.pub --sbom")).unwrap();
    let packages = sbom["packages"].as_array().unwrap();
    assert_eq!(packages.len(), 1 + 7);
    let named = |name: &str| {
        packages.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    let hello = named("hello");
    assert_eq!(hello["versionInfo"], "2.10-3+deb12u1");
    assert_eq!(hello["supplier"], "Organization: Debian Hello Team (hello@example.org)");
    assert_eq!(hello["licenseDeclared"], "GPL-3.0-or-later");
    assert!(hello["sourceInfo"].as_str().unwrap().contains("hello-src"));
    let purl =
        |one: &Value| one["externalRefs"][0]["referenceLocator"].as_str().unwrap().to_owned();
    assert_eq!(purl(hello), "pkg:deb/debian/hello@2.10-3%2Bdeb12u1?arch=amd64");
    let content = fs_err::read(builder.at("hello.deb")).unwrap();
    assert_eq!(hello["checksums"][0]["checksumValue"], Digest::of(&content).hex());
    assert!(named("broken")["comment"].as_str().unwrap().contains("not a Debian package"));
    assert_eq!(named("charts/app")["licenseDeclared"], "NOASSERTION");
    assert!(purl(named("charts/app")).starts_with("pkg:helm/app@3.1.0"));
    assert!(purl(named("registry.example.org:5000/team/App:v1")).starts_with("pkg:oci/app@sha256"));
    let old = named("old");
    assert_eq!(old["licenseDeclared"], "NOASSERTION");
    assert!(old["licenseComments"].as_str().unwrap().contains("GPL 2 or so"));
    assert_eq!(sbom["hasExtractedLicensingInfos"][0]["licenseId"], "LicenseRef-house");
    assert_eq!(sbom["creationInfo"]["created"], "1970-01-01T00:00:00Z");
    assert_eq!(sbom["relationships"].as_array().unwrap().len(), 1 + 7);
}

#[test]
fn the_provenance_names_lock_sources_time_and_builder() {
    let builder = Builder::new();
    builder.good("lock -f b.yaml");
    builder.create();
    let lock = fs_err::read_to_string(builder.at("b.lock.yaml")).unwrap();
    let said = builder.good("inspect kdc.bundle --key old.key.pub --provenance");
    let statement: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let build = &statement["predicate"]["buildDefinition"];
    let digest = &build["externalParameters"]["lock"]["digest"]["sha256"];
    assert_eq!(digest, Digest::of(lock.as_bytes()).hex(), "the digest of the file itself");
    let sources = build["resolvedDependencies"].as_array().unwrap();
    assert_eq!((sources.len(), statement["subject"].as_array().unwrap().len()), (7, 7));
    let tool = sources.iter().find(|one| one["name"] == "binary tool linux/amd64").unwrap();
    assert_eq!(tool["uri"], "file:tool");
    assert_eq!(tool["digest"]["sha256"], Digest::of(b"#!/bin/sh\n").hex());
    let run = &statement["predicate"]["runDetails"];
    let created = run["metadata"]["startedOn"].as_str().unwrap();
    assert!(lock.contains(&format!("created: {created}")) || lock.contains(created), "{created}");
    assert_eq!(run["builder"]["version"]["kdc-install"], env!("CARGO_PKG_VERSION"));
    let home = builder.0.path().display().to_string();
    assert!(!said.contains(&home), "the builder's folder shows");
}

#[test]
fn documents_follow_from_the_inputs_and_the_stated_time_alone() {
    let builder = Builder::new();
    let create = "create -f b.yaml -o kdc.bundle --key old.key";
    let bytes = |epoch: Option<&str>| {
        let output = builder.run(create, epoch);
        assert!(output.status.success(), "{}", text(&output));
        fs_err::read(builder.at("kdc.bundle")).unwrap()
    };
    let first = bytes(None);
    assert!(first == bytes(None), "two builds differ");
    let dated = bytes(Some("1709251200"));
    assert!(dated != first && dated == bytes(Some("1709251200")));
    let sbom = builder.good("inspect kdc.bundle --key old.key.pub --sbom");
    assert!(sbom.contains("2024-03-01T00:00:00Z"));
    let output = builder.run(create, Some("yesterday"));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("SOURCE_DATE_EPOCH"));
}

#[test]
fn licences_are_listed_and_what_is_unknown_is_called_out() {
    let builder = Builder::new();
    builder.create();
    let table = builder.good("inspect kdc.bundle --licenses");
    for part in ["Apache-2.0 OR MIT", "NOT SPDX: GPL 2 or so", "UNKNOWN", "3 artifacts state no"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let json = builder.good("inspect kdc.bundle --licenses --output json");
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&found["proved"], found["unknown"].as_array().unwrap().len()), (&json!(false), 3));
    assert_eq!(found["notExpressions"][0]["artifacts"][0]["name"], "old");
    let json = builder.good("inspect kdc.bundle --licenses --key new.key.pub --output json");
    assert!(json.contains("\"proved\":true"), "{json}");
}

#[test]
fn documents_are_only_shown_proved() {
    let builder = Builder::new();
    builder.create();
    assert!(!Path::new(NO_SITE).exists(), "this machine trusts keys already: {NO_SITE}");
    for view in ["--sbom", "--provenance"] {
        builder.bad(&format!("inspect kdc.bundle {view}"), 2, "no public key was given");
        builder.good(&format!("inspect kdc.bundle --key old.key.pub {view}"));
    }
    builder.bad("inspect kdc.bundle --key old.key.pub --sbom --licenses", 2, "cannot be used with");
    // One byte of the document changed: the name of its format.
    let mut bytes = fs_err::read(builder.at("kdc.bundle")).unwrap();
    let at = bytes.windows(8).position(|found| found == b"SPDX-2.3").unwrap();
    bytes[at + 7] = b'2';
    builder.put("kdc.bundle", &bytes);
    builder.bad("inspect kdc.bundle --key old.key.pub --sbom", 3, "BDL-001");
}

#[test]
fn a_site_changes_the_builder_s_key_without_a_day_on_which_it_can_install_nothing() {
    let builder = Builder::new();
    let (old, new) = (builder.id("old.key"), builder.id("new.key"));
    builder.good("create -f b.yaml -o old.bundle --key old.key");
    builder.good("create -f b.yaml -o both.bundle --key new.key --key old.key");
    builder.good("create -f b.yaml -o new.bundle --key new.key");
    let verify = |bundle: &str| format!("verify {bundle}.bundle --key site.yaml");

    builder.good("trust add old.key.pub -f site.yaml --comment first");
    builder.good(&verify("old"));
    builder.good(&verify("both"));
    builder.bad(&verify("new"), 3, &format!("key {new}, which is not trusted"));

    builder.good("trust add new.key.pub -f site.yaml --not-before 2020-01-01");
    builder.bad("trust add new.key.pub -f site.yaml", 2, "is there already");
    for bundle in ["old", "both", "new"] {
        builder.good(&verify(bundle));
    }

    builder.good(&format!("trust retire {old} -f site.yaml"));
    builder.bad(&verify("old"), 3, &format!("key {old}, which was retired"));
    builder.good(&verify("both"));
    builder.good(&verify("new"));
    builder.bad("trust add old.key.pub -f site.yaml", 2, "was retired");
    builder.bad("trust retire 0000000000000000 -f site.yaml", 2, "is not in it");
    let listed = builder.good("trust list -f site.yaml");
    assert!(listed.contains("was retired") && listed.contains("in force"), "{listed}");

    builder.good(&format!("trust retire {new} -f site.yaml"));
    builder.bad(&verify("both"), 2, "none of the keys that were given is in force");
    let listed: Value =
        serde_json::from_str(&builder.good("trust list -f site.yaml --output json")).unwrap();
    assert_eq!(listed["keys"][0]["inForce"], false);
    assert_eq!(listed["keys"][0]["comment"], "first");
    builder.bad("create -f b.yaml -o x.bundle --key old.key --key old.key", 2, "given twice");
}

#[test]
fn a_key_out_of_its_time_and_a_file_that_others_could_write_prove_nothing() {
    let builder = Builder::new();
    builder.good("create -f b.yaml -o kdc.bundle --key old.key");
    builder.good("trust add old.key.pub -f site.yaml --not-after 2020-01-01");
    builder.bad("verify kdc.bundle --key site.yaml", 2, "expired at 2020-01-01T00:00:00Z");
    builder.good("trust add new.key.pub -f site.yaml");
    builder.bad("verify kdc.bundle --key site.yaml", 3, "expired at 2020-01-01T00:00:00Z");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs_err::set_permissions(builder.at("site.yaml"), mode).unwrap();
    for command in ["verify kdc.bundle --key site.yaml", "trust list -f site.yaml"] {
        builder.bad(command, 2, "can be written by others");
    }
    builder.bad("trust add old.key.pub -f site.yaml", 2, "can be written by others");
}

#[test]
fn minisign_itself_proves_the_index_taken_out_with_tar() {
    let builder = Builder::new();
    builder.create();
    ok(Command::new("tar").current_dir(builder.0.path()).args([
        "-xf",
        "kdc.bundle",
        "kdc-index.json",
        "kdc-index.json.minisig",
    ]));
    let all = fs_err::read_to_string(builder.at("kdc-index.json.minisig")).unwrap();
    let lines: Vec<_> = all.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 2 * 4);
    let mut ids = [builder.id("old.key"), builder.id("new.key")];
    let mut keys = ["old.key", "new.key"];
    if ids[0] > ids[1] {
        ids.swap(0, 1);
        keys.swap(0, 1);
    }
    for (number, key) in keys.iter().enumerate() {
        let one = lines[number * 4..][..4].concat();
        fs_err::write(builder.at("kdc-index.json.minisig"), one).unwrap();
        let verify = || {
            let mut command = Command::new("minisign");
            command.current_dir(builder.0.path());
            command.args(["-V", "-m", "kdc-index.json", "-p", &format!("{key}.pub")]);
            command.output().unwrap()
        };
        let said = verify();
        assert!(said.status.success() && text(&said).contains("kdc bundle sample 1.2+b"));
        let index = fs_err::read(builder.at("kdc-index.json")).unwrap();
        builder.put("kdc-index.json", &[&index[..], b" "].concat());
        assert!(!verify().status.success());
        builder.put("kdc-index.json", &index);
    }
}
