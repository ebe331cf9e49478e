//! The header of the PROXY protocol, version 2: who stands behind a proxy.
//!
//! Read once, at the beginning of a connection from a proxy that is listed. The
//! text of version 1 is refused: its length is not known beforehand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The twelve octets that every header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Most octets after the first sixteen that are taken: addresses and extensions.
pub const MAXIMUM_LENGTH: usize = 2048;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The proxy speaks for itself (LOCAL, a health check).
    pub is_local: bool,
    /// The client, and the address it connected to. `None`: LOCAL, or the client has no IP address.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Octets to take off the front of the connection.
    pub length: usize,
}

/// Why the first octets are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else, or version 1.
    #[error("the connection does not begin with a PROXY protocol version 2 header")]
    NotProxy,
    /// A version or command that is not known.
    #[error("the PROXY header has version and command {0:#04x}; only version 2 with LOCAL or PROXY is known")]
    Unknown(u8),
    /// Too long, or too short for its addresses.
    #[error("the PROXY header has a wrong length")]
    Length,
}

/// Reads the header at the front; `None` when more octets are needed.
pub fn parse(octets: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let compared = octets.len().min(SIGNATURE.len());
    if octets.get(..compared) != SIGNATURE.get(..compared) {
        return Err(ProxyError::NotProxy);
    }
    let Some((head, rest)) = octets.split_first_chunk::<16>() else {
        return Ok(None);
    };
    let [.., version_and_command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAXIMUM_LENGTH {
        return Err(ProxyError::Length);
    }
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        other => return Err(ProxyError::Unknown(other)),
    };
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let addresses = match family {
        _ if is_local => None,
        0x11 => Some(pair::<4>(body, |octets| IpAddr::V4(Ipv4Addr::from(octets)))?),
        0x21 => Some(pair::<16>(body, |octets| IpAddr::V6(Ipv6Addr::from(octets)))?),
        _ => None,
    };
    Ok(Some(ProxyHeader { is_local, addresses, length: 16 + length }))
}

/// Source address, destination address, source port, destination port.
fn pair<const N: usize>(body: &[u8], address: fn([u8; N]) -> IpAddr) -> Result<(SocketAddr, SocketAddr), ProxyError> {
    let (source, rest) = body.split_first_chunk::<N>().ok_or(ProxyError::Length)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(ProxyError::Length)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(ProxyError::Length)?;
    let [a, b, c, d] = *ports;
    Ok((
        SocketAddr::new(address(*source).to_canonical(), u16::from_be_bytes([a, b])),
        SocketAddr::new(address(*destination).to_canonical(), u16::from_be_bytes([c, d])),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn ipv4_and_ipv6_clients_are_read_and_extensions_passed_over() {
        let body = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 25, 0x04, 0, 1, 7];
        let wire = [header(0x21, 0x11, &body), b"EHLO".to_vec()].concat();
        let read = parse(&wire).unwrap().unwrap();
        assert_eq!(read.length, 32);
        assert_eq!(read.addresses, Some(("192.0.2.1:12345".parse().unwrap(), "198.51.100.2:25".parse().unwrap())));
        let mut body = [0u8; 36];
        body[..2].copy_from_slice(&[0x20, 0x01]);
        body[33] = 7;
        let read = parse(&header(0x21, 0x21, &body)).unwrap().unwrap();
        assert_eq!(read.addresses.map(|(client, _)| client), Some("[2001::]:7".parse().unwrap()));
    }

    #[test]
    fn local_and_unknown_families_name_no_client() {
        assert_eq!(parse(&header(0x20, 0, b"")), Ok(Some(ProxyHeader { is_local: true, addresses: None, length: 16 })));
        assert_eq!(parse(&header(0x21, 0x31, &[0; 216])).unwrap().unwrap().addresses, None);
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_octet() {
        assert_eq!(parse(b"E"), Err(ProxyError::NotProxy));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1"), Err(ProxyError::NotProxy));
        assert_eq!(parse(&header(0x11, 0x11, &[0; 12])), Err(ProxyError::Unknown(0x11)));
        assert_eq!(parse(&header(0x21, 0x11, &[0; 11])), Err(ProxyError::Length));
        assert_eq!(parse(&[&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat()), Err(ProxyError::Length));
    }

    proptest! {
        #[test]
        fn every_beginning_of_a_header_asks_for_more(cut in 0usize..28) {
            let wire = header(0x21, 0x11, &[1; 12]);
            prop_assert_eq!(parse(&wire[..cut]), Ok(None));
        }

        #[test]
        fn no_octets_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..60), command in any::<u8>(), family in any::<u8>()) {
            let _ = parse(&header(command, family, &body));
        }
    }
}
