//! The state as a whole, without sockets: mail goes in, work comes out, time is a number.

use std::time::{Duration, Instant};

use postkeep_configuration::{Configuration, Options};
use postkeep_deliverability::provider::ProviderTable;

use super::*;
use crate::queue::Entry;
use crate::routing::Host;

const SECOND: Micros = 1_000_000;

struct House {
    state: State,
    now: Micros,
    next: u64,
    /// Open connections with what they carry.
    open: Vec<(governor::ConnectionPermit, Option<Batch>)>,
}

impl House {
    fn new(more: &str) -> Self {
        let text = format!(
            "hostname = \"mail.example\"\n[[listener]]\naddress = \"127.0.0.1:2525\"\ntls = \"none\"\n\
             [source.a]\nipv4 = \"192.0.2.1\"\n[source.b]\nipv4 = \"192.0.2.2\"\n{more}"
        );
        let configuration: Configuration = postkeep_configuration::parse("test", &text, &Options::without_files())
            .unwrap_or_else(|errors| panic!("{errors}"))
            .configuration;
        let configuration = Arc::new(configuration);
        let providers = Arc::new(ProviderTable::new(&configuration).unwrap());
        let governor = Governor::new(configuration.delivery.connections, (&configuration.backoff).into());
        let rules = Rules { configuration: Arc::clone(&configuration), providers: Arc::clone(&providers) };
        let mut state = State::new(governor, rules);
        state.configure(&configuration, providers, SECOND);
        Self { state, now: SECOND, next: 1, open: Vec::new() }
    }

    /// One message for a domain whose MX are those of `site`.
    fn mail(&mut self, stream: &str, domain: &str, site: &str) -> QueueId {
        let stream = self.state.stream_or_default(stream);
        let queue = self.state.queue(stream, domain);
        let entry = Entry { message: self.next, due: 0, received: 1, recipient: 0, attempts: 0 };
        self.next += 1;
        self.state.queues.push_ready(queue, entry, None);
        let mut work = Work::default();
        self.state.gained(vec![queue], self.now, &mut work);
        for domain in std::mem::take(&mut work.domains) {
            let route = Route {
                hosts: vec![Host { name: format!("mx.{site}").into(), preference: 0, port: None }],
                fixed: false,
                secure: false,
                valid_until: Instant::now() + Duration::from_secs(3600),
            };
            self.state.bind(domain, &site.into(), None, Arc::new(route), self.now, &mut work);
        }
        self.take_over(work);
        queue
    }

    fn take_over(&mut self, work: Work) {
        self.open.extend(work.connections.into_iter().map(|(permit, batch)| (permit, Some(batch))));
    }

    /// Every open connection delivers what it has and up to `most` messages; then it closes. Goes on
    /// until nothing is open. The number of messages.
    fn run(&mut self, most: usize) -> usize {
        let mut delivered = 0;
        let mut rounds = 0;
        while let Some((permit, batch)) = self.open.pop() {
            rounds += 1;
            assert!(rounds < 100_000, "it does not end");
            let mut next = batch;
            let mut lane = None;
            for carried in 1..=most {
                let Some(batch) = next.take() else { break };
                lane = Some(batch.lane);
                self.state.message_done(batch.lane, batch.stream);
                for _ in &batch.entries {
                    self.state.queues.finish(batch.queue);
                    delivered += 1;
                }
                if carried < most {
                    let mut work = Work::default();
                    if let Next::Send(batch) = self.state.next(lane.unwrap(), self.now, &mut work) {
                        next = Some(batch);
                    }
                    self.take_over(work);
                }
            }
            let mut work = Work::default();
            if let Some(lane) = lane {
                // Nobody waits on this connection any more.
                self.state.lanes[lane.0 as usize].idle.clear();
                self.state.closed(lane, Some(permit), false, self.now, &mut work);
            }
            self.take_over(work);
        }
        delivered
    }

    fn pause(&mut self, stream: &str) {
        self.state.paused.push(Selector { stream: Some(stream.into()), ..Selector::default() });
    }
}

const ONE_POOL: &str = "[pool.default]\nsources = { a = 1 }\n[stream.news]\n[stream.receipts]\n";

#[test]
fn a_site_serves_new_mail_however_many_domains_it_served_before() {
    for (domains, most) in [(100, 1), (400, 50), (1000, 50), (5000, 50)] {
        let mut house = House::new(ONE_POOL);
        let mut delivered = 0;
        for number in 0..domains {
            house.mail("news", &format!("d{number}.example"), "google");
        }
        delivered += house.run(most);
        assert_eq!(delivered, domains, "{domains} domains, {most} messages a connection");
        for number in 0..20 {
            house.mail("news", &format!("later{number}.example"), "google");
            assert_eq!(house.run(most), 1, "{domains} domains before, later domain {number}");
        }
    }
}

#[test]
fn a_paused_stream_does_not_stand_in_the_way_of_others_and_comes_back_when_it_is_resumed() {
    let mut house = House::new(ONE_POOL);
    house.pause("news");
    for number in 0..500 {
        house.mail("news", &format!("d{number}.example"), "google");
    }
    assert!(house.open.is_empty(), "nothing of a paused stream is attempted");
    house.mail("receipts", "last.example", "google");
    assert_eq!(house.run(10), 1);
    house.state.paused.clear();
    let mut work = Work::default();
    let ready = house.state.queues.with_ready();
    house.state.gained(ready, house.now, &mut work);
    for domain in std::mem::take(&mut work.domains) {
        let name = house.state.domain_name(domain);
        let route = Route {
            hosts: Vec::new(),
            fixed: false,
            secure: false,
            valid_until: Instant::now() + Duration::from_secs(9),
        };
        house.state.bind(domain, &"google".into(), None, Arc::new(route), house.now, &mut work);
        assert!(name.ends_with(".example"));
    }
    house.take_over(work);
    assert_eq!(house.run(10), 500);
}

#[test]
fn mail_that_is_put_back_is_served_although_its_queue_had_left_the_line() {
    let mut house = House::new(ONE_POOL);
    house.mail("news", "one.example", "site");
    let (permit, batch) = house.open.pop().unwrap();
    let (lane, batch) = (batch.as_ref().unwrap().lane, batch.unwrap());
    // Somebody else looks meanwhile and finds the queue empty.
    assert!(matches!(house.state.next(lane, house.now, &mut Work::default()), Next::Idle(..)));
    let mut work = Work::default();
    house.state.put_back(batch, house.now, &mut work);
    house.take_over(work);
    let mut work = Work::default();
    house.state.lanes[lane.0 as usize].idle.clear();
    house.state.closed(lane, Some(permit), false, house.now, &mut work);
    house.take_over(work);
    assert_eq!(house.run(1), 1);
}

#[test]
fn mail_that_is_put_back_after_its_route_was_forgotten_asks_for_it_again() {
    let mut house = House::new(ONE_POOL);
    house.mail("news", "one.example", "old");
    let (permit, batch) = house.open.pop().unwrap();
    let batch = batch.unwrap();
    let lane = batch.lane;
    // The configuration is read again while the message is under way, and the host hangs up.
    house.state.forget_all_routes();
    let mut work = Work::default();
    house.state.put_back(batch, house.now, &mut work);
    let domains = std::mem::take(&mut work.domains);
    assert_eq!(domains.len(), 1, "the domain is asked for");
    house.state.closed(lane, Some(permit), false, house.now, &mut work);
    let route = Route {
        hosts: vec![Host { name: "mx.new".into(), preference: 0, port: None }],
        fixed: false,
        secure: false,
        valid_until: Instant::now() + Duration::from_secs(60),
    };
    house.state.bind(domains[0], &"new".into(), None, Arc::new(route), house.now, &mut work);
    house.take_over(work);
    assert_eq!(house.run(1), 1);
}

#[test]
fn a_site_that_waits_for_a_place_in_the_box_gets_the_next_one() {
    let mut house = House::new(&format!("{ONE_POOL}[delivery]\nconnections = 1\n"));
    for number in 0..3 {
        house.mail("news", &format!("a{number}.example"), "a");
    }
    assert_eq!(house.open.len(), 1);
    house.mail("news", "b.example", "b");
    assert_eq!(house.open.len(), 1, "the box is full");
    assert_eq!(house.run(50), 4);
}

#[test]
fn a_look_that_finds_nothing_to_send_costs_no_rate() {
    let mut house =
        House::new(&format!("{ONE_POOL}[lane]\nconnection-rate = \"1/1m\"\n[stream.news.total]\nconnections = 1\n"));
    // Rates count from a durable horizon on.
    let settle = |house: &mut House| {
        let mut due = Vec::new();
        house.state.governor.horizons_due(house.now, &mut due);
        for (key, value) in due {
            house.state.governor.horizon_durable(&key, &value);
        }
    };
    settle(&mut house);
    house.mail("news", "one.example", "first");
    settle(&mut house);
    house.now += 61 * SECOND;
    for _ in 0..2 {
        let mut work = Work::default();
        house.state.pump_all(house.now, &mut work);
        house.take_over(work);
        settle(&mut house);
    }
    assert_eq!(house.open.len(), 1, "the stream's one place is taken");
    house.mail("news", "two.example", "second");
    for _ in 0..150 {
        house.now += SECOND;
        let mut work = Work::default();
        house.state.pump_all(house.now, &mut work);
        settle(&mut house);
        assert!(work.connections.is_empty(), "the stream may carry one message at a time");
    }
    // The one that was under way ends; the other site's first connection is still to be had, at once.
    let (_, batch) = house.open.pop().unwrap();
    let batch = batch.unwrap();
    house.state.message_done(batch.lane, batch.stream);
    house.state.queues.finish(batch.queue);
    for _ in 0..2 {
        let mut work = Work::default();
        house.state.pump_all(house.now, &mut work);
        house.take_over(work);
        settle(&mut house);
    }
    assert_eq!(house.open.len(), 1);
}

#[test]
fn nobody_waits_for_a_source_of_the_pool_whose_connections_hang() {
    let mut house = House::new("[pool.default]\nsources = { a = 1, b = 1 }\n[stream.news]\n[lane]\nconnections = 1\n");
    for _ in 0..100 {
        house.mail("news", "one.example", "site");
    }
    assert_eq!(house.open.len(), 2);
    // One connection hangs at the final dot; the other goes on.
    let (_hung, working) = (house.open.pop().unwrap(), house.open.pop().unwrap());
    let lane = working.1.as_ref().unwrap().lane;
    let mut sent = 1;
    let mut waits = 0;
    while sent < 99 {
        match house.state.next(lane, house.now, &mut Work::default()) {
            Next::Send(_) => sent += 1,
            Next::Wait(until) => {
                waits += 1;
                assert!(waits < 1000, "stuck after {sent}");
                house.now = until.max(house.now + 1);
            }
            other => panic!("{other:?} after {sent}"),
        }
    }
    assert!(house.now < 10 * SECOND);
}
