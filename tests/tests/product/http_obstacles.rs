//! The HTTP doors under what strangers and careless or greedy senders do to them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use postkeep_tests::daemon::{Said, run_with_input};
use postkeep_tests::ground::HTTP_PORT;
use postkeep_tests::token::{HASH, TOKEN};
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

struct House {
    ground: Ground,
    daemon: Daemon,
    there: Sink,
    _names: Names,
}

fn house() -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101);
    let settings = Settings::new(&ground).with(&format!(
        "[[http]]\naddress = \"{}\"\nconnections = 20\nconnections-per-address = 6\n\
         [[token]]\nname = \"shop\"\nhash = \"{HASH}\"\nsender-domains = [\"sender.test\"]\nmay-suppress = true\n\
         powermta-headers = true\nstream = \"news\"\n[stream.news]\n[pool.fast]\nsources = {{ one = 1 }}\n",
        ground.at(1, HTTP_PORT)
    ));
    let daemon = Daemon::start(&ground, &settings);
    House { ground, daemon, there, _names: names }
}

impl House {
    fn door(&self) -> SocketAddr {
        self.ground.at(1, HTTP_PORT)
    }

    /// Curl: status, header block in lower case, body as JSON where it is some.
    fn curl(&self, path: &str, more: &[&str], body: &[u8]) -> (u16, String, Value) {
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--include", "--header", "Expect:"]);
        if !body.is_empty() {
            command.args(["--data-binary", "@-"]);
        }
        command.args(more).arg(format!("http://{}{path}", self.door()));
        let said: Said = run_with_input(&mut command, body);
        let (head, body) = said.out.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{said:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        (status, head.to_ascii_lowercase(), body)
    }

    fn own(&self, path: &str, more: &[&str], body: &[u8]) -> (u16, String, Value) {
        let token = format!("Authorization: Bearer {TOKEN}");
        let more = [&["--header", token.as_str()], more].concat();
        self.curl(path, &more, body)
    }

    fn mailgun(&self, path: &str, more: &[&str], body: &[u8]) -> (u16, String, Value) {
        let user = format!("api:{TOKEN}");
        self.curl(path, &[&["--user", user.as_str()], more].concat(), body)
    }

    /// Most memory that the daemon has had, in MiB.
    fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }
}

const JSON: [&str; 2] = ["--header", "Content-Type: application/json"];

#[test]
fn strangers_who_never_read_their_answers_keep_nobody_out() {
    let house = house();
    let greedy: Vec<TcpStream> = (0..30)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(house.door()).ok()?;
            stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
            // As many as go into the buffers; whoever has their share is closed on.
            let many = "GET /u/x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000);
            let _ = stream.write_all(many.as_bytes());
            Some(stream)
        })
        .collect();
    assert!(greedy.len() >= 6);
    let started = Instant::now();
    let other = house.ground.ip(50).to_string();
    let (status, ..) = house.curl("/api/v1/openapi.json", &["--interface", &other], b"");
    assert_eq!(status, 200);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn slow_bodies_of_one_sender_leave_room_for_others() {
    let house = house();
    let slow: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut stream = TcpStream::connect(house.door()).expect("the door");
            let head = format!(
                "POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
                 Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"
            );
            stream.write_all(head.as_bytes()).expect("written");
            stream
        })
        .collect();
    let other = house.ground.ip(50).to_string();
    let (status, _, answer) = house.own("/api/v1/suppressions/ann%40there.test", &["--interface", &other], b"");
    assert_eq!((status, &answer["entries"]), (200, &json!([])), "{answer}");
    drop(slow);
}

#[test]
fn a_call_with_millions_of_addresses_is_refused_before_they_take_memory() {
    let house = house();
    let before = house.most_memory();
    let many = "a,".repeat(10 << 20);
    let form = format!("from=shop%40sender.test&text=x&to={many}");
    let (status, _, answer) = house.mailgun("/v3/sender.test/messages", &[], form.as_bytes());
    assert_eq!(status, 400, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|text| text.contains("more than 10000")), "{answer}");
    let boundary = "xyz";
    let multipart =
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n{many}\r\n--{boundary}--\r\n");
    let kind = format!("Content-Type: multipart/form-data; boundary={boundary}");
    let (status, ..) = house.mailgun("/v3/sender.test/messages", &["--header", &kind], multipart.as_bytes());
    assert_eq!(status, 400);
    for member in ["\"\"", "[0]", "{\"address\":\"\"}"] {
        let json =
            format!("{{\"from\":\"shop@sender.test\",\"to\":[{}{member}]}}", format!("{member},").repeat(2 << 20));
        let (status, _, answer) = house.own("/api/v1/messages", &JSON, json.as_bytes());
        assert_eq!(status, 422, "{member}: {answer}");
    }
    let variables = format!("{{{}\"x\":{{}}}}", "\"a@there.test\":{\"b\":[[0,0,0,0,0,0,0,0]]},".repeat(1 << 18));
    let form = [
        &b"--xyz\r\nContent-Disposition: form-data; name=\"from\"\r\n\r\nshop@sender.test\r\n--xyz\r\nContent-Disposition: form-data; name=\"recipient-variables\"\r\n\r\n"[..],
        variables.as_bytes(),
        b"\r\n--xyz--\r\n",
    ]
    .concat();
    assert_eq!(house.mailgun("/v3/sender.test/messages", &["--header", &kind], &form).0, 400);
    let grown = house.most_memory() - before;
    assert!(grown < 300, "{grown} MiB more; the largest body has 42 MiB");
}

#[test]
fn what_is_no_call_is_refused_in_the_words_of_its_clients() {
    let house = house();
    let good = json!({"from": "shop@sender.test", "to": ["ann@there.test"], "text": "x"}).to_string();
    let large = vec![b' '; 5 << 20];
    for (path, more, body, status, word) in [
        ("/api/v1/suppressions?limit=abc", &[][..], &b""[..], 400, "bad-request"),
        ("/api/v1/suppressions/a%40b.test?scope=bogus", &["--request", "DELETE"][..], b"", 400, "bad-request"),
        ("/api/v1/suppressions/%ff", &[][..], b"", 400, "bad-request"),
        ("/api/v1/suppressions", &JSON[..], &large, 413, "too-large"),
        ("/api/v1/messages", &["--request", "PATCH"][..], b"", 405, "method-not-allowed"),
        ("/nowhere", &[][..], b"", 404, "not-found"),
    ] {
        let (code, head, problem) = house.own(path, more, body);
        assert_eq!(
            (code, problem["type"].as_str()),
            (status, Some(&*format!("urn:postkeep:problem:{word}"))),
            "{path}: {head}{problem}"
        );
        assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
        assert!(status != 405 || head.contains("allow: post"), "{head}");
    }
    let (status, head, _) = house.curl("/api/v1/messages", &JSON, good.as_bytes());
    assert!(status == 401 && head.contains("www-authenticate: bearer"), "{head}");
    for (path, more, body, status) in [
        ("/v3/sender.test/bounces?limit=abc", &[][..], &b""[..], 400),
        ("/v3/sender.test/messages", &["--request", "PUT"][..], b"", 405),
        ("/v3/elsewhere", &[][..], b"", 404),
        ("/v3/sender.test/messages", &[][..], b"from=shop%40sender.test,x%40evil.test&to=ann%40there.test&text=x", 400),
    ] {
        let (code, head, answer) = house.mailgun(path, more, body);
        assert!(code == status && answer["message"].is_string(), "{path}: {head}{answer}");
    }
    let (status, head, answer) = house.curl("/v3/sender.test/messages", &["--user", "api:wrong"], b"from=x");
    assert!(status == 401 && head.contains("www-authenticate: basic") && answer["message"].is_string(), "{head}");
    // Three MiB in a form are not many.
    let form = [&b"from=shop%40sender.test&to=ann%40there.test&text="[..], &vec![b'x'; 3 << 20]].concat();
    assert_eq!(house.mailgun("/v3/sender.test/messages", &[], &form).0, 200);
    house.there.wait(1, LIMIT);
}

#[test]
fn what_the_openapi_document_promises_is_what_is_answered() {
    let house = house();
    let (_, _, document) = house.curl("/api/v1/openapi.json", &[], b"");
    let good = json!({"from": "shop@sender.test", "to": ["ann@there.test"], "text": "x"}).to_string();
    let entry = json!({"entries": [{"address": "bob@there.test", "reason": "manual"}]}).to_string();
    let delete = ["--request", "DELETE"];
    for (path, named, method, more, body) in [
        ("/api/v1/messages", "/api/v1/messages", "post", &JSON[..], good.as_bytes()),
        ("/api/v1/messages", "/api/v1/messages", "post", &JSON[..], &b"{}"[..]),
        ("/api/v1/messages", "/api/v1/messages", "post", &["--header", "Content-Type: text/x"][..], b"x"),
        ("/api/v1/suppressions", "/api/v1/suppressions", "post", &JSON[..], entry.as_bytes()),
        ("/api/v1/suppressions", "/api/v1/suppressions", "get", &[][..], b""),
        ("/api/v1/suppressions?limit=x", "/api/v1/suppressions", "get", &[][..], b""),
        ("/api/v1/suppressions/bob%40there.test", "/api/v1/suppressions/{address}", "get", &[][..], b""),
        ("/api/v1/suppressions/nobody", "/api/v1/suppressions/{address}", "get", &[][..], b""),
        (
            "/api/v1/suppressions/bob%40there.test?scope=all",
            "/api/v1/suppressions/{address}",
            "delete",
            &delete[..],
            b"",
        ),
        ("/api/v1/suppressions/bob%40there.test", "/api/v1/suppressions/{address}", "delete", &delete[..], b""),
    ] {
        let (status, _, answer) = house.own(path, more, body);
        let promised = &document["paths"][named][method]["responses"][status.to_string()]["content"];
        let schema = promised.as_object().and_then(|kinds| kinds.values().next()).map(|kind| &kind["schema"]);
        let schema = schema.unwrap_or_else(|| panic!("{method} {named} does not name {status}: {answer}"));
        fits(&document, schema, &answer, &format!("{method} {path}"));
    }
}

/// Holds a value against a schema, as far as this document goes: references, types, members.
fn fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("no {reference}"));
        return fits(document, target, value, place);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(&kind), "{place}: {value} is no {types:?}");
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap_or_default()).is_some(), "{place}: {required} is missing: {value}");
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(name);
        assert!(known.is_some() || schema["allOf"].is_array(), "{place}: {name} is not in the document: {value}");
        if let Some(known) = known {
            fits(document, known, member, &format!("{place}/{name}"));
        }
    }
    for member in value.as_array().into_iter().flatten() {
        fits(document, &schema["items"], member, &format!("{place}/[]"));
    }
}

#[test]
fn blind_copies_stay_blind_and_orders_for_the_box_do_not_reach_recipients() {
    let house = house();
    let letter = message::simple("shop@sender.test", "ann@there.test", "blind", "Hi\n");
    let whole = [&b"Bcc: secret@there.test\r\nResent-Bcc: other@there.test\r\n"[..], &letter].concat();
    let path = "/api/v1/messages?from=shop@sender.test&to=ann@there.test,secret@there.test";
    let (status, _, answer) = house.own(path, &["--header", "Content-Type: message/rfc822"], &whole);
    assert_eq!(status, 202, "{answer}");
    house.daemon.submit("shop@sender.test", &["ann@there.test"], &whole);
    // PowerMTA's fields by HTTP.
    let ordered = json!({
        "from": "shop@sender.test", "to": [{"address": "bob@there.test", "substitutions": {"n": "1"}}], "text": "{{n}}",
        "headers": {"X-Virtual-MTA": "fast", "x-job": "week 7", "X-Envid": "e1"},
    });
    let (status, _, answer) = house.own("/api/v1/messages", &JSON, ordered.to_string().as_bytes());
    assert_eq!(status, 202, "{answer}");
    let id = answer["id"].clone();
    let mut for_each = ordered;
    for_each["headers"]["x-job"] = json!("week {{n}}");
    let (status, _, answer) = house.own("/api/v1/messages", &JSON, for_each.to_string().as_bytes());
    assert_eq!((status, answer["errors"][0]["pointer"].as_str()), (422, Some("/headers/x-job")), "{answer}");
    for mail in house.there.wait(3, LIMIT) {
        let text = String::from_utf8_lossy(&mail.content).to_ascii_lowercase();
        for field in ["bcc", "x-virtual-mta", "x-job", "x-envid"] {
            assert!(!text.contains(field), "{field}: {text}");
        }
    }
    let delivered = house.daemon.wait_record("delivered", LIMIT, |record| record["message"] == id);
    assert_eq!((&delivered["pool"], &delivered["job"]), (&"fast".into(), &"week 7".into()), "{delivered}");
}

#[test]
fn a_list_of_another_sender_is_not_named() {
    let house = house();
    let message = |list: &str| {
        json!({"from": "shop@sender.test", "to": ["ann@there.test"], "text": "x", "list": list}).to_string()
    };
    let (status, _, problem) = house.own("/api/v1/messages", &JSON, message("weekly.other.test").as_bytes());
    assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (403, Some("/list")), "{problem}");
    let (status, _, answer) = house.own("/api/v1/messages", &JSON, message("Weekly.sender.test").as_bytes());
    assert_eq!(status, 202, "{answer}");
    house.there.wait(1, LIMIT);
}

#[test]
fn a_client_that_stops_in_its_body_is_told_so_and_nothing_is_taken() {
    let house = house();
    let mut stream = TcpStream::connect(house.door()).expect("the door");
    stream.set_read_timeout(Some(Duration::from_secs(45))).expect("a timeout");
    let head = format!(
        "POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"from\""
    );
    stream.write_all(head.as_bytes()).expect("written");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("urn:postkeep:problem:timeout"), "{answer}");
    assert!(house.daemon.events("received").is_empty());
}
