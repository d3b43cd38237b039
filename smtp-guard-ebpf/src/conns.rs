//! Fenced: counting each source's established connections from the life of their sockets.
//!
//! A socket is counted when a handshake completes (PASSIVE_ESTABLISHED), and given back when it reaches CLOSE. It may get
//! there in any way: a FIN, an RST of either side, a killed process, a connection that was never accepted. A forged
//! segment can cause neither. The mark in [`COUNTED`] names the source that the socket was counted for. So it is given
//! back once, and to the right source, also after the IPv6 prefix was changed.
//!
//! With TCP Fast Open the kernel calls a connection established at its SYN, if the SYN carries a cookie that proves its
//! address. The server has the socket from then on, in SYN_RECV, so it counts from then on. It is given back when the
//! handshake is given up or reset. A host that takes data without a cookie (`net.ipv4.tcp_fastopen` with 0x200) has given
//! up that proof, for all its servers and for these counts. With Multipath TCP, each subflow is a connection of its
//! source.
#![allow(unsafe_code, reason = "the context and its socket are the kernel's")]

use core::arch::asm;
use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_STATE_CB_FLAG};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_delete, bpf_sk_storage_get};
use aya_ebpf::programs::SockOpsContext;
use smtp_guard_ebpf::abi::{self, Connections, Settings, Source};
use smtp_guard_ebpf::parse::Address;
use smtp_guard_ebpf::rate::Bucket;
use smtp_guard_ebpf::reason::Reason;

use crate::maps::{self, CONNS, COUNTED};

const OP_PASSIVE_ESTABLISHED: u32 = 5;
const OP_STATE: u32 = 10;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Takes note of what happened to a socket.
#[inline(always)]
pub(crate) fn observe(ctx: &SockOpsContext) {
    match ctx.op() {
        OP_PASSIVE_ESTABLISHED => established(ctx),
        OP_STATE if ctx.arg(1) == TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let Some(settings) = maps::settings() else { return };
    // The port is in host order here, other than that of the remote side.
    if !maps::guarded(ctx.local_port() as u16) || !in_namespace(ctx, settings) {
        return;
    }
    let Some(source) = source(ctx, settings) else { return };
    // Without the callback the count would never be given back.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() {
        return maps::count(Reason::NotCounted, source.family());
    }
    if !mark(ctx, source) {
        return;
    }
    if !increment(source, settings.bucket()) {
        unmark(ctx);
        maps::count(Reason::NotCounted, source.family());
    }
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(counted) = marked(ctx) else { return };
    unmark(ctx);
    if let Some(count) = CONNS.get_ptr_mut(counted.0)
        // SAFETY: the pointer is a live map value, aligned to 8, whose first field is the count.
        && abi::established(unsafe { fetch_add(count.cast(), u64::MAX) }) == 0
    {
        // There was none to give back: what was counted got lost with the entry. Everyone who finds it so takes back
        // his own, so that it adds up however many do it at once.
        // SAFETY: as above.
        unsafe { fetch_add(count.cast(), 1) };
    }
}

#[inline(always)]
fn in_namespace(ctx: &SockOpsContext, settings: &Settings) -> bool {
    if settings.netns_cookie == 0 {
        return true;
    }
    // SAFETY: the helper reads the context that the program was called with.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    cookie == settings.netns_cookie
}

/// The peer's source. A dual-stack socket shows an IPv4 peer as an IPv4-mapped address.
#[inline(always)]
fn source(ctx: &SockOpsContext, settings: &Settings) -> Option<Source> {
    match ctx.family() {
        AF_INET => Some(Source::v4(u32::from_be(ctx.remote_ip4()))),
        AF_INET6 => {
            // Word by word: the verifier allows only accesses of 4 bytes here.
            // SAFETY: the fields of the context that the program was called with, read as volatile so that the
            // compiler doesn't join them.
            let word = |n: usize| unsafe { u32::from_be(ptr::read_volatile(ptr::addr_of!((*ctx.ops).remote_ip6[n]))) };
            let half = |n: usize| u64::from(word(n)) << 32 | u64::from(word(n + 1));
            Some(Address::v6(half(0), half(2)).source(settings.ipv6_mask))
        }
        _ => None,
    }
}

/// Adds one to the count of `source`, and charges its bucket; `false` where the map is full.
#[inline(always)]
fn increment(source: Source, bucket: Bucket) -> bool {
    let now = if bucket.interval_ns == 0 { 0 } else { maps::exact_ns() };
    if let Some((word, mask)) = maps::known(source)
        // SAFETY: the pointer is to a word of a live map value, aligned to 8; a word is read whole.
        && unsafe { word.read_volatile() } & mask == 0
    {
        // SAFETY: as above.
        unsafe { or(word, mask) };
    }
    // Twice: another CPU may insert the entry between the look-up and our insertion.
    for _ in 0..2 {
        if let Some(value) = CONNS.get_ptr_mut(source.0) {
            // SAFETY: the pointer is a live map value, aligned to 8, whose first field is the count.
            unsafe { fetch_add(value.cast(), 1) };
            if bucket.interval_ns != 0 {
                charge(value, bucket, now);
            }
            return true;
        }
        let first = Connections { count: 1, full_ns: if bucket.interval_ns == 0 { 0 } else { bucket.charge(0, now) } };
        if CONNS.insert(source.0, first, u64::from(BPF_NOEXIST)).is_ok() {
            return true;
        }
    }
    false
}

/// Charges the bucket in `value`. Where other CPUs change it at the same time, again and again, one is for free.
#[inline(always)]
fn charge(value: *mut Connections, bucket: Bucket, now: u64) {
    for _ in 0..4 {
        // SAFETY: the pointer is a live map value; an aligned u64 is read whole.
        let full = unsafe { ptr::addr_of_mut!((*value).full_ns) };
        // SAFETY: as above.
        let old = unsafe { full.read_volatile() };
        // SAFETY: as above.
        if unsafe { compare_exchange(full, old, bucket.charge(old, now)) } == old {
            return;
        }
    }
}

/// Marks the socket; `false` where it is marked already or can't be.
#[inline(always)]
fn mark(ctx: &SockOpsContext, source: Source) -> bool {
    if marked(ctx).is_some() {
        return false;
    }
    let mut value = source.0;
    let sk = socket(ctx);
    if sk.is_null() {
        return false;
    }
    // SAFETY: `sk` is the context's socket and not null; `value` lives over the call, which copies it.
    let storage = unsafe {
        bpf_sk_storage_get(counted_map(), sk, ptr::from_mut(&mut value).cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    };
    if storage.is_null() {
        maps::count(Reason::NotCounted, source.family());
        return false;
    }
    true
}

#[inline(always)]
fn marked(ctx: &SockOpsContext) -> Option<Source> {
    let sk = socket(ctx);
    if sk.is_null() {
        return None;
    }
    // SAFETY: `sk` is the context's socket and not null; no value is created.
    let storage = unsafe { bpf_sk_storage_get(counted_map(), sk, ptr::null_mut(), 0) };
    if storage.is_null() {
        return None;
    }
    // SAFETY: a storage of this map holds one u64.
    Some(Source(unsafe { *storage.cast::<u64>() }))
}

#[inline(always)]
fn unmark(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    if !sk.is_null() {
        // SAFETY: `sk` is the context's socket and not null. Nothing to delete is no harm.
        unsafe { bpf_sk_storage_delete(counted_map(), sk) };
    }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: a field of the context that the program was called with.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

/// The map's address, as the helpers take it: the loader puts the map in its place.
#[inline(always)]
fn counted_map() -> *mut c_void {
    ptr::from_ref(&COUNTED).cast_mut().cast()
}

/// Adds atomically and returns what was there before.
///
/// In assembler: LLVM 22.1.8 miscompiles a relaxed `fetch_add` whose result is used (issue 210280).
///
/// # Safety
/// `value` must point to a live map value, aligned to 8.
#[inline(always)]
unsafe fn fetch_add(value: *mut u64, add: u64) -> u64 {
    let mut result = add;
    // SAFETY: the caller's promise. The instruction reads and writes only the value and the register.
    unsafe {
        asm!(
            "{r} = atomic_fetch_add((u64 *)({p} + 0), {r})",
            r = inout(reg) result,
            p = in(reg) value,
            options(nostack)
        );
    }
    result
}

/// Sets the bits of `mask`, atomically.
///
/// # Safety
/// `value` must point to a live map value, aligned to 8.
#[inline(always)]
unsafe fn or(value: *mut u64, mask: u64) {
    // SAFETY: the caller's promise. The instruction reads and writes only the value.
    unsafe {
        asm!("lock *(u64 *)({p} + 0) |= {m}", p = in(reg) value, m = in(reg) mask, options(nostack));
    }
}

/// Writes `new` where `old` stands, atomically. Returns what stood there.
///
/// # Safety
/// `value` must point to a live map value, aligned to 8.
#[inline(always)]
unsafe fn compare_exchange(value: *mut u64, old: u64, new: u64) -> u64 {
    let mut result = old;
    // SAFETY: the caller's promise. The instruction reads and writes only the value and r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({p} + 0, r0, {new})",
            p = in(reg) value,
            new = in(reg) new,
            inout("r0") result,
            options(nostack)
        );
    }
    result
}
