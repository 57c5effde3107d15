//! Reading a container's log; its form is in [`super::shim`].

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use fs_err as fs;

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
    let path = directory.log();
    let failed = |source| EngineError::io("read", &path, source);
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        // It has written nothing yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !options.follow || has_ended()? {
                return Ok(());
            }
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .read(true)
                .open(&path)
                .map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    if let Some(lines) = options.tail {
        let start = last_lines(&mut file, lines).map_err(failed)?;
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
    }
    let mut reader = BufReader::new(file);
    let mut is_new_line = true;
    let mut line = Vec::new();
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let is_last_look = !options.follow || has_ended()?;
        loop {
            let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line);
            if read.map_err(failed)? == 0 || !line.ends_with(b"\n") {
                break;
            }
            let go_on = parse(&line).is_none_or(|entry| {
                let prefix = options.timestamps && is_new_line;
                is_new_line = entry.is_whole;
                each(entry.stream, &entry.text(prefix))
            });
            line.clear();
            if !go_on {
                return Ok(());
            }
        }
        if is_last_look {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

struct Entry<'a> {
    time: &'a [u8],
    stream: LogStream,
    is_whole: bool,
    content: &'a [u8],
}

impl Entry<'_> {
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

/// Where the last so many whole lines begin, read from the end.
fn last_lines(file: &mut fs::File, wanted: usize) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let length = end;
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (index, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let at = start + index as u64 + 1;
            if at == length {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok(at);
            }
        }
        end = start;
    }
    Ok(if wanted == 0 { length } else { 0 })
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
