//! Snapshots of every document for every API version, and the shape that real kubeadm prints.

use std::collections::BTreeSet;

use super::*;
use crate::plan::samples;

fn written(api: ConfigApi, lab: bool) -> (String, String) {
    let cluster = samples::cluster();
    let mut parameters = Parameters::read(&samples::index()).expect("parameters");
    parameters.config_api = api;
    let facts = ClusterFacts {
        cluster: &cluster,
        parameters: &parameters,
        cgroup: CgroupVersion::V1,
        schedulable_control_plane: !lab,
        leave_conntrack: lab,
        leave_oom_score: lab,
    };
    let first =
        NodeFacts { name: "cp1", address: cluster.nodes[0].address, cgroup: CgroupVersion::V1 };
    let worker =
        NodeFacts { name: "w1", address: cluster.nodes[1].address, cgroup: CgroupVersion::V2 };
    let init = init_documents(&facts, &first).expect("init");
    (init, join_document(&facts, &worker).expect("join"))
}

#[test]
fn the_documents_of_v1beta2_are_as_recorded() {
    let (init, join) = written(ConfigApi::V1Beta2, true);
    insta::assert_snapshot!("v1beta2-init", init);
    insta::assert_snapshot!("v1beta2-join", join);
}

#[test]
fn the_documents_of_v1beta3_are_as_recorded() {
    let (init, join) = written(ConfigApi::V1Beta3, false);
    insta::assert_snapshot!("v1beta3-init", init);
    insta::assert_snapshot!("v1beta3-join", join);
}

#[test]
fn the_documents_of_v1beta4_are_as_recorded() {
    let (init, join) = written(ConfigApi::V1Beta4, true);
    insta::assert_snapshot!("v1beta4-init", init);
    insta::assert_snapshot!("v1beta4-join", join);
}

/// `Kind.field.field` of every leaf; list items count as their list.
fn leaves(text: &str) -> BTreeSet<String> {
    fn walk(value: &serde_yaml::Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            serde_yaml::Value::Mapping(map) if !map.is_empty() => {
                for (key, value) in map {
                    walk(value, &format!("{path}.{}", key.as_str().unwrap_or("?")), found);
                }
            }
            serde_yaml::Value::Sequence(list) if !list.is_empty() => {
                for value in list {
                    walk(value, path, found);
                }
            }
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    for document in text.split("---\n") {
        let value: serde_yaml::Value = serde_yaml::from_str(document).expect("YAML");
        let kind = value["kind"].as_str().expect("kind").to_owned();
        walk(&value, &kind, &mut found);
    }
    found
}

/// Fields of API v1beta2 that `kubeadm config print` leaves out because they are empty by default
/// (kubeadm v1beta2 types, kubelet v1beta1 and kube-proxy v1alpha1 types of release 1.20).
const DOCUMENTED: &[&str] = &[
    "ClusterConfiguration.controlPlaneEndpoint",
    "InitConfiguration.nodeRegistration.kubeletExtraArgs.node-ip",
    "JoinConfiguration.nodeRegistration.kubeletExtraArgs.node-ip",
    "JoinConfiguration.nodeRegistration.kubeletExtraArgs.cgroup-driver",
    "KubeletConfiguration.cgroupDriver",
    "KubeletConfiguration.failSwapOn",
    "KubeletConfiguration.imageGCHighThresholdPercent",
    "KubeletConfiguration.imageGCLowThresholdPercent",
    "KubeletConfiguration.evictionHard.imagefs.available",
    "KubeletConfiguration.evictionHard.memory.available",
    "KubeletConfiguration.evictionHard.nodefs.available",
    "KubeletConfiguration.evictionHard.nodefs.inodesFree",
];

#[test]
fn every_field_is_one_that_kubeadm_1_20_prints_or_documents() {
    let printed: BTreeSet<String> =
        leaves(include_str!("../fixtures/kubeadm-1.20-init-defaults.yaml"))
            .union(&leaves(include_str!("../fixtures/kubeadm-1.20-join-defaults.yaml")))
            .cloned()
            .collect();
    let (init, join) = written(ConfigApi::V1Beta2, true);
    for field in leaves(&init).union(&leaves(&join)) {
        assert!(
            printed.contains(field) || DOCUMENTED.contains(&field.as_str()),
            "kubeadm 1.20 does not know `{field}`"
        );
    }
    for field in DOCUMENTED {
        assert!(!printed.contains(*field), "{field} is printed: take it out of the list");
    }
}

#[test]
fn no_document_holds_a_token_or_hands_out_pod_ranges() {
    for api in [ConfigApi::V1Beta2, ConfigApi::V1Beta3, ConfigApi::V1Beta4] {
        let (init, join) = written(api, false);
        let both = format!("{init}{join}");
        for word in ["token:", "certificateKey", "podSubnet", "allocate-node-cidrs", "discovery:\n"]
        {
            assert!(!both.contains(word), "{word} in {both}");
        }
    }
}

#[test]
fn the_kubelet_unit_starts_what_the_plan_places() {
    assert!(KUBELET_UNIT.contains("ExecStart=/usr/local/bin/kubelet\n"));
    assert!(KUBELET_DROP_IN.contains("\nExecStart=\nExecStart=/usr/local/bin/kubelet "));
    assert!(KUBELET_DROP_IN.contains("$KUBELET_KUBEADM_ARGS"));
}

#[test]
fn the_images_a_control_plane_needs_are_those_that_kubeadm_1_20_lists() {
    let parameters = Parameters::read(&samples::index()).expect("parameters");
    let required = required_images(&parameters, Role::ControlPlane);
    let listed: Vec<&str> = include_str!("../fixtures/kubeadm-1.20-images.txt").lines().collect();
    assert_eq!(required.len(), listed.len());
    for image in &required {
        let found = listed.iter().filter(|listed| listed.starts_with(image.as_str())).count();
        assert_eq!(found, 1, "{image}");
    }
    assert_eq!(required_images(&parameters, Role::Worker).len(), 3);
}

/// `KDC_KUBEADM=/path/kubeadm cargo test -p kdc-install kubeadm_itself -- --ignored`, with the
/// kubeadm 1.20 that `tests/kubernetes/build.sh` makes.
#[test]
#[ignore = "needs a kubeadm 1.20 in KDC_KUBEADM"]
fn kubeadm_itself_takes_the_documents_and_knows_every_field() {
    let kubeadm = std::env::var("KDC_KUBEADM").expect("KDC_KUBEADM");
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("init.yaml");
    let ask = |text: &str| {
        fs_err::write(&path, text).expect("write");
        let output = std::process::Command::new(&kubeadm)
            .args(["config", "images", "list", "--config"])
            .arg(&path)
            .output()
            .expect("kubeadm runs");
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), complaints.contains("unknown field"), complaints)
    };
    for lab in [false, true] {
        let (good, unknown, complaints) = ask(&written(ConfigApi::V1Beta2, lab).0);
        assert!(good && !unknown, "{complaints}");
    }
    // The test can fail: kubeadm does tell an unknown field.
    let odd = written(ConfigApi::V1Beta2, true).0.replace("dnsDomain", "dnsDomian");
    let (_, unknown, complaints) = ask(&odd);
    assert!(unknown, "{complaints}");
}
