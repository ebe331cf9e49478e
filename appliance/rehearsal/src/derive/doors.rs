//! The doors of a rehearsed configuration: listeners and HTTP doors on
//! loopback, and who may use them.

use std::net::{SocketAddr, TcpListener};

use postkeep_configuration::{Configuration, Credential, Http, Listener, ListenerTls, Service, Token};

use super::Prepared;
use crate::Error;
use crate::certificates::Authority;
use crate::internet::FEEDBACK_ADDRESS;
use crate::rulebook::Certificate;

/// Files of the certificate that all doors have.
const LISTENER_CERTIFICATE: &str = "listener.pem";
const LISTENER_KEY: &str = "listener-key.pem";

impl Prepared {
    /// Moves listeners to loopback with certificates of the rehearsal; the one to submit to.
    /// `back` is the listener for what comes back.
    pub(super) fn doors(&mut self, authority: &Authority, back: usize) -> Result<Listener, Error> {
        let leaf = authority.leaf(&self.configuration.hostname, Certificate::Trusted)?;
        let certificate = self.write(LISTENER_CERTIFICATE, &leaf.certificate_pem)?;
        let key = self.write(LISTENER_KEY, &leaf.key_pem)?;
        let secure = |listener: &Listener| listener.tls != ListenerTls::None;
        let others = |(place, listener): (usize, &Listener)| place != back && secure(listener);
        if !self.configuration.listener.iter().enumerate().any(others) {
            self.notes.push("a listener with STARTTLS was added for the campaign".to_owned());
            self.configuration.listener.push(Listener {
                address: free_address()?,
                tls: ListenerTls::Starttls,
                certificate: None,
                key: None,
                require_auth: true,
                proxy_protocol_from: Vec::new(),
            });
        }
        for (place, listener) in self.configuration.listener.iter_mut().enumerate() {
            if place != back {
                listener.address = free_address()?;
            }
            if secure(listener) {
                listener.certificate = Some(certificate.clone());
                listener.key = Some(key.clone());
            }
            if !listener.proxy_protocol_from.is_empty() {
                listener.proxy_protocol_from.clear();
                self.notes.push("proxy-protocol-from was left out".to_owned());
            }
        }
        let listeners: Vec<&Listener> =
            self.configuration.listener.iter().enumerate().filter(|one| others(*one)).map(|(_, one)| one).collect();
        let best = listeners.iter().find(|listener| listener.tls == ListenerTls::Starttls).or(listeners.first());
        best.map(|listener| (*listener).clone()).ok_or_else(|| Error::Configuration("no listener with TLS".to_owned()))
    }

    /// The place of the listener that takes what comes back, moved to where the simulated DNS says it is.
    pub(super) fn feedback_door(&mut self, port: u16) -> usize {
        let address = SocketAddr::new(FEEDBACK_ADDRESS, port);
        let listeners = &mut self.configuration.listener;
        match listeners.iter().position(|listener| !listener.require_auth) {
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

    /// Moves HTTP doors to loopback with a certificate of the rehearsal; the one to submit to.
    pub(super) fn http_doors(&mut self) -> Result<SocketAddr, Error> {
        let takes_mail = |door: &Http| door.serve.contains(&Service::Messages);
        if !self.configuration.http.iter().any(takes_mail) {
            self.notes.push("an [[http]] door was added for the campaign".to_owned());
            self.configuration.http.push(Http {
                address: free_address()?,
                certificate: None,
                key: None,
                acme: false,
                connections: 100,
                connections_per_address: 100,
                serve: vec![Service::Messages],
            });
        }
        for door in &mut self.configuration.http {
            door.acme = false;
            door.address = free_address()?;
            door.certificate = Some(self.scratch.join(LISTENER_CERTIFICATE));
            door.key = Some(self.scratch.join(LISTENER_KEY));
        }
        let first = self.configuration.http.iter().find(|door| takes_mail(door)).map(|door| door.address);
        first.ok_or_else(|| Error::Configuration("no HTTP door".to_owned()))
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
pub(super) fn token(configuration: &mut Configuration) -> String {
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
        may_suppress: false,
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
