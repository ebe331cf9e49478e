//! A host that keeps to the rules, for every combination of extensions: what it
//! accepted is what the client believes, octet by octet, over many messages.

use proptest::prelude::*;

use crate::peer::{Message, Peer, ehlo, open, peer, word};

/// What one server took: recipients and content.
type Taken = Vec<(Vec<String>, Vec<u8>)>;

/// Serves until QUIT. `no…@` is refused, `late…@` for now; `reject` in the content refuses the message.
async fn serve(mut peer: Peer, keywords: String) -> Taken {
    let mut taken = Taken::new();
    let (mut open, mut recipients) = (false, Vec::new());
    let mut broken = false;
    peer.say("220 honest\r\n").await;
    loop {
        let Some(line) = peer.try_line().await else { return taken };
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let mut end = |open: &mut bool, recipients: &mut Vec<String>, content: Vec<u8>| {
            *open = false;
            let recipients = std::mem::take(recipients);
            if recipients.is_empty() {
                "554 nobody\r\n"
            } else if content.windows(6).any(|six| six == b"reject") {
                "550 5.7.1 spam\r\n"
            } else {
                taken.push((recipients, content));
                "250 taken\r\n"
            }
        };
        let reply = match verb {
            "EHLO" => ehlo(&keywords),
            "RSET" => {
                (open, broken) = (false, false);
                recipients.clear();
                "250 reset\r\n".to_owned()
            }
            // After a refused chunk nothing but RSET will do (RFC 3030 §2).
            "MAIL" if open || broken => "503 nested\r\n".to_owned(),
            "MAIL" => {
                open = true;
                "250 ok\r\n".to_owned()
            }
            "RCPT" if !open => "503 no MAIL\r\n".to_owned(),
            "RCPT" if rest.contains("<no") => "550 5.1.1 unknown\r\n".to_owned(),
            "RCPT" if rest.contains("<late") => "450 4.2.0 greylisted\r\n".to_owned(),
            "RCPT" => {
                recipients.push(rest.trim_start_matches("TO:<").trim_end_matches('>').to_owned());
                "250 ok\r\n".to_owned()
            }
            "DATA" if recipients.is_empty() => "503 nobody\r\n".to_owned(),
            "DATA" => {
                peer.say("354 go\r\n").await;
                let content = peer.content().await;
                end(&mut open, &mut recipients, unstuffed(&content)).to_owned()
            }
            "BDAT" => {
                let size = rest.split(' ').next().and_then(|size| size.parse().ok()).expect("a size");
                let content = peer.octets(size).await;
                let reply = end(&mut open, &mut recipients, content);
                broken = !reply.starts_with('2');
                reply.to_owned()
            }
            "QUIT" => {
                peer.say("221 bye\r\n").await;
                return taken;
            }
            _ => "500 what?\r\n".to_owned(),
        };
        peer.say(&reply).await;
    }
}

fn unstuffed(content: &[u8]) -> Vec<u8> {
    content
        .split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
        .copied()
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn what_an_honest_host_took_is_what_was_delivered(
        offered in proptest::collection::vec(any::<bool>(), 4),
        messages in proptest::collection::vec((
            proptest::collection::vec(prop_oneof![
                Just("yes1@x.example"), Just("yes2@x.example"), Just("no1@x.example"), Just("late1@x.example"),
            ], 1..4),
            proptest::collection::vec(prop_oneof![
                4 => "[.a-z ]{0,60}\r\n", 1 => Just(".\r\n".to_owned()), 1 => Just("\r\n".to_owned()), 1 => Just("reject\r\n".to_owned()),
            ], 0..8),
            prop_oneof![4 => Just(1usize), 1 => Just(3000)],
        ), 1..6),
    ) {
        let names = ["PIPELINING", "CHUNKING", "SIZE", "DSN"];
        let keywords: Vec<_> = names.iter().zip(&offered).filter(|(_, on)| **on).map(|(name, _)| *name).collect();
        let keywords = keywords.join(" ");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let (address, server) = peer(move |peer| serve(peer, keywords)).await;
            let mut connection = open(address).await;
            let mut expected = Taken::new();
            for (recipients, lines, times) in messages {
                let content = format!("A: b\r\n\r\n{}", lines.concat().repeat(times)).into_bytes();
                let message = Message::new(content.clone(), &recipients);
                let result = connection.transact(&message.transaction()).await;
                prop_assert!(result.alive, "{:?}", result.end);
                let rejected = lines.iter().any(|line| line.contains("reject"));
                let mut accepted = Vec::new();
                for (recipient, outcome) in recipients.iter().zip(&result.recipients) {
                    let wanted = match (&recipient[..2], rejected) {
                        ("no", _) => "refused rcpt 550",
                        ("la", _) => "refused rcpt 450",
                        (_, true) => "refused final 550",
                        (_, false) => "delivered 250",
                    };
                    prop_assert_eq!(word(outcome), wanted);
                    if wanted == "delivered 250" {
                        accepted.push((*recipient).to_owned());
                    }
                }
                if !accepted.is_empty() {
                    expected.push((accepted, content));
                }
            }
            connection.quit().await;
            prop_assert!(server.await.expect("the script") == expected);
            Ok(())
        })?;
    }
}
