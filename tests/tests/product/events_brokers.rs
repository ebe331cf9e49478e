//! Records for others, by brokers: RabbitMQ and nats-server as Debian ships them, with consumers in
//! Python; for Kafka, of which Debian has no broker, librdkafka's own mock cluster, which speaks the real
//! protocol, with kcat as the consumer. RabbitMQ and nats-server are down at first, while mail goes on.

use std::process::Command;
use std::time::Duration;

use postkeep_tests::brokers::{Broker, Consumer, python};
use postkeep_tests::tools::{self, needs};
use postkeep_tests::wait_until;
use rdkafka::mocking::MockCluster;
use serde_json::Value;

use crate::events::{first_ids, house, ids, send};

const LIMIT: Duration = Duration::from_secs(60);

fn bodies(lines: &[Value]) -> Vec<Value> {
    lines.iter().filter(|line| line.is_object()).map(|line| line["body"].clone()).collect()
}

#[test]
fn rabbitmq_gets_every_event_though_it_is_down_at_times_and_the_daemon_is_killed() {
    let Some(python) = needs(python()) else { return };
    let mut house = house(|ground| {
        format!(
            "[[amqp]]\nname = \"rabbit\"\nurl = \"amqp://guest@{}/%2f\"\nexchange = \"mail\"\nrouting-key = \"mail.{{event}}.{{domain}}\"\nevents = [\"*\"]\n",
            ground.at(201, 21672)
        )
    });
    let address = house.ground.at(201, 21672);
    // Nobody is there yet: mail goes on, events wait.
    send(&house.daemon, (0..20).map(|n| format!("r{n}@there.test")));
    wait_until("the mail to be delivered", LIMIT, || house.daemon.events("delivered").len() == 20);
    let Some(broker) = needs(Broker::rabbitmq(&house.ground, address)) else { return };
    let consumer = |house: &crate::events::House| {
        let script = tools::file("receivers/rabbitmq_consumer.py");
        let place = [address.ip().to_string(), address.port().to_string()];
        let consumer = Consumer::start(Command::new(&python).arg(script).args(place).args(["mail", "mail.#"]));
        wait_until("the consumer", LIMIT, || !consumer.lines().is_empty());
        let _ = house;
        consumer
    };
    let first = consumer(&house);
    let all = || ids(&house.daemon, &["received", "delivered", "bounced", "deferred"]);
    wait_until("what waited to arrive", LIMIT, || first_ids(&bodies(&first.lines())).len() >= all().len());
    let line = first.lines().into_iter().find(|line| line["type"] == "delivered").expect("a delivery");
    assert_eq!(line["key"], "mail.delivered.there_test");
    assert_eq!((&line["mode"], &line["id"]), (&2.into(), &line["body"]["id"]));
    // The broker goes and comes back, and so does the daemon.
    drop(broker);
    send(&house.daemon, (0..20).map(|n| format!("s{n}@there.test")));
    house.daemon.kill();
    // From here on by TLS.
    let roots = house.ground.path("roots.pem");
    std::fs::write(&roots, house.ground.authority().pem()).expect("write the roots");
    let text = std::fs::read_to_string(house.daemon.configuration()).expect("the configuration");
    let plain = format!("amqp://guest@{address}/%2f\"");
    assert!(text.contains(&plain), "{text}");
    let protected =
        format!("amqps://guest@{}:{}/%2f\"\nextra-roots = \"{}\"", address.ip(), address.port() + 3, roots.display());
    house.daemon.write_text(&text.replace(&plain, &protected));
    house.daemon.run();
    let mut seen = bodies(&first.lines());
    drop(first);
    let Some(_broker) = needs(Broker::rabbitmq(&house.ground, address)) else { return };
    let second = consumer(&house);
    send(&house.daemon, (0..5).map(|n| format!("nobody{n}@there.test")));
    let done = || house.daemon.postkeep(&["queue", "show", "--json"]).done().json()["total"] == 0;
    wait_until("the queue to be empty", LIMIT, done);
    let all = || ids(&house.daemon, &["received", "delivered", "bounced", "deferred"]);
    wait_until("everything to arrive", LIMIT, || {
        let both = [seen.clone(), bodies(&second.lines())].concat();
        first_ids(&both).len() >= all().len()
    });
    seen.extend(bodies(&second.lines()));
    assert_eq!(first_ids(&seen), all(), "all of them, in order");
}

#[test]
fn nats_gets_every_event_once_though_it_is_down_at_first_and_the_daemon_is_killed() {
    let Some(python) = needs(python()) else { return };
    let mut house =
        house(|ground| format!("[[nats]]\nname = \"boxes\"\nservers = [\"nats://{}\"]\n", ground.at(202, 21422)));
    let address = house.ground.at(202, 21422);
    send(&house.daemon, (0..20).map(|n| format!("r{n}@there.test")));
    wait_until("the mail to be delivered", LIMIT, || house.daemon.events("delivered").len() == 20);
    let Some(_broker) = needs(Broker::nats(&house.ground, address)) else { return };
    let script = tools::file("receivers/nats_consumer.py");
    let consumer =
        Consumer::start(Command::new(&python).arg(script).arg(format!("nats://{address}")).arg("postkeep.>"));
    for round in 0..3 {
        send(&house.daemon, (0..30).map(|n| format!("s{round}-{n}@there.test")));
        house.daemon.kill();
        house.daemon.run();
    }
    send(&house.daemon, (0..5).map(|n| format!("nobody{n}@there.test")));
    let done = || house.daemon.postkeep(&["queue", "show", "--json"]).done().json()["total"] == 0;
    wait_until("the queue to be empty", LIMIT, done);
    let all = || ids(&house.daemon, &["delivered", "bounced"]);
    wait_until("everything to arrive", LIMIT, || bodies(&consumer.lines()).len() >= all().len());
    let lines = consumer.lines();
    let told: Vec<String> = bodies(&lines).iter().map(|body| body["id"].as_str().expect("an id").to_owned()).collect();
    // Each once: the stream leaves out what it has, by Nats-Msg-Id.
    assert_eq!(told, all());
    let line = lines.iter().find(|line| line["body"]["event"] == "bounced").expect("a bounce");
    assert_eq!((&line["subject"], &line["id"]), (&"postkeep.bounced".into(), &line["body"]["id"]));
}

#[test]
fn nats_is_spoken_to_by_tls_and_with_a_password() {
    let Some(python) = needs(python()) else { return };
    let house = house(|ground| {
        std::fs::write(ground.path("nats-password"), "correct horse\n").expect("write the password");
        std::fs::write(ground.path("roots.pem"), ground.authority().pem()).expect("write the roots");
        format!(
            "[[nats]]\nname = \"boxes\"\nservers = [\"tls://{}\"]\nuser = \"box\"\npassword = \"{folder}/nats-password\"\n\
             extra-roots = \"{folder}/roots.pem\"\n",
            ground.at(203, 21423),
            folder = ground.folder().display()
        )
    });
    let address = house.ground.at(203, 21423);
    let Some(_broker) = needs(Broker::nats_with_tls(&house.ground, address, "box", "correct horse")) else { return };
    let mut command = Command::new(&python);
    command.arg(tools::file("receivers/nats_consumer.py")).args([&format!("tls://{address}"), "postkeep.>"]);
    command.arg(house.ground.path("roots.pem")).args(["box", "correct horse"]);
    let consumer = Consumer::start(&mut command);
    wait_until("the consumer", LIMIT, || !consumer.lines().is_empty());
    send(&house.daemon, (0..5).map(|n| format!("r{n}@there.test")));
    wait_until("everything to arrive", LIMIT, || bodies(&consumer.lines()).len() == 5);
    assert_eq!(first_ids(&bodies(&consumer.lines())), ids(&house.daemon, &["delivered"]));
}

#[test]
fn kafka_gets_every_event_with_its_key_though_the_daemon_is_killed() {
    let Some(kcat) = needs(tools::find("kcat")) else { return };
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mail", 1, 1).expect("a topic");
    let brokers = cluster.bootstrap_servers();
    let servers = brokers.split(',').map(|broker| format!("\"{broker}\"")).collect::<Vec<_>>().join(", ");
    let mut house = house(|_| {
        format!("[[kafka]]\nname = \"warehouse\"\nbrokers = [{servers}]\ntopic = \"mail\"\nkey = \"domain\"\n")
    });
    for round in 0..3 {
        send(&house.daemon, (0..30).map(|n| format!("{}{round}-{n}@there.test", if n == 0 { "nobody" } else { "r" })));
        house.daemon.kill();
        house.daemon.run();
    }
    let done = || house.daemon.postkeep(&["queue", "show", "--json"]).done().json()["total"] == 0;
    wait_until("the queue to be empty", LIMIT, done);
    let mut command = Command::new(kcat);
    command.args(["-C", "-q", "-u", "-b", &brokers, "-t", "mail", "-o", "beginning"]);
    let consumer = Consumer::start(command.args(["-f", "{\"key\":\"%k\",\"body\":%s}\\n"]));
    let all = || ids(&house.daemon, &["delivered", "bounced"]);
    wait_until("everything to arrive", LIMIT, || first_ids(&bodies(&consumer.lines())).len() >= all().len());
    assert_eq!(first_ids(&bodies(&consumer.lines())), all(), "all of them, in order");
    let keys = consumer.lines().iter().filter(|line| line["key"] == "there.test").count();
    // A killed daemon may lose records that it was about to write.
    assert!(keys >= 60, "{keys} under the domain's key");
}
