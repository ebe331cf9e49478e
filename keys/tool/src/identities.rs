//! Files with keys: plain ones, as age writes them; ones that a passphrase closes; ones that a plugin's device guards; SSH keys. The box
//! knows public halves, and never hears of passphrases and devices.

use std::io::Write as _;
use std::path::Path;

use age::secrecy::{ExposeSecret as _, SecretString};
use age::{IdentityFile, x25519};
use jiff::Timestamp;
use postkeep_keys::{Recipient, envelope};
use zeroize::Zeroizing;

use crate::outcome::{Failure, bad, read, refused};
use crate::ssh_ed25519;
use crate::terminal::Terminal;

const GUARD: &str = "# guard: ";
const ARMOUR_BEGINS: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
/// One level above what age itself takes by default; a hostile file could ask for years.
const LARGEST_WORK: u8 = 22;
const SHORTEST_PASSPHRASE: usize = 12;

/// How a new key is kept.
pub(crate) enum Keeping {
    Plain,
    Passphrase(SecretString),
    /// An identity file of a plugin.
    Guard(Zeroizing<Vec<u8>>),
}

/// Keys that open something.
pub(crate) type Identities = Vec<Box<dyn age::Identity + Send + Sync>>;

/// A new key: the text of its file, and its public half.
pub(crate) fn generate(keeping: &Keeping, now: Timestamp) -> Result<(Zeroizing<String>, Recipient), Failure> {
    let identity = x25519::Identity::generate();
    let recipient = Recipient::of(&identity);
    let secret = identity.to_string();
    let head = format!("# made: {now:.0}\n# public key: {recipient}\n");
    let plain = Zeroizing::new(format!("{head}{}\n", secret.expose_secret()));
    let text = match keeping {
        Keeping::Plain => plain,
        Keeping::Passphrase(passphrase) => {
            let encryptor = age::Encryptor::with_user_passphrase(passphrase.clone());
            Zeroizing::new(encrypt(encryptor, plain.as_bytes())?)
        }
        Keeping::Guard(guard) => {
            let file = IdentityFile::from_buffer(&guard[..]).map_err(bad)?.with_callbacks(Terminal);
            let recipients = file.to_recipients().map_err(bad)?;
            let recipients = recipients.iter().map(|recipient| &**recipient as &dyn age::Recipient);
            let encryptor = age::Encryptor::with_recipients(recipients).map_err(bad)?;
            let lines = std::str::from_utf8(guard).map_err(bad)?.lines();
            let lines: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
            if lines.iter().any(|line| !line.starts_with("AGE-PLUGIN-")) {
                return Err(refused(
                    "--guard wants the identity file of a plugin; this one holds a key itself, which would lie open beside what it guards",
                ));
            }
            let guards: String = lines.iter().map(|line| format!("{GUARD}{line}\n")).collect();
            Zeroizing::new(format!("{head}{guards}{}", encrypt(encryptor, plain.as_bytes())?))
        }
    };
    Ok((text, recipient))
}

fn encrypt(encryptor: age::Encryptor, plain: &[u8]) -> Result<String, Failure> {
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).map_err(bad)?;
    writer.write_all(plain).and_then(|()| writer.finish().map(drop)).map_err(bad)?;
    Ok(envelope::armour(&file))
}

/// A passphrase that was typed twice.
pub(crate) fn new_passphrase() -> Result<SecretString, Failure> {
    let nobody = || bad("nobody can be asked for a passphrase: there is no terminal");
    let passphrase = Terminal::secret("A passphrase for the key").ok_or_else(nobody)?;
    if passphrase.expose_secret().chars().count() < SHORTEST_PASSPHRASE {
        return Err(refused(format!(
            "a passphrase has {SHORTEST_PASSPHRASE} characters at least: six words that have nothing to do with each other are good"
        )));
    }
    let again = Terminal::secret("The same passphrase again").ok_or_else(nobody)?;
    if passphrase.expose_secret() != again.expose_secret() {
        return Err(refused("the two were not the same; nothing was written"));
    }
    Ok(passphrase)
}

/// The keys in a file; whoever closed it is asked for.
pub(crate) fn open(path: &Path) -> Result<Identities, Failure> {
    let named = |why: String| bad(format!("{}: {why}", path.display()));
    let octets = read(path)?;
    let text = std::str::from_utf8(&octets).unwrap_or_default();
    if text.trim_start().starts_with(ssh_ed25519::BEGINS) {
        return Ok(vec![Box::new(ssh_ed25519::read(text).map_err(named)?)]);
    }
    let plain = match text.find(ARMOUR_BEGINS) {
        None if octets.starts_with(b"age-encryption.org/") => Some(unlock(&octets, "")),
        None => None,
        Some(at) => Some(unlock(&text.as_bytes()[at..], &text[..at])),
    };
    let plain = plain.transpose().map_err(named)?.unwrap_or(octets);
    let file = IdentityFile::from_buffer(&plain[..]).map_err(|error| named(error.to_string()))?;
    let identities = file.with_callbacks(Terminal).into_identities().map_err(|error| named(error.to_string()))?;
    if identities.is_empty() {
        return Err(named("there is no key in it".to_owned()));
    }
    Ok(identities)
}

/// What is in a closed file of keys; `head` is what stands before it.
fn unlock(file: &[u8], head: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let guards: String =
        head.lines().filter_map(|line| line.strip_prefix(GUARD)).map(|line| format!("{line}\n")).collect();
    if guards.is_empty() {
        let passphrase = Terminal::secret("The passphrase of the key")
            .ok_or("nobody can be asked for its passphrase: there is no terminal")?;
        let mut identity = age::scrypt::Identity::new(passphrase);
        identity.set_max_work_factor(LARGEST_WORK);
        return decrypt(file, &[&identity]).map_err(|error| match error {
            age::DecryptError::KeyDecryptionFailed | age::DecryptError::DecryptionFailed => {
                "that is not its passphrase".to_owned()
            }
            age::DecryptError::NoMatchingKeys => "it is closed by a key and does not say which".to_owned(),
            error => error.to_string(),
        });
    }
    let guards = IdentityFile::from_buffer(guards.as_bytes()).map_err(|error| error.to_string())?;
    let guards = guards.with_callbacks(Terminal).into_identities().map_err(|error| error.to_string())?;
    let guards: Vec<&dyn age::Identity> = guards.iter().map(|guard| &**guard as &dyn age::Identity).collect();
    decrypt(file, &guards).map_err(|error| error.to_string())
}

fn decrypt(file: &[u8], identities: &[&dyn age::Identity]) -> Result<Zeroizing<Vec<u8>>, age::DecryptError> {
    use std::io::Read as _;
    let reader = age::armor::ArmoredReader::new(file);
    let mut reader = age::Decryptor::new_buffered(reader)?.decrypt(identities.iter().copied())?;
    let mut plain = Zeroizing::new(Vec::with_capacity(file.len()));
    reader.read_to_end(&mut plain)?;
    Ok(plain)
}

/// The public half of the keys in a file that nothing closes, or as its head says it.
pub(crate) fn recipients(path: &Path) -> Result<Vec<String>, Failure> {
    let octets = read(path)?;
    let text = std::str::from_utf8(&octets).map_err(|_| bad(format!("{}: this is no file of keys", path.display())))?;
    let said = text.lines().filter_map(|line| line.strip_prefix("# public key: ")).map(str::to_owned);
    let own =
        text.lines().filter_map(|line| line.parse::<x25519::Identity>().ok()).map(|key| key.to_public().to_string());
    let mut recipients: Vec<String> = own.collect();
    if recipients.is_empty() {
        recipients = said.filter(|line| line.parse::<Recipient>().is_ok()).collect();
    }
    if recipients.is_empty() {
        return Err(bad(format!("{}: its public half cannot be told without opening it", path.display())));
    }
    Ok(recipients)
}
