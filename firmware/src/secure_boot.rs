//! Secure Boot as the machine's variables tell it: is it on, and whose keys decide what may start.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::guid::Guid;
use crate::signature_list::{self, Certificate, Entry};

/// What could not be read, and why: a sentence.
pub type Unread = String;

/// Longer variables do not exist.
pub const LONGEST_VARIABLE: u64 = 1024 * 1024;

/// The variables that are read, with their owner.
pub const VARIABLES: [(&str, Guid); 6] = [
    ("SecureBoot", Guid::GLOBAL),
    ("SetupMode", Guid::GLOBAL),
    ("PK", Guid::GLOBAL),
    ("KEK", Guid::GLOBAL),
    ("db", Guid::IMAGE_SECURITY),
    ("dbx", Guid::IMAGE_SECURITY),
];

/// The name of a variable's file in efivars.
#[must_use]
pub fn file_name(name: &str, vendor: Guid) -> String {
    format!("{name}-{vendor}")
}

/// The content of a variable's file in efivars: what stands behind the attributes.
///
/// # Errors
/// It is too short to be one.
pub fn content<'a>(name: &str, file: &'a [u8]) -> Result<&'a [u8], Unread> {
    file.get(4..).ok_or_else(|| format!("the variable {name} has {} bytes, fewer than its attributes need", file.len()))
}

/// A variable that says yes or no.
///
/// # Errors
/// It says neither.
pub fn flag(name: &str, content: &[u8]) -> Result<bool, Unread> {
    match content {
        [0] => Ok(false),
        [1] => Ok(true),
        other => Err(format!("the variable {name} is {} bytes long and says neither 0 nor 1", other.len())),
    }
}

/// Whose a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The owner of the box named it.
    Own,
    /// Microsoft's.
    Microsoft,
    /// Somebody else's: the maker of the machine, a distribution, a provider.
    Vendor,
}

/// A key, or a file, that Secure Boot lets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Whose it is.
    pub owner: Owner,
    /// Its name, for people; names prove nothing.
    pub name: String,
    /// SHA-256 of the certificate, or the digest of the file.
    pub fingerprint: Option<Digest>,
}

#[derive(Deserialize)]
struct KnownKeys {
    key: Vec<KnownKey>,
}

#[derive(Deserialize)]
struct KnownKey {
    owner: Owner,
    name: String,
    fingerprint: Digest,
}

static KNOWN: LazyLock<Vec<KnownKey>> = LazyLock::new(|| {
    let known: Result<KnownKeys, _> = toml::from_str(include_str!("../known-keys.toml"));
    // A test reads it; without names, strangers are strangers still.
    known.map(|known| known.key).unwrap_or_default()
});

/// Whose a certificate is, by its fingerprint only.
#[must_use]
pub fn holder(certificate: &Certificate, own: &[Digest]) -> Holder {
    let fingerprint = Some(certificate.fingerprint);
    if own.contains(&certificate.fingerprint) {
        return Holder { owner: Owner::Own, name: certificate.subject.clone(), fingerprint };
    }
    match KNOWN.iter().find(|known| known.fingerprint == certificate.fingerprint) {
        Some(known) => Holder { owner: known.owner, name: known.name.clone(), fingerprint },
        None => Holder { owner: Owner::Vendor, name: certificate.subject.clone(), fingerprint },
    }
}

/// Everybody in a variable that holds signature lists.
///
/// # Errors
/// The lists make no sense.
pub fn holders(name: &str, content: &[u8], own: &[Digest], files: &[Digest]) -> Result<Vec<Holder>, Unread> {
    let entries = signature_list::read(content).map_err(|error| format!("the variable {name}: {error}"))?;
    Ok(entries.iter().map(|owned| holder_of(&owned.entry, own, files)).collect())
}

fn holder_of(entry: &Entry, own: &[Digest], files: &[Digest]) -> Holder {
    match entry {
        Entry::Certificate(certificate) => holder(certificate, own),
        Entry::File(digest) => {
            let owner = if files.contains(digest) { Owner::Own } else { Owner::Vendor };
            Holder { owner, name: format!("the file {digest}"), fingerprint: Some(*digest) }
        }
        Entry::Other(kind) => Holder { owner: Owner::Vendor, name: format!("entry of kind {kind}"), fingerprint: None },
    }
}

/// Whose an entry is by which something was let through, as the log of the boot has it: `EFI_SIGNATURE_DATA`.
#[must_use]
pub fn authority(name: &str, data: &[u8], own: &[Digest], files: &[Digest]) -> Holder {
    let entry = data.get(16..).unwrap_or_default();
    if name != "db" {
        // A boot loader's own list: whoever wrote it is no key of the owner's.
        return Holder { owner: Owner::Vendor, name: format!("the list {name}"), fingerprint: None };
    }
    match <[u8; 32]>::try_from(entry) {
        Ok(digest) => holder_of(&Entry::File(Digest(digest)), own, files),
        Err(_) => holder(&Certificate::new(entry), own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_strangers_can_be_read() {
        let known: KnownKeys = toml::from_str(include_str!("../known-keys.toml")).unwrap();
        assert_eq!(known.key.len(), KNOWN.len());
        assert!(known.key.iter().all(|key| key.owner == Owner::Microsoft && key.name.contains("20")));
    }

    #[test]
    fn a_key_is_ones_own_by_fingerprint_and_never_by_name() {
        let [mine, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["owner.example".to_owned()]).unwrap());
        let own = [Digest::of(mine.cert.der())];
        let lists = [
            signature_list::of_certificate(Guid::POSTKEEP, mine.cert.der()),
            signature_list::of_certificate(Guid::POSTKEEP, other.cert.der()),
        ];
        let owners: Vec<Owner> =
            holders("db", &lists.concat(), &own, &[]).unwrap().iter().map(|holder| holder.owner).collect();
        assert_eq!(owners, [Owner::Own, Owner::Vendor]);
        let data = [&Guid::POSTKEEP.0[..], mine.cert.der()].concat();
        assert_eq!(authority("db", &data, &own, &[]).owner, Owner::Own);
        assert_eq!(authority("MokList", &data, &own, &[]).owner, Owner::Vendor);
    }

    #[test]
    fn a_variable_that_says_nothing_clear_is_unread() {
        assert_eq!(content("SecureBoot", &[6, 0, 0, 0, 1]).and_then(|content| flag("SecureBoot", content)), Ok(true));
        assert!(content("SecureBoot", &[6]).is_err());
        assert!(flag("SecureBoot", &[]).is_err());
        assert!(flag("SecureBoot", &[7]).is_err());
        assert_eq!(file_name("db", Guid::IMAGE_SECURITY), "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f");
    }
}
