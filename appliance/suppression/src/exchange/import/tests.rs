//! Files as services write them, good and bad.

use postkeep_configuration as configuration;

use super::*;
use crate::addresses::addresses;
use crate::exchange::Exporter;
use crate::list::IDENTITY_FILE;
use crate::seal::Identity;

struct Ground {
    folder: tempfile::TempDir,
    list: Suppression,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            configuration::Suppression { directory: folder.path().to_owned(), ..configuration::Suppression::default() };
        Self { list: Suppression::open(&settings).unwrap(), folder }
    }

    fn import(&self, text: &str, options: &ImportOptions) -> Result<(ImportReport, Vec<String>), ImportError> {
        let mut refused = Vec::new();
        let (report, _) = import(&self.list, text.as_bytes(), options, |event| {
            if let ImportEvent::Refused { line, reason } = event {
                refused.push(format!("{line}: {reason}"));
            }
        })?;
        Ok((report, refused))
    }

    fn held(&self, address: &str) -> Vec<String> {
        let entries = self.list.find(&address.parse().unwrap()).unwrap();
        entries.iter().map(|entry| format!("{} {} {}", entry.reason.as_str(), entry.scope, entry.time)).collect()
    }

    fn export(&self, format: &str, only: Option<Reason>) -> String {
        let identity = Identity::read(&self.folder.path().join(IDENTITY_FILE)).unwrap();
        let mut text = Vec::new();
        let mut exporter = Exporter::new(Format::named(format).unwrap(), only, &mut text).unwrap();
        addresses(self.folder.path(), &[identity], |detail, entry| {
            exporter.write(detail, entry).map_err(|error| error.to_string())
        })
        .unwrap();
        exporter.finish().unwrap();
        String::from_utf8(text).unwrap()
    }
}

fn options() -> ImportOptions {
    ImportOptions { format: None, reason: None, scope: Scope::All, note: "file".into(), now: 5 }
}

#[test]
fn files_of_five_services_come_in_with_their_reasons_and_times() {
    let ground = Ground::new();
    let sendgrid = ImportOptions { reason: Some(Reason::HardBounce), ..options() };
    for (text, options) in [
        ("address,reason,scope,time,note\na@x.example,complaint,stream:news,2026-01-31T12:00:00Z,said so\n", options()),
        ("status,reason,email,created\n5.1.1,\"550 5.1.1, no such user\",b@x.example,1769860800\n", sendgrid),
        ("address,code,error,created_at\nc@x.example,550,gone,\"Sat, 31 Jan 2026 12:00:00 UTC\"\n", options()),
        (
            "EmailAddress,SuppressionReason,Origin,CreatedAt\nd@x.example,SpamComplaint,Recipient,2026-01-31T12:00:00Z\n",
            options(),
        ),
        ("e@x.example,BOUNCE\nf@x.example,COMPLAINT\n", options()),
    ] {
        let (report, refused) = ground.import(text, &options).unwrap();
        assert!(refused.is_empty() && report.added == report.lines && report.added > 0, "{report:?} {refused:?}");
    }
    assert_eq!(ground.held("a@x.example"), ["complaint stream:news 1769860800"]);
    assert_eq!(ground.held("b@x.example"), ["hard-bounce all 1769860800"]);
    assert_eq!(ground.held("c@x.example"), ["hard-bounce all 1769860800"]);
    assert_eq!(ground.held("d@x.example"), ["complaint all 1769860800"]);
    assert_eq!(ground.held("e@x.example"), ["hard-bounce all 5"]);
    assert_eq!(ground.held("f@x.example"), ["complaint all 5"]);
    let again = ground.import("e@x.example,BOUNCE\nE@X.example,BOUNCE\n", &options()).unwrap().0;
    assert_eq!((again.added, again.known), (0, 2));
}

#[test]
fn a_bad_line_is_named_and_stops_no_other() {
    let ground = Ground::new();
    let text = "address,reason,time\n\
                good@x.example,manual,yesterday\n\
                not an address,manual,\n\
                ,manual,\n\
                other@x.example,because,\n\
                \"open@x.example,manual,\n\
                last@x.example,manual,2026-01-31\n";
    let (report, refused) =
        ground.import(text, &ImportOptions { format: Some(Format::named("postkeep").unwrap()), ..options() }).unwrap();
    assert_eq!((report.lines, report.added, report.refused, report.undated), (6, 2, 4, 1));
    assert_eq!(refused.iter().map(|line| &line[..2]).collect::<Vec<_>>(), ["3:", "4:", "5:", "6:"]);
    assert!(refused[2].contains("because"), "{refused:?}");
    assert_eq!(ground.held("good@x.example"), ["manual all 5"]);
    assert!(!ground.held("last@x.example").is_empty());
}

#[test]
fn two_odd_quotes_lines_apart_swallow_nothing_and_a_mark_before_the_file_is_no_part_of_it() {
    let ground = Ground::new();
    let text = "\u{feff}a@x.example,BOUNCE\n\"open,2\nb@x.example,BOUNCE\nc@x.example,BOUNCE\nfoo\"bar@x.example,BOUNCE\nd@x.example,BOUNCE\n";
    let (report, refused) = ground.import(text, &options()).unwrap();
    assert_eq!((report.lines, report.added), (6, 4), "{refused:?}");
    assert_eq!(refused.iter().map(|line| &line[..2]).collect::<Vec<_>>(), ["2:", "5:"]);
    for address in ["a@x.example", "b@x.example", "c@x.example", "d@x.example"] {
        assert!(!ground.held(address).is_empty(), "{address}");
    }
}

#[test]
fn a_file_that_does_not_say_what_it_is_changes_nothing() {
    let ground = Ground::new();
    let error = ground.import("status,reason,email,created\n,,a@x.example,1\n", &options()).unwrap_err().to_string();
    assert!(error.contains("--reason") && error.contains("blocks"), "{error}");
    let error = ground.import("name,phone\nann,5\n", &options()).unwrap_err().to_string();
    assert!(error.contains("name,phone") && error.contains("--format"), "{error}");
    assert!(ground.import("", &options()).is_err());
    assert!(ground.held("a@x.example").is_empty());
}

#[test]
fn what_goes_out_comes_in_again_the_same() {
    let ground = Ground::new();
    let text = "address,reason,scope,time\n\
                \"quoted, local\"@x.example,manual,all,2026-01-31T12:00:00Z\n\
                a@x.example,unsubscribe,list:weekly.x.example,2026-01-31T12:00:01Z\n\
                b@x.example,hard-bounce,all,2026-01-31T12:00:02Z\n\
                c@x.example,block,all,2026-01-31T12:00:03Z\n";
    // The first line is bad CSV, as people write it.
    let (report, refused) = ground.import(text, &options()).unwrap();
    assert_eq!((report.added, refused.len()), (3, 1), "{refused:?}");
    let ours = ground.export("postkeep", None);
    assert!(ours.starts_with("address,reason,scope,time,origin,note\r\n"), "{ours}");
    let other = Ground::new();
    let report = other.import(&ours, &options()).unwrap().0;
    assert_eq!((report.added, report.refused), (3, 0));
    for address in ["a@x.example", "b@x.example", "c@x.example"] {
        assert_eq!(other.held(address), ground.held(address));
    }
    assert_eq!(ground.export("ses", None), "b@x.example,BOUNCE\r\n");
    let bounces = ground.export("mailgun", Some(Reason::HardBounce));
    assert_eq!(
        bounces,
        "address,code,error,created_at\r\nb@x.example,550,file,\"Sat, 31 Jan 2026 12:00:02 -0000\"\r\n"
    );
    assert_eq!(
        ground.export("mailgun", Some(Reason::Unsubscribe)),
        "address,tag,created_at\r\na@x.example,*,\"Sat, 31 Jan 2026 12:00:01 -0000\"\r\n"
    );
    assert!(Exporter::new(Format::named("sendgrid").unwrap(), None, Vec::new()).is_err());
    let other = Ground::new();
    assert_eq!(other.import(&bounces, &options()).unwrap().0.added, 1);
    assert_eq!(other.held("b@x.example"), ground.held("b@x.example"));
}
