//! The network between: a jump host, what is no SSH server, what swallows packets.

use std::{io, sync::Arc, time::Duration};

use kdc_install::ssh::{Keyring, Reach, Silent, Trust};
use kdc_tests::sshd::{Options, Sshd};

use crate::{reach, refused, sshd, target, target_with, works};

#[tokio::test]
async fn one_jump_host_is_gone_through_and_has_its_own_host_key_check() {
    let (jump, node) = (sshd(), sshd());
    let keyring = || Keyring::with_agent(Arc::new(Silent), None);
    let through = target_with(reach(&node), Some(reach(&jump)), keyring());
    works(&through).await;
    works(&through).await;
    assert_eq!(jump.logins().unwrap().len(), 1, "both sessions share one connection to it");
    let unknown = Reach { trust: Trust::default(), ..reach(&jump) };
    let said = refused(&target_with(reach(&node), Some(unknown), keyring()), "SSH-010").await;
    assert!(said.contains("jump for w1"), "{said}");
    let closed = Reach { port: 1, ..reach(&node) };
    let said = refused(&target_with(closed, Some(reach(&jump)), keyring()), "SSH-023").await;
    assert!(said.contains("connection from there failed"), "{said}");
    let config = vec!["AllowTcpForwarding no".to_owned()];
    let strict = Sshd::start(&Options { config, ..Options::default() }).unwrap();
    let said =
        refused(&target_with(reach(&node), Some(reach(&strict)), keyring()), "SSH-023").await;
    assert!(said.contains("forbidden"), "{said}");
}

#[tokio::test]
async fn what_is_no_ssh_server_is_told_apart() {
    use std::{io::Write as _, net::TcpListener};
    let server = sshd();
    let closed = Reach { port: 1, ..reach(&server) };
    refused(&target(closed), "SSH-005").await;
    for (banner, code, part) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-007", "HTTP/1.1 400"),
        ("Exceeded MaxStartups\r\n", "SSH-040", "too many logins"),
        ("", "SSH-040", "hung up"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(banner.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            io::Read::read_to_end(&mut stream, &mut rest).ok();
        });
        let said = refused(&target(Reach { port, ..reach(&server) }), code).await;
        assert!(said.contains(part), "{said}");
        answering.join().unwrap();
    }
}

#[tokio::test]
async fn an_address_that_swallows_packets_is_a_timeout() {
    use nix::sys::socket;
    let server = sshd();
    let flags = socket::SockFlag::empty();
    let kind = socket::SockType::Stream;
    let listening = socket::socket(socket::AddressFamily::Inet, kind, flags, None).unwrap();
    let bound = std::os::fd::AsRawFd::as_raw_fd(&listening);
    socket::bind(bound, &socket::SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    socket::listen(&listening, socket::Backlog::new(0).unwrap()).unwrap();
    let port = socket::getsockname::<socket::SockaddrIn>(bound).unwrap().port();
    // The queue takes one or two; then the kernel drops what comes.
    let limit = Duration::from_millis(100);
    let address = ([127, 0, 0, 1], port).into();
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, limit) {
        held.push(stream);
    }
    refused(&target(Reach { port, ..reach(&server) }), "SSH-006").await;
}
