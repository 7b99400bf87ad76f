//! containerd where it comes as upstream's archive: the unit that a distribution's package brings.

use kdc_bundles::index::Artifact;

/// Its unit.
pub const UNIT_NAME: &str = "containerd.service";

/// Whether this package or archive is containerd itself.
#[must_use]
pub fn is_containerd(artifact: &Artifact) -> bool {
    // Docker's repository calls its package `containerd.io`.
    matches!(artifact.name.as_str(), "containerd" | "containerd.io")
}

/// `containerd.service` for a containerd that was unpacked below `target`, where upstream's archive
/// has its programs in `bin`.
#[must_use]
pub fn unit(target: &str) -> String {
    include_str!("containerd.service").replace("@PROGRAM@", &format!("{target}/bin/containerd"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_unit_starts_the_program_that_was_unpacked() {
        let unit = super::unit("/opt/kube");
        assert!(unit.contains("\nExecStart=/opt/kube/bin/containerd\n"), "{unit}");
        assert!(!unit.contains('@'), "{unit}");
    }
}
