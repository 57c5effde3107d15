//! The value of `security.capability` (`struct vfs_ns_cap_data`, `linux/capability.h`) by name.

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

const REVISION_MASK: u32 = 0xff00_0000;
const EFFECTIVE: u32 = 1;

/// The kernel's names by number (`linux/capability.h`, 6.18).
#[rustfmt::skip]
const NAMES: [&str; 41] = [
    "cap_chown", "cap_dac_override", "cap_dac_read_search", "cap_fowner", "cap_fsetid", "cap_kill",
    "cap_setgid", "cap_setuid", "cap_setpcap", "cap_linux_immutable", "cap_net_bind_service",
    "cap_net_broadcast", "cap_net_admin", "cap_net_raw", "cap_ipc_lock", "cap_ipc_owner",
    "cap_sys_module", "cap_sys_rawio", "cap_sys_chroot", "cap_sys_ptrace", "cap_sys_pacct",
    "cap_sys_admin", "cap_sys_boot", "cap_sys_nice", "cap_sys_resource", "cap_sys_time",
    "cap_sys_tty_config", "cap_mknod", "cap_lease", "cap_audit_write", "cap_audit_control",
    "cap_setfcap", "cap_mac_override", "cap_mac_admin", "cap_syslog", "cap_wake_alarm",
    "cap_block_suspend", "cap_audit_read", "cap_perfmon", "cap_bpf", "cap_checkpoint_restore",
];

/// The capabilities a program file gives to whoever starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCapability {
    /// Form of the attribute: 1, 2, or 3, which holds for one user namespace only.
    pub version: u8,
    /// Whether they are in force at once, without the program asking.
    pub effective: bool,
    /// Bit N: the program may have capability N.
    pub permitted: u64,
    /// Bit N: it may have capability N if its starter could pass it on.
    pub inheritable: u64,
    /// Version 3: the user that is root in the namespace for which this holds.
    pub root_id: Option<u32>,
}

impl FileCapability {
    /// Reads the attribute's value; `None` when it is not one the kernel would believe.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let word = |index: usize| -> Option<u32> {
            let bytes = value.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let magic = word(0)?;
        let (version, length) = match magic & REVISION_MASK {
            0x0100_0000 => (1, 12),
            0x0200_0000 => (2, 20),
            0x0300_0000 => (3, 24),
            _ => return None,
        };
        if value.len() != length {
            return None;
        }
        let wide = |low: usize| -> Option<u64> {
            let high = if version == 1 { 0 } else { word(low + 2)? };
            Some(u64::from(high) << 32 | u64::from(word(low)?))
        };
        Some(Self {
            version,
            effective: magic & EFFECTIVE != 0,
            permitted: wide(1)?,
            inheritable: wide(2)?,
            root_id: if version == 3 { word(5) } else { None },
        })
    }
}

/// The names of a set; an unknown one is its number.
fn names(set: u64) -> Vec<String> {
    (0..64)
        .filter(|bit| set >> bit & 1 == 1)
        .map(|bit| {
            NAMES
                .get(bit)
                .map_or_else(|| bit.to_string(), ToString::to_string)
        })
        .collect()
}

impl fmt::Display for FileCapability {
    /// `cap_net_raw=ep`, as `getcap` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |on: bool, letter: &'static str| if on { letter } else { "" };
        let groups = [
            (self.permitted & self.inheritable, true, true),
            (self.permitted & !self.inheritable, true, false),
            (self.inheritable & !self.permitted, false, true),
        ];
        let mut separator = "";
        for (set, permitted, inheritable) in groups {
            if set != 0 {
                let effective = flag(self.effective, "e");
                let (permitted, inheritable) = (flag(permitted, "p"), flag(inheritable, "i"));
                let names = names(set).join(",");
                write!(f, "{separator}{names}={effective}{inheritable}{permitted}")?;
                separator = " ";
            }
        }
        if let Some(root_id) = self.root_id {
            write!(f, " [rootid={root_id}]")?;
        }
        Ok(())
    }
}

impl Serialize for FileCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("FileCapability", 5)?;
        fields.serialize_field("version", &self.version)?;
        fields.serialize_field("effective", &self.effective)?;
        fields.serialize_field("permitted", &names(self.permitted))?;
        fields.serialize_field("inheritable", &names(self.inheritable))?;
        match self.root_id {
            Some(root_id) => fields.serialize_field("root_id", &root_id)?,
            None => fields.skip_field("root_id")?,
        }
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const VERSION_2: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn both_forms_in_use_are_read_by_name() {
        let decoded = FileCapability::decode(&VERSION_2).unwrap();
        assert_eq!(decoded.to_string(), "cap_net_raw=ep");

        let mut version_3 = VERSION_2.to_vec();
        version_3[3] = 3;
        version_3.extend(1000_u32.to_le_bytes());
        // Capability 39 is in the upper word.
        version_3[12] = 0x80;
        let decoded = FileCapability::decode(&version_3).unwrap();
        assert_eq!(decoded.to_string(), "cap_net_raw,cap_bpf=ep [rootid=1000]");
        assert_eq!(
            serde_json::to_string(&decoded).unwrap(),
            r#"{"version":3,"effective":true,"permitted":["cap_net_raw","cap_bpf"],"inheritable":[],"root_id":1000}"#
        );
    }

    #[test]
    fn what_the_kernel_would_not_believe_is_nothing() {
        for wrong in [&b""[..], b"\x01", &VERSION_2[..19], &[0; 20], &[0xff; 24]] {
            assert_eq!(FileCapability::decode(wrong), None);
        }
    }

    #[test]
    fn sets_that_differ_are_told_apart() {
        let capability = FileCapability {
            version: 2,
            effective: false,
            permitted: 0b11,
            inheritable: 0b110,
            root_id: None,
        };
        assert_eq!(
            capability.to_string(),
            "cap_dac_override=ip cap_chown=p cap_dac_read_search=i"
        );
    }
}
