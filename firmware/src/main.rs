//! `postkeep-firmware`: shows what lies below the system, and makes its keys. Reads arguments, calls the library,
//! prints what it answers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use postkeep_firmware::digest::Digest;
use postkeep_firmware::event_log::EventLog;
use postkeep_firmware::facts::{self, Ours};
use postkeep_firmware::keys::{Keys, make, own};
use postkeep_firmware::pe::Pe;
use postkeep_firmware::posture::{Grade, Posture, judge};
use postkeep_firmware::{history, pcr, signed_policy};
use postkeep_journal::{POSTURE_MEASURED, POSTURE_WORSE};
use serde_json::json;

/// What was asked for does not hold.
const FAILED: u8 = 1;
/// Bad usage or bad input.
const BAD_INPUT: u8 = 2;
/// Larger boot files do not fit a boot partition.
const LARGEST_FILE: u64 = 1 << 30;

/// Shows what lies below the system: what a boot file measures, what a machine started, whose keys it holds.
#[derive(Parser)]
#[command(
    name = "postkeep-firmware",
    version,
    arg_required_else_help = true,
    after_help = "\
Exit status: 0 done; 1 what was asked for does not hold (a grade, a signature); 2 bad usage or bad input.

Examples:
  postkeep-firmware posture --own db.crt --own PK.crt --own KEK.crt
  postkeep-firmware measure postkeep.efi --json
  postkeep-firmware log /sys/kernel/security/tpm0/binary_bios_measurements
  postkeep-firmware keys make keys --owner 'Example Mail'
"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Grades this machine: A own keys and a TPM; B somebody else in the chain; C no TPM; D no Secure Boot
    #[command(after_help = "\
What cannot be read counts as the worst it could be: run it as root.

Examples:
  postkeep-firmware posture --own db.crt --own PK.crt --own KEK.crt --file postkeep.efi
  postkeep-firmware posture --own keys.toml --at-least A --json
")]
    Posture {
        /// Where the machine's /sys and /proc are found
        #[arg(long, default_value = "/", value_name = "DIR")]
        root: PathBuf,
        /// Keys of yours: certificates (PEM, or one in DER), keys.toml, or a SHA-256 fingerprint; several times
        #[arg(long, value_name = "KEY")]
        own: Vec<String>,
        /// A boot file of yours, or its Authenticode digest; several times
        #[arg(long, value_name = "FILE")]
        file: Vec<String>,
        /// Fail (status 1) when the grade is worse
        #[arg(long, value_name = "GRADE")]
        at_least: Option<Wanted>,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Shows a boot file: sections, the digest without signatures, PCR 11 in each phase, what was signed
    #[command(after_help = "\
The digest is the same with and without signatures: compare it with that of your own build.
Status 1: a signature over PCR 11 in the file is not its key's, or is for another file.

Example:
  postkeep-firmware measure postkeep.efi
")]
    Measure {
        /// The boot file
        uki: PathBuf,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Makes keys, and tells the tools that build images where they are
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Remembers the posture of this start; prints the worst one of all starts, as JSON
    #[command(after_help = "\
Run by a unit of the image once the data volume is open. A history that cannot be read counts as grade D.

Example:
  postkeep-firmware history --posture /run/postkeep-posture/posture.json --file /var/lib/postkeep/posture/history.json
")]
    History {
        /// What `posture --json` printed at this start
        #[arg(long, value_name = "FILE")]
        posture: PathBuf,
        /// Where the history is kept
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Shows the log of a measured boot and what it leads to
    #[command(after_help = "\
A log proves nothing alone; `posture` compares it with the TPM.

Example:
  postkeep-firmware log /sys/kernel/security/tpm0/binary_bios_measurements
")]
    Log {
        /// The log
        file: PathBuf,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Makes a set of keys in a new folder: PK, KEK, db, root hash, measurements
    #[command(after_help = "Example:\n  postkeep-firmware keys make keys --owner 'Example Mail'\n")]
    Make {
        /// A folder that is new or empty
        folder: PathBuf,
        /// Whose keys: stands in the certificates
        #[arg(long, default_value = "Postkeep")]
        owner: String,
        /// Size of the keys; some firmware does not take 3072
        #[arg(long, default_value = "2048")]
        size: KeySize,
    },
    /// Prints what mkosi, ukify or systemd-sbsign must be told to find the keys
    #[command(after_help = "Example:\n  postkeep-firmware keys arguments keys/keys.toml mkosi\n")]
    Arguments {
        /// keys.toml
        file: PathBuf,
        /// For which tool
        tool: Tool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    #[value(name = "A")]
    A,
    #[value(name = "B")]
    B,
    #[value(name = "C")]
    C,
    #[value(name = "D")]
    D,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeySize {
    #[value(name = "2048")]
    Small,
    #[value(name = "3072")]
    Large,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tool {
    Mkosi,
    Ukify,
    Sbsign,
}

/// What is printed, and the exit status.
type Outcome = Result<(String, u8), String>;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok((text, code)) => {
            // A closed pipe is the reader's choice, not our failure.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(complaint) => {
            let _ = writeln!(std::io::stderr().lock(), "postkeep-firmware: {complaint}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Posture { root, own, file, at_least, json } => posture(&root, &own, &file, at_least, json),
        Command::Measure { uki, json } => measure(&uki, json),
        Command::Keys { command: KeysCommand::Make { folder, owner, size } } => {
            let size = match size {
                KeySize::Small => make::Size::Rsa2048,
                KeySize::Large => make::Size::Rsa3072,
            };
            let now = jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now());
            let keys = make::make(&folder, &make::Options { owner, size, now }).map_err(|error| error.to_string())?;
            let mut text = String::new();
            for (name, key) in keys.all() {
                let _ = writeln!(text, "{name:<12} {}", key.fingerprint);
            }
            let _ = writeln!(
                text,
                "\nThe keys are in {}. Whoever has them decides what your machines start.",
                folder.display()
            );
            Ok((text, 0))
        }
        Command::Keys { command: KeysCommand::Arguments { file, tool } } => {
            let text = String::from_utf8_lossy(&octets(&file)?).into_owned();
            let keys = Keys::read(&text).map_err(|error| format!("{}: {error}", file.display()))?;
            let folder = file.parent().unwrap_or(Path::new("."));
            let lines = match tool {
                Tool::Mkosi => keys.mkosi(folder).map_err(|error| error.to_string())?,
                Tool::Sbsign => keys.sbsign(folder),
                Tool::Ukify => keys.ukify(folder).map_err(|error| error.to_string())?,
            };
            Ok((lines.join("\n") + "\n", 0))
        }
        Command::History { posture, file } => remember(&posture, &file),
        Command::Log { file, json } => log(&file, json),
    }
}

fn octets(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let failed = |why: std::io::Error| format!("cannot read {}: {why}", path.display());
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 > LARGEST_FILE {
        return Err(format!("{} is larger than {LARGEST_FILE} bytes; no boot file is", path.display()));
    }
    Ok(octets)
}

/// Certificates, a whole `keys.toml`, or a fingerprint.
fn certificates(named: &str) -> Result<Vec<Digest>, String> {
    match named.parse() {
        Ok(fingerprint) => Ok(vec![fingerprint]),
        Err(_) => own(Path::new(named), &octets(Path::new(named))?),
    }
}

fn file_digest(named: &str) -> Result<Digest, String> {
    if let Ok(digest) = named.parse() {
        return Ok(digest);
    }
    let octets = octets(Path::new(named))?;
    Pe::read(&octets).map(|pe| pe.authenticode()).map_err(|error| format!("{named}: {error}"))
}

fn posture(root: &Path, owned: &[String], files: &[String], at_least: Option<Wanted>, as_json: bool) -> Outcome {
    let mut ours = Ours::default();
    for named in owned {
        ours.certificates.extend(certificates(named)?);
    }
    for named in files {
        ours.files.push(file_digest(named)?);
    }
    let posture = judge(&facts::gather(root, &ours));
    let wanted = at_least.map(|wanted| match wanted {
        Wanted::A => Grade::A,
        Wanted::B => Grade::B,
        Wanted::C => Grade::C,
        Wanted::D => Grade::D,
    });
    let code = if wanted.is_some_and(|wanted| posture.grade > wanted) { FAILED } else { 0 };
    if as_json {
        return Ok((pretty(&serde_json::to_value(&posture).map_err(|error| error.to_string())?), code));
    }
    let mut text = format!("Posture {}\n", posture.grade);
    for sentence in &posture.sentences {
        let mark = if sentence.at_best == Grade::A { " ".to_owned() } else { sentence.at_best.to_string() };
        let _ = writeln!(text, "{mark} {}\n  {}", sentence.seen, sentence.means);
    }
    Ok((text, code))
}

fn remember(measured: &Path, file: &Path) -> Outcome {
    postkeep_journal::start("postkeep-firmware")?;
    let posture: Posture = serde_json::from_slice(&octets(measured)?)
        .map_err(|error| format!("{} holds no posture: {error}; this start was not graded", measured.display()))?;
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let remembered = history::remember(&posture, file, now)?;
    let grade = posture.grade;
    match (remembered.before, &remembered.history.worst) {
        (Some(before), Some(worst)) if remembered.is_worse => {
            let reason = worst.sentences.first().map_or("", |sentence| sentence.seen.as_str());
            POSTURE_WORSE.tell(
                format_args!("this start has the posture {grade}, worse than every one before ({before}): {reason}"),
                [&grade, &before, &reason],
            );
        }
        (_, Some(worst)) => POSTURE_MEASURED.tell(
            format_args!("this start has the posture {grade}; the worst so far is {}", worst.grade),
            [&grade, &worst.grade],
        ),
        (_, None) => {}
    }
    Ok((pretty(&serde_json::to_value(&remembered.history).map_err(|error| error.to_string())?), 0))
}

fn measure(path: &Path, as_json: bool) -> Outcome {
    let octets = octets(path)?;
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pe = Pe::read(&octets).map_err(|error| failed(&error))?;
    let phases = pcr::predict_11(&pe).map_err(|error| failed(&error))?;
    let part = |name| pe.section(name).map(|section| section.map(|section| pe.content(section)));
    let sections =
        (part(".pcrsig").map_err(|error| failed(&error))?, part(".pcrpkey").map_err(|error| failed(&error))?);
    let signed = match sections {
        (Some(pcrsig), Some(pcrpkey)) => {
            signed_policy::check(pcrsig, pcrpkey, &phases).map_err(|error| failed(&error))?
        }
        _ => Vec::new(),
    };
    let code = if signed.iter().all(|one| one.is_valid && one.phase.is_some()) { 0 } else { FAILED };
    if as_json {
        let sections: Vec<_> = pe
            .sections
            .iter()
            .map(|section| {
                let digest = Digest::of(pe.content(section));
                json!({"name": section.name, "offset": section.file.start, "size": section.memory_size, "sha256": digest})
            })
            .collect();
        let value = json!({
            "sections": sections,
            "signatures": pe.signatures.len(),
            "authenticode": pe.authenticode(),
            "pcr11": phases,
            "signed": signed,
        });
        return Ok((pretty(&value), code));
    }
    let mut text = String::from("Sections\n");
    for section in &pe.sections {
        let digest = Digest::of(pe.content(section));
        let _ = writeln!(text, "  {:<10}{:>12} {digest}", section.name, section.memory_size);
    }
    let _ = writeln!(text, "Without its {} signatures\n  {}", pe.signatures.len(), pe.authenticode());
    let _ = writeln!(text, "PCR 11");
    for phase in &phases {
        let name = if phase.phase.is_empty() { "before the first phase" } else { &phase.phase };
        let _ = writeln!(text, "  {} {name}", phase.value);
    }
    let _ = writeln!(text, "Signed for");
    for one in &signed {
        let phase = one.phase.as_deref().unwrap_or("another file than this");
        let _ =
            writeln!(text, "  {phase}{}", if one.is_valid { "" } else { ": WRONG, the signature is not its key's" });
    }
    if signed.is_empty() {
        let _ = writeln!(text, "  nothing: no disk key can be sealed to a signature");
    }
    Ok((text, code))
}

fn log(path: &Path, as_json: bool) -> Outcome {
    let log = EventLog::read(&octets(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
    let values = log.replay();
    if as_json {
        let events: Vec<_> = log
            .events
            .iter()
            .map(
                |event| json!({"pcr": event.pcr, "kind": event.kind, "sha256": event.digest, "what": event.describe()}),
            )
            .collect();
        return Ok((pretty(&json!({"events": events, "pcrs": values})), 0));
    }
    let mut text = String::new();
    for event in &log.events {
        let _ = writeln!(text, "{:>2} {} {}", event.pcr, event.digest, event.describe());
    }
    let _ = writeln!(text, "\nThe registers, if this is true");
    for (pcr, value) in &values {
        let _ = writeln!(text, "{pcr:>2} {value}");
    }
    Ok((text, 0))
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
