//! `audit`: what was done on the nodes, by whom, when, and how it came out; and whether that is what was written.

mod gather;
mod show;
mod verdict;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_agent::audit::{
    export::{self, Verdict},
    key::{NamedKey, parse_keys, render_keys},
};
use serde::Serialize;

use self::{
    gather::{Gathered, MAX_EXPORT_BYTES, gather},
    show::Show,
    verdict::{complaint, render},
};
use super::{
    CommandError,
    arguments::{BundleArguments, ClusterArguments},
    report::{ensure_writable, write_private},
    site::Site,
};
use crate::show::{Complaint, Look, Screen};

/// Largest file of public keys that is read.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

/// See what was done on each node, by whom and when; prove that the record is what was written
///
/// Every node keeps a log of its own: runs, undo, self-healing, licences, what the control plane's part does.
/// Each line carries the digest of the one before, the node's key signs the chain, and the cluster keeps the
/// heads of all nodes. Nothing secret is in it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install audit show\n  \
    kdc-install audit verify\n  kdc-install audit export -o site.audit")]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AuditCommand {
    Show(Show),
    Verify(Verify),
    Export(Export),
}

/// Whose log.
#[derive(Debug, clap::Args)]
struct Whose {
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    bundle: BundleArguments,
    /// Only these nodes; may be given several times
    #[arg(long, value_name = "NODE")]
    only: Vec<String>,
}

/// Prove that logs are what was written; exit 3 where they are not
///
/// With EXPORT nothing else is needed but the public keys: no cluster, no network. Without it the nodes are
/// asked, and their logs held against the heads that the cluster keeps. A changed line, missing lines, a torn
/// line, a cut tail and another key are told apart; docs/audit.md says what each means.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install audit verify\n  \
    kdc-install audit verify site.audit --public-keys site.audit.pub\n  \
    kdc-install audit verify --output json | jq '.logs[] | select(.problems != [])'")]
struct Verify {
    /// A file that `audit export` wrote
    #[arg(value_name = "EXPORT", requires = "public_keys")]
    export: Option<PathBuf>,
    /// Public keys to hold it against, as `audit export` wrote them; keep them where the nodes can't reach them
    #[arg(long, value_name = "KEYS")]
    public_keys: Option<PathBuf>,
    #[command(flatten)]
    whose: Whose,
}

/// Write all logs into one file that can be checked elsewhere, and the public keys into another
///
/// Each node seals its log with its key, and a control plane the heads that the cluster keeps. Take one before
/// `undo`: it takes the logs off the nodes with everything else.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install audit export -o site.audit")]
struct Export {
    /// Where to write it (mode 0600); the public keys go beside it, as OUT.pub
    #[arg(short = 'o', long, value_name = "OUT")]
    save: PathBuf,
    #[command(flatten)]
    whose: Whose,
}

impl Audit {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        match &self.command {
            AuditCommand::Show(show) => show.run(look).await,
            AuditCommand::Verify(verify) => verify.run(look).await,
            AuditCommand::Export(export) => export.run(look).await,
        }
    }
}

/// The line of `--output json` (docs/schemas/audit.v1.json).
#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Verified<'a> {
    /// `auditVerified`.
    event: &'static str,
    /// Every log is what was written.
    good: bool,
    /// Log by log.
    logs: &'a [Verdict],
}

impl Verify {
    async fn run(&self, look: Look) -> Result<(), Complaint> {
        let known = self.public_keys.as_deref().map(load_keys).transpose()?;
        let screen;
        let (file, keys) = if let Some(path) = &self.export {
            screen = Arc::new(Screen::new(look, 1, false));
            let bytes = bounded(path, MAX_EXPORT_BYTES)?;
            (bytes, known.expect("clap asks for both"))
        } else {
            let site = Site::load(&self.whose.cluster)?;
            screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
            let gathered = gather(site, &self.whose, &screen).await?;
            tell_what_lacks(&gathered, &screen);
            if known.is_none() {
                screen.say("public keys are those that the nodes state; `--public-keys` holds them against yours");
            }
            let keys = known.unwrap_or(gathered.keys);
            (gathered.file, keys)
        };
        let verdicts = verified(&file, &keys, self.export.as_deref())?;
        let good = verdicts.iter().all(|verdict| verdict.findings.is_good());
        let document = Verified { event: "auditVerified", good, logs: &verdicts };
        screen.document(&document, || render(&verdicts));
        complaint(&verdicts).map_or(Ok(()), Err)
    }
}

/// What was written where.
#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Exported {
    /// `auditExported`.
    event: &'static str,
    /// The export.
    file: PathBuf,
    /// Its public keys.
    keys: PathBuf,
    /// Its length.
    bytes: usize,
    /// Every log in it is what was written.
    good: bool,
}

impl Export {
    async fn run(&self, look: Look) -> Result<(), Complaint> {
        let mut beside = self.save.clone().into_os_string();
        beside.push(".pub");
        let beside = PathBuf::from(beside);
        for path in [&self.save, &beside] {
            ensure_writable(path)?;
        }
        let site = Site::load(&self.whose.cluster)?;
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
        let gathered = gather(site, &self.whose, &screen).await?;
        tell_what_lacks(&gathered, &screen);
        let Gathered { file, keys, .. } = gathered;
        write_private(&self.save, &file, 0o600)?;
        write_private(&beside, render_keys(&keys).as_bytes(), 0o644)?;
        let verdicts = verified(&file, &keys, Some(&self.save))?;
        let refusal = complaint(&verdicts);
        let exported = Exported {
            event: "auditExported",
            file: self.save.clone(),
            keys: beside,
            bytes: file.len(),
            good: refusal.is_none(),
        };
        screen.document(&exported, || {
            let (file, keys) = (exported.file.display(), exported.keys.display());
            format!("{}export: {file}\npublic keys: {keys}\n", render(&verdicts))
        });
        refusal.map_or(Ok(()), Err)
    }
}

fn tell_what_lacks(gathered: &Gathered, screen: &Screen) {
    for node in &gathered.without {
        screen.say(&format!("node `{node}` has no audit log yet"));
    }
    if let Some(why) = &gathered.unasked {
        screen.say(&format!(
            "without the heads that the cluster keeps a cut tail may go unseen: {why}"
        ));
    }
}

fn verified(
    file: &[u8],
    keys: &[NamedKey],
    path: Option<&Path>,
) -> Result<Vec<Verdict>, CommandError> {
    export::verify(file, keys, &mut |_, _| {}).map_err(|cause| CommandError::NotAnExport {
        path: path.unwrap_or(Path::new("the nodes' answer")).to_owned(),
        reason: cause.to_string(),
    })
}

fn load_keys(path: &Path) -> Result<Vec<NamedKey>, CommandError> {
    let wrong = |reason: String| CommandError::NotAnExport { path: path.to_owned(), reason };
    let bytes = bounded(path, MAX_KEY_FILE_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is no UTF-8".to_owned()))?;
    parse_keys(text).map_err(wrong)
}

fn bounded(path: &Path, limit: u64) -> Result<Vec<u8>, CommandError> {
    let wrong = |reason: String| CommandError::NotAnExport { path: path.to_owned(), reason };
    let file = fs_err::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(wrong(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}
