//! Memory does not grow with the bundle. Alone in its file: the peak is that of the process.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::collections::BTreeMap;

use kdc_airgap::{Silent, create, document::EPOCH};
use kdc_bundles::{keys::TrustedKeys, signing::SigningKey, verify::verify};
use kdc_profiles::definition::{ArtifactDefinition, BundleDefinition, Source};

const LIMIT_KIB: u64 = 64 * 1024;

fn peak_kib() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 256 MiB, four times the limit; 2 GiB with `KDC_DEEP`, as `make test-deep` sets it.
#[test]
fn creating_and_proving_a_large_bundle_stays_under_64_mib() {
    let size = if std::env::var_os("KDC_DEEP").is_some() { 2 << 30 } else { 256 << 20 };
    let folder = tempfile::tempdir().unwrap();
    let file = fs_err::File::create(folder.path().join("large")).unwrap();
    file.set_len(size).unwrap();
    let definition = BundleDefinition {
        name: "large".to_owned(),
        version: "1".to_owned(),
        parameters: BTreeMap::new(),
        artifacts: vec![ArtifactDefinition {
            name: "large".to_owned(),
            kind: "file".to_owned(),
            platform: None,
            version: None,
            roles: Vec::new(),
            unpack_to: None,
            licence: None,
            source: Source::Path("large".into()),
        }],
        ..BundleDefinition::default()
    };
    let key = SigningKey::generate().unwrap();
    let output = folder.path().join("large.bundle");
    create(&definition, folder.path(), None, &output, &key, EPOCH, &mut Silent).unwrap();
    println!("peak after create: {} KiB", peak_kib());
    assert!(peak_kib() < LIMIT_KIB);
    let keys = TrustedKeys::new(vec![key.public()]).unwrap();
    verify(fs_err::File::open(&output).unwrap(), &keys).unwrap();
    println!("peak after verify: {} KiB", peak_kib());
    assert!(peak_kib() < LIMIT_KIB);
}
