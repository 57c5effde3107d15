//! What runs inside the drill's containers: this program in another role. It serves a page, and it
//! does what an attacker does.
//!
//! A deed ends with 0, or with the number of the error that stopped it: the drill reads it as the
//! exit code of an `exec`, and nothing but the code crosses the border of the container.
#![allow(
    clippy::disallowed_methods,
    reason = "the kernel's error number is the answer, and fs-err hides it"
)]

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Subcommand;
use invar_sys::signal::{SIGTERM, SignalFd};
use rustix::fs::{Timespec, Timestamps, futimens};

use crate::printer;

/// What the log says before the address.
pub(super) const LISTENING: &str = "listening on ";
/// An error without a number of the kernel's.
const UNKNOWN: u8 = 124;
/// Lines of a request, and how long one may take: nobody else should ask, but anybody can.
const MOST_LINES: usize = 100;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Plays the drill's program or its attacker, inside its containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serves a file over HTTP on a free port of loopback, until SIGTERM
    Serve { page: PathBuf },
    /// Puts a program in a place
    Drop { path: PathBuf },
    /// Runs a program that was dropped
    Run { path: PathBuf },
    /// Says that it runs
    Beacon,
    /// Edits a file and keeps its size and times
    Edit { path: PathBuf },
    /// Deletes a file
    Delete { path: PathBuf },
    /// Plants a file that runs as its owner
    Setuid { path: PathBuf },
    /// Has a program run by the clock
    Cron { path: PathBuf },
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let done = match &args.role {
        Role::Serve { page } => serve(page),
        Role::Drop { path } => drop_program(path),
        Role::Run { path } => run_program(path),
        Role::Beacon => Ok(()),
        Role::Edit { path } => edit(path),
        Role::Delete { path } => fs::remove_file(path),
        Role::Setuid { path } => plant_setuid(path),
        Role::Cron { path } => plant(path, "* * * * * root /usr/local/bin/kworker\n", 0o644),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(number(&error)),
    }
}

/// The kernel's number of an error.
fn number(error: &io::Error) -> u8 {
    let number = error.raw_os_error();
    number
        .and_then(|number| u8::try_from(number).ok())
        .unwrap_or(UNKNOWN)
}

fn serve(page: &Path) -> io::Result<()> {
    let signals = SignalFd::block(&[SIGTERM])?;
    std::thread::spawn(move || {
        // Process 1 is not ended by a signal that it does not handle.
        drop(signals.wait());
        #[allow(clippy::exit, reason = "the other thread waits for visitors")]
        std::process::exit(0);
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    printer::line(format!("{LISTENING}{}", listener.local_addr()?))?;
    for connection in listener.incoming() {
        // One bad request must not end the service.
        connection.and_then(|stream| answer(stream, page)).ok();
    }
    Ok(())
}

/// Whatever is asked for, the answer is the page as it is at this moment.
fn answer(mut stream: TcpStream, page: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let mut request = BufReader::new(stream.try_clone()?);
    for _ in 0..MOST_LINES {
        let mut line = String::new();
        if request.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    match fs::read(page) {
        Ok(content) => {
            let length = content.len();
            write!(
                stream,
                "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n"
            )?;
            stream.write_all(&content)
        }
        Err(_) => write!(stream, "HTTP/1.0 404 Not Found\r\n\r\n"),
    }
}

fn drop_program(path: &Path) -> io::Result<()> {
    make_parents(path)?;
    let mut program = fs::File::open("/proc/self/exe")?;
    let mut dropped = fs::File::create(path)?;
    io::copy(&mut program, &mut dropped)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn run_program(path: &Path) -> io::Result<()> {
    let status = Command::new(path).args(["drill-app", "beacon"]).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("it ran and failed"))
    }
}

/// Swaps upper and lower case, so that the length stays; then sets both times back.
fn edit(path: &Path) -> io::Result<()> {
    let before = fs::metadata(path)?;
    let mut content = fs::read(path)?;
    for byte in &mut content {
        if byte.is_ascii_alphabetic() {
            *byte ^= 0x20;
        }
    }
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(&content)?;
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(before.atime(), before.atime_nsec()),
        last_modification: time(before.mtime(), before.mtime_nsec()),
    };
    Ok(futimens(&file, &times)?)
}

fn plant_setuid(path: &Path) -> io::Result<()> {
    plant(path, "#!/usr/local/bin/kworker\n", 0o4755)
}

fn plant(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    make_parents(path)?;
    fs::write(path, content)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn make_parents(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}
