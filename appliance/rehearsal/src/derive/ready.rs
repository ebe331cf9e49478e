//! A configuration that is ready to run, and the doors of the box that runs
//! it, as the campaign finds them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use postkeep_configuration::{Configuration, Http, Listener, ListenerTls, Service};
use rustls::pki_types::CertificateDer;

use crate::Error;
use crate::client::Submission;
use crate::http::HttpDoor;
use crate::list::ListAt;

/// A configuration ready to run.
pub(crate) struct Ready {
    /// The file that `postkeepd` reads.
    pub file: PathBuf,
    /// Where the campaign submits.
    pub submission: Submission,
    /// Where mail that comes back goes in.
    pub comebacks: Submission,
    /// Where the campaign's other part goes in.
    pub http: HttpDoor,
    /// Where records appear.
    pub records: PathBuf,
    /// Who is asked about the suppression list.
    pub list: ListAt,
}

/// What the campaign shows at the doors, and what they must show it.
pub(crate) struct Secrets<'a> {
    /// Name and password for submission.
    pub credential: &'a (String, String),
    /// Token for the HTTP door.
    pub token: &'a str,
    /// Who signed the certificates of the doors.
    pub authority: &'a CertificateDer<'static>,
}

/// The doors of a derived configuration: submission, what comes back, HTTP. A box elsewhere is found at `at`.
pub(crate) fn doors(
    configuration: &Configuration,
    secrets: &Secrets<'_>,
    at: Option<Ipv4Addr>,
) -> Result<(Submission, Submission, HttpDoor), Error> {
    let missing = |what: &str| Error::Configuration(format!("the derived configuration has no {what}"));
    let found = |address: SocketAddr| at.map_or(address, |at| SocketAddr::from((at, address.port())));
    let submission = |listener: &Listener, credential: Option<(String, String)>| Submission {
        address: found(listener.address),
        host: configuration.hostname.clone(),
        credential,
        implicit_tls: listener.tls == ListenerTls::Implicit,
        authority: (listener.tls != ListenerTls::None).then(|| secrets.authority.clone()),
    };
    let back = place_of_back(configuration).ok_or_else(|| missing("listener for what comes back"))?;
    let comebacks = configuration.listener.get(back).ok_or_else(|| missing("listener for what comes back"))?;
    let front = front(configuration, back).ok_or_else(|| missing("listener with TLS"))?;
    let http = configuration.http.iter().find(|door| takes_mail(door)).ok_or_else(|| missing("HTTP door"))?;
    let http = HttpDoor {
        address: found(http.address),
        host: configuration.hostname.clone(),
        token: secrets.token.to_owned(),
        authority: secrets.authority.clone(),
    };
    Ok((submission(front, Some(secrets.credential.clone())), submission(comebacks, None), http))
}

/// The place of the listener that takes what comes back.
pub(super) fn place_of_back(configuration: &Configuration) -> Option<usize> {
    configuration.listener.iter().position(|listener| !listener.require_auth)
}

/// The listener to submit to: another than that for what comes back, with TLS, and best with STARTTLS.
pub(super) fn front(configuration: &Configuration, back: usize) -> Option<&Listener> {
    let secure = || {
        let others = configuration.listener.iter().enumerate().filter(|(place, _)| *place != back);
        others.map(|(_, listener)| listener).filter(|listener| listener.tls != ListenerTls::None)
    };
    secure().find(|listener| listener.tls == ListenerTls::Starttls).or_else(|| secure().next())
}

/// Whether an HTTP door takes mail.
pub(super) fn takes_mail(door: &Http) -> bool {
    door.serve.contains(&Service::Messages)
}
