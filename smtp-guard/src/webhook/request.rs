//! One request, from the look-up of the receiver's name to its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use smtp_guard_core::webhook::{Fate, fate, retry_after};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

use super::Settings;
use crate::events::Event;
use crate::printable::printable;

/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// Bytes of an answer's head.
const HEAD: usize = 16 * 1024;
/// Bytes that are read of why something was refused.
const REASON: usize = 512;
/// How long that is waited for.
const REASON_WAIT: Duration = Duration::from_secs(1);
const AGENT: &str = concat!("smtp-guard/", env!("CARGO_PKG_VERSION"));

/// The body of a request.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    /// As in answers of the command line.
    pub(super) version: u32,
    pub(super) hostname: &'a str,
    /// Another one for each start of the guard.
    pub(super) run: &'a str,
    /// The same at each try.
    pub(super) batch: &'a str,
    /// So many events before these are told to nobody.
    pub(super) lost: u64,
    pub(super) events: &'a [Arc<Event>],
}

/// Sends `body`, which is called `batch`; what becomes of it, and why, unless it was taken. Never longer than the settings say.
pub(super) async fn post(settings: &Settings, batch: &str, body: Vec<u8>) -> (Fate, Option<String>) {
    let timeout = settings.config.timeout;
    match tokio::time::timeout(timeout, try_post(settings, batch, body.into())).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(why)) => (Fate::Later(Duration::ZERO), Some(why)),
        Err(_) => (Fate::Later(Duration::ZERO), Some(format!("no answer within {timeout:?}"))),
    }
}

async fn try_post(settings: &Settings, batch: &str, body: Bytes) -> Result<(Fate, Option<String>), String> {
    let stream = connect(settings).await?;
    let request = request(settings, batch, body).map_err(|error| error.to_string())?;
    match &settings.tls {
        None => exchange(stream, request).await,
        Some(connector) => {
            let host = settings.endpoint.host();
            let name = ServerName::try_from(host).map_err(|_| String::from("its name can't be in a certificate"))?;
            let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
            exchange(stream, request).await
        }
    }
}

/// Connects to the first address that takes it. Looking up waits in a thread of this runtime's, which no session shares.
async fn connect(settings: &Settings) -> Result<TcpStream, String> {
    let endpoint = &settings.endpoint;
    let found = lookup_host((endpoint.host(), endpoint.port()))
        .await
        .map_err(|error| format!("its name can't be looked up: {error}"))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES).collect();
    // Of a server with several addresses one that is silent must not take the time of all.
    let share = settings.config.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut why = String::from("its name has no address");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address}: it doesn't answer"),
        }
    }
    Err(why)
}

fn request(settings: &Settings, batch: &str, body: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let seconds = crate::clock::wall().as_ms().div_euclid(1000);
    Request::post(settings.endpoint.target())
        .header(header::HOST, settings.endpoint.authority())
        .header(header::USER_AGENT, AGENT)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .header("x-smtp-guard-signature", settings.secret.sign(seconds, &body))
        .header("x-smtp-guard-batch", batch)
        .body(Full::new(body))
}

/// Sends `request` and hears the head of the answer. Of its body nothing is read but some of why it was refused.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(Fate, Option<String>), String> {
    let mut driver = JoinSet::new();
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // It ends with this set.
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| said(&error))?;
    let status = response.status();
    let wish = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let fate = fate(status.as_u16(), wish.and_then(|value| retry_after(value, crate::clock::wall())));
    if fate == Fate::Taken {
        return Ok((fate, None));
    }
    let reason = tokio::time::timeout(REASON_WAIT, reason(response)).await.unwrap_or_default();
    let reason = if reason.is_empty() { reason } else { format!(": {}", printable(reason.as_bytes())) };
    Ok((fate, Some(format!("it answered {status}{reason}"))))
}

/// The first line of a body.
async fn reason(response: Response<hyper::body::Incoming>) -> String {
    let mut body = response.into_body();
    let mut text = Vec::new();
    while text.len() < REASON
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(&data[..data.len().min(REASON - text.len())]);
        }
    }
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

/// The words of hyper's error, with the cause, which it leaves out.
fn said(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
