//! Octets: a stream that may change to TLS, replies, and the dots of data.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection in the clear, under TLS, or between the two.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Gone,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

/// `421 one\ntwo` becomes `421-one` and `421 two`.
pub(super) fn write_reply(out: &mut BytesMut, text: &str) {
    let (code, text) = text.split_once(' ').unwrap_or((text, ""));
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        out.extend_from_slice(code.as_bytes());
        out.extend_from_slice(if lines.peek().is_some() { b"-" } else { b" " });
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Undoes dot-stuffing (RFC 5321 §4.5.2).
pub(super) fn unstuff(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.strip_prefix(b".").unwrap_or(raw);
    while let Some(place) = memchr::memmem::find(rest, b"\r\n.") {
        let (line, after) = rest.split_at(place + 2);
        out.extend_from_slice(line);
        rest = after.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_dots_are_undone_and_nothing_else() {
        assert_eq!(unstuff(b"..a\r\n...b\r\n..\r\n.c.\r\n"), b".a\r\n..b\r\n.\r\nc.\r\n");
        assert_eq!(unstuff(b"a.b\r\nc\r\n"), b"a.b\r\nc\r\n");
    }

    #[test]
    fn replies_of_several_lines_repeat_their_code() {
        let mut out = BytesMut::new();
        write_reply(&mut out, "421 4.7.28 one\n4.7.28 two");
        assert_eq!(&out[..], b"421-4.7.28 one\r\n421 4.7.28 two\r\n");
    }
}
