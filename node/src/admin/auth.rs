//! Who calls, and may they? Every call passes [`Door::admit`]; there is no anonymous one.
//!
//! Credentials are HTTP basic, in the `authorization` metadata of each call. The name ends at the first colon, so users
//! with a colon in their name manage the cluster through the Redis protocol.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};

use super::backend::AdminBackend;
use crate::guesses::network;
use crate::places::Caller;

/// Calls at a time, all callers together. Each may hold an answer of some megabytes.
const CALLS_MAX: usize = 128;
/// Watches at a time. Each costs a task and looks at every change.
pub(super) const WATCHES_MAX: usize = 64;
/// A wrong password is answered this late: a script that guesses is slowed, a person does not notice.
const FAILURE_DELAY: Duration = Duration::from_millis(300);
/// Wrong passwords an address may send within [`FAILURE_WINDOW`]; then it is refused unheard until the window ends.
const FAILURES_MAX: u32 = 20;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered. An attacker with more of them is not stopped by counting.
const ADDRESSES_MAX: usize = 4096;

/// What is called, as `Tenants/ListTenants`.
#[derive(Clone)]
struct CallName(Box<str>);

/// A service whose calls know their names: services are handed requests without them.
#[derive(Clone)]
pub(super) struct Named<S>(pub S);

impl<S: NamedService> NamedService for Named<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Named<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        // /package.of.the.Service/Method
        let name = request.uri().path().rsplit_once('.').map(|(_, name)| CallName(name.into()));
        name.map(|name| request.extensions_mut().insert(name));
        self.0.call(request)
    }
}

/// The only way in.
pub struct Door<B: AdminBackend> {
    backend: Arc<B>,
    calls: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    failures: Failures,
    stopping: watch::Receiver<bool>,
}

/// A call that was let in. While it lives it counts as one.
pub struct Admitted<L> {
    /// The user's name, printable.
    pub name: String,
    /// The login.
    pub login: L,
    _call: OwnedSemaphorePermit,
}

impl<B: AdminBackend> Door<B> {
    /// A door to `backend`. Streams end when `stopping` turns true.
    pub fn new(backend: Arc<B>, stopping: watch::Receiver<bool>) -> Self {
        Self {
            backend,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            failures: Failures::default(),
            stopping,
        }
    }

    /// The node behind the door. Ask it for nothing before [`Self::admit`].
    pub(super) fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// Turns true when the node stops.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }

    /// Lets a call in if its user may run the Redis command `argv`, which does what the call does.
    pub(super) async fn admit<T: Sync>(
        &self,
        request: &Request<T>,
        argv: &[&[u8]],
    ) -> Result<Admitted<B::Login>, Status> {
        let call = Arc::clone(&self.calls)
            .try_acquire_owned()
            .map_err(|_| Status::unavailable("too many admin calls are running"))?;
        let caller = Caller::of(request);
        let address = caller.map(Caller::address);
        let peer = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        if self.failures.is_barred(address, Instant::now()) {
            let text = "too many wrong passwords from this address; wait a minute";
            return Err(Status::resource_exhausted(text));
        }
        let (user, password) = credentials(request.metadata())?;
        let Some(login) = self.backend.login(&user, &password, &peer) else {
            self.failures.count(address, Instant::now());
            sleep(FAILURE_DELAY).await;
            return Err(Status::unauthenticated("wrong user name or password, or the user is off"));
        };
        if let Some(caller) = caller {
            caller.note_proof();
        }
        let name = request.extensions().get::<CallName>().map(|name| &*name.0);
        self.backend.permit_call(&login, argv, &peer, name)?;
        Ok(Admitted { name: text(&user), login, _call: call })
    }

    /// Room for one more watch.
    pub(super) fn begin_watch(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many watches are open on this node"))
    }
}

/// Reads user and password from the metadata.
fn credentials(metadata: &MetadataMap) -> Result<(Vec<u8>, Vec<u8>), Status> {
    let missing = "log in: send the metadata 'authorization: Basic <base64 of user:password>'";
    let header = metadata.get("authorization").ok_or_else(|| Status::unauthenticated(missing))?;
    let malformed = || Status::unauthenticated("the authorization metadata is malformed");
    let (scheme, encoded) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let plain = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
    let colon = plain.iter().position(|&byte| byte == b':').ok_or_else(malformed)?;
    Ok((plain[..colon].to_vec(), plain[colon + 1..].to_vec()))
}

/// Bytes as text: as they are if they are UTF-8, with `\xHH` escapes if not.
pub(super) fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// An error of Redis without its code: gRPC has codes of its own.
pub(super) fn without_code(error: &str) -> &str {
    match error.split_once(' ') {
        Some((code, rest)) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => rest,
        _ => error,
    }
}

/// Wrong passwords, counted by address.
#[derive(Default)]
struct Failures {
    by_address: Mutex<HashMap<IpAddr, Failed>>,
}

struct Failed {
    count: u32,
    since: Instant,
}

impl Failures {
    fn is_barred(&self, address: Option<SocketAddr>, now: Instant) -> bool {
        let Some(network) = address.map(network) else { return false };
        let by_address = self.by_address.lock().expect("nobody panics while holding this lock");
        by_address.get(&network).is_some_and(|failed| failed.count >= FAILURES_MAX && !failed.is_over(now))
    }

    fn count(&self, address: Option<SocketAddr>, now: Instant) {
        let Some(network) = address.map(network) else { return };
        let mut by_address = self.by_address.lock().expect("nobody panics while holding this lock");
        if by_address.len() >= ADDRESSES_MAX {
            by_address.retain(|_, failed| !failed.is_over(now));
        }
        if by_address.len() >= ADDRESSES_MAX && !by_address.contains_key(&network) {
            return;
        }
        let failed = by_address.entry(network).or_insert(Failed { count: 0, since: now });
        if failed.is_over(now) {
            *failed = Failed { count: 0, since: now };
        }
        failed.count += 1;
    }
}

impl Failed {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= FAILURE_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_end_the_name_at_the_first_colon() {
        let mut metadata = MetadataMap::new();
        assert_eq!(credentials(&metadata).unwrap_err().code(), tonic::Code::Unauthenticated);
        metadata.insert("authorization", "Basic YTpiOmM=".parse().unwrap());
        assert_eq!(credentials(&metadata).unwrap(), (b"a".to_vec(), b"b:c".to_vec()));
        for malformed in ["Bearer x", "Basic", "Basic %%%", "Basic YWJj"] {
            metadata.insert("authorization", malformed.parse().unwrap());
            assert!(credentials(&metadata).is_err(), "{malformed}");
        }
    }

    #[test]
    fn an_address_that_guesses_is_barred_for_a_minute() {
        let failures = Failures::default();
        let guesser = Some("[2001:db8::1]:1".parse().unwrap());
        let neighbor = Some("[2001:db8::2]:2".parse().unwrap());
        let other = Some("192.0.2.1:3".parse().unwrap());
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(!failures.is_barred(guesser, start));
            failures.count(guesser, start);
        }
        assert!(failures.is_barred(guesser, start));
        assert!(failures.is_barred(neighbor, start));
        assert!(!failures.is_barred(other, start));
        assert!(!failures.is_barred(guesser, start + FAILURE_WINDOW));
    }

    #[test]
    fn redis_codes_are_dropped() {
        assert_eq!(without_code("ERR no such thing"), "no such thing");
        assert_eq!(without_code("NOPERM User x"), "User x");
        assert_eq!(without_code("User x"), "User x");
    }
}
