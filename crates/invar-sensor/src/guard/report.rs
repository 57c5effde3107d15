//! What the programs have refused, in the sensor's words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, RingBufferBuilder};

use super::Wards;
use crate::counts::add;
use crate::error::{Result, SensorError};
use crate::event::What;
use crate::outlet::{Deed, Outlet, lock};

const PATIENCE: Duration = Duration::from_millis(200);
/// `struct event`: five numbers, then the path.
const NUMBERS: usize = 5;
/// `enum how`.
const EXECUTED: u32 = 1;
const MADE_EXECUTABLE: u32 = 3;
/// `enum why`.
const NOT_THE_IMAGES: u32 = 1;

/// One refusal.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    ward: u32,
    pid: u32,
    how: u32,
    why: u32,
    path: Vec<u8>,
}

impl Refusal {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (numbers, path) = bytes.split_at_checked(4 * NUMBERS)?;
        let mut numbers = numbers
            .as_chunks::<4>()
            .0
            .iter()
            .map(|it| u32::from_ne_bytes(*it));
        let mut next = || numbers.next();
        let (ward, pid, how, why) = (next()?, next()?, next()?, next()?);
        let length = usize::try_from(next()?).ok()?;
        // The length counts the zero at the end.
        let path = path.get(..length.saturating_sub(1))?;
        Some(Self {
            ward,
            pid,
            how,
            why,
            path: path.to_vec(),
        })
    }

    fn reason(&self) -> String {
        let what = match self.how {
            EXECUTED => "",
            MADE_EXECUTABLE => "made executable after it was mapped: ",
            _ => "mapped to be executed: ",
        };
        let why = if self.why == NOT_THE_IMAGES {
            "it is not the image's"
        } else if self.path.starts_with(b"/memfd:") {
            "it is a file in memory only"
        } else {
            "it lies outside of the image"
        };
        format!("{what}{why} (the kernel's guard)")
    }
}

pub(super) fn start(
    events: MapHandle,
    lost: MapHandle,
    wards: &Wards,
    outlet: &Arc<Outlet>,
    ends: &Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let (wards, outlet, ends) = (Arc::clone(wards), Arc::clone(outlet), Arc::clone(ends));
    let told = Arc::clone(&outlet);
    let mut builder = RingBufferBuilder::new();
    let refused = |source| SensorError::Guard { source };
    builder
        .add(&events, move |bytes| {
            if let Some(refusal) = Refusal::parse(bytes) {
                tell(refusal, &wards, &outlet);
            }
            0
        })
        .map_err(refused)?;
    let buffer = builder.build().map_err(refused)?;
    let mut seen = number(&lost);
    std::thread::Builder::new()
        .name("guard".to_owned())
        .spawn(move || {
            // The map must stay open as long as it is read.
            let _events = events;
            while !ends.load(Ordering::SeqCst) {
                // Interrupted, or nothing came: both are no matter.
                buffer.poll(PATIENCE).ok();
                let now = number(&lost);
                add(&told.tally.dropped, now.saturating_sub(seen));
                seen = now;
            }
        })
        .map_err(|source| SensorError::Thread { source })
}

fn number(lost: &MapHandle) -> u64 {
    let value = lost.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
    let bytes = value.ok().flatten().and_then(|value| value.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

fn tell(refusal: Refusal, wards: &Wards, outlet: &Outlet) {
    let found = lock(wards).get(&refusal.ward).cloned();
    // Refused in the name of a process that has ended: its containers are not told of yet.
    let Some((container, init)) = found else {
        return;
    };
    let what = if refusal.how == EXECUTED {
        What::ExecBlocked
    } else {
        What::MapBlocked
    };
    let deed = Deed {
        container,
        what,
        reason: Some(refusal.reason()),
        path: refusal.path,
        from: None,
        pid: refusal.pid,
    };
    outlet.tell(deed, init);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_as_the_program_wrote_it() {
        let mut bytes: Vec<u8> = [7_u32, 42, 2, 1, 9].map(u32::to_ne_bytes).concat();
        bytes.extend_from_slice(b"/tmp/x.s\0and what was there before");
        let refusal = Refusal::parse(&bytes).unwrap();
        assert_eq!(
            (refusal.ward, refusal.pid, refusal.path.as_slice()),
            (7, 42, &b"/tmp/x.s"[..])
        );
        assert_eq!(
            refusal.reason(),
            "mapped to be executed: it is not the image's (the kernel's guard)"
        );
        assert_eq!(Refusal::parse(&bytes[..19]), None);
        assert_eq!(Refusal::parse(&bytes[..24]), None, "longer than it says");
    }
}
