//! Reading a container's log; its form is in [`super::shim`].

use std::cmp::Ordering;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use jiff::Timestamp;

use super::layout::Directory;
use crate::engine::{LogOptions, LogStream};
use crate::error::{EngineError, Result};

/// More than the longest line a shim writes.
const LONGEST: u64 = 64 << 10;
/// How often a followed log is looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes read at once from the end, to find the last lines.
const BLOCK: u64 = 64 << 10;

/// Hands on the log; with `follow`, until `has_ended` says that no more will come.
pub(super) fn read(
    directory: &Directory,
    options: &LogOptions,
    has_ended: &dyn Fn() -> Result<bool>,
    each: &mut dyn FnMut(LogStream, &[u8]) -> bool,
) -> Result<()> {
    let mut lines = Lines {
        timestamps: options.timestamps,
        since: options.since,
        until: options.until,
        is_new_line: true,
        line: Vec::new(),
        each,
    };
    let (start_in_old, start) = beginning(directory, options.tail)?;
    if let Some(start) = start_in_old
        && let Some(mut old) = open(&directory.old_log())?
    {
        old.seek(SeekFrom::Start(start))
            .map_err(|source| EngineError::io("read", &directory.old_log(), source))?;
        if !lines.hand_on(&mut BufReader::new(old))? {
            return Ok(());
        }
    }
    let mut reader: Option<BufReader<fs::File>> = None;
    let mut position = Some(start);
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let is_last_look = !options.follow || has_ended()?;
        if reader.is_none()
            && let Some(mut file) = open(&directory.log())?
        {
            file.seek(SeekFrom::Start(position.take().unwrap_or(0)))
                .map_err(|source| EngineError::io("read", &directory.log(), source))?;
            reader = Some(BufReader::new(file));
        }
        if let Some(current) = &mut reader {
            // Asked before reading too, so that nothing of a log that was put aside is lost.
            let is_old = was_put_aside(current.get_ref(), directory);
            if !lines.hand_on(current)? {
                return Ok(());
            }
            if is_old {
                reader = None;
                continue;
            }
        }
        let is_over = options.until.is_some_and(|until| until < Timestamp::now());
        if is_last_look || is_over {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// A log; `None` when there is none (yet).
fn open(path: &Path) -> Result<Option<fs::File>> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::io("read", path, error)),
    }
}

/// Whether a new log was begun since this one was opened.
fn was_put_aside(file: &fs::File, directory: &Directory) -> bool {
    let inode = |metadata: std::fs::Metadata| metadata.ino();
    let now = fs::metadata(directory.log()).map(inode).ok();
    now.is_some() && now != file.metadata().map(inode).ok()
}

/// Where to begin: in the old log, if there, and in the newest.
fn beginning(directory: &Directory, tail: Option<usize>) -> Result<(Option<u64>, u64)> {
    let Some(wanted) = tail else {
        return Ok((Some(0), 0));
    };
    let failed = |source| EngineError::io("read", &directory.log(), source);
    let (mut found, mut start) = (0, 0);
    if let Some(mut file) = open(&directory.log())? {
        (found, start) = last_lines(&mut file, wanted).map_err(failed)?;
    }
    if found == wanted {
        return Ok((None, start));
    }
    match open(&directory.old_log())? {
        None => Ok((None, start)),
        Some(mut file) => {
            let (_, start_in_old) = last_lines(&mut file, wanted - found).map_err(failed)?;
            Ok((Some(start_in_old), start))
        }
    }
}

/// Hands on whole lines.
struct Lines<'a> {
    timestamps: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    is_new_line: bool,
    line: Vec<u8>,
    each: &'a mut dyn FnMut(LogStream, &[u8]) -> bool,
}

impl Lines<'_> {
    /// What there is; `false` when nobody wants more.
    fn hand_on(&mut self, reader: &mut BufReader<fs::File>) -> Result<bool> {
        loop {
            let read = reader
                .by_ref()
                .take(LONGEST)
                .read_until(b'\n', &mut self.line)
                .map_err(|source| EngineError::io("read", reader.get_ref().path(), source))?;
            // A line the shim is still writing stays for the next look.
            if read == 0 || !self.line.ends_with(b"\n") {
                return Ok(true);
            }
            let go_on = parse(&self.line).is_none_or(|entry| {
                match entry.place(self.since, self.until) {
                    Ordering::Less => return true,
                    Ordering::Greater => return false,
                    Ordering::Equal => {}
                }
                let with_time = self.timestamps && self.is_new_line;
                self.is_new_line = entry.is_whole;
                (self.each)(entry.stream, &entry.text(with_time))
            });
            self.line.clear();
            if !go_on {
                return Ok(false);
            }
        }
    }
}

struct Entry<'a> {
    time: &'a [u8],
    stream: LogStream,
    is_whole: bool,
    content: &'a [u8],
}

impl Entry<'_> {
    /// Whether it is before, within or after the times asked for. Times are compared only when
    /// somebody asks; a line without one counts as within.
    fn place(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Ordering {
        if since.is_none() && until.is_none() {
            return Ordering::Equal;
        }
        let time = std::str::from_utf8(self.time)
            .ok()
            .and_then(|text| text.parse::<Timestamp>().ok());
        match time {
            Some(time) if since.is_some_and(|since| time < since) => Ordering::Less,
            Some(time) if until.is_some_and(|until| time > until) => Ordering::Greater,
            _ => Ordering::Equal,
        }
    }

    fn text(&self, with_time: bool) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.content.len() + 40);
        if with_time {
            text.extend_from_slice(self.time);
            text.push(b' ');
        }
        text.extend_from_slice(self.content);
        if self.is_whole {
            text.push(b'\n');
        }
        text
    }
}

/// `TIME stdout|stderr F|P CONTENT`; `None` for a line that is not one.
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n")?;
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag, content) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    let stream = match stream {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    Some(Entry {
        time,
        stream,
        is_whole: tag == b"F",
        content,
    })
}

/// How many of the last `wanted` lines there are, and where they begin; read from the end.
fn last_lines(file: &mut fs::File, wanted: usize) -> std::io::Result<(usize, u64)> {
    let length = file.metadata()?.len();
    if wanted == 0 || length == 0 {
        return Ok((0, length));
    }
    let mut end = length;
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        let ends = block.iter().enumerate().rev();
        for (index, _) in ends.filter(|(_, byte)| **byte == b'\n') {
            let at = start + index as u64 + 1;
            if at == length {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((found, at));
            }
        }
        end = start;
    }
    Ok((found + 1, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(content: &str) -> (tempfile::TempDir, Directory) {
        let stage = tempfile::tempdir().unwrap();
        let directory = Directory(stage.path().to_owned());
        fs::write(directory.log(), content).unwrap();
        (stage, directory)
    }

    fn shown(directory: &Directory, options: &LogOptions) -> Vec<(LogStream, String)> {
        let mut all = Vec::new();
        read(directory, options, &|| Ok(true), &mut |stream, text| {
            all.push((stream, String::from_utf8(text.to_vec()).unwrap()));
            true
        })
        .unwrap();
        all
    }

    const LOG: &str = "T1 stdout F one\nT2 stderr P tw\nT3 stderr F o\nnonsense\nT4 stdout F \n";

    #[test]
    fn lines_come_back_as_they_were_written() {
        let (_stage, directory) = log(LOG);
        let found = shown(&directory, &LogOptions::default());
        let expected = [
            (LogStream::Stdout, "one\n"),
            (LogStream::Stderr, "tw"),
            (LogStream::Stderr, "o\n"),
            (LogStream::Stdout, "\n"),
        ];
        assert!(found.iter().map(|(s, t)| (*s, t.as_str())).eq(expected));
    }

    #[test]
    fn the_tail_starts_at_a_line() {
        let (_stage, directory) = log("T stdout F 1\nT stdout F 2\nT stdout F 3\n");
        for (tail, expected) in [(0, ""), (1, "3\n"), (2, "2\n3\n"), (9, "1\n2\n3\n")] {
            let options = LogOptions {
                tail: Some(tail),
                ..LogOptions::default()
            };
            let text: String = shown(&directory, &options)
                .into_iter()
                .map(|(_, t)| t)
                .collect();
            assert_eq!(text, expected, "tail {tail}");
        }
    }

    #[test]
    fn the_tail_reaches_into_the_log_before() {
        let (_stage, directory) = log("T stdout F 3\n");
        fs::write(directory.old_log(), "T stdout F 1\nT stdout F 2\n").unwrap();
        for (tail, expected) in [
            (Some(1), "3\n"),
            (Some(2), "2\n3\n"),
            (Some(9), "1\n2\n3\n"),
            (None, "1\n2\n3\n"),
        ] {
            let options = LogOptions {
                tail,
                ..LogOptions::default()
            };
            let text: String = shown(&directory, &options)
                .into_iter()
                .map(|(_, t)| t)
                .collect();
            assert_eq!(text, expected, "tail {tail:?}");
        }
    }

    #[test]
    fn only_lines_within_the_times_asked_for_are_shown() {
        let second = |n: i64| Timestamp::from_second(n).unwrap();
        let lines = (1..=5)
            .map(|n| format!("{:.9} stdout F {n}\n", second(n)))
            .collect::<Vec<_>>()
            .concat();
        let (_stage, directory) = log(&lines);
        for (since, until, expected) in [
            (Some(3), None, "3\n4\n5\n"),
            (None, Some(2), "1\n2\n"),
            (Some(2), Some(4), "2\n3\n4\n"),
            (Some(9), None, ""),
        ] {
            let options = LogOptions {
                since: since.map(second),
                until: until.map(second),
                ..LogOptions::default()
            };
            let text: String = shown(&directory, &options)
                .into_iter()
                .map(|(_, t)| t)
                .collect();
            assert_eq!(text, expected, "{since:?} {until:?}");
        }
    }

    #[test]
    fn a_time_is_put_before_each_line_once() {
        let (_stage, directory) = log(LOG);
        let options = LogOptions {
            timestamps: true,
            ..LogOptions::default()
        };
        let text: String = shown(&directory, &options)
            .into_iter()
            .map(|(_, t)| t)
            .collect();
        assert_eq!(text, "T1 one\nT2 two\nT4 \n");
    }
}
