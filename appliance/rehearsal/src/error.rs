//! What can go wrong with a rehearsal itself; what goes wrong inside it is in the summary.

/// Why a rehearsal could not be held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The book of providers cannot be read.
    #[error("the rehearsal's rule book is wrong: {0}")]
    RuleBook(String),
    /// Names or the name server.
    #[error("the simulated DNS cannot be set up: {0}")]
    Names(String),
    /// Keys or certificates.
    #[error("keys or certificates of the rehearsal: {0}")]
    Certificates(String),
    /// Files or sockets; says which.
    #[error("{0}")]
    Io(String),
    /// The owner's configuration.
    #[error("{0}")]
    Configuration(String),
    /// The daemon.
    #[error("{0}")]
    Daemon(String),
    /// Somebody ended it.
    #[error("the rehearsal was stopped before its end")]
    Stopped,
}
