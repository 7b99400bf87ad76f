//! What is refused before anything changes: bad servers, bad files, a bad bundle; each with who and what to do.
//!
//! One lab and one machine for all cases. Every case breaks something, sees `kdc-install` refuse it by name, sees
//! that no node was changed, and mends it; at the end the host differ looks for anything that all of them left.

mod kit;

use std::{
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use kdc_tests::{
    differ::{Snapshot, diff},
    lab::{LightServer, Wanted},
    machine::{Hardware, Machine},
    operator::{Bundle, Operator, checkout},
    server::{Fault, Server},
};
use kit::{TestLab, sh};

/// What every case works on.
struct Stage<'a> {
    lab: &'a TestLab,
    servers: &'a [LightServer],
    machine: &'a Machine,
}

type Case = (&'static str, fn(&Stage<'_>) -> Result<()>);

/// The first two want servers that no login has touched.
const CASES: &[Case] = &[
    ("a bundle with one byte flipped", flipped_byte),
    ("a changed host key", changed_host_key),
    ("nobody to ask", nobody_to_ask),
    ("a full disk", full_disk),
    ("a foreign containerd", foreign_containerd),
    ("a foreign docker", foreign_docker),
    ("two servers of one host name", same_hostname),
    ("an address twice in the file", same_address_in_the_file),
    ("an address that two servers have", same_address_on_servers),
    ("an address that is another's", foreign_address),
    ("no resolv.conf", no_resolver),
    ("no sudo on the server", no_sudo),
    ("sudo that wants a password, and nobody to ask", sudo_without_password),
    ("no folder that may execute the agent", noexec),
    ("ten mistakes in a cluster file", ten_mistakes),
    ("a licence for fewer nodes", licence_for_fewer),
    ("a licence that was changed", changed_licence),
    ("a clock ten minutes off", clock_off),
    ("swap that is on", swap_on),
];

#[test]
fn what_is_wrong_is_refused_by_name_before_anything_changes() -> Result<()> {
    // Sparse: a disk of its own, so that one server's can be full.
    let lab = TestLab::up("refuse", 3, |wanted: &mut Wanted| wanted.disk_mib = Some(16 * 1024));
    let machine = Machine::restore(lab.state(), "vm1", 241, Hardware::default())?;
    let servers = lab.servers()?;
    let before = servers.iter().map(|server| Snapshot::of(server)).collect::<Result<Vec<_>>>()?;
    let stage = Stage { lab: &lab, servers: &servers, machine: &machine };
    let mut wrong = Vec::new();
    for (name, case) in CASES {
        let start = Instant::now();
        if let Err(error) = case(&stage).and_then(|()| stage.is_untouched(false)) {
            wrong.push(format!("{name}: {error:#}"));
        }
        eprintln!("{name}: {:.1?}", start.elapsed());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    for (server, before) in servers.iter().zip(&before) {
        let left = diff(before, &Snapshot::of(server)?);
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert_eq!(left, Vec::<String>::new(), "left on {}", server.name());
    }
    Ok(())
}

/// What `kdc-install` said when it refused.
struct Refusal {
    code: i32,
    said: String,
}

impl Refusal {
    /// It ended with this exit status and said each of these words.
    fn must(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == code, "exit {} instead of {code}:\n{}", self.code, self.said);
        for word in words {
            ensure!(self.said.contains(word), "`{word}` is not said:\n{}", self.said);
        }
        Ok(())
    }
}

impl Stage<'_> {
    /// An operator who wants the three light servers.
    fn operator(&self) -> Result<Operator> {
        let nodes: Vec<&dyn Server> = self.servers.iter().map(|server| server as _).collect();
        Operator::new(self.lab, "cluster", &nodes)
    }

    /// An operator who wants two light servers and the machine.
    fn operator_with_machine(&self) -> Result<Operator> {
        let nodes: [&dyn Server; 3] = [&self.servers[0], &self.servers[1], self.machine];
        Operator::new(self.lab, "cluster", &nodes)
    }

    /// No server has anything of kdc but what `check` stages in memory.
    fn is_untouched(&self, with_machine: bool) -> Result<()> {
        const LEFT: &str = "ls -d /var/lib/kdc /etc/kdc /usr/local/bin/kdc-agent /var/lib/containerd \
             /etc/kubernetes /var/lib/kubelet 2>/dev/null; systemctl list-units --all --plain --no-legend 'kdc-*'";
        // The machine takes a second to answer: cases that it has no part in don't ask it.
        let machine = with_machine.then_some(self.machine as &dyn Server);
        for server in self.servers.iter().map(|server| server as &dyn Server).chain(machine) {
            let left = server.exec(&["sh", "-c", LEFT])?.stdout_text();
            ensure!(left.trim().is_empty(), "{} was changed: {left}", server.name());
        }
        Ok(())
    }

    /// Nobody logged in to a server, and nothing was staged there.
    fn is_unseen(&self, server: &dyn Server) -> Result<()> {
        let seen = sh(server, "journalctl -q -o cat | grep Accepted; ls -d /dev/shm/kdc-* || true");
        ensure!(seen.trim().is_empty(), "{} was logged in to: {seen}", server.name());
        Ok(())
    }
}

/// What `apply` says.
fn apply(operator: &Operator) -> Result<Refusal> {
    refusal(operator, &operator.with_bundle(&["apply", "--output", "plain", "--yes"]))
}

fn refusal(operator: &Operator, arguments: &[String]) -> Result<Refusal> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = operator.run(&words)?;
    Ok(Refusal { code: output.code, said: output.stdout_text() + &output.stderr_text() })
}

/// Checks that `check` and `apply` both refuse with these words.
fn refused(operator: &Operator, code: i32, words: &[&str]) -> Result<()> {
    refusal(operator, &operator.with_bundle(&["check"]))?.must(code, words).context("check")?;
    apply(operator)?.must(code, words).context("apply")
}

/// Breaks a server, runs the work, and mends the server whatever came of it.
fn broken(
    server: &dyn Server,
    breaks: &str,
    mends: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    sh(server, breaks);
    let result = work();
    sh(server, mends);
    result
}

/// The cluster file with one text in place of another, everywhere.
fn edit(operator: &Operator, from: &str, to: &str) -> Result<()> {
    let text = fs_err::read_to_string(operator.cluster_file())?;
    ensure!(text.contains(from), "the cluster file has no `{from}`:\n{text}");
    Ok(fs_err::write(operator.cluster_file(), text.replace(from, to))?)
}

fn flipped_byte(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let bad = operator.home().join("bad.kdc");
    let Bundle { file, key, .. } = operator.bundle();
    fs_err::copy(file, &bad)?;
    let mut copy = fs_err::OpenOptions::new().read(true).write(true).open(&bad)?;
    let middle = copy.metadata()?.len() / 2;
    let mut byte = [0];
    copy.seek(SeekFrom::Start(middle))?;
    copy.read_exact(&mut byte)?;
    copy.seek(SeekFrom::Start(middle))?;
    copy.write_all(&[byte[0] ^ 1])?;
    let (bad, key) = (bad.display().to_string(), key.display().to_string());
    for command in ["check", "apply"] {
        let mut words = vec![command, "--bundle", &bad, "--key", &key];
        if command == "apply" {
            words.push("--yes");
        }
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        refusal(&operator, &words)?.must(3, &["BDL-001", "bad.kdc"]).context(command)?;
    }
    stage.servers.iter().try_for_each(|server| stage.is_unseen(server))
}

fn changed_host_key(stage: &Stage<'_>) -> Result<()> {
    let (operator, server) = (stage.operator()?, &stage.servers[1]);
    let breaks = "cd /etc/ssh; cp -a ssh_host_ed25519_key /run/old; cp -a ssh_host_ed25519_key.pub /run/old.pub; \
        rm ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key; systemctl restart ssh";
    let mends = "cd /etc/ssh; mv /run/old ssh_host_ed25519_key; mv /run/old.pub ssh_host_ed25519_key.pub; \
        systemctl restart ssh";
    broken(server, breaks, mends, || {
        refused(&operator, 3, &["SSH-011", "node2", "SHA256:"])?;
        stage.is_unseen(server)
    })
}

fn nobody_to_ask(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let words = operator.with_bundle(&["apply", "--output", "plain", "-vv"]);
    let said = ["KDC-014", "`apply` asks", "add `--yes`", "logged in", "answered"];
    refusal(&operator, &words)?.must(2, &said)
}

/// A licence that the tests' key signed; debug builds take it.
fn issue(operator: &Operator, nodes: &str) -> Result<PathBuf> {
    let (key, file) = (checkout().join("tests/license/test.key"), operator.home().join("l.json"));
    let (key, name) = (key.display().to_string(), file.display().to_string());
    let words = ["license", "issue", "--customer", "T", "--days", "9", "--max-nodes", nodes];
    let output = operator.run(&[&words[..], &["--key", &key, "-o", &name]].concat())?;
    ensure!(output.succeeded(), "{}", output.stderr_text());
    edit(operator, "spec:\n", "spec:\n  license:\n    file: l.json\n")?;
    Ok(file)
}

fn planned(operator: &Operator) -> Result<Refusal> {
    refusal(operator, &operator.with_bundle(&["plan", "--output", "plain"]))
}

fn licence_for_fewer(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    issue(&operator, "2")?;
    let words = [
        "KDC-034",
        "3 nodes would count, and the licence is for 2",
        "new: `node1`, `node2`, `node3`",
        "everything that runs goes on; removing nodes",
    ];
    planned(&operator)?.must(3, &words).context("plan")?;
    apply(&operator)?.must(3, &words).context("apply")
}

/// What isn't good lets nothing in and locks nobody out: the trial goes on, and the plan says why.
fn changed_licence(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let file = issue(&operator, "2")?;
    let text = fs_err::read_to_string(&file)?;
    fs_err::write(&file, text.replacen("\"sig\":\"", "\"sig\":\"A", 1))?;
    let words =
        ["Licence\n  invalid: the licence file that was given is not good", "the trial runs"];
    planned(&operator)?.must(0, &words)
}

fn full_disk(stage: &Stage<'_>) -> Result<()> {
    let (operator, server) = (stage.operator()?, &stage.servers[2]);
    server.inflict(&Fault::Fill)?;
    let result = refused(&operator, 3, &["KDC-011", "node3", "disk", "/var/lib", "free"]);
    server.inflict(&Fault::Unfill)?;
    result
}

fn foreign_containerd(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let breaks = "cp -p /usr/bin/sleep /usr/bin/containerd; \
        printf '[Service]\\nExecStart=/usr/bin/containerd 1000000\\n' > /etc/systemd/system/containerd.service; \
        systemctl daemon-reload; systemctl start containerd";
    let mends = "systemctl stop containerd; rm /usr/bin/containerd /etc/systemd/system/containerd.service; \
        systemctl daemon-reload";
    let words = [
        "node2",
        "foreign-software",
        "/usr/bin/containerd",
        "process containerd runs",
        "remove containerd",
    ];
    broken(&stage.servers[1], breaks, mends, || refused(&operator, 3, &words))
}

fn foreign_docker(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let words = ["node3", "foreign-software", "/usr/bin/dockerd", "remove docker"];
    broken(&stage.servers[2], "cp -p /bin/true /usr/bin/dockerd", "rm /usr/bin/dockerd", || {
        refused(&operator, 3, &words)
    })
}

fn same_hostname(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let words = ["node1", "node2", "fleet-hostname", "hostnamectl set-hostname"];
    broken(&stage.servers[1], "hostname node1", "hostname node2", || refused(&operator, 3, &words))
}

fn same_address_in_the_file(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let [one, two] = [0, 1].map(|number: usize| stage.servers[number].address().to_string());
    edit(&operator, &two, &one)?;
    refused(&operator, 2, &["cluster.yaml:", "spec.nodes[1].address", &one, "spec.nodes[0]"])
}

fn same_address_on_servers(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let two = stage.servers[1].address();
    let breaks = format!("ip addr add {two}/32 dev lo");
    let mends = format!("ip addr del {two}/32 dev lo");
    let words = ["node1", "node2", "fleet-address", &two.to_string()];
    broken(&stage.servers[0], &breaks, &mends, || refused(&operator, 3, &words))
}

fn foreign_address(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let [a, b, c] = stage.lab.state().subnet;
    let (own, other) = (stage.servers[2].address().to_string(), format!("{a}.{b}.{c}.77"));
    let config = operator.home().join(".ssh");
    fs_err::create_dir_all(&config)?;
    fs_err::write(config.join("config"), format!("Host {other}\n  HostName {own}\n"))?;
    edit(&operator, &own, &other)?;
    refused(&operator, 3, &["node3", "fleet-address", &other, &own, "HostName"])
}

fn no_resolver(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    let (breaks, mends) = ("mv /etc/resolv.conf /etc/away", "mv /etc/away /etc/resolv.conf");
    let words = ["node1", "resolver", "nameserver"];
    broken(&stage.servers[0], breaks, mends, || refused(&operator, 3, &words))
}

fn no_sudo(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    edit(&operator, "user: root", "user: deploy")?;
    broken(
        &stage.servers[1],
        "mv /usr/bin/sudo /usr/bin/sudo.away",
        "mv /usr/bin/sudo.away /usr/bin/sudo",
        || refused(&operator, 3, &["SSH-025", "node2", "sudo"]),
    )
}

fn sudo_without_password(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    edit(&operator, "user: root", "user: ops")?;
    refused(&operator, 3, &["SSH-026", "node1", "node2", "node3", "terminal"])
}

fn noexec(stage: &Stage<'_>) -> Result<()> {
    let (operator, server) = (stage.operator()?, &stage.servers[2]);
    // What was staged there before is found again where it may execute, so over it all.
    let breaks = "for at in /dev/shm /var/tmp /tmp /root; do \
        mount --bind $at $at; mount -o remount,bind,noexec $at; done";
    let mends = "umount /dev/shm /var/tmp /tmp /root; rm -rf /root/kdc-0";
    broken(server, breaks, mends, || refused(&operator, 3, &["SSH-031", "node3", "noexec"]))
}

const MISTAKEN: &str = "\
apiVersion: kdc.dev/v2
kind: Cluster
metadata: {name: Test}
spec:
  profil: cluster
  distribution: kubeadmin
  nodes:
    - {name: cp1, role: mster, address: 10.0.0.1}
    - {name: cp1, role: worker, address: 10.0.0.2}
    - {name: W_3, role: worker, adress: 10.0.0.3}
    - {name: w4, role: worker, address: 10.0.0.4000}
  network:
    podCIDR: 10.96.0.0/33
  settings:
    parallel: 0
";

/// Line and field of each mistake above.
const MISTAKES: &[(u32, &str)] = &[
    (1, "apiVersion"),
    (3, "metadata.name"),
    (5, "spec.profil"),
    (6, "spec.distribution"),
    (8, "spec.nodes[0].role"),
    (9, "spec.nodes[1].name"),
    (10, "spec.nodes[2].name"),
    (10, "spec.nodes[2].adress"),
    (11, "spec.nodes[3].address"),
    (13, "spec.network.podCIDR"),
    (15, "spec.settings.parallel"),
];

fn ten_mistakes(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator()?;
    fs_err::write(operator.cluster_file(), MISTAKEN)?;
    let refusal = apply(&operator)?;
    refusal.must(2, &["KDC-003"])?;
    for (line, field) in MISTAKES {
        let place = format!("cluster.yaml:{line}: {field}: ");
        let told = refusal.said.lines().find(|told| told.contains(&place));
        let told = told.with_context(|| format!("`{place}` is not told:\n{}", refusal.said))?;
        ensure!(told.contains("expected"), "it doesn't say what would be right: {told}");
    }
    Ok(())
}

fn clock_off(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator_with_machine()?;
    stage.machine.set_clock(600)?;
    let result = refused(&operator, 3, &["vm1", "fleet-clock", "set the clock"]);
    stage.machine.set_clock(0)?;
    result.and_then(|()| stage.is_untouched(true))
}

fn swap_on(stage: &Stage<'_>) -> Result<()> {
    let operator = stage.operator_with_machine()?;
    let breaks =
        "fallocate -l 64M /swapfile; chmod 600 /swapfile; mkswap -q /swapfile; swapon /swapfile";
    let words = ["vm1", "swap", "/swapfile", "swapoff -a", "disableSwap"];
    broken(stage.machine, breaks, "swapoff /swapfile; rm /swapfile", || {
        refused(&operator, 3, &words)
    })?;
    stage.is_untouched(true)
}
