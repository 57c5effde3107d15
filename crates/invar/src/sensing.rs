//! Containers of the engines as the sensor takes them.

use anyhow::Context as _;
use invar_drift::Namespace;
use invar_engine::{Container, Engine, State};
use invar_sensor::{Event, Place, Target, UpperDirectory};

use crate::printer;

/// What the sensor needs of a container; `None` when it does not run.
pub(crate) fn target(
    engine: &dyn Engine,
    container: &Container,
    block: bool,
) -> anyhow::Result<Option<Target>> {
    let (State::Running, Some(init)) = (&container.state, container.init_pid) else {
        return Ok(None);
    };
    let root = engine
        .open_root(&container.id)
        .with_context(|| format!("could not open the root of {}", container.name))?;
    // A process that has just ended, or a root that is no overlay, keeps no marks.
    let namespace = invar_drift::namespace_of(init).ok().flatten();
    Ok(Some(Target {
        place: Place {
            id: container.id.as_str().to_owned(),
            name: container.name.as_str().to_owned(),
            engine: container.engine.to_owned(),
        },
        init,
        lower: root.lower,
        upper: root.upper.map(|upper| UpperDirectory {
            dir: upper.dir,
            path: upper.path,
        }),
        namespace: namespace.unwrap_or(Namespace::Trusted),
        block,
    }))
}

/// An event on one line: how bad, what, where, why, and who.
pub(crate) fn line(event: &Event) -> String {
    let path = printer::escape(&event.path);
    let from = event.from.as_ref().map_or_else(String::new, |from| {
        format!(" (from {})", printer::escape(from))
    });
    let finding = event
        .finding
        .as_ref()
        .map_or_else(String::new, |finding| format!(": {}", finding.text));
    let reason = event
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(", {reason}"));
    format!(
        "{:<8} {:<12} {}:{path}{from}{finding}{reason}  {}",
        event.severity,
        event.what.as_str(),
        event.container.name,
        who(event)
    )
}

fn who(event: &Event) -> String {
    let Some(actor) = &event.actor else {
        return match event.pid {
            0 => "by: not seen".to_owned(),
            pid => format!("by: pid {pid}, ended before it could be looked at"),
        };
    };
    let command = if actor.argv.is_empty() {
        actor.exe.clone()
    } else {
        actor.argv.join(" ")
    };
    // A whole script on a command line would hide the rest of the list.
    let short: String = command.chars().take(80).collect();
    let parents: Vec<&str> = actor
        .ancestry
        .iter()
        .take(3)
        .map(|parent| parent.name.as_str())
        .collect();
    format!(
        "by: {short} (pid {}, uid {}, {}, below {})",
        actor.pid,
        actor.uid,
        actor.session.text(),
        parents.join(" < ")
    )
}
