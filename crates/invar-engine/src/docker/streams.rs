//! What arrives in pieces from the daemon: output, logs, the end of a container.

use std::io::{Read as _, Write as _};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig as ApiExecConfig;
use bollard::query_parameters::{
    ImportImageOptionsBuilder, LogsOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::{api_error, failed};
use crate::container::ContainerId;
use crate::engine::{ExecConfig, LogOptions, LogStream};
use crate::error::Result;

/// Of an archive, so much is sent at once.
const PIECE: usize = 256 * 1024;

/// Blocks until the container is not running.
pub(super) fn wait(runtime: &Runtime, docker: &Docker, id: &ContainerId) -> Result<()> {
    let options = WaitContainerOptionsBuilder::default()
        .condition("not-running")
        .build();
    let ended = runtime.block_on(docker.wait_container(id.as_str(), Some(options)).next());
    match ended {
        // bollard reports a code other than 0 as an error; the code itself is read by inspect.
        None | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => Ok(()),
        Some(Err(error)) => Err(api_error(id.short(), error)),
    }
}

/// Hands on recorded output; see `Engine::logs`.
pub(super) fn logs(
    runtime: &Runtime,
    docker: &Docker,
    id: &ContainerId,
    options: &LogOptions,
    each: &mut dyn FnMut(LogStream, &[u8]) -> bool,
) -> Result<()> {
    let tail = options
        .tail
        .map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let query = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(options.follow)
        .timestamps(options.timestamps)
        .since(seconds(options.since, 0))
        .until(seconds(options.until, 1))
        .tail(&tail)
        .build();
    runtime.block_on(async {
        let mut lines = docker.logs(id.as_str(), Some(query));
        while let Some(line) = lines.next().await {
            let line = line.map_err(|error| api_error(id.short(), error))?;
            let (stream, bytes) = split(&line);
            if !each(stream, bytes) {
                break;
            }
        }
        Ok(())
    })
}

/// The API counts whole seconds; 0 is no bound.
fn seconds(time: Option<jiff::Timestamp>, round_up: i64) -> i32 {
    let seconds = time.map_or(0, |time| time.as_second() + round_up);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// Sends an archive of images as `docker load` does.
pub(super) fn load_image(
    runtime: &Runtime,
    docker: &Docker,
    mut archive: std::fs::File,
) -> Result<()> {
    let pieces = std::iter::from_fn(move || {
        let mut piece = vec![0; PIECE];
        match archive.read(&mut piece) {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some(Ok(piece.into()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    runtime.block_on(async {
        let pieces = futures_util::stream::iter(pieces);
        let mut answers = std::pin::pin!(docker.import_image_stream(options, pieces, None));
        while let Some(answer) = answers.next().await {
            answer.map_err(|error| failed("load the image", &error.to_string()))?;
        }
        Ok(())
    })
}

/// Writes an image as `docker save` does.
pub(super) fn save_image(
    runtime: &Runtime,
    docker: &Docker,
    image: &str,
    output: &mut dyn std::io::Write,
) -> Result<()> {
    runtime.block_on(async {
        let mut pieces = std::pin::pin!(docker.export_image(image));
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| api_error(image, error))?;
            output
                .write_all(&piece)
                .map_err(|error| failed("write the image", &error.to_string()))?;
        }
        Ok(())
    })
}

/// Runs a program in the container with output copied to this process's streams.
pub(super) fn exec(
    runtime: &Runtime,
    docker: &Docker,
    id: &ContainerId,
    exec: &ExecConfig,
) -> Result<u8> {
    let config = ApiExecConfig {
        cmd: Some(exec.args.clone()),
        env: Some(exec.env.clone()),
        working_dir: exec.cwd.as_ref().map(|dir| dir.display().to_string()),
        user: exec.user.as_ref().map(|user| user.0.clone()),
        tty: Some(exec.tty),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ApiExecConfig::default()
    };
    runtime.block_on(async {
        let refused = |error| api_error(id.short(), error);
        let created = docker
            .create_exec(id.as_str(), config)
            .await
            .map_err(refused)?;
        let started = docker
            .start_exec(&created.id, None)
            .await
            .map_err(refused)?;
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(piece) = output.next().await {
                let piece = piece.map_err(refused)?;
                if !exec.quiet {
                    copy_out(&piece)?;
                }
            }
        }
        let ended = docker.inspect_exec(&created.id).await.map_err(refused)?;
        let code = ended.exit_code.and_then(|code| u8::try_from(code).ok());
        code.ok_or_else(|| {
            failed(
                "learn how the program ended",
                "the daemon gave no exit code",
            )
        })
    })
}

fn copy_out(piece: &LogOutput) -> Result<()> {
    let written = match split(piece) {
        (LogStream::Stdout, bytes) => std::io::stdout().lock().write_all(bytes),
        (LogStream::Stderr, bytes) => std::io::stderr().lock().write_all(bytes),
    };
    written.map_err(|error| failed("write the program's output", &error.to_string()))
}

fn split(piece: &LogOutput) -> (LogStream, &[u8]) {
    match piece {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message }
        | LogOutput::StdIn { message }
        | LogOutput::Console { message } => (LogStream::Stdout, message),
    }
}
