//! Reading the Debian packages of a definition.

use std::collections::BTreeSet;

use super::{
    Archive, AssumeInstalled, PackageSet,
    read::{read_platform, read_roles, required_text},
};
use crate::{
    cluster::read_optional,
    fields::{Fields, Place},
    problem::Problems,
};

const PRIORITIES: &[(&str, &str)] =
    &[("required", "required"), ("important", "important"), ("standard", "standard")];

/// The sets, each with a name of its own.
pub(super) fn read_packages(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<PackageSet>> {
    let places = place.list(problems)?;
    let mut seen = BTreeSet::new();
    let mut sets = Vec::with_capacity(places.len());
    for place in &places {
        let Some(set) = read_set(place, problems) else { continue };
        if !seen.insert(set.name.clone()) {
            let what = format!("a set `{}` stands here a second time", set.name);
            place.wrong(problems, what, "each name once");
        }
        sets.push(set);
    }
    (sets.len() == places.len()).then_some(sets)
}

fn read_set(place: &Place<'_>, problems: &mut Problems) -> Option<PackageSet> {
    let mut fields = place.fields(problems)?;
    let name = required_text(&mut fields, "name", "what the set is called", problems);
    let platform = fields
        .required(problems, "platform", "e.g. `linux/amd64`")
        .and_then(|place| read_platform(&place, problems));
    let archives = fields
        .required(problems, "archives", "a list of archives")
        .and_then(|place| read_archives(&place, problems));
    let include = words(&mut fields, "include", "names of packages", problems);
    let assume_installed =
        read_optional(fields.optional("assumeInstalled"), problems, read_installed);
    let roles = read_optional(fields.optional("roles"), problems, read_roles);
    fields.finish(problems);
    Some(PackageSet {
        name: name?,
        platform: platform?,
        archives: archives?,
        include: include?,
        assume_installed: assume_installed?,
        roles: roles?,
    })
}

fn read_archives(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<Archive>> {
    let places = place.list(problems)?;
    if places.is_empty() {
        place.wrong(problems, "this is empty", "at least one archive");
        return None;
    }
    let each: Vec<_> = places.iter().map(|place| read_archive(place, problems)).collect();
    each.into_iter().collect()
}

fn read_archive(place: &Place<'_>, problems: &mut Problems) -> Option<Archive> {
    let mut fields = place.fields(problems)?;
    let url = required_text(&mut fields, "url", "the folder above `dists`", problems);
    let suite = required_text(&mut fields, "suite", "e.g. `bookworm`", problems);
    let components = words(&mut fields, "components", "e.g. `[main]`", problems);
    let keyring = required_text(&mut fields, "keyring", "a file with public keys", problems);
    fields.finish(problems);
    Some(Archive { url: url?, suite: suite?, components: components?, keyring: keyring?.into() })
}

/// A list of texts, none of them and not itself empty.
fn words(
    fields: &mut Fields<'_>,
    name: &'static str,
    expected: &str,
    problems: &mut Problems,
) -> Option<Vec<String>> {
    let place = fields.required(problems, name, expected)?;
    let texts = place.texts(problems)?;
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        place.wrong(problems, "this is empty", expected);
        return None;
    }
    Some(texts)
}

fn read_installed(place: &Place<'_>, problems: &mut Problems) -> Option<AssumeInstalled> {
    let mut fields = place.fields(problems)?;
    let priorities = read_optional(fields.optional("priorities"), problems, |place, problems| {
        let places = place.list(problems)?;
        let each: Vec<_> = places.iter().map(|place| place.one_of(problems, PRIORITIES)).collect();
        each.into_iter().map(|one| one.map(str::to_owned)).collect()
    });
    let packages = read_optional(fields.optional("packages"), problems, |place, p| place.texts(p));
    fields.finish(problems);
    Some(AssumeInstalled { priorities: priorities?, packages: packages? })
}
