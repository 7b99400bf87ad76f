//! `ConfigureContainerd`: one configuration file in the format of the containerd that is there.
//!
//! containerd 1.x reads version 2 of the format, 2.x version 3, where sandbox image, CNI and runtimes
//! have other places. The first start fills containerd's directories; however it came to the node
//! (packages, or an archive that knows nothing of them), undo empties those that this start filled.
//!
//! A `hosts.toml` for each registry named sends its images to this node's own registry on loopback.
//! containerd 1.6 takes no such file without a `host` table, and without a `server` it would go on
//! to the registry that the image names; so both are in it, and both are loopback.

use std::collections::{BTreeMap, BTreeSet};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    containerd::{CONFIG, OWNED, UNIT, Version, answers, installed_version, wait_for_socket},
    snapshot::{PathState, look, put_file, remove_parents, restore, restore_owned_directory},
    systemd::{look_at, restore_activity, systemctl},
};
use crate::daemon::registry::registry_url;

/// containerd set up for Kubernetes.
pub(crate) struct ConfigureContainerd<'a> {
    pub(crate) sandbox_image: &'a str,
    pub(crate) cni_bin_dir: &'a str,
    pub(crate) systemd_cgroup: bool,
    pub(crate) restrict_oom_score_adj: bool,
    pub(crate) registries: &'a [String],
    pub(crate) drop_ins: bool,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Major version of the installed containerd.
    major: Option<u32>,
    /// Its minor version; journals before archives have none.
    #[serde(default)]
    minor: u32,
    file: PathState,
    active: bool,
    answers: bool,
    /// Its directories; journals before archives have none.
    #[serde(default)]
    owned: BTreeMap<String, PathState>,
    /// Each registry's file; journals before the node's own registry have none.
    #[serde(default)]
    hosts: BTreeMap<String, PathState>,
}

/// Where containerd looks for what it is told of a registry.
const HOSTS_DIR: &str = "/etc/containerd/certs.d";

/// Where containerd looks for parts of its configuration, if it is told to.
const DROP_INS: &str = "/etc/containerd/conf.d/*.toml";

/// Where CNI configuration lives.
const CNI_CONF_DIR: &str = "/etc/cni/net.d";

impl ConfigureContainerd<'_> {
    /// The whole configuration, in the format of this version.
    fn render(&self, version: Version) -> String {
        let quote = |text: &str| format!("{text:?}");
        let (sandbox, bin_dir) = (quote(self.sandbox_image), quote(self.cni_bin_dir));
        let (systemd, restrict) = (self.systemd_cgroup, self.restrict_oom_score_adj);
        let conf_dir = quote(CNI_CONF_DIR);
        let head = "# Written by kdc. Undo puts back what was here.\n";
        let opt =
            "[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"/var/lib/containerd/opt\"\n";
        let pulls = self.pulls(version);
        let imports = if self.drop_ins {
            format!("imports = [{}]\n", quote(DROP_INS))
        } else {
            String::new()
        };
        if version.0 >= 2 {
            let runtime = "io.containerd.cri.v1.runtime";
            // 2.1 took up the list, and refuses to have both.
            let bin_dirs = if version >= (2, 1) {
                format!("bin_dirs = [{bin_dir}]")
            } else {
                format!("bin_dir = {bin_dir}")
            };
            return format!(
                "{head}version = 3\n{imports}\n\
                 [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = {sandbox}\n\n\
                 [plugins.'{runtime}']\n  restrict_oom_score_adj = {restrict}\n\n\
                 [plugins.'{runtime}'.cni]\n  {bin_dirs}\n  conf_dir = {conf_dir}\n\n\
                 [plugins.'{runtime}'.containerd.runtimes.runc]\n  \
                 runtime_type = \"io.containerd.runc.v2\"\n\n\
                 [plugins.'{runtime}'.containerd.runtimes.runc.options]\n  \
                 SystemdCgroup = {systemd}\n\n\
                 {pulls}{opt}"
            );
        }
        let cri = "[plugins.\"io.containerd.grpc.v1.cri\"";
        format!(
            "{head}version = 2\n{imports}\n\
             {cri}]\n  sandbox_image = {sandbox}\n  restrict_oom_score_adj = {restrict}\n\n\
             {cri}.cni]\n  bin_dir = {bin_dir}\n  conf_dir = {conf_dir}\n\n\
             {cri}.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n\n\
             {cri}.containerd.runtimes.runc.options]\n  SystemdCgroup = {systemd}\n\n\
             {pulls}{opt}"
        )
    }

    /// Where images come from, and that a layer's compressed form is not kept once it is unpacked.
    fn pulls(&self, version: Version) -> String {
        if self.registries.is_empty() {
            return String::new();
        }
        let hosts = format!("config_path = {HOSTS_DIR:?}\n\n");
        let discard = "discard_unpacked_layers = true\n\n";
        if version.0 >= 2 {
            let images = "[plugins.'io.containerd.cri.v1.images'";
            return format!("{images}]\n  {discard}{images}.registry]\n  {hosts}");
        }
        let cri = "[plugins.\"io.containerd.grpc.v1.cri\"";
        format!("{cri}.containerd]\n  {discard}{cri}.registry]\n  {hosts}")
    }

    /// The files of the registries, by path; all have one text.
    fn hosts(&self) -> impl Iterator<Item = String> {
        self.registries.iter().map(|registry| format!("{HOSTS_DIR}/{registry}/hosts.toml"))
    }
}

/// All files first, then the folders that they needed: each alone would find them not empty yet.
fn restore_hosts(
    context: &Context<'_>,
    hosts: &BTreeMap<String, PathState>,
) -> Result<(), StepError> {
    let mut folders = BTreeSet::new();
    for (path, state) in hosts {
        if let PathState::Missing { parents } = state {
            context.host.remove_scratch(path)?;
            context.host.remove(path)?;
            // Those above are the configuration's own.
            folders.extend(parents.iter().filter(|parent| parent.starts_with(HOSTS_DIR)).cloned());
        } else {
            restore(context, path, state)?;
        }
    }
    remove_parents(context, &folders.into_iter().collect::<Vec<_>>())
}

/// What containerd is told of a registry.
fn hosts_text() -> String {
    let url = registry_url();
    format!(
        "# Written by kdc: images come from this node's own registry. Undo puts back what was here.\n\
         server = {url:?}\n\n[host.{url:?}]\n  capabilities = [\"pull\", \"resolve\"]\n"
    )
}

impl Change for ConfigureContainerd<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let version = installed_version(context.host)?;
        let active = look_at(context.host, UNIT)?.active;
        let answers = active && answers(context.host)?;
        let mut owned = BTreeMap::new();
        // What one that runs already has there is its own affair.
        for path in OWNED.iter().filter(|_| !active) {
            owned.insert((*path).to_owned(), look(context, path)?);
        }
        let mut hosts = BTreeMap::new();
        for path in self.hosts() {
            let state = look(context, &path)?;
            hosts.insert(path, state);
        }
        Ok(Before {
            major: version.map(|(major, _)| major),
            minor: version.map_or(0, |(_, minor)| minor),
            file: look(context, CONFIG)?,
            active,
            answers,
            owned,
            hosts,
        })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        let wanted =
            before.major.map(|major| Digest::of(self.render((major, before.minor)).as_bytes()));
        let text = Digest::of(hosts_text().as_bytes());
        let told =
            |path: String| before.hosts.get(&path).is_some_and(|state| state.is_file(&text, 0o644));
        before.answers
            && wanted.is_some_and(|wanted| before.file.is_file(&wanted, 0o644))
            && self.hosts().all(told)
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        let Some(version) = installed_version(context.host)? else {
            return Err(StepError::Refused {
                what: "containerd is not installed".to_owned(),
                hint: "put containerd into the bundle: its package, or its archive".to_owned(),
            });
        };
        for path in self.hosts() {
            put_file(context.host, &path, &mut hosts_text().as_bytes(), 0o644)?;
        }
        put_file(context.host, CONFIG, &mut self.render(version).as_bytes(), 0o644)?;
        context.host.run_checked(&systemctl(["restart", "--", UNIT]))?;
        wait_for_socket(context)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        restore_hosts(context, &before.hosts)?;
        restore(context, CONFIG, &before.file)?;
        if before.active {
            context.host.run_checked(&systemctl(["restart", "--", UNIT]))?;
            return Ok(());
        }
        restore_activity(context, UNIT, false)?;
        for (path, state) in &before.owned {
            restore_owned_directory(context, path, state)?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("configure containerd (pause image {})", self.sandbox_image)
    }

    fn detail(&self, before: &Before) -> String {
        let service = if before.active { "restarts" } else { "starts" };
        // A file of somebody else's that is replaced is told; undo puts it back.
        let replaced = before.hosts.iter().filter(|(_, state)| !state.is_missing());
        let replaced: String =
            replaced.map(|(path, state)| format!("{}, ", state.write_detail(path))).collect();
        format!("{replaced}{} and {service} containerd", before.file.write_detail(CONFIG))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_its_own_format() {
        let step = ConfigureContainerd {
            sandbox_image: "k8s.gcr.io/pause:3.2",
            cni_bin_dir: "/usr/lib/cni",
            systemd_cgroup: true,
            restrict_oom_score_adj: false,
            registries: &["k8s.gcr.io".to_owned(), "10.0.0.5:5000".to_owned()],
            drop_ins: false,
        };
        let one = step.render((1, 6));
        let pulls = |at: [&str; 2]| {
            let [discard, hosts] = at.map(|table| format!("[plugins.{table}]\n  "));
            format!(
                "{discard}discard_unpacked_layers = true\n\n\
                 {hosts}config_path = \"/etc/containerd/certs.d\"\n\n"
            )
        };
        let tables =
            ["\"io.containerd.grpc.v1.cri\".containerd", "\"io.containerd.grpc.v1.cri\".registry"];
        assert!(one.contains(&pulls(tables)), "{one}");
        assert!(one.contains("version = 2\n"));
        assert!(one.contains("sandbox_image = \"k8s.gcr.io/pause:3.2\"\n"));
        assert!(one.contains("SystemdCgroup = true\n"));
        assert!(one.contains("bin_dir = \"/usr/lib/cni\"\n"));
        for (version, bin_dir) in
            [((2, 0), "bin_dir = \"/usr/lib/cni\"\n"), ((2, 1), "bin_dirs = [\"/usr/lib/cni\"]\n")]
        {
            let two = step.render(version);
            assert!(two.contains("version = 3\n"));
            assert!(two.contains("sandbox = \"k8s.gcr.io/pause:3.2\"\n"));
            assert!(two.contains("SystemdCgroup = true\n"));
            assert!(two.contains(bin_dir), "{two}");
            let tables =
                ["'io.containerd.cri.v1.images'", "'io.containerd.cri.v1.images'.registry"];
            assert!(two.contains(&pulls(tables)), "{two}");
            assert!(!two.contains("grpc.v1.cri"));
        }
    }

    #[test]
    fn drop_ins_are_read_where_a_later_step_needs_them() {
        let step = |drop_ins| ConfigureContainerd {
            sandbox_image: "p",
            cni_bin_dir: "/usr/lib/cni",
            systemd_cgroup: true,
            restrict_oom_score_adj: false,
            registries: &[],
            drop_ins,
        };
        for (version, line) in [((1, 6), "version = 2\n"), ((2, 1), "version = 3\n")] {
            let imports =
                format!("{line}imports = [\"/etc/containerd/conf.d/*.toml\"]\n\n[plugins");
            assert!(
                step(true).render(version).contains(&imports),
                "{}",
                step(true).render(version)
            );
            assert!(!step(false).render(version).contains("imports"));
        }
    }

    /// containerd 1.6 reads no file without a `host` table; without `server` it would ask upstream.
    #[test]
    fn a_registry_s_file_names_loopback_and_nothing_else() {
        let text = hosts_text();
        for line in [
            "server = \"http://127.0.0.1:327\"",
            "[host.\"http://127.0.0.1:327\"]",
            "  capabilities = [\"pull\", \"resolve\"]",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.matches("://").count(), 2, "{text}");
    }
}
