//! Images beside what GNU tar unpacks: the same names, content, owners, modes, times, attributes
//! and links, in both forms of a view.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod stage;

use std::process::Command;

use fs_err as fs;
use invar_image::{Image, ImageStore, ImportOptions, Reference};
use invar_testkit::{checked, require, rootfs};
use stage::{FORMS, Mounted, assert_same, directory, packed, shell, store, unpacked};

/// A tree with everything that a tar can carry.
const TREE: &str = r#"
    mkdir -p plain/sub empty 'with space' modes
    printf 'small' > plain/small
    head -c 64 /dev/urandom > plain/inline-most
    head -c 65 /dev/urandom > plain/inline-too-much
    head -c 300000 /dev/urandom > plain/large
    head -c 3000000 /dev/urandom > plain/larger
    : > plain/nothing
    printf 'x' > $'with space/new\nline' ; printf 'x' > 'back\slash' ; printf 'x' > $'not\xffutf8'
    printf 'x' > "$(printf 'n%.0s' $(seq 255))"
    deep=$(printf 'directory-%02d/' $(seq 30)); mkdir -p "$deep"; printf 'deep' > "$deep/file"
    ln -s small plain/link; ln -s /absolute/elsewhere plain/absolute; ln -s "$(printf 't%.0s' $(seq 1000))" plain/long-target
    ln plain/large plain/sub/hard; ln plain/small hard-small; ln plain/link hard-symlink
    ln "$deep/file" hard-deep
    mkfifo fifo; mknod null c 1 3; mknod loop b 7 0; mknod far c 4000 1000000
    for mode in 0000 0644 4755 2755 1777 6777; do printf 'm' > modes/$mode; chmod $mode modes/$mode; done
    mkdir modes/sticky modes/setgid; chmod 1777 modes/sticky; chmod 2775 modes/setgid
    chown 1000:1001 plain/small; chown 4294967294:70000 plain/large; chown -h 5:6 plain/link; chown 33:33 empty
    setfattr -n user.note -v 'kept' plain/large; setfattr -n user.binary -v 0x0a000a3d0a plain/small
    setfattr -n user.on-directory -v '1' empty; setfattr -n user.empty plain/nothing
    setcap cap_net_bind_service=+ep plain/larger; setcap cap_dac_override,cap_fowner=ep plain/inline-too-much
    truncate -s 5000000 holes; printf 'middle' | dd of=holes bs=1 seek=2500000 conv=notrunc status=none
    truncate -s 100000 only-a-hole
    for i in $(seq 40); do printf "$i" | dd of=many-holes bs=1 seek=$((i * 20000)) conv=notrunc status=none; done
    touch -d '1969-12-31 23:59:58.5 UTC' plain/small; touch -d '2200-01-01 UTC' plain/large
    touch -d '2024-02-29 12:00:00.123456789 UTC' plain/nothing empty plain/sub .
    touch -h -d '2001-01-01 UTC' plain/link
"#;

#[test]
fn a_view_is_what_gnu_tar_unpacks() {
    require("setcap", "libcap2-bin");
    require("setfattr", "attr");
    let source = directory();
    let tree = source.path().join("tree");
    fs::create_dir(&tree).unwrap();
    shell(&tree, TREE);
    let attributes = ["--xattrs", "--xattrs-include=*"];
    let table: [(&str, &[&str]); 8] = [
        ("pax", &["--format=posix"]),
        ("pax, sparse 1.0", &["--format=posix", "--sparse"]),
        (
            "pax, sparse 0.1",
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
        ),
        (
            "pax, sparse 0.0",
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
        ),
        ("gnu", &["--format=gnu"]),
        ("gnu, sparse", &["--format=gnu", "--sparse"]),
        ("oldgnu, sparse", &["--format=oldgnu", "--sparse"]),
        (
            "pax, hard links dereferenced",
            &["--format=posix", "--hard-dereference"],
        ),
    ];
    for (form, options) in table {
        let is_pax = options[0] == "--format=posix";
        let mut options = options.to_vec();
        if is_pax {
            options.extend(attributes);
        }
        let tar = packed(&tree, &options);
        let expected = unpacked(&tar);
        let (_root, store) = store();
        let image = import(&store, &tar);
        let store = FORMS.into_iter().fold(store, |store, view| {
            let store = store.with_view_form(view);
            let mounted = Mounted::new(&store, &image);
            assert_same(
                &format!("{form}, {view:?}"),
                mounted.path(),
                expected.path(),
            );
            store
        });
        let checked = store.fsck().unwrap();
        assert_eq!(checked.damage, [], "{form}");
        assert_eq!(
            saved_layer(&store, &image),
            fs::read(&tar).unwrap(),
            "{form}"
        );
    }
}

#[test]
fn old_tars_without_owners_names_or_magic_are_read() {
    require("python3", "python3");
    let source = directory();
    let tree = source.path().join("tree");
    fs::create_dir(&tree).unwrap();
    shell(
        &tree,
        "mkdir -p a/b; printf one > a/b/one; ln -s one a/b/link; ln a/b/one two",
    );
    for format in ["v7", "ustar"] {
        let tar = packed(&tree, &[&format!("--format={format}")]);
        let expected = unpacked(&tar);
        let (_root, store) = store();
        let image = import(&store, &tar);
        let mounted = Mounted::new(&store, &image);
        assert_same(format, mounted.path(), expected.path());
    }
}

#[test]
fn a_debian_root_is_what_gnu_tar_unpacks() {
    let tar = rootfs::debian_tar();
    let expected = unpacked(&tar);
    let (_root, store) = store();
    let image = import(&store, &tar);
    let mounted = Mounted::new(&store, &image);
    assert_same("debian", mounted.path(), expected.path());
}

fn import(store: &ImageStore, tar: &std::path::Path) -> Image {
    let name = Reference::parse("tested").unwrap();
    let archive = fs::File::open(tar).unwrap();
    store
        .import(&name, archive, &ImportOptions::default())
        .unwrap()
}

/// The bytes of an image's only layer, as `save` gives them back.
fn saved_layer(store: &ImageStore, image: &Image) -> Vec<u8> {
    let directory = directory();
    let path = directory.path().join("saved.tar");
    store
        .save(
            &store.get(&image.id).unwrap(),
            fs::File::create(&path).unwrap(),
        )
        .unwrap();
    let layer = image.config.rootfs().diff_ids()[0].replace("sha256:", "blobs/sha256/");
    checked(Command::new("tar").arg("-xOf").arg(&path).arg(layer)).stdout
}
