//! `postkeepd` as a process: started with a file, killed, restarted, asked
//! through its records, its metrics and the `postkeep` command.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::client::Client;
use crate::ground::{DOOR_PORT, Ground, METRICS_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use crate::settings::Settings;
use crate::tools::{self, Process};

/// Longest time from start to open doors.
const READY: Duration = Duration::from_secs(20);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The output as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The same, after a look at the status.
    ///
    /// # Panics
    /// When the command did not exit with 0.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.status, 0, "the command failed: {self:?}");
        self
    }
}

/// A running daemon. It is killed when dropped; when the test failed, the end of its log is shown.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    configuration: PathBuf,
    ready: PathBuf,
    log: PathBuf,
    records: PathBuf,
    socket: PathBuf,
    door: SocketAddr,
    submission: SocketAddr,
    submissions: SocketAddr,
    metrics: SocketAddr,
    wrapper: Vec<PathBuf>,
}

impl Daemon {
    /// Writes the configuration, starts the daemon and waits until its doors are open.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(ground: &Ground, settings: &Settings) -> Self {
        Self::start_under(ground, settings, &[])
    }

    /// The same, by a program that runs the command at the end of its arguments and keeps its process id.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_under(ground: &Ground, settings: &Settings, wrapper: &[&Path]) -> Self {
        let mut daemon = Self {
            process: None,
            configuration: ground.path("postkeep.toml"),
            ready: ground.path("ready"),
            log: ground.path("postkeepd.log"),
            records: ground.path("records"),
            socket: ground.path("control.sock"),
            door: ground.at(1, DOOR_PORT),
            submission: ground.at(1, SUBMISSION_PORT),
            submissions: ground.at(1, SUBMISSIONS_PORT),
            metrics: ground.at(1, METRICS_PORT),
            wrapper: wrapper.iter().map(|&part| part.to_owned()).collect(),
        };
        daemon.write(settings);
        daemon.run();
        daemon
    }

    /// Writes another configuration; nobody reads it before a reload or restart.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, settings: &Settings) {
        self.write_text(&settings.text());
    }

    /// Writes any text as the configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_text(&self, text: &str) {
        std::fs::write(&self.configuration, text).expect("write the configuration");
    }

    /// Starts the process (again) and waits until its doors are open.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn run(&mut self) {
        let _ = std::fs::remove_file(&self.ready);
        let log = File::options().create(true).append(true).open(&self.log).expect("open the log");
        let mut words = self.wrapper.clone();
        words.push(tools::program("postkeepd"));
        let mut process = Process::start(
            Command::new(&words[0])
                .args(&words[1..])
                .arg("--config")
                .arg(&self.configuration)
                .arg("--ready-file")
                .arg(&self.ready)
                .env_remove("JOURNAL_STREAM")
                .stdout(log.try_clone().expect("copy the log's handle"))
                .stderr(log),
        );
        let end = Instant::now() + READY;
        while !self.ready.exists() {
            if let Some(status) = process.ended() {
                panic!("postkeepd ended at its start ({status}):\n{}", self.tail(40));
            }
            assert!(Instant::now() < end, "postkeepd is not ready after {READY:?}:\n{}", self.tail(40));
            std::thread::sleep(Duration::from_millis(3));
        }
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and its exit status.
    ///
    /// # Panics
    /// When it is still there after 40 seconds.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running daemon");
        process.signal(Signal::TERM);
        process.wait(Duration::from_secs(40)).expect("postkeepd ends within 40 s of SIGTERM")
    }

    /// SIGHUP.
    pub fn hang_up(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::HUP);
        }
    }

    /// Process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("a running daemon").id()
    }

    /// Whether the process is still there.
    pub fn alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// The door for listed networks.
    pub fn door(&self) -> SocketAddr {
        self.door
    }

    /// The STARTTLS submission door.
    pub fn submission(&self) -> SocketAddr {
        self.submission
    }

    /// The implicit-TLS submission door.
    pub fn submissions(&self) -> SocketAddr {
        self.submissions
    }

    /// The configuration file.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// A client at the door, after EHLO.
    ///
    /// # Panics
    /// When the door does not greet.
    #[track_caller]
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.door).expect("connect to the door");
        assert_eq!(client.greeting.code, 220, "{}", client.greeting);
        let reply = client.ehlo().expect("EHLO");
        assert_eq!(reply.code, 250, "{reply}");
        client
    }

    /// Submits one message at the door; gives its queue id.
    ///
    /// # Panics
    /// When it is not accepted.
    #[track_caller]
    pub fn submit(&self, sender: &str, recipients: &[&str], content: &[u8]) -> String {
        let mut client = self.client();
        let reply = client.submit(sender, recipients, content).expect("submit");
        assert_eq!(reply.code, 250, "not accepted: {reply}");
        client.quit();
        queue_id(&reply.lines[0])
    }

    /// Every record so far, in order.
    pub fn records(&self) -> Vec<Value> {
        let mut records = Vec::new();
        for file in self.record_files() {
            let text = std::fs::read(&file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                // A killed daemon may have left half a line.
                if let Ok(record) = serde_json::from_str(line) {
                    records.push(record);
                }
            }
        }
        records
    }

    /// The records of one event.
    pub fn events(&self, event: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["event"] == event).collect()
    }

    /// Waits for a record of `event` that `test` likes.
    ///
    /// # Panics
    /// After `limit`, showing the records that are there.
    #[track_caller]
    pub fn wait_record(&self, event: &str, limit: Duration, mut test: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + limit;
        loop {
            if let Some(record) = self.events(event).into_iter().find(|record| test(record)) {
                return record;
            }
            if Instant::now() > end {
                let all: Vec<String> = self.records().iter().map(Value::to_string).collect();
                panic!("no such `{event}` record after {limit:?}; the records:\n{}", all.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a record of any of these events that `test` likes.
    ///
    /// # Panics
    /// After `limit`, showing the records that are there.
    #[track_caller]
    pub fn wait_record_of(&self, events: &[&str], limit: Duration, test: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + limit;
        loop {
            let all = self.records();
            let is_one = |record: &&Value| events.iter().any(|event| record["event"] == *event) && test(record);
            if let Some(record) = all.iter().find(is_one) {
                return record.clone();
            }
            if Instant::now() > end {
                let all: Vec<String> = all.iter().map(Value::to_string).collect();
                panic!("no such record of {events:?} after {limit:?}; the records:\n{}", all.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `/metrics` as text, with its status line and headers.
    ///
    /// # Panics
    /// When nobody answers.
    #[track_caller]
    pub fn metrics_text(&self) -> (String, String) {
        let mut socket = TcpStream::connect(self.metrics).expect("connect to the metrics");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a read timeout");
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: metrics.test\r\nConnection: close\r\n\r\n")
            .expect("ask for the metrics");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("read the metrics");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        (head.to_owned(), body.to_owned())
    }

    /// Samples of `/metrics`: name with labels to value.
    ///
    /// # Panics
    /// When nobody answers.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (_, body) = self.metrics_text();
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Runs `postkeep`; commands that speak to the daemon are told which socket.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn postkeep(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(tools::program("postkeep"));
        command.args(arguments);
        if matches!(
            arguments.first(),
            Some(&("events" | "health" | "queue" | "reload" | "suppression" | "system" | "update"))
        ) {
            command.arg("--socket").arg(&self.socket);
        }
        run(&mut command)
    }

    /// Entries of the suppression list for an address, `REASON SCOPE` each.
    ///
    /// # Panics
    /// When the daemon does not say.
    #[track_caller]
    pub fn suppressions(&self, address: &str) -> Vec<String> {
        let shown = self.postkeep(&["suppression", "show", address, "--json"]).done().json();
        let entries = shown["entries"].as_array().expect("entries");
        let word = |value: &Value| value.as_str().expect("a word").to_owned();
        entries.iter().map(|entry| format!("{} {}", word(&entry["reason"]), word(&entry["scope"]))).collect()
    }

    /// The record files, in order.
    pub fn record_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.records)
            .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
            .unwrap_or_default();
        files.sort();
        files
    }

    /// The end of the log.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let records: Vec<String> = self.records().iter().rev().take(30).rev().map(Value::to_string).collect();
            eprintln!("--- the end of the daemon's records ---\n{}", records.join("\n"));
            eprintln!("--- the end of the daemon's log ---\n{}\n---", self.tail(40));
        }
    }
}

/// The queue id in `2.0.0 Ok: queued as 0123456789abcdef`.
pub fn queue_id(line: &str) -> String {
    line.rsplit(' ').next().unwrap_or("").to_owned()
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
pub fn run(command: &mut Command) -> Said {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", command.get_program().display()));
    Said {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command with something on its standard input.
///
/// # Panics
/// When it cannot be started.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", command.get_program().display()));
    let mut pipe = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = pipe.write_all(&input);
    });
    let output = child.wait_with_output().expect("wait for the command");
    let _ = writer.join();
    Said {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
