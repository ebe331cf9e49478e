//! Whether a host's certificate is the one that its TLSA records promise (DANE, RFC 6698, for SMTP as RFC 7672
//! has it). OpenSSL's own verifier decides; this package hands it the records and the certificates.
//!
//! Which records there are, and that DNSSEC vouches for them, is the caller's business. What is promised here: a chain
//! that is accepted matches a record of usage DANE-TA(2) or DANE-EE(3); records of other usages, and those that cannot be
//! read, match nothing.

mod record;
mod verifier;

pub use record::{Tlsa, Usable};
pub use verifier::{DaneError, Fault, Match, Rejected, Verifier};
