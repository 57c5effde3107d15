//! Which certificates are believed: the system's, a file that was named, and Docker's directory of
//! a registry, `certs.d/HOST[:PORT]` with `*.crt` for authorities, `*.cert` and `*.key` for us.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fs_err as fs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::RegistryError;
use super::url::Origin;

/// Where distributions keep the authorities of the system.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Directories that Docker and Podman read.
const DIRECTORIES: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// TLS settings for each registry, made when first needed.
#[derive(Debug)]
pub(crate) struct Tls {
    authorities: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    made: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

impl Tls {
    /// `authorities` are believed beside the system's; `directory` stands for Docker's.
    pub(crate) fn new(authorities: Vec<PathBuf>, directory: Option<&Path>) -> Self {
        let directories = match directory {
            Some(directory) => vec![directory.to_owned()],
            None => DIRECTORIES.iter().map(PathBuf::from).collect(),
        };
        Self {
            authorities,
            directories,
            made: Mutex::default(),
        }
    }

    /// The settings for one host.
    pub(crate) fn for_origin(&self, origin: &Origin) -> Result<Arc<ClientConfig>, RegistryError> {
        let key = origin.authority();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make(&key)?);
        made.insert(key, Arc::clone(&config));
        Ok(config)
    }

    fn make(&self, host: &str) -> Result<ClientConfig, RegistryError> {
        let mut roots = RootCertStore::empty();
        if let Some(bundle) = bundle() {
            // A bundle has hundreds, and some may be of a kind that is not known here.
            roots.add_parsable_certificates(certificates(&bundle)?);
        }
        for path in &self.authorities {
            add(&mut roots, path)?;
        }
        let mut own = None;
        for directory in &self.directories {
            for path in files(&directory.join(host)) {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => add(&mut roots, &path)?,
                    Some("cert") => own = Some(own_certificate(&path)?),
                    _ => {}
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refused = |error: rustls::Error| RegistryError::Tls {
            host: host.to_owned(),
            reason: error.to_string(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_root_certificates(roots);
        let mut config = match own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refused)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The system's authorities; `SSL_CERT_FILE` stands for them as in OpenSSL.
fn bundle() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        return Some(path.into());
    }
    BUNDLES.iter().map(PathBuf::from).find(|path| path.exists())
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn wrong(path: &Path, reason: impl std::fmt::Display) -> RegistryError {
    RegistryError::Settings {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(path, format!("no certificates in PEM: {error}")))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), RegistryError> {
    let all = certificates(path)?;
    if all.is_empty() {
        return Err(wrong(path, "there is no certificate in it"));
    }
    for certificate in all {
        roots.add(certificate).map_err(|error| wrong(path, error))?;
    }
    Ok(())
}

/// A certificate of ours and its key, which has the same name but for its end.
fn own_certificate(
    path: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), RegistryError> {
    let key = path.with_extension("key");
    let private = PrivateKeyDer::from_pem_file(&key)
        .map_err(|error| wrong(&key, format!("no private key in PEM: {error}")))?;
    Ok((certificates(path)?, private))
}
