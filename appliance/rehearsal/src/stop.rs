//! Being asked to stop: SIGINT, SIGTERM and SIGHUP, from before anything runs.
//! Whoever waits for them takes down what runs, so that no daemon and no
//! folder is left behind.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Error;

/// The signals that end a rehearsal.
pub(crate) struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    /// From now on these signals no longer end the process.
    pub(crate) fn new() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(|error| Error::Io(format!("cannot wait for signals to stop: {error}")));
        let signals = [catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?, catch(SignalKind::hangup())?];
        Ok(Self { signals })
    }

    /// Waits for one of them.
    pub(crate) async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// Does something unless one of them comes first; then what was begun of it is dropped, and so taken down.
    pub(crate) async fn unless_asked<T>(&mut self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.asked() => Err(Error::Stopped),
            done = work => done,
        }
    }
}
