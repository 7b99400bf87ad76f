//! `/proc/net`: links, protocols, sockets, and packets that a processor had no time for.

use super::{Sample, Source};
use crate::api::page::{Kind, Page};

/// The columns of `/proc/net/dev` after a link's name.
const COLUMNS: [&str; 16] = [
    "receive_bytes",
    "receive_packets",
    "receive_errs",
    "receive_drop",
    "receive_fifo",
    "receive_frame",
    "receive_compressed",
    "receive_multicast",
    "transmit_bytes",
    "transmit_packets",
    "transmit_errs",
    "transmit_drop",
    "transmit_fifo",
    "transmit_colls",
    "transmit_carrier",
    "transmit_compressed",
];

/// Counters of every link.
pub(super) fn links(page: &mut Page, sample: &Sample) {
    let rows: Vec<(&str, [u64; 16])> = sample
        .text(Source::Links)
        .lines()
        .filter_map(|line| {
            let (device, rest) = line.split_once(':')?;
            let mut numbers = [0; 16];
            let mut found = super::numbers(rest);
            for number in &mut numbers {
                *number = found.next()?;
            }
            Some((device.trim_start(), numbers))
        })
        .collect();
    for (column, name) in COLUMNS.iter().enumerate() {
        let help = format!("Network device statistic {name}.");
        page.family(&format!("node_network_{name}_total"), Kind::Counter, &help);
        for (device, numbers) in &rows {
            page.sample(&[("device", device)], numbers[column]);
        }
    }
}

/// Whether a field is one of those that are told: those that say of trouble or of traffic.
fn is_told(protocol: &str, field: &str) -> bool {
    if field.ends_with("InErrors") || field.ends_with("InErrs") {
        return true;
    }
    match protocol {
        "Ip" => field == "Forwarding",
        "Ip6" | "IpExt" => matches!(field, "InOctets" | "OutOctets"),
        "Icmp" | "Icmp6" => matches!(field, "InMsgs" | "OutMsgs"),
        "TcpExt" => {
            field.starts_with("Listen")
                || field.starts_with("Syncookies")
                || matches!(field, "TCPSynRetrans" | "TCPTimeouts")
        }
        "Tcp" => matches!(
            field,
            "ActiveOpens"
                | "InSegs"
                | "OutSegs"
                | "OutRsts"
                | "PassiveOpens"
                | "RetransSegs"
                | "CurrEstab"
        ),
        "Udp" | "Udp6" => matches!(
            field,
            "InDatagrams" | "OutDatagrams" | "NoPorts" | "RcvbufErrors" | "SndbufErrors"
        ),
        _ => false,
    }
}

/// What the protocols counted: pairs of lines in two files, a field a line in the third.
pub(super) fn protocols(page: &mut Page, sample: &Sample) {
    let mut tell = |protocol: &str, field: &str, number: &str| {
        if let Some(number) = number.parse::<u64>().ok().filter(|_| is_told(protocol, field)) {
            let help = format!("Statistic {protocol}{field}.");
            page.single(&format!("node_netstat_{protocol}_{field}"), Kind::Unknown, &help, number);
        }
    };
    for source in [Source::Netstat, Source::Snmp] {
        let mut lines = sample.text(source).lines();
        while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
            let (Some((protocol, names)), Some((_, numbers))) =
                (names.split_once(':'), numbers.split_once(':'))
            else {
                continue;
            };
            let pairs = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
            pairs.for_each(|(field, number)| tell(protocol, field, number));
        }
    }
    for line in sample.text(Source::Snmp6).lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(number)) = (words.next(), words.next()) else { continue };
        // `Ip6InOctets`, but also `UdpLite6InErrors`.
        if let Some(end) = name.find('6') {
            let (protocol, field) = name.split_at(end + 1);
            tell(protocol, field, number);
        }
    }
}

/// Sockets in use.
pub(super) fn sockets(page: &mut Page, sample: &Sample) {
    for source in [Source::Sockets, Source::Sockets6] {
        for line in sample.text(source).lines() {
            let Some((protocol, rest)) = line.split_once(':') else { continue };
            let mut words = rest.split_ascii_whitespace();
            while let (Some(field), Some(number)) = (words.next(), words.next()) {
                let Ok(number) = number.parse::<u64>() else { continue };
                let name = format!("node_sockstat_{protocol}_{field}");
                let help = format!("Number of {protocol} sockets in state {field}.");
                page.single(&name, Kind::Gauge, &help, number);
                if field == "mem" {
                    let bytes = number.saturating_mul(sample.page_bytes());
                    page.single(&format!("{name}_bytes"), Kind::Gauge, &help, bytes);
                }
            }
        }
    }
}

/// Packets by the processor that took them in.
pub(super) fn softnet(page: &mut Page, sample: &Sample) {
    let rows: Vec<(String, Vec<u64>)> = sample
        .text(Source::Softnet)
        .lines()
        .enumerate()
        .map(|(place, line)| {
            let words = line.split_ascii_whitespace();
            let numbers: Vec<u64> =
                words.map_while(|word| u64::from_str_radix(word, 16).ok()).collect();
            // Newer kernels name the processor, since one that is off has no line.
            (numbers.get(12).map_or(place as u64, |cpu| *cpu).to_string(), numbers)
        })
        .collect();
    for (column, name, help) in [
        (0, "processed", "Number of processed packets."),
        (1, "dropped", "Number of dropped packets."),
        (2, "times_squeezed", "Number of times processing packets ran out of quota."),
    ] {
        page.family(&format!("node_softnet_{name}_total"), Kind::Counter, help);
        for (cpu, numbers) in &rows {
            if let Some(number) = numbers.get(column) {
                page.sample(&[("cpu", cpu)], *number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::collect::tests::page_of;

    #[test]
    fn links_protocols_and_sockets_have_the_names_that_people_know() {
        let page = page_of(&[
            (
                Source::Links,
                "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                 wlan:x 1\nbond0.7:21 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
            ),
            (Source::Netstat, "TcpExt: SyncookiesSent Other ListenDrops\nTcpExt: 5 6 7\n"),
            (
                Source::Snmp,
                "Ip: Forwarding DefaultTTL\nIp: 2 64\nTcp: MaxConn CurrEstab\nTcp: -1 3\n",
            ),
            (Source::Snmp6, "Ip6InOctets\t512\nUdpLite6InErrors 1\nIp6OutRequests 9\n"),
            (Source::Sockets, "sockets: used 28\nTCP: inuse 1 orphan 0 mem 3\n"),
            (Source::Softnet, "0a 01 02 0 0 0 0 0 0 0 0 0 00000003 0 0\n"),
        ]);
        for line in [
            "node_network_receive_bytes_total{device=\"lo\"} 1",
            "node_network_transmit_compressed_total{device=\"bond0.7\"} 16",
            "node_netstat_TcpExt_ListenDrops 7",
            "node_netstat_Ip_Forwarding 2",
            "node_netstat_Tcp_CurrEstab 3",
            "node_netstat_Ip6_InOctets 512",
            "node_netstat_UdpLite6_InErrors 1",
            "node_sockstat_sockets_used 28",
            "node_sockstat_TCP_mem_bytes 12288",
            "node_softnet_processed_total{cpu=\"3\"} 10",
            "node_softnet_times_squeezed_total{cpu=\"3\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        for absent in ["Other", "DefaultTTL", "MaxConn", "Ip6_OutRequests", "wlan"] {
            assert!(!page.contains(absent), "{absent} in\n{page}");
        }
    }
}
