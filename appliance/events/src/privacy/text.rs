//! Addresses and local parts in running text, found in the ways in which receivers, reports and links write them.
//!
//! In this order, so that the same address has the same sum wherever it stands: addresses of the record as they
//! are; whatever else looks like an address; local parts of the record alone.

use super::Privacy;

/// A local part that is shorter is not looked for alone: every text is full of it.
const SHORTEST_ALONE: usize = 3;
/// One that is as long as this is looked for in the middle of words as well.
const LONG: usize = 8;

/// An address of the record that a text is looked through for.
#[derive(Debug, Clone)]
pub(super) struct Sought {
    local: String,
    domain: String,
}

impl Sought {
    /// An address as records have it, if it is one.
    pub(super) fn new(address: &str) -> Option<Self> {
        let (local, domain) = address.rsplit_once('@').filter(|(local, _)| !local.is_empty())?;
        Some(Self { local: local.to_owned(), domain: domain.to_owned() })
    }

    /// How the local part may be written, escapes apart: as it is, without quotes and what quotes need, and without
    /// what follows a plus.
    fn spellings(&self) -> Vec<String> {
        let mut all = vec![self.local.clone()];
        if let Some(inner) = self.local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            all.push(inner.to_owned());
            all.push(unquoted(inner));
        }
        all.push(self.local.split('+').next().unwrap_or_default().to_owned());
        // The longest first: a shorter one may be a part of it.
        all.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
        all.dedup();
        all
    }
}

/// A text with all of them replaced.
pub(super) fn replaced(privacy: &Privacy, text: &str, sought: &[Sought]) -> String {
    // What stands for something is not looked through again: a sum may look like a local part.
    let mut pieces = vec![Piece::Open(text.to_owned())];
    for one in sought {
        let stands_for = privacy.local(&one.local, &one.domain);
        for spelling in one.spellings().iter().filter(|spelling| !spelling.is_empty()) {
            let whole = format!("{spelling}@{}", one.domain);
            pieces = cut_out(pieces, &whole, Bounds::Address, |found| {
                let at = ["%40", "+40", "=40"].into_iter().find(|at| found.contains(at)).unwrap_or("@");
                format!("{stands_for}{at}{}", one.domain)
            });
        }
    }
    pieces = pieces.into_iter().flat_map(|piece| piece.map(|open| addresses(privacy, open))).collect();
    for one in sought {
        let stands_for = privacy.local(&one.local, &one.domain);
        for spelling in one.spellings() {
            let length = spelling.chars().count();
            if length >= SHORTEST_ALONE {
                let bounds = if length >= LONG { Bounds::None } else { Bounds::Word };
                pieces = cut_out(pieces, &spelling, bounds, |_| stands_for.clone());
            }
        }
    }
    pieces.into_iter().map(Piece::into_text).collect()
}

/// A part of the text.
enum Piece {
    /// Still to be looked through.
    Open(String),
    /// Stands for something.
    Done(String),
}

impl Piece {
    fn map(self, work: impl FnOnce(&str) -> Vec<Piece>) -> Vec<Piece> {
        match self {
            Self::Open(text) => work(&text),
            done @ Self::Done(_) => vec![done],
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Open(text) | Self::Done(text) => text,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bounds {
    /// Neither a letter nor a digit before and behind it.
    Word,
    /// The same, and it is not the end of a longer address: `mary.jane@there.test` is not Jane.
    Address,
    None,
}

/// Cuts out what is sought, in whatever case and with whatever escapes, and puts there what stands for it.
fn cut_out(pieces: Vec<Piece>, sought: &str, bounds: Bounds, stands_for: impl Fn(&str) -> String) -> Vec<Piece> {
    let cut = |text: &str| {
        let mut out = Vec::new();
        let mut done = 0;
        let mut from = 0;
        while let Some(rest) = text.get(from..).filter(|rest| !rest.is_empty()) {
            let length = prefix_length(rest, sought).filter(|length| {
                let is_word = is_bound_before(text, from) && is_bound_behind(text, from + length);
                let found = rest.get(..*length).unwrap_or_default();
                bounds == Bounds::None || is_word && !(bounds == Bounds::Address && is_end_of_longer(text, from, found))
            });
            match length {
                Some(length) => {
                    out.push(Piece::Open(text.get(done..from).unwrap_or_default().to_owned()));
                    out.push(Piece::Done(stands_for(rest.get(..length).unwrap_or_default())));
                    from += length;
                    done = from;
                }
                None => from += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        out.push(Piece::Open(text.get(done..).unwrap_or_default().to_owned()));
        out
    };
    pieces.into_iter().flat_map(|piece| piece.map(cut)).collect()
}

/// Octets at the start of `text` that are `sought` but for case and escapes: `%2E` of links, `+2E` of xtext
/// (RFC 3461), `=2E` of quoted-printable. An escape may also be what it looks like.
fn prefix_length(text: &str, sought: &str) -> Option<usize> {
    let mut wanted = sought.chars();
    let Some(first) = wanted.next() else { return Some(0) };
    let behind = wanted.as_str();
    if let Some(own) = text.chars().next()
        && (own == first || own.to_lowercase().eq(first.to_lowercase()))
        && let Some(rest) = text.get(own.len_utf8()..)
        && let Some(length) = prefix_length(rest, behind)
    {
        return Some(own.len_utf8() + length);
    }
    let mut octets = [0; 4];
    let encoded = first.encode_utf8(&mut octets).bytes();
    let mut escapes = 0;
    for octet in encoded {
        let escape = text.get(escapes..escapes + 3).and_then(escaped_octet)?;
        if !escape.eq_ignore_ascii_case(&octet) {
            return None;
        }
        escapes += 3;
    }
    Some(escapes + prefix_length(text.get(escapes..)?, behind)?)
}

/// The octet that `%2E`, `+2E` or `=2E` stands for.
fn escaped_octet(escape: &str) -> Option<u8> {
    let digits = escape.strip_prefix(['%', '+', '='])?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Neither letter nor digit stands before that place, or one that is an escape's: `%3C`, `=3D`, `+3C`.
fn is_bound_before(text: &str, place: usize) -> bool {
    let before = text.get(..place).unwrap_or_default();
    if !before.chars().next_back().is_some_and(char::is_alphanumeric) {
        return true;
    }
    before.get(before.len().saturating_sub(3)..).and_then(escaped_octet).is_some()
}

/// What stands before that place belongs to the address, too: `mary.`, `mary+`. Only of an `@` that the next step
/// knows, which then takes the whole.
fn is_end_of_longer(text: &str, place: usize, found: &str) -> bool {
    let before = text.get(..place).unwrap_or_default().strip_suffix(['.', '+', '-', '_']);
    before.is_some_and(|before| !is_bound_before(before, before.len()))
        && (found.contains('@') || found.contains("%40"))
}

fn is_bound_behind(text: &str, place: usize) -> bool {
    !text.get(place..).and_then(|rest| rest.chars().next()).is_some_and(char::is_alphanumeric)
}

/// Whatever looks like an address, of whomever.
fn addresses(privacy: &Privacy, text: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut done = 0;
    let mut from = 0;
    while let Some((place, at)) = next_at(text, from) {
        let behind = text.get(place + at.len()..).unwrap_or_default();
        let domain = domain_at_start(behind);
        let before = text.get(done..place).unwrap_or_default();
        let (kept, local) = local_at_end(before);
        from = place + at.len();
        if domain.is_empty() || local.is_empty() {
            continue;
        }
        // `+40` may as well begin a number, or stand in a local part.
        let goes_on = || behind.get(domain.len()..).is_some_and(|next| next.starts_with('@'));
        if at == "+40" && (!ends_in_a_name(domain) || goes_on()) {
            continue;
        }
        out.push(Piece::Open(kept.to_owned()));
        out.push(Piece::Done(format!("{}{at}{domain}", privacy.local(local, domain))));
        from += domain.len();
        done = from;
    }
    out.push(Piece::Open(text.get(done..).unwrap_or_default().to_owned()));
    out
}

fn ends_in_a_name(domain: &str) -> bool {
    domain.rsplit_once('.').is_some_and(|(_, last)| last.starts_with(char::is_alphabetic))
}

/// The next `@`, as it is, as links write it or as xtext has it.
fn next_at(text: &str, from: usize) -> Option<(usize, &'static str)> {
    let rest = text.get(from..)?;
    let plain = rest.find('@').map(|place| (from + place, "@"));
    let link = rest.find("%40").map(|place| (from + place, "%40"));
    let xtext = rest.find("+40").map(|place| (from + place, "+40"));
    plain.into_iter().chain(link).chain(xtext).min()
}

/// `there.test` of `there.test.`, and `[192.0.2.1]`.
fn domain_at_start(text: &str) -> &str {
    if text.starts_with('[') {
        return text.find(']').and_then(|end| text.get(..=end)).unwrap_or_default();
    }
    let is_of_domain = |character: char| character.is_alphanumeric() || matches!(character, '.' | '-' | '_');
    let end = text.find(|character| !is_of_domain(character)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default().trim_end_matches(['.', '-', '_'])
}

/// What stays of a text before an `@`, and the local part at its end.
///
/// Punctuation around it is not its own, though an address might have it: `'a@b'`, `user=a@b`, `/a@b`. What stands
/// before an equals sign goes: it may be a person as well, as in `jane=there.test@here.test`.
fn local_at_end(text: &str) -> (&str, &str) {
    if let Some(inner) = text.strip_suffix('"')
        && let Some(open) = inner.rfind('"')
    {
        return text.split_at(open);
    }
    let is_of_local = |character: char| character.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(character);
    let begin = text
        .rfind(|character: char| !is_of_local(character))
        .map_or(0, |place| place + text.get(place..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8));
    let is_around = |character: char| !character.is_alphanumeric();
    let run = text.get(begin..).unwrap_or_default();
    // An address at a gateway to X.400, `/G=Jane/S=Doe/@there.test`, goes whole.
    if run.starts_with('/') && run.contains('=') && !run.contains('?') {
        return (text.get(..begin).unwrap_or_default(), run);
    }
    // What separates parts of links separates them from an address, too.
    let link = run.rfind(['/', '?', '&', '`']).map_or(begin, |place| begin + place + 1);
    let own = text.get(link..).unwrap_or_default();
    if let Some((_, own)) = own.rsplit_once('=') {
        return (text.get(..link).unwrap_or_default(), own.trim_matches(is_around));
    }
    let kept = link + own.len() - own.trim_start_matches(is_around).len();
    (text.get(..kept).unwrap_or_default(), own.trim_matches(is_around))
}

/// Without the backslashes of a quoted string (RFC 5322 §3.2.4).
fn unquoted(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        out.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    out
}

/// Signs that are written by their number, `\x{E9}` (RFC 6533 §3).
fn by_number(text: &str) -> String {
    let mut parts = text.split("\\x{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let sign = part
            .split_once('}')
            .and_then(|(number, rest)| Some((char::from_u32(u32::from_str_radix(number, 16).ok()?)?, rest)));
        match sign {
            Some((sign, rest)) => {
                out.push(sign);
                out.push_str(rest);
            }
            None => {
                out.push_str("\\x{");
                out.push_str(part);
            }
        }
    }
    out
}

/// xtext decoded (RFC 3461 §4), and the form that RFC 6533 has for other scripts; what is neither stays as it is.
pub(super) fn from_xtext(text: &str) -> String {
    let text = &by_number(text);
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).filter(|_| *first == b'+');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) => {
                octets.push(octet);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                octets.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(octets).unwrap_or_else(|_| text.to_owned())
}
