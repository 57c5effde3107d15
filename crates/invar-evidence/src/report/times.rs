//! What happened when, in a form to read.

use std::collections::VecDeque;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::found::Changes;
use super::html::Page;
use crate::capture::timeline;
use crate::error::Result;
use crate::lines::Lines;

/// Events shown, the last ones.
const MOST: usize = 3000;
/// Events shown unfolded.
const OPEN: usize = 150;

#[derive(Deserialize)]
struct Event {
    datetime: Timestamp,
    timestamp_desc: String,
    message: String,
}

/// Events of one moment about one thing.
struct Row {
    datetime: Timestamp,
    subject: String,
    what: Vec<String>,
    class: &'static str,
}

/// The section.
pub(super) fn write(page: &mut Page, dir: &Path, changes: &Changes) -> Result<()> {
    let mut rows: VecDeque<Row> = VecDeque::new();
    let mut total = 0_usize;
    for event in Lines::<Event>::open(&dir.join(timeline::NAME))? {
        let event = event?;
        total += 1;
        add(&mut rows, &event, changes);
        if rows.len() > MOST {
            rows.pop_front();
        }
    }
    page.element("h2", &format!("Timeline: {total} events"));
    let text = format!(
        "Times are UTC; what the capture did itself is grey. All events are in {}.",
        timeline::NAME
    );
    page.classed("p", "note", &text);
    let earlier = rows.len().saturating_sub(OPEN);
    if earlier > 0 {
        let title = format!("{earlier} earlier");
        page.fold("info", &title, false);
        table(page, rows.iter().take(earlier));
        page.markup("</details>");
    }
    table(page, rows.iter().skip(earlier));
    Ok(())
}

/// Times of a file that are the same are one row.
fn add(rows: &mut VecDeque<Row>, event: &Event, changes: &Changes) {
    let (subject, what) = split(event);
    let is_same_time = |row: &&mut Row| row.datetime == event.datetime;
    let mut same = rows.iter_mut().rev().take_while(is_same_time);
    if let Some(row) = same.find(|row| row.subject == subject) {
        row.what.push(what);
        return;
    }
    let class = match event.timestamp_desc.as_str() {
        "Capture" => "quiet",
        _ => changes
            .of(&subject)
            .map_or("usual", |(_, severity)| severity),
    };
    rows.push_back(Row {
        datetime: event.datetime,
        subject,
        what: vec![what],
        class,
    });
}

/// Path and what happened to it; for anything else the whole message.
fn split(event: &Event) -> (String, String) {
    if event.message.starts_with('/') {
        for what in ["written", "metadata changed", "created"] {
            let path = event.message.strip_suffix(what);
            if let Some(path) = path.and_then(|path| path.strip_suffix(' ')) {
                return (path.to_owned(), what.to_owned());
            }
        }
    }
    (event.message.clone(), String::new())
}

fn table<'a>(page: &mut Page, rows: impl Iterator<Item = &'a Row>) {
    page.markup("<table class=\"times\"><tr><th>time<th>what<th>event</tr>");
    let mut day = String::new();
    for row in rows {
        let today = row.datetime.strftime("%Y-%m-%d").to_string();
        if today != day {
            page.row("day", &[&today, "", ""]);
            day = today;
        }
        let time = row.datetime.strftime("%H:%M:%S%.3f").to_string();
        page.row(row.class, &[&time, &row.subject, &row.what.join(", ")]);
    }
    page.markup("</table>");
}
