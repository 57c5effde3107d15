//! The kernel itself.

use super::{Finding, Group};

/// The oldest kernel with everything that has no substitute: `mount_setattr(2)` came with 5.12,
/// and 5.15 is the oldest that distributions still keep.
const OLDEST: (u32, u32) = (5, 15);

pub(super) fn check(findings: &mut Vec<Finding>) {
    let mut group = Group {
        name: "kernel",
        findings,
    };
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let is_new = parse(&release).is_none_or(|version| version >= OLDEST);
    group.needed(
        "linux",
        if is_new { Ok(release) } else { Err(release) },
        "Linux 5.15 or newer is needed: update the kernel",
    );
    group.needed(
        "recursive_read_only",
        invar_sys::probe::recursive_read_only().map(|()| "mount_setattr with everything below"),
        "needs Linux 5.12: without it a mount below a read-only volume would stay writable",
    );
}

/// Major and minor of `6.1.0-18-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        for (release, expected) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0-1051-aws", Some((5, 15))),
            ("6.12+", Some((6, 12))),
            ("strange", None),
        ] {
            assert_eq!(parse(release), expected, "{release}");
        }
    }
}
