//! A whole rehearsal, small: both doors, DNSSEC with DANE and MTA-STS, mail that comes back, suppressions learnt. The
//! oracle is the rehearsal's own judge, who shares no code with what it judges; and so that the judge is not believed
//! blindly, other rehearsals break promises on purpose, by a configuration or by a product that is not what it says.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use postkeep_tests::Ground;
use postkeep_tests::daemon::run;
use postkeep_tests::tools::{self, Process};
use postkeep_tests::wait::wait_until;
use rustix::process::Signal;
use serde_json::Value;

/// One provider whose recipients all answer in some way.
const ANSWERING: &str = "
[[provider]]
name = 'answering'
source = 'test'
checked = '2026-11-27'
weight = 1
[[provider.site]]
domains = ['answering.test']
host = [{ name = 'mx.answering.test' }]
[provider.mood]
complain = 0.5
auto-reply = 0.5
";

/// The demonstration's configuration with another text, and the arguments of `postkeep rehearse` that run it.
struct Rehearsal {
    ground: Ground,
    text: String,
    arguments: Vec<String>,
    /// Hurry and deadline.
    pace: [&'static str; 2],
}

impl Rehearsal {
    fn new(recipients: &str, seed: &str) -> Self {
        let demonstration = tools::workspace().join("appliance/rehearsal/demo/postkeep.toml");
        let text = std::fs::read_to_string(demonstration).expect("the demonstration");
        let arguments = ["--recipients", recipients, "--seed", seed].map(str::to_owned).to_vec();
        Self { ground: Ground::claim(), text, arguments, pace: ["1200", "50"] }
    }

    /// With `more` after the configuration.
    fn and(mut self, more: &str) -> Self {
        self.text.push_str(more);
        self
    }

    /// With other words everywhere in the configuration.
    fn with(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "the demonstration has no {from}");
        self.text = self.text.replace(from, to);
        self
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.ground.folder().join(name);
        std::fs::write(&path, text).expect("write a file");
        path.display().to_string()
    }

    fn rules(mut self, rules: &str) -> Self {
        let path = self.file("rules.toml", rules);
        self.arguments.extend(["--rules".to_owned(), path]);
        self
    }

    /// With a product whose own configuration is changed behind the judge's back, by these commands of sed.
    fn untrue(mut self, sed: &str) -> Self {
        let daemon = tools::program("postkeepd");
        let script = format!("#!/bin/sh\nsed -i '{sed}' \"$2\" || exit 1\nexec {} \"$@\"\n", daemon.display());
        let path = self.file("untrue", &script);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
        self.arguments.extend(["--daemon".to_owned(), path]);
        self
    }

    fn command(&self) -> Command {
        let configuration = self.file("postkeep.toml", &self.text);
        let mut command = Command::new(tools::program("postkeep"));
        let [hurry, deadline] = self.pace;
        command.args(["--json", "rehearse", "--quiet", "--config", &configuration]).args(&self.arguments);
        command.args(["--hurry", hurry, "--deadline", deadline]);
        if !self.arguments.iter().any(|argument| argument == "--daemon") {
            command.arg("--daemon").arg(tools::program("postkeepd"));
        }
        command
    }

    /// The exit code and the summary.
    fn run(&self) -> (i32, Value) {
        let said = run(&mut self.command());
        let summary = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        (said.status, summary)
    }
}

fn count(summary: &Value, path: &str) -> u64 {
    summary.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no count {path} in {summary:#}"))
}

#[track_caller]
fn assert_kept(outcome: &(i32, Value), kept: bool) {
    let (status, summary) = outcome;
    assert_eq!((*status, &summary["kept"]), (i32::from(!kept), &Value::Bool(kept)), "{summary:#}");
}

#[test]
fn a_small_rehearsal_shows_both_doors_protection_and_suppressions_learnt_and_keeps_every_promise() {
    let outcome = Rehearsal::new("1500", "1").run();
    assert_kept(&outcome, true);
    let summary = outcome.1;
    assert_eq!(count(&summary, "/accepted"), 1500);
    let (messages, by_http) = (count(&summary, "/messages"), count(&summary, "/messages_by_http"));
    assert!(by_http > messages / 5 && by_http < messages / 2, "{by_http} of {messages} by HTTP");
    for policy in ["dane", "mta-sts", "mta-sts-testing", "opportunistic"] {
        assert!(count(&summary, &format!("/tls/policies/{policy}")) > 0, "{summary:#}");
    }
    // Nobody is delivered to hosts that are not who their domain says; their mail waits until it expires.
    let impostors = |key: &str| count(&summary, &format!("/providers/impostors/{key}"));
    assert!(impostors("accepted") > 0);
    assert_eq!((impostors("delivered"), impostors("expired")), (0, impostors("accepted")));
    assert_eq!(count(&summary, "/expired_because/unprotected"), impostors("accepted"));
    assert_eq!(count(&summary, "/tls/held_back"), impostors("accepted"));
    let back = |key: &str| count(&summary, &format!("/came_back/{key}"));
    for key in ["bounces", "complaints", "auto_replies"] {
        assert!(back(key) > 0, "no {key}: {summary:#}");
    }
    assert_eq!((back("learnt_bounces"), back("learnt_complaints")), (back("bounces"), back("complaints")));
    assert_eq!(back("second_wave"), back("bounces") + back("complaints"));
    assert_eq!(back("second_wave_suppressed"), back("second_wave"));
}

#[test]
fn mail_in_the_clear_where_a_policy_demands_tls_is_a_broken_promise() {
    let outcome = Rehearsal::new("60", "3").and("[provider.google]\ntls = \"none\"\n").run();
    assert_kept(&outcome, false);
    let summary = outcome.1;
    assert!(count(&summary, "/policy_violations") > 0);
    assert_eq!(count(&summary, "/policy_violations"), count(&summary, "/providers/google/policy_violations"));
    let verdict = summary["verdict"].to_string();
    assert!(verdict.contains("broke DANE or MTA-STS"), "{verdict}");
}

#[test]
fn where_nothing_is_accepted_no_promise_is_kept() {
    let refusing = Rehearsal::new("2", "1").and("[spool]\nminimum-free = \"100TiB\"\n");
    let idle = Rehearsal::new("0", "1");
    for (rehearsal, refused) in [(refusing, 2), (idle, 0)] {
        let outcome = rehearsal.run();
        assert_kept(&outcome, false);
        let summary = outcome.1;
        assert_eq!((count(&summary, "/accepted"), count(&summary, "/refused")), (0, refused), "{summary:#}");
        assert_eq!(count(&summary, "/refused_unexplained"), refused);
        assert!(
            summary["verdict"][0].as_str().is_some_and(|text| text.starts_with("nothing was tried")),
            "{summary:#}"
        );
    }
}

#[test]
fn mail_may_expire_where_nobody_answers_and_not_where_nobody_was_asked() {
    let dead = ANSWERING.replace("'mx.answering.test'", "'mx.answering.test', dead = true");
    let outcome = Rehearsal::new("12", "1").with("8h", "1h").rules(&dead).run();
    assert_kept(&outcome, true);
    let summary = outcome.1;
    assert_eq!((count(&summary, "/expired"), count(&summary, "/expired_because/dead")), (12, 12), "{summary:#}");
    assert!(
        summary["verdict"][0].as_str().is_some_and(|text| text.contains("no provider took any mail")),
        "{summary:#}"
    );

    // A product that wants certificates which nobody asked for: it hangs up before any receiver has put it off.
    let unsure = ANSWERING.replace("'mx.answering.test'", "'mx.answering.test', certificate = 'self-signed'");
    let sed = "s/^tls = \"opportunistic\"$/tls = \"verified\"/";
    let mut lost = Rehearsal::new("12", "1").untrue(sed).rules(&unsure);
    lost.pace = ["1200", "16"];
    let outcome = lost.run();
    assert_kept(&outcome, false);
    let summary = outcome.1;
    let (expired, unjustified) = (count(&summary, "/expired"), count(&summary, "/unjustified_expiries"));
    assert!(expired > 0 && expired == unjustified, "{summary:#}");
}

#[test]
fn a_configuration_may_leave_return_paths_alone_and_sign_with_ed25519_alone() {
    let outcome = Rehearsal::new("40", "1")
        .with("expire-after = \"8h\"", "expire-after = \"8h\"\nverp = false")
        .with(
            "key = \"/etc/postkeep/dkim/offers-rsa-2026-11.pem\"",
            "key = \"/etc/postkeep/dkim/offers.pem\"\nalgorithm = \"ed25519-sha256\"",
        )
        .with(
            "selector = \"rsa-2026-11\"\nkey = \"/etc/postkeep/dkim/rsa",
            "selector = \"rsa\"\nstreams = [\"receipts\"]\nkey = \"/etc/postkeep/dkim/rsa",
        )
        .rules(ANSWERING)
        .run();
    assert_kept(&outcome, true);
    let summary = outcome.1;
    assert!(count(&summary, "/came_back/astray_explained") > 20, "{summary:#}");
    assert_eq!(count(&summary, "/came_back/astray"), 0);
    assert!(count(&summary, "/dkim/ed25519") > 0 && count(&summary, "/dkim/rsa") > 0, "{summary:#}");
}

#[test]
fn a_product_that_does_otherwise_than_its_configuration_says_is_found_out() {
    let outcome = Rehearsal::new("60", "1")
        .untrue(
            "s/^verp = true/verp = false/; s/^streams = .\"newsletter\".$/streams = [\"offers\"]/; \
             /^.pool.receipts.sources.$/,/^$/ s/^quay = 1$/pier = 1/",
        )
        .rules(ANSWERING)
        .run();
    assert_kept(&outcome, false);
    let summary = outcome.1;
    for key in ["/came_back/astray", "/dkim_failures", "/wrong_sources"] {
        assert!(count(&summary, key) > 0, "{key} {summary:#}");
    }
    // A message whose signature has vanished, or is of the wrong stream, is found; all others are well.
    assert_eq!(count(&summary, "/dkim/passed") + count(&summary, "/dkim_failures"), count(&summary, "/dkim/checked"));
    assert_eq!((count(&summary, "/corrupted"), count(&summary, "/delivered")), (0, 60), "{summary:#}");
}

/// Processes that have the folder in their arguments.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
    let command = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let commands = entries.filter_map(command).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    commands.filter(|command| command.contains(&folder) && command.contains("postkeepd")).collect()
}

#[test]
fn a_rehearsal_that_is_told_to_stop_leaves_no_daemon_and_no_folder() {
    for (when, ready) in [("while it is set up", false), ("in its midst", true)] {
        let rehearsal = Rehearsal::new("300", "1");
        let temporary = rehearsal.ground.folder().join("tmp");
        std::fs::create_dir(&temporary).expect("make a folder");
        let mut process =
            Process::start(rehearsal.command().env("TMPDIR", &temporary).stdout(Stdio::null()).stderr(Stdio::null()));
        let folders = || std::fs::read_dir(&temporary).expect("read the folder").flatten().map(|entry| entry.path());
        wait_until("the rehearsal to begin", Duration::from_secs(30), || {
            folders().any(|folder| !ready || folder.join("ready").exists())
        });
        if ready {
            assert_eq!(processes_of(&temporary).len(), 1);
        }
        process.signal(Signal::TERM);
        let status = process.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("it did not stop {when}"));
        assert_eq!(status.code(), Some(1), "{when}");
        assert_eq!(processes_of(&temporary), Vec::<String>::new(), "{when}");
        assert_eq!(folders().count(), 0, "{when}");
    }
}
