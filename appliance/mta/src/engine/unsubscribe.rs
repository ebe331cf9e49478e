//! One-click unsubscribe (RFC 8058): what a stream asks of a message when it comes in, the pair of fields that is
//! written when it goes out, and what follows when somebody uses the link.
//!
//! A link says nothing and is of no use with another address; it never expires, because mail is kept for years and
//! whoever wants no more must not have to ask twice.

use std::net::SocketAddr;
use std::time::Duration;

use postkeep_configuration::{OneClick as Policy, UnsubscribeScope};
use postkeep_intake::Click;
use postkeep_intake::admission::one_click::{self, ONE_CLICK};
use postkeep_intake::admission::{OneClick, one_click::Pair};
use postkeep_smtp::Reply;
use postkeep_smtp::data::Content;
use postkeep_suppression::{Addition, LongToken, Origin, Reason, Scope, Step};

use super::Inner;
use crate::clock::{self, seconds};
use crate::message::Message;
use crate::records::{Event, Record};

/// How long whoever unsubscribes is made to wait for deliveries to them that are under way.
const DELIVERIES_UNDER_WAY: Duration = Duration::from_secs(3);

/// What a message that came in has, for its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The sender's own pair, signed.
    Whole,
    /// The box writes the pair.
    Added,
    /// The box writes the pair, and a link of the sender's is gone.
    Replaced,
    /// None that receivers would heed.
    Missing,
}

impl Standing {
    /// The word in records.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Added => "added",
            Self::Replaced => "replaced",
            Self::Missing => "missing",
        }
    }
}

/// Judges a message by what its stream asks. `signs`: a key of the box will sign it. Gives what it has, with what
/// it lacks in words.
pub(super) fn judge(one_click: &OneClick, signs: bool, composed: bool) -> Result<(Standing, Option<String>), Reply> {
    let Pair { lack, is_signed, has_others, .. } = &one_click.pair;
    let unsigned = "no [[dkim]] key signs for its From domain, and receivers heed only signed links";
    let writes = one_click.policy == Policy::Add && (composed || lack.is_some());
    let problem = match lack {
        Some(lack) if !writes => Some(lack.as_str()),
        // A signature that came along does not cover what the box writes.
        _ if !signs && (writes || !is_signed) => Some(unsigned),
        _ => None,
    };
    match (problem, one_click.policy) {
        (None, _) if writes && *has_others && !composed => Ok((Standing::Replaced, lack.clone())),
        (None, _) if writes => Ok((Standing::Added, None)),
        (None, _) => Ok((Standing::Whole, None)),
        (Some(problem), Policy::Off | Policy::Warn) => Ok((Standing::Missing, Some(problem.to_owned()))),
        (Some(problem), Policy::Require | Policy::Add) => {
            let remedy = match problem == unsigned {
                true => "add a key, or sign both List-Unsubscribe fields before handing it in".to_owned(),
                false => format!("write List-Unsubscribe with one https URI, and List-Unsubscribe-Post: {ONE_CLICK}"),
            };
            Err(Reply::new(550, (5, 7, 1), format!("one-click unsubscribe (RFC 8058): {problem}; {remedy}")))
        }
    }
}

/// Takes a pair that is not whole out of a message that was rendered for one recipient. Gives what stands beside the
/// box's link; `None`: the pair is whole and stays.
pub(super) fn cut_pair(content: &mut Content) -> Option<String> {
    let pair = one_click::pair(content.octets.get(..content.header_length).unwrap_or_default());
    pair.lack.as_ref()?;
    pair.ranges.into_iter().rev().for_each(|range| content.cut(range));
    Some(pair.mailto)
}

impl Inner {
    /// The pair of fields for one recipient, CRLF ended. `beside`: URIs of the sender's that stand beside the link.
    pub(super) fn pair_for(&self, message: &Message, recipient: u16, beside: &str) -> String {
        let configuration = self.configuration.load();
        let metadata = &message.metadata;
        let (Some(settings), Some(to)) =
            (&configuration.unsubscribe, metadata.envelope.recipients.get(usize::from(recipient)))
        else {
            log::warn!("{}: [unsubscribe] is gone, so the mail goes without List-Unsubscribe", message.id);
            return String::new();
        };
        let token = self.suppression.tokens().unsubscribe(&LongToken {
            address: to.address.clone(),
            message: message.id.0,
            recipient,
            time: message.received,
            stream: metadata.stream.clone(),
            list: metadata.list.clone(),
        });
        let comma = if beside.is_empty() { "" } else { ",\r\n " };
        format!(
            "List-Unsubscribe: <{}/u/{token}>{comma}{beside}\r\nList-Unsubscribe-Post: {ONE_CLICK}\r\n",
            settings.url
        )
    }

    /// See [`postkeep_intake::Gatekeeper::unsubscribe`].
    pub(super) async fn unsubscribe(&self, token: &str, peer: SocketAddr) -> Result<Click, Reply> {
        let Some(mail) = self.suppression.tokens().open_unsubscribe(token) else { return Ok(Click::Unknown) };
        // Links outlive the table that they came from.
        let scope = self.configuration.load().unsubscribe.as_ref().map(|settings| settings.scope).unwrap_or_default();
        let scope = match (scope, &mail.list) {
            (UnsubscribeScope::All, _) => Scope::All,
            (UnsubscribeScope::List, Some(list)) => Scope::List(list.clone()),
            _ => Scope::Stream(mail.stream.clone()),
        };
        let now = clock::now();
        let id = postkeep_spool::MessageId(mail.message).to_string();
        let step = Step::Add(Addition {
            who: mail.address.clone().into(),
            scope: scope.clone(),
            reason: Reason::Unsubscribe,
            origin: Origin::OneClick,
            time: seconds(now),
            note: format!("one click ({id})").into(),
        });
        let failed = |error: postkeep_suppression::ChangeError| {
            log::error!("somebody could not be unsubscribed: {error}");
            Reply::new(451, (4, 3, 0), "this could not be kept; try again later")
        };
        let outcome = self.suppression.record(vec![step.clone()]).await.map_err(failed)?;
        // It is known now and changes nothing; only deliveries under way are waited for, and not for ever.
        let waited = tokio::time::timeout(DELIVERIES_UNDER_WAY, self.suppression.change(vec![step])).await;
        if outcome.added > 0 {
            let scope = scope.to_string();
            self.records.write(
                now,
                Event::Unsubscribed,
                Record {
                    message: Some(&id),
                    recipient: Some(mail.address.as_str()),
                    stream: Some(&mail.stream),
                    peer: Some(peer.to_string()),
                    scope: Some(&scope),
                    suppress: Some(true),
                    ..Record::default()
                },
            );
            self.metrics.outcome(Event::Unsubscribed, "", "", &mail.stream, 1);
        }
        Ok(if waited.is_ok() { Click::Done } else { Click::UnderWay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(policy: Policy, header: &str) -> OneClick {
        OneClick { policy, pair: one_click::pair(format!("{header}\r\n").as_bytes()) }
    }

    const WHOLE: &str =
        "List-Unsubscribe: <https://a.example/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    const SIGNED: &str = "DKIM-Signature: v=1; h=From:List-Unsubscribe:List-Unsubscribe-Post; b=x\r\n";
    const MAILTO: &str = "List-Unsubscribe: <mailto:a@a.example>\r\n";

    #[test]
    fn each_policy_judges_the_pair_and_the_signature_over_it() {
        let standing = |policy, header: &str, signs, composed| {
            judge(&asked(policy, header), signs, composed)
                .map(|(standing, _)| standing.as_str())
                .map_err(|reply| reply.code)
        };
        let signed = format!("{SIGNED}{WHOLE}");
        let link = "List-Unsubscribe: <https://a.example/u>\r\n";
        for (policy, header, signs, composed, expected) in [
            (Policy::Warn, WHOLE, true, false, Ok("whole")),
            (Policy::Warn, "", true, false, Ok("missing")),
            (Policy::Warn, WHOLE, false, false, Ok("missing")),
            (Policy::Require, WHOLE, true, false, Ok("whole")),
            (Policy::Require, &signed, false, false, Ok("whole")),
            (Policy::Require, WHOLE, false, false, Err(550)),
            (Policy::Require, MAILTO, true, false, Err(550)),
            (Policy::Add, WHOLE, true, false, Ok("whole")),
            (Policy::Add, &signed, false, false, Ok("whole")),
            (Policy::Add, MAILTO, true, false, Ok("added")),
            (Policy::Add, link, true, false, Ok("replaced")),
            (Policy::Add, "", true, false, Ok("added")),
            (Policy::Add, "", false, false, Err(550)),
            (Policy::Add, &format!("{SIGNED}{MAILTO}"), false, false, Err(550)),
            // What each recipient's own message has is seen when it is rendered.
            (Policy::Add, WHOLE, true, true, Ok("added")),
            (Policy::Add, &signed, false, true, Err(550)),
        ] {
            assert_eq!(standing(policy, header, signs, composed), expected, "{policy:?} {signs} {composed} {header}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_lacking_and_what_to_do() {
        let refusal = |header: &str, signs| {
            judge(&asked(Policy::Require, header), signs, false).expect_err("refused").text.to_string()
        };
        let text = refusal(MAILTO, true);
        assert!(text.contains("no List-Unsubscribe-Post") && text.contains("write List-Unsubscribe"), "{text}");
        let text = refusal(WHOLE, false);
        assert!(text.contains("[[dkim]]") && text.contains("add a key"), "{text}");
    }
}
