//! Loading programs that do nothing, of the kinds a sensor needs.

use std::ffi::CString;
use std::io;

use fs_err as fs;

/// `enum bpf_cmd`, `BPF_PROG_LOAD`.
const PROG_LOAD: libc::c_long = 5;
/// `enum bpf_prog_type`: `BPF_PROG_TYPE_TRACING`, `BPF_PROG_TYPE_LSM`.
const TRACING: u32 = 26;
const LSM: u32 = 29;
/// `enum bpf_attach_type`: `BPF_TRACE_RAW_TP`, `BPF_TRACE_FEXIT`, `BPF_LSM_MAC`.
const RAW_TP: u32 = 23;
const FEXIT: u32 = 25;
const LSM_MAC: u32 = 27;
/// `r0 = 0; exit`.
const NOTHING: [u64; 2] = [0xb7, 0x95];
/// The kernel's own types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// Kinds of `btf.rst`: a function and a typedef.
const KIND_FUNC: u32 = 12;
const KIND_TYPEDEF: u32 = 8;

/// A kind of program, with something every kernel has to attach it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfProgram {
    /// A security hook, which can refuse.
    Lsm,
    /// The end of a kernel function.
    FunctionExit,
    /// A trace point with typed arguments.
    TracePoint,
}

/// The part of `union bpf_attr` that loading reads (`bpf(2)`), up to `attach_btf_id`.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
    types: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
    lines: u64,
    line_count: u32,
    attach_to: u32,
}

/// Loads a program of this kind and unloads it; nothing is attached.
pub fn load(program: BpfProgram) -> io::Result<()> {
    let (kind, attach, wanted, name) = match program {
        BpfProgram::Lsm => (LSM, LSM_MAC, KIND_FUNC, "bpf_lsm_file_open"),
        BpfProgram::FunctionExit => (TRACING, FEXIT, KIND_FUNC, "do_unlinkat"),
        BpfProgram::TracePoint => (
            TRACING,
            RAW_TP,
            KIND_TYPEDEF,
            "btf_trace_sched_process_exec",
        ),
    };
    let types = fs::read(TYPES)?;
    let attach_to = find(&types, wanted, name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no {name} in {TYPES}")))?;
    let license = CString::from(c"GPL");
    let request = Load {
        kind,
        instructions: 2,
        code: NOTHING.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        expected_attach_type: attach,
        types: 0,
        function_size: 0,
        functions: 0,
        function_count: 0,
        line_size: 0,
        lines: 0,
        line_count: 0,
        attach_to,
    };
    // SAFETY: the request has the size given, and the code and the licence it points to outlive
    // the call; the kernel writes to neither.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const request,
            size_of::<Load>(),
        )
    };
    super::handle(answer).map(drop)
}

/// The number of a type by kind and name, from the kernel's description of its types
/// (`Documentation/bpf/btf.rst`). `None` also for a description that makes no sense.
fn find(btf: &[u8], kind: u32, name: &str) -> Option<u32> {
    let word = |at: usize| {
        let bytes = btf.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let header = usize::try_from(word(4)?).ok()?;
    let place = |at: usize| header.checked_add(usize::try_from(word(at)?).ok()?);
    let (mut at, strings) = (place(8)?, place(16)?);
    let end = at.checked_add(usize::try_from(word(12)?).ok()?)?;
    let mut number = 1;
    while at < end {
        let (offset, info) = (word(at)?, word(at + 4)?);
        let (of, count) = ((info >> 24) & 0x1f, usize::try_from(info & 0xffff).ok()?);
        if of == kind {
            let start = strings.checked_add(usize::try_from(offset).ok()?)?;
            let text = btf.get(start..)?;
            let rest = text.strip_prefix(name.as_bytes());
            if rest.is_some_and(|rest| rest.first() == Some(&0)) {
                return Some(number);
            }
        }
        // What follows the twelve bytes every type has.
        let more = match of {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => count * 12,
            6 | 13 => count * 8,
            _ => 0,
        };
        at = at.checked_add(12 + more)?;
        number += 1;
    }
    None
}
