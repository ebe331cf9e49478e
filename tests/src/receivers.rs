//! Receivers that nobody here wrote: Postfix's smtp-sink, aiosmtpd and
//! OpenSMTPD, each with a way to read what it kept.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;

use crate::certificates::Flaw;
use crate::ground::Ground;
use crate::tools::{self, Missing, Process};

/// A message as a receiver kept it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Envelope sender.
    pub sender: String,
    /// Envelope recipients.
    pub recipients: Vec<String>,
    /// The bytes.
    pub content: Vec<u8>,
}

fn log(ground: &Ground, name: &str) -> std::fs::File {
    std::fs::File::create(ground.path(name)).expect("make a log file")
}

/// Waits until somebody listens.
fn wait_open(process: &mut Process, address: SocketAddr, name: &str, log: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    let story = || std::fs::read_to_string(log).unwrap_or_default();
    while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
        if let Some(status) = process.ended() {
            panic!("{name} ended at its start ({status}): {}", story());
        }
        assert!(Instant::now() < end, "{name} does not listen at {address} after 20 s: {}", story());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Postfix's smtp-sink.
#[derive(Debug)]
pub struct SmtpSink {
    _process: Process,
    folder: PathBuf,
}

impl SmtpSink {
    /// Starts it. Each message is one file.
    pub fn start(ground: &Ground, address: SocketAddr) -> Result<Self, Missing> {
        let program = tools::find("smtp-sink")?;
        let folder = ground.path("smtp-sink");
        std::fs::create_dir_all(&folder).expect("make a folder for smtp-sink");
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            // Root must tell it to become somebody else, who can write into the folder.
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
                .expect("open the folder of smtp-sink");
            command.args(["-u", "nobody"]);
        }
        // -d: a file for each transaction; then the address and the backlog.
        command
            .arg("-d")
            .arg(folder.join("message."))
            .arg(format!("inet:{}:{}", address.ip(), address.port()))
            .arg("64")
            .stdout(Stdio::null())
            .stderr(log(ground, "smtp-sink.log"));
        let mut process = Process::start(&mut command);
        wait_open(&mut process, address, "smtp-sink", &ground.path("smtp-sink.log"));
        Ok(Self { _process: process, folder })
    }

    /// What it kept. Line ends are given as CRLF, though its files have LF.
    pub fn kept(&self) -> Vec<Kept> {
        kept_in(&self.folder, parse_sink)
    }
}

/// Every message in a folder, one a file, in the order of their contents.
fn kept_in(folder: &Path, parse: impl Fn(&[u8]) -> Option<Kept>) -> Vec<Kept> {
    let mut kept: Vec<Kept> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().filter_map(|entry| parse(&std::fs::read(entry.path()).ok()?)).collect())
        .unwrap_or_default();
    kept.sort_by(|one, other| one.content.cmp(&other.content));
    kept
}

/// smtp-sink writes `X-Client-Addr: … X-Mail-Args: … X-Rcpt-Args: …` and its `Received` before the message.
fn parse_sink(bytes: &[u8]) -> Option<Kept> {
    let (mut sender, mut recipients) = (String::new(), Vec::new());
    let mut rest = bytes;
    let mut received = false;
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let folded = line.starts_with([' ', '\t']);
        if let Some(value) = line.strip_prefix("X-Mail-Args: ") {
            sender = angle(value);
        } else if let Some(value) = line.strip_prefix("X-Rcpt-Args: ") {
            recipients.push(angle(value));
        } else if line.starts_with("Received: ") && !received {
            received = true;
        } else if !(line.starts_with("X-Client-") || line.starts_with("X-Helo-Args") || (received && folded)) {
            break;
        }
        rest = &rest[end + 1..];
    }
    // It ends each file with an empty line of its own.
    let content = crlf(rest.strip_suffix(b"\n")?);
    Some(Kept { sender, recipients, content })
}

fn angle(text: &str) -> String {
    text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(text, |(inside, _)| inside).to_owned()
}

fn crlf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    for &byte in bytes {
        if byte == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

/// aiosmtpd with a handler that keeps each message as a JSON line.
#[derive(Debug)]
pub struct Aiosmtpd {
    _process: Process,
    file: PathBuf,
}

impl Aiosmtpd {
    /// Starts it, offering STARTTLS with a certificate for `mx.aiosmtpd.test`, SMTPUTF8 and 8BITMIME.
    pub fn start(ground: &Ground, address: SocketAddr) -> Result<Self, Missing> {
        let python = tools::python()?;
        let file = ground.path("aiosmtpd.jsonl");
        let (certificate, key) = (ground.path("aiosmtpd.pem"), ground.path("aiosmtpd.key"));
        ground.authority().identity("mx.aiosmtpd.test", Flaw::None).write(&certificate, &key);
        let mut process = Process::start(
            Command::new(python)
                .arg(tools::file("receivers/aiosmtpd_receiver.py"))
                .args([address.ip().to_string(), address.port().to_string()])
                .args([&file, &certificate, &key])
                .stdout(Stdio::null())
                .stderr(log(ground, "aiosmtpd.log")),
        );
        wait_open(&mut process, address, "aiosmtpd", &ground.path("aiosmtpd.log"));
        Ok(Self { _process: process, file })
    }

    /// What it kept.
    pub fn kept(&self) -> Vec<Kept> {
        std::fs::read_to_string(&self.file)
            .unwrap_or_default()
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|value| Kept {
                sender: value["sender"].as_str().unwrap_or_default().to_owned(),
                recipients: value["recipients"]
                    .as_array()
                    .map(|list| list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
                    .unwrap_or_default(),
                content: base64::engine::general_purpose::STANDARD
                    .decode(value["content"].as_str().unwrap_or_default())
                    .unwrap_or_default(),
            })
            .collect()
    }
}

/// OpenSMTPD as Debian ships it, unpacked and not installed, in a private view
/// of the file system where its users exist. It delivers to a Maildir.
#[derive(Debug)]
pub struct OpenSmtpd {
    _process: Process,
    maildir: PathBuf,
}

impl OpenSmtpd {
    /// Starts it for every domain, offering STARTTLS with a certificate for `mx.opensmtpd.test`.
    pub fn start(ground: &Ground, address: SocketAddr) -> Result<Self, Missing> {
        let folder = ground.path("opensmtpd");
        let rules = format!(
            "table users {{ \"@\" = \"receiver\" }}\n\
             action \"keep\" maildir \"{folder}/mail\" virtual <users>\n\
             match from any for any action \"keep\"\n",
            folder = folder.display(),
        );
        Self::start_with(ground, address, &rules)
    }

    /// Starts it as a relay: mail for the domain `back` goes to one host, all other mail to the other. What the
    /// other refuses it returns to the sender.
    pub fn relay(
        ground: &Ground,
        address: SocketAddr,
        to: SocketAddr,
        back: (&str, SocketAddr),
    ) -> Result<Self, Missing> {
        let rules = format!(
            "action \"back\" relay host \"smtp://{}\"\naction \"on\" relay host \"smtp://{to}\"\n\
             match from any for domain \"{}\" action \"back\"\nmatch from any for any action \"on\"\n",
            back.1, back.0,
        );
        Self::start_with(ground, address, &rules)
    }

    fn start_with(ground: &Ground, address: SocketAddr, rules: &str) -> Result<Self, Missing> {
        tools::root()?;
        let unpacked = tools::folder().join("deb/opensmtpd");
        let installed = Path::new("/usr/sbin/smtpd").is_file();
        if !unpacked.join("usr/sbin/smtpd").is_file() && !installed {
            return Err(Missing("OpenSMTPD in .tools/deb/opensmtpd".to_owned()));
        }
        let folder = ground.path("opensmtpd");
        std::fs::create_dir_all(&folder).expect("make a folder for OpenSMTPD");
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        ground.authority().identity("mx.opensmtpd.test", Flaw::None).write(&certificate, &key);
        let configuration = format!(
            "pki here cert \"{certificate}\"\npki here key \"{key}\"\n\
             listen on {ip} port {port} hostname mx.opensmtpd.test tls pki here\n{rules}",
            certificate = certificate.display(),
            key = key.display(),
            ip = address.ip(),
            port = address.port(),
        );
        let file = folder.join("smtpd.conf");
        std::fs::File::create(&file)
            .and_then(|mut file| file.write_all(configuration.as_bytes()))
            .expect("write smtpd.conf");
        let mut process = Process::start(
            Command::new("unshare")
                // Its own mounts, and its own process numbers: when the first process dies, all die.
                .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL", "sh"])
                .arg(tools::file("receivers/opensmtpd.sh"))
                .arg(&unpacked)
                .arg(&folder)
                .stdout(Stdio::null())
                .stderr(log(ground, "opensmtpd.log")),
        );
        wait_open(&mut process, address, "OpenSMTPD", &ground.path("opensmtpd.log"));
        Ok(Self { _process: process, maildir: folder.join("mail/new") })
    }

    /// What it kept: one for each recipient. Its own headers are cut off; line ends are given as CRLF.
    pub fn kept(&self) -> Vec<Kept> {
        kept_in(&self.maildir, parse_maildir)
    }
}

/// `Return-Path`, `Delivered-To` and a folded `Received` stand before the message.
fn parse_maildir(bytes: &[u8]) -> Option<Kept> {
    let (mut sender, mut recipients) = (String::new(), Vec::new());
    let mut rest = bytes;
    let mut received = false;
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        if let Some(value) = line.strip_prefix("Return-Path: ") {
            sender = angle(value);
        } else if let Some(value) = line.strip_prefix("Delivered-To: ") {
            recipients.push(angle(value));
        } else if line.starts_with("Received: ") && !received {
            received = true;
        } else if !(received && line.starts_with([' ', '\t'])) {
            break;
        }
        rest = &rest[end + 1..];
    }
    Some(Kept { sender, recipients, content: crlf(rest) })
}
