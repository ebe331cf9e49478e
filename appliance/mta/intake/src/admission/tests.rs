use bytes::BytesMut;
use postkeep_smtp::data::{ChunkReader, ChunkStep, DataLimits};
use proptest::prelude::*;

use super::*;

fn configuration() -> Configuration {
    let toml = r#"{"hostname":"mx.example.com","stream":{"news":{},"receipts":{}}}"#;
    serde_json::from_str(toml).unwrap()
}

fn policy() -> SenderPolicy {
    let domains = ["example.com".to_owned(), "*.news.example".to_owned(), "bücher.example".to_owned()];
    SenderPolicy::new("shop", &domains, Some("receipts"), &["news".to_owned()])
}

fn content(text: &str) -> Content {
    let mut reader =
        ChunkReader::new(DataLimits { size: 1 << 20, line_length: 1000, bare_line_ends: Default::default() });
    let mut buffer = BytesMut::from(text.as_bytes());
    assert!(reader.begin(buffer.len() as u64));
    assert_eq!(reader.read(&mut buffer), ChunkStep::Done);
    reader.finish().unwrap()
}

fn arrival(tls: Option<&TlsSummary>) -> Arrival<'_> {
    Arrival {
        http: false,
        id: "0123456789abcdef",
        now: "2026-11-24T09:00:00Z".parse().unwrap(),
        client: "192.0.2.7".parse().unwrap(),
        helo: "client.example",
        extended: true,
        authenticated: true,
        smtputf8: false,
        tls,
    }
}

fn admit(text: &str) -> Result<Admitted, Reply> {
    ContentRules::new(&configuration()).admit(&mut content(text), &policy(), &arrival(None))
}

/// Code, enhanced code and text of the refusal.
fn refusal(text: &str) -> String {
    admit(text).map_err(|reply| reply.to_string()).expect_err("it was admitted")
}

#[test]
fn only_a_senders_own_list_counts_and_blind_copies_are_cut() {
    let with = |list: &str| {
        let text = format!(
            "From: ann@example.com\r\nbcc: x@there.test,\r\n y@there.test\r\nList-Id: Weekly <{list}>\r\nResent-Bcc: z@there.test\r\nSubject: x\r\n\r\nhi\r\n"
        );
        let mut message = content(&text);
        let admitted = ContentRules::new(&configuration()).admit(&mut message, &policy(), &arrival(None)).unwrap();
        let left = String::from_utf8(message.octets.to_vec()).unwrap();
        assert!(left.ends_with(">\r\nSubject: x\r\n\r\nhi\r\n") && !left.contains("there.test"), "{left}");
        admitted.list
    };
    assert_eq!(with("Weekly.Example.com").as_deref(), Some("weekly.example.com"));
    assert_eq!(with("a.b.news.example").as_deref(), Some("a.b.news.example"));
    for foreign in ["weekly.other.example", "weeklyexample.com", "news.example", "com"] {
        assert_eq!(with(foreign), None, "{foreign}: nobody unsubscribes from somebody else's list");
    }
}

#[test]
fn a_complete_message_gets_only_its_trace() {
    let tls = TlsSummary { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" };
    let text =
        "From: Ann <ann@Example.com>\r\nDate: Tue, 24 Nov 2026 08:59:00 +0000 (UTC)\r\nMessage-ID: <a@b>\r\n\r\nhi\r\n";
    let mut message = content(text);
    let admitted = ContentRules::new(&configuration()).admit(&mut message, &policy(), &arrival(Some(&tls))).unwrap();
    assert_eq!(
        admitted.prefix,
        "Received: from client.example ([192.0.2.7])\r\n\tby mx.example.com with ESMTPSA id 0123456789abcdef\r\n\t(TLSv1.3 TLS_AES_256_GCM_SHA384);\r\n\tTue, 24 Nov 2026 09:00:00 +0000\r\n"
    );
    assert_eq!(admitted.stream, "receipts");
    assert_eq!(admitted.from_domain, "example.com");
    assert_eq!(admitted.message_id, "<a@b>");
    assert_eq!(message.octets, text);
}

#[test]
fn a_missing_date_and_message_id_are_added() {
    let admitted = admit("From: ann@example.com\r\n\r\nhi\r\n").unwrap();
    let prefix = String::from_utf8(admitted.prefix.to_vec()).unwrap();
    assert!(
        prefix.ends_with(
            "\r\nDate: Tue, 24 Nov 2026 09:00:00 +0000\r\nMessage-ID: <0123456789abcdef@mx.example.com>\r\n"
        ),
        "{prefix}"
    );
    assert_eq!(admitted.message_id, "<0123456789abcdef@mx.example.com>");
    let mut strict = configuration();
    strict.intake.missing_date = MissingHeader::Refuse;
    strict.intake.missing_message_id = MissingHeader::Refuse;
    let reply = ContentRules::new(&strict)
        .admit(&mut content("From: ann@example.com\r\n\r\n"), &policy(), &arrival(None))
        .unwrap_err();
    assert_eq!(reply.to_string().get(..9), Some("550 5.6.0"));
}

#[test]
fn the_stream_header_chooses_where_allowed_and_is_cut_out() {
    let mut message = content("From: ann@example.com\r\nX-Postkeep-Stream: news\r\nTo: b@c.example\r\n\r\nhi\r\n");
    let admitted = ContentRules::new(&configuration()).admit(&mut message, &policy(), &arrival(None)).unwrap();
    assert_eq!(admitted.stream, "news");
    assert_eq!(message.octets, "From: ann@example.com\r\nTo: b@c.example\r\n\r\nhi\r\n");
    assert_eq!(message.header_length, 42);
    assert!(refusal("X-Postkeep-Stream: default\r\nFrom: ann@example.com\r\n\r\n").contains("shop may not choose"));
    assert!(
        refusal("X-Postkeep-Stream: other\r\nFrom: ann@example.com\r\n\r\n").contains("no stream that is configured")
    );
    assert!(
        refusal("X-Postkeep-Stream: news\r\nX-Postkeep-Stream: news\r\nFrom: a@example.com\r\n\r\n").contains("twice")
    );
}

#[test]
fn every_field_of_rfc_5322_that_stands_once_is_refused_twice() {
    for name in ["Date", "Message-ID", "Subject", "Sender", "Reply-To", "To", "CC", "From"] {
        let value = match name {
            "Date" => "Tue, 24 Nov 2026 08:59:00 +0000",
            "Message-ID" => "<a@b>",
            _ => "ann@example.com",
        };
        let field = format!("{name}: {value}\r\n");
        let from = if name == "From" { "" } else { "From: ann@example.com\r\n" };
        assert!(admit(&format!("{from}{field}\r\n")).is_ok(), "{name}");
        let text = refusal(&format!("{from}{field}{field}\r\n"));
        assert!(text.starts_with("550 5.6.0") && text.to_lowercase().contains(&name.to_lowercase()), "{text}");
    }
}

#[test]
fn what_is_not_sane_in_the_header_is_refused_with_its_reason() {
    let from = "From: ann@example.com\r\n";
    for (text, code, reason) in [
        ("Subject: x\r\n\r\nhi".to_owned(), "550 5.6.0", "From field is missing"),
        ("".to_owned(), "550 5.6.0", "From field is missing"),
        ("From: Ann\r\n\r\n".to_owned(), "550 5.6.0", "cannot be read"),
        ("From: Nobody:;\r\n\r\n".to_owned(), "550 5.6.0", "no mailbox"),
        ("From: ann@evil.example\r\n\r\n".to_owned(), "550 5.7.1", "shop may not use the domain evil.example"),
        ("From: ann@example.com, bob@evil.example\r\n\r\n".to_owned(), "550 5.7.1", "evil.example"),
        ("From: ann@[192.0.2.1]\r\n\r\n".to_owned(), "550 5.7.1", "[192.0.2.1]"),
        (format!("{from}Date: yesterday\r\n\r\n"), "550 5.6.0", "not a date"),
        (format!("{from}Date: Tue, 24 Nov 1970 08:59:00 +0000\r\n\r\n"), "550 5.6.0", "before 1990"),
        (format!("{from}Date: Sat, 28 Nov 2026 08:59:00 +0000\r\n\r\n"), "550 5.6.0", "two days ahead"),
        (format!("{from}Message-ID: abc\r\n\r\n"), "550 5.6.0", "Message-ID"),
        (format!("{from}no field\r\n\r\n"), "550 5.6.0", "line 2"),
        (format!("{}{from}\r\n", "Received: x\r\n".repeat(31)), "554 5.4.6", "30 hops"),
    ] {
        let refused = refusal(&text);
        assert!(refused.starts_with(code) && refused.contains(reason), "{text:?}: {refused}");
    }
    assert!(admit(&format!("{}{from}\r\n", "Received: x\r\n".repeat(30))).is_ok());
}

#[test]
fn domains_match_exactly_below_or_any() {
    let policy = policy();
    for (domain, allowed) in [
        ("example.com", true),
        ("a.example.com", false),
        ("news.example", false),
        ("a.news.example", true),
        ("a.b.news.example", true),
        ("anews.example", false),
        ("xn--bcher-kva.example", true),
    ] {
        assert_eq!(policy.allows_domain(domain), allowed, "{domain}");
    }
    assert!(SenderPolicy::new("any", &["*".to_owned()], None, &[]).allows_domain("[192.0.2.1]"));
    assert_eq!(admit("From: a@bücher.example\r\n\r\n").unwrap().from_domain, "xn--bcher-kva.example");
    assert_eq!(judge_sender(&policy, None), Ok(()), "the null sender is allowed to whoever may send");
    let evil = Address::parse("a@evil.example").unwrap();
    assert_eq!(judge_sender(&policy, Some(&evil)).unwrap_err().code, 553);
    let literal = Address::parse("a@[192.0.2.1]").unwrap();
    assert_eq!(judge_recipient(&literal).unwrap_err().code, 550);
}

#[test]
fn the_protocol_keyword_is_that_of_the_registry() {
    let tls = TlsSummary { version: "TLSv1.2", cipher: "X" };
    for (extended, smtputf8, tls, authenticated, keyword) in [
        (false, false, None, false, "SMTP"),
        (true, false, None, false, "ESMTP"),
        (true, false, Some(&tls), false, "ESMTPS"),
        (true, false, Some(&tls), true, "ESMTPSA"),
        (true, true, Some(&tls), true, "UTF8SMTPSA"),
    ] {
        let arrival =
            Arrival { extended, smtputf8, authenticated, client: "2001:db8::1".parse().unwrap(), ..arrival(tls) };
        let admitted = ContentRules::new(&configuration())
            .admit(&mut content("From: ann@example.com\r\n\r\n"), &policy(), &arrival)
            .unwrap();
        let prefix = String::from_utf8(admitted.prefix.to_vec()).unwrap();
        assert!(prefix.contains(&format!(" with {keyword} id ")), "{prefix}");
        assert!(prefix.contains("([IPv6:2001:db8::1])"), "{prefix}");
    }
}

proptest! {
    #[test]
    fn no_header_makes_admission_panic_and_cutting_keeps_the_rest(
        fields in proptest::collection::vec("(From: a@example\\.com|X-Postkeep-Stream: news|Subject|To|:|Date)[ a@:<>]{0,12}(\r\n x)?\r\n", 0..6)
    ) {
        let text = format!("{}\r\nbody\r\n", fields.concat());
        let mut message = content(&text);
        if ContentRules::new(&configuration()).admit(&mut message, &policy(), &arrival(None)).is_ok() {
            prop_assert!(message.octets.ends_with(b"\r\n\r\nbody\r\n") || message.octets == "\r\nbody\r\n");
            prop_assert_eq!(message.header_length, message.octets.len() - 6);
            let left = header::find(&message.octets, "X-Postkeep-Stream").is_some();
            prop_assert!(!left, "the stream header is gone");
        }
    }
}

const LETTER: &str = "From: ann@example.com\r\nDate: Tue, 24 Nov 2026 08:59:00 +0000\r\nMessage-ID: <a@b>\r\n";

fn admitted_by(json: &str, policy: &SenderPolicy, header: &str) -> Result<(Admitted, String), Reply> {
    let rules = ContentRules::new(&serde_json::from_str(json).unwrap());
    let mut message = content(&format!("{LETTER}{header}X-Last: 1\r\n\r\nhi\r\n"));
    let admitted = rules.admit(&mut message, policy, &arrival(None))?;
    assert_eq!(message.header_length, postkeep_smtp::header::header_length(&message.octets));
    Ok((admitted, String::from_utf8_lossy(&message.octets).into_owned()))
}

#[test]
fn powermtas_fields_count_and_go_only_where_they_are_allowed() {
    let json = r#"{"hostname":"mx.example.com","stream":{"receipts":{},"news":{}},"pool":{"fast":{"sources":{"a":1}}},"source":{"a":{}}}"#;
    let header = "x-virtual-mta: fast\r\nX-Job: week 7\r\nX-Postkeep-Stream: news\r\nX-Envid: id=1\r\n";
    let (admitted, left) = admitted_by(json, &policy().with_powermta_headers(true), header).unwrap();
    assert_eq!(left, format!("{LETTER}X-Last: 1\r\n\r\nhi\r\n"));
    assert_eq!(
        (admitted.pool.as_deref(), admitted.job.as_deref(), admitted.envelope_id.as_deref()),
        (Some("fast"), Some("week 7"), Some("id+3D1"))
    );
    assert_eq!(admitted.stream, "news");
    let (admitted, left) = admitted_by(json, &policy(), header).unwrap();
    assert_eq!((admitted.pool, admitted.job, admitted.envelope_id), (None, None, None));
    assert!(left.contains("x-virtual-mta: fast\r\nX-Job: week 7\r\nX-Envid: id=1\r\n"), "{left}");
    let refused = admitted_by(json, &policy().with_powermta_headers(true), "X-Virtual-MTA: slow\r\n").unwrap_err();
    assert!(refused.to_string().contains("550 5.7.1") && refused.text.contains("[pool.NAME]"), "{refused}");
    // A source is a pool of one.
    assert!(admitted_by(json, &policy().with_powermta_headers(true), "X-Virtual-MTA: a\r\n").is_ok());
}

#[test]
fn a_pair_that_is_not_whole_is_cut_where_the_box_writes_its_own() {
    let json = |policy: &str| {
        format!(r#"{{"hostname":"mx.example.com","stream":{{"receipts":{{"unsubscribe":"{policy}"}}}}}}"#)
    };
    let mailto = "List-Unsubscribe: <mailto:a@example.com>\r\nSubject: x\r\nList-Unsubscribe-Post: no\r\n";
    let (admitted, left) = admitted_by(&json("add"), &policy(), mailto).unwrap();
    assert_eq!(left, format!("{LETTER}Subject: x\r\nX-Last: 1\r\n\r\nhi\r\n"));
    assert_eq!(admitted.one_click.unwrap().pair.mailto, "<mailto:a@example.com>");
    for policy_word in ["warn", "require"] {
        let (admitted, left) = admitted_by(&json(policy_word), &policy(), mailto).unwrap();
        assert!(left.contains(mailto) && admitted.one_click.is_some_and(|one_click| one_click.pair.lack.is_some()));
    }
    let (admitted, left) = admitted_by(&json("off"), &policy(), mailto).unwrap();
    assert!(left.contains(mailto) && admitted.one_click.is_none());
}
