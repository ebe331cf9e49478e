use super::*;
use crate::rulebook::RuleBook;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 1, 0, 1));

fn provider(extra: &str) -> Arc<Provider> {
    let text = format!(
        "[[provider]]\nname = \"one\"\nsource = \"x\"\nchecked = \"2026-11-23\"\nweight = 1\n\
         [[provider.site]]\ndomains = [\"one.test\"]\nhost = [{{ name = \"mx.one.test\" }}]\n{extra}"
    );
    Arc::new(RuleBook::parse(&text).unwrap().provider.remove(0))
}

fn open(mailboxes: &mut Mailboxes) -> Session {
    let host = mailboxes.rules.site[0].host[0].clone();
    let mut session = Session::new(0, host, SOURCE);
    say(&mut session, mailboxes, "EHLO sender.test", 0);
    session
}

fn say(session: &mut Session, mailboxes: &mut Mailboxes, line: &str, seconds: u64) -> String {
    session.command(mailboxes, line.as_bytes(), Duration::from_secs(seconds)).reply.unwrap_or_default()
}

#[test]
fn a_plain_message_goes_through() {
    let mut mailboxes = Mailboxes::new(provider(""), 1, 1.0);
    let mut session = open(&mut mailboxes);
    assert!(say(&mut session, &mut mailboxes, "MAIL FROM:<a@sender.test>", 0).starts_with("250"));
    assert!(say(&mut session, &mut mailboxes, "RCPT TO:<b@one.test>", 0).starts_with("250"));
    let answer = session.command(&mut mailboxes, b"DATA", Duration::ZERO);
    assert_eq!(answer.then, Then::ReadData { drop_after: None });
    let end = session.finish(&mut mailboxes, 100);
    assert_eq!(end.accepted, ["b@one.test"]);
    assert!(end.answer.reply.unwrap().starts_with("250"));
    assert!(mailboxes.reasons().is_empty());
}

#[test]
fn the_third_connection_is_refused_where_two_are_allowed() {
    let mut mailboxes = Mailboxes::new(provider("[provider.limits]\nconnections = 2"), 1, 1.0);
    for open in 1..=2 {
        assert_eq!(mailboxes.connect(0, "mx", SOURCE, open, Duration::ZERO).then, Then::Continue);
    }
    let answer = mailboxes.connect(0, "mx", SOURCE, 3, Duration::ZERO);
    assert_eq!(answer.then, Then::Close);
    assert!(answer.reply.unwrap().starts_with("421"));
    assert_eq!(mailboxes.reasons()[&Reason::TooManyConnections], 1);
}

#[test]
fn rates_are_kept_in_any_stretch_and_shrink_with_hurry() {
    let mut mailboxes = Mailboxes::new(provider("[provider.limits]\nmessage-rate = \"2/1m\""), 1, 10.0);
    let mut session = open(&mut mailboxes);
    let mut at = |milliseconds: u64| {
        let reply = session
            .command(&mut mailboxes, b"MAIL FROM:<a@sender.test>", Duration::from_millis(milliseconds))
            .reply
            .unwrap();
        session.command(&mut mailboxes, b"RSET", Duration::from_millis(milliseconds));
        reply[..3].to_owned()
    };
    // A minute divided by ten is six seconds.
    assert_eq!(
        [at(0), at(100), at(5_900), at(6_000), at(6_050), at(6_100)],
        ["250", "250", "450", "250", "450", "250"]
    );
}

#[test]
fn greylisting_lets_the_second_attempt_in_after_the_wait() {
    let mut mailboxes = Mailboxes::new(provider("[provider.mood]\ngreylist = 1.0\ngreylist-wait = \"1m\""), 1, 1.0);
    let mut session = open(&mut mailboxes);
    say(&mut session, &mut mailboxes, "MAIL FROM:<a@sender.test>", 0);
    for (second, expected) in [(0, "450"), (59, "450"), (60, "250")] {
        assert_eq!(&say(&mut session, &mut mailboxes, "RCPT TO:<b@one.test>", second)[..3], expected);
    }
}

#[test]
fn what_happens_to_a_recipient_does_not_depend_on_the_order_of_connections() {
    let rules = provider("[provider.mood]\nunknown = 0.3\nfull = 0.3\ngoodbye = 0.2");
    let run = |order: &mut dyn Iterator<Item = u32>| {
        let mut mailboxes = Mailboxes::new(Arc::clone(&rules), 9, 1.0);
        let mut replies = BTreeMap::new();
        for number in order {
            let mut session = open(&mut mailboxes);
            say(&mut session, &mut mailboxes, "MAIL FROM:<a@sender.test>", 0);
            let reply = say(&mut session, &mut mailboxes, &format!("RCPT TO:<p{number}@one.test>"), 0);
            replies.insert(number, reply);
        }
        replies
    };
    assert_eq!(run(&mut (0..300)), run(&mut (0..300).rev()));
}

#[test]
fn an_unknown_source_is_let_in_after_its_wait() {
    let mut mailboxes = Mailboxes::new(provider("[provider.mood]\nunknown-source-wait = \"1m\""), 1, 60.0);
    assert!(mailboxes.connect(0, "mx", SOURCE, 1, Duration::ZERO).reply.unwrap().starts_with("554"));
    assert!(mailboxes.connect(0, "mx", SOURCE, 1, Duration::from_secs(1)).reply.unwrap().starts_with("220"));
}

#[test]
fn a_lost_reply_still_means_responsibility() {
    let mut mailboxes = Mailboxes::new(provider("[provider.mood]\nlost-reply = 1.0"), 1, 1.0);
    let mut session = open(&mut mailboxes);
    say(&mut session, &mut mailboxes, "MAIL FROM:<>", 0);
    say(&mut session, &mut mailboxes, "RCPT TO:<b@one.test>", 0);
    say(&mut session, &mut mailboxes, "DATA", 0);
    let end = session.finish(&mut mailboxes, 10);
    assert_eq!(end.accepted, ["b@one.test"]);
    assert_eq!(end.answer.reply, None);
    assert_eq!(end.answer.then, Then::Drop);
}

#[test]
fn what_was_not_offered_is_a_protocol_fault() {
    let mut mailboxes = Mailboxes::new(provider("").clone(), 1, 1.0);
    let mut rules = (*mailboxes.rules).clone();
    rules.capabilities = vec!["SIZE 1000".to_owned()];
    mailboxes = Mailboxes::new(Arc::new(rules), 1, 1.0);
    let mut session = open(&mut mailboxes);
    assert!(say(&mut session, &mut mailboxes, "MAIL FROM:<a@b.test> BODY=8BITMIME", 0).starts_with("555"));
    assert!(say(&mut session, &mut mailboxes, "MAIL FROM:<a@b.test> SIZE=2000", 0).starts_with("552"));
    assert!(say(&mut session, &mut mailboxes, "MAIL FROM:<é@b.test>", 0).starts_with("553"));
    assert_eq!(mailboxes.reasons()[&Reason::ProtocolFault], 2);
    assert_eq!(mailboxes.reasons()[&Reason::TooLarge], 1);
}
