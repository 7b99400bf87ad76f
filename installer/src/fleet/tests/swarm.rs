//! Nodes that feed each other: all good, nobody reaches anybody, a node dies with what only it had,
//! and the installer killed at every point where it can be.

use super::*;

const PIECES: usize = 12;

/// Three blobs of four pieces, worth sharing.
fn site(workers: usize) -> Site {
    Site::with(workers, 4, 8 << 20)
}

fn sent(site: &Site) -> usize {
    site.nodes.iter().map(|node| node.sent.borrow().len()).sum()
}

fn nobody_shares(site: &Site) -> bool {
    site.nodes.iter().all(|node| node.sharing.borrow().is_none())
}

/// Install until `done` says so; then the installer is killed.
async fn install_until(site: &Site, mut done: impl FnMut() -> bool) {
    let mut doomed = pin!(site.install(&Silent));
    std::future::poll_fn(|context| {
        assert!(doomed.as_mut().poll(context).is_pending(), "over before it came to that");
        if done() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_piece_is_sent_once_and_all_nodes_are_whole() {
    let site = site(3);
    let kept = Kept::default();
    let results = ran(site.install(&kept).await);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
    assert!(site.is_whole() && nobody_shares(&site));
    assert_eq!(sent(&site), PIECES);
    let bytes: u64 = results.iter().map(|result| result.sent_bytes).sum();
    assert_eq!(bytes, (PIECES as u64) * (8 << 20));
    // What people see are the bytes in each store, wherever they came from.
    let total = (PIECES as u64) * (8 << 20);
    for name in ["cp", "w1", "w2", "w3"] {
        assert!(kept.any(|news| matches!(news, News::Bytes { node, sent_bytes, total_bytes }
            if node == name && *sent_bytes == total && *total_bytes == total)));
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_reach_nobody_are_fed_straight() {
    for cut in 1..=3 {
        let site = site(2);
        for node in &site.nodes[..cut] {
            node.cut_from_others.set(true);
        }
        let results = ran(site.install(&Silent).await);
        assert!(results.iter().all(|result| result.end.is_installed()), "{cut}: {results:?}");
        assert!(site.is_whole() && nobody_shares(&site));
        assert!(site.nodes.iter().all(|node| node.sent_twice.get() == 0));
        // Who reaches nobody has everything from the installer.
        for node in &site.nodes[..cut] {
            assert_eq!(node.sent.borrow().len(), PIECES, "{cut}");
        }
        assert!(cut > 1 || sent(&site) <= 2 * PIECES, "{}", sent(&site));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_can_not_share_is_fed_straight_and_the_others_feed_each_other() {
    let site = site(3);
    site.nodes[1].can_not_share.set(true);
    let results = ran(site.install(&Silent).await);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
    assert!(site.is_whole());
    assert_eq!(sent(&site), 2 * PIECES);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_dead_node_had_is_sent_once_more() {
    for dead in 1..4 {
        let site = site(3);
        let mut install = pin!(site.install(&Silent));
        let victim = &site.nodes[dead];
        let results = std::future::poll_fn(|context| {
            // Before anybody could have taken anything from it.
            if victim.cut.get().is_none() && !victim.sent.borrow().is_empty() {
                victim.cut.set(Some((0, u32::MAX)));
                victim.cut_from_others.set(true);
            }
            install.as_mut().poll(context)
        })
        .await;
        let results = ran(results);
        for (place, result) in results.iter().enumerate() {
            match &result.end {
                NodeEnd::Unfed(error) => assert!(place == dead && error.is_link(), "{error}"),
                NodeEnd::InVain { value } => assert!(place == 0 && value == "joined"),
                end => assert!(end.is_installed() && place != dead, "{place}: {end:?}"),
            }
        }
        assert!(!site.nodes[dead].joined.get());
        assert!(sent(&site) <= 2 * PIECES, "{}", sent(&site));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_back_from_a_power_cut_shares_again() {
    let site = site(3);
    let mut install = pin!(site.install(&Silent));
    let victim = &site.nodes[2];
    let mut was_cut = false;
    let results = std::future::poll_fn(|context| {
        if !was_cut && victim.sharing.borrow().is_some() && !victim.store.borrow().is_empty() {
            was_cut = true;
            victim.power_cut();
            victim.cut.set(Some((0, 3)));
        }
        install.as_mut().poll(context)
    })
    .await;
    assert!(was_cut);
    let results = ran(results);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
    assert!(site.is_whole() && nobody_shares(&site));
    assert!(sent(&site) < 2 * PIECES, "{}", sent(&site));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_one_node_and_no_other() {
    let site = site(3);
    site.nodes[2].full.set(true);
    site.nodes[2].cut_from_others.set(true);
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[2].end, NodeEnd::Unfed(error) if error.code() == "AGENT-017"));
    assert!(results[1].end.is_installed() && results[3].end.is_installed(), "{results:?}");
    assert!(nobody_shares(&site));
}

#[tokio::test(start_paused = true)]
async fn where_the_control_plane_can_not_be_fed_no_run_starts_though_stores_fill() {
    let site = site(2);
    site.nodes[0].full.set(true);
    site.nodes[0].cut_from_others.set(true);
    let results = ran(site.install(&Silent).await);
    assert!(matches!(&results[0].end, NodeEnd::Unfed(_)), "{results:?}");
    for (result, node) in results.iter().zip(&site.nodes).skip(1) {
        assert!(matches!(&result.end, NodeEnd::NotStarted { value } if value == "join"));
        assert!(node.is_untouched());
    }
    assert!(nobody_shares(&site));
}

#[tokio::test(start_paused = true)]
async fn nodes_finish_among_themselves_without_the_installer_and_the_next_one_finds_that() {
    let site = site(2);
    let sites = &site;
    install_until(&site, || sent(sites) == PIECES).await;
    assert!(!nobody_shares(&site));
    while site.nodes.iter().any(|node| node.fetch()) {}
    assert!(site.nodes.iter().all(|node| node.store.borrow().len() == PIECES));
    let results = ran(site.install_as("two@test pid 2", &Silent).await);
    assert!(results.iter().all(|result| result.end.is_installed()), "{results:?}");
    assert_eq!(sent(&site), PIECES, "nothing was sent again");
    assert!(nobody_shares(&site));
}

#[tokio::test(start_paused = true)]
async fn an_installer_killed_at_any_point_of_a_swarm_is_finished_by_the_next() {
    let mut points = 0;
    for polls in 1.. {
        let site = site(2);
        {
            let mut doomed = pin!(site.install(&Silent));
            let mut left = polls;
            std::future::poll_fn(|context| {
                let ready = doomed.as_mut().poll(context).is_ready();
                left -= 1;
                if ready {
                    points = polls;
                }
                if ready || left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        // Every second time the nodes have gone on meanwhile.
        while polls % 2 == 0 && site.nodes.iter().any(|node| node.fetch()) {}
        match site.install_as("two@test pid 2", &Silent).await {
            Ok(Installed::NothingToDo(_)) => {}
            Ok(Installed::OnlyProved { proved, .. }) => assert!(proved.is_ok(), "{polls}"),
            other => assert!(ran(other).iter().all(|result| result.end.is_installed()), "{polls}"),
        }
        assert!(site.is_whole(), "killed at poll {polls}");
        assert!(site.nodes.iter().all(|node| node.sent_twice.get() == 0), "killed at poll {polls}");
        assert!(sent(&site) <= 2 * PIECES, "killed at poll {polls}: {}", sent(&site));
        if points > 0 {
            break;
        }
    }
    assert!(points > 30, "there were only {points} points to be killed at");
}
