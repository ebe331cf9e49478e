//! One certificate from the authority: account, order, a proof for each name, key and chain.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use postkeep_configuration::Acme;

use crate::client::Client;
use crate::served::Served;
use crate::store::Store;

/// How long an authority may take to look at proofs, or to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));
/// How long to leave an authority alone that says that it was asked too often, in seconds.
const RATE_LIMITED: u64 = 3600;

/// Why there is no certificate, and how long the authority is to be left alone, in seconds.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) why: String,
    pub(crate) at_least: u64,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        let why = error.to_string();
        let at_least = if why.contains("rateLimited") { RATE_LIMITED } else { 0 };
        Self { why, at_least }
    }
}

/// Gets a certificate; key and chain in one PEM text.
pub(crate) async fn certificate(settings: &Acme, store: &Store, served: &Arc<Served>) -> Result<String, Failure> {
    let account = account(settings, store).await?;
    let names: Vec<Identifier> = settings.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(said)?;
    // Ready until the authority has looked at them.
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(said)?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            status => return Err(format!("a name cannot be proved any more: {status:?}").into()),
        }
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or("the authority offers no TLS-ALPN-01 (RFC 8737), and the box knows no other proof")?;
        let name = challenge.identifier().to_string();
        proofs.push(served.prove(&name, challenge.key_authorization().digest().as_ref())?);
        challenge.set_ready().await.map_err(said)?;
    }
    match order.poll_ready(&PATIENCE).await.map_err(said)? {
        OrderStatus::Ready => {}
        _ => return Err(refusal(&mut order).await.into()),
    }
    drop(proofs);
    let key = order.finalize().await.map_err(said)?;
    let chain = order.poll_certificate(&PATIENCE).await.map_err(said)?;
    Ok(format!("{}\n{chain}", key.trim_end()))
}

/// The account that is kept, or a new one, which is kept before it is used.
async fn account(settings: &Acme, store: &Store) -> Result<Account, Failure> {
    let client = || Client::new(settings.extra_roots.as_deref()).map(Box::new);
    if let Some(text) = store.account()? {
        let credentials = serde_json::from_str(&text)
            .map_err(|error| format!("the account in [acme] directory is damaged: {error}"))?;
        return Ok(Account::builder_with_http(client()?).from_credentials(credentials).await.map_err(said)?);
    }
    let external = match &settings.external_account {
        Some(external) => Some(ExternalAccountKey::new(external.id.clone(), &secret(&external.secret)?)),
        None => None,
    };
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let wanted =
        NewAccount { contact: &contact, terms_of_service_agreed: settings.agree_to_terms, only_return_existing: false };
    let (account, credentials) = Account::builder_with_http(client()?)
        .create(&wanted, settings.url.clone(), external.as_ref())
        .await
        .map_err(said)?;
    store.keep_account(&serde_json::to_string(&credentials)?)?;
    log::info!("acme: {} has a new account for this box", settings.url);
    Ok(account)
}

fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: String| format!("[acme.external-account] secret: {}: {error}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(4096).read_to_string(&mut text))
        .map_err(|error| failed(error.to_string()))?;
    URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('=')).map_err(|_| failed("it is not base64url".to_owned()))
}

/// What the authority said about the proofs that it did not take.
async fn refusal(order: &mut instant_acme::Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        for challenge in &authorization.challenges {
            if let Some(problem) = &challenge.error {
                return format!(
                    "{name} is not proved: {problem}; does {name} lead to a door with acme = true, at port 443?"
                );
            }
        }
    }
    "the authority did not take the proofs, and does not say why".to_owned()
}

fn said(error: Error) -> String {
    error.to_string()
}
