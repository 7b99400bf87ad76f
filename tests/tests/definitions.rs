//! The shipped bundle definitions: they read, and they hold what their kubeadm will ask for.

use std::{collections::BTreeSet, path::PathBuf};

use kdc_profiles::definition::{self, BundleDefinition, Source};

fn shipped(name: &str) -> BundleDefinition {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    definition::load(&root.join("bundles").join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn images(definition: &BundleDefinition) -> BTreeSet<&str> {
    let images = definition.artifacts.iter().filter(|artifact| artifact.kind == "image");
    images.map(|artifact| artifact.name.as_str()).collect()
}

#[test]
fn the_labs_definition_holds_every_image_that_kubeadm_asks_for() {
    let asked = include_str!("../../installer/src/distribution/fixtures/kubeadm-1.20-images.txt");
    let definition = shipped("lab-kubeadm-1.20.yaml");
    let mut wanted: BTreeSet<&str> = asked.lines().collect();
    assert_eq!(wanted.len(), 7, "the recording is whole");
    wanted.insert(definition.parameters["testImage"].as_str());
    assert_eq!(images(&definition), wanted);
}

#[test]
fn every_definition_names_its_pause_and_test_image_and_the_programs_of_a_node() {
    for name in ["lab-kubeadm-1.20.yaml", "kubeadm-1.33.yaml"] {
        let definition = shipped(name);
        for parameter in ["pauseImage", "testImage"] {
            let image = definition.parameters[parameter].as_str();
            assert!(images(&definition).contains(image), "{name} lacks {parameter} {image}");
        }
        let prefix = definition.parameters["imagePrefix"].as_str();
        let version = definition.parameters["kubernetesVersion"].as_str();
        for part in ["apiserver", "controller-manager", "scheduler", "proxy"] {
            let image = format!("{prefix}/kube-{part}:{version}");
            assert!(images(&definition).contains(image.as_str()), "{name} lacks {image}");
        }
        for program in ["kubeadm", "kubelet", "kubectl"] {
            let found = definition.artifacts.iter().find(|artifact| artifact.name == program);
            let found = found.unwrap_or_else(|| panic!("{name} lacks {program}"));
            assert_eq!((found.kind.as_str(), found.version.as_deref()), ("binary", Some(version)));
        }
    }
}

#[test]
fn a_public_definition_comes_from_public_addresses_only_and_guesses_no_digest() {
    for artifact in shipped("kubeadm-1.33.yaml").artifacts {
        match artifact.source {
            Source::Url { url, digest } => {
                assert!(url.starts_with("https://") && digest.is_none(), "{url}");
            }
            Source::Registry { image, digest } => {
                assert!(image == artifact.name && digest.is_none(), "{image}");
            }
            other => assert_eq!(artifact.kind, "agent", "{other:?}"),
        }
    }
}
