use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;

fn mail(line: &str) -> Mail {
    match parse(line.as_bytes()) {
        Ok(Command::Mail(mail)) => mail,
        other => panic!("{line}: {other:?}"),
    }
}

fn rcpt(line: &str) -> Rcpt {
    match parse(line.as_bytes()) {
        Ok(Command::Rcpt(rcpt)) => rcpt,
        other => panic!("{line}: {other:?}"),
    }
}

fn codes(line: &[u8]) -> (u16, String) {
    match parse(line) {
        Err(reply) => (reply.code, reply.enhanced.map(|code| code.to_string()).unwrap_or_default()),
        Ok(command) => panic!("{line:?}: {command:?}"),
    }
}

#[test]
fn commands_of_rfc_5321_are_read_in_any_case() {
    assert_eq!(parse(b"ehlo Mail.example.com"), Ok(Command::Ehlo("Mail.example.com")));
    assert_eq!(parse(b"HELO [192.0.2.1]"), Ok(Command::Helo("[192.0.2.1]")));
    assert_eq!(parse(b"EHLO [IPv6:2001:db8::1] "), Ok(Command::Ehlo("[IPv6:2001:db8::1]")));
    for (line, command) in [
        (&b"DATA"[..], Command::Data),
        (b"data  ", Command::Data),
        (b"RSET", Command::Rset),
        (b"NOOP whatever", Command::Noop),
        (b"QUIT", Command::Quit),
        (b"VRFY ann", Command::Vrfy),
        (b"EXPN list", Command::Expn),
        (b"HELP MAIL", Command::Help),
        (b"StartTLS", Command::StartTls),
        (b"BDAT 1000", Command::Bdat { size: 1000, last: false }),
        (b"bdat 0 last", Command::Bdat { size: 0, last: true }),
        (b"GET / HTTP/1.1", Command::Foreign),
        (b"AUTH PLAIN", Command::Auth { mechanism: Mechanism::Plain, initial: None }),
        (b"auth login YW5u", Command::Auth { mechanism: Mechanism::Login, initial: Some("YW5u") }),
        (b"AUTH PLAIN =", Command::Auth { mechanism: Mechanism::Plain, initial: Some("=") }),
    ] {
        assert_eq!(parse(line), Ok(command));
    }
}

#[test]
fn mail_takes_the_parameters_of_its_extensions() {
    let plain = mail("MAIL FROM:<ann@example.com>");
    assert_eq!(plain.sender.as_ref().map(Address::as_str), Some("ann@example.com"));
    assert!(!plain.has_parameters);
    assert_eq!(mail("mail from:<>").sender, None);
    let full = mail("MAIL FROM:<ann@example.com> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B314 AUTH=<>");
    assert_eq!(full.size, Some(1000));
    assert_eq!(full.body, BodyKind::EightBitMime);
    assert!(full.smtputf8);
    assert_eq!(full.ret, Some(Return::Headers));
    assert_eq!(full.envelope_id.as_deref(), Some("QQ+2B314"));
    assert_eq!(mail("MAIL FROM:<a@b> SIZE=99999999999999999999").size, Some(u64::MAX));
}

#[test]
fn rcpt_takes_notify_and_orcpt_of_rfc_3461_section_10() {
    let rcpt = rcpt("RCPT TO:<Carol@Ivory.EDU> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Carol@Ivory.EDU");
    assert_eq!(rcpt.notify, Some(Notify { success: true, failure: true, ..Notify::default() }));
    assert_eq!(rcpt.original.as_deref(), Some("rfc822;Carol@Ivory.EDU"));
    assert!(matches!(rcpt.recipient, ForwardPath::Address(address) if address.as_str() == "Carol@ivory.edu"));
}

#[test]
fn special_paths_are_read() {
    assert_eq!(rcpt("RCPT TO:<Postmaster>").recipient, ForwardPath::Postmaster);
    for (line, address) in [
        ("RCPT TO:<@hosta.int,@jkl.org:userc@d.bar.org>", "userc@d.bar.org"),
        ("RCPT TO:<\"a>b c\"@example.com>", "\"a>b c\"@example.com"),
        ("RCPT TO:<\"a\\\">b\"@example.com> NOTIFY=NEVER", "\"a\\\">b\"@example.com"),
        ("RCPT TO:<ann@[IPv6:2001:db8::1]>", "ann@[IPv6:2001:db8::1]"),
    ] {
        assert!(matches!(rcpt(line).recipient, ForwardPath::Address(found) if found.as_str() == address), "{line}");
    }
}

#[test]
fn what_is_not_in_the_grammar_is_refused_with_its_codes() {
    for (line, code, enhanced) in [
        (&b""[..], 500, "5.5.2"),
        (b"FOO", 500, "5.5.2"),
        (b"AVERYLONGVERB x", 500, "5.5.2"),
        (b"NOOP\x00", 500, "5.5.2"),
        (b"NOOP \rRSET", 500, "5.5.2"),
        (b"MAIL FROM:<\xff@b>", 500, "5.5.2"),
        (b"TURN", 502, "5.5.1"),
        (b"EHLO", 501, "5.5.4"),
        (b"EHLO a b", 501, "5.5.4"),
        (b"EHLO a;b", 501, "5.5.4"),
        (b"DATA now", 501, "5.5.4"),
        (b"MAIL", 501, "5.5.4"),
        (b"MAIL FROM ann@example.com", 501, "5.5.4"),
        (b"MAIL FROM:ann@example.com", 501, "5.5.4"),
        (b"MAIL FROM: <ann@example.com>", 501, "5.5.4"),
        (b"MAIL FROM:<ann@example.com", 501, "5.5.4"),
        (b"MAIL FROM:<ann@example.com>SIZE=1", 501, "5.5.4"),
        (b"MAIL FROM:<ann@@example.com>", 553, "5.1.7"),
        (b"MAIL FROM:<postmaster>", 553, "5.1.7"),
        (b"MAIL FROM:<a@b> SIZE=1 SIZE=1", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=-1", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> SIZE", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> SMTPUTF8=1", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> BODY=BINARYMIME", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> ENVID=a+b", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> HOLDFOR=10", 555, "5.5.4"),
        (b"RCPT TO:<>", 553, "5.1.3"),
        (b"RCPT TO:<@a:b>", 553, "5.1.3"),
        (b"RCPT TO:<@a b:c@d>", 553, "5.1.3"),
        (b"RCPT TO:<ann>", 553, "5.1.3"),
        (b"RCPT TO:<a@b> NOTIFY=NEVER,DELAY", 501, "5.5.4"),
        (b"RCPT TO:<a@b> NOTIFY", 501, "5.5.4"),
        (b"RCPT TO:<a@b> ORCPT=ann@example.com", 501, "5.5.4"),
        (b"RCPT TO:<a@b> SIZE=1", 555, "5.5.4"),
        (b"BDAT", 501, "5.5.4"),
        (b"BDAT x", 501, "5.5.4"),
        (b"BDAT 10 FIRST", 501, "5.5.4"),
        (b"BDAT 99999999999999999999", 501, "5.5.4"),
        (b"AUTH", 501, "5.5.4"),
        (b"AUTH PLAIN a b", 501, "5.5.4"),
        (b"AUTH GSSAPI", 504, "5.5.4"),
    ] {
        assert_eq!(codes(line), (code, enhanced.to_owned()), "{}", String::from_utf8_lossy(line));
    }
}

/// Every line that the reader finds, cut as `sizes` says.
fn lines_of(input: &[u8], sizes: &[usize]) -> Vec<Result<Vec<u8>, Line>> {
    let (mut buffer, mut reader, mut found) = (BytesMut::new(), LineReader::default(), Vec::new());
    let mut rest = input;
    let mut sizes = sizes.iter().copied().cycle();
    loop {
        match reader.next(&mut buffer) {
            Line::Partial if rest.is_empty() => return found,
            Line::Partial => {
                let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
                buffer.extend_from_slice(piece);
                rest = after;
            }
            Line::Complete(length) => {
                found.push(Ok(buffer[..length].to_vec()));
                buffer.advance(length + 2);
            }
            Line::Endless => {
                found.push(Err(Line::Endless));
                return found;
            }
            other => found.push(Err(other)),
        }
    }
}

#[test]
fn only_crlf_ends_a_command_line() {
    let found = lines_of(b"NOOP\r\nRSET\nQUIT\r\r\n\r\n", &[100]);
    assert_eq!(found, [Ok(b"NOOP".to_vec()), Err(Line::BareLineFeed), Ok(b"QUIT\r".to_vec()), Ok(Vec::new())]);
}

#[test]
fn overlong_lines_are_dropped_and_endless_ones_end() {
    let mut input = vec![b'a'; 5000];
    input.extend_from_slice(b"\r\nNOOP\r\n");
    assert_eq!(lines_of(&input, &[700]), [Err(Line::TooLong), Ok(b"NOOP".to_vec())]);
    assert_eq!(lines_of(&vec![b'a'; 200_000], &[4096]), [Err(Line::Endless)]);
    let endless = [vec![b'a'; 70_000], b"\r\n".to_vec()].concat();
    for piece in [1, 4096, 100_000] {
        assert_eq!(lines_of(&endless, &[piece]), [Err(Line::Endless)], "pieces of {piece}");
    }
    let longest = [vec![b'a'; MAXIMUM_COMMAND_LINE - 2], b"\r\n".to_vec()].concat();
    assert_eq!(lines_of(&longest, &[9000]).len(), 1);
    assert!(lines_of(&longest, &[1])[0].is_ok());
}

proptest! {
    #[test]
    fn no_line_makes_the_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&line);
    }

    #[test]
    fn no_near_command_makes_the_parser_panic(
        line in "(MAIL FROM:|RCPT TO:|AUTH |BDAT |EHLO )[<>@,:\"\\\\a\u{e9}.\\[\\]+= ]{0,40}( (SIZE|NOTIFY|ORCPT|ENVID|RET|BODY)=[A-Z0-9+;,=]{0,10}){0,3}"
    ) {
        let _ = parse(line.as_bytes());
    }

    #[test]
    fn every_address_round_trips_through_its_command(
        local in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}",
        domain in "[a-z0-9]{1,20}\\.[a-z]{2,6}",
    ) {
        let address = format!("{local}@{domain}");
        prop_assert_eq!(mail(&format!("MAIL FROM:<{address}>")).sender.map(|a| a.to_string()), Some(address));
    }

    #[test]
    fn lines_are_the_same_however_the_octets_are_cut(
        input in "[ab\r\n]{0,60}",
        sizes in proptest::collection::vec(1usize..7, 1..10),
    ) {
        prop_assert_eq!(lines_of(input.as_bytes(), &sizes), lines_of(input.as_bytes(), &[1000]));
    }
}
