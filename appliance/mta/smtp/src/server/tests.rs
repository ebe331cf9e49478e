use proptest::prelude::*;

use super::*;

/// Allows everything but `…@forbidden.example`; remembers refusals.
#[derive(Default)]
struct TestJudge {
    is_stranger: bool,
    is_full: bool,
    refused: Vec<(Stage, u16)>,
}

impl TestJudge {
    fn judge(address: Option<&Address>) -> Result<(), Reply> {
        match address {
            Some(address) if address.domain() == "forbidden.example" => Err(Reply::new(554, (5, 7, 1), "no")),
            _ => Ok(()),
        }
    }
}

impl Judge for TestJudge {
    fn sender(&mut self, _: Option<&str>, sender: Option<&Address>, _: Option<u64>) -> Result<(), Reply> {
        if self.is_full {
            return Err(Reply::new(452, (4, 3, 1), "full"));
        }
        Self::judge(sender)
    }

    fn is_known(&self, _: Option<&str>) -> bool {
        !self.is_stranger
    }

    fn recipient(&mut self, _: Option<&str>, recipient: &Address) -> Result<(), Reply> {
        Self::judge(Some(recipient))
    }

    fn refused(&mut self, refusal: Refusal<'_>) {
        self.refused.push((refusal.stage, refusal.reply.code));
    }
}

fn rules() -> Rules {
    Rules {
        hostname: "mx.example.com".to_owned(),
        message_size: 1000,
        recipients: 3,
        messages: 0,
        idle_commands: 10,
        errors: 10,
        auth_failures: 2,
        starttls: true,
        auth: true,
    }
}

struct Talk {
    session: Session,
    judge: TestJudge,
    rules: Rules,
}

impl Talk {
    fn new() -> Self {
        Self { session: Session::new(), judge: TestJudge::default(), rules: rules() }
    }

    fn under_tls() -> Self {
        let mut talk = Self::new();
        talk.session.tls_started();
        talk
    }

    fn say(&mut self, line: &str) -> (String, Action) {
        let mut out = BytesMut::new();
        let action = self.session.line(line.as_bytes(), &self.rules, &mut self.judge, &mut out);
        (String::from_utf8(out.to_vec()).unwrap(), action)
    }

    /// First code and enhanced code of the answer.
    fn codes(&mut self, line: &str) -> String {
        self.say(line).0.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    fn check(&mut self, result: AuthResult) -> (String, Action) {
        let mut out = BytesMut::new();
        let action = self.session.authenticated("ann", result, &self.rules, &mut self.judge, &mut out);
        (String::from_utf8(out.to_vec()).unwrap(), action)
    }
}

#[test]
fn a_transaction_as_in_rfc_5321_appendix_d() {
    let mut talk = Talk::new();
    let (reply, _) = talk.say("EHLO bar.com");
    assert_eq!(
        reply,
        "250-mx.example.com\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250 STARTTLS\r\n"
    );
    assert_eq!(talk.codes("MAIL FROM:<Smith@bar.com> SIZE=500 RET=HDRS"), "250 2.1.0");
    assert_eq!(talk.codes("RCPT TO:<Jones@foo.com> NOTIFY=NEVER"), "250 2.1.5");
    assert_eq!(talk.codes("RCPT TO:<Green@forbidden.example>"), "554 5.7.1");
    assert_eq!(talk.codes("RCPT TO:<Jones@FOO.com>"), "250 2.1.5");
    let (reply, action) = talk.say("DATA");
    assert!(reply.starts_with("354 "), "{reply}");
    assert_eq!(action, Action::ReadData);
    let envelope = talk.session.take_envelope().unwrap();
    assert_eq!(envelope.recipients.len(), 1, "a repeated recipient counts once");
    assert!(envelope.recipients[0].notify.unwrap().never);
    let mut out = BytesMut::new();
    let reply = Reply::new(250, (2, 0, 0), "Ok");
    talk.session.finish_message(reply, Stage::Message, None, &mut talk.judge, &mut out);
    assert_eq!(&out[..], b"250 2.0.0 Ok\r\n");
    assert_eq!(talk.judge.refused, [(Stage::Rcpt, 554)]);
    assert_eq!(talk.session.messages(), 1);
    assert_eq!(talk.say("QUIT").1, Action::Close);
}

#[test]
fn content_behind_recipients_that_were_all_refused_is_no_error_of_its_own() {
    let mut talk = Talk::new();
    (talk.rules.errors, talk.rules.idle_commands) = (20, 100);
    talk.say("EHLO bar.com");
    // As a client does that pipelines MAIL, RCPT and BDAT for one recipient after the other.
    for round in 0..19 {
        assert_eq!(talk.codes("MAIL FROM:<a@b>"), "250 2.1.0", "{round}");
        assert_eq!(talk.codes("RCPT TO:<x@forbidden.example>"), "554 5.7.1");
        if round % 2 == 0 {
            assert_eq!(talk.codes("DATA"), "554 5.5.1");
        } else {
            let said = talk.say("BDAT 5 LAST");
            let Action::SkipChunk { reply, .. } = &said.1 else { panic!("{said:?}") };
            assert!(reply.starts_with(b"554 5.5.1 "));
        }
        talk.say("RSET");
    }
    talk.say("MAIL FROM:<a@b>");
    talk.say("RCPT TO:<x@forbidden.example>");
    assert_eq!(talk.say("RSET").1, Action::Close, "twenty refused recipients are");
}

#[test]
fn commands_out_of_order_are_refused() {
    let mut talk = Talk::new();
    talk.rules.errors = 100;
    assert_eq!(talk.codes("MAIL FROM:<a@b>"), "503 5.5.1");
    assert_eq!(talk.codes("RCPT TO:<a@b>"), "503 5.5.1");
    assert_eq!(talk.codes("DATA"), "503 5.5.1");
    let (before, action) = talk.say("BDAT 10");
    let Action::SkipChunk { size: 10, reply } = action else { panic!("{action:?}") };
    assert!(before.is_empty() && reply.starts_with(b"503 5.5.1 "), "said when the chunk is read");
    assert_eq!(talk.say("BDAT ten").1, Action::Close);
    talk.say("HELO bar.com");
    assert_eq!(talk.codes("MAIL FROM:<a@b> SIZE=1"), "555 5.5.4");
    assert_eq!(talk.codes("MAIL FROM:<a@b>"), "250 2.1.0");
    assert_eq!(talk.codes("MAIL FROM:<a@b>"), "503 5.5.1");
    assert_eq!(talk.codes("RCPT TO:<a@b> NOTIFY=NEVER"), "555 5.5.4");
    assert_eq!(talk.codes("DATA"), "554 5.5.1");
    assert_eq!(talk.codes("STARTTLS"), "503 5.5.1");
    assert_eq!(talk.codes("RSET"), "250 2.0.0");
    assert_eq!(talk.codes("EXPN x"), "502 5.5.1");
    assert_eq!(talk.codes("VRFY x"), "252 2.0.0");
    assert_eq!(talk.codes("HELP"), "214 2.0.0");
}

#[test]
fn limits_of_size_recipients_and_utf8_are_kept() {
    let mut talk = Talk::new();
    talk.say("EHLO bar.com");
    assert_eq!(talk.codes("MAIL FROM:<a@b> SIZE=1001"), "552 5.3.4");
    assert_eq!(talk.codes("MAIL FROM:<ä@b>"), "553 5.6.7");
    assert_eq!(talk.codes("MAIL FROM:<a@b> SIZE=1000"), "250 2.1.0");
    assert_eq!(talk.codes("RCPT TO:<ä@b>"), "553 5.6.7");
    for name in ["x", "y", "z"] {
        assert_eq!(talk.codes(&format!("RCPT TO:<{name}@b>")), "250 2.1.5");
    }
    assert_eq!(talk.codes("RCPT TO:<w@b>"), "452 4.5.3");
    assert_eq!(talk.codes("RCPT TO:<x@b>"), "250 2.1.5");
}

#[test]
fn bad_recipients_of_a_known_sender_count_as_one_error_and_a_strangers_each() {
    for (is_stranger, survives) in [(false, true), (true, false)] {
        let mut talk = Talk::new();
        talk.judge.is_stranger = is_stranger;
        talk.say("EHLO bar.com");
        talk.say("MAIL FROM:<a@b>");
        assert_eq!(talk.codes("RCPT TO:<good@b>"), "250 2.1.5");
        for number in 0..9 {
            assert_eq!(talk.codes(&format!("RCPT TO:<u{number}@forbidden.example>")), "554 5.7.1");
        }
        assert!(talk.codes("RCPT TO:<ann@exa_mple.com>").starts_with('5'));
        let next = talk.codes("RCPT TO:<last@b>");
        assert_eq!(next, if survives { "250 2.1.5" } else { "421 4.7.0" });
    }
}

#[test]
fn what_the_server_cannot_do_just_now_is_no_error_of_the_client() {
    let mut talk = Talk::new();
    talk.judge.is_full = true;
    talk.say("EHLO bar.com");
    for _ in 0..20 {
        // As a client that pipelines sends it.
        assert_eq!(talk.codes("MAIL FROM:<a@b>"), "452 4.3.1");
        assert_eq!(talk.codes("RCPT TO:<c@d>"), "503 5.5.1");
        assert_eq!(talk.codes("DATA"), "503 5.5.1");
    }
    talk.judge.is_full = false;
    assert_eq!(talk.codes("MAIL FROM:<a@b>"), "250 2.1.0");
}

#[test]
fn lines_that_are_none_are_errors_like_any_other() {
    let mut talk = Talk::new();
    let mut out = BytesMut::new();
    let actions: Vec<Action> =
        (0..12).map(|_| talk.session.bad_line("a bare LF", &talk.rules, &mut talk.judge, &mut out)).collect();
    assert_eq!(actions.iter().position(|action| *action == Action::Close), Some(10));
    assert!(out.windows(9).any(|octets| octets == b"421 4.7.0"));
}

#[test]
fn an_original_recipient_beyond_ascii_needs_smtputf8() {
    let mut talk = Talk::new();
    talk.say("EHLO bar.com");
    talk.say("MAIL FROM:<a@b>");
    assert_eq!(talk.codes("RCPT TO:<c@d> ORCPT=utf-8;ü@d.example"), "501 5.5.4");
    talk.say("RSET");
    talk.say("MAIL FROM:<a@b> SMTPUTF8");
    assert_eq!(talk.codes("RCPT TO:<c@d> ORCPT=utf-8;ü@d.example"), "250 2.1.5");
}

#[test]
fn many_recipients_are_still_taken_once() {
    let mut talk = Talk::new();
    talk.rules.recipients = 1000;
    talk.say("EHLO bar.com");
    talk.say("MAIL FROM:<a@b>");
    for round in 0..2 {
        for number in 0..100 {
            assert_eq!(talk.codes(&format!("RCPT TO:<u{number}@b>")), "250 2.1.5", "round {round}");
        }
    }
    assert_eq!(talk.session.take_envelope().unwrap().recipients.len(), 100);
}

#[test]
fn chunks_make_a_transaction_that_only_chunks_continue() {
    let mut talk = Talk::new();
    talk.say("EHLO bar.com");
    talk.say("MAIL FROM:<a@b>");
    talk.say("RCPT TO:<c@d>");
    assert_eq!(talk.say("BDAT 10").1, Action::ReadChunk { size: 10, last: false });
    assert_eq!(talk.codes("DATA"), "503 5.5.1");
    assert_eq!(talk.codes("RCPT TO:<e@d>"), "503 5.5.1");
    assert_eq!(talk.codes("MAIL FROM:<a@b>"), "503 5.5.1");
    assert_eq!(talk.say("BDAT 0 LAST").1, Action::ReadChunk { size: 0, last: true });
    assert_eq!(talk.session.take_envelope().unwrap().recipients.len(), 1);
}

#[test]
fn starttls_forgets_everything_said_before() {
    let mut talk = Talk::new();
    talk.say("EHLO bar.com");
    assert_eq!(talk.say("STARTTLS"), ("220 2.0.0 Ready to start TLS\r\n".to_owned(), Action::StartTls));
    talk.session.tls_started();
    assert_eq!(talk.session.hello(), "");
    assert_eq!(talk.codes("MAIL FROM:<a@b>"), "503 5.5.1");
    let (reply, _) = talk.say("EHLO bar.com");
    assert!(reply.ends_with("250 AUTH PLAIN LOGIN\r\n") && !reply.contains("STARTTLS"), "{reply}");
    assert_eq!(talk.codes("STARTTLS"), "503 5.5.1");
}

#[test]
fn auth_exists_only_under_tls() {
    let mut talk = Talk::new();
    talk.say("EHLO bar.com");
    assert_eq!(talk.codes("AUTH PLAIN AGFubgBzZWNyZXQ="), "538 5.7.11");
    talk.rules.auth = false;
    assert_eq!(talk.codes("AUTH PLAIN"), "502 5.5.1");
}

#[test]
fn plain_and_login_lead_to_a_name_and_a_password() {
    let expected = |action: Action| match action {
        Action::CheckPassword { name, password } => (name, password.expose().to_vec()),
        other => panic!("{other:?}"),
    };
    let ann = ("ann".to_owned(), b"secret".to_vec());
    let mut talk = Talk::under_tls();
    assert_eq!(talk.codes("AUTH PLAIN"), "503 5.5.1");
    talk.say("EHLO bar.com");
    assert_eq!(expected(talk.say("AUTH PLAIN AGFubgBzZWNyZXQ=").1), ann);
    assert_eq!(talk.say("AUTH PLAIN").0, "334 \r\n");
    assert_eq!(expected(talk.say("YW5uAGFubgBzZWNyZXQ=").1), ann);
    assert_eq!(talk.say("AUTH LOGIN").0, "334 VXNlcm5hbWU6\r\n");
    assert_eq!(talk.say("YW5u").0, "334 UGFzc3dvcmQ6\r\n");
    assert_eq!(expected(talk.say("c2VjcmV0").1), ann);
    assert_eq!(talk.say("AUTH LOGIN YW5u").0, "334 UGFzc3dvcmQ6\r\n");
    assert_eq!(talk.codes("*"), "501 5.7.0");
    assert_eq!(talk.codes("AUTH PLAIN !"), "501 5.5.2");
    assert_eq!(talk.codes("AUTH PLAIN ="), "501 5.5.2");
    // `bob` may not act for `ann`.
    assert_eq!(talk.codes("AUTH PLAIN YW5uAGJvYgBzZWNyZXQ="), "501 5.5.2");
    assert!(talk.check(AuthResult::Accepted).0.starts_with("235 2.7.0"));
    assert_eq!(talk.session.credential(), Some("ann"));
    assert_eq!(talk.codes("AUTH PLAIN AGFubgBzZWNyZXQ="), "503 5.5.1");
}

#[test]
fn failed_authentications_end_the_session() {
    let mut talk = Talk::under_tls();
    talk.say("EHLO bar.com");
    assert_eq!(talk.check(AuthResult::Unavailable).0.get(..9), Some("454 4.7.0"));
    assert_eq!(talk.check(AuthResult::Rejected).0.get(..9), Some("535 5.7.8"));
    let (reply, action) = talk.check(AuthResult::Rejected);
    assert!(reply.starts_with("535 5.7.8") && reply.contains("\r\n421 4.7.0"), "{reply}");
    assert_eq!(action, Action::Close);
    assert_eq!(talk.session.credential(), None);
}

#[test]
fn errors_idle_commands_and_messages_are_bounded() {
    let mut talk = Talk::new();
    for _ in 0..10 {
        assert_eq!(talk.codes("FOO"), "500 5.5.2");
    }
    assert_eq!(talk.say("NOOP").1, Action::Close);
    let mut talk = Talk::new();
    for _ in 0..10 {
        assert_eq!(talk.codes("NOOP"), "250 2.0.0");
    }
    let (reply, action) = talk.say("RSET");
    assert!(reply.starts_with("421 4.7.0"));
    assert_eq!(action, Action::Close);
    let mut talk = Talk::new();
    talk.rules.messages = 1;
    talk.say("EHLO bar.com");
    let mut out = BytesMut::new();
    talk.session.finish_message(Reply::new(250, (2, 0, 0), "Ok"), Stage::Message, None, &mut talk.judge, &mut out);
    let (reply, action) = talk.say("MAIL FROM:<a@b>");
    assert!(reply.starts_with("421 4.7.0"));
    assert_eq!(action, Action::Close);
    assert_eq!(Talk::new().say("GET / HTTP/1.1").1, Action::Close);
}

proptest! {
    #[test]
    fn any_order_of_commands_is_answered_line_by_line(
        choices in proptest::collection::vec(0usize..18, 0..60)
    ) {
        const LINES: [&str; 18] = [
            "EHLO a.example", "HELO a.example", "MAIL FROM:<a@b>", "MAIL FROM:<> SMTPUTF8", "RCPT TO:<c@d>",
            "RCPT TO:<x@forbidden.example>", "RCPT TO:<Postmaster>", "DATA", "BDAT 5", "BDAT 5 LAST", "RSET",
            "NOOP", "VRFY a", "STARTTLS", "AUTH PLAIN", "AUTH LOGIN YW5u", "AGFubgBzZWNyZXQ=", "garbage",
        ];
        let mut talk = Talk::new();
        talk.rules.errors = 1000;
        talk.rules.idle_commands = 1000;
        for choice in choices {
            let (reply, action) = talk.say(LINES[choice]);
            match action {
                Action::Close => prop_assert!(false, "nothing here ends a session"),
                Action::CheckPassword { .. } => {
                    prop_assert!(talk.session.is_tls(), "no password is taken without TLS");
                    talk.check(AuthResult::Rejected);
                }
                Action::ReadChunk { last: false, .. } => {}
                Action::ReadData | Action::ReadChunk { .. } => {
                    let envelope = talk.session.take_envelope();
                    prop_assert!(envelope.is_some_and(|envelope| !envelope.recipients.is_empty()));
                }
                Action::StartTls => talk.session.tls_started(),
                Action::SkipChunk { reply: refusal, .. } => {
                    prop_assert!(reply.is_empty() && refusal.ends_with(b"\r\n"), "said when the chunk is read");
                }
                Action::Continue => {
                    prop_assert!(reply.ends_with("\r\n"));
                    let last = reply.trim_end_matches("\r\n").rsplit("\r\n").next().unwrap_or_default();
                    prop_assert!(last.as_bytes().get(3) == Some(&b' '), "{reply}");
                }
            }
        }
    }
}
