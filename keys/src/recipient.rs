//! To whom a share is encrypted: the kinds of age recipients that the box knows. One file for each that the `age` crate does not bring.
//!
//! Plugins are not among them: a plugin is a program, and a text from outside must never choose one that the box starts. Who has
//! their key in a plugin lets it guard an identity of the first kind, on their own machine.

mod ssh_ed25519;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use age_core::format::{FileKey, Stanza};
use serde::{Deserialize, Serialize};

use self::ssh_ed25519::SshEd25519;

/// A recipient of age has 62 letters, one of an SSH key some more.
const LONGEST: usize = 256;

/// A public key to encrypt to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    kind: Kind,
    /// As it was given, without what a person added behind an SSH key.
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    X25519(age::x25519::Recipient),
    P256Tag(age::tag::Recipient),
    SshEd25519(SshEd25519),
}

/// Why nothing can be encrypted to a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// See the text. What was given is not repeated: it may be the secret half.
    #[error(
        "this is a secret key; give its public half, and take the secret one out of the file: whoever reads it holds the share"
    )]
    Secret,
    /// See the text.
    #[error(
        "{shown}… belongs to a plugin, and a box starts none; `postkeep keys generate --guard` makes an age1… key that the plugin guards"
    )]
    Plugin {
        /// How it begins.
        shown: Shown,
    },
    /// See the text.
    #[error(
        "post-quantum recipients ({shown}…) cannot stand beside the others; give an age1…, age1tag1… or ssh-ed25519 key"
    )]
    PostQuantum {
        /// How it begins.
        shown: Shown,
    },
    /// See the text.
    #[error("only ssh-ed25519 is taken of the kinds of SSH keys; make one with `ssh-keygen -t ed25519`")]
    OtherSsh,
    /// See the text.
    #[error("the ssh-ed25519 key is damaged: {why}")]
    Ssh {
        /// What is wrong.
        why: &'static str,
    },
    /// See the text.
    #[error("{shown}… is damaged: a character was lost or changed; copy it again")]
    Damaged {
        /// How it begins.
        shown: Shown,
    },
    /// See the text.
    #[error("a recipient begins with age1, age1tag1 or ssh-ed25519")]
    Unknown,
}

/// How a text begins, short enough to tell it and to tell nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shown([char; 10]);

impl Recipient {
    /// A recipient whose identity is `identity`'s.
    #[must_use]
    pub fn of(identity: &age::x25519::Identity) -> Self {
        let public = identity.to_public();
        Self { text: public.to_string(), kind: Kind::X25519(public) }
    }
}

impl age::Recipient for Recipient {
    fn wrap_file_key(&self, key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        match &self.kind {
            Kind::X25519(recipient) => recipient.wrap_file_key(key),
            Kind::P256Tag(recipient) => recipient.wrap_file_key(key),
            Kind::SshEd25519(recipient) => recipient.wrap_file_key(key),
        }
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let shown = Shown::of(text);
        if secret_line(text).is_some() {
            return Err(RecipientError::Secret);
        }
        if text.len() > LONGEST {
            return Err(if text.starts_with("age1pq1") || text.starts_with("age1tagpq1") {
                RecipientError::PostQuantum { shown }
            } else {
                RecipientError::Damaged { shown }
            });
        }
        if let Some((kind, key)) = text.split_once(' ').filter(|(kind, _)| is_ssh(kind)) {
            if kind != ssh_ed25519::NAME {
                return Err(RecipientError::OtherSsh);
            }
            // What follows is a comment.
            let key = key.split(' ').next().unwrap_or_default();
            let kind = Kind::SshEd25519(SshEd25519::parse(key).map_err(|why| RecipientError::Ssh { why })?);
            return Ok(Self { kind, text: format!("{} {key}", ssh_ed25519::NAME) });
        }
        // In bech32 the last 1 ends the name; none of its letters is a 1.
        let Some((name, _)) = text.rsplit_once('1') else { return Err(RecipientError::Unknown) };
        let damaged = |_: &str| RecipientError::Damaged { shown };
        let kind = match name {
            "age" => Kind::X25519(text.parse().map_err(damaged)?),
            "age1tag" => Kind::P256Tag(text.parse().map_err(damaged)?),
            "age1pq" | "age1tagpq" => return Err(RecipientError::PostQuantum { shown }),
            _ if name.starts_with("age1") => return Err(RecipientError::Plugin { shown }),
            _ => return Err(RecipientError::Unknown),
        };
        Ok(Self { kind, text: text.to_owned() })
    }
}

/// The first line of `text`, from 1, in which somebody has put a secret key: such a text is not taken apart, since errors repeat
/// what they are about.
#[must_use]
pub fn secret_line(text: &str) -> Option<usize> {
    let is_secret = |line: &str| {
        let line = line.to_ascii_uppercase();
        ["AGE-SECRET-KEY-", "AGE-PLUGIN-", "PRIVATE KEY-----"].iter().any(|begin| line.contains(begin))
    };
    text.lines().position(is_secret).map(|at| at + 1)
}

fn is_ssh(kind: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|begin| kind.starts_with(begin))
}

impl fmt::Display for Recipient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Serialize for Recipient {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Shown {
    fn of(text: &str) -> Self {
        let mut shown = ['\0'; 10];
        let harmless = text.chars().map(|letter| if letter.is_ascii_graphic() { letter } else { '?' });
        shown.iter_mut().zip(harmless).for_each(|(to, letter)| *to = letter);
        Self(shown)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        self.0.iter().filter(|letter| **letter != '\0').try_for_each(|letter| out.write_char(*letter))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_are_read_and_written_as_they_were() {
        for text in [
            // The age crate's, C2SP's, and age's test for SSH.
            "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
            "age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN",
        ] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        }
        let with_comment =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN anna@lap top";
        assert!(with_comment.parse::<Recipient>().unwrap().to_string().ends_with("6isGN"));
    }

    #[test]
    fn what_cannot_be_encrypted_to_is_named_with_a_way_out() {
        for (text, said) in [
            ("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX", "secret key"),
            ("age-secret-key-1gfpyysj", "secret key"),
            ("AGE-PLUGIN-YUBIKEY-1QQ", "secret key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "secret key"),
            ("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "belongs to a plugin"),
            ("age1pq1qq", "post-quantum"),
            ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB anna", "only ssh-ed25519"),
            ("ecdsa-sha2-nistp256 AAAA", "only ssh-ed25519"),
            ("ssh-ed25519 AAAA", "damaged"),
            ("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8q", "damaged"),
            ("age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4", "damaged"),
            ("", "begins with age1"),
            ("anna@example.org", "begins with age1"),
            ("../../bin/sh1", "begins with age1"),
        ] {
            let error = text.parse::<Recipient>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let secret = "AGE-SECRET-KEY-1GFPYYSJZ".parse::<Recipient>().unwrap_err();
        assert!(!format!("{secret} {secret:?}").contains("GFPYY"));
    }
}
