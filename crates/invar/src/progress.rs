//! Bars on a terminal, one a blob, drawn on standard error; elsewhere only what needs attention.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use invar_image::registry::{Counter, Event};

use crate::printer;

/// How often the bars are drawn.
const INTERVAL: Duration = Duration::from_millis(100);
/// Most bars at once; more would scroll away.
const MOST: usize = 12;
/// Characters of a bar.
const WIDTH: usize = 30;

/// Shows the events of a transfer until [`Progress::finish`].
#[derive(Debug)]
pub(crate) struct Progress {
    state: Arc<Mutex<State>>,
    drawing: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    bars: Vec<Bar>,
    notes: Vec<String>,
    /// Lines that are drawn at the moment.
    drawn: usize,
    is_done: bool,
}

#[derive(Debug)]
struct Bar {
    name: String,
    size: u64,
    counter: Counter,
}

impl Progress {
    /// Starts to draw, if standard error is a terminal.
    pub(crate) fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let drawing = io::stderr().is_terminal().then(|| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                while !draw(&state) {
                    std::thread::park_timeout(INTERVAL);
                }
            })
        });
        Self {
            state,
            drawing: Mutex::new(drawing),
        }
    }

    /// Takes one event.
    pub(crate) fn take(&self, event: Event) {
        let is_drawing = self.is_drawing();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Blob {
                digest,
                size,
                counter,
            } => state.bars.push(Bar {
                name: digest.short().to_owned(),
                size,
                counter,
            }),
            Event::Skipped { digest, reason } if is_drawing => {
                state.notes.push(format!("{}: {reason}", digest.short()));
            }
            Event::Retry { reason } => state.notes.push(format!("{reason}; trying again")),
            Event::Note { text } => state.notes.push(text),
            _ => {}
        }
        if !is_drawing {
            state.notes.drain(..).for_each(printer::note);
        }
    }

    /// Draws the last state and ends.
    pub(crate) fn finish(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_done = true;
        let drawing = self
            .drawing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(drawing) = drawing {
            drawing.thread().unpark();
            // It only draws; that it could not is no reason to fail.
            drawing.join().ok();
        }
    }

    fn is_drawing(&self) -> bool {
        let drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        drawing.is_some()
    }
}

/// Draws once; whether it was the last time.
fn draw(state: &Mutex<State>) -> bool {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    if state.drawn > 0 {
        // Back to the first bar, and everything from there away.
        text = format!("\x1b[{}A\x1b[J", state.drawn);
    }
    for note in state.notes.drain(..) {
        text.push_str(&note);
        text.push('\n');
    }
    let is_going = |bar: &&Bar| bar.counter.get() < bar.size;
    let going = state.bars.iter().filter(is_going).take(MOST);
    let mut lines: Vec<String> = going.map(line).collect();
    let done = state.bars.len() - state.bars.iter().filter(is_going).count();
    if !state.bars.is_empty() {
        lines.push(format!("{done} of {} blobs complete", state.bars.len()));
    }
    for line in &lines {
        text.push_str(line);
        text.push('\n');
    }
    state.drawn = lines.len();
    let is_done = state.is_done;
    drop(state);
    // A terminal that is gone must not stop the transfer.
    drop(io::stderr().lock().write_all(text.as_bytes()));
    is_done
}

fn line(bar: &Bar) -> String {
    let there = bar.counter.get().min(bar.size);
    let filled = usize::try_from(there * WIDTH as u64 / bar.size.max(1)).unwrap_or(0);
    format!(
        "{}  [{}{}]  {} / {}",
        bar.name,
        "=".repeat(filled),
        " ".repeat(WIDTH.saturating_sub(filled)),
        printer::size(there),
        printer::size(bar.size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_name_and_its_size() {
        let bar = Bar {
            name: "0123456789ab".to_owned(),
            size: 2_000_000,
            counter: Counter::default(),
        };
        assert_eq!(
            line(&bar),
            format!("0123456789ab  [{}]  0 B / 2.0 MB", " ".repeat(WIDTH))
        );
    }
}
