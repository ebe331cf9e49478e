use std::time::{Duration, Instant};

use postkeep_configuration::units::{ByteSize, Duration as Span};

use crate::common::*;

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let mut configuration = plain();
    configuration.intake.connections = 2;
    let (doors, gatekeeper) = open(&configuration);
    let address = doors.addresses()[0];
    let first = Client::connect(address).await;
    let _second = Client::connect(address).await;
    let mut third = Client::connect_silently(address).await;
    let reply = third.reply().await;
    assert!(reply.starts_with("421 4.7.0 too many connections"), "{reply}");
    assert_eq!(third.reply().await, "");
    drop(first);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if doors.connections() < 2 {
            break;
        }
    }
    Client::connect(address).await;
    assert_eq!(gatekeeper.refusals.lock()[0].0, "connect");
}

#[tokio::test]
async fn a_flood_of_bare_line_feeds_ends_like_any_other_errors() {
    let (doors, gatekeeper) = open(&plain());
    let mut client = Client::connect(doors.addresses()[0]).await;
    client.send(&vec![b'\n'; 10_000]).await;
    let mut replies = Vec::new();
    loop {
        match client.reply().await {
            reply if reply.is_empty() => break,
            reply => replies.push(codes(&reply)),
        }
    }
    // The default of `errors` is 20.
    assert_eq!(replies.len(), 21);
    assert_eq!(replies.last().map(String::as_str), Some("421 4.7.0"));
    assert_eq!(gatekeeper.refusals.lock().len(), 21);
}

#[tokio::test]
async fn a_client_that_never_falls_silent_has_an_end_too() {
    let mut configuration = plain();
    configuration.intake.session_timeout = Span::from_secs(1);
    configuration.intake.idle_commands = u32::MAX;
    let (doors, _) = open(&configuration);
    let mut client = Client::connect(doors.addresses()[0]).await;
    let began = Instant::now();
    let mut last = String::new();
    loop {
        client.send(b"NOOP\r\nNOOP\r\n").await;
        for _ in 0..2 {
            match client.reply().await {
                reply if reply.is_empty() => {
                    assert!(last.starts_with("421 4.4.2"), "{last}");
                    return;
                }
                reply => last = reply,
            }
        }
        if last.starts_with("421") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "it goes on for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_for_which_there_is_no_memory_are_put_off_with_452_and_the_others_taken() {
    let mut configuration = plain();
    configuration.intake.message_size = ByteSize::mebibytes(64);
    let (doors, gatekeeper) = open(&configuration);
    let address = doors.addresses()[0];
    // 300 MiB at once, where 256 MiB is all there is; nobody ends their message before all have sent it.
    let line = [b"x".repeat(998), b"\r\n".to_vec()].concat();
    let megabyte: Vec<u8> = line.iter().copied().cycle().take(line.len() * 1000).collect();
    let sent = std::sync::Arc::new(tokio::sync::Barrier::new(5));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (megabyte, sent) = (megabyte.clone(), std::sync::Arc::clone(&sent));
        running.spawn(async move {
            let mut client = Client::greeted(address).await;
            client.data().await;
            client.send(b"From: ann@example.com\r\n\r\n").await;
            for _ in 0..60 {
                client.send(&megabyte).await;
            }
            sent.wait().await;
            codes(&client.say(".").await)
        });
    }
    let replies = running.join_all().await;
    let count = |code: &str| replies.iter().filter(|reply| *reply == code).count();
    assert!(count("452 4.3.1") >= 1 && count("250 2.0.0") >= 3, "{replies:?}");
    assert_eq!(count("452 4.3.1") + count("250 2.0.0"), 5, "{replies:?}");
    assert_eq!(gatekeeper.submissions.lock().len(), count("250 2.0.0"));
    // And the memory is there again.
    let mut client = Client::greeted(address).await;
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
}

#[tokio::test]
async fn a_network_of_mapped_addresses_is_the_ipv4_network() {
    let mut configuration = plain();
    configuration.network[0].addresses = vec!["::ffff:127.0.0.0/104".parse().unwrap()];
    let (doors, gatekeeper) = open(&configuration);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    assert_eq!(gatekeeper.submissions.lock().len(), 1);
}

#[tokio::test]
async fn a_client_that_a_proxy_cannot_name_is_not_taken_for_the_proxy() {
    let mut configuration = plain();
    configuration.listener[0].proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
    let (doors, _) = open(&configuration);
    let mut client = Client::connect_silently(doors.addresses()[0]).await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x21, 0x00, 0, 0]);
    client.send(&header).await;
    assert_eq!(codes(&client.reply().await), "554 5.7.1");
}

#[tokio::test]
async fn one_address_does_not_get_more_than_its_share() {
    let mut configuration = plain();
    configuration.intake.connections_per_address = 1;
    let (doors, _) = open(&configuration);
    let address = doors.addresses()[0];
    let _first = Client::connect(address).await;
    let mut second = Client::connect_silently(address).await;
    let reply = second.reply().await;
    assert!(reply.starts_with("421 4.7.0 too many connections from your address"), "{reply}");
}

#[tokio::test]
async fn errors_idle_commands_and_messages_end_in_421() {
    let mut configuration = plain();
    configuration.intake.errors = 3;
    configuration.intake.idle_commands = 4;
    configuration.intake.messages_per_connection = 1;
    let (doors, _) = open(&configuration);
    let address = doors.addresses()[0];
    let mut client = Client::connect(address).await;
    for _ in 0..3 {
        assert_eq!(client.codes("BOO").await, "500 5.5.2");
    }
    assert_eq!(client.codes("NOOP").await, "421 4.7.0");
    assert_eq!(client.reply().await, "");
    let mut client = Client::connect(address).await;
    for _ in 0..4 {
        assert_eq!(client.codes("NOOP").await, "250 2.0.0");
    }
    assert_eq!(client.codes("NOOP").await, "421 4.7.0");
    let mut client = Client::greeted(address).await;
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    assert_eq!(client.codes("MAIL FROM:<ann@example.com>").await, "421 4.7.0");
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn size_and_recipients_are_bounded() {
    let mut configuration = plain();
    configuration.intake.message_size = ByteSize::from_bytes(5000);
    configuration.intake.recipients = 2;
    let (doors, gatekeeper) = open(&configuration);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    assert_eq!(client.codes("MAIL FROM:<ann@example.com> SIZE=5001").await, "552 5.3.4");
    let large = format!("{MESSAGE}{}", "0123456789\r\n".repeat(50_000));
    assert_eq!(codes(&client.message(&large).await), "552 5.3.4");
    client.say("MAIL FROM:<ann@example.com>").await;
    client.say("RCPT TO:<a@example.net>").await;
    client.send(format!("BDAT {}\r\n{large}BDAT 5 LAST\r\nhelloNOOP\r\n", large.len()).as_bytes()).await;
    assert_eq!(client.next_codes(3).await, ["552 5.3.4", "503 5.5.1", "250 2.0.0"]);
    client.say("MAIL FROM:<ann@example.com>").await;
    client.say("RCPT TO:<a@example.net>").await;
    client.say("RCPT TO:<b@example.net>").await;
    assert_eq!(client.codes("RCPT TO:<c@example.net>").await, "452 4.5.3");
    assert!(client.say("DATA").await.starts_with("354"));
    client.send(MESSAGE.as_bytes()).await;
    assert_eq!(client.codes(".").await, "250 2.0.0");
    assert_eq!(gatekeeper.submissions.lock()[0].envelope.recipients.len(), 2);
}

#[tokio::test]
async fn an_endless_message_or_an_absurd_chunk_ends_the_connection() {
    let mut configuration = plain();
    configuration.intake.message_size = ByteSize::from_bytes(1000);
    let (doors, _) = open(&configuration);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    client.data().await;
    let block = vec![b'a'; 1 << 20];
    for _ in 0..16 {
        client.send(&block).await;
    }
    // Not much more than is put up with: what the server has not read when it closes takes its reply with it.
    client.send(&block[..4 * 1000 + 64]).await;
    assert_eq!(client.next_codes(2).await, ["552 5.3.4", ""]);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    client.say("MAIL FROM:<ann@example.com>").await;
    client.say("RCPT TO:<a@example.net>").await;
    client.send(b"BDAT 18446744073709551615 LAST\r\n").await;
    assert_eq!(client.next_codes(2).await, ["552 5.3.4", ""]);
}

#[tokio::test]
async fn slow_clients_are_sent_away_however_they_are_slow() {
    let mut configuration = plain();
    configuration.intake.command_timeout = Span::from_millis(300);
    configuration.intake.data_timeout = Span::from_millis(300);
    let (doors, gatekeeper) = open(&configuration);
    let address = doors.addresses()[0];

    let mut silent = Client::connect(address).await;
    assert_eq!(silent.next_codes(2).await, ["421 4.4.2", ""]);

    // An octet now and then does not help: the time is that of the whole line.
    let mut dripping = Client::connect(address).await;
    let start = Instant::now();
    for octet in b"NOO" {
        dripping.send(&[*octet]).await;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    assert_eq!(dripping.next_codes(1).await, ["421 4.4.2"]);
    assert!(start.elapsed() < Duration::from_secs(5));

    let mut stalled = Client::greeted(address).await;
    stalled.data().await;
    stalled.send(b"From: a").await;
    assert_eq!(stalled.next_codes(2).await, ["421 4.4.2", ""]);
    assert!(gatekeeper.submissions.lock().is_empty());
}

#[tokio::test]
async fn a_session_has_an_end_even_for_the_busy() {
    let mut configuration = plain();
    configuration.intake.session_timeout = Span::from_millis(400);
    configuration.intake.idle_commands = 10_000;
    let (doors, _) = open(&configuration);
    let mut client = Client::greeted(doors.addresses()[0]).await;
    for _ in 0..100 {
        let reply = client.codes("NOOP").await;
        if reply == "421 4.4.2" {
            return;
        }
        assert_eq!(reply, "250 2.0.0");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the session did not end");
}

#[tokio::test]
async fn closing_lets_a_transaction_finish_and_sends_the_idle_away() {
    let (doors, gatekeeper) = open(&plain());
    let address = doors.addresses()[0];
    let mut idle = Client::greeted(address).await;
    let mut busy = Client::greeted(address).await;
    let mut stuck = Client::greeted(address).await;
    busy.data().await;
    stuck.data().await;
    let closing = tokio::spawn(async move { doors.close(Duration::from_secs(2)).await });
    assert_eq!(idle.next_codes(2).await, ["421 4.3.2", ""]);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "no new connections");
    busy.send(MESSAGE.as_bytes()).await;
    assert_eq!(busy.codes(".").await, "250 2.0.0");
    assert_eq!(busy.next_codes(2).await, ["421 4.3.2", ""]);
    let summary = closing.await.unwrap();
    assert_eq!((summary.finished, summary.aborted), (2, 1));
    assert_eq!(stuck.reply().await, "");
    assert_eq!(gatekeeper.open.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(gatekeeper.submissions.lock().len(), 1);
}

#[tokio::test]
async fn a_reload_is_seen_by_open_connections_and_a_bad_one_changes_nothing() {
    let (doors, _) = open(&plain());
    let address = doors.addresses()[0];
    let mut client = Client::greeted(address).await;
    assert_eq!(client.codes("MAIL FROM:<ann@other.example>").await, "553 5.7.1");
    let mut changed = plain();
    changed.network[0].sender_domains.push("other.example".to_owned());
    changed.intake.message_size = ByteSize::from_bytes(1234);
    changed.listener.push(changed.listener[0].clone());
    doors.reload(&changed).unwrap();
    assert_eq!(client.codes("NOOP").await, "250 2.0.0");
    assert_eq!(client.codes("MAIL FROM:<ann@other.example>").await, "250 2.1.0");
    assert!(client.say("EHLO client.example").await.contains("250-SIZE 1234\r\n"));
    assert_eq!(doors.addresses().len(), 2);
    assert_eq!(doors.addresses()[0], address);
    Client::greeted(doors.addresses()[1]).await;

    let mut bad = plain();
    bad.listener.push(serde_json::from_value(serde_json::json!({ "address": "192.0.2.1:25", "tls": "none" })).unwrap());
    let error = doors.reload(&bad).unwrap_err().to_string();
    assert!(error.contains("cannot listen on 192.0.2.1:25"), "{error}");
    assert_eq!(doors.addresses().len(), 2);
    Client::greeted(address).await;

    let second = doors.addresses()[1];
    doors.reload(&plain()).unwrap();
    assert_eq!(doors.addresses(), [address]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(tokio::net::TcpStream::connect(second).await.is_err());
}
