//! Whole installs over fake nodes: all good, a node fails, is cut off, loses power, is held; and
//! the installer killed at every point where it can be.

use std::{
    cell::Cell,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    rc::Rc,
    sync::Mutex,
    task::{Context, Poll},
};

use kdc_agent::{
    step::{Content, ImageSource, NodePlan, PlannedStep, Step},
    wire::{Outcome, RequestBody},
};
use kdc_bundles::index::{Blob, Digest, INDEX_VERSION, Index};
use kdc_profiles::profile::Acceptance;

use super::{
    Load,
    conduct::{NodeEnd, NodeResult},
    fake::{FakeDoor, FakeNode},
    install::{Installed, Job, Stopped, install},
    link::{LOSSES, Link},
    prove::Promise,
    take_back::take_back,
};
use crate::{
    show::{News, Observer, Silent, news::Stage},
    ssh::PieceSource,
};

mod swarm;

struct NoBytes;

impl PieceSource for NoBytes {
    fn read_at(&self, _: &Digest, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Kept(Mutex<Vec<News>>);

impl Observer for Kept {
    fn news(&self, news: &News) {
        self.0.lock().unwrap().push(news.clone());
    }
}

impl Kept {
    fn any(&self, wanted: impl Fn(&News) -> bool) -> bool {
        self.0.lock().unwrap().iter().any(wanted)
    }
}

/// A cluster of fakes: `cp` and workers, with blobs to send and gates to open.
struct Site {
    nodes: Vec<Rc<FakeNode>>,
    plans: Vec<NodePlan>,
    index: Index,
    digest: Digest,
    installs: Cell<u32>,
    addresses: Vec<IpAddr>,
}

fn step(id: &str, step: Step, needs: &[&str]) -> PlannedStep {
    PlannedStep {
        id: id.to_owned(),
        phase: "host".to_owned(),
        step,
        needs: needs.iter().map(|&name| name.to_owned()).collect(),
    }
}

impl Site {
    /// A small bundle: one piece a blob, nothing worth sharing.
    fn new(workers: usize) -> Self {
        Self::with(workers, 1, 1000)
    }

    fn with(workers: usize, pieces: u32, piece_size: u64) -> Self {
        let names: Vec<String> = std::iter::once("cp".to_owned())
            .chain((1..=workers).map(|number| format!("w{number}")))
            .collect();
        let mut blobs: Vec<Blob> = (0..3_u8)
            .map(|number| Blob {
                digest: Digest::of(&[number]),
                size: piece_size * u64::from(pieces),
                pieces: vec![Digest::of(&[number]); pieces as usize],
            })
            .collect();
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        let index = Index {
            version: INDEX_VERSION,
            name: "test".to_owned(),
            bundle_version: "1".to_owned(),
            piece_size,
            parameters: std::collections::BTreeMap::new(),
            artifacts: Vec::new(),
            blobs,
        };
        let digest = Digest::of(b"the index");
        let plans = names.iter().map(|name| plan(name, &index, &digest)).collect();
        let nodes: Vec<_> = names.iter().map(|name| FakeNode::new(name)).collect();
        for node in &nodes {
            let counts = index.blobs.iter().map(|blob| (blob.digest.clone(), pieces));
            *node.pieces.borrow_mut() = counts.collect();
            *node.others.borrow_mut() = nodes.iter().map(Rc::downgrade).collect();
        }
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST); nodes.len()];
        Self { nodes, plans, index, digest, installs: Cell::default(), addresses }
    }

    fn links<'o>(&self, observer: &'o dyn Observer) -> Vec<Link<'o, FakeDoor>> {
        self.nodes.iter().map(|node| Link::new(FakeDoor(Rc::clone(node)), observer)).collect()
    }

    async fn install(&self, observer: &dyn Observer) -> Result<Installed, Stopped> {
        self.install_as("one@test pid 1", observer).await
    }

    async fn install_as(&self, holder: &str, out: &dyn Observer) -> Result<Installed, Stopped> {
        let load = Load {
            index: &self.index,
            digest: &self.digest,
            text: "the index",
            signature: "signed",
            keys: &[],
            source: &NoBytes,
        };
        self.installs.set(self.installs.get() + 1);
        let run = &*format!("r{}", self.installs.get());
        let (cluster, plans) = ("c", &self.plans[..]);
        let consent = &|_| true;
        let promise = Some(Promise {
            by: 0,
            cluster,
            image: "busybox",
            inside: &[],
            pods: &[],
            claims: &[Acceptance::PodToPod, Acceptance::NoOutsideTraffic],
            plan: &self.digest,
            index: &self.digest,
        });
        let (addresses, parallel) = (&self.addresses[..], 10);
        let job = Job { cluster, plans, addresses, load, holder, run, parallel, promise, consent };
        install(&self.links(out), job).await
    }

    fn is_whole(&self) -> bool {
        let pieces: usize = self.index.blobs.iter().map(|blob| blob.pieces.len()).sum();
        let stored = |node: &Rc<FakeNode>| node.store.borrow().len() == pieces;
        self.nodes.iter().all(stored) && self.nodes[1..].iter().all(|node| node.joined.get())
    }

    fn writes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.writes.get()).collect()
    }
}

fn plan(name: &str, index: &Index, digest: &Digest) -> NodePlan {
    let place = |(number, blob): (usize, &Blob)| {
        if number == 2 {
            let (name, manifest) = ("image:1".to_owned(), blob.digest.clone());
            let image = ImageSource { name, manifest, blobs: vec![blob.digest.clone()] };
            let (index, images) = (digest.clone(), vec![image]);
            return step("images", Step::PullImages { index, images }, &[]);
        }
        let path = format!("/opt/{number}");
        let content = Content::Blob(blob.digest.clone());
        step(&format!("file-{number}"), Step::WriteFile { path, mode: 0o644, content }, &[])
    };
    let mut steps: Vec<PlannedStep> = index.blobs.iter().enumerate().map(place).collect();
    let config = String::new();
    if name == "cp" {
        steps.push(step("init", Step::InitControlPlane { config }, &[]));
        let (name, manifests) = ("dns".to_owned(), String::new());
        steps.push(step("dns", Step::ApplyManifests { name, manifests }, &["joined"]));
    } else {
        steps.push(step("join", Step::JoinNode { config }, &["join"]));
    }
    let (node, cluster) = (name.to_owned(), "c".to_owned());
    NodePlan { node, cluster, index: digest.clone(), steps }
}

fn ran(installed: Result<Installed, Stopped>) -> Vec<NodeResult> {
    match installed {
        Ok(Installed::Ran { results, .. }) => results,
        other => panic!("expected runs, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn three_fresh_nodes_become_a_cluster_and_then_there_is_nothing_to_do() {
    let site = Site::new(2);
    let results = ran(site.install(&Silent).await);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
    assert!(site.is_whole());
    assert_eq!(site.nodes[0].proved.get(), 1);
    let writes = site.writes();
    match site.install(&Silent).await {
        Ok(Installed::NothingToDo(steps)) => assert_eq!(steps, [5, 4, 4]),
        other => panic!("{other:?}"),
    }
    assert_eq!(writes, site.writes(), "nothing to do writes nothing");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_force_is_proved_anew_as_soon_as_it_is_not_what_is_on_record() {
    let site = Site::new(2);
    site.nodes[0].proof_holds.set(false);
    let Ok(Installed::Ran { proved: Some(Ok(proofs)), .. }) = site.install(&Silent).await else {
        panic!("proofs that do not hold")
    };
    assert!(!proofs[0].holds);
    // As wanted, but never proved: tried again, and again, until it holds.
    for holds in [false, true] {
        site.nodes[0].proof_holds.set(holds);
        match site.install(&Silent).await {
            Ok(Installed::OnlyProved { steps, proved: Ok(proofs) }) => {
                assert_eq!((steps, proofs[0].holds), (vec![5, 4, 4], holds));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(site.install(&Silent).await, Ok(Installed::NothingToDo(_))));
    // What any node saw counts: one whose pods reach outside, and it was not proved.
    *site.nodes[0].record.borrow_mut() = None;
    for reaches_out in [true, false] {
        site.nodes[2].reaches_out.set(reaches_out);
        let Ok(Installed::OnlyProved { proved: Ok(proofs), .. }) = site.install(&Silent).await
        else {
            panic!("nothing on record")
        };
        let wrong: Vec<&str> =
            proofs.iter().filter(|proof| !proof.holds).map(|proof| &*proof.claim).collect();
        let wanted: &[&str] = if reaches_out { &["nothing of w2 goes out"] } else { &[] };
        assert_eq!((proofs.len(), &*wrong), (4, wanted));
    }
    assert!(matches!(site.install(&Silent).await, Ok(Installed::NothingToDo(_))));
    // The same plan, but on a worker that was taken back and installed anew.
    let links = site.links(&Silent);
    take_back(&[&links[1]], 1).await;
    drop(links);
    ran(site.install_as("one@test pid 1", &Silent).await);
    assert_eq!(site.nodes[0].proved.get(), 6);
    // A record of other runs is no record of these.
    let mut record = site.nodes[0].record.borrow().clone().expect("a record");
    record.subject.runs.insert("w1".to_owned(), vec!["r0".to_owned()]);
    *site.nodes[0].record.borrow_mut() = Some(record);
    assert!(matches!(site.install(&Silent).await, Ok(Installed::OnlyProved { .. })));
    assert!(matches!(site.install(&Silent).await, Ok(Installed::NothingToDo(_))));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_trust_the_bundle_stops_all_before_any_run() {
    let site = Site::new(2);
    site.nodes[2].distrusts.set(true);
    match site.install(&Silent).await {
        Err(Stopped::Offering(errors)) => assert_eq!(errors[0].code(), "AGENT-010"),
        other => panic!("{other:?}"),
    }
    assert!(site.nodes.iter().all(|node| node.is_untouched()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_can_not_be_fed_stays_as_it_was_and_the_others_go_as_far_as_they_can() {
    let site = Site::new(3);
    site.nodes[2].full.set(true);
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[0].end, NodeEnd::InVain { value } if value == "joined"));
    assert!(results[1].end.is_installed() && results[3].end.is_installed(), "{results:?}");
    assert!(matches!(&results[2].end, NodeEnd::Unfed(error) if error.code() == "AGENT-017"));
    assert!(site.nodes[2].is_untouched());
    assert_eq!(site.nodes[0].proved.get(), 0);

    site.nodes[2].full.set(false);
    let again = ran(site.install(&Silent).await);
    assert!(again.iter().all(|result| result.end.is_installed()), "{again:?}");
    assert!(site.is_whole());
    assert!(site.nodes.iter().all(|node| node.sent_twice.get() == 0), "images came again");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_nothing_is_told_after_three_rounds() {
    let site = Site::new(2);
    site.nodes[1].forgets.set(true);
    let results = ran(site.install(&Silent).await);
    let NodeEnd::Unfed(error) = &results[1].end else { panic!("{results:?}") };
    assert_eq!(error.code(), "KDC-021");
    assert!(error.hint().is_some_and(|hint| hint.contains("df -h")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn when_the_control_plane_can_not_be_fed_no_node_is_changed() {
    let site = Site::new(2);
    site.nodes[0].full.set(true);
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[0].end, NodeEnd::Unfed(_)));
    for (result, node) in results.iter().zip(&site.nodes).skip(1) {
        assert!(matches!(&result.end, NodeEnd::NotStarted { value } if value == "join"));
        assert!(node.is_untouched() && result.sent_bytes == 0);
    }
    site.nodes[0].full.set(false);
    let again = ran(site.install(&Silent).await);
    assert!(again.iter().all(|result| result.end.is_installed()), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_a_word_is_finished_though_every_step_is_as_wanted() {
    let site = Site::new(1);
    let mut doomed = Box::pin(site.install(&Silent));
    let mut context = Context::from_waker(std::task::Waker::noop());
    // Until the worker has joined; the word that it has never reaches the control plane.
    while !site.nodes[1].joined.get() {
        assert!(doomed.as_mut().poll(&mut context).is_pending());
        tokio::time::advance(std::time::Duration::from_millis(10)).await;
    }
    drop(doomed);
    assert!(site.nodes[0].waits_for("joined"));
    site.nodes[0].become_as_wanted();
    let results = ran(site.install_as("two@test pid 2", &Silent).await);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
    assert!(!site.nodes[0].waits_for("joined"));
}

/// How the installer fed and started the nodes, in order.
fn turns(kept: &Kept) -> Vec<String> {
    let turn = |news: &News| match news {
        News::Stage { node, stage: Stage::Sending } => Some(format!("feed {node}")),
        News::Run { node, .. } => Some(format!("start {node}")),
        _ => None,
    };
    kept.0.lock().unwrap().iter().filter_map(turn).collect()
}

#[tokio::test(start_paused = true)]
async fn a_run_starts_as_soon_as_its_node_is_fed_control_plane_first() {
    let site = Site::new(2);
    let kept = Kept::default();
    // A worker whose link is slow to come back holds nobody up.
    site.nodes[1].cut.set(Some((14, 3)));
    ran(site.install(&kept).await);
    let turns = turns(&kept);
    assert_eq!(&turns[..3], ["feed cp", "start cp", "feed w1"], "{turns:?}");
    let place = |what: &str| turns.iter().position(|turn| turn == what).expect(what);
    assert!(place("start w2") < place("start w1"), "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_worker_leaves_the_others_done_and_the_control_plane_waiting() {
    let site = Site::new(3);
    *site.nodes[2].fails.borrow_mut() = Some(("file-1".to_owned(), 1));
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[0].end, NodeEnd::InVain { value } if value == "joined"));
    assert!(results[1].end.is_installed() && results[3].end.is_installed());
    assert!(
        matches!(&results[2].end, NodeEnd::Run(Outcome::Failed { step, .. }) if step == "file-1")
    );

    let again = ran(site.install(&Silent).await);
    assert!(again.iter().all(|result| result.end.is_installed()), "{again:?}");
    assert!(site.is_whole());
}

#[tokio::test(start_paused = true)]
async fn when_the_control_plane_fails_the_workers_wait_and_a_second_apply_finishes() {
    let site = Site::new(2);
    *site.nodes[0].fails.borrow_mut() = Some(("init".to_owned(), 1));
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[0].end, NodeEnd::Run(Outcome::Failed { .. })));
    // Whoever was started by then waits; the others stay as they were.
    for result in &results[1..] {
        assert!(
            matches!(&result.end, NodeEnd::InVain { value } | NodeEnd::NotStarted { value }
                if value == "join"),
            "{result:?}"
        );
    }
    let again = ran(site.install(&Silent).await);
    assert!(again.iter().all(|result| result.end.is_installed()), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_cut_anywhere_fails_nothing_and_sends_no_piece_twice() {
    for calls in 4..60 {
        for place in 0..3 {
            let site = Site::new(2);
            site.nodes[place].cut.set(Some((calls, 5)));
            let kept = Kept::default();
            let results = ran(site.install(&kept).await);
            assert!(results.iter().all(|result| result.end.is_installed()), "{calls}: {results:?}");
            assert!(site.is_whole());
            assert_eq!(site.nodes[place].sent_twice.get(), 0);
            let cut = site.nodes[place].cut.get().is_none();
            assert_eq!(cut, kept.any(|news| matches!(news, News::Lost { .. })), "{calls}");
            assert_eq!(cut, kept.any(|news| matches!(news, News::Back { .. })), "{calls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stays_away_fails_alone_with_its_own_error() {
    let site = Site::new(2);
    site.nodes[1].cut.set(Some((20, u32::MAX)));
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[1].end, NodeEnd::Lost(error) if error.is_link()), "{results:?}");
    assert!(results[2].end.is_installed(), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_ends_every_session_is_given_up_and_one_that_ended_some_is_not() {
    for (deadly, is_answered) in [(LOSSES - 1, true), (u32::MAX, false)] {
        let node = FakeNode::new("w1");
        node.dies_of_runs.set(deadly);
        let link = Link::new(FakeDoor(Rc::clone(&node)), &Silent);
        let begun = tokio::time::Instant::now();
        let answer = link.ask(RequestBody::Runs).await;
        assert_eq!(answer.is_ok(), is_answered, "{answer:?}");
        assert!(answer.err().is_none_or(|error| error.is_link()));
        assert_eq!(deadly - node.dies_of_runs.get(), LOSSES - u32::from(is_answered));
        // With pauses that grow: a node that starts again is not asked as fast as it refuses.
        let waited = begun.elapsed().as_secs();
        assert!((10..60).contains(&waited), "{waited} s");
        assert!(
            matches!(link.ask(RequestBody::MintJoin { ttl_secs: 1 }).await, Err(error) if !error.is_link())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_under_the_installer_s_eyes_is_resumed() {
    let site = Site::new(2);
    let mut first = Box::pin(site.install(&Silent));
    let mut cuts = 0;
    let results = std::future::poll_fn(|context| {
        let polled = first.as_mut().poll(context);
        if polled.is_pending() && cuts < 2 && site.nodes[1].writes.get() > 5 {
            cuts += 1;
            site.nodes[1].power_cut();
        }
        polled
    })
    .await;
    let results = ran(results);
    assert_eq!(cuts, 2);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_installer_is_told_who_is_at_work() {
    let site = Site::new(1);
    let mut first = Box::pin(site.install_as("one@test pid 1", &Silent));
    let mut context = Context::from_waker(std::task::Waker::noop());
    // Far enough that the first one holds the nodes.
    while site.nodes.iter().any(|node| node.writes.get() == 0) {
        assert!(first.as_mut().poll(&mut context).is_pending());
        tokio::task::yield_now().await;
    }
    match site.install_as("two@test pid 2", &Silent).await {
        Err(Stopped::Holding(errors)) => {
            assert_eq!(errors.len(), 2);
            assert!(errors[0].to_string().contains("held by one@test pid 1"), "{}", errors[0]);
        }
        other => panic!("{other:?}"),
    }
    assert!(ran(first.await).iter().all(|result| result.end.is_installed()));
}

#[tokio::test(start_paused = true)]
async fn an_installer_killed_at_any_point_is_finished_by_the_next() {
    let mut points = 0;
    for polls in 1.. {
        let site = Site::new(2);
        {
            let mut doomed = pin!(site.install(&Silent));
            let mut ready = false;
            let mut left = polls;
            std::future::poll_fn(|context| {
                ready = doomed.as_mut().poll(context).is_ready();
                left -= 1;
                if ready || left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            if ready {
                points = polls;
            }
        }
        match site.install_as("two@test pid 2", &Silent).await {
            Ok(Installed::NothingToDo(_)) => {}
            Ok(Installed::OnlyProved { proved, .. }) => assert!(proved.is_ok(), "{polls}"),
            other => assert!(ran(other).iter().all(|result| result.end.is_installed()), "{polls}"),
        }
        assert!(site.is_whole(), "killed at poll {polls}");
        assert!(site.nodes[0].record.borrow().is_some(), "killed at poll {polls}, never proved");
        assert!(site.nodes.iter().all(|node| node.sent_twice.get() == 0), "killed at poll {polls}");
        if points > 0 {
            break;
        }
    }
    assert!(points > 15, "there were only {points} points to be killed at");
}

#[tokio::test(start_paused = true)]
async fn undo_takes_everything_back_and_the_agents_leave() {
    let site = Site::new(2);
    ran(site.install(&Silent).await);
    let links = site.links(&Silent);
    let all: Vec<_> = links.iter().collect();
    let results = take_back(&all, 10).await;
    assert!(matches!(&results[0].end, NodeEnd::Run(Outcome::Undone { steps: 5 })), "{results:?}");
    assert!(site.nodes.iter().all(|node| node.departed.get() && !node.joined.get()));
    let again = take_back(&all, 10).await;
    assert!(matches!(&again[0].end, NodeEnd::Run(Outcome::Undone { steps: 0 })), "{again:?}");
}
