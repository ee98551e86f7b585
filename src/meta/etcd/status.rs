//! What etcd's errors mean for the caller.
//!
//! etcd puts one gRPC code on several causes, so the words decide first (`api/v3rpc/rpctypes/error.go`), the code last. The
//! question that matters for a transaction is whether it can have happened: [`Verdict::Elsewhere`] says `done: false` only
//! where the request never left this process, or where the server refuses before it proposes anything to its peers.

use std::error::Error;

use tonic::{Code, ConnectError, Status};

use crate::meta::MetaError;

/// What to do about an error.
#[derive(Debug)]
pub enum Verdict {
    /// Ask again, at another endpoint if there is one, after a pause.
    Elsewhere {
        /// Whether the request may have been carried out, or may still be.
        maybe_done: bool,
        /// What was said.
        reason: String,
    },
    /// The token is no good (any more): log in again, then repeat. Nothing was done.
    LogIn,
    /// The server wants no login.
    NoLogins,
    /// The lease named in the request is gone. Nothing was done.
    LeaseGone,
    /// A lease of that id is there already.
    LeaseExists,
    /// The asked-for revision is compacted away.
    Compacted,
    /// The answer is larger than this client takes.
    AnswerTooLarge,
    /// Final.
    Fail(MetaError),
}

/// Judges an error. `user` is the name that this client logs in with.
pub fn judge(status: &Status, user: Option<&str>) -> Verdict {
    let text = status.message();
    let says = |part: &str| text.contains(part);
    if let Some(problem) = tls_problem(status) {
        return Verdict::Fail(MetaError::Environment(format!(
            "etcd and this broker do not accept each other's certificates ({problem}): look at etcd.ca_file, etcd.cert_file \
             and etcd.key_file, and at the host names in the server's certificate"
        )));
    }
    if says("requested lease not found") {
        return Verdict::LeaseGone;
    }
    if says("lease already exists") {
        return Verdict::LeaseExists;
    }
    if says("required revision has been compacted") {
        return Verdict::Compacted;
    }
    if says("database space exceeded") {
        return fail(
            "etcd's database is full and takes no writes (alarm NOSPACE): compact and defragment it, or raise its \
             --quota-backend-bytes, then run 'etcdctl alarm disarm'; auto-compaction \
             (--auto-compaction-retention=1h) keeps it from happening again",
        );
    }
    if says("request is too large") || says("too many operations") || says("duplicate key") || says("larger than max (")
    {
        return Verdict::Fail(MetaError::TooLarge(format!(
            "{text}; the server's limits are lower than etcd's defaults: raise --max-request-bytes and --max-txn-ops"
        )));
    }
    if says("too large lease TTL") {
        return Verdict::Fail(MetaError::TooLarge(text.to_owned()));
    }
    if says("invalid auth token") || says("revision of auth store is old") || says("revision in header is old") {
        return Verdict::LogIn;
    }
    if says("user name is empty") || says("user name not found") && user.is_none() {
        return match user {
            Some(_) => Verdict::LogIn,
            None => fail("etcd asks for a user and a password: set etcd.user and etcd.password_file"),
        };
    }
    if says("authentication is not enabled") {
        return Verdict::NoLogins;
    }
    if says("authentication failed") || says("user name not found") {
        return Verdict::Fail(MetaError::Environment(format!(
            "etcd does not accept user '{}' with the given password: look at etcd.user and etcd.password_file",
            user.unwrap_or_default()
        )));
    }
    if says("permission denied") {
        return Verdict::Fail(MetaError::Environment(format!(
            "etcd refuses this to user '{}': give it a role that reads and writes the keys under /esker/ \
             (etcdctl role grant-permission ROLE --prefix=true readwrite /esker/)",
            user.unwrap_or_default()
        )));
    }
    if says("corrupt cluster") || says("data corruption") {
        return fail("etcd reports that its members' data differ (alarm CORRUPT): repair or restore etcd");
    }
    if status.code() == Code::OutOfRange && says("message length too large") {
        return Verdict::AnswerTooLarge;
    }
    match status.code() {
        Code::Unimplemented => {
            Verdict::Fail(MetaError::Environment(format!("the endpoint is no etcd of version 3.4 or newer: {text}")))
        }
        Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied | Code::NotFound => {
            Verdict::Fail(MetaError::Environment(format!("etcd refuses the request: {text}")))
        }
        _ => Verdict::Elsewhere { maybe_done: maybe_done(status), reason: reason(status) },
    }
}

fn fail(text: &str) -> Verdict {
    Verdict::Fail(MetaError::Environment(text.to_owned()))
}

/// Whether the server may have taken the request.
fn maybe_done(status: &Status) -> bool {
    let text = status.message();
    let refused_first = ["etcdserver: no leader", "etcdserver: too many requests"].contains(&text);
    !refused_first && !causes(status).any(<dyn Error>::is::<ConnectError>)
}

/// The causes of an error, outermost first.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Error::source(status), |cause: &&(dyn Error + 'static)| (*cause).source())
}

/// The rejection of a certificate, by either side.
fn tls_problem(status: &Status) -> Option<String> {
    causes(status)
        .map(ToString::to_string)
        .find(|cause| cause.contains("invalid peer certificate") || cause.contains("received fatal alert"))
}

/// Whether the other side ended the connection, in any of the ways in which that is noticed: a server that does not take
/// our certificate says so as it hangs up, and is not always heard.
pub fn hung_up(reason: &str) -> bool {
    ["connection closed", "stream closed", "broken pipe", "connection reset"].iter().any(|end| reason.contains(end))
}

/// The innermost cause says more than the outermost ("transport error").
fn reason(status: &Status) -> String {
    let innermost = causes(status).last().map(ToString::to_string).unwrap_or_default();
    match (status.message(), innermost.as_str()) {
        ("", "") => status.code().to_string(),
        (text, "") => text.to_owned(),
        ("", cause) => cause.to_owned(),
        (text, cause) if text.contains(cause) => text.to_owned(),
        (text, cause) => format!("{text}: {cause}"),
    }
}
