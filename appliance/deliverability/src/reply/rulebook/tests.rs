use super::*;

#[test]
fn every_shipped_rule_meets_its_examples() {
    let book = RuleBook::shipped().unwrap();
    let faults = book.check();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(book.rules().count() > 60);
}

#[test]
fn a_block_of_a_source_never_suppresses_whatever_the_rule_says() {
    let text = r#"
        [[rule]]
        name = "x"
        code = [550]
        scope = "lane"
        class = "source-blocked"
        reaction = "suppress"
        source = "a test"
        checked = "2026-11-26"
    "#;
    let mut book = RuleBook::default();
    let error = book.add("own.toml", text).unwrap_err();
    assert!(error.to_string().contains("own.toml: rule \"x\": suppress is for the scope recipient"), "{error}");
}

#[test]
fn a_file_that_is_wrong_says_where_and_what_would_be_right() {
    for (line, expected) in [
        ("scope = \"planet\"", "none of recipient"),
        ("class = \"odd\"", "is not known; there are"),
        ("reaction = \"hold\"", "needs a duration"),
        ("status = [\"5.1\"]", "is not like 5.1.1"),
        ("stage = [\"quit\"]", "none of greeting"),
        ("text = \"(\"", "is not a pattern"),
        ("colour = \"red\"", "unknown field"),
    ] {
        let key = line.split(' ').next().unwrap();
        let base = [
            "name = \"x\"",
            "code = [550]",
            "scope = \"lane\"",
            "class = \"policy\"",
            "reaction = \"slow\"",
            "source = \"s\"",
            "checked = \"2026-11-26\"",
        ];
        let text: String = std::iter::once("[[rule]]")
            .chain(base.into_iter().filter(|own| !own.starts_with(&format!("{key} "))))
            .chain([line])
            .map(|line| format!("{line}\n"))
            .collect();
        let mut book = RuleBook::default();
        let error = book.add("own.toml", &text).unwrap_err().to_string();
        assert!(error.starts_with("own.toml: ") && error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn an_owners_doubt_is_heard_and_one_without_a_source_is_refused() {
    let doubt = |text: &str, source: &str| {
        format!("[[doubt]]\nname = \"ours\"\ntext = '{text}'\nsource = \"{source}\"\nchecked = \"2026-11-27\"\n")
    };
    let mut book = RuleBook::shipped().unwrap();
    let reply = parse_reply("550 5.1.1 user unknown (code blue)").unwrap();
    assert_eq!(book.judge(Stage::Rcpt, &reply, None).reaction, Reaction::Suppress);
    book.add("own.toml", &doubt("code blue", "our partner")).unwrap();
    assert_eq!(book.doubt("code blue"), Some("ours"));
    assert_eq!(book.judge(Stage::Rcpt, &reply, None).reaction, Reaction::Bounce);
    assert!(book.check().iter().any(|fault| fault.contains("\"ours\" has no example")));
    let error = RuleBook::default().add("own.toml", &doubt("(", "our partner")).unwrap_err().to_string();
    assert!(error.starts_with("own.toml: doubt \"ours\": it is not a pattern"), "{error}");
    let error = RuleBook::default().add("own.toml", &doubt("x", "")).unwrap_err().to_string();
    assert!(error.contains("say where the fact is from"), "{error}");
}
