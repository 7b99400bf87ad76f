//! The provenance: an in-toto statement with SLSA's predicate. Its subjects are the artifacts; the
//! bundle itself can't be one, since this document is part of it.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;

use super::{Item, Subject, local_uri, sha256, to_json};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Descriptor<'a>>,
    predicate_type: &'static str,
    predicate: Predicate<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: RunDetails<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    external_parameters: BTreeMap<&'static str, Descriptor<'a>>,
    internal_parameters: BTreeMap<&'static str, &'a str>,
    resolved_dependencies: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDetails<'a> {
    builder: Builder,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Builder {
    id: &'static str,
    version: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    invocation_id: String,
    started_on: &'a str,
}

/// A thing by its digest, as both formats call it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: BTreeMap<&'static str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
}

pub(super) fn render(subject: Subject<'_>, items: &[Item<'_>]) -> Vec<u8> {
    let origin = subject.origin;
    let named =
        |digest| Descriptor { name: None, uri: None, digest: sha256(digest), media_type: None };
    let mut external = BTreeMap::from([("definition", named(&origin.definition))]);
    if let Some(lock) = &origin.lock {
        external.insert("lock", named(lock));
    }
    let statement = Statement {
        kind: "https://in-toto.io/Statement/v1",
        subject: items.iter().map(produced).collect(),
        predicate_type: "https://slsa.dev/provenance/v1",
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: "https://kdc.dev/bundle/v1",
                external_parameters: external,
                internal_parameters: BTreeMap::from([
                    ("bundleName", subject.name),
                    ("bundleVersion", subject.version),
                ]),
                resolved_dependencies: items.iter().map(taken).collect(),
            },
            run_details: RunDetails {
                builder: Builder {
                    id: "https://kdc.dev/kdc-install",
                    version: BTreeMap::from([("kdc-install", env!("CARGO_PKG_VERSION"))]),
                },
                metadata: Metadata {
                    // What was asked for is what tells one build from another.
                    invocation_id: origin.lock.as_ref().unwrap_or(&origin.definition).to_string(),
                    started_on: &origin.created,
                },
            },
        },
    };
    to_json(&statement)
}

fn produced<'a>(item: &'a Item<'_>) -> Descriptor<'a> {
    Descriptor {
        name: Some(item.identity()),
        uri: None,
        digest: sha256(item.digest),
        media_type: None,
    }
}

fn taken<'a>(item: &'a Item<'_>) -> Descriptor<'a> {
    let planned = item.planned;
    let local = || planned.source.as_deref().map(|source| local_uri(Path::new(source)));
    Descriptor {
        name: Some(item.identity()),
        uri: planned.uri.clone().or_else(local),
        digest: sha256(item.digest),
        media_type: Some(&planned.media_type),
    }
}
