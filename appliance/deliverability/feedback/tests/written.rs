//! The classifier against messages that were written by hand for this project (`tests/corpus/bounces/written`), and
//! against people who pass on what came back.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use postkeep_deliverability::reply::RuleBook;
use postkeep_feedback::{Kind, classify, classify_with_details};
use proptest::prelude::*;

fn corpus(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/corpus/bounces").join(part)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every message of the three sets.
fn all() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["sisimai", "flufl", "written"]
        .iter()
        .flat_map(|part| std::fs::read_dir(corpus(part)).expect("the corpus"))
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .collect();
    files.sort();
    files
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Bounce => "bounce",
        Kind::Delay => "delay",
        Kind::Complaint => "complaint",
        Kind::AutoReply => "auto-reply",
        Kind::None => "none",
    }
}

#[test]
fn messages_written_by_hand_are_read_as_they_are_meant_and_nobody_is_suppressed_without_need() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let table = String::from_utf8(read(&corpus("written/EXPECTED.tsv"))).expect("UTF-8");
    let mut by_file: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for row in table.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>()) {
        by_file.entry(row[0]).or_default().push(row);
    }
    assert!(by_file.len() >= 180, "{}", by_file.len());
    let mut faults = String::new();
    for (file, rows) in &by_file {
        let mut found = classify(&read(&corpus("written").join(file)), &book);
        for row in rows {
            let (recipient, digits, kinds, suppress, note) = (row[2], row[3], row[4], row[5], row[6]);
            let place = found
                .iter()
                .position(|one| one.recipient.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(recipient)));
            // Where nobody has to be found, whatever is found is held against the row.
            let is_free =
                recipient.is_empty() || !(kinds.contains("bounce") || kinds == "delay" || kinds == "complaint");
            let Some(place) = place.or_else(|| (is_free && !found.is_empty()).then_some(0)) else {
                let _ = writeln!(faults, "{file} ({note}): {recipient} is not found");
                continue;
            };
            let one = found.remove(place);
            let digit = one.status.as_deref().and_then(|status| status.chars().next());
            let is_digit = digits.is_empty() || digit.is_some_and(|digit| digits.contains(digit));
            let is_suppress = suppress == "either" || (suppress == "yes") == one.suppress;
            if !is_digit || !is_suppress || !kinds.split(',').any(|kind| kind == word(one.kind)) {
                let _ = writeln!(faults, "{file} ({note}): {digits} {kinds} {suppress} expected: {one:?}");
            }
        }
        for one in found.iter().filter(|one| one.suppress) {
            let _ = writeln!(faults, "{file}: nobody expects {one:?}");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// What somebody writes who got that message and asks what it is.
fn letter(subject: &str, body: &str) -> Vec<u8> {
    format!(
        "Return-Path: <carla@fern.example>\nFrom: Carla <carla@fern.example>\nTo: news@lettershop.example\n\
         Subject: {subject}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nWhy do I get this?\n\n{body}\n"
    )
    .into_bytes()
}

#[test]
fn a_person_who_forwards_a_report_suppresses_nobody() {
    let book = RuleBook::shipped().expect("the shipped rules");
    for path in all() {
        let message = read(&path);
        let mut letter = b"From: Carla <carla@fern.example>\nTo: news@lettershop.example\nSubject: Fwd: came back\n\
            MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=zz9\n\n--zz9\nContent-Type: text/plain\n\n\
            What is this?\n\n--zz9\nContent-Type: message/rfc822\n\n"
            .to_vec();
        letter.extend_from_slice(&message);
        letter.extend_from_slice(b"\n--zz9--\n");
        for finding in classify(&letter, &book) {
            assert!(!finding.suppress, "{}: {finding:?}", path.display());
        }
    }
}

#[test]
fn a_mark_of_the_octet_order_changes_nothing() {
    let book = RuleBook::shipped().expect("the shipped rules");
    for path in all().into_iter().step_by(7) {
        let message = read(&path);
        let marked = [b"\xef\xbb\xbf", message.as_slice()].concat();
        assert_eq!(classify(&message, &book), classify(&marked, &book), "{}", path.display());
    }
}

#[test]
fn the_envelope_says_more_than_the_header_about_who_sent_it() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let report = "From: noreply@mx.there.example\nTo: b@sender.example\nSubject: Undelivered mail\n\n\
                  This message was created automatically by mail delivery software.\n\n\
                  <gone@there.example>: 550 5.1.1 user unknown\n";
    let suppresses = |path: Option<&str>| {
        classify_with_details(report.as_bytes(), path, &book).0.iter().any(|finding| finding.suppress)
    };
    assert!(suppresses(Some("")), "the null path is a mail server's");
    assert!(!suppresses(Some("ann@there.example")), "a person's is not");
    assert!(!suppresses(None), "unknown, it proves nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_person_who_quotes_a_report_suppresses_nobody_however_it_is_quoted(
        which in any::<prop::sample::Index>(),
        mark in prop::sample::select(vec!["> ", ">", ">> ", " > ", "> > "]),
        subject in prop::sample::select(vec!["Re: Undelivered Mail", "AW: failure notice", "Undelivered Mail Returned to Sender"]),
    ) {
        let files = all();
        let path = which.get(&files);
        let message = String::from_utf8_lossy(&read(path)).replace("\r\n", "\n").replace('\r', "\n");
        let quoted: String = message.lines().take(200).flat_map(|line| [mark, line, "\n"]).collect();
        let book = RuleBook::shipped().expect("the shipped rules");
        for finding in classify(&letter(subject, &quoted), &book) {
            prop_assert!(!finding.suppress, "{}: {:?}", path.display(), finding);
        }
    }

    #[test]
    fn a_quotation_in_a_mail_servers_own_report_is_not_its_word(
        local in "[a-z]{2,8}",
        mark in prop::sample::select(vec!["> ", ">", ">> "]),
    ) {
        let report = format!(
            "Return-Path: <>\nFrom: Postmaster <postmaster@mx.example>\nTo: s@sender.example\nSubject: your message\n\n\
             Your message could not be delivered, says our list server:\n\n{mark}<{local}@there.example>: 550 5.1.1 unknown user\n"
        );
        let book = RuleBook::shipped().expect("the shipped rules");
        prop_assert!(classify(report.as_bytes(), &book).iter().all(|finding| !finding.suppress));
    }
}
