use super::*;

fn reply(text: &str) -> Reply {
    parse_reply(text).expect("a reply")
}

fn at(stage: Stage, text: &str) -> (Scope, Reaction, &'static str) {
    let verdict = judge_by_codes(stage, &reply(text));
    (verdict.scope, verdict.reaction, verdict.class)
}

const BACK_OFF: Reaction = Reaction::Slow;

#[test]
fn unknown_and_disabled_users_bounce_for_that_recipient() {
    use Stage::Rcpt;
    assert_eq!(
        at(Rcpt, "550 5.1.1 The email account that you tried to reach does not exist."),
        (Scope::Recipient, Reaction::Bounce, "bad-mailbox")
    );
    assert_eq!(at(Rcpt, "550 5.2.1 The account is disabled"), (Scope::Recipient, Reaction::Bounce, "mailbox-disabled"));
    assert_eq!(at(Rcpt, "550 5.1.1 ... OFR_416"), (Scope::Recipient, Reaction::Bounce, "bad-mailbox"));
    assert_eq!(at(Rcpt, "550 no such user"), (Scope::Recipient, Reaction::Bounce, "refused"));
    assert_eq!(
        at(Rcpt, "554 30 Sorry, your message cannot be delivered"),
        (Scope::Recipient, Reaction::Bounce, "refused")
    );
}

#[test]
fn a_full_mailbox_or_a_busy_user_is_tried_again() {
    use Stage::{Final, Rcpt};
    assert_eq!(
        at(Rcpt, "452 4.2.2 The email account is over quota"),
        (Scope::Recipient, Reaction::Retry, "mailbox-full")
    );
    assert_eq!(at(Rcpt, "552 5.2.2 over quota"), (Scope::Recipient, Reaction::Retry, "mailbox-full"));
    assert_eq!(at(Final, "552 5.2.2 over quota"), (Scope::Message, Reaction::Retry, "mailbox-full"));
    assert_eq!(
        at(Rcpt, "450 4.2.1 The user you are trying to contact is receiving mail too quickly"),
        (Scope::Recipient, Reaction::Retry, "mailbox-disabled")
    );
}

#[test]
fn greylisting_concerns_the_recipient_and_not_the_lane() {
    assert_eq!(at(Stage::Rcpt, "450 4.7.1 Greylisted, try again later"), (Scope::Recipient, Reaction::Retry, "policy"));
    assert_eq!(at(Stage::Rcpt, "451 deferred by rule #CR-IN-DEF-2"), (Scope::Recipient, Reaction::Retry, "deferred"));
}

#[test]
fn a_421_backs_off_the_lane_wherever_it_comes() {
    for stage in [Stage::Greeting, Stage::Ehlo, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Final] {
        let text = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume";
        assert_eq!(at(stage, text), (Scope::Lane, BACK_OFF, "service-closing"));
    }
    assert_eq!(at(Stage::Mail, "421 RP-001 The mail server IP has exceeded the rate limit").0, Scope::Lane);
}

#[test]
fn what_happens_before_mail_never_bounces_a_message() {
    let text = "554 IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact tosa@rx.t-online.de) (NOWL)";
    assert_eq!(at(Stage::Greeting, text), (Scope::Lane, BACK_OFF, "connection-refused"));
    assert_eq!(at(Stage::Ehlo, "550 5.7.1 HELO refused OFR_201"), (Scope::Lane, BACK_OFF, "connection-refused"));
    assert_eq!(at(Stage::Greeting, "450 busy"), (Scope::Lane, BACK_OFF, "connection-deferred"));
    assert_eq!(at(Stage::Tls, "454 4.7.0 TLS not available"), (Scope::Lane, BACK_OFF, "connection-deferred"));
}

#[test]
fn a_transient_mail_refusal_is_about_the_lane_when_its_code_says_so() {
    assert_eq!(
        at(
            Stage::Mail,
            "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)"
        ),
        (Scope::Lane, BACK_OFF, "policy")
    );
    assert_eq!(at(Stage::Mail, "451 4.3.2 system not accepting messages").0, Scope::Lane);
    assert_eq!(
        at(Stage::Mail, "451 4.1.8 Sender address domain does not resolve"),
        (Scope::Message, Reaction::Retry, "invalid-sender")
    );
    assert_eq!(at(Stage::Mail, "451 try later"), (Scope::Message, Reaction::Retry, "deferred"));
}

#[test]
fn blocks_bounce_the_message_with_a_class_that_speaks_of_policy_and_not_of_the_mailbox() {
    let s3140 = "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).";
    assert_eq!(at(Stage::Mail, s3140), (Scope::Message, Reaction::Bounce, "policy"));
    assert_eq!(
        at(Stage::Final, "550 5.7.515 Access denied, sending domain does not meet the required authentication level"),
        (Scope::Message, Reaction::Bounce, "authentication-policy")
    );
    assert_eq!(
        at(Stage::Final, "550-5.7.26 This mail has been blocked because the sender is unauthenticated").2,
        "authentication-policy"
    );
    assert_eq!(
        at(Stage::Rcpt, "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1"),
        (Scope::Recipient, Reaction::Bounce, "policy")
    );
}

#[test]
fn too_many_recipients_is_later_as_rfc_5321_section_4_5_3_1_10_says() {
    use Stage::Rcpt;
    assert_eq!(at(Rcpt, "552 too many recipients"), (Scope::Recipient, Reaction::Retry, "too-much"));
    assert_eq!(at(Rcpt, "452 4.5.3 too many recipients"), (Scope::Recipient, Reaction::Retry, "too-many-recipients"));
    assert_eq!(at(Rcpt, "552 5.5.3 too many recipients"), (Scope::Recipient, Reaction::Retry, "too-many-recipients"));
    assert_eq!(at(Rcpt, "552 5.1.1 no such user"), (Scope::Recipient, Reaction::Bounce, "bad-mailbox"));
    assert_eq!(at(Rcpt, "552 5.3.4 message too big"), (Scope::Recipient, Reaction::Bounce, "message-too-big"));
    assert_eq!(
        at(Stage::Final, "552 5.3.4 message too big OFR_514"),
        (Scope::Message, Reaction::Bounce, "message-too-big")
    );
    assert_eq!(
        at(Stage::Final, "552 message size exceeds fixed limit"),
        (Scope::Message, Reaction::Bounce, "too-much")
    );
}

#[test]
fn when_the_two_codes_disagree_later_wins() {
    assert_eq!(at(Stage::Rcpt, "550 4.7.1 Greylisted").1, Reaction::Retry);
    assert_eq!(at(Stage::Final, "554 4.4.4 routing loop, try later").1, Reaction::Retry);
    assert_eq!(at(Stage::Rcpt, "450 5.1.1 unknown").1, Reaction::Retry);
    assert_eq!(
        at(Stage::Final, "451 4.3.0 Multiple destination domains per transaction is unsupported").1,
        Reaction::Retry
    );
}

#[test]
fn every_code_at_every_stage_has_a_verdict_and_nothing_transient_bounces() {
    let book = RuleBook::shipped().expect("the shipped rules");
    for code in 200..600 {
        for stage in [Stage::Greeting, Stage::Ehlo, Stage::Tls, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Final] {
            for enhanced in [None, Some((4, 7, 1)), Some((5, 1, 1)), Some((5, 999, 999)), Some((0, 0, 0))] {
                let mut reply = Reply::plain(code, "");
                reply.enhanced = enhanced.map(|(a, b, c)| EnhancedCode::new(a, b, c));
                for text in ["", "User unknown", "blocked by a list", "virus found"] {
                    reply.text = text.to_owned();
                    let verdict = book.judge(stage, &reply, Some("google"));
                    if matches!(verdict.reaction, Reaction::Bounce | Reaction::Suppress) {
                        assert!(reply.is_permanent() && stage >= Stage::Mail, "{reply} at {stage}");
                    }
                    assert!(class::find(verdict.class).is_some(), "{}", verdict.class);
                }
            }
        }
    }
}

#[test]
fn rules_know_what_codes_cannot_say() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let judged = |stage, provider, text: &str| {
        let verdict = book.judge(stage, &reply(text), provider);
        (verdict.scope, verdict.reaction.as_str(), verdict.class)
    };
    // A block in the words of an unknown user's codes.
    assert_eq!(
        judged(Stage::Rcpt, None, "550 5.1.1 blocked using zen.spamhaus.org"),
        (Scope::Lane, "hold", "source-blocked")
    );
    // "For good", in a 4xx of Yahoo's; and the same words from somebody else.
    let tss03 = "421 4.7.1 [TSS03] All messages from 192.0.2.1 will be permanently deferred";
    assert_eq!(judged(Stage::Mail, Some("yahoo"), tss03), (Scope::Lane, "alarm", "source-blocked"));
    assert_eq!(judged(Stage::Mail, Some("gmx"), tss03).1, "slow");
    // An unknown user is suppressed when it is the answer to RCPT, and not when all recipients share the answer.
    assert_eq!(judged(Stage::Rcpt, None, "550 no such user"), (Scope::Recipient, "suppress", "bad-mailbox"));
    assert_eq!(judged(Stage::Final, None, "550 no such user").1, "bounce");
    // The same words under a code of policy prove nothing; what an MX says about its domain neither.
    assert_eq!(judged(Stage::Rcpt, None, "550 5.7.1 user unknown").1, "bounce");
    assert_eq!(judged(Stage::Rcpt, None, "550 5.1.1 domain does not exist").1, "bounce");
    assert_eq!(
        judged(Stage::Rcpt, None, "450 4.7.1 <mx.us.example>: Helo command rejected: Host not found").1,
        "alarm"
    );
    // What is wrong with one message does not hold its lane.
    for text in [
        "552 5.7.0 This message was blocked because its content presents a potential security issue",
        "571 5.7.1 Message blocked due to local policy",
        "550 5.7.1 You have been blocked by the recipient",
    ] {
        assert_eq!(
            judged(Stage::Final, Some("google"), text),
            (Scope::Message, "bounce", judged(Stage::Final, None, text).2)
        );
    }
    // What an address is called says nothing.
    let dmarc = "550 5.1.1 <dmarc@example.org>: Recipient address rejected: User unknown in virtual mailbox table";
    assert_eq!(judged(Stage::Rcpt, None, dmarc), (Scope::Recipient, "suppress", "bad-mailbox"));
    // Nobody has been named at MAIL.
    assert_eq!(judged(Stage::Mail, None, "550 no such user").1, "bounce");
    assert_eq!(judged(Stage::Mail, None, "553 5.1.2 invalid address").1, "bounce");
    // "Later" wins over a word that usually means "never".
    assert_eq!(judged(Stage::Rcpt, None, "450 4.1.1 user unknown"), (Scope::Recipient, "retry", "bad-mailbox"));
}

#[test]
fn words_that_leave_a_doubt_suppress_nobody_whatever_their_code() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let judged = |text: &str| book.judge(Stage::Rcpt, &reply(text), None).reaction.as_str();
    for text in [
        "550 5.1.1 Recipient address rejected: Greylisted, please try again in 5 minutes",
        "550 5.1.1 Das Postfach des Empfaengers ist voll",
        "550 5.1.1 sender not in recipient's address book",
        "550 mailbox unavailable for your IP",
        "550 5.1.1 User lookup failed",
        "550 5.1.1 Rejected",
        "550 5.1.1 please use another MX for this user",
    ] {
        assert_ne!(judged(text), "suppress", "{text}");
    }
    for text in [
        "550 5.1.1 User unknown",
        "550 5.1.1 No such user here. Please check the address and try again.",
        "550 5.1.1 <a@b.example>: Recipient address rejected: User unknown in relay recipient table",
        "550 5.1.1 see https://mail.example/policy/quota?ip=192.0.2.1 User unknown",
        "550 5.1.1",
    ] {
        assert_eq!(judged(text), "suppress", "{text}");
    }
}

#[test]
fn a_reply_that_names_somebody_else_suppresses_nobody() {
    let book = RuleBook::shipped().expect("the shipped rules");
    let parties = named::Parties { recipient: &["ann@there.example"], senders: &["news@lettershop.example"] };
    let judged = |text: &str| book.judge_for(&parties, Stage::Rcpt, &reply(text), None).reaction.as_str();
    assert_eq!(judged("550 5.1.1 <ann@there.example>: user unknown"), "suppress");
    assert_eq!(judged("550 5.1.1 <news@lettershop.example>: user unknown"), "bounce");
    assert_eq!(judged("550 lettershop.example: no such user"), "bounce");
    assert_eq!(judged("550 5.1.1 <old@third.example>: user unknown"), "bounce");
    assert_eq!(judged("551 5.1.6 ann@there.example has moved to ann@new.example"), "suppress");
}
