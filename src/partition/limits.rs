//! Every limit and pace of the log, with its unit.

/// Settings of the log machine; the composition root fills them from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLimits {
    /// The open segment is cut when it reaches this many bytes (`flush.bytes`).
    pub flush_bytes: u32,
    /// … or when its oldest byte is this old, in microseconds (`flush.linger`).
    pub flush_linger_us: u64,
    /// … or when replies are waiting and nothing has arrived for this long, in microseconds (`flush.idle`), as far as the
    /// bucket of PUTs allows.
    pub flush_idle_us: u64,
    /// PUTs per second that quiescent cuts may use on the average; 0 for no limit.
    pub idle_cuts_per_s: u32,
    /// Quiescent cuts that may follow one another at once.
    pub idle_cuts_burst: u32,
    /// Segments uploading at a time. While this many are, segments are cut by size only.
    pub uploads: usize,
    /// Bytes of batches in memory that are not yet committed, with what is kept to index them.
    pub unflushed_bytes: u64,
    /// Bytes of write-ahead files, committed or not.
    pub wal_disk_bytes: u64,
    /// Bytes of committed batches kept in memory for readers at the end of the log (`memory.tail`).
    pub memory_tail_bytes: u64,
    /// Bytes of one allocation of segment memory.
    pub chunk_bytes: usize,
    /// A checkpoint is written when this many segments followed the last one …
    pub checkpoint_segments: u64,
    /// … or this much time passed and any segment followed it, in microseconds.
    pub checkpoint_interval_us: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            flush_bytes: 8 << 20,
            flush_linger_us: 250_000,
            flush_idle_us: 5_000,
            idle_cuts_per_s: 4,
            idle_cuts_burst: 8,
            uploads: 8,
            unflushed_bytes: 128 << 20,
            wal_disk_bytes: 2 << 30,
            memory_tail_bytes: 64 << 20,
            chunk_bytes: 1 << 20,
            checkpoint_segments: 512,
            checkpoint_interval_us: 300_000_000,
        }
    }
}

/// What one indexed batch costs in memory beside its bytes (facts, tail entry), rounded up.
pub const BATCH_OVERHEAD_BYTES: u64 = 192;
