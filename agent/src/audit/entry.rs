//! What is written down: one variant a kind of deed. A kind's name is a format, read for years: it is never used anew.

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    run::RunError,
    step::{NodePlan, Step},
    wire::{Failure, Outcome},
};

/// Who did it, as far as the node knows; all of it is what others said of themselves, but for what sshd and sudo say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Who {
    /// The part of kdc: `serve`, `run`, `heal`, `control`.
    pub part: String,
    /// The login on this node (`root`, or who used `sudo`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub login: String,
    /// Address that the SSH connection came from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// What the installer said of its operator: `ops@laptop pid 4711`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
}

impl Who {
    /// A part of kdc that works by itself.
    #[must_use]
    pub fn part(name: &str) -> Self {
        Self { part: name.to_owned(), ..Self::default() }
    }

    /// An operator over SSH: the session's login and address, and what the installer said of itself.
    #[must_use]
    pub fn over_ssh(operator: &str) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let login = variable("SUDO_USER").or_else(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
            Some(user.name)
        });
        // `sudo` keeps it from us; then the login has to do.
        let from =
            variable("SSH_CONNECTION").and_then(|text| text.split(' ').next().map(str::to_owned));
        Self {
            part: "serve".to_owned(),
            login: login.unwrap_or_default(),
            from: from.unwrap_or_default(),
            operator: operator.to_owned(),
        }
    }
}

/// One deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all_fields = "camelCase")]
pub enum Entry {
    /// First line of a log.
    #[serde(rename = "log.opened")]
    Opened {
        /// Format.
        version: u32,
        /// Random, new with each new log.
        chain: String,
        /// The public key, base64.
        key: String,
        /// The agent's version.
        agent: String,
    },
    /// The key is another: its file was gone or unusable.
    #[serde(rename = "log.key")]
    Key {
        /// The new public key, base64.
        key: String,
        /// Why there is another.
        reason: String,
    },
    /// What stands before this line is signed.
    #[serde(rename = "log.checkpoint")]
    Checkpoint(super::Head),
    /// A torn last line was cut off.
    #[serde(rename = "log.recovered")]
    Recovered {
        /// Its length.
        bytes: u64,
    },
    /// The log before this line is not what was written; it stays as it is.
    #[serde(rename = "log.damaged")]
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// The oldest lines went, for room.
    #[serde(rename = "log.dropped")]
    Dropped {
        /// The last line that went.
        through: u64,
        /// Its digest.
        sum: String,
    },
    /// A plan was shown that has steps for this node.
    #[serde(rename = "plan.shown")]
    PlanShown {
        /// Cluster.
        cluster: String,
        /// Digest of the cluster's plan.
        plan: String,
        /// Nodes in it.
        nodes: u64,
        /// Steps of this node in it.
        steps: u64,
    },
    /// A bundle was offered, and its signature is good.
    #[serde(rename = "bundle.trusted")]
    BundleTrusted {
        /// Digest of its index.
        index: String,
    },
    /// A run was started, or taken up again.
    #[serde(rename = "run.started")]
    RunStarted {
        /// Run.
        run: String,
        /// Cluster.
        cluster: String,
        /// Node.
        node: String,
        /// Digest of the node's plan.
        plan: String,
        /// Digest of the bundle's index.
        index: String,
        /// Steps.
        steps: u64,
        /// An unfinished one was taken up.
        resumed: bool,
    },
    /// A run ended.
    #[serde(rename = "run.ended")]
    RunEnded {
        /// Run.
        run: String,
        /// Cluster.
        cluster: String,
        /// Node.
        node: String,
        /// `finished`, `failed`, `interrupted`, `stopped`.
        outcome: String,
        /// How far it got, or what was in the way.
        detail: String,
    },
    /// This node became part of a cluster, or was refused.
    #[serde(rename = "node.enrolled")]
    Enrolled {
        /// Cluster.
        cluster: String,
        /// Node.
        node: String,
        /// `control-plane` or `worker`, where it is known.
        role: String,
        /// By which run.
        run: String,
    },
    /// Taking everything back was begun.
    #[serde(rename = "undo.started")]
    UndoStarted {
        /// Its id.
        undo: String,
        /// Runs in force.
        runs: Vec<String>,
    },
    /// Taking back ended.
    #[serde(rename = "undo.ended")]
    UndoEnded {
        /// Its id.
        undo: String,
        /// `undone`, `failed`, `interrupted`, `stopped`.
        outcome: String,
        /// How many steps, or what was in the way.
        detail: String,
    },
    /// A join credential was made for another node.
    #[serde(rename = "join.minted")]
    JoinMinted {
        /// How long it is good for.
        ttl_secs: u64,
    },
    /// The admin kubeconfig was handed out.
    #[serde(rename = "kubeconfig.read")]
    KubeconfigRead {},
    /// Content was removed from the store.
    #[serde(rename = "store.pruned")]
    Pruned {
        /// Files.
        files: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Self-healing begins an action.
    #[serde(rename = "heal.begun")]
    HealBegun {
        /// Number in the history.
        number: u64,
        /// Remedy.
        remedy: String,
        /// On what.
        subject: String,
        /// Why.
        reason: String,
    },
    /// An action of self-healing came out.
    #[serde(rename = "heal.ended")]
    HealEnded {
        /// Number in the history.
        number: u64,
        /// `done` or `failed`.
        outcome: String,
        /// Why it failed.
        detail: String,
    },
    /// The control plane's part changed something in the cluster.
    #[serde(rename = "control.acted")]
    ControlActed {
        /// What: `node-patched`, `settings-written`, `pod-deleted`…
        action: String,
        /// On what.
        subject: String,
        /// Why, or with what result.
        detail: String,
    },
    /// A licence was installed, removed or refused.
    #[serde(rename = "licence.changed")]
    LicenceChanged {
        /// `installed`, `removed`, `refused`.
        change: String,
        /// Licence id.
        id: String,
        /// Its serial.
        serial: u64,
        /// Digest of the file.
        digest: String,
        /// Limit, dates, or why it was refused; never key material.
        detail: String,
    },
    /// The site's licence stands otherwise than before.
    #[serde(rename = "licence.state")]
    LicenceState {
        /// How, as events name it: `LicenseGrace`…
        state: String,
        /// Why: counts, limits, dates.
        reason: String,
    },
    /// A line that `kdc-control` handed over, under its own kind, later than it happened.
    #[serde(rename = "control.spooled")]
    Spooled {
        /// When it happened, milliseconds since the epoch.
        at: u64,
        /// Kind of the entry.
        entry: String,
        /// Its body.
        said: Value,
    },
    /// kdc leaves this node.
    #[serde(rename = "node.departed")]
    Departed {},
}

impl Entry {
    /// A run is about to be started.
    #[must_use]
    pub fn run_started(run: &str, plan: &NodePlan, digest: &Digest, resumed: bool) -> Self {
        Self::RunStarted {
            run: run.to_owned(),
            cluster: plan.cluster.clone(),
            node: plan.node.clone(),
            plan: digest.to_string(),
            index: plan.index.to_string(),
            steps: plan.steps.len() as u64,
            resumed,
        }
    }

    /// A run ended this way.
    #[must_use]
    pub fn run_ended(run: &str, plan: &NodePlan, ended: Result<&Outcome, &RunError>) -> Self {
        let (outcome, detail) = in_words(ended);
        let (cluster, node) = (plan.cluster.clone(), plan.node.clone());
        Self::RunEnded { run: run.to_owned(), cluster, node, outcome, detail }
    }

    /// An undo ended this way.
    #[must_use]
    pub fn undo_ended(undo: &str, ended: Result<&Outcome, &RunError>) -> Self {
        let (outcome, detail) = in_words(ended);
        Self::UndoEnded { undo: undo.to_owned(), outcome, detail }
    }

    /// A run made this node part of a cluster, if one of its plan's steps does and stands.
    #[must_use]
    pub fn enrolled(run: &str, plan: &NodePlan, ended: &Outcome) -> Option<Self> {
        let Outcome::Finished { changed, .. } = ended else { return None };
        let role = plan.steps.iter().find_map(|planned| match planned.step {
            Step::InitControlPlane { .. } => Some("control-plane"),
            Step::JoinNode { .. } => Some("worker"),
            _ => None,
        });
        let (cluster, node) = (plan.cluster.clone(), plan.node.clone());
        let (role, run) = (role?.to_owned(), run.to_owned());
        (*changed > 0).then_some(Self::Enrolled { cluster, node, role, run })
    }

    /// Its kind and its body, as they stand in a line.
    #[must_use]
    pub fn parts(&self) -> (String, Value) {
        let value = serde_json::to_value(self).unwrap_or_default();
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        let body = value.get("body").cloned().unwrap_or_else(|| Value::Object(Default::default()));
        (kind, body)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> String {
        self.parts().0
    }
}

/// How something ended: a word, and what is to be said about it.
fn in_words(ended: Result<&Outcome, &RunError>) -> (String, String) {
    let told = |failure: &Failure| format!("error[{}]: {}", failure.code, failure.message);
    let (word, detail) = match ended {
        Ok(Outcome::Finished { changed, found }) => {
            ("finished", format!("{changed} steps changed something, {found} were as wanted"))
        }
        Ok(Outcome::Failed { step, failure }) => {
            ("failed", format!("step `{step}`: {}", told(failure)))
        }
        Ok(Outcome::Undone { steps }) => ("undone", format!("{steps} steps taken back")),
        Ok(Outcome::Interrupted | Outcome::Running { .. }) => ("interrupted", String::new()),
        Err(error) => ("stopped", told(&Failure::from_error(error.code(), error, None))),
    };
    (word.to_owned(), detail)
}
