//! What fuzzing throws bytes at: one function for each parser that outside bytes
//! reach. Each holds the parser to its promises, not only to surviving.
//!
//! The fuzzer calls them by `fuzz_targets/`; the ordinary tests call them with the
//! seeds in `corpus/` (`tests/tests/fuzz_seeds.rs`). A broken promise is a panic.

#[path = "targets/keys.rs"]
pub(crate) mod keys;

use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use postkeep_configuration::types::{DkimAlgorithm, DkimKey};
use postkeep_deliverability::dkim;
use postkeep_deliverability::reply::RuleBook;
use postkeep_feedback::Kind;
use postkeep_intake::admission::one_click;
use postkeep_smtp::capabilities::Capabilities;
use postkeep_smtp::client::{Content as Writing, Dialogue, Request, Step};
use postkeep_smtp::command::{Line, LineReader};
use postkeep_smtp::data::{
    BareLineEnds, ChunkReader, ChunkStep, Content, ContentError, DataLimits, DataReader, DataStep,
};
use postkeep_smtp::reply::ReplyReader;
use postkeep_smtp::server::{Action, AuthResult, Judge, Refusal, Rules, Session, Stage};
use postkeep_smtp::{Address, Envelope, Recipient, Reply, downgrade, header, mailbox, proxy};
use postkeep_spool::{Finding, Sums, scan_segment};
use postkeep_suppression::{ImportEvent, ImportOptions, Scope, try_out};

/// Longer inputs find nothing that shorter ones do not.
const LONGEST: usize = 32 * 1024;

/// A target's name and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets, by the name of their folder in `corpus/`.
pub(crate) const TARGETS: [Target; 21] = [
    ("smtp_server", smtp_server),
    ("smtp_client", smtp_client),
    ("header", message_header),
    ("configuration", configuration),
    ("spool_segment", spool_segment),
    ("proxy_header", proxy_header),
    ("feedback", feedback),
    ("suppression_file", suppression_file),
    ("http_message", http_message),
    ("tls_report", tls_report),
    ("mta_sts", mta_sts),
    ("one_click", one_click_pair),
    ("boot_file", boot_file),
    ("event_log", event_log),
    ("signature_list", signature_list),
    ("quote", quote),
    ("key_set", keys::key_set),
    ("token", keys::token),
    ("export", keys::export),
    ("seal_request", keys::seal_request),
    ("typed", keys::typed),
];

/// A boot file. Its sections lie inside it, and neither its digest nor its PCR 11 takes anything else for granted.
pub(crate) fn boot_file(input: &[u8]) {
    use postkeep_firmware::{pcr, pe::Pe, signed_policy};
    let Ok(pe) = Pe::read(input) else { return };
    let _ = pe.authenticode();
    for section in &pe.sections {
        assert!(section.file.end <= input.len(), "{section:?}");
        assert!(pe.content(section).len() <= section.memory_size, "{section:?}");
    }
    for signature in &pe.signatures {
        assert!(pe.signature(signature).len() == signature.file.len(), "{signature:?}");
    }
    let Ok(phases) = pcr::predict_11(&pe) else { return };
    assert_eq!(phases.len(), pcr::PHASES.len() + 1);
    if let (Ok(Some(signed)), Ok(Some(key))) = (pe.section(".pcrsig"), pe.section(".pcrpkey")) {
        let _ = signed_policy::check(pe.content(signed), pe.content(key), &phases);
    }
}

/// The word of a TPM, the key that it is signed with, a signature: whichever it is, it is no other, and nothing is believed that was not signed.
pub(crate) fn quote(input: &[u8]) {
    use postkeep_firmware::attestation::{AttestationKey, Quote};
    let key = AttestationKey::read(input);
    if let Ok(key) = &key {
        assert_eq!(key.public(), input);
        assert!(!key.has_signed(input, input));
    }
    if let Ok(quote) = Quote::read(input) {
        assert!(key.is_err());
        assert!(quote.signer.len() + quote.question.len() + quote.values.len() < input.len());
        assert_eq!(quote.selection.len(), 3);
        assert!(Quote::read(&input[..input.len() - 1]).is_err());
    }
}

/// A log of a boot. What it leads to fits itself and nothing that lacks a register; no text of it can move a cursor.
pub(crate) fn event_log(input: &[u8]) {
    use postkeep_firmware::event_log::{EventLog, FIRMWARE_PCRS};
    use postkeep_firmware::facts::{Ours, chain};
    let Ok(log) = EventLog::read(input) else { return };
    let values = log.replay();
    let measured: Vec<u32> = values.keys().copied().collect();
    assert!(log.compare(&values, &measured).is_empty());
    assert_eq!(log.compare(&std::collections::BTreeMap::new(), &FIRMWARE_PCRS).len(), FIRMWARE_PCRS.len());
    for event in &log.events {
        assert!(!event.describe().chars().any(char::is_control), "{event:?}");
    }
    let chain = chain(&log, &values, &Ours::default());
    assert!(chain.programs.iter().all(|program| !program.is_known), "nothing is known");
}

/// Signature lists, as a variable of Secure Boot has them. Nobody is the owner who was not named.
pub(crate) fn signature_list(input: &[u8]) {
    use postkeep_firmware::secure_boot::{Owner, holders};
    use postkeep_firmware::signature_list::{Entry, of_certificate, read};
    let Ok(entries) = read(input) else { return };
    for owned in &entries {
        if let Entry::Certificate(certificate) = &owned.entry {
            assert!(!certificate.subject.chars().any(char::is_control), "{certificate:?}");
            let list = of_certificate(owned.owner, &certificate.der);
            assert_eq!(read(&list).as_deref(), Ok(std::slice::from_ref(owned)), "what is written can be read");
        }
    }
    let holders = holders("db", input, &[], &[]).expect("it was read before");
    assert!(holders.len() == entries.len() && holders.iter().all(|holder| holder.owner != Owner::Own));
}

/// A TLS report, as file or mail. What can be read is shown without harm.
pub(crate) fn tls_report(input: &[u8]) {
    use postkeep_protection::reports::Received;
    let Ok(report) = Received::read(input) else { return };
    let _ = (report.range(), report.sessions().count(), report.failures().count());
    let json = serde_json::to_vec(&report).expect("a report can be written");
    assert!(Received::read(&json).is_ok(), "a report that is written can be read");
}

/// The policy of a domain, or its TXT record. A policy means the same when it is read again.
pub(crate) fn mta_sts(input: &[u8]) {
    use postkeep_protection::sts::{Policy, policy_id};
    let _ = policy_id(std::iter::once(input));
    let Ok(policy) = Policy::parse(input) else { return };
    assert!(policy.mx.iter().all(|pattern| policy.allows(&pattern.replace('*', "x"))), "a pattern allows what it says");
    assert_eq!(Policy::parse(policy.text.as_bytes()), Ok(policy));
}

/// The pair of one-click unsubscribe. What is found can be cut out and leaves none behind; what is kept of it stands
/// beside a link of the box's, and the pair that comes of it is whole.
pub(crate) fn one_click_pair(input: &[u8]) {
    let input = &input[..input.len().min(LONGEST)];
    let block = &input[..header::header_length(input)];
    let found = one_click::pair(block);
    let mut left = block.to_vec();
    for range in found.ranges.iter().rev() {
        left.drain(range.clone());
    }
    let again = one_click::pair(&left);
    assert!(again.ranges.is_empty() && again.mailto.is_empty() && again.lack.is_some());
    assert_eq!(again.is_signed, found.is_signed);
    let comma = if found.mailto.is_empty() { "" } else { ",\r\n " };
    let ours = format!(
        "List-Unsubscribe: <https://mail.example.com/u/token>{comma}{}\r\nList-Unsubscribe-Post: {}\r\n\r\n",
        found.mailto,
        one_click::ONE_CLICK
    );
    assert!(ours.split("\r\n").all(|line| line.len() <= 998 && line.is_ascii()), "{ours}");
    let ours = one_click::pair(ours.as_bytes());
    assert_eq!((ours.lack, ours.mailto), (None, found.mailto));
}

/// The JSON of a message. What is taken makes mail that our own doors would take, with each field that the box
/// writes once, and nothing that the caller smuggled in.
pub(crate) fn http_message(input: &[u8]) {
    let Ok(messages) = postkeep_injection::compose_json(&input[..input.len().min(LONGEST)]) else { return };
    for message in messages {
        assert_only_crlf(&message);
        assert!(!message.contains(&0), "mail has no NUL");
        let length = header::header_length(&message);
        let mut counts = [0; 4];
        for field in header::fields(&message[..length]) {
            let field = field.expect("the header can be read");
            for (count, name) in counts.iter_mut().zip(["From", "Subject", "Message-ID", "Date"]) {
                *count += u32::from(field.is(name));
            }
            for name in ["Bcc", "Received", "DKIM-Signature", "Return-Path", "X-Postkeep-Stream", "X-Postkeep-Token"] {
                assert!(!field.is(name), "{name} was smuggled in");
            }
        }
        assert_eq!(counts, [1; 4], "each stands once");
    }
}

/// A CSV file of suppressed addresses. Whatever stands in it, each line is an entry or is refused, and good
/// lines behind it are not lost.
pub(crate) fn suppression_file(input: &[u8]) {
    let mut text = b"address,reason\n".to_vec();
    text.extend_from_slice(&input[..input.len().min(LONGEST)]);
    // More line ends than a record may have, so that whatever is open is given up.
    text.extend_from_slice(b"\n\n\n\n\n\n\n\n\nlast@example.org,manual\n");
    let options = ImportOptions { format: None, reason: None, scope: Scope::All, note: "fuzz".into(), now: 0 };
    let (mut refused, mut entries, mut last) = (0, 0, None);
    let report = try_out(
        &text[..],
        &options,
        |event| refused += u64::from(matches!(event, ImportEvent::Refused { .. })),
        |entry| {
            entries += 1;
            last = Some(entry.who.clone());
        },
    )
    .expect("the header is good");
    assert_eq!((report.refused, report.lines), (refused, refused + entries));
    assert_eq!(last, "last@example.org".parse::<Address>().ok().map(Into::into));
}

/// A message that came back. Whatever it holds, there is a finding, it stays small, and nobody is suppressed
/// who is not named or whose mail did not bounce or draw a complaint.
pub(crate) fn feedback(input: &[u8]) {
    static BOOK: LazyLock<RuleBook> = LazyLock::new(|| RuleBook::shipped().expect("the shipped rules"));
    let findings = postkeep_feedback::classify(&input[..input.len().min(LONGEST)], &BOOK);
    assert!((1..=postkeep_feedback::MOST_FINDINGS).contains(&findings.len()));
    for finding in findings {
        assert!(finding.reason.len() <= 4 * 400 && !finding.reason.contains('\n'), "{finding:?}");
        if finding.suppress {
            assert!(finding.recipient.is_some(), "{finding:?}");
            assert!(matches!(finding.kind, Kind::Bounce | Kind::Complaint), "{finding:?}");
        }
    }
}

/// What a client says to our server: commands, content by DATA and BDAT, AUTH. The same bytes
/// must mean the same however they were cut on the way, every answer must be a reply that a
/// client can read, and no content may leave with a line end that others read differently.
pub(crate) fn smtp_server(input: &[u8]) {
    let input = &input[..input.len().min(LONGEST)];
    let whole = serve(input, usize::MAX);
    assert_eq!(whole, serve(input, 1), "cut into single octets, the session went another way");
    assert_eq!(whole, serve(input, 7), "cut into sevens, the session went another way");

    let mut replies = BytesMut::from(&whole.replies[..]);
    let mut reader = ReplyReader::new();
    while let Some(reply) = reader.read(&mut replies).expect("our replies can be read") {
        assert!((200..600).contains(&reply.code), "{reply}");
    }
    assert!(replies.is_empty() && !reader.is_inside_reply(), "the last reply is whole");
    for (envelope, content) in &whole.messages {
        assert!(!envelope.recipients.is_empty(), "a message has a recipient");
        assert_only_crlf(content);
        assert!(content.is_empty() || content.ends_with(b"\r\n"), "content ends with a line end");
        assert!(!content.contains(&0), "content has no NUL");
    }
}

#[derive(Debug, Default, PartialEq)]
struct Served {
    replies: Vec<u8>,
    messages: Vec<(Envelope, Vec<u8>)>,
}

/// Refuses some, so that both ways are walked.
struct Doorkeeper;

impl Judge for Doorkeeper {
    fn sender(&mut self, _: Option<&str>, sender: Option<&Address>, size: Option<u64>) -> Result<(), Reply> {
        if sender.is_some_and(|sender| sender.domain() == "refused.example") || size == Some(99) {
            return Err(Reply::new(550, (5, 7, 1), "not this sender"));
        }
        Ok(())
    }

    fn is_known(&self, authenticated: Option<&str>) -> bool {
        authenticated.is_some()
    }

    fn recipient(&mut self, authenticated: Option<&str>, recipient: &Address) -> Result<(), Reply> {
        if recipient.domain() == "refused.example" && authenticated.is_none() {
            return Err(Reply::new(554, (5, 7, 1), "not there"));
        }
        Ok(())
    }

    fn refused(&mut self, refusal: Refusal<'_>) {
        assert!(refusal.reply.is_transient() || refusal.reply.is_permanent(), "{}", refusal.reply);
    }
}

/// Where the bytes go now.
enum Reading {
    Commands,
    Data(DataReader),
    Chunk(ChunkReader, bool),
    Skip(u64),
}

/// A server as the edge runs it, fed `step` octets at a time.
fn serve(input: &[u8], step: usize) -> Served {
    let rules = Rules {
        hostname: "mx.postkeep.example".to_owned(),
        message_size: 4096,
        recipients: 5,
        messages: 4,
        idle_commands: 20,
        errors: 10,
        auth_failures: 3,
        starttls: true,
        auth: true,
    };
    let repair = input.first().is_some_and(|octet| octet % 2 == 1);
    let limits = DataLimits {
        size: 4096,
        line_length: 1000,
        bare_line_ends: if repair { BareLineEnds::Repair } else { BareLineEnds::Refuse },
    };
    let mut served = Served::default();
    let mut out = BytesMut::new();
    let mut session = Session::new();
    let mut lines = LineReader::default();
    let mut reading = Reading::Commands;
    let mut chunks: Option<ChunkReader> = None;
    let mut buffer = BytesMut::new();
    session.greet(&rules, &mut out);
    'connection: for piece in input.chunks(step.min(input.len().max(1))) {
        buffer.extend_from_slice(piece);
        loop {
            reading = match reading {
                Reading::Commands => {
                    let action = match lines.next(&mut buffer) {
                        Line::Partial => {
                            reading = Reading::Commands;
                            break;
                        }
                        Line::Complete(length) => {
                            let line = buffer.split_to(length);
                            let _ = buffer.split_to(2);
                            session.line(&line, &rules, &mut Doorkeeper, &mut out)
                        }
                        Line::BareLineFeed | Line::TooLong => {
                            session.bad_line("a line that is none", &rules, &mut Doorkeeper, &mut out)
                        }
                        Line::Endless => break 'connection,
                    };
                    match action {
                        Action::Continue => Reading::Commands,
                        Action::Close => break 'connection,
                        // Taken as if what follows had come inside TLS.
                        Action::StartTls => {
                            session.tls_started();
                            Reading::Commands
                        }
                        Action::CheckPassword { name, .. } => {
                            let result = if name.len() % 2 == 0 { AuthResult::Accepted } else { AuthResult::Rejected };
                            match session.authenticated(&name, result, &rules, &mut Doorkeeper, &mut out) {
                                Action::Close => break 'connection,
                                _ => Reading::Commands,
                            }
                        }
                        Action::ReadData => Reading::Data(DataReader::new(limits)),
                        Action::ReadChunk { size, last } => {
                            let mut reader = chunks.take().unwrap_or_else(|| ChunkReader::new(limits));
                            if !reader.begin(size) {
                                break 'connection;
                            }
                            Reading::Chunk(reader, last)
                        }
                        Action::SkipChunk { size, .. } => {
                            chunks = None;
                            Reading::Skip(size)
                        }
                    }
                }
                Reading::Data(mut reader) => match reader.read(&mut buffer) {
                    DataStep::More => {
                        reading = Reading::Data(reader);
                        break;
                    }
                    DataStep::Done(result) => {
                        finish(&mut session, result, &mut served, &mut out);
                        Reading::Commands
                    }
                    DataStep::Absurd => break 'connection,
                },
                Reading::Chunk(mut reader, last) => match reader.read(&mut buffer) {
                    ChunkStep::More => {
                        reading = Reading::Chunk(reader, last);
                        break;
                    }
                    ChunkStep::Done if last => {
                        finish(&mut session, reader.finish(), &mut served, &mut out);
                        Reading::Commands
                    }
                    ChunkStep::Done => {
                        session.chunk_received(1, &mut out);
                        chunks = Some(reader);
                        Reading::Commands
                    }
                },
                Reading::Skip(size) => {
                    let available = usize::try_from(size).unwrap_or(usize::MAX).min(buffer.len());
                    let _ = buffer.split_to(available);
                    let left = size - available as u64;
                    if left > 0 {
                        reading = Reading::Skip(left);
                        break;
                    }
                    Reading::Commands
                }
            };
            if !session.is_in_transaction() {
                chunks = None;
            }
        }
    }
    served.replies = out.to_vec();
    served
}

fn finish(session: &mut Session, result: Result<Content, ContentError>, served: &mut Served, out: &mut BytesMut) {
    let envelope = session.take_envelope();
    let reply = match (result, envelope) {
        (Ok(content), Some(envelope)) => {
            assert_eq!(content.eight_bit, !content.octets.is_ascii());
            assert!(content.header_length <= content.octets.len());
            served.messages.push((envelope, content.octets.to_vec()));
            Reply::new(250, (2, 0, 0), "kept")
        }
        (Ok(_), None) => Reply::new(503, (5, 5, 1), "no envelope"),
        (Err(error), _) => Reply::new(550, (5, 6, 0), error.to_string()),
    };
    session.finish_message(reply, Stage::Message, None, &mut Doorkeeper, out);
}

/// What a server says to our client: the greeting, then the answer to EHLO, then whatever it likes
/// during a transaction. Every recipient must get exactly one outcome, and nothing that the server
/// says may put more than commands on the wire.
pub(crate) fn smtp_client(input: &[u8]) {
    let input = &input[..input.len().min(LONGEST)];
    let whole = replies(input, usize::MAX);
    assert_eq!(whole, replies(input, 1), "cut into single octets, the replies are others");
    for reply in &whole {
        let mut wire = BytesMut::new();
        reply.write_to(&mut wire);
        let again = ReplyReader::new().read(&mut wire).expect("a reply that we write can be read");
        assert_eq!(again.map(|again| again.code), Some(reply.code));
        assert!(wire.is_empty(), "one reply is one reply");
    }

    let mut said = whole.into_iter();
    let (Some(_greeting), Some(hello)) = (said.next(), said.next()) else {
        return;
    };
    let capabilities = Capabilities::from_ehlo(&hello);
    let sender = Address::parse("sender@example.com").expect("an address");
    let recipients = ["one@example.net", "two@example.net", "bücher@example.net"].map(|address| Recipient {
        address: Address::parse(address).expect("an address"),
        notify: None,
        original: None,
    });
    let request = Request {
        sender: Some(&sender),
        recipients: &recipients,
        size: 1234,
        eight_bit: false,
        utf8_header: false,
        ret: None,
        envelope_id: Some("an+2Bid"),
        require_tls: false,
    };
    let mut dialogue = Dialogue::new(request, &capabilities, input.len() % 2 == 1);
    for turn in 0.. {
        assert!(turn < 100, "the dialogue does not end");
        let mut out = BytesMut::new();
        match dialogue.step(&mut out) {
            Step::Done => break,
            Step::Write(content) => {
                assert_commands(&out);
                assert!(!out.is_empty() || content == Writing::Stuffed, "something is written");
                dialogue.written();
            }
            Step::Await(_) => match said.next() {
                Some(reply) => dialogue.reply(reply),
                None => dialogue.lost("the peer said no more"),
            },
        }
    }
    let (outcomes, end) = dialogue.finish();
    assert_eq!(outcomes.len(), recipients.len(), "each recipient has one outcome");
    assert!(end.alive || end.reason.is_some(), "a connection that died says why");
}

/// The replies in `input`, up to the first that makes no sense.
fn replies(input: &[u8], step: usize) -> Vec<Reply> {
    let mut reader = ReplyReader::new();
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in input.chunks(step.min(input.len().max(1))) {
        buffer.extend_from_slice(piece);
        loop {
            match reader.read(&mut buffer) {
                Ok(Some(reply)) => found.push(reply),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}

fn assert_commands(out: &[u8]) {
    assert_only_crlf(out);
    assert!(out.is_empty() || out.ends_with(b"\r\n"), "a command ends with CRLF");
    for line in out.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
        let known = ["RSET\r", "MAIL FROM:<", "RCPT TO:<", "DATA\r", "BDAT ", ".\r"];
        assert!(known.iter().any(|verb| line.starts_with(verb.as_bytes())), "{}", String::from_utf8_lossy(line));
    }
}

/// A message: the walk over its header, its addresses, the conversion to 7 bits, and the signature.
pub(crate) fn message_header(input: &[u8]) {
    let input = &input[..input.len().min(LONGEST)];
    let length = header::header_length(input);
    assert!(length <= input.len());
    let block = &input[..length];
    let mut end = 0;
    for field in header::fields(block).map_while(Result::ok) {
        assert_eq!(field.range.start, end, "fields follow each other without a gap");
        assert!(field.range.end > field.range.start && field.range.end <= block.len());
        end = field.range.end;
        let unfolded = field.unfolded();
        assert!(!unfolded.contains(&b'\n') && !unfolded.contains(&b'\r'), "unfolded is one line");
        let _ = header::message_id(&unfolded);
        if let Ok(addresses) = mailbox::addresses(field.value) {
            for address in addresses {
                assert_eq!(Address::parse(address.as_str()).as_ref(), Ok(&address), "an address reads back");
            }
        }
    }
    let _ = header::count_received(block);

    if let Ok(converted) = downgrade::to_seven_bit(input) {
        assert!(converted.is_ascii(), "7 bits are 7 bits");
        assert!(!input.is_ascii() || converted == input, "what is 7-bit stays as it is");
        let again = downgrade::to_seven_bit(&converted);
        assert_eq!(again.as_deref(), Ok(&converted[..]), "there is nothing left to convert");
    }

    let mut signed = Vec::new();
    let hash = dkim::body_hash(&input[length..]);
    dkim::sign(&KEYS, &[b"Received: from here\r\n", block], &hash, 1_790_000_000, &mut signed).expect("a signature");
    assert!(signed.starts_with(b"DKIM-Signature: ") && signed.ends_with(b"\r\n"));
    assert_only_crlf(&signed);
    for line in signed.split(|octet| *octet == b'\n').skip(1).filter(|line| !line.is_empty()) {
        assert!(line.starts_with(b"\t") || line.starts_with(b" "), "a signature is one field");
    }
}

static KEYS: LazyLock<dkim::KeySelection> = LazyLock::new(|| {
    let configured = DkimKey {
        domain: "example.com".to_owned(),
        selector: "fuzz".to_owned(),
        key: "ed25519.pem".into(),
        algorithm: DkimAlgorithm::Ed25519Sha256,
        streams: Vec::new(),
        extra_headers: vec!["X-Campaign".to_owned()],
        expire_after: None,
    };
    let pem = include_bytes!("ed25519.pem");
    let key = Arc::new(dkim::Key::from_pem(&configured, pem).expect("a key"));
    dkim::Signer::with_keys(&[(key, &[])]).expect("a signer").keys_for("example.com", "default")
});

/// A configuration file. What is accepted must survive being written out and read again.
pub(crate) fn configuration(input: &[u8]) {
    let Ok(configuration) = postkeep_configuration::parse_untrusted(&input[..input.len().min(LONGEST)]) else {
        return;
    };
    if let Ok(text) = postkeep_configuration::to_toml(&configuration) {
        let again = postkeep_configuration::parse_untrusted(text.as_bytes());
        assert_eq!(again.ok().as_ref(), Some(&configuration), "written out, it is the same configuration");
    }
}

/// A segment of the spool, as a crash or a bad disk may leave it. With sums ignored, the reader
/// gets behind them; what it finds must lie inside the segment and in order.
pub(crate) fn spool_segment(input: &[u8]) {
    let input = &input[..input.len().min(LONGEST)];
    for sums in [Sums::Verify, Sums::Ignore] {
        let length = input.len() as u64;
        let (mut framed, mut damaged) = (0, 0);
        scan_segment(input, sums, |finding| match finding {
            Finding::Frame { offset, length: of_frame, .. } => {
                assert!(offset >= framed, "frames come in order and do not overlap");
                framed = offset + of_frame;
                assert!(framed <= length, "a frame lies inside the segment");
            }
            Finding::Message { metadata, body, .. } => {
                assert!(u64::from(metadata) + body <= length, "a message lies inside the segment");
            }
            Finding::Damage(damage) => {
                assert!(damaged <= damage.from && damage.from < damage.to, "damages come in order");
                damaged = damage.to;
                assert!(damaged <= length, "damage lies inside the segment");
            }
            Finding::End(end) => assert!(framed <= end, "the end is behind the last frame"),
        });
    }
}

/// The header of the PROXY protocol. It must be found or refused as early as its octets allow, and
/// the octets after it must not matter.
pub(crate) fn proxy_header(input: &[u8]) {
    let result = proxy::parse(input);
    if let Ok(Some(found)) = result {
        assert!(found.length <= input.len());
        assert_eq!(proxy::parse(&input[..found.length]), result, "what follows the header does not matter");
        for length in 0..found.length {
            assert_eq!(proxy::parse(&input[..length]), Ok(None), "half a header is no header yet");
        }
    }
}

/// Every LF follows a CR and every CR precedes a LF.
fn assert_only_crlf(octets: &[u8]) {
    let mut before = 0;
    for &octet in octets {
        assert_eq!(before == b'\r', octet == b'\n', "a bare CR or LF");
        before = octet;
    }
    assert_ne!(before, b'\r', "a bare CR at the end");
}
