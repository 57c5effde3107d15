//! Cutting a container's cables from outside: the ends on the host go down, and what is inside
//! keeps its addresses and routes for the time when they come up again.

use std::io;
use std::os::fd::AsFd as _;

use super::routing::Routing;
use super::{enter, namespace_of};

/// Takes the ends on the host of all cables of a process's network namespace down; how many there
/// are. Zero when it has none that ends here: its network is the host's, or none.
pub fn cut(pid: u32) -> io::Result<usize> {
    each(pid, Routing::bring_down)
}

/// Brings them up again.
pub fn mend(pid: u32) -> io::Result<usize> {
    each(pid, Routing::bring_up)
}

fn each(pid: u32, act: fn(&Routing, u32) -> io::Result<()>) -> io::Result<usize> {
    let namespace = namespace_of(pid)?;
    // A namespace is entered by a thread, which is not used for anything else afterwards.
    let inside = std::thread::spawn(move || {
        enter(namespace.as_fd())?;
        Routing::open()?.cables()
    });
    let inside = inside
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let host = Routing::open()?;
    // The number of an end in yet another namespace may be that of a link here: only a link that
    // names the one inside as its other end is it.
    let here = host.cables()?;
    let ends = inside
        .iter()
        .filter(|(index, peer)| here.contains(&(*peer, *index)));
    let mut count = 0;
    for (_, peer) in ends {
        act(&host, *peer)?;
        count += 1;
    }
    Ok(count)
}
