//! One timer for a connection's whole life. Every wait of a dialogue has a time
//! limit and nearly none is reached; so the timer is left running from wait to
//! wait, set back only for an earlier limit, and looked at again when it rings.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer; made at the first wait that does not end at once.
#[derive(Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// The output of the future, or `None` when it takes longer. As cancel-safe as the future.
    pub(crate) async fn within<F: Future>(&mut self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut deadline = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
            self.poll(cx, deadline).map(|()| None)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It rang for a wait that is over.
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Instant;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn each_wait_has_its_own_limit_whatever_the_waits_before_were() {
        let mut alarm = Alarm::default();
        let ms = Duration::from_millis;
        // A long wait that ends early, a short one that does not, a longer one after it.
        assert_eq!(alarm.within(ms(5000), sleep(ms(10))).await, Some(()));
        for limit in [60, 120, 30] {
            let before = Instant::now();
            assert_eq!(alarm.within(ms(limit), pending::<()>()).await, None);
            let took = before.elapsed();
            assert!(took >= ms(limit) && took < ms(limit + 500), "{limit}: {took:?}");
        }
        assert_eq!(alarm.within(ms(1), async { 7 }).await, Some(7));
        // The timer rings in the middle of a wait that began later, and the wait goes on.
        assert_eq!(alarm.within(ms(40), sleep(ms(5))).await, Some(()));
        assert_eq!(alarm.within(ms(2000), sleep(ms(100))).await, Some(()));
    }
}
