//! Each way in which overlayfs can be mounted, and the marks it then leaves in an upper directory.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod stage;

use std::collections::BTreeSet;

use invar_drift::{Change, Namespace, Options, Provenance, Reason};
use stage::rows::ROWS;
use stage::{Stage, lines, shell};

fn everything(namespace: Namespace) -> Options {
    Options {
        content: true,
        detail: true,
        namespace,
        ..Options::default()
    }
}

fn at<'a>(changes: &'a [Change], path: &str) -> &'a Change {
    let found = changes.iter().find(|change| change.path == path.as_bytes());
    found.unwrap_or_else(|| panic!("{path} is not among {:?}", lines(changes, |c| c.actual)))
}

fn from(change: &Change) -> Option<String> {
    let provenance = change.detail.as_ref()?.provenance.as_ref()?;
    provenance
        .from()
        .map(|from| String::from_utf8(from.to_vec()).unwrap())
}

/// A row of the table that has another outcome: its name, and what is true.
type Other = (&'static str, &'static str);

/// Options, where the overlay then keeps its marks, and what is another with them.
const MOUNTS: &[(&str, Namespace, &[Other])] = &[
    ("redirect_dir=on", Namespace::Trusted, &[]),
    ("metacopy=on", Namespace::Trusted, &[]),
    // One file with two names stays one file when it is written.
    (
        "index=on",
        Namespace::Trusted,
        &[("hardlink-written", "C f; C g")],
    ),
    ("xino=on", Namespace::Trusted, &[]),
    (
        "redirect_dir=on,metacopy=on,index=on",
        Namespace::Trusted,
        &[("hardlink-written", "C f; C g")],
    ),
    ("userxattr", Namespace::User, &[]),
];

#[test]
fn the_table_holds_with_every_mount_option() {
    for (options, namespace, others) in MOUNTS {
        let image = |dir: &std::path::Path| {
            for row in ROWS {
                shell(dir, &row.image_script());
            }
        };
        let stage = Stage::with_options(options, image, |_| {});
        for row in ROWS {
            shell(&stage.merged().join(row.name), &row.action_script());
        }
        let found = stage.compare(&everything(*namespace)).changes;
        let mut expected = [BTreeSet::new(), BTreeSet::new()];
        for row in ROWS {
            let other = others
                .iter()
                .find(|(name, _)| *name == row.name)
                .map(|(_, other)| *other);
            expected[0].extend(row.expected(other.unwrap_or(row.compatible), true));
            expected[1].extend(row.expected(other.unwrap_or(row.actual), false));
        }
        let found = [
            lines(&found, |change| change.compatible),
            lines(&found, |change| change.actual),
        ];
        for (verdict, found, expected) in [
            ("compatible", &found[0], &expected[0]),
            ("actual", &found[1], &expected[1]),
        ] {
            let missing: Vec<_> = expected.difference(found).collect();
            let surplus: Vec<_> = found.difference(expected).collect();
            assert!(
                missing.is_empty() && surplus.is_empty(),
                "{options}, {verdict}: missing {missing:?}, surplus {surplus:?}"
            );
        }
    }
}

#[test]
fn a_renamed_directory_is_followed_to_where_it_was() {
    let stage = Stage::with_options(
        "redirect_dir=on",
        |lower| shell(lower, "mkdir -p d/e; echo f >d/e/f; echo g >d/g; mkdir x"),
        |_| {},
    );
    shell(
        &stage.merged(),
        "mv d h; mv h/e x/k; echo more >>h/g; mkdir d; echo n >d/n",
    );
    let found = stage.compare(&everything(Namespace::Trusted)).changes;
    let actual: Vec<_> = lines(&found, |change| change.actual).into_iter().collect();
    assert_eq!(
        actual,
        [
            "A /d/n", "A /h", "A /h/g", "A /x/k", "A /x/k/f", "D /d/e", "D /d/g"
        ]
    );
    assert_eq!(from(at(&found, "/h")).unwrap(), "/d");
    assert_eq!(from(at(&found, "/x/k")).unwrap(), "/d/e");
    assert_eq!(from(at(&found, "/x/k/f")).unwrap(), "/d/e/f");
    assert_eq!(from(at(&found, "/h/g")).unwrap(), "/d/g");
}

#[test]
fn a_file_copied_up_without_its_content_is_not_read_as_zeros() {
    let stage = Stage::with_options(
        "metacopy=on,redirect_dir=on",
        |lower| shell(lower, "echo secret >f; echo other >g; echo third >h"),
        |_| {},
    );
    shell(
        &stage.merged(),
        "chmod 600 f; mv g moved; chmod 600 h; echo more >>h",
    );
    let found = stage.compare(&everything(Namespace::Trusted)).changes;
    let mode_only = at(&found, "/f");
    let reasons: Vec<_> = mode_only.reasons.names().collect();
    assert_eq!(reasons, ["mode"]);
    let digests = |path: &str| {
        let detail = at(&found, path).detail.as_ref().unwrap();
        (
            detail.old.as_ref().map(|s| s.digest),
            detail.new.as_ref().map(|s| s.digest),
        )
    };
    let (old, new) = digests("/f");
    assert_eq!(old, new);
    assert_eq!(digests("/moved").1, digests("/g").0);
    assert_eq!(from(at(&found, "/moved")).unwrap(), "/g");
    assert!(at(&found, "/h").reasons.contains(Reason::Size));
}

#[test]
fn names_of_one_file_change_together_when_the_overlay_keeps_an_index() {
    let stage = Stage::with_options(
        "index=on",
        |lower| {
            shell(
                lower,
                "echo a >f; mkdir -p d e; ln f d/g; ln f e/h; ln f z; echo b >p; ln p q",
            );
        },
        |_| {},
    );
    shell(
        &stage.merged(),
        "rm z; echo more >>d/g; rm -r e; mkdir e; mv p moved; echo x >>moved",
    );
    let found = stage.compare(&everything(Namespace::Trusted)).changes;
    let actual: Vec<_> = lines(&found, |change| change.actual).into_iter().collect();
    assert_eq!(
        actual,
        [
            "A /moved", "C /d/g", "C /f", "C /q", "D /e/h", "D /p", "D /z"
        ]
    );
    let compatible = lines(&found, |change| change.compatible);
    assert!(compatible.contains("C /f") && compatible.contains("C /d"));
}

#[test]
fn a_marked_empty_file_is_a_whiteout_in_a_directory_that_says_so_and_nowhere_else() {
    let stage = Stage::with_options(
        "",
        |lower| shell(lower, "mkdir d e; echo z >d/z; echo k >d/k; echo z >e/z"),
        |upper| {
            shell(
                upper,
                "mkdir d e; touch d/z e/z; \
                 setfattr -n trusted.overlay.opaque -v x d; \
                 setfattr -n trusted.overlay.whiteout -v y d/z; \
                 setfattr -n trusted.overlay.whiteout -v y e/z",
            );
        },
    );
    assert!(!stage.merged().join("d/z").exists());
    let found = stage.compare(&everything(Namespace::Trusted)).changes;
    let actual: Vec<_> = lines(&found, |change| change.actual).into_iter().collect();
    assert_eq!(actual, ["C /e/z", "D /d/z"]);
}

#[test]
fn marks_of_the_other_kind_are_the_containers_own_and_hide_nothing() {
    for (options, namespace, forged) in [
        ("", Namespace::Trusted, "user.overlay.opaque"),
        ("userxattr", Namespace::User, "trusted.overlay.opaque"),
    ] {
        let stage = Stage::with_options(
            options,
            |lower| shell(lower, "mkdir d; echo a >d/a; echo b >d/b"),
            |_| {},
        );
        shell(
            &stage.merged(),
            &format!("echo more >>d/a; setfattr -n {forged} -v y d"),
        );
        let found = stage.compare(&everything(namespace)).changes;
        let actual: Vec<_> = lines(&found, |change| change.actual).into_iter().collect();
        assert_eq!(actual, ["C /d", "C /d/a"], "{options}");
    }
}

#[test]
fn how_a_path_came_to_be_is_told_by_marks_the_container_cannot_forge() {
    let stage = Stage::new(|lower| {
        shell(
            lower,
            "for n in edited replaced moved over linked kept tree/one tree/two; do \
             mkdir -p $(dirname $n); echo $n >$n; done; echo s >several; ln several names",
        );
    });
    shell(
        &stage.merged(),
        "echo x >>edited; rm replaced; echo y >replaced; mv moved away; mv tree/one out; \
         touch linked; ln linked link; ln kept twin; mv over replaced2; rm -r tree; \
         echo n >new; echo x >>several; mv edited names2; mv names2 edited",
    );
    let found = stage.compare(&everything(Namespace::Trusted)).changes;
    for (path, how, source) in [
        ("/edited", Some("edited"), None),
        ("/replaced", Some("replaced"), None),
        ("/away", Some("renamed"), Some("/moved")),
        ("/out", Some("renamed"), Some("/tree/one")),
        ("/replaced2", Some("renamed"), Some("/over")),
        ("/link", Some("linked"), Some("/linked")),
        ("/twin", Some("linked"), Some("/kept")),
        ("/new", Some("new"), None),
        // Of a file with several names the overlay keeps no origin.
        ("/several", None, None),
    ] {
        let change = at(&found, path);
        let provenance = change.detail.as_ref().unwrap().provenance.as_ref();
        assert_eq!(provenance.map(Provenance::as_str), how, "{path}");
        assert_eq!(from(change).as_deref(), source, "{path}");
    }
}
