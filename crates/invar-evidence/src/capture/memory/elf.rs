//! An ELF core file (`elf(5)`, `core(5)`; the notes are the kernel's `fs/binfmt_elf.c`).
//!
//! ```text
//!  ELF header │ program headers │ notes │ … padding … │ the bytes of each PT_LOAD, with holes
//! ```
//!
//! Little-endian, 64 bits. Registers are known as far as `/proc/PID/task/TID/syscall` tells them:
//! where the thread stands, its stack, and the arguments of the system call it is in.

use super::maps::Map;

/// The kernel's unit of memory, and what segments are aligned to.
pub(super) const PAGE: u64 = 4096;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// Most program headers that a plain header can count.
pub(super) const MOST_SEGMENTS: usize = 65_000;

/// One part of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) size: u64,
    /// Whether its bytes are in the core; zeros otherwise, or what the file behind it has.
    pub(super) is_kept: bool,
    /// Whether pages that are not in memory are read as well.
    pub(super) is_whole: bool,
    /// Readable 4, writable 2, executable 1.
    pub(super) rights: u32,
}

/// What is known of one thread.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) id: u32,
    pub(super) registers: Registers,
}

/// Where a thread stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) call: Option<u64>,
    pub(super) arguments: [u64; 6],
    pub(super) stack: u64,
    pub(super) instruction: u64,
}

impl Registers {
    /// `/proc/PID/task/TID/syscall`: `CALL A1 … A6 SP PC`, `-1 SP PC`, or `running`.
    pub(super) fn parse(text: &str) -> Self {
        let hex = |word: &str| {
            let digits = word.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let mut found = Self::default();
        if let [.., stack, instruction] = words[..] {
            found.stack = hex(stack).unwrap_or(0);
            found.instruction = hex(instruction).unwrap_or(0);
        }
        if let [call, arguments @ .., _, _] = &words[..]
            && arguments.len() == 6
        {
            found.call = call.parse().ok();
            for (place, word) in found.arguments.iter_mut().zip(arguments) {
                *place = hex(word).unwrap_or(0);
            }
        }
        found
    }
}

/// A process as the notes describe it.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) state: u8,
    pub(super) name: Vec<u8>,
    pub(super) args: Vec<u8>,
    pub(super) auxv: Vec<u8>,
    /// The first one first.
    pub(super) threads: Vec<Thread>,
}

/// Everything before the memory, and where each segment's bytes begin.
pub(super) fn head(about: &About, maps: &[Map], segments: &[Segment]) -> (Vec<u8>, Vec<u64>) {
    let notes = notes(about, maps);
    let count = segments.len() as u64 + 1;
    let notes_at = HEADER + PROGRAM_HEADER * count;
    let mut at = (notes_at + notes.len() as u64).next_multiple_of(PAGE);
    let mut out = header(count);
    program_header(&mut out, NOTE, 0, [notes_at, 0, notes.len() as u64, 0, 4]);
    let mut places = Vec::with_capacity(segments.len());
    for segment in segments {
        let kept = if segment.is_kept { segment.size } else { 0 };
        let numbers = [at, segment.start, kept, segment.size, PAGE];
        program_header(&mut out, LOAD, segment.rights, numbers);
        places.push(at);
        at += kept;
    }
    out.extend_from_slice(&notes);
    (out, places)
}

fn header(count: u64) -> Vec<u8> {
    let machine: u16 = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "riscv64" => 243,
        _ => 0,
    };
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    // ET_CORE.
    out.extend_from_slice(&4_u16.to_le_bytes());
    out.extend_from_slice(&machine.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    for number in [0, HEADER, 0_u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    // Sizes of the two kinds of headers.
    let count = u16::try_from(count).unwrap_or(u16::MAX - 1);
    let (header, program_header) = (64, 56);
    for number in [header, program_header, count, 64, 0, 0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

/// `numbers`: offset, address, size in the file, size in memory, alignment.
fn program_header(out: &mut Vec<u8>, kind: u32, rights: u32, numbers: [u64; 5]) {
    let [offset, address, in_file, in_memory, align] = numbers;
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&rights.to_le_bytes());
    for number in [offset, address, 0, in_file, in_memory, align] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn notes(about: &About, maps: &[Map]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut threads = about.threads.iter();
    let status = |out: &mut Vec<u8>, thread: &Thread| {
        if let Some(body) = prstatus(about, thread) {
            note(out, 1, &body);
        }
    };
    if let Some(first) = threads.next() {
        status(&mut out, first);
    }
    note(&mut out, 3, &prpsinfo(about));
    if !about.auxv.is_empty() {
        note(&mut out, 6, &about.auxv);
    }
    note(&mut out, 0x4649_4c45, &files(maps));
    for thread in threads {
        status(&mut out, thread);
    }
    out
}

fn note(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    for number in [5, length, kind] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(b"CORE\0\0\0\0");
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// `struct elf_prstatus`; `None` where its form is not known here.
fn prstatus(about: &About, thread: &Thread) -> Option<Vec<u8>> {
    let registers = registers(&thread.registers)?;
    let mut body = vec![0; 32];
    for number in [thread.id, about.parent, about.group, about.session] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    // Times used.
    body.resize(112, 0);
    for register in registers {
        body.extend_from_slice(&register.to_le_bytes());
    }
    // Whether there are floating-point registers, and padding.
    body.resize(body.len() + 8, 0);
    Some(body)
}

/// The registers in the order of `user_regs_struct`; what is not known is zero.
fn registers(known: &Registers) -> Option<Vec<u64>> {
    let [a1, a2, a3, a4, a5, a6] = known.arguments;
    match std::env::consts::ARCH {
        "x86_64" => {
            // In a system call: the result so far is ENOSYS, as the kernel itself shows it.
            let result = known.call.map_or(0, |_| (-38_i64).cast_unsigned());
            let call = known.call.unwrap_or(u64::MAX);
            let (code, flags, data) = (0x33, 0x202, 0x2b);
            let (at, stack) = (known.instruction, known.stack);
            Some(vec![
                0, 0, 0, 0, 0, 0, 0, a4, a6, a5, result, 0, a3, a2, a1, call, at, code, flags,
                stack, data, 0, 0, 0, 0, 0, 0,
            ])
        }
        "aarch64" => {
            let mut all = vec![0; 34];
            all[..6].copy_from_slice(&known.arguments);
            all[8] = known.call.unwrap_or(0);
            (all[31], all[32]) = (known.stack, known.instruction);
            Some(all)
        }
        _ => None,
    }
}

/// `struct elf_prpsinfo`.
fn prpsinfo(about: &About) -> Vec<u8> {
    let mut body = vec![0, about.state, u8::from(about.state == b'Z'), 0];
    body.resize(16, 0);
    for number in [
        about.uid,
        about.gid,
        about.pid,
        about.parent,
        about.group,
        about.session,
    ] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    let mut text = |bytes: &[u8], length: usize| {
        let end = body.len() + length;
        body.extend_from_slice(&bytes[..bytes.len().min(length - 1)]);
        body.resize(end, 0);
    };
    text(&about.name, 16);
    let args: Vec<u8> = about
        .args
        .iter()
        .map(|byte| if *byte == 0 { b' ' } else { *byte })
        .collect();
    text(args.trim_ascii_end(), 80);
    body
}

/// `NT_FILE`: which file is behind which addresses.
fn files(maps: &[Map]) -> Vec<u8> {
    let files = || maps.iter().filter(|map| map.is_file());
    let mut body = Vec::new();
    for number in [files().count() as u64, PAGE] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    for map in files() {
        for number in [map.start, map.end, map.offset / PAGE] {
            body.extend_from_slice(&number.to_le_bytes());
        }
    }
    for map in files() {
        body.extend_from_slice(&map.name);
        body.push(0);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_in_a_call_outside_of_one_and_not_while_running() {
        let in_call = Registers::parse("35 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffe 0x401000\n");
        assert_eq!(in_call.call, Some(35));
        assert_eq!(in_call.arguments, [1, 2, 3, 4, 5, 6]);
        assert_eq!((in_call.stack, in_call.instruction), (0x7ffe, 0x0040_1000));
        let outside = Registers::parse("-1 0x7ffe 0x401000\n");
        assert_eq!((outside.call, outside.stack), (None, 0x7ffe));
        assert_eq!(Registers::parse("running\n"), Registers::default());
        assert_eq!(Registers::parse(""), Registers::default());
    }

    #[test]
    fn notes_have_the_sizes_of_the_kernels_structures() {
        let about = About {
            name: b"a long name of a process".to_vec(),
            args: vec![b'x'; 300],
            ..About::default()
        };
        assert_eq!(prpsinfo(&about).len(), 136);
        let expected = match std::env::consts::ARCH {
            "x86_64" => Some(336),
            "aarch64" => Some(392),
            _ => None,
        };
        let body = prstatus(&about, &Thread::default());
        assert_eq!(body.map(|body| body.len()), expected);
    }
}
