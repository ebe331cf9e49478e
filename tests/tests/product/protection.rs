//! What protects mail on its way: DANE with zones that Knot DNS signs and OpenSSL's `s_client` as second opinion, MTA-STS
//! with policies over HTTPS, REQUIRETLS, and the reports that domains get about it.

mod dane;
mod mta_sts;
mod tls_reports;

use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
