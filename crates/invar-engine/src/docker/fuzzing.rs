//! Entry points for the fuzz targets in `/fuzz`, compiled for them alone.

/// Reads bytes as a daemon's answer to `inspect`.
pub fn describe(bytes: &[u8]) {
    if let Ok(answer) = serde_json::from_slice(bytes) {
        drop(super::describe::container("docker", &answer));
    }
}
