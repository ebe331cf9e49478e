//! PowerMTA's header fields: where mail leaves from, which job it belongs to, its envelope id.

use std::time::Duration;

use postkeep_tests::{Daemon, Ground, Names, Settings, Sink, message};

const LIMIT: Duration = Duration::from_secs(30);

fn settings(ground: &Ground, honoured: bool, pools: &str) -> Settings {
    Settings::new(ground)
        .replacing(
            "network",
            &format!(
                "[[network]]\nname = \"loopback\"\naddresses = [\"127.0.0.0/8\"]\nsender-domains = [\"*\"]\nmay-choose-streams = [\"*\"]\npowermta-headers = {honoured}\n"
            ),
        )
        .with(&format!("[source.two]\nipv4 = \"{}\"\n[source.three]\nipv4 = \"{}\"\n[stream.news]\npool = \"default\"\n{pools}", ground.ip(12), ground.ip(13)))
}

fn letter(fields: &str) -> Vec<u8> {
    let simple = message::simple("shop@sender.test", "ann@there.test", "x", "Hi\n");
    [fields.as_bytes(), &simple].concat()
}

#[test]
fn a_message_chooses_its_pool_and_names_its_job_where_its_sender_may() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101).with_capabilities(&["DSN", "8BITMIME"]);
    let fast = "[pool.fast]\nsources = { two = 1 }\n";
    let mut daemon = Daemon::start(&ground, &settings(&ground, true, fast));
    let asked = "X-Virtual-MTA: fast\r\nX-Job: week 7\r\nX-Postkeep-Stream: news\r\nx-envid: id=1\r\n";
    // Over a crash, too.
    daemon.postkeep(&["queue", "pause", "--all"]).done();
    let chosen = daemon.submit("shop@sender.test", &["ann@there.test"], &letter(asked));
    let received = daemon.wait_record("received", LIMIT, |record| record["message"] == chosen.as_str());
    assert_eq!((&received["job"], &received["pool"]), (&"week 7".into(), &"fast".into()));
    daemon.kill();
    daemon.run();
    daemon.postkeep(&["queue", "resume"]).done();
    let delivered = daemon.wait_record("delivered", LIMIT, |record| record["message"] == chosen.as_str());
    assert_eq!((&delivered["source"], &delivered["pool"]), (&"two".into(), &"fast".into()), "{delivered}");
    assert_eq!((&delivered["job"], &delivered["stream"]), (&"week 7".into(), &"news".into()), "{delivered}");
    let mail = there.wait(1, LIMIT).remove(0);
    assert!(mail.parameters.contains("ENVID=id+3D1"), "{}", mail.parameters);
    let text = String::from_utf8_lossy(&mail.content).to_ascii_lowercase();
    assert!(!text.contains("x-virtual-mta") && !text.contains("x-job") && !text.contains("x-envid"), "{text}");

    // A source is a pool of one; mail that asks for nothing leaves from the pool of its stream.
    let single = daemon.submit("shop@sender.test", &["ann@there.test"], &letter("X-Virtual-MTA: three\r\n"));
    let usual = daemon.submit("shop@sender.test", &["ann@there.test"], &letter(""));
    let source = |id: &str| daemon.wait_record("delivered", LIMIT, |record| record["message"] == id)["source"].clone();
    assert_eq!((source(&single), source(&usual)), ("three".into(), "one".into()));
    let mut client = daemon.client();
    let refused = client.submit("shop@sender.test", &["ann@there.test"], &letter("X-Virtual-MTA: slow\r\n")).unwrap();
    assert!(refused.to_string().contains("550 5.7.1") && refused.to_string().contains("[pool.NAME]"), "{refused}");

    // A pool that goes while its mail waits: the mail leaves from its stream's pool.
    daemon.postkeep(&["queue", "pause", "--all"]).done();
    let waiting = daemon.submit("shop@sender.test", &["ann@there.test"], &letter("X-Virtual-MTA: fast\r\n"));
    daemon.write(&settings(&ground, true, ""));
    daemon.postkeep(&["reload"]).done();
    daemon.postkeep(&["queue", "resume"]).done();
    let delivered = daemon.wait_record("delivered", LIMIT, |record| record["message"] == waiting.as_str());
    assert_eq!(delivered["source"], "one", "{delivered}");
}

#[test]
fn the_fields_are_left_alone_where_they_do_not_count() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(101));
    let there = Sink::at(&ground, 101);
    let daemon = Daemon::start(&ground, &settings(&ground, false, ""));
    let fields = "X-Virtual-MTA: anything\r\nX-Job: week 7\r\n";
    let id = daemon.submit("shop@sender.test", &["ann@there.test"], &letter(fields));
    let mail = there.wait(1, LIMIT).remove(0);
    assert!(message::ends_with(&mail.content, &letter(fields)), "{}", String::from_utf8_lossy(&mail.content));
    let delivered = daemon.wait_record("delivered", LIMIT, |record| record["message"] == id.as_str());
    assert!(delivered.get("job").is_none() && delivered["source"] == "one", "{delivered}");
}
