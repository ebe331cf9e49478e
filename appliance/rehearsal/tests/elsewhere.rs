//! A box that runs elsewhere: a real `postkeepd` in network and mount
//! namespaces of its own, at the other end of a virtual cable, with the
//! configuration that was prepared for it. Making namespaces is root's business.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// Our programs: those that `POSTKEEP_BINARIES` names, else those built beside this test.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("POSTKEEP_BINARIES").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("the path of this test");
        test.ancestors().nth(2).expect("target/PROFILE/deps above the test").to_owned()
    });
    let program = folder.join(name);
    assert!(program.is_file(), "{} is not there; cargo build --workspace --bins makes it", program.display());
    program
}

/// A folder prepared for a box, and the box's own.
struct Prepared {
    ground: tempfile::TempDir,
}

impl Prepared {
    fn new() -> Self {
        let ground = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(ground.path().join("state")).expect("make the box's folder");
        let prepared = Self { ground };
        let said = Command::new(program("postkeep"))
            .args(["rehearse", "--config"])
            .arg(Path::new(PACKAGE).join("demo/postkeep.toml"))
            .args(["--box", "10.1.0.1", "--block", "10.0.0.0/8", "--seed", "3", "--hurry", "2400", "--deadline", "40"])
            .arg("--prepare")
            .arg(prepared.folder())
            .output()
            .expect("run postkeep");
        assert!(said.status.success(), "{said:?}");
        prepared
    }

    fn folder(&self) -> PathBuf {
        self.ground.path().join("folder")
    }

    fn fact(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.folder().join("prepared.json")).expect("read prepared.json");
        let facts: Value = serde_json::from_str(&text).expect("JSON");
        facts[name].as_str().unwrap_or_else(|| panic!("no {name} in {facts}")).to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.ground.path().join("state.log")).unwrap_or_default()
    }

    /// Runs a command in the namespace of the simulated internet, while the box runs in its own. When the command has
    /// ended, or this process, nothing of both is left.
    fn with_box(&self) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL"])
            .args(["--mount-proc", "sh"])
            .arg(Path::new(PACKAGE).join("tests/elsewhere.sh"))
            .arg(self.folder())
            .arg(self.ground.path().join("state"))
            .arg(program("postkeepd"));
        command
    }
}

fn summary(output: &Output, prepared: &Prepared) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}\n{}", prepared.log()))
}

#[test]
fn a_box_elsewhere_keeps_every_promise_and_is_asked_only_by_its_doors_and_its_events() {
    let prepared = Prepared::new();
    let mut command = prepared.with_box();
    command.arg(program("postkeep")).args(["--json", "rehearse", "--quiet", "--recipients", "600", "--prepared"]);
    let output = command.arg(prepared.folder()).output().expect("run the rehearsal");
    let summary = summary(&output, &prepared);
    assert_eq!((output.status.code(), &summary["kept"]), (Some(0), &Value::Bool(true)), "{summary:#}");
    assert_eq!(summary["accepted"], 600);
    let count = |path: &str| summary.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path}"));
    assert!(count("/messages_by_http") > 50 && count("/expired") > 0 && count("/bounced") > 0, "{summary:#}");
    // Records came: policies are known from nowhere else.
    assert!(count("/tls/policies/dane") > 0 && count("/tls/policies/mta-sts") > 0, "{summary:#}");
    assert!(count("/came_back/learnt_bounces") + count("/came_back/learnt_complaints") > 0, "{summary:#}");
    assert_eq!(count("/came_back/second_wave_suppressed"), count("/came_back/second_wave"));
    // Every delivery is an arrival that somebody else can count.
    let arrivals = std::fs::read_to_string(prepared.folder().join("arrivals.jsonl")).expect("arrivals");
    let arrivals: Vec<Value> = arrivals.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let reached: std::collections::BTreeSet<_> =
        arrivals.iter().filter(|one| one["provider"] != "home").map(|one| one["recipient"].to_string()).collect();
    assert_eq!(reached.len() as u64, count("/delivered"));
    assert!(arrivals.iter().all(|one| one["from"].as_str().is_some_and(|from| from.starts_with("10.1.0."))));
    assert!(arrivals.iter().all(|one| one["dkim"] == "verified"));
}

#[test]
fn a_box_that_does_not_say_what_became_of_mail_breaks_a_promise() {
    let prepared = Prepared::new();
    let file = prepared.folder().join("box/postkeep.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    assert!(text.contains("events = [\"*\"]"), "{text}");
    std::fs::write(&file, text.replace("events = [\"*\"]", "events = [\"bounced\", \"expired\", \"suppressed\"]"))
        .expect("change the box's configuration");
    let mut silent = prepared.with_box();
    silent.arg(program("postkeep")).args(["--json", "rehearse", "--quiet", "--recipients", "60", "--prepared"]);
    let output = silent.arg(prepared.folder()).output().expect("run the rehearsal");
    let summary = summary(&output, &prepared);
    assert_eq!((output.status.code(), &summary["kept"]), (Some(1), &Value::Bool(false)), "{summary:#}");
    assert_eq!(summary["missing_records"], summary["delivered"], "{summary:#}");
}

#[test]
fn an_internet_without_a_campaign_writes_down_what_others_send_through_the_box() {
    let prepared = Prepared::new();
    // The box answers when it has its suppression list; the mail needs a moment longer than the call that brings it.
    let script = "\"$1\" rehearse --no-campaign --serve --prepared \"$2\" 2>/dev/null & internet=$!\n\
        arrivals=$2/arrivals.jsonl; shift 2\n\
        for attempt in $(seq 100); do \"$@\" && break; sleep 0.2; done\n\
        for attempt in $(seq 300); do [ -s \"$arrivals\" ] && break; sleep 0.1; done\n\
        kill $internet; wait $internet";
    let mut command = prepared.with_box();
    command.args(["sh", "-c", script, "sh"]).arg(program("postkeep")).arg(prepared.folder());
    let host = prepared.fact("host");
    command.args(["curl", "--silent", "--fail", "--max-time", "10", "--cacert"]);
    command.arg(prepared.folder().join("box/authority.pem"));
    command.args(["--connect-to", &format!("{host}:443:10.1.0.1:443"), &format!("https://{host}/api/v1/messages")]);
    command.args(["--header", &format!("Authorization: Bearer {}", prepared.fact("token"))]);
    command.args(["--header", "Content-Type: application/json", "--data"]);
    command.arg(
        r#"{"from":"desk@harbour-news.example","to":["ann@gmail.test"],"subject":"By hand","text":"Hello","stream":"receipts"}"#,
    );
    let output = command.output().expect("run the box");
    assert!(output.status.success(), "{output:?}\n{}", prepared.log());
    let text = std::fs::read_to_string(prepared.folder().join("arrivals.jsonl")).expect("arrivals");
    let arrived: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?} {output:?}"));
    assert_eq!(arrived["recipient"], "ann@gmail.test", "{arrived}");
    assert_eq!((&arrived["dkim"], &arrived["answered"]), (&"verified".into(), &true.into()), "{arrived}");
    assert_eq!(arrived["from"], "10.1.0.2", "receipts leave by the quay: {arrived}");
    assert!(arrived["message-id"].as_str().is_some_and(|id| id.contains('@')), "{arrived}");
}
