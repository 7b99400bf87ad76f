//! Taking out of the store what nothing in force needs any more.
//!
//! In force is what the journals say: a run with a step that was begun and not taken back. The
//! content its plan names stays, and its index, so that it can be resumed or repaired without being
//! sent again. All else goes: content of bundles that are not in use here any more, and pieces that
//! came for a run that never was.

use std::collections::BTreeSet;

use super::{Places, ServeError, runs};
use crate::{
    host::Host,
    run,
    store::{Keep, Store, peer},
    wire::{Failure, Reply},
};

/// Prune the store, or tell what would go. Refused while a run goes on.
pub(super) fn prune(
    host: &dyn Host,
    places: &Places,
    store: &Store,
    dry_run: bool,
) -> Result<Reply, Failure> {
    if let Some(busy) = runs::busy_run(host, places)? {
        return Err(ServeError::Busy { run: busy.run }.into());
    }
    let surplus = store.surplus(&in_force(places)?)?;
    if !dry_run {
        // It would fetch again what goes, and tell others of what is gone.
        peer::stop(host, &places.share)?;
        store.remove(&surplus)?;
    }
    let (files, bytes) = (surplus.len() as u64, surplus.iter().map(|file| file.bytes).sum());
    Ok(Reply::Pruned { files, bytes })
}

/// What the plans of all runs in force name. A plan that can't be read ends it: nothing is pruned.
fn in_force(places: &Places) -> Result<Keep, ServeError> {
    let mut keep = Keep { blobs: BTreeSet::new(), indexes: BTreeSet::new() };
    for run in run::in_force(&places.runs)? {
        let plan = run::load_plan(&places.runs.join(&run.run))?;
        let blobs = plan.steps.iter().flat_map(|planned| planned.step.blobs());
        keep.blobs.extend(blobs.cloned());
        keep.indexes.insert(plan.index);
    }
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kdc_bundles::index::Digest;

    use super::*;
    use crate::{
        host::fake::FakeHost,
        journal::{self, Entry, Journal},
        step::{NodePlan, PlannedStep, Step},
        wire::Outcome,
    };

    fn plan_of(content: &[u8], index: &[u8]) -> NodePlan {
        let path = "/usr/local/bin/x".to_owned();
        let step = Step::PlaceBinary { path, digest: Digest::of(content) };
        let (id, phase) = ("x".to_owned(), "host".to_owned());
        let steps = vec![PlannedStep { id, phase, step, needs: Vec::new() }];
        NodePlan { node: "n".into(), cluster: "c".into(), index: Digest::of(index), steps }
    }

    /// A run whose one step was begun.
    fn begun(places: &Places, run: &str, plan: &NodePlan) -> Journal {
        run::create(&places.runs, run, plan).unwrap();
        let mut journal = Journal::open(&places.runs.join(run)).unwrap();
        let opened = Entry::Opened {
            version: journal::JOURNAL_VERSION,
            run: run.into(),
            cluster: "c".into(),
            node: "n".into(),
            plan: plan.digest().unwrap(),
            agent: "0".into(),
        };
        journal.append(1, opened).unwrap();
        let before = serde_json::from_str("null").unwrap();
        journal.append(2, Entry::Begun { step: "x".into(), before }).unwrap();
        journal
    }

    fn put(store: &Path, name: &str) {
        let path = store.join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, vec![7; 5000]).unwrap();
    }

    #[test]
    fn what_is_in_force_stays_all_else_goes_and_a_run_that_goes_on_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let (host, store) = (FakeHost::debian(), Store::at(&root));
        let places = Places {
            runs: folder.path().join("runs"),
            volatile: folder.path().join("run"),
            ..Places::system()
        };
        let hex = |content: &[u8]| Digest::of(content).hex().to_owned();
        let kept = [
            format!("blobs/sha256/{}", hex(b"in force")),
            format!("partial/{}", hex(b"in force")),
            format!("partial/{}.have", hex(b"in force")),
            format!("index/{}.minisig", hex(b"new")),
        ];
        let surplus = [
            format!("blobs/sha256/{}", hex(b"undone")),
            format!("partial/{}.have", hex(b"never ran")),
            format!("index/{}.json", hex(b"old")),
        ];
        for name in kept.iter().chain(&surplus) {
            put(&root, name);
        }
        let journal = begun(&places, "r2", &plan_of(b"in force", b"new"));
        let mut undone = begun(&places, "r1", &plan_of(b"undone", b"old"));
        undone.append(3, Entry::Undone { step: "x".into() }).unwrap();
        undone.append(4, Entry::Ended { outcome: Outcome::Undone { steps: 1 } }).unwrap();
        drop(undone);

        let refused = prune(&host, &places, &store, false).unwrap_err();
        assert_eq!(refused.code, "AGENT-024", "{refused}");
        drop(journal);
        for dry_run in [true, false] {
            let Reply::Pruned { files, bytes } = prune(&host, &places, &store, dry_run).unwrap()
            else {
                panic!("another answer")
            };
            assert_eq!(files, 3);
            assert!(bytes >= 15_000, "{bytes}");
            assert!(surplus.iter().all(|name| root.join(name).exists() == dry_run));
            assert!(kept.iter().all(|name| root.join(name).exists()));
        }

        fs_err::write(places.runs.join("r2/plan.json"), "{").unwrap();
        put(&root, &surplus[0]);
        assert_eq!(prune(&host, &places, &store, false).unwrap_err().code, "RUN-003");
        assert!(root.join(&surplus[0]).exists(), "who can't tell what is in force removes nothing");
    }
}
