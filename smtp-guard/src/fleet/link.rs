//! A connection to the server, by one of the configured URLs or by what a sentinel says.
//!
//! Each command has a deadline: a server that is stopped keeps its connections open and says nothing. After an error the connection is
//! given up; whoever uses it opens another one.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, TlsCertificates,
    TlsMode,
};
use tokio::time::timeout;

use super::settings::Settings;

/// How long a command may take.
pub(super) const COMMAND: Duration = Duration::from_millis(500);
/// How long a connection may take to be opened.
const OPEN: Duration = Duration::from_secs(1);

/// An open connection.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    /// The server that answers.
    pub(super) server: String,
    /// The user that the server takes us for.
    pub(super) user: String,
    /// By TLS.
    pub(super) secured: bool,
}

/// Where `url` leads, without user and password.
pub(super) fn address(url: &str) -> Result<String, RedisError> {
    Ok(url.into_connection_info()?.addr().to_string())
}

/// Opens a connection on which a command may take `patience`.
pub(super) async fn open(settings: &Settings, patience: Duration) -> Result<Link, RedisError> {
    if !settings.config.sentinel.is_empty() {
        return by_sentinel(settings, patience).await;
    }
    let mut last = late();
    for url in &settings.config.url {
        match by_url(settings, url, patience).await {
            Ok(link) => return Ok(link),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to the server of `url`.
pub(super) async fn by_url(settings: &Settings, url: &str, patience: Duration) -> Result<Link, RedisError> {
    let info = url.into_connection_info()?;
    let mut redis = info.redis_settings().clone();
    if let Some(password) = &settings.password {
        redis = redis.set_password(password);
    }
    let user = named(redis.username());
    let info = info.set_redis_settings(redis);
    let server = info.addr().to_string();
    let client = match certificates(settings).filter(|_| is_tls(url)) {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    let (limits, secured) = (limits(patience), is_tls(url));
    let opened = client.get_multiplexed_async_connection_with_config(&limits);
    let connection = timeout(OPEN * 2, opened).await.unwrap_or_else(|_| Err(late()))?;
    Ok(Link { connection, server, user, secured })
}

/// Connects to the master that the sentinels name.
pub(super) async fn by_sentinel(settings: &Settings, patience: Duration) -> Result<Link, RedisError> {
    let infos = settings.config.url.iter().map(|url| url.as_str().into_connection_info());
    let infos = infos.collect::<Result<Vec<ConnectionInfo>, _>>()?;
    let tls = settings.config.url.iter().any(|url| is_tls(url));
    let user = infos.iter().find_map(|info| info.redis_settings().username().map(str::to_owned));
    let sentinels = infos.iter().map(|info| info.addr().clone());
    let mut builder = SentinelClientBuilder::new(sentinels, &settings.config.sentinel, SentinelServerType::Master)?;
    if tls {
        builder =
            builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates(settings) {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    let known = named(user.as_deref());
    if let Some(user) = user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &settings.password {
        builder = builder.set_client_to_redis_password(password);
    }
    let mut client = builder.build()?;
    // It asks several sentinels, one after the other where they hang.
    let found = timeout(OPEN * 4, client.async_get_client()).await.unwrap_or_else(|_| Err(late()))?;
    let server = found.get_connection_info().addr().to_string();
    let limits = limits(patience);
    let opened = found.get_multiplexed_async_connection_with_config(&limits);
    let connection = timeout(OPEN * 2, opened).await.unwrap_or_else(|_| Err(late()))?;
    Ok(Link { connection, server, user: known, secured: tls })
}

/// The user of the server that has no name in the configuration is called so there.
fn named(user: Option<&str>) -> String {
    user.unwrap_or("default").to_owned()
}

fn limits(patience: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(OPEN)).set_response_timeout(Some(patience))
}

fn certificates(settings: &Settings) -> Option<TlsCertificates> {
    let root_cert = settings.authorities.clone()?;
    Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
}

fn is_tls(url: &str) -> bool {
    url.starts_with("rediss://")
}

fn late() -> RedisError {
    RedisError::from((ErrorKind::Io, "it doesn't answer in time"))
}
