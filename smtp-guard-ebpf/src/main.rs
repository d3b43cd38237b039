//! The programs that run in the kernel. Host builds get an empty program so that `cargo check` needs no BPF toolchain.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
