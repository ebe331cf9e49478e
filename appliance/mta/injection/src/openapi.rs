//! The OpenAPI document (3.1), made from the types that requests are read with: what it promises is what
//! the code takes.

use postkeep_suppression::{Outcome, Reason, Scope, SuppressionView};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::messages::Accepted;
use crate::problem::Problem;
use crate::request::MessageRequest;
use crate::suppressions::{self, AdditionOfOne, Additions, Listed};

/// Where the document is served.
pub(crate) const PATH: &str = "/api/v1/openapi.json";

/// Problems of a message, by status.
const PROBLEMS: [(u16, &str); 9] = [
    (400, "The query cannot be read, or the body broke off."),
    (401, "No token, or one that is not known."),
    (403, "The token may not send from that domain or in that stream."),
    (409, "Another call with this Idempotency-Key has not been answered yet."),
    (413, "Larger than `[intake] message-size`."),
    (415, "Neither JSON nor message/rfc822."),
    (422, "The message cannot be taken; `errors` names the places."),
    (408, "The request took too long."),
    (503, "Not now; `Retry-After` says when."),
];

/// Problems of a call about suppressions.
const SUPPRESSION_PROBLEMS: [(u16, &str); 7] = [
    (400, "Path or query cannot be read, or the body broke off."),
    (401, "No token, or one that is not known."),
    (403, "The token may not."),
    (408, "The request took too long."),
    (413, "The body is larger than 4 MiB."),
    (422, "The request cannot be understood; `errors` names the places."),
    (503, "Not now; `Retry-After` says when."),
];

/// The document.
pub(crate) fn document() -> Value {
    // Definitions lie where OpenAPI looks for them.
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let message = generator.subschema_for::<MessageRequest>();
    let accepted = generator.subschema_for::<Accepted>();
    let problem = generator.subschema_for::<Problem>();
    let suppressions = Suppressions {
        listed: generator.subschema_for::<Listed>(),
        view: generator.subschema_for::<SuppressionView>(),
        additions: generator.subschema_for::<Additions>(),
        one: generator.subschema_for::<AdditionOfOne>(),
        outcome: generator.subschema_for::<Outcome>(),
        reason: generator.subschema_for::<Reason>(),
        scope: generator.subschema_for::<Scope>(),
        problem: problem.clone(),
    };
    let schemas = generator.take_definitions(true);
    let responses = responses((202, "The message is durable."), &accepted, &PROBLEMS, &problem);
    let text = |name: &str, place: &str, description: &str| json!({ "name": name, "in": place, "description": description, "schema": { "type": "string" } });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Postkeep",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Mail in by HTTP, and the suppression list. Mailgun's calls below /v3/ are as Mailgun describes them; \
                            docs/operate/http.md says which are there.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": {
            "/api/v1/messages": {
                "post": {
                    "operationId": "sendMessage",
                    "summary": "Send a message, as parts or whole",
                    "parameters": [
                        text("Idempotency-Key", "header", "The same call under the same key sends once within a day."),
                        text("from", "query", "Return path of a whole message."),
                        text("to", "query", "Recipients of a whole message, separated by commas."),
                        text("stream", "query", "Stream of a whole message."),
                    ],
                    "requestBody": {
                        "required": true,
                        "content": {
                            "application/json": { "schema": message },
                            "message/rfc822": { "schema": { "type": "string" } },
                        },
                    },
                    "responses": responses,
                },
            },
            suppressions::PATH: suppressions.list(),
            suppressions::ADDRESS_PATH: suppressions.address(),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// Schemas of the calls about the suppression list.
struct Suppressions {
    listed: Schema,
    view: Schema,
    additions: Schema,
    one: Schema,
    outcome: Schema,
    reason: Schema,
    scope: Schema,
    problem: Schema,
}

impl Suppressions {
    fn list(&self) -> Value {
        let number = |name: &str, description: &str| json!({ "name": name, "in": "query", "description": description, "schema": { "type": "integer", "minimum": 0 } });
        json!({
            "get": {
                "operationId": "listSuppressions",
                "summary": "Entries that hold for the token's mail, oldest first",
                "parameters": [
                    self.parameter("reason", &self.reason, "Entries with this reason only."),
                    number("limit", "Entries in the answer, 1 to 1000; absent: 100."),
                    number("page", "What the answer before gave as `next`."),
                ],
                "responses": self.responses(&self.listed),
            },
            "post": {
                "operationId": "addSuppressions",
                "summary": "Entries in, all of them or none",
                "requestBody": body(&self.additions, true),
                "responses": self.responses(&self.outcome),
            },
        })
    }

    fn address(&self) -> Value {
        let address = json!({ "name": "address", "in": "path", "required": true, "description": "The address, percent-encoded.", "schema": { "type": "string" } });
        let add = |id: &str| {
            json!({
                "operationId": id,
                "summary": "An entry for the address in",
                "requestBody": body(&self.one, false),
                "responses": self.responses(&self.outcome),
            })
        };
        json!({
            "parameters": [address],
            "get": {
                "operationId": "findSuppression",
                "summary": "What is known about the address",
                "responses": self.responses(&self.view),
            },
            "put": add("putSuppression"),
            "post": add("postSuppression"),
            "delete": {
                "operationId": "removeSuppression",
                "summary": "Entries of the address out",
                "parameters": [
                    self.parameter("reason", &self.reason, "Entries with this reason only."),
                    self.parameter("scope", &self.scope, "Entries of this scope only."),
                ],
                "responses": self.responses(&self.outcome),
            },
        })
    }

    fn parameter(&self, name: &str, schema: &Schema, description: &str) -> Value {
        json!({ "name": name, "in": "query", "description": description, "schema": schema })
    }

    fn responses(&self, good: &Schema) -> Value {
        responses((200, "Done, and durable."), good, &SUPPRESSION_PROBLEMS, &self.problem)
    }
}

/// What is answered: the good end, and problems.
fn responses((status, description): (u16, &str), good: &Schema, problems: &[(u16, &str)], problem: &Schema) -> Value {
    let response = |description: &str, kind: &str, schema: &Schema| json!({ "description": description, "content": { kind: { "schema": schema } } });
    let mut responses = Map::from_iter([(status.to_string(), response(description, "application/json", good))]);
    for (status, description) in problems {
        responses.insert(status.to_string(), response(description, "application/problem+json", problem));
    }
    Value::Object(responses)
}

fn body(schema: &Schema, required: bool) -> Value {
    json!({ "required": required, "content": { "application/json": { "schema": schema } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document = document();
        let mut waiting = vec![&document];
        let mut references = 0;
        while let Some(value) = waiting.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let place = reference.strip_prefix('#').expect("a reference into the document");
                        assert!(document.pointer(place).is_some(), "{reference}");
                        references += 1;
                    }
                    waiting.extend(map.values());
                }
                Value::Array(values) => waiting.extend(values),
                _ => {}
            }
        }
        assert!(references > 5, "{references}");
        let properties = &document["components"]["schemas"]["MessageRequest"]["properties"];
        for key in ["from", "to", "reply-to", "attachments", "substitutions", "stream"] {
            assert!(properties.get(key).is_some(), "{key}");
        }
        for (path, method) in [("/api/v1/suppressions", "get"), ("/api/v1/suppressions/{address}", "delete")] {
            assert!(document["paths"][path][method]["responses"]["200"].is_object(), "{method} {path}");
        }
    }
}
