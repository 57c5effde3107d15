//! Where WebSocket frames begin and end (RFC 6455, 5.2), without looking into them.

/// Follows the frames of one direction. Broken frames pass as they are: both ends check for
/// themselves. Only a length beyond the limit is not passed on.
#[derive(Debug)]
pub(crate) struct Frames {
    header: [u8; 10],
    have: usize,
    payload: u64,
    most: u64,
    saw_close: bool,
    too_large: bool,
}

impl Frames {
    pub(crate) fn new(most: u64) -> Self {
        Self {
            header: [0; 10],
            have: 0,
            payload: 0,
            most,
            saw_close: false,
            too_large: false,
        }
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// Whether a Close frame went by.
    pub(crate) fn saw_close(&self) -> bool {
        self.saw_close
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// How many of these bytes may pass: all of them, or up to the next boundary with `stop`.
    pub(crate) fn pass(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            if self.too_large || (stop && self.at_boundary()) {
                break;
            }
            if self.payload > 0 {
                let rest = u64::try_from(bytes.len() - passed).unwrap_or(u64::MAX);
                let part = rest.min(self.payload);
                self.payload -= part;
                passed += usize::try_from(part).unwrap_or(0);
                continue;
            }
            self.header[self.have] = bytes[passed];
            self.have += 1;
            passed += 1;
            self.finish_header();
        }
        passed
    }

    /// The mask is counted with the payload: nothing needs it.
    fn finish_header(&mut self) {
        if self.have < 2 {
            return;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.have < 2 + extended {
            return;
        }
        let length = match extended {
            0 => u64::from(self.header[1] & 0x7f),
            _ => self.header[2..2 + extended]
                .iter()
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        self.saw_close |= self.header[0] & 0x0f == 0x8;
        self.too_large = length > self.most;
        self.payload = length.saturating_add(mask);
        self.have = 0;
    }
}

/// A Close frame with a status code; with a mask it is a client's.
pub(crate) fn close(code: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = vec![0x88, 2];
    let code = code.to_be_bytes();
    match mask {
        None => frame.extend(code),
        Some(mask) => {
            frame[1] |= 0x80;
            frame.extend(mask);
            frame.extend(code.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mut bytes = vec![0x82];
        let bit = if masked { 0x80 } else { 0 };
        match length {
            0..=125 => bytes.push(bit | u8::try_from(length).unwrap()),
            126..=65535 => {
                bytes.push(bit + 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(bit + 127);
                bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(
            0x88,
            length + if masked { 4 } else { 0 },
        ));
        bytes
    }

    proptest! {
        #[test]
        fn stopping_is_always_between_two_frames(
            lengths in prop::collection::vec((0..70_000_usize, any::<bool>()), 1..6),
            step in 1..5000_usize,
            stop_after in 0..6_usize,
        ) {
            let wire: Vec<u8> = lengths.iter().flat_map(|(length, masked)| frame(*length, *masked)).collect();
            let mut ends = vec![0];
            for (length, masked) in &lengths {
                ends.push(ends.last().unwrap() + frame(*length, *masked).len());
            }
            let mut frames = Frames::new(1 << 20);
            let mut passed = 0;
            for (turn, part) in wire.chunks(step).enumerate() {
                let now = frames.pass(part, turn >= stop_after);
                passed += now;
                prop_assert_eq!(frames.at_boundary(), ends.contains(&passed));
                if now < part.len() {
                    break;
                }
            }
            prop_assert!(ends.contains(&passed));
            prop_assert!(!frames.saw_close());
        }
    }

    #[test]
    fn close_frames_are_seen_and_made() {
        assert_eq!(close(1012, None), [0x88, 2, 0x03, 0xf4]);
        let masked = close(1012, Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x82, 1, 2, 3, 4, 0x02, 0xf6]);
        let mut frames = Frames::new(10);
        assert_eq!(frames.pass(&masked, false), masked.len());
        assert!(frames.saw_close() && frames.at_boundary());
        frames.pass(&frame(11, false), false);
        assert!(frames.is_too_large());
    }
}
