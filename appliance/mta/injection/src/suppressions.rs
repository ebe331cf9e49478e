//! `/api/v1/suppressions`: the list at the HTTP doors, for tokens with `may-suppress`.
//!
//! A token sees what holds for its own mail: entries for all mail, for streams that it may send in, and for lists whose
//! identifier lies below one of its sender domains. It changes the latter two; what holds for all mail holds for the
//! mail of others too, and only a token that may choose every stream changes that.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use postkeep_intake::Gatekeeper;
use postkeep_intake::admission::SenderPolicy;
use postkeep_smtp::Address;
use postkeep_suppression::{
    AddressesError, ChangeError, Entry, ListedEntry, Origin, Outcome, Page, Reason, Removal, Scope, Step,
    SuppressionAddition, SuppressionView, page,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::asked::{Path, Query};
use crate::door::Shared;
use crate::messages::Client;
use crate::problem::{Fault, Problem};

/// Where the list is.
pub(crate) const PATH: &str = "/api/v1/suppressions";
/// Where one address is.
pub(crate) const ADDRESS_PATH: &str = "/api/v1/suppressions/{address}";
/// Octets of the body of one call.
pub(crate) const LARGEST_BODY: u64 = 4 << 20;
/// Entries in one call that brings them.
const MOST_ENTRIES: usize = 10_000;
/// Entries in one answer.
pub(crate) const MOST_LISTED: usize = 1000;
/// Entries in one answer when nobody says how many.
pub(crate) const LISTED: usize = 100;

/// Entries to come, all of them or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Additions {
    entries: Vec<SuppressionAddition>,
}

/// What is to be known of one address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct AdditionOfOne {
    /// Absent: `manual`.
    #[serde(default = "manual")]
    reason: Reason,
    /// For which mail.
    #[serde(default)]
    scope: Option<Scope>,
    /// Kept sealed with the address.
    #[serde(default)]
    note: Option<String>,
}

const fn manual() -> Reason {
    Reason::Manual
}

/// Some entries, oldest first.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Listed {
    entries: Vec<ListedEntry>,
    /// The `page` to ask for next; absent: this was the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<usize>,
}

/// Which entries are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Asked {
    reason: Option<Reason>,
    limit: Option<usize>,
    page: Option<usize>,
}

/// Which entries are to go.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Unwanted {
    reason: Option<Reason>,
    scope: Option<Scope>,
}

/// What a token may see and change.
pub(crate) struct Rights<'a>(&'a SenderPolicy);

impl<'a> Rights<'a> {
    /// Those of a token that has any.
    pub(crate) fn of(policy: &'a SenderPolicy) -> Result<Self, Problem> {
        if policy.may_suppress() {
            return Ok(Self(policy));
        }
        let detail = format!("{} may not: write may-suppress = true in its [[token]]", policy.name());
        Err(Problem::new(StatusCode::FORBIDDEN, "not-allowed", "nothing was done", detail))
    }

    fn owns(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All => false,
            Scope::Stream(stream) => self.0.may_choose(stream),
            Scope::List(list) => self.0.owns_list(list),
        }
    }

    pub(crate) fn sees(&self, scope: &Scope) -> bool {
        *scope == Scope::All || self.owns(scope)
    }

    pub(crate) fn changes(&self, scope: &Scope) -> bool {
        self.0.may_choose_any() || self.owns(scope)
    }

    /// The scope of an entry that names none.
    pub(crate) fn scope(&self) -> Scope {
        if self.0.may_choose_any() { Scope::All } else { Scope::Stream(self.0.stream().into()) }
    }

    /// Who is named in the note of an entry.
    pub(crate) fn actor(&self, client: &Client) -> String {
        format!("token {} ({})", self.0.name(), client.address.ip())
    }

    fn must_change(&self, scope: &Scope, pointer: &str) -> Result<(), Problem> {
        if self.changes(scope) {
            return Ok(());
        }
        let detail = format!(
            "{} may not change what holds for {scope}: only its own streams, lists below its sender domains, and with may-choose-streams = [\"*\"] all mail",
            self.0.name()
        );
        let errors = vec![Fault { pointer: pointer.to_owned(), detail: detail.clone() }];
        Err(Problem { errors, ..Problem::new(StatusCode::FORBIDDEN, "not-allowed", "nothing was done", detail) })
    }
}

/// `GET` of the list.
pub(crate) async fn list<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    Query(asked): Query<Asked>,
) -> Result<axum::Json<Listed>, Problem> {
    Rights::of(&policy)?;
    let limit = asked.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(invalid(format!("limit is 1 to {MOST_LISTED}")));
    }
    let skip = asked.page.unwrap_or(0);
    let found = listed(&shared, policy, asked.reason, skip, limit).await?;
    let next = found.has_more.then(|| skip + found.entries.len());
    Ok(axum::Json(Listed { entries: found.entries, next }))
}

/// Entries of one reason or of all that a token sees, read beside the runtime and one call at a time.
pub(crate) async fn listed<G: Gatekeeper>(
    shared: &Shared<G>,
    policy: Arc<SenderPolicy>,
    reason: Option<Reason>,
    skip: usize,
    limit: usize,
) -> Result<Page, Problem> {
    if shared.tables.load().is_sealed {
        let detail = "the addresses are sealed to others ([suppression] seal-to), and the box cannot list them; they can, with `postkeep suppression export`";
        return Err(Problem::new(StatusCode::FORBIDDEN, "sealed", "nothing was done", detail));
    }
    let Ok(reading) = Arc::clone(&shared.listing).try_acquire_owned() else {
        return Err(unavailable("another call is reading the list".to_owned()));
    };
    let folder = shared.suppression.folder().to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let _reading = reading;
        let wanted = |entry: &Entry| {
            reason.is_none_or(|reason| reason == entry.reason)
                && Rights::of(&policy).is_ok_and(|rights| rights.sees(&entry.scope))
        };
        page(&folder, skip, limit, wanted)
    });
    match read.await {
        Ok(Ok(page)) => Ok(page),
        // Nothing was ever suppressed.
        Ok(Err(AddressesError::NoJournal(_))) => Ok(Page::default()),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(unavailable("internal error".to_owned())),
    }
}

/// `GET` of one address.
pub(crate) async fn find<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    Path(address): Path<String>,
) -> Result<axum::Json<SuppressionView>, Problem> {
    let rights = Rights::of(&policy)?;
    let address = parse(&address)?;
    let entries = seen(&shared, &rights, &address)?;
    Ok(axum::Json(SuppressionView { address: address.as_str().to_owned(), entries }))
}

/// What a token sees of an address.
pub(crate) fn seen<G: Gatekeeper>(
    shared: &Shared<G>,
    rights: &Rights<'_>,
    address: &Address,
) -> Result<Vec<Entry>, Problem> {
    let mut entries = shared.suppression.find(address).map_err(|error| unavailable(error.to_string()))?;
    entries.retain(|entry| rights.sees(&entry.scope));
    Ok(entries)
}

/// `POST` to the list.
pub(crate) async fn add<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    body: Bytes,
) -> Result<axum::Json<Outcome>, Problem> {
    let rights = Rights::of(&policy)?;
    let additions: Additions = json(&body)?;
    bring(&shared, &rights, &client, additions.entries).await.map(axum::Json)
}

/// `PUT` or `POST` to one address.
pub(crate) async fn add_one<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    Path(address): Path<String>,
    body: Bytes,
) -> Result<axum::Json<Outcome>, Problem> {
    let rights = Rights::of(&policy)?;
    let AdditionOfOne { reason, scope, note } = if body.trim_ascii().is_empty() { json(b"{}") } else { json(&body) }?;
    let addition = SuppressionAddition { address, reason, scope, note };
    bring(&shared, &rights, &client, vec![addition]).await.map(axum::Json)
}

/// `DELETE` of one address: of the entries that are named and that the token may change.
pub(crate) async fn remove<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    Path(address): Path<String>,
    Query(unwanted): Query<Unwanted>,
) -> Result<Response, Problem> {
    let rights = Rights::of(&policy)?;
    let address = parse(&address)?;
    if let Some(scope) = &unwanted.scope {
        rights.must_change(scope, "/scope")?;
    }
    let outcome = take_out(&shared, &rights, &client, &address, |entry| {
        unwanted.reason.is_none_or(|reason| reason == entry.reason)
            && unwanted.scope.as_ref().is_none_or(|scope| *scope == entry.scope)
    })
    .await?;
    Ok(axum::Json(outcome).into_response())
}

/// Brings entries in, all or none.
pub(crate) async fn bring<G: Gatekeeper>(
    shared: &Shared<G>,
    rights: &Rights<'_>,
    client: &Client,
    additions: Vec<SuppressionAddition>,
) -> Result<Outcome, Problem> {
    if additions.len() > MOST_ENTRIES {
        return Err(invalid(format!("more than {MOST_ENTRIES} entries: make several calls")));
    }
    let (actor, now) = (rights.actor(client), now());
    let mut steps = Vec::with_capacity(additions.len());
    for (number, addition) in additions.into_iter().enumerate() {
        if let Some(scope) = &addition.scope {
            rights.must_change(scope, &format!("/entries/{number}/scope"))?;
        }
        let step = addition.step(rights.scope(), Origin::Api, &actor, now).map_err(|detail| {
            let errors = vec![Fault { pointer: format!("/entries/{number}/address"), detail: detail.clone() }];
            Problem { errors, ..invalid(detail) }
        })?;
        steps.push(step);
    }
    change(shared, steps).await
}

/// Takes out the entries of an address that `wanted` likes and that the token may change.
pub(crate) async fn take_out<G: Gatekeeper>(
    shared: &Shared<G>,
    rights: &Rights<'_>,
    client: &Client,
    address: &Address,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Outcome, Problem> {
    let (note, time): (Arc<str>, u32) = (rights.actor(client).into(), now());
    let steps = seen(shared, rights, address)?
        .into_iter()
        .filter(|entry| rights.changes(&entry.scope) && wanted(entry))
        .map(|entry| {
            Step::Remove(Removal {
                address: address.clone(),
                scope: Some(entry.scope),
                reason: Some(entry.reason),
                origin: Origin::Api,
                time,
                note: Arc::clone(&note),
            })
        })
        .collect();
    change(shared, steps).await
}

async fn change<G: Gatekeeper>(shared: &Shared<G>, steps: Vec<Step>) -> Result<Outcome, Problem> {
    if steps.is_empty() {
        return Ok(Outcome::default());
    }
    let suppression = shared.suppression.clone();
    // In a task of its own: a client that hangs up ends its request, but not what it asked for.
    match tokio::spawn(async move { suppression.change(steps).await }).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error @ ChangeError::TooManyScopes)) => Err(invalid(error.to_string())),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(unavailable("internal error".to_owned())),
    }
}

pub(crate) fn parse(address: &str) -> Result<Address, Problem> {
    address.parse().map_err(|error| invalid(format!("{address:?}: {error}")))
}

fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| invalid(format!("the JSON cannot be read: {error}")))
}

fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", "nothing was done", detail)
}

fn unavailable(detail: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "try-later", "nothing was done", detail)
}

/// Unix seconds.
fn now() -> u32 {
    u32::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(streams: &[&str], domains: &[&str]) -> SenderPolicy {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        SenderPolicy::new("shop", &owned(domains), Some("receipts"), &owned(streams)).with_suppression(true)
    }

    #[test]
    fn a_token_sees_what_holds_for_its_mail_and_changes_what_holds_for_nobody_elses() {
        let policy = policy(&["news"], &["example.com"]);
        let rights = Rights::of(&policy).unwrap();
        for (scope, sees, changes) in [
            ("all", true, false),
            ("stream:receipts", true, true),
            ("stream:news", true, true),
            ("stream:other", false, false),
            ("list:weekly.example.com", true, true),
            ("list:example.com", true, true),
            ("list:weekly.example.org", false, false),
            ("list:weeklyexample.com", false, false),
        ] {
            let scope: Scope = scope.parse().unwrap();
            assert_eq!((rights.sees(&scope), rights.changes(&scope)), (sees, changes), "{scope}");
        }
        assert_eq!(rights.scope().to_string(), "stream:receipts");
    }

    #[test]
    fn a_token_for_every_stream_changes_what_holds_for_all_and_one_without_the_right_nothing() {
        let any = policy(&["*"], &["*"]);
        let rights = Rights::of(&any).unwrap();
        assert!(rights.changes(&Scope::All) && rights.scope() == Scope::All);
        assert!(Rights::of(&any.with_suppression(false)).is_err());
    }
}
