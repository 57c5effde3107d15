//! Artifacts beside images in a real registry, found again by what they refer to.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod server;

use std::collections::BTreeMap;
use std::io::Write as _;

use invar_image::registry::{Artifact, ArtifactLayer, RegistryOptions, push_artifact, referrers};
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
