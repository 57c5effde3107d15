//! Commands that take several names: they go on after one fails, and then end with 1.

use std::process::ExitCode;

use crate::exit::{self, FAILED};

/// Does something for each name in turn.
pub(crate) fn each(names: &[String], mut act: impl FnMut(&str) -> anyhow::Result<()>) -> ExitCode {
    summarize(names.iter().map(|name| act(name)))
}

/// Does something that takes long for all names at once, then says how each went, in their order.
pub(crate) fn at_once<T: Send>(
    names: &[String],
    act: impl Fn(&str) -> anyhow::Result<T> + Sync,
    mut say: impl FnMut(&str, T) -> anyhow::Result<()>,
) -> ExitCode {
    let act = &act;
    std::thread::scope(|scope| {
        let tasks: Vec<_> = names
            .iter()
            .map(|name| (name, scope.spawn(move || act(name))))
            .collect();
        summarize(tasks.into_iter().map(|(name, task)| {
            let outcome = task
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            say(name, outcome)
        }))
    })
}

fn summarize(outcomes: impl Iterator<Item = anyhow::Result<()>>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for error in outcomes.filter_map(Result::err) {
        exit::report(&error);
        code = ExitCode::from(FAILED);
    }
    code
}
