//! A process's memory map, from `/proc/PID/smaps` (`proc_pid_smaps(5)`).

/// One mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Readable 4, writable 2, executable 1.
    pub(super) rights: u32,
    /// Offset in the file behind it.
    pub(super) offset: u64,
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    /// Path or kind, as the kernel writes it.
    pub(super) name: Vec<u8>,
    /// Whether no page of it is in memory or swapped out.
    pub(super) is_empty: bool,
    /// Whether it is memory of a device.
    pub(super) is_device: bool,
}

impl Map {
    /// Whether a file is behind it.
    pub(super) fn is_file(&self) -> bool {
        self.inode != 0
    }

    /// What the kernel shows every process of its own; nobody can read it through `/proc`.
    pub(super) fn is_of_kernel(&self) -> bool {
        self.name.starts_with(b"[vvar") || self.name == b"[vsyscall]"
    }
}

/// Reads the mappings; lines that do not have the documented form are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Map> {
    let mut maps: Vec<Map> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(map) = parse_head(line) {
            maps.push(map);
            continue;
        }
        let Some(map) = maps.last_mut() else { continue };
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_ascii_whitespace();
        match words.next() {
            Some("Rss:") => map.is_empty = words.next() == Some("0"),
            Some("Swap:") => map.is_empty &= words.next() == Some("0"),
            Some("VmFlags:") => map.is_device = words.any(|flag| matches!(flag, "io" | "pf")),
            _ => {}
        }
    }
    maps
}

/// `7f00-7f01 r-xp 00001000 08:01 42   /path`
fn parse_head(line: &[u8]) -> Option<Map> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let range = text(fields.next()?)?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let rights = fields.next().filter(|rights| rights.len() == 4)?;
    let offset = hex(&text(fields.next()?)?)?;
    let device = text(fields.next()?)?;
    let (major, minor) = device.split_once(':')?;
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let inode = text(fields.next()?)?.parse().ok()?;
    Some(Map {
        start,
        end,
        rights: (0..3).fold(0, |all, at| all << 1 | u32::from(rights[at] != b'-')),
        offset,
        device: (number(major)?, number(minor)?),
        inode,
        name: fields.next().unwrap_or_default().trim_ascii().to_vec(),
        is_empty: false,
        is_device: false,
    })
    .filter(|map| map.start < map.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mappings_are_read_with_what_the_kernel_says_of_them() {
        let text = b"00400000-00401000 r-xp 00001000 08:1f 42                 /bin/a b\n\
            Rss:                   4 kB\nSwap:                  0 kB\nVmFlags: rd ex mr\n\
            7f0000000000-7f8000000000 ---p 00000000 00:00 0 \n\
            Rss:                   0 kB\nSwap:                  0 kB\nVmFlags: mr mw\n\
            7ffe00000000-7ffe00004000 r--p 00000000 00:00 0          [vvar]\n\
            Rss:                   0 kB\nVmFlags: rd mr pf io\nbroken\n";
        let maps = parse(text);
        assert_eq!(maps.len(), 3);
        assert_eq!(maps[0].name, b"/bin/a b");
        assert_eq!((maps[0].device, maps[0].inode), ((8, 31), 42));
        assert!(!maps[0].is_empty && maps[0].rights == 0b101);
        assert!(maps[1].is_empty && maps[1].rights == 0 && !maps[1].is_file());
        assert!(maps[2].is_device && maps[2].is_of_kernel());
    }

    proptest! {
        #[test]
        fn any_bytes_are_mappings_or_left_out(bytes: Vec<u8>) {
            for map in parse(&bytes) {
                prop_assert!(map.start < map.end);
            }
        }
    }
}
