//! The counters in the Prometheus text format (version 0.0.4).

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use super::{GatewayMetrics, LATENCY_BOUNDS, RevisionCounts};
use crate::traffic::table::Table;

/// One revision's numbers and the labels they are shown with.
struct Row {
    labels: String,
    counts: RevisionCounts,
    in_flight: u64,
    usable: u64,
}

type Pick = fn(&Row) -> u64;

/// What a revision has one number of.
const OF_REVISION: [(&str, &str, Pick); 12] = [
    ("in_flight", "gauge", |row| row.in_flight),
    ("endpoints_usable", "gauge", |row| row.usable),
    ("received_bytes_total", "counter", |row| row.counts.received),
    ("sent_bytes_total", "counter", |row| row.counts.sent),
    ("upstream_errors_total", "counter", |row| {
        row.counts.upstream_errors
    }),
    ("retries_total", "counter", |row| row.counts.retries),
    ("client_gone_total", "counter", |row| row.counts.client_gone),
    ("broken_answers_total", "counter", |row| row.counts.broken),
    ("mirrored_total", "counter", |row| row.counts.mirrored),
    ("mirror_skipped_total", "counter", |row| {
        row.counts.mirror_skipped
    }),
    ("mirror_failed_total", "counter", |row| {
        row.counts.mirror_failed
    }),
    ("tunnels_total", "counter", |row| row.counts.tunnels),
];

impl GatewayMetrics {
    /// All metrics as text.
    pub(crate) fn render(&self, table: &Table) -> String {
        let mut text = Text(String::with_capacity(16 * 1024));
        let of_gateway = [
            ("connections_total", "counter", &self.connections),
            ("connections_open", "gauge", &self.open_connections),
            ("requests_refused_total", "counter", &self.refused),
            ("tls_failures_total", "counter", &self.tls_failures),
            ("client_timeouts_total", "counter", &self.timeouts),
            (
                "log_lines_dropped_total",
                "counter",
                &self.log_lines_dropped,
            ),
            ("leases_expired_total", "counter", &self.leases_expired),
        ];
        for (name, kind, value) in of_gateway {
            text.family(name, kind);
            text.sample(name, "", value.load(Relaxed));
        }
        let rows = rows(table);
        text.family("requests_total", "counter");
        for row in &rows {
            for (code, count) in &row.counts.codes {
                let labels = format!("{},code=\"{code}\"", row.labels);
                text.sample("requests_total", &labels, count);
            }
        }
        text.family("request_seconds", "histogram");
        for row in &rows {
            text.histogram("request_seconds", row);
        }
        for (name, kind, pick) in OF_REVISION {
            text.family(name, kind);
            for row in &rows {
                text.sample(name, &row.labels, pick(row));
            }
        }
        text.0
    }
}

fn rows(table: &Table) -> Vec<Row> {
    let mut rows = Vec::new();
    for service in table.services.values() {
        for revision in &service.traffic().revisions {
            let is_usable = |endpoint: &&_| {
                let endpoint: &std::sync::Arc<crate::traffic::endpoint::Endpoint> = endpoint;
                !endpoint.is_down() && !endpoint.is_ejected()
            };
            let usable = revision.endpoints.iter().filter(is_usable).count();
            rows.push(Row {
                // Names are letters, digits, '-', '_' and '.': nothing to escape.
                labels: format!(
                    "service=\"{}\",revision=\"{}\"",
                    service.name, revision.name
                ),
                counts: revision.metrics.counts(),
                in_flight: revision.in_flight(),
                usable: u64::try_from(usable).unwrap_or(0),
            });
        }
    }
    rows
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str) {
        self.line(format_args!("# TYPE invar_gateway_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        if labels.is_empty() {
            self.line(format_args!("invar_gateway_{name} {value}"));
        } else {
            self.line(format_args!("invar_gateway_{name}{{{labels}}} {value}"));
        }
    }

    fn histogram(&mut self, name: &str, row: &Row) {
        let bucket = format!("{name}_bucket");
        let mut sum = 0;
        for (bound, count) in LATENCY_BOUNDS.iter().zip(&row.counts.latency) {
            sum += count;
            let labels = format!("{},le=\"{}\"", row.labels, seconds(*bound));
            self.sample(&bucket, &labels, sum);
        }
        sum += row.counts.latency.last().unwrap_or(&0);
        self.sample(&bucket, &format!("{},le=\"+Inf\"", row.labels), sum);
        let total = seconds(row.counts.latency_sum_us);
        self.sample(&format!("{name}_sum"), &row.labels, total);
        self.sample(&format!("{name}_count"), &row.labels, sum);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a String succeeds");
    }
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
