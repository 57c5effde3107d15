//! What the attacker does, and how far it comes.

use std::io;

use rustix::io::Errno;

use super::report::Step;
use super::site::Site;
use super::stage::Stage;
use super::target::Target;

/// Where a program is dropped on the search path, and in scratch space.
pub(super) const PROGRAM: &str = "/usr/local/bin/kworker";
pub(super) const IN_TMP: &str = "/tmp/kworker";
pub(super) const SETUID: &str = "/usr/local/bin/.helper";
pub(super) const CRON: &str = "/etc/cron.d/updates";

/// One deed: in words, as the attacker's program takes it, and what stops it in a read-only
/// container.
struct Deed<'a> {
    text: String,
    words: [&'a str; 2],
    stopped_by: Option<Errno>,
}

fn deeds(target: &Target) -> Vec<Deed<'_>> {
    let deed = |text: String, verb, path, stopped_by| Deed {
        text,
        words: [verb, path],
        stopped_by,
    };
    let read_only = Some(Errno::ROFS);
    let (page, deleted) = (target.page(), target.deleted());
    vec![
        deed(format!("drops {PROGRAM}"), "drop", PROGRAM, read_only),
        deed("runs it".to_owned(), "run", PROGRAM, Some(Errno::NOENT)),
        deed(format!("drops {IN_TMP}"), "drop", IN_TMP, None),
        deed("runs it".to_owned(), "run", IN_TMP, Some(Errno::ACCESS)),
        deed(
            format!("edits {page}, keeping size and time"),
            "edit",
            page,
            read_only,
        ),
        deed(format!("deletes {deleted}"), "delete", deleted, read_only),
        deed(
            format!("plants {SETUID} with setuid"),
            "setuid",
            SETUID,
            read_only,
        ),
        deed(format!("writes {CRON}"), "cron", CRON, read_only),
    ]
}

/// Every deed but the one that scratch space is for is refused, and nothing has changed.
pub(super) fn on_read_only(
    stage: &Stage,
    target: &Target,
    site: &Site<'_>,
    step: &mut Step,
) -> anyhow::Result<()> {
    for deed in deeds(target) {
        stage.go_on()?;
        let code = site.exec(&deed.words)?;
        let holds = i32::from(code) == deed.stopped_by.map_or(0, Errno::raw_os_error);
        step.claim(holds, format!("{}: {}", deed.text, outcome(code)));
    }
    step.claim(site.serves(target.page_content()), "the page is as built");
    let root = site.engine().open_root(site.id())?;
    step.claim(
        root.upper.is_none(),
        "there is nothing for a change to be kept in",
    );
    Ok(())
}

/// Every deed works: a drill that attacks nothing would prove nothing.
pub(super) fn on_writable(
    stage: &Stage,
    target: &Target,
    site: &Site<'_>,
    step: &mut Step,
) -> anyhow::Result<()> {
    for deed in deeds(target) {
        stage.go_on()?;
        let code = site.exec(&deed.words)?;
        step.claim(code == 0, format!("{}: {}", deed.text, outcome(code)));
    }
    let page = site.page()?;
    let is_changed = page != target.page_content() && page.len() == target.page_content().len();
    step.claim(is_changed, "visitors get the attacker's page");
    Ok(())
}

/// The kernel's own words.
fn outcome(code: u8) -> String {
    match code {
        0 => "done".to_owned(),
        // Not of the attacker's program: it could not even be started.
        125.. => format!("it could not be tried ({code})"),
        number => {
            let text = io::Error::from_raw_os_error(number.into()).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            format!("refused ({text})")
        }
    }
}
