//! Judges that nobody here wrote: dkimpy for signatures, Python's email
//! package for delivery reports, OpenSSL for keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::daemon::{run, run_with_input};
use crate::tools::{self, Missing};

/// What dkimpy says of one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// `a=`.
    pub algorithm: String,
    /// `h=`, lower case, in order.
    pub headers: Vec<String>,
    /// Whether it holds.
    pub valid: bool,
}

/// Asks dkimpy about every signature of every message; `keys` maps `selector._domainkey.domain.` to the TXT record.
///
/// # Panics
/// When the script fails.
pub fn signatures(keys: &BTreeMap<String, String>, messages: &[&[u8]]) -> Result<Vec<Vec<Signature>>, Missing> {
    let python = tools::python()?;
    let messages: Vec<String> = messages.iter().map(|message| STANDARD.encode(message)).collect();
    let task = json!({ "keys": keys, "messages": messages }).to_string();
    let answer =
        run_with_input(Command::new(python).arg(tools::file("oracles/dkim_check.py")), task.as_bytes()).done().json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Ok(list(&answer)
        .iter()
        .map(|message| {
            list(message)
                .iter()
                .map(|one| Signature {
                    domain: text(&one["domain"]),
                    selector: text(&one["selector"]),
                    algorithm: text(&one["algorithm"]),
                    headers: list(&one["headers"]).iter().map(text).collect(),
                    valid: one["valid"] == true,
                })
                .collect()
        })
        .collect())
}

/// Reads a delivery report with Python's email package.
///
/// # Panics
/// When the script fails.
pub fn report(message: &[u8]) -> Result<Value, Missing> {
    let python = tools::find("python3")?;
    Ok(run_with_input(Command::new(python).arg(tools::file("oracles/report_check.py")), message).done().json())
}

/// Makes an RSA-2048 key with OpenSSL; gives the TXT record for it.
///
/// # Panics
/// When OpenSSL fails.
pub fn rsa_key(file: &Path) -> Result<String, Missing> {
    let openssl = tools::find("openssl")?;
    run(Command::new(&openssl)
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(file))
    .done();
    Ok(format!("v=DKIM1; k=rsa; p={}", public(&openssl, file)))
}

/// Makes an Ed25519 key with OpenSSL; gives the TXT record for it (RFC 8463 §4: the bare 32 octets).
///
/// # Panics
/// When OpenSSL fails.
pub fn ed25519_key(file: &Path) -> Result<String, Missing> {
    let openssl = tools::find("openssl")?;
    run(Command::new(&openssl).args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(file)).done();
    let info = STANDARD.decode(public(&openssl, file)).expect("base64 from OpenSSL");
    Ok(format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(&info[info.len() - 32..])))
}

fn public(openssl: &Path, file: &Path) -> String {
    let pem = run(Command::new(openssl).args(["pkey", "-pubout", "-in"]).arg(file)).done().out;
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}
