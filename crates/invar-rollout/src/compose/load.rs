//! From files to a project: references, `include`, `extends`, profiles.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::env_file;
use super::error::{ComposeError, Result, Warning};
use super::fields::{Fields, join};
use super::grants;
use super::interpolate::interpolate;
use super::merge;
use super::model::{NamedVolume, NetworkMode, Project};
use super::networks;
use super::scalars::{boolean, string, strings, text};
use super::service::{self, Shared};
use super::yaml::{self, MOST_BYTES, Node, Value};

/// Files of one project, so that includes of includes end.
const MOST_FILES: usize = 64;
/// Services that extend services that extend services.
const MOST_EXTENDS: usize = 16;
/// Services of one project.
const MOST_SERVICES: usize = 1_000;

/// How a project is read.
pub struct Options<'a> {
    /// Instead of the file's `name`.
    pub name: Option<&'a str>,
    /// Profiles that are asked for.
    pub profiles: &'a [String],
    /// The caller's environment.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("profiles", &self.profiles)
            .finish_non_exhaustive()
    }
}

/// Reads the project of a file and everything it names.
pub fn load(file: &Path, options: &Options<'_>) -> Result<(Project, Vec<Warning>)> {
    let text = read_text(file)?;
    parse(file, &text, options)
}

/// Reads the project of a text that stands in `file`.
pub fn parse(file: &Path, text: &str, options: &Options<'_>) -> Result<(Project, Vec<Warning>)> {
    let mut loader = Loader {
        options,
        dotenv: HashMap::new(),
        warnings: Vec::new(),
        told: HashSet::new(),
        files: 0,
    };
    let directory = file.parent().unwrap_or(Path::new(""));
    for (name, value) in loader.env_file(&directory.join(".env"), false)? {
        loader.dotenv.extend(value.map(|value| (name, value)));
    }
    let mut tree = loader.tree(file, text)?;
    let mut all = Sections::default();
    loader.collect(&mut tree, &mut all, 0)?;
    let mut fields = Fields::of(&tree, "")?;
    fields.take("version");
    let name = fields.read("name", string)?;
    let name = project_name(name, file, options)?;
    fields.finish(&[], &mut loader.warnings);
    let project = loader.project(name, &all)?;
    project.order()?;
    Ok((project, loader.warnings))
}

fn project_name(name: Option<String>, file: &Path, options: &Options<'_>) -> Result<String> {
    let given = options.name.map(str::to_owned).or(name);
    let name = given.unwrap_or_else(|| {
        let directory = std::path::absolute(file).ok();
        let directory = directory.as_deref().and_then(Path::parent);
        let name = directory.and_then(Path::file_name).unwrap_or_default();
        let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let name = name.to_string_lossy().to_ascii_lowercase();
        let name: String = name.chars().filter(kept).collect();
        name.trim_start_matches(['-', '_']).to_owned()
    });
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_well && name.len() <= 40 && name.bytes().all(fits) {
        Ok(name)
    } else {
        Err(ComposeError::ProjectName { name })
    }
}

/// What several files together have.
#[derive(Default)]
struct Sections {
    services: BTreeMap<String, Node>,
    volumes: BTreeMap<String, Node>,
    networks: BTreeMap<String, Node>,
    configs: Vec<Node>,
    secrets: Vec<Node>,
}

/// What reading a project needs and gathers.
pub(super) struct Loader<'a> {
    options: &'a Options<'a>,
    dotenv: HashMap<String, String>,
    pub(super) warnings: Vec<Warning>,
    /// Names of unset variables that were told already.
    told: HashSet<String>,
    files: usize,
}

impl Loader<'_> {
    /// A variable of the caller's environment or of `.env`.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.options.environment)(name).or_else(|| self.dotenv.get(name).cloned())
    }

    /// The settings of an env file.
    pub(super) fn env_file(
        &self,
        path: &Path,
        is_required: bool,
    ) -> Result<Vec<(String, Option<String>)>> {
        let text = match read_text(path) {
            Err(ComposeError::Read { source, .. })
                if !is_required && source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(Vec::new());
            }
            other => other?,
        };
        env_file::parse(&text, &|name| self.variable(name)).map_err(|(line, reason)| {
            let at = super::error::Position {
                file: path.into(),
                line,
                column: 1,
            };
            at.error(reason)
        })
    }

    /// A file's tree with its references replaced.
    fn tree(&mut self, file: &Path, text: &str) -> Result<Node> {
        let file: Arc<Path> = file.into();
        let mut tree = yaml::parse(&file, text)?;
        self.files += 1;
        if self.files > MOST_FILES {
            return Err(tree
                .at
                .error(format!("more than {MOST_FILES} files in one project")));
        }
        self.replace_references(&mut tree, "")?;
        Ok(tree)
    }

    fn replace_references(&mut self, node: &mut Node, path: &str) -> Result<()> {
        match &mut node.value {
            Value::Null => {}
            Value::Scalar { text, .. } => {
                if !text.contains('$') {
                    return Ok(());
                }
                let replaced = interpolate(text, &|name| self.variable(name))
                    .map_err(|reason| node.at.error(format!("{path}: {reason}")))?;
                *text = replaced.text;
                for name in replaced.missing {
                    if self.told.insert(name.clone()) {
                        self.warnings.push(Warning {
                            at: node.at.clone(),
                            path: path.to_owned(),
                            message: format!("the variable {name} is not set; it counts as empty"),
                        });
                    }
                }
            }
            Value::List(items) => {
                for item in items {
                    self.replace_references(item, path)?;
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    self.replace_references(&mut entry.value, &join(path, &entry.key))?;
                }
            }
        }
        Ok(())
    }

    /// Takes the sections out of a tree, and out of those it includes.
    fn collect(&mut self, tree: &mut Node, all: &mut Sections, depth: usize) -> Result<()> {
        if depth > MOST_FILES {
            return Err(tree.at.error("files include each other in a circle"));
        }
        let Value::Map(entries) = &mut tree.value else {
            return Ok(());
        };
        let mut own = Vec::new();
        let mut included = Vec::new();
        for entry in std::mem::take(entries) {
            match entry.key.as_str() {
                "services" => {
                    for service in into_entries(entry.value, "services")? {
                        let node = self.extended(service.value, &service.key, 0)?;
                        if all.services.insert(service.key.clone(), node).is_some() {
                            let reason = format!("the service {:?} is there twice", service.key);
                            return Err(service.at.error(reason));
                        }
                    }
                }
                "volumes" => {
                    let volumes = into_entries(entry.value, "volumes")?;
                    all.volumes
                        .extend(volumes.into_iter().map(|entry| (entry.key, entry.value)));
                }
                "networks" => {
                    let networks = into_entries(entry.value, "networks")?;
                    all.networks
                        .extend(networks.into_iter().map(|entry| (entry.key, entry.value)));
                }
                "configs" => all.configs.push(entry.value),
                "secrets" => all.secrets.push(entry.value),
                "include" => included.push(entry.value),
                _ => own.push(entry),
            }
        }
        *entries = own;
        for node in included {
            for file in included_files(&node)? {
                let text = read_text(&file)?;
                let mut tree = self.tree(&file, &text)?;
                self.collect(&mut tree, all, depth + 1)?;
            }
        }
        if all.services.len() > MOST_SERVICES {
            return Err(tree.at.error(format!("more than {MOST_SERVICES} services")));
        }
        Ok(())
    }

    /// A service with everything it extends.
    fn extended(&mut self, node: Node, name: &str, depth: usize) -> Result<Node> {
        let Value::Map(entries) = &node.value else {
            return Ok(node);
        };
        let Some(extends) = entries.iter().find(|entry| entry.key == "extends") else {
            return Ok(node);
        };
        let path = format!("services.{}.extends", name.escape_debug());
        if depth >= MOST_EXTENDS {
            let reason = format!("{path}: services extend each other in a circle");
            return Err(extends.at.error(reason));
        }
        let (file, service) = match &extends.value.value {
            Value::Map(_) => {
                let mut fields = Fields::of(&extends.value, &*path)?;
                let file = fields.take("file");
                let file = file.map(|node| Ok(node.at.resolve(text(node, &path)?)));
                let service = fields.read("service", string)?;
                (file.transpose()?, service.unwrap_or_default())
            }
            _ => (None, string(&extends.value, &path)?),
        };
        let file = file.unwrap_or_else(|| extends.at.file.to_path_buf());
        let text = read_text(&file)?;
        let tree = self.tree(&file, &text)?;
        let mut fields = Fields::of(&tree, "")?;
        let services = fields.take("services");
        let found = services.and_then(|services| match &services.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == service),
            _ => None,
        });
        let Some(found) = found else {
            let reason = format!("{path}: {} has no service {service:?}", file.display());
            return Err(extends.at.error(reason));
        };
        let base = self.extended(found.value.clone(), &service, depth + 1)?;
        let mut merged = merge::extend(base, node);
        if let Value::Map(entries) = &mut merged.value {
            entries.retain(|entry| entry.key != "extends");
        }
        Ok(merged)
    }

    fn project(&mut self, name: String, all: &Sections) -> Result<Project> {
        let mut shared = Shared::default();
        for node in &all.configs {
            shared.configs.extend(grants::sources(node, "configs")?);
        }
        for node in &all.secrets {
            shared.secrets.extend(grants::sources(node, "secrets")?);
        }
        let mut volumes = BTreeMap::new();
        for (key, node) in &all.volumes {
            volumes.insert(key.clone(), self.volume(&name, key, node)?);
        }
        let mut networks = BTreeMap::new();
        for (key, node) in &all.networks {
            let network = networks::of_project(&name, key, node, &mut self.warnings)?;
            networks.insert(key.clone(), network);
        }
        let mut services = BTreeMap::new();
        for (key, node) in &all.services {
            let path = join("services", key);
            check_service_name(key, node)?;
            if !self.is_asked_for(node, &path)? {
                continue;
            }
            let service = service::read(node, &path, &shared, self)?;
            for volume in &service.volumes {
                if let super::model::VolumeSource::Named(key) = &volume.source
                    && !volumes.contains_key(key)
                {
                    let reason = format!("{path}: {key:?} is not among the project's volumes");
                    return Err(service.at.error(reason));
                }
            }
            if let NetworkMode::Project { network, .. } = &service.network
                && !networks.contains_key(network)
            {
                if network != networks::DEFAULT {
                    let reason = format!("{path}: {network:?} is not among the project's networks");
                    return Err(service.at.error(reason));
                }
                networks.insert(network.clone(), networks::default(&name, network));
            }
            services.insert(key.clone(), service);
        }
        Ok(Project {
            name,
            names: all.services.keys().cloned().collect(),
            services,
            volumes,
            networks,
        })
    }

    fn volume(&mut self, project: &str, key: &str, node: &Node) -> Result<NamedVolume> {
        let mut fields = Fields::of(node, join("volumes", key))?;
        let name = fields.read("name", string)?;
        let is_external = match fields.take("external") {
            Some(node) => boolean(node, &fields.path_of("external"))?,
            None => false,
        };
        fields.take("labels");
        let reason = "volumes are directories of the engine";
        fields.finish(
            &[("driver", reason), ("driver_opts", reason)],
            &mut self.warnings,
        );
        let default = if is_external {
            key.to_owned()
        } else {
            format!("{project}_{key}")
        };
        Ok(NamedVolume {
            name: name.unwrap_or(default),
        })
    }

    /// A service without profiles, or with one that is asked for.
    fn is_asked_for(&self, node: &Node, path: &str) -> Result<bool> {
        let mut fields = Fields::of(node, path)?;
        let profiles = fields.read("profiles", strings)?.unwrap_or_default();
        let wanted = self.options.profiles;
        let is_wanted =
            |profile: &String| wanted.contains(profile) || wanted.iter().any(|w| w == "*");
        Ok(profiles.is_empty() || profiles.iter().any(is_wanted))
    }
}

/// Names of services are parts of names of containers.
fn check_service_name(name: &str, node: &Node) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.len() <= 40 && name.bytes().all(fits) {
        return Ok(());
    }
    Err(node.at.error(format!(
        "{name:?} is not a service name: use at most 40 letters, digits, '-', '_' and '.'"
    )))
}

fn into_entries(node: Node, path: &str) -> Result<Vec<yaml::Entry>> {
    match node.value {
        Value::Null => Ok(Vec::new()),
        Value::Map(entries) => Ok(entries),
        _ => Err(node
            .at
            .error(format!("{path} is a mapping, not {}", node.kind()))),
    }
}

fn included_files(node: &Node) -> Result<Vec<PathBuf>> {
    let items = match &node.value {
        Value::List(items) => items.iter().collect(),
        _ => vec![node],
    };
    let mut files = Vec::new();
    for item in items {
        let paths = match &item.value {
            Value::Map(_) => Fields::of(item, "include")?.take("path"),
            _ => Some(item),
        };
        let Some(paths) = paths else {
            return Err(item.at.error("include: path is missing"));
        };
        for path in strings(paths, "include")? {
            files.push(paths.at.resolve(&path));
        }
    }
    Ok(files)
}

fn read_text(path: &Path) -> Result<String> {
    let most = MOST_BYTES as u64;
    let bytes = read_bounded(path, most)?;
    String::from_utf8(bytes).map_err(|error| ComposeError::Read {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()),
    })
}

/// Reads a file of at most so many bytes.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let wrong = |source| ComposeError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    // The path is in the message already.
    let file = fs_err::File::open(path).map_err(|error| wrong(error.kind().into()))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > most {
        let reason = format!("it has more than {most} bytes");
        return Err(wrong(std::io::Error::other(reason)));
    }
    Ok(bytes)
}
