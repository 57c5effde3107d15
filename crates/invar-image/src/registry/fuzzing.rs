//! Entry points for the fuzz targets in `/fuzz`, compiled for them alone.

use super::docker_config::DockerConfig;
use super::url::Url;
use super::{challenge, error, manifest, token};

/// Reads bytes as everything a registry answers with in text.
pub(crate) fn answer(bytes: &[u8]) {
    drop(manifest::media_type(None, bytes));
    drop(token::parse(bytes));
    let message = error::message(bytes);
    assert!(message.chars().all(|c| !c.is_control()));
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    challenge::parse(text);
    let from = Url::parse("https://host/v2/a/blobs/x").expect("a valid address");
    if let Ok(url) = from.join(text) {
        assert!(url.path_and_query.starts_with('/') || url.path_and_query.starts_with('?'));
    }
}

/// Reads bytes as the file with credentials.
pub(crate) fn config(bytes: &[u8]) {
    if let Ok(config) = DockerConfig::parse(bytes) {
        config.credentials("docker.io", "library/busybox");
        config.helper("ghcr.io");
    }
}
