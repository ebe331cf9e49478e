use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::types::{LaneLimit, LaneLimits, OutboundTls, ProviderOverride};
use crate::units::{ByteSize, Duration, Rate};

const HEAD: &str = r#"hostname = "mail.example.com"
"#;
const REST: &str = r#"
[[listener]]
address = "127.0.0.1:25"
tls = "none"
[[network]]
name = "local"
addresses = ["127.0.0.0/8"]
sender-domains = ["*"]
[source.a]
ipv4 = "192.0.2.10"
[pool.default]
sources = { a = 100 }
"#;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, text).expect("file");
    }
    folder
}

fn load_main(folder: &TempDir) -> Result<Loaded, Errors> {
    load(folder.path().join("main.toml"))
}

fn refused(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let text = load_main(&folder).expect_err("errors").to_string();
    text.replace(&format!("{}/", folder.path().display()), "")
}

fn refused_text(text: &str) -> String {
    parse("p.toml", text, &Options::without_files()).expect_err("errors").to_string()
}

#[test]
fn included_files_merge_in_the_order_of_their_names() {
    let folder = folder(&[
        (
            "main.toml",
            &format!(
                "{HEAD}include = [\"conf.d/*.toml\", \"last.toml\", \"none.d/*.toml\"]\n[lane]\nconnections = 3\n{REST}"
            ),
        ),
        (
            "conf.d/20.toml",
            "[[route]]\ndomain = \"b.example\"\nhosts = [\"b\"]\n[source.b]\nipv4 = \"192.0.2.11\"\n[pool.b]\nsources = { b = 1 }",
        ),
        ("conf.d/10.toml", "[[route]]\ndomain = \"a.example\"\nhosts = [\"a\"]\n[lane]\nmessage-rate = \"5/s\"\n"),
        ("conf.d/.hidden.toml", "this is not read"),
        ("conf.d/other.txt", "this is not read"),
        ("last.toml", "[source.a]\nehlo = \"a.example.com\"\n"),
    ]);
    let loaded = load_main(&folder).unwrap_or_else(|errors| panic!("{errors}"));
    let configuration = &loaded.configuration;
    let domains: Vec<_> = configuration.route.iter().map(|route| route.domain.as_str()).collect();
    assert_eq!(domains, ["a.example", "b.example"]);
    assert_eq!(configuration.lane.connections, Some(3));
    assert_eq!(configuration.lane.message_rate, "5/s".parse().ok());
    assert_eq!(configuration.ehlo_of("a"), "a.example.com");
    assert!(configuration.include.is_empty());
    let names: Vec<_> = loaded.files.iter().map(|file| file.strip_prefix(folder.path()).expect("below")).collect();
    assert_eq!(names, ["main.toml", "conf.d/10.toml", "conf.d/20.toml", "last.toml"].map(Path::new));
}

#[test]
fn each_key_knows_its_place() {
    let folder = folder(&[
        ("main.toml", &format!("{HEAD}include = [\"b.toml\"]\n[lane]\n  connections = 3\n{REST}")),
        ("b.toml", "[[route]]\ndomain = \"a.example\"\nhosts = [\"a\"]\n"),
    ]);
    let loaded = load_main(&folder).unwrap_or_else(|errors| panic!("{errors}"));
    let place = |key| {
        loaded.place_of(key).map(|place| {
            format!("{}:{}:{}", place.file.file_name().expect("name").to_string_lossy(), place.line, place.column)
        })
    };
    assert_eq!(place("hostname").as_deref(), Some("main.toml:1:1"));
    assert_eq!(place("lane.connections").as_deref(), Some("main.toml:4:3"));
    assert_eq!(loaded.line_of("lane.connections").as_deref(), Some("connections = 3"));
    assert_eq!(place("pool.default.sources.a").as_deref(), Some("main.toml:16:13"));
    assert_eq!(place("route[0].domain").as_deref(), Some("b.toml:2:1"));
    assert_eq!(place("route[1].domain"), None);
    assert_eq!(place("lane.message-rate"), None);
    assert_eq!(place("lane..x"), None);
}

#[test]
fn relative_paths_belong_to_the_file_that_says_them() {
    let folder = folder(&[
        ("main.toml", &format!("{HEAD}include = [\"keys/dkim.toml\"]\n[spool]\ndirectory = \"spool\"\n{REST}")),
        ("keys/dkim.toml", "[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\nkey = \"s.pem\"\n"),
        ("keys/s.pem", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"),
    ]);
    let loaded = load_main(&folder).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.configuration.spool.directory, folder.path().join("spool"));
    assert_eq!(loaded.configuration.dkim[0].key, folder.path().join("keys/s.pem"));
    // A default is not relative to anything.
    assert_eq!(loaded.configuration.control.socket, Path::new("/run/postkeep/control.sock"));
}

#[test]
fn a_key_that_two_files_set_names_both_places() {
    let text = refused(&[
        ("main.toml", &format!("{HEAD}include = [\"b.toml\"]\n{REST}[lane]\nconnections = 3\n")),
        ("b.toml", "hostname = \"other.example.com\"\n[lane]\nconnections = 4\n[stream.x]\nretry = [\"1m\"]\n"),
    ]);
    assert!(text.contains("b.toml:1:1: hostname: this is set twice: first at main.toml:1:1, then here"), "{text}");
    assert!(text.contains("b.toml:3:1: [lane] connections: this is set twice: first at main.toml:16:1"), "{text}");
}

#[test]
fn circles_and_repetitions_of_includes_are_refused() {
    let text = refused(&[
        ("main.toml", &format!("{HEAD}include = [\"b.toml\"]\n{REST}")),
        ("b.toml", "include = [\"./main.toml\"]\n"),
    ]);
    assert!(text.contains("b.toml:1:12: include: ./main.toml includes itself"), "{text}");
    let text = refused(&[("main.toml", &format!("{HEAD}include = [\"b.toml\", \"*b.toml\"]\n{REST}")), ("b.toml", "")]);
    assert!(text.contains("main.toml:2:22: include: b.toml is included twice, first at main.toml:2:12"), "{text}");
    let chain: Vec<(String, String)> =
        (0..12).map(|n| (format!("{n}.toml"), format!("include = [\"{}.toml\"]\n", n + 1))).collect();
    let mut files: Vec<(&str, &str)> = chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let main = format!("{HEAD}include = [\"0.toml\"]\n{REST}");
    files.push(("main.toml", &main));
    assert!(refused(&files).contains("7.toml:1:12: include: includes are nested deeper than 8"), "{}", refused(&files));
}

#[test]
fn what_cannot_be_included_is_refused_where_it_is_named() {
    let text = refused(&[
        (
            "main.toml",
            &format!("{HEAD}include = [\"absent.toml\", \"a*/b.toml\", \"conf.d/\", \"d\", \"latin1.toml\"]\n{REST}"),
        ),
        ("d/x", ""),
    ]);
    for part in [
        "main.toml:2:12: include: cannot open absent.toml: No such file",
        "main.toml:2:27: include: \"a*/b.toml\" has a * before its last part",
        "main.toml:2:40: include: \"conf.d/\" names no file",
        "include: cannot read d: it is not a file",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let text = refused(&[("main.toml", &format!("{HEAD}{REST}include = [\"b.toml\"]\n"))]);
    assert!(text.contains("[pool.default] include: unknown key `include`"), "{text}");
    assert!(text.contains("belongs at the top of a file"), "{text}");
    assert!(refused_text(&format!("include = [\"b.toml\"]\n{HEAD}{REST}")).contains("cannot include files"));
}

#[test]
fn a_file_that_others_can_read_and_that_holds_hashes_brings_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let hash = crate::hash_password("x").expect("hash");
    let text = format!("[[credential]]\nname = \"x\"\npassword-hash = \"{hash}\"\nsender-domains = [\"*\"]\n");
    let folder = folder(&[("main.toml", &format!("{HEAD}include = [\"s.toml\"]\n{REST}")), ("s.toml", &text)]);
    let warnings = |mode| {
        fs::set_permissions(folder.path().join("s.toml"), fs::Permissions::from_mode(mode)).expect("mode");
        load_main(&folder).unwrap_or_else(|errors| panic!("{errors}")).warnings
    };
    assert_eq!(warnings(0o640), []);
    let warnings = warnings(0o644);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().contains("which holds password hashes"), "{}", warnings[0]);
}

#[test]
fn all_errors_of_a_file_are_reported_at_once_with_their_lines() {
    let text = refused_text(
        r#"hostnam = "mail.example.com"
[[listener]]
address = "127.0.0.1"
tls = "startls"
[[listener]]
tls = "none"
require-auth = "true"
[intake]
connections = -1
message-size = 1000
command-timeout = "5 minutes"
bogus = 1
[source.a]
ipv4 = "2001:db8::1"
[source.b]
ipv6 = "192.0.2.1"
[pool.default]
sources = { a = "1" }
[[network]]
name = "x"
addresses = ["192.0.2.1"]
sender-domains = "example.com"
[[spool]]
[lane-limit]
[stream]
retry = 5
"#,
    );
    for part in [
        "p.toml:1:1: hostnam: unknown key `hostnam`; did you mean `hostname`?",
        "the configuration has no `hostname`",
        "p.toml:3:11: [[listener]] address: \"127.0.0.1\" is not an address with a port",
        "add the port: \"127.0.0.1:25\"",
        "p.toml:4:7: [[listener]] tls: \"startls\" is not a word that is known here; did you mean \"starttls\"?",
        "listener[1]: this table has no `address`",
        "p.toml:7:16: [[listener]] require-auth: this is a string, where true or false is needed",
        "p.toml:9:15: [intake] connections: -1 is not within 0 to 4294967295",
        "p.toml:10:16: [intake] message-size: 1000 has no unit",
        "did you mean \"1000B\"?",
        "p.toml:11:19: [intake] command-timeout: \" minutes\" is not a unit of time",
        "p.toml:12:1: [intake] bogus: unknown key `bogus`",
        "p.toml:14:8: [source.a] ipv4: \"2001:db8::1\" is not an IPv4 address",
        "p.toml:16:8: [source.b] ipv6: \"192.0.2.1\" is not an IPv6 address",
        "p.toml:18:17: [pool.default.sources] a: this is a string, where a whole number is needed",
        "leave the quotes out: 1",
        "p.toml:21:14: [[network]] addresses[0]: \"192.0.2.1\" is not a network",
        "one address is \"192.0.2.1/32\"",
        "p.toml:22:18: [[network]] sender-domains: this is a string, where an array is needed",
        "put it in brackets: [\"example.com\"]",
        "write single brackets: [spool]",
        "write double brackets: [[lane-limit]]",
        "p.toml:26:9: [stream] retry: this is a whole number, where a table is needed",
    ] {
        assert!(text.contains(part), "{part}\n---\n{text}");
    }
}

#[test]
fn an_unknown_key_does_not_hide_other_errors_nor_bring_echoes() {
    let text = refused_text(&format!("{HEAD}{REST}[source.b]\nip4 = \"192.0.2.3\"\n[backoff]\nslow-share = 7.0\n"));
    assert!(text.contains("unknown key `ip4`; did you mean `ipv4`?"), "{text}");
    assert!(text.contains("[backoff] slow-share: 7 is not within 0.05 to 1"), "{text}");
    assert!(!text.contains("has no address"), "{text}");
    assert!(text.contains("2 errors;"), "{text}");
}

#[test]
fn syntax_errors_of_several_lines_are_all_reported() {
    let text = refused_text(
        "hostname = mail.example.com\n[source.a]\nipv4 = \"192.0.2.1\nipv4 = \"192.0.2.2\"\nipv4 = \"192.0.2.3\"\n[source.a]\n",
    );
    assert!(text.contains("p.toml:1:12: this is not TOML"), "{text}");
    assert!(text.contains("p.toml:3:"), "{text}");
    assert!(text.contains("p.toml:5:1: this is not TOML: duplicate key"), "{text}");
}

#[test]
fn a_secret_is_never_printed() {
    let text = refused_text(&format!(
        "{HEAD}{REST}[[credential]]\nname = \"x\"\npassword-hash = \"hunter2\"\nsender-domains = [\"*\"]\n[[credential]]\nname = \"y\"\npassword-hash = hunter2\nsender-domains = 7\n"
    ));
    assert!(!text.contains("hunter2"), "{text}");
    let text = refused_text(&format!(
        "{HEAD}{REST}[[credential]]\nname = \"x\"\npassword-hash = \"hunter2\"\nsender-domains = [\"*\"]\n"
    ));
    assert!(text.contains("[[credential]] password-hash: this is not a password hash in PHC form"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn the_caret_stands_below_its_character() {
    let text = refused_text(&format!("{HEAD}{REST}[lane]\n\t\"über\" = 1\n"));
    assert!(text.contains("\n  15 | \t\"über\" = 1\n     | \t^^^^^^\n"), "{text}");
}

#[test]
fn errors_are_json_with_place_key_and_remedy() {
    let errors = parse(
        "p.toml",
        &format!("{HEAD}{REST}[lane]\nconections = 1\n[intake]\nhops = 0\n"),
        &Options::without_files(),
    )
    .expect_err("errors");
    let json = serde_json::to_value(&errors).expect("JSON");
    assert_eq!(json[0]["file"], "p.toml");
    assert_eq!(json[0]["line"], 15);
    assert_eq!(json[0]["column"], 1);
    assert_eq!(json[0]["key"], "lane.conections");
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[1]["remedy"], "write 1 to 1000");
    assert_eq!(json[1]["source"], "hops = 0");
}

#[test]
fn untrusted_text_has_limits() {
    let deep = format!("{HEAD}{REST}[lane]\nx = {}{}\n", "[".repeat(40), "]".repeat(40));
    assert!(refused_text(&deep).contains("nested deeper than 16"), "{}", refused_text(&deep));
    for text in [
        "[".repeat(100_000),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a = ".repeat(50_000)),
        format!("{} = 1", "a.".repeat(50_000)),
        format!("[{}]", vec!["a"; 50_000].join(".")),
        "a = 1\n".repeat(100_000),
        (0..80_000).map(|n| format!("k{n} = 1\n")).collect(),
        "x".repeat(LARGEST_TEXT + 1),
    ] {
        assert!(parse_untrusted(text.as_bytes()).is_err());
    }
    let error = parse_untrusted(b"hostname = \"\xff\"").expect_err("not UTF-8").to_string();
    assert!(error.contains("not UTF-8 from octet 12"), "{error}");
}

fn arbitrary_duration() -> impl Strategy<Value = Duration> {
    (1_000_000u64..80_000_000_000).prop_map(Duration::from_micros)
}

fn arbitrary_rate() -> impl Strategy<Value = Rate> {
    (1u32.., arbitrary_duration()).prop_map(|(count, per)| Rate { count, per })
}

fn arbitrary_limits() -> impl Strategy<Value = LaneLimits> {
    let count = || proptest::option::of(1u32..);
    (count(), proptest::option::of(arbitrary_rate()), count(), proptest::option::of(arbitrary_rate()), count())
        .prop_map(
            |(connections, connection_rate, messages_per_connection, message_rate, recipients_per_transaction)| {
                LaneLimits {
                    connections,
                    connection_rate,
                    messages_per_connection,
                    message_rate,
                    recipients_per_transaction,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same(
        lane in arbitrary_limits(),
        other in arbitrary_limits(),
        pause in arbitrary_duration(),
        jitter in 0.0..=0.9f64,
        slow_share in 0.05..=1.0f64,
        segment in 25u64..=1024,
        name in "[A-Za-z0-9._/@:+-]{1,64}",
        tls in proptest::option::of(prop_oneof![Just(OutboundTls::None), Just(OutboundTls::Verified)]),
        directory in "[a-z \"\\\\é]{1,20}",
        weight in 1u32..=1000,
    ) {
        let mut configuration = parse("text", &format!("{HEAD}{REST}"), &Options::without_files()).expect("good").configuration;
        configuration.lane = lane;
        configuration.lane_limit.push(LaneLimit { source: Some("a".to_owned()), site: "mx.example".to_owned(), limits: other.clone() });
        configuration.provider.insert(name.clone(), ProviderOverride { lane: other, tls, ..ProviderOverride::default() });
        configuration.backoff.pause = pause;
        configuration.backoff.longest_pause = pause;
        configuration.backoff.slow_share = slow_share;
        configuration.spool.segment_size = ByteSize::mebibytes(segment);
        configuration.spool.directory = directory.into();
        let stream = crate::types::Stream { retry_jitter: jitter, ..crate::types::Stream::default() };
        configuration.stream.insert(name.clone(), stream);
        configuration.pool.insert(name.clone(), crate::types::Pool { sources: [("a".to_owned(), weight)].into() });
        configuration.pool.entry("default".to_owned()).or_insert_with(|| crate::types::Pool { sources: [("a".to_owned(), 1)].into() });
        let text = to_toml(&configuration).expect("TOML");
        let again = parse("again", &text, &Options::without_files()).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        prop_assert_eq!(again.configuration, configuration);
    }

    #[test]
    fn any_text_is_read_or_refused_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400, text in ".{0,20}") {
        let _ = parse_untrusted(&octets);
        let good = format!("{HEAD}{REST}");
        let cut = good.floor_char_boundary(cut.min(good.len()));
        let broken = format!("{}{text}{}", &good[..cut], &good[cut..]);
        if let Err(errors) = parse_untrusted(broken.as_bytes()) {
            prop_assert!(errors.count() > 0);
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
