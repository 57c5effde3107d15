//! Events of the sensor as people read them.

use invar_sensor::Event;

use crate::printer;

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
