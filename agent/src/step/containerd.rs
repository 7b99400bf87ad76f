//! containerd: its configuration, its version, whether it answers.

use std::time::Duration;

use super::change::{Context, StepError};
use crate::host::{Host, Program};

/// containerd's configuration.
pub(crate) const CONFIG: &str = "/etc/containerd/config.toml";

/// Its unit.
pub(crate) const UNIT: &str = "containerd.service";

/// Filled by containerd and the CNI plugins it calls, and by nobody else.
pub(crate) const OWNED: &[&str] = &[
    "/var/lib/containerd",
    "/opt/containerd",
    "/etc/containerd",
    "/run/containerd",
    "/etc/cni",
    "/var/lib/cni",
];

/// Where it listens.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// `ctr` in the namespace of Kubernetes.
pub(crate) fn ctr<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new("ctr").args(["--namespace", "k8s.io"]).args(arguments)
}

/// Major and minor version.
pub(crate) type Version = (u32, u32);

/// Version of the installed containerd; `None` if there is none.
pub(crate) fn installed_version(host: &dyn Host) -> Result<Option<Version>, StepError> {
    let program = Program::new("containerd").arg("--version");
    let output = match host.run_checked(&program) {
        Err(error) if error.is_missing_program() => return Ok(None),
        result => result?,
    };
    let text = output.text();
    match parse_version(&text) {
        Some(version) => Ok(Some(version)),
        None => Err(StepError::Format {
            what: "containerd's version".to_owned(),
            reason: format!("`{}`", text.trim()),
        }),
    }
}

/// `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1` → 1, 6.
fn parse_version(text: &str) -> Option<Version> {
    let mut parts = text.split_whitespace().nth(2)?.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// It answers on its socket.
pub(crate) fn answers(host: &dyn Host) -> Result<bool, StepError> {
    match host.run(&Program::new("ctr").arg("version").within_secs(10)) {
        Ok(output) => Ok(output.good()),
        Err(error) if error.is_missing_program() => Ok(false),
        Err(crate::host::HostError::Deadline { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Wait until it answers.
pub(crate) fn wait_for_socket(context: &Context<'_>) -> Result<(), StepError> {
    for _ in 0..120 {
        if answers(context.host)? {
            return Ok(());
        }
        context.host.sleep(Duration::from_millis(500));
    }
    Err(StepError::Waited {
        what: format!("containerd on {SOCKET}"),
        seconds: 60,
        seen: "`ctr version` fails; see `journalctl -u containerd`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_every_spelling() {
        for (text, version) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n",
                Some((1, 6)),
            ),
            ("containerd containerd.io 1.7.27 05044ec0a9a7\n", Some((1, 7))),
            ("containerd github.com/containerd/containerd/v2 v2.1.1 cb1076\n", Some((2, 1))),
            ("containerd\n", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
