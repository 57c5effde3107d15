//! Paths of a container as bytes: absolute, with any bytes but NUL in a name, of any length.

/// `dir/name`, where the root is `/`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir.strip_suffix(b"/").unwrap_or(dir));
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// The directory of a path; `/` for a top one.
pub fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        None | Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

/// The last name of a path.
pub fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}
