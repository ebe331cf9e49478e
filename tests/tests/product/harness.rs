//! The harness against itself and against software nobody here wrote, so that
//! a failure elsewhere points at the daemon.

use std::process::Command;
use std::time::Duration;

use postkeep_tests::daemon::run;
use postkeep_tests::ground::MAIL_PORT;
use postkeep_tests::receivers::{Aiosmtpd, OpenSmtpd, SmtpSink};
use postkeep_tests::tools::{self, needs};
use postkeep_tests::{Act, Client, Ground, Names, Sink, Stage, message, wait_until};

const MESSAGE: &[u8] = b"From: a@example.test\r\nSubject: one\r\n\r\n.dot\r\n..two\r\n\xe9\r\n";

#[test]
fn each_receiver_keeps_the_bytes_that_our_client_sends() {
    let ground = Ground::claim();
    let sink = Sink::at(&ground, 100);
    let mut addresses = vec![sink.address()];
    let Some(smtp_sink) = needs(SmtpSink::start(&ground, ground.at(101, MAIL_PORT))) else { return };
    let Some(aiosmtpd) = needs(Aiosmtpd::start(&ground, ground.at(102, MAIL_PORT))) else { return };
    let Some(opensmtpd) = needs(OpenSmtpd::start(&ground, ground.at(103, MAIL_PORT))) else { return };
    addresses.extend([101, 102, 103].map(|n| ground.at(n, MAIL_PORT)));
    for address in addresses {
        let mut client = Client::connect(address).unwrap();
        client.ehlo().unwrap();
        let reply = client.submit("a@example.test", &["b@there.test"], MESSAGE).unwrap();
        assert_eq!(reply.code, 250, "{address}: {reply}");
        client.quit();
    }
    wait_until("all four to keep it", Duration::from_secs(10), || {
        sink.count() == 1 && smtp_sink.kept().len() == 1 && aiosmtpd.kept().len() == 1 && opensmtpd.kept().len() == 1
    });
    assert_eq!(sink.messages()[0].content, MESSAGE);
    assert_eq!(sink.messages()[0].addresses(), ["b@there.test"]);
    for kept in [&smtp_sink.kept()[0], &aiosmtpd.kept()[0], &opensmtpd.kept()[0]] {
        assert!(message::ends_with(&kept.content, MESSAGE), "{:?}", String::from_utf8_lossy(&kept.content));
        assert_eq!(
            (kept.sender.as_str(), kept.recipients.as_slice()),
            ("a@example.test", ["b@there.test".to_owned()].as_slice())
        );
    }
}

#[test]
fn swaks_reaches_the_sink_and_the_script_answers() {
    let ground = Ground::claim();
    let sink = Sink::at(&ground, 100).with_script(|moment| match moment.stage {
        Stage::Rcpt if moment.recipient.starts_with("no") => Act::reply("550 5.1.1 No such user"),
        Stage::Final if moment.content.windows(5).any(|window| window == b"later") => Act::reply("451 4.7.1 Later"),
        _ => Act::Accept,
    });
    let Some(swaks) = needs(tools::find("swaks")) else { return };
    let server = sink.address().to_string();
    let mut command = Command::new(swaks);
    command.args([
        "--server",
        &server,
        "--from",
        "a@example.test",
        "--to",
        "yes@there.test,no@there.test",
        "--body",
        "x",
    ]);
    let said = run(&mut command);
    assert!(said.out.contains("550 5.1.1"), "{said:?}");
    assert_eq!(sink.count(), 1);
    let said = run(command.args(["--to", "yes@there.test", "--body", "later"]));
    assert!(said.out.contains("451 4.7.1"), "{said:?}");
    assert_eq!(sink.count(), 1);
}

#[test]
fn names_are_answered_as_python_reads_them() {
    let ground = Ground::claim();
    let names = Names::new(&ground);
    names.domain("there.test", ground.ip(100)).null_mx("never.test");
    let Some(python) = needs(tools::python()) else { return };
    let script = format!(
        r#"
import socket, struct
def ask(name, kind):
    q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">HH", kind, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.sendto(q, ("{}", {}))
    a = s.recv(4096)
    return a[3] & 15, struct.unpack(">H", a[6:8])[0], a[len(q):]
print(ask("there.test", 15)[:2], ask("mx.there.test", 1)[2][-4:].hex(), ask("never.test", 15)[2][-3:].hex(), ask("none.test", 15)[:2])
"#,
        names.address().ip(),
        names.address().port()
    );
    let said = run(Command::new(python).args(["-c", &script])).done();
    let octets = ground.ip(100).octets().map(|octet| format!("{octet:02x}")).join("");
    assert_eq!(said.out.trim(), format!("(0, 1) {octets} 000000 (3, 0)"));
}
