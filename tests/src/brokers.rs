//! Brokers that nobody here wrote, from Debian's packages, and consumers at them.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::certificates::Flaw;
use crate::ground::Ground;
use crate::tools::{self, Missing, Process};

/// RabbitMQ takes its time.
const START: Duration = Duration::from_secs(60);

/// The Python of `.tools/venv-brokers`, which has pika and nats-py.
pub fn python() -> Result<PathBuf, Missing> {
    let python = tools::folder().join("venv-brokers/bin/python");
    if python.is_file() { Ok(python) } else { Err(Missing("the Python environment .tools/venv-brokers".to_owned())) }
}

/// A broker as a process; it ends when dropped.
#[derive(Debug)]
pub struct Broker {
    _process: Process,
}

impl Broker {
    /// RabbitMQ as Debian ships it, unpacked and not installed, in a private view of the file system. Its data
    /// stay in the folder of the ground: it can be stopped and started again. Uses the two ports behind as well, and
    /// the third for TLS, with a certificate of the ground's authority for the address.
    ///
    /// # Panics
    /// When it does not start.
    pub fn rabbitmq(ground: &Ground, address: SocketAddr) -> Result<Self, Missing> {
        tools::root()?;
        let unpacked = tools::folder().join("deb/rabbitmq");
        if !unpacked.join("usr/sbin/rabbitmq-server").is_file() && !PathBuf::from("/usr/sbin/rabbitmq-server").is_file()
        {
            return Err(Missing("RabbitMQ in .tools/deb/rabbitmq".to_owned()));
        }
        let folder = ground.path("rabbitmq");
        std::fs::create_dir_all(&folder).expect("make a folder for RabbitMQ");
        let identity = ground.authority().identity(&address.ip().to_string(), Flaw::None);
        identity.write(&folder.join("certificate.pem"), &folder.join("key.pem"));
        let mut command = Command::new("unshare");
        command
            // Its own mounts, and its own process numbers: when the first process dies, all die.
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL", "sh"])
            .arg(tools::file("receivers/rabbitmq.sh"))
            .arg(unpacked)
            .arg(&folder)
            .args([address.ip().to_string(), address.port().to_string()]);
        Ok(Self::start(ground, "rabbitmq", command, address))
    }

    /// nats-server with JetStream.
    ///
    /// # Panics
    /// When it does not start.
    pub fn nats(ground: &Ground, address: SocketAddr) -> Result<Self, Missing> {
        let command = Command::new(tools::find("nats-server")?);
        Ok(Self::start_nats(ground, command, address))
    }

    /// The same, which takes TLS and one user only.
    ///
    /// # Panics
    /// When it does not start.
    pub fn nats_with_tls(ground: &Ground, address: SocketAddr, user: &str, password: &str) -> Result<Self, Missing> {
        let mut command = Command::new(tools::find("nats-server")?);
        let (certificate, key) = (ground.path("nats-certificate.pem"), ground.path("nats-key.pem"));
        ground.authority().identity(&address.ip().to_string(), Flaw::None).write(&certificate, &key);
        command.args(["--user", user, "--pass", password]);
        command.arg("--tls").arg("--tlscert").arg(certificate).arg("--tlskey").arg(key);
        Ok(Self::start_nats(ground, command, address))
    }

    fn start_nats(ground: &Ground, mut command: Command, address: SocketAddr) -> Self {
        command
            .args(["--addr", &address.ip().to_string(), "--port", &address.port().to_string()])
            .args(["--jetstream", "--store_dir"])
            .arg(ground.path("nats"));
        Self::start(ground, "nats-server", command, address)
    }

    fn start(ground: &Ground, name: &str, mut command: Command, address: SocketAddr) -> Self {
        let log = ground.path(&format!("{name}.log"));
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("open the broker's log");
        let mut process = Process::start(command.stdout(file.try_clone().expect("copy the log's handle")).stderr(file));
        let end = Instant::now() + START;
        let story = || std::fs::read_to_string(&log).unwrap_or_default();
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            if let Some(status) = process.ended() {
                panic!("{name} ended at its start ({status}): {}", story());
            }
            assert!(Instant::now() < end, "{name} does not listen at {address} after {START:?}: {}", story());
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { _process: process }
    }
}

/// A program that prints what it consumes, one JSON value a line.
#[derive(Debug)]
pub struct Consumer {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Consumer {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let out = child.stdout.take().expect("a pipe");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
                theirs.lock().expect("lines").push(value);
            }
        });
        Self { child, lines }
    }

    /// What it has printed.
    ///
    /// # Panics
    /// When a line was no JSON.
    pub fn lines(&self) -> Vec<Value> {
        self.lines.lock().expect("lines").clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
