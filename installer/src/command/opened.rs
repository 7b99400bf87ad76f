//! The bundle of a command: proved whole before anything touches a node, then read piece by piece.

use std::path::PathBuf;

use kdc_bundles::{
    index::{ArtifactKind, Digest, Index},
    keys::{KeyId, TrustedKey, TrustedKeys},
    medium::Medium,
    open::BundleFile,
};

use super::{
    BundleCommandError, CommandError,
    arguments::BundleArguments,
    bundle::{load_keys, refused},
};
use crate::{
    fleet::Load,
    show::{Complaint, Screen, plain::render_bytes},
    ssh::{AgentBinary, PieceSource},
};

/// Largest agent taken out of a bundle.
const MAX_AGENT_BYTES: u64 = 256 * 1024 * 1024;

/// A bundle whose every byte was proved.
pub(crate) struct Opened {
    file: BundleFile,
    text: String,
    keys: Vec<String>,
}

impl Opened {
    /// Prove the bundle that the command line names; `None` where it names none.
    pub(crate) async fn from_arguments(
        arguments: &BundleArguments,
        screen: &Screen,
    ) -> Result<Option<Self>, Complaint> {
        if arguments.bundle.is_empty() {
            return Ok(None);
        }
        let (paths, keys) = (arguments.bundle.clone(), load_keys(&arguments.keys)?);
        let proving = tokio::task::spawn_blocking(move || prove(&paths, &keys));
        let opened = proving
            .await
            .map_err(|error| CommandError::Runtime(std::io::Error::other(error)))??;
        let index = opened.file.index();
        screen.say(&format!(
            "bundle {} {} is proved: signed with key {}, {}",
            index.name,
            index.bundle_version,
            opened.signer(),
            render_bytes(opened.file.file_bytes())
        ));
        Ok(Some(opened))
    }

    /// As [`Opened::from_arguments`], for a command that can't do without.
    pub(crate) async fn needed_by(
        command: &'static str,
        arguments: &BundleArguments,
        screen: &Screen,
    ) -> Result<Self, Complaint> {
        let opened = Self::from_arguments(arguments, screen).await?;
        Ok(opened.ok_or(CommandError::NoBundle { command })?)
    }

    /// The proved index.
    pub(crate) fn index(&self) -> &Index {
        self.file.index()
    }

    /// Digest of the signed index.
    pub(crate) fn digest(&self) -> &Digest {
        self.file.digest()
    }

    /// Id of the key that signed.
    pub(crate) fn signer(&self) -> KeyId {
        self.file.signer()
    }

    /// What nodes are fed from.
    pub(crate) fn load(&self) -> Load<'_> {
        Load {
            index: self.index(),
            digest: self.digest(),
            text: &self.text,
            signature: self.file.signature(),
            keys: &self.keys,
            source: self,
        }
    }

    /// The agent to stage: the one for this machine's platform, or the only one there is.
    pub(crate) fn agent(&self) -> Result<AgentBinary, Complaint> {
        let platform = platform();
        let is_agent =
            |artifact: &&kdc_bundles::index::Artifact| artifact.kind == ArtifactKind::Agent;
        let agents: Vec<_> = self.index().artifacts.iter().filter(is_agent).collect();
        let fits = agents
            .iter()
            .find(|agent| agent.platform.as_ref().is_none_or(|of| *of == platform))
            .or(if agents.len() == 1 { agents.first() } else { None });
        let Some(agent) = fits else { return Err(CommandError::NoAgent { platform }.into()) };
        let content = self
            .file
            .read_blob(&agent.digest, MAX_AGENT_BYTES)
            .map_err(refused(self.file.path()))?;
        Ok(AgentBinary::new(content))
    }
}

/// The platform of this very program, as bundles spell it.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

fn prove(paths: &[PathBuf], keys: &TrustedKeys) -> Result<Opened, BundleCommandError> {
    let medium = Medium::find(paths).map_err(refused(&paths[0]))?;
    let path = medium.path().to_owned();
    let file = BundleFile::prove(medium, keys, &mut |_| {}).map_err(refused(&path))?;
    let text = String::from_utf8_lossy(file.index_bytes()).into_owned();
    let keys = keys.keys().iter().map(TrustedKey::to_text).collect();
    Ok(Opened { file, text, keys })
}

impl PieceSource for Opened {
    /// Not hashed again: all of it was proved when the command began, and the agent proves each piece
    /// before it keeps it, so a medium that fails in between is noticed there.
    fn read_at(&self, blob: &Digest, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        let absent = || std::io::Error::other(format!("the bundle has nothing of {blob}"));
        let ordinal = self.index().ordinal(blob).ok_or_else(absent)?;
        self.file.read_unproved(ordinal, offset, into).map_err(std::io::Error::other)
    }
}
