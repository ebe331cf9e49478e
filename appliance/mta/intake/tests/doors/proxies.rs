use crate::common::*;

fn behind(network: &str) -> postkeep_configuration::Configuration {
    let mut configuration = plain();
    configuration.listener[0].proxy_protocol_from = vec![network.parse().unwrap()];
    configuration.network[0].addresses = vec!["192.0.2.0/24".parse().unwrap()];
    configuration
}

/// A header for a client at `192.0.2.last`, with an extension of three octets.
fn header(last: u8) -> Vec<u8> {
    let mut octets = postkeep_smtp::proxy::SIGNATURE.to_vec();
    octets.extend_from_slice(&[0x21, 0x11, 0, 16, 192, 0, 2, last, 127, 0, 0, 1, 0x30, 0x39, 0, 25, 4, 0, 1, 0]);
    octets
}

#[tokio::test]
async fn the_client_behind_a_listed_proxy_is_the_one_that_counts() {
    let (doors, gatekeeper) = open(&behind("127.0.0.0/8"));
    let mut client = Client::connect_silently(doors.addresses()[0]).await;
    client.send(&[header(7), b"EHLO client.example\r\n".to_vec()].concat()).await;
    assert!(client.reply().await.starts_with("220 "));
    assert!(client.reply().await.starts_with("250-"));
    assert_eq!(codes(&client.message(MESSAGE).await), "250 2.0.0");
    let submission = gatekeeper.submissions.lock().pop().unwrap();
    assert_eq!(submission.peer, "192.0.2.7:12345".parse().unwrap());
    assert!(submission.prefix.starts_with(b"Received: from client.example ([192.0.2.7])"));
}

#[tokio::test]
async fn others_at_a_proxy_door_and_proxies_without_a_header_are_refused() {
    let (doors, gatekeeper) = open(&behind("198.51.100.0/24"));
    let mut client = Client::connect_silently(doors.addresses()[0]).await;
    assert_eq!(client.next_codes(2).await, ["554 5.7.1", ""]);
    let (doors, _) = open(&behind("127.0.0.0/8"));
    let mut client = Client::connect_silently(doors.addresses()[0]).await;
    client.send(b"EHLO client.example\r\n").await;
    assert_eq!(client.next_codes(2).await, ["554 5.7.1", ""]);
    assert_eq!(gatekeeper.refusals.lock()[0].0, "connect");
}

#[tokio::test]
async fn a_proxy_header_at_another_door_is_no_command() {
    let (doors, _) = open(&plain());
    let mut client = Client::connect(doors.addresses()[0]).await;
    client.send(&[header(7), b"\r\n".to_vec()].concat()).await;
    assert_eq!(client.next_codes(1).await, ["500 5.5.2"]);
}
