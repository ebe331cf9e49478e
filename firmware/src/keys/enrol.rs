//! Files by which firmware takes keys in: a signature list, signed by the key that may change the variable.
//!
//! The form is `EFI_VARIABLE_AUTHENTICATION_2`: a time, a PKCS #7 signature over name, owner, attributes, time and
//! content, then the content. systemd-boot takes such files from `loader/keys/NAME/` on the boot partition, and so
//! do the setup screens of most firmware.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use jiff::civil::DateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::guid::Guid;

/// Kept, seen by boot loaders and the system, changed by signature only.
const ATTRIBUTES: u32 = 0x27;
/// `WIN_CERT_TYPE_EFI_GUID`, revision 2.
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];

/// Why a file for enrolment cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot sign the variable {name}: {why}")]
pub struct EnrolError {
    /// The variable.
    pub name: String,
    /// What is wrong with the key or its certificate.
    pub why: String,
}

/// Who signs.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    /// An RSA key, PKCS #8 in DER.
    pub key: &'a [u8],
    /// Its certificate in DER.
    pub certificate: &'a [u8],
}

/// The file that sets `name` to `content` (signature lists). `at` must be later than that of the file before.
///
/// # Errors
/// The key is not RSA, or the certificate cannot be read.
pub fn authenticated(
    name: &str,
    vendor: Guid,
    content: &[u8],
    at: DateTime,
    signer: Signer<'_>,
) -> Result<Vec<u8>, EnrolError> {
    let failed = |why: String| EnrolError { name: name.to_owned(), why };
    let time = efi_time(at);
    let mut signed: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    signed.extend(vendor.0);
    signed.extend(ATTRIBUTES.to_le_bytes());
    signed.extend(time);
    signed.extend_from_slice(content);
    let signature = signed_data(&signed, signer).map_err(failed)?;
    let length = u32::try_from(signature.len() + 24).map_err(|error| failed(error.to_string()))?;
    let parts = [&time[..], &length.to_le_bytes(), &REVISION_AND_TYPE, &Guid::PKCS7.0, &signature, content];
    Ok(parts.concat())
}

/// `EFI_TIME`, in UTC.
fn efi_time(at: DateTime) -> [u8; 16] {
    let mut time = [0; 16];
    time[..2].copy_from_slice(&at.year().to_le_bytes());
    for (place, part) in time[2..].iter_mut().zip([at.month(), at.day(), at.hour(), at.minute(), at.second()]) {
        *place = part.unsigned_abs();
    }
    time
}

/// PKCS #7 signed data over content that lies elsewhere, without attributes: the plainest that firmware must take.
fn signed_data(content: &[u8], signer: Signer<'_>) -> Result<Vec<u8>, String> {
    let key = RsaKeyPair::from_pkcs8(signer.key).map_err(|error| format!("the key is not an RSA key: {error}"))?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), content, &mut signature)
        .map_err(|_| "the key does not sign".to_owned())?;
    let (_, certificate) = X509Certificate::from_der(signer.certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let sha256 = der(0x30, &[&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0]]);
    let rsa = der(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0]]);
    let data = der(0x30, &[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1]]);
    let issuer = der(0x30, &[certificate.issuer().as_raw(), &der(2, &[certificate.raw_serial()])]);
    let version = [2, 1, 1];
    let info = der(0x30, &[&version, &issuer, &sha256, &rsa, &der(4, &[&signature])]);
    Ok(der(0x30, &[&version, &der(0x31, &[&sha256]), &data, &der(0xa0, &[signer.certificate]), &der(0x31, &[&info])]))
}

/// A tag, the length, the parts.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut octets = vec![tag];
    if let Ok(short @ 0..=127) = u8::try_from(length) {
        octets.push(short);
    } else {
        let long = length.to_be_bytes();
        let long = &long[long.iter().take_while(|&&octet| octet == 0).count()..];
        // At most eight bytes.
        octets.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
        octets.extend_from_slice(long);
    }
    octets.extend(parts.iter().copied().flatten());
    octets
}
