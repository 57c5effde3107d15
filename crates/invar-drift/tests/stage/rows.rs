//! What can be done to a file system, and what is then to be said of it.

/// One action in a directory of its own.
#[derive(Debug)]
pub(crate) struct Row {
    /// Also the name of its directory.
    pub(crate) name: &'static str,
    /// Shell script that makes what the image has.
    pub(crate) image: &'static str,
    /// Shell script that is the action.
    pub(crate) action: &'static str,
    /// What `docker diff` says: `C path`, `;` between; the ancestors are understood.
    pub(crate) compatible: &'static str,
    /// What is true.
    pub(crate) actual: &'static str,
    /// What `podman diff` says, `.` being the row's directory; or [`FAILS`].
    pub(crate) podman: &'static str,
}

/// `podman diff` ends with an error.
pub(crate) const FAILS: &str = "fails";

const fn row(
    name: &'static str,
    image: &'static str,
    action: &'static str,
    compatible: &'static str,
    actual: &'static str,
    podman: &'static str,
) -> Row {
    Row {
        name,
        image,
        action,
        compatible,
        actual,
        podman,
    }
}

/// Time of everything in the image, as a shell variable `$T`.
pub(crate) const IMAGE_TIME: &str = "@1600000000";

/// The table of `docker diff`'s behaviour and of what it misses.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("write", "echo a >f", "echo b >>f", "C f", "C f", "C f"),
    row("write-same-size", "echo a >f", "echo b >f", "C f", "C f", "C f"),
    row("touch", "echo a >f", "touch f", "C f", "C f", "C f"),
    row("chmod", "echo a >f", "chmod 600 f", "C f", "C f", "C f"),
    row("chown", "echo a >f", "chown 1:2 f", "C f", "C f", "C f"),
    row("setuid", "echo a >f; chmod 755 f", "chmod u+s f", "C f", "C f", "C f"),
    row("setcap", "echo a >f; chmod 755 f", "setcap cap_net_raw+ep f", "C f", "C f", "C f"),
    row("stealthy-edit", "echo a >f", "echo b >f; touch -d $T f", "", "C f", "C f"),
    row("link-retargeted", "ln -s a l", "ln -sfn bb l", "C l", "C l", "A l; C ."),
    row("link-retargeted-stealthily", "ln -s a l", "ln -sfn b l; touch -h -d $T l", "", "C l", "A l; C ."),
    row("user-xattr", "echo a >f", "setfattr -n user.x -v 1 f", "", "C f", "C f"),
    row("trusted-xattr", "echo a >f", "setfattr -n trusted.x -v 1 f", "", "C f", "C f"),
    row("directory-xattr", "mkdir d", "setfattr -n user.x -v 1 d", "", "C d", ""),
    row("forged-user-opaque", "mkdir d; echo a >d/f", "setfattr -n user.overlay.opaque -v y d; echo b >>d/f", "C d; C d/f", "C d; C d/f", "C d/f"),
    row("copy-up-by-open", "echo a >f", "exec 3<>f", "", "", "C f"),
    row("copy-up-by-rename", "echo a >f", "mv f g; mv g f", "", "", "C f; C ."),
    row("identical-rewrite", "echo a >f", "echo a >f; touch -d $T f", "", "", "C f"),
    row("read", "echo a >f", "cat f", "", "", ""),
    row("create-and-delete", "echo a >f", "echo b >n; rm n", "", "", "C ."),
    row("directory-touched", "mkdir d", "touch d", "", "", "C d"),
    row("directory-chmod", "mkdir d", "chmod 700 d", "C d", "C d", "C d"),
    row("remove-file", "echo a >f", "rm f", "D f", "D f", "D f; C ."),
    row("remove-tree", "mkdir -p d/e; echo a >d/f", "rm -r d", "D d", "D d", "D d; C ."),
    row("recreate-empty", "mkdir d; touch d/a d/b", "rm -r d; mkdir d", "C d; D d/a; D d/b", "D d/a; D d/b", "D d; C ."),
    row("recreate-with-child", "mkdir d; touch d/a", "rm -r d; mkdir d; echo >d/n", "C d; D d/a; A d/n", "D d/a; A d/n", "D d; A d/n; C ."),
    row("recreate-same-child", "mkdir d; echo a >d/a; echo b >d/b", "rm -r d; mkdir d; echo a >d/a; touch -d $T d/a", "C d; D d/b", "D d/b", "D d; C d/a; C ."),
    row("recreate-empty-as-empty", "mkdir d", "rmdir d; mkdir d", "", "", "D d; C ."),
    row("recreate-deep", "mkdir -p d/x/y; touch d/x/y/z", "rm -r d; mkdir -p d/x/q", "C d; C d/x; D d/x/y; A d/x/q", "D d/x/y; A d/x/q", "D d; C d/x; A d/x/q; C ."),
    row("file-to-directory", "echo a >f", "rm f; mkdir f; echo >f/n", "C f; A f/n", "C f; A f/n", "fails"),
    row("directory-to-file", "mkdir d; touch d/a", "rm -r d; echo >d", "C d", "C d", "C d; C ."),
    row("directory-to-link", "mkdir d; touch d/a", "rm -r d; ln -s /etc d", "C d", "C d", "C d; C ."),
    row("file-to-link", "echo a >f", "ln -sf x f", "C f", "C f", "C f; C ."),
    row("link-to-file", "ln -s x l", "rm l; echo >l", "C l", "C l", "A l; C ."),
    row("rename-file", "echo a >f", "mv f g", "D f; A g", "D f; A g", "D f; A g; C ."),
    row("rename-over", "echo a >f; echo b >g", "touch -d @1 f; mv f g", "D f; C g", "D f; C g", "D f; C g; C ."),
    row("rename-tree", "mkdir -p d/e; touch d/e/f d/g", "mv d h", "D d; A h; A h/e; A h/e/f; A h/g", "D d; A h; A h/e; A h/e/f; A h/g", "D d; A h; A h/e; A h/e/f; A h/g; C ."),
    row("move-up", "mkdir d; echo a >d/f", "mv d/f f", "C d; D d/f; A f", "D d/f; A f", "C d; D d/f; A f; C ."),
    row("hardlink-written", "echo a >f; ln f g", "echo b >>f", "C f", "C f", "C f"),
    row("hardlink-added", "echo a >f", "ln f g", "A g", "A g", "C f; A g; C ."),
    row("fifo", "", "mkfifo p", "A p", "A p", "A p; C ."),
    row("socket", "", r#"perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0);bind(S,sockaddr_un("s"))or die'"#, "A s", "A s", "A s; C ."),
    row("fifo-touched", "mkfifo p", "touch p", "C p", "C p", "C p"),
    row("device-added", "", "mknod n c 1 3", "A n", "A n", "A n; C ."),
    row("device-replaced", "mknod n c 1 3", "rm n; mknod n c 1 5; touch -d $T n", "C n", "C n", "C n; C ."),
    row("block-device-touched", "mknod n b 240 7", "touch n", "", "C n", "C n"),
    row("new-tree", "", "mkdir -p a/b/c; echo >a/b/c/f; ln -s x a/l", "A a; A a/b; A a/b/c; A a/b/c/f; A a/l", "A a; A a/b; A a/b/c; A a/b/c/f; A a/l", "A a; A a/b; A a/b/c; A a/b/c/f; A a/l; C ."),
    row("deep-change", "mkdir -p a/b/c; echo >a/b/c/f", "echo x >>a/b/c/f", "C a; C a/b; C a/b/c; C a/b/c/f", "C a/b/c/f", "C a/b/c/f"),
    row("chmod-and-back", "echo a >f", "chmod 600 f; chmod 644 f", "", "", "C f"),
    row("name-order", "mkdir a; echo >a/f; echo >a-b", "echo x >a/f; echo x >a-b", "C a; C a/f; C a-b", "C a/f; C a-b", "C a-b; C a/f"),
    row("truncate", "echo a >f", "truncate -s 0 f", "C f", "C f", "C f"),
    row("sparse", "", "truncate -s 1T f", "A f", "A f", "A f; C ."),
];

impl Row {
    /// Script for everything the image has.
    pub(crate) fn image_script(&self) -> String {
        format!(
            "mkdir {name}; cd {name}; {image}\n find . -exec touch -h -d {IMAGE_TIME} {{}} +; cd ..",
            name = self.name,
            image = self.image
        )
    }

    /// The action, to be run in the row's directory.
    pub(crate) fn action_script(&self) -> String {
        format!("T={IMAGE_TIME}; {}", self.action)
    }

    /// The expected lines of a verdict. With ancestors when the verdict has any.
    pub(crate) fn expected(&self, verdict: &str, with_ancestors: bool) -> Vec<String> {
        let given = verdict.split("; ").filter(|line| !line.is_empty());
        let mut lines: Vec<String> = given
            .map(|line| {
                let (kind, path) = line.split_once(' ').unwrap();
                let path = if path == "." {
                    String::new()
                } else {
                    format!("/{path}")
                };
                format!("{kind} /{}{path}", self.name)
            })
            .collect();
        if with_ancestors && !lines.is_empty() {
            lines.push(format!("C /{}", self.name));
        }
        lines.sort();
        lines
    }
}
