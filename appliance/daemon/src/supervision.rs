//! What systemd is told about the daemon (sd_notify(3)): that all doors are open, that it is alive, that it stops.
//! Without systemd nothing is told and nothing is missed.

use std::time::Duration;

use postkeep_mta::engine::Waiting;
use sd_notify::NotifyState;
use tokio::time::Interval;

/// All doors are open.
pub(crate) fn ready(doors: &[String]) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("takes mail at {}", doors.join(", ")))]);
}

/// The loop that supervises runs, and the queue answered with what waits.
pub(crate) fn alive(waiting: &Waiting) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(&sentence(waiting))]);
}

/// Streams that are named; a line on a screen has room for some.
const MOST_STREAMS: usize = 4;

/// What waits, in a line: systemctl status and the console of a box show it.
fn sentence(waiting: &Waiting) -> String {
    let Waiting { total, streams, pauses } = waiting;
    let mut said = format!("{total} recipients wait");
    let named: Vec<String> = streams.iter().take(MOST_STREAMS).map(|(name, count)| format!("{name} {count}")).collect();
    if !named.is_empty() {
        said += &format!(": {}", named.join(", "));
    }
    match streams.len().saturating_sub(MOST_STREAMS) {
        0 => {}
        1 => said += ", and one more stream",
        more => said += &format!(", and {more} more streams"),
    }
    match pauses {
        0 => {}
        1 => said += "; one pause",
        many => said += &format!("; {many} pauses"),
    }
    said
}

/// Transactions under way come to their end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("systemd cannot be told how the daemon is: {error}");
    }
}

/// When to say that we are alive: twice in the time that the unit allows.
pub(crate) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As `WatchdogSec=` of the unit says; never, when it says nothing.
    pub(crate) fn of_this_process() -> Self {
        Self(
            sd_notify::watchdog_enabled()
                .map(|allowed| tokio::time::interval((allowed / 2).max(Duration::from_millis(100)))),
        )
    }

    /// Waits until it is time.
    pub(crate) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_said_in_a_line() {
        assert_eq!(sentence(&Waiting::default()), "0 recipients wait");
        let stream = |name: &str, count| (name.to_owned(), count);
        let mut waiting = Waiting { total: 12, streams: vec![stream("news", 9), stream("bulk", 3)], pauses: 1 };
        assert_eq!(sentence(&waiting), "12 recipients wait: news 9, bulk 3; one pause");
        waiting.streams.extend((0..4).map(|number| stream(&format!("s{number}"), 1)));
        assert_eq!(
            sentence(&Waiting { total: 16, pauses: 0, ..waiting }),
            "16 recipients wait: news 9, bulk 3, s0 1, s1 1, and 2 more streams"
        );
    }
}
