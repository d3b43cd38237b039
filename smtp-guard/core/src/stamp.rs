//! The stamp of a file when it was read.

/// The marks of a file that change when it is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub bytes: u64,
    pub seconds: i64,
    pub nanoseconds: i64,
}
