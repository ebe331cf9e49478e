//! A receiver of webhooks with a script: it keeps every request, whatever it answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// What it does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This status, with further header lines.
    Status(u16, String),
    /// Reads the request and closes the connection.
    Close,
    /// Waits, then does the other.
    Wait(Duration, Box<Answer>),
}

impl Answer {
    /// A status.
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new())
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
    /// The body.
    pub body: Vec<u8>,
    /// When.
    pub at: Instant,
    /// It was answered 2xx.
    pub taken: bool,
}

impl Request {
    /// Its events.
    ///
    /// # Panics
    /// When the body is not what is documented.
    pub fn events(&self) -> Vec<Value> {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        body["events"].as_array().expect("events").clone()
    }

    /// As `oracles/webhook_check.py` reads it.
    pub fn line(&self) -> String {
        let body = base64::prelude::BASE64_STANDARD.encode(&self.body);
        json!({"id": self.id, "timestamp": self.timestamp, "signature": self.signature, "body": body}).to_string()
    }
}

type Script = Box<dyn FnMut(usize, &[u8]) -> Answer + Send>;

/// The receiver; it stops listening when dropped.
pub struct Hook {
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
}

impl Hook {
    /// Listens. The script is told the number of the request, from 0.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn at(address: SocketAddr, mut script: impl FnMut(usize) -> Answer + Send + 'static) -> Self {
        Self::listen(address, None, move |number, _| script(number))
    }

    /// The same with a script that is told the body.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn at_by_body(address: SocketAddr, mut script: impl FnMut(&[u8]) -> Answer + Send + 'static) -> Self {
        Self::listen(address, None, move |_, body| script(body))
    }

    /// The same behind TLS.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn at_with_tls(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        mut script: impl FnMut(usize) -> Answer + Send + 'static,
    ) -> Self {
        Self::listen(address, Some(tls), move |number, _| script(number))
    }

    fn listen(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        script: impl FnMut(usize, &[u8]) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("listen for webhooks");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (requests, script, tls) = (Arc::clone(&theirs), Arc::clone(&script), tls.clone());
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
                    match tls.map(rustls::ServerConnection::new) {
                        None => serve(stream, &requests, &script),
                        Some(session) => serve(rustls::StreamOwned::new(session.ok()?, stream), &requests, &script),
                    }
                });
            }
        });
        Self { requests, stop, address }
    }

    /// All requests so far.
    ///
    /// # Panics
    /// Never.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    /// Events of requests that were taken, in order, each as often as it came.
    pub fn taken(&self) -> Vec<Value> {
        self.requests().iter().filter(|request| request.taken).flat_map(Request::events).collect()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Serves one connection until something is wrong with it.
fn serve(stream: impl Read + Write, requests: &Mutex<Vec<Request>>, script: &Mutex<Script>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let field = |name: &str| {
            let lines = head.iter().filter_map(|line| line.split_once(':'));
            lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        let length: usize = field("content-length")?.parse().ok()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let number = requests.lock().expect("requests").len();
        let mut answer = script.lock().expect("script")(number, &body);
        requests.lock().expect("requests").push(Request {
            id: field("webhook-id")?,
            timestamp: field("webhook-timestamp")?,
            signature: field("webhook-signature")?,
            body,
            at: Instant::now(),
            taken: false,
        });
        while let Answer::Wait(wait, then) = answer {
            std::thread::sleep(wait);
            answer = *then;
        }
        let Answer::Status(status, headers) = answer else { return None };
        let text = format!("HTTP/1.1 {status} So\r\n{headers}Content-Length: 2\r\n\r\nOK");
        // Taken is what is about to be answered so: the daemon may be killed before it hears of it.
        if (200..300).contains(&status)
            && let Some(request) = requests.lock().expect("requests").get_mut(number)
        {
            request.taken = true;
        }
        reader.get_mut().write_all(text.as_bytes()).ok()?;
        reader.get_mut().flush().ok()?;
    }
}
