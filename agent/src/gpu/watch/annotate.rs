//! What is to be done about each GPU, told to the cluster: the annotation `kdc.dev/gpu-health` of this node, from which
//! `kdc-control.service` cordons sick GPUs.
//!
//! Written with the kubelet's own credentials, which may write to their own node only; where there are none, nothing
//! happens. It is looked at once an hour, and written where it differs. What fails is tried again after 1, 2, 4 … 300 s.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    control::{
        ControlError,
        api::{ApiServer, Kind, Patch},
    },
    gpu::{
        hami::health::{GpuCondition, GpuHealth, GpuVerdict, HEALTH_ANNOTATION},
        node::NodeGpus,
        report::{Gpu, GpuState},
        verdict::Verdict,
    },
    inventory::Found,
};

/// Where distributions keep the kubelet's credentials: kubeadm, RKE2, K3s.
pub(crate) const KUBELET: &[&str] = &[
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
];
/// Credentials that are not there (yet) are looked for again after this.
const CREDENTIALS_AGAIN: Duration = Duration::from_secs(60);
/// The annotation is looked at after this, also where nothing changed.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// Two writes are at least that far from each other.
const WRITES_APART: Duration = Duration::from_secs(10);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Largest file of credentials.
const LARGEST: u64 = 1024 * 1024;
/// Most GPUs that a reader of the annotation takes.
const MOST_GPUS: usize = 64;

/// What the annotation is to say.
pub(super) type Wanted = watch::Sender<Option<GpuHealth>>;

/// It can't be told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    /// The kubelet's credentials can't be used.
    #[error("{} can't be used: {reason}", path.display())]
    Credentials { path: PathBuf, reason: String },
    /// The API server refused, or did not answer.
    #[error(transparent)]
    Api(#[from] ControlError),
    /// The kubelet has not registered its node.
    #[error("the cluster has no node `{0}`")]
    NoNode(String),
}

impl TellError {
    fn code(&self) -> &'static str {
        match self {
            Self::Api(error) => error.code(),
            Self::Credentials { .. } | Self::NoNode(_) => "AGENT-070",
        }
    }
}

/// Start the thread that tells. It ends with the process, or when nobody wants anything any more.
pub(super) fn begin(credentials: Vec<PathBuf>) -> std::io::Result<Wanted> {
    let (wanted, told) = watch::channel(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tell = move || runtime.block_on(tell_on(&credentials, told));
    std::thread::Builder::new().name("annotate".to_owned()).spawn(tell)?;
    Ok(wanted)
}

async fn tell_on(credentials: &[PathBuf], mut wanted: watch::Receiver<Option<GpuHealth>>) {
    let mut failures = 0;
    loop {
        let health = wanted.borrow_and_update().clone();
        let there = credentials.iter().find(|path| path.exists());
        let pause = match (health, there) {
            (None, _) => LOOK_AGAIN,
            (Some(_), None) => CREDENTIALS_AGAIN,
            (Some(health), Some(path)) => match tell(path, &health).await {
                Ok(written) => {
                    failures = 0;
                    if written {
                        tracing::info!(
                            gpus = health.gpus.len(),
                            "the node's {HEALTH_ANNOTATION} is written"
                        );
                        tokio::time::sleep(WRITES_APART).await;
                    }
                    LOOK_AGAIN
                }
                Err(error) => {
                    let pause = backoff(failures);
                    failures += 1;
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let (code, cause) = (error.code(), cause.unwrap_or_default());
                    tracing::warn!(
                        code,
                        seconds = pause.as_secs(),
                        "{error}: {cause}; it is tried again"
                    );
                    // Whatever changes meanwhile, a server in trouble is not asked more often for it.
                    tokio::time::sleep(pause).await;
                    continue;
                }
            },
        };
        if let Ok(Err(_)) = tokio::time::timeout(pause, wanted.changed()).await {
            // Nobody wants anything any more.
            return;
        }
    }
}

fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(16)).min(LONGEST_PAUSE)
}

/// Write it, where the node says something else. The kubelet's certificate is another every few months, so its credentials
/// are read each time.
async fn tell(credentials: &Path, health: &GpuHealth) -> Result<bool, TellError> {
    let name = node_name(credentials)
        .map_err(|reason| TellError::Credentials { path: credentials.to_owned(), reason })?;
    let api = ApiServer::with(credentials, "kube-system", None).await?;
    let node = api.get(Kind::Node, &name).await?.ok_or_else(|| TellError::NoNode(name.clone()))?;
    let text = health.to_text();
    if node["metadata"]["annotations"][HEALTH_ANNOTATION].as_str() == Some(&text) {
        return Ok(false);
    }
    let patch = json!({ "metadata": { "annotations": { HEALTH_ANNOTATION: text } } });
    api.patch(Kind::Node, (&name, None), (Patch::Merge, &patch)).await?;
    Ok(true)
}

/// The parts of a kubeconfig that say who it is for.
#[derive(Deserialize)]
struct File {
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
}

/// The node that a kubelet's certificate speaks for (`CN=system:node:NAME`). Errors name fields, never what stands in them.
pub(crate) fn node_name(credentials: &Path) -> Result<String, String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let file: File = serde_yaml::from_slice(&bounded(credentials)?)
        .map_err(|_| "it is no kubeconfig with users".to_owned())?;
    let folder = credentials.parent().unwrap_or(Path::new("/"));
    for Named { user } in file.users {
        let pem = match (user.client_certificate_data, user.client_certificate) {
            (Some(data), _) => STANDARD
                .decode(data)
                .map_err(|_| "`client-certificate-data` is no base64".to_owned())?,
            (None, Some(path)) => bounded(&folder.join(path))?,
            (None, None) => continue,
        };
        let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
        if let Some(name) = certificates.into_iter().find_map(|one| node_in(&one)) {
            return Ok(name);
        }
    }
    Err("no client certificate in it is a node's (`system:node:…`)".to_owned())
}

/// The common name of a certificate, where it is a node's. In DER a name's part is its identifier (2.5.4.3), a kind of
/// text, the length, and the text.
fn node_in(certificate: &[u8]) -> Option<String> {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
    let places = certificate.windows(COMMON_NAME.len()).enumerate();
    let mut names = places.filter(|(_, window)| *window == COMMON_NAME).filter_map(|(at, _)| {
        let [kind, length, rest @ ..] = certificate.get(at + COMMON_NAME.len()..)? else {
            return None;
        };
        let text = rest.get(..usize::from(*length))?;
        let short = *length < 0x80 && TEXTS.contains(kind);
        let name =
            std::str::from_utf8(text).ok().filter(|_| short)?.strip_prefix("system:node:")?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        (!name.is_empty() && name.bytes().all(good)).then(|| name.to_owned())
    });
    names.next()
}

fn bounded(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// What the annotation is to say. A GPU that nobody could ask is left out: of that its reader concludes nothing.
pub(super) fn health_of(node: &NodeGpus) -> GpuHealth {
    // Verdicts of the report's GPUs stand first, in its order; those behind are of GPUs that only the log names.
    let gpus = node.report.gpus.iter().map(Some).chain(std::iter::repeat(None));
    let mut conditions: Vec<GpuCondition> = node
        .verdicts
        .iter()
        .zip(gpus)
        .filter_map(|(verdict, gpu)| condition(verdict, gpu))
        .collect();
    conditions.sort_by(|left, right| left.uuid.cmp(&right.uuid));
    conditions.dedup_by(|left, right| left.uuid == right.uuid);
    conditions.truncate(MOST_GPUS);
    GpuHealth { gpus: conditions }
}

fn condition(verdict: &Verdict, gpu: Option<&Gpu>) -> Option<GpuCondition> {
    let uuid = verdict.uuid.clone().filter(|uuid| kdc_profiles::cluster::gpu::is_gpu_uuid(uuid))?;
    let answers = gpu.is_some_and(|gpu| gpu.state == GpuState::Answers);
    if !verdict.cordon && !answers {
        return None;
    }
    let reason = if verdict.cordon {
        format!("{}: {}", verdict.reason, verdict.action.in_words())
    } else {
        String::new()
    };
    Some(GpuCondition {
        uuid,
        index: gpu.and_then(|gpu| gpu.index.value().copied()),
        model: gpu.and_then(|gpu| gpu.model.value().cloned()),
        memory_mib: gpu.and_then(|gpu| Some(gpu.live.memory.value()?.total_bytes >> 20)),
        mig: gpu.and_then(|gpu| match &gpu.mig.mode {
            Found::Present { .. } => Some(true),
            Found::Absent { .. } => Some(false),
            Found::Unknown { .. } => None,
        }),
        verdict: if verdict.cordon { GpuVerdict::Cordon } else { GpuVerdict::Ok },
        reason,
    })
}

#[cfg(test)]
#[path = "annotate_tests.rs"]
mod tests;
