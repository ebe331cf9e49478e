//! What the screen and the privileged part say to each other: one line of JSON each way, over a Unix socket.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::deed::Deed;

/// Octets of a line; a challenge with its answer is far below.
pub(crate) const LONGEST_LINE: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

/// What the screen asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Which machine this is and whose.
    Who,
    /// A challenge for a deed.
    Ask(Deed),
    /// The owner's answer.
    Answer {
        /// The challenge that was answered.
        challenge: String,
        /// The answer.
        answer: String,
    },
    /// The network that is being tried works.
    Keep,
    /// Seal a box that custodians open, without anybody's leave: whoever stands there can pull the plug, which seals it as well.
    SealNow,
}

/// What the privileged part answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// To [`Request::Who`].
    Who(Who),
    /// To [`Request::Ask`].
    Challenge {
        /// In groups of characters.
        code: String,
        /// What will be done, line by line.
        lines: Vec<String>,
        /// Seconds in which it can be answered.
        valid: u64,
    },
    /// It is done, or under way.
    Done(String),
    /// Nothing was done, and why.
    Refused(String),
}

/// Which machine this is and whose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Who {
    /// The fingerprint of the machine.
    pub machine: String,
    /// The name of its owner's key.
    pub owner: Option<String>,
    /// Why there is no owner.
    pub why: Option<String>,
    /// Seconds until a network that is being tried goes back.
    pub trial: Option<u64>,
}

/// Asks the privileged part behind `socket`.
///
/// # Errors
/// It does not answer, or not in a way that this program understands.
pub async fn ask(socket: &Path, request: &Request) -> Result<Reply, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "the part that acts cannot be reached at {}: {error}; see postkeep-act.service in the log",
            socket.display()
        )
    };
    let talk = async {
        let mut stream = UnixStream::connect(socket).await.map_err(|error| failed(&error))?;
        let mut line = serde_json::to_vec(request).map_err(|error| failed(&error))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(|error| failed(&error))?;
        let mut answer = String::new();
        let mut reader = BufReader::new(stream.take(LONGEST_LINE));
        reader.read_line(&mut answer).await.map_err(|error| failed(&error))?;
        serde_json::from_str(&answer).map_err(|error| failed(&error))
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(answer) => answer,
        Err(_) => Err(failed(&"it does not answer in time")),
    }
}
