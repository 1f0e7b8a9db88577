//! One wave of very many partitions against the stand-in of a cluster: calls to the API, and the coordinator's memory.
//!
//!     cargo run --release -p ip2p-tests --bin kube-scale -- 10000
//!
//! Pods are tasks of this process that run the worker's own code; the coordinator is a process of its own.

use futures::FutureExt;
use ip2p_pipeline::task::{Parting, Wanted};
use ip2p_tests::kube_server::{KubeServer, Nodes, Start};
use ip2p_tests::{Pipeline, Running, signal};
use ip2p_worker::grpc::{Address, GrpcLink};
use ip2p_worker::ready;
use ip2p_worker::session::{self, Ended};
use ip2p_worker::tls::ClientFiles;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const TOKEN: &str = "token";
const PODS: u32 = 64;

/// A pod's whole life, as `ip2p-worker --wave` lives it.
async fn pod(start: Start) -> i32 {
    let argument = |name: &str| start.arguments.iter().skip_while(|argument| *argument != name).nth(1).cloned().unwrap_or_default();
    let index = start.env.get("JOB_COMPLETION_INDEX").and_then(|index| index.parse().ok()).unwrap_or(0);
    let wanted = Wanted::Wave { name: argument("--wave"), index };
    let address = Address { coordinator: argument("--coordinator"), token: TOKEN.to_string(), tls: ClientFiles::default() };
    let (_stay, leave) = watch::channel(false);
    let ended = async {
        let link = GrpcLink::connect(&address).await?.wanting(wanted);
        session::run(&link, &start.pod, ready::get_ready, leave).await
    };
    match ended.await {
        Ok(Ended::Dismissed(Parting::Done, _)) => 0,
        Ok(Ended::Dismissed(Parting::GivenUp, _)) => 43,
        Ok(Ended::Dismissed(Parting::Unfinished, _) | Ended::Left) => 4,
        Err(f) => {
            eprintln!("{}: {}", start.pod, f.message);
            1
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ip2p_worker::tls::install();
    let partitions: u32 = std::env::args().nth(1).map_or(Ok(10_000), |n| n.parse())?;
    let program = std::env::current_exe()?.with_file_name("ip2p-under-test");
    let pipeline = Pipeline::new(&program.display().to_string());
    let rows = (0..partitions)
        .map(|n| format!("{{\"input\": \"a red circle {n}\", \"edit\": \"make it blue\", \"output\": \"a blue circle {n}\"}}\n"));
    pipeline.write("captions.jsonl", &rows.collect::<String>());
    let cluster = KubeServer::start(Nodes::Tasks(Arc::new(|start| pod(start).boxed())));
    cluster.secret("ip2p-token", "token", TOKEN);
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let store = format!("store=file://{}/out", pipeline.path().display());
    let kubernetes = format!("run.kubernetes={{ coordinator: 'http://{address}', image: i, jobs: indexed, workers: {PODS} }}");
    let listen = format!("run.listen={address}");
    let mut command = pipeline.command(&["run", "pipeline.yaml", "--log-json"]);
    for set in [store.as_str(), "partition.records=1", "stages.prompts.backend=file", "run.launcher=kubernetes", &listen, &kubernetes] {
        command.args(["--set", set]);
    }
    command.env("KUBECONFIG", cluster.kubeconfig()).env("IP2P_TOKEN", TOKEN);
    let started = Instant::now();
    let mut run = Running::start(command);
    let done = || pipeline.objects().iter().filter(|key| key.starts_with("prompts/") && key.contains("/manifests/")).count();
    let calls = || cluster.world().calls.clone();
    let wait_for = |count: usize, run: &mut Running| {
        while done() < count {
            let mut looked = false;
            assert!(run.wait_until(|| std::mem::replace(&mut looked, true)), "it ended: {}", run.log());
            std::thread::sleep(Duration::from_millis(500));
        }
    };
    wait_for(partitions as usize / 10, &mut run);
    let early = calls();
    wait_for(partitions as usize * 9 / 10, &mut run);
    let late = calls();
    wait_for(partitions as usize, &mut run);
    let (all, seconds) = (calls(), started.elapsed().as_secs_f64());
    let memory = std::fs::read_to_string(format!("/proc/{}/status", run.id()))?;
    signal(run.id(), "INT");
    run.wait();
    let steady: BTreeMap<_, _> = late.iter().map(|(call, n)| (call, n - early.get(call).unwrap_or(&0))).filter(|(_, n)| *n > 0).collect();
    let out = |line: String| eprintln!("{line}");
    out(format!("{partitions} partitions in {seconds:.0} s, {PODS} pods at a time"));
    out(format!("calls in all: {all:?}"));
    out(format!("calls between 10 % and 90 %: {steady:?}"));
    out(format!("calls per partition: {:.4}", all.values().sum::<u64>() as f64 / f64::from(partitions)));
    memory.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| out(format!("coordinator's peak memory: {line}")));
    Ok(())
}
