//! When kubelet begins to evict pods for room, by its own configuration.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::facts::Look;

/// Kubelet's configuration of kubeadm, and of RKE2 and K3s, which had none but flags before 1.32.
const CONFIGS: &[&str] = &[
    "/var/lib/kubelet/config.yaml",
    "/var/lib/rancher/rke2/agent/etc/kubelet.conf.d/00-rke2-defaults.conf",
    "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf",
];

/// Room that must be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Of the whole.
    Percent(f64),
    /// Bytes, or files.
    Amount(u64),
}

impl Limit {
    /// How much that is of a whole.
    pub(super) fn of(self, whole: u64) -> u64 {
        match self {
            Self::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
            Self::Amount(amount) => amount,
        }
    }

    /// `10%`, `500Mi`, `1G`, `12345`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().ok()?;
            return (0.0..=100.0).contains(&percent).then_some(Self::Percent(percent));
        }
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" => 1,
            "k" => 1000,
            "Ki" => 1 << 10,
            "M" => 1_000_000,
            "Mi" => 1 << 20,
            "G" => 1_000_000_000,
            "Gi" => 1 << 30,
            "T" => 1_000_000_000_000,
            "Ti" => 1 << 40,
            _ => return None,
        };
        let number: f64 = digits.parse().ok().filter(|number: &f64| *number >= 0.0)?;
        Some(Self::Amount((number * unit as f64) as u64))
    }
}

/// What must be left where pods and where images lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eviction {
    pub(super) pods: Limit,
    pub(super) pod_files: Limit,
    pub(super) images: Limit,
    pub(super) image_files: Limit,
}

/// Kubelet's own, where its configuration says nothing.
const KUBELET: Eviction = Eviction {
    pods: Limit::Percent(10.0),
    pod_files: Limit::Percent(5.0),
    images: Limit::Percent(15.0),
    image_files: Limit::Percent(5.0),
};

/// What K3s and RKE2 start their kubelet with.
const VENDOR: Eviction = Eviction {
    pods: Limit::Percent(5.0),
    pod_files: Limit::Amount(0),
    images: Limit::Percent(5.0),
    image_files: Limit::Amount(0),
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    eviction_hard: BTreeMap<String, String>,
    #[serde(default)]
    merge_default_eviction_settings: bool,
}

impl Eviction {
    /// What this node's kubelet goes by; nothing where there is no kubelet. Places that may not be
    /// touched are passed over: on a dead file system of another machine a look would never end.
    ///
    /// # Errors
    /// The reason in words, with the file.
    pub fn read(look: &Look, touch: impl Fn(&str) -> bool) -> Result<Option<Self>, String> {
        if let Some(path) = CONFIGS.iter().find(|path| touch(path) && look.exists(path)) {
            let text = look.text(path)?;
            let plain = if path.contains("rancher") { VENDOR } else { KUBELET };
            return parse(&text, plain).map(Some).map_err(|reason| format!("{path}: {reason}"));
        }
        let vendor = ["rke2", "k3s"].map(|name| format!("/var/lib/rancher/{name}/agent"));
        let is_there = |folder: &String| touch(folder) && look.exists(folder);
        Ok(vendor.iter().any(is_there).then_some(VENDOR))
    }
}

fn parse(text: &str, plain: Eviction) -> Result<Eviction, String> {
    let config: Config = serde_yaml::from_str(text).map_err(|cause| cause.to_string())?;
    if config.eviction_hard.is_empty() {
        return Ok(plain);
    }
    // Who sets one limit sets them all, unless kubelet is told to merge.
    let none = Limit::Amount(0);
    let limit = |signal: &str, merged: Limit| match config.eviction_hard.get(signal) {
        Some(text) => {
            Limit::parse(text).ok_or_else(|| format!("evictionHard.{signal} is `{text}`"))
        }
        None if config.merge_default_eviction_settings => Ok(merged),
        None => Ok(none),
    };
    Ok(Eviction {
        pods: limit("nodefs.available", plain.pods)?,
        pod_files: limit("nodefs.inodesFree", plain.pod_files)?,
        images: limit("imagefs.available", plain.images)?,
        image_files: limit("imagefs.inodesFree", plain.image_files)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kubelets_own_words() {
        for (text, wanted) in [
            ("10%", Some(Limit::Percent(10.0))),
            ("7.5%", Some(Limit::Percent(7.5))),
            ("500Mi", Some(Limit::Amount(500 << 20))),
            ("1.5Gi", Some(Limit::Amount(3 << 29))),
            ("12345", Some(Limit::Amount(12_345))),
            ("101%", None),
            ("-1", None),
            ("5Parsecs", None),
            ("", None),
        ] {
            assert_eq!(Limit::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn who_sets_one_limit_sets_them_all_unless_merging_is_asked_for() {
        assert_eq!(parse("kind: KubeletConfiguration\n", KUBELET).unwrap(), KUBELET);
        let own = parse("evictionHard: {nodefs.available: 1Gi}\n", KUBELET).unwrap();
        assert_eq!((own.pods, own.images), (Limit::Amount(1 << 30), Limit::Amount(0)));
        let text = "mergeDefaultEvictionSettings: true\nevictionHard: {nodefs.available: 1Gi}\n";
        assert_eq!(parse(text, KUBELET).unwrap().images, KUBELET.images);
        let error = parse("evictionHard: {imagefs.available: much}\n", KUBELET).unwrap_err();
        assert_eq!(error, "evictionHard.imagefs.available is `much`");
    }

    #[test]
    fn each_distribution_keeps_its_kubelets_configuration_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let look = Look::at(root.path());
        let read = || Eviction::read(&look, |_| true);
        assert_eq!(read().unwrap(), None);
        fs_err::create_dir_all(root.path().join("var/lib/rancher/k3s/agent/etc/kubelet.conf.d"))
            .unwrap();
        assert_eq!(read().unwrap(), Some(VENDOR));
        assert_eq!(Eviction::read(&look, |_| false).unwrap(), None, "nothing may be touched");
        fs_err::create_dir_all(root.path().join("var/lib/kubelet")).unwrap();
        fs_err::write(root.path().join("var/lib/kubelet/config.yaml"), "a: [").unwrap();
        let reason = read().unwrap_err();
        assert!(reason.starts_with("/var/lib/kubelet/config.yaml: "), "{reason}");
    }
}
