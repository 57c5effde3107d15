//! Image archives that lie, loop or explode: each is refused by name, and nothing of it stays.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "in tests a panic is the report, and tables are long"
)]

use std::path::Path;

use fs_err as fs;
use invar_image::{Digest, ImageStore, Limits, Platform};
use invar_testkit::require_root;
use serde_json::{Value, json};
use tempfile::TempDir;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An OCI layout being written.
struct Layout(TempDir);

impl Layout {
    fn new() -> Self {
        let layout = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(layout.path().join("blobs/sha256")).unwrap();
        layout
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a blob; its descriptor.
    fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        let path = self.path().join("blobs/sha256").join(digest.hex());
        fs::write(path, content).unwrap();
        json!({"mediaType": media_type, "digest": digest.as_str(), "size": content.len()})
    }

    fn json(&self, media_type: &str, content: &Value) -> Value {
        self.blob(media_type, content.to_string().as_bytes())
    }

    /// A descriptor of an image with these layers, and what its configuration claims of them.
    fn image(&self, layers: &[Value], diff_ids: &[String], architecture: &str) -> Value {
        let config = json!({"os": "linux", "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.json(CONFIG, &config);
        self.json(
            MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}),
        )
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// A layer with one file, and its `DiffID`.
fn layer() -> (Vec<u8>, String) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(100);
    tar.append_data(&mut header, "file", &[b'x'; 100][..])
        .unwrap();
    let tar = tar.into_inner().unwrap();
    let diff_id = Digest::of(&tar).to_string();
    (tar, diff_id)
}

fn host() -> String {
    Platform::host().architecture
}

/// Makes a layout that must be refused.
type Lie = fn(&Layout);

#[test]
fn layouts_that_lie_are_refused_and_leave_nothing() {
    require_root();
    let table: &[(&str, Lie)] = &[
        ("DiffID of blobs/sha256/", |layout| {
            let (tar, _) = layer();
            let layer = layout.blob(LAYER, &tar);
            let wrong = Digest::of(b"something else").to_string();
            layout.index(&[layout.image(&[layer], &[wrong], &host())]);
        }),
        ("the digest should be sha256:", |layout| {
            let (tar, diff_id) = layer();
            let layer = layout.blob(LAYER, &tar);
            let image = layout.image(&[layer], &[diff_id], &host());
            let name = image["digest"].as_str().unwrap().replace(':', "/");
            let path = layout.path().join("blobs").join(name);
            fs::write(&path, fs::read_to_string(&path).unwrap().replace('2', "2 ")).unwrap();
            layout.index(&[image]);
        }),
        ("bytes, not 5", |layout| {
            let mut image = layout.image(&[], &[], &host());
            image["size"] = json!(5);
            layout.index(&[image]);
        }),
        ("media type \"application/x-unknown\\u{1b}\"", |layout| {
            let (tar, diff_id) = layer();
            let layer = layout.blob("application/x-unknown\u{1b}", &tar);
            layout.index(&[layout.image(&[layer], &[diff_id], &host())]);
        }),
        ("expected an image manifest or index", |layout| {
            let mut image = layout.image(&[], &[], &host());
            image["mediaType"] = json!(CONFIG);
            layout.index(&[image]);
        }),
        ("no image for linux/", |layout| {
            layout.index(&[layout.image(&[], &[], "vax")]);
        }),
        ("indexes inside indexes", |layout| {
            let mut image = layout.image(&[], &[], &host());
            for _ in 0..6 {
                image = layout.json(INDEX, &json!({"schemaVersion": 2, "manifests": [image]}));
            }
            layout.index(&[image]);
        }),
        ("it names 1 layers, the manifest has 2", |layout| {
            let (tar, diff_id) = layer();
            let layer = layout.blob(LAYER, &tar);
            layout.index(&[layout.image(&[layer.clone(), layer], &[diff_id], &host())]);
        }),
        ("at most 512 are allowed", |layout| {
            let (tar, diff_id) = layer();
            let layers = vec![layout.blob(LAYER, &tar); 10_000];
            layout.index(&[layout.image(&layers, &vec![diff_id; 10_000], &host())]);
        }),
        ("is larger than the limit of 4194304 bytes", |layout| {
            let big = " ".repeat(5 << 20);
            layout.index(&[layout.blob(MANIFEST, big.as_bytes())]);
        }),
        ("index.json is larger than the limit", |layout| {
            fs::write(layout.path().join("index.json"), " ".repeat(5 << 20)).unwrap();
        }),
        ("index.json: EOF", |layout| {
            fs::write(layout.path().join("index.json"), "{").unwrap();
        }),
        ("number of images in the archive", |layout| {
            layout.index(&vec![layout.image(&[], &[], &host()); 101]);
        }),
        ("could not open", |layout| {
            let image = layout.image(&[], &[], &host());
            let name = image["digest"].as_str().unwrap().replace(':', "/");
            let path = layout.path().join("blobs").join(name);
            fs::rename(&path, layout.path().join("outside")).unwrap();
            std::os::unix::fs::symlink("../../outside", &path).unwrap();
            layout.index(&[image]);
        }),
        ("index.json: Invalid encoded value \\u{1b}", |layout| {
            let mut image = layout.image(&[], &[], &host());
            image["digest"] = json!("sha256:\u{1b}../../../../etc/passwd");
            layout.index(&[image]);
        }),
        ("unfinished", |layout| {
            let (tar, diff_id) = layer();
            let layer = layout.blob(LAYER, &tar[..700]);
            let image = layout.image(&[layer], &[diff_id], &host());
            layout.index(&[image]);
        }),
    ];
    for (reason, lie) in table {
        let layout = Layout::new();
        lie(&layout);
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let error = store
            .load_path(layout.path(), None)
            .unwrap_err()
            .to_string();
        // A cut layer is found by one of two checks, whichever reads further.
        let is_cut = *reason == "unfinished" && error.contains("ends inside");
        assert!(error.contains(reason) || is_cut, "{reason}: {error}");
        assert_nothing_left(root.path(), &store);
    }
}

/// An archive with these members: a name and its content, or the target of a link.
fn archive(members: &[(&str, Result<&[u8], &str>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        match content {
            Ok(content) => {
                header.set_size(content.len() as u64);
                header.set_cksum();
                tar.append(&header, *content).unwrap();
            }
            Err(target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name_literal(target).unwrap();
                header.set_cksum();
                tar.append(&header, &[][..]).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

#[test]
fn docker_archives_that_lie_are_refused_and_leave_nothing() {
    require_root();
    let config = |diff_ids: &[String]| {
        json!({"os": "linux", "architecture": host(), "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
    };
    let manifest = |layers: &[&str], tags: &[&str]| {
        json!([{"Config": "config.json", "RepoTags": tags, "Layers": layers}]).to_string()
    };
    let (tar, diff_id) = layer();
    let good = config(std::slice::from_ref(&diff_id));
    let other = config(&[Digest::of(b"other").to_string()]);
    let many: Vec<_> = (0..10_001).map(|number| format!("m{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, Ok(&b""[..]))).collect();
    let table: Vec<(&str, Vec<u8>)> = vec![
        (
            "DiffID of layer.tar",
            archive(&[
                (
                    "manifest.json",
                    Ok(manifest(&["layer.tar"], &[]).as_bytes()),
                ),
                ("config.json", Ok(other.as_bytes())),
                ("layer.tar", Ok(&tar)),
            ]),
        ),
        (
            "it leads out of the archive",
            archive(&[
                (
                    "manifest.json",
                    Ok(manifest(&["../../etc/passwd"], &[]).as_bytes()),
                ),
                ("config.json", Ok(good.as_bytes())),
            ]),
        ),
        (
            "it leads out of the archive",
            archive(&[("../manifest.json", Ok(b"[]"))]),
        ),
        (
            "it leads out of the archive",
            archive(&[("manifest.json", Err("../../../etc/passwd"))]),
        ),
        (
            "without manifest.json and index.json",
            archive(&[
                ("manifest.json", Err("index.json")),
                ("index.json", Err("manifest.json")),
            ]),
        ),
        (
            "too many links",
            archive(&[
                ("manifest.json", Ok(manifest(&["a"], &[]).as_bytes())),
                ("config.json", Ok(good.as_bytes())),
                ("a", Err("b")),
                ("b", Err("a")),
            ]),
        ),
        (
            "is not an image reference",
            archive(&[
                (
                    "manifest.json",
                    Ok(manifest(&["l"], &["../../x"]).as_bytes()),
                ),
                ("config.json", Ok(good.as_bytes())),
            ]),
        ),
        ("number of files in the archive", archive(&many)),
        (
            "the archive has no such file",
            archive(&[("manifest.json", Ok(manifest(&["l"], &[]).as_bytes()))]),
        ),
        ("this is not a tar header", vec![b'x'; 2048]),
        (
            "ends inside",
            archive(&[("manifest.json", Ok(&[b' '; 600]))])[..700].to_vec(),
        ),
    ];
    for (reason, bytes) in table {
        for is_file in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let store = ImageStore::open(root.path()).unwrap();
            let loaded = if is_file {
                let file = tempfile::NamedTempFile::new().unwrap();
                fs::write(file.path(), &bytes).unwrap();
                store.load_path(file.path(), None)
            } else {
                store.load(&*bytes, None)
            };
            let error = loaded.unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
            assert_nothing_left(root.path(), &store);
        }
    }
}

#[test]
fn a_header_that_asks_for_memory_is_refused_before_it_is_read() {
    require_root();
    for kind in [b'L', b'K', b'x', b'g'] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(100 << 30);
        header.set_cksum();
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let error = store.load(&header.as_bytes()[..], None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("headers of one entry"), "{kind}: {error}");
    }
}

#[test]
fn limits_count_what_an_image_only_implies() {
    require_root();
    let limits = Limits {
        entries: 5000,
        memory: 100_000,
        ..Limits::default()
    };
    let deep = |number: usize| format!("{number}/{}", "d/".repeat(900));
    let wide = |number: usize| format!("{number:0200}");
    let table: [(&str, &dyn Fn(usize) -> String, usize); 2] = [
        ("more than 5000 entries", &deep, 10),
        ("more than 100000 bytes", &wide, 1000),
    ];
    for (reason, name, count) in table {
        let mut tar = tar::Builder::new(Vec::new());
        for number in 0..count {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            let name = format!("{}f", name(number));
            tar.append_data(&mut header, name, &[][..]).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap().with_limits(limits);
        let name = invar_image::Reference::parse("x").unwrap();
        let error = store.import(&name, &*tar, &invar_image::ImportOptions::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_nothing_left(root.path(), &store);
    }
}

fn assert_nothing_left(root: &Path, store: &ImageStore) {
    assert!(store.list().unwrap().is_empty());
    let objects = root.join("store/objects");
    if !objects.exists() {
        return;
    }
    for directory in fs::read_dir(objects).unwrap() {
        let left = fs::read_dir(directory.unwrap().path()).unwrap().count();
        assert_eq!(left, 0, "content stayed behind");
    }
}
