//! Addresses without the person in them: the part before the `@` redacted, or replaced by a keyed sum.
//!
//! Beside the fields that hold addresses, the receiver's words and what reports say are looked through,
//! since they often repeat the address.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use postkeep_configuration::LocalPart;
use serde_json::Value;

/// What stands for a redacted local part.
const REDACTED: &str = "redacted";
/// A local part that is shorter is not looked for in other words.
const SHORTEST_SOUGHT: usize = 3;
/// Fields that hold an address.
const ADDRESSES: [&str; 3] = ["recipient", "sender", "original-recipient"];

/// What becomes of local parts.
#[derive(Debug, Clone)]
pub(crate) struct Privacy {
    mode: LocalPart,
    key: [u8; 32],
}

impl Privacy {
    /// Addresses stay as they are.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { mode: LocalPart::Plain, key: [0; 32] }
    }

    /// With the key in the file, which is made when it is needed and absent.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds no key.
    pub(crate) fn open(mode: LocalPart, file: &Path) -> io::Result<Self> {
        let key = if mode == LocalPart::Hashed { key(file)? } else { [0; 32] };
        Ok(Self { mode, key })
    }

    /// Which.
    pub(crate) fn mode(&self) -> LocalPart {
        self.mode
    }

    /// An address with its local part replaced; what has no `@` stays, since it is no address.
    pub(crate) fn address(&self, address: &str) -> String {
        match address.rsplit_once('@') {
            Some((local, domain)) if self.mode != LocalPart::Plain => {
                // `rfc822;a@b` of an original recipient keeps its type.
                let is_type = |kind: &str| kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                let (kind, local) = local.split_once(';').filter(|(kind, _)| is_type(kind)).unwrap_or(("", local));
                let separator = if kind.is_empty() { "" } else { ";" };
                format!("{kind}{separator}{}@{domain}", self.local(local, domain))
            }
            _ => address.to_owned(),
        }
    }

    /// What stands for a local part. Case is no difference, as receivers see it.
    fn local(&self, local: &str, domain: &str) -> String {
        match self.mode {
            LocalPart::Plain => local.to_owned(),
            LocalPart::Redacted => REDACTED.to_owned(),
            LocalPart::Hashed => {
                let mut hasher = blake3::Hasher::new_keyed(&self.key);
                hasher.update(local.to_lowercase().as_bytes()).update(b"@").update(domain.to_lowercase().as_bytes());
                hasher.finalize().to_hex().as_str().get(..32).unwrap_or_default().to_owned()
            }
        }
    }

    /// A text with the addresses in it replaced, and the recipient's local part wherever it stands as a word.
    pub(crate) fn text(&self, text: &str, recipient: &str) -> String {
        if self.mode == LocalPart::Plain {
            return text.to_owned();
        }
        // A local part in quotes is more than a word.
        let quoted = recipient.rsplit_once('@').map_or("", |(local, _)| local).trim_matches('"');
        let text = if quoted.len() >= SHORTEST_SOUGHT && !quoted.chars().all(is_of_address) {
            &text.replace(quoted, REDACTED)
        } else {
            text
        };
        let mut out = String::with_capacity(text.len());
        for word in text.split_inclusive(|character: char| !is_of_address(character)) {
            let end = word.chars().next_back().filter(|character| !is_of_address(*character));
            let body = end.map_or(word, |end| word.get(..word.len() - end.len_utf8()).unwrap_or_default());
            match recipient.rsplit_once('@') {
                _ if body.contains('@') => out.push_str(&self.address(body)),
                Some((local, domain)) if local.len() >= SHORTEST_SOUGHT && body.eq_ignore_ascii_case(local) => {
                    out.push_str(&self.local(local, domain));
                }
                _ => out.push_str(body),
            }
            out.extend(end);
        }
        out
    }

    /// A record with all of that.
    pub(crate) fn apply(&self, record: &mut Value) {
        if self.mode == LocalPart::Plain {
            return;
        }
        let recipient = record["recipient"].as_str().unwrap_or_default().to_owned();
        let Some(fields) = record.as_object_mut() else { return };
        for (key, value) in fields {
            match value {
                Value::String(text) if ADDRESSES.contains(&key.as_str()) => *text = self.address(text),
                // An id of a message is no address, though it looks like one.
                Value::String(text) if key == "detail" => *text = self.text(text, &recipient),
                Value::Object(inner) => {
                    for (key, value) in inner {
                        match value {
                            // What the sender wrote may be about the person.
                            Value::String(text) if key == "subject" => REDACTED.clone_into(text),
                            Value::String(text) => *text = self.text(text, &recipient),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// What may stand in an address without quotes.
fn is_of_address(character: char) -> bool {
    character.is_alphanumeric() || "@.!#$%&'*+-/=?^_`{|}~".contains(character)
}

/// 32 octets from the file, or new ones in a new file that nobody else can read.
fn key(file: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    match fs::read(file) {
        Ok(octets) => {
            key = octets.try_into().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no key of 32 octets", file.display()))
            })?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
            postkeep_files::replace(file, &key)?;
        }
        Err(error) => return Err(error),
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let hashed = Privacy::open(LocalPart::Hashed, &file).expect("a key").address("Ann@b.example");
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        let again = Privacy::open(LocalPart::Hashed, &file).expect("the key");
        assert_eq!(again.address("ann@b.example"), hashed.replace("Ann", "ann"));
        assert_ne!(again.address("ann@c.example").split('@').next(), hashed.split('@').next());
        // The oracle: BLAKE3 itself, with the key from the file.
        let key: [u8; 32] = fs::read(&file).expect("a key").try_into().expect("32 octets");
        let sum = blake3::keyed_hash(&key, b"ann@b.example").to_hex();
        assert_eq!(hashed, format!("{}@b.example", &sum.as_str()[..32]));
    }

    #[test]
    fn receivers_that_repeat_the_address_do_not_give_it_away() {
        let privacy = Privacy { mode: LocalPart::Redacted, key: [0; 32] };
        for (said, told) in [
            ("<jane.doe@b.example>: no such user", "<redacted@b.example>: no such user"),
            ("jane.doe unknown; (jane.doe)", "redacted unknown; (redacted)"),
            ("user=JANE.DOE@b.example,x", "redacted@b.example,x"),
            ("5.1.1 nobody here", "5.1.1 nobody here"),
            ("", ""),
        ] {
            assert_eq!(privacy.text(said, "jane.doe@b.example"), told);
        }
        assert_eq!(
            privacy.text("\"jane doe\"@b.example?", "\"jane doe\"@b.example"),
            "\"redacted\"redacted@b.example?"
        );
        let mut record = serde_json::json!({
            "recipient": "jane.doe@b.example", "sender": "", "original-recipient": "rfc822;jane.doe@b.example",
            "message-id": "<1@a.example>", "detail": "jane.doe is away",
            "reply": {"code": 550, "text": "jane.doe@b.example?"}, "report": {"subject": "Dear Jane"},
        });
        privacy.apply(&mut record);
        assert_eq!(
            record,
            serde_json::json!({
                "recipient": "redacted@b.example", "sender": "", "original-recipient": "rfc822;redacted@b.example",
                "message-id": "<1@a.example>", "detail": "redacted is away",
                "reply": {"code": 550, "text": "redacted@b.example?"}, "report": {"subject": "redacted"},
            })
        );
    }
}
