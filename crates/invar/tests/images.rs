//! Images from the command line: real root file systems in and out, and hostile ones refused.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "in tests a panic is the report, and tables are long"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err as fs;
use invar_testkit::invar::Invar;
use invar_testkit::{checked, docker::PrivateDocker, require, rootfs};

fn invar() -> Invar {
    Invar::new(env!("CARGO_BIN_EXE_invar"))
}

/// Files of the content store.
fn objects(invar: &Invar) -> usize {
    let directories = fs::read_dir(invar.root().join("store/objects"));
    let Ok(directories) = directories else {
        return 0;
    };
    directories
        .map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count())
        .sum()
}

#[test]
fn an_imported_debian_is_listed_checked_saved_and_removed() {
    let invar = invar();
    let tar = rootfs::debian_tar();
    invar.import("debian", &tar);
    assert!(invar.run(&["images"]).contains("debian:latest"));
    invar.run(&["image", "fsck"]);

    let saved = invar.root().join("saved.tar");
    invar.run(&["save", "debian", "-o", saved.to_str().unwrap()]);
    let listing = checked(Command::new("sha256sum").arg(&tar)).stdout;
    let digest = String::from_utf8(listing).unwrap()[..64].to_owned();
    let layer = checked(
        Command::new("tar")
            .arg("-xOf")
            .arg(&saved)
            .arg(format!("blobs/sha256/{digest}")),
    );
    assert!(
        layer.stdout == fs::read(&tar).unwrap(),
        "the layer is not byte for byte the same"
    );

    invar.run(&["rmi", "debian"]);
    assert_eq!(invar.run(&["images", "--quiet"]), "");
    invar.run(&["image", "prune"]);
    assert_eq!(objects(&invar), 0, "content stayed behind");
}

#[test]
fn a_second_name_keeps_the_image_when_the_first_goes() {
    let invar = invar();
    invar.import("busybox", &rootfs::busybox_tar());
    invar.run(&["tag", "busybox", "team/tools:1"]);
    invar.run(&["rmi", "busybox"]);
    assert!(invar.run(&["images"]).contains("team/tools:1"));
    invar.run(&["rmi", "team/tools:1"]);
    assert_eq!(invar.run(&["images", "--quiet"]), "");
}

#[test]
fn files_shared_between_images_are_stored_once() {
    let invar = invar();
    invar.import("one", &rootfs::busybox_tar());
    let before = objects(&invar);
    let copy = invar.root().join("copy.tar");
    fs::copy(rootfs::busybox_tar(), &copy).unwrap();
    checked(
        Command::new("tar")
            .args(["--append", "--file"])
            .arg(&copy)
            .args(["--directory", "/etc", "os-release"]),
    );
    invar.import("two", &copy);
    // Its view and its layer's recipe, and at most the one new file.
    assert!(
        objects(&invar) <= before + 3,
        "{} files before, {} after",
        before,
        objects(&invar)
    );
}

#[test]
fn fsck_names_the_file_with_a_flipped_byte() {
    let invar = invar();
    invar.import("busybox", &rootfs::busybox_tar());
    let object = largest_object(&invar.root().join("store/objects"));
    let mut bytes = fs::read(&object).unwrap();
    bytes[4097] ^= 1;
    fs::write(&object, bytes).unwrap();
    let output = invar.output(&["image", "fsck"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("busybox:latest: /bin/busybox: its content changed"),
        "{said}"
    );
}

#[test]
fn a_second_image_that_shares_nine_tenths_of_its_files_costs_one_tenth_of_the_disk() {
    const FILES: u64 = 100;
    const SIZE: usize = 200 << 10;
    let invar = invar();
    let place = tempfile::tempdir().unwrap();
    let image = |name: &str, first: u64| {
        let tar = place.path().join(name);
        let mut archive = tar::Builder::new(fs::File::create(&tar).unwrap());
        for number in first..first + FILES {
            // No two are alike, and no two blocks of one.
            let mut state = number + 1;
            let content: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .take(SIZE)
            .collect();
            let mut header = tar::Header::new_gnu();
            header.set_size(SIZE as u64);
            header.set_mode(0o644);
            header.set_cksum();
            let path = format!("file-{number}");
            archive
                .append_data(&mut header, path, &content[..])
                .unwrap();
        }
        archive.finish().unwrap();
        invar.import(name, &tar);
    };
    fs::create_dir_all(invar.root().join("store")).unwrap();
    let used = || {
        let output = checked(
            Command::new("du")
                .args(["-sB1"])
                .arg(invar.root().join("store")),
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace()
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = used();
    image("first", 0);
    let whole = used() - before;
    // Ninety of its hundred files are the first one's.
    image("second", FILES / 10);
    let second = used() - before - whole;
    assert!(whole >= FILES * SIZE as u64, "{whole}");
    let share = second * 1000 / whole;
    assert!((90..=115).contains(&share), "{second} of {whole} bytes");
}

#[test]
fn a_damaged_plain_view_is_written_anew_while_its_content_is_whole() {
    let invar = invar();
    invar.import("busybox", &rootfs::busybox_tar());
    let plain = |args: &[&str]| {
        let mut command = invar.command(args);
        command.env("INVAR_IMAGE_VIEW", "plain").output().unwrap()
    };
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "cat",
        "/www/index.html",
    ];
    let as_built = String::from_utf8(plain(&run).stdout).unwrap();
    assert_eq!(as_built, "<h1>as built</h1>\n");

    let trees = invar.root().join("store/plain");
    let tree = fs::read_dir(&trees)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(tree.join("www/index.html"), "<h1>damaged</h1>\n").unwrap();
    fs::write(tree.join("bin/added"), "").unwrap();
    assert_eq!(plain(&["image", "fsck"]).status.code(), Some(3));
    let repaired = plain(&["image", "fsck", "--repair"]);
    let said = String::from_utf8_lossy(&repaired.stderr);
    assert_eq!(repaired.status.code(), Some(0), "{said}");
    assert!(
        said.contains("busybox:latest: its plain view was written anew"),
        "{said}"
    );
    assert_eq!(String::from_utf8(plain(&run).stdout).unwrap(), as_built);
    assert_eq!(
        fs::read_dir(&trees).unwrap().count(),
        2,
        "what was there is kept aside"
    );
    plain(&["image", "prune"]);
    assert_eq!(fs::read_dir(&trees).unwrap().count(), 1, "until a prune");

    // Content that is damaged itself cannot be made from itself.
    let object = largest_object(&invar.root().join("store/objects"));
    let mut bytes = fs::read(&object).unwrap();
    bytes[4097] ^= 1;
    fs::write(&object, bytes).unwrap();
    assert_eq!(plain(&["image", "fsck", "--repair"]).status.code(), Some(3));
}

fn largest_object(objects: &Path) -> PathBuf {
    let mut all: Vec<PathBuf> = Vec::new();
    for directory in fs::read_dir(objects).unwrap() {
        let files = fs::read_dir(directory.unwrap().path()).unwrap();
        all.extend(files.map(|file| file.unwrap().path()));
    }
    all.into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

#[test]
fn saved_images_are_opened_by_docker_podman_and_skopeo_and_come_back() {
    let invar = invar();
    invar.import("busybox", &rootfs::busybox_tar());
    let saved = invar.root().join("saved.tar");
    invar.run(&["save", "busybox", "-o", saved.to_str().unwrap()]);

    let docker = PrivateDocker::start();
    let archive = saved.to_str().unwrap();
    assert!(
        docker
            .run(&["load", "--input", archive])
            .contains("busybox:latest")
    );
    let from_docker = invar.root().join("docker.tar");
    docker.run(&["save", "busybox", "--output", from_docker.to_str().unwrap()]);

    let storage = invar.root().join("podman");
    let podman = || {
        let mut command = Command::new(require("podman", "podman"));
        command.arg("--root").arg(storage.join("root"));
        command.arg("--runroot").arg(storage.join("run"));
        command.args(["--storage-driver", "overlay"]);
        command
    };
    checked(podman().args(["load", "--input", archive]));
    let from_podman = invar.root().join("podman.tar");
    checked(
        podman()
            .args(["save", "--format", "oci-archive", "--output"])
            .arg(&from_podman)
            .arg("busybox"),
    );
    checked(podman().args(["rmi", "--all", "--force"]));
    drop(podman().args(["system", "reset", "--force"]).output());

    let layout = invar.root().join("layout");
    checked(
        Command::new(require("skopeo", "skopeo"))
            .args(["copy", "--dest-compress"])
            .arg(format!("oci-archive:{archive}"))
            .arg(format!("oci:{}:busybox", layout.display())),
    );
    for from in [&from_docker, &from_podman, &layout] {
        let other = Invar::new(env!("CARGO_BIN_EXE_invar"));
        let said = other.run(&["load", "--input", from.to_str().unwrap()]);
        assert!(said.starts_with("Loaded image"), "{said}");
        other.run(&["image", "fsck"]);
    }
}

/// A tar with one hostile entry, made by Python, which writes what GNU tar refuses to.
fn hostile_tar(script: &str) -> Vec<u8> {
    let program = format!(
        "import io, sys, tarfile\n\
         t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.PAX_FORMAT)\n\
         def add(name, type=tarfile.REGTYPE, link='', data=b'', **kw):\n\
         \x20   i = tarfile.TarInfo(name); i.type = type; i.linkname = link; i.size = len(data)\n\
         \x20   for k, v in kw.items(): setattr(i, k, v)\n\
         \x20   t.addfile(i, io.BytesIO(data))\n\
         {script}\n\
         t.close()\n"
    );
    checked(Command::new(require("python3", "python3")).args(["-c", &program])).stdout
}

fn import_bytes(invar: &Invar, bytes: &[u8]) -> (Option<i32>, String) {
    let mut child = invar
        .command(&["import", "hostile", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It may refuse before it has read everything.
    child.stdin.take().unwrap().write_all(bytes).ok();
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn hostile_layers_are_refused_by_name_and_leave_nothing() {
    let invar = invar();
    let table = [
        ("add('a/../../etc/passwd', data=b'x')", "a/../../etc/passwd"),
        (
            "add('hard', tarfile.LNKTYPE, '/etc/shadow')",
            "not in the image",
        ),
        (
            "add('hard', tarfile.LNKTYPE, '../../etc/shadow')",
            "lead out of the image",
        ),
        (
            "add('f', data=b'x'); add('f/child', data=b'y')",
            "is not a directory",
        ),
        (
            "add('a', tarfile.SYMTYPE, 'b'); add('b', tarfile.SYMTYPE, 'a'); add('a/x', data=b'y')",
            "loop of symbolic links",
        ),
        (
            "add('dev', tarfile.CHRTYPE, devmajor=0, devminor=0)",
            "whiteout of overlayfs",
        ),
        ("add('n' * 300, data=b'x')", "longer than 255"),
        ("add('d/' * 1500 + 'f', data=b'x')", "deeper than"),
        (
            "add('s', tarfile.SYMTYPE, 'x' * 2000)",
            "symbolic link must have",
        ),
        (
            "add('x', pax_headers={'SCHILY.xattr.user.a': 'v' * 40000})",
            "extended attributes are larger",
        ),
        (
            "add('x', pax_headers={'SCHILY.xattr.user.a': 'v' * 3000000})",
            "headers of one entry",
        ),
        ("add('\\x1b[31mred\\n', b'Z')", "\\x1b[31mred\\n"),
        ("add('.wh...', data=b'')", "whiteout must name a file"),
        (
            "add('.wh.a/b', data=b'x')",
            "a whiteout has nothing below it",
        ),
        (
            "add('l', tarfile.SYMTYPE, 'x', data=b'hidden')",
            "not a regular file but has 6 bytes of content",
        ),
        (
            "add('f', data=b'x', uid=4294967295)",
            "4294967295 is not a user",
        ),
        (
            "add('b', tarfile.BLKTYPE, devmajor=5000, devminor=1)",
            "there is no device 5000:1",
        ),
        (
            "add('f', pax_headers={'SCHILY.xattr.security.capability': 'all'})",
            "security.capability is malformed",
        ),
        (
            "sys.stdout.buffer.write(tarfile.TarInfo.create_pax_global_header({'path': 'x'}))",
            "global extended header that sets names",
        ),
        (
            "add('f', pax_headers={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', \
             'GNU.sparse.realsize': str(1 << 62)})",
            "larger than 137438953472 bytes",
        ),
        (
            "add('f', data=b'9\\n', pax_headers={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', \
             'GNU.sparse.realsize': '100'})",
            "map of the sparse file is malformed",
        ),
    ];
    for (script, reason) in table {
        let (code, said) = import_bytes(&invar, &hostile_tar(script));
        assert_eq!(code, Some(1), "{script}: {said}");
        assert!(said.contains(reason), "{script}: {said}");
        assert_eq!(invar.run(&["images", "--quiet"]), "", "{script}");
        assert_eq!(objects(&invar), 0, "{script}: left content behind");
    }
}

#[test]
fn links_out_of_the_root_and_absolute_names_are_contained() {
    let invar = invar();
    let script = "add('/absolute', data=b'inside'); add('out', tarfile.SYMTYPE, '../../../..'); \
                  add('out/tmp/invar-escaped', data=b'inside')";
    let (code, said) = import_bytes(&invar, &hostile_tar(script));
    assert_eq!(code, Some(0), "{said}");
    assert!(!Path::new("/absolute").exists());
    assert!(!Path::new("/tmp/invar-escaped").exists());
}

#[test]
fn a_million_entries_take_bounded_memory() {
    let invar = invar();
    // What the process allocates, not what it maps.
    let mut child = Command::new(require("prlimit", "util-linux"))
        .args(["--data=1073741824", "--"])
        .arg(env!("CARGO_BIN_EXE_invar"))
        .args(["import", "many", "-"])
        .env("INVAR_ROOT", invar.root())
        .env("INVAR_NETWORK", "none")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = std::io::BufWriter::new(child.stdin.take().unwrap());
    for number in 0..1_000_000 {
        let (high, low) = (number / 10_000, number / 100 % 100);
        let header = empty_file(&format!("{high:03}/{low:03}/{number:07}"));
        if input.write_all(&header).is_err() {
            break;
        }
    }
    drop(input.into_inner().unwrap());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
}

/// The header of an empty file.
fn empty_file(name: &str) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    for (at, text) in [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0")] {
        header[at..at + 8].copy_from_slice(text.as_bytes());
    }
    header[124..136].copy_from_slice(b"00000000000\0");
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[test]
fn broken_and_exploding_archives_are_refused() {
    let invar = invar();
    let tar = fs::read(rootfs::busybox_tar()).unwrap();
    let compress = |program: &str, package: &str| {
        let mut child = Command::new(require(program, package))
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = tar.clone();
        let writer = std::thread::spawn(move || input.write_all(&bytes));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        output.stdout
    };
    for compressed in [compress("gzip", "gzip"), compress("zstd", "zstd")] {
        let truncated = &compressed[..compressed.len() / 2];
        let (code, said) = import_bytes(&invar, truncated);
        assert_eq!(code, Some(1), "truncated: {said}");
        let mut corrupt = compressed.clone();
        let middle = corrupt.len() / 2;
        corrupt[middle..middle + 64].fill(0x55);
        let (code, said) = import_bytes(&invar, &corrupt);
        assert_eq!(code, Some(1), "corrupt: {said}");
    }
    let (code, said) = import_bytes(&invar, &tar[..tar.len() / 2]);
    assert_eq!(code, Some(1), "truncated tar: {said}");

    let bomb = "import gzip, sys, tarfile, io\n\
        class Zeros(io.RawIOBase):\n\
        \x20   def readable(self): return True\n\
        \x20   def readinto(self, b): b[:] = bytes(len(b)); return len(b)\n\
        z = gzip.GzipFile(fileobj=sys.stdout.buffer, mode='wb', compresslevel=1)\n\
        t = tarfile.open(fileobj=z, mode='w|'); i = tarfile.TarInfo('zeros'); i.size = 10 << 30\n\
        z.write(i.tobuf()); [z.write(bytes(1 << 20)) for _ in range(64)]; z.close()\n";
    let bomb = checked(Command::new(require("python3", "python3")).args(["-c", bomb])).stdout;
    let (code, said) = import_bytes(&invar, &bomb);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("200 times its archive"), "{said}");
    assert_eq!(invar.run(&["images", "--quiet"]), "");
}

#[test]
fn an_archive_with_a_wrong_digest_or_platform_is_refused() {
    let invar = invar();
    invar.import("busybox", &rootfs::busybox_tar());
    let layout = invar.root().join("layout");
    fs::create_dir(&layout).unwrap();
    let saved = invar.root().join("saved.tar");
    invar.run(&["save", "busybox", "-o", saved.to_str().unwrap()]);
    checked(
        Command::new("tar")
            .arg("-xf")
            .arg(&saved)
            .arg("-C")
            .arg(&layout),
    );
    fs::remove_file(layout.join("manifest.json")).unwrap();
    let largest = fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let path = layout.to_str().unwrap();
    let output = invar.output(&["load", "-i", path]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the digest should be"), "{said}");

    let output = invar.output(&["load", "-i", path, "--platform", "linux/s390x"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no image for linux/s390x"), "{said}");
}
