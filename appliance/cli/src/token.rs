//! `postkeep token …`.

use std::io::Read as _;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postkeep_configuration::command::Outcome;
use postkeep_injection::{TOKEN_PREFIX, hash_of};
use serde_json::json;

use crate::arguments::TokenCommand;
use crate::{BAD_INPUT, FAILED, failure, show};

/// A token file is one line.
const LONGEST: u64 = 4096;

/// Runs one command.
pub(crate) fn run(command: &TokenCommand, json: bool) -> Outcome {
    match command {
        TokenCommand::New => {
            let mut octets = [0; 32];
            if SystemRandom::new().fill(&mut octets).is_err() {
                return failure(FAILED, "the system gives no random numbers");
            }
            let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(octets));
            let hash = hash_of(&token);
            let text = format!("token  {token}\nhash   {hash}\n");
            show::value(&json!({ "token": token, "hash": hash }), json, |_| text)
        }
        TokenCommand::Hash => {
            let mut input = String::new();
            match std::io::stdin().take(LONGEST).read_to_string(&mut input) {
                Ok(_) if input.trim().is_empty() => failure(BAD_INPUT, "there is no token on standard input"),
                Ok(_) => {
                    let hash = hash_of(input.trim());
                    show::value(&json!({ "hash": hash }), json, |_| format!("{hash}\n"))
                }
                Err(error) => failure(BAD_INPUT, &format!("cannot read the token from standard input: {error}")),
            }
        }
    }
}
