//! How long a connection without requests, a WebSocket or TCP, may stay where it is.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::random;
use crate::traffic::revision::{Retirement, Revision};
use crate::worker::Worker;

const PARTS: u64 = 1 << 16;

/// Ready when the connection must end: its revision is retired and its part of the lease is over, or
/// the gateway ends. Connections get their ends spread evenly at random, so that their clients do not
/// come back all at once.
pub(crate) async fn over(worker: &Worker, revision: &Revision) {
    let place = random::below(PARTS);
    let mut retirements = revision.retirements();
    let mut drain = std::pin::pin!(worker.drain.notified());
    loop {
        let retirement = *retirements.borrow_and_update();
        let of_revision = retirement
            .map(|retirement| Instant::from_std(retirement.since) + end(&retirement, place));
        let of_gateway = worker.drain_deadline().map(|(since, limit)| {
            // The last quarter of the time the gateway has.
            Instant::from_std(since) + limit / 4 * 3 + part(limit / 4, place)
        });
        let at = [of_revision, of_gateway].into_iter().flatten().min();
        let reached = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = reached => return,
            changed = retirements.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = drain.as_mut(), if of_gateway.is_none() => {}
        }
    }
}

/// From the beginning of the retirement to the end of one connection.
fn end(retirement: &Retirement, place: u64) -> Duration {
    let certain = retirement.lease.saturating_sub(retirement.spread);
    certain + part(retirement.spread, place)
}

fn part(time: Duration, place: u64) -> Duration {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let scaled = u128::from(micros) * u128::from(place) / u128::from(PARTS);
    Duration::from_micros(u64::try_from(scaled).unwrap_or(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_lie_in_the_last_part_of_the_lease() {
        let seconds = Duration::from_secs;
        let retirement = Retirement {
            since: std::time::Instant::now(),
            lease: seconds(300),
            spread: seconds(60),
            limit: seconds(0),
        };
        assert_eq!(end(&retirement, 0), seconds(240));
        assert_eq!(end(&retirement, PARTS / 2), seconds(270));
        assert!(end(&retirement, PARTS - 1) < seconds(300));
    }
}
