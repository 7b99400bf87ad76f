//! A file system that is full when a test wants it to be.
//!
//! The test runs itself again in a mount namespace of its own, where a small tmpfs is mounted. So
//! the disk says `No space left on device` for real, at a page in the middle of a line as well as
//! before it, and nothing outside the test notices.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Tells the inner run of a test where its disk is.
const VARIABLE: &str = "KDC_TEST_SMALL_DISK";

/// What a page of tmpfs holds.
pub(crate) const PAGE: usize = 4096;

/// A small disk.
pub(crate) struct SmallDisk {
    root: PathBuf,
}

impl SmallDisk {
    /// Run `test` (its full name) again on a disk of that many pages. `Some` in the inner run;
    /// `None` in the outer one, once the inner one was good.
    pub(crate) fn within(test: &str, pages: usize) -> Option<Self> {
        if let Some(root) = std::env::var_os(VARIABLE) {
            return Some(Self { root: root.into() });
        }
        let folder = tempfile::tempdir().unwrap();
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount");
        if !nix::unistd::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let mount = format!("mount -t tmpfs -o size={} small \"$0\" && exec \"$@\"", pages * PAGE);
        let output = unshare
            .args(["sh", "-c", &mount])
            .arg(folder.path())
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(VARIABLE, folder.path())
            .output()
            .expect("util-linux' unshare is needed");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "`{test}` is not the name of the test: {said}");
        None
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Fill it until that many pages are left.
    pub(crate) fn leave(&self, pages: usize) {
        self.free();
        let stat = nix::sys::statvfs::statvfs(&self.root).unwrap();
        let free = usize::try_from(stat.blocks_available()).unwrap();
        fs_err::write(self.ballast(), vec![1; free.saturating_sub(pages) * PAGE]).unwrap();
    }

    /// Make room again.
    pub(crate) fn free(&self) {
        let _none = fs_err::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }
}
