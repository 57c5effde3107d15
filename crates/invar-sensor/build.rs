//! Compiles the programs that the kernel runs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "bpf/guard.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let object = PathBuf::from(variable("OUT_DIR")).join("guard.bpf.o");
    let machine = variable("CARGO_CFG_TARGET_ARCH");
    // bpf_tracing.h takes arguments out of this machine's registers.
    let registers = match machine.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args([
            "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-mcpu=v3",
        ])
        .arg(format!("-D__TARGET_ARCH_{registers}"))
        .arg(format!("-I{}", variable("DEP_BPF_INCLUDE")))
        .arg(format!("-I/usr/include/{machine}-linux-gnu"))
        .args(["-c", SOURCE, "-o"])
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile {SOURCE}: {status}"),
        Err(error) => panic!("{clang} is missing ({error}): run script/setup build"),
    }
    link_what_libelf_needs();
}

/// Newer libelf reads sections compressed with zstd; its archive does not name what it needs.
fn link_what_libelf_needs() {
    let asked = Command::new("pkg-config")
        .args(["--static", "--libs-only-l", "libelf"])
        .output();
    let libraries = asked.map(|output| output.stdout).unwrap_or_default();
    if String::from_utf8_lossy(&libraries).contains("-lzstd") {
        println!("cargo:rustc-link-lib=static=zstd");
    }
}
