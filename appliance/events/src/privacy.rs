//! Addresses without the person in them: the part before the `@` redacted, or replaced by a keyed sum.
//!
//! Beside the fields that hold addresses, every text is looked through that a person, a receiver or a report may
//! have written, since they often repeat the address.

mod text;

use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use parking_lot::Mutex;
use postkeep_configuration::LocalPart;
use serde_json::Value;

use self::text::{Sought, from_xtext, replaced};

/// What stands for a redacted local part.
const REDACTED: &str = "redacted";
/// Fields that hold an address.
const ADDRESSES: [&str; 3] = ["recipient", "sender", "original-recipient"];
/// Fields that the box itself has written, or that name machines. An id of a message is no address, though it
/// looks like one. All others are looked through, also those that records do not have yet.
const OURS: [&str; 29] = [
    "time",
    "event",
    "message",
    "received",
    "stream",
    "peer",
    "protocol",
    "message-id",
    "unsubscribe",
    "domain",
    "site",
    "provider",
    "source",
    "source-address",
    "pool",
    "host",
    "address",
    "keywords",
    "stage",
    "class",
    "scope",
    "rule",
    "status",
    "suppress",
    "tls",
    "next-attempt",
    "code",
    "enhanced",
    "id",
];
/// Types of addresses in original recipients (RFC 3461, RFC 6533) that are kept beside them.
const TYPES: [&str; 2] = ["rfc822", "utf-8"];
/// Two receivers that are opened at the same time make one key.
static MAKING_A_KEY: Mutex<()> = Mutex::new(());

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

    /// An address with its local part replaced. What has no `@` is nobody or goes whole.
    fn address(&self, address: &str) -> String {
        match address.rsplit_once('@') {
            _ if address.is_empty() => String::new(),
            Some((local, domain)) => format!("{}@{domain}", self.local(local, domain)),
            None => REDACTED.to_owned(),
        }
    }

    /// The same for an original recipient, which is xtext and may have its type before it: `rfc822;a@b`.
    fn original(&self, original: &str) -> String {
        let original = from_xtext(original);
        match original.split_once(';') {
            Some((kind, address)) if TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known)) => {
                format!("{kind};{}", self.address(address))
            }
            _ => self.address(&original),
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

    /// A record with all of that.
    pub(crate) fn apply(&self, record: &mut Value) {
        if self.mode == LocalPart::Plain {
            return;
        }
        let sought: Vec<Sought> = ADDRESSES
            .iter()
            .filter_map(|key| {
                let address = record[*key].as_str()?;
                if *key != "original-recipient" {
                    return Sought::new(address);
                }
                let original = from_xtext(address);
                Sought::new(original.split_once(';').map_or(original.as_str(), |(_, address)| address))
            })
            .collect();
        // What a machine answers for somebody begins with the subject that they wrote.
        let is_personal = record["event"] == "auto-reply";
        let Some(fields) = record.as_object_mut() else { return };
        for (key, value) in fields {
            match (key.as_str(), value) {
                ("original-recipient", Value::String(text)) => *text = self.original(text),
                (key, Value::String(text)) if ADDRESSES.contains(&key) => *text = self.address(text),
                ("detail", Value::String(text)) if is_personal => REDACTED.clone_into(text),
                ("envelope-id", Value::String(text)) => {
                    // As the client gave it, unless there is something to hide in what it means.
                    let meant = from_xtext(text);
                    let hidden = replaced(self, &meant, &sought);
                    if hidden != meant {
                        *text = hidden;
                    }
                    *text = replaced(self, text, &sought);
                }
                (key, value) => self.apply_to(key, value, &sought),
            }
        }
    }

    /// Any other field, and those in it.
    fn apply_to(&self, key: &str, value: &mut Value, sought: &[Sought]) {
        match value {
            _ if OURS.contains(&key) => {}
            // What the sender wrote may be about the person.
            Value::String(text) if key == "subject" => REDACTED.clone_into(text),
            Value::String(text) => *text = replaced(self, text, sought),
            Value::Array(values) => values.iter_mut().for_each(|value| self.apply_to(key, value, sought)),
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.apply_to(key, value, sought)),
            _ => {}
        }
    }
}

/// 32 octets from the file, or new ones in a new file that nobody else can read.
fn key(file: &Path) -> io::Result<[u8; 32]> {
    let _one_at_a_time = MAKING_A_KEY.lock();
    let mut key = [0; 32];
    match fs::read(file) {
        Ok(octets) => {
            key = octets.try_into().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no key of 32 octets", file.display()))
            })?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder)?;
            }
            SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system gives no random numbers"))?;
            postkeep_files::replace(file, &key)?;
        }
        Err(error) => return Err(error),
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

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

    const ADDRESS: &str = "jane.doe@there.test";

    fn redacting() -> Privacy {
        Privacy { mode: LocalPart::Redacted, key: [0; 32] }
    }

    fn applied(privacy: &Privacy, mut record: Value) -> Value {
        privacy.apply(&mut record);
        record
    }

    #[test]
    fn receivers_that_repeat_the_address_do_not_give_it_away() {
        for (said, told) in [
            ("<jane.doe@there.test>: no such user", "<redacted@there.test>: no such user"),
            ("No such user jane.doe.", "No such user redacted."),
            ("'jane.doe' and (JANE.DOE)", "'redacted' and (redacted)"),
            ("user=jane.doe jane.doe!", "user=redacted redacted!"),
            ("user=JANE.DOE@there.test,x", "user=redacted@there.test,x"),
            ("https://x.test/?e=jane.doe%40there.test", "https://x.test/?e=redacted%40there.test"),
            ("%3Cjane.doe%3E xjane.doex", "%3Credacted%3E xredactedx"),
            ("rfc822;jane.doe+40there.test", "rfc822;redacted+40there.test"),
            ("ask bob=there.test@here.test", "ask redacted@here.test"),
            ("'bob@b.test' *bob@b.test.", "'redacted@b.test' *redacted@b.test."),
            ("https://x.test/to/bob@b.test?a=1", "https://x.test/to/redacted@b.test?a=1"),
            ("\"bob b\"@b.test, bob%40b.test.", "\"redacted@b.test, redacted%40b.test.".trim_start_matches('"')),
            ("mary+jane.doe@there.test mary.jane.doe%40there.test", "redacted@there.test redacted%40there.test"),
            ("/G=Mary/S=Smith/@b.test mary#smith@b.test", "redacted@b.test redacted@b.test"),
            ("bob+40b.test; call +40 722, x+4096.5", "redacted+40b.test; call +40 722, x+4096.5"),
            ("5.1.1 nobody here, janet.doerr; @ 40", "5.1.1 nobody here, janet.doerr; @ 40"),
            ("", ""),
        ] {
            let record = serde_json::json!({"recipient": ADDRESS, "reply": {"code": 550, "text": said}});
            assert_eq!(applied(&redacting(), record)["reply"]["text"], told, "{said}");
        }
    }

    #[test]
    fn every_field_that_may_name_a_person_is_looked_through() {
        let record = serde_json::json!({
            "id": "1-2@mail.example.com", "event": "bounced", "recipient": ADDRESS, "sender": "",
            "original-recipient": "rfc822;jane.doe+40there.test", "envelope-id": "jane.doe+40there.test",
            "message-id": "<1@a.example>", "detail": "jane.doe is away", "job": "for jane.doe", "credential": "bob@here.test",
            "reply": {"code": 550, "text": "jane.doe@there.test?"}, "report": {"subject": "Dear Jane", "from": "a <b@c.test>"},
        });
        let told = serde_json::json!({
            "id": "1-2@mail.example.com", "event": "bounced", "recipient": "redacted@there.test", "sender": "",
            "original-recipient": "rfc822;redacted@there.test", "envelope-id": "redacted@there.test",
            "message-id": "<1@a.example>", "detail": "redacted is away", "job": "for redacted",
            "credential": "redacted@here.test",
            "reply": {"code": 550, "text": "redacted@there.test?"}, "report": {"subject": "redacted", "from": "a <redacted@c.test>"},
        });
        assert_eq!(applied(&redacting(), record), told);
        let record = serde_json::json!({
            "event": "auto-reply", "recipient": ADDRESS, "original-recipient": "jane doe", "envelope-id": "batch+2B7",
            "detail": "Re: your results",
        });
        let told = serde_json::json!({
            "event": "auto-reply", "recipient": "redacted@there.test", "original-recipient": "redacted",
            "envelope-id": "batch+2B7", "detail": "redacted",
        });
        assert_eq!(applied(&redacting(), record), told);
    }

    #[test]
    fn other_scripts_are_seen_through_their_escapes() {
        let privacy = Privacy { mode: LocalPart::Hashed, key: [7; 32] };
        let sum = privacy.local("\u{e9}mile", "there.test");
        let record = serde_json::json!({
            "recipient": "\u{e9}mile@there.test", "original-recipient": "utf-8;\\x{E9}mile@there.test",
            "detail": "\u{c9}mile %C3%A9mile %c3%a9mile",
        });
        let told = applied(&privacy, record);
        assert_eq!(told["original-recipient"], format!("utf-8;{sum}@there.test"));
        assert_eq!(told["detail"], format!("{sum} {sum} {sum}"));
    }

    #[test]
    fn the_same_address_has_the_same_sum_wherever_it_stands() {
        let privacy = Privacy { mode: LocalPart::Hashed, key: [7; 32] };
        let sum = privacy.address(ADDRESS);
        for text in ["'#'", "user=#", "#.", "<#>,", "/x/#?", "JANE #"] {
            // Also of somebody who is not the recipient.
            for recipient in [ADDRESS, "bob@here.test"] {
                let said = text.replace('#', "Jane.Doe@There.test");
                let record = serde_json::json!({"recipient": recipient, "detail": said, "credential": ADDRESS});
                let told = applied(&privacy, record);
                let found = told["detail"].as_str().expect("text").to_lowercase();
                assert!(found.contains(&sum), "{said}: {found}");
                assert_eq!(told["credential"], sum);
            }
        }
    }

    fn locals() -> impl Strategy<Value = String> {
        // Letters that neither keys nor words around them have, so that what is found is the local part.
        let atom = "[qzJQZ][qzJQZ0-9_+=-]{2,9}(\\.[qzJQZ0-9'!#$&*/?^|~-]{1,5}){0,2}";
        prop_oneof![4 => atom.prop_map(|atom: String| atom), 1 => "[qzZ]{3}[ ,;:()<>]{0,2}[qzZ0-9]{1,4}".prop_map(|inner| format!("\"{inner}\""))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_field_has_the_local_part(
            local in locals(),
            before in "[ <>('\":;,./?&#=*!-]{0,3}",
            behind in "[ <>)'\":;,./?&#=*!-]{0,3}",
            shape in 0usize..6,
            hashed in any::<bool>(),
        ) {
            let address = format!("{local}@there.test");
            let link = |text: &str| text.bytes().map(|octet| if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
                char::from(octet).to_string()
            } else {
                format!("%{octet:02x}")
            }).collect::<String>();
            let xtext = |text: &str| text.bytes().map(|octet| if octet.is_ascii_alphanumeric() || octet == b'.' {
                char::from(octet).to_string()
            } else {
                format!("+{octet:02X}")
            }).collect::<String>();
            let written = match shape {
                0 => local.clone(),
                1 => address.clone(),
                2 => link(&address),
                3 => address.to_uppercase(),
                4 => xtext(&address),
                _ => local.trim_matches('"').to_owned(),
            };
            let text = format!("no user {before}{written}{behind} here");
            let mut record = serde_json::json!({
                "event": "bounced", "recipient": address, "sender": "news@here.test",
                "original-recipient": format!("rfc822;{}", xtext(&address)), "envelope-id": xtext(&text), "credential": text,
                "job": text, "detail": text, "reply": {"code": 550, "text": text},
                "report": {"subject": text, "from": text, "return-path": text}, "tls-failure": text, "actor": text,
            });
            let mode = if hashed { LocalPart::Hashed } else { LocalPart::Redacted };
            Privacy { mode, key: [3; 32] }.apply(&mut record);
            let strings = |value: &Value| serde_json::to_string(value).expect("JSON").to_lowercase();
            for part in [local.trim_matches('"').to_owned(), link(local.trim_matches('"')), xtext(local.trim_matches('"'))] {
                prop_assert!(!strings(&record).contains(&part.to_lowercase()), "{part} in {record:#}");
            }
        }
    }
}
