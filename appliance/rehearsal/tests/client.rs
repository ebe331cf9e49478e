//! The campaign's client before servers that end connections: what it takes
//! for refused, for not yet handed over, and for unknown.

use postkeep_rehearsal::campaign::{Campaign, Message, Plan};
use postkeep_rehearsal::client::ClientError;
use postkeep_rehearsal::rulebook::RuleBook;
use postkeep_rehearsal::{Client, Submission};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// A message to one recipient, to be sent with BDAT or with DATA.
fn message(chunking: bool) -> Message {
    let plan = Plan {
        seed: 1,
        recipients: 1,
        domains: vec!["sender.test".to_owned()],
        stream_header: "X-Stream".to_owned(),
        streams: vec![None],
        recipients_per_message: 1,
        largest_body: 1024,
    };
    let mut message = Campaign::new(plan, &RuleBook::shipped().unwrap()).next().unwrap();
    message.chunking = chunking;
    message
}

/// A server that answers MAIL, RCPT and what follows with these replies, one for each command, and then hangs up.
async fn server(replies: &'static [&'static str]) -> Client {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.write_all(b"220 here\r\n").await.unwrap();
        stream.read_line(&mut line).await.unwrap();
        stream.write_all(b"250-here\r\n250-PIPELINING\r\n250 CHUNKING\r\n").await.unwrap();
        for reply in replies {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
        }
        // What was sent ahead is read, so that closing does not take the replies back.
        stream.get_mut().shutdown().await.unwrap();
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {}
    });
    let to = Submission { address, host: "here".into(), credential: None, implicit_tls: false, authority: None };
    Client::connect(&to).await.unwrap()
}

#[tokio::test]
async fn a_server_that_takes_its_leave_before_it_has_said_anything_has_taken_nothing() {
    for replies in [&[][..], &["421 too many errors"]] {
        for chunking in [true, false] {
            let mut client = server(replies).await;
            let message = message(chunking);
            let sent = client.send(&message, &message.content("X-Stream")).await;
            assert!(matches!(sent, Err(ClientError::Before(_))), "{replies:?} {chunking} {sent:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_recipient_is_refused_whether_or_not_the_server_goes_on() {
    for (replies, over) in [
        (&["250 ok", "550 no"][..], true),
        (&["250 ok", "550 no", "554 nobody", "421 too many errors"], true),
        (&["250 ok", "550 no", "421 too many errors"], true),
    ] {
        for chunking in [true, false] {
            let mut client = server(replies).await;
            let message = message(chunking);
            let answer = client.send(&message, &message.content("X-Stream")).await.unwrap();
            assert_eq!(answer.recipients, [Err("550 no".to_owned())], "{replies:?} {chunking}");
            assert_eq!((answer.queued, client.is_over()), (None, over), "{replies:?} {chunking}");
        }
    }
}

#[tokio::test]
async fn only_a_message_that_may_have_been_taken_is_uncertain() {
    for (chunking, uncertain) in [(true, true), (false, false)] {
        let mut client = server(&["250 ok", "250 ok"]).await;
        let message = message(chunking);
        let sent = client.send(&message, &message.content("X-Stream")).await;
        assert_eq!(matches!(sent, Err(ClientError::Uncertain(_))), uncertain, "{sent:?}");
    }
}
