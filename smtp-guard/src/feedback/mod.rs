//! (being built elsewhere: just the signatures that the admin API compiles against)
pub mod decision;

use std::net::IpAddr;
use std::time::Duration;

use decision::{Decision, Explanation};

#[derive(Debug, thiserror::Error)]
#[error("the ledger has stopped")]
pub struct Unavailable;

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{0} is exempt")]
    Exempt(IpAddr),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

#[derive(Clone, Debug)]
pub struct Feedback;

impl Feedback {
    pub fn report(&self, _report: crate::offence::Report) {}
    pub async fn decisions(&self) -> Result<Vec<Decision>, Unavailable> {
        Err(Unavailable)
    }
    pub async fn add(&self, _ip: IpAddr, _length: Duration, _text: String) -> Result<Decision, ControlError> {
        Err(Unavailable.into())
    }
    pub async fn delete(&self, _ip: IpAddr) -> Result<Option<Decision>, ControlError> {
        Err(Unavailable.into())
    }
    pub async fn delete_all(&self) -> Result<usize, ControlError> {
        Err(Unavailable.into())
    }
    pub async fn explain(&self, _ip: IpAddr) -> Result<Explanation, ControlError> {
        Err(Unavailable.into())
    }
}
