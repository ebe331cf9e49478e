//! Certificates of every kind against records of every kind. The oracle is the table of RFC 7672 and, in
//! the whole product's tests, `openssl s_client -dane_tlsa_domain`.

use openssl::hash::{MessageDigest, hash};
use openssl::x509::X509;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::*;

/// An authority's certificate and one that it signed.
struct Chain {
    authority: Vec<u8>,
    leaf: Vec<u8>,
}

fn chain(name: &str, is_expired: bool) -> Chain {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, "an authority");
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, name);
    if is_expired {
        leaf.not_before = date_time_ymd(2019, 1, 1);
        leaf.not_after = date_time_ymd(2020, 1, 1);
    }
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &authority_key)).unwrap();
    Chain { authority: authority.der().to_vec(), leaf: leaf.der().to_vec() }
}

fn record(usage: u8, selector: u8, matching: u8, certificate: &[u8]) -> Tlsa {
    let whole = match selector {
        0 => certificate.to_vec(),
        _ => X509::from_der(certificate).unwrap().public_key().unwrap().public_key_to_der().unwrap(),
    };
    let data = match matching {
        0 => whole,
        1 => hash(MessageDigest::sha256(), &whole).unwrap().to_vec(),
        _ => hash(MessageDigest::sha512(), &whole).unwrap().to_vec(),
    };
    Tlsa { usage, selector, matching, data: data.into() }
}

fn verify(records: &[Tlsa], chain: &Chain) -> Result<Match, Rejected> {
    Verifier::new().unwrap().verify(records, &["mx.example.org", "example.org"], &[&chain.leaf, &chain.authority])
}

#[test]
fn a_certificate_or_key_of_the_host_matches_in_every_form() {
    let chain = chain("mx.example.org", false);
    for selector in [0, 1] {
        for matching in [0, 1, 2] {
            let record = record(3, selector, matching, &chain.leaf);
            assert_eq!(verify(std::slice::from_ref(&record), &chain), Ok(Match { usage: 3, depth: 0 }), "{record}");
        }
    }
}

#[test]
fn with_the_hosts_own_certificate_neither_its_name_nor_its_dates_matter() {
    // RFC 7672 §3.1.1.
    let chain = chain("somewhere.else.example", true);
    assert!(verify(&[record(3, 1, 1, &chain.leaf)], &chain).is_ok());
}

#[test]
fn an_authority_vouches_for_the_host_or_the_domain_and_only_while_the_certificate_lasts() {
    for (name, is_expired, fault) in [
        ("mx.example.org", false, None),
        ("example.org", false, None),
        ("mx.example.net", false, Some(Fault::HostMismatch)),
        ("mx.example.org", true, Some(Fault::Expired)),
    ] {
        let chain = chain(name, is_expired);
        let verdict = verify(&[record(2, 0, 1, &chain.authority)], &chain);
        assert_eq!(verdict.as_ref().err().map(|rejected| rejected.kind), fault, "{name}: {verdict:?}");
        if fault.is_none() {
            assert_eq!(verdict, Ok(Match { usage: 2, depth: 1 }));
        }
    }
}

#[test]
fn what_matches_no_record_is_rejected() {
    let (mine, other) = (chain("mx.example.org", false), chain("mx.example.org", false));
    for record in [record(3, 1, 1, &other.leaf), record(2, 0, 1, &other.authority), record(2, 1, 2, &other.authority)] {
        let rejected = verify(std::slice::from_ref(&record), &mine).unwrap_err();
        assert_eq!(rejected.kind, Fault::NoMatch, "{record}: {rejected}");
    }
    // Usages that lean on public authorities match nothing, also beside one that does.
    assert!(verify(&[record(1, 1, 1, &mine.leaf)], &mine).is_err());
    assert!(verify(&[record(1, 1, 1, &other.leaf), record(3, 1, 1, &mine.leaf)], &mine).is_ok());
    // An authority must be shown, or stand in the record as a whole.
    let verifier = Verifier::new().unwrap();
    let alone = |record: Tlsa| verifier.verify(&[record], &["mx.example.org"], &[&mine.leaf]);
    assert!(alone(record(2, 0, 1, &mine.authority)).is_err());
    assert_eq!(alone(record(2, 0, 0, &mine.authority)).map(|matched| matched.usage), Ok(2));
}

#[test]
fn garbage_is_rejected_and_does_no_harm() {
    let chain = chain("mx.example.org", false);
    let verifier = Verifier::new().unwrap();
    let record = record(3, 1, 1, &chain.leaf);
    let names = ["mx.example.org"];
    assert!(verifier.verify(std::slice::from_ref(&record), &names, &[]).is_err());
    assert!(verifier.verify(std::slice::from_ref(&record), &names, &[b"garbage"]).is_err());
    assert!(verifier.verify(std::slice::from_ref(&record), &[], &[&chain.leaf]).is_err());
    assert!(verifier.verify(std::slice::from_ref(&record), &["a\0b"], &[&chain.leaf]).is_err());
    let garbage = Tlsa { usage: 2, selector: 0, matching: 0, data: vec![0x30; 40].into() };
    assert!(verifier.verify(std::slice::from_ref(&garbage), &names, &[&chain.leaf]).is_err());
    assert!(verifier.verify(&[garbage, record], &names, &[&chain.leaf]).is_ok(), "the good one counts");
    assert!(verifier.verify(&[], &names, &[&chain.leaf]).is_err());
}

#[test]
fn many_threads_use_one_verifier() {
    let chain = chain("mx.example.org", false);
    let verifier = Verifier::new().unwrap();
    let record = record(3, 1, 1, &chain.leaf);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let chain = [chain.leaf.as_slice(), chain.authority.as_slice()];
                    assert!(verifier.verify(std::slice::from_ref(&record), &["mx.example.org"], &chain).is_ok());
                }
            });
        }
    });
}
