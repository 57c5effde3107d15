//! What a change can be seen with, and stopped, while it happens.

use std::path::Path;

use invar_sys::probe::{self, BpfProgram};

use super::{Finding, Group};

pub(super) fn check(root: &Path, findings: &mut Vec<Finding>) {
    let mut group = Group {
        name: "observation",
        findings,
    };
    group.tried(
        "fanotify",
        probe::fanotify_permission(root).map(|()| "may be asked before a program is executed"),
        "a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, and CAP_SYS_ADMIN",
    );
    group.tried(
        "guard",
        invar_sensor::probe().map(
            |()| "LSM programs refuse what is not of the image, also when the agent was killed",
        ),
        "a kernel with CONFIG_BPF_LSM and CONFIG_DEBUG_INFO_BTF, booted with lsm=…,bpf; until then \
         refusing ends with the agent",
    );
    for (name, program, lost) in [
        (
            "bpf_lsm",
            BpfProgram::Lsm,
            "boot with lsm=…,bpf on a kernel with CONFIG_BPF_LSM; fanotify stops programs instead",
        ),
        (
            "bpf_fexit",
            BpfProgram::FunctionExit,
            "a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_FUNCTION_TRACER; fanotify sees changes \
             instead",
        ),
        (
            "bpf_tp_btf",
            BpfProgram::TracePoint,
            "a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS",
        ),
    ] {
        group.tried(
            name,
            probe::load_bpf(program).map(|()| "a program was loaded"),
            lost,
        );
    }
}
