//! The pages behind `List-Unsubscribe`: `POST /u/TOKEN` is one click (RFC 8058 §3.2), `GET` asks a person for one.
//!
//! Following a link changes nothing, because machines follow links; only the POST does. No cookie, no redirect, no
//! script, nothing from elsewhere, and the address is not shown: whoever was forwarded a mail learns nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequest as _, Multipart, Path, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use postkeep_intake::{Click, Gatekeeper};

use crate::door::Shared;
use crate::messages::Client;

/// Where a link leads.
pub(crate) const PATH: &str = "/u/{token}";
/// Largest body of a POST, in octets; one click has 26, as a form of several parts some 200.
const LARGEST_BODY: usize = 8 * 1024;
/// A body takes no longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Field and value of one click.
const FIELD: (&str, &str) = ("List-Unsubscribe", "One-Click");
/// Nothing is loaded, run, framed or sent elsewhere.
const POLICY: &str = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The page with the button.
pub(crate) async fn ask<G: Gatekeeper>(State(shared): State<Arc<Shared<G>>>, Path(token): Path<String>) -> Response {
    if !shared.gatekeeper.is_unsubscribe_token(&token) {
        return unknown();
    }
    let form = format!(
        "<p>Do you want to get no more mail of this kind?</p>\n<form method=\"post\">\n<input type=\"hidden\" name=\"{}\" value=\"{}\">\n\
         <button type=\"submit\">Unsubscribe</button>\n</form>",
        FIELD.0, FIELD.1
    );
    page(StatusCode::OK, "Unsubscribe", &form)
}

/// One click: of a mail program, or of the button.
pub(crate) async fn unsubscribe<G: Gatekeeper>(
    State(shared): State<Arc<Shared<G>>>,
    Path(token): Path<String>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
) -> Response {
    match tokio::time::timeout(PATIENCE, is_one_click(request)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => {
            let text = "<p>The request does not say List-Unsubscribe=One-Click. Nothing was changed.</p>";
            return page(StatusCode::BAD_REQUEST, "Not unsubscribed", text);
        }
        Ok(Err(status)) => {
            return page(status, "Not unsubscribed", "<p>The request cannot be read. Nothing was changed.</p>");
        }
        Err(_) => {
            let text = "<p>The request took too long. Nothing was changed.</p>";
            return page(StatusCode::REQUEST_TIMEOUT, "Not unsubscribed", text);
        }
    }
    // In a task of its own: a client that hangs up does not take back what it asked for.
    let done = tokio::spawn(async move { shared.gatekeeper.unsubscribe(&token, client.address).await });
    match done.await {
        Ok(Ok(Click::Done)) => page(StatusCode::OK, "Unsubscribed", "<p>You will get no more mail of this kind.</p>"),
        Ok(Ok(Click::UnderWay)) => {
            let text = "<p>You will get no more mail of this kind, but for one that is arriving at this moment.</p>";
            page(StatusCode::ACCEPTED, "Unsubscribed", text)
        }
        Ok(Ok(Click::Unknown)) => unknown(),
        Ok(Err(_)) | Err(_) => {
            let text = "<p>This could not be kept just now. Please try again in a minute.</p>";
            let mut response = page(StatusCode::SERVICE_UNAVAILABLE, "Not unsubscribed", text);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
            response
        }
    }
}

/// What may be done with a link.
pub(crate) async fn options() -> Response {
    (StatusCode::NO_CONTENT, [(ALLOW, "GET, HEAD, POST, OPTIONS")]).into_response()
}

/// Whether the form has the one field that RFC 8058 knows, as `application/x-www-form-urlencoded` or as parts.
async fn is_one_click(request: Request) -> Result<bool, StatusCode> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST_BODY).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data") {
        return Ok(has_field(&body));
    }
    let request = Request::from_parts(head, Body::from(body));
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| StatusCode::BAD_REQUEST)?;
    while let Some(field) = form.next_field().await.map_err(|_| StatusCode::BAD_REQUEST)? {
        let is_field = field.name() == Some(FIELD.0);
        let value = field.bytes().await.map_err(|_| StatusCode::BAD_REQUEST)?;
        if is_field && value.trim_ascii() == FIELD.1.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Neither name nor value has anything that a form would have to encode.
fn has_field(body: &Bytes) -> bool {
    body.split(|octet| *octet == b'&').any(|pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(FIELD.0.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) == Some(FIELD.1.as_bytes())
    })
}

fn unknown() -> Response {
    page(StatusCode::NOT_FOUND, "Not found", "<p>This link is not one of ours, or it is not complete.</p>")
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n</head>\n\
         <body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    );
    let mut response = (status, text).into_response();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(kind: &str, body: &str) -> Request {
        Request::builder().header(CONTENT_TYPE, kind).body(Body::from(body.to_owned())).expect("a request")
    }

    #[tokio::test]
    async fn one_click_is_heard_as_a_form_and_as_parts_and_nothing_else_is() {
        let form = "application/x-www-form-urlencoded";
        let parts = "multipart/form-data; boundary=x";
        let part = |name: &str, value: &str| {
            format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--x--\r\n")
        };
        for (kind, body, expected) in [
            (form, "List-Unsubscribe=One-Click".to_owned(), Ok(true)),
            (form, "a=b&List-Unsubscribe=One-Click\r\n".to_owned(), Ok(true)),
            (parts, part("List-Unsubscribe", "One-Click"), Ok(true)),
            (form, String::new(), Ok(false)),
            (form, "List-Unsubscribe=One-Clicks".to_owned(), Ok(false)),
            (parts, part("List-Unsubscribe", "no"), Ok(false)),
            (parts, "no parts".to_owned(), Err(StatusCode::BAD_REQUEST)),
            (form, "x".repeat(LARGEST_BODY + 1), Err(StatusCode::PAYLOAD_TOO_LARGE)),
        ] {
            assert_eq!(is_one_click(posted(kind, &body)).await, expected, "{kind} {body:.80}");
        }
    }
}
