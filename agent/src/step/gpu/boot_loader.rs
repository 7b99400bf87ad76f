//! Which boot loader gives the kernel its arguments, and how one more is given to it.
//!
//! Three are understood: GRUB with Debian's drop-in folder, `kernelstub`, and `/etc/kernel/cmdline` as
//! `kernel-install` and Proxmox read it. Anything else is refused, with the words to add by hand.

use serde::{Deserialize, Serialize};

use crate::{
    host::{Host, HostError, Program},
    step::change::StepError,
};

/// How arguments get to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Loader {
    /// `/etc/default/grub.d` and `update-grub`.
    Grub,
    /// `kernelstub`.
    Kernelstub,
    /// `/etc/kernel/cmdline` and `proxmox-boot-tool refresh`.
    Proxmox,
    /// `/etc/kernel/cmdline` and `kernel-install add`.
    KernelInstall,
}

const GRUB: &str = "/etc/default/grub";
const GRUB_FOLDER: &str = "/etc/default/grub.d";
/// Ours of GRUB's.
pub(crate) const GRUB_DROP_IN: &str = "/etc/default/grub.d/99-kdc.cfg";
/// The whole command line, on one line.
pub(crate) const CMDLINE: &str = "/etc/kernel/cmdline";
const KERNELSTUB: &str = "/etc/kernelstub/configuration";

fn is_installed(host: &dyn Host, name: &str) -> Result<bool, HostError> {
    for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        if host.stat(&format!("{folder}/{name}"))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The loader of this machine.
pub(crate) fn loader(host: &dyn Host) -> Result<Option<Loader>, HostError> {
    if host.stat(KERNELSTUB)?.is_some() && is_installed(host, "kernelstub")? {
        return Ok(Some(Loader::Kernelstub));
    }
    if host.stat(CMDLINE)?.is_some() {
        if host.stat("/etc/kernel/proxmox-boot-uuids")?.is_some()
            && is_installed(host, "proxmox-boot-tool")?
        {
            return Ok(Some(Loader::Proxmox));
        }
        if is_installed(host, "kernel-install")? && host.stat("/boot/loader/entries")?.is_some() {
            return Ok(Some(Loader::KernelInstall));
        }
    }
    if host.stat(GRUB)?.is_some() && is_installed(host, "update-grub")? {
        return Ok(Some(Loader::Grub));
    }
    Ok(None)
}

/// What the loader would give the kernel at the next boot, as far as its files say.
pub(crate) fn configured(host: &dyn Host, loader: Loader) -> Result<Vec<String>, HostError> {
    let text = match loader {
        Loader::Grub => {
            let mut text = host.read_text(GRUB)?.unwrap_or_default();
            for name in host.list(GRUB_FOLDER)?.unwrap_or_default() {
                if name.ends_with(".cfg") {
                    text.push_str(
                        &host.read_text(&format!("{GRUB_FOLDER}/{name}"))?.unwrap_or_default(),
                    );
                }
            }
            let ours = |line: &&str| line.trim_start().starts_with("GRUB_CMDLINE_LINUX");
            text.lines().filter(ours).collect::<Vec<_>>().join("\n")
        }
        Loader::Kernelstub => host.read_text(KERNELSTUB)?.unwrap_or_default(),
        Loader::Proxmox | Loader::KernelInstall => host.read_text(CMDLINE)?.unwrap_or_default(),
    };
    let end = |character: char| character.is_whitespace() || matches!(character, '"' | '\'' | ',');
    Ok(text
        .split(end)
        .filter(|word| word.contains('='))
        .map(|word| word.trim_start_matches("GRUB_CMDLINE_LINUX=").to_owned())
        .collect())
}

/// GRUB's drop-in with these arguments.
pub(crate) fn grub_drop_in(arguments: &[&str]) -> String {
    format!(
        "# Written by kdc. Undo takes this file away.\n\
         GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {}\"\n",
        arguments.join(" ")
    )
}

/// The command line with these arguments after it.
pub(crate) fn appended(line: &str, arguments: &[&str]) -> String {
    let end = if line.ends_with('\n') { "\n" } else { "" };
    format!("{} {}{end}", line.trim_end(), arguments.join(" "))
}

/// Have the boot menu follow its files.
pub(crate) fn refresh(host: &dyn Host, loader: Loader) -> Result<(), StepError> {
    let program = match loader {
        Loader::Grub => Program::new("update-grub"),
        Loader::Proxmox => Program::new("proxmox-boot-tool").arg("refresh"),
        Loader::KernelInstall => {
            let release = host.read_text("/proc/sys/kernel/osrelease")?.unwrap_or_default();
            let release = release.trim().to_owned();
            let image = format!("/lib/modules/{release}/vmlinuz");
            let image = if host.stat(&image)?.is_some() {
                image
            } else {
                format!("/boot/vmlinuz-{release}")
            };
            Program::new("kernel-install").args(["add", &release, &image])
        }
        // It changes its own files as it is told.
        Loader::Kernelstub => return Ok(()),
    };
    host.run_checked(&program.within_secs(300))?;
    Ok(())
}

/// Tell `kernelstub` to add or take away.
pub(crate) fn kernelstub(host: &dyn Host, add: bool, arguments: &[&str]) -> Result<(), StepError> {
    let verb = if add { "--add-options" } else { "--delete-options" };
    let program = Program::new("kernelstub").args([verb, &arguments.join(" ")]);
    host.run_checked(&program.within_secs(300))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn each_loader_is_known_by_its_files_and_its_program() {
        let cases: &[(&[&str], Option<Loader>)] = &[
            (&[], None),
            (&["/etc/default/grub"], None),
            (&["/etc/default/grub", "/usr/sbin/update-grub"], Some(Loader::Grub)),
            (&["/etc/kernel/cmdline", "/usr/bin/kernel-install"], None),
            (
                &["/etc/kernel/cmdline", "/usr/bin/kernel-install", "/boot/loader/entries/a.conf"],
                Some(Loader::KernelInstall),
            ),
            (
                &[
                    "/etc/kernel/cmdline",
                    "/usr/sbin/proxmox-boot-tool",
                    "/etc/kernel/proxmox-boot-uuids",
                    "/etc/default/grub",
                    "/usr/sbin/update-grub",
                ],
                Some(Loader::Proxmox),
            ),
            (&["/etc/kernelstub/configuration", "/usr/bin/kernelstub"], Some(Loader::Kernelstub)),
        ];
        for (files, wanted) in cases {
            let host = FakeHost::debian();
            files.iter().for_each(|path| host.plant(path, ""));
            assert_eq!(loader(&host).unwrap(), *wanted, "{files:?}");
        }
    }

    #[test]
    fn what_a_loader_will_say_is_read_from_its_files() {
        let host = FakeHost::debian();
        host.plant("/etc/default/grub", "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"iommu=pt quiet\"\n");
        host.plant(
            "/etc/default/grub.d/50.cfg",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"$X intel_iommu=off\"\n",
        );
        let words = configured(&host, Loader::Grub).unwrap();
        assert!(words.iter().any(|word| word == "intel_iommu=off"), "{words:?}");
        assert!(!words.iter().any(|word| word.contains("TIMEOUT")), "{words:?}");
        let drop_in = grub_drop_in(&["intel_iommu=on", "iommu=pt"]);
        assert!(
            drop_in
                .ends_with("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX intel_iommu=on iommu=pt\"\n")
        );
        assert_eq!(appended("root=/dev/a ro\n", &["x=1", "y=2"]), "root=/dev/a ro x=1 y=2\n");
        assert_eq!(appended("root=/dev/a", &["x=1"]), "root=/dev/a x=1");
    }
}
