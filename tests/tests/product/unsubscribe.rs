//! One-click unsubscribe (RFC 8058): curl clicks as mail programs do, receivers count, dkimpy judges the signatures.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use postkeep_tests::certificates::Flaw;
use postkeep_tests::daemon::{run, run_with_input};
use postkeep_tests::ground::{HTTP_PORT, HTTPS_PORT};
use postkeep_tests::sink::Transaction;
use postkeep_tests::token::{HASH, TOKEN};
use postkeep_tests::tools::needs;
use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message, oracle};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const POST: &str = "List-Unsubscribe=One-Click";

struct House {
    ground: Ground,
    daemon: Daemon,
    there: Sink,
    /// TXT record of the key that signs.
    record: String,
    _names: Names,
}

/// A box with one HTTPS door for strangers, one for tokens, and streams of each policy.
fn house(extra: &str) -> Option<House> {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101);
    let (certificate, key, dkim) = (ground.path("http.pem"), ground.path("http-key.pem"), ground.path("dkim.pem"));
    ground.authority().identity(&ground.ip(1).to_string(), Flaw::None).write(&certificate, &key);
    std::fs::write(ground.path("authority.pem"), ground.authority().pem()).expect("write the authority");
    let record = needs(oracle::rsa_key(&dkim))?;
    let public = ground.at(1, HTTPS_PORT);
    let settings = Settings::new(&ground).with(&format!(
        "[[http]]\naddress = \"{public}\"\ncertificate = {certificate:?}\nkey = {key:?}\nserve = [\"unsubscribe\"]\n\
         [[http]]\naddress = \"{}\"\nserve = [\"messages\"]\n\
         [[token]]\nname = \"shop\"\nhash = \"{HASH}\"\nsender-domains = [\"*\"]\nmay-choose-streams = [\"*\"]\n\
         [stream.news]\nunsubscribe = \"add\"\n[stream.strict]\nunsubscribe = \"require\"\n[stream.lax]\nunsubscribe = \"warn\"\n\
         [unsubscribe]\nurl = \"https://{public}\"\n\
         [[dkim]]\ndomain = \"sender.test\"\nselector = \"s1\"\nkey = {dkim:?}\n{extra}",
        ground.at(1, HTTP_PORT)
    ));
    let daemon = Daemon::start(&ground, &settings);
    Some(House { ground, daemon, there, record, _names: names })
}

impl House {
    /// Submits a message of a stream and list by SMTP.
    fn submit(&self, stream: &str, list: &str, header: &str, recipients: &[&str]) -> String {
        let content = letter(stream, list, header);
        self.daemon.submit("shop@sender.test", recipients, content.as_bytes())
    }

    /// Curl at the public door: status, header block, body.
    fn curl(&self, url: &str, more: &[&str]) -> (u16, String, String) {
        let said = run(Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "30", "--include", "--cacert"])
            .arg(self.ground.path("authority.pem"))
            .args(more)
            .arg(url))
        .done();
        let (head, body) = said.out.split_once("\r\n\r\n").expect("a header block");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    fn send(&self, message: &Value) -> (u16, Value) {
        let said = run_with_input(
            Command::new("curl")
                .args(["--silent", "--max-time", "30", "--write-out", "\n%{http_code}", "--data-binary", "@-"])
                .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
                .args(["--header", "Content-Type: application/json"])
                .arg(format!("http://{}/api/v1/messages", self.ground.at(1, HTTP_PORT))),
            message.to_string().as_bytes(),
        );
        let (text, code) = said.out.rsplit_once('\n').unwrap_or_else(|| panic!("{said:?}"));
        (code.parse().unwrap(), serde_json::from_str(text).unwrap_or_default())
    }

    /// Whether dkimpy says that a mail is signed, and both fields with it.
    fn is_covered(&self, mail: &Transaction) -> bool {
        let keys = BTreeMap::from([("s1._domainkey.sender.test.".to_owned(), self.record.clone())]);
        let Some(found) = needs(oracle::signatures(&keys, &[&mail.content])) else { return true };
        let names = |name: &str| found[0][0].headers.iter().any(|header| header == name);
        found[0].len() == 1 && found[0][0].valid && names("list-unsubscribe") && names("list-unsubscribe-post")
    }
}

fn letter(stream: &str, list: &str, header: &str) -> String {
    let list = if list.is_empty() { String::new() } else { format!("List-Id: <{list}>\r\n") };
    format!(
        "From: shop@sender.test\r\nTo: you@there.test\r\nSubject: x\r\nX-Postkeep-Stream: {stream}\r\n{list}{header}\r\nHi\r\n"
    )
}

/// The links of a mail: URIs of `List-Unsubscribe`, in order.
fn links(mail: &Transaction) -> Vec<String> {
    let fields = message::headers(&mail.content, "List-Unsubscribe");
    assert_eq!(fields.len(), 1, "{}", String::from_utf8_lossy(&mail.content));
    let value: String = fields[0].split_whitespace().collect();
    value.split(',').map(|uri| uri.trim_matches(['<', '>']).to_owned()).collect()
}

fn of<'a>(mails: &'a [Transaction], address: &str) -> &'a Transaction {
    mails.iter().find(|mail| mail.addresses() == [address]).unwrap_or_else(|| panic!("nothing for {address}"))
}

#[test]
fn one_click_ends_mail_of_the_list_and_nothing_else() {
    let Some(mut house) = house("") else { return };
    house.submit("news", "weekly.sender.test", "", &["ann@there.test", "bob@there.test"]);
    let mails = house.there.wait(2, LIMIT);
    let (ann, bob) = (of(&mails, "ann@there.test"), of(&mails, "bob@there.test"));
    let (link, other) = (links(ann), links(bob));
    assert_eq!((link.len(), other.len()), (1, 1));
    assert_ne!(link, other, "a link is for one recipient");
    assert!(!link[0].contains("ann") && link[0].starts_with("https://"), "{link:?}");
    for mail in [ann, bob] {
        assert_eq!(message::headers(&mail.content, "List-Unsubscribe-Post"), [POST]);
        assert!(house.is_covered(mail), "{}", String::from_utf8_lossy(&mail.content));
    }

    // Whoever only looks changes nothing: machines follow links.
    let (status, head, body) = house.curl(&link[0], &[]);
    assert_eq!(status, 200, "{head}");
    for part in ["content-security-policy: default-src 'none'", "referrer-policy: no-referrer", "x-robots-tag: noindex"]
    {
        assert!(head.contains(part), "{part}: {head}");
    }
    assert!(body.contains("<form method=\"post\">") && !body.contains("ann@") && !body.contains("http"), "{body}");
    assert!(!head.contains("set-cookie"), "{head}");
    assert_eq!(house.curl(&link[0], &["--head"]).0, 200);
    assert_eq!(house.curl(&link[0], &["--request", "OPTIONS"]).0, 204);
    assert_eq!(house.curl(&link[0], &["--data", "something=else"]).0, 400);
    assert_eq!(house.curl(&link[0], &["--data", &"x".repeat(9000)]).0, 413);
    assert!(house.daemon.suppressions("ann@there.test").is_empty());

    // As Gmail does it; and the box dies right after its word.
    let (status, head, body) = house.curl(&link[0], &["--data", POST]);
    house.daemon.kill();
    assert_eq!(status, 200, "{head}");
    assert!(
        !head.contains("set-cookie") && !head.contains("location:") && body.contains("Unsubscribed"),
        "{head}{body}"
    );
    house.daemon.run();
    assert_eq!(house.daemon.suppressions("ann@there.test"), ["unsubscribe list:weekly.sender.test"]);
    let record = house.daemon.wait_record("unsubscribed", LIMIT, |_| true);
    assert_eq!((&record["recipient"], &record["stream"]), (&"ann@there.test".into(), &"news".into()));
    assert_eq!(record["scope"], "list:weekly.sender.test");
    // Again, and as a form of several parts, it is the same.
    assert_eq!(house.curl(&link[0], &["--data", POST]).0, 200);
    assert_eq!(house.curl(&link[0], &["--form", POST]).0, 200);
    assert_eq!(house.daemon.suppressions("ann@there.test").len(), 1);
    assert_eq!(house.daemon.events("unsubscribed").len(), 1, "it happened once");

    // No more of that list; another one still arrives, and so does the list for others.
    house.submit("news", "weekly.sender.test", "", &["ann@there.test", "bob@there.test"]);
    house.submit("news", "daily.sender.test", "", &["ann@there.test"]);
    house.daemon.wait_record("suppressed", LIMIT, |record| record["recipient"] == "ann@there.test");
    let mails = house.there.wait(4, LIMIT);
    let lists: Vec<String> = mails
        .iter()
        .filter(|mail| mail.addresses() == ["ann@there.test"])
        .map(|mail| message::header(&mail.content, "List-Id"))
        .collect();
    assert_eq!(lists, ["<weekly.sender.test>", "<daily.sender.test>"]);
    assert_eq!(house.there.count(), 4);
    // A link that is none, and a door that serves nothing else.
    let door = house.ground.at(1, HTTPS_PORT);
    let forged = link[0].replace("/u/", "/u/A");
    for url in [forged.as_str(), &format!("https://{door}/u/x")] {
        assert_eq!(house.curl(url, &["--data", POST]).0, 404);
        assert_eq!(house.curl(url, &[]).0, 404);
    }
    assert_eq!(house.curl(&format!("https://{door}/api/v1/messages"), &["--data", "{}"]).0, 404);
    let plain = format!("http://{}{}", house.ground.at(1, HTTP_PORT), link[0].split_at(link[0].find("/u/").unwrap()).1);
    assert_eq!(house.curl(&plain, &[]).0, 404, "that door serves messages only");
}

#[test]
fn the_senders_own_pair_stays_and_what_is_no_pair_gives_its_mailto_to_ours() {
    let Some(house) = house("") else { return };
    let whole = "List-Unsubscribe: <https://sender.test/u/1>, <mailto:leave@sender.test>\r\n\
                 List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    house.submit("news", "", whole, &["whole@there.test"]);
    house.submit("news", "", "List-Unsubscribe: <mailto:leave@sender.test?subject=a>\r\n", &["mailto@there.test"]);
    house.submit("news", "", "List-Unsubscribe: <https://sender.test/page>\r\n", &["page@there.test"]);
    let mails = house.there.wait(3, LIMIT);
    assert_eq!(links(of(&mails, "whole@there.test")), ["https://sender.test/u/1", "mailto:leave@sender.test"]);
    let mailto = links(of(&mails, "mailto@there.test"));
    assert!(mailto[0].starts_with("https://127.") && mailto[1] == "mailto:leave@sender.test?subject=a", "{mailto:?}");
    let page = links(of(&mails, "page@there.test"));
    assert!(page.len() == 1 && page[0].starts_with("https://127."), "{page:?}");
    for mail in &mails {
        assert_eq!(message::headers(&mail.content, "List-Unsubscribe-Post"), [POST]);
        assert!(house.is_covered(mail), "{}", String::from_utf8_lossy(&mail.content));
    }
    let mut standings: Vec<String> =
        house.daemon.events("received").iter().map(|record| record["unsubscribe"].to_string()).collect();
    standings.sort();
    assert_eq!(standings, ["\"added\"", "\"replaced\"", "\"whole\""]);
    // Mail without a list ends with its stream.
    assert_eq!(house.curl(&mailto[0], &["--data", POST]).0, 200);
    assert_eq!(house.daemon.suppressions("mailto@there.test"), ["unsubscribe stream:news"]);
}

#[test]
fn mail_without_a_pair_is_refused_or_counted_as_its_stream_says() {
    let Some(house) = house("") else { return };
    let refused = |stream: &str, header: &str, from: &str| {
        let mut client = house.daemon.client();
        let content = letter(stream, "", header).replace("shop@sender.test", from);
        client.submit("shop@sender.test", &["ann@there.test"], content.as_bytes()).expect("submit").to_string()
    };
    let whole = "List-Unsubscribe: <https://sender.test/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    let reply = refused("strict", "", "shop@sender.test");
    assert!(reply.contains("550 5.7.1") && reply.contains("no List-Unsubscribe field"), "{reply}");
    let reply = refused("strict", whole, "shop@unsigned.test");
    assert!(reply.contains("550 5.7.1") && reply.contains("[[dkim]]"), "{reply}");
    let reply = refused("news", "", "shop@unsigned.test");
    assert!(reply.contains("550 5.7.1") && reply.contains("[[dkim]]"), "{reply}");
    let (status, problem) =
        house.send(&json!({"from": "shop@sender.test", "to": ["ann@there.test"], "text": "x", "stream": "strict"}));
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap_or_default().contains("List-Unsubscribe"), "{problem}");
    assert!(refused("strict", whole, "shop@sender.test").contains("250"));
    let signed = "DKIM-Signature: v=1; a=rsa-sha256; d=unsigned.test; s=x; h=From:List-Unsubscribe:List-Unsubscribe-Post; bh=x; b=x\r\n";
    assert!(refused("strict", &format!("{signed}{whole}"), "shop@unsigned.test").contains("250"));
    assert!(refused("lax", "", "shop@sender.test").contains("250"));
    house.there.wait(3, LIMIT);
    let lax = house.daemon.wait_record("received", LIMIT, |record| record["stream"] == "lax");
    assert_eq!(lax["unsubscribe"], "missing");
    assert!(lax["detail"].as_str().unwrap_or_default().contains("no List-Unsubscribe"), "{lax}");
    let counted = house.daemon.metrics();
    assert_eq!(counted.get("postkeep_messages_without_one_click_total{stream=\"lax\"}"), Some(&1.0), "{counted:?}");
    assert_eq!(house.daemon.events("received").len(), 3);
}

#[test]
fn a_call_for_many_gives_each_recipient_a_link_of_their_own() {
    let Some(house) = house("") else { return };
    let to: Vec<Value> = (0..20)
        .map(|n| json!({"address": format!("p{n}@there.test"), "substitutions": {"n": n.to_string(), "own": if n == 3 { "https://sender.test/u/3" } else { "mailto:x@sender.test" }}}))
        .collect();
    let (status, answer) = house.send(&json!({
        "from": "shop@sender.test", "to": to, "subject": "For {{n}}", "text": "Hi {{n}}", "stream": "news", "list": "weekly.sender.test",
        "headers": {"List-Unsubscribe": "<{{{own}}}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    }));
    assert_eq!(status, 202, "{answer}");
    let mails = house.there.wait(20, LIMIT);
    let mut all: Vec<String> = mails.iter().map(|mail| links(mail)[0].clone()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 20);
    // Whose pair is whole keeps it; the others' mailto stands beside the box's link.
    assert_eq!(links(of(&mails, "p3@there.test")), ["https://sender.test/u/3"]);
    let p7 = links(of(&mails, "p7@there.test"));
    assert_eq!((p7.len(), p7[1].as_str()), (2, "mailto:x@sender.test"));
    assert!(mails.iter().all(|mail| house.is_covered(mail)));
    assert_eq!(house.curl(&p7[0], &["--data", POST]).0, 200);
    assert_eq!(house.daemon.suppressions("p7@there.test"), ["unsubscribe list:weekly.sender.test"]);
    assert!(house.daemon.suppressions("p8@there.test").is_empty());
}
