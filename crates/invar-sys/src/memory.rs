//! Giving memory back to the kernel.

use std::ffi::c_void;
use std::io;

use rustix::mm::{Advice, madvise};

/// Gives back what this process does not use at the moment: freed heap, and the pages of its
/// program file, which are read again when they are needed.
///
/// A long-lived process that did much at its start keeps only what its loop touches.
pub fn release() -> io::Result<()> {
    // SAFETY: it takes no pointer, and only touches memory that the allocator owns.
    unsafe { libc::malloc_trim(0) };
    let mappings = fs_err::read_to_string("/proc/self/smaps")?;
    for (start, length) in untouched_file_pages(&mappings) {
        // SAFETY: the kernel says that the range is a private mapping of a file that nobody can
        // write through and that no page of it was ever changed, so reading it again gives the
        // same bytes.
        unsafe { madvise(start as *mut c_void, length, Advice::LinuxDontNeed) }?;
    }
    Ok(())
}

/// Start and length of the read-only mappings of files that hold no page of their own
/// (`proc_pid_smaps(5)`).
fn untouched_file_pages(mappings: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in mappings.lines() {
        if let Some(mapping) = Mapping::parse(line) {
            current = Some(mapping);
        } else if line.strip_prefix("Anonymous:").map(str::trim) == Some("0 kB")
            && let Some(mapping) = current.take()
            && mapping.is_read_only_file
        {
            found.push((mapping.start, mapping.length));
        }
    }
    found
}

struct Mapping {
    start: usize,
    length: usize,
    /// Private, of a file, and nobody can write through it.
    is_read_only_file: bool,
}

impl Mapping {
    /// From its first line; any other line is none.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let rights = words.next()?;
        let inode = words.nth(2)?;
        Some(Self {
            start,
            length: end - start,
            is_read_only_file: matches!(rights, "r-xp" | "r--p") && inode != "0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPINGS: &str = "\
7f1665200000-7f1665797000 r--p 00000000 00:4f 12  /
Rss:                2304 kB
Anonymous:             0 kB
7f1665798000-7f1666a7e000 r-xp 00597000 00:4f 12  /
Anonymous:             4 kB
7f1666b7c000-7f1666b8d000 rw-p 01979000 00:4f 12  /
Anonymous:             0 kB
7f1666c00000-7f1666c01000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffc7b5f3000-7ffc7b5f5000 r-xp 00000000 00:00 0   [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_unchanged_pages_of_files_are_given_back() {
        let found = untouched_file_pages(MAPPINGS);
        assert_eq!(found, [(0x7f16_6520_0000, 0x59_7000)]);
    }

    #[test]
    fn a_process_runs_on_after_it_gave_its_memory_back() {
        let before: Vec<u64> = (0..4096).collect();
        release().unwrap();
        assert_eq!(before.iter().sum::<u64>(), 4095 * 4096 / 2);
    }
}
