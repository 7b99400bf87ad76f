//! Address ranges (`10.244.0.0/16`): parsed strictly, compared, cut into equal parts.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A range of addresses; its address has no host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// No `/`, no address or no prefix length.
    #[error("`{0}` is not a range; expected an address, `/` and a prefix length")]
    Malformed(String),
    /// Bits beyond the prefix are set.
    #[error("`{found}` has bits beyond its prefix; did you mean `{meant}`?")]
    HostBits {
        /// As written.
        found: String,
        /// The range it lies in.
        meant: String,
    },
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn like(family: IpAddr, number: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => {
            let low = u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from(low))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl Cidr {
    /// The range of that size that holds `address`; `None` when the prefix is longer than the
    /// address.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let free = width(address).checked_sub(prefix)?;
        let mask = u128::MAX.checked_shl(u32::from(free)).unwrap_or(0);
        Some(Self { address: like(address, number(address) & mask), prefix })
    }

    /// First address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Prefix length.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::around(address, self.prefix).is_some_and(|around| around == *self)
    }

    /// The two share at least one address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// How many parts of that prefix length the range has; 0 when it is smaller than one.
    #[must_use]
    pub fn parts(&self, prefix: u8) -> u128 {
        if prefix < self.prefix || prefix > width(self.address) {
            return 0;
        }
        1_u128.checked_shl(u32::from(prefix - self.prefix)).unwrap_or(u128::MAX)
    }

    /// The part number `position` of that prefix length.
    #[must_use]
    pub fn part(&self, prefix: u8, position: u128) -> Option<Self> {
        if position >= self.parts(prefix) {
            return None;
        }
        let offset = position.checked_shl(u32::from(width(self.address) - prefix)).unwrap_or(0);
        Some(Self { address: like(self.address, number(self.address) + offset), prefix })
    }

    /// The address number `position` in the range.
    #[must_use]
    pub fn host(&self, position: u128) -> IpAddr {
        like(self.address, number(self.address).saturating_add(position))
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let range = Self::around(address, prefix).ok_or_else(malformed)?;
        if range.address == address {
            Ok(range)
        } else {
            Err(CidrError::HostBits { found: text.to_owned(), meant: range.to_string() })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    #[test]
    fn only_clean_ranges_parse() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "fd00::/48"] {
            assert_eq!(range(text).to_string(), text);
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "10.0.0.0/", "10.0.0.0/+8"] {
            assert!(matches!(text.parse::<Cidr>(), Err(CidrError::Malformed(_))), "{text}");
        }
        let error = "10.0.0.1/8".parse::<Cidr>().expect_err("host bits");
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }

    #[test]
    fn overlap_is_seen_from_both_sides_and_never_across_families() {
        for (left, right, overlap) in [
            ("10.0.0.0/8", "10.96.0.0/12", true),
            ("10.244.0.0/16", "10.96.0.0/12", false),
            ("10.244.0.0/16", "10.244.7.0/24", true),
            ("0.0.0.0/0", "::/0", false),
        ] {
            assert_eq!(range(left).overlaps(&range(right)), overlap, "{left} {right}");
            assert_eq!(range(right).overlaps(&range(left)), overlap, "{right} {left}");
        }
    }

    #[test]
    fn parts_tile_the_range() {
        let pods = range("10.244.0.0/16");
        assert_eq!(pods.parts(24), 256);
        assert_eq!(
            pods.part(24, 11).map(|part| part.to_string()).as_deref(),
            Some("10.244.11.0/24")
        );
        assert_eq!(pods.part(24, 256), None);
        assert_eq!(pods.parts(8), 0);
        assert_eq!(range("10.96.0.0/12").host(10).to_string(), "10.96.0.10");
    }
}
