//! The rules, worst first; the first that fits is the finding.

use crate::change::Severity::{self, Critical, High, Low, Medium};
use crate::judge::Where::{Anywhere, At, Ending, Hidden, Named, Under};
use crate::judge::{Finding, When, Where};

/// One rule: when and where it fits, and what that means.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) severity: Severity,
    pub(crate) when: When,
    pub(crate) place: Where,
    pub(crate) finding: Finding,
}

const TEMPORARY: &[&str] = &["/tmp", "/var/tmp", "/dev/shm", "/run"];
const PROGRAMS: &[&str] = &[
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/libexec",
];
const LIBRARIES: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
const WEB_ROOTS: &[&str] = &[
    "/var/www",
    "/srv",
    "/www",
    "/usr/share/nginx/html",
    "/usr/local/apache2/htdocs",
    "/usr/local/tomcat/webapps",
    "/app/public",
];
const WEB_CODE: &[&str] = &[
    ".php",
    ".phtml",
    ".phar",
    ".jsp",
    ".jspx",
    ".asp",
    ".aspx",
    ".cgi",
    ".htaccess",
];

const fn rule(
    severity: Severity,
    when: When,
    place: Where,
    (rule, technique, text): (&'static str, &'static str, &'static str),
) -> Rule {
    Rule {
        severity,
        when,
        place,
        finding: Finding {
            rule,
            text,
            technique: if technique.is_empty() {
                None
            } else {
                Some(technique)
            },
        },
    }
}

/// The table. Techniques are those of MITRE ATT&CK.
#[rustfmt::skip]
pub(crate) const RULES: &[Rule] = &[
    rule(Critical, When::Setuid, Anywhere,
        ("setuid", "T1548.001", "runs as its owner or group, whoever starts it")),
    rule(Critical, When::Capable, Anywhere,
        ("capability", "T1548.001", "has file capabilities: runs with more rights than its user")),
    rule(Critical, When::Any, At(&["/etc/ld.so.preload"]),
        ("ld-so-preload", "T1574.006", "is loaded into every program")),
    rule(Critical, When::Any, At(&["/etc/passwd", "/etc/shadow"]),
        ("accounts", "T1136.001", "user accounts and passwords")),
    rule(Critical, When::Any, Under(&["/etc/sudoers", "/etc/sudoers.d", "/etc/doas.conf"]),
        ("sudoers", "T1548.003", "who may become root")),
    rule(Critical, When::Present, Named(&["authorized_keys", "authorized_keys2"]),
        ("ssh-keys", "T1098.004", "keys that may log in")),
    rule(Critical, When::Stealth, Anywhere,
        ("kept-time", "T1070.006", "content edited while size and time were kept")),
    rule(Critical, When::Device, Anywhere,
        ("device", "T1611", "a device node reaches the host's hardware")),
    rule(High, When::Any, Under(&["/etc/pam.d", "/etc/security", "/lib/security", "/usr/lib/security"]),
        ("pam", "T1556.003", "how logins are checked")),
    rule(High, When::Any, Under(&["/etc/ssh"]),
        ("ssh-server", "T1098.004", "settings and keys of the SSH server")),
    rule(High, When::Any, Under(&["/etc/crontab", "/etc/anacrontab", "/etc/cron.d", "/etc/cron.hourly",
            "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/var/spool/cron",
            "/var/spool/at", "/etc/periodic"]),
        ("cron", "T1053.003", "is run by the clock")),
    rule(High, When::Any, Under(&["/etc/systemd", "/lib/systemd/system", "/usr/lib/systemd/system",
            "/etc/init.d", "/etc/rc.local", "/etc/inittab", "/etc/s6", "/etc/runit",
            "/etc/supervisor"]),
        ("services", "T1543.002", "is started with the system")),
    rule(High, When::Any, Under(&["/etc/ld.so.conf", "/etc/ld.so.conf.d"]),
        ("loader", "T1574.006", "where programs find their libraries")),
    rule(High, When::Any, Under(&["/etc/profile", "/etc/profile.d", "/etc/bash.bashrc",
            "/etc/bashrc", "/etc/environment", "/etc/zsh", "/etc/zshrc"]),
        ("shell-profile", "T1546.004", "is run by every shell")),
    rule(High, When::Present, Named(&[".bashrc", ".bash_profile", ".bash_login", ".profile",
            ".zshrc", ".zprofile", ".kshrc", ".bash_logout"]),
        ("shell-profile", "T1546.004", "is run by the user's shell")),
    rule(High, When::Any, Under(&["/etc/ssl/certs", "/usr/local/share/ca-certificates",
            "/usr/share/ca-certificates", "/etc/pki"]),
        ("certificates", "T1553.004", "whom programs trust")),
    rule(High, When::Present, Ending(WEB_CODE, WEB_ROOTS),
        ("web-code", "T1505.003", "code the web server runs: possibly a web shell")),
    rule(High, When::Executable, Under(TEMPORARY),
        ("program-in-tmp", "T1059", "a program dropped in a temporary directory")),
    rule(High, When::Executable, Under(PROGRAMS),
        ("system-program", "T1554", "a program on the search path that the image does not have so")),
    rule(High, When::Present, Ending(&[".so", ".so.0", ".so.1", ".so.2", ".so.6"], LIBRARIES),
        ("library", "T1574", "a library that programs load")),
    rule(Medium, When::Executable, Anywhere,
        ("new-program", "T1105", "a program the image does not have so")),
    rule(Medium, When::Any, Under(&["/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid"]),
        ("accounts", "T1098", "groups and their members")),
    rule(Medium, When::Present, Under(WEB_ROOTS),
        ("web-page", "T1491", "what the web server shows")),
    rule(Medium, When::Any, Under(&["/var/lib/dpkg", "/var/lib/rpm", "/usr/lib/sysimage/rpm",
            "/lib/apk/db", "/var/lib/pacman"]),
        ("packages", "T1072", "packages were installed or removed, or their list edited")),
    rule(Medium, When::Any, At(&["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"]),
        ("names", "T1565.001", "how names become addresses")),
    rule(Medium, When::Present, Hidden(TEMPORARY),
        ("hidden-in-tmp", "T1564.001", "hidden in a temporary directory")),
    rule(Medium, When::Deleted, Under(&["/var/log"]),
        ("log-deleted", "T1070.002", "a log was removed")),
    rule(Medium, When::Any, Named(&[".bash_history", ".ash_history", ".zsh_history"]),
        ("history", "T1070.003", "what was typed in a shell")),
    rule(Low, When::Deleted, Under(PROGRAMS),
        ("program-deleted", "T1070.004", "a program of the image was removed")),
    rule(Low, When::Any, Under(&["/etc"]),
        ("settings", "", "a setting of the system")),
];
