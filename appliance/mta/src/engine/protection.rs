//! What mail to a domain must be protected by, and whether a connection gives it that.
//!
//! DANE belongs to a host: it is settled when a connection to it is opened, for whatever mail. MTA-STS belongs to a
//! domain, and many domains share a host: it is asked again for each domain whose mail a connection is to carry, and mail
//! that a connection is not good enough for gets one of its own. A policy that cannot be met delays the mail of its own
//! domain and nothing else.

use std::sync::Arc;

use parking_lot::Mutex;
use postkeep_configuration::{Configuration, OutboundTls};
use postkeep_delivery::{Connection, TlsFault};
use postkeep_protection::https::{Client, Request};
use postkeep_protection::reports::{Applied, Failure, ResultType};
use postkeep_protection::sts::{self, Answer, Cache, CachedPolicy, Mode, Policy, Standing, Store};
use postkeep_smtp::envelope::TlsRequest;
use postkeep_smtp::reply::Reply;
use postkeep_spool::MessageId;
use std::time::Duration;

use super::Inner;
use super::settle::Journey;
use super::state::Batch;
use crate::clock;
use crate::message::Message;

/// Policies that are due are fetched again this often.
const REFRESH_EVERY: Duration = Duration::from_secs(1800);
/// Policies that are fetched side by side then.
const REFRESHED_AT_ONCE: usize = 16;

/// The policies of domains, and who fetches them.
pub(crate) struct Policies {
    cache: Mutex<Cache>,
    store: Store,
    client: arc_swap::ArcSwap<Client>,
}

impl Policies {
    pub(super) fn open(configuration: &Configuration, client: Client) -> std::io::Result<Self> {
        let store = Store::open(&configuration.mta_sts.directory)?;
        let kept = store.load();
        Ok(Self { cache: Mutex::new(Cache::new(kept)), store, client: arc_swap::ArcSwap::from_pointee(client) })
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.load_full()
    }

    pub(super) fn set_client(&self, client: Client) {
        self.client.store(Arc::new(client));
    }
}

/// What a connection was held to for a domain, as records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// The host's TLSA records.
    Dane,
    /// TLS because of TLSA records that cannot be used.
    DaneEncrypted,
    /// The domain's policy.
    MtaSts,
    /// The domain's policy, which only wants reports.
    MtaStsTesting,
    /// The configuration.
    Configured(OutboundTls),
}

impl Protection {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Dane => "dane",
            Self::DaneEncrypted => "dane-encrypted",
            Self::MtaSts => "mta-sts",
            Self::MtaStsTesting => "mta-sts-testing",
            Self::Configured(OutboundTls::None) => "none",
            Self::Configured(OutboundTls::Opportunistic) => "opportunistic",
            Self::Configured(OutboundTls::Required) => "required",
            Self::Configured(OutboundTls::Verified) => "verified",
        }
    }
}

impl Inner {
    /// The domain that the mail of a batch goes to.
    pub(super) fn domain_of(&self, batch: &Batch) -> Arc<str> {
        let state = self.state.lock();
        state.queues.key(batch.queue).map_or_else(|| "".into(), |(_, domain)| state.domain_name(domain))
    }

    /// Whether the sender of a batch wants it delivered whatever TLS is like (`TLS-Required: No`, RFC 8689 §4.1).
    pub(super) async fn is_indifferent(&self, batch: &Batch) -> bool {
        let message = match (&batch.message, batch.entries.first()) {
            (Some(message), _) => Arc::clone(message),
            (None, Some(entry)) => match self.read_without_body(MessageId(entry.message)).await {
                Ok(message) => message,
                Err(_) => return false,
            },
            (None, None) => return false,
        };
        message.metadata.envelope.tls == TlsRequest::NotRequired
    }

    /// The policy of a domain that counts now, as far as it has been learnt.
    pub(super) fn policy_of(&self, domain: &str) -> Option<Arc<CachedPolicy>> {
        if !self.configuration.load().mta_sts.enabled {
            return None;
        }
        self.policies.cache.lock().known(domain, u64::from(clock::seconds(clock::now())))
    }

    /// Asks whether a domain has a policy, and fetches it when it is new. Done with the domain's route, before any
    /// connection is opened: a host that serves its policy slowly holds up nobody else's mail.
    pub(super) async fn learn_policy(&self, domain: &Arc<str>) {
        if !self.configuration.load().mta_sts.enabled || domain.starts_with('[') {
            return;
        }
        let now = || u64::from(clock::seconds(clock::now()));
        if let Standing::Known(_) = self.policies.cache.lock().standing(domain, now()) {
            return;
        }
        let answer = match self.resolver.load_full().texts(&sts::record_name(domain)).await {
            Ok(texts) => sts::policy_id(texts.iter().map(Vec::as_slice)).map_or(Answer::None, Answer::Policy),
            Err(error) => {
                log::debug!("mta-sts: {domain}: {error}");
                Answer::Failed
            }
        };
        let standing = self.policies.cache.lock().answered(domain, &answer, now());
        if let (Standing::Fetch, Answer::Policy(id)) = (standing, answer) {
            self.fetch_policy(domain, &id).await;
        }
    }

    /// Fetches a policy and keeps it. What counts afterwards may be an older one.
    async fn fetch_policy(&self, domain: &str, id: &str) {
        let policy = match self.fetch(domain).await {
            Ok(policy) => Some(policy),
            Err((result, why)) => {
                log::warn!("mta-sts: the policy of {domain} cannot be had: {why}");
                let failure = Failure {
                    result,
                    source: None,
                    host: Some(sts::policy_host(domain)),
                    address: None,
                    reason: Some(why),
                };
                self.count_session(domain, &Applied::Sts { lines: Vec::new(), mx: Vec::new() }, Some(failure));
                None
            }
        };
        let is_new = policy.is_some();
        let now = u64::from(clock::seconds(clock::now()));
        let counts = self.policies.cache.lock().fetched(domain, id, policy, now);
        if let (true, Some(cached), Some(engine)) = (is_new, &counts, self.me.upgrade()) {
            let cached = Arc::clone(cached);
            let kept = tokio::task::spawn_blocking(move || engine.policies.store.keep(&cached)).await;
            if let Ok(Err(error)) = kept {
                log::error!("mta-sts: the policy of {domain} cannot be kept over a restart: {error}");
            }
        }
    }

    async fn fetch(&self, domain: &str) -> Result<Policy, (ResultType, String)> {
        let settings = self.configuration.load().mta_sts.clone();
        let host = sts::policy_host(domain);
        let failed = |why: String| (ResultType::StsPolicyFetchError, why);
        let addresses = self.resolver.load_full().addresses(&host).await.map_err(|error| failed(error.to_string()))?;
        let request = Request {
            host: &host,
            port: settings.port,
            addresses: &addresses.addresses,
            path: sts::POLICY_PATH,
            post: None,
            most: sts::LARGEST_POLICY,
            within: settings.timeout.as_std(),
        };
        let octets = self.policies.client().request(&request).await.map_err(|error| {
            let result = match error {
                postkeep_protection::https::HttpsError::Tls(_) => ResultType::StsWebpkiInvalid,
                _ => ResultType::StsPolicyFetchError,
            };
            (result, error.to_string())
        })?;
        Policy::parse(&octets).map_err(|error| (ResultType::StsPolicyInvalid, error.to_string()))
    }

    /// Renews policies before they run out, and forgets those that have.
    pub(super) async fn refresh_policies(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REFRESH_EVERY).await;
            let now = u64::from(clock::seconds(clock::now()));
            let (stale, gone) = {
                let mut cache = self.policies.cache.lock();
                (cache.stale(now), cache.expire(now))
            };
            for domain in gone {
                self.policies.store.forget(&domain);
            }
            let mut stale = stale.into_iter();
            loop {
                let mut tasks = tokio::task::JoinSet::new();
                for domain in stale.by_ref().take(REFRESHED_AT_ONCE) {
                    let engine = Arc::clone(&self);
                    tasks.spawn(async move { engine.refresh_policy(&domain).await });
                }
                if tasks.is_empty() {
                    break;
                }
                while tasks.join_next().await.is_some() {}
            }
        }
    }

    async fn refresh_policy(&self, domain: &str) {
        let texts = self.resolver.load_full().texts(&sts::record_name(domain)).await.unwrap_or_default();
        if let Some(id) = sts::policy_id(texts.iter().map(Vec::as_slice)) {
            self.fetch_policy(domain, &id).await;
        }
    }

    /// What protects mail of a batch on a connection that is open; an error: the connection is not good enough for it.
    pub(super) fn protection_on(
        &self,
        journey: &Journey,
        connection: &Connection,
        batch: &Batch,
    ) -> Result<Protection, String> {
        let (Some(host), false) = (&journey.host, batch.route.fixed) else { return Ok(journey.protection) };
        if connection.tls().is_some_and(|tls| tls.by_mail_domain) {
            return Err(format!("the certificate of {host} was proven for another domain"));
        }
        let Some(cached) = self.policy_of(&self.domain_of(batch)) else {
            return Ok(match journey.protection {
                // That was another domain's.
                Protection::MtaSts | Protection::MtaStsTesting => Protection::Configured(journey.configured),
                other => other,
            });
        };
        match judge(&cached, host, connection, batch) {
            Err(why) if cached.policy.mode == Mode::Enforce => Err(why),
            _ => Ok(by_policy(&cached, journey)),
        }
    }

    /// Counts a session for a domain whose mail comes to a connection that was opened for others.
    pub(super) fn count_another(&self, journey: &Journey, connection: &Connection, batch: &Batch, opened_as: &Applied) {
        let domain = self.domain_of(batch);
        let policy = self.policy_of(&domain);
        let applied = match opened_as {
            Applied::Tlsa { .. } => opened_as.clone(),
            Applied::Sts { .. } | Applied::None => applied(None, policy.as_deref()),
        };
        let failure = |result, reason: Option<String>| Failure {
            result,
            source: journey.source_address,
            host: journey.host.as_deref().map(str::to_owned),
            address: journey.address.map(|address| address.ip()),
            reason,
        };
        let missed = match (connection.tls(), policy.as_deref(), journey.host.as_deref()) {
            (None, ..) => {
                Some(failure(ResultType::StarttlsNotSupported, journey.tls_failure.as_deref().map(str::to_owned)))
            }
            (Some(tls), Some(cached), Some(host)) => judge(cached, host, connection, batch)
                .err()
                .map(|why| failure(tls.fault.map_or(ResultType::ValidationFailure, result_type), Some(why))),
            _ => None,
        };
        self.count_session(&domain, &applied, missed);
    }

    /// REQUIRETLS (RFC 8689 §4.2.1): the host is the right one by DNSSEC, by a policy or by the operator's word, it
    /// proves its name, and it will ask the same of the next. Otherwise the message goes back.
    pub(super) fn require_tls(
        &self,
        message: &Message,
        batch: &Batch,
        journey: &Journey,
        connection: &Connection,
    ) -> Result<(), Reply> {
        if message.metadata.envelope.tls != TlsRequest::Required {
            return Ok(());
        }
        let Some(tls) = connection.tls() else {
            return Err(Reply::new(550, (5, 7, 10), "the sender requires TLS, and the host has none"));
        };
        let allows = |cached: Arc<CachedPolicy>| journey.host.as_deref().is_some_and(|host| cached.policy.allows(host));
        let is_right_host =
            batch.route.secure || batch.route.fixed || self.policy_of(&self.domain_of(batch)).is_some_and(allows);
        if !is_right_host || !(tls.verified || tls.dane.is_some()) {
            let text = "the sender requires TLS with a host that proves who it is, and this one does not";
            return Err(Reply::new(550, (5, 7, 10), text));
        }
        if !connection.capabilities().require_tls {
            return Err(Reply::new(550, (5, 7, 30), "the sender requires REQUIRETLS, and the host does not offer it"));
        }
        Ok(())
    }

    /// Counts a session for the domain's report.
    pub(super) fn count_session(&self, domain: &str, applied: &Applied, failure: Option<Failure>) {
        if self.configuration.load().tls_reports.is_some() {
            self.tls_sessions.count(domain, applied, failure);
        }
    }
}

/// Whether a connection meets a policy (RFC 8461 §4): the host is one of the policy's, and proves its name by an
/// authority or, better, by its TLSA records. With DNSSEC for the MX records too, DANE needs no policy.
pub(super) fn judge(cached: &CachedPolicy, host: &str, connection: &Connection, batch: &Batch) -> Result<(), String> {
    let Some(tls) = connection.tls() else {
        return Err(format!("{host} does not speak TLS, and the MTA-STS policy of {} wants it", cached.domain));
    };
    if tls.dane.is_some() && batch.route.secure {
        return Ok(());
    }
    if !cached.policy.allows(host) {
        return Err(not_allowed(cached, host));
    }
    if tls.verified || tls.dane.is_some() {
        return Ok(());
    }
    Err(format!(
        "the certificate of {host} is not valid, and the MTA-STS policy of {} wants it: {}",
        cached.domain,
        tls.error.as_deref().unwrap_or("not verified")
    ))
}

pub(super) fn not_allowed(cached: &CachedPolicy, host: &str) -> String {
    format!("{host} is none of the hosts that the MTA-STS policy of {} allows", cached.domain)
}

pub(super) fn by_policy(cached: &CachedPolicy, journey: &Journey) -> Protection {
    match (journey.protection, cached.policy.mode) {
        (Protection::Dane, _) => Protection::Dane,
        (_, Mode::Enforce) => Protection::MtaSts,
        (_, Mode::Testing | Mode::None) => Protection::MtaStsTesting,
    }
}

/// What reports say that a session was held to.
pub(super) fn applied(tlsa: Option<&crate::routing::TlsaSet>, policy: Option<&CachedPolicy>) -> Applied {
    match (tlsa, policy) {
        (Some(tlsa), _) => Applied::Tlsa {
            records: tlsa.records.iter().map(ToString::to_string).collect(),
            host: tlsa.base.to_string(),
        },
        (None, Some(cached)) => Applied::Sts {
            lines: cached.policy.lines().map(str::to_owned).collect(),
            mx: cached.policy.mx.iter().map(|pattern| pattern.to_string()).collect(),
        },
        (None, None) => Applied::None,
    }
}

/// The word of RFC 8460 §4.3 for a fault.
pub(super) fn result_type(fault: TlsFault) -> ResultType {
    match fault {
        TlsFault::NotOffered => ResultType::StarttlsNotSupported,
        TlsFault::HostMismatch => ResultType::CertificateHostMismatch,
        TlsFault::Expired => ResultType::CertificateExpired,
        TlsFault::NotTrusted => ResultType::CertificateNotTrusted,
        TlsFault::Handshake | TlsFault::TlsaMismatch | TlsFault::Other => ResultType::ValidationFailure,
    }
}
