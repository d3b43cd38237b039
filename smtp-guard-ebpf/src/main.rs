//! The programs that run in the kernel: `guard_xdp` judges packets, `guard_conns` counts established connections. `guard_report`
//! says what they work with.
//!
//! Host builds get an empty program, so that `cargo check` needs no BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod conns;
#[cfg(target_arch = "bpf")]
mod ctx;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod report;

#[cfg(target_arch = "bpf")]
#[allow(unreachable_pub, reason = "the macros of aya make the programs public themselves")]
#[allow(unsafe_code, reason = "the section of the license is named by an unsafe attribute")]
mod programs {
    use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
    use aya_ebpf::macros::{sock_ops, xdp};
    use aya_ebpf::programs::{SockOpsContext, XdpContext};
    use smtp_guard_ebpf::abi::Family;
    use smtp_guard_ebpf::decide::{Verdict, decide};
    use smtp_guard_ebpf::parse::{Packet, parse};
    use smtp_guard_ebpf::reason::Reason;

    use crate::{conns, ctx, maps, report};

    /// Parse, look up, decide, record.
    #[xdp(frags)]
    pub fn guard_xdp(ctx: XdpContext) -> u32 {
        let packet = parse(&ctx::Packet(&ctx), maps::guarded);
        match decide(&packet, &maps::Kernel) {
            Verdict::Ignore => XDP_PASS,
            Verdict::Pass(reason, family) => record(XDP_PASS, reason, family),
            Verdict::Drop(reason, family) => {
                // Parsed once more for the few that are told: the path of all others keeps nothing for it.
                if reason != Reason::Malformed
                    && maps::sample_is_due()
                    && let Packet::Tcp(segment) = parse(&ctx::Packet(&ctx), |_| true)
                {
                    maps::tell(&segment, reason);
                }
                record(XDP_DROP, reason, family)
            }
        }
    }

    /// The one exit that counts.
    #[inline(always)]
    fn record(action: u32, reason: Reason, family: Family) -> u32 {
        maps::count(reason, family);
        action
    }

    /// Counts each source's established connections from the states of their sockets.
    #[sock_ops]
    pub fn guard_conns(ctx: SockOpsContext) -> u32 {
        conns::observe(&ctx);
        1
    }

    /// Run once by the loader, attached to nothing: logs what the maps hold, as the programs see them. Passes where that is
    /// what this version wants.
    #[xdp(frags)]
    pub fn guard_report(ctx: XdpContext) -> u32 {
        if report::report(&ctx) { XDP_PASS } else { XDP_ABORTED }
    }

    /// Helpers such as the socket storage are for programs under the GPL only.
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
