//! What was dropped is refused before its first instruction, and who tried is seen.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use invar_drift::Rules;
use invar_sensor::{Event, Guarding, Sensor, Session, Settings, What};
use rustix::io::Errno;

use super::attack::PROGRAM;
use super::report::Step;
use super::site::Site;
use super::target::Target;
use crate::sensing;

/// How long an event may take to arrive.
const PATIENCE: Duration = Duration::from_secs(2);

/// Blocks what is not of the image and runs the dropped program, which ran a moment ago.
pub(super) fn check(target: &Target, site: &Site<'_>, step: &mut Step) -> anyhow::Result<()> {
    let container = site.engine().inspect(site.id().as_str())?;
    let watched = invar_agent::target(site.engine(), &container, true, Vec::new())?;
    let watched = watched.context("the container ended")?;
    let mut sensor = Sensor::start(Settings {
        rules: Rules::builtin(),
        allow: Vec::new(),
        guard: Guarding::WhileItLives,
    })?;
    sensor.watch(&watched)?;
    let code = site.exec(&["run", PROGRAM])?;
    step.claim(
        i32::from(code) == Errno::PERM.raw_os_error(),
        format!("{PROGRAM}, which ran before, is refused before its first instruction"),
    );
    let event = refusal(&sensor);
    if let Some(event) = &event {
        step.show(&sensing::line(event));
    }
    let actor = event.and_then(|event| event.actor);
    let came_by_exec = actor
        .as_ref()
        .is_some_and(|actor| matches!(actor.session, Session::Exec { .. }));
    step.claim(
        came_by_exec && actor.is_some_and(|actor| actor.uid == 0 && !actor.argv.is_empty()),
        "who tried is seen: the process, its user, and that it came in by exec",
    );
    let page = site.page()?;
    step.claim(
        page.len() == target.page_content().len(),
        "the container goes on serving",
    );
    Ok(())
}

fn refusal(sensor: &Sensor) -> Option<Event> {
    let events = sensor.events();
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let taken = events.take(PATIENCE);
        let is_refusal =
            |event: &Event| event.what == What::ExecBlocked && event.path == PROGRAM.as_bytes();
        if let Some(event) = taken.into_iter().find(is_refusal) {
            return Some(event);
        }
    }
    None
}
