//! One broker, from the stores it is given to its front door.
//!
//! `serve` gives it real stores, a data directory and sockets; the simulator (`tests/sim`) gives it simulated ones. What
//! is made here is the same for both.
//!
//! A start that fails or is dropped half-way leaves what a crash would leave: the next start's work.

use std::path::Path;
use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::options::{self, Doors};
use super::takeover::{TakenOver, Takeover};
use crate::base::{Clock, Rng, Tasks};
use crate::broker::{self, Broker, BrokerLog, BrokerSlot, GroupParts, Groups, Partitions, Parts};
use crate::cache::{self, ObjectReader, PageCache};
use crate::cluster::{self, Catalogue, Identity, KeySpace, ProducerIds, Registration, Sessions};
use crate::config::{ObjectStoreSetting, Settings};
use crate::fetch::{self, Fetches, LocalFirst, Reader};
use crate::frontend::kafka::Front;
use crate::meta::MetaStore;
use crate::objstore::ObjectStore;
use crate::partition::Log;
use crate::partition::recovery::RecoveryPlace;
use crate::upkeep::{Upkeep, UpkeepMetrics};
use crate::wal::Disk;

/// What a broker is made over. The cluster's identity is settled and the data directory is locked.
pub struct NodeParts<'a> {
    /// All settings.
    pub settings: &'a Settings,
    /// Time.
    pub clock: &'a Clock,
    /// Randomness.
    pub rng: &'a Rng,
    /// Where background tasks go.
    pub tasks: &'a Tasks,
    /// The metadata store.
    pub meta: Arc<dyn MetaStore>,
    /// Its keys.
    pub keys: KeySpace,
    /// The object store.
    pub store: Arc<dyn ObjectStore>,
    /// The read cache.
    pub pages: Arc<dyn PageCache>,
    /// The disk of the data directory.
    pub disk: Arc<dyn Disk>,
    /// Where local files go.
    pub data_dir: &'a Path,
    /// Who this broker is.
    pub identity: Identity,
    /// What clients and other brokers are told.
    pub doors: Doors,
}

/// A broker that serves.
pub struct Node {
    registration: Registration,
    log: Log,
    front: Arc<Front>,
}

impl Node {
    /// Builds the broker from the bottom floor up; `phase` hears what is going on.
    pub async fn start(parts: NodeParts<'_>, metrics: &mut Registry, phase: impl Fn(&str)) -> anyhow::Result<Self> {
        let NodeParts { settings, clock, rng, tasks, meta, keys, store, pages, disk, data_dir, identity, doors } =
            parts;
        phase("reading the catalogue");
        let cluster_metrics = cluster::Metrics::register(metrics);
        let configs = options::broker_configs(settings, identity.broker_id, doors);
        let rules = options::topic_rules(settings, &configs);
        let catalogue = Catalogue::open(
            meta.clone(),
            keys.clone(),
            rules,
            clock.clone(),
            rng.clone(),
            cluster_metrics.clone(),
            tasks,
        )
        .await?;
        let sessions = Sessions { store: meta.clone(), keys: keys.clone(), clock: clock.clone() };
        let takeover = Takeover {
            sessions: &sessions,
            identity: &identity,
            lease_ttl_ms: settings.cluster.lease_ttl_ms,
            catalogue: &catalogue,
            place: RecoveryPlace {
                store: store.clone(),
                disk: disk.clone(),
                wal_root: data_dir.join("wal"),
                lost: data_dir.join("lost"),
                rng: rng.clone(),
            },
            has_wal: settings.broker.object_store != ObjectStoreSetting::Memory,
        };
        let log_options = |session| options::log(settings, session, &store, (&disk, data_dir), (clock, rng, tasks));
        let TakenOver { registration, log, lost_files } = takeover.run(log_options, metrics, &phase).await?;
        for file in &lost_files {
            tracing::error!(file = %file.display(), "acks=0/1 records that could not be committed any more are kept in this file");
        }
        registration.keep_alive(tasks, cluster_metrics.clone());
        registration.announce(&options::broker_record(settings, registration.session(), doors)?).await?;

        let upkeep = Upkeep {
            log: log.clone(),
            catalogue: catalogue.clone(),
            sessions: Arc::new(sessions),
            settings: options::upkeep(settings),
            clock: clock.clone(),
            metrics: UpkeepMetrics::new(metrics),
        };
        upkeep.start(tasks);

        let fetch_metrics = fetch::Metrics::register(metrics);
        let source = Arc::new(LocalFirst::of_log(&log, fetch_metrics.clone()));
        let cache_settings = options::cache(settings, data_dir);
        let objects = ObjectReader::new(source, pages, cache_settings, cache::Metrics::register(metrics));
        let reader = Reader::new(Arc::new(log.clone()), objects, fetch::Settings::default(), fetch_metrics);
        let fetches = Fetches::new(reader, settings.kafka.max_fetch_waiters);

        let session = registration.session();
        let broker_log: Arc<dyn BrokerLog> = Arc::new(log.clone());
        let broker_metrics = broker::Metrics::register(metrics);
        let partitions =
            Partitions::follow(catalogue.clone(), broker_log.clone(), session, broker_metrics.clone(), tasks);
        let group_parts = GroupParts {
            catalogue: &catalogue,
            log: broker_log.clone(),
            fetches: fetches.clone(),
            partitions: &partitions,
            session,
            settings: settings.group.clone(),
            clock: clock.clone(),
            rng: rng.clone(),
            tasks,
        };
        let groups = Groups::start(group_parts, metrics);
        let producer_ids = ProducerIds::new(meta, &keys, cluster_metrics);
        if let Err(error) = producer_ids.take_ahead().await {
            tracing::warn!(%error, "no producer ids could be taken ahead; they are taken when producers come");
        }
        let broker = Arc::new(Broker::new(Parts {
            catalogue,
            log: broker_log,
            fetches,
            partitions,
            groups,
            producer_ids,
            configs,
            log_dir: data_dir.display().to_string(),
            clock: clock.clone(),
            metrics: broker_metrics,
        }));
        let broker = BrokerSlot::new(broker);
        let front = Front::new(broker, settings.kafka.clone(), metrics, clock.clone(), rng.clone());
        Ok(Self { registration, log, front })
    }

    /// The broker's log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The door for Kafka clients.
    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }

    /// Commits what is open and gives the broker id back. The front doors are closed before.
    pub async fn stop(self, tasks: &Tasks) {
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "what is open could not be committed; the next start finishes it");
        }
        tasks.stop().await;
        if let Err(error) = self.registration.release().await {
            tracing::warn!(%error, "the broker id could not be given back; the next start takes it over");
        }
    }
}
