//! Licences that count no more: a short list that the vendor signs, carried to sites as licences are.
//!
//! A list replaces another when its serial is higher, so an old one can't bring back what a newer one took.

use serde::{Deserialize, Serialize};

use super::{
    envelope::{LicenseError, Purpose, Signed, open_signed},
    keys::{KeyId, LicenseKeys},
    time::Timestamp,
};
use crate::license::document::{DocumentError, License, is_id};

/// Most ids in a list.
pub const MAX_REVOKED: usize = 500;

/// A list of licences that count no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocations {
    /// Rises with each list.
    pub serial: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Ids of licences.
    pub revoked: Vec<String>,
}

impl Revocations {
    /// Open a list's file.
    ///
    /// # Errors
    /// When its bounds, its signature or its content aren't as they must be.
    pub fn open(file: &[u8], keys: &LicenseKeys) -> Result<(KeyId, Self), LicenseError> {
        let Signed { kid, payload } = open_signed(file, Purpose::Revocations, keys)?;
        let malformed = |error: serde_json::Error| {
            LicenseError::Document(DocumentError::Malformed { what: error.to_string() })
        };
        let list: Self = serde_json::from_slice(&payload).map_err(malformed)?;
        list.check().map_err(LicenseError::Document)?;
        Ok((kid, list))
    }

    /// Whether it can be a list; also asked before one is issued.
    ///
    /// # Errors
    /// When it has too many ids, or names that are none.
    pub fn check(&self) -> Result<(), DocumentError> {
        let field = "revoked";
        if self.revoked.len() > MAX_REVOKED {
            let what = format!("has more than {MAX_REVOKED} ids");
            return Err(DocumentError::Field { field, what });
        }
        match self.revoked.iter().find(|id| !is_id(id)) {
            Some(_) => Err(DocumentError::Field {
                field,
                what: "has a name that is no licence's".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// This licence counts no more.
    #[must_use]
    pub fn has(&self, license: &License) -> bool {
        self.revoked.contains(&license.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::license::{document::samples, envelope::tests::Vendor};

    #[test]
    fn a_signed_list_takes_a_licence_back_and_no_licence_passes_for_one() {
        let vendor = Vendor::new();
        let list = Revocations {
            serial: 7,
            issued_at: samples::day("2026-05-01"),
            revoked: vec!["lic-1".to_owned()],
        };
        let payload = serde_json::to_vec(&list).unwrap();
        let file = vendor.seal(Purpose::Revocations, &payload);
        let (kid, read) = Revocations::open(file.as_bytes(), &vendor.keys()).unwrap();
        assert_eq!((kid, &read), (vendor.id(), &list));
        assert!(read.has(&samples::license()));
        assert!(!Revocations::default().has(&samples::license()));
        let as_license = vendor.seal(Purpose::License, &payload);
        let error = Revocations::open(as_license.as_bytes(), &vendor.keys()).unwrap_err();
        assert!(matches!(error, LicenseError::Signature { .. }), "{error}");
        for revoked in [vec!["a b".to_owned()], vec!["a".to_owned(); MAX_REVOKED + 1]] {
            assert!(Revocations { revoked, ..list.clone() }.check().is_err());
        }
    }
}
