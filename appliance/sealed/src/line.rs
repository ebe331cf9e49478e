//! How the opener is spoken with: a connection, a line of JSON, a line back, and it is over. Lines have a longest length, a time in
//! which the whole of them has to come, and so many come at once.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
    let mut line = serde_json::to_vec(request).map_err(|_| LineError::NotUnderstood)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let line = read_line(&mut stream, within)?;
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
        let (handle, place) = (Arc::clone(&handle), Place(Arc::clone(&busy)));
        // Where no thread can be made, the connection is closed on, and the place given back.
        let _ = std::thread::Builder::new().spawn(move || {
            // Whoever sent no line, or went away, is told nothing.
            let _ = converse(stream, &*handle);
            drop(place);
        });
    }
}

/// A place among those that are served; given back also by a thread that falls over.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(mut stream: UnixStream, handle: &dyn Fn(&Request) -> Reply) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let line = read_line(&mut stream, PATIENCE)?;
    let reply = serde_json::from_slice(&line).map_or(Reply::Refused, |request| handle(&request));
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// A line, which comes `within` this time as a whole: not an octet now and then.
fn read_line(stream: &mut UnixStream, within: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + within;
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut piece)?;
        let piece = piece.get(..read).unwrap_or_default();
        if let Some(end) = piece.iter().position(|octet| *octet == b'\n') {
            line.extend_from_slice(&piece[..end]);
            return Ok(line);
        }
        line.extend_from_slice(piece);
        if read == 0 || line.len() > LONGEST_LINE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(read_line(&mut stream, within).unwrap(), b"{\"reply\":\"refused\"}");
        // A line without an end is not answered, one that is too long neither.
        for line in [b"{\"request\":\"token\"}".to_vec(), vec![b' '; LONGEST_LINE + 1]] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let _ = stream.write_all(&line);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            assert!(read_line(&mut stream, within).is_err());
        }
        assert!(
            ask(Path::new("/nowhere"), &Request::State, within).unwrap_err().to_string().contains("cannot be reached")
        );
    }

    #[test]
    fn a_line_that_comes_drop_by_drop_is_not_waited_for() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            while theirs.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        assert!(read_line(&mut ours, Duration::from_millis(300)).is_err());
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
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
