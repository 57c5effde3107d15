//! How well the files of a container's root can be protected on this host.

use serde::Serialize;

use super::{Finding, works};

/// Each level has what the ones before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Level {
    /// Not even a read-only root.
    None,
    /// A read-only root.
    L0,
    /// No upper directory, and a store whose files can be made unchangeable.
    L1,
    /// The kernel checks every read against the digest the image was built with.
    L2,
    /// The image itself is signed, and the kernel refuses to run what is not.
    L3,
}

impl Level {
    /// What it means, and what the next one would add.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::None => "no read-only roots: containers cannot be kept as they were built",
            Self::L0 => {
                "read-only roots; whoever is root on the host can still change the store, which \
                 invar image fsck notices"
            }
            Self::L1 => {
                "read-only roots over a store whose file system can keep files unchangeable; a \
                 change by the host's root is noticed by invar image fsck, not prevented"
            }
            Self::L2 => {
                "read-only roots, and the kernel can check every byte when it is read: a changed \
                 file gives an error instead of a wrong byte"
            }
            Self::L3 => "signed images, checked by the kernel before anything of them runs",
        }
    }
}

/// The capabilities each level needs beside those of the one before.
const NEEDS: &[(Level, &[&str])] = &[
    (Level::L0, &["overlay"]),
    (Level::L1, &["immutable_files"]),
    (Level::L2, &["fs_verity", "overlay_verity"]),
    (Level::L3, &["dm_verity", "ipe"]),
];

pub(super) fn of(findings: &[Finding]) -> Level {
    NEEDS
        .iter()
        .take_while(|(_, needs)| needs.iter().all(|name| works(findings, name)))
        .last()
        .map_or(Level::None, |(level, _)| *level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn finding(name: &'static str) -> Finding {
        Finding {
            group: "",
            name,
            verdict: Verdict::Works,
            found: String::new(),
            how_to_get_it: None,
        }
    }

    #[test]
    fn a_level_needs_everything_of_those_below_it() {
        let table: &[(&[&'static str], Level)] = &[
            (&[], Level::None),
            (&["overlay"], Level::L0),
            (&["overlay", "fs_verity", "overlay_verity"], Level::L0),
            (&["overlay", "immutable_files", "fs_verity"], Level::L1),
            (
                &["overlay", "immutable_files", "fs_verity", "overlay_verity"],
                Level::L2,
            ),
        ];
        for (names, expected) in table {
            let findings: Vec<Finding> = names.iter().copied().map(finding).collect();
            assert_eq!(of(&findings), *expected, "{names:?}");
        }
    }
}
