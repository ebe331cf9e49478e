//! What stands in the way of a message and must not cost it, nor hold up others: names
//! that cannot be looked up, families that do not fit, hosts that are dead or close early.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postkeep_tests::{Act, Daemon, Ground, Names, Settings, Sink, Stage, message};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

struct House {
    daemon: Daemon,
    names: Names,
    ground: Ground,
}

fn open(over: &str) -> House {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    let daemon = Daemon::start(&ground, &Settings::new(&ground).with(over));
    House { daemon, names, ground }
}

impl House {
    fn send(&self, recipient: &str) {
        let content = message::simple("a@sender.test", recipient, "x", "Hi\n");
        self.daemon.submit("a@sender.test", &[recipient], &content);
    }

    #[track_caller]
    fn outcome(&self, event: &str, recipient: &str) -> Value {
        self.daemon.wait_record(event, LIMIT, |record| record["recipient"] == recipient)
    }
}

#[test]
fn a_look_up_that_fails_for_one_kind_of_address_bounces_nothing() {
    // IPv6 is asked for too, and the answer "none" must not hide that IPv4 could not be asked for.
    let house = open("[delivery]\nipv6 = true\n");
    house.names.mx("half.test", 10, "mx.half.test").failure_of_a("mx.half.test");
    // The same without MX: the domain itself is the host.
    house.names.failure_of_a("bare.test");
    house.send("r@half.test");
    house.send("r@bare.test");
    for recipient in ["r@half.test", "r@bare.test"] {
        assert_eq!(house.outcome("deferred", recipient)["stage"], "dns");
    }
    let sink = Sink::at(&house.ground, 101);
    for host in ["mx.half.test", "bare.test"] {
        house.names.forget(host).a(host, house.ground.ip(101));
    }
    sink.wait(2, LIMIT);
    assert!(house.daemon.events("bounced").is_empty());
}

#[test]
fn mail_that_no_address_of_the_source_can_reach_waits_and_holds_up_nobody() {
    let house = open("[delivery]\nipv6 = true\n[backoff]\nunbindable-pause = \"1h\"\n");
    house.names.mx("six.test", 10, "mx.six.test").aaaa("mx.six.test", Ipv6Addr::LOCALHOST);
    house.names.domain("four.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101);
    house.send("r@six.test");
    let deferred = house.outcome("deferred", "r@six.test");
    assert_eq!(deferred["stage"], "bind", "{deferred}");
    assert!(deferred["detail"].as_str().is_some_and(|detail| detail.contains("no IPv6 address")), "{deferred}");
    // The source is as good as before.
    for _ in 0..3 {
        house.send("r@four.test");
    }
    sink.wait(3, LIMIT);
}

#[test]
fn a_slip_in_a_reroute_costs_no_mail() {
    let house = open("");
    house.names.domain("big.test", house.ground.ip(101));
    let sink = Sink::at(&house.ground, 101);
    house.daemon.postkeep(&["queue", "reroute", "--domain", "big.test", "--to", "relya.nowhere.test"]).done();
    house.send("r@big.test");
    let deferred = house.outcome("deferred", "r@big.test");
    assert!(deferred["detail"].as_str().is_some_and(|detail| detail.contains("fixed route")), "{deferred}");
    house.daemon.postkeep(&["queue", "reroute", "--domain", "big.test", "--clear"]).done();
    house.daemon.postkeep(&["queue", "retry", "--domain", "big.test"]).done();
    sink.wait(1, LIMIT);
    assert!(house.daemon.events("bounced").is_empty());
}

#[test]
fn a_dead_first_mx_does_not_hide_the_second_under_a_connection_rate() {
    let house = open("[lane]\nconnection-rate = \"1/1s\"\n");
    house.names.mx("two.test", 10, "dead.two.test").a("dead.two.test", house.ground.ip(101));
    house.names.mx("two.test", 20, "alive.two.test").a("alive.two.test", house.ground.ip(102));
    let alive = Sink::at(&house.ground, 102);
    house.send("r@two.test");
    alive.wait(1, LIMIT);
}

#[test]
fn a_host_that_ends_each_session_after_some_messages_delays_none() {
    let house = open("[lane]\nconnections = 2\n");
    house.names.domain("short.test", house.ground.ip(101));
    let taken: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let sink = Sink::at(&house.ground, 101).with_script(move |moment| {
        let mut taken = taken.lock().expect("the counts");
        let count = taken.entry(moment.connection).or_default();
        match moment.stage {
            Stage::Mail if *count >= 3 && moment.connection % 2 == 0 => Act::close("421 4.7.0 enough for one session"),
            Stage::Mail if *count >= 3 => Act::Drop,
            Stage::Final => {
                *count += 1;
                Act::Accept
            }
            _ => Act::Accept,
        }
    });
    let before = Instant::now();
    for number in 0..40 {
        house.send(&format!("r{number}@short.test"));
    }
    sink.wait(40, LIMIT);
    let took = before.elapsed();
    assert!(house.daemon.events("deferred").is_empty(), "{took:?}: {:?}", house.daemon.events("deferred").first());
}

#[test]
fn a_forgotten_selection_does_not_cost_the_whole_queue() {
    let house = open("");
    for verb in
        [&["queue", "pause"][..], &["queue", "delete"], &["queue", "expire"], &["queue", "reroute", "--to", "x.test"]]
    {
        let said = house.daemon.postkeep(verb);
        assert_eq!(said.status, 2, "{verb:?}: {said:?}");
    }
    house.daemon.postkeep(&["queue", "pause", "--all"]).done();
    house.daemon.postkeep(&["queue", "resume"]).done();
}
