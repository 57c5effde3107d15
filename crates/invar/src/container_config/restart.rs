//! Restart policies as Docker writes them.

use anyhow::bail;
use invar_engine::Restart;

use super::Options;
use crate::exit::failure;

pub(super) fn resolve(options: &Options) -> anyhow::Result<Restart> {
    let policy = options.restart.as_deref().map_or(Ok(Restart::No), policy)?;
    if options.rm && !policy.is_no() {
        return Err(failure(
            "--rm and --restart contradict each other",
            "leave one out: what is removed at its end cannot be started again",
        ));
    }
    Ok(policy)
}

/// `no`, `always`, `unless-stopped`, `on-failure`, `on-failure:5`.
pub(crate) fn policy(text: &str) -> anyhow::Result<Restart> {
    let (name, most) = text
        .split_once(':')
        .map_or((text, None), |(name, most)| (name, Some(most)));
    Ok(match (name, most) {
        ("no" | "", None) => Restart::No,
        ("always", None) => Restart::Always,
        ("unless-stopped", None) => Restart::UnlessStopped,
        ("on-failure", None) => Restart::OnFailure { most: None },
        ("on-failure", Some(most)) => match most.parse() {
            // Docker's meaning of 0.
            Ok(0) => Restart::OnFailure { most: None },
            Ok(most) => Restart::OnFailure { most: Some(most) },
            Err(_not_a_number) => bail!("--restart {text:?}: {most:?} is not a number of times"),
        },
        ("no" | "always" | "unless-stopped", Some(_)) => {
            bail!("--restart {text:?}: only on-failure takes a number of times")
        }
        _ => {
            return Err(failure(
                format!("--restart {text:?} is not a policy"),
                "write no, always, unless-stopped, on-failure or on-failure:TIMES",
            ));
        }
    })
}
