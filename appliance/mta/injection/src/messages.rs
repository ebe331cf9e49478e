//! `POST /api/v1/messages`: from a request to an answer about a durable message.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Extension, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use jiff::Timestamp;
use postkeep_composition::{Document, DocumentError, has_placeholders};
use postkeep_intake::admission::{Arrival, SenderPolicy, content_reply, judge_recipient, judge_sender, powermta};
use postkeep_intake::{Gatekeeper, NotKept, Once, Submission, TlsSummary};
use postkeep_smtp::data::Content;
use postkeep_smtp::envelope::{BodyKind, Envelope, Recipient, TlsRequest};
use postkeep_smtp::{Address, Reply};
use schemars::JsonSchema;
use serde::Serialize;

use crate::asked::Query;
use crate::door::{Shared, Tables};
use crate::problem::{Fault, Problem};
use crate::request::{MOST_RECIPIENTS, MessageRequest, compose};

/// Longest `Idempotency-Key`, in octets.
const LONGEST_KEY: usize = 255;

/// How a connection came.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<TlsSummary>,
}

/// The envelope of a whole message, from the query.
#[derive(Debug, Default)]
pub(crate) struct RawEnvelope {
    pub(crate) from: Option<String>,
    pub(crate) to: Vec<String>,
    pub(crate) stream: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Accepted {
    /// The message's number; in records, in `Received`, for the queue.
    id: String,
    /// Recipients that were taken.
    accepted: usize,
    /// Recipients that were not, with the reason.
    rejected: Vec<Rejected>,
    /// It had been taken before, under the same key.
    replayed: bool,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Rejected {
    address: String,
    detail: String,
}

pub(crate) async fn post<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let tables = shared.tables.load_full();
    let once = once(&headers, &policy, &query, &body)?;
    if let Some(once) = once
        && let Some(known) = shared.gatekeeper.known(once)
    {
        // Before anything else: what was taken is answered so, whatever has changed since.
        let (id, accepted) = known.map_err(not_kept)?;
        return Ok(accepted_as(Accepted { id, accepted, rejected: Vec::new(), replayed: true }));
    }
    shared.gatekeeper.may_accept(body.len() as u64).map_err(|reply| Problem::from_reply(&reply))?;
    let id = shared.gatekeeper.next_id();
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let taker = Taker { shared: Arc::clone(&shared), tables, policy, client, id };
    let taken = taker
        .work(move |taker| match kind.as_str() {
            "application/json" => taker.parts(&body),
            "message/rfc822" => taker.whole(raw_envelope(query)?, &body),
            other => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                "the body cannot be read",
                format!("{other:?} is not taken: send application/json or message/rfc822"),
            )),
        })
        .await?;
    let (accepted, rejected) = (taken.submission.envelope.recipients.len(), taken.rejected);
    let (id, replayed) = keep(&shared, taken.submission, once).await?;
    Ok(accepted_as(Accepted { id, accepted, rejected, replayed }))
}

fn accepted_as(accepted: Accepted) -> Response {
    (StatusCode::ACCEPTED, axum::Json(accepted)).into_response()
}

/// Hands a message over; its id, and whether it was kept earlier.
pub(crate) async fn keep<G: Gatekeeper>(
    shared: &Shared<G>,
    submission: Submission,
    once: Option<Once>,
) -> Result<(String, bool), Problem> {
    // In a task of its own: a client that hangs up ends its request, but not what has begun with its message.
    let gatekeeper = Arc::clone(&shared.gatekeeper);
    let kept = tokio::spawn(async move {
        match once {
            None => gatekeeper.submit(submission).await.map(|id| (id, false)).map_err(NotKept::Refused),
            Some(once) => gatekeeper.submit_once(submission, once).await,
        }
    });
    match kept.await {
        Ok(kept) => kept.map_err(not_kept),
        Err(_) => Err(internal()),
    }
}

/// A task of ours has died.
fn internal() -> Problem {
    Problem::from_reply(&Reply::new(451, (4, 3, 0), "internal error; try again later"))
}

/// A message that can be handed over.
pub(crate) struct Taken {
    pub(crate) submission: Submission,
    pub(crate) rejected: Vec<Rejected>,
}

/// Who may get mail.
struct Willing {
    willing: Vec<Address>,
    rejected: Vec<Rejected>,
    /// For each that was asked, in order, whether they are among the willing.
    kept: Vec<bool>,
}

/// What a message is judged by.
pub(crate) struct Taker<G> {
    pub(crate) shared: Arc<Shared<G>>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) policy: Arc<SenderPolicy>,
    pub(crate) client: Client,
    pub(crate) id: String,
}

impl<G: Gatekeeper> Taker<G> {
    /// Does what takes time, thousands of recipients and large files, beside the runtime.
    pub(crate) async fn work<T, E>(self, work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Problem> + Send + 'static,
    {
        match tokio::task::spawn_blocking(move || work(&self)).await {
            Ok(worked) => worked,
            Err(_) => Err(internal().into()),
        }
    }

    fn parts(&self, body: &[u8]) -> Result<Taken, Problem> {
        let request: MessageRequest = serde_json::from_slice(body)
            .map_err(|error| Problem::invalid(format!("the JSON is not a message: {error}")))?;
        self.compose(request)
    }

    /// A message of its parts.
    pub(crate) fn compose(&self, request: MessageRequest) -> Result<Taken, Problem> {
        let stream = request.stream.clone();
        if let Some(list) = &request.list
            && !self.policy.owns_list(&list.to_ascii_lowercase())
        {
            let detail =
                format!("{} has no list {list}: its identifier must lie below a sender domain", self.policy.name());
            let errors = vec![Fault { pointer: "/list".into(), detail: detail.clone() }];
            let title = "the message was not taken";
            return Err(Problem { errors, ..Problem::new(StatusCode::FORBIDDEN, "not-allowed", title, detail) });
        }
        let now = Timestamp::now();
        let mut composed =
            compose(request, &self.id, &self.tables.hostname, &self.tables.stream_header, now.as_second())
                .map_err(Problem::faults)?;
        let Willing { willing: recipients, rejected, kept } = self.willing(composed.recipients)?;
        let mut orders = stream.map(|stream| order(&self.tables.stream_header, "/stream", &stream)).transpose()?;
        if self.policy.has_powermta_headers() {
            // What is meant for the box is no part of what is rendered later.
            let is_order = |name: &str| powermta::FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name));
            let (ordering, headers): (Vec<_>, Vec<_>) =
                composed.composition.headers.into_iter().partition(|(name, _)| is_order(name));
            composed.composition.headers = headers;
            for (name, value) in ordering {
                if has_placeholders(&value, composed.composition.style) {
                    let detail = format!("{name} is said for the whole call: it has no placeholders");
                    return Err(Problem::faults(vec![Fault { pointer: format!("/headers/{name}"), detail }]));
                }
                orders.get_or_insert_default().push_str(&order(&name, "/headers", &value)?);
            }
        }
        let (octets, document) = match composed.each {
            None => {
                let message = composed.composition.message();
                (message.map_err(|missing| Problem::invalid(missing.to_string()))?, None)
            }
            Some(each) => {
                // In the order of the envelope: a recipient's number there is their number here.
                let each: Vec<_> = each.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(one, _)| one).collect();
                let (document, largest) = Document::new(&composed.composition, &each).map_err(|error| match error {
                    DocumentError::Missing { number, missing } => {
                        let address = each.get(number).map_or("", |one| one.mailbox.address.as_str());
                        let pointer = "/to".to_owned();
                        Problem::faults(vec![Fault { pointer, detail: format!("{address}: {missing}") }])
                    }
                    error => Problem::invalid(error.to_string()),
                })?;
                (largest, Some(document))
            }
        };
        self.submission(composed.sender, recipients, orders, octets, document)
            .map(|submission| Taken { submission, rejected })
    }

    /// A message that is whole.
    pub(crate) fn whole(&self, envelope: RawEnvelope, body: &[u8]) -> Result<Taken, Problem> {
        let parse = |text: &str, name: &str| {
            text.parse::<Address>().map_err(|error| Problem::invalid(format!("the query's {name}={text:?}: {error}")))
        };
        let sender = parse(envelope.from.as_deref().unwrap_or_default(), "from")?;
        if envelope.to.len() > MOST_RECIPIENTS {
            return Err(Problem::invalid(format!("more than {MOST_RECIPIENTS} recipients: make several calls")));
        }
        let mut recipients: Vec<Address> = Vec::with_capacity(envelope.to.len());
        let mut seen = std::collections::HashSet::new();
        for text in &envelope.to {
            let recipient = parse(text, "to")?;
            judge_recipient(&recipient).map_err(|reply| Problem::from_reply(&reply))?;
            if seen.insert(recipient.clone()) {
                recipients.push(recipient);
            }
        }
        let Willing { willing: recipients, rejected, .. } = self.willing(recipients)?;
        let orders = envelope.stream.map(|stream| order(&self.tables.stream_header, "/stream", &stream)).transpose()?;
        self.submission(sender, recipients, orders, body.to_vec(), None)
            .map(|submission| Taken { submission, rejected })
    }

    /// Tells those who may get mail at all from those who may not.
    fn willing(&self, recipients: Vec<Address>) -> Result<Willing, Problem> {
        if recipients.is_empty() {
            return Err(Problem::invalid("there is no recipient"));
        }
        let (mut willing, mut rejected, mut kept) = (Vec::with_capacity(recipients.len()), Vec::new(), Vec::new());
        for recipient in recipients {
            match self.shared.gatekeeper.may_receive(&recipient) {
                Ok(()) => {
                    kept.push(true);
                    willing.push(recipient);
                }
                Err(reply) if reply.is_transient() => return Err(Problem::from_reply(&reply)),
                Err(reply) => {
                    kept.push(false);
                    rejected.push(Rejected { address: recipient.as_str().to_owned(), detail: reply.text });
                }
            }
        }
        if willing.is_empty() {
            let errors = rejected
                .iter()
                .take(100)
                .map(|one| Fault { pointer: "/to".into(), detail: format!("{}: {}", one.address, one.detail) })
                .collect();
            return Err(Problem { errors, ..Problem::invalid("no recipient may get mail; nothing was taken") });
        }
        Ok(Willing { willing, rejected, kept })
    }

    fn submission(
        &self,
        sender: Address,
        recipients: Vec<Address>,
        orders: Option<String>,
        octets: Vec<u8>,
        document: Option<Document>,
    ) -> Result<Submission, Problem> {
        let refused = |reply: Reply| Problem::from_reply(&reply);
        judge_sender(&self.policy, Some(&sender)).map_err(refused)?;
        // The stream is asked for as SMTP clients do it, so that one rule holds for both.
        let mut whole = BytesMut::with_capacity(octets.len() + 256);
        whole.extend_from_slice(orders.unwrap_or_default().as_bytes());
        whole.extend_from_slice(&octets);
        let mut content = Content::whole(whole, &self.tables.limits).map_err(|error| refused(content_reply(&error)))?;
        let is_ascii = |address: &Address| address.is_ascii();
        // Addresses of the header too: what is no address is written in encoded words.
        let header = content.octets.get(..content.header_length).unwrap_or_default();
        let smtputf8 = !header.is_ascii() || !is_ascii(&sender) || !recipients.iter().all(is_ascii);
        let arrival = Arrival {
            id: &self.id,
            now: Timestamp::now(),
            client: self.client.address.ip(),
            helo: "http",
            extended: true,
            authenticated: true,
            http: true,
            smtputf8,
            tls: self.client.tls.as_ref(),
        };
        let admitted = self.tables.rules.admit(&mut content, &self.policy, &arrival).map_err(refused)?;
        let composed = document.is_some();
        let eight_bit = content.eight_bit;
        Ok(Submission {
            id: self.id.clone(),
            envelope: Envelope {
                sender: Some(sender),
                recipients: recipients.into_iter().map(Recipient::new).collect(),
                body: if eight_bit { BodyKind::EightBitMime } else { BodyKind::SevenBit },
                smtputf8,
                ret: None,
                tls: admitted.tls_request(TlsRequest::Unsaid),
                envelope_id: admitted.envelope_id.map(Into::into),
            },
            stream: admitted.stream,
            credential: self.policy.name().to_owned(),
            peer: self.client.address,
            helo: "http".to_owned(),
            tls: self.client.tls.clone(),
            prefix: admitted.prefix,
            has_dot_lines: content.has_dot_lines,
            eight_bit,
            header_length: content.header_length,
            content: match document {
                Some(document) => document.octets().clone(),
                None => content.octets.freeze(),
            },
            from_domain: admitted.from_domain,
            // Each recipient's has a number behind; this is what they have in common.
            message_id: match composed {
                true => format!("<{}@{}>", self.id, self.tables.hostname),
                false => admitted.message_id,
            },
            list: admitted.list,
            one_click: admitted.one_click,
            pool: admitted.pool,
            job: admitted.job,
            composed,
        })
    }
}

/// A header field that tells the box what to do with a message.
fn order(name: &str, pointer: &str, value: &str) -> Result<String, Problem> {
    if value.contains(char::is_control) {
        let detail = format!("{name} has no control characters");
        return Err(Problem::faults(vec![Fault { pointer: pointer.to_owned(), detail }]));
    }
    Ok(format!("{name}: {value}\r\n"))
}

/// The token of `Authorization: Bearer` (RFC 6750).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn raw_envelope(query: Vec<(String, String)>) -> Result<RawEnvelope, Problem> {
    let mut envelope = RawEnvelope::default();
    for (key, value) in query {
        match key.as_str() {
            "from" => envelope.from = Some(value),
            "to" => envelope.to.extend(value.split(',').map(|address| address.trim().to_owned())),
            "stream" => envelope.stream = Some(value),
            other => {
                return Err(Problem::invalid(format!("{other:?} is no part of the query: from, to and stream are")));
            }
        }
    }
    Ok(envelope)
}

/// The sums of the caller's key and of what they sent under it.
fn once(
    headers: &HeaderMap,
    policy: &SenderPolicy,
    query: &[(String, String)],
    body: &[u8],
) -> Result<Option<Once>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    if !(1..=LONGEST_KEY).contains(&key.len()) {
        return Err(Problem::invalid(format!("an Idempotency-Key has 1 to {LONGEST_KEY} octets")));
    }
    let sum = |parts: &[&[u8]]| {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // With its length, so that no two lists of parts read alike.
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut sum = [0; 16];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        sum
    };
    let asked: Vec<u8> = query.iter().flat_map(|(key, value)| format!("{key}={value}&").into_bytes()).collect();
    let mut known = sum(&[policy.name().as_bytes(), key.as_bytes()]);
    known[..4].copy_from_slice(&sum(&[policy.name().as_bytes()])[..4]);
    Ok(Some(Once { key: known, fingerprint: sum(&[&asked, body]) }))
}

fn not_kept(reason: NotKept) -> Problem {
    match reason {
        // Policy was asked before; what is refused now is that nobody may get it.
        NotKept::Refused(reply) if reply.code == 550 => Problem::invalid(reply.text),
        NotKept::Refused(reply) => Problem::from_reply(&reply),
        NotKept::OtherContent => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "the key was used for another message",
            "this Idempotency-Key came with another body within the last day: use a key for one message only",
        ),
        NotKept::InProgress => Problem::new(
            StatusCode::CONFLICT,
            "in-progress",
            "the same message is being taken",
            "another call with this Idempotency-Key has not been answered yet: ask again in a moment",
        ),
    }
}
