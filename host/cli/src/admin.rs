//! The operator's listener: off unless it has a port and a key.

use anyhow::{Context, Result, bail};
use clap::Args;
use std::{net::SocketAddr, sync::Arc};
use tokenmill_http::{Admin, Policies};
use tokio::net::TcpListener;

#[derive(Args)]
pub(crate) struct AdminArgs {
    /// Port of the operator's routes, /admin/policies; off if not given, 0 takes a free one.
    #[arg(long)]
    admin_port: Option<u16>,
    /// Address of the operator's routes.
    #[arg(long, default_value = "127.0.0.1")]
    admin_host: String,
    /// The operator sends this key as a bearer token.
    #[arg(long, env = "TOKENMILL_ADMIN_KEY", hide_env_values = true)]
    admin_key: Option<String>,
}

/// An open port and what opens its routes.
pub(crate) struct Desk {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    key: String,
}

impl AdminArgs {
    /// `None`: the operator wants none.
    pub(crate) async fn open(&self, api_keys: &[String]) -> Result<Option<Desk>> {
        let Some(port) = self.admin_port else { return Ok(None) };
        let key = self.admin_key.clone().filter(|key| !key.is_empty());
        let key = key.context("--admin-port needs --admin-key or TOKENMILL_ADMIN_KEY")?;
        if api_keys.contains(&key) {
            bail!("--admin-key must not be a client's --api-key");
        }
        let listener = crate::serve::listen(&self.admin_host, port, "--admin-host").await?;
        Ok(Some(Desk { address: listener.local_addr()?, listener, key }))
    }
}

impl Desk {
    /// Until `shutdown` is ready.
    pub(crate) async fn serve(self, policies: Arc<dyn Policies>, shutdown: impl Future<Output = ()>) {
        tokenmill_http::admin(self.listener, Admin { policies, key: self.key }, shutdown).await;
    }
}
