//! Takes the records of a box elsewhere, which come as a webhook, and writes
//! them to a file as the box itself has written them, so that they are read
//! in the same way. What comes twice is written once.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::certificates::Authority;

/// Most octets of one request.
const LARGEST_REQUEST: usize = 64 << 20;
/// Wait for a handshake.
const PATIENCE: Duration = Duration::from_secs(60);
/// The file of records.
const FILE: &str = "records-from-the-box.jsonl";

/// The running receiver. It ends when it is dropped.
pub(crate) struct Events {
    task: AbortHandle,
}

/// What was taken.
struct Book {
    key: hmac::Key,
    pages: Mutex<Pages>,
}

struct Pages {
    file: File,
    seen: HashSet<String>,
}

#[derive(Deserialize)]
struct Batch {
    events: Vec<serde_json::Value>,
}

impl Events {
    /// Listens at an address, for events that are signed with `secret`, and writes them below `records`.
    pub(crate) async fn start(
        at: SocketAddr,
        secret: &str,
        records: &Path,
        authority: &Authority,
    ) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Io(format!("cannot take events at {at}: {error}"));
        let key = secret.strip_prefix("whsec_").unwrap_or(secret);
        let key = base64::engine::general_purpose::STANDARD
            .decode(key)
            .map_err(|error| Error::Configuration(format!("the secret of the box's events is no base64: {error}")))?;
        let book = Arc::new(Book { key: hmac::Key::new(hmac::HMAC_SHA256, &key), pages: Mutex::new(open(records)?) });
        let acceptor = TlsAcceptor::from(authority.leaf_of(vec![at.ip().to_string()])?.server()?);
        let listener = TcpListener::bind(at).await.map_err(failed)?;
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (acceptor, book) = (acceptor.clone(), Arc::clone(&book));
                tokio::spawn(async move {
                    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => stream,
                        Ok(Err(error)) => return log::debug!("no TLS with {peer}, who has events: {error}"),
                        Err(_) => return log::debug!("no TLS with {peer}, who has events, in time"),
                    };
                    let service = hyper::service::service_fn(|request| answer(&book, request));
                    if let Err(error) =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                    {
                        log::debug!("a connection with events from {peer} ended: {error}");
                    }
                });
            }
        });
        Ok(Self { task: task.abort_handle() })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The file, and the ids in it: a rehearsal that goes on remembers what it was told before.
fn open(records: &Path) -> Result<Pages, Error> {
    let path = records.join(FILE);
    let failed = |error: std::io::Error| Error::Io(format!("cannot write {}: {error}", path.display()));
    std::fs::create_dir_all(records).map_err(failed)?;
    let file = File::options().append(true).create(true).read(true).open(&path).map_err(failed)?;
    let mut seen = HashSet::new();
    for line in BufReader::new(File::open(&path).map_err(failed)?).lines() {
        let event: Option<serde_json::Value> = serde_json::from_str(&line.map_err(failed)?).ok();
        seen.extend(event.as_ref().and_then(id_of));
    }
    Ok(Pages { file, seen })
}

fn id_of(event: &serde_json::Value) -> Option<String> {
    event.get("id").and_then(|id| id.as_str()).map(str::to_owned)
}

async fn answer(book: &Book, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let status = match Limited::new(body, LARGEST_REQUEST).collect().await {
        Ok(body) => book.take(&head.headers, &body.to_bytes()),
        Err(error) => {
            log::warn!("events of the box could not be read: {error}");
            StatusCode::PAYLOAD_TOO_LARGE
        }
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

impl Book {
    fn take(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        if !self.is_signed(headers, body) {
            log::warn!("events with a wrong signature were refused");
            return StatusCode::UNAUTHORIZED;
        }
        let batch: Batch = match serde_json::from_slice(body) {
            Ok(batch) => batch,
            Err(error) => {
                log::warn!("what the box sent are no events: {error}");
                return StatusCode::BAD_REQUEST;
            }
        };
        match self.write(&batch.events) {
            Ok(()) => StatusCode::NO_CONTENT,
            Err(error) => {
                log::error!("events of the box could not be written: {error}");
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn write(&self, events: &[serde_json::Value]) -> std::io::Result<()> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = String::new();
        let mut fresh = Vec::new();
        for event in events {
            let id = id_of(event);
            if id.as_ref().is_some_and(|id| pages.seen.contains(id)) {
                continue;
            }
            lines.push_str(&event.to_string());
            lines.push('\n');
            fresh.extend(id);
        }
        pages.file.write_all(lines.as_bytes())?;
        pages.seen.extend(fresh);
        Ok(())
    }

    /// Whether the signature of Standard Webhooks is good.
    fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut signed = format!("{}.{}.", field("webhook-id"), field("webhook-timestamp")).into_bytes();
        signed.extend_from_slice(body);
        field("webhook-signature").split(' ').filter_map(|one| one.strip_prefix("v1,")).any(|sum| {
            let sum = base64::engine::general_purpose::STANDARD.decode(sum);
            sum.is_ok_and(|sum| hmac::verify(&self.key, &signed, &sum).is_ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(folder: &Path) -> Book {
        Book { key: hmac::Key::new(hmac::HMAC_SHA256, b"secret"), pages: Mutex::new(open(folder).unwrap()) }
    }

    #[test]
    fn an_event_that_comes_again_is_written_once_also_after_a_new_start() {
        let folder = tempfile::tempdir().unwrap();
        let events: Vec<serde_json::Value> =
            serde_json::from_str(r#"[{"id":"a","event":"delivered"},{"id":"b","event":"bounced"}]"#).unwrap();
        let first = book(folder.path());
        first.write(&events[..1]).unwrap();
        first.write(&events).unwrap();
        book(folder.path()).write(&events).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn events_without_the_signature_of_the_box_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let book = book(folder.path());
        let body = br#"{"events":[{"id":"a","event":"delivered"}]}"#;
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "msg_1".parse().unwrap());
        headers.insert("webhook-timestamp", "1".parse().unwrap());
        assert_eq!(book.take(&headers, body), StatusCode::UNAUTHORIZED);
        let sum = hmac::sign(&book.key, &[b"msg_1.1.".as_slice(), body].concat());
        let sum = base64::engine::general_purpose::STANDARD.encode(sum);
        headers.insert("webhook-signature", format!("v1,AAAA v1,{sum}").parse().unwrap());
        assert_eq!(book.take(&headers, body), StatusCode::NO_CONTENT);
        assert_eq!(book.take(&headers, b"{}"), StatusCode::UNAUTHORIZED);
    }
}
