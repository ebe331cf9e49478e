//! An authoritative name server with just the names that a test gives it, and
//! the faults that it asks for: silence, SERVFAIL. Everything else is NXDOMAIN.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::ground::{Ground, NAMES_PORT};
use crate::sink::lock;

/// One piece of data at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Datum {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Mx(u16, String),
    Cname(String),
    Txt(String),
}

/// How a name answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Data(Vec<Datum>),
    Silence,
    Failure,
    /// SERVFAIL for this kind, no data of any other.
    FailureOf(u16),
}

type Zone = BTreeMap<String, Answer>;

/// The name server. It stops when dropped.
#[derive(Debug)]
pub struct Names {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    questions: Arc<Mutex<Vec<(String, u16)>>>,
    stopped: Arc<AtomicBool>,
}

impl Names {
    /// A server at address 53 of the ground.
    ///
    /// # Panics
    /// When its address cannot be bound.
    pub fn new(ground: &Ground) -> Self {
        let address = ground.at(53, NAMES_PORT);
        let udp = UdpSocket::bind(address).expect("bind the name server (UDP)");
        let tcp = TcpListener::bind(address).expect("bind the name server (TCP)");
        udp.set_read_timeout(Some(Duration::from_millis(100))).expect("a read timeout");
        let names = Self {
            address,
            zone: Arc::default(),
            questions: Arc::default(),
            stopped: Arc::new(AtomicBool::new(false)),
        };
        let (zone, questions, stopped) =
            (Arc::clone(&names.zone), Arc::clone(&names.questions), Arc::clone(&names.stopped));
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((length, peer)) = udp.recv_from(&mut packet) else { continue };
                if let Some(answer) = answer(&packet[..length], &zone, &questions) {
                    let _ = udp.send_to(&answer, peer);
                }
            }
        });
        let (zone, questions, stopped) =
            (Arc::clone(&names.zone), Arc::clone(&names.questions), Arc::clone(&names.stopped));
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (zone, questions) = (Arc::clone(&zone), Arc::clone(&questions));
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(stream, &zone, &questions));
                }
            }
        });
        names
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn add(&self, name: &str, datum: Datum) -> &Self {
        let mut zone = lock(&self.zone);
        match zone.entry(name.to_ascii_lowercase()).or_insert_with(|| Answer::Data(Vec::new())) {
            Answer::Data(data) => data.push(datum),
            other => *other = Answer::Data(vec![datum]),
        }
        drop(zone);
        self
    }

    /// An MX.
    pub fn mx(&self, domain: &str, preference: u16, host: &str) -> &Self {
        self.add(domain, Datum::Mx(preference, host.to_owned()))
    }

    /// `MX 0 .` (RFC 7505).
    pub fn null_mx(&self, domain: &str) -> &Self {
        self.add(domain, Datum::Mx(0, String::new()))
    }

    /// An address.
    pub fn a(&self, host: &str, address: Ipv4Addr) -> &Self {
        self.add(host, Datum::A(address))
    }

    /// An IPv6 address.
    pub fn aaaa(&self, host: &str, address: Ipv6Addr) -> &Self {
        self.add(host, Datum::Aaaa(address))
    }

    /// An alias.
    pub fn cname(&self, name: &str, target: &str) -> &Self {
        self.add(name, Datum::Cname(target.to_owned()))
    }

    /// A text.
    pub fn txt(&self, name: &str, text: &str) -> &Self {
        self.add(name, Datum::Txt(text.to_owned()))
    }

    /// A domain with one MX `mx.DOMAIN` at this address.
    pub fn domain(&self, domain: &str, address: Ipv4Addr) -> &Self {
        let host = format!("mx.{domain}");
        self.mx(domain, 10, &host).a(&host, address)
    }

    /// A name without data of any kind.
    pub fn empty(&self, name: &str) -> &Self {
        lock(&self.zone).insert(name.to_ascii_lowercase(), Answer::Data(Vec::new()));
        self
    }

    /// Questions about this name are not answered.
    pub fn silence(&self, name: &str) -> &Self {
        lock(&self.zone).insert(name.to_ascii_lowercase(), Answer::Silence);
        self
    }

    /// Questions about this name get SERVFAIL.
    pub fn failure(&self, name: &str) -> &Self {
        lock(&self.zone).insert(name.to_ascii_lowercase(), Answer::Failure);
        self
    }

    /// Questions about IPv4 addresses of this name get SERVFAIL; it has nothing else.
    pub fn failure_of_a(&self, name: &str) -> &Self {
        lock(&self.zone).insert(name.to_ascii_lowercase(), Answer::FailureOf(A));
        self
    }

    /// Forgets a name.
    pub fn forget(&self, name: &str) -> &Self {
        lock(&self.zone).remove(&name.to_ascii_lowercase());
        self
    }

    /// What was asked: name and type, in order.
    pub fn questions(&self) -> Vec<(String, u16)> {
        lock(&self.questions).clone()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, zone: &Mutex<Zone>, questions: &Mutex<Vec<(String, u16)>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    loop {
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut packet).is_err() {
            return;
        }
        let Some(answer) = answer(&packet, zone, questions) else { continue };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        if stream.write_all(&length.to_be_bytes()).and_then(|()| stream.write_all(&answer)).is_err() {
            return;
        }
    }
}

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;

fn answer(packet: &[u8], zone: &Mutex<Zone>, questions: &Mutex<Vec<(String, u16)>>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    let question = packet.get(12..at + 4)?;
    let name = labels.join(".");
    lock(questions).push((name.clone(), kind));

    let zone = lock(zone);
    let below = format!(".{name}");
    let (code, records): (u16, Vec<Vec<u8>>) = match zone.get(&name) {
        Some(Answer::Silence) => return None,
        Some(Answer::Failure) => (2, Vec::new()),
        Some(Answer::FailureOf(failing)) => (if *failing == kind { 2 } else { 0 }, Vec::new()),
        Some(Answer::Data(data)) => (0, data.iter().filter_map(|datum| record(&name, kind, datum)).collect()),
        // An empty non-terminal exists (RFC 8020).
        None if zone.keys().any(|known| known.ends_with(&below)) => (0, Vec::new()),
        None => (3, Vec::new()),
    };
    let recursion = u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]) & 0x0100;
    let negative = records.is_empty() && code != 2;
    let mut out = packet.get(..2)?.to_vec();
    out.extend((0x8480 | recursion | code).to_be_bytes());
    out.extend(1u16.to_be_bytes());
    out.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    out.extend(u16::from(negative).to_be_bytes());
    out.extend(0u16.to_be_bytes());
    out.extend(question);
    for record in records {
        out.extend(record);
    }
    if negative {
        // Negative answers are kept for one second (RFC 2308 §5), so that a test may change its mind.
        let mut data = encode("ns.test");
        data.extend(encode("hostmaster.test"));
        for number in [1u32, 3600, 600, 86400, 1] {
            data.extend(number.to_be_bytes());
        }
        out.extend(resource("test", SOA, 1, &data));
    }
    Some(out)
}

fn record(name: &str, kind: u16, datum: &Datum) -> Option<Vec<u8>> {
    let (has, data) = match datum {
        Datum::A(address) => (A, address.octets().to_vec()),
        Datum::Aaaa(address) => (AAAA, address.octets().to_vec()),
        Datum::Cname(target) => (CNAME, encode(target)),
        Datum::Txt(text) => {
            let parts = text.as_bytes().chunks(255);
            (TXT, parts.flat_map(|part| std::iter::once(part.len() as u8).chain(part.iter().copied())).collect())
        }
        Datum::Mx(preference, host) => {
            let mut data = preference.to_be_bytes().to_vec();
            data.extend(encode(host));
            (MX, data)
        }
    };
    (has == kind || has == CNAME).then(|| resource(name, has, 60, &data))
}

fn resource(name: &str, kind: u16, life: u32, data: &[u8]) -> Vec<u8> {
    let mut out = encode(name);
    out.extend(kind.to_be_bytes());
    out.extend(1u16.to_be_bytes());
    out.extend(life.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend(data);
    out
}

fn encode(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}
