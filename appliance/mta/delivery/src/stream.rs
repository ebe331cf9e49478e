//! The octet stream under the dialogue: plain TCP or TLS, read and written at the same time.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tokio_rustls::client::TlsStream;

/// Room for replies that is kept ready.
const READ_SIZE: usize = 4096;

/// A connected socket.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    OldTls(Box<SslStream<TcpStream>>),
}

/// What one turn of reading and writing brought.
#[derive(Debug)]
pub(crate) enum Event {
    /// So many octets were taken by the socket.
    Wrote(usize),
    /// Octets were added to the buffer.
    Read,
    /// The peer closed its side.
    Closed,
    /// Reading failed: nothing more will come.
    ReadFailed(io::Error),
    /// Writing failed; there may be something to read all the same.
    WriteFailed(io::Error),
}

impl Stream {
    /// Whether written octets may still wait in this process.
    pub(crate) fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::OldTls(_))
    }

    /// Reads what is there, else writes what the peer takes, else waits for either.
    /// Cancel-safe: nothing is lost when the future is dropped.
    pub(crate) async fn read_or_write(&mut self, buffer: &mut BytesMut, slices: &[IoSlice<'_>]) -> Event {
        poll_fn(|cx| {
            if let Poll::Ready(event) = self.poll_read(cx, buffer) {
                return Poll::Ready(event);
            }
            match self.poll_write(cx, slices) {
                Poll::Ready(Ok(0)) => Poll::Ready(Event::WriteFailed(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => Poll::Ready(Event::Wrote(written)),
                Poll::Ready(Err(error)) => Poll::Ready(Event::WriteFailed(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Pushes out what TLS still holds; reads meanwhile. `Wrote(0)` when all is out.
    pub(crate) async fn read_or_flush(&mut self, buffer: &mut BytesMut) -> Event {
        poll_fn(|cx| {
            // TCP holds nothing back, and a flushed TLS stream is done without a system call.
            let flushed = match self {
                Self::Plain(_) => Poll::Ready(Ok(())),
                Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
                Self::OldTls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            };
            match flushed {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::Wrote(0)),
                Poll::Ready(Err(error)) => return Poll::Ready(Event::WriteFailed(error)),
                Poll::Pending => {}
            }
            self.poll_read(cx, buffer)
        })
        .await
    }

    /// Waits for something to read. Cancel-safe.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> Event {
        poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    /// Reads what is there already, without waiting.
    pub(crate) async fn read_now(&mut self, buffer: &mut BytesMut) -> Option<Event> {
        poll_fn(|cx| match self.poll_read(cx, buffer) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Tells the peer that nothing more will come.
    pub(crate) async fn shutdown(&mut self) {
        let socket = match &*self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::OldTls(stream) => stream.get_ref(),
        };
        // What was said to the end is sent to the end; all else ends with a reset (see the connector).
        let _ = socket2::SockRef::from(socket).set_linger(None);
        // The connection is over whatever this says.
        let _ = match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
            Self::OldTls(stream) => stream.shutdown().await,
        };
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<Event> {
        if buffer.capacity() - buffer.len() < READ_SIZE / 4 {
            buffer.reserve(READ_SIZE);
        }
        let read = match self {
            Self::Plain(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Tls(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::OldTls(stream) => pin!(stream.read_buf(buffer)).poll(cx),
        };
        read.map(|result| match result {
            Ok(0) => Event::Closed,
            Ok(_) => Event::Read,
            Err(error) => Event::ReadFailed(error),
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
            Self::OldTls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }
}
