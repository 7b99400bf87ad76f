//! The SBOM: SPDX 2.3 in JSON, one package for the bundle and one for each artifact in it.

use std::{borrow::Cow, collections::BTreeSet};

use kdc_bundles::index::{ArtifactKind, Digest};
use serde::Serialize;

use super::{Item, Subject, deb::Control, licence::Licence, purl, to_json};

const NONE: &str = "NOASSERTION";
const BUNDLE: &str = "SPDXRef-bundle";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo<'a>,
    document_describes: [&'static str; 1],
    packages: Vec<Package<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<ExtractedLicence>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationInfo<'a> {
    created: &'a str,
    creators: [String; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package<'a> {
    #[serde(rename = "SPDXID")]
    id: String,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<&'a str>,
    supplier: String,
    download_location: String,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum<'a>>,
    license_concluded: &'static str,
    license_declared: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_comments: Option<String>,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    homepage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    primary_package_purpose: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalReference>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum<'a> {
    algorithm: &'static str,
    checksum_value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalReference {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtractedLicence {
    license_id: String,
    extracted_text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: &'static str,
    relationship_type: &'static str,
    related_spdx_element: String,
}

pub(super) fn render(subject: Subject<'_>, items: &[Item<'_>]) -> Vec<u8> {
    let Subject { name, version, origin } = subject;
    let mut packages = vec![bundle(subject)];
    packages.extend(items.iter().map(package));
    let mut relationships = vec![Relationship {
        spdx_element_id: DOCUMENT,
        relationship_type: "DESCRIBES",
        related_spdx_element: BUNDLE.to_owned(),
    }];
    relationships.extend(items.iter().map(|item| Relationship {
        spdx_element_id: BUNDLE,
        relationship_type: "CONTAINS",
        related_spdx_element: id(item),
    }));
    let document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: format!("{name}-{version}"),
        document_namespace: namespace(subject, items),
        creation_info: CreationInfo {
            created: &origin.created,
            creators: [format!("Tool: kdc-install-{}", env!("CARGO_PKG_VERSION"))],
        },
        document_describes: [BUNDLE],
        packages,
        has_extracted_licensing_infos: extracted(items),
        relationships,
    };
    to_json(&document)
}

/// Unique for each content, and the same for the same.
fn namespace(subject: Subject<'_>, items: &[Item<'_>]) -> String {
    let mut text = subject.origin.created.clone();
    for item in items {
        text.push_str(&format!("\n{} {}", item.identity(), item.digest));
    }
    let digest = Digest::of(text.as_bytes());
    let (name, version) = (purl::encode(subject.name), purl::encode(subject.version));
    format!("https://kdc.dev/spdx/{name}/{version}/{}", digest.hex())
}

fn bundle(subject: Subject<'_>) -> Package<'_> {
    Package {
        id: BUNDLE.to_owned(),
        name: subject.name.into(),
        version_info: Some(subject.version),
        supplier: NONE.to_owned(),
        download_location: NONE.to_owned(),
        files_analyzed: false,
        checksums: Vec::new(),
        license_concluded: NONE,
        license_declared: NONE.to_owned(),
        license_comments: None,
        copyright_text: NONE,
        homepage: None,
        source_info: None,
        comment: None,
        primary_package_purpose: "ARCHIVE",
        external_refs: Vec::new(),
    }
}

fn package<'a>(item: &'a Item<'_>) -> Package<'a> {
    let (planned, control) = (item.planned, item.control());
    let licence = Licence::of(planned.licence.as_deref());
    let license_comments = match &licence {
        Licence::Other { text, what } => {
            Some(format!("stated as `{text}`, which is no SPDX expression: {what}"))
        }
        Licence::Expression { .. } | Licence::Unknown => None,
    };
    let comment = match &item.control {
        Some(Err(what)) => Some(format!("its control file is not known: {what}")),
        Some(Ok(_)) | None => None,
    };
    Package {
        id: id(item),
        name: planned.name.as_str().into(),
        version_info: item.version(),
        supplier: control.map_or_else(|| NONE.to_owned(), supplier),
        download_location: download_location(planned.uri.as_deref()),
        files_analyzed: false,
        checksums: vec![Checksum { algorithm: "SHA256", checksum_value: item.digest.hex() }],
        license_concluded: NONE,
        license_declared: licence.expression().unwrap_or(NONE).to_owned(),
        license_comments,
        copyright_text: NONE,
        homepage: control
            .and_then(|control| control.homepage.as_deref())
            .filter(|uri| is_http(uri)),
        source_info: control.and_then(|control| {
            control.source.as_ref().map(|source| format!("built from Debian source {source}"))
        }),
        comment,
        primary_package_purpose: match planned.kind {
            ArtifactKind::Binary | ArtifactKind::Agent => "APPLICATION",
            ArtifactKind::Image => "CONTAINER",
            ArtifactKind::Package => "INSTALL",
            ArtifactKind::Chart | ArtifactKind::Archive => "ARCHIVE",
            ArtifactKind::File | ArtifactKind::Document => "FILE",
        },
        external_refs: vec![ExternalReference {
            reference_category: "PACKAGE-MANAGER",
            reference_type: "purl",
            reference_locator: purl::of(item),
        }],
    }
}

/// `SPDXRef-`, what people recognise, and a digest that keeps two such names apart.
fn id(item: &Item<'_>) -> String {
    let planned = item.planned;
    let letter =
        |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    let name: String = planned.name.chars().take(80).map(letter).collect();
    let digest = Digest::of(item.identity().as_bytes());
    format!("SPDXRef-{}-{name}-{}", planned.kind, &digest.hex()[..12])
}

/// Teams are organisations, `Name <mail>` is a person.
fn supplier(control: &Control) -> String {
    let Some(maintainer) = &control.maintainer else { return NONE.to_owned() };
    let (name, mail) = match maintainer.split_once('<') {
        Some((name, mail)) => (name.trim(), Some(mail.trim_end_matches('>').trim())),
        None => (maintainer.as_str(), None),
    };
    let name = name.trim().trim_matches('"').replace(['(', ')'], " ");
    if name.trim().is_empty() {
        return NONE.to_owned();
    }
    let lower = name.to_lowercase();
    let words = [
        "team",
        "maintainers",
        "developers",
        "group",
        "project",
        "authors",
        "debian",
        "ubuntu",
        "inc",
    ];
    let kind =
        if words.iter().any(|word| lower.contains(word)) { "Organization" } else { "Person" };
    match mail.filter(|mail| mail.contains('@') && !mail.contains(char::is_whitespace)) {
        Some(mail) => format!("{kind}: {} ({mail})", name.trim()),
        None => format!("{kind}: {}", name.trim()),
    }
}

fn is_http(uri: &str) -> bool {
    (uri.starts_with("https://") || uri.starts_with("http://"))
        && uri.bytes().all(|b| b.is_ascii_graphic())
}

/// Only public addresses: SPDX has no way to write the others down.
fn download_location(uri: Option<&str>) -> String {
    uri.filter(|uri| is_http(uri)).unwrap_or(NONE).to_owned()
}

/// Licences that are not on SPDX's list have to be named in the document, with their text.
fn extracted(items: &[Item<'_>]) -> Vec<ExtractedLicence> {
    let references: BTreeSet<String> = items
        .iter()
        .flat_map(|item| match Licence::of(item.planned.licence.as_deref()) {
            Licence::Expression { references, .. } => references,
            Licence::Other { .. } | Licence::Unknown => Vec::new(),
        })
        .filter(|reference| reference.starts_with("LicenseRef-"))
        .collect();
    let one = |license_id: String| ExtractedLicence {
        extracted_text: format!(
            "The definition states {license_id}; its text is with the artifact."
        ),
        license_id,
    };
    references.into_iter().map(one).collect()
}
