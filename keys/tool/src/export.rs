//! Files for custodians: what a quorum of them is to read, and nobody else; a backup, a dump, what goes to another machine. The form is that of a
//! box's exports (`docs/develop/keys.md`).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use postkeep_keys::System;
use postkeep_keys::export::{ExportError, Head, Reader, Writer};
use postkeep_notes::SignerKey;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::arguments::Trust;
use crate::outcome::{FAILED, Failure, Outcome, bad, must_be_new, refused};
use crate::recover::{Brought, secret_of};
use crate::split::key_set;
use crate::terminal::Terminal;
use crate::work::keys_of;

/// Under the head. Its secret half is thrown away: nobody makes another export in this name.
const SIGNER: &str = "postkeep-keys-export";
/// What is taken for standard input.
const STANDARD_INPUT: &str = "-";

/// Makes an export of the file `from` for the custodians in `keys`.
pub(crate) fn export(
    keys: &Path,
    from: &Path,
    name: Option<&str>,
    out: &Path,
    quiet: bool,
) -> Result<Outcome, Failure> {
    must_be_new(out)?;
    let set = key_set(keys)?;
    let is_file = from != Path::new(STANDARD_INPUT);
    let named = if is_file { from.file_name().map(|name| name.to_string_lossy().into_owned()) } else { None };
    let name = name.map(str::to_owned).or(named).unwrap_or_else(|| "standard input".to_owned());
    let (mut content, size): (Box<dyn Read>, _) = if is_file {
        let (file, size) = opened(from)?;
        (Box::new(file), Some(size))
    } else {
        (Box::new(io::stdin().lock()), None)
    };
    let (head, key) = Head::make(&set, &name, Timestamp::now(), &mut System).map_err(bad)?;
    let signer = SignerKey::generate(SIGNER).map_err(bad)?;
    let note = head.sign(&signer).map_err(bad)?;
    let bar = bar(size, quiet);
    let unfinished = unfinished(out)?;
    let mut octets = 0;
    let seen = |seen| {
        octets = seen;
        bar.set_position(seen);
    };
    let written = Writer::new(unfinished.as_file(), &note, key).and_then(|writer| writer.write_all(&mut content, seen));
    written.map_err(|error| told(&error, from, out))?;
    if octets == 0 && !is_file {
        return Err(refused("nothing came from standard input: did the command before the pipe fail?"));
    }
    bar.finish_and_clear();
    done(unfinished, out)?;
    let mut said = format!(
        "{} holds {name:?}, {octets} octets, for {} of {} custodians (`import`).\n\
         It is signed with a key that nobody has any more; whoever imports it can hold it against that:\n  {}\n",
        out.display(),
        set.threshold,
        set.custodians.len(),
        signer.verifier()
    );
    for warning in set.warnings() {
        said += &format!("warning      {warning}\n");
    }
    let json = json!({
        "export": head.token.volume, "name": name, "file": out, "octets": octets, "signed-by": signer.verifier().to_string(),
        "warnings": set.warnings(),
    });
    Ok(Outcome::new(said, json))
}

/// Gives back what is in the export `from`, once enough custodians have brought their shares.
pub(crate) fn import(
    from: &Path,
    trust: &Trust,
    brought: &Brought<'_>,
    out: &Path,
    quiet: bool,
) -> Result<Outcome, Failure> {
    // Said before devices are touched and passphrases typed.
    must_be_new(out)?;
    let (file, size) = opened(from)?;
    let failed = |error| told(&error, from, out);
    let known = trust.box_key.as_deref().map(keys_of).transpose()?;
    let reader = Reader::new(BufReader::new(file), known.as_deref()).map_err(failed)?;
    if known.is_none() {
        Terminal::say(&format!("Nobody's signature under {} was checked: --box-key has it checked.", from.display()));
    }
    let (secret, names) = secret_of(&reader.head.token, brought)?;
    let key = reader.head.key(&secret, brought.purpose).map_err(failed)?;
    let bar = bar(Some(size), quiet);
    let unfinished = unfinished(out)?;
    let mut into = BufWriter::new(unfinished.as_file());
    let head = reader.read_all(&key, &mut into, |seen| bar.set_position(seen)).map_err(failed)?;
    into.flush().map_err(|error| failed(ExportError::Write(error)))?;
    drop(into);
    bar.finish_and_clear();
    done(unfinished, out)?;
    let said = format!("{} is {:?}, exported at {}.\n", out.display(), head.name, head.made);
    let json = json!({
        "export": head.token.volume, "name": head.name, "made": head.made, "file": out, "custodians": names,
        "signature-checked": known.is_some(),
    });
    Ok(Outcome::new(said, json))
}

fn opened(path: &Path) -> Result<(File, u64), Failure> {
    let failed = |error: io::Error| bad(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    if data.is_dir() {
        return Err(bad(format!("{} is a folder: pack it first (tar), and export that", path.display())));
    }
    Ok((file, data.len()))
}

/// What went wrong, and with which file.
fn told(error: &ExportError, from: &Path, out: &Path) -> Failure {
    match error {
        ExportError::Write(error) => cannot_write(out, error),
        error => bad(format!("{}: {error}", from.display())),
    }
}

fn cannot_write(out: &Path, error: &io::Error) -> Failure {
    let remedy =
        if error.kind() == io::ErrorKind::AlreadyExists { "; name a new file, nothing is overwritten" } else { "" };
    Failure { code: FAILED, why: format!("cannot write {}: {error}{remedy}", out.display()) }
}

/// A file of no name that anybody asks for, beside `out`, for its owner's eyes only; it is removed where it does not become `out`.
fn unfinished(out: &Path) -> Result<NamedTempFile, Failure> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".postkeep-keys-")
        .suffix(".unfinished")
        .tempfile_in(folder)
        .map_err(|error| cannot_write(out, &error))
}

/// Whole, and durable, under its name; never in the place of another file.
fn done(unfinished: NamedTempFile, out: &Path) -> Result<(), Failure> {
    unfinished.as_file().sync_all().map_err(|error| cannot_write(out, &error))?;
    unfinished.persist_noclobber(out).map_err(|error| cannot_write(out, &error.error))?;
    postkeep_files::sync_folder(out).map_err(|error| cannot_write(out, &error))
}

/// On the terminal, where there is one.
fn bar(octets: Option<u64>, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let form = if octets.is_some() {
        "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go"
    } else {
        "{bytes}, {bytes_per_sec}"
    };
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(octets, target).with_style(style)
}
