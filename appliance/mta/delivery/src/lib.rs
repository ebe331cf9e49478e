//! One outgoing SMTP connection: bind, connect, STARTTLS, EHLO, and then mail
//! transactions until one side has enough.
//!
//! The dialogue itself is [`postkeep_smtp::client`]; this package is its thin
//! edge. It copies no content, writes each group of commands with one system
//! call where the kernel lets it, bounds every wait, and gives every recipient
//! exactly one [`Outcome`].

mod alarm;
mod connection;
mod connector;
mod content;
mod old_tls;
mod stream;
mod tls;
mod wire;

pub use connection::{Connection, IdleEnd, Transaction, TransactionResult};
pub use connector::{Connector, ConnectorError, OpenError, Promise, Target, Timeouts, TlsFault};
pub use postkeep_dane::{Match, Tlsa};
pub use postkeep_smtp::capabilities::Capabilities;
pub use postkeep_smtp::client::{Outcome, Stage};
pub use tls::TlsResult;
