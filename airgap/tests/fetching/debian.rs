//! Debian packages from an archive made by Debian's own tools: what is signed is believed, and nothing
//! else.

use kdc_airgap::{Silent, create_locked};
use kdc_bundles::{index::ArtifactKind, keys::TrustedKeys, open::BundleFile, signing::SigningKey};
use kdc_profiles::lock::BundleLock;

use crate::{
    archive::Archive,
    peers::{Builder, must, run},
};

const PACKAGES: &[(&str, &str, &str)] = &[
    ("base", "1", "Priority: required"),
    ("app", "1.9-1", "Depends: lib (>= 2)"),
    ("app", "1.10-1", "Pre-Depends: base\nDepends: lib (>= 2), tool | other-tool, mail"),
    ("lib", "1:2.0", ""),
    ("tool", "1", "Depends: broken-tool"),
    ("other-tool", "1", ""),
    ("mailer", "3", "Provides: mail\nConflicts: mail"),
    ("clash", "1", "Depends: app\nBreaks: lib (<< 2:0)"),
];

fn shown(lock: &BundleLock) -> Vec<String> {
    let each = lock.artifacts.iter();
    each.map(|one| format!("{} {}", one.name, one.version.clone().unwrap_or_default())).collect()
}

#[test]
fn a_set_is_locked_with_everything_it_needs_and_goes_into_a_bundle() {
    let archive = Archive::new(PACKAGES);
    let builder = Builder::new();
    let error = builder.refusal(&archive.set("app", ""));
    assert!(error.contains("broken-tool (for tool) (for app): no archive"), "{error}");
    archive.add(("broken-tool", "0~rc1", ""));
    archive.publish("");
    archive.sign("archive", &[]);
    let body =
        archive.set("app", "  assumeInstalled: {priorities: [required]}\n  roles: [worker]\n");
    let lock = builder.lock(&body).unwrap();
    let expected = ["app 1.10-1", "broken-tool 0~rc1", "lib 1:2.0", "mailer 3", "tool 1"];
    assert_eq!(shown(&lock), expected);
    assert_eq!(lock.artifacts[0].roles, ["worker"]);
    assert!(
        lock.artifacts[0].uri.ends_with("/pool/app_1.10-1_amd64.deb"),
        "{}",
        lock.artifacts[0].uri
    );

    run(kdc_airgap::lock::fetch(&builder.fetcher(), &lock, &mut Silent)).unwrap();
    let (key, output) = (SigningKey::generate().unwrap(), builder.at("out.bundle"));
    create_locked(&lock, builder.home.path(), &builder.cache(), &output, &key, &mut Silent)
        .unwrap();
    let keys = TrustedKeys::new(vec![key.public()]).unwrap();
    let bundle = BundleFile::open(&output, &keys).unwrap();
    let package = bundle.index().find(ArtifactKind::Package, "lib", "linux/amd64").unwrap();
    assert_eq!(package.version.as_deref(), Some("1:2.0"));
    let bytes = bundle.read_blob(&package.digest, 1 << 20).unwrap();
    builder.put("lib.deb", bytes);
    let found =
        must("dpkg-deb", &["--field", "lib.deb", "Package", "Version"], builder.home.path());
    assert_eq!(found, "Package: lib\nVersion: 1:2.0\n");
}

#[test]
fn what_cannot_stand_together_is_told() {
    let archive = Archive::new(PACKAGES);
    archive.add(("broken-tool", "1", ""));
    archive.publish("");
    archive.sign("archive", &[]);
    let builder = Builder::new();
    let error = builder.refusal(&archive.set("clash", ""));
    assert!(error.contains("clash 1 breaks lib (for app) (for clash)"), "{error}");
    let error = builder.refusal(&archive.set("none, app (>= 2)", ""));
    assert!(error.contains("none: no archive") && error.contains("there is app 1.10-1"), "{error}");
}

#[test]
fn two_sets_may_share_a_package_and_who_needs_either_gets_it() {
    let archive = Archive::new(&[
        ("a", "1", "Depends: shared"),
        ("b", "1", "Depends: shared"),
        ("shared", "1", ""),
    ]);
    let builder = Builder::new();
    let first = archive.set("a", "  roles: [worker]\n");
    let second =
        archive.set("b", "  roles: [control-plane]\n").replace("name: node", "name: other");
    let second = second.split_once("packages:\n").unwrap().1.to_owned();
    let lock = builder.lock(&format!("{first}{second}")).unwrap();
    assert_eq!(shown(&lock), ["a 1", "b 1", "shared 1", "shared 1"]);
    let lock = kdc_profiles::lock::parse(&lock.to_text(), "x").unwrap();
    run(kdc_airgap::lock::fetch(&builder.fetcher(), &lock, &mut Silent)).unwrap();
    let (key, output) = (SigningKey::generate().unwrap(), builder.at("out.bundle"));
    create_locked(&lock, builder.home.path(), &builder.cache(), &output, &key, &mut Silent)
        .unwrap();
    let keys = TrustedKeys::new(vec![key.public()]).unwrap();
    let bundle = BundleFile::open(&output, &keys).unwrap();
    let shared = bundle.index().find(ArtifactKind::Package, "shared", "linux/amd64").unwrap();
    assert_eq!(shared.roles, ["control-plane", "worker"]);
}

#[test]
fn keys_of_every_usual_kind_vouch_armored_or_not() {
    let archive = Archive::new(&[("a", "1", "")]);
    let builder = Builder::new();
    for (name, kind) in
        [("rsa", ["rsa2048", "sign", "never"]), ("curve", ["nistp256", "sign", "never"])]
    {
        archive.new_key(name, &kind, &[]);
        archive.sign(name, &[]);
        builder.lock(&archive.set_with(&archive.at(&format!("{name}.asc")), "a", "")).unwrap();
    }
    // By a subkey, as Debian does.
    archive.new_key("parent", &["ed25519", "cert", "never"], &[]);
    archive.new_subkey("parent");
    archive.sign("parent", &[]);
    builder.lock(&archive.set_with(&archive.at("parent.gpg"), "a", "")).unwrap();
    // Of two signatures one that is known is enough.
    archive.sign("parent", &["--local-user", "rsa"]);
    builder.lock(&archive.set_with(&archive.at("rsa.gpg"), "a", "")).unwrap();
}

#[test]
fn nothing_is_believed_that_the_keyring_does_not_vouch_for() {
    let archive = Archive::new(&[("a", "1", "")]);
    let builder = Builder::new();
    archive.new_key("stranger", &["ed25519", "sign", "never"], &[]);
    let past = ["--faked-system-time", "20200101T000000"];
    archive.new_key("expired", &["ed25519", "sign", "1y"], &past);
    let refused = |keyring: &str, part: &str| {
        let error = builder.refusal(&archive.set_with(&archive.at(keyring), "a", ""));
        assert!(error.contains("InRelease is refused") && error.contains(part), "{error}");
    };
    archive.sign("stranger", &[]);
    refused("archive.gpg", "no key of it, or the text was changed");
    archive.sign("archive", &["--digest-algo", "SHA1"]);
    refused("archive.gpg", "can be forged");
    archive.sign("archive", &["--faked-system-time", "20901231T000000"]);
    refused("archive.gpg", "in the future");
    archive.sign("expired", &["--faked-system-time", "20200601T000000"]);
    refused("expired.gpg", "has expired");
    archive.sign("archive", &[]);
    archive.edit(|text| text.replace("Suite: stable", "Suite: stabel"));
    refused("archive.gpg", "the text was changed");
    archive.sign("archive", &[]);
    archive.edit(|text| format!("Suite: evil\n\n{text}"));
    refused("archive.gpg", "not a signed text");
    archive.sign("archive", &[]);
    archive.edit(|text| text[..text.len() / 2].to_owned());
    refused("archive.gpg", "not a signed text");
    fs_err::copy(archive.at("Release"), archive.at("dists/lab/InRelease")).unwrap();
    refused("archive.gpg", "not a signed text");
    archive.sign("archive", &[]);
    builder.lock(&archive.set("a", "")).unwrap();
}

#[test]
fn an_archive_that_is_old_or_another_or_was_tampered_with_below_its_signature_is_refused() {
    let archive = Archive::new(&[("a", "1", "")]);
    let builder = Builder::new();
    archive.publish("Valid-Until: Wed, 01 Jan 2020 00:00:00 UTC\n");
    archive.sign("archive", &[]);
    let error = builder.refusal(&archive.set("a", ""));
    assert!(error.contains("out of date"), "{error}");
    archive.publish("");
    archive.sign("archive", &[]);
    fs_err::create_dir_all(archive.at("dists/other")).unwrap();
    fs_err::copy(archive.at("dists/lab/InRelease"), archive.at("dists/other/InRelease")).unwrap();
    let error = builder.refusal(&archive.set("a", "").replace("suite: lab", "suite: other"));
    assert!(error.contains("not for `other`"), "{error}");
    let error = builder.refusal(&archive.set("a", "").replace("[main]", "[main, contrib]"));
    assert!(error.contains("contrib"), "{error}");
    let index = archive.at("dists/lab/main/binary-amd64/Packages.xz");
    let mut bytes = fs_err::read(&index).unwrap();
    bytes[30] ^= 1;
    fs_err::write(&index, bytes).unwrap();
    // What is in the cache already was proved before the tampering.
    let builder = Builder::new();
    let error = builder.refusal(&archive.set("a", ""));
    assert!(error.contains("as stated"), "{error}");
    // And a package that is not what its index says.
    archive.publish("");
    archive.sign("archive", &[]);
    let lock = builder.lock(&archive.set("a", "")).unwrap();
    let package = archive.at("pool/a_1_amd64.deb");
    let mut bytes = fs_err::read(&package).unwrap();
    bytes[100] ^= 1;
    fs_err::write(&package, bytes).unwrap();
    let result = run(kdc_airgap::lock::fetch(&builder.fetcher(), &lock, &mut Silent));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("package `a`") && error.contains("as stated"), "{error}");
    assert_eq!(builder.left(), 0);
}

#[test]
fn a_keyring_that_is_none_is_refused() {
    let archive = Archive::new(&[("a", "1", "")]);
    let builder = Builder::new();
    builder.put("nonsense.gpg", "nonsense");
    builder.put("empty.gpg", "");
    for (keyring, part) in
        [("nonsense.gpg", "OpenPGP"), ("empty.gpg", "OpenPGP"), ("none.gpg", "No such file")]
    {
        let error = builder.refusal(&archive.set_with(&builder.at(keyring), "a", ""));
        assert!(error.contains(keyring) && error.contains(part), "{error}");
    }
}
