use std::sync::Barrier;
use std::thread;

use http::header::COOKIE;
use proptest::prelude::*;

use super::*;

fn canary(weight: u32) -> CanaryConfig {
    CanaryConfig {
        weights: [("r2".to_owned(), weight)].into(),
        ..CanaryConfig::default()
    }
}

fn split(service: &Service, canary: Option<CanaryConfig>) {
    let mut config = service.traffic().config.clone();
    config.canary = canary;
    service.replace(config, Duration::ZERO);
}

fn without_cookie(service: &Service) {
    let mut config = service.traffic().config.clone();
    config.sticky_cookie = None;
    service.replace(config, Duration::ZERO);
}

fn switch(service: &Service, to: &str) {
    let mut config = service.traffic().config.clone();
    config.stable = Some(to.to_owned());
    config.canary = None;
    service.replace(config, Duration::ZERO);
}

fn claim(service: &Service, headers: &HeaderMap) -> Claimed {
    service.try_claim(headers).unwrap()
}

fn goes_to(service: &Service, headers: &HeaderMap) -> String {
    claim(service, headers).claim.revision().name.to_string()
}

fn with_cookie(value: &str) -> HeaderMap {
    let pair = value.split(';').next().unwrap();
    HeaderMap::from_iter([(COOKIE, pair.parse().unwrap())])
}

proptest! {
    #[test]
    fn every_run_of_requests_is_split_as_its_weight_says(weight in 0..=WHOLE, skip in 0..100_000_u64) {
        let service = Service::for_tests("web");
        without_cookie(&service);
        split(&service, Some(canary(weight)));
        service.turn.store(skip, Relaxed);
        let hits = (0..1000).filter(|_| goes_to(&service, &HeaderMap::new()) == "r2").count();
        let expected = weight / (WHOLE / 1000);
        let difference = u32::try_from(hits).unwrap().abs_diff(expected);
        prop_assert!(difference <= 4, "{hits} of 1000 for {weight} of {WHOLE}");
    }
}

#[test]
fn a_growing_canary_keeps_its_visitors_and_a_rollback_sends_all_back() {
    let service = Service::for_tests("web");
    split(&service, Some(canary(1_000)));
    let visitors: Vec<HeaderMap> = (0..500)
        .map(|_| with_cookie(&claim(&service, &HeaderMap::new()).set_cookie.unwrap()))
        .collect();
    let on_canary = |service: &Service| -> Vec<bool> {
        visitors
            .iter()
            .map(|headers| goes_to(service, headers) == "r2")
            .collect()
    };
    let small = on_canary(&service);
    split(&service, Some(canary(5_000)));
    let large = on_canary(&service);
    assert!(
        small
            .iter()
            .zip(&large)
            .all(|(before, after)| !before || *after)
    );
    assert!(large.iter().filter(|on| **on).count() > small.iter().filter(|on| **on).count());

    let epoch = service.traffic().epoch;
    split(&service, None);
    assert!(
        service.traffic().epoch > epoch,
        "the rollback begins no epoch"
    );
    assert!(on_canary(&service).iter().all(|on| !on));
    split(&service, Some(canary(5_000)));
    let renewed = claim(&service, &visitors[0]).set_cookie;
    assert!(
        renewed.is_some(),
        "a cookie of before the rollback still counts"
    );
}

#[test]
fn rules_lead_to_a_revision_and_their_cookies_end_with_the_epoch() {
    let service = Service::for_tests("web");
    let rule = |header: Option<&str>, cookie: Option<&str>| RuleConfig {
        header: header.map(Into::into),
        cookie: cookie.map(Into::into),
        value: "yes".into(),
        revision: "r2".into(),
    };
    let rules = vec![rule(Some("x-preview"), None), rule(None, Some("beta"))];
    split(
        &service,
        Some(CanaryConfig {
            rules: rules.clone(),
            ..CanaryConfig::default()
        }),
    );
    let header = HeaderMap::from_iter([("x-preview".parse().unwrap(), "yes".parse().unwrap())]);
    let cookie = with_cookie(&format!("beta=yes.{}", service.traffic().epoch));
    assert_eq!(goes_to(&service, &header), "r2");
    assert_eq!(goes_to(&service, &cookie), "r2");
    assert_eq!(goes_to(&service, &with_cookie("beta=yes")), "r1");
    assert_eq!(goes_to(&service, &HeaderMap::new()), "r1");

    switch(&service, "r1");
    split(&service, None);
    split(
        &service,
        Some(CanaryConfig {
            rules,
            ..CanaryConfig::default()
        }),
    );
    assert_eq!(
        goes_to(&service, &cookie),
        "r1",
        "a cookie outlived the rollback"
    );
}

#[test]
fn a_canary_that_is_down_loses_its_requests_to_the_stable_revision() {
    let service = Service::for_tests("web");
    without_cookie(&service);
    split(&service, Some(canary(WHOLE)));
    assert_eq!(goes_to(&service, &HeaderMap::new()), "r2");
    let endpoint = Arc::clone(&service.traffic().revision("r2").unwrap().endpoints[0]);
    endpoint.checked(false, 1, 1);
    assert_eq!(goes_to(&service, &HeaderMap::new()), "r1");
}

/// The heart of it: claims race with switches, and at no time does a claim stand on a revision
/// that a finished switch found empty.
#[test]
fn no_claim_is_ever_on_a_revision_after_it_was_seen_empty() {
    let service = Arc::new(Service::for_tests("web"));
    let stop = Arc::new(AtomicU64::new(0));
    let claiming = Arc::new(Barrier::new(4));
    let claimers: Vec<_> = (0..3)
        .map(|_| {
            let (service, stop) = (Arc::clone(&service), Arc::clone(&stop));
            let claiming = Arc::clone(&claiming);
            thread::spawn(move || {
                let claim_one = || {
                    let claimed = claim(&service, &HeaderMap::new());
                    assert!(claimed.claim.revision().in_flight() > 0);
                };
                // On a busy machine the switches could be over before this thread has its turn.
                claim_one();
                claiming.wait();
                while stop.load(SeqCst) == 0 {
                    claim_one();
                }
            })
        })
        .collect();
    claiming.wait();
    for turn in 0..2_000 {
        let (to, from) = if turn % 2 == 0 {
            ("r2", "r1")
        } else {
            ("r1", "r2")
        };
        switch(&service, to);
        let old = Arc::clone(service.traffic().revision(from).unwrap());
        while old.in_flight() > 0 {
            thread::yield_now();
        }
        // A claim given back may be counted for a moment, but none is ever kept.
        let claims_kept = (0..50).filter(|_| old.in_flight() > 0).count();
        assert!(
            claims_kept < 50,
            "a claim stayed on {from} after the switch"
        );
    }
    stop.store(1, SeqCst);
    for claimer in claimers {
        claimer.join().unwrap();
    }
}

#[tokio::test]
async fn requests_wait_for_a_paused_service_and_no_more_than_allowed() {
    let service = Arc::new(Service::for_tests("web"));
    service.pause(Duration::from_mins(1));
    let waiting = Arc::clone(&service);
    let first = tokio::spawn(async move { waiting.claim(&HeaderMap::new(), 1).await });
    while service.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let refused = service.claim(&HeaderMap::new(), 1).await.unwrap_err();
    assert_eq!(refused, NotClaimed::QueueFull);
    switch(&service, "r2");
    let claimed = first.await.unwrap().unwrap();
    assert_eq!(&*claimed.claim.revision().name, "r2");
}

#[tokio::test]
async fn a_pause_that_nobody_ends_ends_by_itself() {
    let service = Service::for_tests("web");
    service.pause(Duration::from_millis(20));
    assert!(service.is_paused());
    let claimed = service.claim(&HeaderMap::new(), 1).await.unwrap();
    assert_eq!(&*claimed.claim.revision().name, "r1");
}
