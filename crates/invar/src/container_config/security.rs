//! `--security-opt`, in Docker's words. What would take protection away is refused and says what
//! to do instead.

use anyhow::bail;
use invar_engine::AppArmor;

use crate::exit::failure;

/// The AppArmor profile that the options ask for; every other one is checked and changes nothing.
pub(super) fn resolve(options: &[String]) -> anyhow::Result<AppArmor> {
    let mut profile = AppArmor::Default;
    for option in options {
        // Docker still takes a colon.
        let (name, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") | ("label", "disable") | ("seccomp", "builtin") => {}
            ("apparmor", "unconfined") => profile = AppArmor::Unconfined,
            ("apparmor", "") => bail!("--security-opt apparmor= needs the name of a profile"),
            ("apparmor", name) => profile = AppArmor::Profile(profile_name(name)?),
            _ => return Err(refusal(option, name)),
        }
    }
    Ok(profile)
}

fn profile_name(name: &str) -> anyhow::Result<String> {
    let is_plain = name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain {
        bail!("--security-opt apparmor={name:?} is not the name of a profile");
    }
    Ok(name.to_owned())
}

fn refusal(option: &str, name: &str) -> anyhow::Error {
    let hint = match name {
        "no-new-privileges" => {
            "setuid programs never gain rights in a container; start it with the user it needs: -u USER"
        }
        "seccomp" => {
            "the system call filter is always on; --cap-add NAME also allows the calls that belong to a capability"
        }
        "systempaths" | "mask" | "unmask" => {
            "the kernel's settings are always masked and read-only"
        }
        "label" => {
            "SELinux labels are not given: a container has the label of the command that starts it (docs/hardening.md)"
        }
        _ => {
            "there are: apparmor=PROFILE, apparmor=unconfined, no-new-privileges, seccomp=builtin, label=disable"
        }
    };
    failure(
        format!("invar has no --security-opt {option}"),
        hint.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers_and_none_takes_protection_away() {
        let read = |text: &str| resolve(&[text.to_owned()]);
        for harmless in [
            "no-new-privileges",
            "no-new-privileges:true",
            "label=disable",
            "seccomp=builtin",
        ] {
            assert_eq!(read(harmless).unwrap(), AppArmor::Default, "{harmless}");
        }
        assert_eq!(read("apparmor=unconfined").unwrap(), AppArmor::Unconfined);
        assert_eq!(
            read("apparmor:web").unwrap(),
            AppArmor::Profile("web".to_owned())
        );
        for refused in [
            "no-new-privileges=false",
            "seccomp=unconfined",
            "seccomp=/tmp/profile.json",
            "systempaths=unconfined",
            "label=type:spc_t",
            "apparmor=",
            "apparmor=a\nb",
            "other",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
