//! The judge on traffic with known answers: false alarms, detection, and the numbers of the docs.

#![allow(
    clippy::print_stdout,
    reason = "the numbers are those of docs/rollout-judge.md"
)]

use super::*;
use invar_gateway::LATENCY_BOUNDS;

const ALL: &[Gate] = &[Gate::Errors, Gate::Latency];

/// A generator with a known beginning (splitmix64), so that a failure can be seen again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        float((z ^ (z >> 31)) >> 11) / float(1 << 53)
    }
}

/// One side: how often it fails, and how long it takes.
#[derive(Clone, Copy)]
struct Side {
    errors: f64,
    /// Median in microseconds; the tail is exponential above half of it.
    median: f64,
}

impl Side {
    fn answer(self, requests: u64, random: &mut Random) -> Tally {
        let mut tally = Tally {
            requests,
            errors: 0,
            latency: vec![0; tally::BUCKETS],
        };
        for _ in 0..requests {
            tally.errors += u64::from(random.next() < self.errors);
            if self.median > 0.0 {
                let took = self.median * (0.5 - 0.72 * (1.0 - random.next()).ln());
                let bucket = LATENCY_BOUNDS.partition_point(|bound| float(*bound) < took);
                tally.latency[bucket] += 1;
            }
        }
        tally
    }
}

/// Requests of both sides together until the judge says worse, looking every `batch` of each.
fn until_worse(canary: Side, baseline: Side, batch: u64, most: u64, begin: u64) -> Option<u64> {
    let mut random = Random(begin);
    let mut judge = Judge::default();
    let mut seen = 0;
    while seen < most {
        let (new, old) = (
            canary.answer(batch, &mut random),
            baseline.answer(batch, &mut random),
        );
        judge.look(&new, &old);
        seen += 2 * batch;
        if judge.worse_in(ALL).is_some() {
            return Some(seen);
        }
    }
    None
}

fn side(errors: f64, median: f64) -> Side {
    Side { errors, median }
}

/// Of so many rollouts the share that was rolled back, and the median of requests until then.
fn outcome(canary: Side, baseline: Side, batch: u64, most: u64, rollouts: u64) -> (f64, u64) {
    let mut found: Vec<u64> = (0..rollouts)
        .map(|seed| until_worse(canary, baseline, batch, most, seed * 7919 + 1))
        .map(|seen| seen.unwrap_or(u64::MAX))
        .collect();
    found.sort_unstable();
    let fired = found.iter().filter(|seen| **seen < u64::MAX).count();
    (
        float(fired as u64) / float(rollouts),
        found[found.len() / 2],
    )
}

#[test]
fn an_identical_revision_is_rolled_back_in_at_most_five_of_a_hundred_rollouts() {
    for (errors, median, batch, most, rollouts) in [
        (0.0005, 0.0, 5, 20_000, 400),
        (0.005, 0.0, 5, 20_000, 400),
        (0.05, 0.0, 5, 10_000, 400),
        (0.3, 0.0, 5, 4_000, 400),
        (0.005, 3_000.0, 10, 4_000, 200),
        (0.005, 40.0, 10, 4_000, 200),
    ] {
        let same = side(errors, median);
        let (false_rollbacks, _) = outcome(same, same, batch, most, rollouts);
        println!("identical, {errors} errors, {median} µs: {false_rollbacks} rolled back");
        assert!(
            false_rollbacks <= 0.05,
            "{errors} {median}: {false_rollbacks}"
        );
    }
}

#[test]
fn a_worse_revision_is_found_in_time() {
    // Medians of a mixture test with all its error in one test, of 1.5 times of which is allowed.
    for (canary, baseline, known) in [(0.5, 0.0005, 23), (0.05, 0.005, 279), (0.01, 0.005, 6_705)] {
        let (found, median) = outcome(side(canary, 0.0), side(baseline, 0.0), 1, 60_000, 200);
        println!("{baseline} → {canary}: {found} found, median {median} requests, known {known}");
        assert!(median <= known * 3 / 2, "{baseline} → {canary}: {median}");
        assert!(found >= 0.99, "{baseline} → {canary}: {found}");
    }
}

#[test]
fn three_errors_in_a_hundred_are_found_before_all_traffic_is_on_them() {
    let rules = Rules {
        gates: ALL,
        margin: 0.01,
        next_share: 1.0,
    };
    let mut promoted = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut judge = Judge::default();
        let verdict = loop {
            let (bad, good) = (side(0.03, 0.0), side(0.0, 0.0));
            judge.look(&bad.answer(5, &mut random), &good.answer(5, &mut random));
            let verdict = judge.verdict(&rules).verdict;
            if verdict != Verdict::NotEnough {
                break verdict;
            }
        };
        promoted += u32::from(verdict == Verdict::Well);
    }
    println!("3 % errors: {promoted} of 200 promoted");
    assert_eq!(promoted, 0);
}

#[test]
fn a_slower_revision_is_found_and_a_faster_one_is_not() {
    let rows = [
        (20_000.0, 5_000.0, 2_000),
        (6_000.0, 2_000.0, 2_000),
        (12_000.0, 5_000.0, 6_000),
    ];
    for (canary, baseline, within) in rows {
        let (found, median) = outcome(side(0.0, canary), side(0.0, baseline), 5, within, 50);
        println!("{baseline} µs → {canary} µs: {found} found, median {median} requests");
        assert!(found >= 0.95, "{baseline} → {canary}: {found}");
        let (found, _) = outcome(side(0.0, baseline), side(0.0, canary), 5, within, 50);
        assert!(found <= 0.01, "{canary} → {baseline}: {found}");
    }
}

#[test]
fn a_good_revision_passes_each_step_after_a_bounded_number_of_requests() {
    for (share, errors, most) in [
        (0.1, 0.0, 60),
        (0.5, 0.0, 300),
        (1.0, 0.0, 600),
        (1.0, 0.002, 3_000),
    ] {
        let rules = Rules {
            gates: ALL,
            margin: 0.01,
            next_share: share,
        };
        let mut needed: Vec<u64> = (0..50)
            .map(|seed| {
                let mut random = Random(seed);
                let mut judge = Judge::default();
                let mut seen = 0;
                while judge.verdict(&rules).verdict == Verdict::NotEnough {
                    let both = side(errors, 0.0);
                    judge.look(&both.answer(5, &mut random), &both.answer(5, &mut random));
                    seen += 5;
                }
                seen
            })
            .collect();
        needed.sort_unstable();
        println!(
            "next step {share}, {errors} errors: median {} requests",
            needed[25]
        );
        assert!(needed[25] <= most, "{share} {errors}: {}", needed[25]);
    }
}

#[test]
fn no_traffic_is_never_a_pass() {
    let judge = Judge::default();
    for gates in [&[Gate::Errors] as &[Gate], &[Gate::Latency], ALL] {
        let rules = Rules {
            gates,
            margin: 0.01,
            next_share: 0.1,
        };
        assert_eq!(judge.verdict(&rules).verdict, Verdict::NotEnough);
    }
}
