//! A submitting client that can also misbehave: it speaks raw SMTP, sends any
//! bytes at any moment and reads replies one at a time.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code.
    pub code: u16,
    /// The lines without code.
    pub lines: Vec<String>,
}

impl Reply {
    /// The enhanced code at the start of the first line, or nothing.
    pub fn enhanced(&self) -> &str {
        let first = self.lines.first().map_or("", String::as_str);
        let word = first.split(' ').next().unwrap_or("");
        if word.split('.').count() == 3 && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            word
        } else {
            ""
        }
    }

    /// `550 5.7.1`, or the code alone.
    pub fn codes(&self) -> String {
        format!("{} {}", self.code, self.enhanced()).trim_end().to_owned()
    }

    /// Whether one line begins with `keyword` (EHLO).
    pub fn offers(&self, keyword: &str) -> bool {
        self.lines.iter().any(|line| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join(" / "))
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

/// One connection to a server.
pub struct Client {
    wire: Option<Wire>,
    buffer: Vec<u8>,
    /// The greeting.
    pub greeting: Reply,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.greeting)
    }
}

fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
    let socket = TcpStream::from(socket);
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket)
}

fn nothing() -> Reply {
    Reply { code: 0, lines: Vec::new() }
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::start(connect(to, None)?)
    }

    /// Connects from an address of one's own.
    pub fn connect_from(to: SocketAddr, from: IpAddr) -> io::Result<Self> {
        Self::start(connect(to, Some(from))?)
    }

    /// Connects, sends `first` (a PROXY header) and reads the greeting.
    pub fn connect_saying(to: SocketAddr, from: Option<IpAddr>, first: &[u8]) -> io::Result<Self> {
        let mut socket = connect(to, from)?;
        socket.write_all(first)?;
        Self::start(socket)
    }

    /// Connects with TLS from the first byte.
    pub fn connect_tls(to: SocketAddr, trust: Arc<rustls::ClientConfig>, name: &str) -> io::Result<Self> {
        let mut client = Self { wire: Some(Wire::Plain(connect(to, None)?)), buffer: Vec::new(), greeting: nothing() };
        client.handshake(trust, name)?;
        client.greeting = client.read()?;
        Ok(client)
    }

    fn start(socket: TcpStream) -> io::Result<Self> {
        let mut client = Self { wire: Some(Wire::Plain(socket)), buffer: Vec::new(), greeting: nothing() };
        client.greeting = client.read()?;
        Ok(client)
    }

    /// Only the TLS handshake, after a `220` that the caller has read.
    pub fn handshake(&mut self, trust: Arc<rustls::ClientConfig>, name: &str) -> io::Result<()> {
        let Some(Wire::Plain(mut socket)) = self.wire.take() else {
            return Err(io::Error::other("TLS is on already"));
        };
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut connection = rustls::ClientConnection::new(trust, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        self.wire = Some(Wire::Tls(Box::new(rustls::StreamOwned::new(connection, socket))));
        Ok(())
    }

    /// Waits no longer than this for a reply.
    pub fn patience(&mut self, limit: Duration) {
        let socket = match self.wire.as_ref() {
            Some(Wire::Plain(socket)) => socket,
            Some(Wire::Tls(stream)) => &stream.sock,
            None => return,
        };
        let _ = socket.set_read_timeout(Some(limit));
    }

    /// Sends these bytes and nothing else.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.wire.as_mut() {
            Some(Wire::Plain(socket)) => socket.write_all(bytes),
            Some(Wire::Tls(stream)) => stream.write_all(bytes).and_then(|()| stream.flush()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads one reply. The end of the stream is an error of kind `UnexpectedEof`.
    pub fn read(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else {
                return Err(io::Error::other(format!("not a reply: {line:?}")));
            };
            lines.push(line.get(4..).unwrap_or("").to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            let mut piece = [0; 4096];
            let count = match self.wire.as_mut() {
                Some(Wire::Plain(socket)) => socket.read(&mut piece)?,
                Some(Wire::Tls(stream)) => stream.read(&mut piece)?,
                None => 0,
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&piece[..count]);
        }
    }

    /// Whether the server has closed, after at most `limit`; what it still said is read over.
    pub fn closed_within(&mut self, limit: Duration) -> bool {
        self.patience(limit);
        loop {
            match self.read() {
                Ok(_) => {}
                Err(error) => {
                    return matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                    );
                }
            }
        }
    }

    /// One command, one reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.read()
    }

    /// EHLO.
    pub fn ehlo(&mut self) -> io::Result<Reply> {
        self.command("EHLO client.test")
    }

    /// STARTTLS, handshake, EHLO.
    pub fn starttls(&mut self, trust: Arc<rustls::ClientConfig>, name: &str) -> io::Result<Reply> {
        let reply = self.command("STARTTLS")?;
        if reply.code != 220 {
            return Ok(reply);
        }
        self.handshake(trust, name)?;
        self.ehlo()
    }

    /// AUTH PLAIN with an initial response.
    pub fn auth_plain(&mut self, user: &str, password: &str) -> io::Result<Reply> {
        self.command(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}"))))
    }

    /// MAIL and RCPTs and the data; gives the last reply, which is the first refusal if there is one.
    pub fn submit(&mut self, sender: &str, recipients: &[&str], content: &[u8]) -> io::Result<Reply> {
        let reply = self.command(&format!("MAIL FROM:<{sender}>"))?;
        if reply.code != 250 {
            return Ok(reply);
        }
        for recipient in recipients {
            let reply = self.command(&format!("RCPT TO:<{recipient}>"))?;
            if reply.code / 100 != 2 {
                return Ok(reply);
            }
        }
        self.data(content)
    }

    /// DATA and the message; gives the final reply.
    pub fn data(&mut self, content: &[u8]) -> io::Result<Reply> {
        let reply = self.command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.send(&crate::message::stuffed(content))?;
        self.read()
    }

    /// QUIT.
    pub fn quit(mut self) {
        let _ = self.command("QUIT");
    }
}
