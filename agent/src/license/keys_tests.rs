use base64::{Engine as _, prelude::BASE64_STANDARD};
use kdc_bundles::signing::SigningKey;

use super::*;

fn key_of(point: [u8; 32]) -> Result<LicenseKey, LicenseKeyError> {
    let line = [b"Ed".as_slice(), &[7; 8], &point].concat();
    LicenseKey::parse(&BASE64_STANDARD.encode(line), "a key")
}

#[test]
fn keys_that_no_honest_pair_has_are_refused() {
    let mut points: Vec<[u8; 32]> = SMALL_ORDER.to_vec();
    // Not canonical: y of the field's order and above, which stand for 0 and more.
    for more in 0..19 {
        let mut point = FIELD;
        point[0] += more;
        points.push(point);
    }
    for mut point in points {
        for sign in [0, 0x80] {
            point[31] |= sign;
            let error = key_of(point).unwrap_err();
            assert!(matches!(error, LicenseKeyError::Weak { .. }), "{point:x?}: {error}");
        }
    }
    let honest = SigningKey::generate().unwrap().public();
    LicenseKey::parse(&honest.to_text(), "a key").unwrap();
}

#[test]
fn a_signature_has_one_form_only() {
    let signing = SigningKey::generate().unwrap();
    let key = LicenseKey::parse(&signing.public().to_text(), "a key").unwrap();
    let signature = signing.sign_bytes(b"text");
    assert!(key.verifies(b"text", &signature));
    // The same number plus the group's order is the same to a careless verifier.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut malleable = signature;
    let mut carry = 0_u16;
    for (byte, order) in malleable[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_ne!(malleable, signature);
    assert!(!key.verifies(b"text", &malleable));
    for wrong in [&signature[..63], &[0; 64], &[]] {
        assert!(!key.verifies(b"text", wrong));
    }
}

#[test]
fn several_keys_stand_together_and_two_of_one_id_do_not() {
    let keys: Vec<String> = (0..3)
        .map(|_| SigningKey::generate().unwrap().public().to_text())
        .map(|text| text.lines().nth(1).unwrap().to_owned())
        .collect();
    let set = LicenseKeys::parse_all(&format!("{},{}\n{}", keys[0], keys[1], keys[2]), "keys");
    assert_eq!(set.unwrap().ids().len(), 3);
    let twice = LicenseKeys::parse_all(&format!("{0} {0}", keys[0]), "keys").unwrap_err();
    assert!(matches!(twice, LicenseKeyError::Several));
    assert!(LicenseKeys::parse_all("", "keys").unwrap().is_empty());
    let error = LicenseKeys::parse_all("nonsense", "KDC_LICENSE_KEYS").unwrap_err();
    assert!(error.to_string().contains("KDC_LICENSE_KEYS"), "{error}");
}

#[test]
fn the_tests_key_counts_in_a_debug_build_and_in_no_other() {
    let test = LicenseKey::parse(TEST_KEY, "the tests' key").unwrap();
    assert!(test.is_test());
    let built_in = LicenseKeys::built_in().unwrap();
    assert_eq!(built_in.ids().contains(&test.id()), cfg!(debug_assertions));
    assert_eq!(built_in.refuses_as_test(test.id()), !cfg!(debug_assertions));
    assert_eq!(LicenseKeys::new(vec![test]).is_ok(), cfg!(debug_assertions));
    // The secret half in the repository is this key's.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/license/test.key");
    let secret = SigningKey::load(std::path::Path::new(path), None).unwrap();
    assert_eq!(secret.public().to_text().lines().nth(1), Some(TEST_KEY));
}
