//! Embeds the eBPF object that the environment names; without one the binary says where to get it.

use std::path::PathBuf;
use std::{env, fs};

const OBJECT: &str = "SMTP_GUARD_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    let object = match env::var_os(OBJECT).map(PathBuf::from) {
        None => Vec::new(),
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).unwrap_or_else(|error| {
                println!("cargo::error={OBJECT} names {}, which can't be read: {error}", path.display());
                Vec::new()
            })
        }
    };
    if let Err(error) = fs::write(out.join("smtp-guard.bpf.o"), object) {
        println!("cargo::error=cannot write the eBPF object to {}: {error}", out.display());
    }
}
