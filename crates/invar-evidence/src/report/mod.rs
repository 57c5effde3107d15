//! A report for people: one HTML file that needs nothing else and runs nothing.
//!
//! Every word from the container is escaped twice: control characters when it was recorded, and
//! HTML's own and those that reorder text here. A content security policy forbids scripts and
//! anything from outside, should that ever fail.

mod html;
mod parts;

use std::io::Write;

use crate::error::{EvidenceError, Result};
use crate::store::Evidence;

const STYLE: &str = include_str!("style.css");

/// Writes the report on sealed or incomplete evidence.
pub fn report(evidence: &Evidence, out: &mut dyn Write) -> Result<()> {
    let Some(header) = &evidence.header else {
        return Err(EvidenceError::malformed(
            format!("evidence {}", evidence.id),
            "it does not say which container it is of",
        ));
    };
    let title = format!("Evidence {}: {}", evidence.id, header.container.name);
    let mut page = html::Page::new(&title, STYLE);
    parts::overview(&mut page, evidence, header);
    parts::changes(&mut page, &evidence.dir)?;
    parts::processes(&mut page, &evidence.dir)?;
    parts::timeline(&mut page, &evidence.dir)?;
    parts::gaps(&mut page, header);
    out.write_all(page.finish().as_bytes())
        .map_err(EvidenceError::io("write", "the report"))
}
