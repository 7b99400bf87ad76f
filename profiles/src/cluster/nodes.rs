//! Reading `spec.nodes` and `ssh`, with what must hold between nodes.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::{MAX_NODES, Node, Role, Ssh, gpu_read::read_gpu, parts};
use crate::{
    fields::{Fields, Place},
    problem::Problems,
};

pub(super) const ROLES: &[(&str, Role)] =
    &[("control-plane", Role::ControlPlane), ("worker", Role::Worker)];

/// Where each node stands, so that problems found later can name the place.
pub(super) struct NodePlace<'t> {
    /// As read; fields that were wrong are `None`.
    pub(super) role: Option<Role>,
    /// Address and where it stands.
    pub(super) address: Option<(IpAddr, Place<'t>)>,
    /// The whole node, when nothing in it was wrong.
    pub(super) node: Option<Node>,
    /// Where it stands.
    pub(super) place: Place<'t>,
}

/// Read every node and what must hold between them.
pub(super) fn read_nodes<'t>(
    place: &Place<'t>,
    problems: &mut Problems,
) -> Option<Vec<NodePlace<'t>>> {
    let list = place.list(problems)?;
    if list.is_empty() || list.len() > MAX_NODES {
        let what = format!("{} nodes stand here", list.len());
        place.wrong(problems, what, format!("1 to {MAX_NODES} nodes"));
    }
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut nodes = Vec::with_capacity(list.len());
    for place in list {
        let Some(mut fields) = place.fields(problems) else { continue };
        let name = read_name(&mut fields, problems);
        if let Some((name, at)) = &name
            && let Some(first) = names.insert(name.clone(), at.path.clone())
        {
            let what = format!("`{name}` is also the name at {first}");
            at.wrong(problems, what, "a name of its own for each node");
        }
        let address = read_address(&mut fields, problems);
        if let Some((address, at)) = &address
            && let Some(first) = addresses.insert(*address, at.path.clone())
        {
            let what = format!("{address} is also the address at {first}");
            at.wrong(problems, what, "an address of its own for each node");
        }
        let name = name.map(|(name, _)| name);
        nodes.push(read_rest((fields, place), name, address, problems));
    }
    if !nodes.iter().any(|node| !matches!(node.role, Some(Role::Worker))) && !nodes.is_empty() {
        place.wrong(
            problems,
            "no node has the role `control-plane`",
            "at least one node with `role: control-plane`",
        );
    }
    Some(nodes)
}

fn read_rest<'t>(
    (mut fields, place): (Fields<'t>, Place<'t>),
    name: Option<String>,
    address: Option<(IpAddr, Place<'t>)>,
    problems: &mut Problems,
) -> NodePlace<'t> {
    let role = fields
        .required(problems, "role", "`control-plane` or `worker`")
        .and_then(|place| place.one_of(problems, ROLES));
    let ssh = read_optional(fields.optional("ssh"), problems, read_ssh);
    let labels = read_optional(fields.optional("labels"), problems, read_labels);
    let taints = read_optional(fields.optional("taints"), problems, read_taints);
    let gpu = read_optional(fields.optional("gpu"), problems, |place, problems| {
        read_gpu(place, problems).map(Some)
    });
    fields.finish(problems);
    let build = || {
        Some(Node {
            name: name?,
            role: role?,
            address: address.as_ref()?.0,
            ssh: ssh?,
            labels: labels?,
            taints: taints?,
            gpu: gpu?,
        })
    };
    let node = build();
    NodePlace { role, address, node, place }
}

/// An absent field has its default; a field that is there and wrong has no value.
pub(crate) fn read_optional<T: Default>(
    place: Option<Place<'_>>,
    problems: &mut Problems,
    read: impl FnOnce(&Place<'_>, &mut Problems) -> Option<T>,
) -> Option<T> {
    match place {
        Some(place) => read(&place, problems),
        None => Some(T::default()),
    }
}

fn read_name<'t>(fields: &mut Fields<'t>, problems: &mut Problems) -> Option<(String, Place<'t>)> {
    let expected = "a name of lower-case letters, digits and `-` (1 to 63)";
    let place = fields.required(problems, "name", expected)?;
    let name = place.text(problems)?;
    if !parts::is_dns_label(name) {
        place.wrong(problems, format!("`{name}` can't be a node's name"), expected);
        return None;
    }
    Some((name.to_owned(), place))
}

fn read_address<'t>(
    fields: &mut Fields<'t>,
    problems: &mut Problems,
) -> Option<(IpAddr, Place<'t>)> {
    let expected = "an IP address, e.g. `10.0.0.11`";
    let place = fields.required(problems, "address", expected)?;
    let address: IpAddr = place.parse(problems, expected)?;
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        let what = format!("{address} can't be reached by other nodes");
        place.wrong(problems, what, "the address other nodes reach this one by");
        return None;
    }
    Some((address, place))
}

/// A field that is optional in the file and in the value: `Err` when it is there and wrong.
fn text_where(
    fields: &mut Fields<'_>,
    name: &'static str,
    problems: &mut Problems,
    judge: fn(&str) -> bool,
    expected: &str,
) -> Result<Option<String>, ()> {
    let Some(place) = fields.optional(name) else { return Ok(None) };
    let text = place.text(problems).ok_or(())?;
    if judge(text) {
        return Ok(Some(text.to_owned()));
    }
    place.wrong(problems, format!("`{text}` can't be used"), expected);
    Err(())
}

/// Read an `ssh` map.
pub(super) fn read_ssh(place: &Place<'_>, problems: &mut Problems) -> Option<Ssh> {
    const KEY: &str = "a fingerprint (`SHA256:` and 43 letters, from `ssh-keygen -lf`) or a whole \
                       public key line";
    let mut fields = place.fields(problems)?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let path = |text: &str| !text.is_empty() && !text.contains('\0');
    let user = text_where(&mut fields, "user", problems, plain, "a login name");
    let port = match fields.optional("port") {
        Some(place) => place
            .number(problems, 1, u64::from(u16::MAX))
            .and_then(|port| u16::try_from(port).ok())
            .map(Some)
            .ok_or(()),
        None => Ok(None),
    };
    let host_key = text_where(&mut fields, "hostKey", problems, parts::is_host_key, KEY);
    let jump =
        text_where(&mut fields, "jump", problems, parts::is_jump, "`user@host:port` or `host`");
    let jump_host_key = text_where(&mut fields, "jumpHostKey", problems, parts::is_host_key, KEY);
    let identity = text_where(&mut fields, "identity", problems, path, "a private key file");
    let known_hosts = text_where(&mut fields, "knownHosts", problems, path, "a known_hosts file");
    fields.finish(problems);
    Some(Ssh {
        user: user.ok()?,
        port: port.ok()?,
        host_key: host_key.ok()?,
        jump: jump.ok()?,
        jump_host_key: jump_host_key.ok()?,
        identity: identity.ok()?.map(PathBuf::from),
        known_hosts: known_hosts.ok()?.map(PathBuf::from),
    })
}

pub(super) fn read_labels(
    place: &Place<'_>,
    problems: &mut Problems,
) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut good = true;
    for (key, place) in place.entries(problems)? {
        if !parts::is_label_key(&key.name) {
            let what = format!("`{}` can't be a label's key", key.name);
            place.wrong(problems, what, "`name` or `domain/name`, name of at most 63 letters");
            good = false;
        }
        let value = match place.tree.value {
            crate::yaml::Value::Null => Some(""),
            _ => place.text(problems),
        };
        match value.filter(|value| parts::is_label_value(value)) {
            Some(value) => {
                labels.insert(key.name.clone(), value.to_owned());
            }
            None => {
                good = false;
                if let Some(value) = value {
                    let what = format!("`{value}` can't be a label's value");
                    place.wrong(problems, what, "letters, digits, `-`, `_` and `.` (at most 63)");
                }
            }
        }
    }
    good.then_some(labels)
}

fn read_taints(place: &Place<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let mut taints = Vec::new();
    let mut good = true;
    for place in place.list(problems)? {
        match place.text(problems) {
            Some(text) if parts::is_taint(text) => taints.push(text.to_owned()),
            Some(text) => {
                good = false;
                place.wrong(
                    problems,
                    format!("`{text}` is not a taint"),
                    "`key=value:Effect` with Effect `NoSchedule`, `PreferNoSchedule` or `NoExecute`",
                );
            }
            None => good = false,
        }
    }
    good.then_some(taints)
}
