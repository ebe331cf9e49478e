//! What the doors need of the configuration, worked out once: policies by name,
//! password hashes, certificates, limits. A reload makes new tables and swaps them in whole.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use argon2::PasswordHash;
use ipnet::{IpNet, Ipv4Net};
use postkeep_configuration::{self as configuration, Configuration, Listener, ListenerTls};
use postkeep_smtp::data::{BareLineEnds, DataLimits};
use postkeep_smtp::server::Rules;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;
use tokio_rustls::TlsAcceptor;

use crate::admission::{ContentRules, SenderPolicy};

/// Why a configuration cannot be used at the doors.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A listener with TLS names no certificate or no key.
    #[error("listener {address} has TLS but no `{field}`: name the PEM file, or say tls = \"none\"")]
    NoCertificate {
        /// Its address.
        address: SocketAddr,
        /// `certificate` or `key`.
        field: &'static str,
    },
    /// A PEM file cannot be read or holds something else.
    #[error("listener {address}: cannot read {path}: {reason}")]
    Pem {
        /// Its address.
        address: SocketAddr,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key cannot be used together.
    #[error("listener {address}: the certificate and key cannot be used: {reason}")]
    Tls {
        /// Its address.
        address: SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// A password hash is no Argon2id hash in PHC form.
    #[error(
        "credential \"{name}\": the password hash cannot be used ({reason}): make one with `postkeep credential hash`"
    )]
    PasswordHash {
        /// Name of the credential.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Two credentials with one name.
    #[error("credential \"{name}\" is there twice: give each its own name")]
    CredentialTwice {
        /// The name.
        name: String,
    },
}

/// Everything the doors know.
pub(crate) struct Tables {
    pub(crate) doors: HashMap<DoorKey, Arc<Door>>,
    pub(crate) credentials: HashMap<String, Credential>,
    networks: Vec<(IpNet, Arc<SenderPolicy>)>,
    pub(crate) content_rules: ContentRules,
    pub(crate) data_limits: DataLimits,
    pub(crate) connections: usize,
    pub(crate) connections_per_address: u32,
    pub(crate) command_timeout: Duration,
    pub(crate) data_timeout: Duration,
    pub(crate) session_timeout: Duration,
}

/// A listener of the configuration: its address, and which of several with that address it is.
pub(crate) type DoorKey = (SocketAddr, usize);

/// One door.
pub(crate) struct Door {
    pub(crate) rules: Rules,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) implicit_tls: bool,
    pub(crate) require_auth: bool,
    pub(crate) proxies: Vec<IpNet>,
}

/// One credential.
pub(crate) struct Credential {
    /// PHC string, known to be Argon2id.
    pub(crate) hash: Arc<str>,
    pub(crate) policy: Arc<SenderPolicy>,
}

impl Tables {
    pub(crate) fn new(
        configuration: &Configuration,
        tickets: Option<&Arc<dyn ProducesTickets>>,
    ) -> Result<Self, TablesError> {
        let intake = &configuration.intake;
        let credentials = credentials(configuration)?;
        let mut doors = HashMap::new();
        for (key, listener) in door_keys(configuration) {
            doors.insert(key, Arc::new(door(configuration, listener, !credentials.is_empty(), tickets)?));
        }
        let mut networks: Vec<_> = configuration
            .network
            .iter()
            .flat_map(|network| {
                let policy = SenderPolicy::new(
                    &network.name,
                    &network.sender_domains,
                    network.stream.as_deref(),
                    &network.may_choose_streams,
                );
                let policy = Arc::new(policy.with_powermta_headers(network.powermta_headers));
                network.addresses.iter().map(move |addresses| (canonical(*addresses), Arc::clone(&policy)))
            })
            .collect();
        // The narrowest network that holds an address speaks for it.
        networks.sort_by_key(|(addresses, _)| std::cmp::Reverse(addresses.prefix_len()));
        Ok(Self {
            doors,
            credentials,
            networks,
            content_rules: ContentRules::new(configuration),
            data_limits: DataLimits {
                size: intake.message_size.bytes(),
                line_length: intake.line_length as usize,
                bare_line_ends: match intake.bare_line_ends {
                    configuration::BareLineEnds::Refuse => BareLineEnds::Refuse,
                    configuration::BareLineEnds::Repair => BareLineEnds::Repair,
                },
            },
            connections: intake.connections as usize,
            connections_per_address: intake.connections_per_address,
            command_timeout: intake.command_timeout.as_std(),
            data_timeout: intake.data_timeout.as_std(),
            session_timeout: intake.session_timeout.as_std(),
        })
    }

    /// The policy of the network that an address is in.
    pub(crate) fn network(&self, address: IpAddr) -> Option<&Arc<SenderPolicy>> {
        self.networks.iter().find(|(network, _)| network.contains(&address)).map(|(_, policy)| policy)
    }
}

/// The listeners with their keys, in the order of the configuration.
pub(crate) fn door_keys(configuration: &Configuration) -> impl Iterator<Item = (DoorKey, &Listener)> {
    let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
    configuration.listener.iter().map(move |listener| {
        let number = seen.entry(listener.address).or_default();
        let key = (listener.address, *number);
        *number += 1;
        (key, listener)
    })
}

fn credentials(configuration: &Configuration) -> Result<HashMap<String, Credential>, TablesError> {
    let mut credentials = HashMap::new();
    for credential in &configuration.credential {
        let name = credential.name.clone();
        check_hash(&credential.password_hash)
            .map_err(|reason| TablesError::PasswordHash { name: name.clone(), reason })?;
        let policy = SenderPolicy::new(
            &credential.name,
            &credential.sender_domains,
            credential.stream.as_deref(),
            &credential.may_choose_streams,
        )
        .with_powermta_headers(credential.powermta_headers);
        let known = Credential { hash: credential.password_hash.as_str().into(), policy: Arc::new(policy) };
        if credentials.insert(name.clone(), known).is_some() {
            return Err(TablesError::CredentialTwice { name });
        }
    }
    Ok(credentials)
}

fn check_hash(phc: &str) -> Result<(), String> {
    let hash = PasswordHash::new(phc).map_err(|error| error.to_string())?;
    if hash.algorithm != argon2::ARGON2ID_IDENT {
        return Err(format!("its algorithm is {}, not argon2id", hash.algorithm));
    }
    argon2::Params::try_from(&hash).map_err(|error| error.to_string())?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err("it has no salt or no hash".to_owned());
    }
    Ok(())
}

fn door(
    configuration: &Configuration,
    listener: &Listener,
    has_credentials: bool,
    tickets: Option<&Arc<dyn ProducesTickets>>,
) -> Result<Door, TablesError> {
    let intake = &configuration.intake;
    let tls = match listener.tls {
        ListenerTls::None => None,
        ListenerTls::Starttls | ListenerTls::Implicit => Some(acceptor(listener, tickets)?),
    };
    Ok(Door {
        rules: Rules {
            hostname: configuration.hostname.clone(),
            message_size: intake.message_size.bytes(),
            recipients: intake.recipients,
            messages: intake.messages_per_connection,
            idle_commands: intake.idle_commands,
            errors: intake.errors,
            auth_failures: intake.auth_failures,
            starttls: listener.tls == ListenerTls::Starttls,
            auth: tls.is_some() && has_credentials,
        },
        tls,
        implicit_tls: listener.tls == ListenerTls::Implicit,
        require_auth: listener.require_auth,
        proxies: listener.proxy_protocol_from.iter().copied().map(canonical).collect(),
    })
}

/// A network of IPv4-mapped addresses is the IPv4 network: clients are looked up by their canonical address.
fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(address) => IpNet::from(Ipv4Net::new_assert(address, v6.prefix_len() - 96)),
            None => network,
        },
        _ => network,
    }
}

fn acceptor(listener: &Listener, tickets: Option<&Arc<dyn ProducesTickets>>) -> Result<TlsAcceptor, TablesError> {
    let files = (listener.certificate.as_deref(), listener.key.as_deref());
    let mut config = server_tls(listener.address, files)?;
    if let Some(tickets) = tickets {
        config.ticketer = Arc::clone(tickets);
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS for a server at `address` with these PEM files, chain and key.
///
/// # Errors
/// A file is missing or cannot be used.
pub fn server_tls(
    address: SocketAddr,
    (certificate, key): (Option<&Path>, Option<&Path>),
) -> Result<rustls::ServerConfig, TablesError> {
    let certificate_path = certificate.ok_or(TablesError::NoCertificate { address, field: "certificate" })?;
    let key_path = key.ok_or(TablesError::NoCertificate { address, field: "key" })?;
    let pem_error = |path: &Path, reason: String| TablesError::Pem { address, path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(certificate_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(certificate_path, error.to_string()))?;
    if chain.is_empty() {
        return Err(pem_error(certificate_path, "it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| pem_error(key_path, error.to_string()))?;
    let tls_error = |error: rustls::Error| TablesError::Tls { address, reason: error.to_string() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(tls_error)
}
