//! What stands behind the doors: the one interface between intake and the rest of the mail core.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use postkeep_smtp::server::Stage;
use postkeep_smtp::{Address, Envelope, Reply};

use crate::admission::OneClick;

/// The TLS of a connection, for `Received` and for records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSummary {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// IANA name of the cipher suite, `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

/// An admitted message, ready for the spool. What is delivered is `prefix` followed by `content`.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The queue id that [`Gatekeeper::next_id`] gave; it stands in `Received` and in an added `Message-ID`.
    pub id: String,
    /// Sender, recipients (each once, at least one) and requests.
    pub envelope: Envelope,
    /// The stream, from the message's header where the credential allows it, else the credential's.
    pub stream: String,
    /// Name of the credential or of the network that submitted it.
    pub credential: String,
    /// The client: the one that a listed proxy names, else the peer of the socket.
    pub peer: SocketAddr,
    /// What the client said in EHLO or HELO.
    pub helo: String,
    /// `None`: it came in plain text.
    pub tls: Option<TlsSummary>,
    /// Header lines to put before the content: `Received`, then the added `Date` and `Message-ID`. CRLF ended.
    pub prefix: Bytes,
    /// As received: dot-unstuffed, CRLF line ends only, the stream header cut out.
    pub content: Bytes,
    /// Some line of the content begins with a dot, so that DATA must stuff it.
    pub has_dot_lines: bool,
    /// Some octet of the content is above 127.
    pub eight_bit: bool,
    /// Offset in `content` just after the empty line; the length of `content` when it has no empty line.
    pub header_length: usize,
    /// Domain of the first From mailbox: A-labels, lower case.
    pub from_domain: String,
    /// `Message-ID` with its angle brackets, as received or as added.
    pub message_id: String,
    /// The list that `List-Id` names (RFC 2919), lower case, without brackets.
    pub list: Option<String>,
    /// One-click unsubscribe; `None`: the stream does not ask for it.
    pub one_click: Option<OneClick>,
    /// The pool or source that the message chose; `None`: its stream's pool.
    pub pool: Option<String>,
    /// The sender's name for the job that the message belongs to.
    pub job: Option<String>,
    /// `content` is a document of parts, from which each recipient's message is made at delivery.
    pub composed: bool,
}

/// Marks a submission that must be kept once, however often it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// Who said so, as a sum in the first four octets, and by which word, as a sum in the others.
    pub key: [u8; 16],
    /// What was submitted, as a sum.
    pub fingerprint: [u8; 16],
}

/// Why a submission that is to be kept once was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotKept {
    /// Refused as any other would be.
    Refused(Reply),
    /// The key was used for something else.
    OtherContent,
    /// The same is being kept right now.
    InProgress,
}

/// Mail that came back: a bounce, a complaint, an answer. All its recipients are addresses of the box's own.
#[derive(Debug, Clone)]
pub struct Returned {
    /// To whom it was sent.
    pub recipients: Vec<Address>,
    /// By whom; `None` is `<>`.
    pub sender: Option<Address>,
    /// The client.
    pub peer: SocketAddr,
    /// What the client said in EHLO or HELO.
    pub helo: String,
    /// As received: dot-unstuffed, CRLF line ends only.
    pub content: Bytes,
    /// Offset in `content` just after the empty line.
    pub header_length: usize,
    /// Some line of the content begins with a dot.
    pub has_dot_lines: bool,
    /// Some octet of the content is above 127.
    pub eight_bit: bool,
}

/// What came of a click on a link of one-click unsubscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Click {
    /// It is no link of the box's.
    Unknown,
    /// No more mail arrives.
    Done,
    /// No more mail is sent; one that is being delivered at this moment may still arrive.
    UnderWay,
}

/// Something that a client was refused, with the reply that it got.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The client.
    pub peer: SocketAddr,
    /// When it was refused.
    pub stage: Stage,
    /// Sender of the transaction: `None` before MAIL and for `<>`.
    pub sender: Option<&'a Address>,
    /// The recipient that was refused.
    pub recipient: Option<&'a Address>,
    /// Name of the credential (authenticated, or tried in AUTH) or of the network.
    pub credential: Option<&'a str>,
    /// The reply.
    pub reply: &'a Reply,
}

/// Takes admitted messages and hears of refusals. The mail core implements it.
pub trait Gatekeeper: Send + Sync + 'static {
    /// A queue id for the next message, unique for ever: 16 lower-case hexadecimal digits.
    fn next_id(&self) -> String;

    /// Keeps a message. Answers when it is durable, with the id to show in
    /// `250 2.0.0 Ok: queued as …`, or with the reply that refuses it.
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<String, Reply>> + Send;

    /// As [`Gatekeeper::submit`], but the same submission is kept only once within a day. Gives the id, and
    /// whether it was kept earlier.
    fn submit_once(
        &self,
        submission: Submission,
        once: Once,
    ) -> impl Future<Output = Result<(String, bool), NotKept>> + Send {
        let _ = once;
        async { self.submit(submission).await.map(|id| (id, false)).map_err(NotKept::Refused) }
    }

    /// What became of an earlier submission under that key: its id and how many recipients it has. `None`: there
    /// was none, or it is too long ago. Must not block.
    fn known(&self, once: Once) -> Option<Result<(String, usize), NotKept>> {
        let _ = once;
        None
    }

    /// Whether a message of that many octets (0: unknown) could be kept now; asked at MAIL and before
    /// the content is read, so that a full disk is told early. Must not block.
    fn may_accept(&self, size: u64) -> Result<(), Reply> {
        let _ = size;
        Ok(())
    }

    /// Whether the recipient may get mail at all; asked at RCPT. Must not block for long.
    fn may_receive(&self, recipient: &Address) -> Result<(), Reply> {
        let _ = recipient;
        Ok(())
    }

    /// Whether anybody may send to this address because it is one of the box's own, to which bounces and
    /// complaints come back; `None`: it is not. Must not block.
    fn takes_back(&self, recipient: &Address) -> Option<Result<(), Reply>> {
        let _ = recipient;
        None
    }

    /// Takes in what came back. Answers when what follows from it is durable.
    fn take_back(&self, returned: Returned) -> impl Future<Output = Result<(), Reply>> + Send {
        let _ = returned;
        async { Err(Reply::new(550, (5, 1, 1), "no such address here")) }
    }

    /// Whether a text is the token of one of the box's unsubscribe links. Must not block.
    fn is_unsubscribe_token(&self, token: &str) -> bool {
        let _ = token;
        false
    }

    /// Carries out what a link of one-click unsubscribe stands for. Answers when it is durable.
    fn unsubscribe(&self, token: &str, peer: SocketAddr) -> impl Future<Output = Result<Click, Reply>> + Send {
        let _ = (token, peer);
        async { Ok(Click::Unknown) }
    }

    /// A client was refused; for records and counters. Must not block.
    fn refused(&self, refused: Refused<'_>);

    /// A connection was opened at the door with that local address; for counters.
    fn connection_opened(&self, door: SocketAddr, peer: SocketAddr) {
        let _ = (door, peer);
    }

    /// A connection that was opened has ended; for counters.
    fn connection_closed(&self, door: SocketAddr, peer: SocketAddr) {
        let _ = (door, peer);
    }
}
