//! The command line's side of the admin API: one request over one connection, and 5 seconds for all of it. The requests of a
//! command stand in its module.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::observe::admin::Failure;
use crate::observe::fleet::FleetView;
use crate::observe::follow::{Follow, Line};
use crate::observe::live::Live;
use crate::observe::status::Status;

/// For connecting, the request and its answer together.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The same where it is about many decisions: the ledger may be busy with other many ones.
pub(super) const MANY: Duration = Duration::from_secs(60);
/// The same where the guard has to look things up: the longest `dns.timeout`, twice.
pub(super) const LOOKUPS: Duration = Duration::from_secs(125);
/// Bytes of an answer: the longest is a part of the decisions.
const ANSWER: usize = 64 << 20;

/// Bytes of one event.
const LINE: usize = 1 << 20;

/// Asks the guard that listens on one socket.
#[derive(Clone, Debug)]
pub struct AdminClient {
    socket: PathBuf,
    /// Why the socket is the built-in one.
    missing: Option<String>,
}

/// The error of a configuration that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadConfiguration(String);

impl BadConfiguration {
    pub fn new(said: impl Into<String>) -> Self {
        Self(said.into())
    }
}

impl AdminClient {
    /// For the guard on `socket`; nothing is opened yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, missing: None }
    }

    /// The same, where the socket is the built-in one because no configuration was found: `missing` says where.
    pub fn without(self, missing: Option<String>) -> Self {
        Self { missing, ..self }
    }

    /// GET /status
    pub fn status(&self) -> anyhow::Result<Status> {
        self.ask(Method::GET, "/status", None::<&()>)
    }

    /// GET /fleet
    pub fn fleet(&self) -> anyhow::Result<FleetView> {
        self.ask_within(MANY, Method::GET, "/fleet", None::<&()>)
    }

    /// GET /live
    pub fn live(&self) -> anyhow::Result<Live> {
        self.ask(Method::GET, "/live", None::<&()>)
    }

    /// GET /events: `each` gets the lines as they come, until the guard ends the answer. Waits for ever.
    pub fn events(&self, asked: Follow, mut each: impl FnMut(Line) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let after = asked.after.map(|after| format!("&after={after}")).unwrap_or_default();
        let request = Request::builder()
            .uri(format!("/events?follow={}{after}", asked.follow))
            .header(header::HOST, "smtp-guard")
            .body(Full::new(Bytes::new()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let _connection = tokio::spawn(connection);
            let response = sender.send_request(request).await.context("the guard closed the connection")?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let bytes = Limited::new(body, ANSWER).collect().await.map_err(|error| anyhow!("{error}"))?.to_bytes();
                match serde_json::from_slice::<Failure>(&bytes) {
                    Ok(failure) => bail!("{}", failure.error),
                    Err(_) => bail!("the guard answered {status}"),
                }
            }
            let mut rest = Vec::new();
            // An error is how the end of a connection looks that the guard closes.
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(part) = frame.into_data() else { continue };
                rest.extend_from_slice(&part);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<_> = rest.drain(..=end).collect();
                    if line.len() > 1 {
                        each(serde_json::from_slice(&line).context("the guard's answer isn't understood")?)?;
                    }
                }
                if rest.len() > LINE {
                    bail!("a line of the guard's answer is too long");
                }
            }
            Ok(())
        })
    }

    /// Sends one request; the answer is expected within [`TIMEOUT`].
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        self.ask_within(TIMEOUT, method, path, body)
    }

    /// The same, within `wait`.
    pub(super) fn ask_within<T: DeserializeOwned>(
        &self,
        wait: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let body = match body {
            Some(body) => serde_json::to_vec(body)?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "smtp-guard")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async {
            tokio::time::timeout(wait, self.send(request)).await.map_err(|_| {
                let (socket, seconds) = (self.socket.display(), wait.as_secs());
                anyhow!("the guard at {socket} doesn't answer within {seconds} s: its log may say why")
            })?
        });
        let (status, bytes) = answer?;
        if status.is_success() {
            return serde_json::from_slice(&bytes)
                .context("the guard's answer isn't understood: is it of the same version as this command?");
        }
        match serde_json::from_slice::<Failure>(&bytes) {
            Ok(failure) if status == StatusCode::UNPROCESSABLE_ENTITY => Err(BadConfiguration(failure.error).into()),
            Ok(failure) => bail!("{}", failure.error),
            Err(_) => bail!("the guard answered {status}"),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.context("the guard closed the connection")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        connection.abort();
        Ok((status, body.map_err(|error| anyhow!("the guard's answer: {error}"))?.to_bytes()))
    }

    fn unreachable(&self, error: &io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                anyhow!("{socket}: permission denied; run this as root, or as a member of the guard's group")
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let missing = self.missing.as_deref().map(|missing| format!(" ({missing})")).unwrap_or_default();
                anyhow!("no guard answers at {socket}{missing}: is it running? `systemctl status smtp-guard` shows it")
            }
            _ => anyhow!("{socket}: {error}"),
        }
    }
}
