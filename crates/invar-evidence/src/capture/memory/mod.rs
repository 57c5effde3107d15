//! The memory of the frozen processes, one ELF core each.
//!
//! ```text
//!  smaps ──▶ which mappings ──▶ pagemap: which pages are there ──▶ mem: their bytes ──▶ core
//! ```
//!
//! Nothing is attached to a process. No page is faulted in that a program could have to bring: of
//! memory behind which there is no file of a local disk, only pages are read that are there, so
//! neither FUSE nor userfaultfd can hold the capture up. Pages of zeros are holes in the core.

mod elf;
mod maps;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::elf::{About, MOST_SEGMENTS, PAGE, Registers, Segment, Thread};
use self::maps::Map;
use super::log::Log;
use super::mounts::Mounts;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::limits::{Budget, Limits};
use crate::text;

/// The directory of cores in the evidence, and their index.
pub(crate) const DIR: &str = "memory";
pub(crate) const NAME: &str = "memory.jsonl";
/// Longest memory map that is read: the kernel's limit of 65,530 mappings, described.
const LONGEST_MAP: u64 = 128 << 20;
/// Pages looked at in one go.
const WINDOW: u64 = 256;
/// Pages looked up at most of one process, 256 GiB of addresses.
const MOST_PAGES: u64 = 64 << 20;
/// Largest hole within a segment; what is larger is left out.
const LARGEST_HOLE: u64 = 1 << 20;
/// Longest core that common file systems hold.
const LONGEST_CORE: u64 = 8 << 40;
/// Threads described.
const MOST_THREADS: usize = 4096;
/// Mappings named with the reason why they were skipped.
const MOST_SKIPPED: usize = 1000;
/// Set for a page that is in memory or swapped out (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 0b11 << 62;

/// One line of the index.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Core {
    pub(crate) pid: u32,
    /// Name below `memory/`.
    pub(crate) file: String,
    pub(crate) mappings: usize,
    pub(crate) threads: usize,
    /// Bytes that are not zero.
    pub(crate) bytes: u64,
    /// Whether the limit was reached before the end.
    pub(crate) is_cut: bool,
    /// Pages that could not be read.
    pub(crate) unreadable: u64,
    pub(crate) skipped: Vec<Skipped>,
}

/// A mapping without bytes in the core.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) range: String,
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// Writes the cores of these processes, which must be frozen.
pub(crate) fn keep(
    pids: &[u32],
    dir: &Path,
    limits: &Limits,
    budget: &mut Budget,
    log: &mut Log,
) -> Result<usize> {
    files::private_dir(&dir.join(DIR))?;
    budget.part(limits.memory);
    let mut index = Vec::new();
    let mut count = 0;
    for pid in pids.iter().take(limits.processes) {
        let what = format!("memory of process {pid}");
        match one(*pid, dir, limits, budget) {
            Ok(Some(core)) => {
                count += 1;
                if core.is_cut {
                    let reason = format!("only {} bytes: the limit was reached", core.bytes);
                    log.not_captured(what.as_bytes(), reason)?;
                }
                if core.unreadable > 0 {
                    let reason = format!("{} pages could not be read", core.unreadable);
                    log.not_captured(what.as_bytes(), reason)?;
                }
                for skipped in core.skipped.iter().filter(|skipped| skipped.is_notable()) {
                    let what = format!("{what} at {} {}", skipped.range, skipped.name);
                    log.not_captured(what.as_bytes(), &skipped.reason)?;
                }
                serde_json::to_writer(&mut index, &core).expect("a core is plain data");
                index.push(b'\n');
            }
            Ok(None) => log.not_captured(what.as_bytes(), "it has none (a zombie)")?,
            Err(error) => log.not_captured(what.as_bytes(), error.chain())?,
        }
    }
    budget.part(u64::MAX);
    files::write(&dir.join(NAME), &index)?;
    Ok(count)
}

impl Skipped {
    /// Whether somebody could miss it.
    fn is_notable(&self) -> bool {
        self.reason != EMPTY && self.reason != KERNEL
    }
}

const EMPTY: &str = "nothing in it is in memory";
const KERNEL: &str = "the kernel's own, equal in every process";

fn one(pid: u32, dir: &Path, limits: &Limits, budget: &mut Budget) -> Result<Option<Core>> {
    let proc = Path::new("/proc").join(pid.to_string());
    let (text, _) = files::read_start(&proc.join("smaps"), LONGEST_MAP)?;
    let maps = maps::parse(&text);
    if maps.is_empty() {
        return Ok(None);
    }
    let open = |name: &str| {
        let path = proc.join(name);
        let opened = fs_err::File::open(&path).map(|file| file.into_parts().0);
        opened.map_err(EvidenceError::io("open", path))
    };
    let (mountinfo, _) = files::read_start(&proc.join("mountinfo"), limits.proc_file)?;
    let name = format!("{pid}.core");
    let path = dir.join(DIR).join(&name);
    let mut reading = Reading {
        memory: open("mem")?,
        pages: open("pagemap")?,
        mounts: Mounts::parse(&mountinfo),
        looked_up: 0,
        core: Core {
            pid,
            file: name,
            mappings: maps.len(),
            ..Core::default()
        },
    };
    let about = about(pid, &proc, limits);
    reading.core.threads = about.threads.len();
    let segments = reading.segments(&maps);
    let (head, places) = elf::head(&about, &maps, &segments);
    let out = files::create(&path)?.into_parts().0;
    let length = segments.iter().zip(&places).next_back();
    let length = length.map_or(0, |(segment, at)| {
        at + if segment.is_kept { segment.size } else { 0 }
    });
    out.write_all_at(&head, 0)
        .and_then(|()| out.set_len(length.max(head.len() as u64)))
        .map_err(EvidenceError::io("write", &path))?;
    for (segment, at) in segments.iter().zip(places) {
        if segment.is_kept {
            reading
                .copy(segment, &out, at, budget)
                .map_err(EvidenceError::io("write", &path))?;
        }
    }
    Ok(Some(reading.core))
}

struct Reading {
    memory: File,
    pages: File,
    mounts: Mounts,
    looked_up: u64,
    core: Core,
}

impl Reading {
    /// The parts of the memory, in order; neighbours with at most a small hole are one.
    fn segments(&mut self, maps: &[Map]) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut total = 0;
        for map in maps {
            let reason = if map.is_of_kernel() {
                Some(KERNEL)
            } else if map.is_device {
                Some("memory of a device: reading it may change the device")
            } else if map.is_empty && !self.is_whole(map) {
                Some(EMPTY)
            } else if segments.len() >= MOST_SEGMENTS || total >= LONGEST_CORE {
                Some("the core would be too large")
            } else {
                None
            };
            let before = segments.len();
            if let Some(reason) = reason {
                self.skip(map, reason);
            } else if self.is_whole(map) {
                segments.push(Segment {
                    is_whole: true,
                    ..segment(map, map.start, map.end, true)
                });
            } else {
                self.runs(map, &mut segments);
            }
            if before == segments.len() && segments.len() < MOST_SEGMENTS {
                segments.push(segment(map, map.start, map.end, false));
            }
            let kept = segments[before..].iter().filter(|segment| segment.is_kept);
            total += kept.map(|segment| segment.size).sum::<u64>();
        }
        segments.truncate(MOST_SEGMENTS);
        segments
    }

    fn skip(&mut self, map: &Map, reason: &str) {
        if self.core.skipped.len() < MOST_SKIPPED {
            self.core.skipped.push(Skipped {
                range: format!("{:x}-{:x}", map.start, map.end),
                name: text::shown(&map.name),
                reason: reason.to_owned(),
            });
        }
    }

    /// Whether pages that are not there may be asked for: only a file of a disk is behind them.
    fn is_whole(&self, map: &Map) -> bool {
        let kind = self.mounts.kind_of_device(map.device);
        map.is_file()
            && kind.is_some_and(|kind| {
                super::mounts::is_local(kind) && !matches!(kind, "tmpfs" | "ramfs")
            })
    }

    /// The runs of a mapping in which there are pages.
    fn runs(&mut self, map: &Map, segments: &mut Vec<Segment>) {
        let mut run: Option<(u64, u64)> = None;
        let mut at = map.start;
        while at < map.end {
            if self.looked_up >= MOST_PAGES || segments.len() >= MOST_SEGMENTS {
                self.core.is_cut = true;
                break;
            }
            let end = map.end.min(at + WINDOW * PAGE);
            let present = self.present(at, end);
            for (start, end) in ranges(at, &present) {
                run = match run {
                    Some((first, last)) if start - last <= LARGEST_HOLE => Some((first, end)),
                    Some((first, last)) => {
                        segments.push(segment(map, first, last, true));
                        Some((start, end))
                    }
                    None => Some((start, end)),
                };
            }
            at = end;
        }
        if let Some((first, last)) = run {
            segments.push(segment(map, first, last, true));
        }
    }

    /// Which pages are in memory or swapped out; none where the kernel does not say.
    fn present(&mut self, start: u64, end: u64) -> Vec<bool> {
        let count = usize::try_from((end - start) / PAGE).unwrap_or(0);
        self.looked_up += count as u64;
        let mut entries = vec![0; count * 8];
        if self
            .pages
            .read_exact_at(&mut entries, start / PAGE * 8)
            .is_err()
        {
            self.core.unreadable += count as u64;
            return vec![false; count];
        }
        let entry = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        entries
            .chunks_exact(8)
            .map(|bytes| entry(bytes) & PRESENT != 0)
            .collect()
    }

    /// Copies what there is of a segment, at most the budget.
    fn copy(
        &mut self,
        segment: &Segment,
        out: &File,
        place: u64,
        budget: &mut Budget,
    ) -> io::Result<()> {
        let segment_end = segment.start + segment.size;
        let mut at = segment.start;
        while at < segment_end {
            let end = segment_end.min(at + WINDOW * PAGE);
            let present = if segment.is_whole {
                let pages = usize::try_from((end - at) / PAGE).unwrap_or(0);
                vec![true; pages]
            } else {
                self.present(at, end)
            };
            for (start, end) in ranges(at, &present) {
                if budget.allowance() < end - start {
                    self.core.is_cut = true;
                    return Ok(());
                }
                budget.spend(end - start);
                self.piece(start, end, out, place + (start - segment.start))?;
            }
            at = end;
        }
        Ok(())
    }

    /// Copies pages; those that cannot be read and those of zeros stay holes.
    fn piece(&mut self, start: u64, end: u64, out: &File, place: u64) -> io::Result<()> {
        let page = usize::try_from(PAGE).expect("a page fits in memory");
        let mut bytes = vec![0; usize::try_from(end - start).expect("a window fits in memory")];
        if self.memory.read_exact_at(&mut bytes, start).is_err() {
            for (index, page) in bytes.chunks_exact_mut(page).enumerate() {
                let at = start + index as u64 * PAGE;
                if self.memory.read_exact_at(page, at).is_err() {
                    page.fill(0);
                    self.core.unreadable += 1;
                }
            }
        }
        let is_empty = |page: &[u8]| page.iter().all(|byte| *byte == 0);
        let mut index = 0;
        let pages: Vec<&[u8]> = bytes.chunks_exact(page).collect();
        while index < pages.len() {
            let from = index;
            while index < pages.len() && !is_empty(pages[index]) {
                index += 1;
            }
            if index > from {
                let (from, to) = (from * page, index * page);
                out.write_all_at(&bytes[from..to], place + from as u64)?;
                self.core.bytes += (to - from) as u64;
            }
            index += 1;
        }
        Ok(())
    }
}

fn segment(map: &Map, start: u64, end: u64, is_kept: bool) -> Segment {
    Segment {
        start,
        size: end - start,
        is_kept,
        is_whole: false,
        rights: map.rights,
    }
}

/// The ranges of addresses in which pages are present.
fn ranges(start: u64, present: &[bool]) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for (index, _) in present.iter().enumerate().filter(|(_, present)| **present) {
        let at = start + index as u64 * PAGE;
        match found.last_mut() {
            Some((_, end)) if *end == at => *end = at + PAGE,
            _ => found.push((at, at + PAGE)),
        }
    }
    found
}

/// What the notes of the core say; what cannot be read is empty.
fn about(pid: u32, proc: &Path, limits: &Limits) -> About {
    let read = |path: &Path| {
        let read = files::read_start(path, limits.proc_file);
        read.map_or_else(|_| Vec::new(), |(bytes, _)| bytes)
    };
    let text = |path: &Path| String::from_utf8_lossy(&read(path)).into_owned();
    let stat = text(&proc.join("stat"));
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
    let status = text(&proc.join("status"));
    let id = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok())
    };
    let mut ids: Vec<u32> = super::processes::numbers(&proc.join("task"));
    ids.sort_by_key(|id| (*id != pid, *id));
    let thread = |id: u32| Thread {
        id,
        registers: Registers::parse(&text(&proc.join(format!("task/{id}/syscall")))),
    };
    About {
        pid,
        parent: field(1).unwrap_or(0),
        group: field(2).unwrap_or(0),
        session: field(3).unwrap_or(0),
        uid: id("Uid:").unwrap_or(0),
        gid: id("Gid:").unwrap_or(0),
        state: fields
            .first()
            .and_then(|state| state.bytes().next())
            .unwrap_or(b'?'),
        name: read(&proc.join("comm")).trim_ascii_end().to_vec(),
        args: read(&proc.join("cmdline")),
        auxv: read(&proc.join("auxv")),
        threads: ids.into_iter().take(MOST_THREADS).map(thread).collect(),
    }
}

/// Reads bytes as what the kernel says of a process's memory, and writes the head of its core.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let maps = maps::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let about = About {
        name: bytes.to_vec(),
        args: bytes.to_vec(),
        threads: vec![Thread {
            id: 1,
            registers: Registers::parse(&text),
        }],
        ..About::default()
    };
    let kept = maps.iter().filter(|map| map.end - map.start < 1 << 40);
    let segments: Vec<Segment> = kept
        .map(|map| segment(map, map.start, map.end, true))
        .collect();
    drop(elf::head(&about, &maps, &segments));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_beside_each_other_are_one_range() {
        let present = [false, true, true, false, true];
        let expected = vec![(0x2000, 0x4000), (0x5000, 0x6000)];
        assert_eq!(ranges(0x1000, &present), expected);
        assert!(ranges(0, &[]).is_empty());
    }
}
