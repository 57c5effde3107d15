//! The agent sees an attack, refuses the dropped program, keeps the evidence and heals, without a
//! human.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fs_err as fs;
use invar_agent::api::client::ask;
use invar_agent::api::protocol::Ask;
use invar_engine::Container;
use serde_json::Value;

use super::attack::PROGRAM;
use super::report::Step;
use super::site::Site;
use super::stage::Stage;
use super::target::Target;
use crate::commands::agent;

/// Whose containers the agent knows, and what it does about them.
pub(super) struct Agency<'a> {
    pub(super) kind: &'static str,
    pub(super) policy: &'a str,
}

/// The containers of the stage are the only ones this agent knows.
pub(super) const OF_STAGE: Agency<'_> = Agency {
    kind: invar_engine::embedded::KIND,
    policy: "version = 1\n[alerts]\nstdout = false\n\
             [default]\nmode = \"block\"\nrespond = \"replace\"\n",
};
/// How long the agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Attacks the container and lets the agent do the rest.
pub(super) fn check(
    stage: &Stage,
    target: &Target,
    site: &Site<'_>,
    agency: &Agency<'_>,
    step: &mut Step,
) -> anyhow::Result<()> {
    stage.go_on()?;
    let settings = invar_agent::Settings {
        root: stage.root().to_owned(),
        policy: stage.root().join("agent.toml"),
        control: agent::control(stage.root()),
        guard: invar_sensor::Guarding::WhileItLives,
    };
    fs::write(&settings.policy, agency.policy)?;
    let control = settings.control.clone();
    let started = agent::agent_of(stage.root(), settings, agency.kind)?;
    let end = started.end();
    let thread = std::thread::spawn(move || started.run());
    let played = play(stage, target, site, &control, step);
    end();
    let ended = thread.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    played
}

fn play(
    stage: &Stage,
    target: &Target,
    site: &Site<'_>,
    control: &std::path::Path,
    step: &mut Step,
) -> anyhow::Result<()> {
    let old = site.engine().inspect(site.id().as_str())?;
    let is_watched = || {
        let status = ask(control, Ask::Status).ok()?;
        let mut watched = status["containers"].as_array()?.iter();
        watched
            .any(|one| one["id"].as_str() == Some(old.id.as_str()))
            .then_some(())
    };
    wait(stage, is_watched).context("the agent does not watch the container")?;
    let began = Instant::now();
    step.claim(
        site.exec(&["drop", PROGRAM])? == 0,
        format!("the attacker drops {PROGRAM}"),
    );
    // What becomes of the attempt is told by the agent: the container may end in the middle of it.
    site.exec(&["run", PROGRAM]).ok();
    let ended = || {
        let incidents = ask(control, Ask::Incidents { most: 100 }).ok()?;
        let mut incidents = incidents.as_array()?.iter();
        let own = incidents.find(|one| said(one, "container") == old.id.as_str())?;
        own["ended_at"].is_string().then(|| own.clone())
    };
    let incident = wait(stage, ended).context("the agent did not respond")?;
    step.show(&format!(
        "{}: {}",
        said(&incident, "reason"),
        said(&incident, "outcome")
    ));
    step.claim(
        said(&incident, "reason").starts_with(&format!("exec-blocked {PROGRAM} ")),
        "it is refused before its first instruction",
    );
    let fresh = site.engine().inspect(old.name.as_str())?;
    claim_healed(stage, target, site, (&old, &fresh), &incident, step);
    step.show(&format!(
        "all of it took {} ms",
        began.elapsed().as_millis()
    ));
    Ok(())
}

fn claim_healed(
    stage: &Stage,
    target: &Target,
    site: &Site<'_>,
    (old, fresh): (&Container, &Container),
    incident: &Value,
    step: &mut Step,
) {
    step.claim(
        said(incident, "container") == old.id.as_str()
            && said(incident, "reason").contains("uid 0"),
        "the agent saw it and who did it",
    );
    let evidence = said(incident, "evidence").to_owned();
    let is_sealed = stage.root().join("evidence").join(&evidence);
    step.claim(
        !evidence.is_empty() && is_sealed.join("seal.dsse.json").exists(),
        "the container was captured without a human",
    );
    let healed = site.replaced_by(fresh.id.clone());
    step.claim(
        fresh.id != old.id
            && fresh.revision == old.revision
            && healed.serves(target.page_content()),
        "and replaced: visitors get the page as built",
    );
}

fn said<'v>(incident: &'v Value, field: &str) -> &'v str {
    incident[field].as_str().unwrap_or_default()
}

/// Asks until there is an answer.
fn wait<T>(stage: &Stage, ask: impl Fn() -> Option<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        stage.go_on()?;
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("nothing came in {} seconds", PATIENCE.as_secs());
}
