//! The record of the last acceptance that passed: so that whoever comes next, from whatever machine,
//! knows whether what is in force now was ever proved.
//!
//! It lies on the control plane that made the proofs, is written only when all of them hold, and
//! goes with the first step that an undo takes back. One that can't be understood counts as none:
//! then it is proved again.

use super::AcceptError;
use crate::{
    host::{Attributes, Host, HostError, parent},
    wire::{ACCEPTANCE_VERSION, AcceptanceRecord, AcceptanceSubject, Proof},
};

/// Where it lies.
pub const RECORD_PATH: &str = "/var/lib/kdc/acceptance.json";

/// Largest record that is read: 3 KiB for each node of the largest cluster file.
const MAX_RECORD_BYTES: u64 = 16 * 1024 * 1024;

/// The record, if there is one that can be understood.
///
/// # Errors
/// When the file can't be read.
pub fn recorded(host: &dyn Host) -> Result<Option<AcceptanceRecord>, AcceptError> {
    let Some(bytes) = host.read(RECORD_PATH, MAX_RECORD_BYTES)? else { return Ok(None) };
    match serde_json::from_slice::<AcceptanceRecord>(&bytes) {
        Ok(record) if record.version == ACCEPTANCE_VERSION => Ok(Some(record)),
        Ok(record) => {
            tracing::warn!(record.version, "the acceptance record is of another version");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, "{RECORD_PATH} makes no sense: acceptance counts as not passed");
            Ok(None)
        }
    }
}

/// Keep a record of these proofs if all of them hold, else none at all: what was proved before is
/// not so any more.
pub(super) fn keep(
    host: &dyn Host,
    subject: AcceptanceSubject,
    proofs: &[Proof],
) -> Result<(), AcceptError> {
    if proofs.is_empty() || !proofs.iter().all(|proof| proof.holds) {
        return Ok(forget(host)?);
    }
    let (version, proofs) = (ACCEPTANCE_VERSION, proofs.len());
    let at_unix_ms = host.now_unix_ms();
    let record = AcceptanceRecord { version, subject, proofs, at_unix_ms };
    let text = serde_json::to_vec(&record).map_err(AcceptError::Record)?;
    let directory = parent(RECORD_PATH);
    if host.stat(directory)?.is_none() {
        host.make_directory(directory, Attributes::root(0o755))?;
    }
    Ok(host.write(RECORD_PATH, &text, Attributes::root(0o600))?)
}

/// Remove the record, if there is one.
///
/// # Errors
/// When it can't be removed.
pub fn forget(host: &dyn Host) -> Result<(), HostError> {
    if host.stat(RECORD_PATH)?.is_some() {
        host.remove(RECORD_PATH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kdc_bundles::index::Digest;

    use super::*;
    use crate::host::fake::FakeHost;

    fn subject() -> AcceptanceSubject {
        AcceptanceSubject {
            cluster: "lab".to_owned(),
            plan: Digest::of(b"plan"),
            index: Digest::of(b"index"),
            claims: vec![kdc_profiles::profile::Acceptance::PodToPod],
            runs: BTreeMap::from([("cp1".to_owned(), vec!["r1".to_owned()])]),
        }
    }

    fn proof(holds: bool) -> Proof {
        Proof { claim: "node cp1 is Ready".to_owned(), holds, detail: "Ready".to_owned() }
    }

    #[test]
    fn only_an_acceptance_whose_every_proof_holds_is_on_record() {
        let host = FakeHost::debian();
        assert_eq!(recorded(&host).unwrap(), None);
        keep(&host, subject(), &[proof(true)]).unwrap();
        let record = recorded(&host).unwrap().expect("a record");
        assert_eq!(record.subject, subject());
        assert_eq!(record.proofs, 1);
        assert_eq!(host.stat(RECORD_PATH).unwrap().unwrap().attributes.mode, 0o600);
        // What passed before is not so any more.
        keep(&host, subject(), &[proof(true), proof(false)]).unwrap();
        assert_eq!(recorded(&host).unwrap(), None);
        keep(&host, subject(), &[]).unwrap();
        assert_eq!(recorded(&host).unwrap(), None, "nothing was proved");
    }

    #[test]
    fn a_record_that_makes_no_sense_or_is_of_another_version_counts_as_none() {
        let host = FakeHost::debian();
        keep(&host, subject(), &[proof(true)]).unwrap();
        let text = host.read_text(RECORD_PATH).unwrap().unwrap();
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert_ne!(newer, text);
        for other in [&newer, "{", ""] {
            host.plant(RECORD_PATH, other);
            assert_eq!(recorded(&host).unwrap(), None, "{other}");
        }
        forget(&host).unwrap();
        forget(&host).unwrap();
        assert_eq!(host.stat(RECORD_PATH).unwrap(), None);
    }
}
