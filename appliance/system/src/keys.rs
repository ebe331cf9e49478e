//! Keys that the configuration names and that are not there yet are born on the box: secret halves never travel.
//! What the owner must publish (DKIM records) is said, and written beside.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postkeep_configuration::{Configuration, DkimAlgorithm};
use postkeep_journal::KEY_MADE;
use rcgen::{
    Certificate, CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

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
        let name = format!("{}._domainkey.{}", entry.selector, entry.domain);
        KEY_MADE.tell(format_args!("made the key of {name}"), [&"dkim", &name, &entry.key.display()]);
        said.push(format!("publish {name} TXT {record}"));
    }
    let listeners = configuration.listener.iter().map(|listener| (&listener.certificate, &listener.key));
    let http = configuration.http.iter().map(|door| (&door.certificate, &door.key));
    for (certificate, key) in listeners.chain(http) {
        let (Some(certificate), Some(key)) = (certificate, key) else { continue };
        let hosts = vec![configuration.hostname.clone()];
        if certify(certificate, key, folder, &configuration.hostname, hosts)?.is_none() {
            continue;
        }
        said.push(format!("made a certificate of its own for {} in {}", configuration.hostname, certificate.display()));
        KEY_MADE.tell(
            format_args!("made a certificate for {}", configuration.hostname),
            [&"tls", &configuration.hostname, &key.display()],
        );
    }
    said.extend(make_api(configuration, folder)?);
    Ok(said)
}

/// The key by which clients know the box at its door for management. Its fingerprint is what they pin.
fn make_api(configuration: &Configuration, folder: &Path) -> Result<Vec<String>, crate::Failure> {
    let Some(api) = &configuration.api else { return Ok(Vec::new()) };
    // Whoever connects is shown it before they have shown theirs: it says nothing about the box.
    let Some(made) = certify(&api.certificate, &api.key, folder, "box", Vec::new())? else { return Ok(Vec::new()) };
    let sum = fingerprint(made.der());
    KEY_MADE.tell(
        format_args!("made the box's key for its door for management: {sum}"),
        [&"api", &sum, &api.key.display()],
    );
    Ok(vec![format!("publish box-fingerprint {sum}")])
}

/// A certificate for `name` that is missing below `folder`, with its key where that is missing too.
fn certify(
    certificate: &Path,
    key: &Path,
    folder: &Path,
    name: &str,
    hosts: Vec<String>,
) -> Result<Option<Certificate>, crate::Failure> {
    if certificate.exists() || !certificate.starts_with(folder) || !key.starts_with(folder) {
        return Ok(None);
    }
    // A key without a certificate is of a start that was cut short in between.
    let pair = if key.exists() {
        KeyPair::from_pem(&std::fs::read_to_string(key)?).map_err(|error| {
            format!("{} is missing, and {} cannot sign it: {error}", certificate.display(), key.display())
        })?
    } else {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?
    };
    let mut parameters = CertificateParams::new(hosts)?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    let made = parameters.self_signed(&pair)?;
    make_folder_of(key)?;
    make_folder_of(certificate)?;
    if !key.exists() {
        postkeep_files::replace(key, pair.serialize_pem().as_bytes())?;
    }
    // Last: what is there whole has its key.
    postkeep_files::replace(certificate, made.pem().as_bytes())?;
    Ok(Some(made))
}

/// The fingerprint of the box at its door for management, where it has one.
pub(crate) fn box_fingerprint(configuration: &Configuration) -> Result<Option<String>, crate::Failure> {
    let Some(api) = &configuration.api else { return Ok(None) };
    let pem = match std::fs::read(&api.certificate) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", api.certificate.display()).into()),
    };
    let der = CertificateDer::from_pem_slice(&pem)
        .map_err(|error| format!("{} is no certificate: {error}", api.certificate.display()))?;
    Ok(Some(fingerprint(&der)))
}

/// SHA-256 of a certificate in DER, in small hexadecimal digits.
fn fingerprint(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

fn make_folder_of(file: &Path) -> std::io::Result<()> {
    file.parent().map_or(Ok(()), std::fs::create_dir_all)
}
