//! The page: its address, and `serve`, which shows a run from its store alone.

use super::run::{cannot_listen, given_token, host_name, reachable};
use super::{Exit, RunRef, WebArgs};
use crate::explain::Asked;
use crate::tls;
use crate::web::{self, Access, History, Site, Snapshot};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::Tls;
use ip2p_pipeline::store::Store;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A page that is ready to be opened.
pub(super) struct Page {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
    tls: Option<TlsAcceptor>,
}

impl Page {
    /// Listens where the user wants the page. `tls` encrypts every address but loopback.
    pub async fn bind(args: &WebArgs, tls: Option<&Tls>) -> Result<Self, Exit> {
        let wanted = args.web.as_deref().unwrap_or(web::DEFAULT_ADDRESS);
        let listener = match TcpListener::bind(wanted).await {
            // Another run has its page there.
            Err(e) if e.kind() == ErrorKind::AddrInUse && args.web.is_none() => TcpListener::bind("127.0.0.1:0").await,
            bound => bound,
        };
        let listener = listener.map_err(|e| cannot_listen("--web", wanted, &e))?;
        let address = listener.local_addr().map_err(|e| Exit::resumable(e.to_string()))?;
        let tls = tls.filter(|_| !address.ip().is_loopback()).map(tls::page).transpose().map_err(Exit::bad_input)?;
        let access = Access::of(address, given_token()?.as_deref(), tls.is_some());
        let access = access.ok_or_else(|| {
            Exit::bad_input(format!("--web {wanted}: on an address other than loopback the page asks for the run's token: set IP2P_TOKEN"))
        })?;
        if tls.is_none() && access.needs_token() {
            tracing::warn!("the page on {address} is not encrypted: whoever can watch the network can read the token (docs/security.md)");
        }
        Ok(Page { listener, address, access, tls })
    }

    /// Where a browser finds it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address, &host_name()))
    }

    /// Serves a run in the background, until the program ends.
    pub fn open(
        self,
        store: &Store,
        plan: &Plan,
        shown: (watch::Receiver<Arc<Snapshot>>, Arc<Mutex<History>>),
        asked: &Asked<'_>,
    ) -> tokio::task::JoinHandle<std::io::Result<()>> {
        let site = Site::new(store, plan, shown, self.access, asked);
        tokio::spawn(web::serve(site, self.listener, self.tls))
    }
}

pub(super) async fn serve(run: RunRef, args: &WebArgs) -> Result<(), Exit> {
    let (store, plan) = run.plan().await?;
    let page = Page::bind(args, plan.spec.run.tls.as_ref()).await?;
    let shown = web::watch(&store, &plan).await?;
    eprintln!("page: {} (Ctrl-C ends it)", page.url());
    let program = super::program();
    let asked = Asked { program: &program, run: &run.run, overrides: &run.overrides };
    let served = page.open(&store, &plan, shown, &asked).await;
    let ended = served.map_err(|e| Exit::resumable(format!("the page has ended: {e}")))?;
    ended.map_err(|e| Exit::resumable(format!("the page has ended: {e}")))
}
