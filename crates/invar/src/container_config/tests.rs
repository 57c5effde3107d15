//! One table a rule; the expected values are what Docker 20.10 does unless a line says otherwise.

use std::collections::HashMap;

use clap::Parser;
use invar_engine::{ContainerConfig, Mount, MountKind};
use oci_spec::image::{Config, ConfigBuilder};

use super::*;

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

fn config(args: &[&str], image: &Config) -> anyhow::Result<ContainerConfig> {
    let line = CommandLine::try_parse_from([&["run"], args].concat())?;
    let host = Host {
        environment: &|name| (name == "LANG").then(|| "C.UTF-8".to_owned()),
        working_directory: PathBuf::from("/usr"),
        processors: 2,
        // All but CAP_SYS_RESOURCE, as in many a virtual machine.
        bounding_set: !(1 << 24),
        has_bridges: true,
    };
    let image = ImageSettings {
        id: "sha256:1234",
        name: "web",
        config: image,
        health: None,
    };
    resolve(&line.options, &line.command, &image, &host)
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().copied().map(str::to_owned).collect()
}

fn shell() -> Config {
    ConfigBuilder::default()
        .cmd(strings(&["sh"]))
        .build()
        .unwrap()
}

fn resolved(args: &[&str]) -> ContainerConfig {
    config(args, &shell()).unwrap()
}

fn refusal(args: &[&str]) -> String {
    let error = config(args, &shell()).expect_err(&args.join(" "));
    error
        .chain()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[test]
fn entrypoint_and_command_combine_as_docker_combines_them() {
    type Words = &'static [&'static str];
    // image entrypoint, image command, --entrypoint, command, what runs
    type Row = (Words, Words, Option<&'static str>, Words, Option<Words>);
    let rows: &[Row] = &[
        (&[], &["sh"], None, &[], Some(&["sh"])),
        (&["serve"], &[], None, &[], Some(&["serve"])),
        (&["serve"], &["-f"], None, &[], Some(&["serve", "-f"])),
        (
            &["serve"],
            &["-f"],
            None,
            &["a", "-b"],
            Some(&["serve", "a", "-b"]),
        ),
        (&[], &["sh"], None, &["ls", "-l"], Some(&["ls", "-l"])),
        (&["serve"], &["-f"], Some("sh"), &[], Some(&["sh"])),
        (
            &["serve"],
            &["-f"],
            Some("sh"),
            &["-c"],
            Some(&["sh", "-c"]),
        ),
        (&["serve"], &["-f"], Some(""), &["ls"], Some(&["ls"])),
        (&["serve"], &["-f"], Some(""), &[], None),
        (&[], &[], None, &[], None),
        (&[""], &["sh"], None, &[], None),
    ];
    for (image_entrypoint, image_command, entrypoint, command, expected) in rows {
        let args = program::args(
            *entrypoint,
            &strings(command),
            Some(&strings(image_entrypoint)),
            Some(&strings(image_command)),
        );
        assert_eq!(
            args,
            expected.map(strings),
            "{image_entrypoint:?} {image_command:?} {entrypoint:?} {command:?}"
        );
    }
}

#[test]
fn an_image_without_a_program_needs_one() {
    let error = config(&[], &Config::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image \"web\" does not say what to run"
    );
    assert_eq!(config(&["ls"], &Config::default()).unwrap().args, ["ls"]);
}

#[test]
fn later_settings_of_a_variable_win() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(
        file.path(),
        "\u{feff}# comment\n\n  FILE=a b \nBOTH=file\nLANG\nMISSING\nQUOTED=\"x\"\n",
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let image = ConfigBuilder::default()
        .cmd(strings(&["sh"]))
        .env(strings(&["PATH=/bin", "BOTH=image", "IMAGE=1", "GONE=1"]))
        .build()
        .unwrap();
    let args = [
        "--env-file",
        path,
        "-e",
        "BOTH=flag",
        "-e",
        "TWICE=1",
        "-e",
        "TWICE=2",
        "-e",
        "GONE",
        "-e",
        "EMPTY=",
        "-e",
        "EQUALS=a=b",
    ];
    assert_eq!(
        config(&args, &image).unwrap().env,
        strings(&[
            "PATH=/bin",
            "BOTH=flag",
            "IMAGE=1",
            "FILE=a b ",
            "LANG=C.UTF-8",
            "QUOTED=\"x\"",
            "TWICE=2",
            "EMPTY=",
            "EQUALS=a=b",
        ])
    );
}

#[test]
fn the_environment_has_docker_s_defaults() {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(resolved(&[]).env, strings(&[path]));
    assert_eq!(
        resolved(&["-e", "LANG"]).env,
        strings(&[path, "LANG=C.UTF-8"])
    );
    assert_eq!(
        resolved(&["-t", "-h", "box"]).env,
        strings(&[path, "TERM=xterm", "HOSTNAME=box"])
    );
}

#[test]
fn a_bad_environment_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), "A=1\nB C=2\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (args, expected) in [
        (["-e", "=x"], "has no name"),
        (["-e", ""], "needs a name"),
        (["--env-file", "/no/such"], "/no/such"),
        (
            ["--env-file", path],
            "line 2: \"B C\" is not the name of a variable",
        ),
    ] {
        assert!(refusal(&args).contains(expected), "{}", refusal(&args));
    }
}

#[test]
fn a_container_is_read_only_with_scratch_space_unless_asked() {
    let config = resolved(&[]);
    assert!(!config.writable);
    let targets: Vec<_> = config
        .mounts
        .iter()
        .map(|m| m.target.to_str().unwrap())
        .collect();
    assert_eq!(targets, ["/run", "/tmp", "/var/tmp"]);
    assert!(
        config
            .mounts
            .iter()
            .all(|mount| !mount.exec && !mount.read_only)
    );
    for (args, writable) in [
        (&["--writable"] as &[&str], true),
        (&["--read-only=false"], true),
        (&["--read-only"], false),
        (&["--writable", "--read-only"], false),
        (&["--read-only", "--writable"], true),
    ] {
        let config = resolved(args);
        assert_eq!(config.writable, writable, "{args:?}");
        assert_eq!(config.mounts.is_empty(), writable, "{args:?}");
    }
}

fn bind(source: &str) -> MountKind {
    MountKind::Bind {
        source: PathBuf::from(source),
    }
}

fn named(name: &str) -> MountKind {
    MountKind::Volume {
        name: name.to_owned(),
    }
}

#[test]
fn mounts_are_read_as_docker_reads_them() {
    let tmpfs = |size, mode| MountKind::Tmpfs { size, mode };
    let default_tmpfs = tmpfs(256 << 20, 0o1777);
    let rows: &[(&[&str], MountKind, bool, bool)] = &[
        // flags, kind, read-only, programs run
        (&["-v", "/etc:/x"], bind("/etc"), false, false),
        (&["-v", "/etc:/x:ro"], bind("/etc"), true, true),
        (&["-v", "/etc:/x:ro,noexec"], bind("/etc"), true, false),
        (&["-v", "/etc:/x:exec"], bind("/etc"), false, true),
        (&["-v", "./bin:/x/:rw"], bind("/usr/bin"), false, false),
        (&["-v", "../etc:/y/../x"], bind("/etc"), false, false),
        (&["-v", "data:/x"], named("data"), false, false),
        (&["-v", "data:/x:ro"], named("data"), true, false),
        (
            &["--mount", "type=bind,src=/etc,dst=/x,readonly"],
            bind("/etc"),
            true,
            true,
        ),
        (
            &["--mount", "source=data,target=/x,exec"],
            named("data"),
            false,
            true,
        ),
        (
            &["--mount", "type=tmpfs,target=/x"],
            default_tmpfs.clone(),
            false,
            false,
        ),
        (
            &[
                "--mount",
                "type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=700",
            ],
            tmpfs(1 << 20, 0o700),
            false,
            false,
        ),
        (&["--tmpfs", "/x"], default_tmpfs, false, false),
        (
            &["--tmpfs", "/x:size=64k,mode=0755,exec,nosuid"],
            tmpfs(64 << 10, 0o755),
            false,
            true,
        ),
    ];
    for (args, kind, read_only, exec) in rows {
        let config = resolved(&[&["--writable"], *args].concat());
        let expected = Mount {
            target: PathBuf::from("/x"),
            kind: kind.clone(),
            read_only: *read_only,
            exec: *exec,
        };
        assert_eq!(config.mounts, [expected], "{args:?}");
    }
}

#[test]
fn a_bad_mount_is_refused() {
    for (flag, value, expected) in [
        ("-v", "/no/such:/x", "there is no /no/such on the host"),
        ("-v", "/etc:x", "not an absolute path"),
        ("-v", "/etc:/", "over the container's root"),
        ("-v", "/etc:/proc/sys", "/proc or /sys"),
        ("-v", "/etc:/x/../sys", "/proc or /sys"),
        (
            "-v",
            "a/b:/x",
            "neither an absolute host path nor a volume name",
        ),
        ("-v", "/etc:/x:rshared", "option \"rshared\" is not there"),
        ("-v", "/a:/b:ro:c", "more than two ':'"),
        ("--mount", "type=bind,target=/x", "needs source=PATH"),
        ("--mount", "type=bind,source=/etc", "needs target=PATH"),
        ("--mount", "type=npipe,target=/x", "bind, volume or tmpfs"),
        ("--mount", "target=/x,color=red", "\"color\" is not there"),
        ("--tmpfs", "/x:mode=99", "not a mode"),
        ("--tmpfs", "/x:dev", "\"dev\" is not there"),
        ("--tmpfs", "x", "not an absolute path"),
    ] {
        let said = refusal(&[flag, value]);
        assert!(said.contains(expected), "{flag} {value}: {said}");
    }
    let said = refusal(&["-v", "a:/x", "--tmpfs", "/x"]);
    assert!(said.contains("/x is mounted twice"), "{said}");
}

#[test]
fn volumes_of_the_image_are_anonymous_unless_mounted() {
    let image = ConfigBuilder::default()
        .cmd(strings(&["sh"]))
        .volumes(strings(&["/data", "/logs", "/tmp"]))
        .build()
        .unwrap();
    let config = config(&["--tmpfs", "/logs"], &image).unwrap();
    let shown: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| {
            (
                mount.target.to_str().unwrap(),
                matches!(mount.kind, MountKind::Volume { .. }),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("/data", true),
            ("/logs", false),
            ("/run", false),
            ("/tmp", true),
            ("/var/tmp", false)
        ]
    );
}

#[test]
fn limits_are_read_as_docker_reads_them() {
    let config = resolved(&["-m", "512m", "--cpus", "1.5", "--pids-limit", "7"]);
    assert_eq!(config.resources.memory, Some(512 << 20));
    assert_eq!(config.resources.nano_cpus, Some(1_500_000_000));
    assert_eq!(config.resources.pids, 7);
    let config = resolved(&["-m", "-1", "--cpus", "0", "--pids-limit", "-1"]);
    assert_eq!(config.resources.memory, None);
    assert_eq!(config.resources.nano_cpus, None);
    assert_eq!(config.resources.pids, 4_194_304);
    for (args, expected) in [
        (["-m", "1m"], "6m"),
        (["-m", "lots"], "\"lots\" is not a size"),
        (["--cpus", "3"], "between 0.01 and 2"),
        (["--cpus", "0.001"], "between 0.01 and 2"),
        (["--cpus", "-1"], "not a number"),
    ] {
        let said = config_refusal(&args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

/// A refusal by the rules or, for values that look like flags, by the parser.
fn config_refusal(args: &[&str]) -> String {
    match CommandLine::try_parse_from([&["run"], args].concat()) {
        Ok(_) => refusal(args),
        Err(_) => refusal(&[&format!("{}={}", args[0], args[1])]),
    }
}

#[test]
fn sizes_are_powers_of_1024() {
    for (text, bytes) in [
        ("1", Some(1)),
        ("1b", Some(1)),
        ("2k", Some(2048)),
        ("2KB", Some(2048)),
        ("1.5m", Some(1_572_864)),
        ("1GiB", Some(1 << 30)),
        ("3t", Some(3 << 40)),
        (".5k", Some(512)),
        ("10 m", Some(10 << 20)),
        ("", None),
        ("m", None),
        (".", None),
        ("-1m", None),
        ("1e3", None),
        ("1x", None),
        ("9000000t", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(quantity::size(text).ok(), bytes, "{text}");
    }
}

#[test]
fn capabilities_are_added_to_and_dropped_from_the_default() {
    let kept = |args: &[&str]| resolved(args).capabilities;
    assert_eq!(kept(&[]), capabilities::DEFAULT_CAPABILITIES);
    assert_eq!(kept(&["--cap-drop", "all"]), [""; 0]);
    assert_eq!(
        kept(&["--cap-drop=ALL", "--cap-add=net_raw,CHOWN"]),
        ["CAP_CHOWN", "CAP_NET_RAW"]
    );
    assert_eq!(kept(&["--cap-add", "ALL"]).len(), 40);
    assert_eq!(
        kept(&["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"]).len(),
        39
    );
    assert_eq!(kept(&["--cap-drop", "CAP_KILL"]).len(), 10);
    assert!(refusal(&["--cap-add", "root"]).contains("\"root\" is not a capability"));
    assert!(refusal(&["--cap-add", "SYS_RESOURCE"]).contains("cannot give CAP_SYS_RESOURCE"));
}

#[test]
fn the_image_s_own_settings_hold_until_a_flag_says_otherwise() {
    let image_labels: HashMap<_, _> = [("a", "image"), ("b", "2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let image = ConfigBuilder::default()
        .cmd(strings(&["sh"]))
        .user("nobody")
        .working_dir("/srv")
        .stop_signal("SIGQUIT")
        .labels(image_labels)
        .build()
        .unwrap();
    let from_image = config(&[], &image).unwrap();
    assert_eq!(from_image.user.0, "nobody");
    assert_eq!(from_image.cwd, PathBuf::from("/srv"));
    assert_eq!(from_image.stop_signal, "SIGQUIT");
    let args = [
        "-u",
        "1:2",
        "-w",
        "/a/./b/../c",
        "--stop-signal",
        "int",
        "-l",
        "a=flag",
        "-l",
        "c",
    ];
    let given = config(&args, &image).unwrap();
    assert_eq!(given.user.0, "1:2");
    assert_eq!(given.cwd, PathBuf::from("/a/c"));
    assert_eq!(given.stop_signal, "SIGINT");
    let labels: Vec<_> = given
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(labels, ["a=flag", "b=2", "c="]);
    let plain = resolved(&[]);
    assert_eq!(
        (plain.user.0.as_str(), plain.stop_signal.as_str()),
        ("0", "SIGTERM")
    );
    assert_eq!(plain.cwd, PathBuf::from("/"));
    assert!(refusal(&["-w", "srv"]).contains("not an absolute path"));
    assert!(refusal(&["-h", "a b"]).contains("not a host name"));
    assert!(refusal(&["--stop-signal", "STP"]).contains("not a signal"));
}

#[test]
fn equal_flags_are_one_revision() {
    assert_eq!(
        resolved(&["-m", "1g"]).revision(),
        resolved(&["-m", "1024m"]).revision()
    );
    assert_ne!(
        resolved(&[]).revision(),
        resolved(&["--writable"]).revision()
    );
}
