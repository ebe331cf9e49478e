//! What a reply is about, in one word: the list that rules and records choose from.

/// Every class, kebab-case, with what it means.
pub const CLASSES: &[(&str, &str)] = &[
    ("authentication-needed", "the receiver wants its users to log in"),
    ("authentication-policy", "SPF, DKIM or DMARC did not satisfy"),
    ("bad-address", "the address is not one"),
    ("bad-domain", "the recipient's domain does not exist or has no host"),
    ("bad-mailbox", "nobody has this address"),
    ("connection-deferred", "the receiver put the connection off"),
    ("connection-lost", "the connection broke"),
    ("connection-refused", "the receiver does not want the connection"),
    ("content-refused", "something in the message"),
    ("content-spam", "the message looks like spam"),
    ("content-virus", "the message looks harmful"),
    ("deferred", "later, without a reason"),
    ("domain-takes-no-mail", "the recipient's domain takes no mail"),
    ("expired", "the time for delivery was up"),
    ("greylisted", "the receiver wants to see a second try"),
    ("invalid-sender", "the sender address"),
    ("mailbox-disabled", "the mailbox is there and closed"),
    ("mailbox-filtered", "refused after the content, in words that are otherwise used for unknown users"),
    ("mailbox-full", "the mailbox has no room, or gets too much just now"),
    ("mailbox-moved", "the recipient has gone elsewhere"),
    ("mailbox-status", "something about the mailbox"),
    ("message-too-big", "the message is larger than is taken"),
    ("no-connection", "no connection came about"),
    ("policy", "a rule of the receiver"),
    ("protocol-error", "the two sides did not understand each other"),
    ("rate-limited", "too much in a time"),
    ("refused", "no, without a reason"),
    ("relaying-denied", "the host does not take mail for the domain"),
    ("reputation", "what the receiver thinks of the source or domain"),
    ("reverse-dns", "the name of the source's address"),
    ("routing-loop", "the message goes in circles"),
    ("routing-status", "something on the way"),
    ("sender-refused", "the sender's address or domain"),
    ("service-closing", "the receiver ends the session"),
    ("source-blocked", "the source's address is on a list"),
    ("source-unbindable", "our own address is missing"),
    ("system-error", "something broke at the receiver"),
    ("system-full", "the receiver's disk"),
    ("system-status", "something about the receiver"),
    ("tls-failed", "the TLS handshake failed"),
    ("tls-required", "the receiver wants TLS"),
    ("too-many-connections", "fewer connections are wanted"),
    ("too-many-recipients", "fewer recipients in one message are wanted"),
    ("too-much", "too much of something"),
];

/// The class of that name, as it lives in the program.
pub fn find(name: &str) -> Option<&'static str> {
    CLASSES.iter().map(|(class, _)| *class).find(|class| *class == name)
}
