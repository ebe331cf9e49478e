//! The opener: does what the keeper of the seal says, and tells it how that went.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use postkeep_keys::keeper::{Act, Handled, Keeper};
use postkeep_keys::possession::{Possession, Proven};
use postkeep_keys::unseal::Opening;
use postkeep_keys::wire::{Reply, Request};
use postkeep_keys::{LARGEST_TOKEN, Name, System, Token, TokenError, passphrase};

use crate::cause::{Last, cause, leave};
use crate::volume::Volume;

/// On the boot partition: who opens the volume.
pub const TOKEN: &str = "postkeep/token";
/// On the data volume: who has proved lately that they can.
pub const POSSESSION: &str = "keys/possession.json";
const LARGEST_POSSESSION: u64 = 64 << 10;
/// Ends what uses the volume, and closes it.
const SEAL: &str = "postkeep-seal.target";

/// Where things are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The boot partition.
    pub boot: PathBuf,
    /// Where the volume is mounted, once it is open.
    pub data: PathBuf,
    /// The volume.
    pub volume: Volume,
    /// systemctl.
    pub systemctl: PathBuf,
}

/// The opener of one box.
pub struct Opener {
    place: Place,
    began: Instant,
    /// Held while a request is decided: each sees what all before it have led to. Nothing slow happens meanwhile.
    keeper: Mutex<Keeper>,
}

/// Why there is nothing to keep.
#[derive(Debug, thiserror::Error)]
pub enum OpenerError {
    /// The boot partition.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The token.
    #[error("{path}: {error}; it was damaged or changed: put back a copy (custodians have one), or flash anew")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: TokenError,
    },
}

impl Opener {
    /// That of a box which has just started; nothing, if it has no token: then no custodians open it.
    ///
    /// # Errors
    /// There is a token that cannot be used.
    pub fn sealed(place: Place) -> Result<Option<Arc<Self>>, OpenerError> {
        let path = place.boot.join(TOKEN);
        // One more, so that a file that is too large is seen to be.
        let note = match postkeep_files::beginning(&path, LARGEST_TOKEN as u64 + 1) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenerError::Read { path, error }),
        };
        // Whether it is the right one the volume says: a token that somebody has laid there has no shares that open it.
        let token = Token::unverified(&note).map_err(|error| OpenerError::Token { path, error })?;
        let cause = cause(&place.boot);
        let keeper = Keeper::sealed(String::from_utf8_lossy(&note).into_owned(), token, cause, &mut System);
        Ok(Some(Arc::new(Self { place, began: Instant::now(), keeper: Mutex::new(keeper) })))
    }

    /// Handles what somebody asks.
    pub fn handle(self: &Arc<Self>, request: &Request) -> Reply {
        let possession = if matches!(request, Request::State) { self.possession() } else { Vec::new() };
        let Handled { reply, act, told } =
            self.keeper().handle(request, &possession, self.began.elapsed(), &mut System);
        if let Some(told) = told {
            log::info!("{told}");
        }
        match act {
            None => {}
            // Whoever has answered last hears at once that it is opened, and not after it.
            Some(Act::Open(opening)) => {
                let opener = Arc::clone(self);
                std::thread::spawn(move || opener.open(&opening));
            }
            Some(Act::Seal(name)) => self.seal(&name),
            Some(Act::Prove(name)) => {
                if let Err(error) = self.prove(&name) {
                    log::error!("that {name} has proved possession cannot be written down: {error}");
                }
            }
        }
        reply
    }

    fn open(&self, opening: &Opening) {
        let (volume, epoch) = {
            let keeper = self.keeper();
            (keeper.token().volume.clone(), keeper.token().epoch)
        };
        let passphrase = passphrase(&opening.secret, None, opening.purpose, &volume, epoch);
        match self.place.volume.open(&passphrase) {
            Ok(()) => {
                // Before anybody makes use of it: a cut from now on is one.
                if let Err(error) = leave(&self.place.boot, Last::Open) {
                    log::warn!("the next start will not know that the volume was open: {error}");
                }
                self.keeper().opened();
                log::info!("the data volume is open");
            }
            Err(error) => {
                self.keeper().did_not_open();
                log::error!("enough have answered, and the volume does not open: {error}; they may answer once more");
            }
        }
    }

    fn seal(&self, name: &Name) {
        // It ends this program's own use of the volume as well: nobody waits for it here.
        let started = Command::new(&self.place.systemctl).args(["--no-block", "start", SEAL]).status();
        match started {
            Ok(status) if status.success() => {}
            Ok(status) => log::error!("{name} wants the box sealed, and systemctl start {SEAL} ended with {status}"),
            Err(error) => log::error!("{name} wants the box sealed, and systemctl cannot be run: {error}"),
        }
    }

    /// Who has proved possession, as far as the data volume tells.
    fn possession(&self) -> Vec<Proven> {
        let token = self.keeper().token().clone();
        self.read_possession(&token).of(&token, Timestamp::now())
    }

    fn prove(&self, name: &Name) -> io::Result<()> {
        let token = self.keeper().token().clone();
        let mut possession = self.read_possession(&token);
        possession.prove(name, Timestamp::now());
        let path = self.place.data.join(POSSESSION);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        postkeep_files::replace(&path, &serde_json::to_vec_pretty(&possession)?)
    }

    /// What is written there; for other shares, or where nothing is, what is true of new ones.
    fn read_possession(&self, token: &Token) -> Possession {
        let path: &Path = &self.place.data.join(POSSESSION);
        let read = postkeep_files::beginning(path, LARGEST_POSSESSION).ok();
        let read = read.and_then(|text| serde_json::from_slice::<Possession>(&text).ok());
        read.filter(|possession| possession.is_of(token)).unwrap_or_else(|| Possession::new(token, Timestamp::now()))
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        // A thread that fell over has decided nothing: each change of the keeper is the last thing that a request does.
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use age::x25519::Identity;
    use postkeep_keys::challenge::{Asked, respond};
    use postkeep_keys::wire::Seal;
    use postkeep_keys::{Answer, Custodian, Grade, KeySet, Made, Recipient, envelope};
    use postkeep_notes::SignerKey;

    use super::*;

    struct Laid {
        folder: tempfile::TempDir,
        keys: Vec<Identity>,
        made: Made,
    }

    /// A box in a folder, with programs that write down what they are asked to do.
    fn laid() -> (Laid, Arc<Opener>) {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
        let custodian = |(number, key): (usize, &Identity)| Custodian {
            name: format!("c{number}").parse().unwrap(),
            recipients: vec![Recipient::of(key)],
        };
        let set = KeySet { threshold: 2, custodians: keys.iter().enumerate().map(custodian).collect(), recovery: None };
        let volume = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed".parse().unwrap();
        let made = Token::make(&set, &volume, 1, &mut System).unwrap();
        let box_key = SignerKey::generate("box.example").unwrap();
        fs::create_dir(folder.path().join("postkeep")).unwrap();
        fs::write(folder.path().join(TOKEN), made.token.sign(&box_key).unwrap()).unwrap();
        for name in ["cryptsetup", "systemctl"] {
            let program = folder.path().join(name);
            let text = format!(
                "#!/bin/sh\necho \"$@\" >>{0}.asked\ncat >>{0}.input\ncat {0}.status 2>/dev/null >&2 && exit 2\nexit 0\n",
                program.display()
            );
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let opener = Opener::sealed(place(folder.path())).unwrap().unwrap();
        (Laid { folder, keys, made }, opener)
    }

    fn place(folder: &Path) -> Place {
        let volume = Volume {
            device: "/dev/postkeep-data".into(),
            name: "postkeep-data".to_owned(),
            program: folder.join("cryptsetup"),
        };
        Place { boot: folder.to_owned(), data: folder.join("data"), volume, systemctl: folder.join("systemctl") }
    }

    fn state(opener: &Arc<Opener>) -> postkeep_keys::wire::State {
        let Reply::State(state) = opener.handle(&Request::State) else { panic!("a state") };
        *state
    }

    fn until(opener: &Arc<Opener>, seal: Seal) {
        for _ in 0..1000 {
            if state(opener).seal == seal {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not become {seal:?}");
    }

    impl Laid {
        fn answer(&self, opener: &Arc<Opener>, number: usize) -> Reply {
            let offer = state(opener).offer.unwrap();
            let held = self.made.token.open_shares(None, &[&self.keys[number]]).unwrap().remove(0);
            let answer =
                Answer { token: offer.token, boot: offer.boot, held, grade: Grade::A1, reason: "work".to_owned() };
            opener.handle(&Request::Answer { answer: envelope::armour(&answer.seal(&offer).unwrap()) })
        }

        fn file(&self, name: &str) -> Vec<u8> {
            fs::read(self.folder.path().join(name)).unwrap_or_default()
        }
    }

    #[test]
    fn two_custodians_open_the_volume_with_what_their_shares_say() {
        let (laid, opener) = laid();
        assert!(matches!(laid.answer(&opener, 2), Reply::Counted { .. }));
        assert!(laid.file("cryptsetup.asked").is_empty());
        assert_eq!(laid.answer(&opener, 0), Reply::Opens);
        until(&opener, Seal::Open);
        let asked = String::from_utf8(laid.file("cryptsetup.asked")).unwrap();
        assert!(
            asked.starts_with("open --type=luks2") && asked.trim_end().ends_with("/dev/postkeep-data postkeep-data"),
            "{asked}"
        );
        let wanted = passphrase(&laid.made.opening, None, postkeep_keys::Purpose::Opening, &laid.made.token.volume, 1);
        assert_eq!(laid.file("cryptsetup.input"), wanted.expose());
        assert_eq!(cause(laid.folder.path()), postkeep_keys::Cause::Unclean, "should its power go now");
    }

    #[test]
    fn a_volume_that_does_not_open_waits_for_the_custodians_once_more() {
        let (laid, opener) = laid();
        fs::write(laid.folder.path().join("cryptsetup.status"), "No key available").unwrap();
        laid.answer(&opener, 0);
        assert_eq!(laid.answer(&opener, 1), Reply::Opens);
        until(&opener, Seal::Sealed);
        assert!(state(&opener).progress[0].answered.is_empty());
        fs::remove_file(laid.folder.path().join("cryptsetup.status")).unwrap();
        laid.answer(&opener, 0);
        assert_eq!(laid.answer(&opener, 1), Reply::Opens);
        until(&opener, Seal::Open);
    }

    #[test]
    fn one_custodian_proves_possession_and_seals() {
        let (laid, opener) = laid();
        laid.answer(&opener, 0);
        laid.answer(&opener, 1);
        until(&opener, Seal::Open);
        let name: Name = "c2".parse().unwrap();
        let done = |asked| {
            let Reply::Question { question } = opener.handle(&Request::Ask { asked, name: name.clone() }) else {
                panic!("a question")
            };
            let (_, response) = respond(question.as_bytes(), asked, &[&laid.keys[2]]).unwrap();
            opener.handle(&Request::Respond { asked, name: name.clone(), response })
        };
        assert!(state(&opener).possession.iter().all(|proven| proven.last.is_none()));
        assert_eq!(done(Asked::Possession), Reply::Done);
        let possession = state(&opener).possession;
        assert!(possession[2].last.is_some() && possession[1].last.is_none(), "{possession:?}");
        assert_eq!(done(Asked::Seal), Reply::Done);
        assert_eq!(laid.file("systemctl.asked"), b"--no-block start postkeep-seal.target\n");
        assert_eq!(state(&opener).seal, Seal::Sealing);
    }

    #[test]
    fn a_box_without_a_token_has_nothing_to_keep_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Opener::sealed(place(folder.path())).unwrap().is_none());
        fs::create_dir(folder.path().join("postkeep")).unwrap();
        for damaged in [&b""[..], b"rubbish", &[0xff; 100], &vec![b'a'; LARGEST_TOKEN + 10]] {
            fs::write(folder.path().join(TOKEN), damaged).unwrap();
            let error = Opener::sealed(place(folder.path())).err().unwrap().to_string();
            assert!(error.contains("postkeep/token") && error.contains("put back a copy"), "{error}");
        }
    }
}
