//! `invar evidence export`

use std::io::{self, IsTerminal as _, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use invar_evidence::{Evidence, EvidenceStore, Exported};
use invar_image::{Reference, registry};

use crate::cli::Cli;
use crate::registries::{RegistryFlags, Show};
use crate::{engines, exit, printer};

/// Write evidence as one archive: an OCI layout that docker, podman and skopeo load
///
/// It holds the image with the container's changes on top, whose program is taken away, and the
/// evidence itself, with sums that `sha256sum -c` checks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// File to write, which appears when it is complete; `-` for standard output
    #[arg(short, long, value_name = "FILE", required_unless_present = "to")]
    output: Option<PathBuf>,

    /// Push it to a registry instead: the evidence as TAG, its image as TAG-rootfs
    #[arg(
        long,
        value_name = "oci://HOST/REPOSITORY:TAG",
        conflicts_with = "output"
    )]
    to: Option<String>,

    #[command(flatten)]
    registry: RegistryFlags,

    /// File for the signature of the archive (default: the name of the archive with `.dsse.json`;
    /// none when it is written to standard output)
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,

    /// Leave the image's own layers out: smaller, but the image in it has the changes only
    #[arg(long)]
    without_image: bool,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    // A place that is none is said before anything is read.
    let place = match (&args.output, &args.to) {
        (Some(output), _) => Place::File(output.clone()),
        (None, to) => Place::Registry(registry_place(to.as_deref().unwrap_or_default())?),
    };
    let evidence = super::find(cli, &store, &args.id)?;
    let image = if args.without_image {
        None
    } else {
        Some(image(cli, &evidence)?)
    };
    let exported = export(
        cli,
        &store,
        &evidence,
        image.as_ref(),
        &place,
        &args.registry,
    )?;
    place.sign(args.signature.as_deref(), &exported)?;
    notes(&exported);
    Ok(ExitCode::SUCCESS)
}

/// Where an archive goes.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A file, or with `-` standard output.
    File(PathBuf),
    /// A tag in a registry.
    Registry(Reference),
}

impl Place {
    /// Reads `oci://HOST/REPOSITORY:TAG`, a path, or `-`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        if text.contains("://") {
            return registry_place(text).map(Self::Registry);
        }
        let place = Self::File(text.into());
        place.refuse_terminal()?;
        Ok(place)
    }

    /// Whether standard output is taken by the archive.
    pub(crate) fn is_standard_output(&self) -> bool {
        matches!(self, Self::File(path) if path == Path::new("-"))
    }

    fn refuse_terminal(&self) -> anyhow::Result<()> {
        if self.is_standard_output() && io::stdout().is_terminal() {
            return Err(exit::failure(
                "an archive is not written to a terminal",
                "name a file with -o FILE",
            ));
        }
        Ok(())
    }

    /// Writes the signature of an archive beside it, or where it was asked for. In a registry there
    /// is no file beside which it could lie.
    fn sign(&self, asked: Option<&Path>, exported: &Exported) -> anyhow::Result<()> {
        match self {
            Self::File(path) => sign(path, asked, exported),
            Self::Registry(_) => sign(Path::new("-"), asked, exported),
        }
    }
}

/// Exports evidence that was just captured, with its image.
pub(crate) fn captured(
    cli: &Cli,
    store: &EvidenceStore,
    evidence: &Evidence,
    place: &Place,
    flags: &RegistryFlags,
) -> anyhow::Result<()> {
    let image = image(cli, evidence)?;
    let exported = export(cli, store, evidence, Some(&image), place, flags)?;
    place.sign(None, &exported)?;
    notes(&exported);
    Ok(())
}

fn export(
    cli: &Cli,
    store: &EvidenceStore,
    evidence: &Evidence,
    image: Option<&std::fs::File>,
    place: &Place,
    flags: &RegistryFlags,
) -> anyhow::Result<Exported> {
    let mut exported = None;
    let mut export = |out: &mut dyn Write| {
        exported = Some(invar_evidence::export(
            store,
            evidence,
            image.map(std::fs::File::try_clone).transpose()?,
            out,
        )?);
        Ok(())
    };
    match place {
        Place::File(output) => write(output, &mut export)?,
        Place::Registry(place) => push(cli, place, flags, &mut export)?,
    }
    exported.context("nothing was exported")
}

/// The name behind `oci://`.
fn registry_place(text: &str) -> anyhow::Result<Reference> {
    let name = text.strip_prefix("oci://").ok_or_else(|| {
        exit::failure(
            format!("{text:?} is not a place in a registry"),
            "write it as oci://HOST/REPOSITORY:TAG",
        )
    })?;
    let reference = Reference::parse(name)?;
    if reference.digest().is_some() {
        return Err(exit::failure(
            format!("{text:?} names a digest"),
            "leave the digest out: it follows from what is pushed",
        ));
    }
    Ok(reference)
}

/// Exports into a file without a name, and pushes what is in it.
fn push(
    cli: &Cli,
    place: &Reference,
    flags: &RegistryFlags,
    export: &mut dyn FnMut(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut file = tempfile::tempfile_in(cli.root())?;
    let mut out = io::BufWriter::with_capacity(1 << 20, &mut file);
    export(&mut out)?;
    out.flush()?;
    drop(out);
    let (options, progress) = flags.options(Show::Progress);
    let pushed = registry::push_layout(file, place, &options);
    if let Some(progress) = progress {
        progress.finish();
    }
    for manifest in pushed.with_context(|| format!("could not push to {place}"))? {
        printer::line(format!("{}@{}", manifest.name, manifest.digest))?;
    }
    Ok(())
}

/// Writes to a file that appears when it is complete, or to standard output.
pub(super) fn write(
    output: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let place = Place::File(output.to_owned());
    if place.is_standard_output() {
        place.refuse_terminal()?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        write(&mut out)?;
        return Ok(out.flush()?);
    }
    super::write_whole(output, |file| {
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        Ok(out.flush()?)
    })
    .with_context(|| format!("could not write {}", output.display()))
}

/// The name of the signature of an archive that nobody named otherwise.
pub(super) fn beside(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".dsse.json");
    name.into()
}

/// Writes the signature of an archive beside it, or where it was asked for.
pub(super) fn sign(output: &Path, asked: Option<&Path>, exported: &Exported) -> anyhow::Result<()> {
    let path = match asked {
        Some(path) => path.to_owned(),
        None if output == Path::new("-") => return Ok(()),
        None => beside(output),
    };
    super::write_whole(&path, |file| Ok(file.write_all(&exported.signature)?))
        .with_context(|| format!("could not write {}", path.display()))
}

/// The container's image as its engine gives it, in a file without a name.
fn image(cli: &Cli, evidence: &Evidence) -> anyhow::Result<std::fs::File> {
    let container = evidence
        .header
        .as_ref()
        .map(|header| &header.container)
        .with_context(|| format!("evidence {} has no readable header", evidence.id))?;
    let mut file = tempfile::tempfile_in(cli.root())?;
    let saved = engines::open(cli.root(), &container.engine).and_then(|engine| {
        let mut out = io::BufWriter::with_capacity(1 << 20, &mut file);
        engine.save_image(&container.image, &mut out)?;
        Ok(out.flush()?)
    });
    if let Err(error) = saved {
        let name = printer::escape(container.image_name.as_bytes());
        return Err(exit::failure(
            format!("the image {name} cannot be had any more: {error:#}"),
            format!(
                "export the changes only: invar evidence export {} --without-image -o FILE",
                evidence.id
            ),
        ));
    }
    file.rewind()?;
    Ok(file)
}

fn notes(exported: &Exported) {
    if let Some(image) = &exported.image {
        let base = if exported.has_base {
            "the image and what changed"
        } else {
            "what changed, without the image"
        };
        printer::note(format!("exported {}: {image} is {base}", exported.id));
    }
    for gap in &exported.not_in_image {
        let text = format!(
            "not in the image, only in upper.tar: {}: {}",
            gap.what, gap.reason
        );
        printer::note(printer::escape(text.as_bytes()));
    }
}
