//! One session of the receiver: a plain reading of RFC 5321, 3030 (BDAT) and
//! 3207 (STARTTLS), strict about line ends and generous about everything else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{Act, Moment, Recipient, Shared, Stage, Transaction, lock};

enum Wire {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

struct Session<'a> {
    wire: Option<Wire>,
    buffer: Vec<u8>,
    number: u64,
    source: SocketAddr,
    shared: &'a Shared,
    helo: String,
    tls: Option<String>,
    transactions: u64,
    /// Index in the shared list of the transaction that is open.
    open: Option<usize>,
}

/// Why the session is over. It carries nothing: whoever asks looks at the records.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

pub(super) fn serve(socket: TcpStream, number: u64, source: SocketAddr, shared: &Shared) {
    let mut session = Session {
        wire: Some(Wire::Plain(socket)),
        buffer: Vec::new(),
        number,
        source,
        shared,
        helo: String::new(),
        tls: None,
        transactions: 0,
        open: None,
    };
    let _ = session.run();
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), Over> {
        self.answer(Stage::Connect, "", format!("220 {} ESMTP", self.shared.name))?;
        loop {
            let line = self.line()?;
            self.shared.command(self.number, &line);
            let (verb, rest) = line.split_once(' ').unwrap_or((line.as_str(), ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" => self.ehlo(rest)?,
                "STARTTLS" => self.starttls()?,
                "MAIL" => self.mail(rest)?,
                "RCPT" => self.rcpt(rest)?,
                "DATA" => self.data()?,
                "BDAT" => self.bdat(rest)?,
                "RSET" => {
                    self.open = None;
                    self.say("250 2.0.0 Ok")?;
                }
                "NOOP" => self.say("250 2.0.0 Ok")?,
                "QUIT" => {
                    self.shared.close(self.number);
                    self.say("221 2.0.0 Bye")?;
                    return Ok(());
                }
                _ => self.say("500 5.5.1 What?")?,
            }
        }
    }

    fn ehlo(&mut self, name: &str) -> Result<(), Over> {
        name.clone_into(&mut self.helo);
        let mut keywords = lock(&self.shared.capabilities).clone();
        if self.tls.is_none() && lock(&self.shared.tls).is_some() {
            keywords.push("STARTTLS".to_owned());
        }
        let mut lines = vec![self.shared.name.clone()];
        lines.extend(keywords);
        let last = lines.len() - 1;
        let reply: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(index, line)| format!("250{}{line}", if index == last { ' ' } else { '-' }))
            .collect();
        self.answer(Stage::Ehlo, "", reply.join("\n"))
    }

    fn starttls(&mut self) -> Result<(), Over> {
        let Some(server) = lock(&self.shared.tls).clone() else {
            return self.say("502 5.5.1 No TLS here");
        };
        self.say("220 2.0.0 Go ahead")?;
        if !self.buffer.is_empty() {
            self.buffer.clear();
        }
        let Some(Wire::Plain(mut socket)) = self.wire.take() else { return Err(Over) };
        let mut connection = rustls::ServerConnection::new(server).map_err(|_| Over)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        self.tls = connection.protocol_version().map(|version| format!("{version:?}"));
        self.wire = Some(Wire::Tls(Box::new(rustls::StreamOwned::new(connection, socket))));
        Ok(())
    }

    fn mail(&mut self, rest: &str) -> Result<(), Over> {
        let (sender, parameters) = path(rest, "FROM:");
        self.transactions += 1;
        let transaction = Transaction {
            connection: self.number,
            number: self.transactions,
            source: self.source,
            helo: self.helo.clone(),
            tls: self.tls.clone(),
            sender,
            parameters,
            recipients: Vec::new(),
            content: Vec::new(),
            chunked: false,
            mail_at: Instant::now(),
            content_at: None,
            replied_at: None,
            reply: None,
            faults: Vec::new(),
        };
        let mut all = lock(&self.shared.transactions);
        all.push(transaction);
        self.open = Some(all.len() - 1);
        drop(all);
        let reply = self.act(Stage::Mail, "", "250 2.1.0 Ok".to_owned())?;
        if !reply.starts_with('2') {
            self.open = None;
        }
        self.say(&reply)
    }

    fn rcpt(&mut self, rest: &str) -> Result<(), Over> {
        if self.open.is_none() {
            return self.say("503 5.5.1 MAIL first");
        }
        let (address, parameters) = path(rest, "TO:");
        match self.act(Stage::Rcpt, &address, "250 2.1.5 Ok".to_owned())? {
            reply if reply.starts_with('2') => {
                if let Some(open) = self.open {
                    lock(&self.shared.transactions)[open].recipients.push(Recipient { address, parameters });
                }
                self.say(&reply)
            }
            reply => self.say(&reply),
        }
    }

    fn data(&mut self) -> Result<(), Over> {
        if self.recipients() == 0 {
            return self.say("554 5.5.1 No valid recipients");
        }
        let reply = self.act(Stage::Data, "", "354 Go ahead".to_owned())?;
        self.say(&reply)?;
        if !reply.starts_with('3') {
            self.open = None;
            return Ok(());
        }
        let mut content = Vec::new();
        loop {
            let mut line = self.raw_line()?;
            if line == b".\r\n" {
                break;
            }
            if line.first() == Some(&b'.') {
                line.remove(0);
            }
            content.extend_from_slice(&line);
        }
        self.finish(content, false)
    }

    fn bdat(&mut self, rest: &str) -> Result<(), Over> {
        let mut words = rest.split_ascii_whitespace();
        let length: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let mut chunk = self.exactly(length)?;
        if self.recipients() == 0 {
            return self.say("554 5.5.1 No valid recipients");
        }
        let Some(open) = self.open else { return self.say("503 5.5.1 MAIL first") };
        let mut content = std::mem::take(&mut lock(&self.shared.transactions)[open].content);
        content.append(&mut chunk);
        if last {
            return self.finish(content, true);
        }
        lock(&self.shared.transactions)[open].content = content;
        self.say(&format!("250 2.0.0 {length} octets"))
    }

    fn finish(&mut self, content: Vec<u8>, chunked: bool) -> Result<(), Over> {
        let Some(open) = self.open else { return Err(Over) };
        {
            let mut all = lock(&self.shared.transactions);
            let transaction = &mut all[open];
            transaction.faults = faults(&content);
            transaction.content = content;
            transaction.chunked = chunked;
            transaction.content_at = Some(Instant::now());
        }
        let reply = self.act(Stage::Final, "", format!("250 2.0.0 Ok: kept as {}", open + 1))?;
        self.open = None;
        self.say(&reply)
    }

    fn recipients(&self) -> usize {
        self.open.map_or(0, |open| lock(&self.shared.transactions)[open].recipients.len())
    }

    /// Asks the script and says what it wants said.
    fn answer(&mut self, stage: Stage, recipient: &str, usual: String) -> Result<(), Over> {
        let reply = self.act(stage, recipient, usual)?;
        self.say(&reply)
    }

    /// Asks the script; gives the reply that is to be said.
    fn act(&mut self, stage: Stage, recipient: &str, usual: String) -> Result<String, Over> {
        // A copy, so that the script may look at the sink's own records.
        let open = self.open.map(|open| lock(&self.shared.transactions)[open].clone());
        let mut act = self.shared.ask(&Moment {
            stage,
            connection: self.number,
            source: self.source,
            transaction: self.transactions,
            sender: open.as_ref().map_or("", |open| &open.sender),
            recipient,
            recipients: open.as_ref().map_or(&[], |open| &open.recipients),
            content: open.as_ref().map_or(&[], |open| &open.content),
        });
        loop {
            let (reply, close) = match act {
                Act::Wait(wait, then) => {
                    std::thread::sleep(wait);
                    act = *then;
                    continue;
                }
                Act::Accept => (usual, false),
                Act::Reply(reply) => (reply, false),
                Act::ReplyAndClose(reply) => (reply, true),
                Act::Drop => return Err(Over),
            };
            if stage == Stage::Final
                && let Some(open) = self.open
            {
                let mut all = lock(&self.shared.transactions);
                all[open].replied_at = Some(Instant::now());
                all[open].reply = reply.get(..3).and_then(|code| code.parse().ok());
            }
            if close {
                self.say(&reply)?;
                return Err(Over);
            }
            return Ok(reply);
        }
    }

    fn say(&mut self, reply: &str) -> Result<(), Over> {
        let bytes = format!("{}\r\n", reply.replace('\n', "\r\n"));
        self.wire.as_mut().ok_or(Over)?.write(bytes.as_bytes())?;
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Over> {
        let mut piece = [0; 32768];
        match self.wire.as_mut().ok_or(Over)?.read(&mut piece)? {
            0 => Err(Over),
            count => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }

    /// One line up to and with LF.
    fn raw_line(&mut self) -> Result<Vec<u8>, Over> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.buffer[seen..].iter().position(|&byte| byte == b'\n') {
                return Ok(self.buffer.drain(..=seen + end).collect());
            }
            seen = self.buffer.len();
            if seen > 64 << 20 {
                return Err(Over);
            }
            self.fill()?;
        }
    }

    fn line(&mut self) -> Result<String, Over> {
        let line = self.raw_line()?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Over> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }
}

/// `FROM:<a@b> X=Y` to its address and parameters.
fn path(rest: &str, keyword: &str) -> (String, String) {
    let rest = rest.trim();
    let rest =
        rest.get(keyword.len()..).filter(|_| rest.to_ascii_uppercase().starts_with(keyword)).unwrap_or(rest).trim();
    let (address, parameters) = match rest.strip_prefix('<').and_then(|rest| rest.rsplit_once('>')) {
        Some((address, parameters)) => (address, parameters),
        None => rest.split_once(' ').unwrap_or((rest, "")),
    };
    (address.to_owned(), parameters.trim().to_owned())
}

/// What RFC 5321 §2.3.8 and §4.5.3.1.6 forbid in the bytes of a message.
fn faults(content: &[u8]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut start = 0;
    for (at, &byte) in content.iter().enumerate() {
        match byte {
            b'\n' => {
                if at == 0 || content[at - 1] != b'\r' {
                    faults.push(format!("bare LF at {at}"));
                }
                if at + 1 - start > 1000 {
                    faults.push(format!("line of {} octets at {start}", at + 1 - start));
                }
                start = at + 1;
            }
            b'\r' if content.get(at + 1) != Some(&b'\n') => faults.push(format!("bare CR at {at}")),
            0 => faults.push(format!("NUL at {at}")),
            _ => {}
        }
    }
    if start != content.len() {
        faults.push("the last line has no end".to_owned());
    }
    faults.truncate(20);
    faults
}
