//! From a record to a line of CSV (RFC 4180).

use std::io;

use csv::{Terminator, Writer, WriterBuilder};
use jiff::Timestamp;
use postkeep_configuration as configuration;
use postkeep_configuration::accounting::LineType;
use serde_json::Value;

use super::category::{category, status_text};

/// Lines to come, CR LF at their ends.
pub(super) fn lines() -> Writer<Vec<u8>> {
    WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new())
}

/// The columns of the file, and which of them each type of line fills.
pub(super) struct Rows {
    /// The union, `type` first.
    columns: Vec<&'static str>,
    types: Vec<(&'static LineType, Vec<&'static str>)>,
    iso_times: bool,
}

impl Rows {
    /// # Errors
    /// A column that is not known.
    pub(super) fn new(settings: &configuration::Accounting, types: &[&'static LineType]) -> Result<Self, String> {
        let mut columns = vec!["type"];
        let mut filled = Vec::new();
        for of in types {
            let own = settings.columns(of)?;
            for column in &own {
                if !columns.contains(column) {
                    columns.push(column);
                }
            }
            filled.push((*of, own));
        }
        Ok(Self { columns, types: filled, iso_times: settings.iso_times })
    }

    /// The first line of every file.
    pub(super) fn header(&self) -> io::Result<Vec<u8>> {
        let mut lines = lines();
        lines.write_record(&self.columns)?;
        lines.into_inner().map_err(|error| error.into_error())
    }

    /// Adds the line of a record.
    pub(super) fn write(&self, of: &LineType, record: &Value, out: &mut Writer<Vec<u8>>) -> io::Result<()> {
        let Some((_, filled)) = self.types.iter().find(|(known, _)| *known == of) else { return Ok(()) };
        let cells = self.columns.iter().map(|column| match *column {
            "type" => of.short.to_owned(),
            column if filled.contains(&column) => self.cell(column, of, record),
            _ => String::new(),
        });
        Ok(out.write_record(cells.collect::<Vec<_>>())?)
    }

    fn cell(&self, column: &str, of: &LineType, record: &Value) -> String {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let report = |key: &str| record["report"][key].as_str().unwrap_or_default().to_owned();
        let is_report = matches!(of.short, "f" | "rb" | "rs");
        match column {
            "timeLogged" => self.time(&record["time"]),
            "timeQueued" if of.short == "r" => self.time(&record["time"]),
            "timeQueued" => self.time(&record["received"]),
            // What came back was sent to the return path of the mail, if that is told.
            "orig" if is_report => report("return-path").trim_matches(['<', '>']).to_owned(),
            "orig" => text("sender"),
            "rcpt" => text("recipient"),
            "orcpt" => text("original-recipient"),
            "dsnAction" => action(of).to_owned(),
            "dsnStatus" => status(of, record),
            "dsnDiag" => diagnostic(record),
            "dsnMta" if is_report => report("remote-mta"),
            "dsnMta" => host(record),
            "bounceCat" if matches!(of.short, "d" | "r" | "f") => String::new(),
            "bounceCat" => category(&text("event"), &text("class"), &text("stage")).to_owned(),
            "srcType" => match record["protocol"].as_str() {
                Some("http") => "api".to_owned(),
                Some(other) => other.to_owned(),
                None => String::new(),
            },
            "srcMta" => with_address(&text("credential"), without_port(&text("peer"))),
            "dlvType" if record["host"].is_string() => "smtp".to_owned(),
            "dlvSourceIp" => text("source-address"),
            "dlvDestinationIp" => without_port(&text("address")).to_owned(),
            "dlvEsmtpAvailable" => text("keywords"),
            "dlvSize" => number(&record["size"]),
            "vmta" => text("source"),
            "jobId" if record["job"].is_string() => text("job"),
            "jobId" | "stream" => text("stream"),
            "envId" => text("envelope-id"),
            "queue" => queue(record),
            "vmtaPool" => text("pool"),
            "format" if ["user-agent", "reporting-mta", "source-address"].iter().any(|key| !report(key).is_empty()) => {
                "arf".to_owned()
            }
            "feedbackType" => text("class"),
            "userAgent" => report("user-agent"),
            "reportingMta" | "dsnReportingMta" => report("reporting-mta"),
            "reportedDomain" => report("reported-domain"),
            "repSourceIp" => report("source-address"),
            "rcvSourceIp" => without_port(&text("peer")).to_owned(),
            "header_From" => report("from"),
            "header_Return-Path" => report("return-path"),
            "header_X-job" => report("job"),
            "header_Subject" => report("subject"),
            "header_Message-Id" => text("message-id"),
            "totalSecondsQueued" => seconds_between(&record["received"], &record["time"]),
            "dlvTlsProtocol" => record["tls"]["version"].as_str().unwrap_or_default().to_owned(),
            "dlvTlsCipher" => record["tls"]["cipher"].as_str().unwrap_or_default().to_owned(),
            "user" => text("credential"),
            "attempt" => number(&record["attempt"]),
            "id" | "message" | "event" | "provider" | "site" | "class" | "scope" | "rule" | "stage" => text(column),
            _ => String::new(),
        }
    }

    fn time(&self, value: &Value) -> String {
        let Some(time) = timestamp(value) else { return String::new() };
        if self.iso_times { time.strftime("%Y-%m-%d %H:%M:%S+0000").to_string() } else { time.as_second().to_string() }
    }
}

fn action(of: &LineType) -> &'static str {
    match of.short {
        "d" => "relayed",
        "b" | "rb" => "failed",
        "t" | "tq" | "rs" => "delayed",
        _ => "",
    }
}

/// `5.1.1 (bad destination mailbox address)`.
fn status(of: &LineType, record: &Value) -> String {
    let own = match (of.short, record["event"].as_str(), record["stage"].as_str()) {
        (_, Some("expired"), _) => "5.4.7",
        (_, Some("suppressed" | "removed"), _) => "5.7.1",
        ("d", ..) => "2.0.0",
        ("b" | "rb", ..) => "5.0.0",
        ("tq", _, Some("connect")) => "4.4.1",
        ("tq", ..) => "4.4.2",
        ("t", _, Some("dns")) => "4.4.3",
        ("t", _, Some("connect")) => "4.4.1",
        _ => "4.0.0",
    };
    let is_expired = record["event"] == "expired";
    let said = record["reply"]["enhanced"].as_str().or(record["status"].as_str()).filter(|_| !is_expired);
    let code = said.unwrap_or(own);
    match status_text(code) {
        "" => code.to_owned(),
        words => format!("{code} ({words})"),
    }
}

/// `smtp;550 5.1.1 …`, on one line.
fn diagnostic(record: &Value) -> String {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let reply = &record["reply"];
    if let Some(code) = reply["code"].as_u64() {
        let words = one_line(reply["text"].as_str().unwrap_or_default());
        return match reply["enhanced"].as_str() {
            Some(enhanced) if !words.starts_with(enhanced) => format!("smtp;{code} {enhanced} {words}"),
            _ => format!("smtp;{code} {words}"),
        };
    }
    match record["detail"].as_str().map(one_line) {
        Some(detail) if record["stage"].is_null() => format!("smtp;{detail}"),
        Some(detail) => format!("x-postkeep;{detail}"),
        None => String::new(),
    }
}

/// `host (address)`.
fn host(record: &Value) -> String {
    let address = record["address"].as_str().unwrap_or_default();
    with_address(record["host"].as_str().unwrap_or_default(), without_port(address))
}

fn with_address(name: &str, address: &str) -> String {
    match (name, address) {
        (name, "") => name.to_owned(),
        ("", address) => format!("({address})"),
        (name, address) => format!("{name} ({address})"),
    }
}

/// `192.0.2.1:25` and `[2001:db8::1]:25` without port and brackets.
fn without_port(address: &str) -> &str {
    match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        // An IPv6 address alone has more than one colon.
        None if address.matches(':').count() > 1 => address,
        None => address.split(':').next().unwrap_or_default(),
    }
}

/// `domain/vmta`; where no source was chosen, the pool.
fn queue(record: &Value) -> String {
    let domain = record["domain"].as_str().unwrap_or_default();
    let from = record["source"].as_str().or(record["pool"].as_str()).unwrap_or_default();
    if domain.is_empty() && from.is_empty() { String::new() } else { format!("{domain}/{from}") }
}

fn number(value: &Value) -> String {
    value.as_u64().map(|number| number.to_string()).unwrap_or_default()
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn seconds_between(from: &Value, to: &Value) -> String {
    let between = timestamp(from).zip(timestamp(to)).map(|(from, to)| to.as_second() - from.as_second());
    between.map(|seconds| seconds.max(0).to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use postkeep_configuration::accounting::TYPES;
    use proptest::prelude::*;

    use super::*;

    fn rows() -> Rows {
        Rows::new(&configuration::Accounting::default(), &TYPES.iter().collect::<Vec<_>>()).expect("columns")
    }

    fn header(types: &[&str]) -> String {
        let types: Vec<_> =
            types.iter().map(|short| postkeep_configuration::accounting::line_type(short).expect("a type")).collect();
        let rows = Rows::new(&configuration::Accounting::default(), &types).expect("columns");
        String::from_utf8(rows.header().expect("a header")).expect("text")
    }

    fn line(record: Value, short: &str) -> std::collections::BTreeMap<String, String> {
        let rows = rows();
        let of = postkeep_configuration::accounting::line_type(short).expect("a type");
        let mut text = rows.header().expect("a header");
        let mut out = lines();
        rows.write(of, &record, &mut out).expect("a line");
        text.extend(out.into_inner().expect("lines"));
        assert!(text.ends_with(b"\r\n"));
        let mut reader = csv::Reader::from_reader(text.as_slice());
        let header = reader.headers().expect("a header").clone();
        let row = reader.records().next().expect("a line").expect("good CSV");
        header.iter().zip(row.iter()).map(|(name, cell)| (name.to_owned(), cell.to_owned())).collect()
    }

    #[test]
    fn the_columns_are_powermtas_in_its_order() {
        // The 23 of a stream of d and b, as the User's Guide has them.
        let own = "type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta,\
                   dlvType,dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool";
        assert_eq!(own.split(',').count(), 23);
        assert_eq!(header(&["d", "b"]), format!("{own}\r\n"));
        // What other types add comes behind them.
        let all = header(&["d", "b", "t", "tq", "r", "f", "rb", "rs"]);
        assert!(all.starts_with(&format!("{own},format,")) && all.ends_with(",dsnReportingMta\r\n"), "{all}");
    }

    #[test]
    fn a_bounce_reads_as_powermta_writes_it() {
        let cells = line(
            serde_json::json!({
                "time": "2016-05-29T01:10:51.5Z", "event": "bounced", "recipient": "\"a,\"\"b\"@there.test",
                "sender": "news@here.test", "received": "2016-05-29T01:10:41Z", "stream": "news", "domain": "there.test",
                "source": "fra-1", "pool": "default", "host": "mx.there.test", "address": "[2001:db8::1]:25",
                "source-address": "2001:db8::2", "keywords": "SIZE,DSN", "stage": "rcpt", "size": 512,
                "reply": {"code": 550, "enhanced": "5.1.1", "text": "No such\nuser"}, "class": "bad-mailbox",
                "credential": "shop", "peer": "192.0.2.9", "protocol": "http",
            }),
            "b",
        );
        for (column, cell) in [
            ("type", "b"),
            ("timeLogged", "2016-05-29 01:10:51+0000"),
            ("timeQueued", "2016-05-29 01:10:41+0000"),
            ("rcpt", "\"a,\"\"b\"@there.test"),
            ("dsnAction", "failed"),
            ("dsnStatus", "5.1.1 (bad destination mailbox address)"),
            ("dsnDiag", "smtp;550 5.1.1 No such user"),
            ("dsnMta", "mx.there.test (2001:db8::1)"),
            ("bounceCat", "bad-mailbox"),
            ("srcType", "api"),
            ("srcMta", "shop (192.0.2.9)"),
            ("dlvType", "smtp"),
            ("dlvSourceIp", "2001:db8::2"),
            ("dlvDestinationIp", "2001:db8::1"),
            ("dlvEsmtpAvailable", "SIZE,DSN"),
            ("dlvSize", "512"),
            ("queue", "there.test/fra-1"),
            ("vmtaPool", "default"),
            ("feedbackType", ""),
        ] {
            assert_eq!(cells.get(column).map(String::as_str), Some(cell), "{column}");
        }
    }

    #[test]
    fn what_ended_here_has_a_status_of_ours() {
        // Its time was up after a try; and an order, which keeps no reply.
        let record = serde_json::json!({"event": "expired", "stage": "rcpt", "attempt": 3, "class": "mailbox-full",
            "reply": {"code": 452, "enhanced": "4.2.2", "text": "Full"}});
        let cells = line(record, "b");
        assert_eq!(cells["dsnStatus"], "5.4.7 (delivery time expired)");
        assert_eq!(
            (cells["bounceCat"].as_str(), cells["dsnDiag"].as_str()),
            ("message-expired", "smtp;452 4.2.2 Full")
        );
        let order = "delivery time expired by order of an administrator, after 1 attempt in 2h";
        let record = serde_json::json!({"event": "expired", "stage": "queue", "actor": "uid 0", "detail": order});
        let cells = line(record, "b");
        assert_eq!((&*cells["dsnStatus"], &*cells["bounceCat"]), ("5.4.7 (delivery time expired)", "message-expired"));
        assert_eq!(cells["dsnDiag"], format!("x-postkeep;{order}"));
        let cells = line(
            serde_json::json!({"event": "attempted", "stage": "connect", "detail": "refused", "host": "mx"}),
            "tq",
        );
        assert_eq!(cells["dsnStatus"], "4.4.1 (no answer from host)");
        assert_eq!(
            (cells["bounceCat"].as_str(), cells["dsnDiag"].as_str()),
            ("no-answer-from-host", "x-postkeep;refused")
        );
        let cells = line(
            serde_json::json!({"event": "complaint", "class": "abuse", "peer": "192.0.2.3:4711",
                "report": {"user-agent": "Yahoo!", "return-path": "<v@here.test>", "subject": "a, \"b\""}}),
            "f",
        );
        assert_eq!((cells["format"].as_str(), cells["rcvSourceIp"].as_str()), ("arf", "192.0.2.3"));
        assert_eq!((cells["header_Subject"].as_str(), cells["orig"].as_str()), ("a, \"b\"", "v@here.test"));
    }

    #[test]
    fn what_a_spreadsheet_would_take_for_a_formula_is_told_as_it_is() {
        let record = serde_json::json!({"event": "complaint", "recipient": "=1+1@there.test",
            "report": {"return-path": "<=cmd@here.test>", "subject": "=HYPERLINK(\"http://a.test\",\"b\")"}});
        let cells = line(record, "f");
        assert_eq!((&*cells["rcpt"], &*cells["orig"]), ("=1+1@there.test", "=cmd@here.test"));
        assert_eq!(cells["header_Subject"], "=HYPERLINK(\"http://a.test\",\"b\")");
    }

    proptest! {
        #[test]
        fn cells_come_back_from_a_reader_of_csv_as_they_were(cells in prop::collection::vec(".*", 1..6)) {
            // The first one is the type: a line never begins with what a reader takes for a byte order mark.
            let cells: Vec<String> = std::iter::once("d".to_owned()).chain(cells).collect();
            let mut out = lines();
            out.write_record(&cells).expect("written");
            let text = out.into_inner().expect("lines");
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_slice());
            let row = reader.records().next().expect("a line").expect("good CSV");
            prop_assert_eq!(row.iter().collect::<Vec<_>>(), cells);
        }
    }
}
