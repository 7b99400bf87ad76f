//! From a cluster file's text to a proved [`Cluster`], or to every mistake in it.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use super::{
    API_VERSION, Cluster, License, NODE_POD_PREFIX, Network, Role, Settings,
    gpu_read::read_classes,
    nodes::{NodePlace, read_nodes, read_optional, read_ssh},
    parts,
};
use crate::{
    cidr::Cidr,
    fields::{Fields, Place},
    healing::{self, SelfHealing},
    problem::{LoadError, Problems, read_bounded},
    profile::{self, Profile},
    yaml,
};

/// Distributions this build installs.
pub const DISTRIBUTIONS: &[(&str, &str)] = &[("kubeadm", "kubeadm")];
/// Pod networks this build installs.
pub const CNIS: &[(&str, &str)] = &[("host-routes", "host-routes")];

const DEFAULT_PARALLEL: u16 = 50;

/// Read and prove a cluster file. A profile given as a path is looked up beside the file.
///
/// # Errors
/// When the file can't be read, or with every mistake in it.
pub fn load(path: &Path) -> Result<Cluster, LoadError> {
    let text = read_bounded(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    read(&text, &path.display().to_string(), Some(folder)).map_err(LoadError::Invalid)
}

/// Prove a cluster file's text. Profiles given as a path are not looked into.
///
/// # Errors
/// Every mistake in the text, each with line, field and what would be right.
pub fn parse(text: &str, file_name: &str) -> Result<Cluster, Problems> {
    read(text, file_name, None)
}

fn read(text: &str, file_name: &str, folder: Option<&Path>) -> Result<Cluster, Problems> {
    let mut problems = Problems::new(file_name);
    let tree = yaml::parse(text, &mut problems);
    let cluster = tree.and_then(|tree| read_file(&Place::root(&tree), folder, &mut problems));
    problems.finish(cluster)
}

fn read_file(root: &Place<'_>, folder: Option<&Path>, problems: &mut Problems) -> Option<Cluster> {
    let mut file = root.fields(problems)?;
    let name = read_head(&mut file, "Cluster", problems);
    let spec = file.required(problems, "spec", "`nodes` and what else the cluster is made of");
    file.finish(problems);
    let spec_place = spec?;
    let mut spec = spec_place.fields(problems)?;
    let nodes_place = spec.required(problems, "nodes", "a list of nodes");
    let mut nodes = nodes_place.as_ref().and_then(|place| read_nodes(place, problems));
    let classes = spec.optional("gpuClasses");
    if let Some(nodes) = &mut nodes {
        read_classes(classes.as_ref(), nodes, problems);
    }
    let profile_place = spec.optional("profile");
    let distribution_place = spec.optional("distribution");
    let distribution = match &distribution_place {
        Some(place) => place.one_of(problems, DISTRIBUTIONS),
        None => Some("kubeadm"),
    };
    let ssh = read_optional(spec.optional("ssh"), problems, read_ssh);
    let network = read_network(spec.optional("network"), nodes.as_deref(), problems);
    let settings = read_settings(spec.optional("settings"), problems);
    let self_healing = spec.optional("selfHealing").map(|place| {
        let mut healing = SelfHealing::default();
        healing::Said::read(&place, problems).lay_over(&mut healing);
        healing
    });
    let license = spec.optional("license").map(|place| read_license(&place, problems));
    spec.finish(problems);
    let profile = read_profile(profile_place.as_ref(), nodes.as_deref(), folder, problems);
    if let (Some((_, Some(profile))), Some(nodes), Some(place)) = (&profile, &nodes, &nodes_place) {
        check_counts(profile, nodes, place, problems);
        if let (Some(wanted), Some(place)) = (distribution, &distribution_place)
            && !profile.distributions.iter().any(|known| known == wanted)
        {
            let what = format!("profile `{}` does not run on `{wanted}`", profile.name);
            place.wrong(problems, what, profile.distributions.join(" or "));
        }
    }
    Some(Cluster {
        name: name?,
        profile: profile?.0,
        distribution: distribution?.to_owned(),
        nodes: nodes?.into_iter().map(|place| place.node).collect::<Option<_>>()?,
        ssh: ssh?,
        network: network?,
        settings: settings?,
        self_healing,
        license: match license {
            Some(license) => Some(license?),
            None => None,
        },
    })
}

/// `apiVersion`, `kind` and `metadata.name`, which every kind of file has.
pub(crate) fn read_head(
    file: &mut Fields<'_>,
    kind: &'static str,
    problems: &mut Problems,
) -> Option<String> {
    let mut metadata = read_head_open(file, kind, problems)?;
    let name = read_metadata_name(&mut metadata, false, problems);
    metadata.finish(problems);
    name
}

/// Like [`read_head`], for kinds that have more in `metadata`.
pub(crate) fn read_head_open<'t>(
    file: &mut Fields<'t>,
    kind: &'static str,
    problems: &mut Problems,
) -> Option<Fields<'t>> {
    read_kind(file, kind, problems);
    file.required(problems, "metadata", "`name: …`")?.fields(problems)
}

/// `apiVersion` and `kind`.
pub(crate) fn read_kind(file: &mut Fields<'_>, kind: &'static str, problems: &mut Problems) {
    for (field, word) in [("apiVersion", API_VERSION), ("kind", kind)] {
        if let Some(place) = file.required(problems, field, &format!("`{word}`")) {
            place.one_of(problems, &[(word, ())]);
        }
    }
}

/// `metadata.name`; a bundle's may have dots, since versions are part of many.
pub(crate) fn read_metadata_name(
    metadata: &mut Fields<'_>,
    dots: bool,
    problems: &mut Problems,
) -> Option<String> {
    let expected = if dots {
        "a name of lower-case letters, digits, `-` and `.`"
    } else {
        "a name of lower-case letters, digits and `-` (1 to 63)"
    };
    let place = metadata.required(problems, "name", expected)?;
    let name = place.text(problems)?;
    if !(parts::is_dns_label(name) || dots && parts::is_domain(name)) {
        place.wrong(problems, format!("`{name}` can't be used as a name"), expected);
        return None;
    }
    Some(name.to_owned())
}

/// The profile's name as written, and the profile itself where it can be looked into.
fn read_profile(
    place: Option<&Place<'_>>,
    nodes: Option<&[NodePlace<'_>]>,
    folder: Option<&Path>,
    problems: &mut Problems,
) -> Option<(String, Option<Profile>)> {
    let Some(place) = place else {
        let name = if nodes.is_some_and(|nodes| nodes.len() == 1) { "single" } else { "cluster" };
        return Some((name.to_owned(), profile::shipped(name)));
    };
    let name = place.text(problems)?;
    if profile::is_path(name) {
        let Some(folder) = folder else { return Some((name.to_owned(), None)) };
        return match profile::load(name, folder) {
            Ok(profile) => Some((name.to_owned(), Some(profile))),
            Err(error) => {
                place.wrong(problems, format!("{error}"), "the path of a good profile file");
                None
            }
        };
    }
    let shipped: Vec<(&str, &str)> = profile::SHIPPED.iter().map(|name| (*name, *name)).collect();
    place.one_of(problems, &shipped).map(|name| (name.to_owned(), profile::shipped(name)))
}

fn check_counts(
    profile: &Profile,
    nodes: &[NodePlace<'_>],
    place: &Place<'_>,
    problems: &mut Problems,
) {
    for role in [Role::ControlPlane, Role::Worker] {
        let found = nodes.iter().filter(|node| node.role == Some(role)).count();
        let unread = nodes.iter().filter(|node| node.role.is_none()).count();
        let word = role.as_str();
        let Some(count) = profile.nodes.get(&role) else { continue };
        // That there is no control plane at all was said already.
        if found + unread < usize::from(count.min) && (role == Role::Worker || found > 0) {
            let what = format!("profile `{}` has {found} {word} nodes here", profile.name);
            place.wrong(problems, what, format!("at least {} with `role: {word}`", count.min));
        }
        if let Some(max) = count.max.filter(|max| found > usize::from(*max)) {
            let what = format!("profile `{}` has {found} {word} nodes here", profile.name);
            let hint = if profile.name == "single" { " (or `profile: cluster`)" } else { "" };
            place.wrong(problems, what, format!("at most {max} with `role: {word}`{hint}"));
        }
    }
}

fn read_license(place: &Place<'_>, problems: &mut Problems) -> Option<License> {
    let mut fields = place.fields(problems)?;
    let file = match fields.optional("file") {
        Some(place) => place.text(problems).map(|text| Some(text.into())),
        None => Some(None),
    };
    let taint =
        read_optional(fields.optional("taintOverLimit"), problems, |place, p| place.boolean(p));
    fields.finish(problems);
    Some(License { file: file?, taint_over_limit: taint? })
}

fn read_settings(place: Option<Place<'_>>, problems: &mut Problems) -> Option<Settings> {
    let mut settings = Settings { disable_swap: false, parallel: DEFAULT_PARALLEL };
    let Some(place) = place else { return Some(settings) };
    let mut fields = place.fields(problems)?;
    let swap = fields.optional("disableSwap").map(|place| place.boolean(problems));
    let parallel = fields.optional("parallel").map(|place| place.number(problems, 1, 1000));
    fields.finish(problems);
    if let Some(disable_swap) = swap {
        settings.disable_swap = disable_swap?;
    }
    if let Some(parallel) = parallel {
        settings.parallel = u16::try_from(parallel?).ok()?;
    }
    Some(settings)
}

fn read_network(
    place: Option<Place<'_>>,
    nodes: Option<&[NodePlace<'_>]>,
    problems: &mut Problems,
) -> Option<Network> {
    let mut fields = match &place {
        Some(place) => Some(place.fields(problems)?),
        None => None,
    };
    let mut field = |name| fields.as_mut().and_then(|fields| fields.optional(name));
    let pod_place = field("podCIDR");
    let service_place = field("serviceCIDR");
    let cni_place = field("cni");
    let endpoint_place = field("controlPlaneEndpoint");
    let domain_place = field("clusterDomain");
    if let Some(fields) = fields {
        fields.finish(problems);
    }
    let pods = read_range(pod_place.as_ref(), "10.244.0.0/16", problems);
    let services = read_range(service_place.as_ref(), "10.96.0.0/12", problems);
    check_ranges((pods, pod_place.as_ref()), (services, service_place.as_ref()), nodes, problems);
    let cni = cni_place.map_or(Some("host-routes"), |place| place.one_of(problems, CNIS));
    let domain = match domain_place {
        None => Some("cluster.local".to_owned()),
        Some(place) => place.text(problems).and_then(|text| {
            let good = parts::is_domain(text);
            if !good {
                place.wrong(problems, format!("`{text}` is not a domain"), "e.g. `cluster.local`");
            }
            good.then(|| text.to_owned())
        }),
    };
    let endpoint = read_endpoint(endpoint_place.as_ref(), nodes, problems);
    Some(Network {
        pod_cidr: pods?.to_string(),
        service_cidr: services?.to_string(),
        cni: cni?.to_owned(),
        control_plane_endpoint: endpoint?,
        cluster_domain: domain?,
    })
}

fn read_endpoint(
    place: Option<&Place<'_>>,
    nodes: Option<&[NodePlace<'_>]>,
    problems: &mut Problems,
) -> Option<String> {
    let Some(place) = place else {
        let first = nodes?.iter().find(|node| node.role == Some(Role::ControlPlane))?;
        return Some(match first.address.as_ref()?.0 {
            IpAddr::V4(address) => format!("{address}:6443"),
            IpAddr::V6(address) => format!("[{address}]:6443"),
        });
    };
    let text = place.text(problems)?;
    if parts::endpoint(text).is_none() {
        let what = format!("`{text}` is not an endpoint");
        place.wrong(problems, what, "`host:port`, port from 1 to 65535, e.g. `10.0.0.11:6443`");
        return None;
    }
    Some(text.to_owned())
}

fn read_range(place: Option<&Place<'_>>, default: &str, problems: &mut Problems) -> Option<Cidr> {
    let Some(place) = place else { return default.parse().ok() };
    match place.text(problems)?.parse::<Cidr>() {
        Ok(range) if range.address().is_ipv4() => Some(range),
        Ok(range) => {
            let what = format!("`{range}` is not an IPv4 range");
            place.wrong(problems, what, format!("an IPv4 range such as `{default}`"));
            None
        }
        Err(error) => {
            place.wrong(problems, error.to_string(), format!("a range such as `{default}`"));
            None
        }
    }
}

/// What must hold between the ranges and the nodes' addresses. A problem is noted where the
/// operator wrote something: at the range, or at the address when the range is a default.
fn check_ranges(
    (pods, pod_place): (Option<Cidr>, Option<&Place<'_>>),
    (services, service_place): (Option<Cidr>, Option<&Place<'_>>),
    nodes: Option<&[NodePlace<'_>]>,
    problems: &mut Problems,
) {
    if let (Some(pods), Some(services), Some(place)) = (pods, services, pod_place.or(service_place))
        && pods.overlaps(&services)
    {
        let what = format!("pod range {pods} and Service range {services} overlap");
        place.wrong(problems, what, "ranges that share no address");
    }
    let nodes = nodes.unwrap_or_default();
    if let (Some(pods), Some(place)) =
        (pods, pod_place.or(nodes.first().and_then(|n| n.address.as_ref().map(|a| &a.1))))
        && pods.parts(NODE_POD_PREFIX) < nodes.len() as u128
    {
        let what = format!("pod range {pods} is too small for {} nodes", nodes.len());
        let bits = nodes.len().next_power_of_two().trailing_zeros();
        let prefix = u32::from(NODE_POD_PREFIX).saturating_sub(bits);
        let expected = format!("/{prefix} or larger in `spec.network.podCIDR` (/24 for each node)");
        place.wrong(problems, what, expected);
    }
    if let (Some(services), Some(place)) = (services, service_place)
        && services.prefix() > 28
    {
        place.wrong(problems, format!("Service range {services} is too small"), "/28 or larger");
    }
    let mut inside: BTreeMap<&str, Cidr> = BTreeMap::new();
    inside.extend(pods.map(|range| ("pod", range)));
    inside.extend(services.map(|range| ("Service", range)));
    for (address, place) in nodes.iter().filter_map(|node| node.address.as_ref()) {
        for (what, range) in &inside {
            if range.contains(*address) {
                let what = format!("{address} lies in the {what} range {range}");
                place.wrong(problems, what, "node addresses outside of pod and Service ranges");
            }
        }
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
