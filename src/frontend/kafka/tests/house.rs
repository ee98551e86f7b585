//! A whole broker in memory behind a real socket, and a client that speaks raw frames.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Message, Request, StrBytes};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

use crate::base::{Clock, Rng, SessionId, Tasks};
use crate::broker::{
    Broker, BrokerSlot, GroupParts, Groups, Loader, Metrics as BrokerMetrics, NoPeers, Partitions, Parts,
};
use crate::cache::{self, MemoryPages, ObjectReader};
use crate::cluster::{
    Catalogue, Identity, KeySpace, Metrics as ClusterMetrics, ProducerIds, Registration, Sessions, TopicRules,
};
use crate::config::topic::broker::BrokerConfigs;
use crate::config::{GroupSettings, KafkaSettings};
use crate::coordinator::group::CoordinatorMetrics;
use crate::fetch::{Fetches, Metrics as FetchMetrics, Reader, Settings as ReadSettings, StoreSource};
use crate::format::metadata::BrokerRecord;
use crate::frontend::kafka::{EXTERNAL_ENDPOINT, Front, bind, serve};
use crate::meta::{MemoryMeta, MetaStore};
use crate::objstore::ObjectStore;
use crate::objstore::memory::MemoryStore;
use crate::partition::{Log, LogLimits, LogMetrics, LogOptions, WalFsync};

/// A test that waits longer for an answer has found a request that nobody answers.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);

/// The broker's address for clients of a second listener.
pub const OUTSIDE: &str = "[2001:db8::1]:19092";

pub struct House {
    pub address: SocketAddr,
    pub front: Arc<Front>,
    /// For other doors.
    pub slot: BrokerSlot,
    /// Of the one real broker.
    pub session: SessionId,
    pub catalogue: Catalogue,
    sessions: Sessions,
    partitions: Partitions,
    tasks: Tasks,
}

pub async fn house(settings: KafkaSettings) -> House {
    let (clock, rng, tasks) = (Clock::system(), Rng::seeded(1), Tasks::new());
    let mut registry = Registry::default();
    let meta: Arc<dyn MetaStore> = Arc::new(MemoryMeta::new(clock.clone()));
    let keys = KeySpace::of_cluster("test");
    let rules = TopicRules::default();
    let cluster_metrics = ClusterMetrics::register(&mut registry);
    let catalogue =
        Catalogue::open(meta.clone(), keys.clone(), rules, clock.clone(), rng.clone(), cluster_metrics.clone(), &tasks)
            .await
            .unwrap();
    let sessions = Sessions { store: meta.clone(), keys: keys.clone(), clock: clock.clone() };
    let identity = Identity { broker_id: 1, directory_id: rng.uuid(), host: "here".to_owned(), pid: 1 };
    let registration = sessions.register(&identity, 60_000).await.unwrap();
    let session = registration.session();
    assert!(registration.campaign().await.unwrap());
    catalogue.lead_as(session);

    let listener = bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let record = BrokerRecord {
        session,
        host: "127.0.0.1".to_owned(),
        port: address.port(),
        rack: None,
        endpoints: [(EXTERNAL_ENDPOINT.to_owned(), OUTSIDE.to_owned())].into(),
        draining: false,
    };
    registration.announce(&record).await.unwrap();
    let newest = meta.range("").await.unwrap().revision;
    catalogue.wait_for(newest).await;

    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(clock.clone()));
    let options = LogOptions {
        session,
        limits: LogLimits { flush_idle_us: 0, idle_cuts_per_s: 0, flush_linger_us: 1_000, ..LogLimits::default() },
        wal_root: None,
        disk: crate::wal::LocalDisk::shared(),
        wal_fsync: WalFsync::Never,
        hedge_after_ms: None,
        store: store.clone(),
        clock: clock.clone(),
        rng: rng.clone(),
        tasks: tasks.clone(),
    };
    let log = Log::start(options, Vec::new(), LogMetrics::new(&mut registry)).await.unwrap();
    let objects = ObjectReader::new(
        Arc::new(StoreSource::new(store.clone())),
        Arc::new(MemoryPages::new(1 << 20)),
        cache::Settings::default(),
        cache::Metrics::register(&mut registry),
    );
    let reader =
        Reader::new(Arc::new(log.clone()), objects, ReadSettings::default(), FetchMetrics::register(&mut registry));
    let fetches = Fetches::new(reader, 100);
    let metrics = BrokerMetrics::register(&mut registry);
    let loader = Loader {
        store,
        catalogue: catalogue.clone(),
        log: log.clone(),
        finished: Arc::default(),
        peers: Arc::new(NoPeers),
        metrics: metrics.clone(),
    };
    let partitions = Partitions::follow(loader, metrics.clone(), &tasks);
    let log = Arc::new(log);
    let group = GroupParts {
        catalogue: &catalogue,
        log: log.clone(),
        fetches: fetches.clone(),
        partitions: &partitions,
        session,
        settings: GroupSettings { offsets_topic_partitions: 3, initial_rebalance_delay_ms: 0, ..Default::default() },
        clock: clock.clone(),
        rng: rng.clone(),
        tasks: &tasks,
    };
    let groups = Groups::start(group, CoordinatorMetrics::register(&mut registry));
    let producer_ids = ProducerIds::new(meta, &keys, cluster_metrics);
    let (shown, settled) = (catalogue.clone(), partitions.clone());
    let broker = Broker::new(Parts {
        catalogue,
        log,
        fetches,
        partitions,
        groups,
        producer_ids,
        configs: BrokerConfigs::default(),
        log_dir: "/nowhere".to_owned(),
        clock: clock.clone(),
        metrics,
    });
    let slot = BrokerSlot::new(Arc::new(broker));
    let front = Front::new(slot.clone(), settings, &mut registry, clock, rng);
    tasks.spawn("kafka", serve(listener, front.clone(), tasks.stopping()));
    House { address, front, slot, session, catalogue: shown, sessions, partitions: settled, tasks }
}

impl House {
    /// Another broker that is on record but not there, with a session of its own. It drains: no new partition is its.
    pub async fn neighbour(&self, broker_id: i32, host: &str, rack: Option<&str>) -> Registration {
        let directory_id = Uuid::from_u128(broker_id as u128);
        let identity = Identity { broker_id, directory_id, host: host.to_owned(), pid: 1 };
        let registration = self.sessions.register(&identity, 60_000).await.unwrap();
        let record = BrokerRecord {
            session: registration.session(),
            host: host.to_owned(),
            port: 9092,
            rack: rack.map(str::to_owned),
            endpoints: std::collections::BTreeMap::default(),
            draining: true,
        };
        registration.announce(&record).await.unwrap();
        self.caught_up().await;
        registration
    }

    /// The image shows everything that is in the metadata store now, and the log follows it.
    pub async fn caught_up(&self) {
        let newest = self.sessions.store.range("").await.unwrap().revision;
        self.catalogue.wait_for(newest).await;
        let mut status = self.partitions.status();
        status.wait_for(|status| status.version >= newest && status.opening == 0).await.unwrap();
    }

    /// Has a partition moved to another session, as the controller has it moved: handed over if it is led here, taken over
    /// if a neighbour leads it, whose stream is sealed for that.
    pub async fn give(&self, topic: &str, partition: i32, to: SessionId) {
        let image = self.catalogue.image();
        let partition = image.topic(topic).unwrap().partition(partition);
        let leader = image.leader(partition).unwrap().session;
        if leader == self.session {
            self.catalogue.set_targets(self.session, &[(partition, Some(to))].into()).await.unwrap();
        } else {
            self.sessions.mark_sealed(leader, 0).await.unwrap();
            self.caught_up().await;
            self.catalogue.take_over(self.session, &[(partition, to)].into()).await.unwrap();
        }
        let mut versions = self.catalogue.subscribe();
        while self.catalogue.image().leader(partition).unwrap().session != to {
            versions.changed().await.unwrap();
        }
        self.caught_up().await;
    }

    pub async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), next: 1 }
    }

    /// A client that connects from this address of the machine.
    pub async fn client_from(&self, ip: IpAddr) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        Client { stream: socket.connect(self.address).await.unwrap(), next: 1 }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

pub struct Client {
    pub stream: TcpStream,
    next: i32,
}

pub fn frame<R: Request>(request: &R, version: i16, correlation_id: i32) -> Bytes {
    let api = ApiKey::try_from(R::KEY).unwrap();
    let mut body = BytesMut::new();
    body.put_i32(0);
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    header.encode(&mut body, api.request_header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let length = body.len() as u32 - 4;
    body[..4].copy_from_slice(&length.to_be_bytes());
    body.freeze()
}

impl Client {
    /// A client over a connection that is there.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, next: 1 }
    }

    pub async fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        let id = self.next;
        self.next += 1;
        self.stream.write_all(&frame(request, version, id)).await.unwrap();
        id
    }

    /// The next frame; `None` if the broker closed the connection.
    pub async fn frame(&mut self) -> Option<Bytes> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }

    pub async fn answer<R: Request>(&mut self, id: i32, version: i16) -> R::Response {
        let api = ApiKey::try_from(R::KEY).unwrap();
        let frame = tokio::time::timeout(LONGEST_ANSWER, self.frame()).await;
        let mut frame = frame.unwrap_or_else(|_| panic!("{api:?} v{version}: no answer")).expect("an answer");
        let header = ResponseHeader::decode(&mut frame, api.response_header_version(version)).unwrap();
        assert_eq!(header.correlation_id, id);
        let response = R::Response::decode(&mut frame, version)
            .unwrap_or_else(|error| panic!("{api:?} v{version}: the answer does not decode: {error}"));
        assert!(!frame.has_remaining(), "{api:?} v{version}: {} bytes are left over", frame.remaining());
        response
    }

    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let id = self.send(request, version).await;
        self.answer::<R>(id, version).await
    }
}

/// All versions that both this crate's table and the codec know.
pub fn versions<R: Request + Message>() -> std::ops::RangeInclusive<i16> {
    let api = crate::frontend::kafka::versions::APIS.iter().find(|api| api.key as i16 == R::KEY).unwrap();
    api.min.max(R::VERSIONS.min)..=api.max.min(R::VERSIONS.max)
}
