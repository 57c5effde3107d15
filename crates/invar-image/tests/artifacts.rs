//! Artifacts beside images in a real registry, found again by what they refer to.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod server;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use invar_image::registry::{
    Artifact, ArtifactLayer, Backoff, RegistryOptions, push_artifact, referrers,
};
use invar_image::{Digest, Reference};
use invar_testkit::registry::PrivateRegistry;
use serde_json::json;

use server::{MANIFEST, Response, Server};

fn artifact(text: &str, subject: Option<&Digest>) -> Artifact {
    let mut content = tempfile::tempfile().unwrap();
    content.write_all(text.as_bytes()).unwrap();
    let title = (
        "org.opencontainers.image.title".to_owned(),
        "note.txt".to_owned(),
    );
    Artifact {
        artifact_type: "application/vnd.example.note".to_owned(),
        layers: vec![ArtifactLayer {
            media_type: "text/plain".to_owned(),
            content,
            annotations: BTreeMap::from([title]),
        }],
        annotations: BTreeMap::from([("about".to_owned(), text.to_owned())]),
        subject: subject.map(|digest| {
            let descriptor = json!({"mediaType": MANIFEST, "digest": digest.as_str(), "size": 2});
            serde_json::from_value(descriptor).unwrap()
        }),
    }
}

#[test]
fn what_refers_to_an_image_is_found_where_the_registry_has_no_list_of_its_own() {
    let registry = PrivateRegistry::start();
    let options = RegistryOptions::default();
    let image = Reference::parse(&registry.image("web:image")).unwrap();
    let subject = push_artifact(artifact("the image", None), &image, &options).unwrap();
    assert!(referrers(&image, &subject, &options).unwrap().is_empty());
    let mut expected = Vec::new();
    for text in ["first", "second", "second"] {
        let tag = Reference::parse(&registry.image(&format!("web:{text}"))).unwrap();
        let digest = push_artifact(artifact(text, Some(&subject)), &tag, &options).unwrap();
        expected.push(digest.to_string());
    }
    // The same artifact twice is listed once.
    expected.dedup();
    let found = referrers(&image, &subject, &options).unwrap();
    let digests: Vec<_> = found
        .iter()
        .map(|entry| entry.digest().to_string())
        .collect();
    assert_eq!(digests, expected);
    let annotations = found[1].annotations().as_ref().unwrap();
    assert_eq!(annotations["about"], "second");
}

#[test]
fn a_registry_with_a_list_of_its_own_is_asked_for_it() {
    let subject = Digest::of(b"image");
    let path = format!("/v2/web/referrers/{subject}");
    let server = Server::start(move |request| {
        if request.path != path {
            return Response::new(404, "");
        }
        let index = json!({"schemaVersion": 2, "manifests": [
            {"mediaType": MANIFEST, "digest": Digest::of(b"signature").as_str(), "size": 9}]});
        Response::new(200, index.to_string())
    });
    let name = Reference::parse(&format!("{}/web", server.host())).unwrap();
    let found = referrers(&name, &Digest::of(b"image"), &RegistryOptions::default()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].digest().as_ref(),
        Digest::of(b"signature").as_str()
    );
}

/// What a registry has of an upload in chunks.
#[derive(Default)]
struct Upload {
    had: Vec<u8>,
    ranges: Vec<String>,
    is_broken: bool,
}

/// A registry that breaks the second chunk off half-way, once, and then says so or has forgotten
/// all of it; or that takes no chunks.
fn breaking(forgets: bool, takes_chunks: bool) -> (Server, Arc<Mutex<Upload>>) {
    let upload: Arc<Mutex<Upload>> = Arc::default();
    let state = Arc::clone(&upload);
    let server = Server::start(move |request| {
        let mut state = state.lock().unwrap();
        let here = |status| Response::new(status, "").header("Location", "/v2/web/blobs/uploads/1");
        match request.method.as_str() {
            "POST" => {
                state.had.clear();
                here(202)
            }
            "PATCH" if !takes_chunks => Response::new(405, ""),
            "PATCH" => {
                let range = request.header("content-range").unwrap().to_owned();
                let start: usize = range.split('-').next().unwrap().parse().unwrap();
                assert_eq!(start, state.had.len(), "{range}");
                state.ranges.push(range);
                if !state.is_broken && start > 0 {
                    state.is_broken = true;
                    state.had.extend(&request.body[..request.body.len() / 2]);
                    return Response::new(503, "");
                }
                state.had.extend(&request.body);
                here(202)
            }
            "GET" if request.path.contains("/uploads/") && forgets => Response::new(404, ""),
            "GET" if request.path.contains("/uploads/") => {
                here(204).header("Range", format!("0-{}", state.had.len() - 1))
            }
            "PUT" if request.path.contains("/uploads/") => {
                state.had.extend(&request.body);
                let digest = request.path.rsplit("digest=").next().unwrap();
                let digest = digest.replace("%3A", ":").replace("%3a", ":");
                let code = if Digest::of(&state.had).as_str() == digest {
                    201
                } else {
                    400
                };
                Response::new(code, "")
            }
            "PUT" => Response::new(201, ""),
            _ => Response::new(404, ""),
        }
    });
    (server, upload)
}

#[test]
fn a_large_upload_that_breaks_off_goes_on_where_the_registry_has_it() {
    const CHUNK: usize = 16 << 20;
    let text = "0123456789abcdef".repeat(5 * CHUNK / 2 / 16);
    let options = RegistryOptions {
        plain_http: true,
        backoff: Backoff {
            first: Duration::from_millis(10),
            ..Backoff::default()
        },
        ..RegistryOptions::default()
    };
    let chunk = |from: usize, to: usize| format!("{from}-{}", to - 1);
    let (whole, half) = (text.len(), CHUNK + CHUNK / 2);
    let begun = [chunk(0, CHUNK), chunk(CHUNK, 2 * CHUNK)];
    for (forgets, takes_chunks, expected) in [
        (false, true, vec![chunk(half, half + CHUNK)]),
        (
            true,
            true,
            vec![begun[0].clone(), begun[1].clone(), chunk(2 * CHUNK, whole)],
        ),
        (false, false, vec![]),
    ] {
        let (server, upload) = breaking(forgets, takes_chunks);
        let image = Reference::parse(&format!("{}/web:1", server.host())).unwrap();
        push_artifact(artifact(&text, None), &image, &options).unwrap();
        let found = upload.lock().unwrap().ranges.clone();
        let expected: Vec<String> = if takes_chunks {
            begun.iter().cloned().chain(expected).collect()
        } else {
            expected
        };
        assert_eq!(
            found, expected,
            "forgets: {forgets}, takes chunks: {takes_chunks}"
        );
    }
}
