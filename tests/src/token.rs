//! The access token that tests use at the HTTP doors.

/// The token.
pub const TOKEN: &str = "postkeep_test-token";
/// Its hash as the configuration has it: `printf postkeep_test-token | sha256sum`.
pub const HASH: &str = "sha256:633035828959f2692018575fd219d78d440d55c701a434be45df4500b4b74746";
