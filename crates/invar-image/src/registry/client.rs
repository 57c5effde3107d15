//! One repository of one registry: requests with authorisation, redirects, and patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::Timestamp;

use super::backoff::{Backoff, retry_after};
use super::body::Payload;
use super::challenge::{self, Challenge};
use super::credentials::{self, Credentials};
use super::endpoint::Endpoint;
use super::error::{self, RegistryError, is_transient};
use super::http::{Answer, Ask, Http, is_plain};
use super::progress::{Event, Listener};
use super::tls::Tls;
use super::token::{self, Token, Wanted};
use super::url::{Origin, Url};

/// Most redirects of one request.
const MOST_REDIRECTS: u32 = 10;
/// Longest error answer that is read.
pub(crate) const ERROR_ANSWER: u64 = 64 << 10;

/// What all threads that speak to one registry share.
pub(crate) struct Client {
    /// As the user names it: `docker.io`, `ghcr.io`, `host:port`.
    pub(crate) registry: String,
    /// The repository's path.
    pub(crate) path: String,
    origin: Origin,
    tls: Arc<Tls>,
    backoff: Backoff,
    credentials: OnceLock<Option<Credentials>>,
    granted: Mutex<HashMap<String, Grant>>,
    pub(crate) listener: Listener,
}

/// What the registry wants to see with each request.
#[derive(Clone)]
enum Grant {
    Basic(HeaderValue),
    Bearer(Token),
}

/// A request to the registry.
pub(crate) struct Call<'a> {
    /// What it is about, for errors.
    pub(crate) what: &'a str,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// What a token must allow.
    pub(crate) scopes: &'a [String],
    /// Answers of 300 and more that are no errors to the caller.
    pub(crate) expected: &'a [u16],
}

impl<'a> Call<'a> {
    pub(crate) fn new(what: &'a str, method: Method, url: Url, scopes: &'a [String]) -> Self {
        Self {
            what,
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            scopes,
            expected: &[],
        }
    }
}

impl Client {
    /// Prepares to speak to an endpoint; nothing is sent but to find out whether a registry on
    /// this machine has TLS.
    pub(crate) fn new(
        endpoint: Endpoint,
        path: String,
        given: Option<Credentials>,
        backoff: Backoff,
        listener: Listener,
    ) -> Result<Arc<Self>, RegistryError> {
        let tls = Arc::new(endpoint.tls);
        let mut origin = endpoint.origin;
        if endpoint.may_be_plain && !is_plain(&origin) {
            let mut http = Http::new(Arc::clone(&tls))?;
            if !http.speaks_tls(&origin)? {
                origin = endpoint.plain_origin;
            }
        }
        let credentials = OnceLock::new();
        if given.is_some() {
            drop(credentials.set(given));
        }
        Ok(Arc::new(Self {
            registry: endpoint.registry,
            path,
            origin,
            tls,
            backoff,
            credentials,
            granted: Mutex::default(),
            listener,
        }))
    }

    /// `/v2/REPOSITORY/REST`
    pub(crate) fn url(&self, rest: &str) -> Url {
        Url {
            origin: self.origin.clone(),
            path_and_query: format!("/v2/{}/{rest}", self.path),
        }
    }

    /// `/v2/`
    pub(crate) fn base(&self) -> Url {
        Url {
            origin: self.origin.clone(),
            path_and_query: "/v2/".to_owned(),
        }
    }

    pub(crate) fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.path)
    }

    pub(crate) fn push_scope(&self) -> String {
        format!("repository:{}:pull,push", self.path)
    }

    fn credentials(&self) -> Result<Option<&Credentials>, RegistryError> {
        if self.credentials.get().is_none() {
            let found = credentials::find(&self.registry, &self.path)?;
            // Another thread may have found the same in the meantime.
            drop(self.credentials.set(found));
        }
        Ok(self.credentials.get().and_then(Option::as_ref))
    }

    fn granted(&self, scopes: &[String]) -> Option<Result<HeaderValue, RegistryError>> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        match granted.get(&scopes.join(" "))? {
            Grant::Basic(header) => Some(Ok(header.clone())),
            Grant::Bearer(token) if token.good_until > Instant::now() => {
                Some(token::secret(&format!("Bearer {}", token.text)))
            }
            Grant::Bearer(_) => None,
        }
    }
}

/// One thread's way to a registry.
pub(crate) struct Session {
    pub(crate) client: Arc<Client>,
    http: Http,
}

impl Session {
    pub(crate) fn new(client: &Arc<Client>) -> Result<Self, RegistryError> {
        Ok(Self {
            client: Arc::clone(client),
            http: Http::new(Arc::clone(&client.tls))?,
        })
    }

    /// Sends a request until it is answered with something that repeating it would not change.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> Result<Answer, RegistryError> {
        let mut failures = 0;
        loop {
            let (error, asked_for) = match self.authorised(call) {
                Ok(mut answer) if is_transient(answer.status) => {
                    let header = answer.header(RETRY_AFTER);
                    let wait = header.and_then(|text| retry_after(text, Timestamp::now()));
                    let error = self.refusal(call, &mut answer);
                    if let Some(wait) = wait.filter(|wait| *wait > self.client.backoff.longest) {
                        return Err(too_many(error, wait));
                    }
                    (error, wait)
                }
                Ok(mut answer) => {
                    let status = answer.status;
                    if status.is_success() || call.expected.contains(&status.as_u16()) {
                        return Ok(answer);
                    }
                    return Err(self.refusal(call, &mut answer));
                }
                Err(error) if error.is_transient() => (error, None),
                Err(error) => return Err(error),
            };
            failures += 1;
            self.wait(failures, asked_for, error)?;
        }
    }

    /// Sends a request and reads its small answer whole; one that breaks off is asked for again.
    pub(crate) fn call_small(
        &mut self,
        call: &Call<'_>,
        limit: u64,
    ) -> Result<(Answer, Vec<u8>), RegistryError> {
        let mut failures = 0;
        loop {
            let mut answer = self.call(call)?;
            match answer.small(call.what, limit) {
                Ok(bytes) => return Ok((answer, bytes)),
                Err(error) if error.is_transient() => {
                    failures += 1;
                    self.wait(failures, None, error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request that makes no sense a second time.
    pub(crate) fn call_once(&mut self, call: &Call<'_>) -> Result<Answer, RegistryError> {
        let mut answer = self.authorised(call)?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.refusal(call, &mut answer))
    }

    /// Waits before another attempt, or gives the error back when there were enough.
    pub(crate) fn wait(
        &self,
        failures: u32,
        asked_for: Option<Duration>,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        let backoff = &self.client.backoff;
        if failures >= backoff.attempts {
            return Err(error);
        }
        (self.client.listener)(Event::Retry {
            reason: error.to_string(),
        });
        let delay = backoff.delay(failures);
        std::thread::sleep(asked_for.map_or(delay, |asked_for| asked_for.max(delay)));
        Ok(())
    }

    /// One attempt, with a token or password once the registry has asked for it.
    fn authorised(&mut self, call: &Call<'_>) -> Result<Answer, RegistryError> {
        let mut url = call.url.clone();
        let mut redirects = 0;
        let mut is_renewed = false;
        loop {
            let is_registry = url.origin == self.client.origin;
            let mut headers = call.headers.clone();
            // Another host gets no credentials of this one.
            if is_registry && let Some(header) = self.client.granted(call.scopes) {
                headers.insert(AUTHORIZATION, header?);
            }
            let mut answer = self.http.send(&Ask {
                method: call.method.clone(),
                url: &url,
                headers,
                payload: &call.payload,
            })?;
            if answer.status == StatusCode::UNAUTHORIZED && is_registry && !is_renewed {
                is_renewed = true;
                if self.authenticate(&answer, call.scopes)? {
                    continue;
                }
            }
            if !is_redirect(&answer, &call.method) {
                return Ok(answer);
            }
            redirects += 1;
            if redirects > MOST_REDIRECTS {
                let reason = format!("more than {MOST_REDIRECTS} redirects, the last to {url}");
                return Err(RegistryError::protocol(call.what, reason));
            }
            let location = answer.header(LOCATION).unwrap_or_default().to_owned();
            url = url.join(&location).map_err(|reason| {
                RegistryError::protocol(call.what, format!("a redirect of {url}: {reason}"))
            })?;
            // Its connection can be used again once it was read.
            answer.small(call.what, ERROR_ANSWER).ok();
        }
    }

    /// Does what the registry asks for; whether there is something new to show it.
    fn authenticate(&mut self, answer: &Answer, scopes: &[String]) -> Result<bool, RegistryError> {
        let headers = answer.headers.get_all(WWW_AUTHENTICATE);
        let headers = headers.iter().filter_map(|header| header.to_str().ok());
        let Some(challenge) = challenge::best(headers) else {
            return Ok(false);
        };
        let client = Arc::clone(&self.client);
        let credentials = client.credentials()?;
        let grant = match challenge {
            Challenge::Basic => match credentials {
                Some(Credentials::Password { user, password }) => {
                    Grant::Basic(token::basic(user, password)?)
                }
                _ => return Ok(false),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let asked: Vec<String> = scope.into_iter().collect();
                Grant::Bearer(token::get(
                    &mut self.http,
                    &Wanted {
                        realm: &realm,
                        service: service.as_deref(),
                        scopes: if scopes.is_empty() { &asked } else { scopes },
                        credentials,
                        may_be_plain: is_plain(&client.origin),
                    },
                )?)
            }
        };
        let mut granted = client
            .granted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        granted.insert(scopes.join(" "), grant);
        Ok(true)
    }

    /// An answer that is not what was asked for, as an error.
    pub(crate) fn refusal(&self, call: &Call<'_>, answer: &mut Answer) -> RegistryError {
        let body = answer.small(call.what, ERROR_ANSWER).unwrap_or_default();
        let message = error::message(&body);
        let host = answer.host();
        match answer.status.as_u16() {
            401 | 403 if answer.url.origin == self.client.origin => RegistryError::Denied {
                what: call.what.to_owned(),
                host,
                with_credentials: matches!(self.client.credentials.get(), Some(Some(_))),
                message,
            },
            404 => RegistryError::NotFound {
                what: call.what.to_owned(),
                host,
            },
            _ => RegistryError::Status {
                what: call.what.to_owned(),
                host,
                status: answer.status,
                message,
            },
        }
    }
}

fn too_many(error: RegistryError, wait: Duration) -> RegistryError {
    match error {
        RegistryError::Status { host, message, .. } => RegistryError::TooManyRequests {
            host,
            wait,
            message,
        },
        other => other,
    }
}

/// A redirect that may be followed: with a body only where the method must stay.
fn is_redirect(answer: &Answer, method: &Method) -> bool {
    let is_reading = matches!(*method, Method::GET | Method::HEAD);
    match answer.status.as_u16() {
        301..=303 => is_reading,
        307 | 308 => true,
        _ => false,
    }
}
