//! Certificates ordered and renewed by the gateway itself (RFC 8555, http-01).
//!
//! ```text
//!  due? ──▶ account ──▶ order ──▶ challenge: token at /.well-known/acme-challenge/ ──▶ ready
//!    ▲                                                                                 │
//!    └── looked at every second ◀── <state>/acme/NAME.pem, replaced whole ◀── finalize ┘
//! ```
//!
//! The file holds chain and key, so that they are always of one order; like any other it is read again
//! when it changes. An order that fails is tried again with growing pauses, shown in the status, and
//! touches neither the certificate in force nor another one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::spawn_local;
use x509_cert::der::Decode as _;

use crate::config::{AcmeConfig, CertificateConfig};
use crate::gateway::Gateway;

/// Where challenges are asked for (RFC 8555, section 8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after a failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_hours(6);
/// How long an order may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Tokens of orders under way; a server that makes up more is not believed.
const MOST_TOKENS: usize = 1000;

/// Answers to challenges of orders under way, for all workers.
#[derive(Debug, Default)]
pub(crate) struct Challenges(Mutex<HashMap<String, String>>);

impl Challenges {
    /// The answer, when this path asks for one that is known.
    pub(crate) fn answer(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(token).cloned()
    }

    fn put(&self, token: &str, answer: &str) -> Result<(), String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_TOKENS {
            return Err("too many challenges are under way".to_owned());
        }
        known.insert(token.to_owned(), answer.to_owned());
        Ok(())
    }

    fn forget(&self, tokens: &[String]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for token in tokens {
            known.remove(token);
        }
    }
}

/// Where a certificate's order stands.
#[derive(Debug, Default)]
struct Progress {
    is_under_way: bool,
    failures: u32,
    /// Not tried again before.
    not_before: Option<Instant>,
    problem: Option<String>,
}

/// Orders by the name of their certificate.
#[derive(Debug, Default)]
pub(crate) struct Orders(RefCell<HashMap<String, Progress>>);

impl Orders {
    /// Why a certificate could not be ordered the last time it was tried.
    pub(crate) fn problem(&self, name: &str) -> Option<String> {
        self.0.borrow().get(name)?.problem.clone()
    }

    fn may_begin(&self, name: &str) -> bool {
        let mut all = self.0.borrow_mut();
        let progress = all.entry(name.to_owned()).or_default();
        let is_early = progress.not_before.is_some_and(|at| Instant::now() < at);
        if progress.is_under_way || is_early {
            return false;
        }
        progress.is_under_way = true;
        true
    }

    fn ended(&self, name: &str, outcome: Result<(), String>) {
        let mut all = self.0.borrow_mut();
        let progress = all.entry(name.to_owned()).or_default();
        progress.is_under_way = false;
        match outcome {
            Ok(()) => *progress = Progress::default(),
            Err(problem) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << progress.failures.min(16));
                progress.failures += 1;
                progress.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
                progress.problem = Some(problem);
            }
        }
    }
}

/// Orders what is due for as long as the gateway runs.
pub(crate) async fn run(gateway: Rc<Gateway>) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let table = gateway.shared.table.load_full();
        for certificate in &table.config.certificates {
            let Some(acme) = &certificate.acme else {
                continue;
            };
            let Ok((file, _)) = certificate.files(&gateway.acme_dir()) else {
                continue;
            };
            if is_due(&file, certificate, acme) && gateway.orders.may_begin(&certificate.name) {
                let (gateway, certificate) = (Rc::clone(&gateway), certificate.clone());
                spawn_local(async move { order_one(&gateway, &certificate, &file).await });
            }
        }
    }
}

async fn order_one(gateway: &Gateway, certificate: &CertificateConfig, file: &Path) {
    let Some(acme) = &certificate.acme else {
        return;
    };
    let mut tokens = Vec::new();
    let ordered = tokio::time::timeout(
        PATIENCE,
        obtain(gateway, certificate, acme, file, &mut tokens),
    );
    let outcome = ordered
        .await
        .unwrap_or_else(|_late| Err(format!("it took longer than {} s", PATIENCE.as_secs())));
    gateway.shared.challenges.forget(&tokens);
    gateway.orders.ended(&certificate.name, outcome);
    gateway.load_certificates();
}

/// Gets a certificate and puts it in its place.
async fn obtain(
    gateway: &Gateway,
    certificate: &CertificateConfig,
    acme: &AcmeConfig,
    file: &Path,
    tokens: &mut Vec<String>,
) -> Result<(), String> {
    let said = |what: &str, error: instant_acme::Error| format!("{what}: {error}");
    let account = account(&gateway.acme_dir(), acme).await?;
    let hosts: Vec<Identifier> = certificate
        .hosts
        .iter()
        .map(|host| Identifier::Dns(host.clone()))
        .collect();
    let mut order = account
        .new_order(&NewOrder::new(&hosts))
        .await
        .map_err(|error| said("order", error))?;
    prove(gateway, &mut order, tokens).await?;
    let retries = RetryPolicy::default();
    let status = order
        .poll_ready(&retries)
        .await
        .map_err(|error| said("wait for the challenges", error))?;
    if status != OrderStatus::Ready {
        return Err(format!("the server says that the order is {status:?}"));
    }
    let key = order
        .finalize()
        .await
        .map_err(|error| said("finalize", error))?;
    let chain = order
        .poll_certificate(&retries)
        .await
        .map_err(|error| said("fetch the certificate", error))?;
    let text = format!("{}{chain}\n{key}", header(certificate, acme));
    replace(file, text.as_bytes()).map_err(|error| format!("{}: {error}", file.display()))
}

/// Makes the answers to all challenges known, and says so to the server.
async fn prove(
    gateway: &Gateway,
    order: &mut Order,
    tokens: &mut Vec<String>,
) -> Result<(), String> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| error.to_string())?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(format!("an authorization is {status:?}")),
        }
        let mut challenge = authorization
            .challenge(ChallengeType::Http01)
            .ok_or("the server offers no http-01 challenge")?;
        let answer = challenge.key_authorization();
        gateway
            .shared
            .challenges
            .put(&challenge.token, answer.as_str())?;
        tokens.push(challenge.token.clone());
        challenge
            .set_ready()
            .await
            .map_err(|error| format!("challenge: {error}"))?;
    }
    Ok(())
}

/// The account with a server, made and kept when there is none.
async fn account(dir: &Path, acme: &AcmeConfig) -> Result<Account, String> {
    // One account a server; its URL may hold anything.
    let name: String = acme
        .directory
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect();
    let file = dir.join(format!("account-{}.json", &name[..name.len().min(200)]));
    let kept = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<AccountCredentials>(&text).ok());
    if let Some(credentials) = kept
        && let Ok(account) = builder(acme)?.from_credentials(credentials).await
    {
        return Ok(account);
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let made = builder(acme)?
        .create(&new, acme.directory.clone(), None)
        .await;
    let (account, credentials) = made.map_err(|error| format!("account: {error}"))?;
    let text = serde_json::to_vec(&credentials).map_err(|error| error.to_string())?;
    replace(&file, &text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(account)
}

/// What talks to a server, by TLS that believes the root that was named, or the host's.
fn builder(acme: &AcmeConfig) -> Result<AccountBuilder, String> {
    let builder = match &acme.root {
        Some(root) => Account::builder_with_root(root),
        None => Account::builder(),
    };
    builder.map_err(|error| format!("TLS to the server: {error}"))
}

/// What an order was for, before the first line of PEM, where readers of PEM skip it.
fn header(certificate: &CertificateConfig, acme: &AcmeConfig) -> String {
    let hosts = certificate.hosts.join(" ");
    format!("{hosts} from {}\n", acme.directory)
}

/// Whether there is no certificate, one for other hosts, or one of whose time two thirds are over.
fn is_due(file: &Path, certificate: &CertificateConfig, acme: &AcmeConfig) -> bool {
    let Ok(text) = fs::read(file) else {
        return true;
    };
    if !text.starts_with(header(certificate, acme).as_bytes()) {
        return true;
    }
    let Some((from, until)) = validity(&text) else {
        return true;
    };
    let lifetime = until.duration_since(from).unwrap_or_default();
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    left < lifetime / 3
}

fn validity(pem: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let first = CertificateDer::from_pem_slice(pem).ok()?;
    let certificate = x509_cert::Certificate::from_der(&first).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((
        validity.not_before.to_system_time(),
        validity.not_after.to_system_time(),
    ))
}

/// Replaces a private file so that a reader sees the old one or the new one.
fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(dir)?;
    let unfinished = PathBuf::from(format!("{}.unfinished", file.display()));
    let mut new = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    new.write_all(text)?;
    new.sync_all()?;
    fs::rename(&unfinished, file)?;
    fs::File::open(dir)?.sync_all()
}
