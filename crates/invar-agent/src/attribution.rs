//! Who changed what, as far as an agent has seen it, and how sure that is.

use std::collections::HashMap;
use std::path::Path;

use invar_drift::escape;
use invar_engine::ContainerId;
use invar_evidence::Witness;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::error::Result;
use crate::journal::{Journal, Seen, Watch};

/// How sure it is who changed a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sureness {
    /// The deed was seen when it was done.
    SeenLive,
    /// Seen of a directory above, which came to be with all that is in it.
    Inferred,
    /// It was changed before the agent watched.
    BeforeTheAgent,
    /// The agent lost events, and this may be one of them.
    Lost,
    /// No agent has watched this container.
    NotWatched,
}

impl Sureness {
    /// As listings show it.
    pub fn text(self) -> &'static str {
        match self {
            Self::SeenLive => "seen live",
            Self::Inferred => "inferred",
            Self::BeforeTheAgent => "before the agent",
            Self::Lost => "events were lost",
            Self::NotWatched => "not watched",
        }
    }
}

/// Who changed a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attribution {
    /// How sure that is.
    pub sureness: Sureness,
    /// The last deed that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The process, also of one that ended before it could be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// All that is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<serde_json::Value>,
}

impl Attribution {
    fn of(sureness: Sureness, seen: Option<&Seen>) -> Self {
        Self {
            sureness,
            what: seen.map(|seen| seen.what.clone()),
            at: seen.map(|seen| seen.at),
            pid: seen.map(|seen| seen.pid).filter(|pid| *pid != 0),
            actor: seen.and_then(|seen| seen.actor.clone()),
        }
    }

    /// In a few words, escaped.
    pub fn text(&self) -> String {
        let sureness = self.sureness.text();
        let of_actor = |field: &str| self.actor.as_ref().and_then(|actor| actor.get(field));
        let Some(exe) = of_actor("exe").and_then(|exe| exe.as_str()) else {
            return match self.pid {
                Some(pid) => format!("pid {pid}, which has ended ({sureness})"),
                None => format!("unknown ({sureness})"),
            };
        };
        let uid = of_actor("uid").and_then(serde_json::Value::as_u64);
        let uid = uid.map_or_else(String::new, |uid| format!(", uid {uid}"));
        let session = of_actor("session").and_then(|session| session["kind"].as_str());
        let session = match session {
            Some("exec") => ", exec session",
            Some("host") => ", from the host",
            _ => "",
        };
        let pid = self.pid.unwrap_or(0);
        format!("{exe} (pid {pid}{uid}{session}; {sureness})")
    }
}

/// Who changed each of these paths.
pub fn attributions<'p>(
    root: &Path,
    container: &ContainerId,
    paths: impl Iterator<Item = &'p [u8]>,
) -> Result<Vec<Attribution>> {
    let Some(journal) = Journal::open_existing(root)? else {
        return Ok(paths.map(|_| nobody()).collect());
    };
    let Some(watch) = journal.watch_of(container.as_str())? else {
        return Ok(paths.map(|_| nobody()).collect());
    };
    let mut seen = HashMap::new();
    journal.actors(container.as_str(), &mut |one| {
        seen.insert(one.path.clone(), one);
    })?;
    Ok(paths.map(|path| one(path, &seen, &watch)).collect())
}

fn nobody() -> Attribution {
    Attribution::of(Sureness::NotWatched, None)
}

fn one(path: &[u8], seen: &HashMap<Vec<u8>, Seen>, watch: &Watch) -> Attribution {
    if let Some(found) = seen.get(path) {
        return Attribution::of(Sureness::SeenLive, Some(found));
    }
    let mut above = path;
    while let Some(slash) = above
        .iter()
        .rposition(|byte| *byte == b'/')
        .filter(|at| *at > 0)
    {
        above = &above[..slash];
        if let Some(found) = seen.get(above)
            && matches!(found.what.as_str(), "create" | "rename" | "delete")
        {
            return Attribution::of(Sureness::Inferred, Some(found));
        }
    }
    let sureness = if watch.dropped > 0 {
        Sureness::Lost
    } else {
        Sureness::BeforeTheAgent
    };
    Attribution::of(sureness, None)
}

/// What evidence keeps of this: a line about the watch, then one for each path.
pub fn witness(root: &Path) -> Box<Witness> {
    let root = root.to_owned();
    Box::new(move |container| lines(&root, container).ok().flatten())
}

fn lines(root: &Path, container: &ContainerId) -> Result<Option<Vec<u8>>> {
    let Some(journal) = Journal::open_existing(root)? else {
        return Ok(None);
    };
    let Some(watch) = journal.watch_of(container.as_str())? else {
        return Ok(None);
    };
    let mut out = Vec::new();
    let mut add = |line: serde_json::Value| {
        out.extend(line.to_string().into_bytes());
        out.push(b'\n');
    };
    add(json!({
        "format": "invar-witness", "version": 1, "watched_since": watch.since,
        "events_lost": watch.dropped,
    }));
    journal.actors(container.as_str(), &mut |seen| {
        let attribution = Attribution::of(Sureness::SeenLive, Some(&seen));
        let mut line = serde_json::to_value(attribution).unwrap_or_default();
        line["path"] = json!(escape(&seen.path));
        add(line);
    })?;
    Ok(Some(out))
}
