//! Path and query of a request, read into types; what cannot be read is refused in the words of the call.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::mailgun::Refusal;
use crate::problem::Problem;

/// What stands in the path.
pub(crate) struct Path<T>(pub(crate) T);

/// What stands in the query.
pub(crate) struct Query<T>(pub(crate) T);

/// Whether a call is one of Mailgun's.
pub(crate) fn is_mailgun(path: &str) -> bool {
    path.starts_with("/v3/")
}

/// A problem in the words that a call's clients know: Mailgun's, or a problem document.
pub(crate) fn refuse(path: &str, problem: Problem) -> Response {
    if is_mailgun(path) { Refusal::from(problem).into_response() } else { problem.into_response() }
}

fn unreadable(parts: &Parts, part: &str, why: &str) -> Response {
    let detail = format!("the {part} cannot be read: {why}");
    refuse(parts.uri.path(), Problem::new(StatusCode::BAD_REQUEST, "bad-request", "nothing was done", detail))
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(error) => Err(unreadable(parts, "path", &error.body_text())),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => Err(unreadable(parts, "query", &error.body_text())),
        }
    }
}
