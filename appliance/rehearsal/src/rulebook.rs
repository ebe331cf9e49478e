//! How mailbox providers behave, as data: limits, moods, reply texts and what
//! they offer. The shipped book is `providers.toml`; every entry says where it
//! was learnt and when it was checked.

use std::time::Duration;

use postkeep_configuration::units;
use serde::Deserialize;

use crate::Error;

const SHIPPED: &str = include_str!("../providers.toml");

/// All providers of a rehearsal.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleBook {
    /// The providers, in the order in which progress shows them.
    pub provider: Vec<Provider>,
}

impl RuleBook {
    /// The book that comes with this program.
    pub fn shipped() -> Result<Self, Error> {
        Self::parse(SHIPPED)
    }

    /// A book from TOML; refuses one without a domain to write to, and names used twice.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let book: Self = toml::from_str(text).map_err(|error| Error::RuleBook(error.to_string()))?;
        let mut names = std::collections::HashSet::new();
        let mut domains = std::collections::HashSet::new();
        for provider in &book.provider {
            if !names.insert(provider.name.as_str()) {
                return Err(Error::RuleBook(format!("two providers are named {:?}", provider.name)));
            }
            for domain in provider.site.iter().flat_map(|site| &site.domains) {
                if !domains.insert(domain.as_str()) {
                    return Err(Error::RuleBook(format!("the domain {domain:?} appears twice")));
                }
            }
        }
        if domains.is_empty() {
            return Err(Error::RuleBook("there is no domain to write to".to_owned()));
        }
        Ok(book)
    }

    /// Provider and site that serve a recipient domain.
    pub fn find(&self, domain: &str) -> Option<(usize, usize)> {
        self.provider.iter().enumerate().find_map(|(provider, entry)| {
            let site =
                entry.site.iter().position(|site| site.domains.iter().any(|name| name.eq_ignore_ascii_case(domain)))?;
            Some((provider, site))
        })
    }

    /// The owner's domains must be nobody else's.
    pub(crate) fn is_free_of(&self, domains: &[String]) -> Result<(), Error> {
        match domains.iter().find(|domain| self.find(domain).is_some()) {
            None => Ok(()),
            Some(domain) => Err(Error::Configuration(format!(
                "{domain} is a domain of the rehearsal's rule book; it cannot be the sender's"
            ))),
        }
    }
}

/// One provider's rules.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Provider {
    /// Name in progress, summary and verdict.
    pub name: String,
    /// The product's provider whose limits are promised here; absent: the limits of any lane.
    #[serde(default)]
    pub rules: Option<String>,
    /// Where the rules were learnt.
    pub source: String,
    /// When that was last looked at, `YYYY-MM-DD`.
    pub checked: String,
    /// Share of the campaign's recipients, relative to the other weights.
    pub weight: u32,
    /// MX sets.
    pub site: Vec<Site>,
    /// What it lets a sender do.
    #[serde(default)]
    pub limits: Limits,
    /// What else it does.
    #[serde(default)]
    pub mood: Mood,
    /// What it says.
    #[serde(default)]
    pub replies: Replies,
    /// EHLO keywords; STARTTLS is added where a host has a certificate.
    #[serde(default = "everything")]
    pub capabilities: Vec<String>,
}

impl Provider {
    /// The site that serves the domain of an address, with its place.
    pub fn site_of(&self, address: &str) -> Option<(usize, &Site)> {
        let (_, domain) = address.rsplit_once('@')?;
        let serves = |site: &Site| site.domains.iter().any(|name| name.eq_ignore_ascii_case(domain));
        self.site.iter().enumerate().find(|(_, site)| serves(site))
    }

    /// Largest message that it announces to take, in octets.
    pub fn largest(&self) -> Option<u64> {
        self.capabilities.iter().find_map(|word| word.strip_prefix("SIZE ")?.parse().ok())
    }
}

fn everything() -> Vec<String> {
    ["PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "SIZE 52428800"]
        .map(str::to_owned)
        .to_vec()
}

/// One MX set and the domains that point to it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Site {
    /// Recipient domains; the first gets most of the mail.
    pub domains: Vec<String>,
    /// What DNS says about the domains.
    #[serde(default)]
    pub names: NamesMood,
    /// The domains' MTA-STS policy (RFC 8461), if they have one.
    #[serde(default)]
    pub policy: Option<StsPolicy>,
    /// The hosts.
    #[serde(default)]
    pub host: Vec<Host>,
}

impl Site {
    /// Whether a sender that keeps to DANE and MTA-STS, as far as it says so, may hand mail to a host of the site.
    pub fn may_receive(&self, host: &str, dane: bool, mta_sts: bool) -> bool {
        let Some(host) = self.host.iter().find(|known| known.name == host) else { return false };
        match host.tlsa {
            Tlsa::OtherKey if dane => return false,
            // All of the simulated DNS is signed, so the records say enough (RFC 8461 §2).
            Tlsa::Matching if dane => return true,
            _ => {}
        }
        let Some(policy) = self.policy.as_ref().filter(|policy| mta_sts && policy.mode == StsMode::Enforce) else {
            return true;
        };
        host.certificate == Certificate::Trusted && policy.allows(&host.name)
    }

    /// Whether mail to a host of the site needs TLS.
    pub fn needs_tls(&self, host: &str, dane: bool, mta_sts: bool) -> bool {
        let has_records = self.host.iter().any(|known| known.name == host && known.tlsa != Tlsa::None);
        let enforces = self.policy.as_ref().is_some_and(|policy| policy.mode == StsMode::Enforce);
        (dane && has_records) || (mta_sts && enforces)
    }
}

/// The MTA-STS policy of a site's domains.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StsPolicy {
    /// What it demands.
    #[serde(default)]
    pub mode: StsMode,
    /// Hosts that it names; `*.` stands for one label.
    pub mx: Vec<String>,
}

impl StsPolicy {
    /// The file that the domains publish (RFC 8461 §3.2).
    pub fn text(&self) -> String {
        let mode = match self.mode {
            StsMode::Enforce => "enforce",
            StsMode::Testing => "testing",
        };
        let hosts: String = self.mx.iter().map(|host| format!("mx: {host}\r\n")).collect();
        format!("version: STSv1\r\nmode: {mode}\r\n{hosts}max_age: 86400\r\n")
    }

    fn allows(&self, host: &str) -> bool {
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => pattern == host,
        })
    }
}

/// What a policy demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum StsMode {
    /// Mail must not go elsewhere, nor unprotected.
    #[default]
    Enforce,
    /// Nothing but reports.
    Testing,
}

/// What DNS says about a site's domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum NamesMood {
    /// MX records, answered at once.
    #[default]
    Mx,
    /// No MX; the domain itself has the address (RFC 5321 §5.1).
    AddressOnly,
    /// `MX 0 .` (RFC 7505).
    NullMx,
    /// The domain does not exist.
    NoSuchDomain,
    /// The first questions get SERVFAIL.
    FailsFirst,
    /// The first questions get no answer.
    SilentFirst,
}

/// One MX host. Each has an address of its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Host {
    /// Name in MX records.
    pub name: String,
    /// MX preference.
    #[serde(default = "ten")]
    pub preference: u16,
    /// TLS.
    #[serde(default)]
    pub certificate: Certificate,
    /// Reached by `::1` too; for one host of a book at most.
    #[serde(default)]
    pub ipv6: bool,
    /// Nothing listens there.
    #[serde(default)]
    pub dead: bool,
    /// TLSA records (RFC 7672).
    #[serde(default)]
    pub tlsa: Tlsa,
}

/// TLSA records of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Tlsa {
    /// It has none.
    #[default]
    None,
    /// `3 1 1` of its own key.
    Matching,
    /// `3 1 1` of a key that it does not have.
    OtherKey,
}

fn ten() -> u16 {
    10
}

/// TLS of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// Signed by the rehearsal's authority, for the right name, in time.
    #[default]
    Trusted,
    /// Signed by itself.
    SelfSigned,
    /// Out of date.
    Expired,
    /// For another name.
    WrongName,
    /// STARTTLS is offered, but the handshake breaks.
    Broken,
    /// STARTTLS is not offered.
    None,
}

/// What a provider lets one source address do at one site.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at once.
    pub connections: Option<u32>,
    /// New connections in any stretch of that length.
    pub connection_rate: Option<units::Rate>,
    /// Mail transactions on one connection.
    pub messages_per_connection: Option<u32>,
    /// Mail transactions in any stretch of that length.
    pub message_rate: Option<units::Rate>,
    /// Recipients in one transaction.
    pub recipients_per_transaction: Option<u32>,
}

/// What a provider does beside keeping its limits. Shares are of recipients, 0 to 1.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Mood {
    /// Recipients that do not exist.
    pub unknown: f64,
    /// Mailboxes that are full for the first one to three attempts.
    pub full: f64,
    /// Mailboxes that stay full.
    pub full_for_good: f64,
    /// Recipients whose first attempts are greylisted.
    pub greylist: f64,
    /// How long a greylisted triplet must wait, in real time (a hurried rehearsal divides it).
    pub greylist_wait: units::Duration,
    /// Attempts that are answered 421 in mid-stream, after which the connection is closed.
    pub goodbye: f64,
    /// Attempts whose connection is dropped without a word at RCPT.
    pub drop_at_command: f64,
    /// Attempts whose connection is dropped inside the data.
    pub drop_in_data: f64,
    /// Attempts that are accepted, but whose connection is dropped before the reply: the duplicate that SMTP cannot avoid.
    pub lost_reply: f64,
    /// Attempts refused after the data as unwanted.
    pub rejected_content: f64,
    /// Recipients that are accepted and then sent back with a report that nobody has the address (RFC 3464).
    pub bounce_later: f64,
    /// Recipients that call the mail spam, which their provider reports (RFC 5965).
    pub complain: f64,
    /// Recipients whose mailbox answers by itself (RFC 3834).
    pub auto_reply: f64,
    /// Wait before the greeting, never divided.
    pub slow_greeting: units::Duration,
    /// Wait before each reply to RCPT and to the data, never divided.
    pub slow_reply: units::Duration,
    /// A source address is refused at connect until this long after its first try (a hurried rehearsal divides it).
    pub unknown_source_wait: units::Duration,
}

impl Default for Mood {
    fn default() -> Self {
        Self {
            unknown: 0.0,
            full: 0.0,
            full_for_good: 0.0,
            greylist: 0.0,
            greylist_wait: units::Duration::from_secs(300),
            goodbye: 0.0,
            drop_at_command: 0.0,
            drop_in_data: 0.0,
            lost_reply: 0.0,
            rejected_content: 0.0,
            bounce_later: 0.0,
            complain: 0.0,
            auto_reply: 0.0,
            slow_greeting: units::Duration::ZERO,
            slow_reply: units::Duration::ZERO,
            unknown_source_wait: units::Duration::ZERO,
        }
    }
}

/// What a provider says. `{recipient}`, `{source}` and `{host}` are filled in; `\n` makes a reply of several lines.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Replies {
    /// 220.
    pub greeting: String,
    /// To a message that was accepted.
    pub accepted: String,
    /// Too many connections at once.
    pub too_many_connections: String,
    /// New connections too fast.
    pub connection_rate: String,
    /// Too many messages on one connection.
    pub too_many_messages: String,
    /// Messages too fast.
    pub message_rate: String,
    /// Too many recipients in a transaction.
    pub too_many_recipients: String,
    /// Greylisted.
    pub greylisted: String,
    /// No such user.
    pub unknown: String,
    /// Mailbox full.
    pub full: String,
    /// 421 in mid-stream.
    pub goodbye: String,
    /// Refused after the data.
    pub rejected_content: String,
    /// Source address not known.
    pub unknown_source: String,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            greeting: "220 {host} ESMTP".to_owned(),
            accepted: "250 2.0.0 Ok: queued".to_owned(),
            too_many_connections: "421 4.7.0 {host} Error: too many connections from {source}".to_owned(),
            connection_rate: "421 4.7.0 {host} Error: too many new connections from {source}".to_owned(),
            too_many_messages: "421 4.7.0 {host} Error: too many messages in this connection".to_owned(),
            message_rate: "450 4.7.1 Error: too much mail from {source}".to_owned(),
            too_many_recipients: "452 4.5.3 Error: too many recipients".to_owned(),
            greylisted: "450 4.2.0 <{recipient}>: Recipient address rejected: Greylisted".to_owned(),
            unknown: "550 5.1.1 <{recipient}>: Recipient address rejected: User unknown in virtual mailbox table"
                .to_owned(),
            full: "452 4.2.2 <{recipient}>: user is over quota".to_owned(),
            goodbye: "421 4.3.2 {host} Service shutting down".to_owned(),
            rejected_content: "550 5.7.1 Message rejected as spam".to_owned(),
            unknown_source: "554 5.7.1 {host} no service for {source}".to_owned(),
        }
    }
}

/// A length of rehearsal time: real time divided by `hurry`, at least 1 for `hurry`.
pub fn hurried(length: units::Duration, hurry: f64) -> Duration {
    length.as_std().div_f64(hurry.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_book_has_twelve_named_providers_with_a_source_and_a_date() {
        let book = RuleBook::shipped().unwrap();
        assert!(book.provider.iter().filter(|provider| provider.rules.is_some()).count() >= 12);
        for provider in &book.provider {
            assert!(!provider.source.is_empty(), "{} has no source", provider.name);
            assert_eq!(provider.checked.len(), 10, "{} has no date", provider.name);
            assert!(provider.site.iter().flat_map(|site| &site.domains).all(|domain| domain.ends_with(".test")));
        }
        assert!(book.provider.iter().flat_map(|p| &p.site).flat_map(|s| &s.host).filter(|h| h.ipv6).count() <= 1);
    }

    #[test]
    fn every_reply_of_the_shipped_book_begins_with_a_code_of_its_kind() {
        for provider in RuleBook::shipped().unwrap().provider {
            let replies = provider.replies;
            for (text, kinds) in [
                (&replies.greeting, "2"),
                (&replies.accepted, "2"),
                (&replies.too_many_connections, "45"),
                (&replies.connection_rate, "4"),
                (&replies.too_many_messages, "4"),
                (&replies.message_rate, "4"),
                (&replies.too_many_recipients, "4"),
                (&replies.greylisted, "4"),
                (&replies.unknown, "5"),
                (&replies.full, "4"),
                (&replies.goodbye, "4"),
                (&replies.rejected_content, "5"),
                (&replies.unknown_source, "5"),
            ] {
                assert!(text.get(3..4) == Some(" "), "{}: {text:?}", provider.name);
                assert!(kinds.contains(&text[..1]), "{}: {text:?}", provider.name);
            }
        }
    }

    #[test]
    fn nobody_may_deliver_to_impostors_and_everybody_elsewhere() {
        for provider in RuleBook::shipped().unwrap().provider {
            for site in &provider.site {
                for host in &site.host {
                    let impostor = provider.name == "impostors";
                    assert_eq!(site.may_receive(&host.name, true, true), !impostor, "{}", host.name);
                    assert!(site.may_receive(&host.name, false, false));
                    assert!(!impostor || site.needs_tls(&host.name, true, true));
                }
            }
        }
    }

    #[test]
    fn a_policy_reads_as_rfc_8461_writes_it_and_its_star_is_one_label() {
        let policy = StsPolicy { mode: StsMode::Testing, mx: vec!["mx.a.test".to_owned(), "*.b.test".to_owned()] };
        assert_eq!(
            policy.text(),
            "version: STSv1\r\nmode: testing\r\nmx: mx.a.test\r\nmx: *.b.test\r\nmax_age: 86400\r\n"
        );
        assert!(policy.allows("mx.a.test") && policy.allows("one.b.test"));
        assert!(!policy.allows("b.test") && !policy.allows("two.one.b.test") && !policy.allows("x.mx.a.test"));
    }

    #[test]
    fn a_domain_that_appears_twice_is_refused() {
        let entry = |name| {
            format!(
                "[[provider]]\nname = \"{name}\"\nsource = \"x\"\nchecked = \"2026-11-23\"\nweight = 1\n[[provider.site]]\ndomains = [\"a.test\"]\n"
            )
        };
        assert!(RuleBook::parse(&entry("one")).is_ok());
        assert!(RuleBook::parse(&(entry("one") + &entry("two"))).is_err());
    }
}
