//! Whether a file that is not of the image is opened to be run by what opens it: a library, a
//! program given to the dynamic linker, a script given to its interpreter.
//!
//! The kernel does not say what an opening is for. Programs and libraries are known by their first
//! bytes, scripts by the interpreter that opens them as its first argument. What an interpreter reads
//! otherwise (standard input, a library of its own under an unusual name) is not recognised.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use fs_err as fs;
use rustix::io::pread;

use crate::actor::command_line;

/// As long as one word can be (`MAX_ARG_STRLEN`).
const LONGEST_COMMAND: u64 = 128 * 1024;
/// Programs that run what they read; also with a version behind it.
const INTERPRETERS: [&str; 20] = [
    "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "python", "pypy", "perl", "ruby",
    "node", "nodejs", "php", "lua", "luajit", "tclsh", "awk", "Rscript",
];

/// Why an opening is to run the file; `None` for any other opening.
pub(crate) fn to_run(file: BorrowedFd<'_>, path: &[u8], pid: u32) -> Option<&'static str> {
    let mut start = [0; 4];
    let read = pread(file, &mut start, 0).unwrap_or(0);
    if read == 4 && start == *b"\x7fELF" {
        return Some("a program or library");
    }
    let (name, words) = interpreter(pid)?;
    if !is_interpreter(&name) {
        return None;
    }
    if start.starts_with(b"#!") || is_first_argument(&words, path) {
        return Some("a script");
    }
    None
}

/// Under which name a process runs, and its words behind it. One program with many names goes by
/// the name it was called.
fn interpreter(pid: u32) -> Option<(String, Vec<String>)> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let exe = base_name(&String::from_utf8_lossy(exe.as_os_str().as_bytes())).to_owned();
    let mut words = command_line(pid, LONGEST_COMMAND);
    if words.is_empty() {
        return None;
    }
    let mut called = words.remove(0);
    if !matches!(exe.as_str(), "busybox" | "toybox") {
        return Some((exe, words));
    }
    if base_name(&called) == exe && !words.is_empty() {
        called = words.remove(0);
    }
    Some((base_name(&called).trim_start_matches('-').to_owned(), words))
}

fn is_interpreter(name: &str) -> bool {
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    INTERPRETERS.contains(&plain)
}

fn is_first_argument(words: &[String], path: &[u8]) -> bool {
    let Some(place) = words.iter().position(|word| !word.starts_with('-')) else {
        return false;
    };
    let option = place.checked_sub(1).map(|before| words[before].as_str());
    // `sh -ec TEXT`: a program in words, which may well end with a path.
    if option.is_some_and(|option| option.ends_with('c') && !option.starts_with("--")) {
        return false;
    }
    let path = invar_drift::escape(path);
    base_name(&words[place]) == base_name(&path)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_with_their_versions() {
        for (name, expected) in [
            ("python3.12", true),
            ("bash", true),
            ("perl5.36.0", true),
            ("cat", false),
            ("nginx", false),
            ("php8.2", true),
        ] {
            assert_eq!(is_interpreter(name), expected, "{name}");
        }
    }

    #[test]
    fn a_script_is_what_comes_first_behind_the_options() {
        let words =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        assert!(is_first_argument(&words("-eu /tmp/x a"), b"/tmp/x"));
        assert!(!is_first_argument(&words("app.py /tmp/x"), b"/tmp/x"));
        assert!(!is_first_argument(&words("-ec echo>/tmp/x"), b"/tmp/x"));
        assert!(!is_first_argument(&[], b"/tmp/x"));
    }
}
