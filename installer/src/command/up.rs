//! `up`: a cluster without a cluster file.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_agent::facts::Facts;
use kdc_profiles::{
    cluster::{self, Cluster, Network, Role, Settings, Ssh, Template},
    problem::LoadError,
};

use super::{
    CommandError,
    arguments::{InstallArguments, PaceArguments, cluster_name},
    carry_out::{Wishes, carry_out},
    hosts::{Host, node_name},
    interrupt::until_ctrl_c,
    opened::Opened,
    report::write_private,
    site::{Site, close_all, links, look as look_at, open_all},
};
use crate::show::{Complaint, Exit, Look, Screen};

/// Make a cluster of this machine, or of the hosts named, without a cluster file
///
/// Without --host it is this very machine, without SSH. With --host the first one becomes the
/// control plane and the others workers. `up` is `apply` with a cluster file made for you and kept
/// beside the kubeconfig: use it with the other commands, with `--local` for this machine.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  sudo kdc-install up --bundle kdc.bundle\n  \
    kdc-install up --bundle kdc.bundle --host root@10.0.0.11 --host root@10.0.0.12")]
pub(crate) struct Up {
    /// A server, `[user@]address[:port]`; repeat it for more. The first is the control plane
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Name of the cluster
    #[arg(long, default_value = "kdc", value_name = "NAME", value_parser = cluster_name)]
    pub(crate) name: String,
    /// Where to keep the cluster file that stands for this cluster [default: ./NAME.cluster.yaml]
    #[arg(long, value_name = "FILE")]
    pub(crate) write_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pace: PaceArguments,
    #[command(flatten)]
    pub(crate) install: InstallArguments,
}

impl Up {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let hosts =
            self.hosts.iter().map(|text| Host::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let screen = Arc::new(Screen::new(look, hosts.len().max(1), true));
        let opened = Opened::needed_by("up", &self.install.bundle, &screen).await?;
        let looking = self.cluster_file(&hosts, &opened, &screen);
        let text = until_ctrl_c(|| false, looking).await?;
        let usual = || PathBuf::from(format!("{}.cluster.yaml", self.name));
        let path = self.write_file.clone().unwrap_or_else(usual);
        let cluster = cluster::parse(&text, &path.display().to_string())
            .map_err(|problems| CommandError::Load(LoadError::Invalid(problems)))?;
        write_private(&path, text.as_bytes(), 0o644)?;
        let local = if hosts.is_empty() { " --local" } else { "" };
        let path = path.display();
        screen.say(&format!("cluster file: {path}; undo with: kdc-install undo{local} -f {path}"));
        let site = Site::of(cluster, Path::new("."), hosts.is_empty())?;
        let parallel = site.parallel(self.pace.parallel);
        let wishes = Wishes { command: "up", arguments: &self.install, parallel, saved: None };
        carry_out(&site, &opened, &wishes, &screen).await
    }

    /// Ask the hosts for their names, and this machine for its address, and write it all down.
    async fn cluster_file(
        &self,
        hosts: &[Host],
        opened: &Opened,
        screen: &Arc<Screen>,
    ) -> Result<String, Complaint> {
        let is_local = hosts.is_empty();
        let this = Host { user: None, address: IpAddr::from([127, 0, 0, 1]), port: None };
        let mut hosts = if is_local { vec![this] } else { hosts.to_vec() };
        let unnamed = unnamed(&self.name, &hosts);
        let parallel = usize::from(self.pace.parallel.unwrap_or(50));
        let links = links(&unnamed, is_local, &opened.agent()?, screen, screen.as_ref())?;
        open_all(&links, parallel, screen).await?;
        let seen = look_at(&links, parallel).await?;
        close_all(&links, parallel).await;
        let facts: Vec<&Facts> =
            unnamed.nodes.iter().filter_map(|node| seen.facts.get(&node.name)).collect();
        if is_local && let (Some(host), Some(facts)) = (hosts.first_mut(), facts.first()) {
            host.address = own_address(facts)?;
        }
        let nodes = hosts.iter().zip(&facts).enumerate().map(|(place, (host, facts))| {
            let role = role_of(place);
            host.template(&node_name(&facts.hostname), role)
        });
        let profile = if hosts.len() == 1 { "single" } else { "cluster" }.to_owned();
        let nodes = nodes.collect();
        Ok(cluster::template(&Template { name: self.name.clone(), profile, nodes }))
    }
}

/// The first host is the control plane.
fn role_of(place: usize) -> Role {
    if place == 0 { Role::ControlPlane } else { Role::Worker }
}

/// The hosts as a cluster that is only good for looking at them.
fn unnamed(name: &str, hosts: &[Host]) -> Cluster {
    let node = |(place, host): (usize, &Host)| host.node(host.address.to_string(), role_of(place));
    let nothing = String::new;
    Cluster {
        name: name.to_owned(),
        profile: nothing(),
        distribution: nothing(),
        nodes: hosts.iter().enumerate().map(node).collect(),
        ssh: Ssh::default(),
        network: Network {
            pod_cidr: nothing(),
            service_cidr: nothing(),
            cni: nothing(),
            control_plane_endpoint: nothing(),
            cluster_domain: nothing(),
        },
        settings: Settings::default(),
        self_healing: None,
        license: None,
    }
}

/// The address this machine is reached by: on the link with the default route, else the first.
fn own_address(facts: &Facts) -> Result<IpAddr, Complaint> {
    let routes = facts.default_routes.value().cloned().unwrap_or_default();
    let addresses = facts.addresses.value().cloned().unwrap_or_default();
    let usable = |text: &str| {
        let address: IpAddr = text.split('/').next()?.parse().ok()?;
        let far = match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(_) => false,
        };
        far.then_some(address)
    };
    let on_route = addresses.iter().filter(|address| routes.contains(&address.link));
    on_route.chain(&addresses).find_map(|address| usable(&address.address)).ok_or_else(|| {
        Complaint::new(
            "KDC-026",
            Exit::Refused,
            "this machine has no IPv4 address to be reached by",
        )
        .hint("give its link an address, or name the host: `--host ADDRESS`")
    })
}

#[cfg(test)]
mod tests {
    use kdc_agent::facts::{Address, Known};

    use super::*;

    #[test]
    fn the_own_address_is_one_that_others_reach_and_having_none_is_said() {
        let on = |link: &str, address: &str| Address {
            link: link.to_owned(),
            address: address.to_owned(),
            mtu: 1500,
            mac: String::new(),
        };
        let mut facts = crate::plan::samples::facts_of("me", IpAddr::from([10, 0, 0, 1]));
        facts.addresses = Known::Known(vec![
            on("lo", "127.0.0.1/8"),
            on("eth0", "169.254.1.1/16"),
            on("eth1", "192.0.2.1/24"),
            on("eth2", "192.0.2.130/25"),
        ]);
        assert_eq!(own_address(&facts).unwrap(), IpAddr::from([192, 0, 2, 1]));
        facts.default_routes = Known::Known(vec!["eth2".to_owned()]);
        assert_eq!(own_address(&facts).unwrap(), IpAddr::from([192, 0, 2, 130]));
        for addresses in [vec![], vec![on("lo", "127.0.0.1/8"), on("eth0", "fe80::1/64")]] {
            facts.addresses = Known::Known(addresses);
            let complaint = own_address(&facts).unwrap_err();
            assert_eq!((&*complaint.code, complaint.exit), ("KDC-026", Exit::Refused));
            assert!(complaint.hint.is_some());
        }
    }
}
