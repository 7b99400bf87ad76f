//! `ConfigureHostRoutes`: pod addresses from this node's own range, and routes to the peers'.
//!
//! This step writes two files: CNI's configuration for containerd, and `routes.json` for
//! `kdc-agent.service`, which keeps the routes. Undo takes the files, the routes, the bridge and the
//! addresses handed out.

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    firewall::{self, Rules},
    snapshot::{PathState, look, put_file, restore, restore_owned_directory},
    systemd::{look_at, systemctl},
};
use crate::{
    daemon,
    host::{Host, HostError, Program},
};

/// CNI's configuration; the number puts it before others.
const CNI_CONF: &str = "/etc/cni/net.d/10-kdc.conflist";

/// What `kdc-agent.service` keeps.
const ROUTES: &str = "/etc/kdc/routes.json";

/// Addresses that host-local handed out.
const LEASES: &str = "/var/lib/cni/networks/kdc";

/// The bridge all pods of a node hang on.
pub(crate) const BRIDGE: &str = "cni0";

/// This node's part of the pod network.
pub(crate) struct ConfigureHostRoutes<'a> {
    pub(crate) pod_cidr: &'a str,
    pub(crate) cluster_cidr: &'a str,
    pub(crate) service_cidr: &'a str,
    pub(crate) peers: &'a BTreeMap<String, String>,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    cni: PathState,
    routes: PathState,
    leases: PathState,
    bridge: bool,
    rules: Rules,
}

/// A link of this name exists.
pub(crate) fn link_exists(host: &dyn Host, name: &str) -> Result<bool, HostError> {
    Ok(host.stat(&format!("/sys/class/net/{name}"))?.is_some())
}

/// Remove a link that was not there before.
pub(crate) fn remove_link(host: &dyn Host, name: &str) -> Result<(), StepError> {
    if link_exists(host, name)? {
        host.run_checked(&Program::new("ip").args(["link", "delete", "dev", name]))?;
    }
    Ok(())
}

impl ConfigureHostRoutes<'_> {
    fn cni(&self) -> String {
        let conf = serde_json::json!({
            "cniVersion": "0.4.0",
            "name": "kdc",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": true,
                    "ipMasq": false,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.pod_cidr}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            ],
        });
        format!("{conf:#}\n")
    }

    fn routes(&self) -> String {
        let routes = serde_json::json!({
            "podCidr": self.pod_cidr,
            "clusterCidr": self.cluster_cidr,
            "serviceCidr": self.service_cidr,
            "peers": self.peers,
        });
        format!("{routes:#}\n")
    }
}

impl Change for ConfigureHostRoutes<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        Ok(Before {
            cni: look(context, CNI_CONF)?,
            routes: look(context, ROUTES)?,
            leases: look(context, LEASES)?,
            bridge: link_exists(context.host, BRIDGE)?,
            rules: firewall::look(context.host)?,
        })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.cni.is_file(&Digest::of(self.cni().as_bytes()), 0o644)
            && before.routes.is_file(&Digest::of(self.routes().as_bytes()), 0o644)
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        put_file(context.host, ROUTES, &mut self.routes().as_bytes(), 0o644)?;
        put_file(context.host, CNI_CONF, &mut self.cni().as_bytes(), 0o644)?;
        if look_at(context.host, daemon::UNIT_NAME)?.active {
            // At once, and not only in its next round; where it fails that does it.
            context.host.run(&systemctl(["reload", "--", daemon::UNIT_NAME]))?;
        }
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        restore(context, CNI_CONF, &before.cni)?;
        restore(context, ROUTES, &before.routes)?;
        if look_at(host, daemon::UNIT_NAME)?.active {
            // A round that still knows the file may be under way; where none is, this fails.
            host.run(&systemctl(["stop", "--", daemon::settle::ROUTES_UNIT_NAME]))?;
            // It may be about to begin one that still knows the file. One that does not start
            // again is none that could be in our way.
            host.run(&systemctl(["restart", "--", daemon::UNIT_NAME]))?;
        }
        // Without the file the daemon's own round takes away the routes and rules it has on record.
        daemon::settle(host).map_err(|error| StepError::Refused {
            what: error.to_string(),
            hint: "remove the routes to the peers' pod ranges by hand".to_owned(),
        })?;
        if !before.bridge {
            remove_link(host, BRIDGE)?;
        }
        if before.leases.is_missing() {
            restore_owned_directory(context, LEASES, &before.leases)?;
        }
        firewall::restore(context, &before.rules)
    }

    fn summary(&self) -> String {
        format!("set up pod range {} and routes to {} peers", self.pod_cidr, self.peers.len())
    }

    fn detail(&self, before: &Before) -> String {
        format!("{}, {}", before.cni.write_detail(CNI_CONF), before.routes.write_detail(ROUTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_name_this_nodes_range() {
        let peers = BTreeMap::from([("10.66.0.12".to_owned(), "10.244.1.0/24".to_owned())]);
        let step = ConfigureHostRoutes {
            pod_cidr: "10.244.0.0/24",
            cluster_cidr: "10.244.0.0/16",
            service_cidr: "10.96.0.0/12",
            peers: &peers,
        };
        let cni: serde_json::Value = serde_json::from_str(&step.cni()).unwrap();
        let subnet = cni.pointer("/plugins/0/ipam/ranges/0/0/subnet").unwrap();
        assert_eq!(subnet, "10.244.0.0/24");
        let routes: serde_json::Value = serde_json::from_str(&step.routes()).unwrap();
        assert_eq!(routes.pointer("/peers/10.66.0.12").unwrap(), "10.244.1.0/24");
    }
}
