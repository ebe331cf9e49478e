//! The block of addresses that a simulated internet lives in: loopback, or a
//! private one when the box that is rehearsed stands elsewhere. A block has
//! four parts, with an address of 127.0.0.0/8 for each:
//!
//! | part | holds |
//! |---|---|
//! | 127.0.x.y | name server, host of policies, receiver of events (all at the first address) |
//! | 127.1.x.y | sending addresses, one for each source |
//! | 127.2.x.y | MX hosts |
//! | 127.3.x.y | where mail comes back to a box on this machine |
//!
//! Public blocks are refused, so that nothing of a rehearsal can point outside.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Networks that no public host has an address of: loopback (RFC 1122), private ones (RFC 1918), the one for
/// benchmarks (RFC 2544), and the one for carriers (RFC 6598).
const NOT_PUBLIC: [(Ipv4Addr, u8); 6] = [
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];
/// What may be chosen, in words.
const CHOICE: &str =
    "choose one inside 127.0.0.0/8, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 198.18.0.0/15 or 100.64.0.0/10";
/// Longest prefix that leaves room for four parts of 256 addresses.
const LONGEST_PREFIX: u8 = 22;
/// Longest prefix that leaves room for four parts of 65536 addresses.
const LONGEST_ROOMY_PREFIX: u8 = 14;

/// Parts of a block.
const OWN: u32 = 0;
const SOURCES: u32 = 1;
const HOSTS: u32 = 2;
const BACK: u32 = 3;

/// A block of IPv4 addresses that are nobody's outside, with room for a simulated internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    base: Ipv4Addr,
    prefix: u8,
}

impl Default for Block {
    /// 127.0.0.0/8.
    fn default() -> Self {
        Self { base: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 }
    }
}

impl Block {
    /// Whether it is on loopback, where this machine has every address by itself.
    pub fn is_loopback(self) -> bool {
        self.base.is_loopback()
    }

    /// Name server, host of policies, receiver of events.
    pub fn own(self) -> Ipv4Addr {
        self.place(OWN, 0).unwrap_or(self.base)
    }

    /// The address of the `number`th source, from 0; `None`: the block has no room for it.
    pub fn source(self, number: usize) -> Option<Ipv4Addr> {
        self.place(SOURCES, number)
    }

    /// The address of the `number`th MX host, from 0.
    pub fn host(self, number: usize) -> Option<Ipv4Addr> {
        self.place(HOSTS, number)
    }

    /// Where a box on this machine takes what comes back.
    pub fn back(self) -> Ipv4Addr {
        self.place(BACK, 0).unwrap_or(self.base)
    }

    /// Whether an address is one that the simulated internet itself may have.
    pub fn is_taken(self, address: Ipv4Addr) -> bool {
        let part = |part: u32| (part << self.room(), 32 - self.room());
        let within = |(offset, prefix): (u32, u32)| {
            u32::from(address) >> (32 - prefix) == (u32::from(self.base) | offset) >> (32 - prefix)
        };
        within(part(OWN)) || within(part(HOSTS))
    }

    /// The network of the MX hosts.
    pub fn hosts(self) -> String {
        format!("{}/{}", Ipv4Addr::from(u32::from(self.base) | HOSTS << self.room()), 32 - self.room())
    }

    /// Bits for the addresses of a part.
    fn room(self) -> u32 {
        if self.prefix <= LONGEST_ROOMY_PREFIX { 16 } else { 8 }
    }

    fn place(self, part: u32, number: usize) -> Option<Ipv4Addr> {
        // The first and the last address of a part are left alone: in a network of that size they are no host's.
        let number = u32::try_from(number).ok()?.checked_add(1).filter(|number| *number < (1 << self.room()) - 1)?;
        Some(Ipv4Addr::from(u32::from(self.base) | part << self.room() | number))
    }
}

/// Whether no public host can have the address.
pub(crate) fn is_private(address: Ipv4Addr) -> bool {
    NOT_PUBLIC.iter().any(|(base, prefix)| is_within(address, *base, *prefix))
}

fn is_within(address: Ipv4Addr, base: Ipv4Addr, prefix: u8) -> bool {
    let left = 32 - u32::from(prefix);
    u32::from(address) >> left == u32::from(base) >> left
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no block of IPv4 addresses; write one such as 10.0.0.0/8");
        let (base, prefix) = text.split_once('/').ok_or_else(form)?;
        let base: Ipv4Addr = base.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix)).ok_or_else(form)?;
        if prefix > LONGEST_PREFIX {
            return Err(format!(
                "{text} is too small for a simulated internet; choose a prefix of /{LONGEST_PREFIX} or shorter"
            ));
        }
        if !NOT_PUBLIC.iter().any(|(network, least)| prefix >= *least && is_within(base, *network, *least)) {
            return Err(format!("{text} has public addresses, and a rehearsal must not point outside; {CHOICE}"));
        }
        if u32::from(base) << prefix != 0 {
            return Err(format!("{text} does not begin where a /{prefix} begins; write its first address"));
        }
        Ok(Self { base, prefix })
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.base, self.prefix)
    }
}

impl TryFrom<String> for Block {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Block> for String {
    fn from(block: Block) -> Self {
        block.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    #[test]
    fn each_part_of_a_block_has_addresses_of_its_own() {
        for (text, own, source, host, back) in [
            ("127.0.0.0/8", "127.0.0.1", "127.1.0.1", "127.2.1.0", "127.3.0.1"),
            ("10.0.0.0/8", "10.0.0.1", "10.1.0.1", "10.2.1.0", "10.3.0.1"),
            ("172.16.0.0/12", "172.16.0.1", "172.17.0.1", "172.18.1.0", "172.19.0.1"),
            ("100.64.0.0/10", "100.64.0.1", "100.65.0.1", "100.66.1.0", "100.67.0.1"),
        ] {
            let block = block(text);
            let found = [block.own(), block.source(0).unwrap(), block.host(255).unwrap(), block.back()];
            assert_eq!(found.map(|address| address.to_string()), [own, source, host, back]);
        }
        let small = block("192.168.0.0/16");
        assert_eq!(small.source(0).unwrap().to_string(), "192.168.1.1");
        assert_eq!((small.host(253).unwrap().to_string(), small.host(254)), ("192.168.2.254".to_owned(), None));
        assert_eq!((small.hosts(), Block::default().hosts()), ("192.168.2.0/24".to_owned(), "127.2.0.0/16".to_owned()));
    }

    #[test]
    fn public_and_half_public_blocks_are_refused_with_what_may_be_chosen() {
        for text in ["8.0.0.0/8", "172.16.0.0/11", "172.32.0.0/12", "192.168.0.0/15", "198.16.0.0/14", "0.0.0.0/1"] {
            let said = text.parse::<Block>().unwrap_err();
            assert!(said.contains("public") && said.contains("100.64.0.0/10"), "{text}: {said}");
        }
        for text in ["10.0.0.1/8", "10.0.0.0/24", "10.0.0.0", "10.0.0.0/33", "ten/8", "fd00::/8"] {
            assert!(text.parse::<Block>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_internets_own_parts_are_taken_and_those_of_the_box_are_not() {
        let block = block("10.0.0.0/8");
        let taken = |text: &str| block.is_taken(text.parse().unwrap());
        assert!(
            taken("10.0.0.1") && taken("10.2.3.4") && !taken("10.1.0.1") && !taken("10.3.0.1") && !taken("11.0.0.1")
        );
    }
}
