//! Programs that only `cargo xtask bench kernel` loads: one that does nothing, and one that gives each run another source.
//!
//! Fenced: BPF_PROG_TEST_RUN runs the same bytes again and again, so the source has to be written into them.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[allow(unreachable_pub, reason = "the macros of aya make the programs public themselves")]
#[allow(unsafe_code, reason = "packet memory is written, and another program is called")]
mod programs {
    use aya_ebpf::bindings::xdp_action::XDP_PASS;
    use aya_ebpf::btf_maps::ProgramArray;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;

    /// What runs after `walk`; likewise for `walk_frags`: a program that takes several buffers calls only its like.
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
