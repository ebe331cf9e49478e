//! Paths in angle brackets: `<local@domain>`, `<@a,@b:local@domain>`, `<>`, `<postmaster>`.

use super::bad_argument;
use crate::address::{Address, AddressError, normalise_domain};
use crate::reply::Reply;

/// What stands between the angle brackets, its source route taken off.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Path {
    Null,
    Postmaster,
    Address(Address),
}

/// Which command is read; the enhanced codes differ (RFC 3463 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Sender,
    Recipient,
}

/// Reads `KEYWORD:<path>` and gives what follows it.
pub(super) fn split_path<'a>(argument: &'a str, keyword: &str, side: Side) -> Result<(Path, &'a str), Reply> {
    let usage = || bad_argument(format!("write {keyword}<local@domain>"));
    let after = match argument.get(..keyword.len()) {
        Some(word) if word.eq_ignore_ascii_case(keyword) => argument.get(keyword.len()..).unwrap_or_default(),
        _ => return Err(usage()),
    };
    if after.starts_with(' ') {
        return Err(bad_argument(format!("no space is allowed after the colon: write {keyword}<local@domain>")));
    }
    let inside_and_rest = after.strip_prefix('<').ok_or_else(usage)?;
    let end = path_end(inside_and_rest).ok_or_else(usage)?;
    let (inside, rest) = inside_and_rest.split_at(end);
    let rest = rest.get(1..).unwrap_or_default();
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(bad_argument("a space is needed between the path and its parameters"));
    }
    let mailbox = without_route(inside).ok_or_else(|| bad_address(side, "the source route is not valid"))?;
    let path = match mailbox {
        "" => Path::Null,
        _ if mailbox.eq_ignore_ascii_case("postmaster") => Path::Postmaster,
        _ => Path::Address(Address::parse(mailbox).map_err(|error| address_reply(side, error))?),
    };
    Ok((path, rest))
}

/// Where the closing bracket stands; one inside a quoted string does not close.
fn path_end(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(position),
            _ => {}
        }
    }
    None
}

/// Takes `@a,@b:` off the front (RFC 5321 appendix C: accepted, ignored).
fn without_route(path: &str) -> Option<&str> {
    if !path.starts_with('@') {
        return Some(path);
    }
    let (route, mailbox) = path.split_once(':')?;
    let valid = route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(|host| normalise_domain(host).is_ok()));
    (valid && !mailbox.is_empty()).then_some(mailbox)
}

fn bad_address(side: Side, reason: &str) -> Reply {
    match side {
        Side::Sender => Reply::new(553, (5, 1, 7), format!("the sender address is refused: {reason}")),
        Side::Recipient => Reply::new(553, (5, 1, 3), format!("the recipient address is refused: {reason}")),
    }
}

fn address_reply(side: Side, error: AddressError) -> Reply {
    bad_address(side, &error.to_string())
}
