//! The cluster file to start from: `kdc-install init` writes it, with every choice explained.

use std::{net::IpAddr, path::PathBuf};

use serde::Serialize;

use super::{API_VERSION, Role};

/// What `init` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Cluster name.
    pub name: String,
    /// Profile.
    pub profile: String,
    /// Nodes; with none, one is shown to be filled in.
    pub nodes: Vec<TemplateNode>,
}

/// One node of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateNode {
    /// Name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Address.
    pub address: IpAddr,
    /// Login name.
    pub user: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Host key or fingerprint.
    pub host_key: Option<String>,
    /// Private key file.
    pub identity: Option<PathBuf>,
}

impl TemplateNode {
    /// A control-plane node with nothing said about SSH.
    #[must_use]
    pub fn new(name: &str, address: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            role: Role::ControlPlane,
            address,
            user: None,
            port: None,
            host_key: None,
            identity: None,
        }
    }
}

/// Texts as they stand in the file: quoted, so that no name can change its meaning.
#[derive(Serialize)]
struct Shown {
    api_version: &'static str,
    name: String,
    profile: String,
    nodes: Vec<ShownNode>,
}

#[derive(Serialize)]
struct ShownNode {
    name: String,
    role: &'static str,
    address: String,
    ssh: Vec<String>,
}

/// A commented cluster file, which [`super::parse`] takes as it is when it names real nodes.
#[must_use]
pub fn template(template: &Template) -> String {
    let shown = Shown {
        api_version: API_VERSION,
        name: quote(&template.name),
        profile: quote(&template.profile),
        nodes: template.nodes.iter().map(show_node).collect(),
    };
    crate::template::render("cluster.yaml", include_str!("cluster.yaml.tera"), &shown)
        .expect("the embedded template names only fields that are given, as its test shows")
}

fn show_node(node: &TemplateNode) -> ShownNode {
    let user = node.user.as_ref().map(|user| format!("user: {}", quote(user)));
    let port = node.port.map(|port| format!("port: {port}"));
    let host_key = node.host_key.as_ref().map(|key| format!("hostKey: {}", quote(key)));
    let identity = node
        .identity
        .as_ref()
        .map(|path| format!("identity: {}", quote(&path.display().to_string())));
    ShownNode {
        name: quote(&node.name),
        role: node.role.as_str(),
        address: quote(&node.address.to_string()),
        ssh: [user, port, host_key, identity].into_iter().flatten().collect(),
    }
}

/// JSON's quoting is YAML's double quoting; a plain word stays plain.
fn quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'.');
    let wordlike = text.bytes().all(plain) && text.starts_with(|c: char| c.is_ascii_lowercase());
    if wordlike && !matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off") {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_a_good_cluster_file() {
        let mut worker = TemplateNode::new("w1", "10.0.0.12".parse().expect("address"));
        worker.role = Role::Worker;
        worker.user = Some("ops: \"x\"".replace(' ', ""));
        worker.port = Some(2222);
        worker.host_key = Some(format!("SHA256:{}", "b".repeat(43)));
        worker.identity = Some("/home/ops/.ssh/id # 1".into());
        let first = TemplateNode::new("cp1", "10.0.0.11".parse().expect("address"));
        let text = template(&Template {
            name: "demo".to_owned(),
            profile: "cluster".to_owned(),
            nodes: vec![first, worker.clone()],
        });
        let cluster = super::super::parse(&text, "cluster.yaml").unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(cluster.nodes[1].ssh.user, worker.user);
        assert_eq!(cluster.nodes[1].ssh.port, Some(2222));
        assert_eq!(cluster.nodes[1].ssh.identity, worker.identity);
        assert_eq!((cluster.name.as_str(), cluster.profile.as_str()), ("demo", "cluster"));
    }

    #[test]
    fn without_nodes_the_file_says_what_to_fill_in() {
        let text = template(&Template {
            name: "demo".to_owned(),
            profile: "single".to_owned(),
            nodes: Vec::new(),
        });
        let problems = super::super::parse(&text, "cluster.yaml").expect_err("no node yet");
        assert_eq!(problems.list().len(), 1, "{problems}");
        assert_eq!(problems.list()[0].field, "spec.nodes[0].address");
    }
}
