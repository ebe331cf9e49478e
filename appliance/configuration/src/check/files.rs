//! The files a configuration names: there, readable, PEM of the right kind, and not for
//! everybody's eyes. Whether key and certificate fit each other is tested when they are loaded.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::Report;
use crate::load::Options;
use crate::path::KeyPath;
use crate::problem::{Problem, Severity};
use crate::tree::{Node, Sources, Value};

/// Largest certificate or key file, in octets. A bundle of roots has a quarter of that.
const LARGEST: u64 = 1 << 20;

/// What a private key is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Tls,
    DkimRsa,
    DkimEd25519,
}

impl KeyKind {
    fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Tls => &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"],
            Self::DkimRsa => &["PRIVATE KEY", "RSA PRIVATE KEY"],
            Self::DkimEd25519 => &["PRIVATE KEY"],
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Tls => "give the key that belongs to the certificate, unencrypted, in PEM",
            Self::DkimRsa => "make one with: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out FILE",
            Self::DkimEd25519 => "make one with: openssl genpkey -algorithm ED25519 -out FILE",
        }
    }
}

/// A PEM file with certificates.
pub(super) fn certificate(path: KeyPath, file: &Path, options: &Options, report: &mut Report) {
    let Some(text) = read(&path, file, options, report) else { return };
    if !labels(&text).any(|label| label == "CERTIFICATE") {
        let what =
            if labels(&text).any(|label| label.ends_with("PRIVATE KEY")) { "a private key" } else { "no certificate" };
        report.error(
            path,
            format!("{} holds {what}, where a certificate chain in PEM is needed", file.display()),
            "give the file that begins with -----BEGIN CERTIFICATE-----",
        );
    }
}

/// A PEM file with one private key.
pub(super) fn private_key(path: KeyPath, file: &Path, kind: KeyKind, options: &Options, report: &mut Report) {
    let Some(text) = read(&path, file, options, report) else { return };
    if labels(&text).any(|label| label == "ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        report.error(
            path.clone(),
            format!("the key in {} is encrypted", file.display()),
            "store it without a passphrase: openssl pkey -in FILE -out NEW",
        );
    } else if !labels(&text).any(|label| kind.labels().contains(&label)) {
        report.error(
            path.clone(),
            format!("{} holds no private key that can be used here", file.display()),
            kind.remedy(),
        );
    }
    if mode(file).is_some_and(|mode| mode & 0o004 != 0) {
        report.warn(
            path,
            format!("everybody on this box can read {}", file.display()),
            format!("chmod o-rwx {}", file.display()),
        );
    }
}

/// A file with the secret of a webhook: `whsec_` and base64 of 24 to 64 octets.
pub(super) fn webhook_secret(path: KeyPath, file: &Path, options: &Options, report: &mut Report) {
    let Some(text) = secret(path.clone(), file, options, report) else { return };
    let octets = text.trim().strip_prefix("whsec_").and_then(|text| BASE64_STANDARD.decode(text).ok());
    if !octets.is_some_and(|octets| (24..=64).contains(&octets.len())) {
        report.error(
            path,
            format!("{} holds no secret", file.display()),
            "make one with: echo \"whsec_$(openssl rand -base64 32)\" > FILE",
        );
    }
}

/// A file with a password in its first line.
pub(super) fn password(path: KeyPath, file: &Path, options: &Options, report: &mut Report) {
    let Some(text) = secret(path.clone(), file, options, report) else { return };
    if text.lines().next().is_none_or(str::is_empty) {
        report.error(path, format!("{} is empty", file.display()), "write the password into its first line");
    }
}

/// A file with a secret, whatever that is.
fn secret(path: KeyPath, file: &Path, options: &Options, report: &mut Report) -> Option<String> {
    let text = read(&path, file, options, report)?;
    if mode(file).is_some_and(|mode| mode & 0o004 != 0) {
        report.warn(
            path,
            format!("everybody on this box can read {}", file.display()),
            format!("chmod o-rwx {}", file.display()),
        );
    }
    Some(text)
}

/// A text file that must be there; `None` when it is not, which is reported, or is not to be looked at.
fn read(path: &KeyPath, file: &Path, options: &Options, report: &mut Report) -> Option<String> {
    if !options.check_files {
        return None;
    }
    let complaint = match read_text(file) {
        Ok(text) => return Some(text),
        Err(complaint) => complaint,
    };
    report.error(
        path.clone(),
        format!("cannot read {}: {complaint}", file.display()),
        "check that the file is there and that the user of postkeepd may read it",
    );
    None
}

fn read_text(file: &Path) -> Result<String, String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut octets = Vec::new();
    let opened = File::open(file).map_err(|error| error.to_string())?;
    opened.take(LARGEST + 1).read_to_end(&mut octets).map_err(|error| error.to_string())?;
    if octets.len() as u64 > LARGEST {
        return Err(format!("it is larger than {}KiB", LARGEST >> 10));
    }
    String::from_utf8(octets).map_err(|_| "it is not text".to_owned())
}

/// What stands between `-----BEGIN ` and `-----`.
fn labels(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
}

fn mode(file: &Path) -> Option<u32> {
    Some(file.metadata().ok()?.permissions().mode())
}

/// Warns of files with password hashes that everybody on the box can read.
pub(crate) fn check_permissions(tree: &Node, sources: &Sources, options: &Options, problems: &mut Vec<Problem>) {
    let Value::Table(table) = &tree.value else { return };
    let Some(Node { value: Value::Array(credentials), .. }) = table.get("credential") else { return };
    if !options.check_files {
        return;
    }
    let mut files = Vec::new();
    for credential in credentials {
        let file = credential.at.file;
        if files.contains(&file) {
            continue;
        }
        files.push(file);
        let path = sources.path(file);
        if mode(path).is_some_and(|mode| mode & 0o004 != 0) {
            problems.push(sources.problem(
                Severity::Warning,
                &KeyPath::root().key("credential"),
                Some(credential.at),
                format!("everybody on this box can read {}, which holds password hashes", path.display()),
                Some(format!("chmod o-rwx {}", path.display())),
            ));
        }
    }
}
