//! Starting and ending the unit that shares. It outlives the session, and the installer.

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

use kdc_bundles::index::Digest;

use super::{
    Folder, PeerError,
    folder::{Status, Wanted},
    identity::Identity,
};
use crate::{
    host::{Host, Program},
    wire::Peer,
};

/// Name of the unit.
pub const UNIT_NAME: &str = "kdc-share.service";

/// How long the unit may take until it listens.
const LISTEN_SECS: u64 = 30;

/// Between two looks whether it does.
const POLL: Duration = Duration::from_millis(50);

/// Begin to share the content of an index this node has verified, and to fetch these blobs: answers
/// with the port the node listens on and the certificate it shows. A unit that does just that goes on
/// as it is; one that shares something else is ended.
///
/// # Errors
/// When no identity can be made, or the unit does not come up.
pub fn begin(
    host: &dyn Host,
    folder: &Folder,
    agent: &Path,
    index: &Digest,
    blobs: &[Digest],
) -> Result<(u16, Digest), PeerError> {
    let wanted = wanted(index, blobs);
    // What a power cut or another version left counts as nothing.
    let former = folder.wanted().unwrap_or_default();
    if former.as_ref() == Some(&wanted)
        && folder.is_live()?
        && let Some(Status { port, certificate }) = folder.status()?
    {
        return Ok((port, certificate));
    }
    leave(host)?;
    let own = prepare(folder, index, blobs)?;
    host.run_checked(&unit(agent))?;
    let mut waited = Duration::ZERO;
    loop {
        if let Some(Status { port, certificate }) = folder.status()?
            && certificate == own
        {
            return Ok((port, certificate));
        }
        if waited.as_secs() >= LISTEN_SECS {
            return Err(PeerError::NotListening { unit: UNIT_NAME, seconds: LISTEN_SECS });
        }
        host.sleep(POLL);
        waited += POLL;
    }
}

/// Lay out the folder for a process that shares: answers with the certificate it will show. An index
/// that was shared before keeps its identity, and with it the peers that know it.
///
/// # Errors
/// When no identity can be made or a file can't be written.
pub fn prepare(folder: &Folder, index: &Digest, blobs: &[Digest]) -> Result<Digest, PeerError> {
    folder.create()?;
    let former = folder.wanted().unwrap_or_default();
    let same_index = former.is_some_and(|former| former.index == *index);
    let kept = if same_index { Identity::load(folder).unwrap_or_default() } else { None };
    let identity = match kept {
        Some(identity) => identity,
        None => {
            folder.forget_peers()?;
            let made = Identity::make()?;
            made.save(folder)?;
            made
        }
    };
    folder.save_wanted(&wanted(index, blobs))?;
    folder.forget_status()?;
    Ok(identity.digest().clone())
}

fn wanted(index: &Digest, blobs: &[Digest]) -> Wanted {
    let blobs: BTreeSet<Digest> = blobs.iter().cloned().collect();
    Wanted { index: index.clone(), blobs: blobs.into_iter().collect() }
}

/// It is killed and comes back; it faces the network, so it may do no more than it must.
fn unit(agent: &Path) -> Program {
    Program::new("systemd-run")
        .arg(format!("--unit={UNIT_NAME}"))
        .arg("--description=kdc shares the bundle with other nodes")
        .args(["--quiet", "--collect", "--no-ask-password"])
        .args(["--property=Type=exec", "--property=Restart=on-failure", "--property=RestartSec=1"])
        .args(["--property=TimeoutStopSec=5s", "--property=StandardInput=null"])
        .args(["--property=StandardOutput=journal", "--property=StandardError=journal"])
        .args(["--property=UMask=0077", "--property=LimitNOFILE=4096"])
        .args(["--property=ProtectSystem=strict", "--property=ReadWritePaths=/var/lib/kdc"])
        .args(["--property=NoNewPrivileges=yes", "--property=CapabilityBoundingSet="])
        .args(["--property=ProtectHome=read-only", "--property=LockPersonality=yes"])
        .args(["--property=RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"])
        .arg("--")
        .arg(agent.to_string_lossy())
        .arg("share")
}

/// Tell the unit who else shares.
///
/// # Errors
/// When this node does not share, or the list breaks a rule.
pub fn introduce(folder: &Folder, peers: &[Peer]) -> Result<(), PeerError> {
    if folder.wanted()?.is_none() {
        return Err(PeerError::NotSharing);
    }
    for Peer { name, address, port, .. } in peers {
        let nowhere = match address {
            IpAddr::V4(address) => address.is_unspecified() || address.is_multicast(),
            IpAddr::V6(address) => address.is_unspecified() || address.is_multicast(),
        };
        if nowhere || *port == 0 {
            let reason = format!("`{name}` can't be at {address} port {port}");
            return Err(PeerError::Peers { reason });
        }
    }
    folder.save_peers(peers)
}

/// End the unit. What it fetched stays, and so does the folder. That there is none is no error.
///
/// # Errors
/// When systemd can't be asked.
pub fn leave(host: &dyn Host) -> Result<(), PeerError> {
    // Ends with an error where no such unit is loaded.
    match host.run(&Program::new("systemctl").args(["stop", UNIT_NAME])) {
        Err(error) if error.is_missing_program() => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// End the unit, where there may be one.
///
/// # Errors
/// When systemd can't be asked.
pub fn stop(host: &dyn Host, folder: &Folder) -> Result<(), PeerError> {
    if folder.exists() { leave(host) } else { Ok(()) }
}

/// End the unit and remove all that sharing left on the node, but for the store.
///
/// # Errors
/// When systemd can't be asked, or a file can't be removed.
pub fn end(host: &dyn Host, folder: &Folder) -> Result<(), PeerError> {
    stop(host, folder)?;
    Ok(folder.remove()?)
}
