//! A policy as people write it: TOML, read strictly, every mistake with its line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use invar_drift::{Glob, Severity};
use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use super::{Alerts, Allow, Mode, OnLoss, Part, Phase, Policy, Respond, Seal, Selector, Webhook};
use crate::alert::Format;
use crate::error::{AgentError, Result};

/// The version this program reads.
const VERSION: u32 = 1;
/// Longest policy.
pub(super) const LONGEST: usize = 1 << 20;
/// Parts, patterns and webhooks: more are a mistake.
const MOST: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u32>,
    #[serde(default)]
    agent: Agent,
    #[serde(default)]
    alerts: AlertsText,
    #[serde(default)]
    default: PartText,
    #[serde(default)]
    container: Vec<Selected>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Agent {
    retention_days: Option<u32>,
    metrics: Option<SocketAddr>,
    responses: Option<Spanned<usize>>,
    on_agent_loss: Option<OnLoss>,
    #[serde(default)]
    rules: Vec<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct AlertsText {
    stdout: Option<bool>,
    syslog: Option<bool>,
    severity: Option<Severity>,
    format: Option<Format>,
    #[serde(default)]
    webhook: Vec<WebhookText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookText {
    url: Spanned<String>,
    severity: Option<Severity>,
    format: Option<Format>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PartText {
    mode: Option<Mode>,
    respond: Option<Respond>,
    severity: Option<Severity>,
    seal: Option<Spanned<String>>,
    #[serde(default)]
    allow: Vec<Spanned<AllowText>>,
    #[serde(default)]
    run: Vec<Spanned<String>>,
    cooldown: Option<Cooldown>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cooldown {
    most: Option<u32>,
    within: Option<Spanned<String>>,
    then: Option<Spanned<Respond>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a pattern, or a table with path, program and phase"
)]
enum AllowText {
    Path(String),
    Rule(AllowRule),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowRule {
    path: String,
    program: Option<String>,
    phase: Option<Phase>,
}

/// Flattening would let unknown keys through, so the keys of a part are written out again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selected {
    name: Option<Spanned<String>>,
    image: Option<Spanned<String>>,
    engine: Option<String>,
    label: Option<String>,
    mode: Option<Mode>,
    respond: Option<Respond>,
    severity: Option<Severity>,
    seal: Option<Spanned<String>>,
    #[serde(default)]
    allow: Vec<Spanned<AllowText>>,
    #[serde(default)]
    run: Vec<Spanned<String>>,
    cooldown: Option<Cooldown>,
}

/// Reads a policy; `file` is how it is called in errors.
pub fn parse(text: &str, file: &str) -> Result<Policy> {
    let reader = Reader { text, file };
    if text.len() > LONGEST {
        return Err(reader.error(0, format!("it is longer than {LONGEST} bytes")));
    }
    let read: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        reader.error(at, error.message().to_owned())
    })?;
    reader.policy(read)
}

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
}

impl Reader<'_> {
    fn error(&self, at: usize, message: String) -> AgentError {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        AgentError::Policy {
            file: self.file.to_owned(),
            line: before.split(|byte| *byte == b'\n').count(),
            message,
        }
    }

    fn policy(&self, read: File) -> Result<Policy> {
        if *read.version.get_ref() != VERSION {
            let message = format!("this program reads version {VERSION} of policies");
            return Err(self.error(read.version.span().start, message));
        }
        if read.container.len() > MOST || read.alerts.webhook.len() > MOST {
            return Err(self.error(0, format!("it has more than {MOST} parts of a kind")));
        }
        let mut policy = Policy::default();
        let settings = &mut policy.settings;
        settings.metrics = read.agent.metrics;
        settings.rules = read.agent.rules;
        settings.on_agent_loss = read.agent.on_agent_loss.unwrap_or_default();
        settings.retention_days = read.agent.retention_days.unwrap_or(settings.retention_days);
        if let Some(responses) = read.agent.responses {
            settings.responses = *responses.get_ref();
            if !(1..=64).contains(&settings.responses) {
                let message = "1 to 64 responses are under way at once".to_owned();
                return Err(self.error(responses.span().start, message));
            }
        }
        policy.alerts = self.alerts(read.alerts, &policy.alerts)?;
        policy.default = self.part(read.default)?;
        for selected in read.container {
            policy.selected.push(self.selected(selected)?);
        }
        Ok(policy)
    }

    fn alerts(&self, read: AlertsText, default: &Alerts) -> Result<Alerts> {
        let format = read.format.unwrap_or(default.format);
        let mut webhooks = Vec::new();
        for webhook in read.webhook {
            let at = webhook.url.span().start;
            let url = webhook.url.into_inner();
            if !is_safe(&url) {
                let message = "an alert is posted to https://…, or to http:// on this machine \
                               (localhost, 127.0.0.1, [::1])";
                return Err(self.error(at, message.to_owned()));
            }
            webhooks.push(Webhook {
                url,
                severity: webhook.severity.unwrap_or(Severity::High),
                format: webhook.format.unwrap_or(Format::Slack),
            });
        }
        Ok(Alerts {
            stdout: read.stdout.unwrap_or(default.stdout),
            syslog: read.syslog.unwrap_or(default.syslog),
            severity: read.severity.unwrap_or(default.severity),
            format,
            webhooks,
        })
    }

    fn selected(&self, read: Selected) -> Result<(Selector, Part)> {
        let selector = Selector {
            name: read.name.map(|name| self.name(&name)).transpose()?,
            image: read.image.map(|image| self.name(&image)).transpose()?,
            engine: read.engine,
            label: read.label.map(|label| match label.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (label, None),
            }),
        };
        let part = self.part(PartText {
            mode: read.mode,
            respond: read.respond,
            severity: read.severity,
            seal: read.seal,
            allow: read.allow,
            run: read.run,
            cooldown: read.cooldown,
        })?;
        Ok((selector, part))
    }

    fn part(&self, read: PartText) -> Result<Part> {
        let mut part = Part {
            mode: read.mode,
            respond: read.respond,
            severity: read.severity,
            seal: read.seal.map(|seal| self.seal(&seal)).transpose()?,
            ..Part::default()
        };
        if read.run.len() > MOST {
            let at = read.run[MOST].span().start;
            return Err(self.error(at, format!("more than {MOST} patterns")));
        }
        for path in &read.run {
            let glob = Glob::parse(path.get_ref()).map_err(|message| {
                let message = format!("{:?}: {message}", path.get_ref());
                self.error(path.span().start, message)
            })?;
            part.run.push(glob);
        }
        if read.allow.len() > MOST {
            let at = read.allow[MOST].span().start;
            return Err(self.error(at, format!("more than {MOST} patterns")));
        }
        for allow in read.allow {
            part.allow.push(self.allow(&allow)?);
        }
        if let Some(cooldown) = read.cooldown {
            part.most = cooldown.most;
            part.within = cooldown
                .within
                .map(|within| self.duration(&within))
                .transpose()?;
            if let Some(then) = cooldown.then {
                let at = then.span().start;
                part.then = Some(then.into_inner());
                if part.then == Some(Respond::Replace) {
                    let message = "instead of one more replacement there must be something else";
                    return Err(self.error(at, message.to_owned()));
                }
            }
        }
        Ok(part)
    }

    fn allow(&self, allow: &Spanned<AllowText>) -> Result<Allow> {
        let at = allow.span().start;
        let glob = |text: &str| {
            Glob::parse(text).map_err(|message| self.error(at, format!("{text:?}: {message}")))
        };
        Ok(match allow.get_ref() {
            AllowText::Path(path) => Allow {
                path: glob(path)?,
                program: None,
                phase: None,
            },
            AllowText::Rule(rule) => Allow {
                path: glob(&rule.path)?,
                program: rule.program.as_deref().map(glob).transpose()?,
                phase: rule.phase,
            },
        })
    }

    fn seal(&self, text: &Spanned<String>) -> Result<Seal> {
        match text.get_ref().as_str() {
            "health" => Ok(Seal::Health),
            "command" => Ok(Seal::Command),
            _ => self.duration(text).map(Seal::After),
        }
    }

    /// `90s`, `10m`, `1h30m`.
    fn duration(&self, text: &Spanned<String>) -> Result<Duration> {
        let parsed: Option<SignedDuration> = text.get_ref().parse().ok();
        let parsed = parsed.and_then(|duration| Duration::try_from(duration).ok());
        parsed.ok_or_else(|| {
            let message = format!("{:?} is not a time like 30s or 10m", text.get_ref());
            self.error(text.span().start, message)
        })
    }

    /// A pattern for a name: `web*`.
    fn name(&self, text: &Spanned<String>) -> Result<Glob> {
        let pattern = format!("/{}", text.get_ref());
        Glob::parse(&pattern).map_err(|message| {
            let message = format!("{:?}: {message}", text.get_ref());
            self.error(text.span().start, message)
        })
    }
}

/// Whether what is posted there stays secret on its way.
fn is_safe(url: &str) -> bool {
    if url.starts_with("https://") {
        return true;
    }
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return false;
    }
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        parse(text, "agent.toml").unwrap_err().to_string()
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        for (text, expected) in [
            ("", "agent.toml:1: missing field `version`"),
            ("version = 2", "agent.toml:1: this program reads version 1"),
            (
                "version = 1\nnonsense = 1",
                "agent.toml:2: unknown field `nonsense`",
            ),
            (
                "version = 1\n[default]\nmode = \"loud\"",
                "agent.toml:3: unknown variant `loud`",
            ),
            (
                "version = 1\n[default]\nseal = \"soon\"",
                "agent.toml:3: \"soon\" is not a time",
            ),
            (
                "version = 1\n[default]\nallow = [\n\"/a\",\n\"b\"]",
                "agent.toml:5: \"b\": a pattern begins",
            ),
            (
                "version = 1\n[[container]]\nname = \"a//b\"",
                "agent.toml:3: \"a//b\": a pattern has no empty",
            ),
            (
                "version = 1\n[[container]]\nnmae = \"x\"",
                "agent.toml:3: unknown field `nmae`",
            ),
            (
                "version = 1\n[[alerts.webhook]]\nurl = \"http://hooks.example/x\"",
                "agent.toml:3: an alert is posted to https",
            ),
            (
                "version = 1\n[default]\ncooldown = { then = \"replace\" }",
                "agent.toml:3: instead of one more",
            ),
            (
                "version = 1\n[agent]\nresponses = 0",
                "agent.toml:3: 1 to 64",
            ),
            (
                "version = 1\n[agent]\n\non_agent_loss = \"closed\"",
                "agent.toml:4: unknown variant `closed`, expected `open` or `freeze`",
            ),
            ("version = 1\n[default\n", "agent.toml:2: "),
        ] {
            let said = error(text);
            assert!(said.starts_with(expected), "{text:?}: {said}");
        }
    }

    #[test]
    fn only_this_machine_is_posted_to_without_tls() {
        for (url, expected) in [
            ("https://hooks.example/x", true),
            ("http://127.0.0.1:9/x", true),
            ("http://localhost", true),
            ("http://[::1]:80/", true),
            ("http://localhost@evil.example/", false),
            ("http://localhost.evil.example/", false),
            ("http://127.0.0.1:80@evil.example/", false),
            ("ftp://localhost", false),
        ] {
            assert_eq!(is_safe(url), expected, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_policy_or_an_error(text in "\\PC{0,400}") {
            drop(parse(&text, "x"));
        }
    }
}
