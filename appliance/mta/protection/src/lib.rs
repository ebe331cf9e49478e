//! What must protect mail on its way to a domain, and the reports that tell domains how it went.
//!
//! MTA-STS (RFC 8461): policies are parsed, kept over restarts and renewed; a policy that was once seen is kept to its
//! end, whatever an attacker does to the DNS or to the web server in between. TLS reports (RFC 8460): sessions are
//! counted for each domain and UTC day and become one report. The states are pure; files and HTTPS are thin edges.

pub mod https;
pub mod reports;
pub mod sts;
