//! Whether certificate and key of a door do their work: the box shakes hands with itself, in memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use postkeep_trust::KeyAlone;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, Error, ServerConfig, ServerConnection};

use crate::tables::{TablesError, server_tls};

/// More flights than any handshake has.
const MOST_FLIGHTS: usize = 8;

/// Reads the PEM files of a door, chain and key, and lets the key sign a handshake that is held against the certificate.
/// Blocks on the disk.
///
/// # Errors
/// A file cannot be used, or the two do not belong together.
pub fn try_identity(address: SocketAddr, files: (Option<&Path>, Option<&Path>)) -> Result<(), TablesError> {
    let server = server_tls(address, files)?;
    shake_hands(server)
        .map_err(|error| TablesError::Tls { address, reason: format!("a handshake with them fails: {error}") })
}

fn shake_hands(server: ServerConfig) -> Result<(), Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = KeyAlone::any(&provider);
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::from(Ipv4Addr::LOCALHOST);
    let mut client = Connection::from(ClientConnection::new(Arc::new(client), name)?);
    let mut server = Connection::from(ServerConnection::new(Arc::new(server))?);
    for _ in 0..MOST_FLIGHTS {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err(Error::General("it does not end".to_owned()))
}

/// Hands over what one side has to say.
fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let in_words = |error: std::io::Error| Error::General(error.to_string());
    let mut octets = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut octets).map_err(in_words)?;
    }
    let mut rest = octets.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).map_err(in_words)?;
        to.process_new_packets()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};

    use super::*;

    #[test]
    fn certificate_and_key_shake_hands_and_those_that_do_not_fit_are_told_with_their_door() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
        let other = folder.path().join("other.pem");
        let made = rcgen::generate_simple_self_signed(vec!["mx.example.com".to_owned()]).unwrap();
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::write(&other, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let door: SocketAddr = "192.0.2.1:465".parse().unwrap();
        let tried = |key: &Path| try_identity(door, (Some(chain.as_path()), Some(key)));
        tried(&key).unwrap();
        for bad in [other.as_path(), chain.as_path(), &folder.path().join("absent.pem")] {
            let error = tried(bad).unwrap_err().to_string();
            assert!(error.contains("192.0.2.1:465"), "{error}");
        }
    }

    #[test]
    fn a_key_that_signs_for_another_certificate_fails_the_handshake() {
        let made = rcgen::generate_simple_self_signed(vec!["mx.example.com".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = |key: rcgen::KeyPair| {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let key = provider.key_provider.load_private_key(key).unwrap();
            // Nobody compares the two here, as the reading of files does.
            let certified = CertifiedKey::new(vec![made.cert.der().clone()], key);
            ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        };
        let error = shake_hands(server(rcgen::KeyPair::generate().unwrap())).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(_)), "{error:?}");
        let same = rcgen::KeyPair::try_from(made.signing_key.serialize_der()).unwrap();
        shake_hands(server(same)).unwrap();
    }
}
