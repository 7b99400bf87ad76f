//! containerd: its configuration, its version, whether it answers.

use std::time::Duration;

use super::change::{Context, StepError};
use crate::host::{Host, Program};

/// containerd's configuration.
pub(crate) const CONFIG: &str = "/etc/containerd/config.toml";

/// Its unit.
pub(crate) const UNIT: &str = "containerd.service";

/// Where it listens.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// `ctr` in the namespace of Kubernetes.
pub(crate) fn ctr<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new("ctr").args(["--namespace", "k8s.io"]).args(arguments)
}

/// Major version of the installed containerd; `None` if there is none.
pub(crate) fn major_version(host: &dyn Host) -> Result<Option<u32>, StepError> {
    let program = Program::new("containerd").arg("--version");
    let output = match host.run_checked(&program) {
        Err(error) if error.is_missing_program() => return Ok(None),
        result => result?,
    };
    let text = output.text();
    match parse_major(&text) {
        Some(major) => Ok(Some(major)),
        None => Err(StepError::Format {
            what: "containerd's version".to_owned(),
            reason: format!("`{}`", text.trim()),
        }),
    }
}

/// `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1` → 1.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?.trim_start_matches('v');
    version.split('.').next()?.parse().ok()
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
    fn the_major_version_is_read_from_every_spelling() {
        for (text, major) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n", Some(1)),
            ("containerd containerd.io 1.7.27 05044ec0a9a7\n", Some(1)),
            ("containerd github.com/containerd/containerd/v2 v2.1.1 cb1076\n", Some(2)),
            ("containerd\n", None),
        ] {
            assert_eq!(parse_major(text), major, "{text}");
        }
    }
}
