//! The processes as a tree, and what is unusual about them.

use std::collections::{BTreeMap, BTreeSet};

use super::found::Changes;
use super::html::Page;
use crate::capture::processes::Process;

/// Deepest tree drawn; what is deeper is drawn at this depth.
const DEEPEST: usize = 64;
/// Where programs do not belong.
const PLACES: &[&str] = &["/tmp/", "/var/tmp/", "/dev/shm/", "/run/"];

/// All processes.
pub(super) struct Tree<'a> {
    processes: &'a [Process],
    changes: &'a Changes,
}

impl<'a> Tree<'a> {
    pub(super) fn new(processes: &'a [Process], changes: &'a Changes) -> Self {
        Self { processes, changes }
    }

    pub(super) fn count(&self) -> usize {
        self.processes.len()
    }

    /// Those about which something is unusual, and what.
    pub(super) fn unusual(&self) -> Vec<(&'a Process, Vec<String>)> {
        let found = self.processes.iter().map(|one| (one, self.reasons(one)));
        found.filter(|(_, reasons)| !reasons.is_empty()).collect()
    }

    fn reasons(&self, process: &Process) -> Vec<String> {
        let mut reasons = Vec::new();
        let exe = process.exe.as_deref().unwrap_or_default();
        let path = exe.strip_suffix(" (deleted)");
        if exe.starts_with("/memfd:") {
            reasons.push("its program was never on a disk".to_owned());
        } else if path.is_some() {
            reasons.push(format!("its program {exe} is gone from the disk"));
        } else {
            match self.changes.of(exe) {
                Some(('A', _)) => reasons.push(format!("its program {exe} is not of the image")),
                Some(('C', _)) => reasons.push(format!("its program {exe} was changed")),
                _ => {}
            }
        }
        if PLACES.iter().any(|place| exe.starts_with(place)) {
            reasons.push("it runs from a directory for temporary files".to_owned());
        }
        if let Some(kept) = &process.exe_kept {
            reasons.push(format!("program kept as files/{kept}"));
        }
        for file in &process.lost_files {
            let text = format!(
                "holds {} ({} bytes), kept as files/{}",
                file.path, file.size, file.kept
            );
            reasons.push(text);
        }
        reasons
    }

    /// The section.
    pub(super) fn write(&self, page: &mut Page) {
        page.element("h2", &format!("Processes: {}", self.count()));
        if self.processes.is_empty() {
            page.element("p", "None ran, or none could be recorded.");
            return;
        }
        page.markup(
            "<table class=\"tree\"><tr><th>process<th>user<th>started<th>command<th>what is \
             unusual</tr>",
        );
        let pids: BTreeSet<u32> = self.processes.iter().map(|process| process.pid).collect();
        let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
        let mut pending: Vec<(&Process, usize)> = Vec::new();
        for process in self.processes.iter().rev() {
            // A process that names itself as its parent would never be drawn.
            if pids.contains(&process.parent) && process.parent != process.pid {
                children.entry(process.parent).or_default().push(process);
            } else {
                pending.push((process, 0));
            }
        }
        while let Some((process, depth)) = pending.pop() {
            self.row(page, process, depth);
            let below = children.remove(&process.pid).unwrap_or_default();
            let deeper = (depth + 1).min(DEEPEST);
            pending.extend(below.into_iter().map(|child| (child, deeper)));
        }
        page.markup("</table>");
    }

    fn row(&self, page: &mut Page, process: &Process, depth: usize) {
        let unusual = self.reasons(process);
        let branch = match depth {
            0 => String::new(),
            depth => format!("{}└─ ", "   ".repeat(depth - 1)),
        };
        let inner = process.inner_pid.filter(|inner| *inner != process.pid);
        let inner = inner.map_or_else(String::new, |inner| format!(" ({inner} inside)"));
        let started = process.started_at.map_or_else(String::new, super::clock);
        let exe = process.exe.as_deref().unwrap_or("?");
        let args = process.args.join(" ");
        let cells = [
            &format!("{branch}{} {}{inner}", process.pid, process.name),
            &process.uid.to_string(),
            &started,
            &format!("{exe}\n{args}"),
            &unusual.join("\n"),
        ];
        let class = if unusual.is_empty() { "usual" } else { "high" };
        page.row(class, &cells.map(String::as_str));
    }
}
