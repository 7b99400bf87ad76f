//! From a profile file's text to a proved [`Profile`].

use std::{collections::BTreeMap, path::Path};

use super::{Acceptance, Component, Count, HostNeeds, Minimum, Profile};
use crate::{
    cluster::{Role, read_head, read_optional},
    fields::Place,
    problem::{LoadError, Problems, read_bounded},
    yaml,
};

/// Names of the profiles that come with kdc.
pub const SHIPPED: &[&str] = &["single", "cluster"];

const ACCEPTANCE: &[(&str, Acceptance)] = &[
    ("api-healthy", Acceptance::ApiHealthy),
    ("nodes-ready", Acceptance::NodesReady),
    ("pod-to-pod", Acceptance::PodToPod),
    ("service-by-name", Acceptance::ServiceByName),
    ("no-outside-traffic", Acceptance::NoOutsideTraffic),
];

/// The shipped profile of that name.
#[must_use]
pub fn shipped(name: &str) -> Option<Profile> {
    let text = match name {
        "single" => include_str!("../../profiles/single.yaml"),
        "cluster" => include_str!("../../profiles/cluster.yaml"),
        _ => return None,
    };
    Some(parse(text, name).expect("the shipped profiles parse, as a test shows"))
}

/// The text names a file rather than a shipped profile.
#[must_use]
pub fn is_path(name: &str) -> bool {
    name.contains('/')
}

/// A shipped profile by name, or one from a file whose path is relative to `folder`.
///
/// # Errors
/// When there is no such profile, or with every mistake in its file.
pub fn load(name: &str, folder: &Path) -> Result<Profile, LoadError> {
    if !is_path(name) {
        return shipped(name).ok_or_else(|| LoadError::UnknownProfile {
            name: name.to_owned(),
            shipped: SHIPPED.iter().map(|name| (*name).to_owned()).collect(),
        });
    }
    let path = folder.join(name);
    let text = read_bounded(&path)?;
    parse(&text, &path.display().to_string()).map_err(LoadError::Invalid)
}

/// Prove a profile file's text.
///
/// # Errors
/// Every mistake in the text.
pub fn parse(text: &str, file_name: &str) -> Result<Profile, Problems> {
    let mut problems = Problems::new(file_name);
    let tree = yaml::parse(text, &mut problems);
    let profile = tree.and_then(|tree| read_file(&Place::root(&tree), &mut problems));
    problems.finish(profile)
}

fn read_file(root: &Place<'_>, problems: &mut Problems) -> Option<Profile> {
    let mut file = root.fields(problems)?;
    let name = read_head(&mut file, "Profile", problems);
    let spec = file.required(problems, "spec", "what the profile is made of");
    file.finish(problems);
    let mut spec = spec?.fields(problems)?;
    let description =
        spec.required(problems, "description", "one line").and_then(|place| place.text(problems));
    let distributions = spec
        .required(problems, "distributions", "e.g. `[kubeadm]`")
        .and_then(|place| place.texts(problems));
    let nodes = spec
        .required(problems, "nodes", "`control-plane` and `worker` with `min` and `max`")
        .and_then(|place| per_role(&place, problems, read_count));
    let schedulable =
        read_optional(spec.optional("schedulableControlPlane"), problems, |place, p| {
            place.boolean(p)
        });
    let host = read_optional(spec.optional("host"), problems, read_host);
    let checks = read_optional(spec.optional("checks"), problems, |place, p| place.texts(p));
    let components = read_optional(spec.optional("components"), problems, read_components);
    let acceptance = read_optional(spec.optional("acceptance"), problems, |place, problems| {
        let places = place.list(problems)?;
        let read: Vec<_> = places.iter().map(|place| place.one_of(problems, ACCEPTANCE)).collect();
        read.into_iter().collect()
    });
    spec.finish(problems);
    Some(Profile {
        name: name?,
        description: description?.to_owned(),
        distributions: distributions?,
        nodes: nodes?,
        schedulable_control_plane: schedulable?,
        host: host?,
        checks: checks?,
        components: components?,
        acceptance: acceptance?,
    })
}

/// A map whose keys are roles.
fn per_role<T>(
    place: &Place<'_>,
    problems: &mut Problems,
    read: fn(&Place<'_>, &mut Problems) -> Option<T>,
) -> Option<BTreeMap<Role, T>> {
    let mut fields = place.fields(problems)?;
    let mut map = BTreeMap::new();
    let mut good = true;
    for (name, role) in [("control-plane", Role::ControlPlane), ("worker", Role::Worker)] {
        let Some(place) = fields.optional(name) else { continue };
        match read(&place, problems) {
            Some(value) => {
                map.insert(role, value);
            }
            None => good = false,
        }
    }
    fields.finish(problems);
    good.then_some(map)
}

fn read_count(place: &Place<'_>, problems: &mut Problems) -> Option<Count> {
    let mut fields = place.fields(problems)?;
    let most = u64::from(u16::MAX);
    let min =
        fields.required(problems, "min", "a number").and_then(|p| p.number(problems, 0, most));
    let max_place = fields.optional("max");
    let max = match &max_place {
        Some(place) => place.number(problems, min.unwrap_or(0), most).map(Some),
        None => Some(None),
    };
    fields.finish(problems);
    let max = match max? {
        Some(max) => Some(u16::try_from(max).ok()?),
        None => None,
    };
    Some(Count { min: u16::try_from(min?).ok()?, max })
}

fn read_minimum(place: &Place<'_>, problems: &mut Problems) -> Option<Minimum> {
    let mut fields = place.fields(problems)?;
    let mut number = |name, most| {
        fields
            .required(problems, name, "a number")
            .and_then(|place| place.number(problems, 0, most))
    };
    let cpus = number("cpus", 4096);
    let memory_mib = number("memoryMib", 1 << 30);
    let disk_mib = number("diskMib", 1 << 30);
    fields.finish(problems);
    Some(Minimum { cpus: u32::try_from(cpus?).ok()?, memory_mib: memory_mib?, disk_mib: disk_mib? })
}

/// `6443/tcp`: a port or a range of ports, and its protocol.
fn is_port(text: &str) -> bool {
    let Some((ports, protocol)) = text.split_once('/') else { return false };
    let number = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    let good = match ports.split_once('-') {
        Some((from, to)) => number(from) && number(to),
        None => number(ports),
    };
    good && matches!(protocol, "tcp" | "udp")
}

fn read_ports(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let places = place.list(problems)?;
    let mut ports = Vec::new();
    for place in &places {
        match place.text(problems) {
            Some(text) if is_port(text) => ports.push(text.to_owned()),
            Some(text) => {
                place.wrong(problems, format!("`{text}` is not a port"), "e.g. `6443/tcp`");
            }
            None => {}
        }
    }
    (ports.len() == places.len()).then_some(ports)
}

fn read_host(place: &Place<'_>, problems: &mut Problems) -> Option<HostNeeds> {
    let mut fields = place.fields(problems)?;
    let modules = read_optional(fields.optional("modules"), problems, |place, p| place.texts(p));
    let sysctls = read_optional(fields.optional("sysctls"), problems, |place, p| place.text_map(p));
    let packages = read_optional(fields.optional("packages"), problems, |place, p| place.texts(p));
    let ports = read_optional(fields.optional("ports"), problems, |place, problems| {
        per_role(place, problems, read_ports)
    });
    let minimum = read_optional(fields.optional("minimum"), problems, |place, problems| {
        per_role(place, problems, read_minimum)
    });
    fields.finish(problems);
    Some(HostNeeds {
        modules: modules?,
        sysctls: sysctls?,
        packages: packages?,
        ports: ports?,
        minimum: minimum?,
    })
}

fn read_components(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<Component>> {
    let places = place.list(problems)?;
    let mut components: Vec<Component> = Vec::new();
    for place in &places {
        let Some(component) = read_component(place, problems) else { continue };
        if components.iter().any(|other| other.name == component.name) {
            place.wrong(problems, format!("`{}` comes twice", component.name), "each name once");
        }
        for before in &component.after {
            if !components.iter().any(|other| other.name == *before) {
                let what = format!("`{before}` does not come before `{}`", component.name);
                place.wrong(problems, what, "components that stand above this one in `after`");
            }
        }
        components.push(component);
    }
    (components.len() == places.len()).then_some(components)
}

fn read_component(place: &Place<'_>, problems: &mut Problems) -> Option<Component> {
    let mut fields = place.fields(problems)?;
    let mut text = |name, expected| {
        let place = fields.required(problems, name, expected)?;
        place.text(problems).map(str::to_owned)
    };
    let name = text("name", "a name");
    let description = text("description", "one line");
    let manifests = match fields.optional("manifests") {
        Some(place) => place.text(problems).map(|text| Some(text.to_owned())),
        None => Some(None),
    };
    let images = read_optional(fields.optional("images"), problems, |place, p| place.texts(p));
    let after = read_optional(fields.optional("after"), problems, |place, p| place.texts(p));
    let ready = read_optional(fields.optional("ready"), problems, read_ready);
    let entitlement = match fields.optional("entitlement") {
        Some(place) => read_entitlement(&place, problems).map(Some),
        None => Some(None),
    };
    fields.finish(problems);
    Some(Component {
        name: name?,
        description: description?,
        manifests: manifests?,
        images: images?,
        after: after?,
        ready: ready?,
        entitlement: entitlement?,
    })
}

fn read_entitlement(place: &Place<'_>, problems: &mut Problems) -> Option<String> {
    let text = place.text(problems)?;
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(is_fit) {
        let expected =
            "a name of lower-case letters, digits and `-` (1 to 63), as licences have it";
        place.wrong(problems, format!("`{text}` can't be an entitlement"), expected);
        return None;
    }
    Some(text.to_owned())
}

fn read_ready(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let places = place.list(problems)?;
    let mut list = Vec::new();
    for place in &places {
        let text = place.text(problems)?;
        let parts: Vec<&str> = text.split('/').collect();
        let known = matches!(parts.as_slice(), [space, "deployment" | "daemonset", name]
            if !space.is_empty() && !name.is_empty());
        if known {
            list.push(text.to_owned());
        } else {
            let expected = "`namespace/deployment/name` or `namespace/daemonset/name`";
            place.wrong(problems, format!("`{text}` is not a workload"), expected);
        }
    }
    (list.len() == places.len()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_profiles_parse_and_bear_their_names() {
        for name in SHIPPED {
            let profile = shipped(name).expect(name);
            assert_eq!(profile.name, *name);
            assert!(profile.host.modules.iter().any(|module| module == "br_netfilter"));
            assert_eq!(profile.schedulable_control_plane, *name == "single");
        }
        assert_eq!(shipped("nope"), None);
    }

    #[test]
    fn every_mistake_in_a_profile_is_told() {
        let text = "apiVersion: kdc.dev/v1\nkind: Profile\nmetadata: {name: x}\nspec:\n  \
                    description: d\n  distributions: [kubeadm]\n  nodes: {control-plane: {min: 3, max: 1}}\n  \
                    host:\n    ports: {worker: [6443]}\n    sysctl: {}\n  components:\n    \
                    - {name: a, description: d, after: [b], ready: [x], entitlement: A b}\n  acceptance: [pod-to-pods]\n";
        let problems = parse(text, "p.yaml").expect_err("mistakes");
        let fields: Vec<&str> = problems.list().iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.nodes.control-plane.max",
                "spec.host.ports.worker[0]",
                "spec.host.sysctl",
                "spec.components[0].ready[0]",
                "spec.components[0].entitlement",
                "spec.acceptance[0]",
            ],
            "{problems}"
        );
    }

    #[test]
    fn a_profile_that_is_not_there_is_named() {
        let error = load("clutser", Path::new(".")).expect_err("unknown");
        assert!(error.hint().expect("hint").contains("single, cluster"));
        let error = load("./nope.yaml", Path::new("/nonexistent")).expect_err("no file");
        assert!(error.to_string().contains("/nonexistent/./nope.yaml"), "{error}");
    }
}
