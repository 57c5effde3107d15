//! The drill: attacks two throw-away containers and proves each defence on this host.
//!
//! ```text
//!  stage ─▶ target ─▶ read-only container ─▶ attack ─▶ every deed is refused
//!             │
//!             └─────▶ writable container ──▶ attack ─▶ refuse ─▶ compare ─▶ capture ─▶ tamper ─▶ replace
//!                                              an agent does all of it once more, on its own ◀─┘
//!                                              and once more on Docker, where there is one
//! ```
//!
//! Everything happens in a state root of its own, which is gone at the end, also after a failure
//! and after Ctrl-C. Nothing is claimed that was not checked: a [`report::Step`] holds claims, and
//! the drill succeeds only when all of them hold.

pub(crate) mod app;
mod attack;
mod comparison;
mod docker;
mod prevention;
mod proof;
mod report;
mod response;
mod site;
mod stage;
mod target;

use std::path::Path;
use std::process::ExitCode;

use crate::exit::FOUND;
use crate::printer::Format;

use self::report::Report;
use self::site::Site;
use self::stage::Stage;
use self::target::Target;

/// What to drill, and how to tell of it.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The user's state root, which holds the image; nothing else of it is read or written.
    pub(crate) root: &'a Path,
    /// The image; `None` for one made of this program.
    pub(crate) image: Option<&'a str>,
    /// How the report is written.
    pub(crate) format: Format,
    /// Whether the stage stays for a look.
    pub(crate) keep: bool,
}

/// Rehearses the whole loop; 0 when every claim holds, 3 when one does not.
pub(crate) fn run(plan: &Plan<'_>) -> anyhow::Result<ExitCode> {
    let mut report = Report::new(plan.format);
    let stage = Stage::set_up(plan.keep)?;
    let played = play(plan, &stage, &mut report);
    if let Some(code) = stage.interrupted() {
        stage.clear()?;
        report.interrupted();
        return Ok(ExitCode::from(code));
    }
    let cleared = report.step("everything is cleared away", |step| stage.clear_all(step));
    report.finish()?;
    played?;
    cleared?;
    Ok(if report.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND)
    })
}

fn play(plan: &Plan<'_>, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let target = report.step("an image is taken on stage", |step| {
        Target::prepare(plan, stage, step)
    })?;
    let (strict, loose) = report.step("two containers of it serve a page", |step| {
        let strict = Site::open(stage, &target, false)?;
        let loose = Site::open(stage, &target, true)?;
        for site in [&strict, &loose] {
            step.claim(
                site.serves(target.page_content()),
                format!("the {} one serves it as built", site.kind()),
            );
        }
        Ok((strict, loose))
    })?;
    report.step("an attacker is root in the read-only one", |step| {
        attack::on_read_only(stage, &target, &strict, step)
    })?;
    report.step("the same attacker is root in the writable one", |step| {
        attack::on_writable(stage, &target, &loose, step)
    })?;
    report.step("the sensor refuses what was dropped", |step| {
        prevention::check(&target, &loose, step)
    })?;
    report.step("invar diff says what changed", |step| {
        comparison::check(&target, &loose, step)
    })?;
    let (evidence, fresh) = report.step("the container is captured and replaced", |step| {
        proof::replace(stage, &target, &loose, step)
    })?;
    report.step("the evidence is verified", |step| {
        proof::verify(stage, &evidence, step)
    })?;
    report.step("a copy of the evidence is forged", |step| {
        proof::tamper(stage, &target, &evidence, step)
    })?;
    report.step("the agent responds to the next attack on its own", |step| {
        response::check(stage, &target, &fresh, &response::OF_STAGE, step)
    })?;
    report.step("a container of Docker is attacked", |step| {
        docker::check(stage, &target, step)
    })
}
