//! What a container's root is made of.

use std::path::Path;

use fs_err as fs;
use invar_sys::probe;

use super::{Finding, Group};

pub(super) fn check(root: &Path, findings: &mut Vec<Finding>) {
    let mut group = Group {
        name: "storage",
        findings,
    };
    group.needed(
        "overlay",
        probe::overlay().map(|()| "writable and read-only overlays"),
        "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
    );
    group.tried(
        "erofs",
        invar_image::try_erofs(root).map(|()| "an image's view was mounted from a file"),
        "needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE, or modprobe erofs; images are kept \
         as directory trees until then, which takes more disk",
    );
    group.tried(
        "composefs",
        probe::data_only_layers().map(|()| "layers of content without names"),
        "needs Linux 6.5; images are kept as directory trees until then",
    );
    group.tried(
        "immutable_files",
        probe::immutable(root).map(|()| "a file of the state root was made unchangeable"),
        "put the state root (--root) on ext4, xfs or btrfs, and keep CAP_LINUX_IMMUTABLE",
    );
    group.tried(
        "fs_verity",
        probe::enable_verity(root).map(|()| "a file of the state root is checked on every read"),
        "needs CONFIG_FS_VERITY and ext4 made with -O verity (or: tune2fs -O verity DEVICE), or \
         btrfs; without it a byte changed in the store is found by invar image fsck only",
    );
    group.tried(
        "overlay_verity",
        probe::require_verity().map(|()| "verity=require"),
        "needs Linux 6.6 with CONFIG_FS_VERITY",
    );
    group.tried(
        "dm_verity",
        device_mapper(),
        "modprobe dm-verity, or a kernel with CONFIG_DM_VERITY",
    );
    group.tried(
        "idmapped_mounts",
        owner_maps(),
        "needs Linux 5.12; user namespaces for containers depend on it",
    );
}

fn device_mapper() -> Result<&'static str, String> {
    let devices = fs::read_to_string("/proc/misc").map_err(|error| error.to_string())?;
    if !devices.contains("device-mapper") {
        return Err("this kernel has no device mapper".to_owned());
    }
    if Path::new("/sys/module/dm_verity").exists() {
        Ok("the device mapper has it")
    } else {
        Err("the device mapper is there, dm-verity is not loaded".to_owned())
    }
}

fn owner_maps() -> Result<&'static str, std::io::Error> {
    if probe::idmapped()? {
        Ok("the kernel knows mounts with shifted owners")
    } else {
        Err(std::io::Error::other("the kernel does not know them"))
    }
}
