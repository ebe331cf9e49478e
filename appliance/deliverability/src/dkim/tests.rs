//! Oracles: the examples of RFC 6376 and RFC 8463; mail-auth's verifier; dkimpy (ignored test).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};
use postkeep_configuration::units::Duration;
use postkeep_configuration::{Configuration, DkimAlgorithm, DkimKey};
use proptest::prelude::*;

use super::canonical::{relaxed_body, relaxed_header, relaxed_value};
use super::verifier::without_signature;
use super::*;

const RSA_2048: &[u8] = include_bytes!("test-keys/rsa-2048.pem");
const RSA_2048_PKCS1: &[u8] = include_bytes!("test-keys/rsa-2048-pkcs1.pem");
const RSA_3072: &[u8] = include_bytes!("test-keys/rsa-3072.pem");
const RSA_1024: &[u8] = include_bytes!("test-keys/rsa-1024.pem");
const RSA_768: &[u8] = include_bytes!("test-keys/rsa-768.pem");
const ED25519: &[u8] = include_bytes!("test-keys/ed25519.pem");
const EC_P256: &[u8] = include_bytes!("test-keys/ec-p256.pem");
const ENCRYPTED: &[u8] = include_bytes!("test-keys/encrypted.pem");
const PUBLIC: &[u8] = include_bytes!("test-keys/public.pem");

const NOW: u64 = 1_795_000_000;

fn configured(domain: &str, selector: &str, algorithm: DkimAlgorithm) -> DkimKey {
    DkimKey {
        domain: domain.to_owned(),
        selector: selector.to_owned(),
        key: "key.pem".into(),
        algorithm,
        streams: Vec::new(),
        extra_headers: Vec::new(),
        expire_after: None,
    }
}

fn rsa_key(domain: &str, selector: &str) -> Arc<Key> {
    Arc::new(Key::from_pem(&configured(domain, selector, DkimAlgorithm::RsaSha256), RSA_2048).expect("key"))
}

fn ed_key(domain: &str, selector: &str) -> Arc<Key> {
    Arc::new(Key::from_pem(&configured(domain, selector, DkimAlgorithm::Ed25519Sha256), ED25519).expect("key"))
}

fn signer(keys: &[Arc<Key>]) -> Signer {
    let keys: Vec<(Arc<Key>, &[String])> = keys.iter().map(|key| (Arc::clone(key), &[][..])).collect();
    Signer::with_keys(&keys).expect("signer")
}

/// A message as it would be sent, signed by all keys of `signer` for example.com.
fn signed(signer: &Signer, parts: &[&[u8]], body: &[u8]) -> Vec<u8> {
    let keys = signer.keys_for("example.com", "default");
    assert!(!keys.is_empty());
    let mut message = Vec::new();
    sign(&keys, parts, &body_hash(body), NOW, &mut message).expect("signed");
    for part in parts {
        message.extend_from_slice(part);
    }
    message.extend_from_slice(body);
    message
}

// ---- mail-auth's verifier, with records from memory. ----

struct Records(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

struct Verifier {
    runtime: tokio::runtime::Runtime,
    authenticator: MessageAuthenticator,
    records: Records,
}

impl Verifier {
    fn new(keys: &[Arc<Key>]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        // Never asked: every name that a test looks up is in `records`.
        let authenticator = runtime.block_on(async { MessageAuthenticator::new_system_conf() }).expect("resolver");
        let records = keys
            .iter()
            .map(|key| {
                let record = DomainKey::parse(key.dns_record().as_bytes()).expect("our own record parses");
                (format!("{}.", key.dns_name()).into_boxed_str(), Txt::DomainKey(Arc::new(record)))
            })
            .collect();
        Self { runtime, authenticator, records: Records(records) }
    }

    fn results(&self, message: &[u8]) -> Vec<DkimResult> {
        let message = AuthenticatedMessage::parse(message).expect("a message");
        let parameters = Parameters::new(&message).with_txt_cache(&self.records);
        let output = self.runtime.block_on(self.authenticator.verify_dkim(parameters));
        output.iter().map(|output| output.result().clone()).collect()
    }

    fn passes(&self, message: &[u8]) -> bool {
        let results = self.results(message);
        !results.is_empty() && results.iter().all(|result| *result == DkimResult::Pass)
    }
}

// ---- Messages. ----

const PREFIX: &[u8] = b"Received: from client (client.example.com [192.0.2.7])\r\n\tby mail.example.com with ESMTPSA id 1;\r\n\tMon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@mail.example.com>\r\n";
const HEADER: &[u8] = b"From: Joe <joe@example.com>\r\nTo: Sue <sue@example.net>\r\nSubject: Is dinner ready?\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nList-Unsubscribe: <https://example.com/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n";

/// Header blocks and bodies with everything that canonicalization is about.
fn corpus() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let header = |text: &str| text.as_bytes().to_vec();
    let body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n".to_vec();
    let mut long = String::from("From: a@example.com\r\nReferences:");
    for n in 0..200 {
        long.push_str(&format!("\r\n\t<{n}.message.with.a.long.identifier@mail.example.com>"));
    }
    long.push_str("\r\nSubject: =?utf-8?q?a?=\r\n =?utf-8?q?b?=   \r\n \t folded   twice\t\r\n\r\n");
    let mut big = Vec::new();
    for n in 0..40_000u32 {
        big.extend_from_slice(format!("line {n} with  two spaces \t and a tab  \r\n").as_bytes());
        if n % 7 == 0 {
            big.extend_from_slice(b"\r\n");
        }
    }
    vec![
        ("plain", HEADER.to_vec(), body.clone()),
        ("long folded headers", header(&long), body.clone()),
        (
            "utf-8 headers",
            header("From: Jürgen <jürgen@example.com>\r\nTo: δοκιμή@example.net\r\nSubject: Grüße  aus   Köln\r\n\r\n"),
            body.clone(),
        ),
        (
            "headers more than once",
            header(
                "Subject: one\r\nFrom: a@example.com\r\nTo: x@example.net\r\nSUBJECT: two\r\nto: y@example.net\r\nsubject:three\r\n\r\n",
            ),
            body.clone(),
        ),
        ("empty values", header("From:a@example.com\r\nSubject:\r\nTo: \r\nCc:\t \r\n\r\n"), body.clone()),
        (
            "a header that holds nothing of ours",
            header("From: a@example.com\r\nX-Fold:\r\n a\r\n\tb\r\n\r\n"),
            body.clone(),
        ),
        ("empty body", HEADER.to_vec(), Vec::new()),
        ("a body of one empty line", HEADER.to_vec(), b"\r\n".to_vec()),
        ("no line end at the end", HEADER.to_vec(), b"no line end".to_vec()),
        ("white space and no line end", HEADER.to_vec(), b"two \t ".to_vec()),
        ("empty lines at the end", HEADER.to_vec(), b"text\r\n\r\n\r\n\r\n".to_vec()),
        ("leading white space", HEADER.to_vec(), b" \t a\r\n\r\n\t\tb\r\n".to_vec()),
        ("a lone dot and dots", HEADER.to_vec(), b".\r\n..\r\nx\r\n".to_vec()),
        ("eight bits", HEADER.to_vec(), "Grüße  \r\n\u{a0}\r\n".as_bytes().to_vec()),
        ("a big body", HEADER.to_vec(), big),
    ]
}

/// Bodies whose last lines hold white space only: RFC 6376 §3.4.4 ignores them, mail-auth 0.13 hashes them.
fn what_mail_auth_sees_otherwise() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    vec![
        ("a blank tail", HEADER.to_vec(), b"text\r\n \t\r\n".to_vec()),
        ("a longer blank tail", HEADER.to_vec(), b"text\r\n\r\n \r\n\t\r\n\r\n".to_vec()),
        ("nothing but blanks", HEADER.to_vec(), b" \r\n\t\r\n".to_vec()),
    ]
}

// ---- Canonicalization. ----

fn relaxed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    relaxed_body(body, |piece| out.extend_from_slice(piece));
    out
}

#[test]
fn bodies_take_the_relaxed_form_of_rfc_6376() {
    // §3.4.5.
    assert_eq!(relaxed(b" C \r\nD \t E\r\n\r\n\r\n"), b" C\r\nD E\r\n");
    let expected: [(&[u8], &[u8]); 9] = [
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b" \r\n", b""),
        (b"abc\r\n \r\n", b"abc\r\n"),
        (b"abc\r\n \t\r\nx", b"abc\r\n\r\nx\r\n"),
        (b"abc  ", b"abc\r\n"),
        (b"\tabc", b" abc\r\n"),
        (b"a b\r\nc  d\r\ne f\r\n", b"a b\r\nc d\r\ne f\r\n"),
        (b"a\r\n\r\nb\r\n", b"a\r\n\r\nb\r\n"),
    ];
    for (body, form) in expected {
        assert_eq!(relaxed(body), form, "{:?}", String::from_utf8_lossy(body));
    }
    // The hash of nothing, §3.4.4.
    assert_eq!(BASE64.encode(body_hash(b"\r\n")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

#[test]
fn headers_take_the_relaxed_form_of_rfc_6376() {
    let mut out = Vec::new();
    relaxed_header(b"A", b" X\r\n", &mut out);
    relaxed_header(b"B ", b" Y\t\r\n\tZ  \r\n", &mut out);
    assert_eq!(out, b"a:X\r\nb:Y Z\r\n");
}

/// The relaxed form line by line, as the RFC words it.
fn relaxed_slowly(body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let text = body.strip_suffix(b"\r\n").unwrap_or(body);
    for line in text.split(|octet| *octet == b'\n') {
        let mut form: Vec<u8> = Vec::new();
        for octet in line.strip_suffix(b"\r").unwrap_or(line) {
            match octet {
                b' ' | b'\t' if form.last() == Some(&b' ') => {}
                b' ' | b'\t' => form.push(b' '),
                _ => form.push(*octet),
            }
        }
        if form.last() == Some(&b' ') {
            form.pop();
        }
        lines.push(form);
    }
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat()).collect()
}

proptest! {
    #[test]
    fn the_quick_walk_over_a_body_agrees_with_the_slow_one(
        lines in proptest::collection::vec("[ \ta-c.]{0,12}", 0..12),
        ended in any::<bool>(),
    ) {
        let mut body = lines.join("\r\n").into_bytes();
        if ended {
            body.extend_from_slice(b"\r\n");
        }
        prop_assert_eq!(relaxed(&body), relaxed_slowly(&body));
    }

    #[test]
    fn no_octets_make_canonicalization_fail(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        blanks in "[ \t\r\n]{0,20}",
    ) {
        let mut all = body.clone();
        all.extend_from_slice(blanks.as_bytes());
        relaxed(&all);
        let mut out = Vec::new();
        relaxed_header(&body, &all, &mut out);
        prop_assert!(out.len() <= body.len() + all.len() + 3);
    }
}

// ---- RFC 8463, appendix A: its key, its message, its signature. ----

#[test]
fn the_ed25519_signature_of_rfc_8463_is_made_octet_for_octet() {
    let seed = BASE64.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").expect("base64");
    let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend_from_slice(&seed);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(&pkcs8));
    let key =
        Key::from_pem(&configured("football.example.com", "brisbane", DkimAlgorithm::Ed25519Sha256), pem.as_bytes())
            .expect("key");
    assert_eq!(key.dns_name(), "brisbane._domainkey.football.example.com");
    assert_eq!(key.dns_record(), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");

    let body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    assert_eq!(BASE64.encode(body_hash(body)), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");

    let mut input = Vec::new();
    relaxed_header(b"From", b" Joe SixPack <joe@football.example.com>\r\n", &mut input);
    relaxed_header(b"To", b" Suzie Q <suzie@shopping.example.net>\r\n", &mut input);
    relaxed_header(b"Subject", b" Is dinner ready?\r\n", &mut input);
    relaxed_header(b"Date", b" Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n", &mut input);
    relaxed_header(b"Message-ID", b" <20030712040037.46341.5F8J@football.example.com>\r\n", &mut input);
    input.extend_from_slice(b"dkim-signature:");
    relaxed_value(
        b" v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=",
        &mut input,
    );
    let signature = mail_auth::common::crypto::SigningKey::sign(&key.private, input.as_slice()).expect("signed");
    assert_eq!(
        BASE64.encode(signature),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );
}

// ---- Signatures. ----

#[test]
fn every_message_of_the_corpus_verifies_with_mail_auth_under_both_algorithms() {
    let keys = [rsa_key("example.com", "r"), ed_key("example.com", "e")];
    let signer = signer(&keys);
    let verifier = Verifier::new(&keys);
    for (name, header, body) in corpus() {
        let message = signed(&signer, &[PREFIX, &header], &body);
        let results = verifier.results(&message);
        assert_eq!(
            results,
            [DkimResult::Pass, DkimResult::Pass],
            "{name}: {}",
            String::from_utf8_lossy(&message[..2000.min(message.len())])
        );
    }
}

#[test]
fn parts_are_signed_as_if_they_were_one() {
    let key = [ed_key("example.com", "e")];
    let signer = signer(&key);
    let keys = signer.keys_for("example.com", "default");
    let whole = [PREFIX, HEADER].concat();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    sign(&keys, &[&whole], &body_hash(b""), NOW, &mut one).expect("signed");
    sign(&keys, &[PREFIX, HEADER], &body_hash(b""), NOW, &mut two).expect("signed");
    assert_eq!(one, two);
}

#[test]
fn the_field_is_well_formed_and_its_lines_are_short() {
    let mut configured = configured("example.com", "news-2026a", DkimAlgorithm::RsaSha256);
    configured.extra_headers = vec!["X-Campaign".to_owned(), "subject".to_owned()];
    configured.expire_after = Some(Duration::from_secs(86_400));
    let key = Arc::new(Key::from_pem(&configured, RSA_2048).expect("key"));
    let message =
        signed(&signer(&[Arc::clone(&key)]), &[PREFIX, b"From: a@example.com\r\nX-Campaign: 1\r\n\r\n"], b"x\r\n");
    let text = String::from_utf8(message.clone()).expect("text");
    let field = &text[..text.find("Received:").expect("the next field")];
    assert!(field.starts_with("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com;\r\n\ts=news-2026a; t=1795000000; x=1795086400;\r\n\th="));
    assert!(field.ends_with("\r\n") && !field.trim_end().ends_with(';'));
    for line in field.split("\r\n") {
        assert!(line.len() <= 78, "{line}");
    }
    let unfolded: String = field.split_ascii_whitespace().collect();
    assert!(
        unfolded.contains(
            "h=From:From:To:Cc:Subject:Date:Message-ID:Message-ID:Reply-To:Sender:MIME-Version:Content-Type:\
         In-Reply-To:References:List-Unsubscribe:List-Unsubscribe-Post:X-Campaign;"
        ),
        "{unfolded}"
    );
    // Verifiers look at the clock: x= lies in the future of the test's time, not of today's.
    let verifier = Verifier::new(&[key]);
    assert_eq!(verifier.results(&message).len(), 1);
}

#[test]
fn headers_that_are_added_or_changed_on_the_way_break_the_signature() {
    let keys = [rsa_key("example.com", "r")];
    let signer = signer(&keys);
    let verifier = Verifier::new(&keys);
    let message = signed(&signer, &[PREFIX, HEADER], b"text\r\n");
    assert!(verifier.passes(&message));
    for name in [
        "From",
        "To",
        "Cc",
        "Subject",
        "Date",
        "Message-ID",
        "Reply-To",
        "Sender",
        "MIME-Version",
        "Content-Type",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
        "In-Reply-To",
        "References",
    ] {
        let added = [format!("{name}: x\r\n").as_bytes(), &message].concat();
        assert!(!verifier.passes(&added), "{name} on top");
        let text = String::from_utf8(message.clone()).expect("text");
        let below = text.replacen("\r\n\r\n", &format!("\r\n{name}: x\r\n\r\n"), 1);
        assert!(!verifier.passes(below.as_bytes()), "{name} below");
    }
    let text = String::from_utf8(message.clone()).expect("text");
    assert!(!verifier.passes(text.replace("dinner", "supper").as_bytes()));
    assert!(!verifier.passes(text.replace("text\r\n", "test\r\n").as_bytes()));
    // What every relay does is harmless.
    let relayed = [b"Received: from x by y\r\nX-Spam: no\r\n".as_slice(), &message].concat();
    assert!(verifier.passes(&relayed));
}

#[test]
fn repeated_headers_are_signed_from_the_bottom_up() {
    let keys = [rsa_key("example.com", "r")];
    let signer = signer(&keys);
    let header = b"Subject: first\r\nFrom: a@example.com\r\nSubject: second\r\n\r\n";
    let message = signed(&signer, &[header], b"x\r\n");
    let verifier = Verifier::new(&keys);
    assert!(verifier.passes(&message));
    let text = String::from_utf8(message).expect("text");
    let swapped = text.replace("first", "_").replace("second", "first").replace("Subject: _", "Subject: second");
    assert!(!verifier.passes(swapped.as_bytes()));
}

#[test]
fn keys_with_headers_of_their_own_sign_beside_others() {
    let mut own = configured("example.com", "own", DkimAlgorithm::RsaSha256);
    own.extra_headers = vec!["X-Campaign".to_owned()];
    let keys = [
        rsa_key("example.com", "one"),
        Arc::new(Key::from_pem(&own, RSA_3072).expect("key")),
        ed_key("example.com", "e"),
        Arc::new(
            Key::from_pem(&configured("example.com", "pkcs1", DkimAlgorithm::RsaSha256), RSA_2048_PKCS1).expect("key"),
        ),
    ];
    let header = b"From: a@example.com\r\nX-Campaign: 1\r\n\r\n";
    let message = signed(&signer(&keys), &[header], b"x\r\n");
    let verifier = Verifier::new(&keys);
    assert_eq!(verifier.results(&message), vec![DkimResult::Pass; 4]);
    let text = String::from_utf8(message).expect("text").replace("X-Campaign: 1", "X-Campaign: 2");
    assert_eq!(verifier.results(text.as_bytes()).iter().filter(|result| **result == DkimResult::Pass).count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_header_block_verifies(
        fields in proptest::collection::vec(
            (
                prop_oneof![
                    Just("Subject"), Just("to"), Just("CC"), Just("X-Any"), Just("References"),
                    Just("Content-Type"), Just("List-Id"), Just("DATE"), Just("Feedback-ID"),
                ],
                "([ -~é]{0,30}(\r\n[ \t]{1,3}[!-~é]{1,30}){0,3})",
            ),
            0..20,
        ),
        body in proptest::collection::vec("[ -~]{0,60}", 0..10),
    ) {
        let mut header = b"From: a@example.com\r\n".to_vec();
        for (name, value) in &fields {
            header.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        }
        header.extend_from_slice(b"\r\n");
        let mut body = body.join("\r\n").trim_end().to_owned();
        body.push_str("\r\n");
        let keys = [ed_key("example.com", "e")];
        let message = signed(&signer(&keys), &[PREFIX, &header], body.as_bytes());
        prop_assert_eq!(Verifier::new(&keys).results(&message), [DkimResult::Pass]);
    }

    #[test]
    fn no_header_block_makes_signing_fail(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let keys = signer(&[ed_key("example.com", "e")]).keys_for("example.com", "x");
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut out = Vec::new();
        prop_assert!(sign(&keys, &parts, &[0; 32], NOW, &mut out).is_ok());
        let field = String::from_utf8(out);
        prop_assert!(field.is_ok_and(|field| field.starts_with("DKIM-Signature:") && field.ends_with("\r\n")));
    }
}

// ---- Our own signatures, held against our own keys. ----

#[test]
fn what_was_signed_verifies_against_its_keys_and_what_was_altered_is_told_with_the_name_of_a_key() {
    let keys = [rsa_key("example.com", "r"), ed_key("example.com", "e")];
    let signer = signer(&keys);
    let selection = signer.keys_for("example.com", "default");
    for (name, header, body) in corpus() {
        let message = signed(&signer, &[PREFIX, &header], &body);
        assert_eq!(verify(&selection, &message), Ok(()), "{name}");
    }
    let text = String::from_utf8(signed(&signer, &[PREFIX, HEADER], b"text\r\n")).expect("text");
    let unsigned = String::from_utf8([PREFIX, HEADER, b"text\r\n"].concat()).expect("text");
    for (message, why) in [
        (text.replace("dinner", "supper"), "example.com/r does not verify"),
        (text.replace("text\r\n", "test\r\n"), "it is of another body"),
        (text.replacen("a=rsa-sha256", "a=ed25519-sha256", 1), "example.com/r does not verify"),
        (unsigned, "example.com/r does not verify: it is not there"),
        (String::new(), "the message has no header"),
    ] {
        let error = verify(&selection, message.as_bytes()).expect_err(&message).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn each_key_must_have_signed_and_no_other_of_its_name_will_do() {
    let (rsa, ed) = (rsa_key("example.com", "r"), ed_key("example.com", "e"));
    let both = signer(&[Arc::clone(&rsa), ed]).keys_for("example.com", "default");
    let by_one = signed(&signer(&[Arc::clone(&rsa)]), &[HEADER], b"text\r\n");
    let error = verify(&both, &by_one).expect_err("one of two").to_string();
    assert!(error.contains("example.com/e does not verify: it is not there"), "{error}");
    let other = Key::from_pem(&configured("example.com", "r", DkimAlgorithm::RsaSha256), RSA_3072).expect("key");
    let by_other = signed(&signer(&[Arc::new(other)]), &[HEADER], b"text\r\n");
    let error = verify(&KeySelection::of(&rsa), &by_other).expect_err("another key").to_string();
    assert!(error.contains("example.com/r does not verify"), "{error}");
    assert_eq!(verify(&KeySelection::default(), &by_one), Ok(()), "nobody must have signed");
}

#[test]
fn a_key_is_tried_out_and_one_whose_halves_are_strangers_is_told_by_name() {
    for key in [rsa_key("example.com", "r"), ed_key("example.com", "e")] {
        assert_eq!(try_out(&key, NOW), Ok(()), "{key:?}");
    }
    let key = |pem: &[u8]| Key::from_pem(&configured("example.com", "s1", DkimAlgorithm::RsaSha256), pem).expect("key");
    let mut stranger = key(RSA_2048);
    stranger.public = key(RSA_3072).public;
    let error = try_out(&Arc::new(stranger), NOW).expect_err("strangers").to_string();
    assert!(error.contains("example.com/s1 does not verify"), "{error}");
}

#[test]
fn the_signature_is_taken_out_of_its_field_wherever_it_stands() {
    for (value, expected) in [
        (" v=1; bh=B64b=;\r\n\tb=abc\r\n\t def=\r\n", " v=1; bh=B64b=;\r\n\tb="),
        (" b = abc\r\n ; v=1\r\n", " b =; v=1"),
        (" v=1", " v=1"),
        ("", ""),
    ] {
        assert_eq!(String::from_utf8(without_signature(value.as_bytes())).expect("text"), expected);
    }
}

// ---- Which keys sign. ----

fn selectors(signer: &Signer, domain: &str, stream: &str) -> Vec<String> {
    signer.keys_for(domain, stream).keys().iter().map(|key| key.selector().to_owned()).collect()
}

#[test]
fn the_most_specific_domain_signs_for_itself_and_what_is_below() {
    let keys = [
        rsa_key("example.com", "r"),
        ed_key("example.com", "e"),
        rsa_key("news.example.com", "n"),
        rsa_key("bücher.example", "b"),
    ];
    let signer = signer(&keys);
    assert_eq!(selectors(&signer, "example.com", "x"), ["r", "e"]);
    assert_eq!(selectors(&signer, "Shop.Example.COM.", "x"), ["r", "e"]);
    assert_eq!(selectors(&signer, "a.b.news.example.com", "x"), ["n"]);
    assert_eq!(selectors(&signer, "bücher.example", "x"), ["b"]);
    assert_eq!(selectors(&signer, "XN--BCHER-KVA.example", "x"), ["b"]);
    for nobody in ["evil-example.com", "com", "", ".", "example.com.evil.test", "ex ample.com"] {
        assert!(selectors(&signer, nobody, "x").is_empty(), "{nobody}");
    }
    assert!(Signer::default().keys_for("example.com", "x").is_empty());
    // Each is found by the name that the configuration gives it.
    let found = |domain: &str, selector: &str| signer.key(domain, selector).map(|key| key.dns_name());
    assert_eq!(found("News.Example.com", "N").as_deref(), Some("n._domainkey.news.example.com"));
    assert_eq!(found("bücher.example", "b").as_deref(), Some("b._domainkey.xn--bcher-kva.example"));
    assert_eq!(found("example.com", "n"), None);
}

#[test]
fn a_key_that_names_the_stream_signs_instead_of_one_that_names_none() {
    let news = ["news".to_owned()];
    let bills = ["bills".to_owned(), "news".to_owned()];
    let keys: [(Arc<Key>, &[String]); 5] = [
        (rsa_key("example.com", "general"), &[]),
        (rsa_key("example.com", "news"), &news),
        (ed_key("example.com", "e"), &[]),
        (rsa_key("example.com", "bills"), &bills),
        (rsa_key("only.example.com", "only"), &news),
    ];
    let signer = Signer::with_keys(&keys).expect("signer");
    assert_eq!(selectors(&signer, "example.com", "default"), ["general", "e"]);
    assert_eq!(selectors(&signer, "example.com", "news"), ["news", "e", "bills"]);
    assert_eq!(selectors(&signer, "example.com", "bills"), ["e", "bills"]);
    assert_eq!(selectors(&signer, "only.example.com", "news"), ["only"]);
    // No key of the subdomain is for this stream: the parent's sign.
    assert_eq!(selectors(&signer, "only.example.com", "bills"), ["e", "bills"]);
}

#[test]
fn an_ed25519_key_alone_is_warned_about_and_a_selector_is_used_once() {
    let signer = signer(&[ed_key("example.com", "e")]);
    assert_eq!(signer.warnings().len(), 1);
    assert!(signer.warnings()[0].contains("Ed25519 alone"));
    let twice: Vec<(Arc<Key>, &[String])> = vec![(rsa_key("example.com", "s"), &[]), (ed_key("EXAMPLE.com", "S"), &[])];
    let error = Signer::with_keys(&twice).expect_err("refused").to_string();
    assert!(error.starts_with("[[dkim]] example.com/s is configured twice"), "{error}");
}

#[test]
fn keys_are_read_from_the_files_that_the_configuration_names() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("key.pem");
    std::fs::write(&path, RSA_2048).expect("written");
    let text = format!(
        "hostname = \"mail.example.com\"\n[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey = {:?}\n",
        path.display().to_string()
    );
    let mut configuration: Configuration = toml::from_str(&text).expect("configuration");
    let signer = Signer::new(&configuration).expect("signer");
    let key = &signer.keys_for("example.com", "default").keys()[0].clone();
    assert_eq!((key.bits(), key.domain(), key.selector()), (2048, "example.com", "s"));
    assert!(signer.warnings().is_empty());
    assert!(!format!("{key:?}").contains("private"));
    configuration.dkim[0].key = folder.path().join("absent.pem");
    let error = Signer::new(&configuration).expect_err("refused").to_string();
    assert!(error.starts_with("[[dkim]] example.com/s: cannot read the key "), "{error}");
}

#[test]
fn the_public_record_is_what_openssl_says() {
    let text = std::str::from_utf8(PUBLIC).expect("text");
    let expected: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(rsa_key("example.com", "s").dns_record(), format!("v=DKIM1; k=rsa; p={expected}"));
}

#[test]
fn weak_wrong_and_broken_keys_are_refused_with_a_remedy() {
    let error = |algorithm, pem: &[u8]| {
        Key::from_pem(&configured("example.com", "s", algorithm), pem).expect_err("refused").to_string()
    };
    use DkimAlgorithm::{Ed25519Sha256, RsaSha256};
    for (algorithm, pem, expected) in [
        (RsaSha256, RSA_768, "RSA key of 768 bits, which no receiver accepts"),
        (RsaSha256, RSA_1024, "RSA key of 1024 bits; 2048 is the least"),
        (RsaSha256, ED25519, "holds an Ed25519 key; set algorithm = \"ed25519-sha256\""),
        (Ed25519Sha256, RSA_2048, "holds an RSA key; set algorithm = \"rsa-sha256\""),
        (Ed25519Sha256, RSA_2048_PKCS1, "holds an RSA key; set algorithm = \"rsa-sha256\""),
        (RsaSha256, EC_P256, "holds no RSA key that can be used"),
        (Ed25519Sha256, EC_P256, "holds no Ed25519 key"),
        (RsaSha256, ENCRYPTED, "is encrypted"),
        (RsaSha256, PUBLIC, "holds the public half"),
        (RsaSha256, b"", "holds no private key in PEM form"),
        (
            RsaSha256,
            b"-----BEGIN PRIVATE KEY-----\n!!!\n-----END PRIVATE KEY-----\n",
            "holds no private key in PEM form",
        ),
        (RsaSha256, b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "holds no RSA key"),
    ] {
        let error = error(algorithm, pem);
        assert!(error.starts_with("[[dkim]] example.com/s: key.pem "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let names = |domain: &str, selector: &str| {
        Key::from_pem(&configured(domain, selector, RsaSha256), RSA_2048).expect_err("refused").to_string()
    };
    assert!(names("exa mple.com", "s").contains("domain is not a DNS name"));
    assert!(names("example.com", "").contains("selector is not a DNS name"));
    for header in ["", "Received", "a b", "x:y", "dkim-signature"] {
        let mut configured = configured("example.com", "s", RsaSha256);
        configured.extra_headers = vec![header.to_owned()];
        let error = Key::from_pem(&configured, RSA_2048).expect_err("refused").to_string();
        assert!(error.contains("extra-headers"), "{error}");
    }
}

#[test]
#[ignore = "needs python3 with dkimpy and pynacl; POSTKEEP_PYTHON names the interpreter"]
fn every_message_of_the_corpus_verifies_with_dkimpy_under_both_algorithms() {
    const PROGRAM: &str = "import sys, dkim\n\
        records = dict(line.split('\\t') for line in open(sys.argv[1]).read().splitlines())\n\
        def dns(name, timeout=5):\n    return records.get(name.decode().rstrip('.'), '').encode() or None\n\
        for path in sys.argv[2:]:\n\
        \x20   d = dkim.DKIM(open(path, 'rb').read())\n\
        \x20   for i in range(2):\n\
        \x20       print(path, i, d.verify(idx=i, dnsfunc=dns))\n\
        \x20       assert d.verify(idx=i, dnsfunc=dns), (path, i)\n";
    let keys = [rsa_key("example.com", "r"), ed_key("example.com", "e")];
    let signer = signer(&keys);
    let folder = tempfile::tempdir().expect("folder");
    let records = folder.path().join("records");
    let lines: String = keys.iter().map(|key| format!("{}\t{}\n", key.dns_name(), key.dns_record())).collect();
    std::fs::write(&records, lines).expect("written");
    let python = std::env::var("POSTKEEP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = std::process::Command::new(python);
    command.arg("-c").arg(PROGRAM).arg(&records);
    for (number, (_, header, body)) in corpus().into_iter().chain(what_mail_auth_sees_otherwise()).enumerate() {
        let path = folder.path().join(format!("{number}.eml"));
        let mut message = signed(&signer, &[PREFIX, &header], &body);
        if !message.ends_with(b"\r\n") {
            // As DATA adds it on the way.
            message.extend_from_slice(b"\r\n");
        }
        std::fs::write(&path, message).expect("written");
        command.arg(path);
    }
    let output = command.output().expect("python runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "a measurement"]
fn how_fast_it_signs() {
    let message: Vec<u8> = b"A line of text as people write them, seventy octets or so, with a dot.\r\n".repeat(140);
    let parts: [&[u8]; 2] = [PREFIX, HEADER];
    let begin = Instant::now();
    for _ in 0..2000 {
        std::hint::black_box(body_hash(std::hint::black_box(&message)));
    }
    eprintln!("{:?} a body hash of {} octets", begin.elapsed() / 2000, message.len());
    let hash = body_hash(&message);
    for (name, key) in [("RSA-2048", rsa_key("example.com", "r")), ("Ed25519", ed_key("example.com", "e"))] {
        let keys = signer(&[key]).keys_for("example.com", "x");
        let mut out = Vec::new();
        let begin = Instant::now();
        let count = 2000u32;
        for n in 0..count {
            out.clear();
            sign(&keys, &parts, &hash, NOW + u64::from(n), &mut out).expect("signed");
        }
        let took = begin.elapsed();
        eprintln!("{name}: {:?} a signature, {:.0} a second", took / count, f64::from(count) / took.as_secs_f64());
    }
    let begin = Instant::now();
    let list = super::header::HeaderList::new("x", &[]).expect("list");
    for _ in 0..20_000 {
        std::hint::black_box(super::header::SignedHeaders::find(&list, &parts));
    }
    eprintln!("{:?} of it for the headers", begin.elapsed() / 20_000);
}
