//! `postkeep-opener`: keeps the seal of the box. Run by a unit of the image; custodians use `postkeep keys`.

use std::alloc;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use postkeep_journal::VOLUME_GIVEN;
use postkeep_keys::wire::{Reply, Request, Seal};
use postkeep_keys::{KeySet, Secret, System};
use postkeep_notes::SignerKey;
use postkeep_sealed::cause::{Last, leave};
use postkeep_sealed::chip;
use postkeep_sealed::first::{self, open_and_keep};
use postkeep_sealed::line;
use postkeep_sealed::opener::{Opener, Place, TOKEN};
use postkeep_sealed::volume::Volume;
use zeroizing_alloc::ZeroAlloc;

/// Between two looks at a box that waits.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(10);
/// Well within what systemd gives a unit to stop.
const CLOSES_WITHIN: Duration = Duration::from_secs(60);
/// Says that the volume did not open in this start; a version on trial is not waited for then (`postkeep-update again`).
const UNOPENED: &str = "/run/postkeep-opener.unopened";
/// The sum of the certificate of the door of the seal.
const CERTIFICATE: &str = "/run/postkeep-door/fingerprint";
/// Says that the volume was open in this start, and that the TPM does not know.
const UNMARKED: &str = "/run/postkeep-opener.unmarked";
/// The volume is to be closed, and is not yet.
const CLOSING: &str = "/run/postkeep-opener.closing";
/// Of a key set, in octets: a seed has no more.
const MOST_KEYS: u64 = 256 << 10;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the seal of the box.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-opener",
    version,
    after_help = "Exit codes: 0 done; 1 failed; 2 bad usage.\n\nRun by units of the image, not by people; see `postkeep keys --help`."
)]
struct Arguments {
    /// The boot partition.
    #[arg(long, value_name = "FOLDER", default_value = "/efi")]
    boot: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answers at the socket that is standard input; opens the volume when enough custodians have answered.
    Serve {
        #[command(flatten)]
        volume: Named,
        /// Where it is mounted.
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/postkeep")]
        data: PathBuf,
    },
    /// Waits until the volume is open.
    Wait {
        /// The opener's socket.
        #[arg(long, value_name = "SOCKET", default_value = "/run/postkeep-opener.socket")]
        socket: PathBuf,
    },
    /// Closes the volume, which nobody uses any more, and leaves word for the next start that it was closed in order.
    Close {
        #[command(flatten)]
        volume: Named,
    },
    /// First boot: makes the random key that a new volume is made with.
    FirstKey {
        /// Where it goes; in memory, and for a moment.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-custody/key")]
        into: PathBuf,
    },
    /// First boot: gives the new volume to its custodians, after which that key opens it no more; the volume is open then.
    Give {
        #[command(flatten)]
        volume: Named,
        /// The random key.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-custody/key")]
        key: PathBuf,
        /// Who the custodians are, as `postkeep-system network` has found them in the seed.
        #[arg(long, value_name = "FILE", default_value = "/run/postkeep-seed/keys")]
        keys: PathBuf,
        /// Where the volume is mounted meanwhile.
        #[arg(long, value_name = "FOLDER", default_value = "/run/postkeep-custody/data")]
        mounted: PathBuf,
    },
}

/// A volume and its name.
#[derive(Debug, clap::Args)]
struct Named {
    /// The volume.
    #[arg(long, value_name = "PATH", default_value = "/dev/postkeep-data")]
    volume: PathBuf,
    /// Its name when it is open.
    #[arg(long, value_name = "NAME", default_value = "postkeep-data")]
    name: String,
}

impl Named {
    fn volume(self) -> Volume {
        Volume { device: self.volume, name: self.name, program: "cryptsetup".into(), mapper: "/dev/mapper".into() }
    }
}

/// Shares and keys pass through libraries that free them as they are.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<alloc::System> = ZeroAlloc(alloc::System);

fn main() -> ExitCode {
    if let Err(why) = postkeep_journal::start("postkeep-opener") {
        say(&why);
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Serve { volume, data } => {
            let volume = volume.volume();
            let place = Place {
                boot: arguments.boot,
                data,
                volume: volume.clone(),
                systemctl: "systemctl".into(),
                unopened: UNOPENED.into(),
                chip: chip::of_this_machine(),
                certificate: CERTIFICATE.into(),
                unmarked: UNMARKED.into(),
            };
            // Sealing has ended what used the volume, and did not get it closed: nothing else is done before it is.
            if Path::new(CLOSING).exists() {
                close_for_good(&volume, &place.boot)?;
            }
            let Some(opener) = Opener::start(place)? else {
                return Err("no custodians open this box: it has no token".into());
            };
            opener.go_on();
            let listener = UnixListener::from(rustix::stdio::stdin().try_clone_to_owned()?);
            let offer = opener.handle(&Request::State);
            if let Reply::State(state) = offer
                && let Some(offer) = state.offer
            {
                // The console shows it as well; this is for whoever reads the serial line.
                say(&format!("sealed: {offer}"));
            }
            let reminding = Arc::clone(&opener);
            std::thread::Builder::new().spawn(move || reminding.remind())?;
            let opener = Arc::clone(&opener);
            line::serve(&listener, move |request| opener.handle(request));
            Ok(())
        }
        Verb::Wait { socket } => loop {
            match line::ask(&socket, &Request::State, ANSWER) {
                Ok(Reply::State(state)) if state.seal == Seal::Open => return Ok(()),
                // Also while the opener is busy, or starts again: who waits, waits.
                _ => std::thread::sleep(LOOK_AGAIN),
            }
        },
        Verb::Close { volume } => close_for_good(&volume.volume(), &arguments.boot),
        Verb::FirstKey { into } => {
            let key = Secret::new(&mut System);
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&into)?;
            Ok(file.write_all(key.expose())?)
        }
        Verb::Give { volume, key, keys, mounted } => {
            give_volume(&arguments.boot, &volume.volume(), &key, &keys, &mounted)
        }
    }
}

/// Closes the volume, and leaves word that it was closed in order. Until that is done [`CLOSING`] says that it has to be: an opener that
/// starts meanwhile does not take the volume for one that is in use.
fn close_for_good(volume: &Volume, boot: &Path) -> Result<(), Failure> {
    std::fs::write(CLOSING, b"").map_err(|error| format!("cannot write {CLOSING}: {error}"))?;
    close(volume)?;
    leave(boot, Last::Closed)?;
    Ok(std::fs::remove_file(CLOSING)?)
}

/// Closes what may be open. Somebody may still look at it for a moment; whoever asked for this is not told that it is closed while it is not.
fn close(volume: &Volume) -> Result<(), Failure> {
    let began = Instant::now();
    while volume.is_open() {
        match volume.close() {
            Err(error) if began.elapsed() >= CLOSES_WITHIN => return Err(error.into()),
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
    Ok(())
}

fn give_volume(boot: &Path, volume: &Volume, key: &Path, keys: &Path, mounted: &Path) -> Result<(), Failure> {
    let set = postkeep_files::beginning(keys, MOST_KEYS)?;
    let set = KeySet::parse(&String::from_utf8(set)?)?;
    let mut first = Ok(());
    let secret = Secret::fill(|octets| first = File::open(key).and_then(|mut file| file.read_exact(octets)));
    first?;
    let box_key = SignerKey::generate(&box_name(&volume.id()?.to_string()))?;
    let tpm = chip::of_this_machine().and_then(|chip| chip.enrol_if_it_answers());
    let given = first::give(volume, &secret, &set, &box_key, boot, tpm, |id, passphrase, slot| {
        open_and_keep(volume, (id, passphrase, slot), &box_key, mounted)
    });
    let token = match given {
        // Nobody must use a volume that nobody can open again: the next start makes it anew.
        Err(error) if !boot.join(TOKEN).exists() && volume.is_open() => {
            let _ = std::process::Command::new("umount").arg(mounted).status();
            close(volume)?;
            return Err(error.into());
        }
        given => given?,
    };
    leave(boot, Last::Open)?;
    let (threshold, count) = (token.opening.threshold, token.opening.holders.len());
    VOLUME_GIVEN.tell(
        format_args!("from now on {threshold} of {count} custodians open this box"),
        [&threshold, &count, &box_key.verifier()],
    );
    say(&format!(
        "from now on {threshold} of {count} custodians open this box; custodians know it by {}",
        box_key.verifier()
    ));
    Ok(())
}

/// What the box is called in what it signs: its name, or what its volume is called, if it has none.
fn box_name(volume: &str) -> String {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match hostname.trim() {
        "" | "(none)" | "localhost" => format!("box-{volume}"),
        name => name.to_owned(),
    }
}

/// The journal and the console read standard error.
fn say(line: &str) {
    eprintln!("postkeep: {line}");
}
