//! The test pods fetch each other. One `kubectl exec` a node: a small shell program in the pod tries
//! every target, so that n nodes cost n execs and not n².

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Cluster, NAMESPACE, POLL, Pod, manifests, proof};
use crate::wire::Proof;

/// `kubectl exec`s that run at once: each costs this node a process and the API server a stream.
const AT_ONCE: usize = 8;

/// Fetches that one pod makes at once: it has 64 MiB.
const IN_POD: usize = 16;

/// How long one fetch may take in the pod; the same number stands in [`FETCH`].
const FETCH_SECS: usize = 5;

/// How long the exec itself may take.
const EXEC_SECS: usize = 20;

/// Tries of what does not answer yet: rules for a new Service and DNS records take a moment.
const TRIES: u32 = 5;

/// Fetches each argument, and says in a line: which, how `wget` ended, the answer's first line.
/// `wget -T` is broken in some builds of busybox, so a second process ends a fetch that hangs.
const FETCH: &str = "\
one() {
  wget -q -O - \"http://$1/\" > \"/tmp/a.$2\" 2>&1 < /dev/null & fetch=$!
  (sleep 5; kill $fetch) > /dev/null 2>&1 < /dev/null & end=$!
  wait $fetch; code=$?
  kill $end 2> /dev/null
  answer=; read -r answer < \"/tmp/a.$2\"
  echo \"$1 $code $answer\"
}
number=0
for target; do
  one \"$target\" $number &
  number=$((number + 1))
  [ $((number % 16)) -ne 0 ] || wait
done
wait";

/// Which fetches are claimed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Every other node's pod.
    pub(super) pods: bool,
    /// The Service by name.
    pub(super) service: bool,
}

impl Wanted {
    pub(super) fn any(self) -> bool {
        self.pods || self.service
    }
}

/// What the pod of one node should fetch.
struct Errand {
    pod: String,
    fetches: Vec<Fetch>,
}

struct Fetch {
    claim: String,
    /// Host and port.
    target: String,
    /// Node names that may answer.
    answers: Vec<String>,
}

impl Cluster<'_> {
    /// What is claimed, from the pod of every node; proofs in the nodes' order.
    pub(super) fn fetch_all(&self, pods: &BTreeMap<String, Pod>, wanted: Wanted) -> Vec<Proof> {
        let errands: Vec<Errand> =
            pods.iter().map(|(from, pod)| errand(from, pod, pods, wanted)).collect();
        let next = AtomicUsize::new(0);
        let made: Mutex<BTreeMap<usize, Vec<Proof>>> = Mutex::default();
        let keep = |place, proofs| {
            let mut made = made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            made.insert(place, proofs);
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(errands.len()) {
                scope.spawn(|| {
                    while let Some((place, errand)) = {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        errands.get(place).map(|errand| (place, errand))
                    } {
                        keep(place, self.run_errand(errand));
                    }
                });
            }
        });
        let made = made.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.into_values().flatten().collect()
    }

    /// Try, and try again what failed.
    fn run_errand(&self, errand: &Errand) -> Vec<Proof> {
        let mut results: Vec<Result<String, String>> =
            errand.fetches.iter().map(|_| Err("it was not tried".to_owned())).collect();
        for attempt in 0..TRIES {
            let open = || errand.fetches.iter().zip(&results).filter(|(_, made)| made.is_err());
            let targets: Vec<&str> = open().map(|(fetch, _)| &*fetch.target).collect();
            if targets.is_empty() || (attempt > 0 && self.over()) {
                break;
            }
            if attempt > 0 {
                self.host.sleep(POLL);
            }
            let said = self.exec(&errand.pod, &targets);
            for (fetch, result) in errand.fetches.iter().zip(&mut results) {
                if result.is_err() {
                    *result =
                        said.as_ref().map_err(Clone::clone).and_then(|said| fetch.judge(said));
                }
            }
        }
        let told = |(fetch, result): (&Fetch, Result<String, String>)| {
            let result = result.map_err(|why| format!("http://{}/: {why}", fetch.target));
            proof(fetch.claim.clone(), result)
        };
        errand.fetches.iter().zip(results).map(told).collect()
    }

    /// One look from inside a pod: how each fetch ended and what it brought, by target.
    fn exec(&self, pod: &str, targets: &[&str]) -> Result<BTreeMap<String, (i32, String)>, String> {
        let secs = EXEC_SECS + FETCH_SECS * targets.len().div_ceil(IN_POD);
        let program = Self::kubectl(&["exec", "-n", NAMESPACE, pod, "--", "sh", "-c", FETCH, "sh"])
            .args(targets.iter().copied())
            .within_secs(secs as u64);
        match self.host.run(&program) {
            Ok(output) if output.good() => Ok(parse_answers(&output.text())),
            Ok(output) => Err(output.tail()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn errand(from: &str, pod: &Pod, pods: &BTreeMap<String, Pod>, wanted: Wanted) -> Errand {
    let mut fetches: Vec<Fetch> = Vec::new();
    for (to, target) in pods.iter().filter(|(to, _)| wanted.pods && *to != from) {
        fetches.push(Fetch {
            claim: format!("pod on {from} reaches pod on {to}"),
            target: format!("{}:{}", bracketed(&target.address), manifests::PORT),
            answers: vec![to.clone()],
        });
    }
    if wanted.service {
        let service = format!("{}.{NAMESPACE}", manifests::SERVICE);
        fetches.push(Fetch {
            claim: format!("pod on {from} reaches Service {service} by name"),
            target: service,
            answers: pods.keys().cloned().collect(),
        });
    }
    Errand { pod: pod.name.clone(), fetches }
}

impl Fetch {
    fn judge(&self, said: &BTreeMap<String, (i32, String)>) -> Result<String, String> {
        match said.get(&self.target) {
            Some((0, answer)) if self.answers.contains(answer) => {
                Ok(format!("answered by {answer}"))
            }
            Some((0, answer)) => {
                Err(format!("an unexpected answer: `{}`", answer.escape_default()))
            }
            // Ended by the second process: 128 and SIGTERM.
            Some((143, _)) => Err(format!("no answer within {FETCH_SECS} s")),
            Some((code, said)) => Err(format!("wget ended with {code}: {}", said.escape_default())),
            None => Err("the pod said nothing about it".to_owned()),
        }
    }
}

/// Lines `target code answer`; anything else is left out, and so are then the proofs it was for.
fn parse_answers(text: &str) -> BTreeMap<String, (i32, String)> {
    let answer = |line: &str| {
        let (target, rest) = line.split_once(' ')?;
        let (code, answer) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((target.to_owned(), (code.parse().ok()?, answer.trim().to_owned())))
    };
    text.lines().filter_map(answer).collect()
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(names: &[&str]) -> BTreeMap<String, Pod> {
        let pod = |(place, name): (usize, &&str)| {
            let pod = Pod { name: format!("web-{name}"), address: format!("10.244.{place}.7") };
            ((*name).to_owned(), pod)
        };
        names.iter().enumerate().map(pod).collect()
    }

    fn claims(wanted: Wanted) -> Vec<String> {
        let pods = pods(&["cp1", "w1"]);
        let errand = errand("cp1", &pods["cp1"], &pods, wanted);
        errand.fetches.into_iter().map(|fetch| fetch.claim).collect()
    }

    #[test]
    fn only_what_is_claimed_is_fetched() {
        let by_name = "pod on cp1 reaches Service kdc-acceptance.kdc-acceptance by name";
        let to_pod = "pod on cp1 reaches pod on w1";
        assert_eq!(claims(Wanted { pods: true, service: true }), [to_pod, by_name]);
        assert_eq!(claims(Wanted { pods: true, service: false }), [to_pod]);
        assert_eq!(claims(Wanted { pods: false, service: true }), [by_name]);
    }

    #[test]
    fn each_answer_is_judged_by_who_gave_it_and_silence_is_none() {
        let fetch = Fetch {
            claim: String::new(),
            target: "10.244.1.7:8080".to_owned(),
            answers: vec!["w1".to_owned()],
        };
        for (said, wanted) in [
            ("10.244.1.7:8080 0 w1\n", Ok("answered by w1")),
            ("x 0 w1\n10.244.1.7:8080 0 w2\n", Err("an unexpected answer: `w2`")),
            ("10.244.1.7:8080 143 \n", Err("no answer within 5 s")),
            ("10.244.1.7:8080 1 wget: bad address\n", Err("wget ended with 1: wget: bad address")),
            ("10.244.1.7:8080\n", Err("the pod said nothing about it")),
            ("", Err("the pod said nothing about it")),
        ] {
            let judged = fetch.judge(&parse_answers(said));
            assert_eq!(judged.as_deref().map_err(|why| &**why), wanted, "{said}");
        }
    }

    /// The real shell with a `wget` of ours: all are tried, and one that hangs keeps no other up.
    #[test]
    fn the_pods_program_tells_every_target_even_where_one_hangs() {
        use crate::host::{Host as _, Program, SystemHost};
        let folder = tempfile::tempdir().unwrap();
        let wget = "#!/bin/sh\ncase \"$4\" in\n*hangs*) exec sleep 60;;\n*bad*) echo no >&2; exit 1;;\n\
                    *) echo \"$4\";;\nesac\n";
        let path = folder.path().join("wget");
        fs_err::write(&path, wget).unwrap();
        fs_err::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let script = FETCH.replace("/tmp/a.", &format!("{}/a.", folder.path().display()));
        assert_ne!(script, FETCH);
        let many: Vec<String> = (0..40).map(|number| format!("n{number}")).collect();
        let program = Program::new("sh").args(["-c", &script, "sh"]).args(many.iter().cloned());
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let program = program.args(["bad", "hangs"]).env("PATH", &path).within_secs(50);
        let said = parse_answers(&SystemHost::new().run_checked(&program).unwrap().text());
        assert_eq!(said.len(), 42);
        assert_eq!(said["n39"], (0, "http://n39/".to_owned()));
        assert_eq!(said["bad"], (1, "no".to_owned()));
        assert_eq!(said["hangs"].0, 143);
    }
}
