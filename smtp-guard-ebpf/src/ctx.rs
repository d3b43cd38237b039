//! Fenced: the packet behind an XDP context.
#![allow(unsafe_code, reason = "the kernel hands the packet over as a pair of addresses")]

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use smtp_guard_ebpf::frame::{Frame, MAX_OFFSET};

/// The packet, linear part only: headers are in it, also with `xdp.frags`.
pub(crate) struct Packet<'a>(pub(crate) &'a XdpContext);

impl Packet<'_> {
    /// Where it begins and ends. Read again each time: the compiler would keep the addresses in registers of 32 bits, as which
    /// the verifier doesn't know them again.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let ctx = self.0.ctx;
        // SAFETY: the context is live for as long as the program runs, and the verifier allows these two fields.
        unsafe {
            ((&raw const (*ctx).data).read_volatile() as usize, (&raw const (*ctx).data_end).read_volatile() as usize)
        }
    }
}

impl Frame for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset >= MAX_OFFSET {
            return None;
        }
        let (data, data_end) = self.bounds();
        let at = data + offset;
        if at + N > data_end {
            return None;
        }
        // SAFETY: `at` to `at + N` lies between data and data_end, as checked above; the verifier checks it again. An
        // array of bytes has no alignment and any bytes are valid.
        Some(unsafe { *(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn blurred(&self, offset: usize) -> usize {
        // Any number that the verifier doesn't know: the packet's ethertype.
        let unknown = u64::from(self.load_u16(12).unwrap_or_default());
        let mut blurred = offset as u64;
        // In assembler, since the compiler knows what this comes to.
        // SAFETY: arithmetic on two registers.
        unsafe {
            asm!(
                "{b} ^= {u}",
                "{b} ^= {u}",
                "{b} &= {mask}",
                b = inout(reg) blurred,
                u = in(reg) unknown,
                mask = const MAX_OFFSET - 1,
                options(nomem, nostack)
            );
        }
        blurred as usize
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        // The difference of two packet pointers is a number, which the programs of a privileged loader may compute.
        let (data, data_end) = self.bounds();
        if data_end - data >= end {
            return true;
        }
        // Only a packet in several buffers, or one that lies, comes here.
        // SAFETY: the helper reads the context that the program was called with.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as usize >= end }
    }
}
