//! Links, addresses, routes and listening ports, from `/proc/net` and `/sys/class/net`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Address, Known, look::Look};

/// `RTF_UP` (linux/route.h).
const ROUTE_UP: u32 = 0x1;
/// `RTF_REJECT`: an unreachable route is no way out.
const ROUTE_REJECT: u32 = 0x200;

/// Addresses of this machine; MTU and MAC are looked up per link.
pub(super) fn probe_addresses(look: &Look) -> Known<Vec<Address>> {
    let listed = match nix::ifaddrs::getifaddrs() {
        Ok(listed) => listed,
        Err(cause) => return Known::Unknown(format!("getifaddrs: {cause}")),
    };
    let mut addresses: Vec<Address> = listed
        .filter_map(|found| {
            let address = ip_of(found.address.as_ref()?)?;
            let mask = found.netmask.as_ref().and_then(ip_of).map_or(0, prefix_length);
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            (!address.is_loopback() && !link_local).then_some((found.interface_name, address, mask))
        })
        .map(|(link, address, prefix)| describe(look, link, address, prefix))
        .collect();
    addresses
        .sort_by(|left, right| (&left.link, &left.address).cmp(&(&right.link, &right.address)));
    Known::Known(addresses)
}

fn describe(look: &Look, link: String, address: IpAddr, prefix: u32) -> Address {
    let read = |name: &str| look.text(&format!("/sys/class/net/{link}/{name}")).unwrap_or_default();
    Address {
        address: format!("{address}/{prefix}"),
        mtu: read("mtu").trim().parse().unwrap_or(0),
        mac: read("address").trim().to_owned(),
        link,
    }
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

fn prefix_length(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    }
}

/// Links with an IPv4 default route, best metric first.
pub(super) fn probe_default_routes(look: &Look) -> Known<Vec<String>> {
    look.parsed("/proc/net/route", parse_default_routes)
}

fn parse_default_routes(text: &str) -> Result<Vec<String>, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [link, destination, _, flags, _, _, metric, mask, ..] = fields[..] else {
            return Err(format!("/proc/net/route has a line `{line}`"));
        };
        let flags = u32::from_str_radix(flags, 16).map_err(|cause| cause.to_string())?;
        let way_out = flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0;
        if way_out && destination == "00000000" && mask == "00000000" {
            found.entry((metric.parse::<u32>().unwrap_or(0), link.to_owned())).or_insert(());
        }
    }
    let mut links: Vec<String> = found.into_keys().map(|(_, link)| link).collect();
    links.dedup();
    Ok(links)
}

/// Ports something listens on, both families: `6443/tcp`.
pub(super) fn probe_listening(look: &Look) -> Known<BTreeSet<String>> {
    let mut ports = BTreeSet::new();
    // (file, protocol, state that means listening: TCP_LISTEN, and an unconnected UDP socket)
    let tables =
        [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")];
    for (file, protocol, state) in tables {
        let path = format!("/proc/net/{file}");
        // A kernel without IPv6 has no `tcp6`; nothing can listen there then.
        if file.ends_with('6') && !look.exists(&path) {
            continue;
        }
        match look.text(&path) {
            Ok(text) => {
                ports.extend(parse_sockets(&text, state).map(|port| format!("{port}/{protocol}")))
            }
            Err(reason) => return Known::Unknown(reason),
        }
    }
    Known::Known(ports)
}

fn parse_sockets(text: &str, state: &str) -> impl Iterator<Item = u16> {
    text.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _, found) = (fields.next()?, fields.next()?, fields.next()?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (found == state).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    fn default_routes_come_best_first_and_unreachable_ones_do_not_count() {
        let text = format!(
            "{HEAD}eth1\t00000000\t0102A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
             eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             *\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        );
        assert_eq!(parse_default_routes(&text).unwrap(), ["eth0", "eth1"]);
        assert!(parse_default_routes(HEAD).unwrap().is_empty());
        assert!(parse_default_routes(&format!("{HEAD}what\n")).is_err());
    }

    #[test]
    fn only_listening_sockets_count() {
        let text = "  sl  local_address rem_address st\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:0016 0100007F:9C40 01 00000000:00000000\n\
            2: 00000000000000000000000000000000:192B 00:0000 0A 0\n";
        assert_eq!(parse_sockets(text, "0A").collect::<Vec<_>>(), [8080, 6443]);
    }
}
