use kdc_bundles::signing::SigningKey;

use super::*;
use crate::license::{
    document::{License, samples::license},
    keys::LicenseKey,
};

/// A vendor with a key that lives as long as the test.
pub(crate) struct Vendor(SigningKey);

impl Vendor {
    pub(crate) fn new() -> Self {
        Self(SigningKey::generate().unwrap())
    }

    pub(crate) fn id(&self) -> KeyId {
        self.0.id()
    }

    pub(crate) fn keys(&self) -> LicenseKeys {
        let key = LicenseKey::parse(&self.0.public().to_text(), "the vendor's key").unwrap();
        LicenseKeys::new(vec![key]).unwrap()
    }

    pub(crate) fn seal(&self, purpose: Purpose, payload: &[u8]) -> String {
        render(self.id(), payload, &self.0.sign_bytes(&purpose.signed_bytes(payload)))
    }

    pub(crate) fn issue(&self, license: &License) -> String {
        self.seal(Purpose::License, &license.to_payload().unwrap())
    }
}

#[test]
fn what_the_vendor_issued_is_opened() {
    let vendor = Vendor::new();
    let file = vendor.issue(&license());
    let opened = open(file.as_bytes(), &vendor.keys()).unwrap();
    assert_eq!(opened, Opened { kid: vendor.id(), license: license() });
    // As some editors and mail programs leave a line.
    for end in ["", "\r\n"] {
        let file = format!("{}{end}", file.trim_end());
        assert!(open(file.as_bytes(), &vendor.keys()).is_ok());
    }
    assert_eq!(inspect_unproved(file.as_bytes()).unwrap(), (vendor.id().to_string(), license()));
}

#[test]
fn every_single_bit_flip_of_a_licence_is_refused() {
    let vendor = Vendor::new();
    let (file, keys) = (vendor.issue(&license()).into_bytes(), vendor.keys());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped, &keys).is_err(), "bit {bit} of {}", file.len() * 8);
    }
}

#[test]
fn every_cut_and_every_byte_added_is_refused() {
    let vendor = Vendor::new();
    let (file, keys) = (vendor.issue(&license()), vendor.keys());
    let line = file.trim_end();
    for length in 0..line.len() {
        assert!(open(&line.as_bytes()[..length], &keys).is_err(), "cut after {length}");
    }
    for added in [
        format!("{file}\n"),
        format!(" {file}"),
        format!("{file}{file}"),
        format!("\u{feff}{file}"),
    ] {
        assert!(matches!(open(added.as_bytes(), &keys), Err(LicenseError::Malformed { .. })));
    }
}

#[test]
fn another_key_another_purpose_and_another_spelling_are_refused() {
    let (vendor, other) = (Vendor::new(), Vendor::new());
    let file = vendor.issue(&license());
    let unknown = open(file.as_bytes(), &other.keys()).unwrap_err();
    assert_eq!(unknown, LicenseError::UnknownKey { kid: vendor.id().to_string() });
    // Who signs with a key of his own and names the vendor's.
    let forged = other.issue(&license()).replace(&other.id().to_string(), &vendor.id().to_string());
    let error = open(forged.as_bytes(), &vendor.keys()).unwrap_err();
    assert_eq!(error, LicenseError::Signature { kid: vendor.id().to_string() });
    let list = vendor.seal(Purpose::Revocations, &license().to_payload().unwrap());
    assert!(matches!(open(list.as_bytes(), &vendor.keys()), Err(LicenseError::Signature { .. })));
    for (from, to) in [
        ("{\"v\":1,", "{ \"v\":1,"),
        ("\"kid\"", "\"k\\u0069d\""),
        ("{\"v\":1,", "{\"v\":1,\"more\":0,"),
        ("\"v\":1", "\"v\":1.0"),
        ("\"sig\":\"", "\"sig\":\"="),
    ] {
        let spelt = file.replacen(from, to, 1);
        assert_ne!(spelt, file);
        let error = open(spelt.as_bytes(), &vendor.keys()).unwrap_err();
        assert!(matches!(error, LicenseError::Malformed { .. }), "{to}: {error}");
    }
    let later = file.replace("{\"v\":1,", "{\"v\":2,");
    assert_eq!(open(later.as_bytes(), &vendor.keys()), Err(LicenseError::Version { version: 2 }));
}

#[test]
fn size_and_depth_are_bounded_before_anything_is_built() {
    let vendor = Vendor::new();
    let long = vec![b' '; MAX_FILE_BYTES + 1];
    assert_eq!(open(&long, &vendor.keys()), Err(LicenseError::TooLarge));
    let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (depth, deep) in [(MAX_DEPTH, false), (MAX_DEPTH + 1, true)] {
        let file = vendor.seal(Purpose::License, nest(depth).as_bytes());
        let error = open(file.as_bytes(), &vendor.keys()).unwrap_err();
        assert_eq!(matches!(error, LicenseError::Malformed { .. }), deep, "{depth}: {error}");
    }
    // Brackets in a text nest nothing.
    let in_text = format!("{{\"note\":\"{}\\\"[\"}}", "[".repeat(100));
    let file = vendor.seal(Purpose::License, in_text.as_bytes());
    let error = open(file.as_bytes(), &vendor.keys()).unwrap_err();
    assert!(matches!(error, LicenseError::Document(_)), "{error}");
}

#[test]
fn an_unknown_rule_in_crit_refuses_a_file_that_is_signed() {
    let vendor = Vendor::new();
    let strange = License { crit: vec!["moonPhase".to_owned()], ..license() };
    let error = open(vendor.issue(&strange).as_bytes(), &vendor.keys()).unwrap_err();
    assert!(matches!(&error, LicenseError::Document(DocumentError::UnknownRule { .. })));
    assert!(error.hint().contains("update kdc"));
}
