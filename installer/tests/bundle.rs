//! The `bundle` commands as an operator runs them: exit codes, and what is said where.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

fn run(folder: &Path, arguments: &str) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("kdc-install"))
        .current_dir(folder)
        .env("HOME", folder)
        .args(arguments.split_whitespace())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn expect(folder: &Path, arguments: &str, code: i32, said: &str) -> String {
    let output = run(folder, arguments);
    let text = [output.stdout, output.stderr].map(|part| String::from_utf8(part).unwrap()).concat();
    assert_eq!(output.status.code(), Some(code), "`{arguments}`: {text}");
    assert!(text.contains(said), "`{arguments}` has to say `{said}`: {text}");
    text
}

const DEFINITION: &str = "apiVersion: kdc.dev/v1\nkind: BundleDefinition\n\
    metadata: {name: sample, version: \"1\"}\nartifacts:\n\
    - {name: tool, kind: binary, platform: linux/amd64, source: {path: tool}}\n";

#[test]
fn a_bundle_is_made_proved_shown_and_refused_when_changed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs_err::write(at.join("tool"), vec![5; 2_000_000]).unwrap();
    fs_err::write(at.join("b.yaml"), DEFINITION).unwrap();
    fs_err::write(at.join("password"), "open sesame\n").unwrap();

    let new = "bundle key new -o site.key";
    expect(at, new, 2, "--password-file");
    expect(at, &format!("{new} --password-file password"), 2, "chmod 600");
    let mode = std::fs::Permissions::from_mode(0o600);
    fs_err::set_permissions(at.join("password"), mode).unwrap();
    expect(at, &format!("{new} --password-file password"), 0, "(encrypted)");
    expect(at, &format!("{new} --unencrypted"), 2, "never overwritten");
    expect(at, "bundle key new -o other.key --unencrypted", 0, "NOT encrypted");

    let create = "bundle create -f b.yaml -o kdc.bundle --key site.key";
    expect(at, create, 2, "no terminal");
    expect(at, &format!("{create} --password-file password"), 0, "3 artifacts, 3 blobs");
    let again = "bundle create -f b.yaml -o again.bundle --key site.key --password-file password";
    expect(at, again, 0, "signed with key");
    let bytes = fs_err::read(at.join("kdc.bundle")).unwrap();
    assert!(bytes == fs_err::read(at.join("again.bundle")).unwrap(), "two builds differ");

    expect(at, "bundle verify kdc.bundle --key site.key.pub", 0, "sample 1 is proved");
    expect(at, "bundle verify kdc.bundle --key other.key.pub", 3, "not trusted");
    let both = "bundle verify kdc.bundle --key other.key.pub --key site.key.pub";
    expect(at, both, 0, "is proved");
    expect(at, "bundle verify kdc.bundle", 2, "no public key was given");
    expect(at, "bundle verify none --key site.key.pub", 2, "none");
    fs_err::create_dir_all(at.join(".config/kdc/trusted")).unwrap();
    fs_err::copy(at.join("site.key.pub"), at.join(".config/kdc/trusted/a.pub")).unwrap();
    expect(at, "bundle verify kdc.bundle", 0, "is proved");

    expect(at, "bundle inspect kdc.bundle", 0, "nothing was proved");
    let json = run(at, "bundle inspect kdc.bundle --key site.key.pub --output json").stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (&json["proved"], &json["artifacts"][0]["bytes"]),
        (&true.into(), &2_000_000.into())
    );

    let mut changed = bytes;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs_err::write(at.join("kdc.bundle"), changed).unwrap();
    expect(at, "bundle verify kdc.bundle --key site.key.pub", 3, "blobs/sha256/");
}

#[test]
fn a_definition_that_needs_the_network_lists_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = DEFINITION.replace("{path: tool}", "{url: {url: \"https://example.com/tool\"}}");
    fs_err::write(at.join("b.yaml"), text).unwrap();
    expect(at, "bundle key new -o k --unencrypted", 0, "key");
    let text = expect(at, "bundle create -f b.yaml -o o --key k", 2, "https://example.com/tool");
    assert!(text.contains("bundle lock") && !at.join("o").exists(), "{text}");
}
