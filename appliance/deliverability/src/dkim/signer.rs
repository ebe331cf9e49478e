//! Which keys sign a message, and the signatures.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_auth::common::crypto::SigningKey as _;
use postkeep_configuration::{Configuration, DkimAlgorithm};

use super::canonical::relaxed_value;
use super::header::SignedHeaders;
use super::key::{DkimError, Key, algorithm_name, ascii_name};

/// Octets of one line of base64.
const LINE: usize = 72;

/// The keys for one message: none, one, or several that all sign. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KeySelection(Option<Arc<[Arc<Key>]>>);

impl KeySelection {
    /// One key alone.
    pub(super) fn of(key: &Arc<Key>) -> Self {
        Self(Some([Arc::clone(key)].into()))
    }

    /// The keys, in the order of the configuration.
    pub fn keys(&self) -> &[Arc<Key>] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether the message goes unsigned.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }
}

/// A key and the streams that it names.
type KeyWithStreams<'a> = (&'a Arc<Key>, &'a [String]);

/// All keys, and which of them sign what.
#[derive(Debug, Default)]
pub struct Signer {
    /// In the order of the configuration.
    keys: Vec<Arc<Key>>,
    domains: HashMap<Box<str>, DomainKeys>,
    warnings: Vec<String>,
}

#[derive(Debug, Default)]
struct DomainKeys {
    /// For streams that some key names.
    by_stream: HashMap<Box<str>, KeySelection>,
    /// For all other streams.
    others: KeySelection,
}

impl Signer {
    /// Reads all keys that the configuration names.
    pub fn new(configuration: &Configuration) -> Result<Self, DkimError> {
        let mut keys: Vec<(Arc<Key>, &[String])> = Vec::with_capacity(configuration.dkim.len());
        for configured in &configuration.dkim {
            keys.push((Arc::new(Key::load(configured)?), &configured.streams));
        }
        Self::with_keys(&keys)
    }

    /// A signer with these keys, each with the streams that it names.
    pub fn with_keys(keys: &[(Arc<Key>, &[String])]) -> Result<Self, DkimError> {
        let mut signer = Self { keys: keys.iter().map(|(key, _)| Arc::clone(key)).collect(), ..Self::default() };
        let mut by_domain: HashMap<&str, Vec<KeyWithStreams<'_>>> = HashMap::new();
        for (key, streams) in keys {
            let siblings = by_domain.entry(key.domain()).or_default();
            if siblings.iter().any(|(other, _)| other.selector() == key.selector()) {
                return Err(DkimError::SameSelector {
                    domain: key.domain().to_owned(),
                    selector: key.selector().to_owned(),
                });
            }
            siblings.push((key, streams));
        }
        let mut by_domain: Vec<_> = by_domain.into_iter().collect();
        by_domain.sort_unstable_by_key(|(domain, _)| *domain);
        for (domain, siblings) in by_domain {
            let mut chosen = DomainKeys { by_stream: HashMap::new(), others: select(&siblings, None) };
            for stream in siblings.iter().flat_map(|(_, streams)| streams.iter()) {
                chosen.by_stream.insert(stream.as_str().into(), select(&siblings, Some(stream)));
            }
            for (name, selection) in
                std::iter::once(("", &chosen.others)).chain(chosen.by_stream.iter().map(|(name, keys)| (&**name, keys)))
            {
                let has = |algorithm| selection.keys().iter().any(|key| key.algorithm() == algorithm);
                if has(DkimAlgorithm::Ed25519Sha256) && !has(DkimAlgorithm::RsaSha256) {
                    let stream = if name.is_empty() { String::new() } else { format!(" of stream {name}") };
                    signer.warnings.push(format!(
                        "[[dkim]] {domain}: mail{stream} is signed with Ed25519 alone, which many receivers cannot verify; add an RSA key"
                    ));
                }
            }
            signer.domains.insert(domain.into(), chosen);
        }
        Ok(signer)
    }

    /// What an operator should look at.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The key of that domain and selector, as the configuration writes them.
    pub fn key(&self, domain: &str, selector: &str) -> Option<&Arc<Key>> {
        let (domain, selector) = (ascii_name(domain)?, ascii_name(selector)?);
        self.keys.iter().find(|key| key.domain() == domain && key.selector() == selector)
    }

    /// All keys, in the order of the configuration.
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// The keys for mail from this domain in this stream: those of the most specific domain that is
    /// the From domain or above it and has keys for the stream. For each algorithm, keys that name the
    /// stream sign instead of those that name none.
    pub fn keys_for(&self, from_domain: &str, stream: &str) -> KeySelection {
        if self.domains.is_empty() {
            return KeySelection::default();
        }
        let ascii;
        let domain = from_domain.strip_suffix('.').unwrap_or(from_domain);
        let mut rest =
            if domain.bytes().all(|octet| octet.is_ascii_lowercase() || matches!(octet, b'0'..=b'9' | b'-' | b'.')) {
                domain
            } else {
                ascii = ascii_name(domain).unwrap_or_default();
                ascii.as_str()
            };
        loop {
            if let Some(keys) = self.domains.get(rest) {
                let selection = keys.by_stream.get(stream).unwrap_or(&keys.others);
                if !selection.is_empty() {
                    return selection.clone();
                }
            }
            match rest.split_once('.') {
                Some((_, parent)) => rest = parent,
                None => return KeySelection::default(),
            }
        }
    }
}

/// The keys of one domain that sign a stream; `None`: a stream that no key names.
fn select(keys: &[KeyWithStreams<'_>], stream: Option<&str>) -> KeySelection {
    let names = |streams: &[String]| stream.is_some_and(|stream| streams.iter().any(|name| name == stream));
    let selected: Vec<Arc<Key>> = keys
        .iter()
        .filter(|(key, streams)| {
            let named = keys.iter().any(|(other, streams)| other.algorithm() == key.algorithm() && names(streams));
            if named { names(streams) } else { streams.is_empty() }
        })
        .map(|(key, _)| Arc::clone(key))
        .collect();
    KeySelection((!selected.is_empty()).then(|| selected.into()))
}

/// Appends one `DKIM-Signature: …` field, with its CRLF, for each key.
///
/// `header_parts`: the header block in the order in which it will be sent, in pieces that hold whole
/// fields (what we put before the content, then the content's own header block). `body_hash`: see
/// [`super::body_hash`]. `now`: seconds since the Unix epoch. On error nothing is appended.
pub fn sign(
    keys: &KeySelection,
    header_parts: &[&[u8]],
    body_hash: &[u8; 32],
    now: u64,
    out: &mut Vec<u8>,
) -> Result<(), DkimError> {
    let start = out.len();
    let mut found: Option<(&Key, SignedHeaders)> = None;
    for key in keys.keys() {
        // Keys with the same list of headers share the walk over them.
        let headers = match found.take() {
            Some((other, headers)) if other.headers == key.headers => headers,
            _ => SignedHeaders::find(&key.headers, header_parts),
        };
        let (_, headers) = found.insert((&**key, headers));
        if let Err(error) = sign_with(key, headers, body_hash, now, out) {
            out.truncate(start);
            return Err(error);
        }
    }
    Ok(())
}

fn sign_with(
    key: &Key,
    headers: &mut SignedHeaders,
    body_hash: &[u8; 32],
    now: u64,
    out: &mut Vec<u8>,
) -> Result<(), DkimError> {
    const NAME: &[u8] = b"DKIM-Signature:";
    out.reserve(1024);
    out.extend_from_slice(NAME);
    let value = out.len();
    push(out, &[" v=1; a=", algorithm_name(key), "; c=relaxed/relaxed; d=", &key.domain, ";\r\n\ts="]);
    push(out, &[&key.selector, "; t=", &now.to_string()]);
    if key.expire_after > 0 {
        push(out, &["; x=", &now.saturating_add(key.expire_after).to_string()]);
    }
    push(out, &[";\r\n\t"]);
    out.extend_from_slice(&headers.names);
    push(out, &[";\r\n\tbh="]);
    push_base64(body_hash, out, usize::MAX);
    push(out, &[";\r\n\tb="]);

    // RFC 6376 §3.7: the field itself comes last, with an empty `b=` and without its CRLF.
    let input = &mut headers.canonical;
    let message = input.len();
    input.extend_from_slice(b"dkim-signature:");
    relaxed_value(out.get(value..).unwrap_or_default(), input);
    let signature = key.private.sign(input.as_slice());
    input.truncate(message);
    let signature = signature.map_err(|error| DkimError::Failed {
        domain: key.domain.clone(),
        selector: key.selector.clone(),
        why: error.to_string(),
    })?;
    push_base64(&signature, out, LINE);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn push(out: &mut Vec<u8>, pieces: &[&str]) {
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// Appends base64 in lines; never a line break at the end.
fn push_base64(octets: &[u8], out: &mut Vec<u8>, line: usize) {
    let mut text = [0u8; 2048];
    // The longest signature, of an RSA key of 8192 bits, has 1368 characters.
    let length = BASE64.encode_slice(octets, &mut text).unwrap_or_default();
    let text = text.get(..length).unwrap_or_default();
    for (number, piece) in text.chunks(line.min(text.len()).max(1)).enumerate() {
        if number > 0 {
            out.extend_from_slice(b"\r\n\t ");
        }
        out.extend_from_slice(piece);
    }
}
