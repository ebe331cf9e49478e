//! Mail in by HTTP: the doors, who may use them, and what a call becomes.
//!
//! `POST /api/v1/messages` takes a message as parts (JSON) or whole (`message/rfc822`). `202` is said when it is
//! durable and not before. `POST /v3/{domain}/messages` does the same in Mailgun's words. What is wrong is said as a problem document (RFC 9457) that names the place, and then
//! nothing was taken. `GET /api/v1/openapi.json` says it for programs. The pages behind `List-Unsubscribe` are here too.

mod access;
mod asked;
mod body;
mod bounded;
mod door;
mod leave;
mod mailgun;
mod mailgun_suppressions;
mod messages;
mod openapi;
mod problem;
mod request;
mod suppressions;
mod unsubscribe;

pub use access::{TOKEN_PREFIX, hash_of};
pub use door::{HttpDoors, HttpError};

/// Reads the JSON of a message as `POST /api/v1/messages` would, and puts its first messages together, one for
/// all recipients or one for each. What the fuzzer throws bytes at.
///
/// # Errors
/// What a caller would be told.
pub fn compose_json(body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let request: request::MessageRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let composed = request::compose(request, "0123", "mail.example.com", "X-Postkeep-Stream", 1_790_000_000)
        .map_err(|faults| format!("{faults:?}"))?;
    match composed.each {
        None => composed.composition.message().map(|message| vec![message]).map_err(|error| error.to_string()),
        Some(each) => {
            let (document, _) =
                postkeep_composition::Document::new(&composed.composition, &each).map_err(|error| error.to_string())?;
            // Once it is taken, none of them can fail.
            (0..each.len().min(8)).map(|number| document.message(number).map_err(|error| error.to_string())).collect()
        }
    }
}
