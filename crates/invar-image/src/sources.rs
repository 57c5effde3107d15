//! What is known of an image's parts in registries: where it is, and what its layers were when they
//! were compressed.

use rusqlite::OptionalExtension as _;

use crate::digest::Digest;
use crate::error::Result;
use crate::layer::StoredLayer;
use crate::store::{ImageId, ImageStore, object_id};

impl ImageStore {
    /// Remembers that a repository has an image under these digests.
    pub(crate) fn add_source(
        &self,
        id: &ImageId,
        repository: &str,
        digests: &[&Digest],
    ) -> Result<()> {
        self.database().write(|transaction| {
            // An image without a name is kept too when it was asked for by its digest.
            let sql = "UPDATE images SET removed = 0 WHERE id = ?1";
            transaction.execute(sql, [id.as_str()])?;
            for digest in digests {
                transaction.execute(
                    "INSERT OR IGNORE INTO image_sources VALUES (?1, ?2, ?3)",
                    (repository, digest.as_str(), id.as_str()),
                )?;
            }
            Ok(())
        })
    }

    /// The repositories that are known to have an image.
    pub(crate) fn sources(&self, id: &ImageId) -> Result<Vec<String>> {
        let connection = self.database().connection();
        let sql = "SELECT DISTINCT repository FROM image_sources WHERE image = ?1";
        let mut statement = connection.prepare(sql)?;
        let found = statement.query_map([id.as_str()], |row| row.get(0))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// Remembers what a layer was when it was compressed for a registry.
    pub(crate) fn add_blob(&self, diff_id: &Digest, digest: &Digest, size: u64) -> Result<()> {
        self.database().write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO layer_blobs VALUES (?1, ?2, ?3)",
                (
                    diff_id.as_str(),
                    digest.as_str(),
                    i64::try_from(size).unwrap_or(i64::MAX),
                ),
            )?;
            Ok(())
        })
    }

    /// Digest and size of a layer as it was compressed before.
    pub(crate) fn blob_of(&self, diff_id: &Digest) -> Result<Option<(Digest, u64)>> {
        let sql = "SELECT digest, size FROM layer_blobs WHERE diff_id = ?1";
        let row: Option<(String, i64)> = self
            .database()
            .connection()
            .query_row(sql, [diff_id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        row.map(|(digest, size)| Ok((Digest::parse(&digest)?, u64::try_from(size).unwrap_or(0))))
            .transpose()
    }

    /// A layer that is in the store already.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Result<Option<StoredLayer>> {
        let sql = "SELECT recipe, size FROM layers WHERE diff_id = ?1";
        let row: Option<(String, i64)> = self
            .database()
            .connection()
            .query_row(sql, [diff_id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        row.map(|(recipe, size)| {
            Ok(StoredLayer {
                diff_id: diff_id.clone(),
                recipe: object_id(&recipe)?,
                size: u64::try_from(size).unwrap_or(0),
            })
        })
        .transpose()
    }
}
