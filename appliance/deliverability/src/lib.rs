//! When, from where, how fast and under which signature mail may leave.
//!
//! Everything in here is a pure decision: no sockets, no clock, no randomness. Time is
//! passed in as [`Micros`]. The one function that touches a file reads a signing key.
//!
//! - [`site`][]: an MX set becomes one name.
//! - [`provider`][]: sites belong to providers; their rules are data.
//! - [`limits`][]: what counts for one lane, and whose word it was.
//! - [`pacer`], [`backoff`], [`governor`][]: permits to connect and to send, taken before the act.
//! - [`reply`][]: what a reply means and whom it concerns.
//! - [`dkim`][]: signatures.

pub mod backoff;
pub mod dkim;
pub mod governor;
pub mod limits;
pub mod pacer;
pub mod provider;
pub mod reply;
pub mod site;

/// Wall-clock time in microseconds since the Unix epoch.
pub type Micros = u64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;
/// One day in [`Micros`]; no rate looks back further.
pub const DAY: Micros = 86_400 * SECOND;
