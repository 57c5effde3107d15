//! Containers that were made to fool, exhaust or hang whoever looks at them.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod stage;

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fs_err as fs;
use invar_drift::{Change, Comparison, Digest, DriftError, Kind, Options, compare};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use stage::{Stage, lines, open, shell};

fn everything() -> Options {
    Options {
        content: true,
        detail: true,
        patch: true,
        ..Options::default()
    }
}

fn at<'a>(found: &'a Comparison, path: &[u8]) -> &'a Change {
    found
        .changes
        .iter()
        .find(|change| change.path == path)
        .unwrap()
}

#[test]
fn names_that_forge_lines_or_move_the_cursor_are_shown_escaped_and_kept_exactly() {
    let stage = Stage::new(|_| {});
    let long = "n".repeat(255);
    let names: [&[u8]; 6] = [
        b"a\nA forged",
        b"\x1b[2J\x1b]0;title\x07",
        b"\xff\xfe invalid",
        "\u{202e}txt.exe".as_bytes(),
        b"back\\slash",
        long.as_bytes(),
    ];
    for name in names {
        fs::write(stage.merged().join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let found = stage.compare(&everything());
    assert_eq!(found.changes.len(), names.len());
    for name in names {
        let change = at(&found, &[b"/", name].concat());
        assert_eq!(change.actual, Some(Kind::Added));
        let (text, exact) = change.path_text();
        assert!(
            text.chars().all(|c| !c.is_control() && c != '\u{202e}'),
            "{text}"
        );
        assert_eq!(exact.is_some(), name != long.as_bytes(), "{text}");
        let json = serde_json::to_string(change).unwrap();
        assert!(!json.contains('\n') && !json.contains('\u{1b}'), "{json}");
    }
}

#[test]
fn a_tree_of_two_thousand_levels_is_walked_to_its_end() {
    let stage = Stage::new(|_| {});
    // Beyond PATH_MAX nothing can be named from the root; each step is relative.
    let mut dir = open(&stage.merged());
    for _ in 0..2000 {
        mkdirat(&dir, "level", Mode::RWXU).unwrap();
        dir = openat(
            &dir,
            "level",
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = openat(&dir, "file", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"end").unwrap();
    let begun = Instant::now();
    let found = stage.compare(&everything());
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(found.changes.len(), 2001);
    let deepest = found.changes.last().unwrap();
    assert_eq!(
        deepest.path,
        ["/level".repeat(2000), "/file".to_owned()]
            .concat()
            .into_bytes()
    );
    assert!(matches!(
        deepest
            .detail
            .as_ref()
            .unwrap()
            .new
            .as_ref()
            .unwrap()
            .digest,
        Digest::Sha256(_)
    ));
}

#[test]
fn what_must_not_be_opened_is_not_waited_for() {
    let stage = Stage::new(|lower| shell(lower, "echo a >was-file; mkfifo was-fifo"));
    shell(
        &stage.merged(),
        "mkfifo pipe; mknod terminal c 5 0; mknod disk b 240 9; rm was-file; mkfifo was-file; \
         rm was-fifo; echo b >was-fifo; perl -MSocket -e \
         'socket(S,PF_UNIX,SOCK_STREAM,0);bind(S,sockaddr_un(\"socket\"))or die'",
    );
    let begun = Instant::now();
    let found = stage.compare(&everything());
    assert!(begun.elapsed() < Duration::from_secs(20));
    let actual: Vec<_> = lines(&found.changes, |change| change.actual)
        .into_iter()
        .collect();
    assert_eq!(
        actual,
        [
            "A /disk",
            "A /pipe",
            "A /socket",
            "A /terminal",
            "C /was-fifo",
            "C /was-file"
        ]
    );
    let rule = |path: &[u8]| {
        at(&found, path)
            .finding
            .as_ref()
            .map(|finding| finding.rule.clone())
    };
    assert_eq!(rule(b"/disk").as_deref(), Some("device"));
}

#[test]
fn sparse_files_of_a_terabyte_are_compared_and_hashed_without_reading_their_holes() {
    let stage = Stage::new(|lower| {
        shell(
            lower,
            "for n in same edited; do truncate -s 1T $n; printf x | dd of=$n bs=1 seek=500G conv=notrunc status=none; touch -d @1600000000 $n; done",
        );
    });
    shell(
        &stage.merged(),
        "truncate -s 1T new; exec 3<>same; \
         printf y | dd of=edited bs=1 seek=500G conv=notrunc status=none; touch -d @1600000000 edited",
    );
    let begun = Instant::now();
    let found = stage.compare(&everything());
    assert!(
        begun.elapsed() < Duration::from_mins(1),
        "{:?}",
        begun.elapsed()
    );
    let actual: Vec<_> = lines(&found.changes, |change| change.actual)
        .into_iter()
        .collect();
    assert_eq!(actual, ["A /new", "C /edited"]);
    let finding = at(&found, b"/edited").finding.as_ref().unwrap();
    assert_eq!(finding.rule, "kept-time");
    let new = at(&found, b"/new")
        .detail
        .as_ref()
        .unwrap()
        .new
        .as_ref()
        .unwrap()
        .digest;
    assert_eq!(new, Digest::TooSparse);
}

#[test]
fn a_link_out_of_the_container_is_told_and_never_followed() {
    let stage = Stage::new(|lower| shell(lower, "mkdir d; echo a >d/f; echo b >g"));
    shell(
        &stage.merged(),
        "ln -s /etc/shadow shadow; rm -r d; ln -s /etc d; rm g; ln -s ../../../../../../etc/passwd g",
    );
    let found = stage.compare(&everything());
    let actual: Vec<_> = lines(&found.changes, |change| change.actual)
        .into_iter()
        .collect();
    assert_eq!(actual, ["A /shadow", "C /d", "C /g"]);
    let link = at(&found, b"/shadow");
    let shown = link.detail.as_ref().unwrap().new.as_ref().unwrap();
    assert_eq!(shown.target.as_deref(), Some(&b"/etc/shadow"[..]));
    assert_eq!(shown.digest, Digest::None);
    assert!(found.changes.iter().all(|change| change.patch.is_none()));
}

#[test]
fn text_of_the_container_in_a_patch_stays_what_it_is() {
    let stage = Stage::new(|lower| {
        shell(
            lower,
            "printf 'a\\nb\\n' >f; echo x >bin; truncate -s 1M big",
        );
    });
    shell(
        &stage.merged(),
        "printf 'a\\n\\033[2Jb\\n' >f; printf '\\377\\0' >bin; echo x >>big",
    );
    let found = stage.compare(&everything());
    let patch = |path: &[u8]| at(&found, path).patch.clone().map(|patch| *patch);
    let unified = "@@ -1,2 +1,2 @@\n a\n-b\n+\u{1b}[2Jb\n".to_owned();
    assert_eq!(patch(b"/f"), Some(invar_drift::Patch::Unified(unified)));
    assert_eq!(
        patch(b"/bin"),
        Some(invar_drift::Patch::Omitted("not text"))
    );
    assert_eq!(
        patch(b"/big"),
        Some(invar_drift::Patch::Omitted("too long"))
    );
}

#[test]
fn a_container_that_changes_everything_all_the_time_is_still_compared() {
    let stage = Stage::new(|lower| {
        shell(
            lower,
            "mkdir d; for i in $(seq 50); do mkdir d/$i; echo a >d/$i/f; done",
        );
    });
    let root = stage.merged();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let dir = root.join("d").join((turn % 50 + 1).to_string());
                fs::remove_dir_all(&dir).ok();
                // A file, a link, and a directory again: whatever was seen is another by now.
                match turn % 3 {
                    0 => fs::write(&dir, "file").ok(),
                    1 => std::os::unix::fs::symlink("/etc", &dir).ok(),
                    _ => fs::create_dir(&dir)
                        .and_then(|()| fs::write(dir.join("n"), "new"))
                        .ok(),
                };
                turn += 1;
                if turn.is_multiple_of(7) {
                    fs::remove_file(&dir).ok();
                    fs::remove_dir_all(&dir).ok();
                }
            }
        });
        let _stop = StopOnDrop(&stop);
        for _ in 0..100 {
            let found = stage.compare(&everything());
            assert!(
                found
                    .changes
                    .iter()
                    .all(|change| change.path.starts_with(b"/d"))
            );
        }
    });
}

/// Ends the writer also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_container_removed_meanwhile_is_an_error_and_not_an_empty_result() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    for name in ["lower", "upper"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    let (lower, upper) = (
        open(&directory.path().join("lower")),
        open(&directory.path().join("upper")),
    );
    fs::remove_dir(directory.path().join("upper")).unwrap();
    let error = compare(lower.as_fd(), upper.as_fd(), &Options::default()).unwrap_err();
    assert!(matches!(error, DriftError::Removed), "{error}");
}

#[test]
fn a_mark_of_nonsense_does_not_stop_the_comparison() {
    for mark in [
        "redirect -v ''",
        "redirect -v ../../etc",
        "redirect -v /nowhere",
        "redirect -v /../../etc",
        "redirect -v ..",
        "redirect -v 0x00ff",
        "opaque -v yes",
        "origin -v short",
        "origin -v 0x00fb0500",
        "metacopy -v 0xffff",
        "nlink -v U-9",
    ] {
        let stage = Stage::new(|lower| shell(lower, "mkdir d; echo a >d/a; echo b >f"));
        // Written beside the overlay, as only a broken or hostile file system would have it.
        shell(
            &stage.at("upper"),
            &format!(
                "mkdir d; echo n >d/n; echo c >f; setfattr -n trusted.overlay.{mark} d; \
                 setfattr -n trusted.overlay.{mark} f"
            ),
        );
        let found = stage.compare(&everything());
        let actual = lines(&found.changes, |change| change.actual);
        assert!(
            actual.contains("A /d/n") && actual.contains("C /f"),
            "{mark}: {actual:?}"
        );
    }
}
