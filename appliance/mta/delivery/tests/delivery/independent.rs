//! Against a server that nobody here wrote: aiosmtpd. Ignored unless it is installed for
//! the `python3` in the path (or the one that `PYTHON` names).

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::peer::{Message, open, words};

/// Prints its port, takes two messages, prints each as one line of Python.
const SERVER: &str = r#"
import asyncio, socket
from aiosmtpd.smtp import SMTP
class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("no"):
            return "550 5.1.1 unknown"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"
    async def handle_DATA(self, server, session, envelope):
        print(envelope.mail_from, ",".join(envelope.rcpt_tos), envelope.original_content.hex(), flush=True)
        return "250 2.0.0 taken"
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), enable_SMTPUTF8=True), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(30)
asyncio.run(main())
"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "needs aiosmtpd"]
async fn aiosmtpd_receives_what_was_sent() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut server = Server(
        Command::new(python).args(["-c", SERVER]).stdout(Stdio::piped()).spawn().expect("python3 with aiosmtpd"),
    );
    let mut output = BufReader::new(server.0.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("its port");
    let port: u16 = line.trim().parse().expect("a port");
    let mut connection = open(([127, 0, 0, 1], port).into()).await;
    assert!(connection.capabilities().smtputf8 && connection.capabilities().eight_bit_mime);

    let content = "Subject: é\r\n\r\n.\r\n..two\r\ncafé\r\n";
    let message = Message::new(content, &["yes@example.net", "no@example.net", "josé@example.net"]);
    let mut transaction = message.transaction();
    (transaction.smtputf8, transaction.eight_bit) = (true, true);
    let mut expected = String::new();
    for _ in 0..2 {
        let result = connection.transact(&transaction).await;
        assert_eq!(words(&result.recipients), ["delivered 250", "refused rcpt 550", "delivered 250"]);
        let octets: String = content.bytes().map(|octet| format!("{octet:02x}")).collect();
        expected.push_str(&format!("a@example.com yes@example.net,josé@example.net {octets}\n"));
    }
    connection.quit().await;
    let _ = server.0.kill();
    let mut received = String::new();
    output.read_to_string(&mut received).expect("its output");
    assert_eq!(received, expected);
}
