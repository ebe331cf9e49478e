//! Opening a connection for a batch: its route's hosts in order of preference, each
//! with its addresses, until one of them takes us or there is no sense in going on.
//!
//! What is wrong decides what follows: a source that cannot be bound is the box's
//! trouble, a host that does not answer is the lane's, a name that cannot be looked up is
//! the message's, a policy that cannot be met is the domain's. Mail is given up only when no host of the route has any
//! address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use postkeep_configuration::{Configuration, OutboundTls};
use postkeep_deliverability::governor::Wait;
use postkeep_delivery::{Connection, Connector, OpenError, Promise, Stage, Target};
use postkeep_protection::reports::{Applied, Failure, ResultType};
use postkeep_protection::sts::{CachedPolicy, Mode};
use postkeep_smtp::reply::Reply;
use smallvec::SmallVec;

use super::{Inner, Journey, Place};
use crate::clock;
use crate::engine::health;
use crate::engine::host_faults::{Fault, TLS_MEMORY};
use crate::engine::protection::{self, Protection};
use crate::engine::state::{Batch, SourcePlan};
use crate::queue::QueueId;
use crate::records::{Event, Record, ReplyRecord};
use crate::routing::{Host, Resolver, RouteError, TlsaSet};

/// Connections tried for one batch before it is put off.
const MOST_TRIES: usize = 6;
/// Of these, connections to one host.
const MOST_TRIES_AT_A_HOST: usize = 3;

/// An open connection and where it leads.
pub(super) struct Opened {
    pub connection: Connection,
    pub journey: Journey,
    /// What reports say that it was held to.
    pub applied: Applied,
    /// Queues whose mail it is good for, and what protects that; each was counted as a session of its domain.
    pub good_for: SmallVec<[(QueueId, Protection); 2]>,
}

/// What the mail of a batch must be protected by.
struct Demand {
    domain: Arc<str>,
    /// The policy of the domain; `None` for routes that an operator has fixed.
    policy: Option<Arc<CachedPolicy>>,
    /// As configured.
    configured: OutboundTls,
    /// The sender wants it delivered in any case; `None`: nothing has depended on it yet.
    indifferent: Option<bool>,
}

impl Demand {
    fn enforced(&self) -> Option<&CachedPolicy> {
        self.policy.as_deref().filter(|cached| cached.policy.mode == Mode::Enforce && !self.skips_policies())
    }

    /// Whether policies are not looked at, as far as that is known.
    fn skips_policies(&self) -> bool {
        self.indifferent.unwrap_or(false)
    }

    /// Asks the message, once.
    async fn is_indifferent(&mut self, engine: &Inner, batch: &Batch) -> bool {
        match self.indifferent {
            Some(known) => known,
            None => *self.indifferent.insert(engine.is_indifferent(batch).await),
        }
    }

    /// What is asked of the handshake with a host that has these TLSA records.
    fn tls(&self, tlsa: Option<&TlsaSet>) -> OutboundTls {
        match self.enforced() {
            // The host's own records say more than an authority.
            Some(_) if !tlsa.is_some_and(TlsaSet::authenticates) => OutboundTls::Verified,
            _ => self.configured,
        }
    }
}

/// Why no connection came about.
pub(super) enum NotOpened {
    /// The source cannot be bound: not the receiver's doing.
    Source(String),
    /// The hosts have no addresses, for good.
    NoHost(Reply),
    /// Name look-ups failed.
    Names(String),
    /// The source has no address of the family that the hosts have.
    Family(String),
    /// Connections failed; the last failure counts.
    Failed { error: OpenError, journey: Journey },
    /// No host can be given the mail as the policy of its domain, or the records of the host, want it protected.
    Policy { detail: String, journey: Journey },
}

/// What stood in the way so far; what says most about the receiver wins.
#[derive(Default)]
struct Obstacles {
    failed: Option<(OpenError, Journey)>,
    policy: Option<(String, Journey)>,
    names: Option<String>,
    family: Option<String>,
    source: Option<String>,
    no_host: Option<Reply>,
    itself: Option<String>,
}

impl Obstacles {
    fn verdict(self, is_fixed: bool) -> NotOpened {
        if let Some((error, journey)) = self.failed {
            return NotOpened::Failed { error, journey };
        }
        if let Some((detail, journey)) = self.policy {
            return NotOpened::Policy { detail, journey };
        }
        if let Some(detail) = self.names {
            return NotOpened::Names(detail);
        }
        if let Some(detail) = self.source {
            return NotOpened::Source(detail);
        }
        if let Some(detail) = self.family {
            return NotOpened::Family(detail);
        }
        let reply = match (self.no_host, self.itself) {
            (Some(reply), _) => reply,
            (None, Some(detail)) => Reply::new(554, (5, 4, 6), detail),
            (None, None) => Reply::new(550, (5, 4, 4), "the route has no host"),
        };
        if is_fixed {
            // The operator wrote the route, and the sender cannot help a slip in it.
            log::error!("a fixed route cannot be used: {}; correct [[route]] or the reroute", reply.text);
            return NotOpened::Names(format!("the fixed route cannot be used: {}", reply.text));
        }
        NotOpened::NoHost(reply)
    }
}

pub(super) async fn open(engine: &Arc<Inner>, place: &mut Place, batch: &Batch) -> Result<Opened, NotOpened> {
    let configuration = engine.configuration.load_full();
    let (source, provider) = (engine.source(place.lane), engine.provider(place.lane));
    let tls = provider
        .as_deref()
        .and_then(|name| configuration.provider.get(name))
        .and_then(|rules| rules.tls)
        .unwrap_or(configuration.delivery.tls);
    let domain = engine.domain_of(batch);
    let tls = if *domain == *health::DOMAIN { OutboundTls::None } else { tls };
    let policy = if batch.route.fixed || tls == OutboundTls::None { None } else { engine.policy_of(&domain) };
    let mut demand = Demand { domain, policy, configured: tls, indifferent: None };
    if demand.policy.is_some() {
        demand.is_indifferent(engine, batch).await;
    }
    let resolver = engine.resolver.load_full();
    let connector = engine.connector.load_full();
    let is_fixed = batch.route.fixed;
    let mut tries = 0;
    let mut obstacles = Obstacles::default();
    let mut unbindable: Option<bool> = None;
    for host in in_order(engine, batch) {
        if tries >= MOST_TRIES {
            break;
        }
        let addresses = match resolver.addresses(&host.name).await {
            Ok(addresses) => addresses,
            Err(RouteError::Permanent(reply)) => {
                obstacles.no_host.get_or_insert(reply);
                continue;
            }
            Err(RouteError::Temporary(detail)) => {
                obstacles.names = Some(detail);
                continue;
            }
        };
        let tlsa = match engine.tlsa_of(&resolver, &configuration, host, &addresses, tls).await {
            Ok(tlsa) => tlsa,
            Err(detail) => {
                engine.count_failure(&demand, None, host, ResultType::DnssecInvalid, &detail);
                if !demand.is_indifferent(engine, batch).await {
                    obstacles.policy = Some((detail, Journey::default()));
                    continue;
                }
                None
            }
        };
        let tlsa = match tlsa {
            Some(tlsa) if !demand.is_indifferent(engine, batch).await => Some(tlsa),
            _ => None,
        };
        // With DNSSEC for the MX records and TLSA records of the host that can be used, DANE says more than the policy
        // (RFC 8461 §2); with DNSSEC for the MX records alone, the policy stands.
        let is_dane = batch.route.secure && tlsa.as_ref().is_some_and(TlsaSet::authenticates);
        if let Some(cached) = demand.policy.as_deref().filter(|cached| !is_dane && !cached.policy.allows(&host.name)) {
            let detail = protection::not_allowed(cached, &host.name);
            engine.count_failure(&demand, tlsa.as_ref(), host, ResultType::ValidationFailure, &detail);
            if demand.enforced().is_some() {
                obstacles.policy.get_or_insert((detail, Journey::default()));
                continue;
            }
        }
        let mut tries_here = 0;
        let mut failed_here = None;
        for address in addresses.addresses {
            if tries >= MOST_TRIES || tries_here >= MOST_TRIES_AT_A_HOST {
                break;
            }
            let bind = source.settings.address_for(address);
            let Some(bind) = bind.filter(|_| address.is_ipv4() || configuration.delivery.ipv6 || is_fixed) else {
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                let detail = format!("source {} has no {family} address to reach {} with", source.name, host.name);
                obstacles.family.get_or_insert(detail);
                continue;
            };
            if !is_fixed && resolver.is_nowhere(address) {
                let detail = format!("{} [{address}] is this box, or no address to send mail to", host.name);
                obstacles.itself.get_or_insert(detail);
                continue;
            }
            if unbindable == Some(bind.is_ipv6()) {
                continue;
            }
            if tries > 0 && !engine.renew(place) {
                // What has failed has failed; the rest of the route has its turn at the next attempt.
                return Err(obstacles.verdict(is_fixed));
            }
            tries += 1;
            tries_here += 1;
            let held = Held { demand: &demand, tlsa: tlsa.as_ref() };
            match attempt(engine, &connector, place, batch, &configuration, host, (address, bind), &source, &held).await
            {
                Ok(opened) => return Ok(opened),
                Err(NotOpened::Failed { error, journey }) => {
                    failed_here = Some(error.detail.clone());
                    obstacles.failed = Some((error, journey));
                }
                Err(NotOpened::Policy { detail, journey }) => obstacles.policy = Some((detail, journey)),
                Err(NotOpened::Source(detail)) => {
                    unbindable = Some(bind.is_ipv6());
                    obstacles.source = Some(detail);
                }
                Err(other) => return Err(other),
            }
        }
        if let Some(detail) = failed_here {
            // Longer than the wait for the next attempt, which is to begin with another host.
            let memory = 10 * configuration.backoff.pause.as_micros();
            engine.host_faults.insert(&host.name, Fault::Connection, &detail, clock::now(), memory);
        }
    }
    Err(obstacles.verdict(is_fixed))
}

/// The hosts by preference, equal ones in random order (RFC 5321 §5.1); those that failed a moment ago come last.
fn in_order<'a>(engine: &Inner, batch: &'a Batch) -> Vec<&'a Host> {
    let mut hosts: Vec<&Host> = batch.route.hosts.iter().collect();
    if !batch.route.fixed {
        fastrand::shuffle(&mut hosts);
    }
    let now = clock::now();
    let has_failed = |host: &Host| engine.host_faults.find(&host.name, Fault::Connection, now).is_some();
    hosts.sort_by_cached_key(|host| (has_failed(host), host.preference));
    hosts
}

/// What a connection to one host is held to.
struct Held<'a> {
    demand: &'a Demand,
    tlsa: Option<&'a TlsaSet>,
}

impl Held<'_> {
    fn applied(&self) -> Applied {
        protection::applied(self.tlsa, self.demand.policy.as_deref())
    }
}

/// One address: with TLS as the policy says, and in plain text where TLS is only a wish and is broken.
#[allow(clippy::too_many_arguments, reason = "the parts of one connection, each named once, here")]
async fn attempt(
    engine: &Inner,
    connector: &Connector,
    place: &mut Place,
    batch: &Batch,
    configuration: &Configuration,
    host: &Host,
    addresses: (IpAddr, IpAddr),
    source: &SourcePlan,
    held: &Held<'_>,
) -> Result<Opened, NotOpened> {
    let (address, bind) = addresses;
    let promise = held.tlsa.map(|tlsa| {
        // RFC 7672 §3.2.2: also the domain of the mail, when DNSSEC led from it to the host.
        let further = batch.route.secure.then(|| Box::from(&*held.demand.domain));
        Arc::new(Promise {
            records: tlsa.records.clone(),
            names: std::iter::once(tlsa.base.clone()).chain(further).collect(),
        })
    });
    let tls = held.demand.tls(held.tlsa);
    let provider = engine.provider(place.lane);
    let rules = provider.as_deref().and_then(|name| configuration.provider.get(name));
    let mut tls_fault = (tls == OutboundTls::Opportunistic && promise.is_none())
        .then(|| engine.host_faults.find(&host.name, Fault::Tls, clock::now()))
        .flatten();
    let mut target = Target {
        host: host.name.to_string(),
        address: SocketAddr::new(address, host.port.unwrap_or(configuration.delivery.port)),
        bind: Some(bind),
        freebind: source.settings.freebind,
        ehlo: source.ehlo.to_string(),
        tls: if tls_fault.is_some() { OutboundTls::None } else { tls },
        minimum: rules.and_then(|rules| rules.minimum_tls).unwrap_or(configuration.delivery.minimum_tls),
        old_tls: rules.is_some_and(|rules| rules.old_tls),
        tlsa: promise,
        timeouts: (&configuration.delivery).into(),
    };
    let mut result = connect(engine, connector, place, batch, &target, held).await;
    if let Err(NotOpened::Failed { error, .. }) = &result
        && error.plain_text_may_do
    {
        // RFC 7435: some protection when possible, delivery in any case. The failure is on record.
        engine.host_faults.insert(&host.name, Fault::Tls, &error.detail, clock::now(), TLS_MEMORY);
        tls_fault = Some(error.detail.as_str().into());
        if !engine.renew(place) {
            return result;
        }
        target.tls = OutboundTls::None;
        result = connect(engine, connector, place, batch, &target, held).await;
    }
    let mut opened = result?;
    engine.host_faults.clear(&host.name, Fault::Connection);
    if opened.connection.tls().is_some() {
        engine.host_faults.clear(&host.name, Fault::Tls);
    } else if tls_fault.is_some() {
        opened.journey.tls_failure = tls_fault;
    }
    if engine.host_faults.find(&host.name, Fault::Chunking, clock::now()).is_some() {
        opened.connection.avoid_chunking();
    }
    Ok(opened)
}

/// One connection to one address; a failure is on record when this returns.
async fn connect(
    engine: &Inner,
    connector: &Connector,
    place: &Place,
    batch: &Batch,
    target: &Target,
    held: &Held<'_>,
) -> Result<Opened, NotOpened> {
    let journey = Journey {
        lane: Some(place.lane),
        host: Some(target.host.as_str().into()),
        address: Some(target.address),
        configured: held.demand.configured,
        indifferent: held.demand.skips_policies(),
        source_address: target.bind,
        started: clock::now(),
        ..Journey::default()
    };
    let demand = held.demand;
    let failure = |result, reason: Option<&str>| Failure {
        result,
        source: target.bind,
        host: Some(target.host.clone()),
        address: Some(target.address.ip()),
        reason: reason.map(str::to_owned),
    };
    match connector.open(target).await {
        Ok(connection) => {
            let tls = connection.tls().cloned().map(Arc::new);
            let tls_failure = connection.tls_failure().map(Arc::from);
            let keywords = Some(connection.capabilities().keywords().into());
            let mut journey = Journey { tls, tls_failure, keywords, ..journey };
            journey.protection = match (&target.tlsa, &journey.tls) {
                (Some(_), Some(tls)) if tls.dane.is_some() => Protection::Dane,
                (Some(_), _) => Protection::DaneEncrypted,
                (None, _) => Protection::Configured(demand.configured),
            };
            let applied = held.applied();
            let missed = match (&journey.tls, demand.policy.as_deref()) {
                // Plain text after a handshake that failed was counted as that.
                (None, _) if target.tls != OutboundTls::None => {
                    Some(failure(ResultType::StarttlsNotSupported, journey.tls_failure.as_deref()))
                }
                (Some(tls), Some(cached)) => {
                    let verdict = protection::judge(cached, &target.host, &connection, batch).err();
                    let result = tls.fault.map_or(ResultType::ValidationFailure, protection::result_type);
                    verdict.map(|why| failure(result, Some(&why)))
                }
                _ => None,
            };
            if let Some(cached) = demand.policy.as_deref().filter(|_| !demand.skips_policies()) {
                journey.protection = protection::by_policy(cached, &journey);
            }
            engine.count_session(&demand.domain, &applied, missed);
            let good_for = SmallVec::from_iter([(batch.queue, journey.protection)]);
            Ok(Opened { connection, journey, applied, good_for })
        }
        Err(error) if error.stage == Stage::Bind => Err(NotOpened::Source(error.detail)),
        Err(error) => {
            engine.record_attempt(batch, &journey, &error);
            if let Some(fault) = error.fault {
                let failure = failure(protection::result_type(fault), Some(&error.detail));
                engine.count_session(&demand.domain, &held.applied(), Some(failure));
                // What fails a policy says nothing about the host's health, or about mail of other domains.
                if held.tlsa.is_some() || demand.enforced().is_some() {
                    return Err(NotOpened::Policy { detail: error.detail, journey });
                }
            }
            Err(NotOpened::Failed { error, journey })
        }
    }
}

impl Inner {
    /// The TLSA records of a host, where DANE is wanted and DNSSEC vouches for the host's addresses.
    async fn tlsa_of(
        &self,
        resolver: &Resolver,
        configuration: &Configuration,
        host: &Host,
        addresses: &crate::routing::Addresses,
        tls: OutboundTls,
    ) -> Result<Option<TlsaSet>, String> {
        if !configuration.delivery.dane || tls == OutboundTls::None {
            return Ok(None);
        }
        resolver.tlsa(&host.name, host.port.unwrap_or(configuration.delivery.port), addresses).await
    }

    /// Counts a session that never came about.
    fn count_failure(&self, demand: &Demand, tlsa: Option<&TlsaSet>, host: &Host, result: ResultType, why: &str) {
        let failure = Failure {
            result,
            source: None,
            host: Some(host.name.to_string()),
            address: None,
            reason: Some(why.to_owned()),
        };
        self.count_session(&demand.domain, &protection::applied(tlsa, demand.policy.as_deref()), Some(failure));
    }

    /// One `attempted` record for a connection that failed before any recipient was named.
    fn record_attempt(&self, batch: &Batch, journey: &Journey, error: &OpenError) {
        let (plan, names) = self.plan_and_names(batch.stream, journey.lane);
        let domain = self.state.lock().domain_of(batch.queue);
        let now = clock::now();
        let id = batch.entries.first().map(|entry| postkeep_spool::MessageId(entry.message).to_string());
        self.records.write(
            now,
            Event::Attempted,
            Record {
                message: id.as_deref(),
                stream: Some(&names.stream),
                domain: domain.as_deref(),
                pool: Some(&plan.pool.name),
                source_address: journey.source_address,
                site: names.site.as_deref(),
                provider: names.provider.as_deref(),
                source: names.source.as_deref(),
                host: journey.host.as_deref(),
                address: journey.address.map(|address| address.to_string()),
                stage: Some(error.stage.as_str()),
                reply: error.reply.as_ref().map(ReplyRecord::from),
                detail: Some(&error.detail),
                duration_ms: Some(now.saturating_sub(journey.started) / 1000),
                ..Record::default()
            },
        );
        self.metrics.outcome(
            Event::Attempted,
            names.provider.as_deref().unwrap_or(""),
            names.source.as_deref().unwrap_or(""),
            &names.stream,
            1,
        );
    }

    /// Another connection in the place of the one that failed, as far as the limits allow.
    pub(super) fn renew(&self, place: &mut Place) -> bool {
        let Some(permit) = place.permit.take() else { return false };
        let (permit, hold) = self.state.lock().exchange_permit(place.lane, permit, clock::now());
        place.permit = permit;
        self.perform_horizons(hold.is_some_and(|hold| hold.until == Wait::Horizon));
        place.permit.is_some()
    }
}
