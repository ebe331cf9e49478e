//! Questions to the DNS, validated by DNSSEC where the servers pass signatures on.
//!
//! With `dnssec = "auto"` the first question is for the root's own keys: if its answer can be validated, every answer is
//! validated from then on, and what cannot be is no answer. Whoever forges answers later can delay mail, not redirect it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use postkeep_configuration::{Configuration, Dnssec};

use super::servers::{Asked, Servers};
use crate::clock;

/// After the root's keys could not be validated, they are asked for again no sooner, in microseconds.
const PROBE_PAUSE: u64 = 300 * 1_000_000;

/// Asks.
pub(super) struct Names {
    servers: Servers,
    mode: Dnssec,
}

pub(super) const VALIDATES: u8 = 1;
const DOES_NOT: u8 = 2;

/// An answer.
pub(super) struct Found {
    /// The records of the kind that was asked for; none: there are none.
    pub(super) records: Vec<Record>,
    /// DNSSEC vouches for all of it, also that there is nothing.
    pub(super) secure: bool,
    /// The name at the end of aliases, if it is another one.
    pub(super) alias: Option<Name>,
    /// When to ask again.
    pub(super) valid_until: Option<Instant>,
    /// The name does not exist.
    pub(super) no_such_name: bool,
}

/// Why the resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The settings.
    #[error("{0}")]
    Settings(#[from] NetError),
    /// `trust-anchors`.
    #[error("cannot read trust anchors from {path}: {why}; give DNSKEY records as zone files have them")]
    TrustAnchors {
        /// As configured.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl Names {
    pub(super) fn new(configuration: &Configuration) -> Result<Self, ResolverError> {
        let settings = &configuration.resolver;
        Ok(Self { servers: Servers::new(settings)?, mode: settings.dnssec })
    }

    async fn validates(&self, asked: &Asked) -> bool {
        match self.mode {
            Dnssec::Off => false,
            Dnssec::Required => true,
            Dnssec::Auto => probed(asked).await,
        }
    }

    /// Asks for the records of one kind at a name.
    ///
    /// # Errors
    /// There was no answer, or none that can be believed.
    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> Result<Found, NetError> {
        let asked = self.servers.asked()?;
        let validating = asked.validating.as_ref();
        let validating = if validating.is_some() && self.validates(&asked).await { validating } else { None };
        let resolver = validating.unwrap_or(&asked.plain);
        let validates = validating.is_some();
        match resolver.lookup(name.clone(), kind).await {
            Ok(answer) => found(&answer, &name, kind, validates),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let authorities = none.authorities.as_deref().unwrap_or_default();
                let secure = validates && is_secure(authorities);
                if validates && !secure && !authorities.is_empty() && !is_unsigned(authorities, &name) {
                    // Whoever adds the start of some zone without signatures must not make records vanish by it.
                    return Err(NetError::Dns(DnsError::DnssecBogus));
                }
                Ok(Found { secure, no_such_name: none.response_code == ResponseCode::NXDomain, ..Found::nothing() })
            }
            // Signed so that it proves nothing either way; there is nothing, and nobody vouches for it.
            Err(NetError::Dns(DnsError::Nsec { response, proof, .. })) if proof != Proof::Bogus => {
                Ok(Found { no_such_name: response.response_code == ResponseCode::NXDomain, ..Found::nothing() })
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the servers pass signatures on.
async fn probed(asked: &Asked) -> bool {
    let known = || match asked.probe.verdict.load(Ordering::Relaxed) {
        VALIDATES => Some(true),
        DOES_NOT if clock::now() < asked.probe.again.load(Ordering::Relaxed) => Some(false),
        _ => None,
    };
    if let Some(known) = known() {
        return known;
    }
    // One asks, the others wait for what it finds.
    let _asking = asked.probe.asking.lock().await;
    if let Some(known) = known() {
        return known;
    }
    let Some(validating) = &asked.validating else { return false };
    let answer = validating.lookup(Name::root(), RecordType::DNSKEY).await;
    let validates = answer.as_ref().is_ok_and(|answer| is_secure(answer.answers()) && !answer.answers().is_empty());
    if validates {
        log::info!("dns: answers are validated by DNSSEC");
        asked.probe.verdict.store(VALIDATES, Ordering::Relaxed);
    } else {
        if asked.probe.verdict.swap(DOES_NOT, Ordering::Relaxed) != DOES_NOT {
            let why =
                answer.err().map_or_else(|| "the answer has no valid signature".to_owned(), |error| error.to_string());
            log::warn!(
                "dns: the servers of [resolver] do not pass signatures on ({why}); without DNSSEC there is no DANE: \
                 use a resolver that does, such as Unbound or Knot Resolver on this box, or write dnssec = \"off\""
            );
        }
        asked.probe.again.store(clock::now() + PROBE_PAUSE, Ordering::Relaxed);
    }
    validates
}

impl Found {
    /// There is nothing, and nobody vouches for that.
    pub(super) fn nothing() -> Self {
        Self { records: Vec::new(), secure: false, alias: None, valid_until: None, no_such_name: false }
    }
}

/// Aliases that are followed.
const MOST_ALIASES: usize = 10;

/// The records at the end of the aliases of the name that was asked for, and of no other name: an answer may hold records
/// that are signed by whoever owns *them*.
fn found(answer: &Lookup, asked: &Name, kind: RecordType, validates: bool) -> Result<Found, NetError> {
    let all = answer.answers();
    let mut owner = asked;
    let mut signed = true;
    for _ in 0..MOST_ALIASES {
        let alias = all.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some((&target.0, record.proof)),
            _ => None,
        });
        let Some((target, proof)) = alias else { break };
        signed &= proof == Proof::Secure;
        owner = target;
    }
    let records: Vec<Record> =
        all.iter().filter(|record| record.record_type() == kind && record.name == *owner).cloned().collect();
    if validates && records.is_empty() {
        return Err(NetError::Dns(DnsError::DnssecBogus));
    }
    Ok(Found {
        secure: validates && signed && is_secure(&records),
        alias: (owner != asked).then(|| owner.clone()),
        records,
        valid_until: Some(answer.valid_until()),
        no_such_name: false,
    })
}

/// Signatures themselves are not signed.
fn is_secure(records: &[Record]) -> bool {
    let mut signed = records.iter().filter(|record| record.record_type() != RecordType::RRSIG).peekable();
    signed.peek().is_some() && signed.all(|record| record.proof == Proof::Secure)
}

/// Whether a zone that is not signed, and need not be, lies at or above the name.
fn is_unsigned(authorities: &[Record], name: &Name) -> bool {
    let starts = |record: &&Record| record.record_type() == RecordType::SOA && record.proof == Proof::Insecure;
    authorities.iter().filter(starts).any(|record| record.name.zone_of(name))
}

/// Octets of TXT records, each put together from its parts.
pub(super) fn texts(records: &[Record]) -> Vec<Vec<u8>> {
    records
        .iter()
        .filter_map(|record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_resolver::proto::op::Query;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn record(owner: &str, data: RData, proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner), 60, data);
        record.proof = proof;
        record
    }

    fn address(owner: &str, proof: Proof) -> Record {
        record(owner, RData::A(A::new(192, 0, 2, 1)), proof)
    }

    fn look(records: Vec<Record>) -> Result<Found, NetError> {
        let asked = name("mx.example.");
        let answer = Lookup::new_with_max_ttl(Query::query(asked.clone(), RecordType::A), records);
        found(&answer, &asked, RecordType::A, true)
    }

    #[test]
    fn records_of_another_name_are_no_answer_however_well_they_are_signed() {
        assert!(look(vec![address("attacker.example.", Proof::Secure)]).is_err());
        let both =
            look(vec![address("attacker.example.", Proof::Secure), address("mx.example.", Proof::Insecure)]).unwrap();
        assert_eq!((both.records.len(), both.secure), (1, false));
        assert!(look(vec![address("MX.example.", Proof::Secure)]).unwrap().secure);
    }

    #[test]
    fn an_alias_is_followed_and_counts_for_what_its_own_signature_is_worth() {
        for (proof, secure) in [(Proof::Secure, true), (Proof::Insecure, false)] {
            let alias = record("mx.example.", RData::CNAME(CNAME(name("host.example."))), proof);
            let found = look(vec![alias, address("host.example.", Proof::Secure)]).unwrap();
            assert_eq!((found.secure, found.alias), (secure, Some(name("host.example."))));
        }
        let circle = record("mx.example.", RData::CNAME(CNAME(name("mx.example."))), Proof::Secure);
        assert!(look(vec![circle]).is_err());
    }

    #[test]
    fn only_the_zone_of_a_name_can_say_that_the_name_is_not_signed() {
        let start = |owner: &str, proof| {
            let soa = SOA::new(name("ns.example."), name("hostmaster.example."), 1, 2, 3, 4, 5);
            [record(owner, RData::SOA(soa), proof)]
        };
        assert!(is_unsigned(&start("example.", Proof::Insecure), &name("mx.example.")));
        assert!(!is_unsigned(&start("attacker.test.", Proof::Insecure), &name("mx.example.")));
        assert!(!is_unsigned(&start("example.", Proof::Bogus), &name("mx.example.")));
    }
}
