//! STARTTLS against rustls servers with certificates of every kind.

use std::io::Write;
use std::sync::Arc;

use postkeep_configuration::{Delivery, OutboundTls, TlsVersion};
use postkeep_delivery::{Connection, Connector, ConnectorError, OpenError, Promise, Stage, TlsFault, Tlsa};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::peer::{Message, Peer, ehlo, raw_peer, target, words};

/// Which certificate a server shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Expired,
    OtherName,
    SelfSigned,
}

/// A certificate authority that only the test knows.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    connector: Connector,
}

fn delivery(roots: Option<&std::path::Path>) -> Delivery {
    Delivery { extra_roots: roots.map(Into::into), ..Delivery::default() }
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(certificate.pem().as_bytes()).expect("a file");
        let connector = Connector::new(&delivery(Some(file.path()))).expect("a connector");
        Self { params, key, connector }
    }

    fn server(&self, kind: Kind) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let name = if kind == Kind::OtherName { "other.example" } else { "mx.example" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        if kind == Kind::Expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = if kind == Kind::SelfSigned {
            params.self_signed(&key)
        } else {
            params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))
        }
        .expect("a certificate");
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let configuration =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .expect("a configuration");
        Arc::new(configuration)
    }
}

/// Greets, starts TLS after saying `go`, greets again and receives one message; returns it
/// with the kind of handshake. An error is what the client did to the handshake.
async fn tls_peer(
    configuration: Arc<ServerConfig>,
    go: &'static str,
) -> (std::net::SocketAddr, JoinHandle<Result<(Vec<u8>, String), String>>) {
    raw_peer(move |stream| async move {
        let mut plain = Peer::new(stream);
        plain.greet("STARTTLS PIPELINING 8BITMIME").await;
        plain.answer("STARTTLS", go).await;
        let accepted = TlsAcceptor::from(configuration).accept(plain.stream).await;
        let stream = accepted.map_err(|error| error.to_string())?;
        let handshake = format!("{:?} {:?}", stream.get_ref().1.handshake_kind(), stream.get_ref().1.server_name());
        let mut peer = Peer::new(stream);
        peer.answer("EHLO client.example", &ehlo("CHUNKING PIPELINING")).await;
        let mut content = Vec::new();
        while let Some(line) = peer.try_line().await {
            if let Some(rest) = line.strip_prefix("BDAT ") {
                let size = rest.split(' ').next().and_then(|size| size.parse().ok()).expect("a size");
                content = peer.octets(size).await;
            }
            peer.say(if line == "QUIT" { "221 bye\r\n" } else { "250 ok\r\n" }).await;
            if line == "QUIT" {
                break;
            }
        }
        Ok((content, handshake))
    })
    .await
}

impl Authority {
    async fn open(&self, address: std::net::SocketAddr, policy: OutboundTls) -> Result<Connection, OpenError> {
        let mut target = target(address);
        target.tls = policy;
        self.connector.open(&target).await
    }
}

#[tokio::test]
async fn every_certificate_will_do_unless_it_must_be_verified_and_the_verdict_is_known() {
    let authority = Authority::new();
    for (kind, good) in
        [(Kind::Good, true), (Kind::Expired, false), (Kind::OtherName, false), (Kind::SelfSigned, false)]
    {
        for policy in [OutboundTls::Opportunistic, OutboundTls::Required, OutboundTls::Verified] {
            let (address, server) = tls_peer(authority.server(kind), "220 go\r\n").await;
            match authority.open(address, policy).await {
                Ok(connection) => {
                    assert!(good || policy != OutboundTls::Verified);
                    let tls = connection.tls().expect("TLS");
                    assert_eq!((tls.version, tls.verified), ("TLSv1.3", good));
                    assert_eq!(tls.error.is_none(), good);
                    assert!(tls.cipher.starts_with("TLS_"), "{}", tls.cipher);
                    connection.quit().await;
                    assert!(server.await.expect("the script").is_ok());
                }
                Err(error) => {
                    assert!(!good && policy == OutboundTls::Verified, "{error}");
                    assert_eq!(error.stage, Stage::Tls);
                    assert!(!error.plain_text_may_do && error.detail.contains("certificate"), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_large_message_goes_through_tls_octet_by_octet() {
    let authority = Authority::new();
    let (address, server) = tls_peer(authority.server(Kind::Good), "220 go\r\n").await;
    let mut connection = authority.open(address, OutboundTls::Verified).await.expect("a connection");
    // What was offered before TLS is forgotten.
    assert!(connection.capabilities().chunking && !connection.capabilities().eight_bit_mime);
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|number| format!("{number:x}\r\n").into_bytes()).collect();
    let message = Message::new(content.clone(), &["b@example.net", "c@example.net"]);
    let result = connection.transact(&message.transaction()).await;
    assert_eq!(words(&result.recipients), ["delivered 250", "delivered 250"]);
    assert!(result.bytes > content.len() as u64);
    connection.quit().await;
    let (received, handshake) = server.await.expect("the script").expect("TLS");
    assert!(received == content);
    assert!(handshake.contains("mx.example"), "{handshake}");
}

#[tokio::test]
async fn what_is_put_in_after_starttls_is_dropped() {
    let authority = Authority::new();
    let go = "220 go\r\n250-mx\r\n250 DSN\r\n";
    let (address, _server) = tls_peer(authority.server(Kind::Good), go).await;
    let connection = authority.open(address, OutboundTls::Opportunistic).await.expect("a connection");
    assert!(connection.capabilities().chunking && !connection.capabilities().dsn);
}

#[tokio::test]
async fn sessions_are_resumed_and_the_verdict_stays() {
    let authority = Authority::new();
    let configuration = authority.server(Kind::Good);
    let mut handshakes = Vec::new();
    for _ in 0..2 {
        let (address, server) = tls_peer(Arc::clone(&configuration), "220 go\r\n").await;
        let mut connection = authority.open(address, OutboundTls::Opportunistic).await.expect("a connection");
        let message = Message::new("A: b\r\n\r\nx\r\n", &["b@example.net"]);
        connection.transact(&message.transaction()).await;
        assert!(connection.tls().is_some_and(|tls| tls.verified));
        connection.quit().await;
        handshakes.push(server.await.expect("the script").expect("TLS").1);
    }
    assert!(handshakes[0].contains("Full") && handshakes[1].contains("Resumed"), "{handshakes:?}");
}

#[tokio::test]
async fn a_broken_handshake_leaves_plain_text_only_to_the_opportunist() {
    let authority = Authority::new();
    for (policy, may) in
        [(OutboundTls::Opportunistic, true), (OutboundTls::Required, false), (OutboundTls::Verified, false)]
    {
        for garbage in ["\x15\x03\x01\x00\x02\x02\x28", "220 I do not really speak TLS\r\n", ""] {
            let (address, _server) = raw_peer(move |stream| async move {
                let mut peer = Peer::new(stream);
                peer.greet("STARTTLS").await;
                peer.answer("STARTTLS", "220 go\r\n").await;
                peer.arrived().await;
                peer.say(garbage).await;
            })
            .await;
            let Err(error) = authority.open(address, policy).await else { panic!("opened") };
            assert_eq!((error.stage, error.plain_text_may_do), (Stage::Tls, may), "{error}");
        }
    }
}

#[tokio::test]
async fn a_refused_starttls_is_plain_text_for_the_opportunist_and_an_error_for_others() {
    let authority = Authority::new();
    for (policy, reply) in [
        (OutboundTls::Opportunistic, "454 4.7.0 not now\r\n"),
        (OutboundTls::Required, "454 4.7.0 not now\r\n"),
        (OutboundTls::Opportunistic, "421 go away\r\n"),
    ] {
        let (address, _server) = raw_peer(move |stream| async move {
            let mut peer = Peer::new(stream);
            peer.greet("STARTTLS DSN").await;
            peer.answer("STARTTLS", reply).await;
            peer.is_left().await
        })
        .await;
        match authority.open(address, policy).await {
            Ok(connection) => {
                assert!(policy == OutboundTls::Opportunistic && reply.starts_with("454"));
                assert!(connection.tls().is_none() && connection.capabilities().dsn);
                assert!(connection.tls_failure().is_some_and(|failure| failure.contains("not now")));
            }
            Err(error) => {
                assert!(policy == OutboundTls::Required || reply.starts_with("421"));
                assert!(error.reply.is_some() && error.stage == Stage::Tls && !error.plain_text_may_do);
            }
        }
    }
}

#[test]
fn roots_that_cannot_be_read_are_named() {
    let missing = delivery(Some(std::path::Path::new("/nonexistent/roots.pem")));
    let Err(error) = Connector::new(&missing) else { panic!("made") };
    assert!(error.to_string().contains("/nonexistent/roots.pem"), "{error}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    assert!(matches!(Connector::new(&delivery(Some(file.path()))), Err(ConnectorError::ExtraRoots(_))));
}

/// A peer that speaks nothing newer than TLS 1.1, with RSA key exchange, as some do since 2008.
async fn old_peer() -> (std::net::SocketAddr, JoinHandle<bool>) {
    use openssl::pkey::PKey;
    use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslVersion};

    let key = openssl::rsa::Rsa::generate(2048).expect("a key");
    let key = PKey::from_rsa(key).expect("a key");
    let signing = KeyPair::from_pkcs8_pem_and_sign_algo(
        &String::from_utf8(key.private_key_to_pem_pkcs8().expect("PEM")).expect("PEM"),
        &rcgen::PKCS_RSA_SHA256,
    )
    .expect("a key");
    let params = CertificateParams::new(vec!["mx.example".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&signing).expect("a certificate");
    let certificate = openssl::x509::X509::from_der(certificate.der()).expect("a certificate");
    let mut builder = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).expect("a builder");
    builder.set_min_proto_version(None).expect("versions");
    builder.set_max_proto_version(Some(SslVersion::TLS1_1)).expect("versions");
    builder.clear_options(openssl::ssl::SslOptions::NO_TLSV1_1 | openssl::ssl::SslOptions::NO_TLSV1);
    builder.set_cipher_list("AES128-SHA:@SECLEVEL=0").expect("ciphers");
    builder.set_private_key(&key).expect("a key");
    builder.set_certificate(&certificate).expect("a certificate");
    let acceptor = builder.build();
    raw_peer(move |stream| async move {
        let mut plain = Peer::new(stream);
        plain.greet("STARTTLS").await;
        plain.answer("STARTTLS", "220 go\r\n").await;
        let mut stream =
            tokio_openssl::SslStream::new(Ssl::new(acceptor.context()).expect("TLS"), plain.stream).expect("TLS");
        if std::pin::Pin::new(&mut stream).accept().await.is_err() {
            return false;
        }
        let mut peer = Peer::new(stream);
        peer.answer("EHLO client.example", &ehlo("8BITMIME")).await;
        while let Some(line) = peer.try_line().await {
            peer.say(match line.as_str() {
                "QUIT" => "221 bye\r\n",
                "DATA" => "354 go\r\n",
                _ => "250 ok\r\n",
            })
            .await;
            if line == "QUIT" {
                return true;
            }
        }
        false
    })
    .await
}

#[tokio::test]
async fn hosts_that_know_only_old_tls_are_reached_by_the_lane_for_them_and_by_no_other() {
    let authority = Authority::new();
    for (old, minimum) in [(false, TlsVersion::V1_2), (true, TlsVersion::V1_2)] {
        let (address, server) = old_peer().await;
        let mut target = target(address);
        (target.tls, target.old_tls, target.minimum) = (OutboundTls::Required, old, minimum);
        match authority.connector.open(&target).await {
            Ok(connection) => {
                assert!(old);
                let tls = connection.tls().expect("TLS");
                assert_eq!((tls.version, tls.verified), ("TLSv1.1", false), "{tls:?}");
                assert_eq!(tls.cipher, "TLS_RSA_WITH_AES_128_CBC_SHA");
                connection.quit().await;
                assert!(server.await.expect("the script"));
            }
            Err(error) => assert!(!old && error.fault == Some(TlsFault::Handshake), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_lowest_version_keeps_older_ones_out() {
    let authority = Authority::new();
    let mut server = ServerConfig::clone(&authority.server(Kind::Good));
    for (only, minimum, good) in [
        (&[&rustls::version::TLS12][..], TlsVersion::V1_2, true),
        (&[&rustls::version::TLS12], TlsVersion::V1_3, false),
        (&[&rustls::version::TLS13], TlsVersion::V1_3, true),
    ] {
        let resolver = Arc::clone(&server.cert_resolver);
        server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(only)
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        let (address, _server) = tls_peer(Arc::new(server.clone()), "220 go\r\n").await;
        let mut target = target(address);
        (target.tls, target.minimum) = (OutboundTls::Required, minimum);
        assert_eq!(authority.connector.open(&target).await.is_ok(), good, "{minimum:?}");
    }
}

#[tokio::test]
async fn tlsa_records_decide_whatever_is_asked_for_and_leave_no_way_to_plain_text() {
    let authority = Authority::new();
    let record = |octet: u8| Tlsa { usage: 3, selector: 1, matching: 1, data: vec![octet; 32].into() };
    for policy in [OutboundTls::Opportunistic, OutboundTls::Verified] {
        let (address, _server) = tls_peer(authority.server(Kind::Good), "220 go\r\n").await;
        let mut target = target(address);
        target.tls = policy;
        target.tlsa = Some(Arc::new(Promise { records: vec![record(1)], names: vec!["mx.example".into()] }));
        let Err(error) = authority.connector.open(&target).await else { panic!("opened") };
        assert_eq!((error.fault, error.plain_text_may_do), (Some(TlsFault::TlsaMismatch), false), "{error}");
    }
    // A host that offers no TLS cannot be the one that has such records.
    let (address, _server) = raw_peer(|stream| async move {
        let mut peer = Peer::new(stream);
        peer.greet("PIPELINING").await;
        peer.is_left().await
    })
    .await;
    let mut target = target(address);
    target.tls = OutboundTls::Opportunistic;
    target.tlsa = Some(Arc::new(Promise { records: vec![record(1)], names: vec!["mx.example".into()] }));
    let Err(error) = authority.connector.open(&target).await else { panic!("opened") };
    assert_eq!((error.fault, error.plain_text_may_do), (Some(TlsFault::NotOffered), false), "{error}");
}
