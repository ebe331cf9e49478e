use proptest::prelude::*;

use super::*;

fn read_all(bytes: &[u8]) -> Result<Vec<Reply>, ReplyError> {
    let mut reader = ReplyReader::new();
    let mut buffer = BytesMut::from(bytes);
    let mut replies = Vec::new();
    while let Some(reply) = reader.read(&mut buffer)? {
        replies.push(reply);
    }
    Ok(replies)
}

fn read_one(bytes: &[u8]) -> Reply {
    let mut replies = read_all(bytes).expect("a reply");
    assert_eq!(replies.len(), 1, "{replies:?}");
    replies.remove(0)
}

fn written(reply: &Reply) -> String {
    let mut out = Vec::new();
    reply.write_to(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn the_examples_of_rfc_5321_section_4_2_1_are_read() {
    let reply =
        read_one(b"250-First line\r\n250-Second line\r\n250-234 Text beginning with numbers\r\n250 The last line\r\n");
    assert_eq!(reply.code, 250);
    assert_eq!(reply.text, "First line\nSecond line\n234 Text beginning with numbers\nThe last line");
    assert_eq!(reply.enhanced, None);
}

#[test]
fn the_enhanced_code_of_rfc_2034_section_5_is_taken_off_every_line() {
    let reply = read_one(b"550-5.7.1 You are not\r\n550 5.7.1 welcome\r\n");
    assert_eq!(reply, Reply::new(550, (5, 7, 1), "You are not\nwelcome"));
}

#[test]
fn careless_servers_are_understood() {
    assert_eq!(read_one(b"250\r\n"), Reply::plain(250, ""));
    assert_eq!(read_one(b"250 \r\n"), Reply::plain(250, ""));
    assert_eq!(read_one(b"250 ok\n"), Reply::plain(250, "ok"));
    assert_eq!(read_one(b"250 ok\r\r\n"), Reply::plain(250, "ok"));
    assert_eq!(read_one(b"250ok\r\n"), Reply::plain(250, "ok"));
    assert_eq!(read_one(b"250-a\n250\n"), Reply::plain(250, "a\n"));
    assert_eq!(read_one(b"250 2.1.0\r\n"), Reply::new(250, (2, 1, 0), ""));
    assert_eq!(read_one(b"354 2.0.0 go\r\n"), Reply::new(354, (2, 0, 0), "go"));
    assert_eq!(read_one(b"250 caf\xe9\x07\r\n"), Reply::plain(250, "caf\u{fffd} "));
}

#[test]
fn an_enhanced_code_of_another_class_stays_text() {
    assert_eq!(read_one(b"550 4.7.1 odd\r\n"), Reply::plain(550, "4.7.1 odd"));
    assert_eq!(read_one(b"550 5.7.1x odd\r\n"), Reply::plain(550, "5.7.1x odd"));
    assert_eq!(read_one(b"550 5.7.1000 odd\r\n"), Reply::plain(550, "5.7.1000 odd"));
}

#[test]
fn what_is_no_reply_is_an_error() {
    for bytes in [&b"HTTP/1.1 400 Bad\r\n"[..], b"\r\n", b"25\r\n", b"2500 x\r\n", b"650 x\r\n", b"150 x\r\n"] {
        assert!(matches!(read_all(bytes), Err(ReplyError::Malformed(_))), "{bytes:?}");
    }
    assert_eq!(read_all(b"250-a\r\n550 b\r\n"), Err(ReplyError::InconsistentCodes { first: 250, then: 550 }));
}

#[test]
fn endless_lines_and_endless_replies_end() {
    assert_eq!(read_all(&[b'2'; MAXIMUM_LINE]), Err(ReplyError::LineTooLong));
    let mut long = b"250 ".to_vec();
    long.resize(MAXIMUM_LINE + 10, b'x');
    long.extend(b"\r\n");
    assert_eq!(read_all(&long), Err(ReplyError::LineTooLong));
    assert_eq!(read_all(&b"250-x\r\n".repeat(MAXIMUM_LINES + 1)), Err(ReplyError::TooManyLines));
}

#[test]
fn text_is_kept_up_to_its_limit() {
    let mut bytes = Vec::new();
    for _ in 0..100 {
        bytes.extend(b"550-5.0.0 ");
        bytes.extend("é".repeat(100).bytes());
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"550 end\r\n");
    let reply = read_one(&bytes);
    assert!(reply.text.len() <= MAXIMUM_TEXT && reply.text.len() > MAXIMUM_TEXT - 4);
}

#[test]
fn octets_after_a_reply_stay_in_the_buffer() {
    let mut reader = ReplyReader::new();
    let mut buffer = BytesMut::from(&b"250 a\r\n250 b\r\n25"[..]);
    assert_eq!(reader.read(&mut buffer), Ok(Some(Reply::plain(250, "a"))));
    assert_eq!(&buffer[..], b"250 b\r\n25");
    assert_eq!(reader.read(&mut buffer), Ok(Some(Reply::plain(250, "b"))));
    assert_eq!(reader.read(&mut buffer), Ok(None));
    assert_eq!(&buffer[..], b"25");
}

#[test]
fn replies_are_written_with_the_code_on_every_line() {
    assert_eq!(written(&Reply::new(250, (2, 0, 0), "Ok")), "250 2.0.0 Ok\r\n");
    assert_eq!(written(&Reply::new(250, (2, 0, 0), "")), "250 2.0.0\r\n");
    assert_eq!(written(&Reply::new(550, (5, 7, 1), "a\nb")), "550-5.7.1 a\r\n550 5.7.1 b\r\n");
    assert_eq!(written(&Reply::plain(250, "host\nSIZE 10")), "250-host\r\n250 SIZE 10\r\n");
    assert_eq!(written(&Reply::plain(250, "")), "250 \r\n");
    assert_eq!(written(&Reply::plain(550, "a\rb\u{7f}")), "550 a b \r\n");
}

#[test]
fn written_lines_stay_within_512_octets() {
    let reply = Reply::new(550, (5, 100, 100), format!("{} {}", "é".repeat(700), "word ".repeat(300)));
    let text = written(&reply);
    assert!(text.split_inclusive("\r\n").all(|line| line.len() <= 512));
    assert_eq!(read_all(text.as_bytes()).map(|replies| replies.len()), Ok(1));
}

#[test]
fn enhanced_codes_are_read_and_shown() {
    assert_eq!(EnhancedCode::parse("5.7.1"), Some(EnhancedCode::new(5, 7, 1)));
    assert_eq!(EnhancedCode::new(4, 4, 316).to_string(), "4.4.316");
    for text in ["", "5", "5.7", "5.7.", "3.1.1", "5.7.1 ", "5.7.1.1", "5.-7.1", "5.1000.1"] {
        assert_eq!(EnhancedCode::parse(text), None, "{text}");
    }
    assert_eq!(Reply::new(550, (5, 1, 1), "no\nuser").to_string(), "550 5.1.1 no user");
}

proptest! {
    #[test]
    fn any_octets_in_any_pieces_read_the_same_and_never_panic(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'2'), Just(b'5'), Just(b'0'), Just(b'-'), Just(b' '), Just(b'.'), Just(b'\r'), Just(b'\n'), any::<u8>()
        ], 0..400),
        cuts in proptest::collection::vec(1usize..7, 1..40),
    ) {
        let whole = {
            let mut reader = ReplyReader::new();
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut found = Vec::new();
            loop {
                match reader.read(&mut buffer) {
                    Ok(Some(reply)) => found.push(Ok(reply)),
                    Ok(None) => break,
                    Err(error) => { found.push(Err(error)); break; }
                }
            }
            found
        };
        let mut reader = ReplyReader::new();
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        let mut rest = &bytes[..];
        let mut cuts = cuts.iter().cycle();
        'outer: while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = after;
            buffer.extend_from_slice(piece);
            loop {
                match reader.read(&mut buffer) {
                    Ok(Some(reply)) => found.push(Ok(reply)),
                    Ok(None) => break,
                    Err(error) => { found.push(Err(error)); break 'outer; }
                }
            }
        }
        prop_assert_eq!(whole, found);
    }

    #[test]
    fn what_is_written_is_read_back(
        code in 200u16..600, subject in 0u16..1000, detail in 0u16..1000, enhanced: bool,
        lines in proptest::collection::vec("[a-zA-Zé][a-zA-Z0-9 é]{0,40}[a-z]", 1..6),
    ) {
        let class = code / 100;
        let reply = Reply {
            code,
            enhanced: (enhanced && class != 3).then(|| EnhancedCode::new(class as u8, subject, detail)),
            text: lines.join("\n"),
        };
        let mut out = BytesMut::new();
        reply.write_to(&mut out);
        prop_assert_eq!(ReplyReader::new().read(&mut out), Ok(Some(reply)));
        prop_assert!(out.is_empty());
    }
}
