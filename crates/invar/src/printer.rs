//! Everything the commands say goes through here: results to standard output, the rest to
//! standard error, colour only on a terminal, names from outside escaped.

use std::borrow::Cow;
use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use owo_colors::{OwoColorize as _, Stream};
use rayon::iter::ParallelIterator as _;
use rayon::slice::ParallelSlice as _;
use serde::Serialize;

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
}

/// Long listings are written in pieces of this size.
const BUFFER: usize = 64 * 1024;

/// Items whose lines are made before any of them is written, and by one core.
const BATCH: usize = 64 * PIECE;
const PIECE: usize = 2048;

/// Writes one line of a result.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

/// Writes many lines of a result.
pub(crate) fn lines(texts: impl Iterator<Item = String>) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(BUFFER, io::stdout().lock());
    for text in texts {
        writeln!(out, "{text}")?;
    }
    out.flush()
}

/// Writes a line of each item that has one, made on all cores.
pub(crate) fn lines_of<T: Sync>(
    items: &[T],
    line: impl Fn(&T) -> Option<String> + Sync,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for batch in items.chunks(BATCH) {
        let pieces: Vec<String> = batch
            .par_chunks(PIECE)
            .map(|piece| {
                let mut text = String::new();
                for line in piece.iter().filter_map(&line) {
                    text.push_str(&line);
                    text.push('\n');
                }
                text
            })
            .collect();
        for piece in pieces {
            out.write_all(piece.as_bytes())?;
        }
    }
    out.flush()
}

/// Tells the user something beside the result.
pub(crate) fn note(text: impl AsRef<str>) {
    // A closed standard error must not fail the operation that is being told about.
    drop(writeln!(io::stderr().lock(), "{}", text.as_ref()));
}

/// Shows an error, its causes and its next step.
pub(crate) fn error(error: &anyhow::Error, next_step: Option<&str>) {
    let label = "error:"
        .if_supports_color(Stream::Stderr, |text| text.red())
        .to_string();
    let mut shown = error.to_string();
    let mut text = format!("{label} {shown}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Transparent wrappers repeat their cause; say it once.
        if !shown.ends_with(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
        shown = cause;
    }
    note(text);
    if let Some(next_step) = next_step {
        hint(next_step);
    }
}

/// Tells the user what to do next.
pub(crate) fn hint(next_step: &str) {
    let label = "hint:"
        .if_supports_color(Stream::Stderr, |text| text.cyan())
        .to_string();
    note(format!("{label} {next_step}"));
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Writes each value as one line of JSON.
pub(crate) fn jsonl<T: Serialize>(values: impl IntoIterator<Item = T>) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(BUFFER, io::stdout().lock());
    for value in values {
        serde_json::to_writer(&mut out, &value)?;
        writeln!(out)?;
    }
    out.flush()
}

/// Writes rows under a heading, in columns.
pub(crate) fn table<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    line(table.trim_fmt())
}

/// A name from an image or a container, escaped when it could move the cursor, forge a line or
/// deceive the eye.
pub(crate) fn escape(name: &[u8]) -> Cow<'_, str> {
    invar_drift::escape(name)
}

/// Bytes as people read them, in powers of ten as docker shows them.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut rest = bytes;
    let mut divisor = 1_u64;
    let mut unit = 0;
    while rest >= 1000 && unit + 1 < units.len() {
        rest /= 1000;
        divisor = divisor.saturating_mul(1000);
        unit += 1;
    }
    if unit == 0 || rest >= 100 {
        return format!("{rest} {}", units[unit]);
    }
    let tenths = bytes / (divisor / 10) % 10;
    format!("{rest}.{tenths} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_250_000, "1.2 MB"),
            (134_000_000, "134 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn hostile_names_are_shown_escaped() {
        assert_eq!(escape(b"plain"), "plain");
        assert_eq!(escape(b"a\x1b[31m"), "a\\x1b[31m");
        assert_eq!(escape(b"a\nb"), "a\\nb");
        assert_eq!(escape(b"\xff"), "\\xff");
    }
}
