use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::envelope::Notify;

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

fn recipients(texts: &[&str]) -> Vec<Recipient> {
    texts.iter().map(|text| Recipient::new(address(text))).collect()
}

fn request<'a>(sender: Option<&'a Address>, recipients: &'a [Recipient]) -> Request<'a> {
    Request {
        sender,
        recipients,
        size: 100,
        eight_bit: false,
        utf8_header: false,
        ret: None,
        envelope_id: None,
        require_tls: false,
    }
}

fn offers(keywords: &str) -> Capabilities {
    Capabilities::from_ehlo(&Reply::plain(250, format!("host\n{}", keywords.replace(' ', "\n").replace('=', " "))))
}

/// Runs a dialogue against a list of reply codes; what was written, `<content>` and `<stuffed>` in its place.
fn run(mut dialogue: Dialogue<'_>, codes: &[u16]) -> (Vec<String>, Vec<Outcome>, End) {
    let mut codes = codes.iter();
    let mut writes = Vec::new();
    for _ in 0..1000 {
        let mut out = BytesMut::new();
        match dialogue.step(&mut out) {
            Step::Done => break,
            Step::Write(content) => {
                let mut text = String::from_utf8(out.to_vec()).expect("UTF-8");
                text.push_str(match content {
                    Content::None => "",
                    Content::Whole => "<content>",
                    Content::Stuffed => "<stuffed>",
                });
                writes.push(text);
                dialogue.written();
            }
            Step::Await(_) => match codes.next() {
                Some(code) => dialogue.reply(Reply::plain(*code, format!("{code}"))),
                None => dialogue.lost("the host closed the connection"),
            },
        }
    }
    assert_eq!(codes.next(), None, "replies are left: {writes:?}");
    let (outcomes, end) = dialogue.finish();
    (writes, outcomes, end)
}

fn refused(stage: Stage, code: u16) -> Outcome {
    Outcome::Refused { stage, reply: Reply::plain(code, format!("{code}")) }
}

fn delivered(code: u16) -> Outcome {
    Outcome::Delivered(Reply::plain(code, format!("{code}")))
}

#[test]
fn a_host_without_extensions_gets_one_command_at_a_time() {
    let sender = address("a@example.com");
    let to = recipients(&["b@example.net", "c@example.net"]);
    let capabilities = Capabilities::default();
    let dialogue = Dialogue::new(request(Some(&sender), &to), &capabilities, false);
    let (writes, outcomes, end) = run(dialogue, &[250, 250, 550, 354, 250]);
    assert_eq!(
        writes,
        [
            "MAIL FROM:<a@example.com>\r\n",
            "RCPT TO:<b@example.net>\r\n",
            "RCPT TO:<c@example.net>\r\n",
            "DATA\r\n",
            "<stuffed>"
        ]
    );
    assert_eq!(outcomes, [delivered(250), refused(Stage::Rcpt, 550)]);
    assert_eq!(end, End { alive: true, ..End::default() });
}

#[test]
fn pipelining_puts_mail_rcpt_and_data_in_one_write() {
    let to = recipients(&["b@example.net", "c@example.net"]);
    let capabilities = offers("PIPELINING");
    let dialogue = Dialogue::new(request(None, &to), &capabilities, true);
    let (writes, outcomes, end) = run(dialogue, &[250, 250, 250, 251, 354, 451]);
    assert_eq!(
        writes,
        ["RSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n", "<stuffed>"]
    );
    assert_eq!(outcomes, [refused(Stage::Final, 451), refused(Stage::Final, 451)]);
    assert_eq!(end, End { alive: true, ..End::default() });
}

#[test]
fn pipelining_and_chunking_need_one_write_for_all() {
    let to = recipients(&["b@example.net"]);
    let capabilities = offers("PIPELINING CHUNKING SIZE");
    let (writes, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 250, 250]);
    assert_eq!(writes, ["MAIL FROM:<> SIZE=100\r\nRCPT TO:<b@example.net>\r\nBDAT 100 LAST\r\n<content>"]);
    assert_eq!(outcomes, [delivered(250)]);
    assert!(end.alive && !end.reset);
}

#[test]
fn a_host_that_offers_chunking_and_does_not_know_bdat_is_no_reason_to_bounce() {
    let to = recipients(&["b@example.net"]);
    let capabilities = offers("PIPELINING CHUNKING");
    for unknown in [500, 502] {
        let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 250, unknown]);
        assert!(matches!(&outcomes[0], Outcome::Unsendable { reply } if reply.code == 451), "{outcomes:?}");
        // What was in the chunk may have been taken for commands: the connection is of no more use.
        assert!(!end.alive && end.chunking_fault.is_some_and(|fault| fault.contains(&unknown.to_string())));
    }
    // Any other refusal of a chunk is about the message.
    let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 250, 554]);
    assert_eq!(outcomes, [refused(Stage::Final, 554)]);
    assert!(end.alive && end.chunking_fault.is_none());
}

#[test]
fn a_large_chunk_waits_until_somebody_wants_it() {
    let to = recipients(&["b@example.net"]);
    let capabilities = offers("PIPELINING CHUNKING");
    let large = Request { size: ONE_GROUP + 1, ..request(None, &to) };
    let (writes, _, _) = run(Dialogue::new(large, &capabilities, false), &[250, 250, 250]);
    assert_eq!(writes, ["MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\n", "BDAT 65537 LAST\r\n<content>"]);
    let (writes, outcomes, end) = run(Dialogue::new(large, &capabilities, false), &[250, 550]);
    assert_eq!(writes.len(), 1);
    assert_eq!(outcomes, [refused(Stage::Rcpt, 550)]);
    assert_eq!(end, End { alive: true, reset: true, ..End::default() });
}

#[test]
fn a_chunk_that_nobody_wanted_is_refused_and_needs_a_reset() {
    let to = recipients(&["b@example.net", "c@example.net"]);
    let capabilities = offers("PIPELINING CHUNKING");
    let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 550, 450, 503]);
    assert_eq!(outcomes, [refused(Stage::Rcpt, 550), refused(Stage::Rcpt, 450)]);
    assert_eq!(end, End { alive: true, reset: true, ..End::default() });
}

#[test]
fn a_go_ahead_for_nobody_is_answered_with_a_lone_dot() {
    let to = recipients(&["b@example.net"]);
    let capabilities = offers("PIPELINING");
    for last in [250, 554] {
        let codes = [250, 550, 354, last];
        let (writes, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &codes);
        assert_eq!(writes.last().map(String::as_str), Some(".\r\n"));
        assert_eq!(outcomes, [refused(Stage::Rcpt, 550)]);
        assert_eq!(end, End { alive: true, ..End::default() });
    }
}

#[test]
fn a_refused_mail_refuses_everybody_whatever_follows() {
    let to = recipients(&["b@example.net", "c@example.net"]);
    let pipelining = offers("PIPELINING");
    let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &pipelining, false), &[451, 503, 250, 503]);
    assert_eq!(outcomes, [refused(Stage::Mail, 451), refused(Stage::Mail, 451)]);
    assert!(end.alive);
    let plain = Capabilities::default();
    let (writes, outcomes, end) = run(Dialogue::new(request(None, &to), &plain, false), &[551]);
    assert_eq!(writes, ["MAIL FROM:<>\r\n"]);
    assert_eq!(outcomes, [refused(Stage::Mail, 551), refused(Stage::Mail, 551)]);
    assert_eq!(end, End { alive: true, ..End::default() });
}

#[test]
fn a_refused_data_refuses_those_who_were_accepted() {
    let to = recipients(&["b@example.net", "c@example.net"]);
    let capabilities = Capabilities::default();
    let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 550, 250, 452]);
    assert_eq!(outcomes, [refused(Stage::Rcpt, 550), refused(Stage::Data, 452)]);
    assert_eq!(end, End { alive: true, reset: true, ..End::default() });
}

#[test]
fn a_421_ends_everything_with_its_words() {
    let to = recipients(&["b@example.net", "c@example.net", "d@example.net"]);
    let capabilities = offers("PIPELINING");
    let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 550, 250, 421]);
    assert_eq!(outcomes, [refused(Stage::Rcpt, 550), refused(Stage::Rcpt, 421), refused(Stage::Rcpt, 421)]);
    assert!(!end.alive && end.reason.is_some());
}

#[test]
fn a_connection_that_breaks_after_the_dot_is_lost_at_the_end() {
    let to = recipients(&["b@example.net", "c@example.net"]);
    let capabilities = offers("PIPELINING");
    let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), &[250, 250, 550, 354]);
    assert!(matches!(&outcomes[0], Outcome::Lost { stage: Stage::Final, .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], refused(Stage::Rcpt, 550));
    assert!(!end.alive);
}

#[test]
fn a_host_that_is_out_of_step_is_left() {
    let to = recipients(&["b@example.net"]);
    let capabilities = Capabilities::default();
    for (codes, stage) in [
        (&[354][..], Stage::Mail),
        (&[250, 354], Stage::Rcpt),
        (&[250, 250, 250], Stage::Data),
        (&[250, 250, 354, 354], Stage::Final),
    ] {
        let (_, outcomes, end) = run(Dialogue::new(request(None, &to), &capabilities, false), codes);
        assert!(matches!(&outcomes[0], Outcome::Lost { stage: at, .. } if *at == stage), "{outcomes:?}");
        assert!(!end.alive);
    }
}

#[test]
fn a_reply_that_nobody_asked_for_is_not_taken_for_an_answer() {
    let to = recipients(&["b@example.net"]);
    let capabilities = Capabilities::default();
    let mut dialogue = Dialogue::new(request(None, &to), &capabilities, false);
    assert!(dialogue.expects_nothing());
    dialogue.reply(Reply::plain(250, "again"));
    let (outcomes, end) = dialogue.finish();
    assert!(matches!(&outcomes[0], Outcome::Lost { stage: Stage::Mail, .. }));
    assert!(!end.alive);
}

#[test]
fn a_refusal_in_the_middle_of_the_content_counts_and_an_acceptance_does_not() {
    let to = recipients(&["b@example.net"]);
    let capabilities = offers("PIPELINING");
    for (code, expected) in [(552, true), (250, false)] {
        let mut dialogue = Dialogue::new(request(None, &to), &capabilities, false);
        let mut out = BytesMut::new();
        dialogue.step(&mut out);
        dialogue.written();
        for code in [250, 250, 354] {
            dialogue.reply(Reply::plain(code, ""));
        }
        assert_eq!(dialogue.step(&mut out), Step::Write(Content::Stuffed));
        dialogue.reply(Reply::plain(code, format!("{code}")));
        assert!(dialogue.is_over());
        let (outcomes, end) = dialogue.finish();
        assert!(!end.alive);
        if expected {
            assert_eq!(outcomes, [refused(Stage::Data, 552)]);
        } else {
            assert!(matches!(&outcomes[0], Outcome::Lost { stage: Stage::Data, .. }), "{outcomes:?}");
        }
    }
}

#[test]
fn a_refusal_in_one_breath_with_the_go_ahead_counts() {
    let to = recipients(&["b@example.net"]);
    let capabilities = offers("PIPELINING");
    let mut dialogue = Dialogue::new(request(None, &to), &capabilities, false);
    dialogue.step(&mut BytesMut::new());
    dialogue.written();
    for code in [250, 250, 354, 552] {
        dialogue.reply(Reply::plain(code, format!("{code}")));
    }
    let (outcomes, end) = dialogue.finish();
    assert_eq!(outcomes, [refused(Stage::Data, 552)]);
    assert!(!end.alive);
}

#[test]
fn parameters_go_only_to_hosts_that_offer_them() {
    let sender = address("a@example.com");
    let to = [Recipient {
        address: address("b@example.net"),
        notify: Some(Notify { success: true, failure: true, ..Notify::default() }),
        original: Some("rfc822;B+40x".into()),
    }];
    let request = Request {
        eight_bit: true,
        ret: Some(Return::Headers),
        envelope_id: Some("QQ314159"),
        ..request(Some(&sender), &to)
    };
    let all = offers("PIPELINING CHUNKING 8BITMIME SMTPUTF8 DSN SIZE");
    let (writes, _, _) = run(Dialogue::new(request, &all, false), &[250, 250, 250]);
    assert_eq!(
        writes,
        ["MAIL FROM:<a@example.com> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=QQ314159\r\n\
          RCPT TO:<b@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;B+40x\r\nBDAT 100 LAST\r\n<content>"]
    );
    let few = offers("PIPELINING CHUNKING 8BITMIME");
    let (writes, _, _) = run(Dialogue::new(request, &few, false), &[250, 250, 250]);
    assert_eq!(
        writes,
        ["MAIL FROM:<a@example.com> BODY=8BITMIME\r\nRCPT TO:<b@example.net>\r\nBDAT 100 LAST\r\n<content>"]
    );
}

#[test]
fn parameters_cannot_smuggle_commands() {
    let to = [Recipient {
        address: address("b@example.net"),
        notify: None,
        original: Some("rfc822;x\r\nRCPT TO:<evil@example.net>".into()),
    }];
    let request = Request { envelope_id: Some("x RET=FULL"), ..request(None, &to) };
    let capabilities = offers("PIPELINING DSN");
    let (writes, _, _) = run(Dialogue::new(request, &capabilities, false), &[421]);
    assert_eq!(writes, ["MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"]);
}

#[test]
fn a_message_that_a_host_cannot_take_is_not_offered_to_it() {
    let to = recipients(&["b@example.net"]);
    let unsendable = |request: Request<'_>, capabilities: &Capabilities| {
        let (writes, outcomes, end) = run(Dialogue::new(request, capabilities, false), &[]);
        assert!(writes.is_empty() && end.alive);
        match outcomes.into_iter().next() {
            Some(Outcome::Unsendable { reply }) => (reply.code, reply.enhanced.map(|code| code.to_string())),
            other => panic!("{other:?}"),
        }
    };
    let code = |code: u16, enhanced: &str| (code, Some(enhanced.to_owned()));
    assert_eq!(unsendable(request(None, &to), &offers("SIZE=99")), code(552, "5.3.4"));
    let eight_bit = Request { eight_bit: true, ..request(None, &to) };
    assert_eq!(unsendable(eight_bit, &offers("SIZE=100")), code(554, "5.6.3"));
    let utf8_header = Request { utf8_header: true, ..request(None, &to) };
    assert_eq!(unsendable(utf8_header, &offers("8BITMIME")), code(554, "5.6.9"));
    let sender = address("é@example.com");
    assert_eq!(unsendable(request(Some(&sender), &to), &offers("8BITMIME")), code(553, "5.6.7"));
}

#[test]
fn smtputf8_is_used_where_needed_and_domains_go_in_a_labels() {
    let sender = address("a@bücher.example");
    let to = recipients(&["b@example.net", "josé@example.net", "c@straße.example"]);
    let capabilities = offers("PIPELINING");
    let dialogue = Dialogue::new(request(Some(&sender), &to), &capabilities, false);
    let (writes, outcomes, _) = run(dialogue, &[250, 250, 250, 354, 250]);
    assert_eq!(
        writes[0],
        "MAIL FROM:<a@xn--bcher-kva.example>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@xn--strae-oqa.example>\r\nDATA\r\n"
    );
    assert_eq!(outcomes[0], delivered(250));
    assert!(matches!(&outcomes[1], Outcome::Unsendable { reply } if reply.code == 553));
    assert_eq!(outcomes[2], delivered(250));
    let capabilities = offers("PIPELINING SMTPUTF8 8BITMIME");
    let dialogue = Dialogue::new(request(Some(&sender), &to), &capabilities, false);
    let (writes, _, _) = run(dialogue, &[421]);
    assert!(
        writes[0]
            .starts_with("MAIL FROM:<a@xn--bcher-kva.example> SMTPUTF8\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<josé@")
    );
}

#[test]
fn a_reset_that_is_owed_stays_owed_when_nothing_is_said() {
    let to = recipients(&["é@example.net"]);
    let capabilities = Capabilities::default();
    let (writes, _, end) = run(Dialogue::new(request(None, &to), &capabilities, true), &[]);
    assert!(writes.is_empty() && end.reset && end.alive);
}

proptest! {
    #[test]
    fn every_dialogue_ends_and_every_recipient_has_one_outcome(
        offered in proptest::collection::vec(any::<bool>(), 6),
        people in proptest::collection::vec(prop_oneof![
            Just("a@example.net"), Just("é@example.net"), Just("b@é.example"),
        ], 0..6),
        codes in proptest::collection::vec(prop_oneof![
            8 => Just(250u16), 3 => Just(354), 2 => Just(550), 2 => Just(450), 1 => Just(421), 1 => Just(200), 1 => 200u16..600,
        ], 0..14),
        size in prop_oneof![Just(10u64), Just(ONE_GROUP + 1)],
        eight_bit: bool, utf8_header: bool, reset: bool, interrupt in 0usize..40,
    ) {
        let capabilities = Capabilities {
            pipelining: offered[0], chunking: offered[1], eight_bit_mime: offered[2], smtputf8: offered[3],
            dsn: offered[4], size: offered[5], size_limit: offered[5].then_some(ONE_GROUP),
            ..Capabilities::default()
        };
        let to = recipients(&people);
        let request = Request { size, eight_bit, utf8_header, ..request(None, &to) };
        let mut dialogue = Dialogue::new(request, &capabilities, reset);
        let mut codes = codes.into_iter();
        let (mut asked, mut said, mut sent_content, mut steps) = (0usize, Vec::new(), false, 0usize);
        loop {
            steps += 1;
            prop_assert!(steps < 100, "the dialogue does not end");
            let mut out = BytesMut::new();
            match dialogue.step(&mut out) {
                Step::Done => break,
                Step::Write(content) => {
                    prop_assert!(!out.is_empty() || content == Content::Stuffed);
                    let text = String::from_utf8(out.to_vec()).expect("UTF-8");
                    asked += text.split("\r\n").filter(|line| !line.is_empty()).count();
                    asked += usize::from(content == Content::Stuffed);
                    prop_assert!(!(sent_content && content != Content::None), "the content is sent once");
                    sent_content |= content != Content::None;
                    if steps == interrupt {
                        dialogue.lost("interrupted");
                    }
                    dialogue.written();
                }
                Step::Await(_) => match codes.next() {
                    Some(code) => {
                        said.push(code);
                        dialogue.reply(Reply::plain(code, "x"));
                    }
                    None => dialogue.lost("closed"),
                },
            }
        }
        let (outcomes, end) = dialogue.finish();
        prop_assert_eq!(outcomes.len(), people.len());
        // Only a connection whose every command was answered may be used again.
        if end.alive {
            prop_assert_eq!(asked, said.len());
        } else {
            prop_assert!(end.reason.is_some());
        }
        for outcome in &outcomes {
            match outcome {
                Outcome::Delivered(reply) => {
                    prop_assert!(sent_content && reply.is_positive() && said.last() == Some(&reply.code));
                }
                Outcome::Refused { reply, .. } => {
                    prop_assert!(said.contains(&reply.code) && reply.code >= 400);
                }
                Outcome::Lost { .. } => prop_assert!(!end.alive),
                Outcome::Unsendable { reply } => {
                    prop_assert!(reply.is_permanent() || (reply.code == 451 && end.chunking_fault.is_some()));
                }
            }
        }
    }
}
