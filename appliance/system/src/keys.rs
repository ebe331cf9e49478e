//! Keys that the configuration names and that are not there yet are born on the box: secret halves never travel.
//! What the owner must publish (DKIM records) is said, and written beside.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postkeep_configuration::{Configuration, DkimAlgorithm};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData};

/// Makes the keys of `configuration` that are missing below `folder`; keys elsewhere are the owner's business. Says a line
/// for each, which for a key of DKIM is its DNS record.
pub(crate) fn make_missing(configuration: &Configuration, folder: &Path) -> Result<Vec<String>, crate::Failure> {
    let mut said = Vec::new();
    for entry in &configuration.dkim {
        if entry.key.exists() || !entry.key.starts_with(folder) {
            continue;
        }
        let kind = match entry.algorithm {
            DkimAlgorithm::RsaSha256 => &PKCS_RSA_SHA256,
            DkimAlgorithm::Ed25519Sha256 => &PKCS_ED25519,
        };
        let pair = KeyPair::generate_for(kind)?;
        make_folder_of(&entry.key)?;
        postkeep_files::replace(&entry.key, pair.serialize_pem().as_bytes())?;
        let record = match entry.algorithm {
            DkimAlgorithm::RsaSha256 => {
                format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(pair.subject_public_key_info()))
            }
            // RFC 8463 §4: the bare 32 octets.
            DkimAlgorithm::Ed25519Sha256 => format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(pair.public_key_raw())),
        };
        said.push(format!("publish {}._domainkey.{} TXT {record}", entry.selector, entry.domain));
    }
    let listeners = configuration.listener.iter().map(|listener| (&listener.certificate, &listener.key));
    let http = configuration.http.iter().map(|door| (&door.certificate, &door.key));
    for (certificate, key) in listeners.chain(http) {
        let (Some(certificate), Some(key)) = (certificate, key) else { continue };
        if certificate.exists() || key.exists() || !certificate.starts_with(folder) || !key.starts_with(folder) {
            continue;
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::new(vec![configuration.hostname.clone()])?;
        parameters.distinguished_name.push(DnType::CommonName, configuration.hostname.clone());
        let made = parameters.self_signed(&pair)?;
        make_folder_of(key)?;
        make_folder_of(certificate)?;
        // The certificate last: what is there whole has its key.
        postkeep_files::replace(key, pair.serialize_pem().as_bytes())?;
        postkeep_files::replace(certificate, made.pem().as_bytes())?;
        said.push(format!("made a certificate of its own for {} in {}", configuration.hostname, certificate.display()));
    }
    Ok(said)
}

fn make_folder_of(file: &Path) -> std::io::Result<()> {
    file.parent().map_or(Ok(()), std::fs::create_dir_all)
}
