//! The receiver's own reading of SMTP commands (RFC 5321 §4.1). It shares no
//! code with the product on purpose: a judge that reads with the eyes of the
//! judged sees nothing.

/// A command from the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// EHLO with its argument.
    Ehlo(String),
    /// HELO with its argument.
    Helo(String),
    /// STARTTLS.
    StartTls,
    /// MAIL FROM.
    Mail {
        /// The address without brackets; empty for the null sender.
        address: String,
        /// What follows it.
        parameters: Vec<String>,
    },
    /// RCPT TO.
    Rcpt {
        /// The address without brackets.
        address: String,
        /// What follows it.
        parameters: Vec<String>,
    },
    /// DATA.
    Data,
    /// BDAT (RFC 3030).
    Bdat {
        /// Octets that follow.
        size: u64,
        /// Whether the message ends with them.
        last: bool,
    },
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// Anything else.
    Other,
}

/// Reads one command line without its CRLF.
pub(crate) fn parse(line: &[u8]) -> Command {
    let Ok(line) = std::str::from_utf8(line) else { return Command::Other };
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim_end();
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" if !rest.is_empty() => Command::Ehlo(rest.to_owned()),
        "HELO" if !rest.is_empty() => Command::Helo(rest.to_owned()),
        "STARTTLS" if rest.is_empty() => Command::StartTls,
        "MAIL" => {
            path(rest, "FROM:").map_or(Command::Other, |(address, parameters)| Command::Mail { address, parameters })
        }
        "RCPT" => match path(rest, "TO:") {
            Some((address, parameters)) if !address.is_empty() => Command::Rcpt { address, parameters },
            _ => Command::Other,
        },
        "DATA" if rest.is_empty() => Command::Data,
        "BDAT" => {
            let mut words = rest.split_ascii_whitespace();
            let size = words.next().and_then(|word| word.parse().ok());
            let last = words.next();
            match (size, last, words.next()) {
                (Some(size), None, None) => Command::Bdat { size, last: false },
                (Some(size), Some(word), None) if word.eq_ignore_ascii_case("LAST") => {
                    Command::Bdat { size, last: true }
                }
                _ => Command::Other,
            }
        }
        "RSET" if rest.is_empty() => Command::Rset,
        "NOOP" => Command::Noop,
        "QUIT" if rest.is_empty() => Command::Quit,
        _ => Command::Other,
    }
}

/// `FROM:<address> parameters`; brackets are needed, quoted local parts may hold `>`.
fn path(text: &str, keyword: &str) -> Option<(String, Vec<String>)> {
    let head = text.get(..keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let inner = text.get(keyword.len()..)?.strip_prefix('<')?;
    let mut quoted = false;
    let mut escaped = false;
    let end = inner.char_indices().find_map(|(place, character)| {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(place),
            _ => {}
        }
        None
    })?;
    let address = inner.get(..end)?.to_owned();
    let rest = inner.get(end + 1..)?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    Some((address, rest.split_ascii_whitespace().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_rfc_5321_writes_them() {
        assert_eq!(parse(b"EHLO a.test"), Command::Ehlo("a.test".into()));
        assert_eq!(
            parse(b"mail from:<a@b.test> SIZE=10 BODY=8BITMIME"),
            Command::Mail { address: "a@b.test".into(), parameters: vec!["SIZE=10".into(), "BODY=8BITMIME".into()] }
        );
        assert_eq!(parse(b"MAIL FROM:<>"), Command::Mail { address: String::new(), parameters: vec![] });
        assert_eq!(
            parse(b"RCPT TO:<\"a>b\"@c.test>"),
            Command::Rcpt { address: "\"a>b\"@c.test".into(), parameters: vec![] }
        );
        assert_eq!(parse(b"BDAT 86 LAST"), Command::Bdat { size: 86, last: true });
        assert_eq!(parse(b"BDAT 86"), Command::Bdat { size: 86, last: false });
        for bad in [&b"MAIL FROM: a@b.test"[..], b"RCPT TO:<>", b"RCPT TO:<a@b.test", b"DATA now", b"BDAT x", b"\xff"] {
            assert_eq!(parse(bad), Command::Other, "{}", String::from_utf8_lossy(bad));
        }
    }
}
