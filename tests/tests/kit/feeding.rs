//! Feeding servers with a generated bundle of files by the installer's own code: introductions, pieces, runs that
//! write the files; no Kubernetes.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]
#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

use std::{
    fmt::Write as _,
    future::Future,
    io::Read as _,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use kdc_agent::step::{Content, NodePlan, PlannedStep, Step};
use kdc_bundles::{
    index::{Artifact, ArtifactKind, Digest},
    keys::{TrustedKey, TrustedKeys},
    open::BundleFile,
};
use kdc_install::{
    fleet::{
        Load,
        conduct::NodeResult,
        install::{Installed, Job, install},
        link::Link,
        over_ssh::SshDoor,
    },
    show::{News, Observer},
    ssh::{AgentBinary, Keyring, PieceSource, Reach, Silent, Target, Trust},
};
use kdc_tests::{
    lab::{Lab, LightServer, network},
    operator::built,
    program::must,
    server::Server,
};

/// A bundle of random files.
pub struct Made {
    file: BundleFile,
    text: String,
    keys: Vec<String>,
}

impl PieceSource for Made {
    fn read_at(&self, blob: &Digest, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        let ordinal = self.file.index().ordinal(blob).ok_or(std::io::ErrorKind::NotFound)?;
        self.file.read_unproved(ordinal, offset, into).map_err(std::io::Error::other)
    }
}

impl Made {
    /// Files of so many MiB each, in `folder`.
    pub fn new(folder: &Path, mib: &[u64]) -> Self {
        let mut definition = "apiVersion: kdc.dev/v1\nkind: BundleDefinition\n".to_owned();
        definition += "metadata: {name: generated, version: \"1\"}\nartifacts:\n";
        for (number, size) in mib.iter().enumerate() {
            let path = folder.join(format!("file{number}"));
            let random = fs_err::File::open("/dev/urandom").unwrap();
            let mut file = fs_err::File::create(&path).unwrap();
            std::io::copy(&mut random.take(size << 20), &mut file).unwrap();
            let line =
                format!("- {{name: file{number}, kind: file, source: {{path: file{number}}}}}");
            writeln!(definition, "{line}").unwrap();
        }
        fs_err::write(folder.join("definition.yaml"), definition).unwrap();
        let at = |name: &str| folder.join(name).display().to_string();
        let install = built("kdc-install").unwrap().display().to_string();
        let (key, bundle) = (at("key"), at("bundle.kdc"));
        must(&[&*install, "bundle", "key", "new", "--unencrypted", "-o", &key]).unwrap();
        let definition = at("definition.yaml");
        must(&[&*install, "bundle", "create", "-f", &definition, "-o", &bundle, "--key", &key])
            .unwrap();
        let trusted = TrustedKeys::load([&at("key.pub")]).unwrap();
        let file = BundleFile::open(Path::new(&bundle), &trusted).unwrap();
        let text = String::from_utf8(file.index_bytes().to_vec()).unwrap();
        let keys = trusted.keys().iter().map(TrustedKey::to_text).collect();
        Self { file, text, keys }
    }

    /// The files, in the order of their names; the bundle's own documents stay with the operator.
    pub fn files(&self) -> Vec<&Artifact> {
        let artifacts = self.file.index().artifacts.iter();
        artifacts.filter(|artifact| artifact.kind == ArtifactKind::File).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |file: &&Artifact| self.file.index().blob(&file.digest).unwrap().size;
        self.files().iter().map(size).sum()
    }

    fn plan(&self, node: &str) -> NodePlan {
        let file = |artifact: &Artifact| {
            let (content, path) = (artifact.digest.clone(), format!("/opt/{}", artifact.name));
            let step = Step::WriteFile { path, mode: 0o644, content: Content::Blob(content) };
            let (id, phase) = (artifact.name.clone(), "host".to_owned());
            PlannedStep { id, phase, step, needs: Vec::new() }
        };
        let steps = self.files().into_iter().map(file).collect();
        let (node, cluster) = (node.to_owned(), "test".to_owned());
        NodePlan { node, cluster, index: self.file.digest().clone(), steps }
    }
}

/// When each node's run was started, which is when its store was whole; and all that was said.
#[derive(Default)]
pub struct Watched {
    pub started: Mutex<Vec<(String, Instant)>>,
    pub stored: Mutex<Vec<(String, u64)>>,
}

impl Observer for Watched {
    fn news(&self, news: &News) {
        match news {
            News::Run { node, .. } => {
                self.started.lock().unwrap().push((node.clone(), Instant::now()));
            }
            News::Bytes { node, sent_bytes, .. } => {
                self.stored.lock().unwrap().push((node.clone(), *sent_bytes));
            }
            _ => {}
        }
    }
}

/// Do this on the lab's workstation, in its network.
fn on_workstation<T: Send>(lab: &Lab, work: impl AsyncFnOnce() -> T + Send) -> T {
    let there = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work()))
    };
    network::inside(&network::file_of(&lab.state().namespace), there).unwrap()
}

fn target(lab: &Lab, server: &LightServer) -> Target {
    let reach = Reach {
        host: server.address().to_string(),
        port: server.ssh_port(),
        user: "root".to_owned(),
        identities: vec![lab.state().key.clone()],
        identities_only: true,
        trust: Trust { pinned: Some(server.host_key().to_owned()), ..Trust::default() },
    };
    let keyring = Arc::new(Keyring::with_agent(Arc::new(Silent), None));
    Target::Ssh { node: server.name().to_owned(), reach: Box::new(reach), jump: None, keyring }
}

/// Feed these servers and let their runs write the files; `None` where `killed` ended first, which kills the installer.
/// `killed` begins when every server has its agent.
pub fn feed_until<K: Future<Output = ()>>(
    lab: &Lab,
    servers: &[LightServer],
    made: &Made,
    watched: &Watched,
    killed: impl FnOnce() -> K + Send,
) -> Option<Vec<NodeResult>> {
    let agent = AgentBinary::load(&built("kdc-agent").unwrap()).unwrap();
    let targets: Vec<Target> = servers.iter().map(|server| target(lab, server)).collect();
    let addresses: Vec<IpAddr> = servers.iter().map(Server::address).collect();
    let plans: Vec<NodePlan> = servers.iter().map(|server| made.plan(server.name())).collect();
    on_workstation(lab, async move || {
        let door = |target| Link::new(SshDoor { target, agent: agent.clone() }, watched);
        let links: Vec<_> = targets.into_iter().map(door).collect();
        // As `apply` does, which looks at the nodes first: staging the agent is no part of feeding.
        for link in &links {
            link.hand().await.unwrap();
        }
        let (index, digest) = (made.file.index(), made.file.digest());
        let (text, signature) = (&*made.text, made.file.signature());
        let load = Load { index, digest, text, signature, keys: &made.keys, source: made };
        let (cluster, plans, addresses) = ("test", &plans[..], &addresses[..]);
        // Another bundle, another run.
        let run = &*format!("run-{}", &digest.hex()[..8]);
        let (holder, parallel) = ("test@test pid 1", 50);
        let (promise, consent) = (None, &|_| true);
        let job = Job { cluster, plans, addresses, load, holder, run, parallel, promise, consent };
        let installed = tokio::select! {
            installed = install(&links, job) => installed,
            () = killed() => return None,
        };
        let Ok(Installed::Ran { results, .. }) = installed else { panic!("{installed:?}") };
        for link in &links {
            link.close().await;
        }
        Some(results)
    })
}
