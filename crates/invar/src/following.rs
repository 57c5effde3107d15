//! The gateway's thread that follows containers which are started again at another address.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use invar_engine::Engine;
use invar_engine::embedded::EmbeddedEngine;
use invar_rollout::driver::{Follower, Store};

use crate::privilege;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks until the process ends. What goes wrong is tried again at the next look: the gateway
/// serves whatever becomes of this.
pub(crate) fn follow(root: &Path, control: &Path) {
    if privilege::require_root().is_err() {
        // Only root has containers.
        return;
    }
    let mut follower = None;
    let mut engine: Option<Arc<dyn Engine>> = None;
    loop {
        std::thread::sleep(PAUSE);
        // A gateway alone makes no state of its own.
        if follower.is_none() && root.join("state.db").exists() {
            let store = Store::open(root).ok();
            follower = store.map(|store| Follower::new(store, control.to_owned()));
        }
        let Some(follower) = &mut follower else {
            continue;
        };
        let mut open = || {
            if engine.is_none() {
                let opened = EmbeddedEngine::open(root).ok();
                engine = opened.map(|opened| Arc::new(opened) as Arc<dyn Engine>);
            }
            engine.clone()
        };
        follower.look(&mut open).ok();
    }
}
