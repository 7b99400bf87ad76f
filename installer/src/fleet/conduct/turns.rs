//! Whose turn it is to be fed. Pure.
//!
//! Control planes come first and alone: everybody waits for them at the end, and theirs is the
//! longest way, so the installer's whole bandwidth is theirs. While they install, the workers are
//! fed, at most so many at once, in the order of the listing. A turn lasts until the node's run is
//! started, or is known not to be.

use kdc_agent::step::{NodePlan, Step};

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waits,
    Now,
    Over,
}

/// The turns of all nodes.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    /// By place: whether the node makes a control plane, and its turn.
    nodes: Vec<(bool, Turn)>,
    at_once: usize,
}

impl Turns {
    /// Nobody's turn yet.
    pub(super) fn new(plans: &[NodePlan], at_once: usize) -> Self {
        let leads = |plan: &NodePlan| {
            plan.steps.iter().any(|planned| matches!(planned.step, Step::InitControlPlane { .. }))
        };
        let nodes = plans.iter().map(|plan| (leads(plan), Turn::Waits)).collect();
        Self { nodes, at_once: at_once.max(1) }
    }

    /// The places whose turn begins now, each told once.
    pub(super) fn begin(&mut self) -> Vec<usize> {
        let leaders_are_over = self.nodes.iter().all(|(leads, turn)| !leads || *turn == Turn::Over);
        let under_way = self.nodes.iter().filter(|(_, turn)| *turn == Turn::Now).count();
        let free = self.at_once.saturating_sub(under_way);
        let mut begun = Vec::new();
        for (place, (leads, turn)) in self.nodes.iter_mut().enumerate() {
            if begun.len() < free && *turn == Turn::Waits && (*leads || leaders_are_over) {
                *turn = Turn::Now;
                begun.push(place);
            }
        }
        begun
    }

    /// The node's turn is over, well or not.
    pub(super) fn end(&mut self, place: usize) {
        self.nodes[place].1 = Turn::Over;
    }
}

#[cfg(test)]
mod tests {
    use kdc_agent::step::PlannedStep;
    use kdc_bundles::index::Digest;
    use proptest::prelude::*;

    use super::*;

    /// `c` a control plane, `w` a worker.
    fn turns(nodes: &str, at_once: usize) -> Turns {
        let plan = |kind: char| {
            let config = String::new();
            let step = match kind {
                'c' => Step::InitControlPlane { config },
                _ => Step::JoinNode { config },
            };
            let (id, phase) = ("step".to_owned(), "kubernetes".to_owned());
            let steps = vec![PlannedStep { id, phase, step, needs: Vec::new() }];
            let (node, cluster) = ("n".to_owned(), "c".to_owned());
            NodePlan { node, cluster, index: Digest::of(b"index"), steps }
        };
        Turns::new(&nodes.chars().map(plan).collect::<Vec<_>>(), at_once)
    }

    #[test]
    fn control_planes_come_first_and_alone_then_workers_in_order_so_many_at_once() {
        let mut turns = turns("wcwww", 2);
        assert_eq!(turns.begin(), [1]);
        assert!(turns.begin().is_empty(), "the control plane is being fed");
        turns.end(1);
        assert_eq!(turns.begin(), [0, 2]);
        assert!(turns.begin().is_empty());
        turns.end(2);
        assert_eq!(turns.begin(), [3]);
        turns.end(0);
        turns.end(3);
        assert_eq!(turns.begin(), [4]);
        turns.end(4);
        assert!(turns.begin().is_empty());
    }

    #[test]
    fn without_a_control_plane_workers_begin_at_once_and_no_pace_is_a_pace_of_one() {
        assert_eq!(turns("www", 5).begin(), [0, 1, 2]);
        assert_eq!(turns("ww", 0).begin(), [0]);
    }

    proptest! {
        /// In whatever order turns end: everybody gets one, never too many at once, and no worker
        /// before every control plane had its own.
        #[test]
        fn everybody_gets_a_turn_and_workers_never_before_control_planes(
            nodes in "[cw]{1,12}", at_once in 0..5_usize, picks in prop::collection::vec(any::<prop::sample::Index>(), 12)
        ) {
            let mut turns = turns(&nodes, at_once);
            let leads = |place: &usize| nodes.as_bytes()[*place] == b'c';
            let (mut under_way, mut over) = (turns.begin(), Vec::new());
            for pick in picks.iter().take(nodes.len()) {
                prop_assert!(!under_way.is_empty() && under_way.len() <= at_once.max(1));
                let ended = under_way.remove(pick.index(under_way.len()));
                turns.end(ended);
                over.push(ended);
                under_way.extend(turns.begin());
            }
            let mut all = over.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..nodes.len()).collect::<Vec<_>>());
            let order: Vec<bool> = over.iter().map(leads).collect();
            let count = order.iter().filter(|leads| **leads).count();
            prop_assert!(order[..count].iter().all(|leads| *leads), "{:?}", order);
        }
    }
}
