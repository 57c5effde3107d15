//! Which containers a listing is about: Docker's `--filter KEY=VALUE`.
//!
//! Several filters of one key mean any of them, of different keys all of them.

use std::collections::BTreeMap;

use invar_engine::{Container, State};

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Part of its name.
    Name,
    /// The beginning of its id.
    Id,
    /// A label, with or without its value.
    Label,
    /// What it is doing: created, running, paused, restarting, exited.
    Status,
    /// The image it was made from, as it was named or by digest.
    Ancestor,
    /// The code it exited with.
    Exited,
    /// What its health check says: starting, healthy, unhealthy, none.
    Health,
}

/// One filter.
pub(crate) type Filter = (Key, String);

/// Reads one filter.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let key = match key {
        "name" => Key::Name,
        "id" => Key::Id,
        "label" => Key::Label,
        "status" => Key::Status,
        "ancestor" => Key::Ancestor,
        "exited" => Key::Exited,
        "health" => Key::Health,
        _ => {
            return Err(
                "filter by name=, id=, label=, status=, ancestor=, exited= or health=".to_owned(),
            );
        }
    };
    Ok((key, value.to_owned()))
}

/// Whether the filters let a container through.
pub(crate) fn has(filters: &[Filter], container: &Container) -> bool {
    let mut by_key: BTreeMap<Key, bool> = BTreeMap::new();
    for (key, value) in filters {
        *by_key.entry(*key).or_default() |= matches(*key, value, container);
    }
    by_key.into_values().all(|is_any| is_any)
}

fn matches(key: Key, value: &str, container: &Container) -> bool {
    match key {
        // Docker's own names begin with a slash.
        Key::Name => container
            .name
            .as_str()
            .contains(value.trim_start_matches(['^', '/']).trim_end_matches('$')),
        Key::Id => container.id.as_str().starts_with(value),
        Key::Label => {
            let (name, wanted) = value
                .split_once('=')
                .map_or((value, None), |(n, v)| (n, Some(v)));
            let found = container.config.labels.get(name);
            found.is_some_and(|found| wanted.is_none_or(|wanted| wanted == found))
        }
        Key::Status => status(&container.state) == value,
        Key::Ancestor => container.config.image_name == value || container.config.image == value,
        Key::Exited => match &container.state {
            State::Exited(ended) => value.parse() == Ok(ended.code),
            _ => false,
        },
        Key::Health => {
            container
                .health
                .as_ref()
                .map_or("none", |health| health.status.as_str())
                == value
        }
    }
}

fn status(state: &State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Restarting(_) => "restarting",
        State::Exited(_) => "exited",
    }
}
