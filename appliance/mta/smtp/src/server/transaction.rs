//! The mail transaction: MAIL, RCPT, then DATA or BDAT (RFC 5321 §3.3).

use std::collections::HashSet;

use bytes::BytesMut;

use super::{Action, Judge, Rules, Session, Stage};
use crate::address::Address;
use crate::command::{ForwardPath, Mail, Rcpt};
use crate::envelope::{Envelope, Recipient, TlsRequest};
use crate::reply::Reply;

/// From this number on, recipients are found by a set instead of by looking through them.
const FEW_RECIPIENTS: usize = 16;

/// An open transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) envelope: Envelope,
    /// The recipients, once there are many.
    known: HashSet<Address>,
    pub(super) refused: u32,
    pub(super) announced_size: Option<u64>,
    /// A BDAT has been taken: only BDAT may follow.
    chunking: bool,
}

impl Transaction {
    fn knows(&self, address: &Address) -> bool {
        if self.known.is_empty() {
            self.envelope.recipients.iter().any(|recipient| recipient.address == *address)
        } else {
            self.known.contains(address)
        }
    }

    fn add(&mut self, recipient: Recipient) {
        if !self.known.is_empty() {
            self.known.insert(recipient.address.clone());
        }
        self.envelope.recipients.push(recipient);
        if self.known.is_empty() && self.envelope.recipients.len() >= FEW_RECIPIENTS {
            self.known = self.envelope.recipients.iter().map(|recipient| recipient.address.clone()).collect();
        }
    }
}

impl Session {
    pub(super) fn mail(&mut self, mail: Mail, rules: &Rules, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        if rules.messages > 0 && self.messages >= rules.messages {
            let reply = Reply::new(421, (4, 7, 0), "enough messages on this connection; open another");
            return self.give_up(Stage::Mail, reply, judge, out);
        }
        match self.judge_mail(&mail, rules, judge) {
            Ok(()) => {
                self.is_put_off = false;
                let envelope = Envelope {
                    sender: mail.sender,
                    recipients: Vec::with_capacity(1),
                    body: mail.body,
                    smtputf8: mail.smtputf8,
                    ret: mail.ret,
                    envelope_id: mail.envelope_id,
                    tls: if mail.require_tls { TlsRequest::Required } else { TlsRequest::Unsaid },
                };
                self.transaction = Some(Transaction {
                    envelope,
                    known: HashSet::new(),
                    refused: 0,
                    announced_size: mail.size,
                    chunking: false,
                });
                out.extend_from_slice(b"250 2.1.0 Ok\r\n");
            }
            Err(reply) => self.refuse_mail(mail.sender.as_ref(), &reply, judge, out),
        }
        Action::Continue
    }

    fn judge_mail(&self, mail: &Mail, rules: &Rules, judge: &mut impl Judge) -> Result<(), Reply> {
        if self.hello.is_empty() {
            return Err(Reply::new(503, (5, 5, 1), "say EHLO first"));
        }
        if self.transaction.is_some() {
            return Err(Reply::new(503, (5, 5, 1), "a mail transaction is open already"));
        }
        if mail.has_parameters && !self.extended {
            return Err(Reply::new(555, (5, 5, 4), "parameters of MAIL need EHLO"));
        }
        if mail.size.is_some_and(|size| size > rules.message_size) {
            let text = format!("the message is larger than {} octets", rules.message_size);
            return Err(Reply::new(552, (5, 3, 4), text));
        }
        if !mail.smtputf8 && mail.sender.as_ref().is_some_and(|sender| !sender.is_ascii()) {
            return Err(Reply::new(553, (5, 6, 7), "the sender address needs SMTPUTF8"));
        }
        if mail.require_tls && !self.tls {
            // RFC 8689 §4.1: it is offered inside TLS only.
            return Err(Reply::new(555, (5, 5, 4), "REQUIRETLS needs TLS here too: say STARTTLS first"));
        }
        judge.sender(self.authenticated.as_deref(), mail.sender.as_ref(), mail.size)
    }

    fn refuse_mail(&mut self, sender: Option<&Address>, reply: &Reply, judge: &mut impl Judge, out: &mut BytesMut) {
        self.count(reply);
        self.is_put_off = reply.is_transient();
        let credential = self.authenticated.as_deref();
        judge.refused(super::Refusal { stage: Stage::Mail, sender, recipient: None, credential, reply });
        reply.write_to(out);
    }

    pub(super) fn rcpt(&mut self, rcpt: Rcpt, rules: &Rules, judge: &mut impl Judge, out: &mut BytesMut) {
        let address = match rcpt.recipient {
            ForwardPath::Address(address) => address,
            ForwardPath::Postmaster => match Address::parse(&format!("postmaster@{}", rules.hostname)) {
                Ok(address) => address,
                Err(_) => {
                    let reply = Reply::new(550, (5, 1, 1), "this host has no postmaster address");
                    return self.refuse_recipient(None, reply, judge, out);
                }
            },
        };
        let authenticated = self.authenticated.as_deref();
        let verdict = match &self.transaction {
            // A client that may send nothing learns that before anything about order.
            None => judge
                .recipient(authenticated, &address)
                .and_then(|()| Err(Reply::new(503, (5, 5, 1), "say MAIL first"))),
            Some(transaction) if transaction.chunking => {
                Err(Reply::new(503, (5, 5, 1), "RCPT is not allowed between chunks"))
            }
            Some(_) if rcpt.has_parameters && !self.extended => {
                Err(Reply::new(555, (5, 5, 4), "parameters of RCPT need EHLO"))
            }
            Some(transaction) if !transaction.envelope.smtputf8 && !address.is_ascii() => {
                Err(Reply::new(553, (5, 6, 7), "the recipient address needs SMTPUTF8"))
            }
            Some(transaction)
                if !transaction.envelope.smtputf8
                    && rcpt.original.as_deref().is_some_and(|original| !original.is_ascii()) =>
            {
                Err(Reply::new(501, (5, 5, 4), "an ORCPT that is not ASCII needs SMTPUTF8"))
            }
            Some(transaction) => match judge.recipient(authenticated, &address) {
                Err(reply) => Err(reply),
                Ok(()) if transaction.knows(&address) => Ok(false),
                Ok(()) if transaction.envelope.recipients.len() as u64 >= u64::from(rules.recipients) => {
                    Err(Reply::new(
                        452,
                        (4, 5, 3),
                        format!("more than {} recipients; send the rest in another message", rules.recipients),
                    ))
                }
                Ok(()) => Ok(true),
            },
        };
        match (verdict, &mut self.transaction) {
            (Ok(is_new), Some(transaction)) => {
                // A repeated address is answered alike, but gets the message once.
                if is_new {
                    transaction.add(Recipient { address, notify: rcpt.notify, original: rcpt.original });
                }
                out.extend_from_slice(b"250 2.1.5 Ok\r\n");
            }
            (Err(reply), _) => self.refuse_recipient(Some(&address), reply, judge, out),
            (Ok(_), None) => {}
        }
    }

    pub(super) fn data(&mut self, judge: &mut impl Judge, out: &mut BytesMut) -> Action {
        let verdict = match &self.transaction {
            Some(transaction) if transaction.chunking => {
                Err(Reply::new(503, (5, 5, 1), "DATA is not allowed after BDAT"))
            }
            _ => self.judge_content(judge),
        };
        match verdict {
            Ok(()) => {
                out.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
                Action::ReadData
            }
            Err(reply) => {
                self.refuse_content(reply, judge, out);
                Action::Continue
            }
        }
    }

    pub(super) fn bdat(&mut self, size: u64, last: bool, judge: &mut impl Judge) -> Action {
        let verdict = match &self.transaction {
            Some(transaction) if transaction.chunking => Ok(()),
            _ => self.judge_content(judge),
        };
        match verdict {
            Ok(()) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.chunking = true;
                }
                Action::ReadChunk { size, last }
            }
            Err(reply) => {
                let mut refusal = BytesMut::new();
                self.refuse_content(reply, judge, &mut refusal);
                // The chunk follows whatever the answer is (RFC 3030 §2).
                Action::SkipChunk { size, reply: refusal }
            }
        }
    }

    /// DATA or BDAT that comes too early, or behind recipients of whom none was taken. A client that pipelines sends it
    /// before it knows (RFC 2920 §3.1): then it is no error beside those that were counted for the recipients.
    fn refuse_content(&mut self, reply: Reply, judge: &mut impl Judge, out: &mut BytesMut) {
        let errors = self.errors;
        let is_consequence = self
            .transaction
            .as_ref()
            .is_some_and(|transaction| transaction.refused > 0 && transaction.envelope.recipients.is_empty());
        self.refuse(Stage::Data, None, reply, judge, out);
        if is_consequence {
            self.errors = errors;
        }
    }

    fn judge_content(&self, judge: &mut impl Judge) -> Result<(), Reply> {
        match &self.transaction {
            None => Err(Reply::new(503, (5, 5, 1), "say MAIL and RCPT first")),
            Some(transaction) if !transaction.envelope.recipients.is_empty() => judge.content(),
            Some(transaction) if transaction.refused > 0 => Err(Reply::new(554, (5, 5, 1), "no valid recipients")),
            Some(_) => Err(Reply::new(503, (5, 5, 1), "say RCPT first")),
        }
    }
}
