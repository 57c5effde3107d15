//! Exported evidence, opened by the tools others have.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::registry::PrivateRegistry;
use invar_testkit::{checked, require};
use serde_json::{Value, json};
use support::attacked::Host;
use support::{outcome_of, text};

/// An attacked container as an archive; its path, and the name of the image in it.
fn exported(host: &Host, flags: &[&str]) -> (PathBuf, String) {
    host.attacked("web", &[]);
    let id = host.run(&["capture", "--stop", "web"]);
    let path = host.invar().root().join("evidence.tar");
    let args = ["evidence", "export", &id, "-o", path.to_str().unwrap()];
    let output = host.output(&[&args[..], flags].concat());
    let (code, _, err) = outcome_of(&output);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        err.contains("upper.tar: /srv/terabyte: it is mostly holes"),
        "{err}"
    );
    (path, format!("invar-evidence:{id}"))
}

/// Unpacks with the system's own tar.
fn unpack(archive: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--numeric-owner",
        "--same-permissions",
        "--xattrs",
    ]);
    tar.args(["--xattrs-include=*", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(to);
    checked(&mut tar);
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    layout.join("blobs").join(digest.replacen(':', "/", 1))
}

/// The layer of the evidence's manifest with this title.
fn titled(layout: &Path, title: &str) -> PathBuf {
    let manifest = json_file(&blob(
        layout,
        &json_file(&layout.join("index.json"))["manifests"][1],
    ));
    let layers = manifest["layers"].as_array().unwrap();
    let found = layers
        .iter()
        .find(|layer| layer["annotations"]["org.opencontainers.image.title"] == title);
    blob(
        layout,
        found.unwrap_or_else(|| panic!("no {title} in {layers:?}")),
    )
}

/// What the image holds, said by a container of it; its `ls` shows `?` for what it cannot print.
const LOOK: &str = "tail -n 1 /etc/passwd; stat -c %a /tmp/rootme; readlink /srv-link; \
    ls /www /srv/names; cat /srv$(printf '/d%.0s' $(seq 300))/file";
const SEEN: &str = "evil:x:0:0::/:/bin/sh\n4755\n/etc/shadow\n/srv/names:\nback\\slash\nnew?line\n\
    not?utf8\nred?[31m\n\n/www:\nbottom";

#[test]
fn docker_loads_the_export_and_shows_what_the_intruder_left() {
    let host = Host::embedded();
    let (archive, image) = exported(&host, &[]);
    let docker = PrivateDocker::start();
    docker.run(&["load", "--input", archive.to_str().unwrap()]);
    let config = docker.run(&["inspect", "--format", "{{json .Config}}", &image]);
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["Entrypoint"], &config["Cmd"]),
        (&Value::Null, &Value::Null)
    );
    let args = ["run", "--rm", "--network", "none", &image, "sh", "-c", LOOK];
    assert_eq!(docker.run(&args), SEEN);
}

#[test]
fn podman_and_skopeo_load_the_export_of_a_docker_container() {
    let host = Host::docker();
    let (archive, image) = exported(&host, &[]);
    let root = host.invar().root();
    let storage = |name: &str| root.join("podman").join(name);
    let podman = || {
        let mut podman = Command::new(require("podman", "podman"));
        podman
            .arg("--root")
            .arg(storage("root"))
            .arg("--runroot")
            .arg(storage("run"));
        podman.args(["--storage-driver", "vfs"]);
        podman
    };
    checked(podman().args(["load", "--input"]).arg(&archive));
    let listed = text(&checked(podman().args(["images", "--format", "{{.Names}}"])).stdout);
    assert!(listed.contains(&image), "{listed}");

    let copied = root.join("copied");
    let mut skopeo = Command::new(require("skopeo", "skopeo"));
    skopeo.args(["copy", "--insecure-policy"]);
    skopeo.arg(format!("docker-archive:{}", archive.display()));
    checked(skopeo.arg(format!("dir:{}", copied.display())));
    let mut skopeo = Command::new("skopeo");
    let reference = format!("oci-archive:{}:rootfs", archive.display());
    let inspected = checked(skopeo.args(["inspect", "--raw", &reference])).stdout;
    let manifest: Value = serde_json::from_slice(&inspected).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
}

#[test]
fn the_archive_checks_itself_and_holds_the_evidence_as_it_was_sealed() {
    let host = Host::embedded();
    let (archive, image) = exported(&host, &["--without-image"]);
    let id = image.split_once(':').unwrap().1;
    let layout = host.invar().root().join("layout");
    unpack(&archive, &layout);
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "--quiet", "SHA256SUMS"]);
    checked(check.current_dir(&layout));

    let index = json_file(&layout.join("index.json"));
    let [rootfs, evidence] = index["manifests"].as_array().unwrap().as_slice() else {
        panic!("{index}");
    };
    let manifest = json_file(&blob(&layout, evidence));
    assert_eq!(
        manifest["artifactType"],
        "application/vnd.invar.evidence.v1"
    );
    assert_eq!(manifest["subject"]["digest"], rootfs["digest"]);
    let layers = json_file(&blob(&layout, rootfs));
    assert_eq!(layers["layers"].as_array().unwrap().len(), 1);
    for name in [
        "SHA256SUMS",
        "seal.dsse.json",
        "changes.jsonl",
        "upper.jsonl",
    ] {
        let sealed = fs::read(host.evidence(id).join(name)).unwrap();
        assert_eq!(fs::read(titled(&layout, name)).unwrap(), sealed, "{name}");
    }
    raw_upper_is_whole(&layout, &host.evidence(id).join("raw/upper"));
}

/// The system's tar makes of `upper.tar` what was sealed.
fn raw_upper_is_whole(layout: &Path, sealed: &Path) {
    let upper = layout.join("upper");
    unpack(&titled(layout, "upper.tar"), &upper);
    let metadata = |root: &Path, path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    for path in [
        "tmp/rootme",
        "tmp/fifo",
        "srv-link",
        "www/index.html",
        "srv/terabyte",
        "srv/names",
    ] {
        let (new, old) = (metadata(&upper, path), metadata(sealed, path));
        let facts = |m: &std::fs::Metadata| {
            (
                m.mode(),
                m.uid(),
                m.gid(),
                m.rdev(),
                m.mtime(),
                m.mtime_nsec(),
            )
        };
        assert_eq!(facts(&new), facts(&old), "{path}");
        if !old.is_dir() {
            assert_eq!(new.len(), old.len(), "{path}");
        }
    }
    assert!(metadata(&upper, "srv/terabyte").blocks() < 100);
    let needle = |root: &Path| {
        let mut bytes = [0; 6];
        let file = fs::File::open(root.join("srv/terabyte")).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(file.file(), &mut bytes, 5_000_000_000).unwrap();
        bytes
    };
    assert_eq!(&needle(&upper), b"needle");
    let names = |root: &Path| {
        let entries = fs::read_dir(root.join("srv/names")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&upper), names(sealed));
    invar_sys::tree::remove(&upper).unwrap();
}

#[test]
fn an_export_to_standard_output_is_the_same_and_leaves_its_mark_in_the_custody_log() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let id = host.run(&["capture", "web"]);
    let output = host.output(&["evidence", "export", &id, "-o", "-"]);
    let (code, _, err) = outcome_of(&output);
    assert_eq!(code, Some(0), "{err}");
    let archive = host.invar().root().join("piped.tar");
    fs::write(&archive, &output.stdout).unwrap();
    let listed = checked(
        Command::new("tar")
            .arg("--list")
            .arg("--file")
            .arg(&archive),
    )
    .stdout;
    assert!(
        text(&listed).ends_with("SHA256SUMS\nSHA256SUMS.dsse.json"),
        "{}",
        text(&listed)
    );
    let custody = fs::read_to_string(host.evidence(&id).join("custody.jsonl")).unwrap();
    assert!(
        custody
            .lines()
            .last()
            .unwrap()
            .contains(r#""action":"exported""#),
        "{custody}"
    );
    let (code, ..) = outcome_of(&host.output(&["evidence", "verify", &id]));
    assert_eq!(code, Some(0));
}

#[test]
fn when_the_image_is_gone_the_error_says_how_to_export_without_it() {
    let host = Host::embedded();
    host.start("web", &[], "sleep 100000");
    let id = host.run(&["capture", "web"]);
    host.run(&["rm", "--force", "web"]);
    host.run(&["rmi", "busybox"]);
    host.run(&["image", "prune"]);
    let path = host.invar().root().join("evidence.tar");
    let args = ["evidence", "export", &id, "-o", path.to_str().unwrap()];
    let (code, _, err) = outcome_of(&host.output(&args));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("busybox") && err.contains("--without-image"),
        "{err}"
    );
    assert!(!path.exists());
    host.run(&[&args[..], &["--without-image"]].concat());
    assert!(path.exists());
}

#[test]
fn a_redacted_copy_has_no_secrets_and_names_what_it_was_derived_from() {
    let host = Host::embedded();
    let flags = ["-e", "TOKEN=hunter2"];
    let script = "echo hunter2; echo hunter2 > /tmp/note; touch /ready; exec sleep 100000";
    host.start("web", &flags, script);
    let upper = host.upper("web");
    invar_testkit::eventually("it is ready", || upper.join("ready").exists().then_some(()));
    let id = host.run(&["capture", "web"]);
    let path = host.invar().root().join("redacted.tar");
    host.run(&["evidence", "redact", &id, "-o", path.to_str().unwrap()]);
    let bytes = fs::read(&path).unwrap();
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(!has(b"hunter2"));
    assert!(has(b"TOKEN=<redacted>") && has(b"/tmp/note"));
    let layout = host.invar().root().join("layout");
    unpack(&path, &layout);
    let index = json_file(&layout.join("index.json"));
    let manifest = json_file(&blob(&layout, &index["manifests"][0]));
    assert_eq!(
        manifest["artifactType"],
        "application/vnd.invar.evidence.redacted.v1"
    );
    let sums = checked(Command::new("sha256sum").arg(host.evidence(&id).join("SHA256SUMS"))).stdout;
    let origin = format!("sha256:{}", &text(&sums)[..64]);
    let named = &manifest["annotations"]["dev.invar.evidence.derived-from"];
    assert_eq!(named, &json!(origin));
}

#[test]
fn an_archive_is_verified_with_its_signature_on_any_machine() {
    let host = Host::embedded();
    let (path, _) = exported(&host, &["--without-image"]);
    let signature = host.invar().root().join("evidence.tar.dsse.json");
    let key = host.invar().root().join("trust/evidence.pub");
    // Another machine: no state, only the archive, its signature and the public key.
    let elsewhere = support::empty();
    let verify = |more: &[&str]| {
        let start = ["evidence", "verify", path.to_str().unwrap(), "--key"];
        let output = elsewhere.output(&[&start[..], &[key.to_str().unwrap()], more].concat());
        outcome_of(&output)
    };
    let (code, out, err) = verify(&[]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains("signed as a whole"), "{err}");

    // An independent implementation agrees on what was signed.
    let envelope = json_file(&signature);
    let decode = "import base64,sys; sys.stdout.write(base64.b64decode(sys.argv[1]).decode())";
    let mut python = Command::new(require("python3", "python3"));
    python.args(["-c", decode, envelope["payload"].as_str().unwrap()]);
    let statement: Value = serde_json::from_slice(&checked(&mut python).stdout).unwrap();
    let sum = text(&checked(Command::new("sha256sum").arg(&path)).stdout);
    assert_eq!(
        statement["subject"][0]["digest"]["sha256"],
        json!(&sum[..64])
    );

    fs::rename(&signature, signature.with_extension("aside")).unwrap();
    let (code, _, err) = verify(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("there is no signature beside it"), "{err}");
    fs::rename(signature.with_extension("aside"), &signature).unwrap();

    let whole = fs::read(&path).unwrap();
    let middle = whole.len() / 2;
    for (what, changed) in [
        ("a flipped byte", {
            let mut bytes = whole.clone();
            bytes[middle] ^= 1;
            bytes
        }),
        ("cut off", whole[..middle].to_vec()),
        ("something added", [&whole[..], b"x"].concat()),
        ("nothing", Vec::new()),
    ] {
        fs::write(&path, changed).unwrap();
        let (code, out, err) = verify(&[]);
        assert_eq!(code, Some(3), "{what}: {out} {err}");
        assert!(out.contains("signature: it is of another archive"), "{out}");
    }
    fs::write(&path, &whole).unwrap();
    let other = support::empty();
    let id = {
        other.import("busybox", &invar_testkit::rootfs::busybox_tar());
        other.run(&["run", "-d", "--name", "x", "busybox", "sleep", "100000"]);
        other.run(&["capture", "x"])
    };
    let stranger = other.root().join("trust/evidence.pub");
    let output = elsewhere.output(&[
        "evidence",
        "verify",
        path.to_str().unwrap(),
        "--key",
        stranger.to_str().unwrap(),
    ]);
    let (code, out, _) = outcome_of(&output);
    assert_eq!(code, Some(3), "{id}");
    assert!(out.contains("no signature in it is of the key"), "{out}");
}

#[test]
fn evidence_in_a_registry_is_found_and_its_image_is_pulled() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    let id = host.run(&["capture", "--stop", "web"]);
    let registry = PrivateRegistry::start();
    let place = registry.image("cases/web:one");
    let to = format!("oci://{place}");
    let said = host.run(&["evidence", "export", &id, "--to", &to]);
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{place}-rootfs@sha256:")),
        "{said}"
    );
    assert!(lines[1].starts_with(&format!("{place}@sha256:")), "{said}");

    // The image opens as any other.
    host.run(&["pull", &format!("{place}-rootfs")]);
    // The evidence refers to it, which is found by the list under a tag.
    let subject = lines[0].rsplit_once("sha256:").unwrap().1;
    let list = format!(
        "docker://{}",
        registry.image(&format!("cases/web:sha256-{subject}"))
    );
    let mut skopeo = Command::new(require("skopeo", "skopeo"));
    skopeo.args(["inspect", "--raw", "--tls-verify=false", &list]);
    let list: Value = serde_json::from_slice(&checked(&mut skopeo).stdout).unwrap();
    let entry = &list["manifests"][0];
    assert_eq!(entry["artifactType"], "application/vnd.invar.evidence.v1");
    assert!(
        lines[1].ends_with(entry["digest"].as_str().unwrap()),
        "{said}"
    );

    let (code, _, said) = outcome_of(&host.output(&["evidence", "export", &id, "--to", "x"]));
    assert_eq!(code, Some(1));
    assert!(said.contains("oci://HOST/REPOSITORY:TAG"), "{said}");
}

#[test]
fn a_capture_is_exported_where_it_was_asked_to_go() {
    let host = Host::embedded();
    host.attacked("web", &[]);
    let registry = PrivateRegistry::start();
    let place = registry.image("cases/web:captured");
    let said = host.run(&["capture", "--to", &format!("oci://{place}"), "web"]);
    assert!(said.contains(&format!("{place}@sha256:")), "{said}");
    host.run(&["pull", &format!("{place}-rootfs")]);

    let stage = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = stage.path().join("web.tar");
    let id = host.run(&["capture", "--to", file.to_str().unwrap(), "web"]);
    assert!(!id.is_empty());
    let (code, _, err) = outcome_of(&host.output(&["evidence", "verify", file.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{err}");

    // Standard output holds the archive and nothing else.
    let piped = host.output(&["capture", "--stop", "--to", "-", "web"]);
    assert!(
        piped.status.success(),
        "{:?}",
        String::from_utf8_lossy(&piped.stderr)
    );
    fs::write(&file, &piped.stdout).unwrap();
    let mut tar = Command::new("tar");
    let listed = checked(tar.arg("-tf").arg(&file));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("oci-layout"));

    // What cannot be a place is said before anything is taken.
    host.start("db", &[], "sleep 100000");
    let before = host.run(&["evidence", "ls", "--quiet"]).lines().count();
    let (code, _, said) = outcome_of(&host.output(&["capture", "--to", "http://x/y:z", "db"]));
    assert_eq!(code, Some(1));
    assert!(said.contains("oci://HOST/REPOSITORY:TAG"), "{said}");
    assert_eq!(
        host.run(&["evidence", "ls", "--quiet"]).lines().count(),
        before
    );
}
