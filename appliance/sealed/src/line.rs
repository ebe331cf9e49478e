//! How the opener is spoken with: a connection, a line of JSON, a line back, and it is over. Lines have a longest length, a time in
//! which they have to come, and so many at once.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postkeep_keys::wire::{LONGEST_LINE, Reply, Request};

/// Connections at once; the door has fewer, and the console one.
const MOST: usize = 32;
/// Whoever connects says what they want within this time, and takes the reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of memory or descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The opener could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Nobody is there, or they do not answer.
    #[error("the opener cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// See the text.
    #[error("the opener said what is not understood; are both of the same version?")]
    NotUnderstood,
}

/// Asks the opener behind `socket`, and waits `within` for its reply.
///
/// # Errors
/// It cannot be reached or understood.
pub fn ask(socket: &Path, request: &Request, within: Duration) -> Result<Reply, LineError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(within))?;
    let mut line = serde_json::to_vec(request).map_err(|_| LineError::NotUnderstood)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let line = read_line(&mut stream)?;
    serde_json::from_slice(&line).map_err(|_| LineError::NotUnderstood)
}

/// Serves at `listener` for ever: each line that comes is handed to `handle`, which is called by several threads at once.
pub fn serve(listener: &UnixListener, handle: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
    let (handle, busy) = (Arc::new(handle), Arc::new(AtomicUsize::new(0)));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if busy.fetch_add(1, Ordering::AcqRel) >= MOST {
            // Closed on at once.
            busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (handle, busy) = (Arc::clone(&handle), Arc::clone(&busy));
        std::thread::spawn(move || {
            // Whoever sent no line, or went away, is told nothing.
            let _ = converse(stream, &*handle);
            busy.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn converse(mut stream: UnixStream, handle: &dyn Fn(&Request) -> Reply) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let line = read_line(&mut stream)?;
    let reply = serde_json::from_slice(&line).map_or(Reply::Refused, |request| handle(&request));
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST_LINE as u64)).read_until(b'\n', &mut line)?;
    if line.pop() == Some(b'\n') { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn opener(handle: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || serve(&listener, handle));
        (folder, socket)
    }

    #[test]
    fn a_line_is_answered_and_rubbish_is_refused() {
        let (_folder, socket) = opener(|request| match request {
            Request::Token => Reply::Token { note: "the note".to_owned() },
            _ => Reply::Done,
        });
        let within = Duration::from_secs(5);
        assert_eq!(ask(&socket, &Request::Token, within).unwrap(), Reply::Token { note: "the note".to_owned() });
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(b"{\"request\":\"open-sesame\"}\n").unwrap();
        assert_eq!(read_line(&mut stream).unwrap(), b"{\"reply\":\"refused\"}");
        // A line without an end is not answered, one that is too long neither.
        for line in [b"{\"request\":\"token\"}".to_vec(), vec![b' '; LONGEST_LINE + 1]] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let _ = stream.write_all(&line);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            assert!(read_line(&mut stream).is_err());
        }
        assert!(
            ask(Path::new("/nowhere"), &Request::State, within).unwrap_err().to_string().contains("cannot be reached")
        );
    }

    #[test]
    fn no_more_than_so_many_are_served_at_once() {
        let (_folder, socket) = opener(|_| Reply::Done);
        let silent: Vec<UnixStream> = (0..MOST).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        let began = Instant::now();
        while ask(&socket, &Request::State, Duration::from_secs(5)).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(5), "the silent ones are not counted");
        }
        drop(silent);
        while ask(&socket, &Request::State, Duration::from_secs(5)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(8), "those who went are still counted");
        }
    }
}
