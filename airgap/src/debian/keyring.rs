//! Whether a suite is signed by somebody we were told to trust. Fails closed: a key that is revoked,
//! expired, or may not sign does not count, nor does a signature with a broken digest.

use std::time::SystemTime;

use pgp::{
    composed::{CleartextSignedMessage, PublicOrSecret, SignedPublicKey, SignedPublicSubKey},
    crypto::hash::HashAlgorithm,
    packet::{Signature, SignatureType},
    types::{KeyDetails, Tag, Timestamp},
};

/// Largest keyring read.
pub(crate) const MAX_KEYRING: u64 = 4 * 1024 * 1024;

/// How far ahead of ours a signer's clock may be.
const SKEW_SECS: u32 = 24 * 3600;

/// Public keys, one of which has to have signed.
#[derive(Debug)]
pub(crate) struct Keyring {
    keys: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Reads keys, armored or not.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (keys, _) = PublicOrSecret::from_reader_many(bytes)
            .map_err(|error| format!("it holds no OpenPGP keys: {error}"))?;
        let mut found = Vec::new();
        // A key of a kind that is not known here can't vouch for anything; the others still can.
        for key in keys.flatten() {
            match key {
                PublicOrSecret::Public(key) => found.push(key),
                PublicOrSecret::Secret(_) => {
                    return Err("it holds a secret key; export the public one".to_owned());
                }
            }
        }
        if found.is_empty() {
            return Err("it holds no OpenPGP key that can be used".to_owned());
        }
        Ok(Self { keys: found })
    }

    /// The text that one of the keys signed, exactly as it was signed.
    pub(crate) fn read_signed(&self, text: &str, now: SystemTime) -> Result<String, String> {
        let now = seconds(now);
        let (message, _) = CleartextSignedMessage::from_string(text)
            .map_err(|error| format!("it is not a signed text: {error}"))?;
        let signed = message.signed_text();
        let mut why = Vec::new();
        for signature in message.signatures() {
            match self.check(signature, signed.as_bytes(), now) {
                Ok(()) => return Ok(signed),
                Err(what) => why.push(what),
            }
        }
        why.dedup();
        let why = if why.is_empty() { "it has no signature".to_owned() } else { why.join("; ") };
        Err(format!("no key of the keyring vouches for it: {why}"))
    }

    fn check(&self, signature: &Signature, text: &[u8], now: u32) -> Result<(), String> {
        let issuer = signature.issuer_fingerprint().first().map(|print| format!("{print:?}"));
        let issuer = issuer
            .or_else(|| signature.issuer_key_id().first().map(|id| format!("{id:?}")))
            .unwrap_or_else(|| "an unnamed key".to_owned());
        check_form(signature, now).map_err(|what| format!("the signature by {issuer} {what}"))?;
        let mut unfit = None;
        for key in &self.keys {
            if signature.verify(&key.primary_key, text).is_ok() {
                match check_primary(key, now) {
                    Ok(()) => return Ok(()),
                    Err(what) => unfit = Some(what),
                }
            }
            for subkey in &key.public_subkeys {
                if signature.verify(&subkey.key, text).is_ok() {
                    match check_primary(key, now).and_then(|()| check_subkey(key, subkey, now)) {
                        Ok(()) => return Ok(()),
                        Err(what) => unfit = Some(what),
                    }
                }
            }
        }
        Err(match unfit {
            Some(what) => format!("the key {issuer} {what}"),
            None => {
                format!("the signature by {issuer} is by no key of it, or the text was changed")
            }
        })
    }
}

fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

fn check_form(signature: &Signature, now: u32) -> Result<(), &'static str> {
    if !matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary)) {
        return Err("is not one of a text");
    }
    let strong = [
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha384,
        HashAlgorithm::Sha512,
        HashAlgorithm::Sha3_256,
        HashAlgorithm::Sha3_512,
    ];
    if !signature.hash_alg().is_some_and(|hash| strong.contains(&hash)) {
        return Err("uses a digest that can be forged");
    }
    let Some(created) = signature.created().map(Timestamp::as_secs) else {
        return Err("does not say when it was made");
    };
    if created > now.saturating_add(SKEW_SECS) {
        return Err("was made in the future (check the clock)");
    }
    let lives = signature.signature_expiration_time().map_or(0, |time| time.as_secs());
    if lives != 0 && created.saturating_add(lives) < now {
        return Err("has expired");
    }
    Ok(())
}

/// A key lives for a time stated by its newest statement about itself.
fn is_expired(created: Timestamp, statement: Option<&Signature>, now: u32) -> bool {
    let lives = statement.and_then(Signature::key_expiration_time).map_or(0, |time| time.as_secs());
    lives != 0 && created.as_secs().saturating_add(lives) < now
}

fn newest<'s>(signatures: impl Iterator<Item = &'s Signature>) -> Option<&'s Signature> {
    signatures.max_by_key(|signature| signature.created().map(Timestamp::as_secs))
}

fn check_primary(key: &SignedPublicKey, now: u32) -> Result<(), String> {
    let (primary, details) = (&key.primary_key, &key.details);
    let revoked = details.revocation_signatures.iter();
    if revoked.clone().any(|signature| signature.verify_key(primary).is_ok()) {
        return Err("is revoked".to_owned());
    }
    let own = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.typ() != Some(SignatureType::CertRevocation)
                && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
        })
    });
    let direct =
        details.direct_signatures.iter().filter(|signature| signature.verify_key(primary).is_ok());
    let statement = newest(own.chain(direct)).ok_or("says nothing about itself")?;
    if is_expired(primary.created_at(), Some(statement), now) {
        return Err("has expired".to_owned());
    }
    Ok(())
}

fn check_subkey(
    key: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now: u32,
) -> Result<(), String> {
    let primary = &key.primary_key;
    let of = |kind: SignatureType| {
        subkey.signatures.iter().filter(move |signature| {
            signature.typ() == Some(kind)
                && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
        })
    };
    if of(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("is revoked".to_owned());
    }
    let binding = newest(of(SignatureType::SubkeyBinding)).ok_or("does not belong to its owner")?;
    if !binding.key_flags().sign() {
        return Err("may not sign".to_owned());
    }
    // The subkey has to agree to it, or anybody could adopt somebody else's.
    let agreed = binding
        .embedded_signature()
        .is_some_and(|embedded| embedded.verify_primary_key_binding(&subkey.key, primary).is_ok());
    if !agreed {
        return Err("was taken over by somebody else".to_owned());
    }
    if is_expired(subkey.key.created_at(), Some(binding), now) {
        return Err("has expired".to_owned());
    }
    Ok(())
}
