//! What an install takes of a server's disk: at its peak, and what stays. For servers with a disk of a fixed size.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it tells a figure, and insists on what it needs"
)]
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kdc_tests::{lab::LightServer, server::Server};

/// Bytes in use on a server's own disk.
fn used(server: &LightServer) -> u64 {
    let root = server.root().unwrap().join("var/lib");
    let disk = nix::sys::statvfs::statvfs(&root).unwrap();
    (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
}

/// `work` never takes more than 1.15 times what stays of it.
pub fn assert_low_peak<T>(server: &LightServer, work: impl FnOnce() -> T) -> T {
    let before = used(server);
    let done = AtomicBool::new(false);
    let (result, most) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = before;
            while !done.load(Ordering::Relaxed) {
                most = used(server).max(most);
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watcher.join().unwrap())
    });
    let (peak, stays) = (most - before, used(server) - before);
    let told = format!("disk: peak {} MiB, {} MiB stay", peak >> 20, stays >> 20);
    println!("{told}");
    assert!(stays > 300 << 20, "this is no disk of the server's own: {told}");
    assert!(peak * 100 <= stays * 115, "{told}");
    result
}
