//! Reading bodies: no more octets, time and memory than a caller may have. Memory is taken as octets come, so that
//! whoever announces much and sends nothing keeps nobody else out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::problem::Problem;

/// Octets for the bodies of all callers, and for what they are parsed into.
const MEMORY: u64 = 512 << 20;
/// Octets of that for one token: the others always have as much.
const SHARE: u64 = MEMORY / 2;
/// A body is parsed into about as much again.
const PARSED: u64 = 2;
/// A body takes no longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Nor does it pause for longer.
const PAUSE: Duration = Duration::from_secs(30);

/// Memory for bodies.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    all: u64,
    by_token: HashMap<String, u64>,
}

/// A part of it, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Arc<Memory>,
    token: String,
    octets: u64,
}

impl Memory {
    /// Room for nothing yet.
    pub(crate) fn room(self: &Arc<Self>, token: &str) -> Room {
        Room { memory: Arc::clone(self), token: token.to_owned(), octets: 0 }
    }
}

impl Room {
    /// Takes more; false: there is none, and what was taken stays.
    fn grow(&mut self, octets: u64) -> bool {
        let mut used = self.memory.0.lock();
        let own = used.by_token.get(&self.token).copied().unwrap_or(0);
        let is_room = used.all + octets <= MEMORY && own + octets <= SHARE;
        if is_room {
            used.all += octets;
            used.by_token.insert(self.token.clone(), own + octets);
            self.octets += octets;
        }
        is_room
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.octets == 0 {
            return;
        }
        let mut used = self.memory.0.lock();
        used.all -= self.octets;
        let left = used.by_token.get(&self.token).map_or(0, |own| own - self.octets);
        if left == 0 {
            used.by_token.remove(&self.token);
        } else {
            used.by_token.insert(self.token.clone(), left);
        }
    }
}

/// Says that a body has more than `most` octets.
pub(crate) fn too_large(most: u64) -> Problem {
    let detail = format!("the body is larger than {most} octets");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "nothing was done", detail)
}

/// Reads a body of at most `most` octets, in memory that `room` takes.
///
/// # Errors
/// It is larger, comes too slowly, breaks off, or there is no memory for it.
pub(crate) async fn read(mut body: Body, most: u64, room: &mut Room) -> Result<Bytes, Problem> {
    let end = Instant::now() + PATIENCE;
    let mut octets = BytesMut::new();
    loop {
        let frame = match timeout_at(end.min(Instant::now() + PAUSE), body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(octets.freeze()),
            Ok(Some(Err(error))) => {
                let detail = format!("the body broke off: {error}");
                return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-request", "nothing was done", detail));
            }
            Err(_) => {
                return Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "timeout",
                    "the request took too long",
                    "send the body without pauses; with an Idempotency-Key it is safe to try again",
                ));
            }
        };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if octets.len() as u64 + data.len() as u64 > most {
            return Err(too_large(most));
        }
        if !room.grow(PARSED * data.len() as u64) {
            let detail = "the server has no memory for the body now";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "try-later", "nothing was done", detail));
        }
        octets.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bodies_are_read_within_their_limits_and_give_their_memory_back() {
        let memory = Arc::new(Memory::default());
        let mut room = memory.room("shop");
        assert_eq!(read(Body::from("body"), 4, &mut room).await.unwrap(), "body");
        assert_eq!((memory.0.lock().all, room.octets), (8, 8));
        drop(room);
        assert!(memory.0.lock().all == 0 && memory.0.lock().by_token.is_empty());
        let mut room = memory.room("shop");
        assert_eq!(read(Body::from("body"), 3, &mut room).await.unwrap_err().status, 413);
        // One that never ends is not waited for.
        let started = Instant::now();
        let (_sender, body) = http_body_util::channel::Channel::<Bytes>::new(1);
        assert_eq!(read(Body::new(body), 3, &mut room).await.unwrap_err().status, 408);
        assert_eq!(started.elapsed(), PAUSE);
    }

    #[test]
    fn one_token_leaves_room_for_the_others() {
        let memory = Arc::new(Memory::default());
        let (mut greedy, mut other) = (memory.room("greedy"), memory.room("other"));
        assert!(greedy.grow(SHARE) && !greedy.grow(1) && !memory.room("greedy").grow(1));
        assert!(other.grow(SHARE) && !memory.room("third").grow(1));
        drop(greedy);
        assert!(memory.room("third").grow(1));
    }
}
