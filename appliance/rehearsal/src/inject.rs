//! Submits a whole campaign over several connections, and notes every answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Error;
use crate::account::Handed;
use crate::campaign::{Campaign, Plan};
use crate::client::{Client, ClientError, Submission};
use crate::rulebook::RuleBook;

/// Submits a plan over so many connections; ends when every message has its answer.
pub(crate) async fn inject(
    plan: Plan,
    book: RuleBook,
    submission: Submission,
    connections: usize,
    handed: Arc<Mutex<Handed>>,
) -> Result<(), Error> {
    let header: Arc<str> = plan.stream_header.as_str().into();
    let campaign = Arc::new(Mutex::new(Campaign::new(plan, &book)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections.clamp(1, 100) {
        tasks.spawn(one_connection(
            submission.clone(),
            Arc::clone(&campaign),
            Arc::clone(&header),
            Arc::clone(&handed),
        ));
    }
    while let Some(result) = tasks.join_next().await {
        result.map_err(|error| Error::Io(format!("a submission ended badly: {error}")))??;
    }
    Ok(())
}

/// Tries of one message or connection before giving up.
const TRIES: u32 = 50;

async fn one_connection(
    submission: Submission,
    campaign: Arc<Mutex<Campaign>>,
    header: Arc<str>,
    handed: Arc<Mutex<Handed>>,
) -> Result<(), Error> {
    let mut client = None;
    loop {
        let message = campaign.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(message) = message else { break };
        let content = message.content(&header);
        let mut tries = 0;
        loop {
            tries += 1;
            let open = match client.take() {
                Some(open) => Ok(open),
                None => Client::connect(&submission).await,
            };
            let mut open = match open {
                Ok(open) => open,
                Err(error) if tries >= TRIES => {
                    return Err(Error::Io(format!("cannot submit to {}: {error}", submission.address)));
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let result = open.send(&message, &content).await;
            let mut book = handed.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(answer) => {
                    client = Some(open);
                    let later = |answer: &Result<(), String>| matches!(answer, Err(text) if text.starts_with('4'));
                    // A server that says "later" to everything is asked again; some of it accepted is an answer.
                    if answer.queued.is_none() && answer.recipients.iter().any(later) && tries < TRIES {
                        drop(book);
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                    book.answered(message, content.len(), answer);
                    break;
                }
                Err(ClientError::Before(_)) if tries < TRIES => {}
                Err(_) => {
                    book.unanswered(message);
                    break;
                }
            }
        }
    }
    if let Some(client) = client {
        client.quit().await;
    }
    Ok(())
}
