//! `bundle inspect`: what is in a bundle.

use std::path::PathBuf;

use kdc_bundles::{
    index::{Artifact, Digest, Index},
    medium::Medium,
    open::{BundleFile, read_unproved},
};

use super::{BundleCommandError, documents, documents::ViewArguments, load_keys, refused};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes, table},
};

/// Show what is in a bundle
///
/// With --key the signature and the index are proved first, but no content is read: `bundle verify`
/// does that. Without --key nothing is proved, and it says so. Documents are printed only proved, with
/// --key or the keys that this site trusts.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle inspect kdc.bundle\n  \
    kdc-install bundle inspect kdc.bundle --key site.key.pub --output json\n  \
    kdc-install bundle inspect kdc.bundle --licenses\n  \
    kdc-install bundle inspect kdc.bundle --key site.key.pub --sbom > sbom.spdx.json")]
pub(super) struct Inspect {
    /// The bundle: a file, one of its parts, or folders and sticks that hold it
    #[arg(value_name = "PATH", required = true)]
    bundle: Vec<PathBuf>,
    /// Prove signature and index against this public key or trust file; may be given several times
    #[arg(long = "key", value_name = "KEY.pub")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    view: ViewArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected<'a> {
    /// Whether signature and index were proved.
    proved: bool,
    key: String,
    digest: &'a Digest,
    file_bytes: u64,
    content_bytes: u64,
    name: &'a str,
    version: &'a str,
    parameters: &'a std::collections::BTreeMap<String, String>,
    artifacts: Vec<Listed<'a>>,
}

#[derive(serde::Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    artifact: &'a Artifact,
    bytes: u64,
}

impl Inspect {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let medium = Medium::find(&self.bundle).map_err(refused(&self.bundle[0]))?;
        let path = medium.path().to_owned();
        if self.keys.is_empty() && self.view.document().is_none() {
            let found = read_unproved(&medium).map_err(refused(&path))?;
            screen
                .say("nothing was proved: without --key this is only what the file says of itself");
            let key = super::listed(&found.claimed_signers);
            if self.view.licenses {
                documents::show_licences(screen, &found.index, false);
            } else {
                show(screen, false, key, &found.index, &found.digest, found.file_bytes);
            }
            return Ok(());
        }
        let keys = load_keys(&KeyArguments { keys: self.keys.clone() })?;
        let found = BundleFile::open_medium(medium, &keys).map_err(refused(&path))?;
        screen.say("signature and index are proved; content was not read (`bundle verify` does)");
        if let Some(name) = self.view.document() {
            return documents::print(screen, &path, &found, name);
        }
        if self.view.licenses {
            documents::show_licences(screen, found.index(), true);
            return Ok(());
        }
        let key = found.signer().to_string();
        show(screen, true, key, found.index(), found.digest(), found.file_bytes());
        Ok(())
    }
}

fn show(
    screen: &Screen,
    proved: bool,
    key: String,
    index: &Index,
    digest: &Digest,
    file_bytes: u64,
) {
    let artifacts = index.artifacts.iter().map(|artifact| {
        let sizes = artifact.blobs.iter().filter_map(|digest| index.blob(digest));
        Listed { artifact, bytes: sizes.map(|blob| blob.size).sum() }
    });
    let document = Inspected {
        proved,
        key,
        digest,
        file_bytes,
        content_bytes: index.content_bytes(),
        name: &index.name,
        version: &index.bundle_version,
        parameters: &index.parameters,
        artifacts: artifacts.collect(),
    };
    screen.document(&document, || document.render());
}

impl Inspected<'_> {
    fn render(&self) -> String {
        let by = if self.proved { "signed with key" } else { "says it is signed with key" };
        let mut text = format!(
            "{} {}, {by} {}\n{}, {} in {} artifacts\n",
            self.name,
            self.version,
            self.key,
            self.digest,
            render_bytes(self.content_bytes),
            self.artifacts.len()
        );
        for (name, value) in self.parameters {
            text.push_str(&format!("  {name}: {value}\n"));
        }
        let rows: Vec<_> = self.artifacts.iter().map(Listed::row).collect();
        text.push('\n');
        let head = ["KIND", "NAME", "VERSION", "PLATFORM", "ROLES", "SIZE", "DIGEST"];
        text.push_str(&table::render(&head, &rows));
        text
    }
}

impl Listed<'_> {
    fn row(&self) -> Vec<String> {
        let artifact = self.artifact;
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let roles = if artifact.roles.is_empty() { "all".into() } else { artifact.roles.join(",") };
        vec![
            artifact.kind.to_string(),
            artifact.name.clone(),
            or_dash(&artifact.version),
            or_dash(&artifact.platform),
            roles,
            render_bytes(self.bytes),
            artifact.digest.hex()[..12].to_owned(),
        ]
    }
}
