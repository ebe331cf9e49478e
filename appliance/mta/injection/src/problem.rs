//! Problem documents (RFC 9457): what was wrong, where, and what to do.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use postkeep_smtp::Reply;
use schemars::JsonSchema;
use serde::Serialize;

/// A place in a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Fault {
    /// JSON pointer (RFC 6901) into the body.
    pub(crate) pointer: String,
    /// What is wrong there.
    pub(crate) detail: String,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Problem {
    /// `urn:postkeep:problem:` and a word.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) title: &'static str,
    pub(crate) status: u16,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(crate) errors: Vec<Fault>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, word: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:postkeep:problem:{word}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "who are you?",
            "send a token: Authorization: Bearer postkeep_…",
        )
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-message", "the message cannot be taken", detail)
    }

    pub(crate) fn faults(errors: Vec<Fault>) -> Self {
        let detail = match &errors[..] {
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} places are wrong; nothing was taken", many.len()),
        };
        Self { errors, ..Self::invalid(detail) }
    }

    /// What an SMTP client would have been told.
    pub(crate) fn from_reply(reply: &Reply) -> Self {
        let status = match (reply.code, reply.enhanced.map(|code| (code.subject, code.detail))) {
            (421 | 450..460, _) => StatusCode::SERVICE_UNAVAILABLE,
            (552, Some((3, 4))) => StatusCode::PAYLOAD_TOO_LARGE,
            (_, Some((7, 1))) => StatusCode::FORBIDDEN,
            _ => return Self::invalid(&*reply.text),
        };
        let word = match status {
            StatusCode::SERVICE_UNAVAILABLE => "try-later",
            StatusCode::PAYLOAD_TOO_LARGE => "too-large",
            _ => "not-allowed",
        };
        Self::new(status, word, "the message was not taken", &*reply.text)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"postkeep\""));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
            }
            _ => {}
        }
        response
    }
}
