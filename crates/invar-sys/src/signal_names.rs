//! Signals by name and number.

/// Names in the order of their numbers on Linux (x86-64, arm64, riscv64), from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first and last real-time signal as programs count them (the C library keeps two).
const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A signal as people write it: `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`; its number.
pub fn parse(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match short {
        "CLD" => Some(17),
        "POLL" => Some(29),
        "IOT" => Some(6),
        _ => short.parse().ok().or_else(|| named(short)),
    };
    number.filter(|number| (1..=64).contains(number))
}

fn named(short: &str) -> Option<i32> {
    if let Some(index) = NAMES.iter().position(|name| *name == short) {
        return i32::try_from(index + 1).ok();
    }
    let number = if let Some(rest) = short.strip_prefix("RTMIN") {
        REALTIME.start().checked_add(offset(rest, '+')?)?
    } else {
        REALTIME
            .end()
            .checked_sub(offset(short.strip_prefix("RTMAX")?, '-')?)?
    };
    REALTIME.contains(&number).then_some(number)
}

/// The 3 of `RTMIN+3`.
fn offset(rest: &str, sign: char) -> Option<i32> {
    match rest.strip_prefix(sign) {
        Some(digits) => digits.parse().ok(),
        None => rest.is_empty().then_some(0),
    }
}

/// The full name of a signal: `SIGTERM`, `SIGRTMIN+3`.
pub fn name(number: i32) -> String {
    let index = usize::try_from(number - 1).ok();
    match index.and_then(|index| NAMES.get(index)) {
        Some(name) => format!("SIG{name}"),
        None if REALTIME.contains(&number) => format!("SIGRTMIN+{}", number - REALTIME.start()),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_people_write_them() {
        for (text, expected) in [
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigkill", Some(9)),
            ("9", Some(9)),
            ("WINCH", Some(28)),
            ("SIGSYS", Some(31)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+99", None),
            ("RTMIN+2147483647", None),
            ("RTMAX--2147483648", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("", None),
            ("SIG", None),
            ("TREM", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn every_name_is_read_back() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(number)), Some(number));
        }
    }
}
