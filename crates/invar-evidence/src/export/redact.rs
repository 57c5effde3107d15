//! A derived copy without what may be secret.

use std::path::Path;

use serde_json::Value;

use crate::error::{EvidenceError, Result};
use crate::files;

/// Files left out: environments, open files' and programs' bytes, output.
pub(super) const LEFT_OUT: &[&str] = &["logs", "files"];
/// Files of one process left out.
pub(super) const LEFT_OUT_OF_PROCESS: &[&str] = &["environ", "cmdline"];
/// Files whose values are taken away.
pub(super) const CLEANED: &[&str] = &["settings.json", "container.json", "processes.jsonl"];
/// Longest file that is cleaned.
const LONGEST: u64 = 64 << 20;

/// A JSON or JSON Lines file in which variables of environments have no values, and processes no
/// arguments after the program.
pub(super) fn clean(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path, LONGEST)?;
    let malformed = |error| EvidenceError::malformed(path.display().to_string(), error);
    let mut out = Vec::new();
    for value in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>() {
        let mut value = value.map_err(malformed)?;
        strip(&mut value);
        serde_json::to_writer(&mut out, &value).map_err(malformed)?;
        out.push(b'\n');
    }
    Ok(out)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &mut *field) {
                    ("Env" | "env", Value::Array(variables)) => {
                        for variable in variables {
                            let text = variable.as_str().unwrap_or_default();
                            let name = text.split('=').next().unwrap_or_default();
                            *variable = Value::String(format!("{name}=<redacted>"));
                        }
                    }
                    ("args" | "Args" | "Cmd" | "Entrypoint", Value::Array(words)) => {
                        for word in words.iter_mut().skip(1) {
                            *word = Value::String("<redacted>".to_owned());
                        }
                    }
                    _ => strip(field),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(strip),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_variables_and_arguments_are_gone_at_any_depth() {
        let stage = tempfile::NamedTempFile::new().unwrap();
        let settings = json!([{"Config": {"Env": ["TOKEN=hunter2", "BARE"],
            "Cmd": ["serve", "--key", "hunter2"]}, "Name": "web"}]);
        fs_err::write(stage.path(), settings.to_string()).unwrap();
        let cleaned = String::from_utf8(clean(stage.path()).unwrap()).unwrap();
        assert!(!cleaned.contains("hunter2"), "{cleaned}");
        assert!(
            cleaned.contains("TOKEN=<redacted>") && cleaned.contains("web"),
            "{cleaned}"
        );
    }
}
