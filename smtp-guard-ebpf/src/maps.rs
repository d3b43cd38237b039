//! Fenced: the maps, typed, and the look-ups that [`decide`](smtp_guard_ebpf::decide) asks for.
//!
//! Sizes here are the smallest that load; user space sets those that the configuration decides.
#![allow(unsafe_code, reason = "map values live in memory that both planes write")]

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, SkStorage, lpm_trie::Key};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::btf_map;
use smtp_guard_ebpf::abi::{
    Ban, Connections, EXEMPT_ENTRIES, Family, NETWORK_ENTRIES, PORT_WORDS, Settings, Source, network_key,
};
use smtp_guard_ebpf::decide::Findings;
use smtp_guard_ebpf::event::{Dropped, EVENTS_BYTES, Sampling};
use smtp_guard_ebpf::filter::{self, Bit};
use smtp_guard_ebpf::lists::{self, CHUNK, ELEMENTS, Head, Words};
use smtp_guard_ebpf::near::{self, Found};
use smtp_guard_ebpf::parse::{Address, Segment};
use smtp_guard_ebpf::rate::Bucket;
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
/// See [`filter::BANNED`].
#[btf_map]
static BANNED: Array<[u64; filter::WORDS], { filter::BANNED.elements() as usize }> = Array::new();
/// See [`near`]. The values of an array that may be mapped begin at a page, so that an element is one line of the cache; those of
/// others begin 8 bytes before one.
#[btf_map]
static NEAR: Array<[u64; near::WORDS], { near::ELEMENTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
/// Written by user space only.
#[btf_map]
static BANS: HashMap<u64, Ban, 1024, NO_PREALLOC> = HashMap::new();
/// Bans of networks, by [`network_key`]. Written by user space only.
#[btf_map]
static NETWORKS: LpmTrie<[u8; 8], Ban, { NETWORK_ENTRIES as usize }> = LpmTrie::new();
/// See [`lists`]. Written by user space only.
#[btf_map]
static LISTS: Array<[u64; CHUNK], { ELEMENTS as usize }> = Array::new();
/// Connections by source. Entries stay until user space sweeps them (`KernelPlane::sweep_idle`).
#[btf_map]
pub(crate) static CONNS: HashMap<u64, Connections, 1024, NO_PREALLOC> = HashMap::new();
/// See [`filter::KNOWN`].
#[btf_map]
static KNOWN: Array<[u64; filter::WORDS], { filter::KNOWN.elements() as usize }> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { MAX_REASONS as usize * 2 }> = PerCpuArray::new();
/// The time that this CPU read last, and the tick in which it was.
#[btf_map]
static CLOCK: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();
#[btf_map]
static SAMPLES: PerCpuArray<Sampling, 1> = PerCpuArray::new();
/// Dropped packets, some of them. Read by one process of user space.
#[btf_map]
static EVENTS: RingBuf<Dropped, { EVENTS_BYTES as usize }> = RingBuf::new();
/// Marks a counted socket with the source it was counted for.
#[btf_map]
pub(crate) static COUNTED: SkStorage<u64> = SkStorage::new();

/// The maps.
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

/// How many ports are guarded.
#[inline(always)]
pub(crate) fn guarded_ports() -> u32 {
    (0..PORT_WORDS).map(|index| PORTS.get(index).map_or(0, |word| word.count_ones())).sum()
}

/// Whether any block list is in force.
#[inline(always)]
pub(crate) fn any_listed() -> bool {
    LISTS.get(0).is_some_and(|first| {
        let at = lists::HEADS + (first[lists::ACTIVE] & 1) as usize * 2;
        Head::from_words([first[at], first[at + 1]]).any
    })
}

/// The word of KNOWN that has the bit of `source`, and the bit.
#[inline(always)]
pub(crate) fn known(source: Source) -> Option<(*mut u64, u64)> {
    let Bit { element, word, mask } = filter::KNOWN.bit(source);
    let words = KNOWN.get_ptr_mut(element)?;
    // SAFETY: the pointer is a live map value of so many words, and `word` is below that.
    Some((unsafe { (&raw mut (*words)[word]) }, mask))
}

/// Counts one packet or event.
#[inline(always)]
pub(crate) fn count(reason: Reason, family: Family) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32 * 2 + family as u32) {
        // SAFETY: the pointer is this CPU's own slot, and the program is not interrupted by itself on this CPU.
        unsafe { *counter += 1 };
    }
}

/// Takes note of a dropped packet: whether it is the first one of this CPU in this tick, and is to be told.
#[inline(always)]
pub(crate) fn sample_is_due() -> bool {
    let Some(state) = SAMPLES.get_ptr_mut(0) else { return false };
    // SAFETY: the pointer is this CPU's own slot, and the program is not interrupted by itself on this CPU.
    unsafe { &mut *state }.is_due(tick())
}

/// Tells user space of a dropped packet.
#[inline(always)]
pub(crate) fn tell(segment: &Segment, reason: Reason) {
    let Some(state) = SAMPLES.get_ptr_mut(0) else { return };
    // SAFETY: as in `sample_is_due`.
    let state = unsafe { &mut *state };
    let Some(mut event) = EVENTS.reserve(0) else { return state.told(false) };
    let (high, low) = Dropped::halves(&segment.source);
    event.write(Dropped {
        at_ns: exact_ns(),
        high,
        low,
        stands_for: state.since,
        reason: reason as u32,
        port: segment.port,
        _pad: 0,
    });
    event.submit(0);
    state.told(true);
}

/// The tick of the clock: it costs a load, where reading the clock costs 30 ns.
#[inline(always)]
fn tick() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_jiffies64() }
}

/// The half of the lists that begins behind `base` words.
struct Half {
    base: u32,
}

impl Words for Half {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let index = self.base + index;
        LISTS.get(index / CHUNK as u32).map_or(0, |chunk| chunk[index as usize % CHUNK])
    }
}

/// Now, in ns of CLOCK_BOOTTIME, and exact.
#[inline(always)]
pub(crate) fn exact_ns() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_boot_ns() }
}

impl Findings for Kernel {
    #[inline(always)]
    fn source(&self, address: &Address) -> Source {
        address.source(settings().map_or(u64::MAX, |settings| settings.ipv6_mask))
    }

    #[inline(always)]
    fn listed(&self, address: &Address) -> Option<u32> {
        let first = LISTS.get(0)?;
        // Read once: all of the packet's look-ups are in the same half.
        let active = (first[lists::ACTIVE] & 1) as u32;
        let at = lists::HEADS + active as usize * 2;
        let head = Head::from_words([first[at], first[at + 1]]);
        if !head.any {
            return None;
        }
        let half = Half { base: lists::FIRST + active * lists::HALF };
        let listed = match address {
            Address::V4(addr) => lists::v4(&half, *addr),
            Address::V6 { high, low } => lists::v6(&half, head, *high, *low),
        };
        listed.then_some(head.spares)
    }

    #[inline(always)]
    fn ban(&self, source: Source) -> Option<Ban> {
        let Bit { element, word, mask } = filter::BANNED.bit(source);
        if BANNED.get(element)?[word] & mask == 0 {
            return None;
        }
        match near::find(NEAR.get(near::element(source))?, source) {
            Found::Ban(ban) => return Some(ban),
            Found::Nothing => return None,
            Found::Elsewhere => {}
        }
        // SAFETY: user space replaces values as a whole (a new element), so a reader never sees half a one.
        unsafe { BANS.get(source.0) }.copied()
    }

    #[inline(always)]
    fn network_ban(&self, source: Source) -> Option<Ban> {
        if settings()?.networks == 0 {
            return None;
        }
        let [length, high, low] = network_key(64, source.0);
        let mut key = Key::new(length, [0u8; 8]);
        let data = (&raw mut key.data).cast::<[u32; 2]>();
        // SAFETY: two words are as long as the array of 8 bytes, and the key's begins at a multiple of 4. Word by word, as below.
        unsafe {
            (&raw mut (*data)[0]).write_volatile(high);
            (&raw mut (*data)[1]).write_volatile(low);
        }
        NETWORKS.get(&key).copied()
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
    fn exempt_version(&self) -> u32 {
        settings().map_or(0, |settings| settings.exempt_version)
    }

    #[inline(always)]
    fn connections(&self, source: Source) -> Option<Connections> {
        let Bit { element, word, mask } = filter::KNOWN.bit(source);
        if KNOWN.get(element)?[word] & mask == 0 {
            return None;
        }
        // SAFETY: aligned u64 are read whole; they are only ever changed atomically.
        unsafe { CONNS.get(source.0) }.copied()
    }

    #[inline(always)]
    fn ceiling(&self) -> u32 {
        settings().map_or(0, |settings| settings.connections)
    }

    #[inline(always)]
    fn bucket(&self) -> Bucket {
        settings().map_or(Bucket::new(0, 0), Settings::bucket)
    }

    /// Up to one tick old (1 to 10 ms): reading the clock costs more than all else that a ban needs, and under a flood
    /// it is read for each packet. Ticks don't pass while the machine sleeps, but the first one after it comes at once.
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        let tick = tick();
        let Some(clock) = CLOCK.get_ptr_mut(0) else {
            return exact_ns();
        };
        // SAFETY: the pointer is this CPU's own slot, and the program is not interrupted by itself on this CPU.
        let [now, read] = unsafe { &mut *clock };
        if *read != tick {
            *now = exact_ns();
            *read = tick;
        }
        *now
    }
}
