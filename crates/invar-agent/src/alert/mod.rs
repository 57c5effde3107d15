//! What people and programs are told.

mod format;
mod syslog;
mod webhook;

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use invar_drift::{Severity, escape};
use invar_sensor::Event;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::syslog::Syslog;
pub(crate) use self::webhook::Courier;
use crate::journal::Journal;
use crate::policy::Alerts;

/// How alerts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object with everything.
    Invar,
    /// An OCSF 1.3 detection finding.
    Ocsf,
    /// The Common Event Format.
    Cef,
    /// Invar's object with a `text` that Slack and its like show.
    Slack,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something bad was seen; the policy asks for nothing more.
    Event,
    /// Something bad was seen, and is responded to.
    Incident,
    /// A response was finished, or failed.
    Response,
    /// The agent itself has a problem.
    Agent,
}

/// One alert.
#[derive(Debug, Clone, Serialize)]
pub struct Alert {
    /// When.
    pub time: Timestamp,
    /// About what.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// In one line, escaped.
    pub text: String,
    /// Name of the container, with its engine before a colon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Number of the incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<i64>,
    /// What was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<serde_json::Value>,
}

impl Alert {
    /// An alert about something that was seen.
    pub(crate) fn of_event(event: &Event, kind: Kind, incident: Option<i64>) -> Self {
        Self {
            time: event.time,
            kind,
            severity: event.severity,
            text: summary(event),
            container: Some(format!(
                "{}:{}",
                event.container.engine, event.container.name
            )),
            container_id: Some(event.container.id.clone()),
            incident,
            evidence: None,
            event: serde_json::to_value(event).ok(),
        }
    }

    /// An alert about the agent.
    pub(crate) fn of_agent(severity: Severity, text: String) -> Self {
        Self {
            time: Timestamp::now(),
            kind: Kind::Agent,
            severity,
            text,
            container: None,
            container_id: None,
            incident: None,
            evidence: None,
            event: None,
        }
    }
}

/// An event in one line.
pub(crate) fn summary(event: &Event) -> String {
    let path = escape(&event.path);
    let what = event.what.as_str();
    let why = match (&event.finding, &event.reason) {
        (Some(finding), _) => format!(": {}", finding.text),
        (None, Some(reason)) => format!(": {reason}"),
        (None, None) => String::new(),
    };
    let who = event.actor.as_ref().map_or_else(
        || format!("pid {}", event.pid),
        |actor| format!("{} (pid {}, uid {})", actor.exe, actor.pid, actor.uid),
    );
    format!("{what} {path} in {}{why}; by {who}", event.container.name)
}

/// Sends alerts everywhere the policy says.
#[derive(Debug)]
pub(crate) struct Sender {
    alerts: Mutex<Alerts>,
    syslog: Syslog,
    journal: Journal,
    courier: Arc<Courier>,
    failures: AtomicU64,
    sent: AtomicU64,
}

impl Sender {
    pub(crate) fn new(alerts: Alerts, journal: Journal, courier: Arc<Courier>) -> Self {
        Self {
            alerts: Mutex::new(alerts),
            syslog: Syslog::default(),
            journal,
            courier,
            failures: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    pub(crate) fn change(&self, alerts: Alerts) {
        *self.alerts.lock().unwrap_or_else(PoisonError::into_inner) = alerts;
    }

    /// Least severity of what is told without being an incident.
    pub(crate) fn least(&self) -> Severity {
        let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        alerts.severity
    }

    /// How many alerts were sent, and how often that failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (of(&self.sent), of(&self.failures))
    }

    /// Tells of something. That it cannot be told somewhere is counted, and stops nothing.
    pub(crate) fn send(&self, alert: &Alert) {
        let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = 0;
        let line = format::write(alert, alerts.format);
        if alerts.stdout && writeln!(std::io::stdout().lock(), "{line}").is_err() {
            failed += 1;
        }
        if alerts.syslog && self.syslog.send(alert, &line).is_err() {
            failed += 1;
        }
        for webhook in &alerts.webhooks {
            if alert.severity < webhook.severity {
                continue;
            }
            let body = format::write(alert, webhook.format);
            match self.journal.spool(&webhook.url, &body) {
                Ok(dropped) => failed += dropped as u64,
                Err(_) => failed += 1,
            }
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(failed, Ordering::Relaxed);
        if !alerts.webhooks.is_empty() {
            self.courier.wake();
        }
    }
}
