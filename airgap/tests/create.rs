//! From files and OCI layouts to a bundle, and every way an input can be wrong.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::path::{Path, PathBuf};

use kdc_airgap::{CreateError, Silent, create, document::EPOCH};
use kdc_bundles::{
    index::{ArtifactKind, Digest},
    keys::TrustedKeys,
    open::BundleFile,
    signing::{self, SigningError, SigningKey},
    verify::verify,
};
use kdc_profiles::definition::{BundleDefinition, parse};
use serde_json::{Value, json};
use tempfile::TempDir;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A folder of inputs.
struct Inputs(TempDir);

impl Inputs {
    fn new() -> Self {
        let inputs = Self(tempfile::tempdir().unwrap());
        fs_err::create_dir_all(inputs.at("images/blobs/sha256")).unwrap();
        inputs.put("images/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        inputs.put("tool", &[7; 3_000_000]);
        inputs.put("notes", b"");
        inputs
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs_err::write(self.at(name), content).unwrap();
    }

    fn blob(&self, content: &[u8], media_type: &str) -> Value {
        let digest = Digest::of(content);
        self.put(&format!("images/blobs/sha256/{}", digest.hex()), content);
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    /// An image of one layer for an architecture.
    fn image(&self, architecture: &str) -> Value {
        let config = json!({"os": "linux", "architecture": architecture}).to_string();
        let layer = format!("layer of {architecture}").repeat(1000);
        let manifest = json!({
            "schemaVersion": 2,
            "config": self.blob(config.as_bytes(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(layer.as_bytes(), "application/vnd.oci.image.layer.v1.tar")],
        });
        let mut descriptor = self.blob(manifest.to_string().as_bytes(), MANIFEST);
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        self.put("images/index.json", index.as_bytes());
    }

    fn named(mut descriptor: Value, name: &str) -> Value {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    }

    /// `app:1` for two architectures behind an index, `one:1` directly.
    fn two_images(self) -> Self {
        let both = json!({"manifests": [self.image("amd64"), self.image("arm64")]}).to_string();
        let both = Self::named(self.blob(both.as_bytes(), INDEX), "app:1");
        let one = Self::named(self.image("amd64"), "one:1");
        self.index(&[both, one]);
        self
    }

    fn create(&self, artifacts: &str, key: &SigningKey) -> Result<PathBuf, CreateError> {
        let output = self.at("out.bundle");
        create(&definition(artifacts), self.0.path(), None, &output, key, EPOCH, &mut Silent)?;
        Ok(output)
    }

    fn complaint(&self, artifacts: &str) -> String {
        let error = self.create(artifacts, &SigningKey::generate().unwrap()).unwrap_err();
        assert!(!self.at("out.bundle").exists(), "something was written");
        error.to_string()
    }
}

fn definition(artifacts: &str) -> BundleDefinition {
    let head = "apiVersion: kdc.dev/v1\nkind: BundleDefinition\n\
                metadata: {name: sample, version: \"1\"}\nartifacts:\n";
    parse(&format!("{head}{artifacts}"), "d.yaml").unwrap()
}

fn image(reference: &str, platform: &str) -> String {
    format!(
        "- {{name: \"{reference}\", kind: image, platform: {platform}, \
         source: {{oci: {{layout: images, reference: \"{reference}\"}}}}}}\n"
    )
}

const TOOL: &str = "- {name: tool, kind: binary, platform: linux/amd64, source: {path: tool}}\n";

fn open(path: &Path, key: &SigningKey) -> BundleFile {
    let keys = TrustedKeys::new(vec![key.public()]).unwrap();
    verify(fs_err::File::open(path).unwrap(), &keys).unwrap();
    BundleFile::open(path, &keys).unwrap()
}

#[test]
fn files_and_images_of_each_platform_go_in_and_come_out() {
    let (inputs, key) = (Inputs::new().two_images(), SigningKey::generate().unwrap());
    let artifacts = [
        TOOL,
        "- {name: notes, kind: file, source: {path: notes}}\n",
        &image("app:1", "linux/arm64"),
        &image("app:1", "linux/amd64"),
        &image("one:1", "linux/amd64"),
    ];
    let bundle = open(&inputs.create(&artifacts.concat(), &key).unwrap(), &key);
    let index = bundle.index();
    assert_eq!(index.artifacts.len(), 5 + 2, "and two documents");
    let tool = index.find(ArtifactKind::Binary, "tool", "linux/amd64").unwrap();
    assert_eq!(bundle.read_blob(&tool.digest, 1 << 24).unwrap(), [7; 3_000_000]);
    let arm = index.find(ArtifactKind::Image, "app:1", "linux/arm64").unwrap();
    assert_eq!((arm.blobs.len(), arm.media_type.as_str()), (3, MANIFEST));
    let config = bundle.read_blob(&arm.blobs[1], 1000).unwrap();
    assert!(String::from_utf8(config).unwrap().contains("arm64"));
    let one = index.find(ArtifactKind::Image, "one:1", "linux/amd64").unwrap();
    let amd = index.find(ArtifactKind::Image, "app:1", "linux/amd64").unwrap();
    assert_eq!(one.blobs, amd.blobs, "the same image is kept once");
    assert_eq!(index.blobs.len(), 2 + 3 + 3 + 2);
}

#[test]
fn a_layout_in_a_tar_gives_the_same_bundle() {
    let (inputs, key) = (Inputs::new().two_images(), SigningKey::generate().unwrap());
    let folder =
        fs_err::read(inputs.create(&image("app:1", "linux/arm64"), &key).unwrap()).unwrap();
    let mut tar = tar::Builder::new(fs_err::File::create(inputs.at("images.tar")).unwrap());
    tar.append_dir_all(".", inputs.at("images")).unwrap();
    tar.finish().unwrap();
    fs_err::remove_dir_all(inputs.at("images")).unwrap();
    fs_err::rename(inputs.at("images.tar"), inputs.at("images")).unwrap();
    let tar = fs_err::read(inputs.create(&image("app:1", "linux/arm64"), &key).unwrap()).unwrap();
    assert!(folder == tar, "folder and tar differ");
}

#[test]
fn the_same_inputs_give_the_same_bytes_in_any_order() {
    let (inputs, key) = (Inputs::new().two_images(), SigningKey::generate().unwrap());
    let one = image("one:1", "linux/amd64");
    let first = fs_err::read(inputs.create(&format!("{TOOL}{one}"), &key).unwrap()).unwrap();
    let second = fs_err::read(inputs.create(&format!("{one}{TOOL}"), &key).unwrap()).unwrap();
    assert!(first == second);
    let left: Vec<_> = fs_err::read_dir(inputs.0.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "a temporary file stayed: {left:?}");
}

#[test]
fn every_problem_is_named_at_once() {
    let inputs = Inputs::new().two_images();
    let text = inputs.complaint(
        &[
            "- {name: gone, kind: binary, source: {path: gone}}\n",
            "- {name: folder, kind: file, source: {path: images}}\n",
            "- {name: nolayout, kind: image, source: {oci: {layout: nowhere}}}\n",
            &image("app:2", "linux/amd64"),
            &image("app:1", "linux/s390x"),
            "- {name: twice, kind: file, platform: linux/amd64, source: {path: tool}}\n",
            "- {name: twice, kind: file, source: {path: tool}}\n",
        ]
        .concat(),
    );
    let expected = [
        ("binary `gone`", "gone"),
        ("file `folder`", "not a file"),
        ("image `nolayout`", "nowhere"),
        ("image `app:2`", "it has: `app:1`, `one:1`"),
        ("image `app:1`", "linux/s390x (there: linux/amd64, linux/arm64)"),
        ("file `twice`", "for any platform and for one"),
    ];
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    for ((artifact, what), line) in expected.iter().zip(text.lines()) {
        assert!(line.starts_with(artifact) && line.contains(what), "{line}");
    }
}

#[test]
fn what_has_to_be_fetched_is_listed_and_refused() {
    let inputs = Inputs::new();
    let artifacts = "- {name: a, kind: binary, source: {url: {url: \"https://example.com/a\"}}}\n\
                     - {name: b, kind: image, source: {registry: {image: \"example.com/b:1\"}}}\n";
    let text = inputs.complaint(artifacts);
    assert!(text.contains("https://example.com/a") && text.contains("example.com/b:1"), "{text}");
}

#[test]
fn a_damaged_or_incomplete_layout_is_refused() {
    let reference = "one:1";
    let layer = Digest::of("layer of amd64".repeat(1000).as_bytes());
    let layer = format!("images/blobs/sha256/{}", layer.hex());
    let artifact = image(reference, "linux/amd64");

    let inputs = Inputs::new().two_images();
    inputs.put(&layer, "Layer of amd64".repeat(1000).as_bytes());
    assert!(inputs.complaint(&artifact).contains("is damaged"));
    inputs.put(&layer, b"short");
    assert!(inputs.complaint(&artifact).contains("5 bytes, its image says 14000"));
    fs_err::remove_file(inputs.at(&layer)).unwrap();
    assert!(inputs.complaint(&artifact).contains("has no `blobs/sha256/"));

    let inputs = Inputs::new();
    let mut wrong = Inputs::named(inputs.image("arm64"), reference);
    wrong["platform"]["architecture"] = "amd64".into();
    inputs.index(&[wrong]);
    assert!(inputs.complaint(&artifact).contains("the image is for linux/arm64"));
    inputs.put("images/oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#);
    assert!(inputs.complaint(&artifact).contains("not 1.0.0"));
}

#[test]
fn a_key_is_written_once_for_its_owner_only_and_opens_with_its_password() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    let public = signing::new_key_files(&path, Some("open sesame")).unwrap();
    let mode = fs_err::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(signing::new_key_files(&path, None), Err(SigningError::Exists { .. })));
    assert!(signing::needs_password(&path).unwrap());
    let load = |password| SigningKey::load(&path, password);
    assert!(matches!(load(None), Err(SigningError::PasswordNeeded { .. })));
    assert!(matches!(load(Some("open")), Err(SigningError::WrongPassword { .. })));
    assert_eq!(load(Some("open sesame")).unwrap().public(), public);
    let plain = folder.path().join("p");
    let public = signing::new_key_files(&plain, None).unwrap();
    assert_eq!(SigningKey::load(&plain, None).unwrap().public(), public);
    let malformed = SigningKey::load(&signing::public_path(&plain), None);
    assert!(matches!(malformed, Err(SigningError::Malformed { .. })));
    let lone = folder.path().join("lone");
    fs_err::write(signing::public_path(&lone), "").unwrap();
    assert!(signing::new_key_files(&lone, None).is_err() && !lone.exists());
}
