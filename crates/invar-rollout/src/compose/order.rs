//! In which order services come: what is depended on first.

use std::collections::BTreeMap;

use super::error::{ComposeError, Result};
use super::model::{Project, Service};

impl Project {
    /// Names of services, each after everything it depends on, else by name.
    pub fn order(&self) -> Result<Vec<&str>> {
        let mut order = Vec::new();
        let mut path = Vec::new();
        for name in self.services.keys() {
            visit(name, &self.services, &mut path, &mut order)?;
        }
        Ok(order)
    }
}

fn visit<'a>(
    name: &'a str,
    services: &'a BTreeMap<String, Service>,
    path: &mut Vec<&'a str>,
    order: &mut Vec<&'a str>,
) -> Result<()> {
    if order.contains(&name) {
        return Ok(());
    }
    let service = &services[name];
    if let Some(begin) = path.iter().position(|other| *other == name) {
        let chain: Vec<String> = path[begin..]
            .iter()
            .chain([&name])
            .map(|name| name.escape_debug().to_string())
            .collect();
        return Err(ComposeError::Circle {
            at: services[*path.last().unwrap_or(&name)].at.clone(),
            chain: chain.join(" → "),
        });
    }
    path.push(name);
    for dependency in &service.depends_on {
        match services.get_key_value(&dependency.service) {
            Some((other, _)) => visit(other, services, path, order)?,
            None if dependency.required => {
                let reason = format!(
                    "services.{} depends on {:?}, which is not a service of this project \
                     (or in a profile that was not asked for)",
                    name.escape_debug(),
                    dependency.service
                );
                return Err(service.at.error(reason));
            }
            None => {}
        }
    }
    path.pop();
    order.push(name);
    Ok(())
}
