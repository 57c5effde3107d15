//! A container of the drill that serves a page, and what the drill asks of it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use invar_engine::{ContainerId, ContainerName, Engine, ExecConfig, LogOptions, Stdio, User};

use super::app::LISTENING;
use super::stage::Stage;
use super::target::{LARGEST_PAGE, Target};

/// How long a page may take; it comes from this machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running container of the target.
pub(super) struct Site<'e> {
    engine: &'e dyn Engine,
    id: ContainerId,
    program: String,
    writable: bool,
}

impl<'e> Site<'e> {
    /// Makes and starts it.
    pub(super) fn open(stage: &'e Stage, target: &Target, writable: bool) -> anyhow::Result<Self> {
        stage.go_on()?;
        let name = if writable { "writable" } else { "read-only" };
        let config = target.config(stage.images(), writable)?;
        let engine = &**stage.engine();
        let id = engine.create(&ContainerName::parse(name)?, &config)?;
        let site = Self::start(engine, id, target)?;
        Ok(Self { writable, ..site })
    }

    /// Starts a writable container of the target, on whichever engine.
    pub(super) fn start(
        engine: &'e dyn Engine,
        id: ContainerId,
        target: &Target,
    ) -> anyhow::Result<Self> {
        engine.start(&id, Stdio::Detached)?;
        Ok(Self {
            engine,
            id,
            program: target.program().to_owned(),
            writable: true,
        })
    }

    /// The container that has taken the place of this one.
    pub(super) fn replaced_by(&self, id: ContainerId) -> Self {
        Self {
            engine: self.engine,
            id,
            program: self.program.clone(),
            writable: self.writable,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.writable {
            "writable"
        } else {
            "read-only"
        }
    }

    pub(super) fn id(&self) -> &ContainerId {
        &self.id
    }

    pub(super) fn engine(&self) -> &'e dyn Engine {
        self.engine
    }

    /// Does a deed of the attacker's inside; 0, or the number of the error that stopped it.
    pub(super) fn exec(&self, deed: &[&str]) -> anyhow::Result<u8> {
        let mut args = vec![self.program.clone(), "drill-app".to_owned()];
        args.extend(deed.iter().map(|&word| word.to_owned()));
        let exec = ExecConfig {
            args,
            env: Vec::new(),
            cwd: None,
            user: Some(User("0".to_owned())),
            tty: false,
            interactive: false,
            quiet: false,
        };
        Ok(self.engine.exec(&self.id, &exec)?)
    }

    /// Whether the page is this.
    pub(super) fn serves(&self, content: &[u8]) -> bool {
        self.page().is_ok_and(|page| page == content)
    }

    /// The page as a visitor gets it, over the network.
    pub(super) fn page(&self) -> anyhow::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address()?, PATIENCE)
            .context("could not reach the page")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(2 * LARGEST_PAGE).read_to_end(&mut answer)?;
        let header = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let header = header.context("the answer is not HTTP")?;
        if !answer.starts_with(b"HTTP/1.0 200") {
            bail!("the page is not there");
        }
        Ok(answer.split_off(header + 4))
    }

    /// Where it listens, as its log says.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut address = None;
        self.engine.logs(&self.id, &options, &mut |_, line| {
            let line = String::from_utf8_lossy(line);
            let found = line.trim_end().strip_prefix(LISTENING).map(str::parse);
            address = found.and_then(Result::ok);
            address.is_none()
        })?;
        address.context("the container ended before it served its page")
    }
}
