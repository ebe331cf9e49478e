//! `postkeep rehearse`.

use postkeep_configuration::command::Outcome;

use crate::arguments::RehearseArguments;
use crate::{FAILED, failure};

/// Runs a rehearsal to its summary, or keeps it up.
pub(crate) async fn run(arguments: RehearseArguments, json: bool) -> Outcome {
    let _ = (arguments, json);
    failure(FAILED, "the rehearsal is not wired yet")
}
