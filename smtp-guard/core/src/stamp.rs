//! What a file was when it was read.

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub bytes: u64,
    pub seconds: i64,
    pub nanoseconds: i64,
}
