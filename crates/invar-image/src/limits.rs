//! How much an image may ask of this host.

/// Bounds on everything an image brings. Each stops one way of exhausting the host.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of file content in one image: stops filling the disk.
    pub unpacked: u64,
    /// Most bytes of content per byte of archive, once an archive has unpacked more than
    /// [`Limits::ratio_from`]: stops a small archive that unpacks to a huge one. DEFLATE reaches
    /// 1032, real root file systems stay below 20.
    pub ratio: u64,
    /// Bytes from which [`Limits::ratio`] counts.
    pub ratio_from: u64,
    /// Files and directories in one image, also those only implied by longer paths: stops
    /// exhausting memory and inodes.
    pub entries: u64,
    /// Bytes of names, link targets, extended attributes and the smallest files in one image:
    /// they are kept in memory.
    pub memory: u64,
    /// Bytes of headers, long names and extended records before one entry: the tar parser keeps
    /// them in memory.
    pub entry_headers: u64,
    /// Layers in one image.
    pub layers: usize,
    /// Bytes of a manifest, index or configuration: they are parsed in memory.
    pub metadata: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked: 128 << 30,
            ratio: 200,
            ratio_from: 1 << 30,
            entries: 2_000_000,
            memory: 512 << 20,
            entry_headers: 1 << 20,
            layers: 512,
            metadata: 4 << 20,
        }
    }
}

/// Longest path of an entry, in bytes (`PATH_MAX` of Linux).
pub(crate) const PATH: usize = 4096;
/// Longest name of one file, in bytes (`NAME_MAX` of Linux).
pub(crate) const NAME: usize = 255;
/// Deepest directory.
pub(crate) const DEPTH: usize = 1024;
/// Longest target of a symbolic link, in bytes; XFS has the same limit.
pub(crate) const SYMLINK: usize = 1024;
/// Bytes of extended attributes of one entry, names and values together.
pub(crate) const XATTRS: usize = 32 << 10;
