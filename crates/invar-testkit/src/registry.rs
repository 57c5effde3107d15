//! A private registry: Debian's `docker-registry`, on a free port of this machine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fs_err as fs;
use tempfile::TempDir;

use crate::patience::eventually;
use crate::tool::{checked, require};

/// The account of a registry that asks for one.
pub const USER: &str = "tester";
/// Its password.
pub const PASSWORD: &str = "correct horse";
/// The password as htpasswd keeps it (bcrypt with few rounds).
const HTPASSWD: &str = "tester:$2b$05$4cHr1tsvPSNHj6vb79ApneCOliO6mJ4wSIqq4Pa260lF52h207nte\n";

/// How the registry is protected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Protection {
    /// With a certificate of a private authority.
    pub tls: bool,
    /// With an account.
    pub account: bool,
}

/// A registry with its own data; gone when dropped.
#[derive(Debug)]
pub struct PrivateRegistry {
    directory: TempDir,
    process: Child,
    port: u16,
}

impl PrivateRegistry {
    /// Starts one without TLS and account.
    pub fn start() -> Self {
        Self::start_with(Protection::default())
    }

    /// Starts one and waits until it answers.
    pub fn start_with(protection: Protection) -> Self {
        let program = require("docker-registry", "docker-registry");
        let directory = tempfile::Builder::new()
            .prefix("invar-registry-")
            .tempdir_in("/var/tmp")
            .unwrap();
        // Another process may take the port before the registry does: try another one then.
        for _ in 0..10 {
            let port = free_port();
            let config = config(directory.path(), port, protection);
            fs::write(directory.path().join("config.yml"), config).unwrap();
            let log = fs::File::create(directory.path().join("log")).unwrap();
            let mut process = Command::new(&program)
                .arg("serve")
                .arg(directory.path().join("config.yml"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap().into_parts().0)
                .stderr(log.into_parts().0)
                .spawn()
                .unwrap();
            let is_serving = eventually("the registry answers or ends", || {
                if process.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                std::net::TcpStream::connect(("127.0.0.1", port))
                    .ok()
                    .map(|_| true)
            });
            // A stranger on the port would answer too; the registry has ended then.
            if is_serving && process.try_wait().unwrap().is_none() {
                return Self {
                    directory,
                    process,
                    port,
                };
            }
        }
        panic!("docker-registry found no free port");
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The name of an image in it.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// The authority that its certificate is from.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("tls/ca.crt")
    }

    /// The requests it has answered, one a line: `"METHOD PATH" STATUS`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        log.lines().filter_map(request).collect()
    }

    /// Waits until it has logged a request.
    pub fn wait_for_request(&self, is_it: impl Fn(&str) -> bool) {
        eventually("the registry logs the request", || {
            self.requests().iter().any(|line| is_it(line)).then_some(())
        });
    }
}

impl Drop for PrivateRegistry {
    fn drop(&mut self) {
        // It may have ended by itself; waiting is right either way.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A request of its access log, which has Apache's form.
fn request(line: &str) -> Option<String> {
    let mut parts = line.split('"');
    parts.next()?;
    let request = parts.next()?;
    let (method, rest) = request.split_once(' ')?;
    let path = rest.strip_suffix(" HTTP/1.1")?;
    let status = parts.next()?.split_whitespace().next()?;
    Some(format!("{method} {path} {status}"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn config(directory: &Path, port: u16, protection: Protection) -> String {
    let data = directory.join("data");
    let mut config = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: false\n\
         storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:{port}\n",
        data.display()
    );
    if protection.tls {
        let tls = directory.join("tls");
        certificate(&tls);
        config.push_str("  tls:\n");
        for (name, file) in [("certificate", "server.crt"), ("key", "server.key")] {
            config = format!("{config}    {name}: {}\n", tls.join(file).display());
        }
    }
    if protection.account {
        let file = directory.join("htpasswd");
        fs::write(&file, HTPASSWD).unwrap();
        config = format!(
            "{config}auth:\n  htpasswd:\n    realm: private\n    path: {}\n",
            file.display()
        );
    }
    config
}

/// An authority of our own and a certificate for 127.0.0.1: `ca.crt`, `server.crt`, `server.key`.
pub fn certificate(directory: &Path) {
    certificate_for(directory, &["-days", "2"]);
}

/// The same, that has expired.
pub fn expired_certificate(directory: &Path) {
    certificate_for(directory, &["-days", "-1"]);
}

fn certificate_for(directory: &Path, validity: &[&str]) {
    fs::create_dir_all(directory).unwrap();
    let openssl = require("openssl", "openssl");
    let run = |args: &[&str]| {
        checked(Command::new(&openssl).current_dir(directory).args(args));
    };
    fs::write(
        directory.join("san"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\n",
    )
    .unwrap();
    run(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        "-days",
        "2",
        "-subj",
        "/CN=private authority",
    ]);
    run(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
        "-subj",
        "/CN=127.0.0.1",
    ]);
    let sign = [
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-extfile",
        "san",
        "-out",
        "server.crt",
    ];
    run(&[&sign[..], validity].concat());
}
