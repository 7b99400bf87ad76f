//! A bundle for other tools: `bundle serve` and `bundle export`, read with the real skopeo.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use kdc_bundles::index::Digest;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const IMAGE: &str = "registry.k8s.io/pause:3.10";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn install(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("kdc-install"));
    command.current_dir(folder).env("HOME", folder).args(arguments.split_whitespace());
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part));
    both.concat()
}

fn expect(folder: &Path, arguments: &str, code: i32, said: &str) -> String {
    let output = install(folder, arguments).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "`{arguments}`: {text}");
    assert!(text.contains(said), "`{arguments}` has to say `{said}`: {text}");
    text
}

/// Debian's skopeo; `tests/setup.sh` installs it.
fn skopeo(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new("skopeo");
    command.current_dir(folder).env("HOME", folder).arg("--insecure-policy");
    command.args(arguments.split_whitespace()).output().expect("Debian's skopeo is needed")
}

/// What it says on success.
fn skopeo_well(folder: &Path, arguments: &str) -> String {
    let output = skopeo(folder, arguments);
    assert!(output.status.success(), "skopeo {arguments}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A bundle of one image of several pieces, one file and the two documents; gives the image's blobs, manifest first.
fn bundle(folder: &Path) -> Vec<(Digest, Vec<u8>)> {
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"unpacked")]},
    });
    let layer: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let blobs = folder.join("images/blobs/sha256");
    fs_err::create_dir_all(&blobs).unwrap();
    let mut contents = Vec::new();
    let mut add = |content: Vec<u8>, media_type: &str| {
        let digest = Digest::of(&content);
        fs_err::write(blobs.join(digest.hex()), &content).unwrap();
        let size = content.len();
        contents.insert(0, (digest.clone(), content));
        json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add(config.to_string().into(), "application/vnd.oci.image.config.v1+json"),
        "layers": [add(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    });
    let descriptor = add(manifest.to_string().into(), MANIFEST);
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    fs_err::write(folder.join("images/index.json"), index.to_string()).unwrap();
    let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
    fs_err::write(folder.join("images/oci-layout"), marker).unwrap();
    fs_err::write(folder.join("notes"), "some notes").unwrap();
    let definition = format!(
        "apiVersion: kdc.dev/v1\nkind: BundleDefinition\nmetadata: {{name: sample, version: \"1\"}}\n\
         artifacts:\n- {{name: \"{IMAGE}\", kind: image, platform: linux/amd64, \
         source: {{oci: {{layout: images}}}}}}\n- {{name: notes, kind: file, source: {{path: notes}}}}\n"
    );
    fs_err::write(folder.join("b.yaml"), definition).unwrap();
    expect(folder, "bundle key new -o site.key --unencrypted", 0, "");
    expect(folder, "bundle key new -o other.key --unencrypted", 0, "");
    expect(folder, "bundle create -f b.yaml -o kdc.bundle --key site.key", 0, "4 artifacts");
    contents
}

/// `bundle serve`, ended when dropped.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(folder: &Path, more: &str) -> Self {
        let serve = "bundle serve kdc.bundle --key site.key.pub --listen 127.0.0.1:0 --output json";
        let mut command = install(folder, &format!("{serve} {more}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(said["repositories"], json!(["registry.k8s.io/pause"]));
        let url = said["url"].as_str().unwrap();
        let address = url.split_once("://").unwrap().1.to_owned();
        Self { child, address }
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "SIGTERM is how it ends well");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // A test that failed leaves nothing running; one that stopped it finds it gone.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A folder that `skopeo copy … dir:` made has exactly the image's blobs.
fn assert_copied(copy: &Path, blobs: &[(Digest, Vec<u8>)]) {
    assert!(fs_err::read(copy.join("manifest.json")).unwrap() == blobs[0].1);
    for (digest, content) in &blobs[1..] {
        assert!(fs_err::read(copy.join(digest.hex())).unwrap() == *content, "{digest}");
    }
}

#[test]
fn skopeo_pulls_from_bundle_serve_and_a_changed_bundle_gives_no_wrong_byte() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let blobs = bundle(at);
    expect(at, "bundle serve kdc.bundle --key other.key.pub", 3, "not trusted");
    let serving = Serving::start(at, "");
    let image = format!("docker://{}/{IMAGE}", serving.address);
    let found = skopeo_well(at, &format!("inspect --tls-verify=false {image}"));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["Digest"], json!(blobs[0].0));
    assert_eq!(found["RepoTags"], json!(["3.10"]));
    skopeo_well(at, &format!("copy --src-tls-verify=false {image} dir:copy"));
    assert_copied(&at.join("copy"), &blobs);
    let by_digest = image.replace(":3.10", &format!("@{}", blobs[0].0));
    skopeo_well(at, &format!("copy --src-tls-verify=false {by_digest} dir:by-digest"));
    let taken = format!("bundle serve kdc.bundle --key site.key.pub --listen {}", serving.address);
    expect(at, &taken, 2, "can't be listened on");

    // The disk changes a byte of the layer while it is served: the copy fails, whatever was sent.
    let mut bytes = fs_err::read(at.join("kdc.bundle")).unwrap();
    let layer = &blobs.iter().max_by_key(|(_, content)| content.len()).unwrap().1;
    let place = bytes.windows(1000).position(|window| *window == layer[..1000]).unwrap();
    bytes[place + 2_500_000] ^= 1;
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(at.join("kdc.bundle")).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let failed = skopeo(at, &format!("copy --src-tls-verify=false {image} dir:bad"));
    assert!(!failed.status.success(), "{}", text(&failed));
    serving.stop();
}

#[test]
fn skopeo_pulls_over_tls_with_the_sites_authority() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let blobs = bundle(at);
    fs_err::create_dir(at.join("ca")).unwrap();
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=site \
                -addext subjectAltName=IP:127.0.0.1 -keyout tls.key -out ca/ca.crt";
    let made = Command::new("openssl").current_dir(at).args(make.split_whitespace()).output();
    assert!(made.unwrap().status.success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs_err::set_permissions(at.join("tls.key"), open).unwrap();
    let tls = "--tls-cert ca/ca.crt --tls-key tls.key";
    let serve = "bundle serve kdc.bundle --key site.key.pub --listen 127.0.0.1:0";
    expect(at, &format!("{serve} {tls}"), 2, "everybody on this machine");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs_err::set_permissions(at.join("tls.key"), private).unwrap();
    expect(at, &format!("{serve} --tls-cert ca/ca.crt --tls-key notes"), 2, "notes");
    let serving = Serving::start(at, tls);
    let image = format!("docker://{}/{IMAGE}", serving.address);
    let unknown = skopeo(at, &format!("inspect {image}"));
    assert!(text(&unknown).contains("x509"), "{}", text(&unknown));
    skopeo_well(at, &format!("copy --src-cert-dir ca {image} dir:copy"));
    assert_copied(&at.join("copy"), &blobs);
    serving.stop();
}

#[test]
fn an_export_is_a_layout_for_skopeo_and_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let blobs = bundle(at);
    let export = "bundle export kdc.bundle --key site.key.pub --oci";
    expect(at, &format!("{export} all"), 0, "4 artifacts, 6 blobs");
    skopeo_well(at, &format!("copy oci:all:{IMAGE} dir:copy"));
    assert_copied(&at.join("copy"), &blobs);
    expect(at, &format!("{export} all"), 2, "nothing is ever overwritten");
    expect(at, &format!("{export} one --only image/{IMAGE}"), 0, "1 artifacts, 3 blobs");
    assert!(!at.join("one/blobs/sha256").join(Digest::of(b"some notes").hex()).exists());
    skopeo_well(at, &format!("copy oci:one:{IMAGE} dir:second"));
    expect(at, &format!("{export} none --only image/x"), 2, "`image/x`");
    expect(at, &format!("{export} notes-only --only file"), 0, "1 artifacts, 1 blobs");
    too_large_for_its_disk(at);

    let mut bytes = fs_err::read(at.join("kdc.bundle")).unwrap();
    let layer = &blobs.iter().max_by_key(|(_, content)| content.len()).unwrap().1;
    let place = bytes.windows(1000).position(|window| *window == layer[..1000]).unwrap();
    bytes[place + 2_500_000] ^= 1;
    fs_err::write(at.join("kdc.bundle"), bytes).unwrap();
    expect(at, &format!("{export} damaged"), 3, "piece 2");
    let left = |entry: std::io::Result<fs_err::DirEntry>| entry.unwrap().file_name();
    let names: Vec<_> = fs_err::read_dir(at).unwrap().map(left).collect();
    let of_export = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with(".kdc-export");
    assert!(!names.contains(&"damaged".into()), "{names:?}");
    assert_eq!(names.iter().find(of_export), None);
}

/// An export to a file system of a MiB is refused with both sizes before anything is written.
fn too_large_for_its_disk(at: &Path) {
    fs_err::create_dir(at.join("small")).unwrap();
    let script =
        "mount -t tmpfs -o size=1m small small && \"$@\" || { echo \"exit $?\"; ls -A small; }";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--user", "--map-root-user", "sh", "-c", script, "sh"]);
    let export = install(at, "bundle export kdc.bundle --key site.key.pub --oci small/all");
    let output = unshare.arg(export.get_program()).args(export.get_args()).current_dir(at).output();
    let output = output.expect("util-linux' unshare is needed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "exit 2\n", "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("has 1048576 free; nothing was written"), "{said}");
}

#[test]
fn the_cache_keeps_what_a_bundle_names_and_says_what_goes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let image = bundle(at);
    let cache = at.join(".cache/kdc/blobs/sha256");
    fs_err::create_dir_all(&cache).unwrap();
    for (digest, content) in &image {
        fs_err::write(cache.join(digest.hex()), content).unwrap();
    }
    let other = cache.join(Digest::of(b"other").hex());
    fs_err::write(&other, "other").unwrap();
    expect(at, "bundle prune cache", 2, "--bundle");
    expect(at, "bundle prune cache --all --bundle kdc.bundle", 2, "cannot be used");
    expect(at, "bundle prune cache --bundle notes", 3, "refused");
    let prune = "bundle prune cache --bundle kdc.bundle";
    expect(at, &format!("{prune} --dry-run"), 0, "would free");
    assert!(other.exists());
    expect(at, prune, 0, "1 blobs, 0 cut downloads; kept 3 blobs");
    assert!(!other.exists() && cache.join(image[0].0.hex()).exists());
    expect(at, "bundle prune cache --all", 0, "3 blobs");
    assert_eq!(fs_err::read_dir(&cache).unwrap().count(), 0);
}
