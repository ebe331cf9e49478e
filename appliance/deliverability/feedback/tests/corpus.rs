//! The classifier against messages that nobody here wrote: real bounces, delays, complaints and automatic replies
//! with what other projects' parsers find in them (`tests/corpus/bounces`, its README has sources and licences).
//!
//! The score may only rise; the number of false hard suppressions is nought.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use postkeep_deliverability::reply::RuleBook;
use postkeep_feedback::{Finding, Kind, classify};
use proptest::prelude::*;

/// Rows of Sisimai's table whose kind or first digit of the status is found.
const CLASSES_FOUND: usize = 204;
/// Of its hard bounces, those that are suppressed.
const HARD_FOUND: usize = 58;
/// Messages of flufl.bounce whose addresses and kind are found.
const FLUFL_FOUND: usize = 31;

fn corpus(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/corpus").join(part)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn table(part: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(read(&corpus(part))).expect("UTF-8");
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Kept for `scripts/test`, which prints it.
fn keep_score(name: &str, score: &str) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("score-{name}.txt"));
    std::fs::write(file, score).expect("write the score");
}

#[test]
fn real_reports_are_read_as_sisimai_reads_them_and_nobody_is_suppressed_without_need() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let mut by_file: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for row in table("bounces/sisimai/EXPECTED.tsv") {
        by_file.entry(row[0].clone()).or_default().push(row);
    }
    let (mut rows, mut classes, mut hard, mut hard_found) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    let mut remarks = String::new();
    for (file, expected) in &by_file {
        let path = corpus("bounces/sisimai").join(file);
        let path = if path.exists() { path } else { corpus("bounces/sisimai/newlines").join(file) };
        let found = classify(&read(&path), &book);
        for (place, row) in expected.iter().enumerate() {
            rows += 1;
            let (status, reason, is_hard) = (&row[2], row[4].as_str(), row[5] == "true");
            let Some(finding) = found.get(place) else {
                let _ = writeln!(remarks, "{file}: recipient {} is not found", place + 1);
                continue;
            };
            let first = |text: &str| text.chars().next();
            let is_right = match reason {
                "feedback" => finding.kind == Kind::Complaint,
                "vacation" => finding.kind == Kind::AutoReply,
                _ => first(status) == finding.status.as_deref().and_then(first),
            };
            classes += usize::from(is_right);
            if !is_right {
                let _ = writeln!(remarks, "{file}: {status} {reason} expected, {:?} found", finding.status);
            }
            hard += usize::from(is_hard);
            hard_found += usize::from(is_hard && finding.suppress);
            // Whoever takes the reports has not complained: the message inside says who may have.
            let text = String::from_utf8_lossy(&read(&path)).into_owned();
            let addressee = text.lines().find_map(|line| line.strip_prefix("To: ")).unwrap_or_default();
            if finding.kind == Kind::Complaint && finding.suppress {
                let recipient = finding.recipient.clone().unwrap_or_default();
                assert!(!addressee.contains(&recipient), "{file}: {finding:?}");
            }
            // A complaint suppresses by itself; Sisimai counts it as no hard bounce.
            if !is_hard && finding.suppress && finding.kind != Kind::Complaint {
                wrong.push(format!("{file}: {reason}: {finding:?}"));
            }
        }
    }
    let score = format!(
        "sisimai: {classes} of {rows} classes, {hard_found} of {hard} hard bounces suppressed, {} false suppressions\n",
        wrong.len()
    );
    keep_score("sisimai", &score);
    assert!(wrong.is_empty(), "false hard suppressions:\n{}", wrong.join("\n"));
    assert!(classes >= CLASSES_FOUND && hard_found >= HARD_FOUND, "{score}{remarks}");
}

#[test]
fn the_prose_of_old_mail_servers_is_read_as_mailman_reads_it() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let (mut messages, mut right) = (0, 0);
    let mut remarks = String::new();
    for row in table("bounces/flufl/EXPECTED.tsv") {
        let found = classify(&read(&corpus("bounces/flufl").join(&row[0])), &book);
        let lower = |text: &str| text.to_ascii_lowercase();
        let mut addresses: Vec<String> =
            found.iter().filter_map(|finding| finding.recipient.as_deref()).map(lower).collect();
        let mut expected: Vec<String> = row[2].split(',').filter(|text| !text.is_empty()).map(lower).collect();
        addresses.sort();
        expected.sort();
        let kind = if row[1] == "temporary" { Kind::Delay } else { Kind::Bounce };
        messages += 1;
        if addresses == expected && found.iter().all(|finding| finding.kind == kind) {
            right += 1;
        } else {
            let _ = writeln!(remarks, "{}: {expected:?} expected, {addresses:?} found", row[0]);
        }
    }
    let score = format!("flufl.bounce: {right} of {messages} messages\n");
    keep_score("flufl", &score);
    assert!(right >= FLUFL_FOUND, "{score}{remarks}");
}

#[test]
fn line_ends_of_every_kind_mean_the_same() {
    let book = RuleBook::shipped().expect("the shipped rules");
    for name in ["arf-01.eml", "lhost-outlook-01.eml", "lhost-sendmail-01.eml"] {
        let plain = classify(&read(&corpus("bounces/sisimai").join(name)), &book);
        for kind in ["mac", "dos"] {
            let other = classify(&read(&corpus("bounces/sisimai/newlines").join(format!("{kind}-{name}"))), &book);
            let gist = |all: &[Finding]| {
                all.iter()
                    .map(|one| (one.recipient.clone(), one.kind, one.status.clone(), one.suppress))
                    .collect::<Vec<_>>()
            };
            assert_eq!(gist(&plain), gist(&other), "{kind}-{name}");
        }
    }
}

#[test]
fn a_letter_is_nothing_of_the_sort() {
    let book = RuleBook::shipped().expect("the shipped rules");
    for letter in [
        "From: Ann <ann@example.org>\nTo: bob@example.net\nSubject: lunch\n\nShall we meet at noon?\n",
        "From: Ann <ann@example.org>\nTo: bob@example.net\nSubject: the failure of our delivery van\n\n\
         It broke down near carol@example.com's house.\n",
        "",
        "no header at all",
    ] {
        let found = classify(letter.as_bytes(), &book);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].kind == Kind::None && !found[0].suppress, "{found:?}");
    }
}

#[test]
fn a_block_in_a_report_suppresses_nobody() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let report = |diagnostic: &str| {
        format!(
            "From: MAILER-DAEMON@mx.example\nTo: bounces@sender.example\nSubject: Undelivered Mail\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\nContent-Type: text/plain\n\n\
             Your mail could not be delivered.\n\n--b\nContent-Type: message/delivery-status\n\n\
             Reporting-MTA: dns; mx.example\n\nFinal-Recipient: rfc822; user@example.net\nAction: failed\n\
             Status: 5.0.0\nDiagnostic-Code: smtp; {diagnostic}\n\n--b--\n"
        )
    };
    for (diagnostic, suppress) in [
        ("550 5.1.1 <user@example.net>: user unknown", true),
        ("550 5.7.1 blocked using zen.spamhaus.org", false),
        ("550 5.1.1 service unavailable; client host [192.0.2.1] blocked", false),
        ("552 5.2.2 mailbox full", false),
        ("550 5.2.1 mailbox disabled", false),
        ("554 5.7.26 unauthenticated", false),
        ("550 spam detected", false),
    ] {
        let found = classify(report(diagnostic).as_bytes(), &book);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].recipient.as_deref(), Some("user@example.net"));
        assert_eq!((found[0].kind, found[0].suppress), (Kind::Bounce, suppress), "{diagnostic}: {:?}", found[0]);
    }
}

#[test]
fn a_complaint_in_a_notification_of_amazons_is_read_also_inside_its_envelope() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let event = r#"{"notificationType":"Complaint","complaint":{"complaintFeedbackType":"abuse","complainedRecipients":[{"emailAddress":"u@there.example"}]}}"#;
    let envelope = format!("{{\"Type\":\"Notification\",\"Message\":{event:?}}}");
    for body in [event, &envelope] {
        let mail = format!(
            "From: no-reply@sns.amazonaws.com\nTo: s@sender.example\nSubject: AWS Notification Message\n\n{body}\n\n--\nunsubscribe\n"
        );
        let found = classify(mail.as_bytes(), &book);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].recipient.as_deref(), found[0].kind), (Some("u@there.example"), Kind::Complaint));
        assert!(found[0].suppress);
    }
}

#[test]
fn a_person_who_writes_about_a_problem_suppresses_nobody() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let letter = "From: Carol <carol@example.org>\nTo: sales@sender.example\nSubject: Delivery problem\n\n\
                  Hello, your mail could not be delivered.\n\n\
                  bob@customer.example: there is no such user here, please write to alice instead.\n";
    assert!(classify(letter.as_bytes(), &book).iter().all(|finding| !finding.suppress));
}

#[test]
fn one_recipient_is_not_suppressed_for_the_error_of_another() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let report = "Return-Path: <>\nFrom: Mail Delivery Subsystem <MAILER-DAEMON@mx.example>\nTo: s@sender.example\n\
                  Subject: Returned mail: see transcript for details\n\n\
                  \u{20}  ----- The following addresses had permanent fatal errors -----\n\
                  <gone@there.example>\n<busy@there.example>\n\n\
                  \u{20}  ----- Transcript of session follows -----\n\
                  550 5.1.1 <gone@there.example>... User unknown\n\
                  554 5.0.0 <busy@there.example>... Service unavailable\n";
    let found = classify(report.as_bytes(), &book);
    let gist: Vec<_> = found.iter().map(|one| (one.recipient.as_deref(), one.suppress)).collect();
    assert_eq!(gist, [(Some("gone@there.example"), true), (Some("busy@there.example"), false)], "{found:#?}");
}

#[test]
fn a_report_made_to_cost_time_costs_little() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let head = "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: s@sender.example\nSubject: failure notice\n";
    let many = format!(
        "{head}MIME-Version: 1.0\nContent-Type: multipart/report; boundary=b\n\n--b\nContent-Type: text/plain\n\n{}\n\
         --b\nContent-Type: message/delivery-status\n\n{}\n--b--\n",
        "in reply to RCPT TO command ".repeat(100_000),
        "Final-Recipient: x@y\n\n".repeat(12_000)
    );
    let line: String = (0..8000).map(|number| format!("u{number}@y ")).collect();
    let began = std::time::Instant::now();
    for message in [many, format!("{head}\nYour mail could not be delivered to {line}\n")] {
        assert!(classify(message.as_bytes(), &book).len() <= postkeep_feedback::MOST_FINDINGS);
    }
    // Some hundred times what it takes here; without bounds it was minutes.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_octets_make_it_panic_and_what_is_cut_short_is_read_as_far_as_it_goes(
        which in 0usize..200,
        cut in 0usize..6000,
        noise in proptest::collection::vec(any::<u8>(), 0..40),
        at in 0usize..6000,
    ) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(corpus("bounces/sisimai"))
            .expect("the corpus")
            .map(|entry| entry.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
            .collect();
        files.sort();
        let mut message = read(&files[which % files.len()]);
        message.truncate(cut);
        let at = at.min(message.len());
        message.splice(at..at, noise);
        let book = RuleBook::shipped().expect("the shipped rules");
        prop_assert!(!classify(&message, &book).is_empty());
    }
}
