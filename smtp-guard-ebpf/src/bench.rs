//! Programs that only `cargo xtask bench` loads: those that do nothing, one that gives each run another source, and the
//! generator of the flood.
//!
//! Fenced: BPF_PROG_TEST_RUN runs the same bytes again and again, so the source has to be written into them.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[allow(unreachable_pub, reason = "the macros of aya make the programs public themselves")]
#[allow(unsafe_code, reason = "packet memory is written, and another program is called")]
mod programs {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::btf_maps::{Array, ProgramArray};
    use aya_ebpf::helpers::bpf_ktime_get_ns;
    use aya_ebpf::helpers::generated::bpf_redirect;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;

    /// The program that runs after `walk`; another one for `walk_frags`: a program that takes several buffers calls only its like.
    #[btf_map]
    static NEXT: ProgramArray<1> = ProgramArray::new();
    #[btf_map]
    static NEXT_FRAGS: ProgramArray<1> = ProgramArray::new();

    #[xdp]
    pub fn pass(_ctx: XdpContext) -> u32 {
        XDP_PASS
    }

    #[xdp(frags)]
    pub fn pass_frags(_ctx: XdpContext) -> u32 {
        XDP_PASS
    }

    #[xdp]
    pub fn walk(ctx: XdpContext) -> u32 {
        step(&ctx);
        // SAFETY: the context and the map are the kernel's.
        unsafe { NEXT.tail_call(&ctx, 0) };
        XDP_PASS
    }

    #[xdp(frags)]
    pub fn walk_frags(ctx: XdpContext) -> u32 {
        step(&ctx);
        // SAFETY: the context and the map are the kernel's.
        unsafe { NEXT_FRAGS.tail_call(&ctx, 0) };
        XDP_PASS
    }

    /// The next of a row of random IPv4 sources whose third octet is odd. The row's state is TCP's sequence number.
    #[inline(always)]
    fn step(ctx: &XdpContext) {
        const SOURCE: usize = 26;
        const SEQUENCE: usize = 38;
        let at = ctx.data();
        if at + SEQUENCE + 4 > ctx.data_end() {
            return;
        }
        let (source, sequence) = ((at + SOURCE) as *mut u32, (at + SEQUENCE) as *mut u32);
        // SAFETY: both lie before data_end, as checked above.
        let state = unsafe { sequence.read_unaligned() }.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // SAFETY: as above.
        unsafe {
            sequence.write_unaligned(state);
            source.write_unaligned(((state ^ state >> 15) | 0x100).to_be());
        }
    }

    /// Frames that the kernel hands on together, like the packets that a network card raises one interrupt for. Half of
    /// what a veth has room for. The test run must be given the same number.
    const BATCH: u64 = 128;
    /// How often a frame that isn't due looks at the clock: about 50 us.
    const LOOKS: u32 = 1024;

    /// Written by user space: number of the interface; time from one batch to the next in ns (0: no pause); how many
    /// sources, a power of two, less one; sums of the IPv4 header's and of the segment's 16-bit words, their checksums and
    /// the lower half of the source left out.
    #[btf_map]
    static PACE: Array<[u64; 5], 1> = Array::new();
    /// The generator's own: calls; when the last batch was due; whether this one is; state of the row of sources; frames
    /// sent.
    #[btf_map]
    static SENT: Array<[u64; 5], 1> = Array::new();

    /// The zero that filters of the flood are measured from.
    #[xdp(frags)]
    pub fn drop_frags(_ctx: XdpContext) -> u32 {
        XDP_DROP
    }

    /// Sends the frame out of the interface, from the next of up to 65,536 sources, if its batch is due. All sources
    /// come equally often, in no order. Late batches are not made up for.
    ///
    /// A frame that isn't due waits a while and is dropped. It waits because a drop takes a lock of the page pool, which
    /// the receiver needs as well.
    #[xdp]
    pub fn flood(ctx: XdpContext) -> u32 {
        const IP_CHECKSUM: usize = 24;
        const SOURCE_LOW: usize = 28;
        const TCP_CHECKSUM: usize = 50;
        let (Some(&[interface, pause, mask, ip_sum, tcp_sum]), Some(state)) = (PACE.get(0), SENT.get_ptr_mut(0)) else {
            return XDP_DROP;
        };
        // SAFETY: a live map value; only one thread runs this program, and it isn't interrupted by itself.
        let [calls, last, due, row, sent] = unsafe { &mut *state };
        if *calls % BATCH == 0 {
            let now = now();
            *due = u64::from(now >= *last + pause);
            if *due != 0 {
                *last = if *last + 2 * pause < now { now } else { *last + pause };
            }
        }
        *calls += 1;
        let at = ctx.data();
        if *due == 0 || at + TCP_CHECKSUM + 2 > ctx.data_end() {
            let mut looks = 0;
            while looks < LOOKS && now() < *last + pause {
                looks += 1;
            }
            return XDP_DROP;
        }
        // Full period, whatever the power of two.
        *row = (*row * 25_173 + 13_849) & mask & 0xffff;
        for (offset, value) in [
            (SOURCE_LOW, *row as u16),
            (IP_CHECKSUM, checksum(ip_sum + *row)),
            (TCP_CHECKSUM, checksum(tcp_sum + *row)),
        ] {
            // SAFETY: all three lie before data_end, as checked above.
            unsafe { ((at + offset) as *mut u16).write_unaligned(value.to_be()) };
        }
        *sent += 1;
        // SAFETY: the helper takes two numbers and changes only the kernel's own notes.
        unsafe { bpf_redirect(interface as u32, 0) as u32 }
    }

    #[inline(always)]
    fn now() -> u64 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_ns() }
    }

    /// The checksum of RFC 1071, from a sum of less than 2^32.
    #[inline(always)]
    fn checksum(sum: u64) -> u16 {
        let once = (sum & 0xffff) + (sum >> 16);
        !(((once & 0xffff) + (once >> 16)) as u16)
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        // Never compiled in: the verifier would refuse the endless loop.
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
