//! Where a container may write, and where it may not.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use fs_err as fs;
use support::{busybox, outcome, shell};

#[test]
fn the_root_is_read_only_unless_asked_for() {
    let invar = busybox();
    for path in [
        "/new",
        "/etc/passwd",
        "/bin/busybox",
        "/root/.profile",
        "/www/index.html",
    ] {
        let script = format!("echo x >> {path}");
        let (code, _, said) = outcome(&invar, &["run", "--rm", "busybox", "sh", "-c", &script]);
        assert_ne!(code, Some(0), "{path}");
        assert!(said.contains("Read-only file system"), "{path}: {said}");
    }
    for script in [
        "rm /etc/passwd",
        "mkdir /new",
        "chmod 777 /etc",
        "mv /etc/passwd /etc/other",
        "mknod /dev/evil c 1 3 || mknod /evil c 1 3",
        "touch /etc/passwd",
        "mount -o remount,rw /",
    ] {
        let (code, ..) = outcome(&invar, &["run", "--rm", "busybox", "sh", "-c", script]);
        assert_ne!(code, Some(0), "{script}");
    }
}

#[test]
fn scratch_space_is_writable_but_runs_nothing() {
    let invar = busybox();
    for directory in ["/tmp", "/run", "/var/tmp", "/dev/shm"] {
        let script = format!(
            "cp /bin/busybox {directory}/ && {directory}/busybox true; echo code $?; \
             grep ' {directory} ' /proc/mounts"
        );
        let said = shell(&invar, &[], &script);
        assert!(said.contains("code 126"), "{directory}: {said}");
        for option in ["noexec", "nosuid", "nodev"] {
            assert!(said.contains(option), "{directory}: {said}");
        }
    }
}

#[test]
fn a_writable_root_keeps_what_was_written_until_the_container_goes() {
    let invar = busybox();
    let script = "cat /kept 2>/dev/null || echo first > /kept";
    invar.run(&[
        "create",
        "--writable",
        "--name",
        "lab",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(invar.run(&["start", "-a", "lab"]), "");
    assert_eq!(invar.run(&["start", "-a", "lab"]), "first");
    let diff = invar.run(&["diff", "--format", "docker", "lab"]);
    assert!(diff.lines().any(|line| line == "A /kept"), "{diff}");
    assert_eq!(
        shell(&invar, &[], "ls /kept 2>/dev/null || echo as built"),
        "as built"
    );
}

#[test]
fn bind_mounts_keep_to_their_mode() {
    let invar = busybox();
    let directory = invar.root().join("shared");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "from the host\n").unwrap();
    let host = directory.to_str().unwrap();
    let with = |options: &str, script: &str| {
        let volume = format!("{host}:/data{options}");
        outcome(
            &invar,
            &["run", "--rm", "-v", &volume, "busybox", "sh", "-c", script],
        )
    };
    assert_eq!(with("", "cat /data/file").1, "from the host");
    assert_eq!(with("", "echo changed > /data/file").0, Some(0));
    assert_eq!(
        fs::read_to_string(directory.join("file")).unwrap(),
        "changed\n"
    );
    let (code, _, said) = with(":ro", "echo again > /data/file");
    assert!(code != Some(0) && said.contains("Read-only"), "{said}");
    let run = "cp /bin/busybox /data/; /data/busybox echo ran";
    assert_eq!(with("", run).0, Some(126), "writable mounts run nothing");
    assert_eq!(with(":exec", run).1, "ran");
    assert_eq!(with(":ro", "/data/busybox echo ran").1, "ran");
}

#[test]
fn a_read_only_bind_is_read_only_all_the_way_down() {
    let invar = busybox();
    let directory = invar.root().join("outer");
    let inner = directory.join("inner");
    fs::create_dir_all(&inner).unwrap();
    let mount = ["-t", "tmpfs", "tmpfs", inner.to_str().unwrap()];
    invar_testkit::checked(std::process::Command::new("mount").args(mount));
    let volume = format!("{}:/data:ro", directory.display());
    let script = "touch /data/inner/file";
    let (code, _, said) = outcome(
        &invar,
        &["run", "--rm", "-v", &volume, "busybox", "sh", "-c", script],
    );
    invar_testkit::checked(std::process::Command::new("umount").arg(&inner));
    assert!(
        code != Some(0) && said.contains("Read-only"),
        "{code:?} {said}"
    );
}

#[test]
fn a_named_volume_keeps_data_and_begins_as_the_image_has_it() {
    let invar = busybox();
    let www = ["-v", "site:/www"];
    assert_eq!(
        shell(&invar, &www, "cat /www/index.html"),
        "<h1>as built</h1>"
    );
    shell(&invar, &www, "echo edited > /www/index.html");
    assert_eq!(shell(&invar, &www, "cat /www/index.html"), "edited");
    assert_eq!(
        shell(&invar, &["-v", "site:/data:ro"], "cat /data/index.html"),
        "edited"
    );
    assert_eq!(
        shell(&invar, &[], "cat /www/index.html"),
        "<h1>as built</h1>"
    );
}

#[test]
fn a_volume_without_a_name_is_writable() {
    let invar = busybox();
    let mount = "type=volume,target=/var/lib/data";
    let said = shell(
        &invar,
        &["--mount", mount],
        "echo x > /var/lib/data/f; cat /var/lib/data/f",
    );
    assert_eq!(said, "x");
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let invar = busybox();
    let flags = ["--tmpfs", "/scratch:size=1m,mode=700"];
    let script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/f bs=64k count=64 2>&1; \
                  stat -c %s /scratch/f";
    let said = shell(&invar, &flags, script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"700"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(lines.last(), Some(&"1048576"), "{said}");
}

#[test]
fn a_missing_host_path_is_refused_by_name_and_not_made() {
    let invar = busybox();
    let path = invar.root().join("mistyped");
    let volume = format!("{}:/data", path.display());
    let (code, _, said) = outcome(&invar, &["run", "--rm", "-v", &volume, "busybox", "true"]);
    assert_eq!(code, Some(125));
    assert!(
        said.contains("mistyped") && said.contains("mkdir -p"),
        "{said}"
    );
    assert!(!path.exists());
}

#[test]
fn mount_points_cannot_be_led_out_of_the_container_by_links() {
    let invar = busybox();
    let escape = invar.root().join("escape");
    let script = format!(
        "ln -s {} /link; ln -s ../../../../../../..{} /up",
        escape.display(),
        escape.display()
    );
    // A container whose own files hold the links, mounted over at its next start.
    let flags = [
        "--writable",
        "-v",
        "data:/link/inside",
        "-v",
        "data:/up/inside",
    ];
    invar.run(
        &[
            &["create", "--name", "trap"][..],
            &flags,
            &["busybox", "sh", "-c", &script],
        ]
        .concat(),
    );
    for _ in 0..2 {
        drop(invar.output(&["start", "-a", "trap"]));
    }
    assert!(!escape.exists(), "a mount point was made on the host");
}
