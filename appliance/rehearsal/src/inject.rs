//! Submits messages over several connections, by SMTP and by HTTP, and notes
//! every answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Error;
use crate::campaign::{Message, Way};
use crate::client::{Answered, Client, ClientError, Submission};
use crate::excuses::Excuses;
use crate::handed::Handed;
use crate::http::{HttpClient, HttpDoor, Said};

/// The doors that messages go in by.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    pub(crate) submission: Submission,
    pub(crate) http: HttpDoor,
    /// Header that names the stream.
    pub(crate) stream_header: Arc<str>,
    /// What the configuration itself refuses.
    pub(crate) excuses: Arc<Excuses>,
}

/// Submits messages over so many connections; ends when each has its answer.
pub(crate) async fn inject(
    messages: impl Iterator<Item = Message> + Send + 'static,
    doors: Doors,
    connections: usize,
    handed: Arc<Mutex<Handed>>,
) -> Result<(), Error> {
    let messages = Arc::new(Mutex::new(messages));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections.clamp(1, 100) {
        let (messages, doors, handed) = (Arc::clone(&messages), doors.clone(), Arc::clone(&handed));
        tasks.spawn(async move {
            let mut line = Line { doors, handed, smtp: None, http: None };
            loop {
                let message = messages.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(message) = message else { break };
                line.note(|handed| handed.begin(&message));
                match message.way {
                    Way::Smtp => line.by_smtp(message).await?,
                    Way::Http => line.by_http(message).await?,
                }
            }
            if let Some(client) = line.smtp {
                client.quit().await;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.map_err(|error| Error::Io(format!("a submission ended badly: {error}")))??;
    }
    Ok(())
}

/// Tries of one message or connection before giving up.
const TRIES: u32 = 50;
/// Wait before a connection is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Wait before a message is tried again.
const MESSAGE_PAUSE: Duration = Duration::from_millis(200);

/// One who submits, with a connection to each door.
struct Line {
    doors: Doors,
    handed: Arc<Mutex<Handed>>,
    smtp: Option<Client>,
    http: Option<HttpClient>,
}

impl Line {
    async fn by_smtp(&mut self, message: Message) -> Result<(), Error> {
        let content = message.content(&self.doors.stream_header);
        let mut tries = 0;
        loop {
            tries += 1;
            let open = match self.smtp.take() {
                Some(open) => Ok(open),
                None => Client::connect(&self.doors.submission).await,
            };
            let mut open = match open {
                Ok(open) => open,
                Err(error) if tries >= TRIES => {
                    return Err(Error::Io(format!("cannot submit to {}: {error}", self.doors.submission.address)));
                }
                Err(_) => {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                    continue;
                }
            };
            match open.send(&message, &content).await {
                Ok(answer) => {
                    self.smtp = (!open.is_over()).then_some(open);
                    let later = |answer: &Result<(), String>| matches!(answer, Err(text) if text.starts_with('4'));
                    // A server that says "later" to everything is asked again; some of it accepted is an answer.
                    if answer.queued.is_none() && answer.recipients.iter().any(later) && tries < TRIES {
                        tokio::time::sleep(MESSAGE_PAUSE).await;
                        continue;
                    }
                    self.answered(message, &content, answer);
                    return Ok(());
                }
                Err(ClientError::Before(_)) if tries < TRIES => {}
                // It stays without an answer.
                Err(_) => return Ok(()),
            }
        }
    }

    async fn by_http(&mut self, message: Message) -> Result<(), Error> {
        let content = message.content(&self.doors.stream_header);
        for tries in 1.. {
            let open = match self.http.take() {
                Some(open) => Ok(open),
                None => HttpClient::connect(&self.doors.http).await,
            };
            let mut open = match open {
                Ok(open) => open,
                Err(error) if tries >= TRIES => {
                    return Err(Error::Io(format!("cannot submit to {}: {error}", self.doors.http.address)));
                }
                Err(_) => {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                    continue;
                }
            };
            // The key makes a repetition harmless, also after a connection that broke without an answer.
            match open.send(&message, &content).await {
                Ok(Said::Answer(answer)) => {
                    self.http = Some(open);
                    self.answered(message, &content, answer);
                    return Ok(());
                }
                Ok(Said::Later(_)) if tries < TRIES => {
                    self.http = Some(open);
                    tokio::time::sleep(MESSAGE_PAUSE).await;
                }
                Err(_) if tries < TRIES => {}
                // Refused for now, to the end: it is not there.
                Ok(Said::Later(text)) => {
                    self.http = Some(open);
                    let recipients = message.to.iter().map(|_| Err(text.clone())).collect();
                    self.answered(message, &content, Answered { recipients, queued: None });
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn answered(&self, message: Message, content: &[u8], answer: Answered) {
        let excused = self.doors.excuses.explain(&message, content);
        self.note(|handed| handed.answered(message, content.len(), answer, excused));
    }

    fn note(&self, tell: impl FnOnce(&mut Handed)) {
        tell(&mut self.handed.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
