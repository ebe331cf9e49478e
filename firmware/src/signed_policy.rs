//! The section `.pcrsig` of a signed boot file: which values of PCR 11 its builder signed, and for which phases.
//!
//! A disk key that is sealed to "whatever PCR 11 this key signed" opens for every release of the same builder, and
//! only in the phases that he signed. So whoever checks a release wants to see them.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use data_encoding::BASE64;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::digest::Digest;
use crate::pcr::Phase;

/// More than any file has.
const MOST: usize = 256;

/// Why the section cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signed values of PCR 11 cannot be used: {0}. Build the boot file again")]
pub struct PolicyError(pub String);

/// One signature in the section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// For which phases: `enter-initrd`, … Nothing: for none of this file's, so for another file.
    pub phase: Option<String>,
    /// The signature is the key's that lies in the section `.pcrpkey`.
    pub is_valid: bool,
}

#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    sha256: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    pcrs: Vec<u32>,
    pkfp: Digest,
    pol: Digest,
    sig: String,
}

/// The TPM's digest of the policy "PCR 11 of the SHA-256 bank has this value".
#[must_use]
pub fn policy_of_11(value: Digest) -> Digest {
    /// `TPM2_CC_PolicyPCR`
    const COMMAND: [u8; 4] = [0, 0, 1, 0x7f];
    /// One selection: SHA-256, three bytes, bit 11.
    const SELECTION: [u8; 10] = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0x08, 0];
    Digest::of_parts([&Digest::ZERO.0[..], &COMMAND, &SELECTION, &Digest::of(&value.0).0])
}

/// Checks each signature in `.pcrsig` with the key in `.pcrpkey`, against the predicted values.
///
/// # Errors
/// One of the two cannot be read.
pub fn check(pcrsig: &[u8], pcrpkey: &[u8], phases: &[Phase]) -> Result<Vec<Signed>, PolicyError> {
    let end = pcrsig.iter().position(|&octet| octet == 0).unwrap_or(pcrsig.len());
    let section: Section =
        serde_json::from_slice(&pcrsig[..end]).map_err(|error| PolicyError(format!(".pcrsig: {error}")))?;
    if section.sha256.len() > MOST {
        return Err(PolicyError(format!(".pcrsig has more than {MOST} signatures")));
    }
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pcrpkey)
        .map_err(|error| PolicyError(format!(".pcrpkey is no public key: {error}")))?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&key)
        .map_err(|error| PolicyError(format!(".pcrpkey is no public key: {error}")))?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, info.subject_public_key.data.as_ref());
    // systemd's fingerprint of a key is that of the key alone, without its kind.
    let fingerprint = Digest::of(&info.subject_public_key.data);
    let signed = section.sha256.iter().map(|entry| {
        let phase = phases.iter().find(|phase| entry.pcrs == [11] && policy_of_11(phase.value) == entry.pol);
        let signature = BASE64.decode(entry.sig.as_bytes()).unwrap_or_default();
        let is_valid = entry.pkfp == fingerprint && public.verify(&entry.pol.0, &signature).is_ok();
        Signed { phase: phase.map(|phase| phase.phase.clone()), is_valid }
    });
    Ok(signed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PCR 11 of a built release and what systemd-measure 257 made of it.
    #[test]
    fn the_policy_is_the_one_that_systemd_signs() {
        let value = "ec24ad5ce63e80f6006adfb929ef6810453e53873a0075f990ff7fe50afcaa63".parse().unwrap();
        let policy = "1e7f607f8052a66288772489cd2b7865f62c8224333dbac097806dd04ee3dbb4".parse().unwrap();
        assert_eq!(policy_of_11(value), policy);
    }

    #[test]
    fn a_signature_of_another_key_or_for_another_value_is_told_apart() {
        use aws_lc_rs::rand::SystemRandom;
        use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
        use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};

        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let public = BASE64.encode(&pair.subject_public_key_info());
        let public = format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n");
        let key = RsaKeyPair::from_pkcs8(&pair.serialize_der()).unwrap();
        let fingerprint = Digest::of(key.public_key().as_ref());
        let (value, other) = (Digest::of(b"value"), Digest::of(b"other"));
        let entry = |value, flaw: u8| {
            let policy = policy_of_11(value);
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &policy.0, &mut signature).unwrap();
            signature[9] ^= flaw;
            let signature = BASE64.encode(&signature);
            format!(r#"{{"pcrs":[11],"pkfp":"{fingerprint}","pol":"{policy}","sig":"{signature}"}}"#)
        };
        let section = format!(r#"{{"sha256":[{},{},{}]}}"#, entry(value, 0), entry(value, 1), entry(other, 0));
        let phases = [Phase { phase: "enter-initrd".to_owned(), value }];
        let signed = check(section.as_bytes(), public.as_bytes(), &phases).unwrap();
        let seen: Vec<(bool, bool)> = signed.iter().map(|one| (one.phase.is_some(), one.is_valid)).collect();
        assert_eq!(seen, [(true, true), (true, false), (false, true)]);
    }

    #[test]
    fn a_section_that_is_no_json_or_a_key_that_is_none_is_told_apart() {
        let error = check(b"not json", b"", &[]).unwrap_err().to_string();
        assert!(error.contains(".pcrsig"), "{error}");
        let error = check(b"{}", b"no key", &[]).unwrap_err().to_string();
        assert!(error.contains(".pcrpkey"), "{error}");
    }
}
