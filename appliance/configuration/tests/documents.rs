//! What is documented is what the program does: the published schema and reference page are
//! those that the types make, and every example in them is a configuration that works.

use std::path::{Path, PathBuf};

use postkeep_configuration::{Options, load_with, parse, reference, schema, to_toml};

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate").join(name)
}

/// Compares with the committed file; with RENEW=1 in the environment writes it.
fn is_current(name: &str, made: &str, renew: &str) {
    let path = document(name);
    if std::env::var_os("RENEW").is_some() {
        std::fs::write(&path, made).expect("write the document");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "docs/operate/{name} is out of date; renew it with:\n  {renew}");
}

#[test]
fn the_published_schema_is_current() {
    is_current(
        "postkeep.schema.json",
        &schema::schema_text(),
        "postkeep config schema > docs/operate/postkeep.schema.json",
    );
}

#[test]
fn the_reference_page_is_current() {
    is_current(
        "configuration.md",
        &reference::reference(),
        "RENEW=1 cargo test -p postkeep-configuration --test documents",
    );
}

#[test]
fn the_example_file_is_good_and_complete() {
    let loaded = load_with(document("postkeep.example.toml"), &Options::without_files())
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{:#?}", loaded.warnings);
    // It shows every table.
    for (table, _) in schema::schema()["properties"].as_object().expect("properties") {
        let text = std::fs::read_to_string(document("postkeep.example.toml")).expect("example");
        let shown = [format!("\n{table} = "), format!("\n[{table}]"), format!("\n[{table}."), format!("\n[[{table}]]")];
        assert!(shown.iter().any(|header| text.contains(header)), "the example has no `{table}`");
    }
    let text = to_toml(&loaded.configuration).expect("TOML");
    let again = parse("again", &text, &Options::without_files()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(again.configuration, loaded.configuration);
}

#[test]
fn the_smallest_file_of_the_reference_page_is_good() {
    let page = reference::reference();
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a TOML block");
    let loaded = parse("smallest", example, &Options::without_files()).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{:#?}", loaded.warnings);
    assert_eq!(loaded.configuration.pool_of("default").map(|(name, _)| name), Some("default"));
}

#[test]
fn the_errors_of_the_reference_page_are_those_that_come_out() {
    let page = reference::reference();
    let shown = page.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a text block");
    let text = "\n\n\nhostname = \"mail.example.com\"\n\n[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"none\"\n\n\n[lane]\n\
                conections = 5\n\n[pool.default]\nsources = { a = 1 }\n\n\n[source.a]\nipv4 = \"192.0.2.300\"\n";
    let errors = parse("postkeep.toml", text, &Options::without_files()).expect_err("two errors");
    assert_eq!(format!("{errors}\n"), shown);
}

#[test]
fn the_seed_corpus_runs_without_panic_and_is_judged_by_its_names() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/configuration");
    let mut count = 0;
    for entry in corpus.read_dir().expect("corpus") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let result = postkeep_configuration::parse_untrusted(&std::fs::read(&path).expect("read"));
        match &result {
            Ok(_) => assert!(name.starts_with("good-"), "{name} is accepted"),
            Err(errors) => assert!(name.starts_with("bad-"), "{name} is refused:\n{errors}"),
        }
        count += 1;
    }
    assert!(count >= 20, "the corpus has {count} files");
}
