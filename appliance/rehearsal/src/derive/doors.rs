//! The doors of a rehearsed configuration, listeners and HTTP doors: on
//! loopback at free ports, or for a box elsewhere at all its addresses and the
//! ports that they have anyway. And who may use them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use postkeep_configuration::{Configuration, Credential, Http, Listener, ListenerTls, Service, Token};

use super::ready::{front, place_of_back, takes_mail};
use super::{Prepared, Surroundings};
use crate::Error;
use crate::certificates::Authority;
use crate::rulebook::Certificate;

/// Files of the certificate that all doors have.
const LISTENER_CERTIFICATE: &str = "listener.pem";
const LISTENER_KEY: &str = "listener-key.pem";
/// Ports for a listener, and for an HTTP door, that a box elsewhere gets.
const LISTENER_PORTS: [u16; 3] = [587, 465, 2525];
const HTTP_PORTS: [u16; 3] = [443, 8443, 9443];

impl Prepared {
    /// Moves listeners and HTTP doors, with certificates of the rehearsal, and adds those that are needed.
    pub(super) fn move_doors(&mut self, around: &Surroundings<'_>) -> Result<(), Error> {
        self.drop_doubles();
        let back = self.feedback_door(SocketAddr::new(around.back, around.port));
        self.listeners(around.authority, back)?;
        self.http_doors()?;
        if self.setting.elsewhere.is_none() {
            return Ok(());
        }
        // Everything is at all addresses of the box, where two doors cannot share a port.
        let mut ports = BTreeSet::new();
        let doors = self.configuration.listener.iter().map(|listener| listener.address);
        match doors.chain(self.configuration.http.iter().map(|door| door.address)).find(|at| !ports.insert(at.port())) {
            None => Ok(()),
            Some(at) => Err(Error::Configuration(format!(
                "two doors of the box would have port {}, one of them for what comes back to port {}; give the other another port",
                at.port(),
                around.port
            ))),
        }
    }

    /// A box elsewhere listens at all its IPv4 addresses: of several doors at one port the first stays.
    fn drop_doubles(&mut self) {
        if self.setting.elsewhere.is_none() {
            return;
        }
        let mut ports = BTreeSet::new();
        let before = self.configuration.listener.len() + self.configuration.http.len();
        self.configuration.listener.retain(|listener| ports.insert(listener.address.port()));
        self.configuration.http.retain(|door| ports.insert(door.address.port()));
        if self.configuration.listener.len() + self.configuration.http.len() < before {
            self.notes.push("of several doors at one port, the first was kept".to_owned());
        }
    }

    /// Where a door goes that has been at `before`, or is new.
    fn address(&self, before: Option<SocketAddr>, ports: &[u16]) -> Result<SocketAddr, Error> {
        if self.setting.elsewhere.is_none() {
            return free_address();
        }
        let taken = |port: &u16| {
            self.configuration.listener.iter().any(|listener| listener.address.port() == *port)
                || self.configuration.http.iter().any(|door| door.address.port() == *port)
        };
        let port = before.map(|before| before.port()).or_else(|| ports.iter().copied().find(|port| !taken(port)));
        port.map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).ok_or_else(|| {
            Error::Configuration(format!(
                "a door is needed, but all of the ports {ports:?} are taken; free one of them"
            ))
        })
    }

    fn listeners(&mut self, authority: &Authority, back: usize) -> Result<(), Error> {
        let leaf = authority.leaf(&self.configuration.hostname, Certificate::Trusted)?;
        let certificate = self.write(LISTENER_CERTIFICATE, &leaf.certificate_pem)?;
        let key = self.write(LISTENER_KEY, &leaf.key_pem)?;
        if front(&self.configuration, back).is_none() {
            self.notes.push("a listener with STARTTLS was added for the campaign".to_owned());
            let address = self.address(None, &LISTENER_PORTS)?;
            self.configuration.listener.push(Listener {
                address,
                tls: ListenerTls::Starttls,
                certificate: None,
                key: None,
                require_auth: true,
                proxy_protocol_from: Vec::new(),
            });
        }
        for place in 0..self.configuration.listener.len() {
            let before = self.configuration.listener.get(place).map(|listener| listener.address);
            let address = if place == back { None } else { Some(self.address(before, &LISTENER_PORTS)?) };
            let Some(listener) = self.configuration.listener.get_mut(place) else { continue };
            listener.address = address.unwrap_or(listener.address);
            if listener.tls != ListenerTls::None {
                listener.certificate = Some(certificate.clone());
                listener.key = Some(key.clone());
            }
            if !listener.proxy_protocol_from.is_empty() {
                listener.proxy_protocol_from.clear();
                self.notes.push("proxy-protocol-from was left out".to_owned());
            }
        }
        Ok(())
    }

    /// The place of the listener that takes what comes back, moved to where the simulated DNS says it is.
    fn feedback_door(&mut self, said: SocketAddr) -> usize {
        let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = if self.setting.elsewhere.is_some() { SocketAddr::new(everywhere, said.port()) } else { said };
        let found = place_of_back(&self.configuration);
        let listeners = &mut self.configuration.listener;
        match found {
            Some(place) => {
                if let Some(listener) = listeners.get_mut(place) {
                    listener.address = address;
                }
                place
            }
            None => {
                self.notes.push("a listener without require-auth was added for what comes back".to_owned());
                listeners.push(Listener {
                    address,
                    tls: ListenerTls::None,
                    certificate: None,
                    key: None,
                    require_auth: false,
                    proxy_protocol_from: Vec::new(),
                });
                listeners.len() - 1
            }
        }
    }

    fn http_doors(&mut self) -> Result<(), Error> {
        if !self.configuration.http.iter().any(takes_mail) {
            self.notes.push("an [[http]] door was added for the campaign".to_owned());
            let address = self.address(None, &HTTP_PORTS)?;
            self.configuration.http.push(Http {
                address,
                certificate: None,
                key: None,
                acme: false,
                connections: 100,
                connections_per_address: 100,
                serve: vec![Service::Messages],
            });
        }
        let (certificate, key) = (self.shown(LISTENER_CERTIFICATE), self.shown(LISTENER_KEY));
        for place in 0..self.configuration.http.len() {
            let before = self.configuration.http.get(place).map(|door| door.address);
            let address = self.address(before, &HTTP_PORTS)?;
            let Some(door) = self.configuration.http.get_mut(place) else { continue };
            door.acme = false;
            door.address = address;
            door.certificate = Some(certificate.clone());
            door.key = Some(key.clone());
        }
        // A box elsewhere has no control socket that could be asked.
        if self.setting.elsewhere.is_some()
            && let Some(door) = self.configuration.http.iter_mut().find(|door| takes_mail(door))
            && !door.serve.contains(&Service::Suppressions)
        {
            door.serve.push(Service::Suppressions);
            self.notes.push("the [[http]] door of the campaign answers about suppressions, too".to_owned());
        }
        Ok(())
    }
}

pub(super) fn credential(configuration: &mut Configuration) -> Result<(String, String), Error> {
    let mut name = "rehearsal".to_owned();
    while configuration.credential.iter().any(|credential| credential.name == name) {
        name.push('-');
    }
    let password = secret();
    let password_hash = postkeep_configuration::hash_password(&password)
        .map_err(|error| Error::Configuration(format!("cannot hash the campaign's password: {error}")))?;
    configuration.credential.push(Credential {
        name: name.clone(),
        password_hash,
        sender_domains: vec!["*".to_owned()],
        stream: None,
        may_choose_streams: vec!["*".to_owned()],
        powermta_headers: false,
    });
    Ok((name, password))
}

/// Adds a token for the campaign, and says it.
pub(super) fn token(configuration: &mut Configuration, may_suppress: bool) -> String {
    let mut name = "rehearsal-http".to_owned();
    while configuration.token.iter().any(|token| token.name == name) {
        name.push('-');
    }
    let token = format!("postkeep_{}", secret());
    configuration.token.push(Token {
        name,
        hash: format!("sha256:{}", crate::content::whole_sum(token.as_bytes())),
        sender_domains: vec!["*".to_owned()],
        stream: None,
        may_choose_streams: vec!["*".to_owned()],
        powermta_headers: false,
        may_suppress,
    });
    token
}

/// Something that nobody guesses.
fn secret() -> String {
    crate::content::sum(format!("{:?}{}", std::time::SystemTime::now(), fastrand::u64(..)).as_bytes())
}

/// A loopback address with a port that was free a moment ago.
pub(super) fn free_address() -> Result<SocketAddr, Error> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| Error::Io(format!("cannot find a free port on 127.0.0.1: {error}")))
}
