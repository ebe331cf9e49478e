//! Which box is meant, who asks, and how the box is told from an impostor: three things that stand in a small file or on
//! the command line.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::fingerprint::Fingerprint;
use crate::identity::{Identity, IdentityError};

/// Where boxes listen, when nobody says otherwise.
pub const PORT: u16 = 8443;
const LARGEST: u64 = 64 * 1024;

/// Why it is not known how to reach a box.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file.
    #[error("cannot use the profile {path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The address.
    #[error(
        "{0:?} is no address of a box: write 203.0.113.5, [2001:db8::5]:8443 or box.example.com, or name a .toml file"
    )]
    Address(String),
    /// Something was left out.
    #[error("to reach {address}, {missing} is missing")]
    Missing {
        /// The box.
        address: String,
        /// What.
        missing: &'static str,
    },
    /// The identity.
    #[error("{0}")]
    Identity(#[from] IdentityError),
}

/// How to reach a box.
#[derive(Debug, Clone)]
pub struct BoxProfile {
    /// Host and port, as a resolver takes them.
    pub(crate) address: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) identity: Identity,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    address: String,
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default)]
    identity: Option<PathBuf>,
}

impl BoxProfile {
    /// `named` is an address, or a file if it ends in `.toml` or has a slash in it. What else is given takes the place of
    /// what the file says.
    ///
    /// # Errors
    /// Something is missing or cannot be read.
    pub fn find(named: &str, identity: Option<&Path>, fingerprint: Option<Fingerprint>) -> Result<Self, ProfileError> {
        let written = if named.ends_with(".toml") || named.contains('/') {
            read(Path::new(named))?
        } else {
            Written { address: named.to_owned(), fingerprint: None, identity: None }
        };
        let address = with_port(&written.address).ok_or_else(|| ProfileError::Address(written.address.clone()))?;
        let missing = |missing| ProfileError::Missing { address: address.clone(), missing };
        let fingerprint = match (fingerprint, written.fingerprint) {
            (Some(given), _) => given,
            (None, Some(text)) => text.parse().map_err(|error: crate::FingerprintError| ProfileError::File {
                path: named.into(),
                why: error.to_string(),
            })?,
            (None, None) => {
                return Err(missing("the box's fingerprint (--box-fingerprint; the console of the box shows it)"));
            }
        };
        let identity = match identity.or(written.identity.as_deref()) {
            Some(path) => Identity::read(path)?,
            None => return Err(missing("your identity (--identity FILE; postkeep api identity new makes one)")),
        };
        Ok(Self { address, fingerprint, identity })
    }
}

fn read(path: &Path) -> Result<Written, ProfileError> {
    use std::io::Read as _;
    let failed = |why: String| ProfileError::File { path: path.to_owned(), why };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_string(&mut text))
        .map_err(|error| failed(error.to_string()))?;
    let mut written: Written =
        toml::from_str(&text).map_err(|error| failed(error.to_string().trim_end().to_owned()))?;
    // Beside the profile, where it says no more.
    written.identity =
        written.identity.map(|identity| path.parent().map_or(identity.clone(), |folder| folder.join(identity)));
    Ok(written)
}

/// The address with a port; `None` if it is none.
fn with_port(address: &str) -> Option<String> {
    use std::net::{IpAddr, SocketAddr};
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, PORT).to_string());
    }
    if address.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return Some(address.to_owned());
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port != 0)?),
        None => (address, PORT),
    };
    let is_host = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-.".contains(&octet));
    is_host.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_port_that_boxes_have_unless_they_bring_one() {
        for (written, meant) in [
            ("203.0.113.5", "203.0.113.5:8443"),
            ("203.0.113.5:99", "203.0.113.5:99"),
            ("2001:db8::5", "[2001:db8::5]:8443"),
            ("[2001:db8::5]", "[2001:db8::5]:8443"),
            ("[2001:db8::5]:99", "[2001:db8::5]:99"),
            ("box.example.com", "box.example.com:8443"),
            ("box.example.com:99", "box.example.com:99"),
        ] {
            assert_eq!(with_port(written).as_deref(), Some(meant));
        }
        for wrong in ["", ":99", "box:", "box:0", "box:99999", "a b", "https:", "1.2.3.4:0"] {
            assert_eq!(with_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_profile_names_the_box_and_the_command_line_has_the_last_word() {
        let folder = tempfile::tempdir().unwrap();
        let mine = Identity::make(&folder.path().join("me.pem"), "me").unwrap();
        let file = folder.path().join("box.toml");
        let named = file.to_str().unwrap();
        let sum = "0a".repeat(32);
        std::fs::write(&file, format!("address = \"203.0.113.5\"\nfingerprint = \"{sum}\"\nidentity = \"me.pem\"\n"))
            .unwrap();
        let found = BoxProfile::find(named, None, None).unwrap();
        assert_eq!((found.address.as_str(), found.fingerprint.to_string()), ("203.0.113.5:8443", sum));
        assert_eq!(found.identity.fingerprint(), mine.fingerprint());
        let other = Fingerprint::of(b"other");
        assert_eq!(BoxProfile::find(named, None, Some(other)).unwrap().fingerprint, other);
        for (text, lacks) in [
            ("address = \"203.0.113.5\"", "fingerprint"),
            ("address = \"203.0.113.5\"\nfingerprint = \"x\"", "no fingerprint"),
            ("address = \"a b\"", "no address"),
            ("adress = \"a\"", "adress"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = BoxProfile::find(named, None, None).unwrap_err().to_string();
            assert!(error.contains(lacks), "{error}");
        }
        let error = BoxProfile::find("203.0.113.5", None, Some(other)).unwrap_err().to_string();
        assert!(error.contains("your identity"), "{error}");
    }
}
