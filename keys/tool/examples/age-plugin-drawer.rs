//! An age plugin for tests: its device is a drawer, a folder named by `POSTKEEP_TEST_DRAWER`, in which the key lies, or does not.
//! Without arguments it makes a key in the drawer and prints the identity file, as plugins of hardware do.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use age::secrecy::ExposeSecret as _;
use age::{Identity as _, Recipient as _, x25519};
use age_core::format::{FileKey, Stanza};
use age_plugin::identity::{self, IdentityPluginV1};
use age_plugin::recipient::{self, RecipientPluginV1};
use age_plugin::{Callbacks, PluginHandler, print_new_identity, run_state_machine};

const NAME: &str = "drawer";
const KEY: &str = "key";

fn drawer() -> PathBuf {
    PathBuf::from(std::env::var_os("POSTKEEP_TEST_DRAWER").unwrap_or_default())
}

/// The key in the drawer, if it is there.
fn key() -> Option<x25519::Identity> {
    fs::read_to_string(drawer().join(KEY)).ok()?.trim().parse().ok()
}

struct Handler;

#[derive(Default)]
struct ToWhom(Vec<x25519::Recipient>);

#[derive(Default)]
struct Whose(usize);

impl PluginHandler for Handler {
    type RecipientV1 = ToWhom;
    type IdentityV1 = Whose;

    fn recipient_v1(self) -> io::Result<ToWhom> {
        Ok(ToWhom::default())
    }

    fn identity_v1(self) -> io::Result<Whose> {
        Ok(Whose::default())
    }
}

impl RecipientPluginV1 for ToWhom {
    fn add_recipient(&mut self, index: usize, _: &str, _: &[u8]) -> Result<(), recipient::Error> {
        Err(recipient::Error::Recipient { index, message: "only identities are taken".to_owned() })
    }

    fn add_identity(&mut self, index: usize, _: &str, _: &[u8]) -> Result<(), recipient::Error> {
        let key = key().ok_or(recipient::Error::Identity { index, message: "the drawer is empty".to_owned() })?;
        self.0.push(key.to_public());
        Ok(())
    }

    fn labels(&mut self) -> HashSet<String> {
        HashSet::new()
    }

    fn wrap_file_keys(
        &mut self,
        file_keys: Vec<FileKey>,
        _: impl Callbacks<recipient::Error>,
    ) -> io::Result<Result<Vec<Vec<Stanza>>, Vec<recipient::Error>>> {
        let wrap = |file_key: &FileKey| -> Vec<Stanza> {
            self.0.iter().filter_map(|to| to.wrap_file_key(file_key).ok()).flat_map(|(stanzas, _)| stanzas).collect()
        };
        Ok(Ok(file_keys.iter().map(wrap).collect()))
    }
}

impl IdentityPluginV1 for Whose {
    fn add_identity(&mut self, _: usize, _: &str, _: &[u8]) -> Result<(), identity::Error> {
        self.0 += 1;
        Ok(())
    }

    fn unwrap_file_keys(
        &mut self,
        files: Vec<Vec<Stanza>>,
        mut callbacks: impl Callbacks<identity::Error>,
    ) -> io::Result<HashMap<usize, Result<FileKey, Vec<identity::Error>>>> {
        let Some(key) = key() else {
            let _ = callbacks.message("Please put the key into the drawer")?;
            let why = || identity::Error::Identity { index: 0, message: "the drawer is empty".to_owned() };
            return Ok((0..files.len()).map(|at| (at, Err(vec![why()]))).collect());
        };
        let unwrap = |stanzas: Vec<Stanza>| stanzas.iter().find_map(|stanza| key.unwrap_stanza(stanza)?.ok());
        Ok(files.into_iter().enumerate().filter_map(|(at, stanzas)| Some((at, Ok(unwrap(stanzas)?)))).collect())
    }
}

fn main() -> io::Result<()> {
    let machine =
        std::env::args().nth(1).and_then(|argument| argument.strip_prefix("--age-plugin=").map(str::to_owned));
    if let Some(machine) = machine {
        return run_state_machine(&machine, Handler);
    }
    let key = x25519::Identity::generate();
    fs::write(drawer().join(KEY), key.to_string().expose_secret())?;
    // The identity says where to look, and nothing else.
    print_new_identity(NAME, b"the upper one", b"the upper one");
    Ok(())
}
