//! How fast one connection is. Ignored in ordinary runs:
//! `cargo test --release -p postkeep-delivery --test delivery -- --ignored --nocapture throughput`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use crate::peer::{Message, ehlo, open, words};

/// A host on a thread of its own that takes everything and looks at nothing.
fn sink(keywords: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let mut out = stream.try_clone().expect("a socket");
        let mut input = BufReader::with_capacity(65536, stream);
        let (mut line, mut replies, mut content) = (Vec::new(), String::new(), Vec::new());
        out.write_all(b"220 sink\r\n").expect("the client is there");
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line).expect("a line") == 0 {
                return;
            }
            match &line[..4] {
                b"EHLO" => replies.push_str(&ehlo(keywords)),
                b"BDAT" => {
                    let size: usize = String::from_utf8_lossy(&line[5..])
                        .split(' ')
                        .next()
                        .and_then(|size| size.parse().ok())
                        .expect("a size");
                    content.resize(size, 0);
                    input.read_exact(&mut content).expect("the content");
                    replies.push_str("250 2.0.0 Ok: queued as 4F1A2B3C4D\r\n");
                }
                b"DATA" => {
                    replies.push_str("354 End data with <CR><LF>.<CR><LF>\r\n");
                    out.write_all(replies.as_bytes()).expect("the client is there");
                    replies.clear();
                    loop {
                        line.clear();
                        input.read_until(b'\n', &mut line).expect("a line");
                        if line == b".\r\n" {
                            break;
                        }
                    }
                    replies.push_str("250 2.0.0 Ok: queued as 4F1A2B3C4D\r\n");
                }
                _ => replies.push_str("250 2.1.0 Ok\r\n"),
            }
            if input.buffer().is_empty() {
                out.write_all(replies.as_bytes()).expect("the client is there");
                replies.clear();
            }
        }
    });
    address
}

#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn throughput_of_one_connection_with_ten_kilobytes() {
    let count = 20_000;
    for keywords in ["PIPELINING CHUNKING", "PIPELINING", ""] {
        let mut connection = open(sink(keywords)).await;
        let content = b"From: a@example.com\r\n\r\n"
            .iter()
            .copied()
            .chain(b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab\r\n".repeat(165))
            .collect::<Vec<u8>>();
        let message = Message::new(content, &["b@example.net"]);
        let before = Instant::now();
        for _ in 0..count {
            let result = connection.transact(&message.transaction()).await;
            assert_eq!(words(&result.recipients), ["delivered 250"]);
        }
        let elapsed = before.elapsed();
        let each = elapsed.as_secs_f64() / f64::from(count);
        println!("{keywords:20} {:.0} messages/s, {:.1} µs each", 1.0 / each, each * 1e6);
    }
}
