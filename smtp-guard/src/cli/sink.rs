//! `sink`: (being built elsewhere)
use std::net::SocketAddr;
use std::path::Path;

pub fn sink(_listen: SocketAddr, _maildir: &Path) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
