//! An export: logs of one or more nodes in one file, each sealed by its node, checked by whoever has the file and the keys.
//!
//! ```text
//! {"audit":"kdc/v1","node":"cp1",…,"bytes":N}\n     what follows, and whose it is
//! N bytes, as they stand on the node                lines; heads and licence, as the cluster keeps them
//! {"seal":"<base64>"}\n                             Ed25519 over "kdc-audit-export-v1\n" and the sha256 of the above
//! ```
//!
//! Lines are carried as they are, also those that are damaged, so that whoever checks sees what the node has.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    AuditError, Head, Line, Log,
    chain::{Findings, Problem, Walk},
    key::{NamedKey, NodeKey, PublicKey},
};

/// What begins every section.
pub const FORMAT: &str = "kdc/v1";
/// Longest head of a section.
const MAX_TITLE_BYTES: usize = 16 * 1024;
/// Longest seal.
const MAX_SEAL_BYTES: usize = 256;
/// Most bytes of one section.
pub const MAX_SECTION_BYTES: u64 = 64 * 1024 * 1024;
/// Most heads that a cluster keeps.
pub const MAX_HEADS: usize = 4096;

/// What a section is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Title {
    /// [`FORMAT`].
    pub audit: String,
    /// `log`: lines of a node's log. `heads`: heads of all nodes, as the cluster keeps them. `license`: the licence, with
    /// who counts.
    pub content: Content,
    /// Name of the node that sealed it.
    pub node: String,
    /// Its host name.
    pub host: String,
    /// Version of its agent.
    pub agent: String,
    /// When, milliseconds since the epoch.
    pub at: u64,
    /// The key that sealed it.
    pub key: String,
    /// The head that was beside the lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// How many bytes follow.
    pub bytes: u64,
}

/// What the bytes of a section are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// Lines.
    Log,
    /// Heads by node: a JSON object.
    Heads,
    /// The licence files as the cluster keeps them, and how it stands with them: a JSON object.
    License,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    seal: String,
}

/// A section as it was read.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    /// What it is about.
    pub title: Title,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The seal is good, by the key that the title names.
    pub sealed: bool,
}

/// The file is no export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {why}")]
pub struct NotAnExport {
    /// Where.
    pub at: usize,
    /// What is wrong.
    pub why: String,
}

/// Seal bytes as a section.
#[must_use]
pub fn seal(key: &NodeKey, mut title: Title, bytes: &[u8]) -> Vec<u8> {
    title.audit = FORMAT.to_owned();
    title.key = key.public().to_string();
    title.bytes = bytes.len() as u64;
    let mut section = serde_json::to_vec(&title).expect("texts and numbers serialise");
    section.push(b'\n');
    section.extend_from_slice(bytes);
    let seal = Seal { seal: key.sign(&message(&section)) };
    section.extend(serde_json::to_vec(&seal).expect("a text serialises"));
    section.push(b'\n');
    section
}

fn message(section: &[u8]) -> Vec<u8> {
    let mut message = b"kdc-audit-export-v1\n".to_vec();
    message.extend_from_slice(&Sha256::digest(section));
    message
}

/// This node's log as a section.
///
/// # Errors
/// If there is none, or it can't be read.
pub fn of_log(log: &Log, node: &str, at: u64) -> Result<Vec<u8>, AuditError> {
    let (bytes, head, key) = log.read()?;
    Ok(seal(&key, title(node, at, Content::Log, head), &bytes))
}

/// A title for what this node seals.
#[must_use]
pub fn title(node: &str, at: u64, content: Content, head: Option<Head>) -> Title {
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    Title {
        audit: FORMAT.to_owned(),
        content,
        node: node.to_owned(),
        host,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        at,
        key: String::new(),
        head,
        bytes: 0,
    }
}

/// Take a file apart.
///
/// # Errors
/// Where it stops being an export.
pub fn parse(file: &[u8]) -> Result<Vec<Section<'_>>, NotAnExport> {
    let mut sections = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let (section, length) =
            section(&file[at..]).map_err(|(offset, why)| NotAnExport { at: at + offset, why })?;
        sections.push(section);
        at += length;
    }
    if sections.is_empty() {
        return Err(NotAnExport { at: 0, why: "it is empty".to_owned() });
    }
    Ok(sections)
}

fn section(rest: &[u8]) -> Result<(Section<'_>, usize), (usize, String)> {
    let title_end =
        line_end(rest, MAX_TITLE_BYTES).ok_or((0, "here no section begins".to_owned()))?;
    let title: Title = serde_json::from_slice(&rest[..title_end])
        .map_err(|error| (0, format!("this is no head of a section: {error}")))?;
    if title.audit != FORMAT {
        return Err((0, format!("format `{}`; this build reads `{FORMAT}`", title.audit)));
    }
    let begin = title_end + 1;
    let length = usize::try_from(title.bytes).ok().filter(|_| title.bytes <= MAX_SECTION_BYTES);
    let end = length.and_then(|length| begin.checked_add(length)).filter(|end| *end < rest.len());
    let Some(end) = end else {
        let why = format!("{} bytes were to follow, {} do", title.bytes, rest.len() - begin);
        return Err((begin, why));
    };
    let seal_end = line_end(&rest[end..], MAX_SEAL_BYTES)
        .ok_or((end, "the section has no seal".to_owned()))?;
    let text = &rest[end..end + seal_end];
    let seal: Seal =
        serde_json::from_slice(text).map_err(|error| (end, format!("this is no seal: {error}")))?;
    let spelled = serde_json::to_vec(&seal).is_ok_and(|spelled| spelled == text);
    let key: Option<PublicKey> = title.key.parse().ok();
    let sealed = spelled && key.is_some_and(|key| key.verifies(&message(&rest[..end]), &seal.seal));
    let section = Section { title, bytes: &rest[begin..end], sealed };
    Ok((section, end + seal_end + 1))
}

fn line_end(bytes: &[u8], most: usize) -> Option<usize> {
    bytes.iter().take(most).position(|byte| *byte == b'\n')
}

/// What became of checking one node's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Node.
    pub node: String,
    /// Id of the key that it had to be sealed with.
    pub key: String,
    /// When it was sealed.
    pub sealed_at: Option<u64>,
    /// Who knew a head to hold it against.
    pub held_against: Vec<String>,
    /// What was found.
    #[serde(flatten)]
    pub findings: Findings,
}

/// Check a whole export: nothing is needed but the file and the keys. Lines are told to `on_line` on the way.
///
/// # Errors
/// If it is no export at all.
pub fn verify(
    file: &[u8],
    keys: &[NamedKey],
    on_line: &mut dyn FnMut(&str, &Line),
) -> Result<Vec<Verdict>, NotAnExport> {
    let sections = parse(file)?;
    let heads = kept_heads(&sections, keys);
    let mut verdicts = Vec::new();
    for section in &sections {
        let verdict = match section.title.content {
            Content::Log => verify_log(section, keys, &heads, on_line),
            Content::Heads => verify_seal(section, keys, "heads"),
            Content::License => verify_seal(section, keys, "licence"),
        };
        verdicts.extend(verdict);
    }
    for NamedKey { node, key } in keys {
        let covered = sections.iter().any(|section| {
            section.title.content == Content::Log && section.title.key == key.to_string()
        });
        if !covered {
            let mut findings = Findings::default();
            findings.problem(Problem::NothingOfKey { node: node.clone(), key: key.id() });
            let (node, key) = (node.clone(), key.id());
            verdicts.push(Verdict {
                node,
                key,
                sealed_at: None,
                held_against: Vec::new(),
                findings,
            });
        }
    }
    Ok(verdicts)
}

/// Heads that a node with a known key says the cluster keeps.
fn kept_heads(sections: &[Section<'_>], keys: &[NamedKey]) -> Vec<(String, String, Head)> {
    let mut heads = Vec::new();
    let good = |section: &&Section<'_>| {
        section.title.content == Content::Heads
            && section.sealed
            && keys.iter().any(|named| named.key.to_string() == section.title.key)
    };
    for section in sections.iter().filter(good) {
        for (node, head) in parse_heads(section.bytes).unwrap_or_default() {
            heads.push((node, format!("the cluster (asked through {})", section.title.node), head));
        }
    }
    heads
}

/// Read the heads that a cluster keeps: a JSON object, node by node. A head whose signature is not good is left out.
///
/// # Errors
/// Why it is none.
pub fn parse_heads(bytes: &[u8]) -> Result<Vec<(String, Head)>, String> {
    let all: std::collections::BTreeMap<String, Head> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(all.into_iter().take(MAX_HEADS).filter(|(_, head)| head.signer().is_some()).collect())
}

/// The key that a section had to be sealed with: the one given for its node, else its own if it is among the given.
fn key_for<'k>(title: &Title, keys: &'k [NamedKey]) -> Option<&'k NamedKey> {
    let own = || keys.iter().find(|named| named.key.to_string() == title.key);
    own().or_else(|| keys.iter().find(|named| named.node == title.node)).or(keys.first())
}

/// Whether the seal is good and the expected key's.
fn judge_seal(section: &Section<'_>, keys: &[NamedKey], findings: &mut Findings) -> String {
    let Some(expected) = key_for(&section.title, keys) else { return String::new() };
    let (title, expected) = (&section.title, expected.key.id());
    let found = title.key.parse::<PublicKey>().map_or_else(|_| "?".to_owned(), |key| key.id());
    if found != expected {
        let (expected, found) = (expected.clone(), found);
        findings.problem(Problem::WrongKey { expected, found });
    } else if !section.sealed {
        findings.problem(Problem::BadSeal);
    }
    expected
}

fn verify_log(
    section: &Section<'_>,
    keys: &[NamedKey],
    heads: &[(String, String, Head)],
    on_line: &mut dyn FnMut(&str, &Line),
) -> Option<Verdict> {
    let title = &section.title;
    let known: Vec<(&str, &Head)> = heads
        .iter()
        .filter(|(node, _, _)| *node == title.node)
        .map(|(_, who, head)| (who.as_str(), head))
        .chain(title.head.as_ref().map(|head| ("the node's own head", head)))
        .collect();
    let mut walk = Walk::remembering(known.iter().map(|(_, head)| head.seq));
    let whole = walk.feed(section.bytes, &mut |line| on_line(&title.node, line));
    for (who, head) in &known {
        walk.compare(head, who);
    }
    let signer = walk.key().cloned();
    let mut findings = walk.finish(section.bytes.len() - whole);
    let key = judge_seal(section, keys, &mut findings);
    if let Some(signer) = signer.filter(|signer| signer.id() != key) {
        findings.problem(Problem::WrongKey { expected: key.clone(), found: signer.id() });
    }
    let held_against = known.iter().map(|(who, _)| (*who).to_owned()).collect();
    Some(Verdict {
        node: title.node.clone(),
        key,
        sealed_at: Some(title.at),
        held_against,
        findings,
    })
}

/// Told only where something is wrong with it.
fn verify_seal(section: &Section<'_>, keys: &[NamedKey], what: &str) -> Option<Verdict> {
    let mut findings = Findings::default();
    let key = judge_seal(section, keys, &mut findings);
    let (node, sealed_at) = (format!("{} ({what})", section.title.node), Some(section.title.at));
    (!findings.is_good()).then_some(Verdict {
        node,
        key,
        sealed_at,
        held_against: Vec::new(),
        findings,
    })
}
