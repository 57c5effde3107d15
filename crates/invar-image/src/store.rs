//! The image store: names to images in `state.db`, content in `store/`.
//!
//! An image is visible once its row is committed; everything it needs was written and synced
//! before. What has no row yet, or no more, is removed by [`ImageStore::prune`].

use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use composefs::fsverity::FsVerityHashValue;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use rustix::fs::{FlockOperation, flock};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::layer::StoredLayer;
use crate::limits::Limits;
use crate::objects::{self, ObjectId, Objects};
use crate::reference::Reference;
use crate::state::{self, Database};
use crate::view::{self, ImageView, KernelCheck, Verification, ViewForm};

/// Digest of an image's configuration: names the image for ever.
pub type ImageId = Digest;

const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE images (
        id TEXT PRIMARY KEY, manifest_digest TEXT NOT NULL, manifest BLOB NOT NULL,
        config BLOB NOT NULL, view TEXT NOT NULL, size INTEGER NOT NULL,
        stored_at TEXT NOT NULL
    );
    CREATE TABLE layers (diff_id TEXT PRIMARY KEY, recipe TEXT NOT NULL, size INTEGER NOT NULL);
    CREATE TABLE image_layers (
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE, position INTEGER NOT NULL,
        diff_id TEXT NOT NULL REFERENCES layers, PRIMARY KEY (image, position)
    );
    CREATE TABLE image_names (
        name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images ON DELETE CASCADE
    );
    CREATE TABLE image_holds (container TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images);
",
    "
    ALTER TABLE images ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
",
    "
    CREATE TABLE image_sources (
        repository TEXT NOT NULL, digest TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        PRIMARY KEY (repository, digest, image)
    );
    CREATE TABLE layer_blobs (
        diff_id TEXT PRIMARY KEY REFERENCES layers ON DELETE CASCADE,
        digest TEXT NOT NULL, size INTEGER NOT NULL
    );
",
];

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Digest of the manifest it came with, or that Invar wrote for it.
    pub manifest: Digest,
    /// `name:tag`, sorted.
    pub names: Vec<String>,
    /// What its author says about running it.
    pub config: ImageConfiguration,
    /// Bytes of all its layers, uncompressed.
    pub size: u64,
    /// When its author made it, if they say.
    pub created_at: Option<Timestamp>,
    /// When it came into this store.
    pub stored_at: Timestamp,
}

/// An image about to become visible.
pub(crate) struct NewImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<StoredLayer>,
    pub(crate) view: ObjectId,
}

/// What removing a name did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Names that no longer exist.
    pub untagged: Vec<String>,
    /// The image, when nothing refers to it any more.
    pub deleted: Option<ImageId>,
}

/// All images of one state root.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    pub(crate) objects: Objects,
    database: Database,
    pub(crate) limits: Limits,
    view_form: ViewForm,
    verification: Verification,
}

impl ImageStore {
    /// Opens the store under a state root; both are made when missing.
    pub fn open(root: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(ImageError::io("create", root))?;
        let database = Database::open(root)?;
        database.migrate("image", MIGRATIONS)?;
        Ok(Self {
            root: root.to_owned(),
            objects: objects::open(&root.join("store"))?,
            database,
            limits: Limits::default(),
            view_form: ViewForm::from_environment(),
            verification: Verification::from_environment()?,
        })
    }

    /// The state database that this store shares with containers and services.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The same store with other limits on what comes in.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same store with views in this form, whatever the environment asks for.
    #[must_use]
    pub fn with_view_form(mut self, form: ViewForm) -> Self {
        self.view_form = form;
        self
    }

    /// Every image, newest in this store first.
    pub fn list(&self) -> Result<Vec<Image>> {
        let connection = self.database.connection();
        let sql = format!("{SELECT} ORDER BY stored_at DESC, id");
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], ImageRow::read)?;
        let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        rows.into_iter()
            .map(|row| row.complete(&connection))
            .collect()
    }

    /// The image with this name, `name@digest`, id, or unambiguous id prefix.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let connection = self.database.connection();
        let reference = Reference::parse(name);
        if let Ok(reference) = &reference
            && let Some(image) = find_by_reference(&connection, reference)?
        {
            return Ok(image);
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = !digits.is_empty()
            && digits.len() <= 64
            && digits
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        if !is_prefix {
            reference?;
            return Err(not_found(name));
        }
        let sql = format!("{SELECT} WHERE id LIKE 'sha256:' || ?1 || '%'");
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([digits], ImageRow::read)?;
        let mut rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        match (rows.pop(), rows.len()) {
            (None, _) => Err(not_found(name)),
            (Some(row), 0) => row.complete(&connection),
            (Some(_), more) => Err(ImageError::Ambiguous {
                prefix: name.to_owned(),
                count: more + 1,
            }),
        }
    }

    /// The image with exactly this id.
    pub fn get(&self, id: &ImageId) -> Result<Image> {
        let connection = self.database.connection();
        find_by_id(&connection, id.as_str())?.ok_or_else(|| not_found(id.as_str()))
    }

    /// An image's configuration as it was written: Docker keeps there what the OCI's has no field
    /// for.
    pub fn raw_config(&self, id: &ImageId) -> Result<Vec<u8>> {
        let (_, config, _) = self.parts(id)?;
        Ok(config)
    }

    /// Mounts an image's read-only view, detached.
    pub fn open_view(&self, id: &ImageId) -> Result<ImageView> {
        let hex: Option<String> = self
            .database
            .connection()
            .query_row(
                "SELECT view FROM images WHERE id = ?1",
                [id.as_str()],
                |row| row.get(0),
            )
            .optional()?;
        let hex = hex.ok_or_else(|| not_found(id.as_str()))?;
        let view = object_id(&hex)?;
        if self.view_form == ViewForm::Best
            // Which error says "this kernel cannot" differs between versions; the plain tree
            // reports a real defect of the view as well.
            && let Ok(opened) = view::open_erofs(&self.objects, &view, self.verification)
            && (opened.is_verified || self.verification != Verification::Require)
        {
            return Ok(opened);
        }
        if self.verification == Verification::Require {
            return Err(ImageError::NotVerified { id: id.clone() });
        }
        // While it is written, nothing may be pruned.
        let _lock = self.lock(FlockOperation::LockShared)?;
        view::make_plain(&self.objects, &self.directory(), &view)?;
        view::open_plain(&self.directory(), &view)
    }

    /// What of an image the kernel checks whenever it is read from disk.
    pub fn kernel_check(&self, id: &ImageId) -> Result<KernelCheck> {
        let (view, ..) = self.parts(id)?;
        Ok(view::kernel_check(&self.objects, &view, self.view_form))
    }

    /// Gives an image one more name, taken from any image that has it.
    pub fn tag(&self, id: &ImageId, name: &Reference) -> Result<()> {
        self.database
            .write(|transaction| name_image(transaction, id, name))
    }

    /// Removes a name, or with an id all names, and the image once it has none.
    ///
    /// An image that a container was made from stays; with `force` only its names go, and the
    /// image goes with its last container.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let id = self.resolve(name)?.id;
        let reference = Reference::parse(name).ok().map(|r| r.name_and_tag());
        self.database.write(|transaction| {
            let names = names_of(transaction, &id)?;
            let by_name = reference.filter(|name| names.contains(name));
            let untagged = by_name.map_or_else(|| names.clone(), |name| vec![name]);
            let is_last = untagged.len() == names.len();
            let holder = holder(transaction, &id)?;
            if is_last
                && !force
                && let Some(container) = &holder
            {
                return Err(ImageError::InUse {
                    name: name.to_owned(),
                    container: container.chars().take(12).collect(),
                });
            }
            for name in &untagged {
                transaction.execute("DELETE FROM image_names WHERE name = ?1", [name])?;
            }
            if is_last {
                let sql = "UPDATE images SET removed = 1 WHERE id = ?1";
                transaction.execute(sql, [id.as_str()])?;
            }
            let deleted = delete_removed(transaction)?;
            Ok(Removed {
                untagged,
                deleted: deleted.contains(&id).then_some(id),
            })
        })
    }

    /// Keeps an image for a container until [`ImageStore::release`].
    pub fn hold(&self, id: &ImageId, container: &str) -> Result<()> {
        self.database.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO image_holds VALUES (?1, ?2)";
            transaction.execute(sql, [container, id.as_str()])?;
            Ok(())
        })
    }

    /// Ends what [`ImageStore::hold`] began.
    pub fn release(&self, container: &str) -> Result<()> {
        self.database.write(|transaction| {
            let sql = "DELETE FROM image_holds WHERE container = ?1";
            transaction.execute(sql, [container])?;
            delete_removed(transaction).map(drop)
        })
    }

    /// Makes an image visible, with everything it needs safely on disk first.
    pub(crate) fn publish(&self, new: &NewImage, names: &[Reference]) -> Result<Image> {
        let id = Digest::of(&new.config);
        parse_config(&new.config)?;
        self.objects
            .sync()
            .map_err(ImageError::store("write it to disk"))?;
        let size: u64 = new.layers.iter().map(|layer| layer.size).sum();
        self.database.write(|transaction| {
            // The same image again gets the view that this version builds.
            transaction.execute(
                "INSERT INTO images VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)
                 ON CONFLICT (id) DO UPDATE SET view = excluded.view, removed = 0",
                (
                    id.as_str(),
                    new.manifest_digest.as_str(),
                    &new.manifest,
                    &new.config,
                    new.view.to_hex(),
                    i64::try_from(size).unwrap_or(i64::MAX),
                    Timestamp::now().to_string(),
                ),
            )?;
            for (position, layer) in new.layers.iter().enumerate() {
                transaction.execute(
                    "INSERT INTO layers VALUES (?1, ?2, ?3)
                     ON CONFLICT (diff_id) DO UPDATE SET recipe = excluded.recipe",
                    (
                        layer.diff_id.as_str(),
                        layer.recipe.to_hex(),
                        i64::try_from(layer.size).unwrap_or(i64::MAX),
                    ),
                )?;
                transaction.execute(
                    "INSERT OR IGNORE INTO image_layers VALUES (?1, ?2, ?3)",
                    (
                        id.as_str(),
                        i64::try_from(position).expect("few layers"),
                        layer.diff_id.as_str(),
                    ),
                )?;
            }
            names
                .iter()
                .try_for_each(|name| name_image(transaction, &id, name))
        })?;
        state::sync(&self.root)?;
        self.get(&id)
    }

    /// The layers of an image, bottom first.
    pub(crate) fn layers(&self, id: &ImageId) -> Result<Vec<StoredLayer>> {
        let connection = self.database.connection();
        let mut statement = connection.prepare(
            "SELECT diff_id, recipe, size FROM image_layers JOIN layers USING (diff_id)
             WHERE image = ?1 ORDER BY position",
        )?;
        let rows = statement.query_map([id.as_str()], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, i64>(2)?,
            ))
        })?;
        rows.map(|row| {
            let (diff_id, recipe, size) = row?;
            Ok(StoredLayer {
                diff_id: Digest::parse(&diff_id)?,
                recipe: object_id(&recipe)?,
                size: u64::try_from(size).unwrap_or(0),
            })
        })
        .collect()
    }

    /// The view, configuration bytes and manifest bytes of an image.
    pub(crate) fn parts(&self, id: &ImageId) -> Result<(ObjectId, Vec<u8>, Vec<u8>)> {
        let sql = "SELECT view, config, manifest FROM images WHERE id = ?1";
        let parts: Option<(String, Vec<u8>, Vec<u8>)> = self
            .database
            .connection()
            .query_row(sql, [id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let (view, config, manifest) = parts.ok_or_else(|| not_found(id.as_str()))?;
        Ok((object_id(&view)?, config, manifest))
    }

    /// Recipes of layers that no image has any more are forgotten.
    pub(crate) fn forget_unused_layers(&self) -> Result<()> {
        let sql = "DELETE FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)";
        self.database.connection().execute(sql, [])?;
        Ok(())
    }

    /// Holds off [`ImageStore::prune`] while content is written that no image refers to yet.
    pub(crate) fn lock(&self, operation: FlockOperation) -> Result<fs::File> {
        let path = self.root.join("store.lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(ImageError::io("open", &path))?;
        flock(file.as_fd(), operation).map_err(|e| ImageError::io("lock", &path)(e.into()))?;
        Ok(file)
    }

    /// The state root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where content is kept.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join("store")
    }
}

const SELECT: &str = "SELECT id, manifest_digest, config, size, stored_at FROM images";

struct ImageRow {
    id: String,
    manifest: String,
    config: Vec<u8>,
    size: i64,
    stored_at: String,
}

impl ImageRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            manifest: row.get(1)?,
            config: row.get(2)?,
            size: row.get(3)?,
            stored_at: row.get(4)?,
        })
    }

    fn complete(self, connection: &Connection) -> Result<Image> {
        let id = Digest::parse(&self.id)?;
        let config = parse_config(&self.config)?;
        let created_at = config.created().as_ref().and_then(|text| text.parse().ok());
        Ok(Image {
            names: names_of(connection, &id)?,
            id,
            manifest: Digest::parse(&self.manifest)?,
            config,
            size: u64::try_from(self.size).unwrap_or(0),
            created_at,
            stored_at: self.stored_at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }
}

pub(crate) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::malformed("image configuration", error))
}

fn find_by_id(connection: &Connection, id: &str) -> Result<Option<Image>> {
    let sql = format!("{SELECT} WHERE id = ?1");
    let row = connection
        .query_row(&sql, [id], ImageRow::read)
        .optional()?;
    row.map(|row| row.complete(connection)).transpose()
}

/// A name with a digest finds the image only when both agree.
fn find_by_reference(connection: &Connection, reference: &Reference) -> Result<Option<Image>> {
    if let (true, Some(digest)) = (reference.is_digest_only(), reference.digest()) {
        let sql = "SELECT image FROM image_sources WHERE repository = ?1 AND digest = ?2";
        let parameters = (reference.name(), digest.as_str());
        let id: Option<String> = connection
            .query_row(sql, parameters, |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            return find_by_id(connection, &id);
        }
    }
    let sql = "SELECT image FROM image_names WHERE name = ?1";
    let name = reference.name_and_tag();
    let id: Option<String> = connection
        .query_row(sql, [&name], |row| row.get(0))
        .optional()?;
    let Some(id) = id else { return Ok(None) };
    let image = find_by_id(connection, &id)?;
    if let (Some(image), Some(pinned)) = (&image, reference.digest())
        && *pinned != image.id
        && !has_source(connection, image, pinned)?
    {
        pinned.expect(&format!("image {name}"), &image.manifest)?;
    }
    Ok(image)
}

/// Whether a registry had the image under this digest, for example that of an index.
fn has_source(connection: &Connection, image: &Image, digest: &Digest) -> Result<bool> {
    let sql = "SELECT count(*) FROM image_sources WHERE image = ?1 AND digest = ?2";
    let parameters = (image.id.as_str(), digest.as_str());
    let count: i64 = connection.query_row(sql, parameters, |row| row.get(0))?;
    Ok(count > 0)
}

fn names_of(connection: &Connection, id: &ImageId) -> Result<Vec<String>> {
    let sql = "SELECT name FROM image_names WHERE image = ?1 ORDER BY name";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([id.as_str()], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// Deletes the images that were removed and that no container and no name keeps any more.
fn delete_removed(transaction: &Transaction<'_>) -> Result<Vec<ImageId>> {
    let sql = "DELETE FROM images WHERE removed AND id NOT IN (SELECT image FROM image_holds)
               AND id NOT IN (SELECT image FROM image_names) RETURNING id";
    let mut statement = transaction.prepare(sql)?;
    let deleted = statement.query_map([], |row| row.get::<_, String>(0))?;
    deleted.map(|id| Digest::parse(&id?)).collect()
}

fn name_image(transaction: &Transaction<'_>, id: &ImageId, name: &Reference) -> Result<()> {
    let sql = "UPDATE images SET removed = 0 WHERE id = ?1";
    if transaction.execute(sql, [id.as_str()])? == 0 {
        // Another process removed it in the meantime.
        return Err(not_found(id.as_str()));
    }
    let sql = "INSERT INTO image_names VALUES (?1, ?2)
               ON CONFLICT (name) DO UPDATE SET image = excluded.image";
    transaction.execute(sql, [name.name_and_tag().as_str(), id.as_str()])?;
    Ok(())
}

fn holder(transaction: &Transaction<'_>, id: &ImageId) -> Result<Option<String>> {
    let sql = "SELECT container FROM image_holds WHERE image = ?1 LIMIT 1";
    Ok(transaction
        .query_row(sql, [id.as_str()], |row| row.get(0))
        .optional()?)
}

pub(crate) fn object_id(hex: &str) -> Result<ObjectId> {
    ObjectId::from_hex(hex).map_err(|error| ImageError::malformed("state database", error))
}

fn not_found(name: &str) -> ImageError {
    ImageError::NotFound {
        name: name.to_owned(),
    }
}
