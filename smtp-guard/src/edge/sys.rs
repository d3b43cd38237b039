//! Fenced: the system calls that no crate offers. All else that is unsafe in the user plane is one call in `memory.rs`.
#![allow(unsafe_code, reason = "bpf(2) and socket options that aya and rustix lack; each block has its proof")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use aya::maps::{MapData, MapError, MapType};

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
/// Since Linux 5.14; not in every version of libc's headers.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// A bit of SO_BUF_LOCK: the send buffer's size was set and stays. (The other, 2, is the receive buffer's.)
const SOCK_SNDBUF_LOCK: libc::c_int = 1;

/// The part of `union bpf_attr` that BPF_OBJ_PIN and BPF_OBJ_GET read.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_UPDATE reads.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part of `union bpf_attr` that BPF_MAP_LOOKUP_ELEM and BPF_MAP_DELETE_ELEM read.
#[repr(C)]
struct LookupElement {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that BPF_MAP_LOOKUP_BATCH and BPF_MAP_UPDATE_BATCH read.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD reads.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The part of `union bpf_attr` that BPF_LINK_GET_NEXT_ID and BPF_LINK_GET_FD_BY_ID read.
#[repr(C)]
struct GetId {
    /// Where to begin, or which.
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The head of `struct bpf_link_info`, as far as it concerns an XDP link.
#[repr(C)]
#[derive(Default)]
pub(super) struct LinkInfo {
    kind: u32,
    pub(super) id: u32,
    pub(super) prog_id: u32,
    _pad: u32,
    pub(super) ifindex: u32,
    _rest: [u32; 15],
}

/// Entries of a hash map from `u64` to `N` bytes, many at a call: one by one costs 3 us each, this costs 0.05 us.
///
/// The place in the map is a bucket, not a key, so entries that come and go meanwhile neither end nor restart the walk.
pub(super) struct Entries<const N: usize> {
    map: MapData,
    /// The bucket to go on from; `None`: the first.
    bucket: Option<u32>,
    keys: Vec<u64>,
    values: Vec<[u8; N]>,
}

impl<const N: usize> Entries<N> {
    /// Walks `map` from the bucket that [`Self::bucket`] gave, `batch` entries at a call. Fails where the map isn't a hash map
    /// with such keys and values.
    pub(super) fn of(map: MapData, bucket: Option<u32>, batch: usize) -> Result<Self, MapError> {
        expect(&map, MapType::Hash, size_of::<u64>(), N)?;
        Ok(Self { map, bucket, keys: vec![0; batch], values: vec![[0; N]; batch] })
    }

    /// Where the next call goes on; `None` at the end.
    pub(super) fn bucket(&self) -> Option<u32> {
        self.bucket
    }

    /// The entries of the next buckets. The walk is over when [`Self::bucket`] is `None` after it.
    pub(super) fn next_batch(&mut self) -> io::Result<impl Iterator<Item = (u64, [u8; N])> + '_> {
        let from = self.bucket;
        let mut next = 0u32;
        let mut attr = Batch {
            in_batch: from.as_ref().map_or(0, |bucket| ptr::from_ref(bucket) as u64),
            out_batch: &raw mut next as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: self.keys.len() as u32,
            map_fd: number(self.map.fd().as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute lives over the call and is as long as we say. `from` and `next` are the u32 that a hash
        // map wants here. Keys and values have room for `count` of the map's sizes, which `of` compared, and its type.
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        self.bucket = match result {
            Ok(_) => Some(next),
            // The end; what was found before it is there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(error) => return Err(error),
        };
        let found = (attr.count as usize).min(self.keys.len());
        Ok(self.keys[..found].iter().copied().zip(self.values[..found].iter().copied()))
    }
}

/// Fails where `map` is of another type than `kind`, or has keys or values of other sizes. How much the kernel reads from our
/// memory and writes into it depends on all three: a map per CPU has a value for each.
fn expect(map: &MapData, kind: MapType, key: usize, value: usize) -> Result<(), MapError> {
    let info = map.info()?;
    let (map_type, found_key, found_value) = (info.map_type()?, info.key_size() as usize, info.value_size() as usize);
    if map_type != kind {
        return Err(MapError::InvalidMapType { map_type: map_type as u32 });
    }
    if found_key != key {
        return Err(MapError::InvalidKeySize { size: key, expected: found_key });
    }
    if found_value != value {
        return Err(MapError::InvalidValueSize { size: value, expected: found_value });
    }
    Ok(())
}

/// A key of a [`WordMap`]: any bytes are valid in it, and it has no padding.
pub(super) trait Key: Copy {
    /// The type of maps that have such keys.
    const KIND: MapType;
}

impl Key for u32 {
    const KIND: MapType = MapType::Array;
}

impl Key for u64 {
    const KIND: MapType = MapType::Hash;
}

/// The length of a prefix, and its bits in network order.
impl Key for [u32; 3] {
    const KIND: MapType = MapType::LpmTrie;
}

/// A map whose values are words, written many at a call: one by one costs 1 us each.
#[derive(Debug)]
pub(super) struct WordMap<K> {
    map: MapData,
    /// Words of a value.
    words: usize,
    key: std::marker::PhantomData<K>,
}

impl<K: Key> WordMap<K> {
    /// Opens the map pinned at `path`, whose values have `words` words.
    pub(super) fn open(path: &Path, words: usize) -> io::Result<Self> {
        let map = MapData::from_pin(path).map_err(io::Error::other)?;
        expect(&map, K::KIND, size_of::<K>(), words * 8).map_err(io::Error::other)?;
        Ok(Self { map, words, key: std::marker::PhantomData })
    }

    /// The value of `key`.
    pub(super) fn read(&self, key: K) -> io::Result<Vec<u64>> {
        let mut value = vec![0; self.words];
        let mut attr = LookupElement {
            map_fd: number(self.map.fd().as_fd()),
            _pad: 0,
            key: ptr::from_ref(&key) as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the attribute lives over the call and is as long as we say. `open` compared the sizes of key and value,
        // which is what the kernel reads from `key` and writes to `value`.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
        Ok(value)
    }

    /// Removes `key`; `false` where it isn't there.
    pub(super) fn remove(&self, key: K) -> io::Result<bool> {
        let mut attr = LookupElement {
            map_fd: number(self.map.fd().as_fd()),
            _pad: 0,
            key: ptr::from_ref(&key) as u64,
            value: 0,
            flags: 0,
        };
        // SAFETY: the attribute lives over the call and is as long as we say. `open` compared the size of the key.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes `values`, one after the other, for `keys`. The error of one that can't be written comes with the number of
    /// those before it, which are.
    pub(super) fn write_some(&self, keys: &[K], values: &[u64]) -> Result<(), (usize, io::Error)> {
        if values.len() != keys.len() * self.words {
            return Err((0, io::ErrorKind::InvalidInput.into()));
        }
        if keys.is_empty() {
            return Ok(());
        }
        let mut attr = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: number(self.map.fd().as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute lives over the call and is as long as we say. Keys and values have the map's sizes, which
        // `open` compared, and there are `count` of each.
        let result = unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) };
        result.map(drop).map_err(|error| (attr.count as usize % keys.len(), error))
    }

    /// Writes `values`, one after the other, for `keys`.
    pub(super) fn write(&self, keys: &[K], values: &[u64]) -> io::Result<()> {
        self.write_some(keys, values).map_err(|(_, error)| error)
    }
}

impl WordMap<u32> {
    /// All values of an array of `elements`, one after the other.
    pub(super) fn read_all(&self, elements: u32) -> io::Result<Vec<u64>> {
        let mut keys = vec![0u32; elements as usize];
        let mut values = vec![0u64; elements as usize * self.words];
        let mut next = 0u32;
        let mut attr = Batch {
            in_batch: 0,
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: elements,
            map_fd: number(self.map.fd().as_fd()),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute lives over the call and is as long as we say. `next` is a key. Keys and values have room for
        // `count` of the map's sizes, which `open` compared.
        match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ if attr.count != elements => Err(io::Error::other("the pinned map has another number of elements")),
            _ => Ok(values),
        }
    }
}

/// Returns when every program that is running now has ended. What was written before is seen by those that run after.
pub(super) fn wait_for_programs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers only. It waits for a grace period of RCU, under which programs run.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Pins the object behind `fd` (here: a link that is pinned elsewhere as well) at `path`.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { pathname: path.as_ptr() as u64, bpf_fd: number(fd), file_flags: 0 };
    // SAFETY: the attribute lives over the call, is as long as we say, and points to a string that lives as long; the
    // descriptor is open.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens the object (here: a link or a program) pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute lives over the call, is as long as we say, and points to a string that lives as long.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: a successful BPF_OBJ_GET returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program behind `link`, at once: there is no moment without one.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: number(link), new_prog_fd: number(program), flags: 0, old_prog_fd: 0 };
    // SAFETY: the attribute lives over the call and is as long as we say; both descriptors are open.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// The interface and program of an XDP link. `ifindex` is 0 when the interface is gone, and counts in the network
/// namespace that the interface is in.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = GetInfo { bpf_fd: number(link), info_len: size_of::<LinkInfo>() as u32, info: &raw mut info as u64 };
    // SAFETY: the attribute lives over the call; `info` is writable for `info_len` bytes and any bytes are valid in it.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// All links to network interfaces that carry XDP programs, of all namespaces. Needs CAP_SYS_ADMIN.
pub(super) fn xdp_links() -> io::Result<Vec<LinkInfo>> {
    const BPF_LINK_TYPE_XDP: u32 = 6;
    let mut found = Vec::new();
    let mut attr = GetId { id: 0, next_id: 0, open_flags: 0 };
    loop {
        // SAFETY: the attribute lives over the call and is as long as we say; it holds numbers only.
        match unsafe { bpf(BPF_LINK_GET_NEXT_ID, &mut attr) } {
            Ok(_) => attr.id = attr.next_id,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            Err(error) => return Err(error),
        }
        let mut which = GetId { id: attr.id, next_id: 0, open_flags: 0 };
        // SAFETY: as above.
        let fd = match unsafe { bpf(BPF_LINK_GET_FD_BY_ID, &mut which) } {
            // SAFETY: a successful call returns a new descriptor that nobody else owns.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        found.extend(link_info(fd.as_fd()).ok().filter(|link| link.kind == BPF_LINK_TYPE_XDP));
    }
}

/// The cookie of the network namespace that this process is in; 0 on kernels before 5.14, which have none.
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = super::interfaces::any_socket()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open; `cookie` is writable for `length` bytes, and both live over the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(cookie);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(0),
        error => Err(error),
    }
}

/// Lets the kernel choose the size of `socket`'s receive buffer again, which a size that was set forbids. Fails before Linux
/// 5.14.
pub(crate) fn let_receive_buffer_grow(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Of both locks the one of the send buffer stays: where it was set, it is to be.
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, SOCK_SNDBUF_LOCK)
}

/// Lets the receive window of `socket` grow to `bytes`, if the buffer does.
pub(crate) fn let_window_grow(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, bytes)
}

/// The shortest time that a segment of `socket` and its acknowledgement took.
pub(crate) fn shortest_round_trip(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    // The head of `struct tcp_info`, as far as it concerns us, in words; the last is `tcpi_min_rtt`, in us.
    let mut info = [0u32; 38];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the socket is open; `info` is writable for `length` bytes, any bytes are valid in it, and both live over the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::from_micros(info[37].into()))
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open; `value` is readable for `length` bytes, and both live over the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

/// bpf(2).
///
/// # Safety
/// `attr` must be what `command` reads, and its pointers must be valid for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the length is that of the attribute.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
