//! Writes the good inputs that fuzzing starts from, and the public key they are signed with. Run again
//! when a format changes: `cargo run -p kdc-fuzz --bin seeds`, or with `license` behind it for licences alone, whose key is
//! one of its own.

use std::{collections::BTreeMap, error::Error, path::Path};

use kdc_agent::license::envelope::{self, Purpose};
use kdc_bundles::{
    index::{Artifact, ArtifactKind, Digest, INDEX_VERSION, Index},
    keys::TrustedKeys,
    medium::Medium,
    parts::{Split, split},
    signing::SigningKey,
    write::{hash_blob, write_file},
};
use serde_json::json;

const PIECE: u64 = 4096;

/// Every form of a message, for [`kdc_fuzz::kernel_log`].
const KERNEL_LOG: &str = "\
6,1,10,-;NVRM: GPU at PCI:0000:05:00: GPU-11111111-0000-0000-0000-000000000000
4,2,20,-;NVRM: Xid (PCI:0000:05:00): 79, pid=1234, name=python3, GPU has fallen off the bus.
 SUBSYSTEM=pci
4,3,30,-;NVRM: GPU 0000:05:00.0: GPU has fallen off the bus.
4,4,40,c;NVRM: Xid (PCI:0000:c1:00 GPU-I:05): 43, pid='<unknown>', name=<unknown>, Ch 00000008
4,5,50,-;NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x00000000)
4,6,60,-;NVRM: Xid (PCI:0018:01:00): 154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)
4,7,70,-;NVRM: Xid (0000:03:00): 14, Channel 00000001
12,8,80,-;NVRM: Xid (PCI:0000:05:00): 79, x
";

fn main() -> Result<(), Box<dyn Error>> {
    licenses()?;
    if std::env::args().nth(1).as_deref() == Some("license") {
        return Ok(());
    }
    let corpus = kdc_fuzz::corpus();
    let key = SigningKey::generate()?;
    fs_err::write(corpus.with_file_name("corpus-key.pub"), key.public().to_text())?;
    let put = |target: &str, name: &str, bytes: &[u8]| -> std::io::Result<()> {
        fs_err::create_dir_all(corpus.join(target))?;
        fs_err::write(corpus.join(target).join(name), bytes)
    };
    let contents: BTreeMap<Digest, Vec<u8>> = [0, 1, 700, 4096, 9000]
        .map(|size| vec![0x5a; size])
        .into_iter()
        .map(|content| (Digest::of(&content), content))
        .collect();
    let index = index(&contents)?;
    put("index", "seed", &index.to_bytes())?;
    let signed = [key.sign(&index).as_bytes(), b"\0", &index.to_bytes()].concat();
    put("signature", "seed", &signed)?;
    put("signature", "seed-key", key.public().to_text().as_bytes())?;
    for (name, numbers) in [
        ("seed-one", vec![4096_u64, 4096, 0]),
        ("seed-three", vec![4096, 9000, 0, 1, 0, 0, 0]),
        ("seed-large", vec![1 << 20, 1 << 32, 0, (1 << 20) + 1, 0]),
        ("seed-bad", vec![4095, 9000, 1]),
    ] {
        put("pieces", name, &numbers.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>())?;
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("b");
    let open = |digest: &Digest| Ok(contents[digest].as_slice());
    write_file(&path, &index, &key, open, &mut |_| {})?;
    put("bundle", "seed", &fs_err::read(&path)?)?;
    let how = Split { size: 18_000, parity_percent: 50 };
    let keys = TrustedKeys::new(vec![key.public()])?;
    let made = split(Medium::file(&path)?, &keys, &path, how, &mut |_, _| {})?;
    for (number, part) in made.paths.iter().enumerate() {
        put("part", &format!("seed-{}-of-{}", number + 1, made.paths.len()), &fs_err::read(part)?)?;
    }
    put("oci", "seed", documents(1).as_bytes())?;
    put("oci", "seed-deep", documents(100).as_bytes())?;
    put("tar", "seed", &layout_tar(folder.path())?)?;
    put("debian", "seed", archive().as_bytes())?;
    put("kernel_log", "seed", KERNEL_LOG.as_bytes())?;
    Ok(())
}

/// A licence, its payload, one with everything in it, and a list of revocations, for [`kdc_fuzz::license`].
fn licenses() -> Result<(), Box<dyn Error>> {
    let corpus = kdc_fuzz::corpus();
    let folder = corpus.join("license");
    fs_err::create_dir_all(&folder)?;
    let key = SigningKey::generate()?;
    let public = key.public().to_text_for("licence");
    fs_err::write(corpus.with_file_name("license-key.pub"), public)?;
    let small = json!({
        "id": "lic-1", "serial": 1, "type": "subscription", "customer": "Example GmbH",
        "issuedAt": "2026-01-01T00:00:00Z", "notBefore": "2026-01-01T00:00:00Z",
        "expiresAt": "2027-01-01T00:00:00Z", "maxNodes": 3,
    });
    let full = json!({
        "id": "lic-2", "serial": 2, "type": "trial", "customer": "Beispiel",
        "issuedAt": "2026-01-01T00:00:00Z", "notBefore": "2026-01-02T00:00:00Z",
        "expiresAt": "2027-01-01T00:00:00Z", "graceDays": 14, "maxNodes": 50, "maxGpus": 8,
        "overage": {"percent": 10, "nodes": 2, "days": 30},
        "count": {"roles": ["worker", "control-plane"], "window": {"samples": 2, "overSeconds": 600,
            "missingSeconds": 300, "deadSeconds": 86400}},
        "features": {"gpu-sharing": true, "vms": 200, "off": false}, "clusterIds": ["cluster"],
        "supersedes": ["lic-1"], "crit": ["maxNodes"], "later": [[{}]],
    });
    let list = json!({"serial": 1, "issuedAt": "2026-01-01T00:00:00Z", "revoked": ["lic-1"]});
    let seal = |purpose: Purpose, payload: &[u8]| {
        envelope::render(key.id(), payload, &key.sign_bytes(&purpose.signed_bytes(payload)))
    };
    for (name, text) in [
        ("seed", seal(Purpose::License, small.to_string().as_bytes())),
        ("seed-payload", small.to_string()),
        ("seed-full", full.to_string()),
        ("seed-revocations", seal(Purpose::Revocations, list.to_string().as_bytes())),
    ] {
        fs_err::write(folder.join(name), text)?;
    }
    Ok(())
}

fn index(contents: &BTreeMap<Digest, Vec<u8>>) -> Result<Index, Box<dyn Error>> {
    let mut blobs = Vec::new();
    for content in contents.values() {
        blobs.push(hash_blob(content.as_slice(), PIECE, &mut |_| {})?);
    }
    let artifacts = blobs.iter().enumerate().map(|(number, blob)| Artifact {
        name: format!("example.com/a{number}:1"),
        kind: if number % 2 == 0 { ArtifactKind::Image } else { ArtifactKind::File },
        platform: (number % 2 == 0).then(|| "linux/amd64".to_owned()),
        version: Some("1".to_owned()),
        media_type: "application/octet-stream".to_owned(),
        digest: blob.digest.clone(),
        blobs: vec![blob.digest.clone()],
        roles: vec!["worker".to_owned()],
        licence: Some("Apache-2.0".to_owned()),
        source: Some("https://example.com/a".to_owned()),
        unpack_to: None,
    });
    let mut artifacts: Vec<_> = artifacts.collect();
    artifacts.sort_by(|left, right| (left.kind, &left.name).cmp(&(right.kind, &right.name)));
    Ok(Index {
        version: INDEX_VERSION,
        name: "seed".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: PIECE,
        parameters: BTreeMap::from([("kubernetesVersion".to_owned(), "v1.20.2".to_owned())]),
        artifacts,
        blobs,
    })
}

/// An archive with every kind of relation, for [`kdc_fuzz::debian`].
fn archive() -> String {
    let digest = Digest::of(b"").hex().to_owned();
    let mut text = format!(
        "Suite: stable\nCodename: stable\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nArchitectures: amd64 all\n\
         Acquire-By-Hash: yes\nSHA256:\n {digest} 9 main/binary-amd64/Packages.xz\n"
    );
    text.push('\0');
    for (name, version, rest) in [
        (
            "app",
            "1:2.0-1~deb12u1",
            "Depends: lib (>= 1.0), mta | app-data:any\nBreaks: lib (<< 0.5)\n",
        ),
        ("lib", "1.2+b1", "Pre-Depends: base\nConflicts: old\nProvides: lib-api (= 3)\n"),
        ("exim", "4", "Provides: mta\nDepends: lib-api (>= 2)\n"),
        ("app-data", "2", "Depends:\n"),
        ("base", "12.4", "Priority: required\n"),
    ] {
        text.push_str(&format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 1\n\
             SHA256: {digest}\n{rest}Description: of {name}\n more of it\n\n"
        ));
    }
    text + "\0app (>= 2)\nbase"
}

/// An image behind that many indexes, for [`kdc_fuzz::oci`].
fn documents(depth: usize) -> String {
    let index = |next: usize, manifest: bool| {
        let kind = if manifest { "manifest" } else { "index" };
        json!({"schemaVersion": 2, "manifests": [{
            "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"),
            "digest": format!("@{next}"), "size": 0,
            "platform": {"os": "linux", "architecture": "amd64"},
            "annotations": {"org.opencontainers.image.ref.name": "app:1"},
        }]})
        .to_string()
    };
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "a/b", "digest": format!("@{}", depth + 1), "size": 2},
        "layers": [{"mediaType": "a/b", "digest": format!("@{}", depth + 2), "size": 5}],
    });
    let mut all: Vec<String> = (1..=depth).map(|next| index(next, next == depth)).collect();
    all.extend([manifest.to_string(), "{}".to_owned(), "layer".to_owned()]);
    all.join("\0")
}

/// A small layout in a tar, made with `tar`: other programs' headers are what is read.
fn layout_tar(folder: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let layout = folder.join("layout");
    fs_err::create_dir_all(layout.join("blobs/sha256"))?;
    let put = |bytes: &str| -> std::io::Result<serde_json::Value> {
        let digest = Digest::of(bytes.as_bytes());
        fs_err::write(layout.join("blobs/sha256").join(digest.hex()), bytes)?;
        Ok(json!({"mediaType": "a/b", "digest": digest, "size": bytes.len()}))
    };
    let manifest = json!({"schemaVersion": 2, "config": put("{}")?, "layers": [put("layer")?]});
    let mut entry = put(&manifest.to_string())?;
    entry["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs_err::write(layout.join("index.json"), index.to_string())?;
    fs_err::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let path = folder.join("layout.tar");
    let mut command = std::process::Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"]);
    let status = command.arg(&path).arg("-C").arg(&layout).arg(".").status()?;
    if !status.success() {
        return Err("tar failed".into());
    }
    Ok(fs_err::read(path)?)
}
