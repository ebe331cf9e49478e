//! The opener: does what the keeper of the seal says, and tells it how that went.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use postkeep_journal::{POSSESSION_DUE, POSSESSION_PROVEN, SEAL_ASKED, VOLUME_OPENED, VOLUME_UNOPENED};
use postkeep_keys::keeper::{Act, Handled, Keeper};
use postkeep_keys::possession::{Possession, Proven};
use postkeep_keys::unseal::Opening;
use postkeep_keys::wire::{Reply, Request};
use postkeep_keys::{LARGEST_TOKEN, Name, System, Token, TokenError, passphrase};

use crate::cause::{Last, cause, leave};
use crate::first::{FIRST_SLOT, slot};
use crate::volume::Volume;

/// On the boot partition: who opens the volume.
pub const TOKEN: &str = "postkeep/token";
/// On the data volume: who has proved lately that they can.
pub const POSSESSION: &str = "keys/possession.json";
const LARGEST_POSSESSION: u64 = 64 << 10;
/// Refusals are told no more often.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Custodians prove once a quarter, and are looked for by whoever reads the journal.
const REMINDED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Ends what uses the volume, and closes it.
const SEAL: &str = "postkeep-seal.target";
/// What a box does when its volume is open. By its own name: of a target above it, which is active already, systemd would start what
/// lacks there, and forget what lacks below it.
const EVERYTHING: &str = "multi-user.target";

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
    /// Written when enough have answered and the volume did not open, for whoever judges this start.
    pub unopened: PathBuf,
}

/// The opener of one box.
pub struct Opener {
    place: Place,
    began: Instant,
    /// Held while a request is decided: each sees what all before it have led to. Nothing slow happens meanwhile.
    keeper: Mutex<Keeper>,
    /// What is written on the volume, once it was read. Held while the file is read, changed and written: no proof is lost to another. Whoever
    /// asks how the box is has it from here: a file that is open on the volume, however shortly, would keep it from being closed.
    possession: Mutex<Option<Possession>>,
    refusals: Mutex<Refusals>,
}

/// Refusals since they were told: anybody can cause them, and the journal must not be filled by them.
#[derive(Default)]
struct Refusals {
    told: Option<Instant>,
    count: u64,
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
    /// That of a box which has started, sealed or, where this program was started again, open; nothing, if it has no token: then no
    /// custodians open it.
    ///
    /// # Errors
    /// There is a token that cannot be used.
    pub fn start(place: Place) -> Result<Option<Arc<Self>>, OpenerError> {
        let path = place.boot.join(TOKEN);
        // One more, so that a file that is too large is seen to be.
        let note = match postkeep_files::beginning(&path, LARGEST_TOKEN as u64 + 1) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenerError::Read { path, error }),
        };
        // Whether it is the right one the volume says: a token that somebody has laid there has no shares that open it.
        let token = Token::unverified(&note).map_err(|error| OpenerError::Token { path, error })?;
        let note = String::from_utf8_lossy(&note).into_owned();
        // An opener that was started again beside an open volume: it can be sealed, and must not ask for shares.
        let keeper = if place.volume.is_open() {
            Keeper::open(note, token)
        } else {
            Keeper::sealed(note, token, cause(&place.boot), &mut System)
        };
        Ok(Some(Arc::new(Self {
            place,
            began: Instant::now(),
            keeper: Mutex::new(keeper),
            possession: Mutex::default(),
            refusals: Mutex::default(),
        })))
    }

    /// Handles what somebody asks.
    pub fn handle(self: &Arc<Self>, request: &Request) -> Reply {
        let possession =
            if matches!(request, Request::State) && self.keeper().is_open() { self.possession() } else { Vec::new() };
        let Handled { reply, act, told } =
            self.keeper().handle(request, &possession, self.began.elapsed(), &mut System);
        match told {
            Some(told) if reply == Reply::Refused => self.tell_refusal(&told),
            Some(told) => log::info!("{told}"),
            None => {}
        }
        match act {
            None => reply,
            Some(Act::Open(opening)) => {
                // Whoever has answered last hears at once that it is opened, and not after it.
                let opener = Arc::clone(self);
                let began = std::thread::Builder::new().spawn(move || opener.open(&opening));
                if let Err(error) = began {
                    log::error!("enough have answered, and nothing can be started to open the volume: {error}");
                    self.keeper().did_not_open(&mut System);
                    return Reply::Refused;
                }
                reply
            }
            Some(Act::Seal(name)) => {
                SEAL_ASKED.tell(format_args!("{name} has the box sealed"), [&name]);
                self.done(&format!("{name} wants the box sealed"), self.seal(), Keeper::did_not_seal)
            }
            Some(Act::Prove(name)) => {
                let proved = self.prove(&name);
                if proved.is_ok() {
                    POSSESSION_PROVEN.tell(format_args!("{name} has proved possession of their key"), [&name]);
                }
                self.done(&format!("{name} has proved possession"), proved, |_| ())
            }
        }
    }

    /// Says that it is done only where it is.
    fn done(&self, what: &str, result: io::Result<()>, undo: impl Fn(&mut Keeper)) -> Reply {
        match result {
            Ok(()) => Reply::Done,
            Err(error) => {
                log::error!("{what}, and that failed: {error}");
                undo(&mut self.keeper());
                Reply::Failed
            }
        }
    }

    fn tell_refusal(&self, why: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.count += 1;
        if refusals.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            let count = std::mem::take(&mut refusals.count);
            refusals.told = Some(Instant::now());
            drop(refusals);
            log::warn!("refused: {why} ({count} refused since the last such line)");
        }
    }

    fn open(&self, opening: &Opening) {
        // Also where this thread falls over on the way.
        let unless_open = NotOpen(self);
        let (volume, epoch) = {
            let keeper = self.keeper();
            (keeper.token().volume.clone(), keeper.token().epoch)
        };
        let passphrase = passphrase(&opening.secret, None, opening.purpose, &volume, epoch);
        let custodians = opening.listed();
        let slots = match self.place.volume.open(&volume, &passphrase, slot(opening.purpose)) {
            Ok(slots) => slots,
            // One that took too long, and was opened all the same.
            Err(_) if self.place.volume.is_open() => Vec::new(),
            Err(error) => {
                if let Err(error) = postkeep_files::replace(&self.place.unopened, b"") {
                    log::warn!("cannot write {}: {error}", self.place.unopened.display());
                }
                VOLUME_UNOPENED.tell(
                    format_args!(
                        "enough have answered, and the volume does not open: {error}; they may answer what it offers now"
                    ),
                    [&custodians, &error],
                );
                return;
            }
        };
        // Before anybody hears of it: a cut from now on is one.
        self.leave_word();
        self.keeper().opened();
        drop(unless_open);
        let purpose = opening.purpose.name();
        VOLUME_OPENED.tell(format_args!("the data volume is open; {purpose}: {custodians}"), [&purpose, &custodians]);
        self.start_what_waits();
        // A first boot that was cut between its last two steps.
        if slots.contains(&FIRST_SLOT) {
            match self.place.volume.remove(FIRST_SLOT) {
                Ok(()) => log::info!("the slot of the random key that the volume was made with is gone"),
                Err(error) => log::warn!("the slot that the volume was made with cannot be removed: {error}"),
            }
        }
    }

    /// Tells the journal now and then who should prove that they hold their key. For ever.
    pub fn remind(&self) {
        loop {
            std::thread::sleep(REMINDED_EVERY);
            if !self.keeper().is_open() {
                continue;
            }
            let due: Vec<String> =
                self.possession().iter().filter(|proven| proven.is_due).map(|proven| proven.name.to_string()).collect();
            if !due.is_empty() {
                let names = due.join(", ");
                POSSESSION_DUE.tell(
                    format_args!("not proved for 91 days, or never, that they hold their key: {names}"),
                    [&names],
                );
            }
        }
    }

    /// An opener that has started, and finds the volume open: at the end of the first boot, or where one fell over before it could say so.
    pub fn go_on(&self) {
        if self.keeper().is_open() {
            self.leave_word();
            self.start_what_waits();
        }
    }

    fn leave_word(&self) {
        if let Err(error) = leave(&self.place.boot, Last::Open) {
            log::warn!("the next start will not know that the volume was open: {error}");
        }
    }

    /// At a start everything waits for the volume already; in a box that was sealed since nothing does.
    fn start_what_waits(&self) {
        if let Err(error) = self.begin(EVERYTHING) {
            log::error!("the data volume is open, and what needs it may not start: {error}");
        }
    }

    fn seal(&self) -> io::Result<()> {
        self.begin(SEAL)
    }

    /// Sealing ends this program's own use of the volume as well, and much waits for opening: nobody waits for it here.
    fn begin(&self, unit: &str) -> io::Result<()> {
        let status = Command::new(&self.place.systemctl).args(["--no-block", "start", unit]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("systemctl start {unit} ended with {status}")))
        }
    }

    /// Who has proved possession, as far as the data volume tells.
    fn possession(&self) -> Vec<Proven> {
        let token = self.keeper().token().clone();
        let mut known = self.possession.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = self.read_possession(&token);
        }
        known.clone().unwrap_or_else(|| Possession::new(&token)).of(&token, Timestamp::now())
    }

    fn prove(&self, name: &Name) -> io::Result<()> {
        let token = self.keeper().token().clone();
        let path = self.place.data.join(POSSESSION);
        // The folder is made with the volume. Where it is missing the volume is not mounted yet, and what is written would vanish.
        let mut known = self.possession.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone().or_else(|| self.read_possession(&token));
        let mut possession = before.unwrap_or_else(|| Possession::new(&token));
        possession.prove(name, Timestamp::now());
        postkeep_files::replace(&path, &serde_json::to_vec_pretty(&possession)?)?;
        *known = Some(possession);
        Ok(())
    }

    /// What is written there; nothing, where it is of other shares, or cannot be read.
    fn read_possession(&self, token: &Token) -> Option<Possession> {
        let path: &Path = &self.place.data.join(POSSESSION);
        let read = postkeep_files::beginning(path, LARGEST_POSSESSION).ok()?;
        serde_json::from_slice::<Possession>(&read).ok().filter(|possession| possession.is_of(token))
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        // Each change of the keeper's state is the last thing that it does: a thread that fell over has left it as it was.
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the box back to its custodians when it is dropped and the volume was not opened.
struct NotOpen<'a>(&'a Opener);

impl Drop for NotOpen<'_> {
    fn drop(&mut self) {
        self.0.keeper().did_not_open(&mut System);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use age::x25519::Identity;
    use postkeep_keys::challenge::{Asked, respond};
    use postkeep_keys::wire::Seal;
    use postkeep_keys::{Answer, Custodian, Grade, KeySet, Made, Recipient, envelope};
    use postkeep_notes::SignerKey;

    use super::*;

    const VOLUME: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
    const HEADER: &str = r#"{
        "keyslots": {"1": {"type": "luks2", "key_size": 64, "area": {"type": "raw", "encryption": "aes-xts-plain64", "key_size": 64}}},
        "segments": {"0": {"type": "crypt", "encryption": "aes-xts-plain64"}}
    }"#;

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
        let volume = VOLUME.parse().unwrap();
        let made = Token::make(&set, &volume, 1, &mut System).unwrap();
        let box_key = SignerKey::generate("box.example").unwrap();
        fs::create_dir(folder.path().join("postkeep")).unwrap();
        fs::write(folder.path().join(TOKEN), made.token.sign(&box_key).unwrap()).unwrap();
        fs::create_dir_all(folder.path().join("data/keys")).unwrap();
        fs::write(folder.path().join("header"), HEADER).unwrap();
        for name in ["cryptsetup", "systemctl"] {
            let program = folder.path().join(name);
            let text = format!(
                "#!/bin/sh\necho \"$@\" >>{0}.asked\n\
                 case $1 in luksDump) exec cat {1}/header;; luksUUID) echo {VOLUME}; exit;; open) cat >>{0}.input;; esac\n\
                 ! cat {0}.status >&2 2>/dev/null || exit 2\n",
                program.display(),
                folder.path().display()
            );
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let opener = Opener::start(place(folder.path())).unwrap().unwrap();
        (Laid { folder, keys, made }, opener)
    }

    fn place(folder: &Path) -> Place {
        let volume = Volume {
            device: "/dev/postkeep-data".into(),
            name: "postkeep-data".to_owned(),
            program: folder.join("cryptsetup"),
            mapper: folder.join("mapper"),
        };
        Place {
            boot: folder.to_owned(),
            data: folder.join("data"),
            volume,
            systemctl: folder.join("systemctl"),
            unopened: folder.join("unopened"),
        }
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
        let open = asked.lines().last().unwrap();
        assert!(open.starts_with("open --type=luks2") && open.ends_with("/dev/postkeep-data postkeep-data"), "{asked}");
        assert!(open.contains("--key-slot=1") && open.contains("--disable-external-tokens"), "{asked}");
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
        assert!(laid.folder.path().join("unopened").exists(), "whoever judges this start is told");
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
        // What cannot be done is not said to be done, and can be tried again.
        fs::write(laid.folder.path().join("systemctl.status"), "no such unit").unwrap();
        assert_eq!(done(Asked::Seal), Reply::Failed);
        assert_eq!(state(&opener).seal, Seal::Open);
        fs::remove_file(laid.folder.path().join("systemctl.status")).unwrap();
        fs::rename(laid.folder.path().join("data"), laid.folder.path().join("away")).unwrap();
        assert_eq!(done(Asked::Possession), Reply::Failed);
        fs::rename(laid.folder.path().join("away"), laid.folder.path().join("data")).unwrap();
        for _ in 0..2 {
            assert_eq!(done(Asked::Seal), Reply::Done);
            assert_eq!(state(&opener).seal, Seal::Sealing);
        }
        let order = "--no-block start postkeep-seal.target\n";
        let wanted = format!("--no-block start multi-user.target\n{}", order.repeat(3));
        assert_eq!(
            String::from_utf8(laid.file("systemctl.asked")).unwrap(),
            wanted,
            "what needs the volume, then sealing"
        );
    }

    #[test]
    fn what_a_first_boot_that_was_cut_has_left_is_taken_away_at_the_next_opening() {
        let (laid, opener) = laid();
        let slot = "{\"type\": \"luks2\", \"key_size\": 64, \"area\": {}}";
        let header = HEADER.replace("\"keyslots\": {", &format!("\"keyslots\": {{\"0\": {slot}, "));
        assert_ne!(header, HEADER);
        fs::write(laid.folder.path().join("header"), header).unwrap();
        laid.answer(&opener, 0);
        laid.answer(&opener, 1);
        until(&opener, Seal::Open);
        let began = Instant::now();
        while !String::from_utf8(laid.file("cryptsetup.asked"))
            .unwrap()
            .contains("luksKillSlot --batch-mode /dev/postkeep-data 0")
        {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_opener_that_fell_over_beside_an_open_volume_goes_on_where_it_was() {
        let (laid, opener) = laid();
        opener.go_on();
        assert!(laid.file("systemctl.asked").is_empty(), "nothing starts while it is sealed");
        fs::create_dir_all(laid.folder.path().join("mapper/postkeep-data")).unwrap();
        let again = Opener::start(place(laid.folder.path())).unwrap().unwrap();
        again.go_on();
        assert_eq!(state(&again).seal, Seal::Open);
        assert_eq!(laid.file("systemctl.asked"), b"--no-block start multi-user.target\n");
        assert_eq!(cause(laid.folder.path()), postkeep_keys::Cause::Unclean, "should its power go now");
    }

    #[test]
    fn a_volume_that_somebody_has_exchanged_is_not_opened() {
        let (laid, opener) = laid();
        let header = HEADER.replace(
            "{\"type\": \"raw\", \"encryption\": \"aes-xts-plain64\"",
            "{\"type\": \"raw\", \"encryption\": \"cipher_null-ecb\"",
        );
        assert_ne!(header, HEADER);
        fs::write(laid.folder.path().join("header"), header).unwrap();
        laid.answer(&opener, 0);
        assert_eq!(laid.answer(&opener, 1), Reply::Opens);
        until(&opener, Seal::Sealed);
        assert!(!String::from_utf8(laid.file("cryptsetup.asked")).unwrap().contains("open --type"));
        assert!(laid.file("cryptsetup.input").is_empty(), "the passphrase was shown to nobody");
    }

    #[test]
    fn an_opener_that_is_started_again_beside_an_open_volume_knows_that_it_is_open() {
        let (laid, _) = laid();
        fs::create_dir(laid.folder.path().join("mapper")).unwrap();
        fs::write(laid.folder.path().join("mapper/postkeep-data"), "").unwrap();
        let opener = Opener::start(place(laid.folder.path())).unwrap().unwrap();
        assert_eq!(state(&opener).seal, Seal::Open);
        assert!(state(&opener).offer.is_none());
    }

    #[test]
    fn a_box_without_a_token_has_nothing_to_keep_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Opener::start(place(folder.path())).unwrap().is_none());
        fs::create_dir(folder.path().join("postkeep")).unwrap();
        for damaged in [&b""[..], b"rubbish", &[0xff; 100], &vec![b'a'; LARGEST_TOKEN + 10]] {
            fs::write(folder.path().join(TOKEN), damaged).unwrap();
            let error = Opener::start(place(folder.path())).err().unwrap().to_string();
            assert!(error.contains("postkeep/token") && error.contains("put back a copy"), "{error}");
        }
    }
}
