//! `bundle inspect --licenses`, `--sbom`, `--provenance`: what a bundle says about its content.

use std::{collections::BTreeMap, path::Path};

use kdc_airgap::document::{MAX_DOCUMENT_BYTES, PROVENANCE_NAME, SBOM_NAME, licence::Licence};
use kdc_bundles::{
    index::{Artifact, ArtifactKind, Index},
    open::BundleFile,
};

use super::{BundleCommandError, refused};
use crate::show::{Screen, table};

/// What to show instead of the list of artifacts.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
pub(super) struct ViewArguments {
    /// Show the licences and what is under each; what has none, or none that is an SPDX expression,
    /// is called out
    #[arg(long)]
    pub(super) licenses: bool,
    /// Print the list of everything inside (SPDX 2.3, JSON); needs a key
    #[arg(long)]
    sbom: bool,
    /// Print where everything came from (in-toto statement, SLSA provenance); needs a key
    #[arg(long)]
    provenance: bool,
}

impl ViewArguments {
    /// The document that is asked for, if one is.
    pub(super) fn document(self) -> Option<&'static str> {
        match (self.sbom, self.provenance) {
            (true, _) => Some(SBOM_NAME),
            (_, true) => Some(PROVENANCE_NAME),
            (false, false) => None,
        }
    }
}

/// Prints a document byte for byte, in whatever form the rest is shown: it is JSON by itself.
pub(super) fn print(
    screen: &Screen,
    path: &Path,
    bundle: &BundleFile,
    name: &'static str,
) -> Result<(), BundleCommandError> {
    let found = bundle
        .index()
        .artifacts
        .iter()
        .find(|artifact| artifact.kind == ArtifactKind::Document && artifact.name == name);
    let missing = || BundleCommandError::NoDocument { path: path.to_owned(), name };
    let found = found.ok_or_else(missing)?;
    let content = bundle.read_blob(&found.digest, MAX_DOCUMENT_BYTES).map_err(refused(path))?;
    screen.raw(&String::from_utf8(content).map_err(|_| missing())?);
    Ok(())
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Licences<'a> {
    /// Whether signature and index were proved.
    proved: bool,
    licenses: Vec<Under<'a>>,
    /// Stated, but no SPDX expression.
    not_expressions: Vec<Under<'a>>,
    /// Nothing is stated.
    unknown: Vec<Named<'a>>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Under<'a> {
    license: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    artifacts: Vec<Named<'a>>,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Named<'a> {
    kind: ArtifactKind,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
}

impl<'a> Licences<'a> {
    fn of(index: &'a Index, proved: bool) -> Self {
        let (mut good, mut bad) = (BTreeMap::<String, Under<'_>>::new(), BTreeMap::new());
        let mut unknown = Vec::new();
        for artifact in &index.artifacts {
            let named = Named::of(artifact);
            let (list, license, problem) = match Licence::of(artifact.licence.as_deref()) {
                Licence::Unknown => {
                    unknown.push(named);
                    continue;
                }
                Licence::Expression { text, .. } => (&mut good, text, None),
                Licence::Other { text, what } => (&mut bad, text, Some(what)),
            };
            let under = list.entry(license.clone());
            let new = || Under { license, problem, artifacts: Vec::new() };
            under.or_insert_with(new).artifacts.push(named);
        }
        let (licenses, not_expressions) =
            (good.into_values().collect(), bad.into_values().collect());
        Self { proved, licenses, not_expressions, unknown }
    }

    fn render(&self) -> String {
        let mut rows = Vec::new();
        let mut add = |license: &str, artifacts: &[Named<'_>]| {
            for (number, one) in artifacts.iter().enumerate() {
                let license = if number == 0 { license } else { "" };
                let platform = one.platform.unwrap_or("-").to_owned();
                rows.push(vec![
                    license.to_owned(),
                    one.kind.to_string(),
                    one.name.to_owned(),
                    platform,
                ]);
            }
        };
        for under in &self.licenses {
            add(&under.license, &under.artifacts);
        }
        for under in &self.not_expressions {
            add(&format!("NOT SPDX: {}", under.license), &under.artifacts);
        }
        add("UNKNOWN", &self.unknown);
        let mut text = table::render(&["LICENCE", "KIND", "NAME", "PLATFORM"], &rows);
        let odd: usize = self.not_expressions.iter().map(|under| under.artifacts.len()).sum();
        if odd + self.unknown.len() > 0 {
            text.push_str(&format!(
                "\n{} artifacts state no licence, {odd} one that is no SPDX expression\n",
                self.unknown.len()
            ));
        }
        text
    }
}

impl<'a> Named<'a> {
    fn of(artifact: &'a Artifact) -> Self {
        let platform = artifact.platform.as_deref();
        Self { kind: artifact.kind, name: &artifact.name, platform }
    }
}

/// Shows the licences that an index states.
pub(super) fn show_licences(screen: &Screen, index: &Index, proved: bool) {
    let licences = Licences::of(index, proved);
    screen.document(&licences, || licences.render());
}
