//! What a plan must hold, and what must not change it.

use std::collections::BTreeSet;

use kdc_agent::step::Step;
use kdc_bundles::index::{Artifact, ArtifactKind};
use proptest::prelude::*;

use super::*;

fn plan_of(cluster: &Cluster, facts: &BTreeMap<String, Facts>) -> Result<ClusterPlan, PlanError> {
    plan_from(&samples::index(), cluster, facts)
}

fn plan_from(
    index: &Index,
    cluster: &Cluster,
    facts: &BTreeMap<String, Facts>,
) -> Result<ClusterPlan, PlanError> {
    let digest = Digest::of(b"index");
    let profile = kdc_profiles::profile::shipped(&cluster.profile).expect("shipped");
    plan(&Inputs { cluster, profile: &profile, index, index_digest: &digest, facts })
}

fn good() -> ClusterPlan {
    let cluster = samples::cluster();
    plan_of(&cluster, &samples::facts(&cluster)).expect("plan")
}

#[test]
fn the_plan_of_a_small_cluster_reads_as_recorded() {
    insta::assert_snapshot!("small-cluster", render(&good()));
}

#[test]
fn control_runs_on_a_control_plane_and_what_is_not_said_of_gpus_any_more_is_withdrawn() {
    use kdc_profiles::cluster::gpu::{Gpu, GpuMode};
    let ids = |plan: &ClusterPlan, node: &str| -> Vec<String> {
        let steps = &plan.node(node).expect("a node").plan.steps;
        steps
            .iter()
            .map(|step| step.id.clone())
            .filter(|id| id.contains("gpu") || id.contains("control-"))
            .collect()
    };
    assert_eq!(
        ids(&good(), "cp1"),
        ["control-plane-init", "control-rights", "gpu-withdrawn", "control-unit", "control-state"]
    );
    let mut cluster = samples::cluster();
    cluster.nodes[1].gpu = Some(Gpu { split_count: Some(4), ..Gpu::of(GpuMode::Hami) });
    let plan = plan_of(&cluster, &samples::facts(&cluster)).expect("plan");
    assert_eq!(
        ids(&plan, "cp1"),
        ["control-plane-init", "control-rights", "gpu-wanted", "control-unit", "control-state"]
    );
    assert_eq!(ids(&plan, "w1"), ["gpu-nouveau", "gpu-watch-unit", "gpu-watch-state"]);
    let steps = &plan.node("cp1").expect("a node").plan.steps;
    let manifests = steps.iter().find_map(|step| match &step.step {
        Step::ApplyManifests { name, manifests } if name == "gpu" => Some(manifests),
        _ => None,
    });
    assert!(manifests.is_some_and(|text| {
        text.contains(r#"{\"nodes\":{\"w1\":{\"mode\":\"hami\",\"splitCount\":4}}}"#)
    }));
}

#[test]
fn a_fixed_geometry_is_planned_before_kubernetes_and_only_shares_of_an_instance_are_refused() {
    use kdc_profiles::cluster::gpu::{Gpu, GpuMode};
    let mut cluster = samples::cluster();
    let mut geometry = std::collections::BTreeMap::from([("1g.10gb+me.all".to_owned(), 1)]);
    cluster.nodes[1].gpu = Some(Gpu { geometry: geometry.clone(), ..Gpu::of(GpuMode::Mig) });
    let plan = plan_of(&cluster, &samples::facts(&cluster)).unwrap();
    let steps = &plan.nodes.iter().find(|node| node.plan.node == "w1").unwrap().plan.steps;
    let place = |id: &str| steps.iter().position(|step| step.id == id);
    assert!(place("gpu-nouveau") < place("gpu-instances"), "{steps:?}");
    assert!(place("gpu-instances") < place("join"), "{steps:?}");
    let text = render(&plan);
    assert!(text.contains("cut every GPU into 1 x 1g.10gb+me.all; switch MIG on if it is off, which may ask for a reboot"), "{text}");
    // HAMi is told nothing of a node that it doesn't serve.
    let manifests = plan.nodes[0].plan.steps.iter().find_map(|planned| match &planned.step {
        Step::ApplyManifests { name, manifests } if name == "gpu" => Some(manifests),
        _ => None,
    });
    assert!(manifests.is_some_and(|text| text.contains("1g.10gb+me.all")), "{manifests:?}");
    geometry.insert("1c.3g.40gb".to_owned(), 3);
    cluster.nodes[1].gpu = Some(Gpu { geometry, ..Gpu::of(GpuMode::Mig) });
    let error = plan_of(&cluster, &samples::facts(&cluster)).unwrap_err();
    assert!(error.to_string().contains("`gpu.geometry` of `w1` names `1c.3g.40gb`"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`3g.40gb`")));
}

#[test]
fn phases_come_in_order_and_ids_are_unique() {
    const ORDER: &[&str] = &["host", "runtime", "images", "network", "kubernetes", "finish"];
    for node in &good().nodes {
        let positions: Vec<usize> = node
            .plan
            .steps
            .iter()
            .map(|step| ORDER.iter().position(|phase| *phase == step.phase).expect("known phase"))
            .collect();
        assert!(positions.is_sorted(), "{}: {positions:?}", node.name);
        let ids: BTreeSet<&str> = node.plan.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids.len(), node.plan.steps.len(), "{}", node.name);
    }
}

#[test]
fn every_blob_a_step_names_is_sent_and_nothing_else() {
    let cluster = samples::cluster();
    let archives = samples::index_with_archives();
    let archives = plan_from(&archives, &cluster, &samples::facts(&cluster)).expect("plan");
    for node in good().nodes.iter().chain(&archives.nodes) {
        let mut named = BTreeSet::new();
        for planned in &node.plan.steps {
            match &planned.step {
                Step::PlaceBinary { digest, .. } | Step::UnpackArchive { digest, .. } => {
                    named.insert(digest.clone());
                }
                Step::InstallPackages { packages } => {
                    named.extend(packages.iter().map(|package| package.digest.clone()));
                }
                Step::PullImages { images, .. } => {
                    named.extend(images.iter().flat_map(|image| image.blobs.clone()));
                }
                _ => {}
            }
        }
        assert_eq!(named.into_iter().collect::<Vec<_>>(), node.blobs, "{}", node.name);
    }
}

#[test]
fn documents_stay_on_the_builder_s_side() {
    let cluster = samples::cluster();
    let index = samples::index_with_documents();
    let documents: Vec<_> =
        index.artifacts.iter().filter(|one| one.kind == ArtifactKind::Document).collect();
    assert_eq!(documents.len(), 2);
    let with = plan_from(&index, &cluster, &samples::facts(&cluster)).expect("plan");
    let without = good();
    for (with, without) in with.nodes.iter().zip(&without.nodes) {
        let sent = |one: &&&Artifact| one.blobs.iter().any(|blob| with.blobs.contains(blob));
        assert_eq!(documents.iter().find(sent), None, "{}", with.name);
        assert_eq!(
            (&with.blobs, with.bytes_to_send, &with.peak_disk_bytes),
            (&without.blobs, without.bytes_to_send, &without.peak_disk_bytes)
        );
        let text = serde_json::to_string(&with.plan.steps).expect("steps");
        assert!(documents.iter().all(|one| !text.contains(one.digest.hex())), "{}", with.name);
    }
}

/// What a package would have brought is placed, known to systemd, and only then configured.
#[test]
fn a_runtime_of_archives_is_unpacked_and_gets_the_unit_that_a_package_would_have_brought() {
    let cluster = samples::cluster();
    let (index, facts) = (samples::index_with_archives(), samples::facts(&cluster));
    let plan = plan_from(&index, &cluster, &facts).expect("plan");
    for node in &plan.nodes {
        let steps: Vec<&str> = (node.plan.steps.iter())
            .filter(|step| step.phase == "runtime" && step.id != "binary-kubectl")
            .map(|step| step.id.as_str())
            .collect();
        let expected = [
            "archive-cni-plugins",
            "archive-containerd",
            "archive-crictl",
            "containerd-unit",
            "containerd-config",
            "containerd-state",
            "binary-kubeadm",
            "binary-kubelet",
            "binary-runc",
            "kubelet-unit",
            "kubelet-state",
        ];
        assert_eq!(steps, expected, "{}", node.name);
        let unit = node.plan.steps.iter().find_map(|step| match &step.step {
            Step::InstallUnit { unit, content, .. } if unit == "containerd.service" => {
                Some(content)
            }
            _ => None,
        });
        assert!(unit.expect("a unit").contains("ExecStart=/usr/local/bin/containerd\n"));
        assert!(node.peak_disk_bytes["/usr/local"] > 30 << 20);
        assert!(node.peak_disk_bytes["/usr/local/bin"] > node.peak_disk_bytes["/usr/local"]);
    }
    let unpacked = |plan: &ClusterPlan| {
        plan.nodes[0].plan.steps.iter().any(|step| step.id == "containerd-unit")
    };
    assert!(!unpacked(&good()), "a package brings its own unit");
}

/// The one for people with internet: nothing of it was run here, but it must at least lead to a plan.
#[test]
fn the_present_day_definition_leads_to_a_whole_plan() {
    let cluster = samples::cluster();
    let index = samples::index_of_definition("kubeadm-1.33.yaml");
    index.check().expect("an index");
    let plan = plan_from(&index, &cluster, &samples::facts(&cluster)).expect("plan");
    let text = render(&plan);
    for line in [
        "unpack below /usr/local\n",
        "unpack below /opt/cni/bin\n",
        "unpack below /usr/local/bin\n",
        "place /usr/local/bin/runc\n",
        "install containerd.service\n",
        "install kubelet.service\n",
        "containerd with registry.k8s.io/pause:3.10, cgroup driver systemd",
    ] {
        assert_eq!(text.matches(line).count(), 2, "{line} for both nodes in\n{text}");
    }
    assert!(!text.contains("packages"), "{text}");
    let json = serde_json::to_string(&plan.nodes[0].plan).expect("json");
    assert!(json.contains("kubeadm.k8s.io/v1beta4"), "{json}");
}

#[test]
fn a_worker_gets_no_image_of_the_control_plane() {
    let plan = good();
    let images = |name: &str| -> Vec<String> {
        let steps = &plan.node(name).expect(name).plan.steps;
        let images = steps.iter().find_map(|step| match &step.step {
            Step::PullImages { images, .. } => Some(images),
            _ => None,
        });
        images.expect("images").iter().map(|image| image.name.clone()).collect()
    };
    let common = ["coredns:1.7.0", "kube-proxy:v1.20.2", "pause:3.2"];
    assert_eq!(images("w1"), common.map(|name| format!("k8s.gcr.io/{name}")));
    assert_eq!(images("cp1").len(), 7);
    assert!(
        plan.node("w1").expect("w1").bytes_to_send < plan.node("cp1").expect("cp1").bytes_to_send
    );
}

#[test]
fn how_far_nodes_may_mend_themselves_reaches_the_agent_and_nothing_said_writes_nothing() {
    let mut cluster = samples::cluster();
    let text_of = |cluster: &Cluster| {
        let plan = plan_of(cluster, &samples::facts(cluster)).unwrap();
        let steps = plan.nodes.iter().flat_map(|node| &node.plan.steps).cloned();
        let written = steps.filter(|planned| planned.id == "self-healing");
        written.map(|planned| format!("{:?}", planned.step)).collect::<Vec<_>>()
    };
    assert_eq!(text_of(&cluster), Vec::<String>::new());
    let mode = kdc_profiles::healing::Mode::Repair;
    cluster.self_healing = Some(kdc_profiles::healing::SelfHealing { mode, ..Default::default() });
    let written = text_of(&cluster);
    assert_eq!(written.len(), 2, "each node");
    assert!(written[0].contains("50-cluster.yaml") && written[0].contains("mode: repair"));
}

#[test]
fn swap_is_only_turned_off_when_the_file_says_so() {
    let mut cluster = samples::cluster();
    let facts = samples::facts(&cluster);
    let has = |plan: &ClusterPlan| {
        plan.nodes.iter().any(|node| node.plan.steps.iter().any(|s| s.step == Step::DisableSwap))
    };
    assert!(!has(&plan_of(&cluster, &facts).expect("plan")));
    cluster.settings.disable_swap = true;
    assert!(has(&plan_of(&cluster, &facts).expect("plan")));
}

#[test]
fn the_lab_s_limits_reach_containerd_and_kube_proxy() {
    let cluster = samples::cluster();
    let mut facts = samples::facts(&cluster);
    let worker = facts.get_mut("w1").expect("w1");
    worker.cap_sys_resource = Known::Known(false);
    worker.conntrack_max_writable = Known::Known(false);
    worker.cgroup = Known::Known(CgroupVersion::V1);
    let plan = plan_of(&cluster, &facts).expect("plan");
    let text = serde_json::to_string(&plan.node("cp1").expect("cp1").plan).expect("json");
    assert!(text.contains("maxPerCore: 0") && text.contains("oomScoreAdj: 0"), "{text}");
    assert!(text.contains("\"restrictOomScoreAdj\":false"));
    let text = serde_json::to_string(&plan.node("w1").expect("w1").plan).expect("json");
    assert!(text.contains("\"restrictOomScoreAdj\":true"));
    assert!(text.contains("cgroup-driver: cgroupfs"), "{text}");
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let cluster = samples::cluster();
    let digest = Digest::of(b"index");
    let profile = kdc_profiles::profile::shipped("cluster").expect("shipped");
    let facts = samples::facts(&cluster);
    let attempt = |index: &Index, facts: &BTreeMap<String, Facts>| {
        let inputs =
            Inputs { cluster: &cluster, profile: &profile, index, index_digest: &digest, facts };
        plan(&inputs).expect_err("something is missing")
    };
    let mut index = samples::index();
    index.artifacts.retain(|artifact| artifact.name != "kubelet");
    let error = attempt(&index, &facts);
    assert!(error.to_string().contains("binary `kubelet`"), "{error}");
    assert!(error.hint().expect("hint").contains("definition"));
    assert_eq!(crate::command::CommandError::from(error).code(), "KDC-008");
    let mut index = samples::index();
    index.artifacts.retain(|artifact| !artifact.name.contains("etcd"));
    assert!(attempt(&index, &facts).to_string().contains("image `k8s.gcr.io/etcd:`"));
    let mut index = samples::index_with_archives();
    index.artifacts.retain(|artifact| artifact.name != "containerd");
    let error = attempt(&index, &facts).to_string();
    assert!(error.contains("package or archive `containerd`"), "{error}");
    let mut index = samples::index();
    for artifact in &mut index.artifacts {
        artifact.version = None;
    }
    assert!(attempt(&index, &facts).to_string().contains("`con"));
    let mut fewer = facts.clone();
    fewer.remove("w1");
    assert!(attempt(&samples::index(), &fewer).to_string().contains("`w1`"));
    let mut unknown = facts;
    unknown.get_mut("w1").expect("w1").cgroup = Known::Unknown("denied".to_owned());
    assert!(attempt(&samples::index(), &unknown).to_string().contains("denied"));
}

#[test]
fn a_component_of_one_s_own_is_rendered_checked_and_awaited() {
    let cluster = samples::cluster();
    let (index, facts, digest) = (samples::index(), samples::facts(&cluster), Digest::of(b"index"));
    let mut profile = kdc_profiles::profile::shipped("cluster").expect("shipped");
    profile.components.push(kdc_profiles::profile::Component {
        name: "hello".to_owned(),
        description: "says hello".to_owned(),
        manifests: Some(
            "kind: ConfigMap\ndata: {cluster: {{ cluster.name }}, nodes: {{ nodes | length }}}\n"
                .to_owned(),
        ),
        images: vec!["{{ parameters.pauseImage }}".to_owned()],
        after: Vec::new(),
        ready: vec!["apps/deployment/hello".to_owned()],
        entitlement: None,
    });
    let attempt = |profile: &Profile| {
        let (index_digest, cluster, index, facts) = (&digest, &cluster, &index, &facts);
        plan(&Inputs { cluster, profile, index, index_digest, facts })
    };
    let planned = attempt(&profile).expect("plan");
    let steps = &planned.node("cp1").expect("cp1").plan.steps;
    let manifests = steps.iter().find_map(|step| match &step.step {
        Step::ApplyManifests { manifests, .. } => Some(manifests.as_str()),
        _ => None,
    });
    assert_eq!(manifests, Some("kind: ConfigMap\ndata: {cluster: demo, nodes: 2}\n"));
    assert!(steps.iter().any(|step| step.id == "ready-apps-deployment-hello"));

    let component = profile.components.last_mut().expect("the new one");
    component.manifests = Some("{{ cluster.nmae }}".to_owned());
    assert!(matches!(attempt(&profile), Err(PlanError::Component { .. })));
    let component = profile.components.last_mut().expect("the new one");
    component.images = vec!["docker.io/none:1".to_owned()];
    let error = attempt(&profile).expect_err("no such image");
    assert!(error.to_string().contains("docker.io/none:1"), "{error}");
}

#[test]
fn a_saved_plan_comes_back_equal_and_tells_drift() {
    let plan = good();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("plan.json");
    plan.save(&path).expect("save");
    let back = ClusterPlan::load(&path).expect("load");
    assert_eq!(back, plan);
    assert_eq!(back.digest().expect("digest"), plan.digest().expect("digest"));
    assert_eq!(back.drift(&plan), []);

    let mut cluster = samples::cluster();
    let mut facts = samples::facts(&cluster);
    facts.get_mut("w1").expect("w1").machine_id = Known::Known("f".repeat(32));
    let drift = plan.drift(&plan_of(&cluster, &facts).expect("plan"));
    assert_eq!(drift.len(), 1);
    assert_eq!(drift[0].what, "node w1");
    cluster.nodes[1].labels.insert("a".to_owned(), "b".to_owned());
    let what: Vec<String> =
        plan.drift(&plan_of(&cluster, &facts).expect("plan")).into_iter().map(|d| d.what).collect();
    assert_eq!(what, ["cluster file", "node cp1", "node w1"]);

    fs_err::write(&path, "{}").expect("write");
    assert!(ClusterPlan::load(&path).is_err());
}

#[test]
fn what_an_install_changes_on_a_node_does_not_change_the_plan() {
    let cluster = samples::cluster();
    let mut facts = samples::facts(&cluster);
    let before = plan_of(&cluster, &facts).expect("plan");
    for facts in facts.values_mut() {
        facts.modules = Known::Known(BTreeSet::from(["overlay".to_owned()]));
        facts.listening = Known::Known(BTreeSet::from(["6443/tcp".to_owned()]));
        facts.packages = Known::Known(BTreeMap::from([("containerd".to_owned(), "1".to_owned())]));
        facts.ownership.cluster = Some("demo".to_owned());
        facts.file_systems = Known::Known(Vec::new());
        facts.clock_unix_ms += 1000;
    }
    assert_eq!(plan_of(&cluster, &facts).expect("plan"), before);
}

#[test]
fn the_needs_of_a_node_follow_from_the_bundle_and_pass_a_good_node() {
    let cluster = samples::cluster();
    let (facts, index) = (samples::facts(&cluster), samples::index());
    let digest = Digest::of(b"index");
    let profile = kdc_profiles::profile::shipped("cluster").expect("shipped");
    let inputs = Inputs {
        cluster: &cluster,
        profile: &profile,
        index: &index,
        index_digest: &digest,
        facts: &facts,
    };
    let needs = needs(&inputs, "cp1", true).expect("needs");
    assert!(needs.disk_bytes["/var/lib/containerd"] > needs.disk_bytes["/usr/local/bin"]);
    assert!(!needs.programs.contains(&"conntrack".to_owned()), "the bundle brings it");
    assert!(needs.programs.contains(&"iptables".to_owned()), "the bundle lacks it");
    for finding in kdc_agent::check::judge(&facts["cp1"], &needs) {
        assert!(!finding.verdict.refuses(), "{finding:?}");
    }
}

/// Run by `tests/bench.sh plan`, which reads the line.
#[test]
#[ignore = "a measurement, for `make bench`"]
fn measured_plan_for_1000_nodes() {
    let cluster = samples::cluster_of(1000);
    let facts = samples::facts(&cluster);
    let start = std::time::Instant::now();
    let plan = plan_of(&cluster, &facts).expect("plan");
    let planned = start.elapsed();
    let digest = plan.digest().expect("digest");
    let digested = start.elapsed();
    let status = fs_err::read_to_string("/proc/self/status").expect("status");
    let peak_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .expect("the peak of memory");
    let size = serde_json::to_vec(&plan).expect("json").len();
    println!(
        "{{\"nodes\":{},\"planSecs\":{:.3},\"withDigestSecs\":{:.3},\"memoryMib\":{},\"planMib\":{},\
         \"digest\":\"{digest}\"}}",
        plan.nodes.len(),
        planned.as_secs_f64(),
        digested.as_secs_f64(),
        peak_kib / 1024,
        size >> 20,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The order of nodes in the file changes nothing, and planning twice gives the same digest.
    #[test]
    fn the_order_of_nodes_changes_nothing(
        (count, order) in (2_u32..20).prop_flat_map(|count| {
            let numbers: Vec<usize> = (0..count as usize).collect();
            (Just(count), Just(numbers).prop_shuffle())
        })
    ) {
        let cluster = samples::cluster_of(count);
        let facts = samples::facts(&cluster);
        let mut shuffled = cluster.clone();
        shuffled.nodes = order.iter().map(|number| cluster.nodes[*number].clone()).collect();
        let plan = plan_of(&cluster, &facts).expect("plan");
        let other = plan_of(&shuffled, &facts).expect("plan");
        prop_assert_eq!(plan.digest().expect("digest"), other.digest().expect("digest"));
        for (left, right) in plan.nodes.iter().zip(&other.nodes) {
            prop_assert_eq!(left.plan.digest().expect("digest"), right.plan.digest().expect("digest"));
        }
    }

    /// One more worker changes no step of another worker but its routes.
    #[test]
    fn a_new_worker_changes_only_routes_of_others(count in 2_u32..20) {
        let (before, after) = (samples::cluster_of(count), samples::cluster_of(count + 1));
        let old = plan_of(&before, &samples::facts(&before)).expect("plan");
        let new = plan_of(&after, &samples::facts(&after)).expect("plan");
        for node in old.nodes.iter().filter(|node| node.role == Role::Worker) {
            let now = new.node(&node.name).expect("still there");
            for (left, right) in node.plan.steps.iter().zip(&now.plan.steps) {
                prop_assert!(left.id == "host-routes" || left == right, "{} {}", node.name, left.id);
            }
        }
    }
}
