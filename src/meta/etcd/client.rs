//! Calls to etcd: which endpoint, who is logged in, how long, and what is repeated.
//!
//! Every operation has one deadline, its waiting for a slot, for connections, for logins and for its repetitions included. A
//! request is repeated, at the next endpoint, if that cannot do it twice: reads and the like always
//! ([`Repeat::Freely`]), transactions only while the request has certainly not been carried out and never will be
//! ([`Repeat::IfNotDone`]). An endpoint is greeted before it is used for the first time and after each of its failures: that
//! proves that it answers, and that it is an etcd of a version and cluster that fit, before anything that matters is sent.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::endpoints::{Endpoints, Pick, RECONNECT};
use super::login::{Login, Token};
use super::options::{EtcdOptions, Tls};
use super::status::{Verdict, hung_up, judge};
use super::wire::{Answer as _, Method, StatusRequest};
use crate::base::{Clock, Rng};
use crate::meta::MetaError;
use crate::meta::metrics::Metrics;

/// Requests under way at once; callers wait beyond it, within their deadline.
pub const MAX_IN_FLIGHT: usize = 256;
/// Largest answer that is taken, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Longest time for a TCP connection and its TLS handshake, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 2_000;
/// Longest time for the greeting of an endpoint, in milliseconds.
const GREETING_TIMEOUT_MS: u64 = 1_500;
/// A connection that carries a request is pinged when nothing came for this long, in milliseconds. etcd closes connections
/// that ping more often than every 5 s.
const PING_AFTER_MS: u64 = 10_000;
/// … and given up when the ping is not answered for this long, in milliseconds.
const PING_TIMEOUT_MS: u64 = 5_000;
/// Oldest version that has what the store uses.
const OLDEST_VERSION: (u32, u32) = (3, 4);

/// Which failed requests are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// All: doing it twice is the same as once.
    Freely,
    /// Those that certainly have not been and will not be carried out.
    IfNotDone,
}

/// Why a call failed.
#[derive(Debug)]
pub enum CallError {
    /// The lease named in the request is gone.
    LeaseGone,
    /// A lease of that id is there; `repeated`: perhaps made by an earlier try of this call.
    LeaseExists {
        /// Whether an earlier try got no answer.
        repeated: bool,
    },
    /// The asked-for revision is compacted away.
    Compacted,
    /// The answer is larger than [`MAX_ANSWER_BYTES`].
    AnswerTooLarge,
    /// Anything else.
    Meta(MetaError),
}

impl From<CallError> for MetaError {
    fn from(error: CallError) -> Self {
        let unexpected = |what: &str| Self::Environment(format!("etcd gave an answer that does not fit: {what}"));
        match error {
            CallError::Meta(error) => error,
            CallError::LeaseGone => unexpected("a lease is gone"),
            CallError::LeaseExists { .. } => unexpected("a lease exists"),
            CallError::Compacted => unexpected("a revision is compacted"),
            CallError::AnswerTooLarge => unexpected("more bytes than this client takes"),
        }
    }
}

/// The way to etcd. Clones share it.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    members: Vec<Member>,
    endpoints: Mutex<Endpoints>,
    login: Login,
    in_flight: Semaphore,
    /// Wakes those who wait for an endpoint that is being tried.
    answers: Notify,
    /// Why the last endpoint failed, for those who never got to ask one.
    last_failure: Mutex<String>,
    /// Id of the cluster; 0 until the first answer.
    cluster_id: AtomicU64,
    /// The newest revision that an answer told.
    newest_revision: AtomicU64,
    /// etcd has shown an older one after that.
    went_back: AtomicBool,
    request_timeout_ms: u64,
    tls: bool,
    clock: Clock,
    rng: Rng,
    metrics: Metrics,
}

/// One endpoint and its connection.
struct Member {
    name: String,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
    /// Whether it has answered a greeting since its last failure.
    greeted: AtomicBool,
}

/// One endpoint, ready to be asked.
pub struct Ask {
    /// Its number.
    pub at: usize,
    grpc: Grpc<Channel>,
    token: Option<AsciiMetadataValue>,
}

impl Ask {
    fn new(at: usize, channel: Channel, token: Option<AsciiMetadataValue>) -> Self {
        let grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Self { at, grpc, token }
    }

    /// A request with what etcd wants to have in its metadata. A member without a leader is to refuse rather than hang.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    /// One request, one answer.
    pub async fn unary<M: Method>(mut self, message: M) -> Result<M::Answer, Status> {
        let request = self.request(message);
        self.ready().await?;
        let answer = self.grpc.unary(request, M::path(), ProstCodec::<M, M::Answer>::default()).await?;
        Ok(answer.into_inner())
    }

    /// Many requests, many answers.
    pub async fn streaming<M: Method>(
        mut self,
        messages: impl futures::Stream<Item = M> + Send + 'static,
    ) -> Result<tonic::Streaming<M::Answer>, Status> {
        let request = self.request(messages);
        self.ready().await?;
        let answers = self.grpc.streaming(request, M::path(), ProstCodec::<M, M::Answer>::default()).await?;
        Ok(answers.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

impl Client {
    /// Connects to nothing yet. Errors: `Environment` for endpoints and certificates that make no sense.
    pub fn new(options: EtcdOptions, clock: Clock, rng: Rng, metrics: Metrics) -> Result<Self, MetaError> {
        let members = options.endpoints.iter().map(|name| Member::new(name, options.tls.as_ref()));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(MetaError::Environment("etcd has no endpoint".to_owned()));
        }
        let first = rng.below(members.len() as u64) as usize;
        Ok(Self(Arc::new(Shared {
            endpoints: Mutex::new(Endpoints::new(members.len(), first)),
            members,
            login: Login::new(options.user),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            answers: Notify::new(),
            last_failure: Mutex::default(),
            cluster_id: AtomicU64::new(0),
            newest_revision: AtomicU64::new(0),
            went_back: AtomicBool::new(false),
            request_timeout_ms: options.request_timeout_ms,
            tls: options.tls.is_some(),
            clock,
            rng,
            metrics,
        })))
    }

    /// Longest time of one operation, in milliseconds.
    pub fn request_timeout_ms(&self) -> u64 {
        self.0.request_timeout_ms
    }

    /// Milliseconds since boot.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.boot_ms()
    }

    /// The pause after so many failures in a row.
    pub fn pause(&self, failures: u32) -> Duration {
        RECONNECT.pause(failures, &self.0.rng)
    }

    /// Where things are counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// One request, one answer.
    pub async fn call<M: Method>(
        &self,
        operation: &'static str,
        message: M,
        repeat: Repeat,
    ) -> Result<M::Answer, CallError> {
        let known = self.0.newest_revision.load(Ordering::Acquire);
        let (answer, at) = self.run(operation, repeat, |ask| ask.unary(message.clone())).await?;
        if let Some(header) = answer.header() {
            self.0.same_cluster(at, header.cluster_id).map_err(CallError::Meta)?;
            if M::LINEARIZABLE {
                self.0.not_older(known, header.revision as u64).map_err(CallError::Meta)?;
            }
        }
        Ok(answer)
    }

    /// Asks, and repeats as far as that is allowed, until the deadline. Gives the endpoint that answered, too.
    pub async fn run<T, F>(
        &self,
        operation: &'static str,
        repeat: Repeat,
        ask: impl Fn(Ask) -> F + Send + Sync,
    ) -> Result<(T, usize), CallError>
    where
        T: Send,
        F: Future<Output = Result<T, Status>> + Send,
    {
        let shared = &*self.0;
        let deadline_ms = shared.clock.boot_ms() + shared.request_timeout_ms;
        let mut trouble = Trouble { operation, repeat, maybe_done: false, reason: String::new() };
        let Ok(Ok(_slot)) =
            tokio::time::timeout(Duration::from_millis(shared.request_timeout_ms), shared.in_flight.acquire()).await
        else {
            trouble.reason = format!("{MAX_IN_FLIGHT} other requests wait for answers");
            return Err(trouble.give_up());
        };
        let mut logins = 0;
        loop {
            let Some(at) = shared.pick(deadline_ms).await else {
                if trouble.reason.is_empty() {
                    trouble.reason.clone_from(&shared.last_failure.lock());
                }
                return Err(trouble.give_up());
            };
            let (token, verdict) = match shared.prepare(at, deadline_ms).await {
                Err(verdict) => (Token::default(), verdict),
                Ok(token) => {
                    let asking = ask(Ask::new(at, shared.members[at].channel(), token.value.clone()));
                    match shared.within(at, shared.attempt_ms(repeat, deadline_ms), asking).await {
                        Ok(answer) => {
                            shared.answered(at);
                            return Ok((answer, at));
                        }
                        Err(verdict) => (token, verdict),
                    }
                }
            };
            if !matches!(verdict, Verdict::Elsewhere { .. } | Verdict::LogIn | Verdict::NoLogins) {
                // An answer, if not the one that was hoped for.
                shared.answered(at);
            }
            match verdict {
                Verdict::Elsewhere { maybe_done, reason } => {
                    shared.failed(at, &reason);
                    trouble.note(maybe_done, format!("{}: {reason}", shared.members[at].name));
                    if trouble.maybe_done && repeat == Repeat::IfNotDone {
                        return Err(trouble.give_up());
                    }
                }
                Verdict::LogIn => {
                    shared.login.forget(&token);
                    logins += 1;
                    if logins > 1 {
                        // A member that has not heard of the newest token yet.
                        shared.failed(at, "the login is not accepted");
                        trouble.note(false, format!("{}: the login is not accepted", shared.members[at].name));
                    }
                }
                Verdict::NoLogins => shared.login.not_needed(),
                Verdict::LeaseGone => return Err(CallError::LeaseGone),
                Verdict::LeaseExists => return Err(CallError::LeaseExists { repeated: trouble.maybe_done }),
                Verdict::Compacted => return Err(CallError::Compacted),
                Verdict::AnswerTooLarge => return Err(CallError::AnswerTooLarge),
                Verdict::Fail(error) => return Err(CallError::Meta(error)),
            }
        }
    }

    /// The endpoint no longer answers: later operations begin with another one, over a new connection.
    pub fn failed(&self, at: usize, reason: &str) {
        self.0.failed(at, reason);
        self.0.members[at].disconnect();
    }

    /// Name of an endpoint.
    pub fn endpoint(&self, at: usize) -> &str {
        &self.0.members[at].name
    }

    /// What to do about an error of a stream.
    pub fn judge(&self, status: &Status) -> Verdict {
        judge(status, self.0.login.user())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.members.iter().map(|member| member.name.as_str()).collect();
        write!(f, "etcd at {}", names.join(", "))
    }
}

/// What went wrong so far with one operation.
struct Trouble {
    operation: &'static str,
    repeat: Repeat,
    maybe_done: bool,
    reason: String,
}

impl Trouble {
    fn note(&mut self, maybe_done: bool, reason: String) {
        self.maybe_done |= maybe_done;
        self.reason = reason;
    }

    fn give_up(self) -> CallError {
        let Self { operation, repeat, maybe_done, mut reason } = self;
        if repeat == Repeat::IfNotDone {
            reason.push_str(if maybe_done { "; it may have happened" } else { "; it has not happened" });
        }
        CallError::Meta(MetaError::Unavailable { operation, reason })
    }
}

impl Shared {
    /// The endpoint to ask now; `None` if none is to be asked before the deadline.
    async fn pick(&self, deadline_ms: u64) -> Option<usize> {
        loop {
            let now_ms = self.clock.boot_ms();
            let left_ms = deadline_ms.saturating_sub(now_ms);
            if left_ms == 0 {
                return None;
            }
            // Listens before it looks, so that no answer comes unheard in between.
            let answered = self.answers.notified();
            let pick = self.endpoints.lock().pick(now_ms);
            match pick {
                Pick::Use(at) => return Some(at),
                Pick::Wait(wait_ms) => {
                    let _ = tokio::time::timeout(Duration::from_millis(wait_ms.min(left_ms)), answered).await;
                }
            }
        }
    }

    /// Time for one try. One that may be repeated leaves time for another one.
    fn attempt_ms(&self, repeat: Repeat, deadline_ms: u64) -> u64 {
        let left_ms = deadline_ms.saturating_sub(self.clock.boot_ms()).max(1);
        if repeat == Repeat::Freely { (left_ms / 2).max(1) } else { left_ms }
    }

    /// Logs in and greets, where that is due. Whatever goes wrong here, the request itself has not been sent.
    async fn prepare(&self, at: usize, deadline_ms: u64) -> Result<Token, Verdict> {
        self.log_in_and_greet(at, deadline_ms).await.map_err(|verdict| match verdict {
            Verdict::Elsewhere { reason, .. } => Verdict::Elsewhere { maybe_done: false, reason },
            verdict => verdict,
        })
    }

    async fn log_in_and_greet(&self, at: usize, deadline_ms: u64) -> Result<Token, Verdict> {
        let left_ms = || deadline_ms.saturating_sub(self.clock.boot_ms()).clamp(1, GREETING_TIMEOUT_MS);
        let member = &self.members[at];
        let token = self
            .login
            .token(|login| async move {
                self.metrics.logins.inc();
                self.within(at, left_ms(), Ask::new(at, member.channel(), None).unary(login)).await
            })
            .await?;
        if !member.greeted.load(Ordering::Acquire) {
            let asking = Ask::new(at, member.channel(), token.value.clone()).unary(StatusRequest {});
            let greeting = self.within(at, left_ms(), asking).await?;
            check_version(&member.name, &greeting.version).map_err(Verdict::Fail)?;
            let cluster_id = greeting.header.map_or(0, |header| header.cluster_id);
            self.same_cluster(at, cluster_id).map_err(Verdict::Fail)?;
            member.greeted.store(true, Ordering::Release);
            tracing::info!(endpoint = member.name, version = greeting.version, "connected to etcd");
        }
        Ok(token)
    }

    /// Waits for an answer; silence is one kind of failure. Nothing is known then of what was asked.
    async fn within<T>(
        &self,
        at: usize,
        limit_ms: u64,
        asking: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Verdict> {
        match tokio::time::timeout(Duration::from_millis(limit_ms), asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(match judge(&status, self.login.user()) {
                Verdict::Elsewhere { maybe_done, reason } if self.tls && hung_up(&reason) => {
                    let hint = "if that goes on: does etcd ask for a certificate (etcd.cert_file) that it can trust?";
                    Verdict::Elsewhere { maybe_done, reason: format!("{reason} ({hint})") }
                }
                verdict => verdict,
            }),
            Err(_) => {
                self.members[at].disconnect();
                Err(Verdict::Elsewhere { maybe_done: true, reason: format!("no answer within {limit_ms} ms") })
            }
        }
    }

    fn answered(&self, at: usize) {
        if self.endpoints.lock().answered(at) {
            self.answers.notify_waiters();
        }
    }

    fn failed(&self, at: usize, reason: &str) {
        let failures = self.endpoints.lock().failed(at, self.clock.boot_ms(), &self.rng);
        let member = &self.members[at];
        member.greeted.store(false, Ordering::Release);
        *self.last_failure.lock() = format!("{}: {reason}", member.name);
        if failures > 0 {
            self.metrics.endpoint_failures.inc();
        }
        if failures == 1 {
            tracing::warn!(endpoint = member.name, reason, "etcd does not answer; trying again");
        }
    }

    /// `known` was the newest revision before the question was asked; an answer from before it is one of another history.
    /// From then on nothing is answered: keys may have vanished, and watches would wait for revisions that have been.
    fn not_older(&self, known: u64, revision: u64) -> Result<(), MetaError> {
        if revision < known {
            tracing::error!(known, revision, "etcd went back to an older state");
            self.went_back.store(true, Ordering::Release);
        }
        if self.went_back.load(Ordering::Acquire) {
            return Err(MetaError::Environment(format!(
                "etcd went back to an older state than this broker has seen (revision {known}, now {revision}), as after the \
                 restoring of a backup: start every broker again"
            )));
        }
        self.newest_revision.fetch_max(revision, Ordering::AcqRel);
        Ok(())
    }

    fn same_cluster(&self, at: usize, cluster_id: u64) -> Result<(), MetaError> {
        if cluster_id == 0 {
            return Ok(());
        }
        match self.cluster_id.compare_exchange(0, cluster_id, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(known) if known == cluster_id => Ok(()),
            Err(known) => Err(MetaError::Environment(format!(
                "{} belongs to etcd cluster {cluster_id:x}, but this broker began with cluster {known:x}: give endpoints of \
                 one cluster (if etcd was set up anew, start the broker again)",
                self.members[at].name
            ))),
        }
    }
}

fn check_version(name: &str, version: &str) -> Result<(), MetaError> {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_VERSION => Err(MetaError::Environment(format!(
            "{name} is etcd {version}; version {}.{} or newer is needed",
            OLDEST_VERSION.0, OLDEST_VERSION.1
        ))),
        _ => Ok(()),
    }
}

impl Member {
    fn new(name: &str, tls: Option<&Tls>) -> Result<Self, MetaError> {
        let wrong = |error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            MetaError::Environment(format!("etcd endpoint '{name}' cannot be used: {error}{cause}"))
        };
        let ms = Duration::from_millis;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{name}"))
            .and_then(|endpoint| endpoint.user_agent(concat!("esker/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| wrong(&error))?
            .connect_timeout(ms(CONNECT_TIMEOUT_MS))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(ms(PING_AFTER_MS))
            .keep_alive_timeout(ms(PING_TIMEOUT_MS))
            .keep_alive_while_idle(false);
        if let Some(tls) = tls {
            let mut config = ClientTlsConfig::new().timeout(ms(CONNECT_TIMEOUT_MS));
            config = match &tls.ca {
                Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
                None => config.with_native_roots(),
            };
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(config).map_err(|error| wrong(&error))?;
        }
        Ok(Self { name: name.to_owned(), endpoint, channel: Mutex::default(), greeted: AtomicBool::new(false) })
    }

    /// The connection, made when it is first used and again when it breaks.
    fn channel(&self) -> Channel {
        self.channel.lock().get_or_insert_with(|| self.endpoint.connect_lazy()).clone()
    }

    /// The next request goes over a new connection; those under way keep theirs.
    fn disconnect(&self) {
        self.channel.lock().take();
    }
}
