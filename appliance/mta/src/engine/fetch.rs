//! Fetches a file over HTTPS with the box's own resolver and roots: for updates from a mirror, and for reports.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use postkeep_protection::https::Request;
use tokio::sync::mpsc::Sender;

use super::{Engine, Inner};

impl Engine {
    /// Passes what is at `url` on piece by piece: at most that many octets, within that time.
    ///
    /// # Errors
    /// A sentence; what was passed on by then is part of nothing whole.
    pub async fn fetch(&self, url: &str, most: usize, within: Duration, pieces: Sender<Bytes>) -> Result<(), String> {
        let place = self.0.place_of(url).await?;
        let request = Request {
            host: &place.host,
            port: place.port,
            addresses: &place.addresses,
            path: &place.path,
            post: None,
            most,
            within,
        };
        let client = self.0.policies.client();
        client.fetch(&request, pieces).await.map_err(|error| error.to_string())
    }
}

/// Where a URL leads.
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Inner {
    /// Takes an `https` URL apart and looks its host up. Addresses that are nobody's are left out.
    pub(super) async fn place_of(&self, url: &str) -> Result<Place, String> {
        let rest = url.strip_prefix("https://").ok_or("it is no https URL")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| "the port is no number")?),
            None => (authority, 443),
        };
        let resolver = self.resolver.load_full();
        let found = resolver.addresses(host).await.map_err(|error| error.to_string())?;
        let addresses = found.addresses.into_iter().filter(|address| !resolver.is_nowhere(*address)).collect();
        let path = if path.is_empty() { "/" } else { path };
        Ok(Place { host: host.to_owned(), port, path: path.to_owned(), addresses })
    }
}
