//! A worker process as the coordinator's launcher starts it: the real session over gRPC, around the toy.

use crate::gate;
use crate::toy::Toy;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::Cause;
use ip2p_worker::failure::{Result, domain, failure};
use ip2p_worker::grpc::{Address, GrpcLink};
use ip2p_worker::link::Welcome;
use ip2p_worker::{session, tls};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    coordinator: String,
    #[arg(long)]
    name: String,
    /// The launcher asks for it. Here the launcher's kill is enough.
    #[arg(long)]
    exit_with_parent: bool,
    #[command(flatten)]
    task: Task,
}

/// What `run` hands on to its workers.
#[derive(Clone, clap::Args)]
pub struct Task {
    /// Milliseconds that a task waits
    #[arg(long, default_value_t = 0)]
    wait_ms: u64,
    /// Folder where workers say that they are ready, and wait for the file `go`
    #[arg(long)]
    gate: Option<PathBuf>,
}

impl Task {
    pub fn arguments(&self) -> Vec<String> {
        let gate = self.gate.iter().map(|gate| format!("--gate={}", gate.display()));
        gate.chain([format!("--wait-ms={}", self.wait_ms)]).collect()
    }
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { coordinator, name, exit_with_parent: _, task } = arguments;
    tls::install();
    let runtime = ip2p_worker::cli::runtime()?;
    let token = std::env::var("IP2P_TOKEN")?;
    let life = async {
        let link = GrpcLink::connect(&Address { coordinator, token, tls: Default::default() }).await?;
        let (_never, leave) = watch::channel(false);
        session::run(&link, &name, async |welcome| get_ready(welcome, &task).await, leave).await
    };
    runtime.block_on(life).map(drop).map_err(|f| anyhow::anyhow!(f.message))
}

async fn get_ready(welcome: &Welcome, task: &Task) -> Result<Toy> {
    let store = Store::open(&welcome.store_url).map_err(domain)?;
    if let Some(gate) = &task.gate {
        gate::pass(gate, &welcome.worker).await.map_err(|e| failure(Cause::Resource, format!("--gate: {e}")))?;
    }
    Ok(Toy::new(store, &welcome.plan, Duration::from_millis(task.wait_ms)))
}
