//! DNSSEC for the simulated DNS: one zone, the root, signed while it answers.
//!
//! Every answer gets a signature of its own (RFC 4035 §3.1.1). That there are
//! no records of a type is said by an NSEC at the name itself, that there is
//! no such name by one that spans the zone: names can come and go without a
//! chain to keep.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use hickory_server::proto::ProtoError;
use hickory_server::proto::dnssec::crypto::EcdsaSigningKey;
use hickory_server::proto::dnssec::rdata::sig::SigInput;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_server::proto::dnssec::{Algorithm, DnssecSigner, PublicKey as _, SigningKey as _, TBS};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};

use crate::Error;

/// Algorithm of the key, and its number in a trust anchor (RFC 6605).
const ALGORITHM: (Algorithm, u8) = (Algorithm::ECDSAP256SHA256, 13);
/// How long before and after now a signature is good.
const VALIDITY: Duration = Duration::from_secs(86_400);

/// The key of the whole simulated DNS.
pub(crate) struct ZoneKey {
    signer: DnssecSigner,
    tag: u16,
    anchor: String,
}

impl ZoneKey {
    /// A new one.
    pub(crate) fn new() -> Result<Self, Error> {
        Self::of(&Self::secret()?)
    }

    /// A new secret, PKCS#8 DER.
    pub(crate) fn secret() -> Result<Vec<u8>, Error> {
        let secret = EcdsaSigningKey::generate_pkcs8(ALGORITHM.0)
            .map_err(|error| Error::Names(format!("cannot make a key for the simulated DNS: {error}")))?;
        Ok(secret.secret_pkcs8_der().to_vec())
    }

    /// The one with this secret.
    pub(crate) fn of(secret: &[u8]) -> Result<Self, Error> {
        let failed = |error: String| Error::Names(format!("cannot use the key of the simulated DNS: {error}"));
        let key =
            EcdsaSigningKey::from_pkcs8(&secret.into(), ALGORITHM.0).map_err(|error| failed(error.to_string()))?;
        let public = key.to_public_key().map_err(|error| failed(error.to_string()))?;
        let dnskey = DNSKEY::from_key(&public);
        let anchor = format!(
            ". 3600 IN DNSKEY {} 3 {} {}\n",
            dnskey.flags(),
            ALGORITHM.1,
            base64::engine::general_purpose::STANDARD.encode(public.public_bytes())
        );
        let signer = DnssecSigner::new(dnskey, Box::new(key), Name::root(), VALIDITY);
        let tag = signer.calculate_key_tag().map_err(|error| failed(error.to_string()))?;
        Ok(Self { signer, tag, anchor })
    }

    /// The key as a file of trust anchors has it.
    pub(crate) fn anchor(&self) -> &str {
        &self.anchor
    }

    /// The key as the root's own record.
    pub(super) fn record(&self) -> RData {
        RData::DNSSEC(DNSSECRData::DNSKEY(self.signer.to_dnskey()))
    }

    /// Adds its signature to records of one name and type.
    pub(super) fn sign(&self, records: &mut Vec<Record>) -> Result<(), ProtoError> {
        let Some(first) = records.first() else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Times of signatures are 32 bits that wrap around (RFC 4034 §3.1.5).
        let time = |at: Duration| SerialNumber::new((at.as_secs() & u64::from(u32::MAX)) as u32);
        let input = SigInput {
            type_covered: first.record_type(),
            algorithm: ALGORITHM.0,
            num_labels: first.name.num_labels(),
            original_ttl: first.ttl,
            sig_expiration: time(now + VALIDITY),
            sig_inception: time(now.saturating_sub(VALIDITY)),
            key_tag: self.tag,
            signer_name: Name::root(),
        };
        let (name, ttl) = (first.name.clone(), first.ttl);
        let signed = TBS::from_input(&name, DNSClass::IN, &input, records.iter())?;
        let signature = RRSIG::from_sig(input, self.signer.sign(&signed)?);
        records.push(Record::from_rdata(name, ttl, RData::DNSSEC(DNSSECRData::RRSIG(signature))));
        Ok(())
    }

    /// A signed "there is nothing of that type here" (RFC 4470 §2: the next name is the one right after it).
    pub(super) fn no_data(&self, name: &Name, types: Vec<RecordType>, ttl: u32) -> Result<Vec<Record>, ProtoError> {
        let next = name.prepend_label([0u8].as_slice())?;
        self.denial(name.clone(), NSEC::new_cover_self(next, types), ttl)
    }

    /// A signed "there is no such name": nothing stands between the root and the end of the zone.
    pub(super) fn no_such_name(&self, ttl: u32) -> Result<Vec<Record>, ProtoError> {
        self.denial(Name::root(), NSEC::new_cover_self(Name::root(), [RecordType::DNSKEY, RecordType::SOA]), ttl)
    }

    fn denial(&self, name: Name, nsec: NSEC, ttl: u32) -> Result<Vec<Record>, ProtoError> {
        let mut records = vec![Record::from_rdata(name, ttl, RData::DNSSEC(DNSSECRData::NSEC(nsec)))];
        self.sign(&mut records)?;
        Ok(records)
    }
}
