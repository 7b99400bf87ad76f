//! What only a control-plane node can give: join credentials and the admin kubeconfig.

use super::ServeError;
use crate::{
    control::report::{self, ReportError},
    host::{Host, Program},
    step::kubectl::ADMIN_CONF as ADMIN_KUBECONFIG,
    wire::{Failure, JoinCredentials, Reply, SecretText},
};

/// Largest kubeconfig that is handed out.
const MAX_KUBECONFIG_BYTES: u64 = 1024 * 1024;

/// The admin kubeconfig.
pub(super) fn kubeconfig(host: &dyn Host) -> Result<Reply, ServeError> {
    let content = host
        .read(ADMIN_KUBECONFIG, MAX_KUBECONFIG_BYTES)?
        .ok_or(ServeError::NoKubeconfig { path: ADMIN_KUBECONFIG })?;
    let content = SecretText::new(String::from_utf8_lossy(&content).into_owned());
    Ok(Reply::Kubeconfig { content })
}

/// How GPU sharing stands.
pub(super) fn gpu_sharing(host: &dyn Host) -> Result<Reply, Failure> {
    if host.stat(ADMIN_KUBECONFIG).map_err(ServeError::from)?.is_none() {
        return Err(ServeError::NoKubeconfig { path: ADMIN_KUBECONFIG }.into());
    }
    match report::report(host) {
        Ok(report) => Ok(Reply::GpuSharing(Box::new(report))),
        Err(ReportError::Step(error)) => Err(error.failure()),
        Err(ReportError::Control(error)) => Err(Failure::from(&error)),
    }
}

/// Have kubeadm make a token. What it prints is read and never logged.
pub(super) fn mint_join(host: &dyn Host, ttl_secs: u64) -> Result<Reply, ServeError> {
    if host.stat(ADMIN_KUBECONFIG)?.is_none() {
        return Err(ServeError::NoKubeconfig { path: ADMIN_KUBECONFIG });
    }
    let program = Program::new("kubeadm")
        .args(["token", "create", "--print-join-command", "--ttl"])
        .arg(format!("{}s", ttl_secs.clamp(60, 7 * 24 * 3600)))
        .args(["--kubeconfig", ADMIN_KUBECONFIG])
        .within_secs(60);
    let output = host.run(&program)?;
    if !output.good() {
        return Err(ServeError::Mint { reason: output.tail() });
    }
    let credentials = parse_join_command(&output.text()).ok_or_else(|| ServeError::Mint {
        reason: "kubeadm printed no join command that kdc understands".to_owned(),
    })?;
    let json = serde_json::to_string(&credentials)
        .map_err(|cause| ServeError::Mint { reason: cause.to_string() })?;
    Ok(Reply::Join { credentials: SecretText::new(json) })
}

/// `kubeadm join HOST:PORT --token T --discovery-token-ca-cert-hash sha256:H`, warnings around it.
fn parse_join_command(text: &str) -> Option<JoinCredentials> {
    let line = text.lines().find(|line| line.trim_start().starts_with("kubeadm join "))?;
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let after = |flag: &str| {
        let place = words.iter().position(|word| *word == flag)?;
        words.get(place + 1).map(|word| (*word).to_owned())
    };
    let ca_cert_hash = after("--discovery-token-ca-cert-hash")?;
    let endpoint = (*words.get(2)?).to_owned();
    let good = ca_cert_hash.starts_with("sha256:") && endpoint.contains(':');
    good.then_some(JoinCredentials {
        endpoint,
        token: SecretText::new(after("--token")?),
        ca_cert_hash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_command_is_found_among_warnings() {
        let hash = "sha256:".to_owned() + &"a".repeat(64);
        let text = format!(
            "W1123 configset.go:348] WARNING: kubeadm cannot validate component configs\n\
             kubeadm join 10.66.0.11:6443 --token abcdef.0123456789abcdef \
             --discovery-token-ca-cert-hash {hash} \n"
        );
        let found = parse_join_command(&text).unwrap();
        assert_eq!(found.endpoint, "10.66.0.11:6443");
        assert_eq!(found.token.expose(), "abcdef.0123456789abcdef");
        assert_eq!(found.ca_cert_hash, hash);
        assert!(!format!("{found:?}").contains("0123456789"));
        for broken in ["", "kubeadm join 10.66.0.11:6443 --token x", "error: no API"] {
            assert_eq!(parse_join_command(broken), None, "{broken}");
        }
    }
}
