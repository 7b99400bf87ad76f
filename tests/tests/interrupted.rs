//! What interrupts an install, for real: an installer killed, a link cut, a node's power cut. The next `apply` finishes
//! what was begun (or the same one does, where it still lives), and undo leaves every host as it was.
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]
#![expect(clippy::print_stdout, reason = "moments and seeds, for who has to repeat them")]

#[path = "kit/cluster.rs"]
mod cluster;
mod kit;

use std::{
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use cluster::{assert_as_before, operator, ready_nodes, snapshots};
use kdc_tests::{
    operator::Operator,
    server::{Fault, Server},
};
use kit::TestLab;
use serde_json::Value;

/// Longest that an install of this size takes on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(420);

/// An `apply` that runs, and what it has said so far.
struct Attempt {
    child: Child,
    log: PathBuf,
    began: Instant,
}

impl Attempt {
    fn start(operator: &Operator) -> Self {
        let words = operator.with_bundle(&["apply", "--output", "plain", "--yes"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let log = operator.home().join("apply.log");
        let file = fs_err::File::create(&log).unwrap().into_parts().0;
        let mut installer = operator.command(&words).unwrap();
        let child = installer.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log, began: Instant::now() }
    }

    fn said(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap()
    }

    /// Waits until one of its lines has all of these words.
    fn wait_until_it_says(&mut self, words: &[&str]) {
        let has = |line: &str| words.iter().all(|word| line.contains(word));
        while !self.said().lines().any(has) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before it said {words:?}:\n{}", self.said());
            assert!(self.began.elapsed() < PATIENCE, "it never said {words:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(self.began.elapsed() < PATIENCE, "it doesn't end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it at a moment and tells what it had said last; `None` if it had ended by then.
    fn kill_after(mut self, moment: Duration) -> Option<String> {
        std::thread::sleep(moment.saturating_sub(self.began.elapsed()));
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        if status.signal() != Some(9) {
            assert!(status.success(), "it failed by itself, with {status}:\n{}", self.said());
            return None;
        }
        let said = self.said();
        Some(said.lines().last().unwrap_or("(it had said nothing)").trim().to_owned())
    }
}

/// A row of moments that a printed seed brings back (xorshift).
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed: u64 = rand::random();
        println!("seed of the moments: {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// A moment before `limit`.
    fn before(&mut self, limit: Duration) -> Duration {
        Duration::from_millis(self.below(u64::try_from(limit.as_millis()).unwrap()))
    }
}

/// Most things begin in an install's first seconds: half of all moments fall there.
const BEGINNING: Duration = Duration::from_secs(10);

/// Two servers, installed and taken back again and again.
struct Repeated<'a> {
    operator: &'a Operator,
    servers: &'a [kdc_tests::lab::LightServer],
    before: &'a [kdc_tests::differ::Snapshot],
}

impl Repeated<'_> {
    /// Finishes what stands there; how long that took.
    fn finish(&self) -> Duration {
        let began = Instant::now();
        self.operator.apply().unwrap();
        let took = began.elapsed();
        assert_eq!(ready_nodes(&self.servers[0]), self.servers.len());
        took
    }

    fn take_back(&self) {
        self.operator.undo().unwrap();
        assert_as_before(self.before, self.servers);
    }

    /// Kills one `apply` before `limit`. One that is done by then is no kill: it is taken back, and another moment drawn.
    fn kill_one(&self, random: &mut Moments, limit: Duration) -> (Duration, String) {
        for _ in 0..10 {
            let moment = random.before(limit);
            if let Some(said) = Attempt::start(self.operator).kill_after(moment) {
                return (moment, said);
            }
            println!("done before {moment:.1?}: no kill, drawn again");
            self.take_back();
        }
        panic!("ten installs in a row were done before their moments, of {limit:?} at most");
    }
}

/// A sample here: three installers killed in turn over one install. `make test-deep` has twenty installs, each killed
/// once, finished and taken back.
#[test]
fn an_installer_killed_at_random_moments_is_finished_by_the_next() {
    let lab = TestLab::up("kill", 2, |_| {});
    let servers = lab.servers().unwrap();
    let operator = operator(&lab, "cluster", &servers);
    let before = snapshots(&servers);
    let installs = Repeated { operator: &operator, servers: &servers, before: &before };
    let mut random = Moments::new();
    let deep = std::env::var_os("KDC_DEEP").is_some();
    // How long an install takes is measured where there is time; three kills in a row leave less of it each time.
    let (kills, whole) = if deep {
        let took = installs.finish();
        installs.take_back();
        println!("an install takes {took:.1?}");
        (20, took)
    } else {
        (3, Duration::from_secs(25))
    };
    let mut table = String::new();
    for number in 0..kills {
        let limit = if number % 2 == 0 { BEGINNING } else { whole };
        let (moment, said) = installs.kill_one(&mut random, limit);
        table += &format!("{number:>4} {:>8.1} s  {said}\n", moment.as_secs_f64());
        if deep {
            installs.finish();
            installs.take_back();
        }
    }
    println!("kill  killed after  while it said\n{table}");
    if !deep {
        installs.finish();
        installs.take_back();
    }
}

#[test]
fn a_node_whose_power_is_cut_in_its_run_is_finished_and_can_be_taken_back() {
    let lab = TestLab::up("powercut", 2, |_| {});
    let servers = lab.servers().unwrap();
    let operator = operator(&lab, "cluster", &servers);
    let before = snapshots(&servers);
    let plan = planned(&operator);
    let mut random = Moments::new();
    let victim = usize::try_from(random.below(2)).unwrap();
    let steps = plan["nodes"][victim]["plan"]["steps"].as_array().unwrap();
    let step = usize::try_from(random.below(steps.len() as u64)).unwrap();
    let pause = random.before(Duration::from_millis(500));
    let name = servers[victim].name();
    println!("{name} loses power {pause:?} after its step {} ({})", step + 1, steps[step]["id"]);

    let mut attempt = Attempt::start(&operator);
    attempt.wait_until_it_says(&[name, &format!(" step {}/", step + 1)]);
    std::thread::sleep(pause);
    servers[victim].inflict(&Fault::Kill).unwrap();
    servers[victim].inflict(&Fault::Start).unwrap();
    // It goes on with the node when that is back, or gives up in a way that another one can take up.
    let status = attempt.wait();
    println!("the installer that saw it ended with {status}");
    assert!(matches!(status.code(), Some(0 | 4)), "{status}\n{}", attempt.said());

    operator.apply().unwrap();
    assert_eq!(ready_nodes(&servers[0]), 2);
    operator.undo().unwrap();
    assert_as_before(&before, &servers);
}

/// The plan as `plan --save` writes it.
fn planned(operator: &Operator) -> Value {
    let words = operator.with_bundle(&["plan", "--output", "plain", "--save", "plan.json"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let planned = operator.run(&words).unwrap();
    assert!(planned.succeeded(), "{}", planned.stderr_text());
    serde_json::from_slice(&fs_err::read(operator.home().join("plan.json")).unwrap()).unwrap()
}

#[test]
fn a_link_cut_while_sending_and_while_running_costs_little() {
    let lab = TestLab::up("cut", 1, |_| {});
    let servers = lab.servers().unwrap();
    let operator = operator(&lab, "single", &servers);
    let wanted = planned(&operator)["nodes"][0]["bytesToSend"].as_u64().unwrap();

    // Slow enough that the cut falls into the sending.
    servers[0].inflict(&Fault::Shape("300mbit".into())).unwrap();
    let mut attempt = Attempt::start(&operator);
    for stage in [" sent", "runtime packages begun"] {
        attempt.wait_until_it_says(&[stage]);
        std::thread::sleep(Duration::from_secs(3));
        servers[0].inflict(&Fault::Cut).unwrap();
        std::thread::sleep(Duration::from_secs(30));
        servers[0].inflict(&Fault::Mend).unwrap();
    }
    let status = attempt.wait();
    assert!(status.success(), "{}", attempt.said());
    assert_eq!(ready_nodes(&servers[0]), 1);

    let sent = report(&operator)["nodes"][0]["sentBytes"].as_u64().unwrap();
    println!("sent {sent} of {wanted} bytes");
    assert!(sent <= wanted + wanted / 20, "sent {sent} bytes where {wanted} were needed");
}

fn report(operator: &Operator) -> Value {
    let mut files = fs_err::read_dir(operator.home()).unwrap().flatten();
    let file = files.find(|file| file.file_name().to_string_lossy().starts_with("kdc-report-"));
    serde_json::from_slice(&fs_err::read(file.expect("a report").path()).unwrap()).unwrap()
}
