//! Submitters that nobody here wrote: Python's smtplib, swaks, and a client of Mailgun's.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::daemon::run_with_input;
use crate::ground::{Ground, HOSTNAME};
use crate::settings::PASSWORD;
use crate::tools::{self, Missing};

/// How a submitter speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Not at all, and no AUTH.
    None,
    /// STARTTLS, then AUTH.
    Starttls,
    /// From the first byte, then AUTH.
    Implicit,
}

impl Tls {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Starttls => "starttls",
            Self::Implicit => "implicit",
        }
    }
}

/// One message to submit.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// Envelope sender.
    pub sender: &'a str,
    /// Envelope recipients.
    pub recipients: &'a [&'a str],
    /// The bytes.
    pub content: &'a [u8],
    /// Parameters of MAIL.
    pub options: &'a [&'a str],
}

/// Submits by smtplib, one connection; gives the last reply for each message.
///
/// # Panics
/// When smtplib raises, for example because TLS or AUTH fails.
pub fn smtplib(
    ground: &Ground,
    to: SocketAddr,
    tls: Tls,
    messages: &[Letter<'_>],
) -> Result<Vec<(u16, String)>, Missing> {
    let python = tools::find("python3")?;
    let messages: Vec<Value> = messages
        .iter()
        .map(|letter| {
            json!({
                "sender": letter.sender, "recipients": letter.recipients, "options": letter.options,
                "content": base64::engine::general_purpose::STANDARD.encode(letter.content),
            })
        })
        .collect();
    let task = json!({
        "host": to.ip().to_string(), "port": to.port(), "tls": tls.name(), "name": HOSTNAME,
        "authority": ground.path("authority.pem"),
        "user": (tls != Tls::None).then_some("user"), "password": PASSWORD,
        "messages": messages,
    });
    let answer = run_with_input(
        Command::new(python).arg(tools::file("submitters/smtplib_submit.py")),
        task.to_string().as_bytes(),
    )
    .done()
    .json();
    Ok(answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|reply| {
            let code = reply[0].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
            (code, reply[1].as_str().unwrap_or_default().to_owned())
        })
        .collect())
}

/// The client of Mailgun's makers, over HTTPS; for each message the status and the body.
///
/// # Panics
/// When it raises.
pub fn mailgun(
    ground: &Ground,
    door: SocketAddr,
    token: &str,
    domain: &str,
    messages: &Value,
) -> Result<Vec<(u16, Value)>, Missing> {
    let task = json!({ "url": format!("https://{door}"), "token": token, "domain": domain, "messages": messages });
    mailgun_client(ground, "submitters/mailgun_submit.py", &task)
}

/// The same client asks for suppressions and changes them: `[resource, method, arguments]` each.
///
/// # Panics
/// When it raises.
pub fn mailgun_suppressions(
    ground: &Ground,
    door: SocketAddr,
    token: &str,
    domain: &str,
    calls: &Value,
) -> Result<Vec<(u16, Value)>, Missing> {
    let task = json!({ "url": format!("https://{door}"), "token": token, "domain": domain, "calls": calls });
    mailgun_client(ground, "submitters/mailgun_suppressions.py", &task)
}

fn mailgun_client(ground: &Ground, script: &str, task: &Value) -> Result<Vec<(u16, Value)>, Missing> {
    let authority = ground.path("authority.pem");
    std::fs::write(&authority, ground.authority().pem()).expect("write the authority");
    let answer = run_with_input(
        Command::new(tools::python()?)
            .arg(tools::file(script))
            .env("REQUESTS_CA_BUNDLE", &authority)
            .env("SSL_CERT_FILE", &authority),
        task.to_string().as_bytes(),
    )
    .done()
    .json();
    let pairs = answer.as_array().into_iter().flatten();
    Ok(pairs
        .map(|pair| (pair[0].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0), pair[1].clone()))
        .collect())
}

/// swaks with STARTTLS towards this server, checking its certificate; the rest is the caller's.
pub fn swaks(ground: &Ground, to: SocketAddr) -> Result<Command, Missing> {
    let program = tools::find("swaks")?;
    // Newer ones also compare names, and must be told which; older ones do not know the option.
    let target = ["--tls-verify-target", HOSTNAME];
    let names = Command::new(&program).args(target).arg("--version").output().is_ok_and(|said| said.status.success());
    let mut command = Command::new(program);
    command
        .args(["--server", &to.ip().to_string(), "--port", &to.port().to_string(), "--tls", "--tls-verify"])
        .arg("--tls-ca-path")
        .arg(ground.path("authority.pem"))
        .args(["--helo", "client.test", "--timeout", "20s"])
        .args(target.iter().filter(|_| names));
    Ok(command)
}
