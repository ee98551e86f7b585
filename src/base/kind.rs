//! What a caller must do about an error; every module's error type answers `kind()`.

/// The caller's next step, not the cause. Causes live in the error's own message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong; repeating it unchanged fails again.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// Somebody else won a race for it or holds it; read again before deciding.
    Conflict,
    /// Passing trouble (timeout, throttling, connection); the same call may be repeated.
    Retriable,
    /// A limit of this process was reached; repeat after backing off.
    Overloaded,
    /// This session was ended by a seal or a newer session; register again.
    Fenced,
    /// Stored bytes are damaged or of a newer format; a person has to look.
    Corrupt,
    /// The machine is in the way: full disk, missing permission, port in use. A person has to act.
    Environment,
    /// A bug in Esker.
    Internal,
}
