//! Without TLS: opening, transactions, time-outs, breaks, the end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use postkeep_configuration::OutboundTls;
use postkeep_delivery::{IdleEnd, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::peer::{Message, open, peer, raw_peer, short, target, try_open, word, words};

/// A content of that many octets in short lines.
fn lines(octets: usize) -> Bytes {
    Bytes::from(b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab\r\n".repeat(octets / 62 + 1))
}

#[tokio::test]
async fn a_host_without_extensions_gets_data_with_doubled_dots() {
    let (address, server) = peer(|mut peer| async move {
        peer.greet("").await;
        peer.answer("MAIL FROM:<a@example.com>", "250 ok\r\n").await;
        peer.answer("RCPT TO:<b@example.net>", "250 ok\r\n").await;
        peer.answer("RCPT TO:<c@example.net>", "550 5.1.1 no\r\n").await;
        peer.answer("DATA", "354 go\r\n").await;
        let content = peer.content().await;
        peer.say("250 2.0.0 taken\r\n").await;
        peer.answer("QUIT", "221 bye\r\n").await;
        content
    })
    .await;
    let mut connection = open(address).await;
    let message = Message::new("A: b\r\n\r\n.\r\n..x\r\nend.", &["b@example.net", "c@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["delivered 250", "refused rcpt 550"]);
    assert!(result.alive && result.end.is_none());
    connection.quit().await;
    // RFC 5321 §4.5.2, and the missing end of line.
    assert_eq!(server.await.expect("the script"), b"A: b\r\n\r\n..\r\n...x\r\nend.\r\n");
}

#[tokio::test]
async fn with_pipelining_and_chunking_a_message_is_one_write_and_the_connection_is_used_again() {
    let (address, server) = peer(|mut peer| async move {
        peer.greet("PIPELINING CHUNKING SIZE=100000").await;
        let first = peer.arrived().await;
        peer.say("250 ok\r\n250 ok\r\n250 taken\r\n").await;
        let second = peer.arrived().await;
        peer.say("250 ok\r\n550 no\r\n503 nobody\r\n").await;
        let third = peer.arrived().await;
        peer.say("250 reset\r\n250 ok\r\n250 ok\r\n250 taken\r\n").await;
        (first, second, third)
    })
    .await;
    let mut connection = open(address).await;
    let mut message = Message::new("x", &["b@example.net"]);
    message.parts = vec![Bytes::from_static(b"DKIM: 1\r\n"), Bytes::new(), Bytes::from_static(b"A: b\r\n\r\n.x\r\n")];
    let mut results = Vec::new();
    let mut bytes = 0;
    for _ in 0..3 {
        let result = connection.transact(&message.transaction()).await;
        assert!(result.alive);
        bytes += result.bytes;
        results.push(word(&result.recipients[0]));
    }
    assert_eq!(results, ["delivered 250", "refused rcpt 550", "delivered 250"]);
    let (first, second, third) = server.await.expect("the script");
    let whole =
        "MAIL FROM:<a@example.com> SIZE=21\r\nRCPT TO:<b@example.net>\r\nBDAT 21 LAST\r\nDKIM: 1\r\nA: b\r\n\r\n.x\r\n";
    assert_eq!((first.as_str(), second.as_str()), (whole, whole));
    assert_eq!(third, format!("RSET\r\n{whole}"));
    assert_eq!(bytes as usize, 3 * whole.len() + 6);
}

#[tokio::test]
async fn a_go_ahead_for_nobody_is_ended_with_a_dot() {
    let (address, server) = peer(|mut peer| async move {
        peer.greet("PIPELINING").await;
        for _ in 0..3 {
            peer.line().await;
        }
        peer.say("250 ok\r\n550 no\r\n354 go\r\n").await;
        let content = peer.content().await;
        peer.say("554 nobody\r\n").await;
        peer.answer("MAIL", "250 ok\r\n").await;
        content
    })
    .await;
    let mut connection = open(address).await;
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["refused rcpt 550"]);
    assert!(result.alive);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["lost rcpt"]);
    assert_eq!(server.await.expect("the script"), b"");
}

#[tokio::test]
async fn replies_that_come_octet_by_octet_are_understood() {
    let (address, _server) = raw_peer(|mut stream| async move {
        let script = [
            "220-mx\r\n220 hello\r\n",
            "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            "250-2.1.0 a\r\n250 2.1.0 b\r\n250 ok\n250 2.6.0 taken\r\n",
        ];
        let mut scratch = [0; 4096];
        for (turn, text) in script.into_iter().enumerate() {
            if turn > 0 {
                assert!(stream.read(&mut scratch).await.expect("octets") > 0);
            }
            for octet in text.bytes() {
                stream.write_all(&[octet]).await.expect("the client is there");
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let mut connection = open(address).await;
    assert!(connection.capabilities().pipelining && connection.capabilities().chunking);
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["delivered 250"]);
}

#[tokio::test]
async fn helo_is_for_hosts_that_do_not_know_ehlo() {
    let (address, _server) = peer(|mut peer| async move {
        peer.say("220 old\r\n").await;
        peer.answer("EHLO", "502 what?\r\n").await;
        peer.answer("HELO client.example", "250 hello\r\n").await;
        peer.line().await;
    })
    .await;
    let connection = open(address).await;
    assert_eq!(*connection.capabilities(), postkeep_delivery::Capabilities::default());
}

#[tokio::test]
async fn a_host_that_says_no_at_the_door_is_quoted() {
    for (greeting, hello, stage, code) in [
        ("554 5.7.1 blocked\r\n", "", Stage::Greeting, Some(554)),
        ("421 busy\r\n", "", Stage::Greeting, Some(421)),
        ("220 hi\r\n", "421 4.7.0 slow\r\n", Stage::Ehlo, Some(421)),
        ("220 hi\r\n", "550 no\r\n", Stage::Ehlo, Some(550)),
        ("220 hi\r\n220 hi again\r\n", "250 hello\r\n", Stage::Ehlo, None),
        ("220 hi\r\n421 but no\r\n", "", Stage::Ehlo, Some(421)),
        ("SSH-2.0-x\r\n", "", Stage::Greeting, None),
    ] {
        let (address, _server) = peer(move |mut peer| async move {
            peer.say(greeting).await;
            while peer.try_line().await.is_some() {
                if !hello.is_empty() {
                    peer.say(hello).await;
                }
            }
        })
        .await;
        let Err(error) = try_open(&target(address)).await else { panic!("{greeting}{hello} opened") };
        assert_eq!((error.stage, error.reply.map(|reply| reply.code)), (stage, code), "{greeting}{hello}");
        assert!(!error.plain_text_may_do && !error.detail.is_empty());
    }
}

#[tokio::test]
async fn a_closed_port_is_a_connect_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let Err(error) = try_open(&target(address)).await else { panic!("opened") };
    assert_eq!(error.stage, Stage::Connect);
    assert!(error.detail.contains("mx.example") && error.detail.contains("refused"), "{}", error.detail);
}

#[tokio::test]
async fn the_source_address_is_bound_and_one_that_cannot_be_is_told_apart() {
    let (address, server) = raw_peer(|mut stream| async move {
        stream.write_all(b"554 no\r\n").await.expect("the client is there");
        stream.peer_addr().expect("an address").ip()
    })
    .await;
    let mut bound = target(address);
    bound.bind = Some("127.0.0.2".parse().expect("an address"));
    assert!(try_open(&bound).await.is_err());
    assert_eq!(server.await.expect("the script").to_string(), "127.0.0.2");

    // 192.0.2.0/24 is on no interface (RFC 5737): bind fails, or with freebind the connect after it.
    bound.bind = Some("192.0.2.77".parse().expect("an address"));
    for freebind in [false, true] {
        bound.freebind = freebind;
        let Err(error) = try_open(&bound).await else { panic!("opened") };
        assert_eq!(error.stage, Stage::Bind, "{error}");
        assert!(error.detail.contains("192.0.2.77"), "{error}");
    }
}

#[tokio::test]
async fn every_wait_ends() {
    // How many commands the peer answers before it falls silent.
    for (answers, expected) in [(0, "mail"), (1, "rcpt"), (2, "data"), (3, "final")] {
        let (address, server) = peer(move |mut peer| async move {
            peer.greet("").await;
            for reply in ["250 ok\r\n", "250 ok\r\n", "354 go\r\n"].into_iter().take(answers) {
                peer.line().await;
                peer.say(reply).await;
            }
            while peer.try_line().await.is_some() {}
        })
        .await;
        let mut target = target(address);
        target.timeouts = short(100);
        let mut connection = try_open(&target).await.expect("a connection");
        let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
        let result = connection.transact(&message.transaction()).await;
        assert_eq!(words(&result.recipients), [format!("lost {expected}")]);
        assert!(!result.alive && result.end.is_some_and(|end| end.contains("no reply within 100ms")));
        drop(connection);
        server.await.expect("the script");
    }
}

#[tokio::test]
async fn a_silent_greeting_and_a_silent_ehlo_time_out() {
    for (greeting, stage) in [("", Stage::Greeting), ("220 hi\r\n", Stage::Ehlo)] {
        let (address, _server) = peer(move |mut peer| async move {
            peer.say(greeting).await;
            while peer.try_line().await.is_some() {}
        })
        .await;
        let mut target = target(address);
        target.timeouts = short(100);
        let Err(error) = try_open(&target).await else { panic!("opened") };
        assert_eq!(error.stage, stage);
    }
}

#[tokio::test]
async fn a_reply_that_drips_does_not_hold_the_connection() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("").await;
        peer.line().await;
        for _ in 0..100 {
            peer.stream.write_all(b"250-more\r\n").await.ok();
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut target = target(address);
    target.timeouts = short(200);
    let mut connection = try_open(&target).await.expect("a connection");
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
    let before = Instant::now();
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["lost mail"]);
    assert!(before.elapsed() < Duration::from_millis(1500));
}

#[tokio::test]
async fn a_host_that_reads_nothing_is_left_after_the_block_time_out() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("PIPELINING").await;
        for _ in 0..3 {
            peer.line().await;
        }
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
        sleep(Duration::from_secs(20)).await;
    })
    .await;
    let mut target = target(address);
    target.timeouts = short(300);
    let mut connection = try_open(&target).await.expect("a connection");
    let message = Message::new(lines(30_000_000), &["b@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["lost data"]);
    assert!(result.end.is_some_and(|end| end.contains("took no octets")));
}

#[tokio::test]
async fn a_slow_reader_is_waited_for_while_it_goes_on() {
    let (address, server) = peer(|mut peer| async move {
        peer.greet("PIPELINING CHUNKING").await;
        for _ in 0..2 {
            peer.line().await;
        }
        peer.say("250 ok\r\n250 ok\r\n").await;
        let line = peer.line().await;
        let size: usize = line.split(' ').nth(1).and_then(|size| size.parse().ok()).expect("a size");
        let mut left = size;
        while left > 0 {
            let piece = left.min(2_000_000);
            peer.octets(piece).await;
            left -= piece;
            sleep(Duration::from_millis(60)).await;
        }
        peer.say("250 taken\r\n").await;
        size
    })
    .await;
    let mut target = target(address);
    target.timeouts = short(400);
    let mut connection = try_open(&target).await.expect("a connection");
    let message = Message::new(lines(20_000_000), &["b@example.net"]);
    let before = Instant::now();
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["delivered 250"]);
    assert!(before.elapsed() > Duration::from_millis(400));
    assert_eq!(server.await.expect("the script"), message.parts[0].len());
}

#[tokio::test]
async fn a_host_that_refuses_in_mid_content_and_hangs_up_is_heard() {
    for (keywords, reply, expected) in [
        ("PIPELINING", "552 5.3.4 too much\r\n", "refused data 552"),
        ("PIPELINING", "421 4.3.2 shutting down\r\n", "refused data 421"),
        ("PIPELINING CHUNKING", "552 5.3.4 too much\r\n", "refused data 552"),
        ("", "451 disk full\r\n", "refused data 451"),
        ("", "250 what a nice start\r\n", "lost data"),
    ] {
        let (address, server) = peer(move |mut peer| async move {
            peer.greet(keywords).await;
            let commands = if keywords.ends_with("CHUNKING") { 2 } else { 3 };
            for number in 0..commands {
                let line = peer.line().await;
                peer.say(if line == "DATA" { "354 go\r\n" } else { "250 ok\r\n" }).await;
                assert!(number < 3);
            }
            peer.octets(100_000).await;
            peer.say(reply).await;
            // Closing with unread octets resets the connection.
        })
        .await;
        let mut connection = open(address).await;
        let message = Message::new(lines(30_000_000), &["b@example.net"]);
        let result = connection.transact(&message.transaction()).await;
        assert_eq!(words(&result.recipients), [expected], "{keywords} {reply}");
        assert!(!result.alive && result.end.is_some());
        server.await.expect("the script");
    }
}

#[tokio::test]
async fn a_421_to_a_pipelined_group_ends_it_for_everybody() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("PIPELINING CHUNKING").await;
        peer.line().await;
        peer.say("250 ok\r\n550 no\r\n250 ok\r\n421 4.7.0 too fast\r\n").await;
    })
    .await;
    let mut connection = open(address).await;
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net", "c@example.net", "d@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["refused rcpt 550", "refused rcpt 421", "refused rcpt 421"]);
    assert!(!result.alive && result.end.is_some_and(|end| end.contains("too fast")));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_final_dot_is_lost_at_the_end() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("PIPELINING").await;
        for _ in 0..3 {
            peer.line().await;
        }
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
        peer.content().await;
    })
    .await;
    let mut connection = open(address).await;
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["lost final"]);
    assert_eq!(result.end.as_deref(), Some("the host closed the connection"));
}

#[tokio::test]
async fn an_endless_reply_is_cut_off() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("").await;
        peer.line().await;
        let lines = "250-and more\r\n".repeat(100);
        while peer.stream.write_all(lines.as_bytes()).await.is_ok() {}
    })
    .await;
    let mut connection = open(address).await;
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["lost mail"]);
    assert!(result.end.is_some_and(|end| end.contains("128 lines")));
}

#[tokio::test]
async fn a_second_reply_to_one_command_is_not_taken_for_the_next_answer() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("").await;
        peer.answer("MAIL", "250 ok\r\n250 ok again\r\n").await;
        while peer.try_line().await.is_some() {}
    })
    .await;
    let mut connection = open(address).await;
    let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["lost rcpt"]);
    assert!(result.end.is_some_and(|end| end.contains("without being asked")));
}

#[tokio::test]
async fn an_idle_connection_tells_when_the_host_speaks_or_goes() {
    for (text, expected) in [("421 4.4.2 idle too long\r\n", Some(421)), ("", None)] {
        let (address, _server) = peer(move |mut peer| async move {
            peer.greet("").await;
            sleep(Duration::from_millis(100)).await;
            peer.say(text).await;
        })
        .await;
        let mut connection = open(address).await;
        // Dropping the future loses nothing.
        assert!(tokio::time::timeout(Duration::from_millis(20), connection.idle()).await.is_err());
        match connection.idle().await {
            IdleEnd::Said(reply) => assert_eq!(Some(reply.code), expected),
            IdleEnd::Closed(_) => assert_eq!(expected, None),
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_host_left_meanwhile_is_found_out_before_anything_is_written() {
    for (text, expected) in [("421 4.4.2 idle too long\r\n", "refused mail 421"), ("", "lost mail")] {
        let (address, server) = peer(move |mut peer| async move {
            peer.greet("PIPELINING CHUNKING").await;
            peer.say(text).await;
        })
        .await;
        let mut connection = open(address).await;
        server.await.expect("the script");
        sleep(Duration::from_millis(20)).await;
        let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
        let result = connection.transact(&message.transaction()).await;
        assert_eq!(words(&result.recipients), [expected]);
        assert_eq!(result.bytes, 0);
        assert!(!result.alive);
    }
}

#[tokio::test]
async fn quit_waits_a_second_and_no_longer() {
    let (address, server) = peer(|mut peer| async move {
        peer.greet("").await;
        assert_eq!(peer.line().await, "QUIT");
        peer.is_left().await
    })
    .await;
    let connection = open(address).await;
    let before = Instant::now();
    connection.quit().await;
    assert!(before.elapsed() < Duration::from_secs(3));
    assert!(server.await.expect("the script"));
}

#[tokio::test]
async fn a_utf8_header_matters_only_when_it_is_there() {
    let (address, _server) = peer(|mut peer| async move {
        peer.greet("8BITMIME").await;
        peer.answer("MAIL FROM:<a@example.com> BODY=8BITMIME", "250 ok\r\n").await;
        peer.answer("RCPT", "250 ok\r\n").await;
        peer.answer("DATA", "354 ok\r\n").await;
        peer.content().await;
        peer.say("250 ok\r\n").await;
        peer.is_left().await;
    })
    .await;
    let mut connection = open(address).await;
    for (content, expected) in
        [("Subject: é\r\n\r\nx\r\n", "unsendable 554"), ("Subject: e\r\n\r\né\r\n", "delivered 250")]
    {
        let message = Message::new(content, &["b@example.net"]);
        let mut transaction = message.transaction();
        transaction.smtputf8 = true;
        transaction.eight_bit = true;
        let result = connection.transact(&transaction).await;
        assert_eq!(words(&result.recipients), [expected]);
        assert!(result.alive);
    }
}

#[tokio::test]
async fn tls_is_not_asked_for_when_it_is_switched_off_and_is_missed_when_required() {
    for (policy, keywords, opens) in [
        (OutboundTls::None, "STARTTLS", true),
        (OutboundTls::Opportunistic, "PIPELINING", true),
        (OutboundTls::Required, "PIPELINING", false),
        (OutboundTls::Verified, "PIPELINING", false),
    ] {
        let (address, _server) = peer(move |mut peer| async move {
            peer.greet(keywords).await;
            assert!(peer.is_left().await);
        })
        .await;
        let mut target = target(address);
        target.tls = policy;
        match try_open(&target).await {
            Ok(connection) => assert!(opens && connection.tls().is_none() && connection.tls_failure().is_none()),
            Err(error) => assert!(!opens && error.stage == Stage::Tls && !error.plain_text_may_do),
        }
    }
}
