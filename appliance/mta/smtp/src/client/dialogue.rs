//! The state machine of one transaction. Two positions walk along the same list
//! of commands: the next one to write, and the first one without a reply.

use bytes::{BufMut, BytesMut};

use super::{ONE_GROUP, Outcome, Request, Stage, commands, obstacle, recipient_obstacle};
use crate::capabilities::Capabilities;
use crate::reply::Reply;

/// What the connection is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write the octets of the commands, then the content as told, then call [`Dialogue::written`].
    /// Replies that come meanwhile go to [`Dialogue::reply`]; stop writing once [`Dialogue::is_over`].
    Write(Content),
    /// Read the next reply and give it to [`Dialogue::reply`]; the stage decides how long to wait.
    Await(Stage),
    /// Every recipient has an outcome: call [`Dialogue::finish`].
    Done,
}

/// What follows the commands of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// The content as it is: a chunk.
    Whole,
    /// The content with dots doubled at line starts, and the final dot.
    Stuffed,
}

/// How a connection stands after a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// The connection may carry another transaction.
    pub alive: bool,
    /// The transaction ended half-way: the next one must begin with RSET.
    pub reset: bool,
    /// Why it is not alive.
    pub reason: Option<String>,
    /// The peer offers CHUNKING and does not know BDAT; in its words.
    pub chunking_fault: Option<String>,
}

/// A place in the list of commands. `Content` is BDAT or DATA; `Final` follows DATA only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    Reset,
    Mail,
    Rcpt(usize),
    Content,
    Final,
    End,
}

#[derive(Debug)]
enum RecipientState {
    Waiting,
    Accepted,
    Ended(Outcome),
}

/// One transaction on one connection.
#[derive(Debug)]
pub struct Dialogue<'a> {
    request: Request<'a>,
    capabilities: &'a Capabilities,
    recipients: Vec<RecipientState>,
    /// Recipients without an outcome.
    undecided: usize,
    /// First command that is not written.
    unwritten: Position,
    /// First command that is not answered; never behind `unwritten`.
    awaited: Position,
    /// Content is being written.
    sending: bool,
    /// The peer took MAIL and has not ended the transaction.
    open: bool,
    over: bool,
    alive: bool,
    reason: Option<String>,
    chunking_fault: Option<String>,
}

impl<'a> Dialogue<'a> {
    /// A transaction for a peer that offers these capabilities. With `reset` it
    /// begins with RSET: the one before ended half-way.
    pub fn new(request: Request<'a>, capabilities: &'a Capabilities, reset: bool) -> Self {
        let whole = obstacle(&request, capabilities);
        let recipients: Vec<_> = request
            .recipients
            .iter()
            .map(|recipient| match whole.clone().or_else(|| recipient_obstacle(&recipient.address, capabilities)) {
                Some(reply) => RecipientState::Ended(Outcome::Unsendable { reply }),
                None => RecipientState::Waiting,
            })
            .collect();
        let undecided = recipients.iter().filter(|state| matches!(state, RecipientState::Waiting)).count();
        let start = if reset { Position::Reset } else { Position::Mail };
        Self {
            request,
            capabilities,
            recipients,
            undecided,
            unwritten: start,
            awaited: start,
            sending: false,
            // Nothing is written when nobody is left; the RSET that is owed stays owed.
            open: reset,
            over: undecided == 0,
            alive: true,
            reason: None,
            chunking_fault: None,
        }
    }

    /// What to do next. The octets of commands are appended to `out`.
    pub fn step(&mut self, out: &mut BytesMut) -> Step {
        if self.over {
            return Step::Done;
        }
        if self.awaited < self.unwritten {
            return Step::Await(self.stage(self.awaited));
        }
        // After a 354 the peer waits for a dot, whether or not anybody is left to get the message.
        if self.unwritten == Position::Final {
            self.unwritten = Position::End;
            if self.undecided == 0 {
                out.put_slice(b".\r\n");
                return Step::Write(Content::None);
            }
            self.sending = true;
            return Step::Write(Content::Stuffed);
        }
        if self.undecided == 0 || self.unwritten == Position::End {
            self.over = true;
            return Step::Done;
        }
        Step::Write(self.write_group(out))
    }

    /// Takes the peer's next reply.
    pub fn reply(&mut self, reply: Reply) {
        if self.over {
            return;
        }
        let position = self.awaited;
        let stage = self.stage(position);
        if reply.code == 421 {
            self.die(format!("closed by the host: {reply}"));
            self.end_undecided(|| Outcome::Refused { stage, reply: reply.clone() });
            return;
        }
        if position == self.unwritten {
            // "354 go ahead" and "552 too much" in one breath.
            if position == Position::Final && (reply.is_transient() || reply.is_permanent()) {
                self.die(format!("the host refused the message before its end: {reply}"));
                self.end_undecided(|| Outcome::Refused { stage: Stage::Data, reply: reply.clone() });
                return;
            }
            self.lost(&format!("the host said {reply} without being asked"));
            return;
        }
        let next = self.after(position);
        match position {
            Position::Reset => self.open = false,
            Position::Mail => self.mail_reply(reply),
            Position::Rcpt(index) => self.rcpt_reply(index, reply),
            Position::Content if !self.capabilities.chunking => self.data_reply(reply),
            Position::Content | Position::Final | Position::End => self.final_reply(stage, reply),
        }
        if !self.over {
            self.awaited = next;
        }
    }

    /// Everything of the last [`Step::Write`] has been handed to the connection.
    pub fn written(&mut self) {
        self.sending = false;
    }

    /// The connection broke, timed out or made no sense: everybody without an outcome is lost.
    pub fn lost(&mut self, detail: &str) {
        if self.over {
            return;
        }
        let stage = self.stage(self.awaited);
        self.die(detail.to_owned());
        self.end_undecided(|| Outcome::Lost { stage, detail: detail.to_owned() });
    }

    /// Whether every command so far has its reply: what the peer says now, it says unasked.
    pub fn expects_nothing(&self) -> bool {
        !self.over && self.awaited == self.unwritten
    }

    /// Whether every recipient has an outcome and nothing more is to be said.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The outcomes, in the order of the recipients, and how the connection stands.
    /// A dialogue that is left before its end counts as lost.
    pub fn finish(mut self) -> (Vec<Outcome>, End) {
        self.lost("the transaction was abandoned");
        let outcomes = self
            .recipients
            .into_iter()
            .map(|state| match state {
                RecipientState::Ended(outcome) => outcome,
                RecipientState::Waiting | RecipientState::Accepted => {
                    Outcome::Lost { stage: Stage::Mail, detail: "the transaction was abandoned".to_owned() }
                }
            })
            .collect();
        (
            outcomes,
            End { alive: self.alive, reset: self.open, reason: self.reason, chunking_fault: self.chunking_fault },
        )
    }

    /// Writes the next command, or with PIPELINING as many as may go together.
    fn write_group(&mut self, out: &mut BytesMut) -> Content {
        let mut first = true;
        loop {
            match self.unwritten {
                Position::Reset => out.put_slice(b"RSET\r\n"),
                Position::Mail => commands::write_mail(out, &self.request, self.capabilities),
                Position::Rcpt(index) => {
                    if let Some(recipient) = self.request.recipients.get(index) {
                        commands::write_rcpt(out, recipient, self.capabilities);
                    }
                }
                Position::Content if self.capabilities.chunking => {
                    if !first && self.request.size > ONE_GROUP {
                        return Content::None;
                    }
                    commands::write_bdat(out, self.request.size);
                    self.unwritten = self.after(self.unwritten);
                    self.sending = true;
                    return Content::Whole;
                }
                Position::Content => {
                    out.put_slice(b"DATA\r\n");
                    self.unwritten = Position::Final;
                    return Content::None;
                }
                Position::Final | Position::End => return Content::None,
            }
            self.unwritten = self.after(self.unwritten);
            if !self.capabilities.pipelining {
                return Content::None;
            }
            first = false;
        }
    }

    fn mail_reply(&mut self, reply: Reply) {
        if reply.is_positive() {
            self.open = true;
        } else if reply.is_intermediate() {
            self.out_of_step(&reply);
        } else {
            self.end_undecided(|| Outcome::Refused { stage: Stage::Mail, reply: reply.clone() });
        }
    }

    fn rcpt_reply(&mut self, index: usize, reply: Reply) {
        if reply.is_intermediate() {
            self.out_of_step(&reply);
            return;
        }
        // After a refused MAIL the outcome stands, whatever is said to the RCPT that was already written.
        if let Some(state @ RecipientState::Waiting) = self.recipients.get_mut(index) {
            if reply.is_positive() {
                *state = RecipientState::Accepted;
            } else {
                *state = RecipientState::Ended(Outcome::Refused { stage: Stage::Rcpt, reply });
                self.undecided -= 1;
            }
        }
    }

    fn data_reply(&mut self, reply: Reply) {
        if reply.is_positive() {
            self.out_of_step(&reply);
        } else if !reply.is_intermediate() {
            self.end_undecided(|| Outcome::Refused { stage: Stage::Data, reply: reply.clone() });
            self.over = true;
        }
    }

    /// The reply to the final dot or to the chunk.
    fn final_reply(&mut self, stage: Stage, reply: Reply) {
        if reply.is_intermediate() {
            self.out_of_step(&reply);
            return;
        }
        if self.sending {
            if reply.is_positive() {
                self.lost(&format!("the host said {reply} before it had the whole message"));
                return;
            }
            self.die(format!("the host refused the message before its end: {reply}"));
        }
        let chunk = self.capabilities.chunking;
        // A refused chunk leaves the transaction undefined (RFC 3030 §2); a refused dot ends it.
        self.open = chunk && !reply.is_positive();
        if chunk && matches!(reply.code, 500 | 502) {
            // What was in the chunk may have been taken for commands: nothing more is said here,
            // and the message is not at fault.
            let fault = format!("the host offers CHUNKING and does not know BDAT: {reply}");
            self.die(fault.clone());
            let answer = Reply::new(451, (4, 5, 1), fault.as_str());
            self.chunking_fault = Some(fault);
            self.end_undecided(|| Outcome::Unsendable { reply: answer.clone() });
            return;
        }
        self.over = true;
        if reply.is_positive() {
            self.end_accepted(reply);
        } else {
            self.end_undecided(|| Outcome::Refused { stage, reply: reply.clone() });
        }
    }

    /// Everybody who was accepted is delivered; the reply is copied for all but the last.
    fn end_accepted(&mut self, reply: Reply) {
        let mut left = self.undecided;
        let mut reply = Some(reply);
        for state in &mut self.recipients {
            if matches!(state, RecipientState::Ended(_)) {
                continue;
            }
            left = left.saturating_sub(1);
            let said = if left == 0 { reply.take() } else { reply.clone() };
            if let Some(said) = said {
                *state = RecipientState::Ended(Outcome::Delivered(said));
            }
        }
        self.undecided = 0;
    }

    fn end_undecided(&mut self, outcome: impl Fn() -> Outcome) {
        for state in &mut self.recipients {
            if !matches!(state, RecipientState::Ended(_)) {
                *state = RecipientState::Ended(outcome());
            }
        }
        self.undecided = 0;
    }

    fn out_of_step(&mut self, reply: &Reply) {
        let stage = self.stage(self.awaited);
        self.lost(&format!("the host is out of step: {reply} in answer to {stage}"));
    }

    fn die(&mut self, reason: String) {
        self.over = true;
        self.alive = false;
        self.reason.get_or_insert(reason);
    }

    /// The command after this one. Recipients that cannot be sent to are passed over.
    fn after(&self, position: Position) -> Position {
        match position {
            Position::Reset => Position::Mail,
            Position::Mail => self.recipient_from(0),
            Position::Rcpt(index) => self.recipient_from(index + 1),
            Position::Content if self.capabilities.chunking => Position::End,
            Position::Content => Position::Final,
            Position::Final | Position::End => Position::End,
        }
    }

    fn recipient_from(&self, start: usize) -> Position {
        let sendable = |state: &RecipientState| !matches!(state, RecipientState::Ended(Outcome::Unsendable { .. }));
        let found = self.recipients.iter().skip(start).position(sendable);
        found.map_or(Position::Content, |offset| Position::Rcpt(start + offset))
    }

    fn stage(&self, position: Position) -> Stage {
        match position {
            Position::Reset | Position::Mail => Stage::Mail,
            Position::Rcpt(_) => Stage::Rcpt,
            Position::Content if self.sending || !self.capabilities.chunking => Stage::Data,
            Position::Final | Position::End if self.sending => Stage::Data,
            Position::Content | Position::Final | Position::End => Stage::Final,
        }
    }
}
