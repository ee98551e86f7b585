//! Partitions come to this session and go: taken over, created, given away, dropped (DESIGN 2.3 and 2.4).
//!
//! Every change takes place in the machine at once and is committed with its segment; the futures only wait for that.
//! Dropping one loses the news, not the change.

use super::api::LogError;
use super::machine::Ticket;
use super::service::Log;
use crate::base::TopicPartition;
use crate::format::state::PartitionState;

/// A change that has its place in the stream.
#[derive(Debug)]
#[must_use]
pub struct PendingChange {
    log: Log,
    ticket: Ticket,
}

impl PendingChange {
    /// The segment that it is in.
    pub fn seq(&self) -> u64 {
        self.ticket.seq
    }

    /// Waits until it is committed.
    ///
    /// Errors: `Fenced` if the session was ended before; whether the change was committed is then known to nobody here.
    pub async fn wait(self) -> Result<(), LogError> {
        self.log.committed(self.ticket).await
    }
}

impl Log {
    fn pending(&self, ticket: Option<Ticket>) -> Option<PendingChange> {
        ticket.map(|ticket| PendingChange { log: self.clone(), ticket })
    }

    /// Takes partitions over, each under its leader epoch and in the state that it had. They are led from now on; what is
    /// written commits with, or after, the entries that make them ours. `None` if there are none.
    pub fn acquire(&self, partitions: Vec<(TopicPartition, i32, PartitionState)>) -> Option<PendingChange> {
        let last = self.control(|machine, now| {
            let acquire = |(partition, epoch, state)| machine.acquire(now, partition, epoch, state);
            partitions.into_iter().map(acquire).last()
        });
        self.pending(last)
    }

    /// Gives partitions away: they are not written any more, and their states go into the stream. Those that are not led
    /// (or are on their way already) are left alone. What is open is cut at once. `None` if nothing is to be given away.
    pub fn give_away(&self, partitions: &[TopicPartition]) -> Option<PendingChange> {
        let last = self.control(|machine, now| {
            let mut last = None;
            for partition in partitions {
                match machine.give_away(now, *partition) {
                    Ok(ticket) => last = Some(ticket),
                    Err(LogError::NotLeader(_) | LogError::Fenced) => {}
                    Err(error) => tracing::error!(%partition, %error, "cannot be given away; this is a bug"),
                }
            }
            last
        });
        self.cut_now();
        self.pending(last)
    }

    /// Released partitions have a new leader: their readers are sent there.
    pub fn forget_led(&self, partitions: &[TopicPartition]) {
        self.control(|machine, _| partitions.iter().for_each(|partition| machine.forget_led(*partition)));
        self.notify(partitions);
    }

    /// The state in which a partition was given away under `leader_epoch`, if this session still has it.
    pub fn given_state(&self, partition: TopicPartition, leader_epoch: i32) -> Option<PartitionState> {
        self.0.machine.lock().given_state(partition, leader_epoch).cloned()
    }

    /// Partitions that were given away and whose states the stream still holds, with the leader epoch that ended.
    pub fn given_away(&self) -> Vec<(TopicPartition, i32)> {
        self.0.machine.lock().given_away().collect()
    }

    /// The states of these given-away partitions are needed by nobody any more.
    pub fn drop_given(&self, partitions: &[TopicPartition]) {
        self.control(|machine, now| {
            for partition in partitions {
                machine.drop_given(now, *partition);
            }
        });
    }

    /// Takes new, empty partitions on, each under its leader epoch. They can be written at once; what is written commits
    /// with, or after, the entry that makes them ours. Partitions that are led already are left alone; `None` if all are.
    pub fn create_partitions(&self, partitions: &[(TopicPartition, i32)]) -> Option<PendingChange> {
        let last = self.control(|machine, now| {
            let mut last = None;
            for (partition, leader_epoch) in partitions {
                if machine.partition(*partition).is_err() {
                    last = Some(machine.acquire(now, *partition, *leader_epoch, PartitionState::default()));
                }
            }
            last
        });
        self.pending(last)
    }

    /// Deletes partitions; resolves when that is committed. Partitions that are not led are left alone.
    pub async fn drop_partitions(&self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let last = self.control(|machine, now| {
            partitions.iter().filter_map(|partition| machine.drop_partition(now, *partition).ok()).last()
        });
        self.notify(partitions);
        match self.pending(last) {
            Some(change) => change.wait().await,
            None => Ok(()),
        }
    }
}
