//! `kubectl` with the admin kubeconfig, for the steps that talk to the cluster.

use serde_json::Value;

use super::change::StepError;
use crate::host::{Host, HostError, Program};

/// The admin kubeconfig that kubeadm leaves on a control plane.
pub(crate) const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// `kubectl` as admin. Its cache goes where a reboot clears it.
pub(crate) fn kubectl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new("kubectl")
        .arg(format!("--kubeconfig={ADMIN_CONF}"))
        .arg("--cache-dir=/run/kdc/kubectl-cache")
        .arg("--request-timeout=20s")
        .env("HOME", "/run/kdc")
        .args(arguments)
        .within_secs(120)
}

/// The API server says it is ready.
pub(crate) fn api_ready(host: &dyn Host) -> Result<bool, StepError> {
    if host.stat(ADMIN_CONF)?.is_none() {
        return Ok(false);
    }
    match host.run(&kubectl(["get", "--raw", "/readyz"]).within_secs(15)) {
        Ok(output) => Ok(output.good() && output.text().trim() == "ok"),
        Err(HostError::Deadline { .. }) => Ok(false),
        Err(error) if error.is_missing_program() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One object as JSON; `None` if there is none.
pub(crate) fn get(host: &dyn Host, arguments: &[&str]) -> Result<Option<Value>, StepError> {
    let all =
        ["get", "--ignore-not-found", "--output=json"].into_iter().chain(arguments.iter().copied());
    let program = kubectl(all);
    let text = host.run_checked(&program)?.text();
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&text).map(Some).map_err(|error| StepError::Format {
        what: format!("the answer of `{}`", program.line()),
        reason: error.to_string(),
    })
}
