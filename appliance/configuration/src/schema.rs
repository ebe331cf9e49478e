//! The JSON Schema of the configuration, made from the types, for editors and for programs
//! that write configurations. Committed as `docs/operate/postkeep.schema.json`.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::types::Configuration;

/// The schema (draft 7, which editors of TOML understand).
pub fn schema() -> Value {
    let generator = SchemaSettings::draft07().into_generator();
    let mut schema = generator.into_root_schema_for::<Configuration>().to_value();
    simplify(&mut schema);
    let mut named = Map::new();
    named.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    named.insert("title".to_owned(), json!("Configuration of Postkeep"));
    if let Value::Object(rest) = schema {
        for (key, value) in rest {
            named.entry(key).or_insert(value);
        }
    }
    Value::Object(named)
}

/// The schema as text, indented, with a newline at its end.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// TOML has no null, so an optional value is either of its type or not there. Defaults of
/// whole tables go too: each of their keys has its own.
fn simplify(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(simplify),
        Value::Object(map) => {
            if map.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
                map.shift_remove("default");
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            for word in ["anyOf", "oneOf"] {
                let Some(Value::Array(choices)) = map.get_mut(word) else { continue };
                choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    map.shift_remove(word);
                    // Beside `$ref` draft 7 ignores everything, so it goes into `allOf`.
                    if only.contains_key("$ref") && !map.is_empty() {
                        map.insert("allOf".to_owned(), json!([only]));
                    } else {
                        map.extend(only);
                    }
                }
            }
            map.values_mut().for_each(simplify);
        }
        _ => {}
    }
}
