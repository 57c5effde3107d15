//! Ranges of addresses: reading them, and finding one that is free.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of IPv4 addresses: `10.210.0.0/20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet {
    first: u32,
    prefix: u8,
}

/// Where networks without a subnet of their own are put, best first. Rarely used elsewhere:
/// Docker's are 172.17 to 172.31 and 192.168, Podman's 10.88 and up, Kubernetes' 10.96 and 10.244.
const POOLS: [Subnet; 3] = [
    Subnet::new([10, 208, 0, 0], 12),
    Subnet::new([172, 24, 0, 0], 14),
    Subnet::new([192, 168, 192, 0], 18),
];
/// A route that covers more than this is the way out, not a network (`0.0.0.0/1` of a VPN).
const WIDEST_ROUTE: u8 = 7;
/// Bits of the network in the range of a version 6 network.
pub(super) const PREFIX6: u8 = 64;

impl Subnet {
    const fn new(first: [u8; 4], prefix: u8) -> Self {
        Self {
            first: u32::from_be_bytes(first) & mask(prefix),
            prefix,
        }
    }

    /// The range of this size that an address is in.
    pub(super) fn around(address: Ipv4Addr, prefix: u8) -> Self {
        Self::new(address.octets(), prefix.min(32))
    }

    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.first & common == other.first & common
    }

    /// The host's address: the first that is not the name of the network itself.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1)
    }

    /// How far an address is from the beginning.
    pub(super) fn offset(self, address: Ipv4Addr) -> u32 {
        address.to_bits().saturating_sub(self.first)
    }

    /// The address so far from the beginning, if a container may have it: neither the network
    /// itself, the host, nor everybody.
    pub(super) fn container(self, offset: u32) -> Option<Ipv4Addr> {
        (2..=self.last())
            .contains(&offset)
            .then(|| Ipv4Addr::from_bits(self.first + offset))
    }

    /// How far the last address that a container may have is from the beginning.
    pub(super) fn last(self) -> u32 {
        (!mask(self.prefix)).saturating_sub(1)
    }

    /// A range of this size in none of the others.
    pub(super) fn free(prefix: u8, taken: &[Self]) -> Option<Self> {
        POOLS.iter().find_map(|pool| {
            let step = 1_u64 << (32 - prefix);
            let end = u64::from(pool.first) + (1 << (32 - pool.prefix));
            let mut first = u64::from(pool.first);
            while first + step <= end {
                let candidate = Self {
                    first: u32::try_from(first).ok()?,
                    prefix,
                };
                if !taken.iter().any(|other| other.overlaps(candidate)) {
                    return Some(candidate);
                }
                first += step;
            }
            None
        })
    }
}

/// The ranges of routes that a new network must keep out of.
pub(super) fn of_routes(destinations: &[(IpAddr, u8)]) -> Vec<Subnet> {
    destinations
        .iter()
        .filter(|(_, prefix)| *prefix > WIDEST_ROUTE)
        .filter_map(|(address, prefix)| match address {
            IpAddr::V4(address) => Some(Subnet::around(*address, *prefix)),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// A version 6 range nobody else has (RFC 4193): forty random bits say so.
pub(super) fn random6() -> Ipv6Addr {
    let random: [u8; 5] = rand::random();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    Ipv6Addr::from(octets)
}

/// The address so far from the beginning of a version 6 range.
pub(super) fn at6(first: Ipv6Addr, offset: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(first.to_bits() | u128::from(offset))
}

/// Reads `fd00:1::/64`. Ranges of any other size have no place for the host part.
pub(super) fn parse6(text: &str) -> Result<Ipv6Addr, String> {
    let (address, prefix) = text.split_once('/').ok_or("it has no /64 at its end")?;
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_invalid| format!("{address:?} is not an address"))?;
    if prefix != "64" {
        return Err("a version 6 subnet must be a /64".to_owned());
    }
    let first = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64));
    if first.is_multicast() || first.is_unicast_link_local() || first.to_bits() == 0 {
        return Err("these addresses are not for networks".to_owned());
    }
    Ok(first)
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("it has no /SIZE at its end")?;
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_invalid| format!("{address:?} is not an address"))?;
        let prefix: u8 = prefix
            .parse()
            .map_err(|_invalid| format!("{prefix:?} is not a size"))?;
        if !(8..=30).contains(&prefix) {
            return Err("the size must be between /8 and /30".to_owned());
        }
        let subnet = Self::around(address, prefix);
        if address.is_loopback() || address.is_multicast() || address.octets()[0] == 0 {
            return Err("these addresses are not for networks".to_owned());
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix)
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 {
        0
    } else {
        u32::MAX << (32 - prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_strictly() {
        assert_eq!(subnet("10.1.2.3/24").to_string(), "10.1.2.0/24");
        for wrong in [
            "10.0.0.0",
            "10.0.0.0/31",
            "10.0.0.0/7",
            "10.0.0/24",
            "10.0.0.0/-1",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "fd00::/64",
            "",
        ] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
        assert_eq!(parse6("fd00:1::5/64").unwrap().to_string(), "fd00:1::");
        for wrong in [
            "fd00::",
            "fd00::/48",
            "fe80::/64",
            "ff02::/64",
            "::/64",
            "10.0.0.0/64",
        ] {
            assert!(parse6(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_free_subnet_overlaps_nothing() {
        let mut taken = vec![subnet("10.208.0.0/13"), subnet("10.216.0.0/14")];
        for _ in 0..40 {
            let found = Subnet::free(16, &taken);
            let Some(found) = found else { break };
            assert!(!taken.iter().any(|other| other.overlaps(found)), "{found}");
            taken.push(found);
        }
        assert_eq!(Subnet::free(16, &taken), None, "the pools have an end");
        assert!(Subnet::free(24, &[]).is_some());
        assert_eq!(
            Subnet::free(24, &of_routes(&[("10.0.0.0".parse().unwrap(), 8)]))
                .unwrap()
                .to_string(),
            "172.24.0.0/24"
        );
        assert!(of_routes(&[("0.0.0.0".parse().unwrap(), 1)]).is_empty());
    }

    #[test]
    fn the_smallest_subnet_has_one_container() {
        let smallest = subnet("10.0.0.4/30");
        assert_eq!(smallest.gateway().to_string(), "10.0.0.5");
        let all: Vec<_> = (0..=8)
            .filter_map(|offset| smallest.container(offset))
            .collect();
        assert_eq!(all, [Ipv4Addr::new(10, 0, 0, 6)]);
        assert_eq!(smallest.offset(all[0]), 2);
        assert_eq!(at6("fd00::".parse().unwrap(), 2).to_string(), "fd00::2");
    }
}
