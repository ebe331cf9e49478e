//! What the TPM of a box adds: it says, signed with a key that does not leave it, what was started, so that custodians give their shares to that, and to
//! nothing else.
//!
//! Whether its word is to be believed is not decided here (`postkeep_firmware::attestation`).

use serde::{Deserialize, Serialize};

use crate::octets;
use crate::{Octets, Offer, Random, Sum};

/// How what a TPM is asked begins.
const LABEL: &str = "postkeep-quote-1";

/// What a token says of the TPM of its box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tpm {
    /// The key with which it signs its word, `TPMT_PUBLIC`.
    pub key: Octets,
    /// PCR 7, whether Secure Boot was on and whose keys it had, when the token was made.
    pub secure_boot: Sum,
}

/// What a custodian asks a TPM with: made anew each time, so that an old answer answers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; 32]);

octets::as_hexadecimal!(Nonce, 32, "a nonce");

impl Nonce {
    /// A new one.
    pub fn new(random: &mut dyn Random) -> Self {
        let mut octets = [0; 32];
        random.fill(&mut octets);
        Self(octets)
    }
}

/// What a box hands over: its TPM's word on what was started, and all that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Quoted {
    /// `TPMS_ATTEST`.
    pub attest: Octets,
    /// `TPMT_SIGNATURE`.
    pub signature: Octets,
    /// What the registers hold.
    pub registers: Vec<Register>,
    /// The log of the boot, as firmware keeps it.
    pub log: Octets,
    /// The certificate that the door of the seal shows, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Sum>,
}

/// A register of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// Which.
    pub number: u32,
    /// What it holds.
    pub value: Sum,
}

/// What a TPM is asked about: this custodian's nonce, what the box offers, and the certificate of its door. Its word is on all of that: nobody
/// can use it for another start, another key, or stand in between.
#[must_use]
pub fn question(nonce: Nonce, offer: &Offer, certificate: Option<Sum>) -> Sum {
    let certificate = certificate.map_or_else(|| "none".to_owned(), |sum| sum.to_string());
    Sum::of(format!("{LABEL}\n{nonce}\n{offer}\n{certificate}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reply;
    use crate::{BootId, Cause, Recipient};

    #[test]
    fn the_word_of_a_tpm_goes_over_the_wire_and_back() {
        let quoted = Quoted {
            attest: Octets(vec![1, 2, 3]),
            signature: Octets(Vec::new()),
            registers: vec![Register { number: 7, value: Sum::of(b"seven") }],
            log: Octets(vec![0xff; 1000]),
            certificate: Some(Sum::of(b"a certificate")),
        };
        for certificate in [quoted.certificate, None] {
            let reply = Reply::Quoted(Box::new(Quoted { certificate, ..quoted.clone() }));
            assert_eq!(serde_json::from_str::<Reply>(&serde_json::to_string(&reply).unwrap()).unwrap(), reply);
        }
    }

    #[test]
    fn each_part_of_what_a_tpm_is_asked_about_changes_the_question() {
        let octets = |octet: u8| format!("{octet:02x}");
        let nonce = |octet| octets(octet).repeat(32).parse::<Nonce>().unwrap();
        let sum = |octet| octets(octet).repeat(32).parse::<Sum>().unwrap();
        let key: Recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
        let offer = Offer {
            token: sum(1),
            boot: octets(2).repeat(16).parse::<BootId>().unwrap(),
            answer_to: key,
            cause: Cause::Planned,
        };
        let other = |change: fn(&mut Offer)| {
            let mut other = offer.clone();
            change(&mut other);
            question(nonce(3), &other, Some(sum(4)))
        };
        let all = [
            question(nonce(3), &offer, Some(sum(4))),
            question(nonce(4), &offer, Some(sum(4))),
            question(nonce(3), &offer, Some(sum(5))),
            question(nonce(3), &offer, None),
            other(|offer| offer.token = Sum::of(b"other")),
            other(|offer| offer.cause = Cause::Change),
            other(|offer| offer.answer_to = Recipient::of(&age::x25519::Identity::generate())),
            other(|offer| offer.boot = "00".repeat(16).parse().unwrap()),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
        // As sha256sum says of the four lines: the form is part of the protocol.
        let lines = format!("postkeep-quote-1\n{}\n{offer}\n{}\n", "03".repeat(32), "04".repeat(32));
        assert_eq!(all[0], Sum::of(lines.as_bytes()));
        assert!(offer.to_string().starts_with("postkeep-offer-1:planned:0202"), "{offer}");
    }
}
