//! The cluster file's reader, mistake by mistake.

use super::*;

const GOOD: &str = "\
apiVersion: kdc.dev/v1
kind: Cluster
metadata:
  name: demo
spec:
  nodes:
    - name: cp1
      role: control-plane
      address: 10.0.0.11
    - name: w1
      role: worker
      address: 10.0.0.12
";

#[test]
fn a_short_file_gets_its_defaults() {
    let cluster = parse(GOOD, "cluster.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(cluster.profile, "cluster");
    assert_eq!(cluster.distribution, "kubeadm");
    assert_eq!(cluster.network.pod_cidr, "10.244.0.0/16");
    assert_eq!(cluster.network.service_cidr, "10.96.0.0/12");
    assert_eq!(cluster.network.control_plane_endpoint, "10.0.0.11:6443");
    assert_eq!((cluster.settings.disable_swap, cluster.settings.parallel), (false, 50));
}

#[test]
fn ten_different_mistakes_are_all_told_at_once() {
    let text = "\
apiVersion: kdc.dev/v2
kind: Clutser
metadata:
  name: My Cluster
spec:
  profile: clutser
  distribution: kops
  nodes:
    - name: cp1
      role: mster
      adress: 10.0.0.11
    - name: cp1
      role: worker
      address: 10.0.0.300
      ssh: {port: 0, hostKey: SHA256:short}
      taints: [a=b]
  network:
    podCIDR: 10.96.0.0/16
    cni: host-route
  settings:
    disableSwap: \"yes\"
";
    let problems = parse(text, "cluster.yaml").expect_err("mistakes");
    insta::assert_snapshot!(problems.to_string(), @r"
    cluster.yaml:1: apiVersion: `kdc.dev/v2` is not known here; expected `kdc.dev/v1`
    cluster.yaml:2: kind: `Clutser` is not known here; expected `Cluster`
    cluster.yaml:4: metadata.name: `My Cluster` can't be used as a name; expected a name of lower-case letters, digits and `-` (1 to 63)
    cluster.yaml:6: spec.profile: `clutser` is not known here; expected `single` or `cluster` (did you mean `cluster`?)
    cluster.yaml:7: spec.distribution: `kops` is not known here; expected `kubeadm`
    cluster.yaml:9: spec.nodes[0].address: this is missing; expected an IP address, e.g. `10.0.0.11`
    cluster.yaml:10: spec.nodes[0].role: `mster` is not known here; expected `control-plane` or `worker`
    cluster.yaml:11: spec.nodes[0].adress: there is no such field; expected `address` (did you mean that? known here: name, address, role, ssh, labels, taints, gpu)
    cluster.yaml:12: spec.nodes[1].name: `cp1` is also the name at spec.nodes[0].name; expected a name of its own for each node
    cluster.yaml:14: spec.nodes[1].address: `10.0.0.300` can't be used; expected an IP address, e.g. `10.0.0.11`
    cluster.yaml:15: spec.nodes[1].ssh.port: `0` stands here; expected a whole number from 1 to 65535
    cluster.yaml:15: spec.nodes[1].ssh.hostKey: `SHA256:short` can't be used; expected a fingerprint (`SHA256:` and 43 letters, from `ssh-keygen -lf`) or a whole public key line
    cluster.yaml:16: spec.nodes[1].taints[0]: `a=b` is not a taint; expected `key=value:Effect` with Effect `NoSchedule`, `PreferNoSchedule` or `NoExecute`
    cluster.yaml:18: spec.network.podCIDR: pod range 10.96.0.0/16 and Service range 10.96.0.0/12 overlap; expected ranges that share no address
    cluster.yaml:19: spec.network.cni: `host-route` is not known here; expected `host-routes`
    cluster.yaml:21: spec.settings.disableSwap: `yes` stands here; expected `true` or `false`
    ");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a mistake a line")]
fn each_mistake_is_told_with_its_line_and_what_would_be_right() {
    let line = |number: usize| GOOD.lines().nth(number - 1).expect("a line").to_owned() + "\n";
    let swap = |number: usize, with: &str| GOOD.replace(&line(number), with);
    let table: &[(String, u64, &str, &str)] = &[
        (swap(1, ""), 1, "apiVersion", "kdc.dev/v1"),
        (swap(2, "kind: Profile\n"), 2, "kind", "`Cluster`"),
        (swap(4, "  nmae: demo\n"), 4, "metadata.nmae", "one of name"),
        (swap(4, "  name: a.b\n"), 4, "metadata.name", "lower-case"),
        (swap(7, "    - name: Cp1\n"), 7, "spec.nodes[0].name", "lower-case"),
        (swap(10, "    - name: cp1\n"), 10, "spec.nodes[1].name", "of its own"),
        (swap(12, "      address: 10.0.0.11\n"), 12, "spec.nodes[1].address", "of its own"),
        (swap(9, "      address: 10.0.0\n"), 9, "spec.nodes[0].address", "10.0.0.11"),
        (swap(9, "      address: 127.0.0.1\n"), 9, "spec.nodes[0].address", "other nodes"),
        (swap(9, "      address: [1]\n"), 9, "spec.nodes[0].address", "a text"),
        (swap(8, "      role: control-plan\n"), 8, "spec.nodes[0].role", "mean `control-plane`"),
        (swap(8, "      role: worker\n"), 7, "spec.nodes", "at least one node"),
        (swap(5, "spec:\n  profile: single\n"), 8, "spec.nodes", "at most 0"),
        (swap(5, "spec:\n  profile: clusters\n"), 6, "spec.profile", "`single` or `cluster`"),
        (swap(5, "spec:\n  distribution: rke\n"), 6, "spec.distribution", "kubeadm"),
        (swap(5, "spec:\n  spec: {}\n"), 6, "spec.spec", "one of"),
        (GOOD.to_owned() + "  nodes: []\n", 13, "spec.nodes", "once"),
        (swap(9, "      address: 10.244.3.1\n"), 9, "spec.nodes[0].address", "outside of pod"),
        (swap(9, "      address: 10.96.0.1\n"), 9, "spec.nodes[0].address", "outside of pod"),
        (format!("{GOOD}  network: {{podCIDR: 10.9.0.0/24}}\n"), 13, "spec.network.podCIDR", "/23"),
        (format!("{GOOD}  network: {{podCIDR: 10.9.0.0/33}}\n"), 13, "spec.network.podCIDR", "244"),
        (
            format!("{GOOD}  network: {{podCIDR: 'fd00::/48'}}\n"),
            13,
            "spec.network.podCIDR",
            "IPv4",
        ),
        (
            format!("{GOOD}  network: {{serviceCIDR: 10.244.9.0/24}}\n"),
            13,
            "spec.network.serviceCIDR",
            "share no address",
        ),
        (
            format!("{GOOD}  network: {{controlPlaneEndpoint: '10.0.0.11:70000'}}\n"),
            13,
            "spec.network.controlPlaneEndpoint",
            "1 to 65535",
        ),
        (format!("{GOOD}  network: {{cni: calico}}\n"), 13, "spec.network.cni", "host-routes"),
        (format!("{GOOD}  ssh: {{port: 70000}}\n"), 13, "spec.ssh.port", "1 to 65535"),
        (format!("{GOOD}  ssh: {{hostKey: 'MD5:00'}}\n"), 13, "spec.ssh.hostKey", "SHA256:"),
        (
            format!("{GOOD}      labels: {{'a b': c}}\n"),
            13,
            "spec.nodes[1].labels.a b",
            "domain/name",
        ),
        (format!("{GOOD}      labels: {{a: 'b c'}}\n"), 13, "spec.nodes[1].labels.a", "letters"),
        (format!("{GOOD}      taints: ['a:Never']\n"), 13, "spec.nodes[1].taints[0]", "NoSchedule"),
        (
            format!("{GOOD}  settings: {{parallel: lots}}\n"),
            13,
            "spec.settings.parallel",
            "1 to 1000",
        ),
        (
            format!("{GOOD}  settings: {{disableSwap: 1}}\n"),
            13,
            "spec.settings.disableSwap",
            "true",
        ),
    ];
    for (text, line, field, expected) in table {
        let problems = parse(text, "cluster.yaml").expect_err(text);
        let found = problems.list().iter().find(|problem| problem.field == *field);
        let found = found.unwrap_or_else(|| panic!("{field} is not told of:\n{problems}\n{text}"));
        assert_eq!(found.line, *line, "{problems}");
        assert!(found.expected.contains(expected), "{expected}: {problems}");
        assert!(problems.to_string().contains(&format!("cluster.yaml:{line}: {field}: ")));
    }
}

#[test]
fn the_example_in_the_docs_is_a_good_cluster_file() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cluster-file.md");
    let docs = fs_err::read_to_string(docs).expect("docs/cluster-file.md");
    let example = docs.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let cluster = parse(example.expect("an example"), "docs").unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(cluster.nodes.len(), 2);
}

#[test]
fn a_profile_beside_the_file_is_looked_into() {
    let folder = std::env::temp_dir().join(format!("kdc-profile-{}", std::process::id()));
    fs_err::create_dir_all(&folder).expect("folder");
    let profile = include_str!("../../profiles/single.yaml").replace("name: single", "name: mine");
    fs_err::write(folder.join("mine.yaml"), profile).expect("profile");
    let text = GOOD.replace("spec:\n", "spec:\n  profile: ./mine.yaml\n");
    fs_err::write(folder.join("cluster.yaml"), text).expect("cluster file");
    let error = load(&folder.join("cluster.yaml")).expect_err("one worker too many");
    assert!(error.to_string().contains("profile `mine` has 1 worker nodes"), "{error}");
    fs_err::remove_dir_all(&folder).expect("clean up");
}

#[test]
fn a_file_that_is_not_there_or_too_large_is_named() {
    let error = load(Path::new("/nonexistent/cluster.yaml")).expect_err("no file");
    assert!(error.to_string().contains("/nonexistent/cluster.yaml"), "{error}");
    assert!(error.hint().is_some());
}

proptest::proptest! {
    /// Whatever stands in the file, the reader answers; it never panics.
    #[test]
    fn any_text_gets_an_answer(text in "[ -~\n]{0,300}", cut in 0_usize..260) {
        let _ = parse(&text, "x");
        let _ = parse(&GOOD[..cut.min(GOOD.len())], "x");
        let mixed = format!("{}{text}", &GOOD[..cut.min(GOOD.len())]);
        let _ = parse(&mixed, "x");
    }
}

#[test]
fn the_licence_is_a_file_and_a_wish_and_nothing_by_default() {
    let read = |more: &str| parse(&format!("{GOOD}{more}"), "cluster.yaml");
    assert_eq!(read("").unwrap().license, None);
    let license = read("  license: {file: site/license.json, taintOverLimit: true}\n").unwrap();
    let file = Some("site/license.json".into());
    assert_eq!(license.license, Some(License { file, taint_over_limit: true }));
    assert_eq!(read("  license: {}\n").unwrap().license, Some(License::default()));
    let problems = read("  license: {file: [a], taintOverLimit: 1}\n").expect_err("mistakes");
    let fields: Vec<&str> = problems.list().iter().map(|p| p.field.as_str()).collect();
    assert_eq!(fields, ["spec.license.file", "spec.license.taintOverLimit"]);
}
