//! Where a registry is: its own address, its mirrors, and whether it may be spoken to without TLS.

use std::path::PathBuf;

use super::error::RegistryError;
use super::proxy::is_loopback;
use super::settings::Settings;
use super::tls::Tls;
use super::url::{Origin, Scheme, Url};

/// The host that answers for `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One address of a registry.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The registry as credentials are kept for it.
    pub(crate) registry: String,
    pub(crate) origin: Origin,
    /// Whether [`Endpoint::plain_origin`] may be used when there is no TLS: on this machine, as
    /// Docker does for 127.0.0.0/8. A wrong certificate stays an error.
    pub(crate) may_be_plain: bool,
    pub(crate) plain_origin: Origin,
    pub(crate) tls: Tls,
}

/// What the caller decides about TLS.
#[derive(Debug, Clone, Default)]
pub(crate) struct Protection {
    pub(crate) plain_http: bool,
    pub(crate) authorities: Vec<PathBuf>,
    pub(crate) certificates: Option<PathBuf>,
}

/// The registry's own address.
pub(crate) fn of(
    registry: &str,
    settings: &Settings,
    protection: &Protection,
) -> Result<Endpoint, RegistryError> {
    let host = if registry == crate::reference::DEFAULT_REGISTRY {
        DOCKER_HUB
    } else {
        registry
    };
    let plain = protection.plain_http || settings.of(registry).plain_http;
    let scheme = if plain { "http" } else { "https" };
    endpoint(
        registry,
        &format!("{scheme}://{host}"),
        settings,
        protection,
    )
}

/// The addresses to ask before the registry itself when something is pulled.
pub(crate) fn mirrors(
    registry: &str,
    settings: &Settings,
    protection: &Protection,
) -> Result<Vec<Endpoint>, RegistryError> {
    let said = settings.of(registry);
    said.mirrors
        .iter()
        .map(|address| {
            let mirror = endpoint(registry, address, settings, protection)?;
            // The registry's password is not for the mirror.
            Ok(Endpoint {
                registry: mirror.origin.authority(),
                may_be_plain: false,
                ..mirror
            })
        })
        .collect()
}

fn endpoint(
    registry: &str,
    address: &str,
    settings: &Settings,
    protection: &Protection,
) -> Result<Endpoint, RegistryError> {
    let url = Url::parse(address).map_err(|reason| RegistryError::Settings {
        path: format!("address {address:?} of registry {registry}"),
        reason: reason.to_owned(),
    })?;
    let origin = url.origin;
    let mut authorities = protection.authorities.clone();
    authorities.extend(settings.of(registry).ca);
    let plain_port = if origin.port == 443 { 80 } else { origin.port };
    Ok(Endpoint {
        registry: registry.to_owned(),
        may_be_plain: origin.scheme == Scheme::Https && is_loopback(&origin.host),
        plain_origin: Origin {
            scheme: Scheme::Http,
            host: origin.host.clone(),
            port: plain_port,
        },
        origin,
        tls: Tls::new(authorities, protection.certificates.as_deref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_left_out_only_when_asked_and_offered_only_on_this_machine() {
        let settings: Settings = toml::from_str(
            "[registry.\"docker.io\"]\nmirrors = [\"http://10.0.0.5:5000\"]\n\
             [registry.\"build.example:5000\"]\nplain-http = true\n",
        )
        .unwrap();
        let asked = Protection {
            plain_http: true,
            ..Protection::default()
        };
        let none = Protection::default();
        for (registry, protection, scheme, host, may_be_plain) in [
            (
                "docker.io",
                &none,
                Scheme::Https,
                "registry-1.docker.io",
                false,
            ),
            ("ghcr.io", &none, Scheme::Https, "ghcr.io", false),
            ("ghcr.io", &asked, Scheme::Http, "ghcr.io", false),
            (
                "build.example:5000",
                &none,
                Scheme::Http,
                "build.example",
                false,
            ),
            ("127.0.0.1:5000", &none, Scheme::Https, "127.0.0.1", true),
            ("localhost:5000", &none, Scheme::Https, "localhost", true),
            ("10.0.0.5:5000", &none, Scheme::Https, "10.0.0.5", false),
        ] {
            let found = of(registry, &settings, protection).unwrap();
            assert_eq!(found.origin.scheme, scheme, "{registry}");
            assert_eq!(found.origin.host, host, "{registry}");
            assert_eq!(found.may_be_plain, may_be_plain, "{registry}");
        }
        let mirrors = mirrors("docker.io", &settings, &none).unwrap();
        assert_eq!(mirrors[0].origin.authority(), "10.0.0.5:5000");
        assert_eq!(mirrors[0].registry, "10.0.0.5:5000");
    }
}
