//! What was decided, readable afterwards: values for a list, and one page of HTML with charts.

use std::fmt::Write as _;

use serde::Serialize;

use crate::driver::{Result, Store};
use crate::machine::{Decision, Phase};

/// One rollout and its decisions.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// Counts the rollouts of the service.
    pub number: u64,
    /// The new revision.
    pub target: String,
    /// The one before.
    pub stable: Option<String>,
    /// Where it ended, or is.
    #[serde(flatten)]
    pub phase: Phase,
    /// Oldest first.
    pub decisions: Vec<Decision>,
}

/// Every rollout of a service, oldest first.
pub fn read(store: &Store, service: &str) -> Result<Vec<Told>> {
    let mut all = Vec::new();
    for rollout in store.rollouts(service)? {
        all.push(Told {
            decisions: store.decisions(service, rollout.number)?,
            number: rollout.number,
            target: rollout.target,
            stable: rollout.stable,
            phase: rollout.phase,
        });
    }
    Ok(all)
}

/// One page that loads nothing: newest rollout first, a chart of each that has numbers.
pub fn html(service: &str, all: &[Told]) -> String {
    let mut page = String::new();
    let service = text(service);
    add(
        &mut page,
        format_args!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{service}</title>\
         <style>{STYLE}</style><h1>{service}</h1>\n"
        ),
    );
    for told in all.iter().rev() {
        rollout(&mut page, told);
    }
    page + "</html>\n"
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse;width:100%}\
td{padding:.2rem .6rem;border-top:1px solid #ddd;vertical-align:top}td:first-child{white-space:nowrap}\
svg{width:100%;height:auto;background:#fafafa;border:1px solid #ddd}.new{stroke:#c2410c}\
.before{stroke:#2563eb}.weight{fill:#e5e7eb;stroke:none}.line{fill:none;stroke-width:2}\
small{color:#666}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}\
svg{background:#222;border-color:#444}td{border-color:#444}.weight{fill:#374151}}";

fn rollout(page: &mut String, told: &Told) {
    let from = told.stable.as_deref().unwrap_or("nothing");
    let outcome = match &told.phase {
        Phase::Promoted => "promoted".to_owned(),
        Phase::RolledBack { why } => format!("rolled back: {why}"),
        _ => "under way".to_owned(),
    };
    add(
        page,
        format_args!(
            "<h2>Rollout {}: {} → {}</h2><p>{}</p>\n",
            told.number,
            text(from),
            text(&told.target),
            text(&outcome)
        ),
    );
    chart(page, &told.decisions);
    *page += "<table>\n";
    for decision in told
        .decisions
        .iter()
        .filter(|decision| decision.kind != "look")
    {
        let at = i64::try_from(decision.at_ms).unwrap_or(i64::MAX);
        let at = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let numbers = decision.numbers.as_ref().map_or(String::new(), |numbers| {
            format!(
                "<br><small>new {} of {} failed, before {} of {}; evidence errors {:.2} of 25, \
                 latency {:.2} of 100; excess at most {:.2} %</small>",
                numbers.canary_errors,
                numbers.canary_requests,
                numbers.baseline_errors,
                numbers.baseline_requests,
                numbers.errors_evidence,
                numbers.latency_evidence,
                numbers.excess_bound * 100.0
            )
        });
        add(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td>{:.2} %<td>{}{numbers}\n",
                at.strftime("%Y-%m-%d %H:%M:%S"),
                text(&decision.kind),
                f64::from(decision.weight) / 100.0,
                text(&decision.text)
            ),
        );
    }
    *page += "</table>\n";
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 200.0;

/// Error rates of both sides over time, above the weight of the new revision.
fn chart(page: &mut String, decisions: &[Decision]) {
    let (Some(first), Some(last)) = (decisions.first(), decisions.last()) else {
        return;
    };
    let points: Vec<(f64, f64, f64)> = decisions
        .iter()
        .filter_map(|decision| {
            let numbers = decision.numbers.as_ref()?;
            let rate = |errors: u64, requests: u64| ratio(errors, requests.max(1));
            Some((
                ratio(
                    decision.at_ms - first.at_ms,
                    (last.at_ms - first.at_ms).max(1),
                ),
                rate(numbers.canary_errors, numbers.canary_requests),
                rate(numbers.baseline_errors, numbers.baseline_requests),
            ))
        })
        .collect();
    if points.is_empty() {
        return;
    }
    let highest = points
        .iter()
        .map(|(_, new, old)| new.max(*old))
        .fold(0.01, f64::max);
    add(
        page,
        format_args!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"error rates over time\">\n",
            HEIGHT + 20.0
        ),
    );
    weights(page, decisions);
    for (class, rate) in [("new", 1), ("before", 2)] {
        let mut path = String::new();
        for point in &points {
            let y = if rate == 1 { point.1 } else { point.2 };
            write!(
                path,
                "{:.1},{:.1} ",
                point.0 * WIDTH,
                HEIGHT * (1.0 - y / highest)
            )
            .expect("writing to a String succeeds");
        }
        add(
            page,
            format_args!("<polyline class=\"line {class}\" points=\"{path}\"/>\n"),
        );
    }
    add(
        page,
        format_args!(
            "<text x=\"4\" y=\"14\" font-size=\"12\" fill=\"currentColor\">{:.2} % errors</text>\
         <text x=\"4\" y=\"{}\" font-size=\"12\" fill=\"currentColor\">orange: new, blue: before, \
         grey: share of the traffic</text></svg>\n",
            highest * 100.0,
            HEIGHT + 15.0
        ),
    );
}

fn weights(page: &mut String, decisions: &[Decision]) {
    let (Some(first), Some(last)) = (decisions.first(), decisions.last()) else {
        return;
    };
    let whole = (last.at_ms - first.at_ms).max(1);
    for pair in decisions.windows(2) {
        let (from, to) = (pair[0].at_ms - first.at_ms, pair[1].at_ms - first.at_ms);
        let height = HEIGHT * f64::from(pair[0].weight) / 10_000.0;
        add(
            page,
            format_args!(
                "<rect class=\"weight\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>\n",
                ratio(from, whole) * WIDTH,
                HEIGHT - height,
                ratio(to.saturating_sub(from), whole) * WIDTH
            ),
        );
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds of a rollout and counts of requests stay below 2^53"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn add(page: &mut String, more: std::fmt::Arguments<'_>) {
    page.write_fmt(more).expect("writing to a String succeeds");
}

/// Text that cannot end up as markup.
fn text(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Numbers;

    #[test]
    fn a_page_holds_every_decision_and_loads_nothing() {
        let decision = |at_ms, kind: &str, said: &str, numbers| Decision {
            at_ms,
            kind: kind.to_owned(),
            text: said.to_owned(),
            weight: 1_000,
            numbers,
        };
        let numbers = Numbers {
            canary_requests: 100,
            canary_errors: 3,
            ..Numbers::default()
        };
        let told = Told {
            number: 7,
            target: "new".to_owned(),
            stable: Some("old".to_owned()),
            phase: Phase::RolledBack {
                why: "<script>alert(1)</script>".to_owned(),
            },
            decisions: vec![
                decision(1_000, "trial", "it is well & gets 10 %", None),
                decision(2_000, "look", "hidden", Some(numbers.clone())),
                decision(3_000, "reverting", "it failed", Some(numbers)),
            ],
        };
        let page = html("shop.web", &[told]);
        for wanted in [
            "Rollout 7: old → new",
            "&lt;script&gt;",
            "well &amp; gets",
            "<polyline",
            "3 of 100",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        for unwanted in ["<script", "http", "hidden", "src="] {
            assert!(!page.contains(unwanted), "{unwanted}: {page}");
        }
    }
}
