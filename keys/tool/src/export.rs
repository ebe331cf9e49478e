//! Files for custodians: what a quorum of them is to read, and nobody else; a backup, a dump, what goes to another machine. The form is that of a
//! box's exports (`docs/develop/keys.md`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use postkeep_keys::System;
use postkeep_keys::export::{Head, Reader, Writer};
use postkeep_notes::SignerKey;
use serde_json::json;

use crate::arguments::Trust;
use crate::outcome::{FAILED, Failure, Outcome, bad};
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
    let unfinished = Unfinished::new(out)?;
    let failed = |error: &dyn std::fmt::Display| Failure { code: FAILED, why: format!("{}: {error}", out.display()) };
    let mut octets = 0;
    let seen = |seen| {
        octets = seen;
        bar.set_position(seen);
    };
    let written = Writer::new(&unfinished.file, &note, key).and_then(|writer| writer.write_all(&mut content, seen));
    written.map_err(|error| failed(&error))?;
    bar.finish_and_clear();
    unfinished.done(out)?;
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
    if out.exists() {
        // Said before devices are touched and passphrases typed.
        return Err(bad(format!("{} is there already; name a new file, nothing is overwritten", out.display())));
    }
    let (file, size) = opened(from)?;
    let named = |error: &dyn std::fmt::Display| bad(format!("{}: {error}", from.display()));
    let known = trust.box_key.as_deref().map(keys_of).transpose()?.unwrap_or_default();
    let reader = Reader::new(BufReader::new(file), &known).map_err(|error| named(&error))?;
    if known.is_empty() {
        Terminal::say(&format!("Nobody's signature under {} was checked: --box-key has it checked.", from.display()));
    }
    let (secret, names) = secret_of(&reader.head.token, brought)?;
    let key = reader.head.key(&secret, brought.purpose).map_err(|error| named(&error))?;
    let bar = bar(Some(size), quiet);
    let unfinished = Unfinished::new(out)?;
    let mut into = BufWriter::new(&unfinished.file);
    let head = reader.read_all(&key, &mut into, |seen| bar.set_position(seen)).map_err(|error| named(&error))?;
    into.flush().map_err(|error| Failure { code: FAILED, why: format!("{}: {error}", out.display()) })?;
    drop(into);
    bar.finish_and_clear();
    unfinished.done(out)?;
    let said = format!("{} is {:?}, exported at {}.\n", out.display(), head.name, head.made);
    let json = json!({
        "export": head.token.volume, "name": head.name, "made": head.made, "file": out, "custodians": names,
        "signature-checked": !known.is_empty(),
    });
    Ok(Outcome::new(said, json))
}

fn opened(path: &Path) -> Result<(File, u64), Failure> {
    let failed = |error: io::Error| bad(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Ok((file, size))
}

/// A file that gets its name when it is whole, and is removed otherwise.
struct Unfinished {
    file: File,
    path: PathBuf,
    is_done: bool,
}

impl Unfinished {
    fn new(out: &Path) -> Result<Self, Failure> {
        if out.exists() {
            return Err(bad(format!("{} is there already; name a new file, nothing is overwritten", out.display())));
        }
        let mut name = out.as_os_str().to_owned();
        name.push(".unfinished");
        let path = PathBuf::from(name);
        // What another run has left is of no use; what it still writes to loses its name.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file =
            file.map_err(|error| Failure { code: FAILED, why: format!("cannot write {}: {error}", path.display()) })?;
        Ok(Self { file, path, is_done: false })
    }

    /// Whole, and durable, under its name.
    fn done(mut self, out: &Path) -> Result<(), Failure> {
        let failed = |error| Failure { code: FAILED, why: format!("cannot write {}: {error}", out.display()) };
        self.file.sync_all().and_then(|()| fs::rename(&self.path, out)).map_err(failed)?;
        self.is_done = true;
        postkeep_files::sync_folder(out).map_err(failed)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.path);
        }
    }
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
