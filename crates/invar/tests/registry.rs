//! Images in and out of real registries: what docker and skopeo push is pulled, and the reverse.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "in tests a panic is the report, and tables are long"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;
use invar_testkit::docker::PrivateDocker;
use invar_testkit::invar::Invar;
use invar_testkit::registry::{PASSWORD, PrivateRegistry, Protection, USER};
use invar_testkit::{checked, eventually, require, rootfs};
use serde_json::Value;

use support::{busybox, empty, outcome, text, with_input};

fn skopeo() -> Command {
    Command::new(require("skopeo", "skopeo"))
}

/// What skopeo says of an image in a registry without TLS.
fn manifest(image: &str) -> Value {
    let image = format!("docker://{image}");
    let output = checked(skopeo().args(["inspect", "--raw", "--tls-verify=false", &image]));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn digest(image: &str) -> String {
    let image = format!("docker://{image}");
    let format = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
    text(&checked(skopeo().args(format).arg(&image)).stdout)
}

/// Downloads that are kept.
fn parts(invar: &Invar) -> Vec<String> {
    support::tree(&invar.root().join("store/downloads"))
}

#[test]
fn what_invar_pushes_docker_and_skopeo_pull_and_the_reverse() {
    let registry = PrivateRegistry::start();
    let invar = busybox();
    let ours = registry.image("team/ours:1");
    invar.run(&["tag", "busybox", &ours]);
    let said = invar.run(&["push", &ours]);
    assert_eq!(
        said.split_whitespace().nth(2).unwrap(),
        digest(&ours),
        "{said}"
    );

    let docker = PrivateDocker::start();
    docker.run(&["pull", &ours]);
    let run = [
        "run",
        "--rm",
        "--network=none",
        &ours,
        "cat",
        "/www/index.html",
    ];
    assert_eq!(docker.run(&run), "<h1>as built</h1>");

    let theirs = registry.image("team/theirs:1");
    docker.import(&rootfs::busybox_tar(), &theirs);
    docker.run(&["push", &theirs]);
    let other = empty();
    other.run(&["pull", &theirs]);
    let run = ["run", "--rm", &theirs, "cat", "/www/index.html"];
    assert_eq!(other.run(&run), "<h1>as built</h1>");
    other.run(&["image", "fsck"]);
    assert_eq!(parts(&other), Vec::<String>::new());

    // The same image from skopeo, as zstd and in OCI's form.
    let copy = registry.image("team/copy:1");
    let (from, to) = (format!("docker://{theirs}"), format!("docker://{copy}"));
    checked(skopeo().args([
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--dest-compress-format=zstd",
        "--format=oci",
        &from,
        &to,
    ]));
    let third = empty();
    third.run(&["pull", &copy]);
    let run = ["run", "--rm", &copy, "cat", "/www/index.html"];
    assert_eq!(third.run(&run), "<h1>as built</h1>");
}

#[test]
fn an_image_keeps_its_digest_when_its_registry_has_its_blobs() {
    let registry = PrivateRegistry::start();
    let docker = PrivateDocker::start();
    let original = registry.image("team/web:1");
    docker.import(&rootfs::busybox_tar(), &original);
    docker.run(&["push", &original]);

    let invar = empty();
    invar.run(&["pull", "--quiet", &original]);
    let copy = registry.image("elsewhere/web:2");
    invar.run(&["tag", &original, &copy]);
    let said = invar.run(&["push", "--format", "json", &copy]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["digest"], digest(&original));
    assert_eq!(said["is_as_it_came"], true);
    assert_eq!(said["uploaded"], 0);
    registry.wait_for_request(|line| {
        line.starts_with("POST /v2/elsewhere/web/blobs/uploads/?mount=") && line.ends_with(" 201")
    });

    // In another registry the layer is compressed anew, once.
    let other = PrivateRegistry::start();
    let moved = other.image("web:1");
    invar.run(&["tag", &original, &moved]);
    let push = || -> Value {
        serde_json::from_str(&invar.run(&["push", "--format", "json", &moved])).unwrap()
    };
    let first = push();
    assert_eq!(first["is_as_it_came"], false);
    let again = push();
    assert_eq!(again["uploaded"], 0);
    assert_eq!(again["digest"], first["digest"]);
    assert_eq!(manifest(&moved)["layers"].as_array().unwrap().len(), 1);
    let pinned = format!("{moved}@{}", first["digest"].as_str().unwrap());
    invar.run(&["run", "--rm", "--pull=never", &pinned, "true"]);
}

#[test]
fn the_image_for_this_machine_is_taken_from_an_index() {
    let registry = PrivateRegistry::start();
    let invar = busybox();
    let name = registry.image("multi:1");
    let here = registry.image("multi:here");
    invar.run(&["tag", "busybox", &here]);
    invar.run(&["push", &here]);
    let tar = rootfs::busybox_tar();
    let foreign = registry.image("multi:foreign");
    let import = ["import", "--platform", "linux/s390x", &foreign];
    checked(invar.command(&import).arg(&tar));
    invar.run(&["push", &foreign]);
    let entry = |image: &str, architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(image),
            "size": size_of(image),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let host = checked(Command::new("dpkg").arg("--print-architecture")).stdout;
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&foreign, "s390x"), entry(&here, &text(&host))],
    });
    put_manifest(&registry, "multi", "1", &index);

    let other = empty();
    other.run(&["pull", &name]);
    other.run(&["run", "--rm", &name, "true"]);
    // The digest of the index is a name of it too.
    let pinned = format!("{name}@{}", digest_of_index(&index));
    other.run(&["run", "--rm", "--pull=never", &pinned, "true"]);
    let said = other.run(&["pull", "--platform", "linux/s390x", &name]);
    assert!(said.contains("Pulled image"), "{said}");
    let (code, _, said) = outcome(&other, &["pull", "--platform", "linux/arm/v7", &name]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("no image for linux/arm/v7; there is"),
        "{said}"
    );
}

fn size_of(image: &str) -> usize {
    let image = format!("docker://{image}");
    checked(skopeo().args(["inspect", "--raw", "--tls-verify=false", &image]))
        .stdout
        .len()
}

fn digest_of_index(index: &Value) -> String {
    let mut sum = Command::new("sha256sum");
    sum.stdin(Stdio::piped());
    let output = with_input(sum, index.to_string().as_bytes());
    format!("sha256:{}", &text(&output.stdout)[..64])
}

fn put_manifest(registry: &PrivateRegistry, repository: &str, tag: &str, manifest: &Value) {
    let url = format!("http://{}/v2/{repository}/manifests/{tag}", registry.host());
    let kind = format!("Content-Type: {}", manifest["mediaType"].as_str().unwrap());
    checked(Command::new(require("curl", "curl")).args([
        "--fail",
        "--silent",
        "--show-error",
        "--request",
        "PUT",
        "--header",
        &kind,
        "--data-binary",
        &manifest.to_string(),
        &url,
    ]));
}

#[test]
fn an_account_and_a_private_authority_are_used_as_docker_uses_them() {
    let registry = PrivateRegistry::start_with(Protection {
        tls: true,
        account: true,
    });
    let invar = busybox();
    let config = tempfile::tempdir().unwrap();
    let authority = registry.authority();
    let authority = authority.to_str().unwrap();
    let image = registry.image("private:1");
    let host = registry.host();
    let with_config = |args: &[&str]| {
        let mut command = invar.command(args);
        command.env("DOCKER_CONFIG", config.path());
        command
    };
    let refused = |args: &[&str]| {
        let output = with_config(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        text(&output.stderr)
    };
    invar.run(&["tag", "busybox", &image]);
    let said = refused(&["push", &image]);
    assert!(
        said.contains("an authority that is not known here"),
        "{said}"
    );
    assert!(said.contains("--ca FILE"), "{said}");
    let said = refused(&["push", "--ca", authority, &image]);
    assert!(said.contains("refuses access to"), "{said}");
    assert!(said.contains(&format!("invar login {host}")), "{said}");

    let login = [
        "login",
        "--ca",
        authority,
        "-u",
        USER,
        "--password-stdin",
        &host,
    ];
    let wrong = with_input(with_config(&login), b"wrong\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(!config.path().join("config.json").exists());
    let right = with_input(with_config(&login), format!("{PASSWORD}\n").as_bytes());
    assert!(right.status.success(), "{}", text(&right.stderr));
    checked(&mut with_config(&["push", "--ca", authority, &image]));
    // docker's own client reads what was stored, and the reverse.
    let stored = fs::read_to_string(config.path().join("config.json")).unwrap();
    assert!(stored.contains(&host), "{stored}");
    assert!(!stored.contains(PASSWORD), "{stored}");
    let source = format!("docker://{image}");
    checked(
        skopeo()
            .args(["inspect", "--tls-verify=false", "--authfile"])
            .arg(config.path().join("config.json"))
            .arg(&source),
    );
    checked(&mut with_config(&["rmi", "--force", &image]));
    checked(&mut with_config(&["pull", "--ca", authority, &image]));
    let said = text(&checked(&mut with_config(&["logout", &host])).stdout);
    assert_eq!(said, format!("Logged out of {host}"));
    let said = refused(&["pull", "--ca", authority, &image]);
    assert!(said.contains("refuses access to"), "{said}");
}

#[test]
fn a_program_that_keeps_credentials_is_asked() {
    let registry = PrivateRegistry::start_with(Protection {
        tls: false,
        account: true,
    });
    let invar = busybox();
    let directory = tempfile::tempdir().unwrap();
    // One of a cloud gives a user and a short-lived password for a registry.
    let helper = directory.path().join("docker-credential-cloud");
    let script = format!(
        "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {}' ] || exit 1\n\
         echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
        registry.host()
    );
    fs::write(&helper, script).unwrap();
    checked(Command::new("chmod").arg("+x").arg(&helper));
    let config = format!(
        "{{\"credHelpers\": {{\"{}\": \"cloud\"}}}}",
        registry.host()
    );
    fs::write(directory.path().join("config.json"), config).unwrap();
    let image = registry.image("web:1");
    invar.run(&["tag", "busybox", &image]);
    let path = std::env::var("PATH").unwrap();
    checked(
        invar
            .command(&["push", &image])
            .env("DOCKER_CONFIG", directory.path())
            .env("PATH", format!("{}:{path}", directory.path().display())),
    );
    // Without the program, what is missing is said.
    let output = invar
        .command(&["push", &image])
        .env("DOCKER_CONFIG", directory.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("docker-credential-cloud"), "{said}");
}

#[test]
fn run_pulls_what_is_missing_and_what_it_is_told_to() {
    let registry = PrivateRegistry::start();
    let invar = busybox();
    let image = registry.image("web:1");
    invar.run(&["tag", "busybox", &image]);
    invar.run(&["push", &image]);
    let pushed = digest(&image);

    let other = empty();
    let (code, _, said) = outcome(&other, &["run", "--rm", "--pull=never", &image, "true"]);
    assert_eq!(code, Some(125));
    assert!(said.contains("no image named"), "{said}");
    assert_eq!(
        other.run(&["run", "--rm", &image, "echo", "pulled"]),
        "pulled"
    );
    let id = other.run(&["images", "--quiet"]);

    // The tag moves: what is here stays until it is asked for.
    let tar = rootfs::busybox_tar();
    let import = ["import", "--cmd", "newer", &image];
    checked(invar.command(&import).arg(&tar));
    invar.run(&["push", &image]);
    other.run(&["run", "--rm", &image, "true"]);
    assert_eq!(other.run(&["images", "--quiet"]), id);
    other.run(&["run", "--rm", "--pull=always", &image, "true"]);
    assert_ne!(
        other.run(&["images", "--quiet"]).lines().next(),
        Some(id.as_str())
    );

    // A tag that is not what it was pinned to is an error, here and there.
    let pinned = format!("{image}@{pushed}");
    let (code, _, said) = outcome(&other, &["pull", &pinned]);
    assert_eq!(code, Some(1));
    assert!(said.contains("in the registry, not"), "{said}");
    other.run(&["pull", &format!("{}@{pushed}", registry.image("web"))]);

    let (code, _, said) = outcome(
        &other,
        &["run", "--rm", &registry.image("absent:1"), "true"],
    );
    assert_eq!(code, Some(125));
    assert!(said.contains("has no absent:1"), "{said}");
}

#[test]
fn layers_that_are_here_are_not_downloaded_again() {
    let registry = PrivateRegistry::start();
    let invar = busybox();
    let first = registry.image("first:1");
    invar.run(&["tag", "busybox", &first]);
    invar.run(&["push", &first]);
    // Another image on the same layer.
    let second = registry.image("second:1");
    let import = ["import", "--cmd", "/bin/sh", &second];
    checked(invar.command(&import).arg(rootfs::busybox_tar()));
    invar.run(&["push", &second]);

    let other = empty();
    other.run(&["pull", &first]);
    let said: Value =
        serde_json::from_str(&other.run(&["pull", "--format", "json", &second])).unwrap();
    assert_eq!(said["is_new"], true);
    assert_eq!(said["downloaded"], 0);
    other.run(&["run", "--rm", &second, "true"]);
    other.run(&["image", "fsck"]);
    let said: Value =
        serde_json::from_str(&other.run(&["pull", "--format", "json", &second])).unwrap();
    assert_eq!(said["is_new"], false);
}

/// A way to a registry that stops after so many bytes came from it, until it is told to go on.
struct Gate {
    port: u16,
    left: Arc<AtomicU64>,
}

impl Gate {
    fn new(to: String, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU64::new(bytes));
        let budget = Arc::clone(&left);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
                let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || forward(from, into, None));
                let budget = Arc::clone(&budget);
                std::thread::spawn(move || forward(server, client, Some(&budget)));
            }
        });
        Self { port, left }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, budget: Option<&AtomicU64>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(budget) = budget {
            while budget.load(Ordering::SeqCst) < length as u64 {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            budget.fetch_sub(length as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    // The other side may have closed it first.
    to.shutdown(std::net::Shutdown::Write).ok();
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn a_pull_killed_in_the_middle_goes_on_where_it_was() {
    const BEFORE: u64 = 20 << 20;
    let registry = PrivateRegistry::start();
    let maker = empty();
    let name = "debian:1";
    let direct = registry.image(name);
    maker.import(&direct, &rootfs::debian_tar());
    maker.run(&["push", &direct]);

    let gate = Gate::new(registry.host(), BEFORE);
    let image = format!("127.0.0.1:{}/{name}", gate.port);
    let invar = empty();
    let mut child = invar
        .command(&["pull", &image])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let downloads = invar.root().join("store/downloads");
    let part = eventually("most of what may come is on disk", || {
        let part = fs::read_dir(&downloads).ok()?.next()?.unwrap().path();
        (allocated(&part) > BEFORE - (1 << 20)).then_some(part)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = allocated(&part);
    assert_eq!(invar.run(&["images", "--quiet"]), "", "it is visible");
    assert_eq!(invar.output(&["image", "fsck"]).status.code(), Some(0));

    gate.left.store(u64::MAX / 2, Ordering::SeqCst);
    let said: Value =
        serde_json::from_str(&invar.run(&["pull", "--format", "json", &image])).unwrap();
    assert_eq!(said["resumed"], kept);
    registry.wait_for_request(|line| line.contains("/blobs/") && line.ends_with(" 206"));
    invar.run(&["image", "fsck"]);
    invar.run(&["run", "--rm", "--pull=never", &image, "true"]);
    assert_eq!(parts(&invar), Vec::<String>::new());
}

#[test]
fn what_a_killed_pull_left_is_removed_by_a_prune() {
    let registry = PrivateRegistry::start();
    let maker = empty();
    let direct = registry.image("debian:1");
    maker.import(&direct, &rootfs::debian_tar());
    maker.run(&["push", &direct]);
    let gate = Gate::new(registry.host(), 4 << 20);
    let image = format!("127.0.0.1:{}/debian:1", gate.port);
    let invar = empty();
    let mut child = support::spawn(&invar, &["pull", &image]);
    eventually("a download has begun", || {
        let downloads = invar.root().join("store/downloads");
        let part = fs::read_dir(downloads).ok()?.next()?.unwrap().path();
        (allocated(&part) > 1 << 20).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(parts(&invar).len(), 1);
    invar.run(&["image", "prune"]);
    assert_eq!(parts(&invar), Vec::<String>::new());
    let objects = invar.root().join("store/objects");
    // Made with the first object, which may not have come yet.
    if objects.exists() {
        let objects = support::tree(&objects);
        let files = objects.iter().filter(|path| Path::new(path).is_file());
        assert_eq!(files.count(), 0, "{objects:?}");
    }
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_when_it_has_nothing() {
    let registry = PrivateRegistry::start();
    let mirror = PrivateRegistry::start();
    let invar = busybox();
    let image = registry.image("web:1");
    invar.run(&["tag", "busybox", &image]);
    invar.run(&["push", &image]);
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("registries.toml");
    let said = format!(
        "[registry.\"{}\"]\nmirrors = [\"http://{}\"]\n",
        registry.host(),
        mirror.host()
    );
    fs::write(&settings, said).unwrap();
    let pull = |invar: &Invar| {
        let mut command = invar.command(&["pull", &image]);
        command.env("INVAR_REGISTRIES", &settings);
        text(&checked(&mut command).stderr)
    };
    let said = pull(&empty());
    assert!(
        said.contains(&format!("mirror {}", mirror.host())),
        "{said}"
    );
    let copy = mirror.image("web:1");
    invar.run(&["tag", "busybox", &copy]);
    invar.run(&["push", &copy]);
    let before = registry.requests().len();
    assert_eq!(pull(&empty()), "");
    assert_eq!(registry.requests().len(), before, "the registry was asked");
}
