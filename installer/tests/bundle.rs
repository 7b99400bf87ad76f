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

/// A key, a definition of a two-megabyte tool, and a folder that stands for a stick.
fn with_key(at: &Path) {
    fs_err::write(
        at.join("tool"),
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    fs_err::write(at.join("b.yaml"), DEFINITION).unwrap();
    fs_err::create_dir(at.join("stick")).unwrap();
    expect(at, "bundle key new -o k --unencrypted", 0, "key");
}

#[test]
fn parts_are_made_found_proved_rebuilt_and_joined() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    with_key(at);
    let create = "bundle create -f b.yaml --key k";
    expect(at, &format!("{create} -o whole"), 0, "sample 1 in");
    expect(at, &format!("{create} -o stick/b --parity 10%"), 2, "--split");
    expect(at, &format!("{create} -o stick/b --split 900KiB"), 2, "index and one piece need");
    let made =
        expect(at, &format!("{create} -o stick/b --split 1200KiB --parity 25%"), 0, "4 parts");
    assert!(
        made.contains("stick/b.part-1-of-4") && made.contains("stick/b.parity-4-of-4"),
        "{made}"
    );
    fs_err::create_dir(at.join("again")).unwrap();
    let split = "bundle split whole --key k.pub --split 1200KiB --parity 25% -o again/b";
    expect(at, split, 0, "(1 of them parity)");
    for name in ["b.part-1-of-4", "b.part-3-of-4", "b.parity-4-of-4"] {
        let (left, right) = (at.join("stick").join(name), at.join("again").join(name));
        assert!(fs_err::read(left).unwrap() == fs_err::read(right).unwrap(), "{name}");
    }
    fs_err::remove_dir_all(at.join("again")).unwrap();

    for path in ["stick", "stick/b.part-2-of-4", "stick/b.parity-4-of-4"] {
        expect(at, &format!("bundle verify {path} --key k.pub"), 0, "sample 1 is proved");
        expect(at, &format!("bundle inspect {path} --key k.pub"), 0, "tool");
    }
    expect(at, "bundle inspect stick", 0, "nothing was proved");

    let second = at.join("stick/b.part-2-of-4");
    let good = fs_err::read(&second).unwrap();
    let mut bad = good.clone();
    bad[900_000] ^= 1;
    fs_err::write(&second, &bad).unwrap();
    let said = expect(at, "bundle verify stick --key k.pub", 3, "error[BDL-011]");
    assert!(
        said.contains("b.part-2-of-4: is damaged in 1 place") && said.contains("repair"),
        "{said}"
    );
    expect(at, "bundle join stick -o joined --key k.pub", 3, "part 2 in");
    fs_err::remove_file(&second).unwrap();
    expect(at, "bundle inspect stick", 3, "lacks part 2 of its 4 parts");
    let json = run(at, "bundle verify stick --key k.pub --output json").stdout;
    let json = String::from_utf8(json).unwrap();
    let json: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(json["parts"][1]["state"], "missing");
    assert_eq!(json["readable"], false);
    expect(at, "bundle repair stick --key k.pub", 0, "part 2 is rebuilt and proved");
    assert!(fs_err::read(&second).unwrap() == good);
    expect(at, "bundle repair stick --key k.pub", 0, "nothing to rebuild");
    fs_err::remove_file(&second).unwrap();
    fs_err::remove_file(at.join("stick/b.part-1-of-4")).unwrap();
    let said = expect(at, "bundle repair stick --key k.pub", 3, "error[BDL-012]");
    assert!(said.contains("parts 1, 2") && said.contains("at least 1 of"), "{said}");
    expect(at, "bundle repair whole --key k.pub", 2, "only parts can be rebuilt");

    fs_err::create_dir(at.join("other")).unwrap();
    fs_err::write(at.join("other/x"), &good).unwrap();
    expect(at, "bundle verify stick other --key k.pub", 3, "1 of sample 1 are missing");
    fs_err::write(at.join("other/b.part-1-of-4"), "x").unwrap();
    let said = expect(at, "bundle verify stick other --key k.pub", 3, "not of this set");
    assert!(said.contains("does not begin as one"), "{said}");
}

#[test]
fn a_folder_with_two_bundles_or_none_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    with_key(at);
    expect(at, "bundle inspect stick", 2, "error[BDL-010]");
    expect(at, "bundle create -f b.yaml -o stick/a --key k", 0, "sample 1");
    expect(at, "bundle verify stick --key k.pub", 0, "sample 1 is proved");
    fs_err::write(at.join("c.yaml"), DEFINITION.replace("\"1\"", "\"2\"")).unwrap();
    expect(at, "bundle create -f c.yaml -o stick/b --key k --split 2MiB", 0, "sample 2");
    let said = expect(at, "bundle verify stick --key k.pub", 2, "there are 2 bundles");
    assert!(
        said.contains("sample 1 (`stick/a`)") && said.contains("sample 2 (`stick/b.part"),
        "{said}"
    );
    expect(at, "bundle verify stick/a --key k.pub", 0, "sample 1 is proved");
}
