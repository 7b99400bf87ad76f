//! The heads of all nodes' audit logs, where nodes can't write: the ConfigMap `kdc-audit`.
//!
//! A node tells its head in an annotation of its own, which whoever has the node may put back together with the log. What the
//! leader keeps only goes forward: a head that goes back, or becomes another, is told as an event, and the one that was known
//! before stays, so that `kdc-install audit verify` sees what is missing.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    api::{ApiServer, Kind, text},
    error::ControlError,
    node::NodeSeen,
    status::event,
    time,
};
use crate::audit::{
    self, Entry, Head,
    export::MAX_HEADS,
    heads::MAX_HEAD_BYTES,
    publish::{HEAD_ANNOTATION, HEADS_KEY, HEADS_MAP},
};

/// Most bytes of the ConfigMap's text; an object may have a MiB.
const MOST_BYTES: usize = 900 * 1024;
/// What is put behind a node's name for the log that it had before.
const FORMER: &str = "/former";

/// What a leader remembers of heads.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Heads as the nodes tell them, when all was written down last.
    told: BTreeMap<String, String>,
}

/// A head that is not what was to be expected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alarm {
    node: String,
    reason: &'static str,
    words: String,
}

/// Keep what nodes tell, where it is another than at the last look.
pub(super) async fn keep_heads(
    api: &ApiServer,
    nodes: &BTreeMap<String, NodeSeen>,
    remembered: &mut Remembered,
    may_write: &(dyn Fn() -> bool + Sync),
) -> Result<(), ControlError> {
    let told: BTreeMap<String, String> = nodes
        .iter()
        .filter_map(|(name, node)| {
            Some((name.clone(), node.annotations.get(HEAD_ANNOTATION)?.clone()))
        })
        .collect();
    if told.is_empty() || told == remembered.told || !may_write() {
        return Ok(());
    }
    let object = api.get(Kind::ConfigMap, HEADS_MAP).await?;
    let kept = object.as_ref().map(|map| text(&map["data"][HEADS_KEY])).unwrap_or_default();
    let mut heads = understand(kept);
    let before = heads.clone();
    let alarms = fold(&mut heads, &told);
    // What a node said at the last look was told then.
    let new = |alarm: &&Alarm| remembered.told.get(&alarm.node) != told.get(&alarm.node);
    for Alarm { node, reason, words } in alarms.iter().filter(new) {
        tracing::warn!(node, reason, "{words}");
        let (action, subject) = ("audit-alarm".to_owned(), node.clone());
        audit::note_from_control(&Entry::ControlActed { action, subject, detail: words.clone() });
        let now = time::now().as_secs();
        api.create(Kind::Event, &event(node, false, reason, words, now)).await?;
    }
    if heads != before {
        bound(&mut heads, nodes);
        let words = serde_json::to_string(&heads).expect("texts and numbers serialise");
        let mut metadata = json!({ "name": HEADS_MAP, "namespace": api.namespace() });
        if let Some(object) = &object {
            metadata["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
        }
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { HEADS_KEY: words },
        });
        match object {
            Some(_) => api.replace(Kind::ConfigMap, &map).await?,
            None => api.create(Kind::ConfigMap, &map).await?,
        }
    }
    remembered.told = told;
    Ok(())
}

/// What is kept; where somebody spoiled it, what can be read of it.
fn understand(text: &str) -> BTreeMap<String, Head> {
    let read = audit::export::parse_heads(text.as_bytes());
    read.map(|heads| heads.into_iter().collect()).unwrap_or_default()
}

/// What is told is laid over what is kept. Pure.
fn fold(kept: &mut BTreeMap<String, Head>, told: &BTreeMap<String, String>) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    for (node, text) in told {
        let mut alarm = |reason, words| alarms.push(Alarm { node: node.clone(), reason, words });
        let head = match Head::parse(text.get(..MAX_HEAD_BYTES).unwrap_or(text).as_bytes()) {
            Ok(head) => head,
            Err(why) => {
                alarm("AuditHeadUnreadable", format!("what it says of its audit log: {why}"));
                continue;
            }
        };
        let Some(known) = kept.get(node) else {
            kept.insert(node.clone(), head);
            continue;
        };
        let (seq, was) = (head.seq, known.seq);
        if known.chain != head.chain {
            let words = format!("its audit log was begun anew; the one before had {was} lines");
            alarm("AuditLogBegunAnew", words);
            let former = kept.insert(node.clone(), head);
            kept.extend(former.map(|former| (format!("{node}{FORMER}"), former)));
        } else if seq < was {
            let words = format!("its audit log ends with line {seq}, and had {was} lines");
            alarm("AuditTailCut", words);
        } else if seq == was && known.sum != head.sum {
            alarm(
                "AuditLineChanged",
                format!("line {seq} of its audit log is another than it was"),
            );
        } else {
            if known.key != head.key {
                alarm("AuditKeyChanged", "its audit log is signed with another key".to_owned());
            }
            kept.insert(node.clone(), head);
        }
    }
    alarms
}

/// Keep it within an object's size: what nodes that are gone had goes first.
fn bound(heads: &mut BTreeMap<String, Head>, nodes: &BTreeMap<String, NodeSeen>) {
    let size = |heads: &BTreeMap<String, Head>| {
        heads.iter().map(|(name, head)| name.len() + head.to_text().len() + 8).sum::<usize>()
    };
    let too_many =
        |heads: &BTreeMap<String, Head>| heads.len() > MAX_HEADS || size(heads) > MOST_BYTES;
    if too_many(heads) {
        heads.retain(|name, _| nodes.contains_key(name));
    }
    while too_many(heads) {
        heads.pop_last();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Log, Moment, Who};

    /// The heads of a log after one entry, two, three…
    fn heads(count: u64) -> Vec<Head> {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::at(&folder.path().join("audit"));
        let moment = |at| Moment { at_unix_ms: at, boot: String::new() };
        let write =
            |at| log.append(&Entry::KubeconfigRead {}, &Who::part("serve"), &moment(at)).unwrap();
        (1..=count).map(write).collect()
    }

    fn told(head: &Head) -> BTreeMap<String, String> {
        BTreeMap::from([("w1".to_owned(), head.to_text())])
    }

    fn reasons(alarms: &[Alarm]) -> Vec<&str> {
        alarms.iter().map(|alarm| alarm.reason).collect()
    }

    #[test]
    fn what_is_kept_goes_forward_and_a_head_that_goes_back_is_told_and_not_taken() {
        let (all, mut kept) = (heads(3), BTreeMap::new());
        for head in &all {
            assert_eq!(fold(&mut kept, &told(head)), []);
        }
        assert_eq!(fold(&mut kept, &told(&all[2])), []);
        let alarms = fold(&mut kept, &told(&all[0]));
        assert_eq!(reasons(&alarms), ["AuditTailCut"]);
        assert_eq!(alarms[0].words, "its audit log ends with line 2, and had 4 lines");
        assert_eq!(kept["w1"], all[2]);
    }

    #[test]
    fn a_log_begun_anew_is_told_and_the_end_of_the_former_is_kept() {
        let (first, second, mut kept) = (heads(3), heads(1), BTreeMap::new());
        fold(&mut kept, &told(&first[2]));
        assert_eq!(reasons(&fold(&mut kept, &told(&second[0]))), ["AuditLogBegunAnew"]);
        assert_eq!((&kept["w1"], &kept["w1/former"]), (&second[0], &first[2]));
    }

    #[test]
    fn what_makes_no_sense_or_is_signed_by_nobody_is_told_and_changes_nothing() {
        let (all, mut kept) = (heads(2), BTreeMap::new());
        fold(&mut kept, &told(&all[0]));
        let forged = Head { seq: 99, ..all[1].clone() };
        for text in ["{", "", &forged.to_text()] {
            let told = BTreeMap::from([("w1".to_owned(), text.to_owned())]);
            assert_eq!(reasons(&fold(&mut kept, &told)), ["AuditHeadUnreadable"], "{text}");
        }
        assert_eq!(kept["w1"], all[0]);
    }

    #[test]
    fn nodes_that_are_gone_make_room() {
        let head = heads(1).remove(0);
        let name = |number: u32| format!("n{number:05}");
        let mut all: BTreeMap<String, Head> =
            (0..5000).map(|one| (name(one), head.clone())).collect();
        let nodes = (0..900).map(|one| (name(one), NodeSeen::default())).collect();
        bound(&mut all, &nodes);
        assert_eq!(all.len(), 900);
    }
}
