//! Fenced: the packet behind an XDP context.
#![allow(unsafe_code, reason = "the kernel hands the packet over as a pair of addresses")]

use aya_ebpf::programs::XdpContext;
use smtp_guard_ebpf::frame::{Frame, MAX_OFFSET};

/// The packet, linear part only: headers are in it, also with `xdp.frags`.
pub(crate) struct Packet<'a>(pub(crate) &'a XdpContext);

impl Frame for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset >= MAX_OFFSET {
            return None;
        }
        let at = self.0.data() + offset;
        if at + N > self.0.data_end() {
            return None;
        }
        // SAFETY: `at` to `at + N` lies between data and data_end, as checked above; the verifier checks it again. An
        // array of bytes has no alignment and any bytes are valid.
        Some(unsafe { *(at as *const [u8; N]) })
    }
}
