//! One-click unsubscribe in a header (RFC 8058, RFC 2369): whether the pair of fields is whole, and what stands in it.
//!
//! A pair is whole when `List-Unsubscribe` and `List-Unsubscribe-Post` are there once each, the first with one https
//! URI and no http one, the second with the one value that RFC 8058 §3.2 knows.

use std::ops::Range;

use postkeep_configuration as configuration;
use postkeep_smtp::header::{self, Field};

/// The value of `List-Unsubscribe-Post`.
pub const ONE_CLICK: &str = "List-Unsubscribe=One-Click";
/// Longest URI that is kept beside a link of the box, in octets: what fits a line of 998.
const LONGEST_URI: usize = 900;
/// URIs that are kept beside a link of the box.
const MOST_URIS: usize = 8;

/// One-click unsubscribe of an admitted message, in a stream that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneClick {
    /// What the stream asks.
    pub policy: configuration::OneClick,
    /// The sender's pair.
    pub pair: Pair,
}

/// The pair of a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pair {
    /// What it lacks; `None`: it is whole.
    pub lack: Option<String>,
    /// Its mailto URIs, as `<mailto:…>` each, folded after each comma.
    pub mailto: String,
    /// It holds a URI that cannot stand beside a link of the box: another link, one that is too long.
    pub has_others: bool,
    /// A signature that the message brought covers both fields.
    pub is_signed: bool,
    /// Where the fields stand in the block, in order.
    pub ranges: Vec<Range<usize>>,
}

/// Looks for the pair in a header block.
pub fn pair(block: &[u8]) -> Pair {
    let (mut links, mut posts): (Vec<Field<'_>>, Vec<Field<'_>>) = (Vec::new(), Vec::new());
    let mut pair = Pair::default();
    for field in header::fields(block).map_while(Result::ok) {
        if field.is("List-Unsubscribe") {
            pair.ranges.push(field.range.clone());
            links.push(field);
        } else if field.is("List-Unsubscribe-Post") {
            pair.ranges.push(field.range.clone());
            posts.push(field);
        } else if field.is("DKIM-Signature") {
            pair.is_signed |= covers_both(&field.unfolded());
        }
    }
    let found: Vec<String> = links.iter().flat_map(|field| uris(&field.unfolded())).collect();
    let mailto: Vec<String> = found
        .iter()
        .filter(|uri| has_scheme(uri, "mailto:") && uri.len() <= LONGEST_URI)
        .take(MOST_URIS)
        .map(|uri| format!("<{uri}>"))
        .collect();
    pair.has_others = mailto.len() < found.len();
    pair.mailto = mailto.join(",\r\n ");
    pair.lack = lack(&links, &posts, &found);
    pair
}

fn lack(links: &[Field<'_>], posts: &[Field<'_>], uris: &[String]) -> Option<String> {
    let counted = |scheme: &str| uris.iter().filter(|uri| has_scheme(uri, scheme)).count();
    let text = match (links.len(), posts) {
        (0, _) => "there is no List-Unsubscribe field",
        (2.., _) => "the List-Unsubscribe field is there more than once",
        (_, []) => "there is no List-Unsubscribe-Post field",
        (_, [_, _, ..]) => "the List-Unsubscribe-Post field is there more than once",
        (_, [post]) if *post.unfolded() != *ONE_CLICK.as_bytes() => {
            "the List-Unsubscribe-Post field does not say List-Unsubscribe=One-Click"
        }
        _ if counted("http:") > 0 => "List-Unsubscribe has an http URI, where only https is safe",
        _ => match uris.iter().filter(|uri| is_https(uri)).count() {
            1 if counted("https:") == 1 => return None,
            0 | 1 => "List-Unsubscribe has no https URI in angle brackets",
            _ => "List-Unsubscribe has more than one https URI",
        },
    };
    Some(text.to_owned())
}

/// The URIs in angle brackets, outside of comments; white space within them is taken out (RFC 2369 §2).
fn uris(value: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut depth, mut rest) = (0usize, value);
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        match octet {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'<' if depth == 0 => {
                let Some(end) = memchr::memchr(b'>', rest) else { break };
                let (uri, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                let uri: Vec<u8> = uri.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
                // What is not ASCII is no URI, and nothing that could stand beside a link.
                let is_clean = uri.iter().all(|octet| octet.is_ascii_graphic() && *octet != b'<');
                found.push(if is_clean { String::from_utf8(uri).unwrap_or_default() } else { String::new() });
            }
            _ => {}
        }
    }
    found
}

fn has_scheme(uri: &str, scheme: &str) -> bool {
    uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// With a host behind it.
fn is_https(uri: &str) -> bool {
    has_scheme(uri, "https://")
        && uri.as_bytes().get(8).is_some_and(|octet| octet.is_ascii_alphanumeric() || *octet == b'[')
}

/// Whether `h=` of a signature names both fields.
fn covers_both(signature: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(signature) else { return false };
    let names = text.split(';').find_map(|tag| tag.split_once('=').filter(|(name, _)| name.trim() == "h"));
    names.is_some_and(|(_, names)| {
        ["List-Unsubscribe", "List-Unsubscribe-Post"]
            .iter()
            .all(|wanted| names.split(':').any(|name| name.trim().eq_ignore_ascii_case(wanted)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POST: &str = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";

    fn lack_of(header: &str) -> Option<String> {
        pair(format!("From: a@b.example\r\n{header}\r\n").as_bytes()).lack
    }

    /// The examples of RFC 8058 §8.
    #[test]
    fn the_pairs_of_the_rfc_are_whole() {
        for links in [
            "List-Unsubscribe: <https://example.com/unsubscribe/opaquepart>\r\n",
            "List-Unsubscribe:\r\n <mailto:listrequest@example.com?subject=unsubscribe>,\r\n <https://example.com/unsubscribe.html?opaque=123456789>\r\n",
            "list-unsubscribe: (see <http://x.example>) <HTTPS://example.com/\r\n folded>\r\n",
        ] {
            assert_eq!(lack_of(&format!("{links}{POST}")), None, "{links}");
        }
    }

    #[test]
    fn each_lack_is_named() {
        let link = "List-Unsubscribe: <https://example.com/u/1>\r\n";
        for (header, part) in [
            (POST.to_owned(), "no List-Unsubscribe field"),
            (link.to_owned(), "no List-Unsubscribe-Post"),
            (format!("{link}{link}{POST}"), "List-Unsubscribe field is there more"),
            (format!("{link}{POST}{POST}"), "List-Unsubscribe-Post field is there more"),
            (format!("{link}List-Unsubscribe-Post: list-unsubscribe=one-click\r\n"), "does not say"),
            (format!("List-Unsubscribe: <http://example.com/u/1>\r\n{POST}"), "http URI"),
            (format!("List-Unsubscribe: <mailto:a@example.com>\r\n{POST}"), "no https URI"),
            (format!("List-Unsubscribe: https://example.com/u/1\r\n{POST}"), "no https URI"),
            (format!("List-Unsubscribe: <https:///x>\r\n{POST}"), "no https URI"),
            (format!("List-Unsubscribe: <https://a.example/>, <https://b.example/>\r\n{POST}"), "more than one"),
        ] {
            let lack = lack_of(&header).unwrap_or_default();
            assert!(lack.contains(part), "{header}: {lack}");
        }
    }

    #[test]
    fn mailto_uris_are_kept_and_anything_else_is_noticed() {
        let found = pair(
            b"List-Unsubscribe: <mailto:a@example.com?subject=x>, <mailto:\r\n b@example.com>\r\nSubject: x\r\n\r\n",
        );
        assert_eq!(found.mailto, "<mailto:a@example.com?subject=x>,\r\n <mailto:b@example.com>");
        assert_eq!((found.has_others, found.ranges.len()), (false, 1));
        let found = pair(b"List-Unsubscribe: <https://a.example/>,<mailto:a@example.com>\r\n\r\n");
        assert_eq!((found.mailto.as_str(), found.has_others), ("<mailto:a@example.com>", true));
    }

    #[test]
    fn a_signature_covers_the_pair_when_its_list_names_both() {
        let signed = |names: &str| {
            pair(format!("DKIM-Signature: v=1; a=rsa-sha256;\r\n\th={names}; b=x\r\n\r\n").as_bytes()).is_signed
        };
        assert!(signed("From:list-unsubscribe:\r\n\t List-Unsubscribe-Post"));
        assert!(!signed("From:List-Unsubscribe") && !signed("From:List-Unsubscribe-Post:X-List-Unsubscribe"));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic_and_what_is_kept_can_stand_in_a_header(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let block = [b"List-Unsubscribe: ", &value[..], b"\r\n", POST.as_bytes()].concat();
            let found = pair(&block);
            for line in found.mailto.split("\r\n") {
                prop_assert!(line.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic()));
                prop_assert!(line.len() < 998);
            }
        }

        #[test]
        fn a_pair_that_is_written_as_it_should_be_is_whole(host in "[a-z0-9]{1,20}", path in "[A-Za-z0-9_/-]{0,60}", mail in "[a-z]{1,9}@[a-z]{1,9}\\.example") {
            let block = format!("List-Unsubscribe: <https://{host}.example/{path}>,\r\n <mailto:{mail}>\r\n{POST}\r\n");
            let found = pair(block.as_bytes());
            prop_assert_eq!(found.lack, None);
            prop_assert_eq!(found.mailto, format!("<mailto:{mail}>"));
        }
    }
}
