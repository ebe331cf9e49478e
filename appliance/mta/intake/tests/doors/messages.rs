use postkeep_smtp::{BodyKind, Reply, Return};

use crate::common::*;

#[tokio::test]
async fn a_message_arrives_whole_with_its_envelope_and_trace() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    let mail = "MAIL FROM:<ann@example.com> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e1 SIZE=100";
    assert_eq!(client.codes(mail).await, "250 2.1.0");
    assert_eq!(client.codes("RCPT TO:<bob@example.net> NOTIFY=NEVER ORCPT=rfc822;bob").await, "250 2.1.5");
    assert_eq!(client.codes("RCPT TO:<дядя@пример.example>").await, "250 2.1.5");
    assert_eq!(client.codes("RCPT TO:<bob@EXAMPLE.net>").await, "250 2.1.5");
    assert!(client.say("DATA").await.starts_with("354 "));
    client.send("From: Änn <ann@example.com>\r\nX-Postkeep-Stream: default\r\n\r\n..dot\r\n.\r\n".as_bytes()).await;
    assert_eq!(client.reply().await, "250 2.0.0 Ok: queued as 0000000000000001\r\n");
    assert_eq!(client.codes("QUIT").await, "221 2.0.0");
    assert_eq!(client.reply().await, "", "the server closes after QUIT");

    let submission = gatekeeper.submissions.lock().pop().unwrap();
    assert_eq!(submission.content, "From: Änn <ann@example.com>\r\n\r\n.dot\r\n".as_bytes());
    assert!(submission.has_dot_lines && submission.eight_bit);
    assert_eq!(submission.header_length, submission.content.len() - 6);
    assert_eq!(submission.credential, "local");
    assert_eq!(submission.stream, "default");
    assert_eq!(submission.from_domain, "example.com");
    assert_eq!(submission.message_id, "<0000000000000001@mx.example.com>");
    let prefix = String::from_utf8(submission.prefix.to_vec()).unwrap();
    assert!(
        prefix.starts_with("Received: from client.example ([127.0.0.1])\r\n\tby mx.example.com with UTF8SMTP id 0000000000000001;\r\n\t"),
        "{prefix}"
    );
    assert!(prefix.contains("\r\nDate: ") && prefix.ends_with("\r\nMessage-ID: <0000000000000001@mx.example.com>\r\n"));
    let envelope = submission.envelope;
    assert_eq!(envelope.recipients.len(), 2);
    assert_eq!(envelope.recipients[0].original.as_deref(), Some("rfc822;bob"));
    assert!(envelope.smtputf8);
    assert_eq!((envelope.body, envelope.ret), (BodyKind::EightBitMime, Some(Return::Headers)));
    assert_eq!(envelope.envelope_id.as_deref(), Some("e1"));
    assert!(gatekeeper.refusals.lock().is_empty());
}

#[tokio::test]
async fn many_pipelined_commands_in_one_packet_are_answered_in_order() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::connect(doors.addresses()[0]).await;
    let transaction = format!(
        "MAIL FROM:<ann@example.com>\r\nRCPT TO:<a@example.net>\r\nRCPT TO:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n{MESSAGE}.\r\n"
    );
    let chunk = format!(
        "MAIL FROM:<>\r\nRCPT TO:<c@example.net>\r\nBDAT {}\r\n{MESSAGE}BDAT 5\r\nmore BDAT 0 LAST\r\n",
        MESSAGE.len()
    );
    client.send(format!("EHLO client.example\r\n{transaction}{transaction}{chunk}NOOP\r\nQUIT\r\n").as_bytes()).await;
    assert!(client.reply().await.starts_with("250-"));
    for _ in 0..2 {
        assert_eq!(client.next_codes(4).await, ["250 2.1.0", "250 2.1.5", "553 5.1.3", "250 2.1.5"]);
        assert!(client.reply().await.starts_with("354 "));
        assert_eq!(client.next_codes(1).await, ["250 2.0.0"]);
    }
    assert_eq!(client.next_codes(2).await, ["250 2.1.0", "250 2.1.5"]);
    assert_eq!(client.reply().await, format!("250 2.0.0 {} octets received\r\n", MESSAGE.len()));
    assert_eq!(client.next_codes(4).await, ["250 2.0.0", "250 2.0.0", "250 2.0.0", "221 2.0.0"]);
    let submissions = gatekeeper.submissions.lock();
    assert_eq!(submissions.len(), 3);
    assert_eq!(submissions[0].content, MESSAGE);
    assert_eq!(submissions[0].envelope.recipients.len(), 2);
    assert_eq!(submissions[2].content, format!("{MESSAGE}more \r\n"));
    assert_eq!(submissions[2].envelope.sender, None);
}

#[tokio::test]
async fn a_message_in_single_octets_and_a_large_one_are_the_same_as_any() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    client.data().await;
    for octet in format!("{MESSAGE}.\r\n").bytes() {
        client.send(&[octet]).await;
    }
    assert_eq!(client.next_codes(1).await, ["250 2.0.0"]);
    let large = format!("{MESSAGE}{}", "0123456789012345678901234567890123456789\r\n".repeat(100_000));
    assert_eq!(codes(&client.message(&large).await), "250 2.0.0");
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    let submissions = gatekeeper.submissions.lock();
    assert_eq!(submissions[0].content, MESSAGE);
    assert!(submissions[1].content == large);
    assert_eq!(submissions[2].content, MESSAGE);
}

#[tokio::test]
async fn a_large_chunk_is_taken_in_pieces() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    let large = format!("{MESSAGE}{}", "0123456789012345678901234567890123456789\r\n".repeat(50_000));
    client.say("MAIL FROM:<ann@example.com>").await;
    client.say("RCPT TO:<bob@example.net>").await;
    client.send(format!("BDAT {} LAST\r\n{large}NOOP\r\n", large.len()).as_bytes()).await;
    assert_eq!(client.next_codes(2).await, ["250 2.0.0", "250 2.0.0"]);
    assert!(gatekeeper.submissions.lock()[0].content == large);
}

#[tokio::test]
async fn the_gatekeeper_may_refuse_and_the_session_goes_on() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    *gatekeeper.answer.lock() = Some(Reply::new(452, (4, 3, 1), "the spool is full"));
    assert_eq!(codes(&client.message(MESSAGE).await), "452 4.3.1");
    *gatekeeper.answer.lock() = None;
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    *gatekeeper.full.lock() = Some(Reply::new(452, (4, 3, 1), "the disk is full"));
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "452 4.3.1");
    let local = Some("local".to_owned());
    assert_eq!(
        *gatekeeper.refusals.lock(),
        [
            ("message".to_owned(), "452 4.3.1".to_owned(), local.clone()),
            ("mail".to_owned(), "452 4.3.1".to_owned(), local)
        ]
    );
}

#[tokio::test]
async fn refused_content_leaves_the_session_in_order() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    for (content, expected) in [
        ("Subject: no sender\r\n\r\n", "550 5.6.0"),
        ("From: ann@evil.example\r\n\r\n", "550 5.7.1"),
        ("From: ann@example.com\r\nFrom: ann@example.com\r\n\r\n", "550 5.6.0"),
        ("From: ann@example.com\r\n\r\na\0b\r\n", "550 5.6.0"),
        ("From: ann@example.com\r\nX-Postkeep-Stream: news\r\n\r\n", "550 5.7.1"),
    ] {
        assert_eq!(codes(&client.message(content).await), expected, "{content:?}");
    }
    let long = format!("From: ann@example.com\r\n\r\n{}\r\n", "a".repeat(999));
    assert_eq!(codes(&client.message(&long).await), "550 5.6.0");
    let looping = format!("{}{MESSAGE}", "Received: x\r\n".repeat(31));
    assert_eq!(codes(&client.message(&looping).await), "554 5.4.6");
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    assert_eq!(gatekeeper.submissions.lock().len(), 1);
    assert_eq!(gatekeeper.refusals.lock().len(), 7);
}
