//! Who hears of a run: systemd's journal and whoever is attached. And what a done step sets free.

use std::collections::BTreeSet;

use kdc_bundles::index::Digest;

use super::{NoteWriter, Observer};
use crate::{
    step::{NodePlan, Step},
    store::Store,
    wire::{Event, EventBody},
};

/// The observer of a run on a real node. Nothing it passes on is a secret; the run's own journal is
/// the record.
#[derive(Debug)]
pub struct Telling<'a> {
    /// Where images lie until containerd has taken them over.
    pub store: &'a Store,
    /// For whoever is attached.
    pub notes: &'a NoteWriter,
    /// The plan that is carried out; `None` in an undo.
    pub plan: Option<&'a NodePlan>,
}

impl Observer for Telling<'_> {
    fn recorded(&self, seq: u64) {
        self.notes.recorded(seq);
    }

    fn event(&self, event: &Event) {
        self.notes.event(event);
        match serde_json::to_string(event) {
            Ok(line) => tracing::info!("{line}"),
            Err(cause) => tracing::warn!(%cause, "an event that can't be shown"),
        }
        if let (EventBody::Done { step }, Some(plan)) = (&event.body, self.plan) {
            self.forget_images(plan, step);
        }
    }
}

impl Telling<'_> {
    /// Keeps the peak of disk use low: containerd holds its own copy from here on.
    fn forget_images(&self, plan: &NodePlan, step: &str) {
        let Some(place) = plan.steps.iter().position(|planned| planned.id == step) else { return };
        if !matches!(plan.steps[place].step, Step::ImportImages { .. }) {
            return;
        }
        let later: BTreeSet<&Digest> =
            plan.steps[place + 1..].iter().flat_map(|planned| planned.step.blobs()).collect();
        let imported = plan.steps[place].step.blobs().into_iter();
        let done: Vec<Digest> = imported.filter(|blob| !later.contains(blob)).cloned().collect();
        match self.store.forget(&done) {
            Ok(bytes) => tracing::info!(bytes, "images removed from the store"),
            Err(error) => tracing::warn!(%error, "images stay in the store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{ImageSource, PlannedStep};

    #[test]
    fn imported_images_leave_the_store_and_what_a_later_step_needs_stays() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        fs_err::create_dir_all(&blobs).unwrap();
        let contents: [&[u8]; 4] = [b"image only", b"archive too", b"in both imports", b"other"];
        let digests = contents.map(Digest::of);
        for (digest, content) in digests.iter().zip(contents) {
            fs_err::write(blobs.join(digest.hex()), content).unwrap();
        }
        let [only, archive, both, _other] = &digests;
        let import = |blobs: &[&Digest]| {
            let blobs: Vec<Digest> = blobs.iter().copied().cloned().collect();
            let (name, manifest) = ("x:1".to_owned(), blobs[0].clone());
            Step::ImportImages { images: vec![ImageSource { name, manifest, blobs }] }
        };
        let steps = [
            ("one", import(&[only, archive, both])),
            ("unpack", Step::UnpackArchive { digest: archive.clone(), target: "/opt".into() }),
            ("two", import(&[both])),
        ];
        let planned = |(id, step): (&str, Step)| PlannedStep {
            id: id.into(),
            phase: "images".into(),
            step,
            needs: Vec::new(),
        };
        let (node, cluster) = ("n1".to_owned(), "c".to_owned());
        let steps = steps.into_iter().map(planned).collect();
        let plan = NodePlan { node, cluster, index: Digest::of(b""), steps };
        let store = Store::at(folder.path());
        let notes = NoteWriter::begin(&folder.path().join("run"), "r1");
        let telling = Telling { store: &store, notes: &notes, plan: Some(&plan) };
        for (done, stay) in [("unpack", 4), ("one", 3), ("two", 2)] {
            let body = EventBody::Done { step: done.into() };
            telling.event(&Event { run: "r1".into(), seq: 1, at_unix_ms: 0, body });
            assert_eq!(fs_err::read_dir(&blobs).unwrap().count(), stay, "{done}");
        }
        assert!(blobs.join(archive.hex()).exists());
    }
}
