//! Lists in different rooms that must agree, for rooms that may not see each other.

use std::collections::BTreeSet;
use std::path::Path;

use postkeep_deliverability::reply::class::CLASSES;

/// A class that is in no list would be told as `other`, and nobody would notice.
#[test]
fn every_class_of_the_rule_book_has_a_bounce_category_and_no_other() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/events/src/accounting/categories.toml");
    let text = std::fs::read_to_string(file).expect("the categories");
    let data: toml::Table = text.parse().expect("TOML");
    let categories = data["category"].as_table().expect("a table");
    let known: BTreeSet<&str> = categories.keys().map(String::as_str).collect();
    let classes: BTreeSet<&str> = CLASSES.iter().map(|(class, _)| *class).collect();
    assert_eq!(known, classes);
}
