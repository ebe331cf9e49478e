//! The doors, opened on loopback and talked to by raw sockets.

mod common;
mod limits;
mod messages;
mod proxies;
mod security;
