//! The suppression list at the HTTP doors: curl and Mailgun's own client ask, receivers count.

use std::process::Command;
use std::time::Duration;

use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::run;
use postkeep_tests::ground::{HTTP_PORT, HTTPS_PORT};
use postkeep_tests::submitters::mailgun_suppressions;
use postkeep_tests::tools::needs;
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// Each with the sum that `printf TOKEN | sha256sum` gives.
const ANY: (&str, &str) = ("postkeep_any", "sha256:0bb068c2e97fdf7eb1b2bb33f1c720d9edfbc3b22cd38d75b36bc3d64d7f151d");
const NEWS: (&str, &str) = ("postkeep_news", "sha256:650e6dc44459152a1cdb22bb0f26ed62f210d58fb02268694b9205fa3b4bf9ee");
const NONE: (&str, &str) = ("postkeep_none", "sha256:540f46d6a119368f8e78941a150999a102c7717b362a5795673226516cfc20df");

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
    let token = |(token, hash): (&str, &str), rest: &str| {
        format!("[[token]]\nname = \"{}\"\nhash = \"{hash}\"\nsender-domains = [\"sender.test\"]\n{rest}", &token[9..])
    };
    let settings = Settings::new(&ground).with(&format!(
        "[[http]]\naddress = \"{}\"\ncertificate = {certificate:?}\nkey = {key:?}\n[[http]]\naddress = \"{}\"\nserve = [\"suppressions\"]\n\
         {}{}{}[stream.news]\n{extra}",
        ground.at(1, HTTPS_PORT),
        ground.at(1, HTTP_PORT),
        token(ANY, "may-choose-streams = [\"*\"]\nmay-suppress = true\n"),
        token(NEWS, "stream = \"news\"\nmay-suppress = true\n"),
        token(NONE, ""),
    ));
    let daemon = Daemon::start(&ground, &settings);
    House { ground, daemon, there, _names: names }
}

impl House {
    fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"])
            .args(["--request", method, "--header", &format!("Authorization: Bearer {token}")])
            .arg(format!("http://{}{path}", self.ground.at(1, HTTP_PORT)));
        if !body.is_null() {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        let said = run(&mut curl);
        let (text, code) = said.out.rsplit_once('\n').unwrap_or_else(|| panic!("{said:?}"));
        (code.parse().unwrap(), serde_json::from_str(text).unwrap_or(Value::String(text.to_owned())))
    }
}

#[test]
fn entries_come_and_go_over_http_and_mail_is_held_back_meanwhile() {
    let mut house = house("");
    let path = "/api/v1/suppressions";
    let one = format!("{path}/ann%40there.test");
    assert_eq!(house.call(ANY.0, "GET", &one, &Value::Null).1["entries"], json!([]));
    let entries = json!({"entries": [
        {"address": "ann@there.test", "reason": "complaint", "note": "by phone"},
        {"address": "bob@there.test", "reason": "unsubscribe", "scope": "stream:news"},
        {"address": "cid@there.test", "reason": "block"},
    ]});
    let (status, outcome) = house.call(ANY.0, "POST", path, &entries);
    house.daemon.kill();
    assert_eq!((status, &outcome), (200, &json!({"added": 3, "known": 0, "removed": 0})));
    house.daemon.run();
    let (_, view) = house.call(ANY.0, "GET", &one, &Value::Null);
    assert_eq!((&view["entries"][0]["reason"], &view["entries"][0]["origin"]), (&"complaint".into(), &"api".into()));
    let (status, outcome) =
        house.call(ANY.0, "PUT", &format!("{path}/dan@there.test"), &json!({"reason": "hard-bounce"}));
    assert_eq!((status, &outcome["added"]), (200, &1.into()));

    // Page by page, and by reason.
    let (mut all, mut page) = (Vec::new(), 0);
    loop {
        let (status, listed) = house.call(ANY.0, "GET", &format!("{path}?limit=3&page={page}"), &Value::Null);
        assert_eq!(status, 200, "{listed}");
        all.extend(
            listed["entries"].as_array().unwrap().iter().map(|entry| entry["address"].as_str().unwrap().to_owned()),
        );
        match listed["next"].as_u64() {
            Some(next) => page = next,
            None => break,
        }
    }
    assert_eq!(all, ["ann@there.test", "bob@there.test", "cid@there.test", "dan@there.test"]);
    let (_, blocks) = house.call(ANY.0, "GET", &format!("{path}?reason=block"), &Value::Null);
    assert_eq!(blocks["entries"][0]["address"], "cid@there.test", "{blocks}");
    assert!(blocks.get("next").is_none() && !blocks.to_string().contains("by phone"), "{blocks}");

    let letter = |to: &str| message::simple("shop@sender.test", to, "x", "Hi\n");
    let mut client = house.daemon.client();
    assert_eq!(client.submit("shop@sender.test", &["ann@there.test"], &letter("ann@there.test")).unwrap().code, 550);
    let (status, outcome) = house.call(ANY.0, "DELETE", &one, &Value::Null);
    assert_eq!((status, &outcome["removed"]), (200, &1.into()), "{outcome}");
    house.daemon.submit("shop@sender.test", &["ann@there.test"], &letter("ann@there.test"));
    house.there.wait(1, LIMIT);
}

#[test]
fn a_token_sees_and_changes_no_more_than_what_holds_for_its_own_mail() {
    let house = house("[stream.other]\n");
    let path = "/api/v1/suppressions";
    let add = |address: &str, scope: &str| {
        house.daemon.postkeep(&["suppression", "add", address, "--scope", scope]).done();
    };
    for (address, scope) in [
        ("a@x.test", "all"),
        ("b@x.test", "stream:other"),
        ("c@x.test", "list:w.sender.test"),
        ("d@x.test", "list:w.foreign.test"),
    ] {
        add(address, scope);
    }
    let (_, listed) = house.call(NEWS.0, "GET", path, &Value::Null);
    let seen: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().filter_map(|entry| entry["address"].as_str()).collect();
    assert_eq!(seen, ["a@x.test", "c@x.test"], "{listed}");
    assert_eq!(house.call(NEWS.0, "GET", &format!("{path}/b@x.test"), &Value::Null).1["entries"], json!([]));
    // Without a scope it is the token's own stream.
    assert_eq!(house.call(NEWS.0, "PUT", &format!("{path}/e@x.test"), &Value::Null).0, 200);
    assert_eq!(house.daemon.suppressions("e@x.test"), ["manual stream:news"]);
    for (method, path, body) in [
        ("PUT", format!("{path}/e@x.test"), json!({"scope": "all"})),
        ("PUT", format!("{path}/e@x.test"), json!({"scope": "stream:other"})),
        (
            "POST",
            path.to_owned(),
            json!({"entries": [{"address": "f@x.test", "reason": "manual"}, {"address": "f@x.test", "reason": "manual", "scope": "list:w.foreign.test"}]}),
        ),
        ("DELETE", format!("{path}/a@x.test?scope=all"), Value::Null),
    ] {
        let (status, problem) = house.call(NEWS.0, method, &path, &body);
        assert_eq!(
            (status, problem["type"].as_str()),
            (403, Some("urn:postkeep:problem:not-allowed")),
            "{method} {path}: {problem}"
        );
    }
    assert!(house.daemon.suppressions("f@x.test").is_empty(), "all or none");
    // What holds for everybody stays.
    assert_eq!(house.call(NEWS.0, "DELETE", &format!("{path}/a@x.test"), &Value::Null).1["removed"], 0);
    assert_eq!(house.daemon.suppressions("a@x.test"), ["manual all"]);
    for (token, status) in [(NONE.0, 403), ("postkeep_wrong", 401)] {
        assert_eq!(house.call(token, "GET", path, &Value::Null).0, status);
        assert_eq!(house.call(token, "PUT", &format!("{path}/e@x.test"), &Value::Null).0, status);
    }
    for (method, path, body) in [
        ("GET", format!("{path}?limit=0"), Value::Null),
        ("GET", format!("{path}/nobody"), Value::Null),
        ("PUT", format!("{path}/nobody"), Value::Null),
        ("POST", path.to_owned(), json!({"entries": [{"address": "x", "reason": "manual"}]})),
        ("POST", path.to_owned(), json!({"entry": []})),
    ] {
        assert_eq!(house.call(ANY.0, method, &path, &body).0, 422, "{method} {path} {body}");
    }
    assert_eq!(house.call(ANY.0, "POST", "/api/v1/messages", &json!({})).0, 404, "that door serves suppressions only");
}

#[test]
fn mailguns_own_client_asks_for_suppressions_and_changes_them() {
    let house = house("");
    house.daemon.postkeep(&["suppression", "add", "hand@there.test"]).done();
    let many: Vec<Value> = (0..3)
        .map(|n| json!({"address": format!("c{n}@there.test"), "created_at": "Fri, 21 Oct 2011 11:02:55 GMT"}))
        .collect();
    let list = json!({"data": serde_json::to_string(&many).unwrap(), "headers": {"Content-Type": "application/json"}});
    let calls = json!([
        ["bounces", "create", {"data": {"address": "bob@there.test", "code": 550, "error": "no such user"}}],
        ["bounces", "get", {}],
        ["bounces", "get", {"bounce_address": "bob@there.test"}],
        ["unsubscribes", "create", {"data": {"address": "ann@there.test", "tag": "*"}}],
        ["unsubscribes", "get", {"unsubscribe_address": "ann@there.test"}],
        ["unsubscribes", "create", {"data": {"address": "eve@there.test", "tag": "one"}}],
        ["complaints", "create", list],
        ["complaints", "get", {"filters": {"limit": 2}}],
        ["bounces", "delete", {"bounce_address": "bob@there.test"}],
        ["bounces", "get", {"bounce_address": "bob@there.test"}],
        ["bounces", "delete", {"bounce_address": "bob@there.test"}],
    ]);
    let door = house.ground.at(1, HTTPS_PORT);
    let Some(answers) = needs(mailgun_suppressions(&house.ground, door, ANY.0, "sender.test", &calls)) else { return };
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 400, 200, 200, 200, 404, 404], "{answers:#?}");
    let body = |number: usize| &answers[number].1;
    assert_eq!(body(0)["message"], "Address has been added to the bounces table");
    let items = body(1)["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "what was entered by hand is no bounce: {items:?}");
    assert!(items[0]["error"].as_str().unwrap().contains("550 no such user"), "{items:?}");
    assert!(items[0]["created_at"].as_str().unwrap().ends_with(" UTC"), "{items:?}");
    assert!(
        body(1)["paging"]["next"].as_str().unwrap().starts_with(&format!("https://{door}/v3/sender.test/bounces?"))
    );
    assert_eq!((&body(2)["address"], &body(2)["code"]), (&"bob@there.test".into(), &"550".into()));
    assert_eq!(body(4)["tags"], json!(["*"]));
    assert_eq!(body(6)["message"], "3 addresses have been added to the complaints table");
    assert_eq!(body(7)["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(body(8)["message"], "Bounced address has been removed");
    assert_eq!(house.daemon.suppressions("ann@there.test"), ["unsubscribe all"]);
    assert_eq!(house.daemon.suppressions("c1@there.test"), ["complaint all"]);
    assert!(house.daemon.suppressions("bob@there.test").is_empty());
    // The token must be allowed to speak for the domain, and to suppress.
    let ask = json!([["bounces", "get", {}]]);
    let status = |token: &str, domain: &str| {
        mailgun_suppressions(&house.ground, door, token, domain, &ask).ok().map(|answers| answers[0].0)
    };
    assert_eq!(status(ANY.0, "foreign.test"), Some(404));
    assert_eq!(status(NONE.0, "sender.test"), Some(403));
    assert_eq!(status("postkeep_wrong", "sender.test"), Some(401));
}
