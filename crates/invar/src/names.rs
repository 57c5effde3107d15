//! Names for containers that were given none: an adjective and a thing that does not change.

const ADJECTIVES: &[&str] = &[
    "amber", "brisk", "calm", "candid", "civil", "clear", "daring", "eager", "early", "exact",
    "fair", "firm", "fresh", "gentle", "golden", "grand", "honest", "humble", "keen", "kind",
    "lively", "lucid", "mellow", "modest", "neat", "noble", "patient", "plain", "polite", "prime",
    "proud", "quick", "quiet", "rapid", "ready", "serene", "sharp", "silent", "silver", "simple",
    "sober", "solid", "stable", "steady", "still", "strong", "sunny", "swift", "tidy", "tranquil",
    "true", "upright", "vivid", "warm", "wise", "witty",
];

const THINGS: &[&str] = &[
    "anchor",
    "anvil",
    "arch",
    "basalt",
    "beacon",
    "bedrock",
    "bell",
    "boulder",
    "bridge",
    "cairn",
    "castle",
    "cedar",
    "cliff",
    "column",
    "compass",
    "crystal",
    "delta",
    "diamond",
    "dune",
    "ember",
    "flint",
    "fjord",
    "glacier",
    "granite",
    "harbor",
    "island",
    "keel",
    "keystone",
    "lantern",
    "ledger",
    "lighthouse",
    "marble",
    "meadow",
    "mesa",
    "monolith",
    "mountain",
    "oak",
    "obelisk",
    "onyx",
    "pebble",
    "pillar",
    "plateau",
    "pyramid",
    "quarry",
    "quartz",
    "reef",
    "ridge",
    "rock",
    "sequoia",
    "shore",
    "slate",
    "stone",
    "summit",
    "temple",
    "tower",
    "valley",
    "vault",
    "wall",
];

/// A random name such as `steady_granite`; not necessarily free.
pub(crate) fn random() -> String {
    let adjective = ADJECTIVES[rand::random_range(..ADJECTIVES.len())];
    let thing = THINGS[rand::random_range(..THINGS.len())];
    format!("{adjective}_{thing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_random_name_is_a_valid_name() {
        for word in ADJECTIVES.iter().chain(THINGS) {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
        }
        assert!(invar_engine::ContainerName::parse(&random()).is_ok());
    }
}
