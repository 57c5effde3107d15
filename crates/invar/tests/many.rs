//! Many containers at once.
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use invar_testkit::invar::Invar;
use serde_json::Value;
use support::busybox;

/// Starts so many, so many at a time.
fn start(invar: &Invar, count: usize, at_once: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let name = format!("many-{number}");
                    invar.run(&["run", "-d", "--name", &name, "busybox", "sleep", "1000"]);
                }
            });
        }
    });
}

fn running(invar: &Invar) -> Vec<Value> {
    let listed = invar.run(&["ps", "--engine", "embedded", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed.as_array().unwrap().clone()
}

#[test]
fn two_hundred_containers_run_at_once_and_go_without_a_trace() {
    let invar = busybox();
    start(&invar, 200, 8);
    let all = running(&invar);
    assert_eq!(all.len(), 200);
    assert!(all.iter().all(|container| container["state"] == "running"));
    assert_eq!(invar.run(&["exec", "many-117", "hostname"]).len(), 12);
    let used = invar.run(&["stats", "--no-stream", "--format", "json"]);
    let used: Value = serde_json::from_str(&used).unwrap();
    let own = used.as_array().unwrap().iter();
    let own: Vec<&Value> = own.filter(|row| row["engine"] == "embedded").collect();
    assert_eq!(own.len(), 200);
    assert!(own.iter().all(|row| row["pids"] == 1));
    let names: Vec<String> = (0..200).map(|number| format!("many-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    invar.run(&[&["rm", "-f"][..], &names].concat());
    assert_eq!(running(&invar), Vec::<Value>::new());
    let containers = fs_err::read_dir(invar.root().join("containers")).unwrap();
    let left = containers.filter(|entry| entry.as_ref().unwrap().file_name() != ".lock");
    assert_eq!(left.count(), 0);
}

#[test]
fn forty_starts_at_the_same_time_all_succeed() {
    let invar = busybox();
    start(&invar, 40, 40);
    assert_eq!(running(&invar).len(), 40);
}
