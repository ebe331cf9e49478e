//! OpenSSL's DANE verifier, run over a chain that another TLS library was shown.
//!
//! The calls are those that libssl makes itself at the end of a handshake (`ssl_verify_cert_chain` in
//! `ssl/ssl_cert.c`): an `SSL` is made to hold the records, and an `X509_STORE_CTX` is pointed at them.

use std::ffi::CString;
use std::fmt;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod};
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::{X509, X509StoreContext, X509VerifyResult};

use crate::record::Tlsa;

/// Certificates of a chain that are looked at; the others cannot matter.
const LONGEST_CHAIN: usize = 20;

/// The record by which a chain was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// 2: an authority in the chain (DANE-TA). 3: the host's own certificate or key (DANE-EE).
    pub usage: u8,
    /// Place in the chain of what matched; 0 is the host's own certificate.
    pub depth: u8,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at depth {}", if self.usage == 3 { "DANE-EE" } else { "DANE-TA" }, self.depth)
    }
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejected {
    /// In OpenSSL's words.
    pub reason: String,
    /// What kind of fault it is.
    pub kind: Fault,
}

/// Kinds of faults, as reports of failures tell them apart (RFC 8460 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No record matches.
    NoMatch,
    /// A record names an authority, and the certificate is for another host.
    HostMismatch,
    /// A certificate of the chain is out of date.
    Expired,
    /// Anything else: what cannot be read, a broken signature.
    Other,
}

/// OpenSSL could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up OpenSSL's DANE verifier: {0}")]
pub struct DaneError(#[from] ErrorStack);

/// Verifies chains. Cheap to use from many threads at once.
pub struct Verifier {
    context: SslContext,
    store: X509Store,
}

impl Verifier {
    /// Sets OpenSSL up.
    ///
    /// # Errors
    /// The library lacks what is needed.
    pub fn new() -> Result<Self, DaneError> {
        let builder = SslContext::builder(SslMethod::tls_client())?;
        ffi::enable(&builder)?;
        // Nothing public is trusted here: whom to trust is in the records.
        Ok(Self { context: builder.build(), store: X509StoreBuilder::new()?.build() })
    }

    /// Whether a chain, the host's own certificate first, is what the records promise for a host with one of these names:
    /// the TLSA base domain, then the domain of the mail (RFC 7672 §3.2.2). Names count for DANE-TA only (§3.1.1).
    ///
    /// # Errors
    /// It is not, or OpenSSL had no memory.
    pub fn verify(&self, records: &[Tlsa], names: &[&str], chain: &[&[u8]]) -> Result<Match, Rejected> {
        let other = |reason: String| Rejected { reason, kind: Fault::Other };
        let library = |error: ErrorStack| other(format!("OpenSSL: {error}"));
        let Some((leaf, above)) = chain.split_first() else {
            return Err(other("the host showed no certificate".to_owned()));
        };
        let unreadable = |error: ErrorStack| other(format!("a certificate cannot be read: {error}"));
        let leaf = X509::from_der(leaf).map_err(unreadable)?;
        let mut others = Stack::new().map_err(library)?;
        for certificate in above.iter().take(LONGEST_CHAIN) {
            others.push(X509::from_der(certificate).map_err(unreadable)?).map_err(library)?;
        }
        let ssl = Ssl::new(&self.context).map_err(library)?;
        let names: Vec<CString> = names.iter().filter_map(|name| CString::new(*name).ok()).collect();
        let Some((base, further)) = names.split_first() else {
            return Err(other("there is no name to verify".to_owned()));
        };
        let session = ffi::Session::new(&ssl, base, further).map_err(library)?;
        for record in records.iter().filter(|record| record.is_usable()) {
            session.add(record).map_err(library)?;
        }
        let mut context = X509StoreContext::new().map_err(library)?;
        let verdict = context
            .init(&self.store, &leaf, &others, |context| {
                session.prepare(context)?;
                let accepted = context.verify_cert()?;
                Ok((accepted, context.error()))
            })
            .map_err(library)?;
        // What was noted on the way must not be taken for the fault of whoever uses OpenSSL next on this thread.
        drop(ErrorStack::get());
        match verdict {
            (true, _) => session.matched().ok_or_else(|| Rejected {
                reason: "no TLSA record matches the certificate".to_owned(),
                kind: Fault::NoMatch,
            }),
            (false, error) => Err(rejected(error)),
        }
    }
}

fn rejected(error: X509VerifyResult) -> Rejected {
    let kind = match error.as_raw() {
        openssl_sys::X509_V_ERR_HOSTNAME_MISMATCH => Fault::HostMismatch,
        openssl_sys::X509_V_ERR_CERT_HAS_EXPIRED | openssl_sys::X509_V_ERR_CERT_NOT_YET_VALID => Fault::Expired,
        ffi::X509_V_ERR_DANE_NO_MATCH => Fault::NoMatch,
        _ => Fault::Other,
    };
    Rejected { reason: error.error_string().to_owned(), kind }
}

/// The calls that the `openssl` crate has no safe form of. `unsafe` is nowhere else.
///
/// # Safety argument
/// Every pointer that is handed to OpenSSL comes from a value of the `openssl` crate that is borrowed for the length of
/// the call, and is of the type that the call wants. Strings are `CString`s, octets come with their length, and
/// OpenSSL copies both before it returns (`SSL_dane_enable(3)`, `SSL_dane_tlsa_add(3)`). The one pointer that OpenSSL
/// keeps, the records in `X509_STORE_CTX_set0_dane`, belongs to the `SSL` that [`Session`] borrows: it outlives the
/// verification, because [`Verifier::verify`] drops the `SSL` after the store context has been cleaned up by
/// `X509StoreContext::init`. Nothing is shared between threads but the `SSL_CTX`, which OpenSSL locks itself.
#[allow(unsafe_code, reason = "OpenSSL's DANE calls have no safe form; see the safety argument")]
mod ffi {
    use std::ffi::{CStr, c_char, c_int, c_ulong};

    use openssl::ssl::SslContextBuilder;
    use openssl::x509::X509StoreContextRef;
    use openssl_sys::{SSL, SSL_CTX, X509_STORE_CTX, X509_VERIFY_PARAM};

    use foreign_types::ForeignTypeRef as _;

    use super::{ErrorStack, Match, Ssl, Tlsa};

    /// Opaque: `struct ssl_dane_st`.
    #[repr(C)]
    struct SslDane {
        _private: [u8; 0],
    }

    /// `x509_vfy.h`.
    pub(super) const X509_V_ERR_DANE_NO_MATCH: c_int = 65;
    /// `x509_vfy.h`: with DANE-EE, names are not compared (RFC 7672 §3.1.1).
    const DANE_FLAG_NO_DANE_EE_NAMECHECKS: c_ulong = 1;

    unsafe extern "C" {
        fn SSL_CTX_dane_enable(context: *mut SSL_CTX) -> c_int;
        fn SSL_CTX_dane_set_flags(context: *mut SSL_CTX, flags: c_ulong) -> c_ulong;
        fn SSL_dane_enable(ssl: *mut SSL, base_domain: *const c_char) -> c_int;
        fn SSL_add1_host(ssl: *mut SSL, host: *const c_char) -> c_int;
        fn SSL_dane_tlsa_add(
            ssl: *mut SSL,
            usage: u8,
            selector: u8,
            matching: u8,
            data: *const u8,
            length: usize,
        ) -> c_int;
        fn SSL_get0_dane(ssl: *mut SSL) -> *mut SslDane;
        fn SSL_get0_dane_tlsa(
            ssl: *mut SSL,
            usage: *mut u8,
            selector: *mut u8,
            matching: *mut u8,
            data: *mut *const u8,
            length: *mut usize,
        ) -> c_int;
        fn X509_STORE_CTX_set0_dane(context: *mut X509_STORE_CTX, dane: *mut SslDane);
        fn X509_STORE_CTX_set_default(context: *mut X509_STORE_CTX, name: *const c_char) -> c_int;
        fn X509_STORE_CTX_get0_param(context: *mut X509_STORE_CTX) -> *mut X509_VERIFY_PARAM;
        fn X509_VERIFY_PARAM_set1(to: *mut X509_VERIFY_PARAM, from: *const X509_VERIFY_PARAM) -> c_int;
    }

    fn done(result: c_int) -> Result<(), ErrorStack> {
        if result > 0 { Ok(()) } else { Err(ErrorStack::get()) }
    }

    pub(super) fn enable(builder: &SslContextBuilder) -> Result<(), ErrorStack> {
        // SAFETY: the context is alive and borrowed.
        unsafe {
            done(SSL_CTX_dane_enable(builder.as_ptr()))?;
            SSL_CTX_dane_set_flags(builder.as_ptr(), DANE_FLAG_NO_DANE_EE_NAMECHECKS);
        }
        Ok(())
    }

    /// An `SSL` that holds records.
    pub(super) struct Session<'a>(&'a Ssl);

    impl<'a> Session<'a> {
        pub(super) fn new(ssl: &'a Ssl, base: &CStr, further: &[std::ffi::CString]) -> Result<Self, ErrorStack> {
            // SAFETY: the session is alive and borrowed; the strings end with a zero and are copied.
            unsafe {
                done(SSL_dane_enable(ssl.as_ptr(), base.as_ptr()))?;
                for name in further {
                    done(SSL_add1_host(ssl.as_ptr(), name.as_ptr()))?;
                }
            }
            Ok(Self(ssl))
        }

        /// A record that OpenSSL finds unusable is passed over, as DANE wants it.
        pub(super) fn add(&self, record: &Tlsa) -> Result<(), ErrorStack> {
            let data = &record.data;
            // SAFETY: as above; the octets are copied.
            let added = unsafe {
                SSL_dane_tlsa_add(
                    self.0.as_ptr(),
                    record.usage,
                    record.selector,
                    record.matching,
                    data.as_ptr(),
                    data.len(),
                )
            };
            if added < 0 {
                return Err(ErrorStack::get());
            }
            // What it says of a record that it passed over is of no interest later.
            drop(ErrorStack::get());
            Ok(())
        }

        /// Points a verification at the records, as libssl does before it verifies a server.
        pub(super) fn prepare(&self, context: &mut X509StoreContextRef) -> Result<(), ErrorStack> {
            let context = context.as_ptr();
            // SAFETY: both are alive for the verification, see the module. Parameters are copied.
            unsafe {
                X509_STORE_CTX_set0_dane(context, SSL_get0_dane(self.0.as_ptr()));
                done(X509_STORE_CTX_set_default(context, c"ssl_server".as_ptr()))?;
                let parameters = openssl_sys::SSL_get0_param(self.0.as_ptr());
                done(X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(context), parameters))
            }
        }

        /// The record that matched, after a verification that was accepted.
        pub(super) fn matched(&self) -> Option<Match> {
            let (mut usage, mut selector, mut matching) = (0, 0, 0);
            let (mut data, mut length) = (std::ptr::null(), 0);
            // SAFETY: the session is alive; each pointer leads to a variable of its type.
            let depth = unsafe {
                SSL_get0_dane_tlsa(self.0.as_ptr(), &mut usage, &mut selector, &mut matching, &mut data, &mut length)
            };
            (depth >= 0).then(|| Match { usage, depth: u8::try_from(depth).unwrap_or(u8::MAX) })
        }
    }
}

#[cfg(test)]
mod tests;
