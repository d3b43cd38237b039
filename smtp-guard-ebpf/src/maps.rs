//! Fenced: the maps, typed, and the look-ups that [`decide`](smtp_guard_ebpf::decide) asks for.
//!
//! Sizes here are the smallest that load; user space sets those that the configuration decides.
#![allow(unsafe_code, reason = "map values live in memory that both planes write")]

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, SkStorage, lpm_trie::Key};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_map;
use smtp_guard_ebpf::abi::{self, Ban, EXEMPT_ENTRIES, Family, PORT_WORDS, Settings, Source};
use smtp_guard_ebpf::decide::Findings;
use smtp_guard_ebpf::parse::Address;
use smtp_guard_ebpf::reason::{MAX_REASONS, Reason};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
/// One bit a port.
#[btf_map]
static PORTS: Array<u64, { PORT_WORDS as usize }> = Array::new();
#[btf_map]
static EXEMPT_V4: LpmTrie<[u8; 4], u32, { EXEMPT_ENTRIES as usize }> = LpmTrie::new();
#[btf_map]
static EXEMPT_V6: LpmTrie<[u8; 16], u32, { EXEMPT_ENTRIES as usize }> = LpmTrie::new();
/// Written by user space only.
#[btf_map]
static BANS: HashMap<u64, Ban, 1024, NO_PREALLOC> = HashMap::new();
/// Established connections by source. Entries stay at 0 until user space sweeps them (`KernelPlane::sweep_idle`).
#[btf_map]
pub(crate) static CONNS: HashMap<u64, u64, 1024, NO_PREALLOC> = HashMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { MAX_REASONS as usize * 2 }> = PerCpuArray::new();
/// Marks a counted socket with the source it was counted for.
#[btf_map]
pub(crate) static COUNTED: SkStorage<u64> = SkStorage::new();

/// What the maps know.
pub(crate) struct Kernel;

/// The settings; all zero until user space has written them, which guards nothing.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Whether `port` is guarded.
#[inline(always)]
pub(crate) fn guarded(port: u16) -> bool {
    match PORTS.get(u32::from(port >> 6)) {
        Some(word) => *word >> (port & 63) & 1 == 1,
        None => false,
    }
}

/// Counts one packet or event.
#[inline(always)]
pub(crate) fn count(reason: Reason, family: Family) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32 * 2 + family as u32) {
        // SAFETY: the pointer is this CPU's own slot, and the program is not interrupted by itself on this CPU.
        unsafe { *counter += 1 };
    }
}

impl Findings for Kernel {
    #[inline(always)]
    fn guarded(&self, port: u16) -> bool {
        guarded(port)
    }

    #[inline(always)]
    fn source(&self, address: &Address) -> Source {
        address.source(settings().map_or(u64::MAX, |settings| settings.ipv6_mask))
    }

    #[inline(always)]
    fn ban(&self, source: Source) -> Option<Ban> {
        // SAFETY: user space replaces values as a whole (a new element), so a reader never sees half a one.
        unsafe { BANS.get(source.0) }.copied()
    }

    #[inline(always)]
    fn exempt(&self, address: &Address) -> bool {
        match address {
            Address::V4(addr) => EXEMPT_V4.get(&Key::new(32, addr.to_be_bytes())).is_some(),
            Address::V6 { high, low } => {
                let mut key = Key::new(128, [0u8; 16]);
                let data = (&raw mut key.data).cast::<[u32; 4]>();
                let words = [high >> 32, *high, low >> 32, *low];
                for (n, word) in words.into_iter().enumerate() {
                    // Word by word: joined to a store of 8 bytes they would be misaligned, which the stack doesn't take.
                    // SAFETY: four words are as long as the array of 16 bytes, and the key's begins at a multiple of 4.
                    unsafe { (&raw mut (*data)[n]).write_volatile((word as u32).to_be()) };
                }
                EXEMPT_V6.get(&key).is_some()
            }
        }
    }

    #[inline(always)]
    fn established(&self, source: Source) -> u64 {
        // SAFETY: an aligned u64 is read whole; it is only ever changed atomically.
        unsafe { CONNS.get(source.0) }.copied().map_or(0, abi::established)
    }

    #[inline(always)]
    fn ceiling(&self) -> u32 {
        settings().map_or(0, |settings| settings.connections)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}
