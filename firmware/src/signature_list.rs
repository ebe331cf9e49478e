//! Lists of who may sign and of what may not start: `PK`, `KEK`, `db` and `dbx` are written as such lists.

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bytes::{Cursor, Short};
use crate::device_path::printable;
use crate::digest::Digest;
use crate::guid::Guid;

/// More entries than any list has; `dbx` has a few hundred.
const MOST_ENTRIES: usize = 20_000;

/// Why lists cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// It ends too early.
    #[error("the signature list is cut off: {0}")]
    Short(#[from] Short),
    /// Its sizes do not fit each other.
    #[error("the signature list at byte {at} makes no sense: {why}")]
    Nonsense {
        /// Where it begins.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// What an entry allows, or forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Whatever this certificate's key signed.
    Certificate(Certificate),
    /// One file, by its Authenticode digest.
    File(Digest),
    /// Something that is not understood here.
    Other(Guid),
}

/// A certificate in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 over all of it.
    pub fingerprint: Digest,
    /// For whom it is; `?` when it cannot be read.
    pub subject: String,
    /// All of it.
    pub der: Vec<u8>,
}

impl Certificate {
    /// Takes the name out of it, as far as it can be read.
    #[must_use]
    pub fn new(der: &[u8]) -> Self {
        let subject = X509Certificate::from_der(der).map_or_else(
            |_| "?".to_owned(),
            |(_, certificate)| printable(certificate.subject().to_string().as_bytes()),
        );
        Self { fingerprint: Digest::of(der), subject, der: der.to_vec() }
    }
}

/// An entry with its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Who put it there, by his own account.
    pub owner: Guid,
    /// What it is.
    pub entry: Entry,
}

/// Reads lists that stand one behind the other: the content of a variable.
///
/// # Errors
/// They are cut off, or their sizes do not fit each other.
pub fn read(octets: &[u8]) -> Result<Vec<Owned>, ListError> {
    let mut cursor = Cursor::new(octets);
    let mut entries = Vec::new();
    while !cursor.is_at_end() {
        let at = cursor.position();
        let nonsense = |why| ListError::Nonsense { at, why };
        let kind = Guid(cursor.array()?);
        let (list, header, entry) = (cursor.length()?, cursor.length()?, cursor.length()?);
        let content = list.checked_sub(28).ok_or_else(|| nonsense("it is shorter than its head"))?;
        let mut content = Cursor::new(cursor.take(content)?);
        content.take(header)?;
        if entry < 17 {
            return Err(nonsense("its entries are too short to hold anything"));
        }
        if !content.rest().len().is_multiple_of(entry) {
            return Err(nonsense("its entries do not fill it"));
        }
        while !content.is_at_end() {
            if entries.len() == MOST_ENTRIES {
                return Err(nonsense("there are too many entries"));
            }
            let mut one = Cursor::new(content.take(entry)?);
            let owner = Guid(one.array()?);
            entries.push(Owned { owner, entry: read_entry(kind, one.rest()) });
        }
    }
    Ok(entries)
}

fn read_entry(kind: Guid, data: &[u8]) -> Entry {
    match (kind, <[u8; 32]>::try_from(data)) {
        (Guid::X509, _) => Entry::Certificate(Certificate::new(data)),
        (Guid::SHA256, Ok(digest)) => Entry::File(Digest(digest)),
        _ => Entry::Other(kind),
    }
}

/// A list with one certificate: what enrolling wants.
#[must_use]
pub fn of_certificate(owner: Guid, der: &[u8]) -> Vec<u8> {
    let size = |more: usize| u32::try_from(der.len() + more).unwrap_or(u32::MAX).to_le_bytes();
    [&Guid::X509.0[..], &size(44), &[0; 4], &size(16), &owner.0, der].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests(values: &[[u8; 32]]) -> Vec<u8> {
        let size = u32::try_from(28 + values.len() * 48).unwrap().to_le_bytes();
        let mut octets = [&Guid::SHA256.0[..], &size, &[0; 4], &48_u32.to_le_bytes()].concat();
        for value in values {
            octets.extend(Guid::POSTKEEP.0);
            octets.extend(value);
        }
        octets
    }

    #[test]
    fn certificates_and_digests_are_told_apart() {
        let own = rcgen::generate_simple_self_signed(["owner.example".to_owned()]).unwrap();
        let octets = [of_certificate(Guid::POSTKEEP, own.cert.der()), digests(&[[1; 32], [2; 32]])].concat();
        let entries = read(&octets).unwrap();
        assert_eq!(entries.len(), 3);
        let Entry::Certificate(certificate) = &entries[0].entry else { panic!("{entries:?}") };
        assert_eq!(certificate.fingerprint, Digest::of(own.cert.der()));
        assert!(certificate.subject.contains("CN="), "{}", certificate.subject);
        assert_eq!(entries[2].entry, Entry::File(Digest([2; 32])));
        assert_eq!(entries[2].owner, Guid::POSTKEEP);
    }

    #[test]
    fn what_is_no_certificate_has_no_name_but_a_fingerprint() {
        let entries = read(&of_certificate(Guid::POSTKEEP, b"not DER")).unwrap();
        assert!(matches!(&entries[0].entry, Entry::Certificate(Certificate { subject, .. }) if subject == "?"));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let good = digests(&[[1; 32]]);
        assert!(matches!(read(&good[..good.len() - 1]), Err(ListError::Short(_))));
        for (at, octet) in [(16, 10), (24, 16), (24, 47), (20, 255)] {
            let mut wrong = good.clone();
            wrong[at] = octet;
            assert!(read(&wrong).is_err(), "{at} {octet}");
        }
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(octets in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..76, octet: u8) {
            let _ = read(&octets);
            let mut changed = digests(&[[1; 32]]);
            changed[at] = octet;
            let _ = read(&changed);
        }
    }
}
