//! The machine that a bench ran on: the first line of its table.

/// CPUs, kernel and load.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU").to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cpus} x {name}, Linux {}; load {}",
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim()
    )
}
