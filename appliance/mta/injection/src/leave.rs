//! The end of a connection whose client still sends. Octets that nobody has read when a connection is closed make the kernel
//! reset it, and the reset takes the answer away that the client had not read yet: why its call was refused. So what comes is
//! read for a moment longer, and forgotten.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A client that reads its answer ends the connection long before.
const MOMENT: Duration = Duration::from_secs(2);
/// As much of a body that nobody wants is read at most, in octets.
const MOST: usize = 16 << 20;

/// A connection that is not reset by its end.
pub(crate) struct Leaving<S> {
    stream: S,
    /// From the end of what we say on.
    until: Option<Pin<Box<Sleep>>>,
    left: usize,
}

impl<S> Leaving<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, until: None, left: MOST }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Leaving<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Leaving<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, until, left } = self.get_mut();
        let until = match until {
            Some(until) => until,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
                until.insert(Box::pin(tokio::time::sleep(MOMENT)))
            }
        };
        let mut forgotten = [0; 16 * 1024];
        while *left > 0 && until.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut forgotten);
            // Whoever is gone needs nothing any more.
            let Ok(()) = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)) else { break };
            match buffer.filled().len() {
                0 => break,
                read => *left = left.saturating_sub(read),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_client_that_sends_too_much_still_reads_why_it_was_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = tokio::spawn(async move {
            for _ in 0..20 {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = Leaving::new(stream);
                stream.read_exact(&mut [0; 10]).await.unwrap();
                stream.write_all(b"too large").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        for _ in 0..20 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&vec![0; 5 << 20]).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "too large");
        }
        door.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_sends_nor_goes_is_left_after_a_moment() {
        let (_client, stream) = tokio::io::duplex(64);
        Leaving::new(stream).shutdown().await.unwrap();
    }
}
