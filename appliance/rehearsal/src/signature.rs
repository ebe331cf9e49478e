//! Verifies the DKIM signatures of what arrives, with mail-auth against the
//! rehearsal's own DNS, and holds them against the keys that must have signed:
//! each of them, RSA or Ed25519, and no other of the owner's. One worker with a bounded queue: receivers only wait
//! when it is full, so that every message is looked at unless a sample is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};
use tokio::sync::mpsc;

use crate::Error;
use crate::arrivals::{Arrival, Arrivals, Signed};
use crate::content::{STREAM_HEADER, header, split};
use crate::keys::Keyring;

/// Messages that may wait for the worker.
const QUEUE: usize = 512;
/// Most sentences kept about failures.
const SAMPLES: usize = 20;

/// Counts of one provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages looked at.
    pub checked: u64,
    /// Messages with a valid signature of every key that must sign them, and no bad one.
    pub passed: u64,
    /// Messages that lack one, or have a bad one, or one of a key that is not for them.
    pub failed: u64,
    /// Signatures by RSA keys that verified.
    pub rsa: u64,
    /// Signatures by Ed25519 keys that verified.
    pub ed25519: u64,
}

#[derive(Default)]
struct Book {
    tallies: BTreeMap<usize, Tally>,
    samples: Vec<String>,
}

/// A message to verify.
struct Job {
    provider: usize,
    message: Bytes,
    arrival: Option<Arrival>,
}

/// The worker's front.
#[derive(Clone)]
pub struct Verifier {
    jobs: mpsc::Sender<Job>,
    book: Arc<Mutex<Book>>,
    waiting: Arc<AtomicU64>,
    sample_every: u64,
    seen: Arc<AtomicU64>,
    arrivals: Option<Arc<Arrivals>>,
}

impl Verifier {
    /// Starts the worker. The keys of `keyring` must sign; every `sample_every`th message is looked at (1: all).
    /// What arrives is written to `arrivals`, if there is such a file.
    pub(crate) fn start(
        names: SocketAddr,
        keyring: Keyring,
        sample_every: u64,
        arrivals: Option<Arrivals>,
    ) -> Result<Self, Error> {
        let arrivals = arrivals.map(Arc::new);
        let authenticator = authenticator(names)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let book = Arc::new(Mutex::new(Book::default()));
        let waiting = Arc::new(AtomicU64::new(0));
        let worker = Self {
            jobs,
            book: Arc::clone(&book),
            waiting: Arc::clone(&waiting),
            sample_every: sample_every.max(1),
            seen: Arc::default(),
            arrivals: arrivals.clone(),
        };
        tokio::spawn(async move {
            let cache = KeyCache::default();
            while let Some(job) = queue.recv().await {
                let verdict = verify(&authenticator, &cache, &keyring, &job.message).await;
                if let (Some(arrivals), Some(arrival)) = (&arrivals, &job.arrival) {
                    let signed = match verdict.good {
                        Some(true) => Signed::Verified,
                        Some(false) => Signed::Failed,
                        None => Signed::Unsigned,
                    };
                    arrivals.note(arrival, signed, (signed == Signed::Failed).then_some(verdict.why.as_str()));
                }
                if let Ok(mut book) = book.lock() {
                    note(&mut book, job.provider, verdict);
                }
                waiting.fetch_sub(1, Ordering::Release);
            }
        });
        Ok(worker)
    }

    /// Whether somebody wants to know what arrives.
    pub(crate) fn keeps_arrivals(&self) -> bool {
        self.arrivals.is_some()
    }

    /// Hands over a message; waits only when the queue is full.
    pub(crate) async fn submit(&self, provider: usize, message: Bytes, arrival: Option<Arrival>) {
        if !self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.sample_every) {
            if let (Some(arrivals), Some(arrival)) = (&self.arrivals, arrival) {
                arrivals.note(&arrival, Signed::Unchecked, None);
            }
            return;
        }
        self.waiting.fetch_add(1, Ordering::Acquire);
        if self.jobs.send(Job { provider, message, arrival }).await.is_err() {
            self.waiting.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until everything handed over has been looked at.
    pub async fn settle(&self) {
        while self.waiting.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Counts of a provider.
    pub fn tally(&self, provider: usize) -> Tally {
        self.book.lock().map(|book| book.tallies.get(&provider).copied().unwrap_or_default()).unwrap_or_default()
    }

    /// Counts of all providers.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        if let Ok(book) = self.book.lock() {
            for tally in book.tallies.values() {
                total.checked += tally.checked;
                total.passed += tally.passed;
                total.failed += tally.failed;
                total.rsa += tally.rsa;
                total.ed25519 += tally.ed25519;
            }
        }
        total
    }

    /// A sentence for each of the first failures.
    pub fn samples(&self) -> Vec<String> {
        self.book.lock().map(|book| book.samples.clone()).unwrap_or_default()
    }
}

/// What a message's signatures are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    /// `None`: need not be signed, and is not.
    good: Option<bool>,
    rsa: u64,
    ed25519: u64,
    why: String,
}

fn note(book: &mut Book, provider: usize, verdict: Verdict) {
    let tally = book.tallies.entry(provider).or_default();
    tally.checked += 1;
    tally.rsa += verdict.rsa;
    tally.ed25519 += verdict.ed25519;
    match verdict.good {
        Some(true) => tally.passed += 1,
        Some(false) => {
            tally.failed += 1;
            if book.samples.len() < SAMPLES {
                book.samples.push(verdict.why);
            }
        }
        None => {}
    }
}

async fn verify(authenticator: &MessageAuthenticator, cache: &KeyCache, keyring: &Keyring, raw: &[u8]) -> Verdict {
    let bad = |why: String| Verdict { good: Some(false), rsa: 0, ed25519: 0, why };
    let Some(message) = AuthenticatedMessage::parse(raw) else {
        return bad("the message could not be parsed".to_owned());
    };
    let from =
        message.froms().first().and_then(|from| from.rsplit_once('@')).map(|(_, domain)| domain.to_ascii_lowercase());
    let from = from.unwrap_or_default();
    let results = authenticator.verify_dkim(Parameters::new(&message).with_txt_cache(cache)).await;
    let mut verdict = Verdict { good: None, rsa: 0, ed25519: 0, why: String::new() };
    let mut signed = BTreeSet::new();
    for result in &results {
        match (result.result(), result.signature()) {
            (DkimResult::Pass, Some(signature)) => {
                match signature.a {
                    mail_auth::common::crypto::Algorithm::Ed25519Sha256 => verdict.ed25519 += 1,
                    _ => verdict.rsa += 1,
                }
                if keyring.has(&signature.d, &signature.s) {
                    signed.insert((signature.d.to_ascii_lowercase(), signature.s.clone()));
                }
            }
            (result, signature) => {
                let which =
                    signature.map_or_else(String::new, |signature| format!("d={} s={}: ", signature.d, signature.s));
                return bad(format!("{which}{result:?}"));
            }
        }
    }
    let wanted = |stream: &str| -> BTreeSet<(String, String)> {
        let keys = keyring.matching(&from, stream).into_iter();
        keys.map(|key| (key.domain.to_ascii_lowercase(), key.selector.clone())).collect()
    };
    let good = match header(split(raw).0, STREAM_HEADER) {
        Some(stream) => signed == wanted(&stream),
        // The product's own reports belong to a stream that they do not name.
        None => std::iter::once("default").chain(keyring.streams()).any(|stream| signed == wanted(stream)),
    };
    if !good {
        let stream = header(split(raw).0, STREAM_HEADER).unwrap_or_else(|| "default".to_owned());
        verdict.why = format!(
            "mail from {from} in the stream {stream} is signed by {}, not by {}",
            named(&signed),
            named(&wanted(&stream))
        );
    }
    verdict.good = (!good || !signed.is_empty()).then_some(good);
    verdict
}

fn named(keys: &BTreeSet<(String, String)>) -> String {
    let names: Vec<String> = keys.iter().map(|(domain, selector)| format!("{selector}._domainkey.{domain}")).collect();
    if names.is_empty() { "no key".to_owned() } else { names.join(" and ") }
}

/// Keys as they were found, kept for good: the rehearsal's DNS does not change.
#[derive(Default)]
struct KeyCache(Mutex<HashMap<Box<str>, Txt>>);

impl ResolverCache<Box<str>, Txt> for KeyCache {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0.lock().ok()?.get(name).cloned()
    }

    fn remove<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0.lock().ok()?.remove(name)
    }

    fn insert(&self, key: Box<str>, value: Txt, _: std::time::Instant) {
        // A key that was not found may be one that was not asked for well; ask again next time.
        if matches!(value, Txt::Error(_)) {
            return;
        }
        if let Ok(mut map) = self.0.lock()
            && map.len() < 1000
        {
            map.insert(key, value);
        }
    }
}

fn authenticator(names: SocketAddr) -> Result<MessageAuthenticator, Error> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .into_iter()
        .map(|mut connection| {
            connection.port = names.port();
            connection
        })
        .collect();
    let server = NameServerConfig::new(names.ip(), true, connections);
    MessageAuthenticator::new(ResolverConfig::from_parts(None, Vec::new(), vec![server]), ResolverOpts::default())
        .map_err(|error| Error::Names(format!("cannot set up the resolver of the DKIM verifier: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{generate, ring};
    use crate::names::{Names, Zone, ZoneKey};
    use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256};
    use mail_auth::common::headers::HeaderWriter;
    use mail_auth::dkim::DkimSigner;
    use postkeep_configuration::DkimAlgorithm;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    #[tokio::test]
    async fn a_message_signed_by_mail_auth_verifies_and_an_altered_or_unsigned_one_does_not() {
        let key = generate(DkimAlgorithm::RsaSha256).unwrap();
        let mut zone = Zone::default();
        zone.txt("s1._domainkey.sender.test", &key.record);
        let names = Names::start(zone, "127.0.0.1:0".parse().unwrap(), ZoneKey::new().unwrap()).await.unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.der.clone()));
        let message = "From: a@sender.test\r\nSubject: x\r\n\r\nHello\r\n";
        let signature = DkimSigner::from_key(RsaKey::<Sha256>::from_key_der(der).unwrap())
            .domain("sender.test")
            .selector("s1")
            .headers(["From", "Subject"])
            .sign(message.as_bytes())
            .unwrap();
        let signed = format!("{}{message}", signature.to_header());
        let verifier =
            Verifier::start(names.address(), ring(&[("sender.test", "s1", DkimAlgorithm::RsaSha256, &[])]), 1, None)
                .unwrap();
        verifier.submit(0, Bytes::from(signed.clone()), None).await;
        verifier.submit(1, Bytes::from(signed.replace("Hello", "Hallo")), None).await;
        verifier.submit(2, Bytes::from(message), None).await;
        verifier.submit(3, Bytes::from_static(b"From: b@other.test\r\n\r\nx\r\n"), None).await;
        verifier.settle().await;
        assert_eq!(verifier.tally(0), Tally { checked: 1, passed: 1, failed: 0, rsa: 1, ed25519: 0 });
        assert_eq!(verifier.tally(1).failed, 1);
        assert_eq!(verifier.tally(2).failed, 1);
        assert_eq!(verifier.tally(3), Tally { checked: 1, ..Tally::default() });
        assert_eq!(verifier.total().failed, 2, "{:?}", verifier.samples());
    }

    #[tokio::test]
    async fn exactly_the_keys_that_match_the_stream_must_have_signed() {
        let (rsa, ed25519) =
            (generate(DkimAlgorithm::RsaSha256).unwrap(), generate(DkimAlgorithm::Ed25519Sha256).unwrap());
        let mut zone = Zone::default();
        zone.txt("r._domainkey.a.test", &rsa.record);
        zone.txt("e._domainkey.a.test", &ed25519.record);
        zone.txt("e._domainkey.only.test", &ed25519.record);
        let names = Names::start(zone, "127.0.0.1:0".parse().unwrap(), ZoneKey::new().unwrap()).await.unwrap();
        let keys = ring(&[
            ("a.test", "r", DkimAlgorithm::RsaSha256, &[]),
            ("a.test", "e", DkimAlgorithm::Ed25519Sha256, &["news"]),
            ("only.test", "e", DkimAlgorithm::Ed25519Sha256, &[]),
        ]);
        let verifier = Verifier::start(names.address(), keys, 1, None).unwrap();
        let message = |domain: &str, stream: &str| {
            format!("From: a@{domain}\r\nSubject: x\r\n{STREAM_HEADER}: {stream}\r\n\r\nHello\r\n")
        };
        let by_rsa = |domain: &str, message: String| {
            let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(rsa.der.clone()));
            let signer =
                DkimSigner::from_key(RsaKey::<Sha256>::from_key_der(der).unwrap()).domain(domain).selector("r");
            format!("{}{message}", signer.headers(["From"]).sign(message.as_bytes()).unwrap().to_header())
        };
        let by_ed25519 = |domain: &str, message: String| {
            let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(&ed25519.der).unwrap();
            let signer = DkimSigner::from_key(key).domain(domain).selector("e");
            format!("{}{message}", signer.headers(["From"]).sign(message.as_bytes()).unwrap().to_header())
        };
        let cases = [
            (by_rsa("a.test", message("a.test", "default")), true),
            (by_ed25519("a.test", by_rsa("a.test", message("a.test", "news"))), true),
            (by_ed25519("only.test", message("only.test", "default")), true),
            // The Ed25519 signature has vanished; it is there though it should not be; it stands alone.
            (by_rsa("a.test", message("a.test", "news")), false),
            (by_ed25519("a.test", by_rsa("a.test", message("a.test", "default"))), false),
            (by_ed25519("a.test", message("a.test", "news")), false),
        ];
        for (place, (message, _)) in cases.iter().enumerate() {
            verifier.submit(place, Bytes::from(message.clone()), None).await;
        }
        verifier.settle().await;
        for (place, (message, good)) in cases.iter().enumerate() {
            assert_eq!(verifier.tally(place).passed == 1, *good, "{message} {:?}", verifier.samples());
        }
    }
}
