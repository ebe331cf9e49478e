//! Keeps the certificate: serves what is on the disk, renews it in time, waits after failures.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postkeep_configuration::Acme;
use rustls::ServerConfig;
use tokio::task::JoinHandle;

use crate::order;
use crate::renewal::Renewal;
use crate::served::{ACME_TLS, Served, read};
use crate::store::{Store, StoreError};

/// Sleeps are no longer: a clock that is set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);
/// An order takes no longer, whatever the authority does.
const PATIENCE: Duration = Duration::from_secs(900);

/// The certificate of `[acme]`.
#[derive(Debug)]
pub struct Certificates {
    settings: Acme,
    store: Store,
    served: Arc<Served>,
    renewal: parking_lot::Mutex<Renewal>,
}

impl Certificates {
    /// Takes up what is on the disk. Blocks.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(settings: &Acme) -> Result<Arc<Self>, StoreError> {
        let store = Store::open(&settings.directory, &settings.url)?;
        let served = Arc::new(Served::default());
        let mut renewal = store.renewal();
        renewal.bound(now());
        match store.certificate()?.map(|pem| read(&pem, &settings.names)) {
            None => log::info!("acme: there is no certificate yet; {} is asked for one", settings.url),
            Some(Ok((certificate, validity, has_names))) => {
                served.store(certificate);
                if has_names {
                    renewal.holds(validity, fastrand::f64());
                } else {
                    log::info!("acme: the names have changed; the certificate serves until there is another");
                }
            }
            Some(Err(why)) => log::error!("acme: the certificate in [acme] directory is of no use: {why}"),
        }
        Ok(Arc::new(Self { settings: settings.clone(), store, served, renewal: parking_lot::Mutex::new(renewal) }))
    }

    /// TLS of a door that uses the certificate, speaking these protocols; whoever speaks [`ACME_TLS`] wants nothing but
    /// the proof of a name and is to be left after the handshake.
    ///
    /// # Errors
    /// The cipher suites are not to be had.
    pub fn server_tls(&self, protocols: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let served: Arc<Served> = Arc::clone(&self.served);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(served);
        config.alpn_protocols = protocols.iter().chain([&ACME_TLS]).map(|one| one.to_vec()).collect();
        Ok(config)
    }

    /// Renews in time, for ever, in a task of its own. Must be called inside a tokio runtime.
    pub fn keep(self: Arc<Self>) -> JoinHandle<()> {
        tokio::spawn(self.renew())
    }

    async fn renew(self: Arc<Self>) {
        loop {
            let (now, next) = (now(), self.renewal.lock().next());
            if next > now {
                tokio::time::sleep(Duration::from_secs(next - now).min(LONGEST_SLEEP)).await;
                continue;
            }
            // Counted before the authority is asked: a daemon that crashes and starts again asks no more often.
            let standing = {
                let mut renewal = self.renewal.lock();
                renewal.begun(now, fastrand::f64());
                *renewal
            };
            self.remember(standing).await;
            let asked = tokio::time::timeout(PATIENCE, order::certificate(&self.settings, &self.store, &self.served));
            let got = match asked.await {
                Ok(got) => got.and_then(|pem| self.take(&pem)),
                Err(_) => Err(format!("it took longer than {PATIENCE:?}").into()),
            };
            if let Err(failure) = got {
                let (failures, next) = {
                    let mut renewal = self.renewal.lock();
                    renewal.failed(now, failure.at_least);
                    (renewal.failures(), renewal.next())
                };
                log::error!(
                    "acme: {}: no certificate for {} (try {failures}): {}; the next try is in {} s, and what was there serves on",
                    self.settings.url,
                    self.settings.names.join(", "),
                    failure.why,
                    next.saturating_sub(now)
                );
            }
            let standing = *self.renewal.lock();
            self.remember(standing).await;
        }
    }

    /// Writes down how renewal stands.
    async fn remember(self: &Arc<Self>, standing: Renewal) {
        let this = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || this.store.keep_renewal(&standing)).await;
        if let Ok(Err(error)) = kept {
            log::error!("acme: {error}");
        }
    }

    /// Puts a certificate on the disk, then before the handshakes.
    fn take(&self, pem: &str) -> Result<(), order::Failure> {
        let (certificate, validity, has_names) = read(pem, &self.settings.names)?;
        if !has_names {
            return Err("the authority gave a certificate without all of the names".into());
        }
        if validity.until <= now() {
            return Err("the authority gave a certificate that is over, or the clock of this box is wrong".into());
        }
        // Also when the disk does not take it: a certificate is there, and asking for another would not mend the disk.
        let kept = self.store.keep_certificate(pem);
        self.served.store(certificate);
        self.renewal.lock().succeeded(validity, fastrand::f64());
        match kept {
            Ok(()) => log::info!("acme: a certificate for {} is in use", self.settings.names.join(", ")),
            Err(error) => log::error!("acme: the new certificate is in use, but a restart will not find it: {error}"),
        }
        Ok(())
    }
}

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
