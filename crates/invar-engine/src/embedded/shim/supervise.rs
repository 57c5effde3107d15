//! What a shim does while its container runs: copies output to the log and to whoever is
//! attached, follows the size of the terminal, and reaps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use invar_sys::signal::{SIGCHLD, SIGWINCH};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait};

use super::health::Checker;
use super::launch::{Run, Streams};
use super::output::Log;
use super::viewers::Viewers;
use super::{Request, terminal};
use crate::container::{ExitStatus, HealthStatus};
use crate::embedded::cgroup::Group;
use crate::embedded::layout::Directory;
use crate::embedded::status::{Record, Status};
use crate::engine::LogStream;

/// Bytes copied at once; also what a pipe is sure to take when it says it can take any
/// (`PIPE_BUF`).
const PIECE: usize = 4096;
/// How long a container must run before its shim gives back what starting it took. Most that end
/// sooner are short programs, which should end fast.
const SETTLED: Duration = Duration::from_secs(1);
/// How long an attached reader that does not read may hold up the end of a container.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves a container until it has ended; `let_go` drops what only the end of a short one needs.
pub(super) fn until_end(
    run: Run,
    request: &Request,
    directory: &Directory,
    status: &mut Status,
    mut let_go: impl FnMut(),
) -> ExitStatus {
    let init = Pid::from_raw(run.init);
    let (streams, input) = run.streams.split(request.attached);
    let mut viewers = Viewers::listen(directory, input, request.tty);
    let mut checker = request
        .health
        .as_ref()
        .map(|plan| Checker::new(plan, directory));
    let mut pump = Pump::new(streams, request, Log::open(directory));
    let mut settled = Some(Instant::now() + SETTLED);
    let ended = loop {
        let of_check = checker.as_ref().map_or(Vec::new(), Checker::watched);
        let mut watched = vec![(run.signals.as_fd(), PollFlags::IN)];
        watched.extend(&of_check);
        watched.extend(viewers.watched());
        let left = settled.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = checker
            .as_ref()
            .map(Checker::timeout)
            .into_iter()
            .chain(left)
            .min();
        let (ready, output) = pump.step(&watched, timeout);
        if settled.is_some_and(|at| at <= Instant::now()) {
            settled = None;
            let_go();
            // Only the size of this process depends on it.
            invar_sys::memory::release().ok();
        }
        let checks = of_check.len();
        drop((watched, of_check));
        for (stream, piece) in output {
            viewers.show(stream, &piece);
        }
        let (is_signalled, ready) = ready.split_first().unwrap_or((&false, &[]));
        let (of_check, of_viewers) = ready.split_at(checks.min(ready.len()));
        viewers.advance(of_viewers);
        if let Some(changed) = checker.as_mut().and_then(|c| c.advance(of_check)) {
            tell_health(changed, request, status);
        }
        if !is_signalled {
            continue;
        }
        match run.signals.wait() {
            Ok(SIGCHLD) => {
                if let Some(status) = reap(init) {
                    break status;
                }
            }
            Ok(SIGWINCH) => pump.follow_size(),
            _ => {}
        }
    };
    for (stream, piece) in pump.drain() {
        viewers.show(stream, &piece);
    }
    viewers.finish();
    let oom_kills = Group::of(&request.id).oom_kills();
    ExitStatus {
        code: crate::embedded::exit_code(ended),
        oom_killed: oom_kills > 0,
        error: None,
        finished_at: Timestamp::now(),
    }
}

/// Records what a health check has come to say.
fn tell_health(changed: HealthStatus, request: &Request, status: &mut Status) {
    // With a full disk, the file beside it is not newer either.
    status.append(&Record::Health(changed)).ok();
    let action = format!("health_status: {}", changed.as_str());
    request.tell(&action, &[]);
}

/// Reaps everything that has ended; how the container's first process did, when it is among it.
fn reap(init: Option<Pid>) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == init {
            ended = Some(status);
        }
    }
    ended
}

/// One direction: from a handle to a handle, with at most one piece on its way.
struct Flow {
    from: Option<OwnedFd>,
    /// Where it is copied to, beside the log.
    to: Option<OwnedFd>,
    pending: Vec<u8>,
    /// Which stream of the log; `None` for what is typed.
    stream: Option<LogStream>,
}

/// Copies between a container's streams and whoever looks at them.
pub(in crate::embedded) struct Pump {
    flows: Vec<Flow>,
    master: Option<OwnedFd>,
    /// The command that is attached; readable when it has ended.
    attached: Option<OwnedFd>,
    /// `None` for a program beside the container's own.
    log: Option<Log>,
}

impl Pump {
    fn new(streams: Streams, request: &Request, log: Log) -> Self {
        let own = |fd: BorrowedFd<'_>| copy_of(fd, request.attached);
        let mut master = None;
        let flows = match streams {
            Streams::Pipes {
                stdout: out,
                stderr: err,
                stdin: _,
            } => vec![
                Flow::output(out, own(std::io::stdout().as_fd()), LogStream::Stdout),
                Flow::output(err, own(std::io::stderr().as_fd()), LogStream::Stderr),
            ],
            Streams::Terminal(terminal) => {
                let flows = terminal_flows(&terminal, request.attached, request.interactive);
                master = Some(terminal);
                flows
            }
        };
        Self {
            flows,
            master,
            attached: request.attached.then(parent).flatten(),
            log: Some(log),
        }
    }

    /// Between a terminal and this process's standard streams.
    pub(in crate::embedded) fn of_terminal(master: OwnedFd, interactive: bool) -> Self {
        Self {
            flows: terminal_flows(&master, true, interactive),
            master: Some(master),
            attached: parent(),
            log: None,
        }
    }

    /// From pipes to this process's standard output and error.
    pub(in crate::embedded) fn of_pipes(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let own = |fd: BorrowedFd<'_>| copy_of(fd, true);
        Self {
            flows: vec![
                Flow::output(stdout, own(std::io::stdout().as_fd()), LogStream::Stdout),
                Flow::output(stderr, own(std::io::stderr().as_fd()), LogStream::Stderr),
            ],
            master: None,
            attached: parent(),
            log: None,
        }
    }

    pub(in crate::embedded) fn follow_size(&self) {
        if let (Some(master), true) = (&self.master, self.attached.is_some()) {
            // The caller's terminal may be gone.
            terminal::follow_size(master.as_fd()).ok();
        }
    }

    /// Waits until something can be done and does it; which of `watched` are ready, and what the
    /// container wrote.
    pub(in crate::embedded) fn step(
        &mut self,
        watched: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Option<Duration>,
    ) -> (Vec<bool>, Vec<(LogStream, Vec<u8>)>) {
        let mut ready = vec![false; watched.len()];
        let mut output = Vec::new();
        let mut waiting: Vec<PollFd<'_>> = Vec::new();
        let mut who = Vec::new();
        for (index, (fd, events)) in watched.iter().enumerate() {
            waiting.push(PollFd::from_borrowed_fd(*fd, *events));
            who.push(Event::Watched(index));
        }
        if let Some(attached) = &self.attached {
            waiting.push(PollFd::new(attached, PollFlags::IN));
            who.push(Event::Left);
        }
        for (index, flow) in self.flows.iter().enumerate() {
            if let Some((fd, events)) = flow.waits_for() {
                waiting.push(PollFd::from_borrowed_fd(fd, events));
                who.push(Event::Flow(index));
            }
        }
        let timeout = timeout.and_then(|limit| Timespec::try_from(limit).ok());
        if poll(&mut waiting, timeout.as_ref()).is_err() {
            return (ready, output);
        }
        let happened: Vec<Event> = who
            .into_iter()
            .zip(&waiting)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(event, _)| event)
            .collect();
        drop(waiting);
        for event in happened {
            match event {
                Event::Watched(index) => ready[index] = true,
                Event::Left => self.detach(),
                Event::Flow(index) => {
                    output.extend(self.flows[index].advance(self.log.as_mut()));
                }
            }
        }
        (ready, output)
    }

    /// Lets go of the streams of a command that has ended: whoever reads them must see their end.
    fn detach(&mut self) {
        self.attached = None;
        self.flows.retain(|flow| flow.stream.is_some());
        for flow in &mut self.flows {
            flow.to = None;
            flow.pending.clear();
        }
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            rustix::stdio::dup2_stdin(&null).ok();
            rustix::stdio::dup2_stdout(&null).ok();
            rustix::stdio::dup2_stderr(&null).ok();
        }
    }

    /// Copies what an ended program left in its pipes, however slowly that is taken: none of it
    /// may be lost. What others write to them meanwhile is not waited for.
    pub(in crate::embedded) fn finish(&mut self) {
        let waiting = |flow: &Flow| flow.from.as_ref().map_or(Ok(0), ioctl_fionread);
        let mut left: Vec<(Option<LogStream>, u64)> = self
            .flows
            .iter()
            .map(|flow| (flow.stream, waiting(flow).unwrap_or(0)))
            .collect();
        loop {
            for (stream, _) in left.iter().filter(|(_, left)| *left == 0) {
                let done = self.flows.iter_mut().filter(|flow| flow.stream == *stream);
                done.for_each(|flow| flow.from = None);
            }
            self.flows
                .retain(|flow| flow.from.is_some() || !flow.pending.is_empty());
            if self.flows.is_empty() {
                return;
            }
            for (stream, piece) in self.step(&[], None).1 {
                let of_stream = left.iter_mut().find(|(other, _)| *other == Some(stream));
                if let Some((_, left)) = of_stream {
                    *left = left.saturating_sub(piece.len() as u64);
                }
            }
        }
    }

    /// Copies what the ended container left in its pipes; what that was.
    pub(in crate::embedded) fn drain(&mut self) -> Vec<(LogStream, Vec<u8>)> {
        let deadline = Instant::now() + LAST_WORDS;
        let mut output = Vec::new();
        self.flows.retain(|flow| flow.stream.is_some());
        while Instant::now() < deadline && self.flows.iter().any(Flow::has_more) {
            output.extend(self.step(&[], Some(Duration::from_millis(100))).1);
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
        output
    }
}

/// What a step waits for.
enum Event {
    Watched(usize),
    Left,
    Flow(usize),
}

/// A handle on the process that started this one.
fn parent() -> Option<OwnedFd> {
    pidfd_open(rustix::process::getppid()?, PidfdFlags::empty()).ok()
}

/// What is shown, and with `interactive` what is typed.
fn terminal_flows(master: &OwnedFd, is_attached: bool, interactive: bool) -> Vec<Flow> {
    let mut flows = Vec::new();
    let shown = copy_of(std::io::stdout().as_fd(), is_attached);
    if let Ok(from) = master.try_clone() {
        flows.push(Flow::output(from, shown, LogStream::Stdout));
    }
    if interactive && let Some(typed) = copy_of(std::io::stdin().as_fd(), is_attached) {
        flows.push(Flow {
            from: Some(typed),
            to: master.try_clone().ok(),
            pending: Vec::new(),
            stream: None,
        });
    }
    flows
}

fn copy_of(fd: BorrowedFd<'_>, is_wanted: bool) -> Option<OwnedFd> {
    let copy = is_wanted.then(|| fd.try_clone_to_owned());
    copy.and_then(Result::ok)
}

impl Flow {
    fn output(from: OwnedFd, to: Option<OwnedFd>, stream: LogStream) -> Self {
        Self {
            from: Some(from),
            to,
            pending: Vec::new(),
            stream: Some(stream),
        }
    }

    /// What it needs to go on: room where it writes, or something to read.
    fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        if !self.pending.is_empty() {
            return self.to.as_ref().map(|to| (to.as_fd(), PollFlags::OUT));
        }
        self.from.as_ref().map(|from| (from.as_fd(), PollFlags::IN))
    }

    /// Whether bytes are on their way or waiting to be read.
    fn has_more(&self) -> bool {
        if !self.pending.is_empty() {
            return true;
        }
        let Some(from) = &self.from else { return false };
        let mut fds = [PollFd::new(from, PollFlags::IN)];
        let now = Timespec::default();
        matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds[0].revents().contains(PollFlags::IN)
    }

    /// Goes on by one piece; what the container wrote.
    fn advance(&mut self, log: Option<&mut Log>) -> Option<(LogStream, Vec<u8>)> {
        if self.pending.is_empty() {
            return self.read(log);
        }
        self.write();
        None
    }

    fn read(&mut self, log: Option<&mut Log>) -> Option<(LogStream, Vec<u8>)> {
        let from = self.from.as_ref()?;
        let mut piece = [0_u8; PIECE];
        match rustix::io::read(from, &mut piece) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(_) => self.from = None,
            Ok(length) => {
                if let (Some(stream), Some(log)) = (self.stream, log) {
                    log.write(stream, &piece[..length]);
                }
                if self.to.is_some() {
                    self.pending.extend_from_slice(&piece[..length]);
                }
                return self.stream.map(|stream| (stream, piece[..length].to_vec()));
            }
        }
        None
    }

    fn write(&mut self) {
        let Some(to) = &self.to else {
            self.pending.clear();
            return;
        };
        match rustix::io::write(to, &self.pending) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_gone) => {
                self.to = None;
                self.pending.clear();
                // Closed on purpose: as in any pipeline, the program is told by SIGPIPE. A command
                // that was killed is noticed by itself and takes nothing from the container.
                self.from = None;
            }
            Ok(length) => drop(self.pending.drain(..length)),
        }
    }
}
