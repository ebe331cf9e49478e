//! What systemd is told about the daemon (sd_notify(3)): that all doors are open, that it is alive, that it stops.
//! Without systemd nothing is told and nothing is missed.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Interval;

/// All doors are open.
pub(crate) fn ready(doors: &[String]) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("takes mail at {}", doors.join(", ")))]);
}

/// The loop that supervises runs, and the queue answered with how many messages wait.
pub(crate) fn alive(queued: u64) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(&format!("{queued} recipients wait"))]);
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
