//! A report for people: one HTML file that needs nothing else and runs nothing.
//!
//! Every word from the container is escaped twice: control characters when it was recorded, and
//! HTML's own and those that reorder text here. A content security policy forbids scripts and
//! anything from outside, should that ever fail.

mod found;
mod html;
mod network;
mod parts;
mod times;
mod tree;

use std::io::Write;

use jiff::Timestamp;

use crate::capture::timeline;
use crate::error::{EvidenceError, Result};
use crate::store::Evidence;

/// A time for people, in UTC.
fn clock(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

const STYLE: &str = include_str!("style.css");

/// Writes the report on sealed or incomplete evidence.
pub fn report(evidence: &Evidence, out: &mut dyn Write) -> Result<()> {
    let Some(header) = &evidence.header else {
        return Err(EvidenceError::malformed(
            format!("evidence {}", evidence.id),
            "it does not say which container it is of",
        ));
    };
    let dir = &evidence.dir;
    let changes = found::Changes::read(dir)?;
    let processes = timeline::read_processes(dir)?;
    let tree = tree::Tree::new(&processes, &changes);
    let container = &header.container;
    let mut page = html::Page::new(
        &format!("{}: evidence {}", container.name, evidence.id),
        STYLE,
    );
    let subtitle = format!(
        "{} container of image {}, captured {} on {}",
        container.engine,
        container.image_name,
        clock(header.begun_at),
        header.host
    );
    page.classed("p", "note", &subtitle);
    parts::warning(&mut page, evidence, header);
    parts::outline(&mut page, header, &changes, &tree);
    tree.write(&mut page);
    network::write(&mut page, dir, &processes)?;
    changes.write(&mut page);
    times::write(&mut page, dir, &changes)?;
    parts::gaps(&mut page, header);
    parts::facts(&mut page, evidence, header)?;
    out.write_all(page.finish().as_bytes())
        .map_err(EvidenceError::io("write", "the report"))
}
