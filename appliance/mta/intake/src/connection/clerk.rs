//! Answers the session's questions: who is this client, may it send that.

use std::net::SocketAddr;
use std::sync::Arc;

use postkeep_smtp::server::{Judge, Refusal};
use postkeep_smtp::{Address, Reply};
use tokio::sync::Semaphore;

use crate::admission::{SenderPolicy, judge_recipient, judge_sender};
use crate::doors::Shared;
use crate::tables::{Door, Tables};
use crate::{Gatekeeper, Refused};

/// Memory that must be free before a content is asked for, in KiB.
const MEMORY_FOR_A_START: usize = 64;

/// The judge of one line.
pub(super) struct Clerk<'a, G> {
    pub(super) gatekeeper: &'a G,
    pub(super) tables: &'a Tables,
    pub(super) door: &'a Door,
    pub(super) peer: SocketAddr,
    pub(super) memory: &'a Semaphore,
}

impl<'a, G: Gatekeeper> Clerk<'a, G> {
    pub(super) fn new(shared: &'a Shared<G>, tables: &'a Tables, door: &'a Door, peer: SocketAddr) -> Self {
        Self { gatekeeper: &*shared.gatekeeper, tables, door, peer, memory: &*shared.memory }
    }

    /// Whether what goes to that address comes back to the box itself. Not at submission doors.
    pub(super) fn takes_back(&self, recipient: &Address) -> Option<Result<(), Reply>> {
        if self.door.require_auth { None } else { self.gatekeeper.takes_back(recipient) }
    }

    /// The policy of whoever authenticated, else that of the client's network.
    pub(super) fn policy(&self, authenticated: Option<&str>) -> Option<&'a Arc<SenderPolicy>> {
        match authenticated {
            Some(name) => self.tables.credentials.get(name).map(|credential| &credential.policy),
            None if self.door.require_auth => None,
            None => self.tables.network(self.peer.ip()),
        }
    }
}

impl<G: Gatekeeper> Judge for Clerk<'_, G> {
    fn sender(
        &mut self,
        authenticated: Option<&str>,
        sender: Option<&Address>,
        size: Option<u64>,
    ) -> Result<(), Reply> {
        match (self.policy(authenticated), authenticated) {
            (Some(policy), _) => judge_sender(policy, sender)?,
            (None, Some(_)) => {
                return Err(Reply::new(
                    530,
                    (5, 7, 0),
                    "your credential does not exist any more: connect and authenticate again",
                ));
            }
            // RFC 4954 §6: a submission door takes no mail transaction before AUTH.
            (None, None) if self.door.require_auth => return Err(authentication_required()),
            // At other doors a stranger is refused at RCPT, where the record can say whom it wanted to write to.
            (None, None) => {}
        }
        self.gatekeeper.may_accept(size.unwrap_or(0))
    }

    fn is_known(&self, authenticated: Option<&str>) -> bool {
        self.policy(authenticated).is_some()
    }

    fn recipient(&mut self, authenticated: Option<&str>, recipient: &Address) -> Result<(), Reply> {
        if let Some(answer) = self.takes_back(recipient) {
            return answer;
        }
        if self.policy(authenticated).is_none() {
            return Err(if self.door.require_auth {
                authentication_required()
            } else {
                Reply::new(554, (5, 7, 1), "relay access denied: authenticate, or send from a listed network")
            });
        }
        judge_recipient(recipient)?;
        self.gatekeeper.may_receive(recipient)
    }

    fn content(&mut self) -> Result<(), Reply> {
        self.gatekeeper.may_accept(0)?;
        if self.memory.available_permits() < MEMORY_FOR_A_START {
            return Err(Reply::new(452, (4, 3, 1), "the server has no memory for the message now; try again later"));
        }
        Ok(())
    }

    fn refused(&mut self, refusal: Refusal<'_>) {
        let network = || {
            if self.door.require_auth { None } else { self.tables.network(self.peer.ip()).map(|policy| policy.name()) }
        };
        self.gatekeeper.refused(Refused {
            peer: self.peer,
            stage: refusal.stage,
            sender: refusal.sender,
            recipient: refusal.recipient,
            credential: refusal.credential.or_else(network),
            reply: refusal.reply,
        });
    }
}

fn authentication_required() -> Reply {
    Reply::new(530, (5, 7, 0), "authentication is required")
}
