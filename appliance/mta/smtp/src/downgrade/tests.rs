use std::fs;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

fn converted(message: &str) -> String {
    let out = to_seven_bit(message.as_bytes()).expect("a message that can be converted");
    assert!(out.is_ascii());
    String::from_utf8(out).expect("ASCII")
}

fn refused(message: &[u8]) -> CannotDowngrade {
    to_seven_bit(message).expect_err("a message that cannot be converted")
}

#[test]
fn a_seven_bit_message_comes_back_octet_by_octet() {
    let message = b"Subject: x\r\nContent-Type: multipart/mixed\r\n\r\nbroken but 7-bit \t\r\n";
    assert_eq!(to_seven_bit(message).as_deref(), Ok(&message[..]));
}

#[test]
fn text_becomes_quoted_printable_and_its_header_says_so() {
    let message = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                   content-transfer-encoding: 8bit\r\nSubject: x\r\n\r\ncafé = 1 \r\n.\r\n";
    let expected = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: quoted-printable\r\nSubject: x\r\n\r\ncaf=C3=A9 =3D 1=20\r\n.\r\n";
    assert_eq!(converted(message), expected);
}

#[test]
fn a_message_without_mime_gets_a_type() {
    let expected = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9\r\n";
    assert_eq!(converted("Subject: x\r\n\r\né\r\n"), expected);
    let latin = to_seven_bit(b"Subject: x\r\n\r\n\xe9\r\n").expect("converted");
    assert!(String::from_utf8_lossy(&latin).contains("charset=unknown-8bit"));
}

#[test]
fn other_types_become_base64() {
    let message = "MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\r\né\r\n";
    let expected = "MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\nw6kNCg==\r\n";
    assert_eq!(converted(message), expected);
}

#[test]
fn only_the_parts_that_need_it_are_touched() {
    let message = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"a b\" (comment)\r\n\
                   Content-Transfer-Encoding: 8bit\r\n\r\nprélude\r\n--a b\r\n\r\nplain \r\n--a b \t\r\n\
                   Content-Type: text/html; charset=utf-8\r\n\r\n<p>é\r\n\r\n--a b--\r\nafter\r\n";
    let expected = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary=\"a b\" (comment)\r\n\
                   Content-Transfer-Encoding: 7bit\r\n\r\npr??lude\r\n--a b\r\n\r\nplain \r\n--a b \t\r\n\
                   Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                   <p>=C3=A9\r\n\r\n--a b--\r\nafter\r\n";
    assert_eq!(converted(message), expected);
}

#[test]
fn a_message_inside_is_converted_inside() {
    let message = "MIME-Version: 1.0\r\nContent-Type: multipart/digest; boundary=x\r\n\r\n--x\r\n\r\n\
                   Subject: inner\r\n\r\né\r\n--x\r\nContent-Type: message/rfc822\r\n\r\nSubject: two\r\n\r\nñ\r\n--x--\r\n";
    let out = converted(message);
    assert!(out.contains("\r\n\r\nSubject: inner\r\nMIME-Version: 1.0\r\n"), "{out}");
    assert!(out.contains("=C3=A9\r\n--x\r\n") && out.contains("=C3=B1\r\n--x--\r\n"), "{out}");
}

#[test]
fn what_may_not_be_changed_is_refused() {
    assert_eq!(refused("Subject: é\r\n\r\nx\r\n".as_bytes()), CannotDowngrade::Header);
    assert_eq!(refused("no header é".as_bytes()), CannotDowngrade::Header);
    let signed = "Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\né\r\n--x\r\n\r\ns\r\n--x--\r\n";
    assert_eq!(refused(signed.as_bytes()), CannotDowngrade::Signed);
    let inside = format!("Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n{signed}\r\n--y--\r\n");
    assert_eq!(refused(inside.as_bytes()), CannotDowngrade::Signed);
    let partial = "Content-Type: message/partial; id=1; number=1\r\n\r\né\r\n";
    assert_eq!(refused(partial.as_bytes()), CannotDowngrade::Message);
    for broken in [
        "Content-Type: multipart/mixed\r\n\r\né\r\n",
        "Content-Type: multipart/mixed; boundary=z\r\n\r\né\r\n",
        "Content-Type: multipart/mixed; boundary=z\r\nContent-Transfer-Encoding: base64\r\n\r\n--z\r\n\r\né\r\n",
        "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\né\r\n",
    ] {
        assert!(matches!(refused(broken.as_bytes()), CannotDowngrade::Malformed(_)), "{broken}");
    }
}

#[test]
fn a_signed_part_of_seven_bits_beside_is_left_alone() {
    let message = "Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\nContent-Type: multipart/signed; boundary=x\r\n\r\n\
                   --x\r\n\r\na\r\n--x\r\n\r\ns\r\n--x--\r\n\r\n--y\r\n\r\né\r\n--y--\r\n";
    assert!(converted(message).contains("--x\r\n\r\na\r\n--x\r\n\r\ns\r\n--x--\r\n"));
}

#[test]
fn a_multipart_that_is_never_closed_ends_with_the_message() {
    let message = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\né\r\n";
    assert!(
        converted(message).ends_with(
            "--x\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9\r\n"
        )
    );
}

#[test]
fn nesting_without_end_is_refused() {
    let mut message = "é\r\n".to_owned();
    for _ in 0..=MAXIMUM_DEPTH + 1 {
        message = format!("Content-Type: message/rfc822\r\n\r\n{message}");
    }
    assert_eq!(refused(message.as_bytes()), CannotDowngrade::TooComplex);
    let many = "--x\r\n\r\né\r\n".repeat(MAXIMUM_PARTS + 1);
    let message = format!("Content-Type: multipart/mixed; boundary=x\r\n\r\n{many}--x--\r\n");
    assert_eq!(refused(message.as_bytes()), CannotDowngrade::TooComplex);
}

#[test]
fn lines_of_quoted_printable_have_at_most_76_characters() {
    let out = converted(&format!("a: b\r\n\r\n{}é{} \r\n", "x".repeat(74), "é".repeat(200)));
    let body = out.split_once("\r\n\r\n").expect("a body").1;
    assert!(body.split("\r\n").all(|line| line.len() <= 76));
}

/// Random trees of MIME as they may arrive.
fn entity() -> impl Strategy<Value = Vec<u8>> {
    let text = proptest::collection::vec(
        prop_oneof![
            Just("é".as_bytes().to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"= ".to_vec()),
            Just(b" \t".to_vec()),
            Just(b"\xe9\xff".to_vec()),
            Just(b".".to_vec()),
            "[a-zA-Z -]{0,90}".prop_map(String::into_bytes),
        ],
        0..12,
    )
    .prop_map(|pieces| pieces.concat());
    let fields = prop_oneof![Just(""), Just("Content-Transfer-Encoding: 8bit\r\n"), Just("X-Other: a\r\n b\r\n")];
    let leaf = (
        prop_oneof![
            Just("Content-Type: text/plain; charset=utf-8\r\n"),
            Just("CONTENT-TYPE: Text/HTML;\r\n\tcharset=\"iso-8859-1\"\r\n"),
            Just("Content-Type: application/pdf; name=\"a;b.pdf\"\r\n"),
            Just("Content-Type: image/png\r\n"),
            Just(""),
        ],
        fields,
        text,
    )
        .prop_map(|(kind, fields, body)| [kind.as_bytes(), fields.as_bytes(), b"\r\n", &body].concat());
    leaf.prop_recursive(3, 12, 4, |inner| {
        let boundary = "[a-z]{8,12}=_[A-Z0-9]{8}";
        prop_oneof![
            3 => (boundary, proptest::collection::vec(inner.clone(), 1..4)).prop_map(|(boundary, parts)| {
                let mut out = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\nhello\r\n").into_bytes();
                for part in parts {
                    out.extend(format!("--{boundary}\r\n").bytes());
                    out.extend(part);
                    out.extend(b"\r\n");
                }
                out.extend(format!("--{boundary}--\r\n").bytes());
                out
            }),
            1 => inner.prop_map(|inner| [&b"Content-Type: message/rfc822\r\n\r\nSubject: inside\r\nMIME-Version: 1.0\r\n"[..], &inner].concat()),
        ]
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    entity().prop_map(|entity| {
        [b"From: a@example.com\r\nSubject: x\r\nMIME-Version: 1.0\r\n", &entity[..], b"\r\n"].concat()
    })
}

/// What Python's `email` makes of both: same tree, same fields but those that change, same decoded leaves.
const ORACLE: &str = r#"
import email, pathlib, sys
CHANGED = {"content-transfer-encoding", "mime-version"}
def compare(name, a, b):
    fields = [[(k.lower(), str(v)) for k, v in m.items() if k.lower() not in CHANGED] for m in (a, b)]
    if "content-type" not in a:
        fields[1] = [f for f in fields[1] if f[0] != "content-type"]
    assert fields[0] == fields[1], (name, fields)
    assert a.get_content_type() == b.get_content_type(), name
    assert a.is_multipart() == b.is_multipart(), name
    if a.is_multipart():
        x, y = a.get_payload(), b.get_payload()
        assert len(x) == len(y), name
        for p, q in zip(x, y):
            compare(name, p, q)
    else:
        x, y = a.get_payload(decode=True), b.get_payload(decode=True)
        assert x == y, (name, x, y)
files = sorted(pathlib.Path(sys.argv[1]).glob("*.in"))
for file in files:
    before, after = file.read_bytes(), file.with_suffix(".out").read_bytes()
    assert after.isascii(), file
    compare(file.name, email.message_from_bytes(before), email.message_from_bytes(after))
print(len(files))
"#;

#[test]
fn python_decodes_the_same_content_from_what_was_converted() {
    let folder = std::env::temp_dir().join(format!("postkeep-downgrade-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let mut runner = TestRunner::deterministic();
    let mut written = 0;
    for number in 0..400 {
        let original = message().new_tree(&mut runner).expect("a message").current();
        let out =
            to_seven_bit(&original).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&original)));
        fs::write(folder.join(format!("{number}.in")), &original).expect("a file");
        fs::write(folder.join(format!("{number}.out")), &out).expect("a file");
        written += 1;
    }
    let oracle = Command::new("python3")
        .args(["-c", ORACLE])
        .arg(&folder)
        .output()
        .expect("python3, whose email package is the oracle here; install it");
    fs::remove_dir_all(&folder).expect("the folder goes");
    assert!(oracle.status.success(), "{}", String::from_utf8_lossy(&oracle.stderr));
    assert_eq!(String::from_utf8_lossy(&oracle.stdout).trim(), written.to_string());
}

proptest! {
    #[test]
    fn whatever_comes_the_result_has_seven_bits_and_does_it_twice_the_same(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b"Content-Type: multipart/mixed; boundary=x\r\n".to_vec()),
            Just(b"Content-Type: message/rfc822\r\n".to_vec()),
            Just(b"Content-Type: \"(;\\\r\n".to_vec()),
            Just(b"--x\r\n".to_vec()), Just(b"\r\n--x--".to_vec()), Just(b"\r\n".to_vec()),
            Just(vec![0xe9]), proptest::collection::vec(any::<u8>(), 0..8),
        ], 0..20)
    ) {
        let message = bytes.concat();
        if let Ok(out) = to_seven_bit(&message) {
            prop_assert!(out.is_ascii());
            prop_assert_eq!(to_seven_bit(&out), Ok(out.clone()));
            if message.is_ascii() {
                prop_assert_eq!(out, message);
            }
        }
    }
}
