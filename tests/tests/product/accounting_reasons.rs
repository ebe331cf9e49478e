//! Every line of the accounting file that says that mail was given up says why.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use postkeep_tests::daemon::run;
use postkeep_tests::tools::{self, needs};
use postkeep_tests::wait_until;

use crate::events::{House, house, send};

const LIMIT: Duration = Duration::from_secs(30);

fn open(over: &str) -> House {
    house(|ground| format!("[accounting]\ndirectory = \"{}\"\n{over}", ground.path("accounting").display()))
}

/// The lines of type `b`, as Python's csv module reads them.
fn given_up(house: &House) -> Vec<BTreeMap<String, String>> {
    let python = tools::python().expect("Python");
    let folder = std::fs::read_dir(house.ground.path("accounting")).expect("the folder");
    let files = folder.flatten().map(|entry| entry.path());
    let said = run(Command::new(&python).arg(tools::file("oracles/accounting_read.py")).args(files));
    // A file may be read before its first line is whole.
    let lines = said.out.lines().filter_map(|line| serde_json::from_str::<BTreeMap<String, String>>(line).ok());
    lines.filter(|line| line["type"] == "b").collect()
}

#[test]
fn mail_whose_time_is_up_is_told_with_the_last_answer() {
    let Some(_) = needs(tools::python()) else { return };
    let house = open("[stream.default]\nexpire-after = \"1500ms\"\n");
    send(&house.daemon, std::iter::once("late@there.test".to_owned()));
    wait_until("a line", LIMIT, || given_up(&house).len() == 1);
    let line = &given_up(&house)[0];
    assert_eq!((&*line["dsnDiag"], &*line["bounceCat"]), ("smtp;451 4.2.1 Later", "message-expired"), "{line:#?}");
    assert_eq!(line["dsnStatus"], "5.4.7 (delivery time expired)");
}

#[test]
fn mail_that_is_ended_by_order_is_told_with_what_was_tried() {
    let Some(_) = needs(tools::python()) else { return };
    let house = open("types = [\"b\"]\n[stream.default]\nretry = [\"10m\"]\n");
    for (order, event, status) in [
        ("expire", "delivery time expired", "5.4.7 (delivery time expired)"),
        ("delete", "removed", "5.7.1 (delivery not authorized, message refused)"),
    ] {
        let recipient = format!("late-{order}@there.test");
        send(&house.daemon, std::iter::once(recipient.clone()));
        house.daemon.wait_record("deferred", LIMIT, |record| record["recipient"] == recipient.as_str());
        house.daemon.postkeep(&["queue", order, "--all"]).done();
        let line = || given_up(&house).into_iter().find(|line| line["rcpt"] == recipient);
        wait_until("a line", LIMIT, || line().is_some());
        let line = line().expect("a line");
        let reason = format!("x-postkeep;{event} by order of an administrator, after 1 attempt in ");
        assert!(line["dsnDiag"].starts_with(&reason), "{line:#?}");
        assert_eq!(line["dsnStatus"], status, "{line:#?}");
    }
}
