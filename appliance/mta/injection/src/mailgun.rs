//! Mailgun's way of sending: `POST /v3/{domain}/messages` and `/messages.mime`, so that a client of Mailgun's
//! works when its address is changed. The user of Basic authentication is `api`, its password a token.
//!
//! What would change the meaning of a message and is not there is refused (`o:deliverytime`, `template`);
//! what only asks for counting (`o:tracking`, `o:tag`) is taken and does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Extension, Form, FromRequest as _, Multipart, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postkeep_composition::{Style, Values};
use postkeep_intake::Gatekeeper;
use postkeep_intake::admission::SenderPolicy;
use postkeep_smtp::{header, mailbox};
use serde::Deserialize;
use serde_json::json;

use crate::asked::Path;
use crate::bounded::{Word, table};
use crate::door::Shared;
use crate::messages::{Client, RawEnvelope, Taker, keep};
use crate::problem::Problem;
use crate::request::{
    AttachmentRequest, MOST_RECIPIENTS, MOST_VALUES, MailboxParts, MailboxRequest, MessageRequest, name_and_address,
};

/// Options that change nothing here: there is no counting of clicks and opens.
const IDLE_OPTIONS: [&str; 8] = [
    "o:tag",
    "o:tracking",
    "o:tracking-clicks",
    "o:tracking-opens",
    "o:dkim",
    "o:tracking-pixel-location-top",
    "o:campaign",
    "o:skip-verification",
];
/// Fields of one form.
const MOST_FIELDS: usize = 5000;

/// One field of a form.
pub(crate) struct Field {
    pub(crate) name: String,
    filename: Option<String>,
    content_type: Option<String>,
    octets: Bytes,
}

/// What is said when a request cannot be carried out.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(json!({ "message": self.1 }))).into_response();
        if self.0 == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"postkeep\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Mailgun knows one status for all that is wrong with a message.
        let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
        Self(status, problem.detail)
    }
}

pub(crate) fn bad(detail: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, detail.into())
}

pub(crate) async fn messages<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path(domain): Path<String>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    request: Request,
) -> Response {
    answer(shared, domain, client, policy, request, false).await.unwrap_or_else(IntoResponse::into_response)
}

pub(crate) async fn mime<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path(domain): Path<String>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(policy): Extension<Arc<SenderPolicy>>,
    request: Request,
) -> Response {
    answer(shared, domain, client, policy, request, true).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer<G: Gatekeeper>(
    shared: Arc<Shared<G>>,
    domain: String,
    client: Client,
    policy: Arc<SenderPolicy>,
    request: Request,
    is_whole: bool,
) -> Result<Response, Refusal> {
    let tables = shared.tables.load_full();
    if !policy.allows_domain(&domain.to_ascii_lowercase()) {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("Domain not found: {domain}")));
    }
    shared.gatekeeper.may_accept(0).map_err(|reply| Problem::from_reply(&reply))?;
    let fields = fields(request).await?;
    let is_test = testmode(&fields)?;
    let id = shared.gatekeeper.next_id();
    let taker = Taker { shared: Arc::clone(&shared), tables, policy, client, id };
    let taken = taker
        .work(move |taker| if is_whole { whole(taker, fields) } else { Ok(taker.compose(parts(fields)?)?) })
        .await?;
    let message_id = taken.submission.message_id.clone();
    if !is_test {
        keep(&shared, taken.submission, None).await?;
    }
    Ok(Json(json!({ "id": message_id, "message": "Queued. Thank you." })).into_response())
}

/// The password of Basic authentication (RFC 7617), whoever its user says to be.
pub(crate) fn basic(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    Some(text.split_once(':')?.1.to_owned())
}

pub(crate) async fn fields(request: Request) -> Result<Vec<Field>, Refusal> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("multipart/form-data") {
        let (head, body) = request.into_parts();
        // The guard has read it, so it is as large as it may be.
        let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| bad(error.to_string()))?;
        if memchr::memchr_iter(b'&', &body).count() >= MOST_FIELDS {
            return Err(bad(format!("more than {MOST_FIELDS} fields")));
        }
        let request = Request::from_parts(head, body.into());
        let Form(pairs) = Form::<Vec<(String, String)>>::from_request(request, &())
            .await
            .map_err(|error| Refusal(error.status(), error.body_text()))?;
        let fields = pairs
            .into_iter()
            .map(|(name, value)| Field { name, filename: None, content_type: None, octets: value.into() })
            .collect();
        return Ok(fields);
    }
    let mut form =
        Multipart::from_request(request, &()).await.map_err(|error| Refusal(error.status(), error.body_text()))?;
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| Refusal(error.status(), error.body_text()))? {
        if fields.len() >= MOST_FIELDS {
            return Err(bad(format!("more than {MOST_FIELDS} fields")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let filename = field.file_name().map(str::to_owned);
        let content_type = field.content_type().map(str::to_owned);
        let octets = field.bytes().await.map_err(|error| Refusal(error.status(), error.body_text()))?;
        fields.push(Field { name, filename, content_type, octets });
    }
    Ok(fields)
}

/// Whether nothing is to be sent. A word that is not understood must not send.
fn testmode(fields: &[Field]) -> Result<bool, Refusal> {
    let Some(field) = fields.iter().find(|field| field.name == "o:testmode") else { return Ok(false) };
    match text(field)?.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" | "" => Ok(false),
        other => Err(bad(format!("o:testmode is yes or no, not {other:?}"))),
    }
}

pub(crate) fn text(field: &Field) -> Result<String, Refusal> {
    String::from_utf8(field.octets.to_vec()).map_err(|_| bad(format!("{} is not UTF-8", field.name)))
}

/// Addresses of a field, as a header has them.
fn addresses(field: &Field) -> Result<Vec<MailboxRequest>, Refusal> {
    let value = text(field)?;
    let addresses: Vec<MailboxRequest> =
        split(&value).take(MOST_RECIPIENTS + 1).map(|one| MailboxRequest::Text(one.to_owned())).collect();
    if addresses.len() > MOST_RECIPIENTS {
        return Err(bad(format!("{} has more than {MOST_RECIPIENTS} addresses: make several calls", field.name)));
    }
    Ok(addresses)
}

/// A field may come several times; all of them together have no more addresses than one may.
fn extend(list: &mut Vec<MailboxRequest>, field: &Field) -> Result<(), Refusal> {
    list.extend(addresses(field)?);
    if list.len() > MOST_RECIPIENTS {
        return Err(bad(format!("{} has more than {MOST_RECIPIENTS} addresses: make several calls", field.name)));
    }
    Ok(())
}

/// Parts between commas that stand outside quotes and brackets.
fn split(value: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut depth) = (false, 0i32);
    value
        .split(move |letter| {
            match letter {
                '"' => is_quoted = !is_quoted,
                '<' if !is_quoted => depth += 1,
                '>' if !is_quoted => depth -= 1,
                _ => {}
            }
            letter == ',' && !is_quoted && depth <= 0
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// The fields as a request of our own.
fn parts(fields: Vec<Field>) -> Result<MessageRequest, Refusal> {
    let mut request = MessageRequest { style: Style::Percent, ..MessageRequest::default() };
    let (mut from, mut variables) = (None, None);
    for field in fields {
        match field.name.as_str() {
            "from" => match <[MailboxRequest; 1]>::try_from(addresses(&field)?) {
                Ok([one]) => from = Some(one),
                Err(_) => return Err(bad("from is one address")),
            },
            "to" => extend(&mut request.to, &field)?,
            "cc" => extend(&mut request.cc, &field)?,
            "bcc" => extend(&mut request.bcc, &field)?,
            "h:Reply-To" | "h:reply-to" => extend(&mut request.reply_to, &field)?,
            "subject" => request.subject = text(&field)?,
            "text" => request.text = Some(text(&field)?),
            "html" => request.html = Some(text(&field)?),
            "recipient-variables" => {
                let value = text(&field)?;
                let Variables(parsed) = serde_json::from_str(&value)
                    .map_err(|error| bad(format!("recipient-variables is not a JSON object of objects: {error}")))?;
                variables = Some(parsed);
            }
            "attachment" | "inline" => {
                let filename = field.filename.clone().unwrap_or_else(|| "attachment".to_owned());
                request.attachments.push(AttachmentRequest {
                    content_id: (field.name == "inline").then(|| filename.clone()),
                    filename,
                    content_type: field.content_type.clone().unwrap_or_else(|| "application/octet-stream".to_owned()),
                    content: STANDARD.encode(&field.octets),
                });
            }
            "o:testmode" => {}
            name if IDLE_OPTIONS.contains(&name) || name.starts_with("v:") => {}
            name => match name.strip_prefix("h:") {
                Some(header) => {
                    request.headers.insert(header.to_owned(), text(&field)?);
                }
                None => return Err(bad(format!("{name} is not supported here; leave it out"))),
            },
        }
    }
    request.from = from.ok_or_else(|| bad("from parameter is missing"))?;
    if let Some(variables) = variables {
        give(&mut request.to, &variables);
    }
    Ok(request)
}

/// Gives each recipient their variables, and `%recipient%`.
fn give(to: &mut [MailboxRequest], variables: &BTreeMap<String, OneVariables>) {
    for one in to {
        let MailboxRequest::Text(text) = &*one else { continue };
        let (name, address) = name_and_address(text);
        let own = variables.get(address).into_iter().flat_map(|own| &own.0);
        let mut values: Values = own.map(|(name, value)| (name.clone(), value.0.clone())).collect();
        values.insert("recipient".to_owned(), address.to_owned());
        let (address, name) = (address.to_owned(), name.map(str::to_owned));
        *one = MailboxRequest::Parts(MailboxParts { address, name, substitutions: Some(values) });
    }
}

/// `recipient-variables`: by address.
#[derive(Deserialize)]
struct Variables(#[serde(deserialize_with = "table::<MOST_RECIPIENTS, _, _>")] BTreeMap<String, OneVariables>);

/// Of one recipient.
#[derive(Deserialize)]
struct OneVariables(#[serde(deserialize_with = "table::<MOST_VALUES, _, _>")] BTreeMap<String, Word>);

fn whole<G: Gatekeeper>(taker: &Taker<G>, fields: Vec<Field>) -> Result<crate::messages::Taken, Refusal> {
    let mut envelope = RawEnvelope::default();
    let mut message = None;
    for field in fields {
        match field.name.as_str() {
            "to" => {
                let value = text(&field)?;
                let addresses = split(&value).map(|one| name_and_address(one).1.to_owned());
                envelope.to.extend(addresses.take(MOST_RECIPIENTS + 1));
                if envelope.to.len() > MOST_RECIPIENTS {
                    return Err(bad(format!("more than {MOST_RECIPIENTS} recipients: make several calls")));
                }
            }
            "message" => message = Some(field.octets),
            "o:testmode" => {}
            name if IDLE_OPTIONS.contains(&name) || name.starts_with("v:") => {}
            name => return Err(bad(format!("{name} is not supported here; leave it out"))),
        }
    }
    let message = message.ok_or_else(|| bad("message parameter is missing"))?;
    envelope.from = Some(sender_of(&message).ok_or_else(|| bad("the message has no readable From"))?);
    Ok(taker.whole(envelope, &message)?)
}

/// The first address of `From`.
fn sender_of(message: &[u8]) -> Option<String> {
    // Bare line feeds are repaired later; here they only end lines.
    let crlf: Vec<u8>;
    let block = if memchr::memmem::find(message, b"\r\n").is_some() {
        message
    } else {
        crlf = message.split(|octet| *octet == b'\n').flat_map(|line| [line, b"\r\n"]).flatten().copied().collect();
        &crlf
    };
    let field = header::fields(block.get(..header::header_length(block))?).flatten().find(|field| field.is("From"))?;
    let addresses = mailbox::addresses(field.value).ok()?;
    Some(addresses.first()?.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_commas_outside_quotes() {
        let parts: Vec<&str> = split("ann@x.example, \"Lee, Bob\" <bob@x.example>,, c@x.example").collect();
        assert_eq!(parts, ["ann@x.example", "\"Lee, Bob\" <bob@x.example>", "c@x.example"]);
    }

    #[test]
    fn the_sender_of_a_whole_message_is_found_with_either_line_end() {
        for text in [
            "Subject: x\r\nFrom: Ann\r\n <ann@x.example>\r\n\r\nHi",
            "Subject: x\nFrom: Ann <ann@x.example>\n\nFrom: no",
        ] {
            assert_eq!(sender_of(text.as_bytes()).as_deref(), Some("ann@x.example"), "{text:?}");
        }
        assert_eq!(sender_of(b"no header"), None);
    }
}
