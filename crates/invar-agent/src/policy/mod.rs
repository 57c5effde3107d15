//! What is done about which container.

mod file;

use std::path::PathBuf;
use std::time::Duration;

use invar_drift::{Glob, Severity};
use invar_engine::Container;
use invar_sensor::{Event, What};
use serde::{Deserialize, Serialize};

pub use file::parse;

use crate::alert::Format;

/// Label of a container: `observe`, `block`, `capture` or `replace`.
const DRIFT_LABEL: &str = "invar.drift";
/// Label of a container: patterns of paths that may change, separated by blanks.
const ALLOW_LABEL: &str = "invar.allow";

/// A whole policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What concerns the agent itself.
    pub settings: Settings,
    /// Where alerts go.
    pub alerts: Alerts,
    default: Part,
    selected: Vec<(Selector, Part)>,
}

/// What concerns the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Days for which incidents and events are kept.
    pub retention_days: u32,
    /// Where Prometheus reads metrics, for example `127.0.0.1:9911`.
    pub metrics: Option<std::net::SocketAddr>,
    /// Responses under way at once.
    pub responses: usize,
    /// Rules beside those that come with Invar.
    pub rules: Vec<PathBuf>,
    /// What becomes of blocked containers when the agent is killed.
    pub on_agent_loss: OnLoss,
}

/// What becomes of the containers in `block` when the agent is killed, and the kernel with it lets
/// everything run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// They go on, unguarded until the next agent.
    #[default]
    Open,
    /// They are frozen until the next agent guards them.
    Freeze,
}

/// Where alerts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Write them to standard output.
    pub stdout: bool,
    /// Send them to syslog or the journal.
    pub syslog: bool,
    /// Least severity that is told of without being an incident.
    pub severity: Severity,
    /// How they are written.
    pub format: Format,
    /// Where they are posted.
    pub webhooks: Vec<Webhook>,
}

/// A place alerts are posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `https://…`, or `http://` on this machine.
    pub url: String,
    /// Least severity.
    pub severity: Severity,
    /// How they are written.
    pub format: Format,
}

/// Whether programs that are not of the image run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They run and are told of.
    Observe,
    /// They are refused.
    Block,
}

/// What is done about an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Respond {
    /// It is told.
    Alert,
    /// The container is frozen until someone releases it.
    Freeze,
    /// The container goes on without a network.
    Quarantine,
    /// Evidence is taken; the container goes on.
    Capture,
    /// Evidence is taken, and a fresh container takes over.
    Replace,
}

impl Respond {
    /// Its name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Freeze => "freeze",
            Self::Quarantine => "quarantine",
            Self::Capture => "capture",
            Self::Replace => "replace",
        }
    }
}

/// When a container has begun its real work: what it changes before is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// When its health check has succeeded; without one after ten seconds.
    Health,
    /// So long after it was started.
    After(Duration),
    /// When someone says so.
    Command,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It still sets itself up.
    Starting,
    /// What changes from now on is drift.
    Sealed,
}

/// Something that is expected.
#[derive(Debug, Clone)]
pub struct Allow {
    path: Glob,
    program: Option<Glob>,
    phase: Option<Phase>,
}

impl Allow {
    fn fits(&self, event: &Event, phase: Phase) -> bool {
        let by_program = self.program.as_ref().is_none_or(|program| {
            let actor = event.actor.as_ref();
            actor.is_some_and(|actor| program.fits(actor.exe.as_bytes()))
        });
        by_program
            && self.phase.is_none_or(|wanted| wanted == phase)
            && self.path.fits(&event.path)
            && event.from.as_ref().is_none_or(|from| self.path.fits(from))
    }
}

/// What a part of a policy says; what it leaves open another part says.
#[derive(Debug, Clone, Default)]
struct Part {
    mode: Option<Mode>,
    respond: Option<Respond>,
    severity: Option<Severity>,
    seal: Option<Seal>,
    allow: Vec<Allow>,
    run: Vec<Glob>,
    most: Option<u32>,
    within: Option<Duration>,
    then: Option<Respond>,
}

/// Which containers a part is about.
#[derive(Debug, Clone, Default)]
struct Selector {
    name: Option<Glob>,
    image: Option<Glob>,
    engine: Option<String>,
    label: Option<(String, Option<String>)>,
}

impl Selector {
    fn fits(&self, container: &Container) -> bool {
        let named = |glob: &Option<Glob>, text: &str| {
            let text = format!("/{text}");
            glob.as_ref().is_none_or(|glob| glob.fits(text.as_bytes()))
        };
        let labelled = |(key, value): &(String, Option<String>)| {
            let found = container.config.labels.get(key);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        named(&self.name, container.name.as_str())
            && named(&self.image, &container.config.image_name)
            && self
                .engine
                .as_ref()
                .is_none_or(|engine| engine == container.engine)
            && self.label.as_ref().is_none_or(labelled)
    }
}

/// What is done about one container.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Whether programs that are not of the image run.
    pub mode: Mode,
    /// What is done about an incident.
    pub respond: Respond,
    /// Least severity of an incident.
    pub severity: Severity,
    /// When it has begun its work.
    pub seal: Seal,
    /// Changes that are expected.
    pub allow: Vec<Allow>,
    /// Programs that may run although they are not of the image.
    pub run: Vec<Glob>,
    /// Most replacements of a name in [`Self::within`].
    pub most: u32,
    /// The time in which replacements are counted.
    pub within: Duration,
    /// What is done instead of one more replacement.
    pub then: Respond,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settings: Settings {
                retention_days: 30,
                metrics: None,
                responses: 2,
                rules: Vec::new(),
                on_agent_loss: OnLoss::Open,
            },
            alerts: Alerts {
                stdout: true,
                syslog: false,
                severity: Severity::High,
                format: Format::Invar,
                webhooks: Vec::new(),
            },
            default: Part::default(),
            selected: Vec::new(),
        }
    }
}

impl Policy {
    /// What is done about a container: what the first fitting part says, then its labels, then the
    /// default.
    pub fn of(&self, container: &Container) -> Rules {
        let labels = of_labels(container);
        let selected = self.selected.iter();
        let fitting = selected.filter(|(selector, _)| selector.fits(container));
        let parts: Vec<&Part> = fitting
            .map(|(_, part)| part)
            .chain([&labels, &self.default])
            .collect();
        macro_rules! first {
            ($field:ident, $default:expr) => {
                parts
                    .iter()
                    .find_map(|part| part.$field)
                    .unwrap_or($default)
            };
        }
        Rules {
            mode: first!(mode, Mode::Observe),
            respond: first!(respond, Respond::Alert),
            severity: first!(severity, Severity::High),
            seal: first!(seal, Seal::Health),
            allow: parts.iter().flat_map(|part| part.allow.clone()).collect(),
            run: parts.iter().flat_map(|part| part.run.clone()).collect(),
            most: first!(most, 3),
            within: first!(within, Duration::from_mins(10)),
            then: first!(then, Respond::Freeze),
        }
    }
}

/// What the container's own labels ask for. Whoever made the container wrote them; nothing in it
/// can change them. A pattern that is none allows nothing.
fn of_labels(container: &Container) -> Part {
    let label = |name: &str| container.config.labels.get(name).map(String::as_str);
    let (mode, respond) = match label(DRIFT_LABEL) {
        Some("observe") => (Some(Mode::Observe), Some(Respond::Alert)),
        Some("block") => (Some(Mode::Block), Some(Respond::Alert)),
        Some("capture") => (None, Some(Respond::Capture)),
        Some("replace") => (None, Some(Respond::Replace)),
        _ => (None, None),
    };
    let allow = label(ALLOW_LABEL).unwrap_or_default().split_whitespace();
    Part {
        mode,
        respond,
        allow: allow
            .filter_map(|path| Glob::parse(path).ok())
            .map(|path| Allow {
                path,
                program: None,
                phase: None,
            })
            .collect(),
        ..Part::default()
    }
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The policy expects it.
    Allowed,
    /// Worth keeping.
    Noted,
    /// Something must be done.
    Incident,
}

impl Rules {
    /// What an event is. A foreign program is one at any time; other changes only once the
    /// container has begun its work.
    pub fn judge(&self, event: &Event, phase: Phase) -> Verdict {
        let is_execution = event.what == What::Exec || event.what.is_blocked();
        // Where files may change, programs may not run for that.
        let is_expected = if is_execution {
            self.run.iter().any(|glob| glob.fits(&event.path))
        } else {
            self.allow.iter().any(|allow| allow.fits(event, phase))
        };
        if is_expected {
            return Verdict::Allowed;
        }
        if event.severity >= self.severity && (is_execution || phase == Phase::Sealed) {
            Verdict::Incident
        } else {
            Verdict::Noted
        }
    }
}
