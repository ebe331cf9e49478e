use super::*;

fn configuration(text: &str) -> Configuration {
    toml::from_str(&format!("hostname = \"mail.example.com\"\n{text}")).expect("configuration")
}

fn table() -> ProviderTable {
    ProviderTable::new(&configuration("")).expect("table")
}

fn name(table: &ProviderTable, hosts: &[(u16, &str)]) -> Option<String> {
    table.provider_for(hosts).map(|provider| provider.name.to_string())
}

#[test]
fn every_shipped_rule_has_a_source_a_date_and_a_mark_for_each_figure() {
    let table = table();
    assert!(table.providers().len() > 25);
    for provider in table.providers().iter().chain([&table.fallback]) {
        let facts = provider.facts.as_ref().expect("facts");
        assert!(!facts.source.is_empty() && &*facts.checked == "2026-11-23", "{}", provider.name);
        assert_eq!(provider.shipped.connections.is_some(), facts.marks.connections.is_some(), "{}", provider.name);
        assert_eq!(
            provider.shipped.messages_per_connection.is_some(),
            facts.marks.messages_per_connection.is_some(),
            "{}",
            provider.name
        );
        assert_eq!(provider.shipped.message_rate.is_some(), facts.marks.message_rate.is_some(), "{}", provider.name);
        assert_eq!(provider.on_block.is_some(), facts.marks.on_block.is_some(), "{}", provider.name);
        assert_eq!(provider.mx_suffix.is_empty(), &*provider.name == "default");
        for suffix in &provider.mx_suffix {
            assert_eq!(normalised_suffix(suffix).as_ref(), Some(suffix));
        }
    }
}

#[test]
fn the_figures_are_those_of_the_published_table() {
    let table = table();
    let figures = |name: &str| {
        let provider = table.by_name(name).expect(name);
        (provider.shipped.connections, provider.shipped.messages_per_connection, provider.on_block.map(|d| d.as_secs()))
    };
    assert_eq!(figures("google"), (Some(5), Some(50), Some(2700)));
    assert_eq!(figures("yahoo"), (Some(5), Some(20), Some(14_400)));
    assert_eq!(figures("orange"), (Some(2), Some(100), Some(18_000)));
    assert_eq!(figures("apple"), (Some(10), Some(5), Some(3600)));
    assert_eq!(figures("free"), (Some(2), Some(20), Some(86_400)));
    assert_eq!(figures("comcast"), (Some(25), Some(1000), None));
    let marks = &table.by_name("orange").and_then(|p| p.facts.as_ref()).expect("facts").marks;
    assert_eq!(marks.connections, Some(Provenance::Vendor));
    assert_eq!(table.usual_block().as_secs(), 1800);
}

#[test]
fn suffixes_match_whole_labels_and_the_longest_wins() {
    let table = table();
    assert_eq!(name(&table, &[(5, "gmail-smtp-in.l.google.com")]).as_deref(), Some("google"));
    assert_eq!(name(&table, &[(5, "ASPMX.L.GOOGLE.COM.")]).as_deref(), Some("google"));
    assert_eq!(name(&table, &[(5, "evil-google.com")]), None);
    assert_eq!(name(&table, &[(5, "google.com.example.net")]), None);
    assert_eq!(name(&table, &[(5, "outlook-com.olc.protection.outlook.com")]).as_deref(), Some("outlook"));
    assert_eq!(name(&table, &[(0, "contoso-com.mail.protection.outlook.com")]).as_deref(), Some("office365"));
    assert_eq!(name(&table, &[(0, "contoso-com.a-v1.mx.microsoft")]).as_deref(), Some("office365"));
    assert_eq!(name(&table, &[(10, "mta5.am0.yahoodns.net")]).as_deref(), Some("yahoo"));
    assert_eq!(name(&table, &[(10, "mx1.mail.yahoo.co.jp")]).as_deref(), Some("yahoo-japan"));
    for nothing in ["", ".", "com", "..", "mx.example.net"] {
        assert_eq!(name(&table, &[(0, nothing)]), None);
    }
    assert_eq!(name(&table, &[]), None);

    let own = configuration("[provider.edge]\nmx-suffix = [\"edge.google.com\"]\n");
    let table = ProviderTable::new(&own).expect("table");
    assert_eq!(name(&table, &[(5, "a.edge.google.com")]).as_deref(), Some("edge"));
    assert_eq!(name(&table, &[(5, "a.google.com")]).as_deref(), Some("google"));
}

#[test]
fn a_mixed_set_belongs_to_the_provider_of_its_most_preferred_hosts() {
    let table = table();
    let google = [(1, "aspmx.l.google.com"), (5, "alt1.aspmx.l.google.com"), (50, "spare.example.net")];
    assert_eq!(name(&table, &google).as_deref(), Some("google"));
    assert_eq!(name(&table, &[(50, "aspmx.l.google.com"), (1, "mx.example.net")]), None);
    assert_eq!(name(&table, &[(1, "aspmx.l.google.com"), (1, "mx.example.net")]), None);
    assert_eq!(name(&table, &[(1, "mx.example.net"), (1, "aspmx.l.google.com")]), None);
    assert_eq!(name(&table, &[(1, "aspmx.l.google.com"), (1, "mta5.am0.yahoodns.net")]), None);
    let two = [(1, "gmr-smtp-in.l.google.com"), (1, "mx.googlemail.com")];
    assert_eq!(name(&table, &two).as_deref(), Some("google"));
}

#[test]
fn the_configuration_changes_adds_and_takes_over() {
    let own = configuration(
        r#"
        [provider.google]
        tls = "verified"
        total = { connections = 40 }
        [provider.google.lane]
        connections = 2
        [provider.ours]
        mx-suffix = ["*.Ours.example.", "web.de"]
        "#,
    );
    let table = ProviderTable::new(&own).expect("table");
    let google = table.by_name("google").expect("google");
    assert_eq!(google.tls, Some(OutboundTls::Verified));
    assert_eq!(google.total.connections, Some(40));
    assert_eq!((google.configured.connections, google.shipped.connections), (Some(2), Some(5)));
    assert_eq!(name(&table, &[(0, "mx.ours.example")]).as_deref(), Some("ours"));
    assert_eq!(name(&table, &[(0, "mx-ha02.web.de")]).as_deref(), Some("ours"), "taken from gmx");
    assert!(!table.by_name("gmx").expect("gmx").mx_suffix.contains(&"web.de".to_owned()));
    assert_eq!(table.by_name("ours").expect("ours").facts, None);
}

#[test]
fn bad_overrides_are_refused_with_their_remedy() {
    let error = |text: &str| ProviderTable::new(&configuration(text)).expect_err("refused").to_string();
    assert_eq!(
        error("[provider.googel]\n"),
        "[provider.googel] is not a shipped provider and has no mx-suffix; add mx-suffix = [\"example.net\"]"
    );
    assert!(error("[provider.x]\nmx-suffix = [\"a b\"]\n").contains("not the end of a host name"));
    assert!(error("[provider.x]\nmx-suffix = [\"\"]\n").contains("not the end of a host name"));
    assert_eq!(
        error("[provider.x]\nmx-suffix = [\"a.example\"]\n[provider.y]\nmx-suffix = [\"A.example\"]\n"),
        "[provider.x] and [provider.y] both have mx-suffix \"a.example\"; remove it from one"
    );
}
