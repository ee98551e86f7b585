//! The part of etcd's v3 API that the store uses: messages and method names, with the field numbers of etcd's `rpc.proto` and
//! `kv.proto` (the same in 3.4 to 3.6; a field that is not named here is left at its default and ignored when read).
//!
//! Written out rather than generated, so that no build needs a protobuf compiler; every field is exercised against real
//! servers by the contract suite and by `tests/etcd`.

#![allow(clippy::doc_markdown, clippy::trivially_copy_pass_by_ref, reason = "derived code")]

use std::fmt;

use bytes::Bytes;
use tonic::codegen::http::uri::PathAndQuery;

/// A method of etcd with the messages that it takes and gives.
pub trait Method: prost::Message + Clone + Default + Send + Sync + 'static {
    /// What comes back.
    type Answer: Answer;
    /// Its path.
    const PATH: &'static str;
    /// Whether the revision in the answer's header is never older than that of an answer before.
    const LINEARIZABLE: bool;

    /// The path as HTTP wants it.
    fn path() -> PathAndQuery {
        PathAndQuery::from_static(Self::PATH)
    }
}

/// An answer of etcd; every one has a header.
pub trait Answer: prost::Message + Default + Send + Sync + 'static {
    /// The header, if the server sent one.
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! methods {
    ($($request:ident => $answer:ident: $path:literal, $linearizable:literal;)*) => {
        $(
            impl Method for $request {
                type Answer = $answer;
                const PATH: &'static str = $path;
                const LINEARIZABLE: bool = $linearizable;
            }
            impl Answer for $answer {
                fn header(&self) -> Option<&ResponseHeader> {
                    self.header.as_ref()
                }
            }
        )*
    };
}

methods! {
    RangeRequest => RangeResponse: "/etcdserverpb.KV/Range", true;
    TxnRequest => TxnResponse: "/etcdserverpb.KV/Txn", true;
    WatchRequest => WatchResponse: "/etcdserverpb.Watch/Watch", false;
    LeaseGrantRequest => LeaseGrantResponse: "/etcdserverpb.Lease/LeaseGrant", false;
    LeaseRevokeRequest => LeaseRevokeResponse: "/etcdserverpb.Lease/LeaseRevoke", false;
    LeaseKeepAliveRequest => LeaseKeepAliveResponse: "/etcdserverpb.Lease/LeaseKeepAlive", false;
    LeaseTimeToLiveRequest => LeaseTimeToLiveResponse: "/etcdserverpb.Lease/LeaseTimeToLive", false;
    AuthenticateRequest => AuthenticateResponse: "/etcdserverpb.Auth/Authenticate", false;
    StatusRequest => StatusResponse: "/etcdserverpb.Maintenance/Status", false;
}

/// What every answer begins with.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ResponseHeader {
    /// The cluster.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// The member that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision, as that member knew it.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key with its value (`mvccpb.KeyValue`).
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision at which it was created.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Revision of its last write.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease, or 0.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// Reads keys.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RangeRequest {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End, exclusive; empty for one key, `\0` for every key from `key` on.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Most keys; 0 for all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// At this revision; 0 for the newest.
    #[prost(int64, tag = "4")]
    pub revision: i64,
}

/// Keys, in byte order.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RangeResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// What was found.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some out.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Writes a key.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The lease, or 0.
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

/// Deletes one key.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct DeleteRangeRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RequestOp {
    /// Which.
    #[prost(oneof = "Request", tags = "1, 2, 3")]
    pub request: Option<Request>,
}

/// The kinds of operations.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum Request {
    /// A read.
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    /// A put.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// A delete.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Compare {
    /// How: 0 is "equal".
    #[prost(int32, tag = "1")]
    pub result: i32,
    /// What: [`Compare::MOD`].
    #[prost(int32, tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// With what.
    #[prost(oneof = "Target", tags = "6")]
    pub target_union: Option<Target>,
}

impl Compare {
    /// Compares the revision of the last write.
    pub const MOD: i32 = 2;
}

/// What a condition compares with.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum Target {
    /// The revision of the last write; 0 for a key that is not there.
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

/// A transaction: writes `success` if every compare holds.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TxnRequest {
    /// Conditions.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Writes.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
}

/// Whether the conditions held.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct TxnResponse {
    /// Header; its revision is that of the writes.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether they held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
}

/// What a client says on a watch stream.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WatchRequest {
    /// Which.
    #[prost(oneof = "WatchUnion", tags = "1, 3")]
    pub request: Option<WatchUnion>,
}

/// The kinds of requests of a watch stream.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum WatchUnion {
    /// Starts a watch.
    #[prost(message, tag = "1")]
    Create(WatchCreateRequest),
    /// Asks for a sign of life.
    #[prost(message, tag = "3")]
    Progress(WatchProgressRequest),
}

/// Starts a watch.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WatchCreateRequest {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End, exclusive.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// First revision, inclusive.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Whether large answers may come in parts.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

/// Asks for a sign of life.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WatchProgressRequest {}

/// What a watch stream brings.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WatchResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether this answers the creation.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// Whether the watch is over.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Not 0: the asked-for revisions are compacted away up to this one.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why it is over.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// Whether the rest of this answer comes in the next one.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// What happened, in the order of revisions.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// A change (`mvccpb.Event`).
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Event {
    /// 0 is a put, [`Event::DELETE`] a delete.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The key; of a deleted one only its name and, as `mod_revision`, when.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

impl Event {
    /// A key was removed.
    pub const DELETE: i32 = 1;
}

/// Makes a lease.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseGrantRequest {
    /// Time to live, in seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// The id it shall have.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// A new lease.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseGrantResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Its id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Time to live that the server chose, in seconds.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Ends a lease.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseRevokeRequest {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// It has ended.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseRevokeResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Extends a lease.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseKeepAliveRequest {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// How long it now lives.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseKeepAliveResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The lease.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Seconds; 0 or less when it is gone.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Asks how long a lease lives.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseTimeToLiveRequest {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// How long a lease lives.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct LeaseTimeToLiveResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Seconds; -1 when it is gone.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Asks for a token.
#[derive(Clone, PartialEq, ::prost::Message)]
#[prost(skip_debug)]
pub struct AuthenticateRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The password.
    #[prost(string, tag = "2")]
    pub password: String,
}

impl fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthenticateRequest({})", self.name)
    }
}

/// A token.
#[derive(Clone, PartialEq, ::prost::Message)]
#[prost(skip_debug)]
pub struct AuthenticateResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// To be sent as the metadata `token` with every request.
    #[prost(string, tag = "2")]
    pub token: String,
}

impl fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthenticateResponse")
    }
}

/// Asks a member how it is.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct StatusRequest {}

/// How a member is.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct StatusResponse {
    /// Header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Version of the server, as "3.5.1".
    #[prost(string, tag = "2")]
    pub version: String,
}
