//! Certificates by host name, from files that are read again when they change.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use fs_err as fs;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::CertificateConfig;
use crate::control::protocol::Refusal;
use crate::error::{GatewayError, Result};

/// Bytes of a certificate or key file.
const MOST_FILE: u64 = 1024 * 1024;

/// TLS of all listeners.
#[derive(Debug)]
pub(crate) struct Tls {
    /// Offers HTTP/2 and HTTP/1.1.
    pub(crate) http: Arc<ServerConfig>,
    /// Offers no protocol by name.
    pub(crate) plain: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    provider: Arc<CryptoProvider>,
    /// Where those lie that the gateway ordered itself.
    ordered: PathBuf,
}

/// The certificates in force.
#[derive(Debug, Default)]
struct Certificates(ArcSwap<Shown>);

#[derive(Debug, Default)]
struct Shown {
    loaded: BTreeMap<String, Loaded>,
    by_host: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

#[derive(Debug, Clone)]
struct Loaded {
    config: CertificateConfig,
    stamp: Stamp,
    key: Arc<CertifiedKey>,
}

/// Changes when one of the two files is replaced or written.
type Stamp = [Option<(SystemTime, u64, u64)>; 2];

impl Tls {
    pub(crate) fn new(ordered: PathBuf) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates = Arc::new(Certificates::default());
        let config = |protocols: &[&[u8]]| -> Result<Arc<ServerConfig>> {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| GatewayError::refused("TLS", error.to_string()))?;
            let resolver = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
            let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            // Idle connections keep no write buffer beyond this.
            config.send_tls13_tickets = 1;
            Ok(Arc::new(config))
        };
        Ok(Self {
            http: config(&[b"h2", b"http/1.1"])?,
            plain: config(&[])?,
            certificates,
            provider,
            ordered,
        })
    }

    /// Reads certificates; unchanged files are not read again. One that cannot be read leaves the
    /// last good one of its name in force, and touches no other.
    pub(crate) fn load(&self, wanted: &[CertificateConfig], refusals: &mut Vec<Refusal>) {
        let before = self.certificates.0.load();
        let mut shown = Shown::default();
        for config in wanted {
            let known = before.loaded.get(&config.name);
            let files = config.files(&self.ordered);
            let stamp = files.as_ref().map_or([None, None], |(certificate, key)| {
                [stamp(certificate), stamp(key)]
            });
            let unchanged = known.filter(|known| known.config == *config && known.stamp == stamp);
            let loaded = match unchanged {
                Some(known) => known.clone(),
                None => match files.and_then(|(certificate, key)| self.read(&certificate, &key)) {
                    Ok(key) => Loaded {
                        config: config.clone(),
                        stamp,
                        key: Arc::new(key),
                    },
                    Err(reason) => {
                        let name = &config.name;
                        refusals.push(Refusal::of("certificate", name, &reason, known.is_some()));
                        let Some(known) = known else { continue };
                        known.clone()
                    }
                },
            };
            shown.add(loaded);
        }
        self.certificates.0.store(Arc::new(shown));
    }

    fn read(&self, certificate: &Path, key: &Path) -> std::result::Result<CertifiedKey, String> {
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| format!("{}: {error}", certificate.display()))?;
        if chain.is_empty() {
            return Err(format!("{} holds no certificate", certificate.display()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|error| format!("{}: {error}", key.display()))?;
        // Also finds a key that does not belong to the certificate.
        CertifiedKey::from_der(chain, key, &self.provider)
            .map_err(|error| format!("{}: {error}", certificate.display()))
    }
}

impl Shown {
    fn add(&mut self, loaded: Loaded) {
        for host in &loaded.config.hosts {
            let key = Arc::clone(&loaded.key);
            self.by_host.entry(host.to_ascii_lowercase()).or_insert(key);
        }
        if loaded.config.hosts.is_empty() && self.default.is_none() {
            self.default = Some(Arc::clone(&loaded.key));
        }
        self.loaded.insert(loaded.config.name.clone(), loaded);
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.load();
        let by_name = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let exact = shown.by_host.get(&name);
            exact.or_else(|| {
                let (_, parent) = name.split_once('.')?;
                shown.by_host.get(&format!("*.{parent}"))
            })
        });
        by_name.or(shown.default.as_ref()).map(Arc::clone)
    }
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MOST_FILE {
        return Err(format!(
            "{} is larger than {MOST_FILE} bytes",
            path.display()
        ));
    }
    fs::read(path).map_err(|error| error.to_string())
}

fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
