//! `postkeep-release`: makes a release out of a built image: compresses its files, names them with their sums in a
//! manifest, and signs that. Run where the release key is; boxes only read what it writes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use postkeep_notes::{SignerKey, VerifierKey, sign};
use postkeep_release::{DataFormat, File as Entry, Release, Role, Sha256, Summing, Version};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes releases, and looks at them.
#[derive(Debug, Parser)]
#[command(
    name = "postkeep-release",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done; 1 failed, or the release is not what it says; 2 bad usage.\n\n\
                  `make release` calls it with what the build has made (image/release)."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compresses the files of an image, and writes the signed manifest beside them
    #[command(
        after_help = "Example:\n  postkeep-release make --version 0.3.0 --root-hash 11… --certificate secure-boot.der \\\n    \
                            --key release.key --output release-0.3.0 uki=postkeep_0.3.0.efi \\\n    \
                            root=root.raw,8a4e2f5c-7c1e-4f0a-9f5e-0a1b2c3d4e5f"
    )]
    Make(Box<Making>),
    /// Checks a release as a box would: the signature, and every file beside the manifest
    #[command(
        after_help = "Example:\n  postkeep-release check release-0.3.0/release.note --trust release.example+1234abcd+AbC…"
    )]
    Check {
        /// The manifest, with its files beside it
        note: PathBuf,
        /// A key that may sign releases; several times
        #[arg(long, value_name = "KEY", required = true)]
        trust: Vec<VerifierKey>,
    },
}

#[derive(Debug, Args)]
struct Making {
    /// Its version, three numbers
    #[arg(long)]
    version: Version,
    /// The root of the tree of hashes over the root file system
    #[arg(long, value_name = "SUM")]
    root_hash: Sha256,
    /// The certificate that the boot file is signed with, in DER
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The smallest disk that it is flashed onto, in octets
    #[arg(long, value_name = "OCTETS")]
    smallest_disk: Option<u64>,
    /// What PCR 11 holds in a phase of the boot; several times
    #[arg(long = "pcr-11", value_name = "PHASE=SUM", value_parser = phase)]
    pcr_11: Vec<(String, Sha256)>,
    /// The release key, as `postkeep-flash key generate` writes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// When it is made; now, when nobody says
    #[arg(long, value_name = "TIME")]
    issued: Option<Timestamp>,
    /// How hard zstd tries, 1 to 19
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// The folder that it is written to; new, or from an earlier try
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// What it is made of: a role (disk-image, uki, root, root-verity, root-verity-signature, sbom, packages), the file, and for
    /// what goes into a partition the UUID that this gets
    #[arg(required = true, value_name = "ROLE=FILE[,UUID]", value_parser = part)]
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    role: Role,
    file: PathBuf,
    uuid: Option<String>,
}

fn part(text: &str) -> Result<Part, String> {
    let (role, rest) = text.split_once('=').ok_or("there is no =; write ROLE=FILE")?;
    let read: Result<Role, serde::de::value::Error> = Role::deserialize(role.into_deserializer());
    let role = read.map_err(|_| format!("{role:?} is no role"))?;
    let (file, uuid) = match rest.rsplit_once(',') {
        Some((file, uuid)) => (file, Some(uuid.to_owned())),
        None => (rest, None),
    };
    Ok(Part { role, file: file.into(), uuid })
}

fn phase(text: &str) -> Result<(String, Sha256), String> {
    let (phase, sum) = text.rsplit_once('=').ok_or("there is no =; write PHASE=SUM")?;
    Ok((phase.to_owned(), sum.parse().map_err(|error: postkeep_release::SumError| error.to_string())?))
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Make(making) => make(&making),
        Verb::Check { note, trust } => check(&note, &trust),
    };
    match done {
        Ok(line) => {
            // A closed pipe is the reader's choice, not our failure.
            let _ = writeln!(io::stdout().lock(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "postkeep-release: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(making: &Making) -> Result<String, Failure> {
    let key = SignerKey::read(&making.key, None)?;
    let certificate = fs::read(&making.certificate).map_err(|error| named(&making.certificate, error))?;
    let issued = making.issued.unwrap_or_else(Timestamp::now);
    let mut release =
        Release::new(making.version, issued, making.root_hash, Sha256::of(&certificate), DataFormat::ours());
    release.smallest_disk = making.smallest_disk;
    release.pcr_11.extend(making.pcr_11.iter().cloned());
    fs::create_dir_all(&making.output).map_err(|error| named(&making.output, error))?;
    for part in &making.parts {
        release.files.push(add(part, making)?);
    }
    // The manifest last: what has one is whole.
    let text = release.to_toml()?;
    let note = making.output.join("release.note");
    fs::write(&note, sign(&text, &[&key])?).map_err(|error| named(&note, error))?;
    Ok(format!("{} is made; boxes that trust {} may install it", note.display(), key.verifier()))
}

/// Puts one file into the output folder, compressed, and describes it. A boot file stays as it is: it holds compressed
/// parts, and firmware reads it.
fn add(part: &Part, making: &Making) -> Result<Entry, Failure> {
    let failed = |error| named(&part.file, error);
    let stem = part.file.file_name().and_then(|name| name.to_str()).ok_or("a file without a plain name")?;
    let mut source = Summing::new(File::open(&part.file).map_err(failed)?);
    let compressed = !matches!(part.role, Role::Uki | Role::RootVeritySignature);
    let name = if compressed { format!("{stem}.zst") } else { stem.to_owned() };
    let path = making.output.join(&name);
    let mut target = Summing::new(File::create(&path).map_err(|error| named(&path, error))?);
    if compressed {
        let mut encoder = zstd::Encoder::new(&mut target, making.level)?;
        encoder.include_checksum(true)?;
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        encoder.multithread(u32::try_from(workers)?)?;
        io::copy(&mut source, &mut encoder).map_err(failed)?;
        encoder.finish()?;
    } else {
        io::copy(&mut source, &mut target).map_err(failed)?;
    }
    let (file, size, sha256) = target.finish();
    file.sync_all().map_err(|error| named(&path, error))?;
    let (_, content_size, content_sha256) = source.finish();
    Ok(Entry {
        name,
        role: part.role,
        size,
        sha256,
        expanded_size: compressed.then_some(content_size),
        expanded_sha256: compressed.then_some(content_sha256),
        partition_uuid: part.uuid.clone(),
    })
}

fn check(note: &Path, trusted: &[VerifierKey]) -> Result<String, Failure> {
    let release = Release::open(&fs::read(note).map_err(|error| named(note, error))?, trusted)?;
    let folder = note.parent().unwrap_or(Path::new("."));
    for entry in &release.files {
        let path = folder.join(&entry.name);
        entry.verify(File::open(&path).map_err(|error| named(&path, error))?, |_| {})?;
    }
    Ok(format!("{} of {}: {} files, all as they should be", release.version, release.issued, release.files.len()))
}

fn named(path: &Path, error: io::Error) -> Failure {
    format!("{}: {error}", path.display()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_is_made_is_one_that_checks_out_and_a_changed_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let key = SignerKey::generate("release.example").unwrap();
        let key_file = folder.path().join("release.key");
        key.write(&key_file).unwrap();
        let (root, uki) = (file("postkeep.root", &[0; 1 << 20]), file("postkeep.efi", b"boot file"));
        let output = folder.path().join("out");
        let (hash, uuid) = ("1".repeat(64), "8a4e2f5c-7c1e-4f0a-9f5e-0a1b2c3d4e5f");
        let root = format!("root={},{uuid}", root.display());
        let uki = format!("uki={}", uki.display());
        let certificate = file("certificate.der", b"certificate");
        let arguments = [
            "postkeep-release".into(),
            "make".into(),
            "--version".into(),
            "1.2.3".into(),
            "--root-hash".into(),
            hash.clone(),
            "--certificate".into(),
            certificate.display().to_string(),
            "--pcr-11".into(),
            format!("enter-initrd={hash}"),
            "--key".into(),
            key_file.display().to_string(),
            "--output".into(),
            output.display().to_string(),
            root,
            uki,
        ];
        let Verb::Make(making) = Arguments::try_parse_from(arguments).unwrap().verb else { panic!("another verb") };
        make(&making).unwrap();
        let note = output.join("release.note");
        let trusted = [key.verifier().clone()];
        assert!(check(&note, &trusted).unwrap().contains("2 files"));
        let release = Release::open(&fs::read(&note).unwrap(), &trusted).unwrap();
        let entry = release.file(Role::Root).unwrap();
        assert_eq!((entry.content_size(), entry.name.as_str()), (1 << 20, "postkeep.root.zst"));
        assert!(entry.size < 1000, "zeros are small");
        fs::write(output.join("postkeep.efi"), "boot filf").unwrap();
        assert!(check(&note, &trusted).unwrap_err().to_string().contains("damaged"));
        let stranger = [SignerKey::generate("release.example").unwrap().verifier().clone()];
        assert!(check(&note, &stranger).is_err());
    }
}
