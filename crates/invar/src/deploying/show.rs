//! Plans and outcomes as people and programs read them.

use std::io;

use invar_rollout::driver::Outcome;
use invar_rollout::machine::{Decision, Phase, Rollout};
use invar_rollout::{Change, Plan};
use serde::Serialize;

use crate::printer;

/// One service of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    pub(crate) service: String,
    pub(crate) revision: String,
    #[serde(flatten)]
    pub(crate) plan: Plan,
}

/// One service after a command.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    pub(crate) service: String,
    /// `unchanged`, `busy`, `promoted`, `rolled_back`, `removed`.
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    /// The revision that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rollout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

impl Ended {
    pub(crate) fn of(service: &str, outcome: &Outcome) -> Self {
        let mut ended = Self {
            service: service.to_owned(),
            outcome: "unchanged",
            revision: None,
            target: None,
            rollout: None,
            why: None,
        };
        match outcome {
            Outcome::Unchanged => {}
            Outcome::Busy => ended.outcome = "busy",
            Outcome::Removed => ended.outcome = "removed",
            Outcome::Ended(rollout) => {
                let (outcome, why) = match &rollout.phase {
                    Phase::RolledBack { why } => ("rolled_back", Some(why.clone())),
                    _ => ("promoted", None),
                };
                ended.outcome = outcome;
                ended.why = why;
                ended.revision = serving(rollout);
                ended.target = Some(rollout.target.clone());
                ended.rollout = Some(rollout.number);
            }
        }
        ended
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.outcome == "rolled_back"
    }

    /// In one sentence.
    pub(crate) fn sentence(&self) -> String {
        let service = &self.service;
        let revision = self.revision.as_deref().unwrap_or("nothing");
        match self.outcome {
            "unchanged" => format!("{service}: runs as the file says"),
            "busy" => format!("{service}: another command is at work on it; see: invar status"),
            "removed" => format!("{service}: is not served any more, and its containers are gone"),
            "promoted" => format!("{service}: {revision} serves"),
            _ => {
                let why = self.why.as_deref().unwrap_or("no reason was stored");
                let target = self.target.as_deref().unwrap_or("it");
                format!(
                    "{service}: {target} was rolled back, {revision} serves: {}",
                    escape(why)
                )
            }
        }
    }
}

fn serving(rollout: &Rollout) -> Option<String> {
    match rollout.phase {
        Phase::RolledBack { .. } => rollout.stable.clone(),
        _ => Some(rollout.target.clone()),
    }
}

/// A decision as it happens.
pub(crate) fn decision(service: &str, decision: &Decision) {
    // Looks are for the history.
    if decision.kind != "look" {
        printer::note(format!("{service}: {}", escape(&decision.text)));
    }
}

/// A plan, service by service, each change below it.
pub(crate) fn plans(all: &[Planned]) -> io::Result<()> {
    let mut lines = Vec::new();
    for planned in all {
        let service = &planned.service;
        let (what, changes): (&str, &[Change]) = match &planned.plan {
            Plan::Keep => ("stays as it is", &[]),
            Plan::Create => ("is new", &[]),
            Plan::Replace { changes } => ("is replaced", changes),
            Plan::Adjust { changes } => ("is adjusted", changes),
        };
        lines.push(format!("{service} {what} ({})", planned.revision));
        for change in changes {
            lines.push(format!(
                "  {}: {} → {}",
                escape(&change.input),
                escape(&change.from),
                escape(&change.to)
            ));
        }
    }
    printer::lines(lines.into_iter())
}

pub(crate) fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    printer::escape(text.as_bytes())
}
