use crate::common::*;

#[tokio::test]
async fn strangers_cannot_relay() {
    let mut configuration = plain();
    configuration.network.clear();
    let (doors, gatekeeper) = open(&configuration);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "250 2.1.0");
    assert_eq!(client.codes("RCPT TO:<bob@example.net>").await, "554 5.7.1");
    assert_eq!(client.codes("RCPT TO:<postmaster>").await, "554 5.7.1");
    assert_eq!(client.codes("DATA").await, "554 5.5.1");
    assert_eq!(client.codes("BDAT 0 LAST").await, "554 5.5.1");
    assert_eq!(gatekeeper.refusals.lock()[0], ("rcpt".to_owned(), "554 5.7.1".to_owned(), None));
}

#[tokio::test]
async fn senders_keep_to_their_domains_and_recipients_need_one() {
    let (doors, _) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    assert_eq!(client.codes("MAIL FROM:<ann@evil.example>").await, "553 5.7.1");
    assert_eq!(client.codes("MAIL FROM:<ann@sub.example.com>").await, "553 5.7.1");
    assert_eq!(client.codes("MAIL FROM:<>").await, "250 2.1.0");
    assert_eq!(client.codes("RCPT TO:<bob@[192.0.2.1]>").await, "550 5.1.2");
    assert_eq!(client.codes("RCPT TO:<postmaster>").await, "250 2.1.5");
}

#[tokio::test]
async fn a_submission_door_wants_tls_and_then_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let (configuration, certificate) = with_tls(folder.path());
    let (doors, gatekeeper) = open(&configuration);
    let mut client = Client::connect(doors.addresses()[0]).await;
    let reply = client.say("EHLO client.example").await;
    assert!(reply.contains("250 STARTTLS\r\n") && !reply.contains("AUTH"), "{reply}");
    let response = plain_response("ann", PASSWORD);
    assert_eq!(client.codes(&format!("AUTH PLAIN {response}")).await, "538 5.7.11");
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "530 5.7.0");
    assert_eq!(client.codes("RCPT TO:<bob@example.net>").await, "530 5.7.0");
    assert_eq!(client.codes("STARTTLS").await, "220 2.0.0");
    let mut client = client.start_tls(&certificate).await;
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "503 5.5.1");
    let reply = client.say("EHLO client.example").await;
    assert!(reply.contains("250 AUTH PLAIN LOGIN\r\n") && !reply.contains("STARTTLS"), "{reply}");
    assert_eq!(client.codes(&format!("AUTH PLAIN {}", plain_response("ann", "wrong"))).await, "535 5.7.8");
    assert_eq!(client.codes(&format!("AUTH PLAIN {}", plain_response("bob", PASSWORD))).await, "535 5.7.8");
    assert_eq!(client.codes(&format!("AUTH PLAIN {response}")).await, "235 2.7.0");
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    let submission = gatekeeper.submissions.lock().pop().unwrap();
    assert_eq!(submission.credential, "ann");
    assert_eq!(submission.tls.as_ref().unwrap().version, "TLSv1.3");
    let prefix = String::from_utf8(submission.prefix.to_vec()).unwrap();
    assert!(prefix.contains(" with ESMTPSA id ") && prefix.contains("\r\n\t(TLSv1.3 TLS_"), "{prefix}");
    assert!(gatekeeper.refusals.lock().contains(&("auth".to_owned(), "535 5.7.8".to_owned(), Some("bob".to_owned()))));
}

#[tokio::test]
async fn implicit_tls_login_and_a_chosen_stream_work() {
    let folder = tempfile::tempdir().unwrap();
    let (configuration, certificate) = with_tls(folder.path());
    let (doors, gatekeeper) = open(&configuration);
    for _ in 0..2 {
        // The second time the password is remembered.
        let mut client = Client::over_tls(doors.addresses()[1], &certificate).await;
        client.say("EHLO client.example").await;
        assert_eq!(client.say("AUTH LOGIN").await, "334 VXNlcm5hbWU6\r\n");
        assert_eq!(client.say("YW5u").await, "334 UGFzc3dvcmQ6\r\n");
        assert_eq!(client.codes("Y29ycmVjdCBob3JzZQ==").await, "235 2.7.0");
        assert_eq!(codes(&client.message(&format!("X-Postkeep-Stream: news\r\n{MESSAGE}")).await), "250 2.0.0");
    }
    let submissions = gatekeeper.submissions.lock();
    assert_eq!(submissions.len(), 2);
    assert_eq!(submissions[1].stream, "news");
    assert_eq!(submissions[1].content, MESSAGE);
}

#[tokio::test]
async fn failed_passwords_end_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (configuration, certificate) = with_tls(folder.path());
    let (doors, _) = open(&configuration);
    let mut client = Client::over_tls(doors.addresses()[1], &certificate).await;
    client.say("EHLO client.example").await;
    let wrong = format!("AUTH PLAIN {}", plain_response("ann", "wrong"));
    assert_eq!(client.codes(&wrong).await, "535 5.7.8");
    assert_eq!(client.codes(&wrong).await, "535 5.7.8");
    client.send(format!("{wrong}\r\n").as_bytes()).await;
    assert_eq!(client.next_codes(3).await, ["535 5.7.8", "421 4.7.0", ""]);
}

#[tokio::test]
async fn a_changed_password_and_a_removed_credential_count_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut configuration, certificate) = with_tls(folder.path());
    let (doors, _) = open(&configuration);
    let auth = format!("AUTH PLAIN {}", plain_response("ann", PASSWORD));
    let mut client = Client::over_tls(doors.addresses()[1], &certificate).await;
    client.say("EHLO client.example").await;
    assert_eq!(client.codes(&auth).await, "235 2.7.0");
    configuration.credential[0].password_hash = hash("another");
    doors.reload(&configuration).unwrap();
    let mut second = Client::over_tls(doors.addresses()[1], &certificate).await;
    second.say("EHLO client.example").await;
    assert_eq!(second.codes(&auth).await, "535 5.7.8");
    configuration.credential[0].name = "bob".to_owned();
    doors.reload(&configuration).unwrap();
    client.say("NOOP").await;
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "530 5.7.0");
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (configuration, _) = with_tls(folder.path());
    let (doors, _) = open(&configuration);
    let renewed = make_certificate(folder.path());
    doors.reload(&configuration).unwrap();
    Client::over_tls(doors.addresses()[1], &renewed).await;
    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    let error = doors.reload(&configuration).unwrap_err().to_string();
    assert!(error.contains("key.pem"), "{error}");
    Client::over_tls(doors.addresses()[1], &renewed).await;
}

#[tokio::test]
async fn what_was_said_in_plain_text_after_starttls_is_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let (configuration, certificate) = with_tls(folder.path());
    let (doors, gatekeeper) = open(&configuration);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    client.send(b"STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<ann@example.com>\r\n").await;
    assert_eq!(client.next_codes(1).await, ["220 2.0.0"]);
    let mut client = client.start_tls(&certificate).await;
    // The injected commands would have been answered before this one.
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "503 5.5.1");
    assert_eq!(client.codes("NOOP").await, "250 2.0.0");
    assert_eq!(gatekeeper.refusals.lock().len(), 1);
}

#[tokio::test]
async fn a_bare_line_feed_never_ends_a_message_and_ends_the_connection() {
    let (doors, gatekeeper) = open(&plain());
    for end in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r\n"] {
        let mut client = Client::greeted(doors.addresses()[0]).await;
        client.data().await;
        let smuggled = format!(
            "{MESSAGE}x{end}MAIL FROM:<evil@example.com>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n{MESSAGE}\r\n.\r\nNOOP\r\n"
        );
        client.send(smuggled.as_bytes()).await;
        assert_eq!(client.next_codes(2).await, ["550 5.6.0", ""], "{end:?}");
    }
    assert!(gatekeeper.submissions.lock().is_empty());
}

#[tokio::test]
async fn malformed_lines_are_refused() {
    let (doors, _) = open(&plain());
    let mut client = Client::greeted(doors.addresses()[0]).await;
    client.send(b"NOOP\nNOOP\r\n").await;
    assert_eq!(client.next_codes(2).await, ["500 5.5.2", "250 2.0.0"]);
    client.send(&[b"NOOP ".to_vec(), vec![b'a'; 3000], b"\r\nNOOP\r\n".to_vec()].concat()).await;
    assert_eq!(client.next_codes(2).await, ["500 5.5.2", "250 2.0.0"]);
    client.send(&vec![b'a'; 100_000]).await;
    assert_eq!(client.next_codes(2).await, ["500 5.5.2", ""]);
    let mut browser = Client::connect(doors.addresses()[0]).await;
    browser.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b>\r\n").await;
    assert_eq!(browser.next_codes(2).await, ["421 4.7.0", ""]);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    client.send(b"BDAT ten LAST\r\nMAIL FROM:<a@b>").await;
    assert_eq!(client.next_codes(2).await, ["501 5.5.4", ""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_logins_than_can_be_checked_are_put_off_with_454_and_none_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let (mut configuration, certificate) = with_tls(folder.path());
    configuration.credential[0].password_hash = heavy_hash(PASSWORD);
    let (doors, _) = open(&configuration);
    let address = doors.addresses()[1];
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = Client::over_tls(address, &certificate).await;
        client.say("EHLO client.example").await;
        clients.push(client);
    }
    let line = format!("AUTH PLAIN {}\r\n", plain_response("ann", "wrong"));
    for client in &mut clients {
        client.send(line.as_bytes()).await;
    }
    let (mut refused, mut put_off) = (0, 0);
    for client in &mut clients {
        match codes(&client.reply().await).as_str() {
            "535 5.7.8" => refused += 1,
            "454 4.7.0" => put_off += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused >= 60 && put_off >= 1 && refused + put_off == 100, "{refused} refused, {put_off} put off");
}

#[tokio::test]
async fn a_door_without_tls_offers_neither_starttls_nor_auth() {
    let (doors, _) = open(&plain());
    let mut client = Client::connect(doors.addresses()[0]).await;
    let reply = client.say("EHLO client.example").await;
    assert!(!reply.contains("STARTTLS") && !reply.contains("AUTH"), "{reply}");
    assert_eq!(client.codes("STARTTLS").await, "502 5.5.1");
    assert_eq!(client.codes("AUTH PLAIN").await, "502 5.5.1");
}
