//! Certificates that end: those of kubeadm, kubelet, RKE2 and K3s, and the API's own.
//!
//! A cluster whose certificates ended can't be talked to any more, not even to mend it, and kubeadm's
//! end after a year unless somebody renews them. What kubelet rotates by itself is judged by its own
//! length too: one of a day is not late with two hours left.
//!
//! Certificates that kdc's nodes share content with are pinned by their digest and made anew for each
//! run; nobody looks at their dates, so nobody watches them.

mod der;
mod read;

use serde::{Deserialize, Serialize};

use super::{Thresholds, words};
use crate::{
    facts::Look,
    heal::{Kind, State, Watched},
};

const DAY: i64 = 86_400;
const KIND: Kind = Kind::Certificate;

/// The subject of what is said of all of them.
const ALL: &str = "certificates";

/// What a look at the certificates found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// One a file: the one that decides.
    pub found: Vec<Certificate>,
    /// Files that could not be looked at.
    #[serde(default)]
    pub unreadable: Vec<Unreadable>,
    /// Files that were looked at.
    pub read: usize,
    /// Files that were too many.
    #[serde(default)]
    pub left_out: usize,
}

/// A certificate, by its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// File it is in.
    pub path: String,
    /// Whom it is for; may be empty.
    pub subject: String,
    /// First second in which it is valid, since 1970.
    pub from: i64,
    /// Last second in which it is valid, since 1970.
    pub until: i64,
}

/// A file that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unreadable {
    /// The file.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl Certificates {
    /// Look at a node's certificates, and at those files besides. Reads no key.
    #[must_use]
    pub fn read(look: &Look, besides: &[String]) -> Self {
        read::read(look, besides)
    }

    fn unreadable(&mut self, path: &str, reason: impl Into<String>) {
        self.unreadable.push(Unreadable { path: path.to_owned(), reason: reason.into() });
    }
}

/// What is to be said about certificates at a time.
#[must_use]
pub fn judge(certificates: &Certificates, now: i64, thresholds: &Thresholds) -> Vec<Watched> {
    let mut findings: Vec<Watched> = certificates
        .found
        .iter()
        .filter_map(|certificate| judge_one(certificate, now, thresholds))
        .collect();
    for Unreadable { path, reason } in &certificates.unreadable {
        let hint = "look at the file: what else reads it may stumble over it too";
        findings.push(Watched::unknown(KIND, subject(path), reason).with_hint(hint));
    }
    if certificates.left_out > 0 {
        let (left_out, read) = (certificates.left_out, certificates.read);
        let reason = format!("{left_out} files are too many; {read} were looked at");
        let hint = "move what is no certificate of this node's elsewhere";
        findings.push(Watched::unknown(KIND, ALL, reason).with_hint(hint));
    }
    if findings.is_empty()
        && let Some(next) = certificates.found.iter().min_by_key(|one| one.until)
    {
        let text = format!(
            "{} of them; the first to end is {}, in {} days",
            certificates.found.len(),
            next.path,
            (next.until - now) / DAY
        );
        findings.push(Watched::new(KIND, ALL, State::Ok, text));
    }
    findings
}

fn subject(path: &str) -> String {
    format!("certificate {path}")
}

fn judge_one(certificate: &Certificate, now: i64, thresholds: &Thresholds) -> Option<Watched> {
    let Certificate { path, subject: whom, from, until } = certificate;
    let whom = if whom.is_empty() { String::new() } else { format!(" (for {whom})") };
    let finding = |state, text, hint: &str| {
        Some(Watched::new(KIND, subject(path), state, text).with_hint(hint))
    };
    if *from > now {
        let text = format!("it is valid in {} only{whom}", words::span(from - now));
        let hint =
            "look at this node's clock (`date -u`); if it is right, make the certificate anew";
        return finding(State::Fail, text, hint);
    }
    let left = until - now;
    let (warn, fail) = limits(certificate, thresholds);
    let state = match left {
        left if left < fail => State::Fail,
        left if left < warn => State::Warn,
        _ => return None,
    };
    let text = match left < 0 {
        true => format!("it ended {} ago{whom}", words::span(-left)),
        false => format!("it ends in {}{whom}", words::span(left)),
    };
    let (hint, mildly) = next_step(path);
    finding(if mildly { State::Warn } else { state }, text, &hint)
}

/// Seconds before its end at which a certificate is warned of, and fails.
fn limits(certificate: &Certificate, thresholds: &Thresholds) -> (i64, i64) {
    let secs = |days: u64| i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(DAY);
    let (warn, fail) =
        (secs(thresholds.certificate_warn_days), secs(thresholds.certificate_fail_days));
    if !certificate.path.ends_with("-current.pem") {
        return (warn, fail);
    }
    // Kubelet asks for the next one when 10 to 30 % of the time are left.
    let length = certificate.until.saturating_sub(certificate.from).max(0);
    (warn.min(length / 12), fail.min(length / 50))
}

/// The next thing to do about a certificate that ends, and whether its end harms little.
fn next_step(path: &str) -> (String, bool) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let stem = name.strip_suffix(".crt").unwrap_or(name);
    let text = match path {
        _ if path.starts_with("/var/lib/rancher/") || path.starts_with("/etc/rancher/") => {
            return (vendor(path), false);
        }
        "/var/lib/kubelet/pki/kubelet.crt" => {
            // Nothing checks it unless the API server has --kubelet-certificate-authority.
            let text = "remove /var/lib/kubelet/pki/kubelet.crt and kubelet.key, then `systemctl restart kubelet`: \
                        it makes itself a new one";
            return (text.to_owned(), true);
        }
        _ if path.starts_with("/var/lib/kubelet/pki/") => {
            "kubelet renews it itself: see `journalctl -u kubelet`, and `kubectl get csr` for requests that \
             wait for approval"
                .to_owned()
        }
        _ if path.starts_with("/etc/kubernetes/") && read::is_authority(path) => {
            "kubeadm doesn't renew authorities: follow \"Manual Rotation of CA Certificates\" of Kubernetes' \
             documentation"
                .to_owned()
        }
        _ if path.starts_with("/etc/kubernetes/pki/etcd/") => renew(&format!("etcd-{stem}"), "etcd"),
        _ if path.starts_with("/etc/kubernetes/pki/") => renew(stem, "kube-apiserver"),
        "/etc/kubernetes/admin.conf" | "/etc/kubernetes/super-admin.conf" => format!(
            "on a control plane: `kubeadm certs renew {name}`, then copy it to those who use it"
        ),
        "/etc/kubernetes/controller-manager.conf" => renew(name, "kube-controller-manager"),
        "/etc/kubernetes/scheduler.conf" => renew(name, "kube-scheduler"),
        "/etc/kubernetes/kubelet.conf" => {
            "kubelet has a file of its own for this: see `client-certificate` in `kubeadm init phase \
             kubelet-finalize`"
                .to_owned()
        }
        _ => "put a new one in its place, then `systemctl reload kdc-agent`".to_owned(),
    };
    (text, false)
}

fn renew(what: &str, pod: &str) -> String {
    format!(
        "`kubeadm certs renew {what}`, then restart {pod}: move its manifest out of \
         /etc/kubernetes/manifests for 20 seconds, and back"
    )
}

fn vendor(path: &str) -> String {
    let product = if path.contains("k3s") { "k3s" } else { "rke2" };
    let is_server = path.contains("/server/") || path.starts_with("/etc/");
    let unit = match (product, is_server) {
        ("k3s", true) => "k3s",
        ("k3s", false) => "k3s-agent (k3s on a server)",
        (_, true) => "rke2-server",
        (_, false) => "rke2-agent (rke2-server on a server)",
    };
    match read::is_authority(path) {
        true => format!("`{product} certificate rotate-ca`, after reading its documentation"),
        false => format!("restart {unit}: it renews what ends within 90 days when it starts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn certificate(path: &str, from: i64, until: i64) -> Certificate {
        Certificate {
            path: path.to_owned(),
            subject: "x".to_owned(),
            from: NOW + from,
            until: NOW + until,
        }
    }

    fn judged(certificate: Certificate) -> Watched {
        let certificates = Certificates { found: vec![certificate], ..Certificates::default() };
        let mut findings = judge(&certificates, NOW, &Thresholds::default());
        assert_eq!(findings.len(), 1);
        findings.remove(0)
    }

    #[test]
    fn days_left_decide_and_each_limit_is_where_the_documents_say() {
        let year = -335 * DAY;
        for (from, until, state, text) in [
            (
                year,
                30 * DAY,
                State::Ok,
                "1 of them; the first to end is /etc/kubernetes/pki/apiserver.crt, in 30 days",
            ),
            (year, 30 * DAY - 1, State::Warn, "it ends in 29 days (for x)"),
            (year, 7 * DAY, State::Warn, "it ends in 7 days (for x)"),
            (year, 7 * DAY - 1, State::Fail, "it ends in 6 days (for x)"),
            (year, -3 * 3600, State::Fail, "it ended 3 hours ago (for x)"),
            (600, 400 * DAY, State::Fail, "it is valid in 10 minutes only (for x)"),
        ] {
            let finding = judged(certificate("/etc/kubernetes/pki/apiserver.crt", from, until));
            assert_eq!((finding.state, finding.text.as_str()), (state, text));
        }
    }

    #[test]
    fn what_kubelet_rotates_is_late_by_its_own_length() {
        let path = "/var/lib/kubelet/pki/kubelet-client-current.pem";
        for (from, until, state) in [
            // Of a day: 2 hours are good, 1 hour is late, a quarter of one is bad.
            (-22 * 3600, 2 * 3600, State::Ok),
            (-23 * 3600, 3600, State::Warn),
            (-24 * 3600 + 900, 900, State::Fail),
            // Of a year: as the others, nearly.
            (-335 * DAY, 31 * DAY, State::Ok),
            (-336 * DAY, 29 * DAY, State::Warn),
            (-360 * DAY, 5 * DAY, State::Fail),
        ] {
            assert_eq!(judged(certificate(path, from, until)).state, state, "{from} {until}");
        }
    }

    #[test]
    fn each_place_has_its_own_next_step() {
        for (path, part) in [
            ("/etc/kubernetes/pki/apiserver.crt", "`kubeadm certs renew apiserver`"),
            (
                "/etc/kubernetes/pki/apiserver-etcd-client.crt",
                "`kubeadm certs renew apiserver-etcd-client`",
            ),
            (
                "/etc/kubernetes/pki/etcd/server.crt",
                "`kubeadm certs renew etcd-server`, then restart etcd",
            ),
            ("/etc/kubernetes/pki/etcd/healthcheck-client.crt", "renew etcd-healthcheck-client`"),
            ("/etc/kubernetes/pki/front-proxy-ca.crt", "Manual Rotation"),
            ("/etc/kubernetes/admin.conf", "`kubeadm certs renew admin.conf`"),
            ("/etc/kubernetes/scheduler.conf", "restart kube-scheduler"),
            ("/var/lib/kubelet/pki/kubelet-client-current.pem", "kubectl get csr"),
            ("/var/lib/kubelet/pki/kubelet.crt", "makes itself a new one"),
            ("/var/lib/rancher/rke2/server/tls/serving-kube-apiserver.crt", "restart rke2-server"),
            ("/var/lib/rancher/k3s/agent/client-kubelet.crt", "restart k3s-agent"),
            ("/var/lib/rancher/rke2/server/tls/server-ca.crt", "`rke2 certificate rotate-ca`"),
            ("/etc/kdc/api.crt", "`systemctl reload kdc-agent`"),
        ] {
            let finding = judged(certificate(path, -364 * DAY, DAY));
            let hint = finding.hint.clone().unwrap_or_default();
            assert!(hint.contains(part), "{path}: {hint}");
            let mild = path.ends_with("/kubelet.crt");
            assert_eq!(finding.state, if mild { State::Warn } else { State::Fail }, "{path}");
        }
    }

    #[test]
    fn what_could_not_be_looked_at_is_unknown_and_never_ok() {
        let mut certificates = Certificates {
            found: vec![certificate("/etc/kubernetes/pki/ca.crt", -DAY, 3000 * DAY)],
            left_out: 3,
            read: 512,
            ..Certificates::default()
        };
        certificates.unreadable("/etc/kubernetes/pki/b.crt", "permission denied");
        let findings = judge(&certificates, NOW, &Thresholds::default());
        assert!(findings.iter().all(|finding| finding.state.word() == "unknown"), "{findings:?}");
        assert_eq!(findings.len(), 2);
        assert_eq!(judge(&Certificates::default(), NOW, &Thresholds::default()), []);
    }
}
