//! The binary: hands the command line to the library and its exit code to the system.

/// Gives memory back to the system within seconds. With glibc's allocator a guard kept what 9,000 sessions had needed
/// (`cargo xtask bench idle`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    smtp_guard::cli::main()
}
