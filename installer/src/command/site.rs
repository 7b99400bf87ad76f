//! What a command works on: the cluster file and its nodes, opened once for the whole command.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_agent::{
    facts::Facts,
    wire::{Reply, RequestBody},
};
use kdc_profiles::{
    cluster::{self, Cluster, Node},
    profile::{self, Profile},
};

use super::{
    CommandError,
    arguments::{BundleArguments, ClusterArguments},
    error::{of_node, of_nodes},
    opened::Opened,
    prompts::Prompts,
};
use crate::{
    fleet::{all_or_failures, each, link::Link, over_ssh::SshDoor},
    show::{Complaint, Exit, News, Observer, Screen, news::Stage},
    ssh::{AgentBinary, Keyring, SshError, Surroundings, Target, UnknownKey, confirm_unknown},
};

/// A node's link over SSH.
pub(crate) type NodeLink<'a> = Link<'a, SshDoor>;

/// A cluster file, proved, with its profile. Nodes are in the order of every listing: control
/// planes first, then by name.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) profile: Profile,
    /// The one node is this very machine.
    pub(crate) is_local: bool,
    /// What paths in the cluster file are relative to.
    pub(crate) folder: PathBuf,
}

impl Site {
    /// Load the cluster file and its profile.
    pub(crate) fn load(arguments: &ClusterArguments) -> Result<Self, Complaint> {
        let cluster = cluster::load(&arguments.file).map_err(CommandError::Load)?;
        if arguments.local && cluster.nodes.len() != 1 {
            return Err(CommandError::NotLocal { nodes: cluster.nodes.len() }.into());
        }
        let folder = arguments.file.parent().unwrap_or(Path::new("."));
        Self::of(cluster, folder, arguments.local)
    }

    /// A site of a cluster that is in memory.
    pub(crate) fn of(
        mut cluster: Cluster,
        folder: &Path,
        is_local: bool,
    ) -> Result<Self, Complaint> {
        let profile = profile::load(&cluster.profile, folder).map_err(CommandError::Load)?;
        sort(&mut cluster.nodes);
        Ok(Self { cluster, profile, is_local, folder: folder.to_owned() })
    }

    /// Nodes worked on at once.
    pub(crate) fn parallel(&self, asked: Option<u16>) -> usize {
        usize::from(asked.unwrap_or(self.cluster.settings.parallel)).max(1)
    }
}

/// Control planes first, then by name.
pub(crate) fn sort(nodes: &mut [Node]) {
    nodes.sort_by(|left, right| (left.role, &left.name).cmp(&(right.role, &right.name)));
}

/// The news that a command starts on the nodes of a site.
pub(crate) fn started(command: &str, site: &Site) -> News {
    News::Started {
        command: command.to_owned(),
        cluster: site.cluster.name.clone(),
        nodes: site.cluster.nodes.iter().map(|node| node.name.clone()).collect(),
    }
}

/// Links to all nodes of a cluster; nothing is opened yet.
pub(crate) fn links<'a>(
    cluster: &Cluster,
    is_local: bool,
    agent: &AgentBinary,
    screen: &Arc<Screen>,
    observer: &'a dyn Observer,
) -> Result<Vec<NodeLink<'a>>, Complaint> {
    let keyring = Arc::new(Keyring::new(Arc::new(Prompts(Arc::clone(screen)))));
    let home = std::env::home_dir().unwrap_or_default();
    let around = Surroundings::of_home(&home).map_err(CommandError::Settings)?;
    let mut links = Vec::with_capacity(cluster.nodes.len());
    for node in &cluster.nodes {
        let keyring = Arc::clone(&keyring);
        let target = if is_local {
            Target::Local { node: node.name.clone(), keyring }
        } else {
            Target::of(node, &cluster.ssh, &around, keyring).map_err(CommandError::Settings)?
        };
        links.push(Link::new(SshDoor { target, agent: agent.clone() }, observer));
    }
    Ok(links)
}

/// What is said of nodes that a command can't reach, before it changes any.
const CANT_WORK: &str = "can't be worked with; nothing was changed";

/// Open every link; unknown host keys are gathered and asked about once. All or nothing: one node
/// that can't be reached refuses the command, with every such node named.
pub(crate) async fn open_all(
    links: &[NodeLink<'_>],
    parallel: usize,
    screen: &Arc<Screen>,
) -> Result<(), Complaint> {
    let mut errors = open(links, parallel).await;
    let unknown: Vec<UnknownKey> = errors.iter().filter_map(unknown_key).collect();
    if !unknown.is_empty() && unknown.len() == errors.len() {
        let prompts = Prompts(Arc::clone(screen));
        match confirm_unknown(&prompts, &unknown) {
            Ok(()) => errors = open(links, parallel).await,
            Err(SshError::UnknownHostKey { .. }) => {}
            Err(error) => return Err(of_node(&error, Exit::Refused)),
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(of_nodes(("KDC-010", Exit::Refused), &errors, links.len(), CANT_WORK))
}

async fn open(links: &[NodeLink<'_>], parallel: usize) -> Vec<SshError> {
    let opened = each(links, parallel, |link| async move {
        link.stage(Stage::Connecting);
        link.hand().await.map(drop)
    })
    .await;
    all_or_failures(opened).err().unwrap_or_default()
}

fn unknown_key(error: &SshError) -> Option<UnknownKey> {
    match error {
        SshError::UnknownHostKey { unknown } => Some((**unknown).clone()),
        _ => None,
    }
}

/// What was seen on the nodes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Facts by node name.
    pub(crate) facts: BTreeMap<String, Facts>,
    /// Each node's clock minus ours, milliseconds.
    pub(crate) clock_offset_ms: BTreeMap<String, i64>,
    /// Agents that run as root, by node name.
    pub(crate) root: BTreeMap<String, bool>,
}

/// Read every node's facts.
pub(crate) async fn look(links: &[NodeLink<'_>], parallel: usize) -> Result<Seen, Complaint> {
    let answers = each(links, parallel, |link| async move {
        link.stage(Stage::Facts);
        let root = link.hand().await?.hello().root;
        let before = unix_ms();
        let reply = link.ask(RequestBody::Facts).await?;
        let middle = i64::midpoint(before, unix_ms());
        match reply {
            Reply::Facts(facts) => Ok((link.node().to_owned(), *facts, middle, root)),
            _ => Err(crate::fleet::wrong_answer(link.node(), "facts")),
        }
    })
    .await;
    let answers = all_or_failures(answers).map_err(|errors| {
        of_nodes(("KDC-010", Exit::Refused), &errors, links.len(), "can't be looked at")
    })?;
    let mut seen = Seen::default();
    for (node, facts, middle, root) in answers {
        let clock = i64::try_from(facts.clock_unix_ms).unwrap_or(i64::MAX);
        seen.clock_offset_ms.insert(node.clone(), clock.saturating_sub(middle));
        seen.root.insert(node.clone(), root);
        seen.facts.insert(node, facts);
    }
    Ok(seen)
}

/// Milliseconds since the epoch, by this machine's clock.
pub(crate) fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

/// The agent of the bundle that the command line names; where it names none, the one beside this
/// program.
pub(crate) async fn agent_to_stage(
    bundle: &BundleArguments,
    screen: &Screen,
) -> Result<AgentBinary, Complaint> {
    match Opened::from_arguments(bundle, screen).await? {
        Some(opened) => opened.agent(),
        None => agent_beside(),
    }
}

/// The agent that lies beside this program, for commands without a bundle.
pub(crate) fn agent_beside() -> Result<AgentBinary, Complaint> {
    let beside = |source| CommandError::AgentBeside { path: "kdc-agent".into(), source };
    let path = std::env::current_exe().map_err(beside)?.with_file_name("kdc-agent");
    AgentBinary::load(&path).map_err(|source| CommandError::AgentBeside { path, source }.into())
}

/// End every session in good order.
pub(crate) async fn close_all(links: &[NodeLink<'_>], parallel: usize) {
    each(links, parallel, |link| link.close()).await;
}
