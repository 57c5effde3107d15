//! docs/docker-cli.md says what becomes of Docker's flags and commands; this holds it to that.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use support::{busybox, empty, outcome};

const PAGE: &str = include_str!("../../../docs/docker-cli.md");

/// The rows of a table below a heading: what is named in it, and the last column.
fn rows(heading: &str) -> Vec<(Vec<String>, String)> {
    let section = PAGE.split(&format!("## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let names = cells[0].split('`').skip(1).step_by(2).map(str::to_owned);
        (
            names.collect(),
            (*cells.last().unwrap()).replace("\\|", "|"),
        )
    })
    .collect()
}

#[test]
fn a_missing_flag_is_refused_with_the_hint_of_the_page() {
    let invar = empty();
    let rows = rows("Missing flags");
    assert!(rows.len() > 20, "{rows:?}");
    for (flags, hint) in rows {
        for flag in flags {
            let (code, out, said) = outcome(&invar, &["run", &flag, "busybox", "true"]);
            assert_eq!((code, out.as_str()), (Some(125), ""), "{flag}: {said}");
            assert_eq!(
                said,
                format!("error: invar has no {flag}\nhint: {hint}"),
                "{flag}"
            );
        }
    }
}

#[test]
fn a_missing_command_is_refused_with_the_hint_of_the_page() {
    let invar = empty();
    for (commands, hint) in rows("Missing commands") {
        for command in commands {
            let (code, _, said) = outcome(&invar, &[&command, "x"]);
            assert_eq!(code, Some(2), "{command}: {said}");
            let expected = format!("error: invar has no command {command}\nhint: {hint}");
            assert_eq!(said, expected, "{command}");
        }
    }
}

#[test]
fn a_flag_that_is_there_is_in_the_help_of_run() {
    let help = empty().run(&["run", "--help"]);
    for (flags, _) in rows("`run` and `create`") {
        for flag in flags {
            let flag = flag.split([' ', '=']).next().unwrap();
            let is_shown = help
                .lines()
                .any(|line| line.split([' ', ',', '[', '=']).any(|word| word == flag));
            assert!(is_shown, "{flag}\n{help}");
        }
    }
}

#[test]
fn a_command_that_is_there_has_help() {
    let invar = empty();
    for (commands, _) in rows("Commands") {
        for command in commands.iter().filter(|name| !name.starts_with('-')) {
            let name = command.split(' ').next().unwrap();
            assert_eq!(outcome(&invar, &[name, "--help"]).0, Some(0), "{name}");
        }
    }
}

#[test]
fn everyday_lines_of_docker_scripts_do_the_same() {
    let invar = busybox();
    let table: &[(&[&str], &str)] = &[
        (
            &[
                "run",
                "-d",
                "--name",
                "web",
                "--restart=unless-stopped",
                "-e",
                "A=b",
                "busybox",
                "sleep",
                "1000",
            ],
            "",
        ),
        (&["exec", "web", "sh", "-c", "echo $A"], "b"),
        (&["container", "ls", "-q", "--no-trunc"], ""),
        (&["update", "--memory", "64m", "web"], "web"),
        (&["container", "stop", "-t", "0", "web"], "web"),
        (&["container", "start", "web"], "web"),
        (&["stop", "--time=0", "web"], "web"),
        (&["rm", "-fv", "web"], "web"),
        (&["container", "prune", "--force"], ""),
        (
            &[
                "run",
                "--rm",
                "--read-only",
                "--tmpfs",
                "/scratch:size=1m",
                "busybox",
                "df",
                "-P",
                "/scratch",
            ],
            "",
        ),
    ];
    for (args, expected) in table {
        let (code, out, said) = outcome(&invar, args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        assert!(expected.is_empty() || out == *expected, "{args:?}: {out}");
    }
}
