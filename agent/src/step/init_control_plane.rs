//! `InitControlPlane`: `kubeadm init`.

use super::{
    change::{Change, Context, StepError},
    kubeadm::{Before, forget_config, make_room, photograph, run, take_down},
    kubectl::{ADMIN_CONF, api_ready},
};
use crate::host::Host;

/// A control plane made by kubeadm.
pub(crate) struct InitControlPlane<'a> {
    pub(crate) config: &'a str,
}

/// Files without which a control plane is not whole.
const FILES: &[&str] = &[
    ADMIN_CONF,
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-scheduler.yaml",
];

/// `kubeadm init` ends with putting kube-proxy and the DNS into the cluster: only then is it whole.
fn is_whole(host: &dyn Host) -> Result<bool, StepError> {
    for path in FILES {
        if host.stat(path)?.is_none() {
            return Ok(false);
        }
    }
    if !api_ready(host)? {
        return Ok(false);
    }
    let dns = ["--namespace=kube-system", "deployment/coredns"];
    Ok(super::kubectl::get(host, &dns)?.is_some())
}

impl Change for InitControlPlane<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let whole = is_whole(context.host)?;
        photograph(context, whole)
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.ready
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        forget_config(context.host)?;
        if is_whole(context.host)? {
            return Ok(());
        }
        make_room(context, before)?;
        run(context, "init", self.config, &["--skip-token-print"])
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        take_down(context, before)
    }

    fn summary(&self) -> String {
        "start the control plane (kubeadm init)".to_owned()
    }

    fn detail(&self, _before: &Before) -> String {
        "makes certificates and starts etcd, the API server and its controllers".to_owned()
    }
}
