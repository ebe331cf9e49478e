//! Mail in by HTTP: curl is the client, receivers and another parser are the judges.

use std::process::Command;
use std::time::Duration;

use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::{Said, run_with_input};
use postkeep_tests::ground::{HTTP_PORT, HTTPS_PORT};
use postkeep_tests::submitters::mailgun;
use postkeep_tests::token::{HASH, TOKEN};
use postkeep_tests::tools::needs;
use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, message, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

struct House {
    ground: Ground,
    daemon: Daemon,
    there: Sink,
    _names: Names,
}

fn house(extra: &str) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101);
    let (certificate, key) = (ground.path("http.pem"), ground.path("http-key.pem"));
    ground.authority().identity(&ground.ip(1).to_string(), Flaw::None).write(&certificate, &key);
    let settings = Settings::new(&ground).with(&format!(
        "[[http]]\naddress = \"{}\"\ncertificate = {certificate:?}\nkey = {key:?}\n[[http]]\naddress = \"{}\"\n[[token]]\nname = \"shop\"\nhash = \"{HASH}\"\nsender-domains = [\"sender.test\"]\n\
         may-choose-streams = [\"news\"]\n[stream.news]\n[stream.other]\n{extra}",
        ground.at(1, HTTPS_PORT),
        ground.at(1, HTTP_PORT)
    ));
    let daemon = Daemon::start(&ground, &settings);
    House { ground, daemon, there, _names: names }
}

impl House {
    /// Posts with curl; the status, and the body as JSON.
    fn post(&self, body: &[u8], more: &[&str]) -> (u16, Value) {
        self.post_to("/api/v1/messages", TOKEN, body, more)
    }

    fn post_to(&self, path: &str, token: &str, body: &[u8], more: &[&str]) -> (u16, Value) {
        let said: Said = run_with_input(
            Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"])
                .args(["--data-binary", "@-", "--header", &format!("Authorization: Bearer {token}")])
                .args(["--header", "Content-Type: application/json"].iter().filter(|_| !more.contains(&"--header=raw")))
                .args(more.iter().filter(|argument| **argument != "--header=raw"))
                .arg(format!("http://{}{path}", self.ground.at(1, HTTP_PORT))),
            body,
        );
        let (text, code) = said.out.rsplit_once('\n').unwrap_or_else(|| panic!("{said:?}"));
        (code.parse().unwrap(), serde_json::from_str(text).unwrap_or(Value::String(text.to_owned())))
    }

    fn send(&self, message: &Value) -> (u16, Value) {
        self.post(message.to_string().as_bytes(), &[])
    }
}

fn text(mail: &postkeep_tests::sink::Transaction) -> String {
    String::from_utf8_lossy(&mail.content).into_owned()
}

#[test]
fn a_message_as_parts_is_durable_before_202_and_arrives_as_it_was_said() {
    let mut house = house("");
    house.daemon.postkeep(&["queue", "pause", "--all"]).done();
    let (status, answer) = house.send(&json!({
        "from": {"address": "shop@sender.test", "name": "Shop, the"},
        "to": ["ann@there.test", "Bob <bob@there.test>"],
        "subject": "Grüße", "text": "Hi there\n.dot\n", "html": "<p>Hi</p>", "stream": "news",
        "headers": {"X-Kind": "a"}, "list": "weekly.sender.test",
        "attachments": [{"filename": "a.txt", "content-type": "text/plain", "content": "SGVsbG8="}],
    }));
    assert_eq!(status, 202, "{answer}");
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&2.into(), &json!([])), "{answer}");
    // Killed right after the answer, it is there.
    house.daemon.kill();
    house.daemon.run();
    house.daemon.postkeep(&["queue", "resume"]).done();
    wait_until("both", LIMIT, || house.there.messages().iter().map(|mail| mail.recipients.len()).sum::<usize>() == 2);
    let mail = house.there.messages().remove(0);
    let content = text(&mail);
    assert_eq!(mail.sender, "shop@sender.test");
    for part in [
        "with HTTP id",
        "X-Kind: a",
        "List-Id: <weekly.sender.test>",
        "SGVsbG8=",
        "multipart/alternative",
        "\r\n.dot\r\n",
    ] {
        assert!(content.contains(part), "{part}: {content}");
    }
    assert!(!content.contains("X-Postkeep-Stream"), "{content}");
    assert!(message::header(&mail.content, "To").contains("bob@there.test"), "{content}");
    let delivered = house.daemon.wait_record("delivered", LIMIT, |record| record["message"] == answer["id"]);
    assert_eq!(delivered["stream"], "news");
}

#[test]
fn a_batch_is_stored_once_and_each_recipient_gets_their_own_message() {
    let house = house("[feedback]\ndomain = \"bounce.sender.test\"\n");
    house.daemon.postkeep(&["suppression", "add", "p7@there.test"]).done();
    let people: Vec<Value> = (0..60)
        .map(|n| json!({"address": format!("p{n}@there.test"), "substitutions": {"first": format!("P<{n}>"), "code": n.to_string()}}))
        .collect();
    let image = "QUJD".repeat(20_000);
    let (status, answer) = house.send(&json!({
        "from": "shop@sender.test", "to": people, "subject": "For {{first}}",
        "text": "Your code, {{first}}: {{code}}. {{week}}\n", "html": "<b>{{first}}</b> {{{week}}}",
        "substitutions": {"week": "<i>7</i>"},
        "attachments": [{"filename": "a.bin", "content": image, "content-id": "pic"}],
    }));
    assert_eq!(status, 202, "{answer}");
    assert_eq!((&answer["accepted"], answer["rejected"][0]["address"].as_str()), (&59.into(), Some("p7@there.test")));
    let mails = house.there.wait(59, LIMIT);
    for mail in &mails {
        let address = mail.addresses()[0].to_owned();
        let number = address.trim_start_matches('p').split('@').next().unwrap().to_owned();
        let content = text(mail);
        assert_eq!(message::header(&mail.content, "To"), format!("<{address}>"), "{content}");
        assert_eq!(message::header(&mail.content, "Subject"), format!("For P<{number}>"));
        assert!(content.contains(&format!("Your code, P<{number}>: {number}. <i>7</i>")), "{content}");
        assert!(content.contains(&format!("<b>P&lt;{number}&gt;</b> <i>7</i>")), "{content}");
        assert!(content.contains("QUJDQUJD"));
    }
    let mut ids: Vec<String> = mails.iter().map(|mail| message::header(&mail.content, "Message-ID")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 59, "each has an id of its own");
    let received = house.daemon.events("received");
    assert_eq!(received.len(), 1, "one call is one message in the spool");
    assert!(received[0]["size"].as_u64().unwrap() < 140_000, "stored once: {}", received[0]);
}

#[test]
fn a_bounce_of_a_rendered_message_returns_what_its_recipient_would_have_got() {
    let house = house("");
    let back = Sink::at(&house.ground, 102);
    house._names.domain("sender.test", house.ground.ip(102));
    house.there.script(|moment| match moment.stage {
        Stage::Final if moment.recipients[0].address.starts_with("bad") => Act::reply("554 5.6.0 not this"),
        _ => Act::Accept,
    });
    let (status, answer) = house.send(&json!({
        "from": "shop@sender.test", "subject": "For {{name}}", "text": "x",
        "to": [{"address": "good@there.test", "substitutions": {"name": "Good"}}, {"address": "bad@there.test", "substitutions": {"name": "Bad"}}],
    }));
    assert_eq!(status, 202, "{answer}");
    let report = text(&back.wait(1, LIMIT).remove(0));
    assert!(report.contains("Subject: For Bad") && !report.contains("For Good"), "{report}");
}

#[test]
fn the_same_key_takes_a_message_once_over_a_crash_and_another_body_is_refused() {
    let mut house = house("");
    let body =
        json!({"from": "shop@sender.test", "to": ["ann@there.test"], "subject": "once", "text": "x"}).to_string();
    let key = ["--header", "Idempotency-Key: order-4711"];
    let (status, first) = house.post(body.as_bytes(), &key);
    assert_eq!((status, &first["replayed"]), (202, &false.into()), "{first}");
    let (status, second) = house.post(body.as_bytes(), &key);
    assert_eq!((status, &second["id"], &second["replayed"]), (202, &first["id"], &true.into()), "{second}");
    house.daemon.kill();
    house.daemon.run();
    let (status, third) = house.post(body.as_bytes(), &key);
    assert_eq!((status, &third["id"], &third["replayed"]), (202, &first["id"], &true.into()), "{third}");
    let (status, other) = house.post(body.replace("once", "twice").as_bytes(), &key);
    assert_eq!((status, other["type"].as_str()), (422, Some("urn:postkeep:problem:idempotency-key-reused")), "{other}");
    house.there.wait(1, LIMIT);
    assert_eq!(house.daemon.events("received").len(), 1);
}

#[test]
fn a_whole_message_goes_by_the_rules_of_the_smtp_doors() {
    let house = house("");
    let mail = message::simple("shop@sender.test", "ann@there.test", "whole", "Hi\n");
    let raw = ["--header=raw", "--header", "Content-Type: message/rfc822"];
    let path = "/api/v1/messages?from=shop@sender.test&to=ann@there.test,bob@there.test&stream=news";
    // Bare line feeds are what files have; they become line ends.
    let (status, answer) =
        house.post_to(path, TOKEN, String::from_utf8(mail.clone()).unwrap().replace("\r\n", "\n").as_bytes(), &raw);
    assert_eq!(status, 202, "{answer}");
    let got = house.there.wait(1, LIMIT).remove(0);
    assert!(message::ends_with(&got.content, &mail), "{}", text(&got));
    for (path, status, word) in [
        ("/api/v1/messages?from=shop@elsewhere.test&to=ann@there.test", 403, "not-allowed"),
        ("/api/v1/messages?from=shop@sender.test&to=ann@there.test&stream=other", 403, "not-allowed"),
        ("/api/v1/messages?from=shop@sender.test", 422, "invalid-message"),
        ("/api/v1/messages?from=shop@sender.test&to=nobody", 422, "invalid-message"),
        ("/api/v1/messages?whom=x", 422, "invalid-message"),
        ("/api/v2", 404, "not-found"),
    ] {
        let (code, problem) = house.post_to(path, TOKEN, &mail, &raw);
        assert_eq!(
            (code, problem["type"].as_str()),
            (status, Some(&*format!("urn:postkeep:problem:{word}"))),
            "{path}: {problem}"
        );
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_nothing_is_taken() {
    let house = house("[intake]\nmessage-size = \"64KiB\"\n");
    let good = json!({"from": "shop@sender.test", "to": ["ann@there.test"], "subject": "x", "text": "x"});
    let with = |key: &str, value: Value| {
        let mut message = good.clone();
        message[key] = value;
        message
    };
    for (message, status, part) in [
        (with("from", json!("shop@elsewhere.test")), 403, "may not send from the domain"),
        (with("to", json!(["ann@there.test", "nobody"])), 422, "/to/1"),
        (with("text", json!("Hi {{name}}")), 422, "no value for the placeholder name"),
        (with("headers", json!({"Received": "x"})), 422, "/headers/Received"),
        (with("stream", json!("other")), 403, "may not choose the stream"),
        (with("subject", json!("a\r\nBcc: x@y")), 422, "/subject"),
        (with("attachment", json!([])), 422, "unknown field"),
        (with("text", json!("x".repeat(70_000))), 413, "larger than"),
        (json!([1, 2]), 422, "not a message"),
    ] {
        let (code, problem) = house.send(&message);
        assert_eq!(code, status, "{problem}");
        assert!(problem.to_string().contains(part), "{part}: {problem}");
        assert_eq!(problem["status"], status);
    }
    let body = good.to_string();
    assert_eq!(house.post_to("/api/v1/messages", "postkeep_wrong", body.as_bytes(), &[]).0, 401);
    assert_eq!(house.post(body.as_bytes(), &["--header=raw", "--header", "Content-Type: text/plain"]).0, 415);
    assert_eq!(house.post(b"{\"from\":", &[]).0, 422);
    assert_eq!(house.post(&vec![b' '; 3 << 20], &[]).0, 413);
    assert!(house.daemon.events("received").is_empty());
    assert_eq!(house.send(&good).0, 202);
}

#[test]
fn mailguns_own_client_sends_when_its_address_is_changed() {
    let house = house("");
    let whole = "From: Shop <shop@sender.test>\nTo: ann@there.test\nSubject: whole\n\nHi\n";
    let messages = json!([
        {"data": {
            "from": "Shop <shop@sender.test>", "to": ["ann@there.test", "\"Lee, Bob\" <bob@there.test>"],
            "subject": "Hi %recipient.first%", "text": "Code %recipient.code% for %recipient%, {{not ours}}",
            "html": "<b>%recipient.first%</b>", "h:X-Kind": "a", "o:tag": "t", "o:tracking": "no", "v:own": "x",
            "recipient-variables": json!({"ann@there.test": {"first": "Ann", "code": 1}, "bob@there.test": {"first": "<i>Bob</i>", "code": "2"}}).to_string(),
         }, "files": [["attachment", "a.txt", "SGVsbG8="], ["inline", "p.png", "QUJD"]]},
        {"data": {"from": "shop@sender.test", "to": "cid@there.test", "subject": "plain", "text": "x"}},
        {"data": {"to": "dan@there.test"}, "mime": whole},
        {"data": {"from": "shop@sender.test", "to": "eve@there.test", "subject": "test", "text": "x", "o:testmode": "yes"}},
        {"data": {"from": "shop@elsewhere.test", "to": "eve@there.test", "subject": "x", "text": "x"}},
        {"data": {"from": "shop@sender.test", "to": "eve@there.test", "text": "x", "o:deliverytime": "tomorrow"}},
    ]);
    let door = house.ground.at(1, HTTPS_PORT);
    let Some(answers) = needs(mailgun(&house.ground, door, TOKEN, "sender.test", &messages)) else { return };
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 403, 400], "{answers:?}");
    assert_eq!(answers[0].1["message"], "Queued. Thank you.");
    assert!(answers[0].1["id"].as_str().unwrap().starts_with('<'), "{answers:?}");
    assert!(answers[5].1["message"].as_str().unwrap().contains("o:deliverytime"), "{answers:?}");
    let mails = house.there.wait(4, LIMIT);
    let of = |address: &str| text(mails.iter().find(|mail| mail.addresses() == [address]).expect(address));
    let ann = of("ann@there.test");
    for part in ["Subject: Hi Ann", "Code 1 for ann@there.test, {{not ours}}", "X-Kind: a", "SGVsbG8=", "<p.png>"] {
        assert!(ann.contains(part), "{part}: {ann}");
    }
    assert!(of("bob@there.test").contains("<b><i>Bob</i></b>"), "{}", of("bob@there.test"));
    assert!(of("dan@there.test").contains("Subject: whole"));
    assert_eq!(house.there.count(), 4, "the test was not sent");
    assert!(of("cid@there.test").contains("with HTTPS id"), "{}", of("cid@there.test"));
    // Another domain, and another token.
    let plain = json!([{"data": {"from": "shop@sender.test", "to": "x@there.test", "text": "x"}}]);
    assert_eq!(mailgun(&house.ground, door, TOKEN, "elsewhere.test", &plain).ok().map(|all| all[0].0), Some(404));
    assert_eq!(mailgun(&house.ground, door, "wrong", "sender.test", &plain).ok().map(|all| all[0].0), Some(401));
}

#[test]
fn the_openapi_document_names_what_is_there() {
    let house = house("");
    let document = std::process::Command::new("curl")
        .args(["--silent", &format!("http://{}/api/v1/openapi.json", house.ground.at(1, HTTP_PORT))])
        .output()
        .expect("curl");
    let document: Value = serde_json::from_slice(&document.stdout).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().expect("paths") {
        assert!(methods.get("post").is_some());
        // What is named is there: without a body it is refused, not unknown.
        assert_ne!(house.post_to(path, TOKEN, b"", &[]).0, 404, "{path}");
    }
}

#[test]
fn a_token_is_made_shown_once_and_taken_by_its_hash_after_a_reload() {
    let house = house("");
    let made = house.daemon.postkeep(&["token", "new", "--json"]).done().json();
    let (token, hash) = (made["token"].as_str().unwrap(), made["hash"].as_str().unwrap());
    assert!(token.starts_with("postkeep_") && token.len() > 50);
    let body = json!({"from": "a@other.test", "to": ["ann@there.test"], "text": "x"}).to_string();
    assert_eq!(house.post_to("/api/v1/messages", token, body.as_bytes(), &[]).0, 401);
    let text = std::fs::read_to_string(house.daemon.configuration()).unwrap();
    house.daemon.write_text(&format!(
        "{text}\n[[token]]\nname = \"other\"\nhash = \"{hash}\"\nsender-domains = [\"other.test\"]\n"
    ));
    let said = house.daemon.postkeep(&["reload"]).done();
    assert!(!said.out.contains(hash), "{}", said.out);
    assert_eq!(house.post_to("/api/v1/messages", token, body.as_bytes(), &[]).0, 202);
}
