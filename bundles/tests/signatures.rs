//! Several keys over one index, and what the public `minisign` says of each signature.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use kdc_bundles::{
    index::{INDEX_VERSION, Index, PIECE_SIZE},
    keys::{RefusedKey, TrustedKeys},
    signature::{MAX_SIGNATURES, SignatureError, prove_index, signers, verify_index},
    signing::{Signer, SigningError, SigningKey, SigningKeys, new_key_files, public_path},
};

fn index(name: &str) -> Index {
    Index {
        version: INDEX_VERSION,
        name: name.to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: PIECE_SIZE,
        parameters: BTreeMap::new(),
        artifacts: Vec::new(),
        blobs: Vec::new(),
    }
}

fn keys(count: usize) -> Vec<SigningKey> {
    (0..count).map(|_| SigningKey::generate().unwrap()).collect()
}

fn trusting(keys: &[&SigningKey]) -> TrustedKeys {
    TrustedKeys::new(keys.iter().map(|key| key.public()).collect()).unwrap()
}

/// The text as it has to be: each signature's four lines, sorted by the ids that people see.
fn joined(index: &Index, keys: &[&SigningKey]) -> String {
    let mut texts: Vec<_> =
        keys.iter().map(|key| (key.public().id().to_string(), key.sign(index))).collect();
    texts.sort();
    texts.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn sites_with_the_old_key_and_sites_with_the_new_one_both_prove_a_bundle_of_both() {
    let (index, made) = (index("n"), keys(2));
    let (old, new) = (&made[0], &made[1]);
    let text = joined(&index, &[old, new]);
    let bytes = index.to_bytes();
    for site in [vec![old], vec![new], vec![new, old]] {
        let proved = prove_index(&bytes, &text, &trusting(&site)).unwrap();
        assert_eq!(proved.index, index);
        assert!(site.iter().any(|key| key.public().id() == proved.signer));
    }
    assert_eq!(signers(&text).unwrap().len(), 2);
    let stranger = &keys(1)[0];
    let error = verify_index(&bytes, &text, &trusting(&[stranger])).unwrap_err();
    let SignatureError::WrongKey { signers: found, refused, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((found.len(), refused.len()), (2, 0));
}

#[test]
fn the_order_of_the_keys_does_not_show_in_the_bundle() {
    let index = index("n");
    let made = keys(3);
    let expected = joined(&index, &made.iter().collect::<Vec<_>>());
    let mut turned = made;
    for _ in 0..3 {
        turned.rotate_left(1);
        let both = SigningKeys::new(turned).unwrap();
        assert_eq!(both.sign(&index), expected);
        assert_eq!(both.ids(), signers(&expected).unwrap());
        turned = Vec::from(both);
    }
}

#[test]
fn one_key_twice_no_key_and_too_many_do_not_sign() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    new_key_files(&path, None).unwrap();
    let twice =
        vec![SigningKey::load(&path, None).unwrap(), SigningKey::load(&path, None).unwrap()];
    assert!(matches!(SigningKeys::new(twice), Err(SigningError::Twice { .. })));
    for count in [0, MAX_SIGNATURES + 1] {
        let result = SigningKeys::new(keys(count));
        assert!(matches!(result, Err(SigningError::Count { found }) if found == count));
    }
    // As many as are allowed fit in what readers read.
    let index = Index { bundle_version: "v".repeat(128), ..index(&"n".repeat(128)) };
    let all = keys(MAX_SIGNATURES);
    let trusted = trusting(&[&all[7]]);
    let text = SigningKeys::new(all).unwrap().sign(&index);
    verify_index(&index.to_bytes(), &text, &trusted).unwrap();
}

#[test]
fn a_bad_signature_of_a_trusted_key_is_not_outvoted_by_a_good_one() {
    let (good, other) = (index("n"), index("other"));
    let made = keys(2);
    let (old, new) = (&made[0], &made[1]);
    let mut parts = [
        (old.public().id().to_string(), old.sign(&good)),
        (new.public().id().to_string(), new.sign(&other)),
    ];
    parts.sort();
    let text: String = parts.into_iter().map(|(_, text)| text).collect();
    let bytes = good.to_bytes();
    let error = verify_index(&bytes, &text, &trusting(&[old, new])).unwrap_err();
    assert!(matches!(error, SignatureError::Forged { signer } if signer == new.public().id()));
    // Whoever knows only the old key can't judge the new one's, but its comment is of another bundle.
    let error = verify_index(&bytes, &text, &trusting(&[old])).unwrap_err();
    assert!(matches!(error, SignatureError::Comment { .. }), "{error}");
}

#[test]
fn signatures_out_of_order_doubled_cut_or_with_more_behind_them_are_malformed() {
    let index = index("n");
    let made = keys(2);
    let text = joined(&index, &[&made[0], &made[1]]);
    let half: Vec<_> = text.split_inclusive('\n').collect();
    let (first, second) = (half[..4].concat(), half[4..].concat());
    let trusted = trusting(&[&made[0], &made[1]]);
    for (wrong, what) in [
        (format!("{second}{first}"), "sorted"),
        (format!("{first}{first}"), "sorted"),
        (format!("{first}\n"), ""),
        (format!("{first}{}", half[4]), ""),
        (text.trim_end().to_owned(), ""),
        (String::new(), ""),
        (text.repeat(9), ""),
    ] {
        let error = verify_index(&index.to_bytes(), &wrong, &trusted).unwrap_err();
        let malformed = matches!(error, SignatureError::Malformed { .. });
        assert!(malformed && error.to_string().contains(what), "{error}: {wrong:?}");
    }
}

#[test]
fn a_refusal_says_what_became_of_the_key() {
    let (index, made) = (index("n"), keys(2));
    let retired = RefusedKey { id: made[0].public().id(), why: "was retired".to_owned() };
    let keys = TrustedKeys::with_refused(vec![made[1].public()], vec![retired]).unwrap();
    let error = verify_index(&index.to_bytes(), &made[0].sign(&index), &keys).unwrap_err();
    let id = made[0].public().id();
    let text = error.to_string();
    assert!(text.contains(&format!("key {id}, which was retired (trusted: ")), "{text}");
    assert!(error.hint().unwrap().contains("key in force"));
}

/// What `minisign -V` says.
fn minisign(folder: &Path, key: &Path, signature: &str) -> Result<String, String> {
    let at = folder.join("index.minisig");
    fs_err::write(&at, signature).unwrap();
    let output = Command::new("minisign")
        .args(["-V", "-m"])
        .arg(folder.join("kdc-index.json"))
        .arg("-p")
        .arg(public_path(key))
        .arg("-x")
        .arg(&at)
        .output()
        .expect("`tests/setup.sh` installs minisign");
    let text = String::from_utf8(output.stdout).unwrap();
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[test]
fn the_public_minisign_accepts_each_signature_and_refuses_another_index() {
    let folder = tempfile::tempdir().unwrap();
    let index = index("site");
    let paths = [folder.path().join("old.key"), folder.path().join("new.key")];
    for path in &paths {
        new_key_files(path, None).unwrap();
    }
    let load = |path: &PathBuf| SigningKey::load(path, None).unwrap();
    let text = SigningKeys::new(paths.iter().map(load).collect()).unwrap().sign(&index);
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let at = folder.path().join("kdc-index.json");
    for path in &paths {
        let id = load(path).public().id();
        let position = signers(&text).unwrap().iter().position(|one| *one == id).unwrap();
        let one = lines[position * 4..][..4].concat();
        fs_err::write(&at, index.to_bytes()).unwrap();
        let said = minisign(folder.path(), path, &one).unwrap();
        assert!(said.contains("kdc bundle site 1"), "{said}");
        fs_err::write(&at, b"another").unwrap();
        minisign(folder.path(), path, &one).unwrap_err();
    }
    // The first needs no cutting: minisign reads four lines.
    fs_err::write(&at, index.to_bytes()).unwrap();
    let first = signers(&text).unwrap()[0];
    let path = paths.iter().find(|path| load(path).public().id() == first).unwrap();
    minisign(folder.path(), path, &text).unwrap();
}
