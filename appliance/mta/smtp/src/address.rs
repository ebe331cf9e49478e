//! Mail addresses of the envelope (RFC 5321 §4.1.2, RFC 6531 §3.3).
//!
//! An address is checked once, here, and then stays one short string: local part
//! as given (a quoted one keeps its quotes), `@`, domain in lower case and in A-labels
//! (RFC 5891), so that every spelling of one domain is one domain. What it prints can
//! be parsed again and is equal.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest local part in octets (RFC 5321 §4.5.3.1.1).
pub const MAXIMUM_LOCAL: usize = 64;
/// Longest domain in octets (RFC 5321 §4.5.3.1.2).
pub const MAXIMUM_DOMAIN: usize = 255;
/// Longest address in octets: a path of 256 with its angle brackets (RFC 5321 §4.5.3.1.3).
pub const MAXIMUM_ADDRESS: usize = 254;
/// Longest address in octets when it is not all ASCII, where one letter takes up to four.
pub const MAXIMUM_ADDRESS_UTF8: usize = MAXIMUM_LOCAL + 1 + MAXIMUM_DOMAIN;

/// A checked mail address: `local@domain`, `"quoted local"@domain` or `local@[192.0.2.1]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: Box<str>,
    /// Where the last `@` stands; 1 to 64.
    at: u8,
}

/// Why a text is no mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// Longer than a path may be.
    #[error("the address is longer than {0} octets")]
    TooLong(usize),
    /// No `@` outside quotes.
    #[error("the address has no domain: write local@domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string.
    #[error(
        "the local part is not valid: letters, digits and !#$%&'*+-/=?^_`{{|}}~ separated by single dots, or a quoted string"
    )]
    Local,
    /// The local part is too long.
    #[error("the local part is longer than 64 octets")]
    LocalTooLong,
    /// The domain is no host name.
    #[error("the domain is not a valid host name")]
    Domain,
    /// `[...]` that is no IPv4 address and no `IPv6:` address.
    #[error("the address literal is not valid: write [192.0.2.1] or [IPv6:2001:db8::1]")]
    Literal,
    /// An IP address without brackets.
    #[error("an IP address needs square brackets: [192.0.2.1]")]
    BareIpAddress,
}

impl Address {
    /// Reads an address without angle brackets. Source routes are not read here.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let longest = if text.is_ascii() { MAXIMUM_ADDRESS } else { MAXIMUM_ADDRESS_UTF8 };
        if text.len() > longest {
            return Err(AddressError::TooLong(longest));
        }
        let at = local_length(text)?;
        let (local, rest) = text.split_at(at);
        let Some(domain) = rest.strip_prefix('@') else {
            return Err(if rest.is_empty() { AddressError::NoDomain } else { AddressError::Local });
        };
        if local.len() > MAXIMUM_LOCAL {
            return Err(AddressError::LocalTooLong);
        }
        let domain = normalise_domain(domain)?;
        // A-labels are longer than what they stand for.
        let longest = if local.is_ascii() { MAXIMUM_ADDRESS } else { MAXIMUM_ADDRESS_UTF8 };
        if local.len() + 1 + domain.len() > longest {
            return Err(AddressError::TooLong(longest));
        }
        let mut whole = String::with_capacity(local.len() + 1 + domain.len());
        whole.push_str(local);
        whole.push('@');
        whole.push_str(&domain);
        // A local part is at most 64 octets, so its length fits.
        Ok(Self { text: whole.into_boxed_str(), at: u8::try_from(at).map_err(|_| AddressError::LocalTooLong)? })
    }

    /// What stands before the `@`, quotes included.
    pub fn local(&self) -> &str {
        self.text.get(..usize::from(self.at)).unwrap_or_default()
    }

    /// What stands after the `@`, as the DNS knows it: lower case, A-labels; an address literal keeps its brackets.
    pub fn domain(&self) -> &str {
        self.text.get(usize::from(self.at) + 1..).unwrap_or_default()
    }

    /// The whole address, without angle brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it can be used without SMTPUTF8: only the local part can stand in the way.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// Whether the domain is an address literal.
    pub fn is_literal(&self) -> bool {
        self.domain().starts_with('[')
    }

    /// The IP address of an address literal.
    pub fn literal(&self) -> Option<IpAddr> {
        parse_literal(self.domain())
    }
}

/// A valid domain in A-labels, lower case; what is no valid domain comes back as it is.
pub fn ascii_domain(domain: &str) -> Cow<'_, str> {
    if domain.is_ascii() {
        return Cow::Borrowed(domain);
    }
    idna::domain_to_ascii(domain).map_or(Cow::Borrowed(domain), Cow::Owned)
}

/// Checks a domain or an address literal and writes it in lower case and A-labels.
///
/// The grammar is that of RFC 5321 §4.1.2 with the U-labels of RFC 6531: no empty
/// label, none over 63 octets, no final dot, no underscore.
pub fn normalise_domain(domain: &str) -> Result<Cow<'_, str>, AddressError> {
    if domain.is_empty() {
        return Err(AddressError::NoDomain);
    }
    if domain.len() > MAXIMUM_DOMAIN {
        return Err(AddressError::Domain);
    }
    if domain.starts_with('[') {
        let address = parse_literal(domain).ok_or(AddressError::Literal)?;
        return Ok(Cow::Owned(match address {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        }));
    }
    let domain = if domain.is_ascii() {
        if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(domain.to_ascii_lowercase())
        } else {
            Cow::Borrowed(domain)
        }
    } else {
        let a_labels = idna::domain_to_ascii(domain).map_err(|_| AddressError::Domain)?;
        if a_labels.len() > 253 {
            return Err(AddressError::Domain);
        }
        Cow::Owned(a_labels)
    };
    // After the mapping (UTS 46), which makes ordinary digits of wide ones.
    if !is_host_name(domain.as_bytes()) {
        return Err(AddressError::Domain);
    }
    if domain.parse::<Ipv4Addr>().is_ok() {
        return Err(AddressError::BareIpAddress);
    }
    Ok(domain)
}

/// Labels of letters, digits and inner hyphens, 1 to 63 octets, separated by single dots.
fn is_host_name(domain: &[u8]) -> bool {
    domain.split(|byte| *byte == b'.').all(|label| {
        (1..=63).contains(&label.len())
            && label.first() != Some(&b'-')
            && label.last() != Some(&b'-')
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    })
}

fn parse_literal(domain: &str) -> Option<IpAddr> {
    let inside = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inside.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => inside.get(5..)?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Length of the local part at the front of `text`, checked.
fn local_length(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_length(text);
    }
    let mut after_dot = true;
    for (position, character) in text.char_indices() {
        match character {
            '@' if position > 0 && !after_dot => return Ok(position),
            '.' if !after_dot => after_dot = true,
            _ if is_atom_character(character) => after_dot = false,
            _ => return Err(AddressError::Local),
        }
    }
    Err(if after_dot { AddressError::Local } else { AddressError::NoDomain })
}

/// Length of the quoted string at the front of `text`, quotes included (RFC 5321 `Quoted-string`).
fn quoted_length(text: &str) -> Result<usize, AddressError> {
    let mut escaped = false;
    for (position, character) in text.char_indices().skip(1) {
        if character.is_control() {
            return Err(AddressError::Local);
        }
        match character {
            _ if escaped => {
                if !character.is_ascii() {
                    return Err(AddressError::Local);
                }
                escaped = false;
            }
            '\\' => escaped = true,
            // `""@domain` is in the grammar, but no receiver has such a mailbox.
            '"' if position > 1 => return Ok(position + 1),
            '"' => return Err(AddressError::Local),
            _ => {}
        }
    }
    Err(AddressError::Local)
}

/// `atext` of RFC 5322 §3.2.3, and what RFC 6531 adds: any non-ASCII character but controls and spaces.
pub(crate) fn is_atom_character(character: char) -> bool {
    if character.is_ascii() {
        character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character)
    } else {
        !character.is_control() && !character.is_whitespace()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_addresses_are_split_and_the_domain_is_lower_case() {
        let address = Address::parse("Ann.Example+tag@Mail.EXAMPLE.com").unwrap();
        assert_eq!(address.local(), "Ann.Example+tag");
        assert_eq!(address.domain(), "mail.example.com");
        assert_eq!(address.to_string(), "Ann.Example+tag@mail.example.com");
        assert!(address.is_ascii());
    }

    #[test]
    fn examples_of_rfc_5321_and_rfc_3696_are_accepted() {
        for text in [
            "jones@xyz.com",
            "\"Joe Q. Public\"@example.com",
            "\"Abc@def\"@example.com",
            "\"Fred \\\"quota\\\" Bloggs\"@example.com",
            "customer/department=shipping@example.com",
            "$A12345@example.com",
            "!def!xyz%abc@example.com",
            "_somename@example.com",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "user@localhost",
            "用户@例子.example",
            "дядя@пример.example",
        ] {
            let address = Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(Address::parse(address.as_str()).unwrap(), address, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, error) in [
            ("", AddressError::Empty),
            ("ann", AddressError::NoDomain),
            ("ann@", AddressError::NoDomain),
            ("@example.com", AddressError::Local),
            (".ann@example.com", AddressError::Local),
            ("ann.@example.com", AddressError::Local),
            ("an..n@example.com", AddressError::Local),
            ("ann ann@example.com", AddressError::Local),
            ("ann@b@example.com", AddressError::Domain),
            ("\"ann@example.com", AddressError::Local),
            ("\"\"@example.com", AddressError::Local),
            ("\"ann\"x@example.com", AddressError::Local),
            ("\"a\r\nb\"@example.com", AddressError::Local),
            ("ann@example..com", AddressError::Domain),
            ("ann@example.com.", AddressError::Domain),
            ("ann@-example.com", AddressError::Domain),
            ("ann@exa_mple.com", AddressError::Domain),
            ("ann@192.0.2.1", AddressError::BareIpAddress),
            ("ann@[192.0.2.256]", AddressError::Literal),
            ("ann@[2001:db8::1]", AddressError::Literal),
            ("ann@[192.0.2.1", AddressError::Literal),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn lengths_are_bounded_as_rfc_5321_says() {
        let local = "a".repeat(64);
        assert!(Address::parse(&format!("{local}@example.com")).is_ok());
        assert_eq!(Address::parse(&format!("{local}a@example.com")), Err(AddressError::LocalTooLong));
        assert_eq!(Address::parse(&format!("a@{}.com", "b".repeat(64))), Err(AddressError::Domain));
        let long = format!("a@{}", vec!["b".repeat(63); 4].join("."));
        assert_eq!(Address::parse(&long), Err(AddressError::TooLong(254)));
    }

    #[test]
    fn every_spelling_of_an_international_domain_is_one_address() {
        let address = Address::parse("ann@Bücher.example").unwrap();
        assert_eq!(address.as_str(), "ann@xn--bcher-kva.example");
        assert!(address.is_ascii());
        for spelling in ["ann@bu\u{308}cher.EXAMPLE", "ann@XN--bcher-KVA.example", "ann@bücher。example"] {
            assert_eq!(Address::parse(spelling).unwrap(), address, "{spelling}");
        }
        assert!(!Address::parse("änn@example.com").unwrap().is_ascii());
    }

    #[test]
    fn what_a_domain_is_mapped_to_is_held_to_the_same_rules() {
        assert_eq!(Address::parse("a@１.2.3.4"), Err(AddressError::BareIpAddress));
        let long = format!("{}@ａ{}", "a".repeat(64), vec!["b".repeat(60); 3].join(".") + ".example.com");
        assert_eq!(Address::parse(&long), Err(AddressError::TooLong(254)));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_takes_round_trips(text in "\\PC{0,80}(@\\PC{0,40})?") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
                prop_assert_eq!(format!("{}@{}", address.local(), address.domain()), address.as_str());
            }
        }

        #[test]
        fn international_domains_round_trip(
            local in "[a-zé]{1,64}",
            domain in "[a-zà-ÿа-я０-９。.0-9-]{1,80}",
        ) {
            if let Ok(address) = Address::parse(&format!("{local}@{domain}")) {
                prop_assert!(address.domain().is_ascii());
                prop_assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
            }
        }

        #[test]
        fn well_formed_addresses_are_accepted(
            local in "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-z0-9]{1,10}){0,3}",
            domain in "[a-zA-Z0-9]{1,20}(\\.[a-z][a-z0-9]{0,9}){1,3}",
        ) {
            let address = Address::parse(&format!("{local}@{domain}")).unwrap();
            prop_assert_eq!(address.local(), local);
            prop_assert_eq!(address.domain(), domain.to_ascii_lowercase());
        }
    }
}
