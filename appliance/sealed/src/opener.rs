//! The opener: does what the keeper of the seal says, and tells it how that went.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use postkeep_journal::{
    KEY_SET_CHANGED, KEY_SET_RETIRED, KEY_SET_UNCHANGED, POSSESSION_DUE, POSSESSION_PROVEN, RESTART_ASKED, SEAL_ASKED,
    VOLUME_OPENED, VOLUME_UNOPENED,
};
use postkeep_keys::keeper::{Act, Handled, Keeper};
use postkeep_keys::possession::{Possession, Proven};
use postkeep_keys::tpm::{Nonce, Quoted, question};
use postkeep_keys::unseal::Opening;
use postkeep_keys::wire::{Reply, Request};
use postkeep_keys::{KeySet, LARGEST_TOKEN, Name, Random, Secret, Sum, System, Token, TokenError, passphrase};
use postkeep_notes::SignerKey;

use crate::cause::{Last, cause, leave};
use crate::change::{Changed, change, read, remove_all_but};
use crate::chip::Chip;
use crate::first::BOX_KEY;
use crate::slots::{GiveError, slot, slots_of};
use crate::volume::Volume;

/// On the boot partition: who opens the volume.
pub const TOKEN: &str = "postkeep/token";
/// On the data volume: who has proved lately that they can.
pub const POSSESSION: &str = "keys/possession.json";
const LARGEST_POSSESSION: u64 = 64 << 10;
/// The door gives an answer half a second after it was asked, and it has some way to go.
const ANSWERED: Duration = Duration::from_secs(3);
/// Who asks for the TPM's word at the same time; it takes half a second, and everybody else is answered in so much time.
const MOST_ASKING: usize = 8;
/// Of a sum in hexadecimal digits, with some room.
const LONGEST_SUM: u64 = 256;
/// Refusals are told no more often.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Custodians prove once a quarter, and are looked for by whoever reads the journal.
const REMINDED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Ends what uses the volume, and closes it.
const SEAL: &str = "postkeep-seal.target";
/// Makes the boot partition of the other disk the same, where there is one.
const COPY: &str = "postkeep-boot-copy.service";
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
    /// The machine's TPM, if it has one.
    pub chip: Option<Chip>,
    /// Where the door writes the sum of its certificate.
    pub certificate: PathBuf,
    /// Written when the volume was opened and the TPM did not take the mark of that; gone with the next start of the machine.
    pub unmarked: PathBuf,
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
    /// Held while slots of the volume come or go.
    slots: Mutex<()>,
    /// Held while the TPM is asked for its word: it answers one at a time, and slowly.
    quoting: Mutex<()>,
    /// Who asks or waits for it.
    asking: AtomicUsize,
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
    #[error(
        "{path}: {error}; it was damaged or changed: put back the newest copy (custodians have one), or flash anew"
    )]
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
            Keeper::open(note, token, &mut System)
        } else {
            Keeper::sealed(note, token, cause(&place.boot), &mut System)
        };
        Ok(Some(Arc::new(Self {
            place,
            began: Instant::now(),
            keeper: Mutex::new(keeper),
            possession: Mutex::default(),
            slots: Mutex::default(),
            quoting: Mutex::default(),
            asking: AtomicUsize::new(0),
            refusals: Mutex::default(),
        })))
    }

    /// Handles what somebody asks.
    pub fn handle(self: &Arc<Self>, request: &Request) -> Reply {
        if let Request::Quote { nonce } = request {
            return self.quote(*nonce);
        }
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
            // Whoever has answered last hears at once that it is done, and not after it.
            Some(Act::Open(opening)) => {
                self.meanwhile(reply, Keeper::did_not_open, move |opener| opener.open(&opening))
            }
            Some(Act::Change(opening, set)) => {
                self.meanwhile(reply, Keeper::did_not_change, move |opener| opener.change(&opening, &set))
            }
            Some(Act::Seal(name)) => {
                SEAL_ASKED.tell(format_args!("{name} has the box sealed"), [&name]);
                self.done(&format!("{name} wants the box sealed"), self.seal(), |keeper| {
                    keeper.did_not_seal(&mut System)
                })
            }
            Some(Act::Restart(name)) => {
                RESTART_ASKED.tell(format_args!("{name} has the machine started anew"), [&name]);
                self.meanwhile(Reply::Done, Keeper::did_not_restart, |opener| {
                    // Whoever has asked is answered before the network goes.
                    std::thread::sleep(ANSWERED);
                    if let Err(error) = opener.run_systemctl(&["--no-block", "reboot"]) {
                        log::error!("the machine is not started anew: {error}");
                        opener.keeper().did_not_restart(&mut System);
                    }
                })
            }
            Some(Act::Prove(name)) => {
                let proved = self.prove(&name);
                if let Ok(Some(epoch)) = proved {
                    // Enough of those who open it have shown that they can: nobody else needs to.
                    let opener = Arc::clone(self);
                    let _ = std::thread::Builder::new().spawn(move || opener.retire(epoch));
                }
                let proved = proved.map(drop);
                if proved.is_ok() {
                    POSSESSION_PROVEN.tell(format_args!("{name} has proved possession of their key"), [&name]);
                }
                self.done(&format!("{name} has proved possession"), proved, |_| ())
            }
        }
    }

    /// What the TPM says of this start, and of what the box offers to custodians now.
    fn quote(&self, nonce: Nonce) -> Reply {
        let asking = Asking::begin(&self.asking);
        let offer = self.keeper().offer().cloned();
        let (Some(chip), Some(offer), Some(_asking)) = (&self.place.chip, offer, asking) else {
            return Reply::Refused;
        };
        if self.place.unmarked.exists() {
            return Reply::Failed;
        }
        let certificate = postkeep_files::beginning(&self.place.certificate, LONGEST_SUM)
            .ok()
            .and_then(|sum| String::from_utf8_lossy(&sum).trim().parse::<Sum>().ok());
        let _turn = self.quoting.lock().unwrap_or_else(PoisonError::into_inner);
        match chip.quote(question(nonce, &offer, certificate)) {
            Ok(quoted) => Reply::Quoted(Box::new(Quoted { certificate, ..quoted })),
            Err(error) => {
                self.tell_refusal(&format!("somebody asks for the word of the TPM: {error}"));
                Reply::Failed
            }
        }
    }

    /// Does what enough have answered for, beside what else is asked; gives the box back to its custodians where that cannot begin.
    fn meanwhile(
        self: &Arc<Self>,
        reply: Reply,
        undo: fn(&mut Keeper, &mut dyn Random),
        work: impl FnOnce(&Self) + Send + 'static,
    ) -> Reply {
        let opener = Arc::clone(self);
        if let Err(error) = std::thread::Builder::new().spawn(move || work(&opener)) {
            log::error!("enough have answered, and what they want cannot begin: {error}");
            undo(&mut self.keeper(), &mut System);
            return Reply::Refused;
        }
        reply
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
        let unless_open = Undo(self, Keeper::did_not_open);
        let token = self.keeper().token().clone();
        let custodians = opening.listed();
        let (passphrase, slot) = opens(opening, &token);
        match self.place.volume.open(&token.volume, &passphrase, slot) {
            Ok(_) => {}
            // One that took too long, and was opened all the same.
            Err(_) if self.place.volume.is_open() => {}
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
        }
        self.mark_opened();
        // Before anybody hears of it: a cut from now on is one.
        self.leave_word();
        self.keeper().opened(&mut System);
        drop(unless_open);
        let purpose = opening.purpose.name();
        VOLUME_OPENED.tell(format_args!("the data volume is open; {purpose}: {custodians}"), [&purpose, &custodians]);
        self.start_what_waits();
        // A first boot that was cut between its last two steps, or those before a new key set: what opened it is the one that holds.
        self.retire(token.epoch);
    }

    /// Before anything of the volume is used: from now on a program that takes mail may be somebody else's, and custodians will see it. Where
    /// the TPM does not take the mark it is asked nothing any more, until the next start.
    fn mark_opened(&self) {
        let Some(chip) = &self.place.chip else { return };
        if let Err(error) = chip.mark_opened().or_else(|_| chip.mark_opened()) {
            // For the opener that runs once the box is sealed again, too.
            if let Err(error) = postkeep_files::replace(&self.place.unmarked, b"") {
                log::error!("cannot write {}: {error}", self.place.unmarked.display());
            }
            log::error!(
                "the TPM takes no mark that the volume was open, and vouches for nothing before the next start: {error}"
            );
        }
    }

    /// Takes away the slots of whoever opened the volume before those of `epoch`, who have shown that they can, once both disks say who they are.
    fn retire(&self, epoch: u64) {
        // Nobody changes the slots meanwhile.
        let _held = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, note) = {
            let keeper = self.keeper();
            (keeper.token().clone(), keeper.note().to_owned())
        };
        let ours = slots_of(&token);
        // Others have a new key set by now, and have shown nothing yet.
        if token.epoch != epoch {
            return;
        }
        if self.place.volume.slots().is_ok_and(|slots| slots.iter().all(|slot| ours.contains(slot))) {
            return;
        }
        let is_known = self.copy().and_then(|()| match read(&self.place.boot) {
            found if found == note.as_bytes() => Ok(()),
            _ => Err(io::Error::other("the boot partition has another token")),
        });
        let removed = is_known
            .map_err(|error| error.to_string())
            .and_then(|()| remove_all_but(&self.place.volume, &ours).map_err(|error| error.to_string()));
        match removed {
            Ok(()) => KEY_SET_RETIRED
                .tell(format_args!("nobody but those in key set {epoch} opens this box any more"), [&epoch]),
            Err(error) => log::warn!("the key set before opens the volume still, with the token before: {error}"),
        }
    }

    /// Makes the boot partition of the other disk the same. Twice: a run that had begun already may have passed by what was written since.
    fn copy(&self) -> io::Result<()> {
        (0..2).try_for_each(|_| self.run_systemctl(&["start", COPY]))
    }

    fn change(&self, opening: &Opening, set: &KeySet) {
        let unless_changed = Undo(self, Keeper::did_not_change);
        let held = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.keeper().token().clone();
        let custodians = opening.listed();
        let (passphrase, slot) = opens(opening, &before);
        let changed = SignerKey::read(&self.place.data.join(BOX_KEY), None)
            .map_err(|error| GiveError::BoxKey(error.to_string()))
            .and_then(|box_key| {
                let Place { volume, boot, chip, .. } = &self.place;
                // A TPM that custodians know of must not go without their knowing; one that was broken at the first boot may be none.
                let tpm = match chip {
                    Some(chip) if before.tpm.is_some() => Some(chip.enrol()?),
                    Some(chip) => chip.enrol_if_it_answers(),
                    None => None,
                };
                change(volume, (&passphrase, slot), (&before, set), &box_key, boot, tpm, || self.copy())
            });
        let Changed { token, note } = match changed {
            Ok(changed) => changed,
            Err(error) => {
                KEY_SET_UNCHANGED.tell(
                    format_args!("enough want a new key set, and the one before holds still: {error}"),
                    [&custodians, &error],
                );
                return;
            }
        };
        let (epoch, threshold, count) = (token.epoch, token.opening.threshold, token.opening.holders.len());
        self.keeper().changed(note, token, &mut System);
        drop((unless_changed, held));
        KEY_SET_CHANGED.tell(
            format_args!("key set {epoch}: {threshold} of {count} custodians open this box; wanted by {custodians}"),
            [&epoch, &threshold, &count, &custodians],
        );
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
            self.mark_opened();
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
        self.run_systemctl(&["--no-block", "start", unit])
    }

    fn run_systemctl(&self, arguments: &[&str]) -> io::Result<()> {
        let status = Command::new(&self.place.systemctl).args(arguments).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("systemctl {} ended with {status}", arguments.join(" "))))
        }
    }

    /// Who has proved possession, as far as the data volume tells.
    fn possession(&self) -> Vec<Proven> {
        let token = self.keeper().token().clone();
        let mut known = self.possession.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.is_of(&token)) {
            *known = self.read_possession(&token);
        }
        known.clone().unwrap_or_else(|| Possession::new(&token)).of(&token, Timestamp::now())
    }

    /// Writes it down; says of which epoch it is, where as many have proved it by now as it takes to open the box.
    fn prove(&self, name: &Name) -> io::Result<Option<u64>> {
        let token = self.keeper().token().clone();
        let path = self.place.data.join(POSSESSION);
        // The folder is made with the volume. Where it is missing the volume is not mounted yet, and what is written would vanish.
        let mut known = self.possession.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone().filter(|known| known.is_of(&token)).or_else(|| self.read_possession(&token));
        let mut possession = before.unwrap_or_else(|| Possession::new(&token));
        possession.prove(name, Timestamp::now());
        postkeep_files::replace(&path, &serde_json::to_vec_pretty(&possession)?)?;
        let count = possession.of(&token, Timestamp::now()).iter().filter(|proven| proven.last.is_some()).count();
        *known = Some(possession);
        Ok((count >= usize::from(token.opening.threshold)).then_some(token.epoch))
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

/// What opens the volume that `token` keeps to those who gave `opening`, and the slot that it opens.
fn opens(opening: &Opening, token: &Token) -> (Secret, u32) {
    let Opening { purpose, secret, .. } = opening;
    (passphrase(secret, None, *purpose, &token.volume, token.epoch), slot(*purpose, token.epoch))
}

/// Somebody who asks for the TPM's word; they are counted, so that those who only make it work do not fill all places.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::AcqRel);
        let asking = Self(count);
        (before < MOST_ASKING).then_some(asking)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Gives the box back to its custodians when it is dropped and what they wanted was not done. Where it was, it changes nothing.
struct Undo<'a>(&'a Opener, fn(&mut Keeper, &mut dyn Random));

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.1(&mut self.0.keeper(), &mut System);
    }
}

#[cfg(test)]
mod tests;
