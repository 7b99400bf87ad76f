//! Labs for tests: up at the start, down at the end, also when the test fails.
#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test's kit speaks and fails as a test does"
)]
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use kdc_tests::lab::{Lab, Wanted};
use kdc_tests::server::Server;

/// A lab that is taken down when the test ends.
pub struct TestLab(Option<Lab>);

impl TestLab {
    pub fn up(name: &str, servers: usize, change: impl FnOnce(&mut Wanted)) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests boot servers in namespaces: run them as root"
        );
        let mut wanted = Wanted::named(&format!("{name}-{}", std::process::id()), servers);
        change(&mut wanted);
        let lab = Lab::up(&wanted, &|line| eprintln!("{line}"));
        Self(Some(lab.unwrap_or_else(|error| panic!("{error:#}"))))
    }
}

impl std::ops::Deref for TestLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.0.as_ref().expect("the lab is there until the drop")
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        let down = self.0.take().map(Lab::down);
        if let Some(Err(error)) = down {
            eprintln!("the lab could not be taken down: {error:#}");
        }
    }
}

/// What a shell line prints on a server, which has to succeed.
pub fn sh(server: &dyn Server, script: &str) -> String {
    let output = server.exec(&["sh", "-c", script]).unwrap();
    assert!(output.succeeded(), "`{script}` on {}: {}", server.name(), output.stderr_text());
    output.stdout_text()
}
