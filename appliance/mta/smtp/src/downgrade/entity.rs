//! Just enough of MIME to find the leaves: header and body of an entity, its
//! type and encoding, the parts of a multipart. Everything is a slice of the input.

use memchr::memchr;

/// Longest boundary that is believed; RFC 2046 §5.1.1 allows 70.
const MAXIMUM_BOUNDARY: usize = 200;

/// A header and a body.
pub(super) struct Entity<'a> {
    /// The fields, without the empty line.
    pub(super) header: &'a [u8],
    /// The empty line; nothing when there is no body.
    separator: &'a [u8],
    /// What follows.
    pub(super) body: &'a [u8],
}

/// `Content-Type`, in lower case.
pub(super) struct MediaType {
    pub(super) kind: String,
    pub(super) subtype: String,
    pub(super) boundary: Option<String>,
}

impl<'a> Entity<'a> {
    /// Splits at the first empty line.
    pub(super) fn read(input: &'a [u8]) -> Self {
        let mut at = 0;
        for line in Lines(input) {
            if matches!(line, b"\r\n" | b"\n") {
                let (header, rest) = input.split_at(at);
                let (separator, body) = rest.split_at(line.len());
                return Self { header, separator, body };
            }
            at += line.len();
        }
        Self { header: input, separator: b"", body: b"" }
    }

    /// Whether there is a field of that name, given in lower case.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        Fields(self.header).any(|field| is_named(field, name))
    }

    /// `None` when there is no `Content-Type`; one that cannot be read is `text/plain` (RFC 2045 §5.2).
    pub(super) fn media_type(&self) -> Option<MediaType> {
        let value = self.value(b"content-type")?;
        let mut parameters = split_parameters(&value);
        let first = parameters.next().unwrap_or_default();
        let (kind, subtype) = first.split_once('/').unwrap_or(("text", "plain"));
        let mut boundary = None;
        for parameter in parameters {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("boundary")
            {
                boundary.get_or_insert_with(|| unquoted(value.trim()));
            }
        }
        Some(MediaType {
            kind: kind.trim().to_ascii_lowercase(),
            subtype: subtype.trim().to_ascii_lowercase(),
            boundary: boundary.filter(|boundary| !boundary.is_empty() && boundary.len() <= MAXIMUM_BOUNDARY),
        })
    }

    /// `Content-Transfer-Encoding` in lower case.
    pub(super) fn transfer_encoding(&self) -> Option<String> {
        let value = self.value(b"content-transfer-encoding")?;
        Some(value.trim().to_ascii_lowercase())
    }

    /// The header again: the encoding put in its place or at the end, `MIME-Version`
    /// and a text type with that charset at the end when asked for, and the empty line.
    pub(super) fn write_header(
        &self,
        out: &mut Vec<u8>,
        encoding: Option<&str>,
        mime_version: bool,
        charset: Option<&str>,
    ) {
        let mut pending = encoding;
        for field in Fields(self.header) {
            if encoding.is_some() && is_named(field, b"content-transfer-encoding") {
                if let Some(encoding) = pending.take() {
                    write_encoding(out, encoding);
                }
            } else {
                out.extend_from_slice(field);
            }
        }
        if !self.header.is_empty() && !self.header.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
        if mime_version {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        if let Some(charset) = charset {
            out.extend_from_slice(b"Content-Type: text/plain; charset=");
            out.extend_from_slice(charset.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if let Some(encoding) = pending {
            write_encoding(out, encoding);
        }
        out.extend_from_slice(self.separator);
    }

    /// The value of the first field of that name, unfolded and without comments.
    fn value(&self, name: &[u8]) -> Option<String> {
        let field = Fields(self.header).find(|field| is_named(field, name))?;
        let colon = memchr(b':', field)?;
        let value = field.get(colon + 1..).unwrap_or_default();
        let value = String::from_utf8_lossy(value).replace(['\r', '\n'], "");
        Some(without_comments(&value))
    }
}

fn write_encoding(out: &mut Vec<u8>, encoding: &str) {
    out.extend_from_slice(b"Content-Transfer-Encoding: ");
    out.extend_from_slice(encoding.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn is_named(field: &[u8], name: &[u8]) -> bool {
    let end = memchr(b':', field).unwrap_or(0);
    field.get(..end).unwrap_or_default().trim_ascii_end().eq_ignore_ascii_case(name)
}

/// Removes `(…)` outside quoted strings.
fn without_comments(value: &str) -> String {
    let mut kept = String::with_capacity(value.len());
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    for character in value.chars() {
        let skipped = std::mem::take(&mut escaped);
        match character {
            _ if skipped => {}
            '\\' if quoted || depth > 0 => escaped = true,
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            kept.push(character);
        }
    }
    kept
}

/// Splits at `;` outside quoted strings.
fn split_parameters(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |character| {
        let skipped = std::mem::take(&mut escaped);
        match character {
            _ if skipped => false,
            '\\' if quoted => {
                escaped = true;
                false
            }
            '"' => {
                quoted = !quoted;
                false
            }
            ';' => !quoted,
            _ => false,
        }
    })
}

fn unquoted(value: &str) -> String {
    let Some(inside) = value.strip_prefix('"') else {
        return value.trim_end().to_owned();
    };
    let mut text = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => text.extend(characters.next()),
            _ => text.push(character),
        }
    }
    text.trim_end().to_owned()
}

/// Lines with their ends.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr(b'\n', self.0).map_or(self.0.len(), |end| end + 1);
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}

/// Header fields with their continuation lines.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut lines = Lines(self.0);
        let mut end = lines.next()?.len();
        for line in lines {
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                break;
            }
            end += line.len();
        }
        let (field, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(field)
    }
}

/// One part: the delimiter with the line end before it and the one after it, and the content.
pub(super) struct Part<'a> {
    pub(super) delimiter: &'a [u8],
    pub(super) content: &'a [u8],
}

/// Walks through the body of a multipart. Delimiter, content, delimiter, content
/// … closing delimiter, epilogue: put together they are the body again.
pub(super) struct Multipart<'a> {
    body: &'a [u8],
    boundary: &'a str,
    /// The delimiter that was found last.
    found: Option<Delimiter>,
}

#[derive(Clone, Copy)]
struct Delimiter {
    /// Where it begins, the line end before it included.
    start: usize,
    /// Where the next line begins.
    end: usize,
    closing: bool,
}

impl<'a> Multipart<'a> {
    pub(super) fn new(body: &'a [u8], boundary: &'a str) -> Self {
        Self { body, boundary, found: None }
    }

    /// What comes before the first delimiter; `None` when there is no delimiter.
    pub(super) fn preamble(&mut self) -> Option<&'a [u8]> {
        let first = self.find(0)?;
        self.found = Some(first);
        self.body.get(..first.start)
    }

    /// The next part; `None` at the closing delimiter.
    pub(super) fn next_part(&mut self) -> Option<Part<'a>> {
        let here = self.found.filter(|found| !found.closing)?;
        let next = self.find(here.end);
        self.found = next;
        let end = next.map_or(self.body.len(), |next| next.start);
        if next.is_none() {
            // No closing delimiter: the part goes to the end, and nothing is left.
            self.found = Some(Delimiter { start: end, end, closing: true });
        }
        Some(Part { delimiter: self.body.get(here.start..here.end)?, content: self.body.get(here.end..end)? })
    }

    /// The closing delimiter and what follows it.
    pub(super) fn end(self) -> (&'a [u8], &'a [u8]) {
        let (start, end) = self.found.map_or((0, 0), |found| (found.start, found.end));
        (self.body.get(start..end).unwrap_or_default(), self.body.get(end..).unwrap_or_default())
    }

    /// The first delimiter line that begins at or after `from`, which is the start of a line.
    fn find(&self, from: usize) -> Option<Delimiter> {
        let mut at = from;
        for line in Lines(self.body.get(from..)?) {
            let end = at + line.len();
            if let Some(closing) = self.is_delimiter(line) {
                return Some(Delimiter { start: self.line_end_before(at, from), end, closing });
            }
            at = end;
        }
        None
    }

    /// `--boundary` or `--boundary--`, then white space only.
    fn is_delimiter(&self, line: &[u8]) -> Option<bool> {
        let rest = line.strip_prefix(b"--")?.strip_prefix(self.boundary.as_bytes())?;
        match rest.trim_ascii_end() {
            b"" => Some(false),
            b"--" => Some(true),
            _ => None,
        }
    }

    /// The line end before a delimiter belongs to it (RFC 2046 §5.1.1), unless it ends the delimiter before.
    fn line_end_before(&self, at: usize, from: usize) -> usize {
        let before = self.body.get(from..at).unwrap_or_default();
        at - if before.ends_with(b"\r\n") { 2 } else { usize::from(before.ends_with(b"\n")) }
    }
}
