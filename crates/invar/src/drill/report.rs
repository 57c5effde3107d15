//! What the drill tells: steps with their times, claims that hold or do not, and what was seen.

use std::time::{Duration, Instant};

use owo_colors::{AnsiColors, OwoColorize as _, Stream};
use serde::Serialize;

use crate::printer::{self, Format};

/// Width of a step's title before its time.
const TITLE_WIDTH: usize = 66;

/// One statement that was checked.
#[derive(Debug, Serialize)]
struct Claim {
    #[serde(rename = "claim")]
    text: String,
    holds: bool,
}

/// One part of the drill.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    #[serde(rename = "step")]
    number: usize,
    title: String,
    milliseconds: f64,
    claims: Vec<Claim>,
    seen: Vec<String>,
    /// All of it as people read it.
    #[serde(skip)]
    lines: Vec<String>,
}

impl Step {
    /// States something, with whether it holds.
    pub(super) fn claim(&mut self, holds: bool, claim: impl Into<String>) {
        let text = claim.into();
        let (mark, color) = if holds {
            ("✓", AnsiColors::Green)
        } else {
            ("✗", AnsiColors::BrightRed)
        };
        let mark = mark.if_supports_color(Stream::Stdout, |mark| mark.color(color));
        self.lines.push(format!("     {mark} {text}"));
        self.claims.push(Claim { text, holds });
    }

    /// Shows what was found, as it would be shown elsewhere.
    pub(super) fn show(&mut self, text: &str) {
        self.lines.push(format!("       {text}"));
        self.seen.push(text.to_owned());
    }

    /// Its title and time on one line, then all the rest.
    fn print(&self, took: Duration) {
        let title = format!("{:<TITLE_WIDTH$}", self.title);
        let title = title.if_supports_color(Stream::Stdout, |title| title.bold());
        let time = format!("{:>8}", time(took));
        let time = time.if_supports_color(Stream::Stdout, |time| time.dimmed());
        let head = format!("{:>3}  {title} {time}", self.number);
        let lines = std::iter::once(head).chain(self.lines.iter().cloned());
        // A reader that went away must not keep the stage from being cleared.
        printer::lines(lines).ok();
    }
}

/// The whole drill, as one JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    holds: bool,
    milliseconds: f64,
    steps: Vec<Step>,
    #[serde(skip)]
    format: Format,
    #[serde(skip)]
    began: Instant,
}

impl Report {
    pub(super) fn new(format: Format) -> Self {
        Self {
            holds: true,
            milliseconds: 0.0,
            steps: Vec::new(),
            format,
            began: Instant::now(),
        }
    }

    /// Does one part and tells of it, also when it fails.
    pub(super) fn step<T>(
        &mut self,
        title: &str,
        play: impl FnOnce(&mut Step) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut step = Step {
            number: self.steps.len() + 1,
            title: title.to_owned(),
            milliseconds: 0.0,
            claims: Vec::new(),
            seen: Vec::new(),
            lines: Vec::new(),
        };
        let began = Instant::now();
        let outcome = play(&mut step);
        let took = began.elapsed();
        step.milliseconds = milliseconds(took);
        if self.format == Format::Table {
            step.print(took);
        }
        self.holds &= outcome.is_ok() && step.claims.iter().all(|claim| claim.holds);
        self.steps.push(step);
        outcome
    }

    /// Whether every claim so far holds.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// Writes what is left to say.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.milliseconds = milliseconds(self.began.elapsed());
        match self.format {
            Format::Json => printer::json(self)?,
            Format::Jsonl => printer::jsonl(&self.steps)?,
            Format::Table => self.summarize()?,
        }
        Ok(())
    }

    /// Tells that it was ended early.
    pub(super) fn interrupted(&self) {
        printer::note(format!(
            "interrupted after {} steps; everything is cleared away",
            self.steps.len()
        ));
    }

    fn summarize(&self) -> anyhow::Result<()> {
        let all: usize = self.steps.iter().map(|step| step.claims.len()).sum();
        let broken = self.steps.iter().flat_map(|step| &step.claims);
        let broken: Vec<&Claim> = broken.filter(|claim| !claim.holds).collect();
        let time = time(self.began.elapsed());
        printer::line("")?;
        if broken.is_empty() && !self.holds {
            printer::line("The drill did not come to its end.")?;
            return Ok(());
        }
        if broken.is_empty() {
            let text = format!("All {all} claims hold on this host ({time}).");
            let text = text.if_supports_color(Stream::Stdout, |text| text.green());
            printer::line(text.to_string())?;
            return Ok(());
        }
        let text = format!("{} of {all} claims do not hold on this host:", broken.len());
        let text = text.if_supports_color(Stream::Stdout, |text| text.bright_red());
        printer::line(text.to_string())?;
        for claim in broken {
            printer::line(format!("  {}", claim.text))?;
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn time(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else if time < Duration::from_secs(10) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
