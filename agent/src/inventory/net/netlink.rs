//! Questions to the kernel over rtnetlink: the tables that `ip` shows, whole, in one answer each.
//!
//! Addresses with their prefixes, all routes and the permanent MAC are in no file. A message is a header
//! of 16 bytes, a fixed part that depends on the kind, then attributes (length, type, value, padded to 4).
//! All numbers are in the machine's order.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

use crate::inventory::{Found, sight::Sight};

/// Most bytes of one table: about 100 000 routes.
const MAX_TABLE_BYTES: usize = 16 * 1024 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A table, by the numbers of its request and its entries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    Links,
    Addresses,
    Routes,
}

impl Table {
    fn request(self) -> u16 {
        match self {
            Self::Links => 18,
            Self::Addresses => 22,
            Self::Routes => 26,
        }
    }

    /// Bytes before the attributes.
    fn fixed(self) -> usize {
        match self {
            Self::Links => 16,
            Self::Addresses => 8,
            Self::Routes => 12,
        }
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Links => ("netlink-links", "netlink RTM_GETLINK"),
            Self::Addresses => ("netlink-addresses", "netlink RTM_GETADDR"),
            Self::Routes => ("netlink-routes", "netlink RTM_GETROUTE"),
        }
    }
}

/// One entry of a table.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) fixed: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The value of an attribute.
    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        attribute(self.attributes, kind)
    }

    /// An attribute that is a 32-bit number.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(number)
    }

    /// An attribute that is text.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(crate::inventory::sight::clean)
    }
}

/// A number of four bytes.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The value of one attribute among several; nested ones are read the same way.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// The highest bits tell of nesting and byte order.
    const KIND: u16 = 0x3fff;
    let mut rest = bytes;
    while let (Some(length), Some(kind)) = (short(rest, 0), short(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        if kind & KIND == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// A whole table as the kernel gave it.
pub(super) fn ask(sight: &Sight, table: Table) -> Found<Vec<u8>> {
    let (name, source) = table.names();
    sight.answer(name, source, || dump(table).map_err(|cause| cause.to_string()))
}

/// The entries of a table.
pub(super) fn entries(table: Table, bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let length = usize::try_from(number(rest)?).ok()?;
            let kind = short(rest, 4)?;
            let message = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            // Entries carry the number of "new", two below that of "get".
            if kind == table.request() - 2
                && let Some((fixed, attributes)) = message.split_at_checked(table.fixed())
            {
                return Some(Entry { fixed, attributes });
            }
        }
    })
}

fn dump(table: Table) -> nix::Result<Vec<u8>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let limit = TimeVal::new(ANSWER_LIMIT.as_secs().try_into().unwrap_or(2), 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    sendto(socket.as_raw_fd(), &request(table), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    receive(&socket)
}

fn request(table: Table) -> Vec<u8> {
    /// `NLM_F_REQUEST | NLM_F_DUMP`.
    const DUMP: u16 = 0x301;
    let length = HEADER + table.fixed();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(table.request().to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    // Sequence and sender: one question a socket needs neither.
    message.resize(length, 0);
    message
}

fn receive(socket: &OwnedFd) -> nix::Result<Vec<u8>> {
    let mut table = Vec::new();
    // The kernel never sends more than 32 KiB at once.
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let got = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        match end_of(&buffer[..got]) {
            Some(Ok(())) => {
                table.extend_from_slice(&buffer[..got]);
                return Ok(table);
            }
            Some(Err(errno)) => return Err(errno),
            None if got == 0 => return Err(nix::Error::ECONNRESET),
            None => table.extend_from_slice(&buffer[..got]),
        }
        if table.len() > MAX_TABLE_BYTES {
            return Err(nix::Error::EFBIG);
        }
    }
}

/// Is the end of the table in this batch, or an error?
fn end_of(batch: &[u8]) -> Option<nix::Result<()>> {
    let mut rest = batch;
    loop {
        let length = usize::try_from(number(rest)?).ok()?;
        match short(rest, 4)? {
            DONE => return Some(Ok(())),
            ERROR => {
                let code = rest.get(HEADER..).and_then(number).unwrap_or(0).cast_signed();
                return Some(Err(nix::Error::from_raw(code.wrapping_neg())));
            }
            _ => {}
        }
        rest = rest.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_machine_tells_of_its_loopback() {
        let look = crate::facts::Look::machine();
        let table = ask(&Sight::new(&look), Table::Links);
        let bytes = table.value().unwrap();
        let names: Vec<String> =
            entries(Table::Links, bytes).filter_map(|entry| entry.text(3)).collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
    }

    proptest! {
        /// Recorded answers come from files: whatever they hold, reading them ends.
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for table in [Table::Links, Table::Addresses, Table::Routes] {
                for entry in entries(table, &bytes) {
                    let _ = (entry.get(3), entry.number(4), entry.text(5));
                }
            }
            let _ = (attribute(&bytes, 1), end_of(&bytes));
        }
    }
}
