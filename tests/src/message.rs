//! Messages to send, and ways to take apart what arrived.

/// A short message with these headers and body; line ends are CRLF.
pub fn simple(from: &str, to: &str, subject: &str, body: &str) -> Vec<u8> {
    format!("From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\n{}", crlf(body)).into_bytes()
}

/// LF to CRLF.
pub fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

/// Dots doubled and the final dot added, as DATA wants it.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    let mut at_start = true;
    for &byte in content {
        if at_start && byte == b'.' {
            out.push(b'.');
        }
        out.push(byte);
        at_start = byte == b'\n';
    }
    if !content.is_empty() && !content.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// Header block (with its empty line) and body.
pub fn split(content: &[u8]) -> (&[u8], &[u8]) {
    if content.starts_with(b"\r\n") {
        return content.split_at(2);
    }
    match content.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(at) => content.split_at(at + 4),
        None => (content, &[]),
    }
}

/// The unfolded values of a header, in order.
pub fn headers(content: &[u8], name: &str) -> Vec<String> {
    let (block, _) = split(content);
    let text = String::from_utf8_lossy(block).replace("\r\n ", " ").replace("\r\n\t", " ");
    text.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// The first value of a header, or nothing.
pub fn header(content: &[u8], name: &str) -> String {
    headers(content, name).into_iter().next().unwrap_or_default()
}

/// Whether `received` is `sent` below headers that were put before it.
pub fn ends_with(received: &[u8], sent: &[u8]) -> bool {
    received.ends_with(sent)
        && (received.len() == sent.len() || received[..received.len() - sent.len()].ends_with(b"\r\n"))
}
