//! What of a broker stays for as long as the process, and how a session is begun over it.
//!
//! A session that could not begin leaves what a crash would leave, and the next try finishes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use super::identity::check_life;
use super::life::{Life, LifeParts};
use super::node::NodeParts;
use super::options::{self, Doors};
use super::takeover::{Streams, TakenOver, Takeover};
use crate::base::{Clock, Rng, SessionId, Tasks};
use crate::broker::{self, Broker, BrokerLog, GroupParts, Groups, Loader, Partitions, Parts, Peers};
use crate::cache::{self, ObjectReader, PageCache};
use crate::cluster::identity::with_epoch_base;
use crate::cluster::{
    self, Backups, Catalogue, Controller, ControllerSettings, IdWish, Identity, ProducerIds, Reach, Registration,
    Sessions,
};
use crate::config::{ObjectStoreSetting, Settings};
use crate::coordinator::group::CoordinatorMetrics;
use crate::fetch::{self, Fetches, LocalFirst, Reader};
use crate::format::metadata::BrokerRecord;
use crate::objstore::ObjectStore;
use crate::partition::recovery::RecoveryPlace;
use crate::partition::{Log, LogMetrics};
use crate::upkeep::{Compaction, Upkeep, UpkeepMetrics};
use crate::wal::Disk;

/// Counters that outlive sessions.
#[derive(Debug, Clone)]
struct NodeMetrics {
    cluster: cluster::Metrics,
    log: LogMetrics,
    fetch: fetch::Metrics,
    cache: cache::Metrics,
    broker: broker::Metrics,
    groups: CoordinatorMetrics,
    upkeep: UpkeepMetrics,
}

/// See the module.
pub struct Home {
    pub settings: Settings,
    /// Milliseconds for which segments have waited without a commit.
    pub stalled_ms: Arc<AtomicU64>,
    clock: Clock,
    rng: Rng,
    store: Arc<dyn ObjectStore>,
    reach: Arc<dyn Reach>,
    peers: Arc<dyn Peers>,
    pages: Arc<dyn PageCache>,
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    doors: Doors,
    catalogue: Catalogue,
    sessions: Sessions,
    producer_ids: ProducerIds,
    metrics: NodeMetrics,
    /// Operators want this process to lead nothing: true for its later sessions, too.
    draining: Arc<AtomicBool>,
    /// Who this broker is; the first session takes it, later ones ask again.
    identity: Mutex<(Identity, Claimed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claimed {
    JustNow,
    Earlier,
}

impl Home {
    pub async fn open(parts: NodeParts<'_>, registry: &mut Registry, phase: &impl Fn(&str)) -> anyhow::Result<Self> {
        let NodeParts {
            settings,
            clock,
            rng,
            tasks,
            meta,
            keys,
            store,
            reach,
            peers,
            pages,
            disk,
            data_dir,
            identity,
            doors,
        } = parts;
        phase("reading the catalogue");
        let keys = with_epoch_base(&meta, keys).await?;
        let metrics = NodeMetrics {
            cluster: cluster::Metrics::register(registry),
            log: LogMetrics::new(registry),
            fetch: fetch::Metrics::register(registry),
            cache: cache::Metrics::register(registry),
            broker: broker::Metrics::register(registry),
            groups: CoordinatorMetrics::register(registry),
            upkeep: UpkeepMetrics::new(registry),
        };
        let rules = options::topic_rules(settings, &options::broker_configs(settings, identity.broker_id, doors));
        let (clock, rng) = (clock.clone(), rng.clone());
        let counters = metrics.cluster.clone();
        let catalogue =
            Catalogue::open(meta.clone(), keys.clone(), rules, clock.clone(), rng.clone(), counters, tasks).await?;
        let producer_ids = ProducerIds::new(meta.clone(), &keys, metrics.cluster.clone());
        if let Err(error) = producer_ids.take_ahead().await {
            tracing::warn!(%error, "no producer ids could be taken ahead; they are taken when producers come");
        }
        Ok(Self {
            settings: settings.clone(),
            stalled_ms: Arc::default(),
            sessions: Sessions { store: meta, keys, clock: clock.clone() },
            clock,
            rng,
            store,
            reach,
            peers,
            pages,
            disk,
            data_dir: data_dir.to_owned(),
            doors,
            catalogue,
            producer_ids,
            metrics,
            draining: Arc::default(),
            identity: Mutex::new((identity, Claimed::JustNow)),
        })
    }

    /// Begins a session: finishes what an earlier one left, registers, starts the log, follows the catalogue. Nobody knows of
    /// it yet: that is [`Life::open`]'s work, once the front doors lead here. `phase` hears what is going on.
    pub async fn live(&self, phase: &impl Fn(&str)) -> anyhow::Result<Life> {
        phase("looking whether this is still the cluster that it was");
        check_life(&self.sessions.store, &self.sessions.keys, &*self.store).await?;
        let identity = self.identity().await?;
        let lease_ttl_ms = self.settings.cluster.lease_ttl_ms;
        let takeover = Takeover {
            sessions: &self.sessions,
            identity: &identity,
            lease_ttl_ms,
            place: self.place(),
            has_wal: self.settings.broker.object_store != ObjectStoreSetting::Memory,
        };
        let TakenOver { registration, streams, lost_files } = takeover.run(phase).await?;
        for file in &lost_files {
            tracing::error!(file = %file.display(), "acks=0/1 records that could not be committed any more are kept in this file");
        }
        let session = registration.session();
        self.catalogue.lead_as(session);
        phase("starting the log");
        let tasks = Tasks::new();
        registration.keep_alive(&tasks, self.metrics.cluster.clone());
        let place = (&self.disk, self.data_dir.as_path());
        let options = options::log(&self.settings, session, &self.store, place, (&self.clock, &self.rng, &tasks));
        let log = Log::start(options, Vec::new(), self.metrics.log.clone()).await?;
        let (broker, partitions) = self.broker(&log, streams, &tasks);
        self.upkeep(&log).start(&tasks);
        self.compaction(&log, &broker).start(&tasks);
        self.backups(session).start(&tasks);
        let draining = self.draining.load(Ordering::Relaxed);
        let record = BrokerRecord { draining, ..options::broker_record(&self.settings, session, self.doors)? };
        let controller = self.control(&registration);
        let (catalogue, draining) = (self.catalogue.clone(), self.draining.clone());
        let parts = LifeParts { registration, controller, record, log, catalogue, tasks, draining };
        let life = Life::new(broker, partitions, parts);
        life.watch(&self.clock, lease_ttl_ms, &self.stalled_ms);
        Ok(life)
    }

    /// The broker id of the next session: for the first one it was taken before this node was made.
    async fn identity(&self) -> anyhow::Result<Identity> {
        let (last, claimed) = self.identity.lock().clone();
        if claimed == Claimed::JustNow {
            self.identity.lock().1 = Claimed::Earlier;
            return Ok(last);
        }
        let wish = IdWish {
            asked: self.settings.broker.broker_id,
            remembered: Some(last.broker_id),
            directory_id: last.directory_id,
            host: last.host,
            pid: last.pid,
        };
        let identity = self.sessions.take_id(&wish, self.settings.cluster.lease_ttl_ms).await?;
        self.identity.lock().0 = identity.clone();
        Ok(identity)
    }

    fn place(&self) -> RecoveryPlace {
        RecoveryPlace {
            store: self.store.clone(),
            disk: self.disk.clone(),
            wal_root: self.data_dir.join("wal"),
            lost: self.data_dir.join("lost"),
            rng: self.rng.clone(),
        }
    }

    fn broker(&self, log: &Log, streams: Streams, tasks: &Tasks) -> (Arc<Broker>, Partitions) {
        let (settings, metrics) = (&self.settings, &self.metrics);
        let source = Arc::new(LocalFirst::of_log(log, metrics.fetch.clone()));
        let cache_settings = options::cache(settings, &self.data_dir);
        let objects = ObjectReader::new(source, self.pages.clone(), cache_settings, metrics.cache.clone());
        let reader = Reader::new(Arc::new(log.clone()), objects, fetch::Settings::default(), metrics.fetch.clone());
        let fetches = Fetches::new(reader, settings.kafka.max_fetch_waiters);
        let loader = Loader {
            store: self.store.clone(),
            catalogue: self.catalogue.clone(),
            log: log.clone(),
            finished: Arc::new(Mutex::new(streams)),
            peers: self.peers.clone(),
            metrics: metrics.broker.clone(),
        };
        let partitions = Partitions::follow(loader, metrics.broker.clone(), tasks);
        let broker_log: Arc<dyn BrokerLog> = Arc::new(log.clone());
        let group_parts = GroupParts {
            catalogue: &self.catalogue,
            log: broker_log.clone(),
            fetches: fetches.clone(),
            partitions: &partitions,
            session: log.session(),
            settings: settings.group.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            tasks,
        };
        let groups = Groups::start(group_parts, metrics.groups.clone());
        let broker = Arc::new(Broker::new(Parts {
            catalogue: self.catalogue.clone(),
            log: broker_log,
            fetches,
            partitions: partitions.clone(),
            groups,
            producer_ids: self.producer_ids.clone(),
            configs: options::broker_configs(settings, log.session().broker_id, self.doors),
            log_dir: self.data_dir.display().to_string(),
            clock: self.clock.clone(),
            metrics: metrics.broker.clone(),
        }));
        (broker, partitions)
    }

    fn upkeep(&self, log: &Log) -> Upkeep {
        Upkeep {
            log: log.clone(),
            catalogue: self.catalogue.clone(),
            sessions: Arc::new(self.sessions.clone()),
            settings: options::upkeep(&self.settings),
            clock: self.clock.clone(),
            metrics: self.metrics.upkeep.clone(),
        }
    }

    fn compaction(&self, log: &Log, broker: &Broker) -> Compaction {
        Compaction {
            log: log.clone(),
            reader: broker.reader().clone(),
            catalogue: self.catalogue.clone(),
            store: self.store.clone(),
            settings: options::compaction(&self.settings),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            metrics: self.metrics.upkeep.clone(),
        }
    }

    fn backups(&self, own: SessionId) -> Backups {
        Backups {
            catalogue: self.catalogue.clone(),
            own,
            store: self.store.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.cluster.clone(),
        }
    }

    fn control(&self, registration: &Registration) -> Controller {
        let cluster = &self.settings.cluster;
        Controller {
            catalogue: self.catalogue.clone(),
            sessions: self.sessions.clone(),
            registration: registration.clone(),
            reach: self.reach.clone(),
            settings: ControllerSettings {
                probe_interval_ms: cluster.probe_interval_ms,
                probe_timeout_ms: cluster.probe_timeout_ms,
                probe_misses: cluster.probe_misses,
                balance_interval_ms: cluster.balance_interval_ms,
            },
            clock: self.clock.clone(),
            metrics: self.metrics.cluster.clone(),
        }
    }
}
