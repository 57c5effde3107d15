//! An image in the form of `docker image inspect`.

use invar_image::{Image, ImageStore};
use serde_json::{Value, json};

pub(super) fn describe(images: &ImageStore, image: &Image) -> anyhow::Result<Value> {
    let own = serde_json::to_value(&image.config)?;
    Ok(json!({
        "Id": image.id.to_string(),
        "RepoTags": image.names,
        "Digest": image.manifest.to_string(),
        "Created": image.created_at,
        "Author": own["author"].as_str().unwrap_or_default(),
        "Architecture": own["architecture"],
        "Os": own["os"],
        "Size": image.size,
        "KernelChecks": images.kernel_check(&image.id)?,
        "Config": own["config"],
        "RootFS": {
            "Type": "layers",
            "Layers": own["rootfs"]["diff_ids"],
        },
    }))
}
