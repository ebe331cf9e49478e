//! What an administrator may see and do: show the queue and its lanes, and
//! pause, resume, delete, reroute, expire or retry a part of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use postkeep_configuration::RouteHost;
use postkeep_deliverability::backoff;
use postkeep_spool::{Operation, Ticket};
use serde::{Deserialize, Serialize};

use super::settle::Fate;
use super::state::{Reroute, State, Suspension};
use super::{Engine, NOTE_PAUSED, NOTE_REROUTED};
use crate::clock::{self, timestamp, timestamp_seconds};
use crate::queue::{QueueId, StreamId};
use crate::selector::{Selector, Subject};

/// What to do with a part of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum QueueAction {
    /// Attempt nothing until resumed; survives restarts.
    Pause,
    /// Lift pauses that the selector covers.
    Resume,
    /// Remove mail without telling the sender.
    Delete,
    /// Return mail to its sender now.
    Expire,
    /// Make waiting mail due now and lift back-offs.
    Retry,
    /// Send mail to these hosts instead, until cleared by an empty list.
    Reroute {
        /// Hosts as in `[[route]]`; empty: back to normal.
        hosts: Vec<String>,
    },
}

impl QueueAction {
    /// Whether the whole queue must not be met by a forgotten selector.
    pub fn is_grave(&self) -> bool {
        match self {
            Self::Pause | Self::Delete | Self::Expire => true,
            Self::Reroute { hosts } => !hosts.is_empty(),
            Self::Resume | Self::Retry => false,
        }
    }

    /// In a word, for logs.
    fn word(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Delete => "delete",
            Self::Expire => "expire",
            Self::Retry => "retry",
            Self::Reroute { .. } => "reroute",
        }
    }
}

/// What an action did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueReport {
    /// Recipients concerned, or for pauses and routes: rules in force now.
    pub affected: u64,
    /// One sentence.
    pub summary: String,
}

/// Mail of one stream for one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MailView {
    /// Stream.
    pub stream: String,
    /// Recipient domain.
    pub domain: String,
    /// Site, once known.
    pub site: Option<String>,
    /// Provider, if one is known.
    pub provider: Option<String>,
    /// Recipients that could go now.
    pub ready: u64,
    /// Recipients that wait for their time.
    pub waiting: u64,
    /// Recipients under way.
    pub under_way: u64,
    /// Next due time, RFC 3339.
    pub next_due: Option<String>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// A pause covers it.
    pub paused: bool,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LaneView {
    /// Source.
    pub source: String,
    /// Site.
    pub site: String,
    /// Provider, if one is known.
    pub provider: Option<String>,
    /// Open connections.
    pub connections: u32,
    /// Connections allowed now.
    pub connection_limit: u32,
    /// `normal`, `paused` or `slow`.
    pub state: String,
    /// Until when it is paused, RFC 3339.
    pub until: Option<String>,
    /// Thousandths of its limits in use.
    pub share: u32,
    /// Which limit holds it now.
    pub held_by: Option<String>,
    /// What went wrong last.
    pub last_failure: Option<String>,
    /// When, RFC 3339.
    pub last_failure_at: Option<String>,
}

/// The whole picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueStatus {
    /// Recipients queued, all told.
    pub total: u64,
    /// Mail by stream and domain, most first.
    pub mail: Vec<MailView>,
    /// Lanes that have been used.
    pub lanes: Vec<LaneView>,
    /// Pauses in force.
    pub pauses: Vec<Selector>,
    /// Reroutes in force: selector and hosts.
    pub reroutes: Vec<(Selector, Vec<String>)>,
    /// What receivers do not want for a while, learnt from their replies.
    #[serde(default)]
    pub suspensions: Vec<Suspension>,
    /// Sources that are out, with the time of their return.
    pub sources_out: Vec<(String, String)>,
}

/// What waits, in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Recipients queued, all told.
    pub total: u64,
    /// Those of each stream, most first.
    pub streams: Vec<(String, u64)>,
    /// Pauses in force.
    pub pauses: usize,
}

impl Engine {
    /// What waits: a look at each queue, for whoever asks twice a minute.
    pub fn waiting(&self) -> Waiting {
        let state = self.0.state.lock();
        let mut streams: BTreeMap<String, u64> = BTreeMap::new();
        for (stream, count) in state.queues.by_stream() {
            // Mail that chose a pool of its own has queues of its own, and is its stream's.
            *streams.entry(state.stream(stream).0.to_string()).or_default() += count;
        }
        let (total, pauses) = (state.queues.len() as u64, state.paused.len());
        drop(state);
        let mut streams: Vec<(String, u64)> = streams.into_iter().collect();
        streams.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Waiting { total, streams, pauses }
    }

    /// Name and text of each TXT record that verifiers of our signatures look for.
    #[must_use]
    pub fn dkim_records(&self) -> Vec<(String, String)> {
        self.0.signer.load().keys().iter().map(|key| (key.dns_name(), key.dns_record())).collect()
    }

    /// The part of the queue and of the lanes that `selector` names.
    pub fn status(&self, selector: &Selector) -> QueueStatus {
        let now = clock::now();
        let state = self.0.state.lock();
        let mut mail: Vec<MailView> = state
            .select(selector)
            .into_iter()
            .filter_map(|queue| state.queues.view(queue))
            .filter_map(|view| mail_view(&state, &view))
            .collect();
        mail.sort_by_key(|view| std::cmp::Reverse(view.ready + view.waiting + view.under_way));
        let lanes = state
            .lanes
            .iter()
            .filter(|lane| lane_matches(&state, lane, selector))
            .filter_map(|lane| lane_view(&state, lane, now))
            .collect();
        QueueStatus {
            total: state.queues.len() as u64,
            mail,
            lanes,
            pauses: state.paused.clone(),
            suspensions: state.suspensions.iter().filter(|suspension| suspension.until > now).cloned().collect(),
            reroutes: state.reroutes.iter().map(|reroute| (reroute.selector.clone(), reroute.hosts.clone())).collect(),
            sources_out: state
                .sources
                .iter()
                .filter(|source| source.configured && source.out_until > now)
                .map(|source| (source.name.to_string(), timestamp(source.out_until)))
                .collect(),
        }
    }

    /// Does something to a part of the queue on behalf of `actor`.
    ///
    /// # Errors
    /// A sentence that says why nothing was done.
    pub async fn act(&self, selector: Selector, action: QueueAction, actor: &str) -> Result<QueueReport, String> {
        let selector = selector.normalised();
        let word = action.word();
        let done = self.carry_out(selector.clone(), action, actor).await;
        match &done {
            Ok(report) => postkeep_journal::QUEUE_CHANGED.tell(
                format_args!("queue: {actor}: {word} {selector}: {}", report.summary),
                [&word, &selector, &actor, &report.affected],
            ),
            Err(why) => log::info!("queue: {actor}: {word} {selector}: not done: {why}"),
        }
        done
    }

    async fn carry_out(&self, selector: Selector, action: QueueAction, actor: &str) -> Result<QueueReport, String> {
        match action {
            QueueAction::Pause => self.pause(selector).await,
            QueueAction::Resume => self.resume(&selector).await,
            QueueAction::Reroute { hosts } => self.reroute(selector, hosts).await,
            QueueAction::Retry => Ok(self.retry(&selector)),
            QueueAction::Delete => Ok(self.end(&selector, &Fate::Removed { actor: actor.to_owned() }, "removed").await),
            QueueAction::Expire => {
                Ok(self.end(&selector, &Fate::Expired { actor: actor.to_owned() }, "returned to their senders").await)
            }
        }
    }

    async fn pause(&self, selector: Selector) -> Result<QueueReport, String> {
        let (noted, held) = {
            let mut state = self.0.state.lock();
            if !state.paused.contains(&selector) {
                state.paused.push(selector.clone());
            }
            let held: usize = state.select(&selector).into_iter().map(|queue| state.queues.size(queue)).sum();
            (self.note(NOTE_PAUSED, &state.paused)?, held)
        };
        durable(noted).await?;
        Ok(QueueReport { affected: held as u64, summary: format!("{selector} is paused; {held} recipients wait") })
    }

    async fn resume(&self, selector: &Selector) -> Result<QueueReport, String> {
        let (noted, lifted, left) = {
            let mut state = self.0.state.lock();
            let before = state.paused.len();
            state.paused.retain(|pause| !selector.covers(pause));
            let (lifted, left) = (before - state.paused.len(), state.paused.len());
            if lifted == 0 {
                let standing: Vec<String> = state.paused.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "no pause is covered by {selector}; in force: {}",
                    if standing.is_empty() { "none".to_owned() } else { standing.join("; ") }
                ));
            }
            (self.note(NOTE_PAUSED, &state.paused)?, lifted, left)
        };
        durable(noted).await?;
        self.0.look_again();
        Ok(QueueReport { affected: lifted as u64, summary: format!("{lifted} pauses lifted, {left} left") })
    }

    async fn reroute(&self, selector: Selector, hosts: Vec<String>) -> Result<QueueReport, String> {
        if hosts.iter().any(|host| host.parse::<RouteHost>().is_err()) {
            return Err(format!(
                "{} is not a list of hosts: write mx.example.net, mx.example.net:2525, 192.0.2.1:25 or [2001:db8::1]:25",
                hosts.join(", ")
            ));
        }
        let (noted, moved) = {
            let mut state = self.0.state.lock();
            if hosts.is_empty() {
                let before = state.reroutes.len();
                state.reroutes.retain(|reroute| !selector.covers(&reroute.selector));
                if before == state.reroutes.len() {
                    return Err(format!("no reroute is covered by {selector}"));
                }
            } else {
                state.reroutes.retain(|reroute| reroute.selector != selector);
                state.reroutes.push(Reroute { selector: selector.clone(), hosts: hosts.clone() });
            }
            let moved: usize = state.select(&selector).into_iter().map(|queue| state.queues.size(queue)).sum();
            state.unlist_all();
            (self.note(NOTE_REROUTED, &state.reroutes)?, moved)
        };
        durable(noted).await?;
        self.0.look_again();
        let summary = if hosts.is_empty() {
            format!("{selector} goes by its normal route again")
        } else {
            format!("{selector} goes to {}; {moved} recipients queued", hosts.join(", "))
        };
        Ok(QueueReport { affected: moved as u64, summary })
    }

    fn retry(&self, selector: &Selector) -> QueueReport {
        let mut moved = 0;
        {
            let mut state = self.0.state.lock();
            let now = clock::now();
            let (mut lanes, mut domains) = (HashSet::new(), HashSet::new());
            for queue in state.select(selector) {
                state.queues.retry_now(queue);
                moved += state.queues.ready(queue);
                let Some((stream, domain)) = state.queues.key(queue) else { continue };
                domains.insert(domain);
                let Some(site) = state.site_of_queue(queue) else { continue };
                let members = &state.stream(stream).1.pool.members;
                lanes.extend(members.iter().map(|(source, _)| (*source, site)));
            }
            let matching: Vec<_> = state
                .lanes
                .iter()
                .filter(|lane| lanes.contains(&(lane.source, lane.site)) && lane_matches(&state, lane, selector))
                .map(|lane| (lane.governor, lane.source))
                .collect();
            let names: HashSet<(Arc<str>, Arc<str>)> = lanes
                .iter()
                .map(|(source, site)| (Arc::clone(&state.source(*source).name), Arc::clone(&state.site(*site).name)))
                .collect();
            let lifted = state.lift_suspensions(|suspension| {
                names.iter().any(|(source, site)| {
                    suspension.site.as_deref() == Some(&**site) || suspension.source.as_deref() == Some(&**source)
                })
            });
            if lifted > 0 {
                self.0.keep_suspensions(state.suspensions_as_note());
            }
            for (lane, source) in matching {
                state.governor.reset_backoff(lane, now);
                state.sources[usize::from(source.0)].out_until = 0;
            }
            // A retry by hand asks the DNS again: that may be what was wrong.
            state.forget_routes(domains);
        }
        self.0.look_again();
        QueueReport { affected: moved as u64, summary: format!("{moved} recipients are due now") }
    }

    /// Ends all mail that was there at this moment and is not under way.
    async fn end(&self, selector: &Selector, fate: &Fate, word: &str) -> QueueReport {
        let mut ended = 0u64;
        let queues: Vec<(QueueId, StreamId)> = {
            let state = self.0.state.lock();
            state.select(selector).into_iter().filter_map(|queue| Some((queue, state.queues.key(queue)?.0))).collect()
        };
        // What is accepted from now on is not meant.
        let before = self.0.spool.next_id().0;
        for (queue, stream) in queues {
            let entries = self.0.state.lock().queues.extract(queue, |entry| entry.message < before);
            ended += entries.len() as u64;
            self.0.settle_entries(queue, stream, entries, fate).await;
        }
        QueueReport { affected: ended, summary: format!("{ended} recipients {word}") }
    }

    /// Hands a list to the spool. Called under the lock that guards the list, so that of two
    /// commands the later one is also the later one on the disk.
    fn note(&self, key: &'static [u8], list: &[impl Serialize]) -> Result<Ticket, String> {
        let value: Bytes = serde_json::to_vec(list).map_err(|error| error.to_string())?.into();
        Ok(self.0.spool.submit([Operation::Note { key: Bytes::from_static(key), value }]))
    }
}

async fn durable(noted: Ticket) -> Result<(), String> {
    noted.await.map_err(|error| format!("it holds now, but could not be made durable: {error}"))
}

fn mail_view(state: &State, view: &crate::queue::QueueView) -> Option<MailView> {
    let (stream, plan, _) = state.stream(view.stream);
    let domain = state.domains.get(&view.domain)?;
    let site = state.site_of_queue(view.id).map(|site| state.site(site));
    let site_name = site.map(|site| &*site.name);
    let subject = Subject { stream, domain: &domain.name, site: site_name, sources: &plan.pool.names };
    Some(MailView {
        stream: stream.to_string(),
        domain: domain.name.to_string(),
        site: site_name.map(str::to_owned),
        provider: site.and_then(|site| site.provider.as_deref()).map(str::to_owned),
        ready: view.ready as u64,
        waiting: view.waiting as u64,
        under_way: view.taken.into(),
        next_due: view.next_due.map(timestamp_seconds),
        last_error: view.last_error.as_deref().map(str::to_owned),
        paused: state.paused.iter().any(|pause| pause.matches_mail(subject)),
    })
}

fn lane_matches(state: &State, lane: &super::state::Lane, selector: &Selector) -> bool {
    let (source, site) = (&state.source(lane.source).name, &state.site(lane.site).name);
    selector.source.as_deref().is_none_or(|asked| asked == &**source)
        && selector.site.as_deref().is_none_or(|asked| asked == &**site)
}

fn lane_view(state: &State, lane: &super::state::Lane, now: clock::Micros) -> Option<LaneView> {
    let seen = state.governor.lane(lane.governor, now)?;
    let (word, until) = match seen.state {
        backoff::State::Normal { .. } => ("normal", None),
        backoff::State::Paused { until, .. } => ("paused", Some(timestamp(until))),
        backoff::State::Slow { .. } => ("slow", None),
    };
    Some(LaneView {
        source: seen.source,
        site: seen.site,
        provider: seen.provider,
        connections: seen.connections,
        connection_limit: seen.connection_limit,
        state: word.to_owned(),
        until,
        share: seen.share,
        held_by: seen.waiting.map(|hold| hold.because.name().to_owned()),
        last_failure_at: seen.last_failure.as_ref().map(|(at, _)| timestamp(*at)),
        last_failure: seen.last_failure.map(|(_, why)| why),
    })
}
