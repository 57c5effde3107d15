//! A layer into the store while it comes: one thread hashes and decompresses, another reads the
//! tar, more write the files.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::spool::{Spool, SpoolReader};
use crate::compression::decompress;
use crate::digest::{Digest, HashingReader};
use crate::error::{ImageError, Result};
use crate::layer::tree::Tree;
use crate::layer::{self, Budget, CountedReader, StoredLayer, recipe};
use crate::objects::Objects;

/// Decompressed bytes are handed on in pieces of this size.
const PIECE: usize = 256 << 10;
/// Most pieces that wait.
const PIECES: usize = 8;
/// So much of a layer that is refused is still downloaded, to tell whether it has its digest.
const REST: u64 = 64 << 20;

type Piece = io::Result<Vec<u8>>;

/// Reads the layer of a blob, and checks that the blob has its digest and the layer its `DiffID`.
pub(crate) fn blob(
    objects: &Objects,
    spool: &Arc<Spool>,
    diff_id: &Digest,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<StoredLayer> {
    let name = format!("blob {}", spool.digest);
    let archive = budget.counted(HashingReader::new(spool.reader()));
    let (sender, receiver) = sync_channel(PIECES);
    let (read, digest) = std::thread::scope(|scope| {
        let reading = scope.spawn(move || decompress_all(archive, &sender));
        let read = layer::read_plain(objects, Pieces::new(receiver), &name, tree, budget);
        if read.is_err() && spool.size - spool.length() > REST {
            // The other thread may wait for bytes that nobody wants any more.
            spool.abandon();
        }
        let digest = reading.join();
        (read, digest.expect("decompressing does not panic"))
    });
    let stored = match read {
        Ok(stored) => stored,
        Err(error) => return Err(explained(error, digest, spool, &name)),
    };
    let digest = digest.map_err(|error| ImageError::malformed(&name, error))?;
    spool.digest.expect(&name, &digest)?;
    diff_id.expect(&format!("DiffID of {name}"), &stored.diff_id)?;
    Ok(stored)
}

/// Sends everything on; the digest of the blob once all of it was read.
fn decompress_all(
    mut archive: CountedReader<HashingReader<SpoolReader>>,
    sender: &SyncSender<Piece>,
) -> io::Result<Digest> {
    match decompress(&mut archive) {
        Ok(mut plain) => loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = plain.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let is_end = !matches!(read, Ok(1..));
            // The other side ends early when it has seen enough.
            if sender.send(read.map(|_| piece)).is_err() || is_end {
                break;
            }
        },
        Err(error) => drop(sender.send(Err(error))),
    }
    archive.into_inner().finish()
}

/// Content that is not what its digest says is the cause of everything else that is wrong with it.
fn explained(
    error: ImageError,
    digest: io::Result<Digest>,
    spool: &Spool,
    name: &str,
) -> ImageError {
    if let Some(cause) = spool.take_error() {
        return cause;
    }
    digest
        .ok()
        .and_then(|actual| spool.digest.expect(name, &actual).err())
        .unwrap_or(error)
}

/// Reads a layer that is in the store already, to apply it to another image's tree.
pub(crate) fn stored(
    objects: &Objects,
    layer: &StoredLayer,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<StoredLayer> {
    let name = format!("layer {}", layer.diff_id);
    let (reader, mut writer) = io::pipe().map_err(|error| ImageError::malformed("pipe", error))?;
    let again = std::thread::scope(|scope| {
        let recipe = &layer.recipe;
        let writing = scope.spawn(move || recipe::write_layer(objects, recipe, &mut writer));
        let plain = budget.counted(reader);
        let again = layer::read_plain(objects, plain, &name, tree, budget);
        let written = writing.join().expect("reading a layer does not panic");
        let again = again?;
        written?;
        Ok::<_, ImageError>(again)
    })?;
    layer.diff_id.expect(&name, &again.diff_id)?;
    Ok(again)
}

/// The pieces of another thread as one stream.
struct Pieces {
    receiver: Receiver<Piece>,
    piece: io::Cursor<Vec<u8>>,
}

impl Pieces {
    fn new(receiver: Receiver<Piece>) -> Self {
        Self {
            receiver,
            piece: io::Cursor::default(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.piece.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.receiver.recv() {
                Ok(piece) => {
                    let piece = piece?;
                    if piece.is_empty() {
                        return Ok(0);
                    }
                    self.piece = io::Cursor::new(piece);
                }
                Err(_ended) => return Ok(0),
            }
        }
    }
}
