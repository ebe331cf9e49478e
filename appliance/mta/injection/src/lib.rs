//! Mail in by HTTP: the doors, who may use them, and what a call becomes.
//!
//! `POST /api/v1/messages` takes a message as parts (JSON) or whole (`message/rfc822`). `202` is said when it is
//! durable and not before. `POST /v3/{domain}/messages` does the same in Mailgun's words. What is wrong is said as a problem document (RFC 9457) that names the place, and then
//! nothing was taken. `GET /api/v1/openapi.json` says it for programs.

mod access;
mod door;
mod mailgun;
mod messages;
mod openapi;
mod problem;
mod request;

pub use access::{TOKEN_PREFIX, hash_of};
pub use door::{HttpDoors, HttpError};
