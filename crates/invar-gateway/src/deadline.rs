//! One timer that is moved on instead of made anew.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A point in time that is put off far more often than it is reached.
#[derive(Debug)]
pub(crate) struct Deadline {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
}

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        let at = Instant::now() + time;
        Self {
            sleep: Box::pin(sleep_until(at)),
            at,
        }
    }

    /// Moves it to `time` from now. The kernel's and the runtime's timers are touched only when it
    /// moves nearer; otherwise the running timer is found too early when it fires, and set again.
    pub(crate) fn set(&mut self, time: Duration) {
        self.at = Instant::now() + time;
        if self.at < self.sleep.deadline() {
            self.sleep.as_mut().reset(self.at);
        }
    }

    /// As [`set`](Self::set), unless it is nearer already.
    pub(crate) fn at_most(&mut self, time: Duration) {
        if Instant::now() + time < self.at {
            self.set(time);
        }
    }

    /// Whether it has come; the task is woken when it does.
    pub(crate) fn poll_reached(&mut self, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(()) = self.sleep.as_mut().poll(cx) {
            if Instant::now() >= self.at {
                return true;
            }
            self.sleep.as_mut().reset(self.at);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn reached_after(deadline: &mut Deadline) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| {
            if deadline.poll_reached(cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_moves_both_ways() {
        let second = Duration::from_secs(1);
        let near =
            |time: Duration, expected: Duration| time.abs_diff(expected) < Duration::from_millis(5);
        let mut deadline = Deadline::after(second);
        assert!(near(reached_after(&mut deadline).await, second));
        deadline.set(10 * second);
        deadline.set(2 * second);
        assert!(near(reached_after(&mut deadline).await, 2 * second));
        deadline.set(2 * second);
        deadline.set(10 * second);
        deadline.at_most(20 * second);
        assert!(near(reached_after(&mut deadline).await, 10 * second));
    }
}
