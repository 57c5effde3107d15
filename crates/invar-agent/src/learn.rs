//! From what a container wrote to how it could run without writing to its root.

use std::collections::BTreeMap;

use serde::Serialize;

/// Where the default of a read-only container is memory already.
const SCRATCH: [&str; 5] = ["/tmp", "/run", "/var/tmp", "/var/run", "/dev"];
/// What is made again when it is gone.
const REMADE: [&str; 3] = ["/var/cache", "/var/log", "/var/spool"];
/// What must outlive the container.
const LASTING: [&str; 5] = ["/var/lib", "/srv", "/data", "/home", "/root"];
/// What belongs to the image: programs and settings.
const OF_IMAGE: [&str; 7] = ["/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot"];
/// Paths named of one place.
const EXAMPLES: usize = 3;

/// What could hold what is written at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// Memory: gone with the container.
    Tmpfs,
    /// A volume: it outlives the container, and begins with what the image has there.
    Volume,
    /// Nothing: the change belongs into the image, or into a file mounted read-only.
    Image,
}

/// A directory that is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The directory.
    pub dir: String,
    /// What could hold it.
    pub holder: Holder,
    /// How many paths were written below it.
    pub paths: usize,
    /// Some of them.
    pub examples: Vec<String>,
    /// Why.
    pub because: &'static str,
}

/// Proposes what could hold what was written; the paths escaped, as they are shown. `has_content` says whether the image has anything in a
/// directory: memory over it would hide that.
pub fn places(written: &[String], has_content: &dyn Fn(&str) -> bool) -> Vec<Place> {
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for one in written {
        if !SCRATCH.iter().any(|top| is_in(one, top)) {
            found.entry(place_of(one)).or_default().push(one);
        }
    }
    let places = found.into_iter().map(|(dir, paths)| {
        let (holder, because) = holder(&dir, has_content);
        Place {
            holder,
            because,
            paths: paths.len(),
            examples: paths
                .iter()
                .take(EXAMPLES)
                .map(|path| (*path).to_owned())
                .collect(),
            dir,
        }
    });
    places.collect()
}

fn holder(dir: &str, has_content: &dyn Fn(&str) -> bool) -> (Holder, &'static str) {
    let is_in_any = |tops: &[&str]| tops.iter().any(|top| is_in(dir, top));
    if dir == "/" || is_in_any(&OF_IMAGE) {
        (Holder::Image, "programs and settings belong to the image")
    } else if is_in_any(&LASTING) {
        (Holder::Volume, "data that must outlive the container")
    } else if has_content(dir) {
        (Holder::Volume, "memory would hide what the image has there")
    } else if is_in_any(&REMADE) {
        (Holder::Tmpfs, "it is made again when it is gone")
    } else {
        (Holder::Tmpfs, "the image has nothing there")
    }
}

/// The directory to mount something at: deep enough to leave the rest as it is.
fn place_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let dirs = &parts[..parts.len().saturating_sub(1)];
    let deep = [
        "/var/cache",
        "/var/lib",
        "/var/log",
        "/var/spool",
        "/usr/local",
        "/home",
    ];
    let most = if deep.iter().any(|top| is_in(path, top)) {
        3
    } else {
        2
    };
    let kept = &dirs[..dirs.len().min(most)];
    format!("/{}", kept.join("/"))
}

fn is_in(path: &str, top: &str) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(paths: &[&str]) -> Vec<(String, Holder)> {
        let written: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let has_content = |dir: &str| dir == "/app/static";
        let places = places(&written, &has_content);
        places
            .into_iter()
            .map(|place| (place.dir, place.holder))
            .collect()
    }

    #[test]
    fn each_place_gets_what_fits_it() {
        let found = proposed(&[
            "/tmp/x",
            "/run/app/pid",
            "/var/cache/nginx/a/b",
            "/var/cache/nginx/c",
            "/var/lib/app/db",
            "/var/log/app.log",
            "/app/uploads/2026/a.png",
            "/app/static/x.css",
            "/etc/app.conf",
            "/cache.db",
        ]);
        let expected = [
            ("/", Holder::Image),
            ("/app/static", Holder::Volume),
            ("/app/uploads", Holder::Tmpfs),
            ("/etc", Holder::Image),
            ("/var/cache/nginx", Holder::Tmpfs),
            ("/var/lib/app", Holder::Volume),
            ("/var/log", Holder::Tmpfs),
        ];
        let expected = expected.map(|(dir, holder)| (dir.to_owned(), holder));
        assert_eq!(found, expected);
    }
}
