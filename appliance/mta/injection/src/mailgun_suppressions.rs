//! Mailgun's calls about suppressions: `/v3/{domain}/bounces`, `/complaints` and `/unsubscribes`.
//!
//! The domain proves that the token may speak for it; entries are not kept by domain. Each table is one reason of the
//! list. Blocks and what was entered by hand have no table at Mailgun and are not shown.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use postkeep_intake::Gatekeeper;
use postkeep_intake::admission::SenderPolicy;
use postkeep_suppression::{Entry, Reason, SuppressionAddition};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::asked::{Path, Query};
use crate::door::Shared;
use crate::mailgun::{Refusal, bad, fields, text};
use crate::messages::Client;
use crate::suppressions::{LISTED, MOST_LISTED, Rights, bring, listed, parse, seen, take_out};

/// Entries in one call.
const MOST_ENTRIES: usize = 1000;

/// One of Mailgun's tables.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    reason: Reason,
    /// As messages call it.
    name: &'static str,
    removed: &'static str,
}

impl Table {
    /// The table of a path; `None`: there is none of that name.
    fn named(name: &str) -> Option<Self> {
        match name {
            "bounces" => {
                Some(Self { reason: Reason::HardBounce, name: "bounces", removed: "Bounced address has been removed" })
            }
            "complaints" => {
                Some(Self { reason: Reason::Complaint, name: "complaints", removed: "Spam complaint has been removed" })
            }
            "unsubscribes" => Some(Self {
                reason: Reason::Unsubscribe,
                name: "unsubscribes",
                removed: "Unsubscribe event has been removed",
            }),
            _ => None,
        }
    }

    /// An entry as the table shows it.
    fn item(self, address: &str, entry: &Entry, note: &str) -> Value {
        let created = Timestamp::from_second(entry.time.into()).unwrap_or_default();
        let mut item = json!({
            "address": address,
            "created_at": created.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string(),
        });
        match self.reason {
            Reason::HardBounce => (item["code"], item["error"]) = ("550".into(), without_actor(note).into()),
            Reason::Unsubscribe => item["tags"] = json!(["*"]),
            _ => {}
        }
        item
    }
}

/// A note without the token and the address that it came from: those of one sender are not another's business.
fn without_actor(note: &str) -> &str {
    match note.strip_prefix("token ") {
        Some(rest) => rest.split_once("): ").map_or("", |(_, said)| said),
        None => note,
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    limit: Option<usize>,
    page: Option<usize>,
}

/// What every call begins with: may this token speak for that domain, and which table is meant?
fn begin<'a>(domain: &str, table: &str, policy: &'a SenderPolicy) -> Result<(Table, Rights<'a>), Refusal> {
    if !policy.allows_domain(&domain.to_ascii_lowercase()) {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("Domain not found: {domain}")));
    }
    let table = Table::named(table).ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "not found".to_owned()))?;
    Ok((table, Rights::of(policy)?))
}

/// `GET` of a table.
pub(crate) async fn list<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path((domain, table)): Path<(String, String)>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (table, _) = begin(&domain, &table, &policy)?;
    let limit = asked.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(bad(format!("limit is 1 to {MOST_LISTED}")));
    }
    let skip = asked.page.unwrap_or(0);
    let page = listed(&shared, Arc::clone(&policy), Some(table.reason), skip, limit).await?;
    let items: Vec<Value> = page.entries.iter().map(|one| table.item(&one.address, &one.entry, &one.note)).collect();
    let scheme = if client.tls.is_some() { "https" } else { "http" };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let url = |at: usize| format!("{scheme}://{host}/v3/{domain}/{}?limit={limit}&page={at}", table.name);
    // The page behind the last one is empty, which is how Mailgun's clients know the end.
    let paging = json!({
        "first": url(0), "previous": url(skip.saturating_sub(limit)),
        "next": url(skip + items.len()), "last": url(skip + if page.has_more { items.len() } else { 0 }),
    });
    Ok(Json(json!({ "items": items, "paging": paging })).into_response())
}

/// `GET` of an address.
pub(crate) async fn find<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path((domain, table, address)): Path<(String, String, String)>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
) -> Result<Response, Refusal> {
    let (table, rights) = begin(&domain, &table, &policy)?;
    let address = parse(&address)?;
    let entries = seen(&shared, &rights, &address)?;
    match entries.iter().filter(|entry| entry.reason == table.reason).min_by_key(|entry| entry.time) {
        Some(entry) => Ok(Json(table.item(address.as_str(), entry, "")).into_response()),
        None => Err(not_in(table)),
    }
}

/// `POST` to a table: one address as a form, or several as JSON.
pub(crate) async fn add<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path((domain, table)): Path<(String, String)>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (table, rights) = begin(&domain, &table, &policy)?;
    let (additions, is_list) = additions(table, request).await?;
    let first = additions.first().map(|addition| addition.address.clone()).unwrap_or_default();
    let count = additions.len();
    bring(&shared, &rights, &client, additions).await?;
    let message = match (is_list, table.name) {
        (true, name) => json!({ "message": format!("{count} addresses have been added to the {name} table") }),
        (false, name) => {
            json!({ "message": format!("Address has been added to the {name} table"), "address": first })
        }
    };
    Ok(Json(message).into_response())
}

/// `DELETE` of an address.
pub(crate) async fn remove<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path((domain, table, address)): Path<(String, String, String)>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
) -> Result<Response, Refusal> {
    let (table, rights) = begin(&domain, &table, &policy)?;
    let address = parse(&address)?;
    let outcome = take_out(&shared, &rights, &client, &address, |entry| entry.reason == table.reason).await?;
    if outcome.removed == 0 {
        return Err(not_in(table));
    }
    Ok(Json(json!({ "message": table.removed, "address": address.as_str() })).into_response())
}

fn not_in(table: Table) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("Address not found in {} table", table.name))
}

/// What a call brings, and whether it is a list.
async fn additions(table: Table, request: Request) -> Result<(Vec<SuppressionAddition>, bool), Refusal> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/json") {
        let mut one = Map::new();
        for field in fields(request).await? {
            one.insert(field.name.clone(), text(&field)?.into());
        }
        return Ok((vec![addition(table, &one)?], false));
    }
    // The guard has read it.
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.map_err(|error| bad(error.to_string()))?;
    let list: Vec<Map<String, Value>> = serde_json::from_slice(&body)
        .map_err(|error| bad(format!("the JSON is no list of objects with an address each: {error}")))?;
    if list.len() > MOST_ENTRIES {
        return Err(bad(format!("more than {MOST_ENTRIES} entries: make several calls")));
    }
    let additions = list.iter().map(|one| addition(table, one)).collect::<Result<_, _>>()?;
    Ok((additions, true))
}

fn addition(table: Table, one: &Map<String, Value>) -> Result<SuppressionAddition, Refusal> {
    let word = |name: &str| one.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let tags = word("tag").into_iter().chain(word("tags"));
    // An entry for one tag would hold back more than was asked for.
    if tags.into_iter().any(|tag| !matches!(&*tag, "*" | "[\"*\"]" | "")) {
        return Err(bad("tags are not supported here: leave tag out, or write *"));
    }
    let address = word("address").ok_or_else(|| bad("address parameter is missing"))?;
    let mut note = word("code").unwrap_or_default();
    if let Some(error) = word("error") {
        // Writing to a text does not fail.
        let _ = write!(note, " {error}");
    }
    let note = Some(note.trim().to_owned()).filter(|note| !note.is_empty());
    Ok(SuppressionAddition { address, reason: table.reason, scope: None, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_said_it_is_not_shown() {
        assert_eq!(without_actor("token shop (192.0.2.1): 550 no such user"), "550 no such user");
        assert_eq!(without_actor("token shop (2001:db8::1)"), "");
        assert_eq!(without_actor("550 5.1.1 <x>: user unknown"), "550 5.1.1 <x>: user unknown");
    }
}
