use super::*;
use crate::host::fake::FakeHost;

/// Of a node 10.66.0.11 with pods in 10.244.0.0/24, as `/proc/net/nf_conntrack` shows it.
const RECORDED: &str = "\
ipv4     2 tcp      6 431999 ESTABLISHED src=10.66.0.1 dst=10.66.0.11 sport=51034 dport=22 src=10.66.0.11 dst=10.66.0.1 sport=22 dport=51034 [ASSURED] mark=0 zone=0 use=2
ipv4     2 tcp      6 86394 ESTABLISHED src=10.244.0.3 dst=10.96.0.1 sport=38640 dport=443 src=10.66.0.11 dst=10.244.0.3 sport=6443 dport=38640 [ASSURED] mark=0 zone=0 use=2
ipv4     2 udp      17 21 src=10.244.0.4 dst=10.96.0.10 sport=47112 dport=53 src=10.244.1.2 dst=10.244.0.4 sport=53 dport=47112 mark=0 zone=0 use=2
ipv4     2 icmp     1 29 src=10.66.0.11 dst=10.66.0.12 type=8 code=0 id=77 src=10.66.0.12 dst=10.66.0.11 type=0 code=0 id=77 mark=0 zone=0 use=2
ipv4     2 unknown  2 598 src=10.66.0.11 dst=224.0.0.22 [UNREPLIED] src=224.0.0.22 dst=10.66.0.11 mark=0 zone=0 use=2
ipv6     10 udp      17 28 src=fe80:0000:0000:0000:0042:acff:fe11:0002 dst=ff02:0000:0000:0000:0000:0000:0000:00fb sport=5353 dport=5353 [UNREPLIED] src=ff02:0000:0000:0000:0000:0000:0000:00fb dst=fe80:0000:0000:0000:0042:acff:fe11:0002 sport=5353 dport=5353 mark=0 zone=0 use=2
";

const OF_POD: &str = "ipv4     2 tcp      6 118 SYN_SENT src=10.244.0.9 dst=192.0.2.1 sport=40022 dport=80 [UNREPLIED] src=192.0.2.1 dst=10.66.0.11 sport=80 dport=40022 mark=0 zone=0 use=2\n";
const OF_NODE: &str = "ipv4     2 tcp      6 101 SYN_SENT src=10.66.0.11 dst=192.0.2.7 sport=45678 dport=443 [UNREPLIED] src=192.0.2.7 dst=10.66.0.11 sport=443 dport=45678 mark=0 zone=0 use=2\n";
const OF_DNS: &str = "ipv4     2 udp      17 12 src=10.244.0.3 dst=192.0.2.53 sport=40101 dport=53 [UNREPLIED] src=192.0.2.53 dst=10.66.0.11 sport=53 dport=40101 mark=0 zone=0 use=2\n";
const OF_NEIGHBOUR: &str = "ipv4     2 tcp      6 118 SYN_SENT src=10.66.0.99 dst=192.0.2.9 sport=4 dport=80 [UNREPLIED] src=192.0.2.9 dst=10.66.0.99 sport=80 dport=4 mark=0 zone=0 use=2\n";

fn asked() -> Asked {
    let range = |text: &str| text.parse::<Cidr>().unwrap();
    let pods = range("10.244.0.0/16");
    let inside = ["10.66.0.11/32", "10.66.0.12/32", "10.96.0.0/12"].map(range);
    let inside = inside.into_iter().chain([pods]).collect();
    Asked { node: "cp1".to_owned(), inside, pods: vec![pods] }
}

fn own() -> Known<Vec<Address>> {
    let address = |text: &str| Address {
        link: "eth0".to_owned(),
        address: text.to_owned(),
        mtu: 1500,
        mac: String::new(),
    };
    Known::Known(vec![address("10.66.0.11/24"), address("10.244.0.1/24")])
}

fn found(flows: &str, owner: &Owner) -> Result<String, String> {
    let asked = asked();
    let scope = Scope {
        asked: &asked,
        own: ["10.66.0.11", "10.244.0.1"].map(|text| text.parse().unwrap()).into(),
        name_servers: BTreeSet::from(["192.0.2.53".parse().unwrap()]),
    };
    let flows = parse_flows(flows).unwrap();
    let mut told = Told::default();
    for flow in &flows {
        scope.judge(flow, &mut told, &|_| owner.clone());
    }
    told.into_result(flows.len())
}

fn process(name: &str, in_pod: bool) -> Owner {
    Owner::Process { name: name.to_owned(), pid: 471, in_pod }
}

#[test]
fn what_stays_inside_and_what_others_began_is_nothing_to_tell() {
    assert_eq!(found(RECORDED, &Owner::Unknown).unwrap(), "6 flows looked at");
    let neighbour = format!("{RECORDED}{OF_NEIGHBOUR}");
    assert_eq!(found(&neighbour, &Owner::Unknown).unwrap(), "7 flows looked at");
}

#[test]
fn a_pod_that_reaches_outside_is_told_with_both_addresses_and_fails_the_proof() {
    let wrong = found(&format!("{RECORDED}{OF_POD}"), &Owner::Unknown).unwrap_err();
    assert_eq!(wrong, "pod 10.244.0.9 reached for 192.0.2.1:80/tcp");
}

#[test]
fn of_the_nodes_own_flows_only_those_of_the_cluster_fail_the_proof() {
    let flows = format!("{RECORDED}{OF_NODE}");
    for ours in ["kubelet", "containerd", "containerd-shim", "kdc-agent"] {
        let wrong = found(&flows, &process(ours, false)).unwrap_err();
        assert_eq!(wrong, format!("process {ours} (471) reached for 192.0.2.7:443/tcp"));
    }
    let wrong = found(&flows, &process("etcd", true)).unwrap_err();
    assert!(wrong.starts_with("pod process etcd (471)"), "{wrong}");
    for (other, words) in
        [(process("apt", false), "process apt"), (Owner::Unknown, "can't be told")]
    {
        let warned = found(&flows, &other).unwrap();
        assert!(warned.contains("; warning: ") && warned.contains(words), "{warned}");
    }
}

#[test]
fn an_answer_that_was_tracked_from_the_middle_on_is_of_whoever_asked() {
    let picked_up = "ipv4 2 tcp 6 300 ESTABLISHED src=10.66.0.11 dst=10.66.0.1 sport=22 dport=48818 \
                     src=10.66.0.1 dst=10.66.0.11 sport=48818 dport=22 [ASSURED] mark=0 use=1";
    assert_eq!(found(picked_up, &Owner::Peer).unwrap(), "1 flows looked at");
    assert!(found(picked_up, &Owner::Unknown).unwrap().contains("10.66.0.1:48818"));
}

#[test]
fn the_nodes_own_name_server_is_a_warning_and_another_ones_address_is_not() {
    let warned = found(OF_DNS, &Owner::Unknown).unwrap();
    assert!(warned.contains("name server 192.0.2.53:53/udp"), "{warned}");
    let other = OF_DNS.replace("192.0.2.53", "192.0.2.54");
    assert!(found(&other, &Owner::Unknown).unwrap_err().contains("192.0.2.54:53/udp"));
}

#[test]
fn a_table_reads_alike_from_proc_and_from_the_program_and_nonsense_is_no_table() {
    let from_program = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().skip(2).collect();
        words.join(" ")
    };
    let listed: Vec<String> = RECORDED.lines().map(from_program).collect();
    assert_eq!(parse_flows(&listed.join("\n")).unwrap(), parse_flows(RECORDED).unwrap());
    for nonsense in ["what", "tcp 6 118 SYN_SENT src=10.0.0.1", "tcp 6 src=x dst=10.0.0.1"] {
        assert!(parse_flows(nonsense).is_err(), "{nonsense}");
    }
}

#[test]
fn a_socket_is_found_by_both_its_ends_and_an_unconnected_one_by_its_own() {
    let sockets = "\
tcp   LISTEN   0 4096     0.0.0.0:45678   0.0.0.0:*    users:((\"x\",pid=1,fd=3))
tcp   ESTAB    0 0     10.66.0.11:45678 192.0.2.8:443 users:((\"y\",pid=2,fd=3))
tcp   SYN-SENT 0 1     10.66.0.11:45678 192.0.2.7:443 users:((\"containerd\",pid=3,fd=9),(\"z\",pid=4,fd=1))
udp   UNCONN   0 0        0.0.0.0:123     0.0.0.0:*    users:((\"chronyd\",pid=5,fd=5))
tcp   SYN-SENT 0 1 [::ffff:10.66.0.11]:900 [::ffff:192.0.2.7]:443 users:((\"kubelet\",pid=6,fd=5))
";
    let flow = |protocol: &str, from: u16, to: &str, port: u16| Flow {
        protocol: protocol.to_owned(),
        source: "10.66.0.11".parse().unwrap(),
        source_port: Some(from),
        destination: to.parse().unwrap(),
        port: Some(port),
    };
    for (flow, wanted) in [
        (flow("tcp", 45678, "192.0.2.7", 443), Some(("containerd", 3))),
        (flow("tcp", 45678, "192.0.2.6", 443), None),
        (flow("udp", 123, "192.0.2.6", 123), Some(("chronyd", 5))),
        (flow("tcp", 900, "192.0.2.7", 443), Some(("kubelet", 6))),
    ] {
        assert_eq!(owners::is_answer(sockets, &flow), flow.source_port == Some(45678), "{flow:?}");
        let found = owners::find(sockets, &flow);
        assert_eq!(found.as_ref().map(|(name, pid)| (&**name, *pid)), wanted, "{flow:?}");
    }
}

#[test]
fn where_connection_tracking_can_not_be_read_or_is_empty_nothing_is_proved() {
    let host = FakeHost::debian();
    let proof = prove(&host, &asked(), &own());
    assert!(!proof.holds && proof.detail.contains("could not look: "), "{proof:?}");
    host.plant(TABLE, "");
    let proof = prove(&host, &asked(), &own());
    assert!(!proof.holds && proof.detail.contains("not one flow"), "{proof:?}");
    let lost = Known::Unknown("no".to_owned());
    host.plant(TABLE, RECORDED);
    assert!(!prove(&host, &asked(), &lost).holds);
    let proof = prove(&host, &asked(), &own());
    assert!(proof.holds && proof.claim.contains("cp1"), "{proof:?}");
    // The counters are no reason to fail, and never silently left out.
    assert!(proof.detail.contains("could not look at the no-route counters"), "{proof:?}");
    host.plant(TABLE, &format!("{RECORDED}{OF_POD}"));
    assert!(!prove(&host, &asked(), &own()).holds);
}
