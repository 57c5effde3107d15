//! A running agent.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use fs_err as fs;
use invar_testkit::eventually;
use serde_json::Value;

use super::attacked::Host;

/// What an attacker does first.
pub(crate) const DROP_A_PROGRAM: &str =
    "cp /bin/busybox /tmp/evil; chmod +x /tmp/evil; /tmp/evil true";

/// A running agent and what it has said.
pub(crate) struct Running {
    pub(crate) child: Child,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Running {
    pub(crate) fn start(host: &Host, policy: &str) -> Self {
        Self::start_with(host, policy, &[])
    }

    pub(crate) fn start_with(host: &Host, policy: &str, environment: &[(&str, &str)]) -> Self {
        let file = host.invar().root().join("agent.toml");
        fs::write(&file, policy).unwrap();
        let mut command = host.command(&["agent", "--policy", file.to_str().unwrap()]);
        command.envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (
            BufReader::new(child.stdout.take().unwrap()),
            Arc::clone(&said),
        );
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let alert = serde_json::from_str(&line).unwrap_or(Value::String(line));
                heard.lock().unwrap().push(alert);
            }
        });
        let running = Self { child, said };
        eventually("the agent answers", || {
            host.output(&["agent", "status"])
                .status
                .success()
                .then_some(())
        });
        running
    }

    pub(crate) fn alerts(&self) -> Vec<Value> {
        self.said.lock().unwrap().clone()
    }

    /// The first alert that fits.
    pub(crate) fn alert(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("an alert: {what}"), || {
            self.alerts().into_iter().find(&fits)
        })
    }

    pub(crate) fn ends(mut self) -> bool {
        super::signal(self.child.id(), "TERM");
        self.child.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn watched(host: &Host, name: &str) -> Option<Value> {
    let status = host.json(&["agent", "status"]);
    let all = status["containers"].as_array().unwrap().clone();
    all.into_iter().find(|one| one["name"] == name)
}

/// Waits until a container is watched, and seals it.
pub(crate) fn seal(host: &Host, name: &str) {
    eventually("it is watched", || watched(host, name));
    host.run(&["agent", "seal", name]);
}
