//! Why mail may be returned, may expire, and must not be handed over: what the
//! receivers saw, the rule book and the configuration's own demands say. A
//! return or an expiry for which nothing here speaks is the product's fault.

use std::collections::BTreeMap;
use std::time::Duration;

use postkeep_configuration::{Configuration, OutboundTls};
use serde::Serialize;

use crate::account::Why;
use crate::handed::Accepted;
use crate::internet::Internet;
use crate::mailbox::Moment;
use crate::rulebook::{Certificate, Host, NamesMood, Provider, Site, Tlsa};

/// Octets that headers and signatures may add on the way.
const GROWTH: u64 = 8192;

/// What kept mail from a receiver until it expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The receiver put the recipient off, or dropped the connection over it.
    PutOff,
    /// Its hosts are not who their domain says, or cannot protect mail as it must be.
    Unprotected,
    /// No host answers.
    Dead,
    /// The names were not to be had.
    NoNames,
    /// The receiver turned the sender away.
    TurnedAway,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::PutOff => "put off by the receiver to the end",
            Self::Unprotected => "at hosts that cannot protect it as DANE, MTA-STS or the configuration demands",
            Self::Dead => "at hosts that do not answer",
            Self::NoNames => "for domains whose DNS failed",
            Self::TurnedAway => "with the sender turned away by the site",
        })
    }
}

/// What the configuration demands of a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demands<'a> {
    configuration: &'a Configuration,
}

impl<'a> Demands<'a> {
    pub(crate) fn of(configuration: &'a Configuration) -> Self {
        Self { configuration }
    }

    /// TLS towards a host: of the owner's provider with that suffix, or that the rule book names, or in general.
    pub(crate) fn tls(&self, rules: &Provider, host: &str) -> OutboundTls {
        let below = |suffix: &String| {
            host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let mut own = self.configuration.provider.values().filter(|own| own.mx_suffix.iter().any(below));
        let named = || rules.rules.as_ref().and_then(|name| self.configuration.provider.get(name));
        own.next().or_else(named).and_then(|own| own.tls).unwrap_or(self.configuration.delivery.tls)
    }

    /// Whether mail of a site may be given to a host at all, and by TLS.
    fn allow(&self, rules: &Provider, site: &Site, host: &str, tls: bool) -> bool {
        let (dane, mta_sts) = (self.configuration.delivery.dane, self.configuration.mta_sts.enabled);
        let Some(known) = site.host.iter().find(|known| known.name == host) else { return false };
        let proven = known.certificate == Certificate::Trusted || (dane && known.tlsa == Tlsa::Matching);
        let demanded = match self.tls(rules, host) {
            OutboundTls::None | OutboundTls::Opportunistic => true,
            OutboundTls::Required => tls,
            OutboundTls::Verified => tls && proven,
        };
        demanded && site.may_receive(host, dane, mta_sts) && (tls || !site.needs_tls(host, dane, mta_sts))
    }
}

/// Deliveries that DANE, MTA-STS or the configuration's own TLS forbid, by provider, each as a sentence.
pub(crate) fn unprotected(internet: &Internet, configuration: &Configuration) -> BTreeMap<usize, Vec<String>> {
    let demands = Demands::of(configuration);
    let mut found: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    internet.with_ledger(|ledger| {
        for (id, recipient, acceptances) in ledger.all() {
            for acceptance in acceptances {
                let Some(rules) = internet.providers().get(acceptance.provider) else { continue };
                let Some((_, site)) = rules.site_of(recipient) else { continue };
                if !demands.allow(rules, site, &acceptance.host, acceptance.tls) {
                    let how = if acceptance.tls { "by TLS" } else { "in the clear" };
                    found.entry(acceptance.provider).or_default().push(format!(
                        "message {id} for {recipient} was given to {} {how}, against DANE, MTA-STS or the configured TLS",
                        acceptance.host
                    ));
                }
            }
        }
    });
    found
}

/// The reasons that the simulated internet knows of.
pub(crate) struct Reasons<'a> {
    internet: &'a Internet,
    demands: Demands<'a>,
    /// How long a sender may stay away from a site that has turned it away.
    away: Duration,
}

impl<'a> Reasons<'a> {
    pub(crate) fn of(internet: &'a Internet, configuration: &'a Configuration) -> Self {
        // In a rehearsal every hold ends within a quarter of the life of mail, and every pause and wait is the owner's word.
        let streams = configuration.stream.values();
        let longest = streams.flat_map(|stream| {
            let waits =
                stream.retry.iter().map(|wait| wait.as_std().mul_f64(1.0 + stream.retry_jitter.clamp(0.0, 1.0)));
            waits.chain([stream.expire_after.as_std() / 2])
        });
        let away = longest.max().unwrap_or_default().max(configuration.backoff.longest_pause.as_std());
        Self { internet, demands: Demands::of(configuration), away }
    }

    /// Whether no living host of a site may be given mail, by TLS where it has any.
    fn is_closed(&self, rules: &Provider, site: &Site) -> bool {
        let speaks_tls = |host: &Host| !matches!(host.certificate, Certificate::None | Certificate::Broken);
        let mut living = site.host.iter().filter(|host| !host.dead).peekable();
        living.peek().is_some() && living.all(|host| !self.demands.allow(rules, site, &host.name, speaks_tls(host)))
    }
}

impl Why for Reasons<'_> {
    /// A receiver refused the recipient for good, nobody is there to receive, or the hosts cannot take such a message.
    fn bounces(&self, accepted: &Accepted) -> bool {
        let refused = |mailboxes: &crate::mailbox::Mailboxes| mailboxes.troubles().was_refused(&accepted.recipient);
        if self.internet.with_mailboxes(accepted.provider, refused) == Some(true) {
            return true;
        }
        let Some(rules) = self.internet.providers().get(accepted.provider) else { return true };
        let site = rules.site_of(&accepted.recipient);
        if site.is_none_or(|(_, site)| matches!(site.names, NamesMood::NullMx | NamesMood::NoSuchDomain)) {
            return true;
        }
        let utf8 = rules.capabilities.iter().any(|word| word == "SMTPUTF8");
        (accepted.utf8 && !utf8) || rules.largest().is_some_and(|largest| accepted.size as u64 + GROWTH > largest)
    }

    fn expires(&self, accepted: &Accepted, at: Option<Moment>) -> Option<Cause> {
        let rules = self.internet.providers().get(accepted.provider)?;
        let (place, site) = rules.site_of(&accepted.recipient)?;
        if !site.host.is_empty() && site.host.iter().all(|host| host.dead) {
            return Some(Cause::Dead);
        }
        if self.is_closed(rules, site) {
            return Some(Cause::Unprotected);
        }
        self.internet.with_mailboxes(accepted.provider, |mailboxes| {
            let troubles = mailboxes.troubles();
            let fails = matches!(site.names, NamesMood::FailsFirst | NamesMood::SilentFirst);
            let from = at.map_or(Moment::ZERO, |at| at.saturating_sub(self.away));
            let to = at.unwrap_or(Moment::MAX);
            if troubles.was_put_off(&accepted.recipient, from, to) {
                Some(Cause::PutOff)
            } else if fails && !troubles.has_served(place) {
                Some(Cause::NoNames)
            } else {
                troubles.turned_away(place, from, to).then_some(Cause::TurnedAway)
            }
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internet::{InternetOptions, Owner};
    use crate::rulebook::RuleBook;

    const BOOK: &str = r#"
[[provider]]
name = "one"
source = "test"
checked = "2026-11-27"
weight = 1
[[provider.site]]
domains = ["good.test"]
host = [{ name = "mx.good.test" }]
[[provider.site]]
domains = ["dead.test"]
host = [{ name = "mx.dead.test", dead = true }]
[[provider.site]]
domains = ["impostor.test"]
host = [{ name = "mx.impostor.test", tlsa = "other-key" }]
[[provider.site]]
domains = ["clear.test"]
host = [{ name = "mx.clear.test", certificate = "none" }]
"#;

    fn configuration(more: &str) -> Configuration {
        let text = format!(
            "hostname = \"box.sender.test\"\n[[listener]]\naddress = \"127.0.0.1:25\"\ntls = \"none\"\n\
             [source.a]\nipv4 = \"127.1.0.1\"\n[pool.default]\nsources = {{ a = 1 }}\n{more}"
        );
        let options = postkeep_configuration::load::Options::without_files();
        postkeep_configuration::load::parse("test", &text, &options).unwrap().configuration
    }

    #[tokio::test]
    async fn mail_may_expire_where_nobody_may_have_it_and_nowhere_else() {
        let mut options = InternetOptions::new(1, Owner::default()).unwrap();
        options.book = RuleBook::parse(BOOK).unwrap();
        let internet = Internet::start(options).await.unwrap();
        let causes = |more: &str| {
            let configuration = configuration(more);
            let reasons = Reasons::of(&internet, &configuration);
            ["good", "dead", "impostor", "clear"].map(|name| {
                let recipient = format!("a@{name}.test");
                let accepted =
                    Accepted { id: "r1".into(), recipient, provider: 0, silent: false, utf8: false, size: 9 };
                reasons.expires(&accepted, Some(Duration::from_secs(60)))
            })
        };
        assert_eq!(causes(""), [None, Some(Cause::Dead), Some(Cause::Unprotected), None]);
        assert_eq!(causes("[delivery]\ndane = false\n"), [None, Some(Cause::Dead), None, None]);
        assert_eq!(causes("[delivery]\ntls = \"required\"\n")[3], Some(Cause::Unprotected));
        let own =
            "[delivery]\ntls = \"required\"\n[provider.mine]\nmx-suffix = [\"clear.test\"]\ntls = \"opportunistic\"\n";
        assert_eq!(causes(own)[3], None);
    }
}
