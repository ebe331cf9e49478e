//! Under construction.
#![allow(missing_docs, clippy::unused_async, clippy::todo)]
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use postkeep_configuration::Configuration;
use crate::Gatekeeper;

pub struct Doors<G: Gatekeeper> { gatekeeper: Arc<G> }
#[derive(Debug, thiserror::Error)]
pub enum DoorsError {
    #[error("{0}")]
    Other(String),
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseSummary { pub finished: usize, pub aborted: usize }
impl<G: Gatekeeper> Doors<G> {
    /// Binds every configured listener; must be called inside a tokio runtime.
    pub fn open(configuration: &Configuration, gatekeeper: Arc<G>) -> Result<Self, DoorsError> { let _ = configuration; Ok(Self { gatekeeper }) }
    /// The bound addresses in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> { Vec::new() }
    pub fn reload(&self, configuration: &Configuration) -> Result<(), DoorsError> { let _ = configuration; let _ = &self.gatekeeper; Ok(()) }
    /// Number of open connections.
    pub fn connections(&self) -> usize { 0 }
    pub async fn close(&self, grace: Duration) -> CloseSummary { let _ = grace; CloseSummary { finished: 0, aborted: 0 } }
}
