//! The command line as an operator meets it: help, errors, exit codes; no node is touched.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use kdc_tests::{
    operator::{built, checkout},
    workspace::rust_files,
};

/// Addresses made for documentation, all of them led to a closed port of this machine.
const SSH_CONFIG: &str = "Host 192.0.2.*\n  HostName 127.0.0.1\n  Port 1\n";

/// An empty folder to be in, as the home of nobody in particular.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        fs_err::create_dir(desk.path(".ssh")).unwrap();
        desk.write(".ssh/config", SSH_CONFIG);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs_err::write(self.path(name), text).unwrap();
        self
    }

    /// Exit code, stdout and stderr of `kdc-install` with these arguments.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_program(&built("kdc-install").unwrap(), arguments)
    }

    fn run_program(&self, program: &Path, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).env_clear();
        let output = command.env("HOME", self.0.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// As [`Desk::run`], for a command that has to fail: its exit code and stderr.
    fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(stdout, "", "data of a command that failed: {arguments:?}");
        (code, stderr)
    }
}

const ONE_NODE: &str = "\
apiVersion: kdc.dev/v1
kind: Cluster
metadata: {name: demo}
spec:
  profile: single
  nodes:
    - {name: cp1, role: control-plane, address: 192.0.2.1}
";

const COMMANDS: &[&[&str]] = &[
    &[],
    &["init"],
    &["check"],
    &["plan"],
    &["apply"],
    &["up"],
    &["status"],
    &["audit"],
    &["audit", "show"],
    &["audit", "verify"],
    &["audit", "export"],
    &["undo"],
    &["kubeconfig"],
    &["completions"],
    &["man"],
    &["bundle"],
    &["bundle", "key", "new"],
    &["bundle", "lock"],
    &["bundle", "create"],
    &["bundle", "verify"],
    &["bundle", "inspect"],
    &["license"],
    &["license", "install"],
    &["license", "status"],
    &["license", "explain"],
    &["license", "export"],
    &["license", "remove"],
    &["license", "keygen"],
    &["license", "issue"],
    &["license", "inspect"],
    &["license", "verify"],
    &["license", "revoke"],
];

#[test]
fn every_help_fits_100_columns_and_has_an_example() {
    let desk = Desk::new();
    for command in COMMANDS {
        for flag in ["--help", "-h"] {
            let (code, help, _) = desk.run(&[command, &[flag][..]].concat());
            assert_eq!(code, 0, "{command:?}");
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{command:?}: {line}");
            }
        }
        let (_, help, _) = desk.run(&[command, &["--help"][..]].concat());
        let teaches = help.contains("Example") || help.contains("kdc-install completions bash");
        assert!(teaches || command.ends_with(&["man"]), "{command:?} has no example:\n{help}");
    }
}

#[test]
fn the_short_help_is_the_list_of_commands() {
    let (_, help, _) = Desk::new().run(&["-h"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let all = "init check plan apply up status gpu audit undo kubeconfig license bundle completions man help";
    assert_eq!(names.join(" "), all);
}

#[test]
fn a_cluster_file_with_ten_mistakes_shows_all_ten() {
    let desk = Desk::new();
    desk.write(
        "cluster.yaml",
        "\
apiVersion: kdc.dev/v2
kind: Clutser
metadata: {name: Demo_1}
spec:
  profile: singel
  distribution: kubeadmin
  nodes:
    - {name: CP_1, role: master, address: 10.0.0.300}
    - {name: w1, role: worker, address: 10.0.0.12, ssh: {prot: 22}}
  network: {podCIDR: 10.244.0.0/33}
",
    );
    for command in ["check", "status", "undo", "plan"] {
        let (code, said) = desk.fail(&[command, "--bundle", "none.bundle"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.starts_with("error[KDC-003]: cluster.yaml:1: "), "{said}");
        let problems =
            said.lines().filter(|line| line.contains("cluster.yaml:") && line.contains("expected"));
        assert!(problems.count() >= 10, "{command}:\n{said}");
        assert!(said.contains("\nhint: "), "{said}");
    }
}

#[test]
fn what_an_operator_gets_wrong_ends_with_2_and_says_what_to_do() {
    let desk = Desk::new();
    let worker = "    - {name: w1, role: worker, address: 192.0.2.2}\n";
    let two = ONE_NODE.replace("single", "cluster") + worker;
    desk.write("cluster.yaml", ONE_NODE).write("two.yaml", &two).write("plan.json", "{}");
    for (arguments, says) in [
        (&["init", "-f", "no/such/folder/c.yaml"][..], "error[KDC-002]: can't write"),
        (&["man", "cluster.yaml/pages"], "error[KDC-002]: can't write"),
        (&["init", "--name", "My Site", "-f", "x"], "error: invalid value 'My Site' for '--name"),
        (&["up", "--name", "-a"], "error: "),
        (&["init", "--worker", "10.0.0.2", "-f", "x"], "error: the following required arguments"),
        (&["check", "-f", "none.yaml"], "error[KDC-003]: can't read `none.yaml`"),
        (&["up", "--host", "root@"], "error[KDC-004]: `root@` is not a host"),
        (&["init", "--control-plane", "10.0.0.1:ssh", "-f", "x"], "error[KDC-004]"),
        (&["plan"], "error[KDC-005]: which bundle? `plan` needs one"),
        (&["apply"], "error[KDC-005]: which bundle? `apply` needs one"),
        (&["up"], "error[KDC-005]: which bundle? `up` needs one"),
        (&["apply", "none.json"], "error[KDC-009]: plan file `none.json`"),
        (&["apply", "plan.json"], "error[KDC-009]: `plan.json` is not a plan"),
        (&["undo"], "error[KDC-014]: `undo` asks before it goes ahead"),
        (&["undo", "--only", "w9"], "error[KDC-016]: the cluster file has no node `w9`"),
        (&["status", "--local", "-f", "two.yaml"], "error[KDC-030]: `--local` is for"),
        (&["init"], "error[KDC-017]: `cluster.yaml` is there already"),
        (&["audit", "verify", "x.audit", "--public-keys", "none"], "error[KDC-036]: `none` can't"),
        (&["audit", "verify", "x.audit"], "error: the following required arguments"),
        (&["check", "--bundle", "none.bundle"], "error[BDL-002]"),
        (&["apply", "--parallel", "0"], "error: invalid value '0' for '--parallel <N>'"),
        (&["aply"], "error: unrecognized subcommand 'aply'"),
    ] {
        let (code, said) = desk.fail(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.starts_with(says), "{arguments:?}: {said}");
        let hints = said.contains("\nhint: ") || said.contains("For more information");
        assert!(hints, "{arguments:?} has no hint: {said}");
    }
}

#[test]
fn an_error_is_code_cause_and_hint() {
    let (_, said) = Desk::new().fail(&["check", "-f", "none.yaml"]);
    insta::assert_snapshot!(said, @r"
    error[KDC-003]: can't read `none.yaml`
    cause: failed to open file `none.yaml`: No such file or directory (os error 2)
    hint: check the path `none.yaml`; `kdc-install init` writes a cluster file to start from
    ");
}

#[test]
fn a_node_that_refuses_is_named_and_nothing_was_changed() {
    let desk = Desk::new();
    desk.write("cluster.yaml", ONE_NODE);
    let (code, said) = desk.fail(&["check", "--output", "plain"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("node `cp1` (root@127.0.0.1:1): connection refused"), "{said}");
    let sum = "error[KDC-010]: 1 of 1 node(s) can't be worked with; nothing was changed";
    assert!(said.contains(sum), "{said}");
}

#[test]
fn with_json_an_error_is_a_line_with_its_version_too() {
    let desk = Desk::new();
    desk.write("cluster.yaml", ONE_NODE);
    let (code, out, _) = desk.run(&["check", "--output", "json"]);
    assert_eq!(code, 3);
    let lines: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{out}");
    assert_eq!((&lines[0]["v"], &lines[0]["event"]), (&1.into(), &"error".into()), "{out}");
    assert_eq!(lines[0]["code"], "KDC-010");
    assert_eq!(lines[0]["exit"], "refused");
    assert_eq!(lines[0]["parts"].as_array().unwrap().len(), 1);
}

#[test]
fn without_a_bundle_the_agent_beside_the_program_looks() {
    let desk = Desk::new();
    desk.write("cluster.yaml", ONE_NODE);
    let alone = desk.path("kdc-install");
    fs_err::copy(built("kdc-install").unwrap(), &alone).unwrap();
    let (code, _, said) = desk.run_program(&alone, &["check"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.starts_with("error[KDC-007]: can't read the agent"), "{said}");
    assert!(said.contains("give `--bundle FILE`"), "{said}");
}

#[test]
fn a_bundle_that_is_no_file_or_has_no_agent_is_told_before_any_node_is_reached() {
    let desk = Desk::new();
    desk.write("cluster.yaml", ONE_NODE).write("tool", "#!/bin/sh\n").write(
        "bundle.yaml",
        "apiVersion: kdc.dev/v1\nkind: BundleDefinition\nmetadata: {name: t, version: \"1\"}\n\
         artifacts:\n- {name: tool, kind: binary, platform: linux/amd64, source: {path: tool}}\n",
    );
    let (code, _, said) = desk.run(&["bundle", "key", "new", "-o", "k", "--unencrypted"]);
    assert_eq!(code, 0, "{said}");
    let create = ["bundle", "create", "-f", "bundle.yaml", "-o", "t.kdc", "--key", "k"];
    assert_eq!(desk.run(&create).0, 0);
    fs_err::create_dir(desk.path("empty")).unwrap();
    for (bundle, key, code, says) in [
        ("t.kdc", "k.pub", 3, "error[KDC-006]: the bundle has no `kdc-agent` for linux/"),
        ("none.kdc", "k.pub", 2, "error[BDL-007]: the bundle `none.kdc` can't be opened"),
        // The folder has the same bundle and no other.
        (".", "k.pub", 3, "error[KDC-006]: the bundle has no `kdc-agent` for linux/"),
        ("empty", "k.pub", 2, "error[BDL-010]: no bundle in `empty`"),
        ("t.kdc", "none.pub", 2, "error[BDL-002]: the public key can't be read"),
    ] {
        let (ended, said) = desk.fail(&["apply", "--bundle", bundle, "--key", key]);
        assert!(ended == code && said.contains(says), "{bundle}: {ended}: {said}");
        assert!(said.contains("\nhint: ") && !said.contains("connecting"), "{said}");
    }
}

#[test]
fn a_machine_that_is_out_of_file_descriptors_is_told_as_its_own_fault() {
    let desk = Desk::new();
    let program = built("kdc-install").unwrap().display().to_string();
    let script = format!("ulimit -n 4; exec {program} check");
    let (code, _, said) = desk.run_program(Path::new("/bin/sh"), &["-c", &script]);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("error[KDC-001]: kdc-install can't work here\ncause: "), "{said}");
}

/// `license issue` at a vendor's desk.
fn issue(desk: &Desk, more: &[&str]) -> (i32, String, String) {
    let usual = ["license", "issue", "--key", "v.key", "--customer", "Example GmbH"];
    desk.run(&[&usual, more].concat())
}

/// A vendor's desk: a key, and a licence for three nodes.
fn vendor() -> Desk {
    let desk = Desk::new();
    let (code, said, _) = desk.run(&["license", "keygen", "-o", "v.key", "--unencrypted"]);
    assert!(code == 0 && said.contains("built in: KDC_LICENSE_KEYS=RW"), "{said}");
    let (code, said, _) = issue(&desk, &["--max-nodes", "3", "--days", "365", "-o", "l.json"]);
    assert!(code == 0 && said.contains("nodes          3\n"), "{said}");
    desk
}

#[test]
fn a_vendor_makes_a_key_and_a_licence_that_others_prove_and_nobody_changes() {
    let desk = vendor();
    let verify = ["license", "verify", "l.json", "--key", "v.key.pub", "--output", "json"];
    let (code, shown, said) = desk.run(&verify);
    assert_eq!(code, 0, "{said}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["proved"], &shown["license"]["maxNodes"]), (&true.into(), &3.into()));
    assert_eq!(shown["license"]["customer"], "Example GmbH");
    let (code, shown, said) = desk.run(&["license", "inspect", "l.json"]);
    assert!(code == 0 && shown.contains("signature      NOT checked"), "{shown}");
    assert!(said.contains("nothing was proved"), "{said}");
    // One licence more is a new file, and a newer serial.
    let (code, _, said) = issue(&desk, &["--max-nodes", "4", "--days", "9", "-o", "l.json"]);
    assert!(code == 2 && said.starts_with("error[LIC-005]: `l.json` is there already"), "{said}");
    let text = fs_err::read_to_string(desk.path("l.json")).unwrap();
    desk.write("changed.json", &text.replacen("\"payload\":\"e", "\"payload\":\"f", 1));
    desk.write("strange.json", "{}");
    assert_eq!(desk.run(&["license", "keygen", "-o", "other", "--unencrypted"]).0, 0);
    for (file, key, code, says) in [
        (
            "changed.json",
            "v.key.pub",
            3,
            "error[LIC-001]: the licence `changed.json` is refused\ncause: the signature",
        ),
        (
            "strange.json",
            "v.key.pub",
            3,
            "error[LIC-001]: the licence `strange.json` is refused\ncause: the file is not a licence",
        ),
        (
            "l.json",
            "other.pub",
            3,
            "error[LIC-001]: the licence `l.json` is refused\ncause: the file is signed with the key",
        ),
        ("l.json", "l.json", 2, "error[LIC-003]: a public key can't be used"),
        ("none.json", "v.key.pub", 2, "error[LIC-005]: `none.json` can't be read"),
    ] {
        let (ended, said) = desk.fail(&["license", "verify", file, "--key", key]);
        assert!(ended == code && said.starts_with(says) && said.contains("\nhint: "), "{said}");
    }
}

#[test]
fn a_licence_that_makes_no_sense_is_not_issued() {
    let desk = vendor();
    for (more, says) in [
        (
            &["--max-nodes", "0", "--days", "9", "-o", "x"][..],
            "error[LIC-002]: such a licence can't be issued\ncause: its field `maxNodes`",
        ),
        (&["--max-nodes", "3", "-o", "x"], "error: the following required arguments"),
        (
            &["--days", "9", "--feature", "A B", "-o", "x"],
            "error: invalid value 'A B' for '--feature",
        ),
        (&["--days", "9", "--crit", "moonPhase", "-o", "x"], "error: invalid value 'moonPhase'"),
        (&["--days", "9", "--password-file", "l.json", "-o", "x"], "error[BDL-006]"),
    ] {
        let (code, _, said) = issue(&desk, more);
        assert!(code == 2 && said.starts_with(says), "{more:?}: {said}");
    }
}

#[test]
fn a_list_of_what_is_revoked_grows_and_is_no_licence() {
    let desk = vendor();
    let (code, said) = desk.fail(&["license", "revoke", "--key", "l.json", "--id", "a", "-o", "r"]);
    assert!(code == 2 && said.starts_with("error[LIC-004]"), "{said}");
    let revoke = ["license", "revoke", "--key", "v.key", "--id", "lic-1", "-o", "r.json"];
    assert_eq!(desk.run(&revoke).0, 0);
    let more = [
        "license", "revoke", "--key", "v.key", "--id", "lic-2", "--from", "r.json", "-o", "s.json",
    ];
    let (code, shown, said) = desk.run(&more);
    assert!(code == 0 && shown.contains("revokes 2: lic-1, lic-2"), "{shown}{said}");
    // A list is no licence.
    let (code, said) = desk.fail(&["license", "verify", "r.json", "--key", "v.key.pub"]);
    assert!(code == 3 && said.contains("cause: the signature"), "{said}");
}

const DEFINITION: &str = "\
apiVersion: kdc.dev/v1
kind: BundleDefinition
metadata: {name: site, version: \"1\"}
artifacts:
- {name: tool, kind: binary, platform: linux/amd64, source: {url: {url: \"file://SHARED/tool\"}}}
- {name: settings, kind: file, source: {folder: settings}}
- {name: note, kind: file, source: {path: note.txt}}
";

#[test]
fn two_builders_who_share_only_definition_lock_and_key_make_the_same_bytes() {
    let (shared, one, other) = (Desk::new(), Desk::new(), Desk::new());
    shared.write("tool", "#!/bin/sh\necho tool\n");
    let definition = DEFINITION.replace("SHARED", &shared.0.path().display().to_string());
    let files =
        [("settings/b", "B"), ("settings/a/ä", "A"), ("note.txt", "n"), ("site.yaml", &definition)];
    // Written in the other order, years apart.
    for (desk, year, reverse) in [(&one, 2020, false), (&other, 2031, true)] {
        fs_err::create_dir_all(desk.path("settings/a")).unwrap();
        let mut order: Vec<_> = files.iter().collect();
        if reverse {
            order.reverse();
        }
        for (name, text) in order {
            desk.write(name, text);
            let touched = std::process::Command::new("touch")
                .args(["-d", &format!("{year}-01-02")])
                .arg(desk.path(name))
                .status();
            assert!(touched.unwrap().success());
        }
    }
    assert_eq!(one.run(&["bundle", "key", "new", "-o", "site.key", "--unencrypted"]).0, 0);
    let (code, _, said) = one.run(&["bundle", "lock", "-f", "site.yaml"]);
    assert_eq!(code, 0, "{said}");
    for name in ["site.key", "site.lock.yaml"] {
        fs_err::copy(one.path(name), other.path(name)).unwrap();
    }
    let program = built("kdc-install").unwrap();
    let create =
        format!("{} bundle create -f site.yaml -o kdc.bundle --key site.key", program.display());
    let here = "umask 022; export TZ=UTC LC_ALL=C";
    let there = "umask 077; export TZ=Asia/Tokyo LC_ALL=de_DE.UTF-8";
    for (desk, place) in [(&one, here), (&other, there)] {
        let (code, _, said) =
            desk.run_program(Path::new("/bin/sh"), &["-c", &format!("{place}; exec {create}")]);
        assert_eq!(code, 0, "{said}");
    }
    let bytes = |desk: &Desk| fs_err::read(desk.path("kdc.bundle")).unwrap();
    assert!(bytes(&one) == bytes(&other), "the bundles differ");
}

#[test]
fn init_writes_a_file_that_check_understands() {
    let desk = Desk::new();
    let hosts = ["--control-plane", "ops@192.0.2.1", "--worker", "192.0.2.2"];
    let (code, _, said) = desk.run(&[&["init", "--name", "site"], &hosts[..]].concat());
    assert_eq!(code, 0, "{said}");
    let (code, said) = desk.fail(&["check"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("node `cp1` (ops@127.0.0.1:1): connection refused"), "{said}");
    assert!(said.contains("2 of 2 node(s)"), "{said}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = desk.run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("kubeconfig") && script.contains("parallel"), "{shell}");
    }
    let (code, page, _) = desk.run(&["man"]);
    assert!(code == 0 && page.contains(".TH kdc-install 1"), "{page}");
    let (code, ..) = desk.run(&["man", "pages"]);
    assert!(code == 0 && desk.path("pages/kdc-install-apply.1").exists());
}

/// Codes of the command layer that need a node, a terminal or a failing cluster to be seen: the test
/// that sees each, by file and name.
const SEEN_ELSEWHERE: &[(&str, &str, &str)] = &[
    ("KDC-008", "installer/src/plan/tests.rs", "what_is_missing_is_named_with_what_to_do"),
    ("KDC-011", "tests/tests/refusals.rs", "full_disk"),
    ("KDC-012", ENDING, "proofs_that_fail_and_plans_that_drifted_are_listed_one_by_one"),
    ("KDC-013", TERMINAL, "a_node_that_can_not_be_held_is_named_and_nothing_was_changed"),
    (
        "KDC-015",
        TERMINAL,
        "a_host_key_that_is_not_confirmed_and_an_undo_that_is_not_meant_change_nothing",
    ),
    (
        "KDC-018",
        TERMINAL,
        "ctrl_c_at_a_question_ends_at_once_and_leaves_a_terminal_that_shows_typing",
    ),
    ("KDC-019", ENDING, "what_stops_an_install_before_its_runs_says_whether_anything_was_changed"),
    (
        "KDC-021",
        "installer/src/fleet/tests.rs",
        "a_store_that_keeps_nothing_is_told_after_three_rounds",
    ),
    ("KDC-022", ENDING, "each_way_a_node_ends_has_its_code_its_words_and_what_to_do"),
    ("KDC-023", ENDING, "each_way_a_node_ends_has_its_code_its_words_and_what_to_do"),
    ("KDC-024", ENDING, "each_way_a_node_ends_has_its_code_its_words_and_what_to_do"),
    ("KDC-025", ENDING, "proofs_that_fail_and_plans_that_drifted_are_listed_one_by_one"),
    (
        "KDC-026",
        "installer/src/command/up.rs",
        "the_own_address_is_one_that_others_reach_and_having_none_is_said",
    ),
    (
        "KDC-028",
        UNDO,
        "a_worker_that_is_not_undone_leaves_the_control_plane_alone_and_both_are_named",
    ),
    (
        "KDC-029",
        UNDO,
        "a_worker_that_is_not_undone_leaves_the_control_plane_alone_and_both_are_named",
    ),
    (
        "KDC-035",
        "installer/src/command/audit/verdict.rs",
        "what_is_wrong_with_a_log_is_named_and_ends_with_exit_3",
    ),
    (
        "KDC-037",
        "installer/src/command/audit/gather.rs",
        "nodes_without_logs_are_told_and_all_of_them_without_is_an_error",
    ),
    ("KDC-031", ENDING, "proofs_that_fail_and_plans_that_drifted_are_listed_one_by_one"),
    (
        "KDC-032",
        "installer/src/command/bundle/prune/nodes.rs",
        "who_was_pruned_is_told_beside_who_was_not",
    ),
    (
        "KDC-033",
        "installer/src/command/gpu.rs",
        "what_differs_ends_with_its_own_code_and_what_does_not_with_none",
    ),
    (
        "KDC-034",
        "installer/src/command/licensing.rs",
        "the_fourth_node_on_a_licence_for_three_is_refused_with_who_counts_and_what_works",
    ),
];

const ENDING: &str = "installer/src/command/ending.rs";
const UNDO: &str = "installer/src/command/undo.rs";
const TERMINAL: &str = "tests/tests/ssh/terminal.rs";

#[test]
fn every_code_is_documented_and_has_its_test() {
    let codes = |text: &str| -> BTreeSet<String> {
        let numbers = text.split("KDC-").skip(1).filter_map(|rest| rest.get(..3));
        let numbers = numbers.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.map(|digits| format!("KDC-{digits}")).collect()
    };
    let mut used = BTreeSet::new();
    for folder in ["command", "fleet"] {
        for path in rust_files(&checkout().join("installer/src").join(folder)).unwrap() {
            used.extend(codes(&fs_err::read_to_string(path).unwrap()));
        }
    }
    let documented = codes(&fs_err::read_to_string(checkout().join("docs/errors.md")).unwrap());
    assert_eq!(used, documented, "docs/errors.md lists exactly the codes there are");
    let tested = codes(include_str!("cli.rs"));
    assert_eq!(used, tested, "each is met by a test here or stands in SEEN_ELSEWHERE");
    for (code, file, test) in SEEN_ELSEWHERE {
        assert!(used.contains(*code), "{code} is gone");
        let text = fs_err::read_to_string(checkout().join(file)).unwrap();
        let (_, body) = text.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("{test}"));
        let (body, _) = body.split_once("\n    }\n}").or(body.split_once("\n}\n")).unwrap();
        let body = body.split("\n#[tokio::test").next().unwrap();
        assert!(body.contains(code), "`{test}` in {file} does not see {code}");
    }
}
