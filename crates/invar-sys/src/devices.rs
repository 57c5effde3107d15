//! Which devices the processes of a control group may make and open, on a unified hierarchy (v2).
//!
//! Version 2 has no `devices` controller: a small program that the kernel runs at each access
//! decides (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15). It is built here, instruction by
//! instruction (Linux, `Documentation/bpf/standardization/instruction-set.rst`).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Kind of a device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A block device.
    Block,
    /// A character device.
    Character,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Opening it for reading.
    pub read: bool,
    /// Opening it for writing.
    pub write: bool,
    /// Making a file for it.
    pub mknod: bool,
}

/// A set of devices, and what may be done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Block or character.
    pub kind: DeviceKind,
    /// Major number; `None` for any.
    pub major: Option<u32>,
    /// Minor number; `None` for any.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: Access,
}

/// Refuses the processes of the group, and of groups below it, every access to a device that no
/// rule allows.
///
/// It holds for as long as the group exists. Another program attached to the same group or to one
/// above it can refuse more, never allow more.
pub fn allow_only(group: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(&program(rules))?;
    attach(group, &program)
}

/// `struct bpf_insn`: operation, registers (source in the upper half), offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Load a 32-bit word from memory.
const LOAD_WORD: u8 = 0x61;
/// 64-bit operations on a register; `_FROM` take the other operand from a register.
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_FROM: u8 = 0xbf;
/// Jumps when the register differs from a number.
const JUMP_UNEQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// What the program gives back, and where the kernel's description of the access comes in.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const fn step(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: target | source << 4,
        offset,
        immediate,
    }
}

/// The program that allows what the rules allow, in their order, and refuses all else.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { __u32 access_type; __u32 major; __u32 minor; }, where
    // access_type is the access in the upper half and the kind in the lower.
    let mut steps = vec![
        step(LOAD_WORD, KIND, CONTEXT, 0, 0),
        step(MOVE_FROM, ACCESS, KIND, 0, 0),
        step(AND, KIND, 0, 0, 0xffff),
        step(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        step(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        step(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        steps.extend(rule.steps());
    }
    steps.extend(answer(0));
    steps
}

/// Ends with 0 (refused) or 1 (allowed).
const fn answer(value: i32) -> [Instruction; 2] {
    [step(MOVE, RESULT, 0, 0, value), step(EXIT, 0, 0, 0, 0)]
}

impl DeviceRule {
    /// Allows, or falls through to what comes after.
    fn steps(&self) -> Vec<Instruction> {
        // BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR.
        let kind = match self.kind {
            DeviceKind::Block => 1,
            DeviceKind::Character => 2,
        };
        let mut steps = vec![
            step(JUMP_UNEQUAL, KIND, 0, 0, kind),
            step(MOVE_FROM, SCRATCH, ACCESS, 0, 0),
            // What is asked for and not allowed must be nothing.
            step(AND, SCRATCH, 0, 0, !self.access.bits()),
            step(JUMP_UNEQUAL, SCRATCH, 0, 0, 0),
        ];
        for (register, number) in [(MAJOR, self.major), (MINOR, self.minor)] {
            if let Some(number) = number {
                // Device numbers have at most 20 bits.
                let number = i32::try_from(number).unwrap_or(-1);
                steps.push(step(JUMP_UNEQUAL, register, 0, 0, number));
            }
        }
        steps.extend(answer(1));
        let end = steps.len();
        for (at, one) in steps.iter_mut().enumerate() {
            if one.code == JUMP_UNEQUAL {
                one.offset = i16::try_from(end - at - 1).expect("a rule is ten steps at most");
            }
        }
        steps
    }
}

impl Access {
    /// Reading, writing and making.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        mknod: true,
    };
    /// Making alone.
    pub const MKNOD: Self = Self {
        read: false,
        write: false,
        mknod: true,
    };

    /// `BPF_DEVCG_ACC_MKNOD`, `_READ`, `_WRITE`.
    fn bits(self) -> i32 {
        i32::from(self.mknod) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of the groups above it, and others of this one, are asked too.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out for zeros.
#[repr(C)]
struct LoadRequest {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The start of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachRequest {
    target: RawFd,
    program: RawFd,
    kind: u32,
    flags: u32,
}

fn load(steps: &[Instruction]) -> io::Result<OwnedFd> {
    let request = LoadRequest {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(steps.len()).map_err(io::Error::other)?,
        instructions: steps.as_ptr() as u64,
        // It calls no function of the kernel, so none asks for a licence.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = bpf(BPF_PROG_LOAD, &request)?;
    // SAFETY: the kernel has just opened it for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(group: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
    let request = AttachRequest {
        target: group.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &request).map(drop)
}

/// `bpf(2)` with a request that is a prefix of `union bpf_attr`.
fn bpf<T>(command: libc::c_int, request: &T) -> io::Result<RawFd> {
    // SAFETY: the request is as large as is said and only read; the addresses in it are of a
    // slice and a C string that live as long as this call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(request),
            size_of::<T>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        RawFd::try_from(done).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would: whether it allows the access.
    fn run(steps: &[Instruction], kind: i64, access: Access, major: i64, minor: i64) -> bool {
        let mut registers = [0_i64; 11];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = steps[at];
            let (target, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            let number = i64::from(immediate);
            at += 1;
            match code {
                LOAD_WORD => {
                    let context = [i64::from(access.bits()) << 16 | kind, major, minor];
                    registers[target] = context[usize::try_from(offset).unwrap() / 4];
                }
                AND => registers[target] &= number,
                SHIFT_RIGHT => registers[target] >>= number,
                MOVE => registers[target] = number,
                MOVE_FROM => registers[target] = registers[source],
                JUMP_UNEQUAL if registers[target] != number => {
                    at += usize::try_from(offset).unwrap();
                }
                JUMP_UNEQUAL => {}
                EXIT => return registers[usize::from(RESULT)] == 1,
                other => panic!("no such operation: {other:#x}"),
            }
        }
    }

    #[test]
    fn what_no_rule_allows_is_refused() {
        let rule = |kind, major, minor, access| DeviceRule {
            kind,
            major,
            minor,
            access,
        };
        let read = Access {
            read: true,
            write: false,
            mknod: false,
        };
        let write = Access {
            write: true,
            ..read
        };
        let steps = program(&[
            rule(DeviceKind::Character, Some(1), Some(3), Access::ALL),
            rule(DeviceKind::Character, Some(136), None, read),
            rule(DeviceKind::Block, None, None, Access::MKNOD),
        ]);
        let (block, character) = (1, 2);
        for (kind, access, major, minor, expected) in [
            (character, Access::ALL, 1, 3, true),
            (character, read, 1, 3, true),
            (character, read, 1, 5, false),
            (character, read, 2, 3, false),
            (block, read, 1, 3, false),
            (character, read, 136, 7, true),
            (character, write, 136, 7, false),
            (block, Access::MKNOD, 8, 0, true),
            (block, read, 8, 0, false),
            (block, Access::ALL, 8, 0, false),
        ] {
            let allowed = run(&steps, kind, access, major, minor);
            assert_eq!(allowed, expected, "{kind} {access:?} {major}:{minor}");
        }
        assert!(!run(&program(&[]), character, read, 1, 3));
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let rules = [DeviceRule {
            kind: DeviceKind::Character,
            major: Some(1),
            minor: None,
            access: Access::ALL,
        }];
        load(&program(&rules)).unwrap();
    }
}
