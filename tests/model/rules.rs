//! What one check explores: how often each thing may go wrong, and which rule is broken on purpose.

/// How often each thing may happen in one run: the bounds of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Batches that clients send.
    pub batches: u8,
    /// Processes that die (kill -9; the disk stays).
    pub crashes: u8,
    /// Streams of living sessions that are sealed by a suspicious controller. Dead ones are sealed in any case.
    pub suspicions: u8,
    /// Controllers that lose the election while they live. Dead ones are replaced in any case.
    pub elections: u8,
    /// Handoffs that the controller begins.
    pub moves: u8,
    /// Brokers that start again with their disk, or register again after they were fenced.
    pub restarts: u8,
    /// Checkpoints.
    pub checkpoints: u8,
    /// Retention: everything committed so far is no longer needed.
    pub retentions: u8,
    /// Marks of the garbage collector.
    pub marks: u8,
}

/// A world's fixed facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Rules {
    /// Sessions at the beginning, one per broker.
    pub sessions: usize,
    /// Partitions; the first session leads them all at the beginning.
    pub partitions: usize,
    /// Whether the first session has already acquired them.
    pub acquired: bool,
    /// Record batches per segment.
    pub batches_per_segment: usize,
    /// Segments of a session that are on their way at a time.
    pub uploads: usize,
    /// Images of the assignments may be old; else every session sees a change at once.
    pub slow_images: bool,
    /// A sealer may be stopped between looking for the end of a stream and creating the seal.
    pub slow_sealer: bool,
    /// A controller may be stopped between deciding and writing.
    pub slow_controller: bool,
    /// A power loss may tear the last write-ahead file.
    pub torn_files: bool,
    /// The collector lists before it reads references, as the broker does, and deletes after one mark already (the broker
    /// wants two, for its readers' sake); else it lists last and wants two marks.
    pub lists_first: bool,
    /// How much may happen.
    pub budget: Budget,
    /// What is done wrong.
    pub flaw: Flaw,
}

/// A rule of the protocol that is broken on purpose, to see that the check notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// None: the protocol as designed.
    None,
    /// Segments are created without the condition.
    PutWithoutCondition,
    /// A `from` stream is taken whatever the leader epoch of the state in it.
    AnyEpoch,
    /// `from` is emptied before `Acquired` is committed.
    FromEmptiedEarly,
    /// The transactions of the controller compare nothing.
    TransactionsCompareNothing,
    /// `Released` holds the committed state although batches are on their way.
    ReleasedWithoutPending,
    /// The assignment is flipped before `Released` is committed.
    FlippedEarly,
    /// A released state is dropped although the image is older than the flip.
    DroppedOnOldImage,
    /// A partition is acquired again under an epoch that was given away, because the image is older than the flip.
    AcquiredOnOldImage,
    /// A checkpoint leaves a released state out while the partition comes back.
    CheckpointWithoutReleased,
    /// A seal counts although the stream went on behind it.
    SealNotReadBack,
    /// Seals are collected like any other object, while their writers live.
    SealsCollected,
    /// Objects are deleted after one mark, which listed last.
    OneMark,
    /// A mark counts although assignments changed while streams were read.
    MarkWithoutCheck,
    /// A mark is made from an old image of the assignments.
    MarkFromOldImage,
    /// A mark knows only the partitions that the collecting broker leads.
    MarkFromOwnStates,
    /// A torn write-ahead file counts as uploaded when the whole one has landed under its id.
    TornFileTakenForWhole,
}
