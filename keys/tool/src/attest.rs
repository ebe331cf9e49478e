//! The word of a box's TPM, asked for before a share is given: whether what answers is the box that was enrolled, runs a release that is known, and
//! has taken no mail since it was started. What cannot be vouched for gets no share, unless whoever types says so.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use postkeep_firmware::attestation::{AttestationKey, Doubt, Evidence, Known, Measured, judge};
use postkeep_firmware::digest::Digest;
use postkeep_firmware::facts::Ours;
use postkeep_firmware::keys;
use postkeep_firmware::posture::{self, Posture};
use postkeep_keys::tpm::{Nonce, Quoted, Tpm, question};
use postkeep_keys::wire::{Reply, Request};
use postkeep_keys::{Grade, Offer, Sum, System, Token};
use postkeep_release::Release;

use crate::client::Client;
use crate::outcome::{Failure, bad, read, refused};
use crate::work::keys_of;

/// What a box with a TPM has to show.
#[derive(Debug, Args)]
pub(crate) struct Vouching {
    /// The manifest (release.note) of a release that the box may run; once for each. Its TPM has to vouch for one of them.
    #[arg(long = "release", value_name = "FILE", requires = "release_key")]
    pub(crate) releases: Vec<PathBuf>,
    /// Whose releases those are: the public key, or a file with it.
    #[arg(long, value_name = "KEY", requires = "releases")]
    pub(crate) release_key: Option<String>,
    /// Certificates of Secure Boot that are your owner's (PK, KEK; PEM or DER), or their keys.toml; several times. They count for the
    /// posture; the certificate that a release names counts too.
    #[arg(long, value_name = "FILE", requires = "releases")]
    pub(crate) own: Vec<PathBuf>,
    /// Gives the share without the word of the TPM. Whoever has changed what the box starts gets it too.
    #[arg(long, conflicts_with = "releases")]
    pub(crate) unattested: bool,
}

/// What is known of what answers.
#[derive(Debug)]
pub(crate) struct Vouched {
    /// How much it is.
    pub(crate) grade: Grade,
    /// What the start of the box is worth, by the word of its TPM.
    pub(crate) posture: Option<Posture>,
    /// The same in a sentence or two.
    pub(crate) said: String,
}

/// What can be made sure of without a way to the box: nothing.
///
/// # Errors
/// The box has a TPM, and nobody has said that its word is not wanted.
pub(crate) fn of_text(token: &Token, vouching: &Vouching) -> Result<Vouched, Failure> {
    if token.tpm.is_some() && !vouching.unattested {
        return Err(refused(
            "this box has a TPM, and a line from its console carries no word of it: answer over the network (--box), or say that you do \
             without (--unattested), once whoever stands there has looked at its posture",
        ));
    }
    Ok(unvouched(token))
}

/// What the TPM of the box behind `client` says to `offer`. `must_be_fresh`: it has to say too that its volume was not open since it was started,
/// whatever the box says of itself.
///
/// # Errors
/// It does not vouch for one of the releases; the reasons are named.
pub(crate) fn vouched(
    client: &Client,
    token: &Token,
    offer: &Offer,
    vouching: &Vouching,
    must_be_fresh: bool,
) -> Result<Vouched, Failure> {
    let Some(tpm) = &token.tpm else {
        if vouching.releases.is_empty() {
            return Ok(unvouched(token));
        }
        return Err(refused(
            "your token names no TPM of the box, and nothing vouches for a release: leave --release out, if you do without",
        ));
    };
    if vouching.unattested {
        return Ok(unvouched(token));
    }
    let (releases, ours) = releases(vouching)?;
    if releases.is_empty() {
        return Err(refused(
            "this box has a TPM that can vouch for what runs there: say with --release (its manifest, release.note) and --release-key which \
             release it may run; or --unattested, if you do without",
        ));
    }
    let nonce = Nonce::new(&mut System);
    let quoted = match client.ask(&Request::Quote { nonce })? {
        Reply::Quoted(quoted) => *quoted,
        _ => {
            return Err(refused(
                "the TPM of the box does not vouch for it: it gives no answer. The box may be busy (try again), its TPM broken, or what \
                 answers is not your box",
            ));
        }
    };
    if quoted.certificate.is_some_and(|sum| client.certificate().is_some_and(|shown| shown != sum)) {
        return Err(refused(
            "somebody stands between you and the box: its TPM vouches for another certificate than the one that is shown here",
        ));
    }
    let question = question(nonce, offer, quoted.certificate);
    let judged =
        judge(&evidence(quoted), digest(question), known(tpm, &key_of(tpm)?), &releases, &ours).map_err(doubted)?;
    if !judged.is_fresh && must_be_fresh {
        return Err(refused(format!(
            "the box runs {}, and its volume has been open since the machine was started: whoever had broken in by then may be in it still. \
             Have the machine started anew, and answer what it offers then; or --unattested, if you do without",
            judged.release
        )));
    }
    let mut said = format!(
        "Its TPM vouches for it: {}, Secure Boot as it was when the box was made. Posture {}.\n",
        judged.release, judged.posture.grade
    );
    for sentence in judged.posture.sentences.iter().filter(|sentence| sentence.at_best != posture::Grade::A) {
        let _ = writeln!(said, "  {} {}", sentence.at_best, sentence.seen);
    }
    Ok(Vouched { grade: Grade::A2, posture: Some(judged.posture), said })
}

fn unvouched(token: &Token) -> Vouched {
    let said = match token.tpm {
        Some(_) => "Its TPM was not asked: nothing vouches for what runs there.\n",
        None => "It has no TPM that could vouch for it: nothing does.\n",
    };
    Vouched { grade: Grade::A1, posture: None, said: said.to_owned() }
}

fn doubted(doubts: Vec<Doubt>) -> Failure {
    let reasons: String = doubts.iter().map(|doubt| format!("\n  - {doubt}")).collect();
    refused(format!("the TPM of the box does not vouch for it, and it gets no share:{reasons}"))
}

/// The releases that the box may run, and whose keys of Secure Boot are the owner's.
fn releases(vouching: &Vouching) -> Result<(Vec<Measured>, Ours), Failure> {
    let (mut measured, mut ours) = (Vec::new(), Ours::default());
    let Some(key) = &vouching.release_key else { return Ok((measured, ours)) };
    let trusted = keys_of(key)?;
    for file in &vouching.releases {
        let release =
            Release::open(&read(file)?, &trusted).map_err(|error| bad(format!("{}: {error}", file.display())))?;
        ours.certificates.push(Digest(release.secure_boot_certificate.0));
        let phases = release.pcr_11.into_iter().map(|(phase, value)| (phase, Digest(value.0))).collect();
        measured.push(Measured { name: format!("Postkeep {}", release.version), phases });
    }
    for file in &vouching.own {
        ours.certificates.extend(keys::own(file, &read(file)?).map_err(bad)?);
    }
    Ok((measured, ours))
}

fn key_of(tpm: &Tpm) -> Result<AttestationKey, Failure> {
    AttestationKey::read(&tpm.key.0).map_err(|error| bad(format!("the token: {error}")))
}

fn known<'a>(tpm: &Tpm, key: &'a AttestationKey) -> Known<'a> {
    Known { key, secure_boot: digest(tpm.secure_boot) }
}

fn evidence(quoted: Quoted) -> Evidence {
    let registers = quoted.registers.into_iter().map(|register| (register.number, digest(register.value))).collect();
    Evidence { attest: quoted.attest.0, signature: quoted.signature.0, registers, log: quoted.log.0 }
}

fn digest(sum: Sum) -> Digest {
    Digest(*sum.octets())
}
