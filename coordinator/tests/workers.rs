//! Real workers and real connections against a real coordinator, all in this process.
#![cfg(feature = "worker")]

use ip2p_coordinator::digest::Digests;
use ip2p_coordinator::driver::{Driver, View};
use ip2p_coordinator::grpc::{self, Welcome};
use ip2p_coordinator::scheduler::{Ending, Policy, Recovered, Scheduler, Stop};
use ip2p_coordinator::term::Term;
use ip2p_pipeline::commit;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::plan::{ModelFingerprints, Partitioning, Plan};
use ip2p_pipeline::spec::Spec;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished, Report};
use ip2p_proto::v1::coordinator_client::CoordinatorClient;
use ip2p_proto::{PROTOCOL, TOKEN_KEY, v1};
use ip2p_worker::grpc::{Address, GrpcLink};
use ip2p_worker::ready;
use ip2p_worker::session::{self, Ended};
use ip2p_worker::tls::ClientFiles;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Request;

const TOKEN: &str = "test";

/// A coordinator of two partitions, with its store in a folder.
struct Coordinator {
    dir: tempfile::TempDir,
    address: String,
    ending: JoinHandle<Ending>,
    view: watch::Receiver<View>,
    _stop: oneshot::Sender<()>,
    _interrupts: mpsc::Sender<()>,
}

fn plan(folder: &Path) -> Plan {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/tiny");
    let models = models.display();
    let text = format!(
        "version: 1\nname: run\nstore: file://{}\ncorpus: {{ path: {models}/captions.jsonl }}\n\
         models: {{ diffusion: {models}/diffusion, clip: {models}/clip, llm: {models}/llm }}\n\
         stages: {{ pairs: {{ samples: 1, steps: 2, resolution: 64 }}, filter: {{ keep: 1 }} }}\nrun: {{ device: cpu }}\n",
        folder.display()
    );
    std::fs::write(folder.join("pipeline.yaml"), text).unwrap();
    let spec = Spec::load(&folder.join("pipeline.yaml"), &[]).unwrap();
    let any = Fingerprint::of(&["any"]);
    let models = ModelFingerprints { diffusion: any, vae: None, clip: any, llm: Some(any) };
    let corpus = StageDir { stage: Stage::Corpus, fingerprint: any };
    Plan::new(spec, corpus, any, models, Partitioning { records: 2, partition_records: 1 })
}

fn policy() -> Policy {
    let second = Duration::from_secs(1);
    Policy {
        lease: 30 * second,
        attempts: 4,
        preemptions: 4,
        backoff_min: second,
        backoff_max: second,
        max_quarantined: 1.0,
        quarantine_sample: 1000,
        min_kept: 0.0,
        kept_sample: 0,
    }
}

fn scheduler(term: u32) -> Scheduler {
    let stage = |(stage, partitions)| Recovered { stage, partitions, committed: Vec::new(), unblocked: stage == Stage::Prompts };
    Scheduler::new(policy(), term, Stage::RUN.into_iter().zip([2, 2, 2, 1, 0]).map(stage).collect())
}

/// `change` may alter what workers are told.
async fn start(change: impl FnOnce(&mut Welcome)) -> Coordinator {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(dir.path());
    let store = Store::open(&plan.spec.store).unwrap().child("run");
    store.put(&layout::plan(plan.fingerprint()), commit::encode(&plan).unwrap()).await.unwrap();
    let mut welcome = Welcome { plan: plan.clone(), store_url: store.url().to_string(), lease: policy().lease };
    change(&mut welcome);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (requests, inbox) = mpsc::channel(16);
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        // Either side of the channel going away ends the server.
        let _ = stopped.await;
    };
    tokio::spawn(grpc::serve(listener, TOKEN.to_string(), welcome, requests, shutdown));
    let term = Term::take(&store).await.unwrap();
    let (view, shown) = watch::channel(View::default());
    let driver = Driver::new(scheduler(term.number), inbox, None, &term, view, Digests::start(&store, &plan));
    let (interrupts, interrupted) = mpsc::channel(1);
    let ending = tokio::spawn(async move { driver.run(interrupted).await.0 });
    Coordinator { dir, address, ending, view: shown, _stop: stop, _interrupts: interrupts }
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(TOKEN_KEY, format!("Bearer {TOKEN}").parse().unwrap());
    request
}

/// A worker that is registered.
struct Known {
    worker: String,
    run: String,
}

/// Registers a worker by hand.
async fn register(coordinator: &Coordinator, name: &str) -> Known {
    let mut client = CoordinatorClient::connect(coordinator.address.clone()).await.unwrap();
    let request = v1::RegisterRequest {
        protocol: PROTOCOL,
        version: "test".to_string(),
        worker: name.to_string(),
        device: "cpu".to_string(),
        ..Default::default()
    };
    let welcome = client.register(call(request)).await.unwrap().into_inner();
    assert_eq!(welcome.open_stages, ["prompts", "pairs", "filter", "index", "shards"]);
    Known { worker: welcome.worker, run: welcome.run }
}

/// A worker by hand, as far as its first assignment.
async fn enter(coordinator: &Coordinator, name: &str) -> (Known, v1::Assignment) {
    let known = register(coordinator, name).await;
    let assignment = lease(coordinator, &known, None).await;
    (known, assignment)
}

async fn lease(coordinator: &Coordinator, known: &Known, report: Option<Report>) -> v1::Assignment {
    let mut client = CoordinatorClient::connect(coordinator.address.clone()).await.unwrap();
    let request = v1::LeaseRequest { worker: known.worker.clone(), report: report.map(Into::into), run: known.run.clone() };
    match client.lease(call(request)).await.unwrap().into_inner().answer {
        Some(v1::lease_response::Answer::Assignment(assignment)) => assignment,
        other => panic!("{other:?}"),
    }
}

async fn keeps_lease(coordinator: &Coordinator, known: &Known, assignment: &v1::Assignment) -> bool {
    let mut client = CoordinatorClient::connect(coordinator.address.clone()).await.unwrap();
    let progress = v1::Progress { assignment: Some(assignment.clone()), done: 0, total: 1, units: 0, kept: 0 };
    let request = v1::HeartbeatRequest { worker: known.worker.clone(), progress: Some(progress), run: known.run.clone() };
    client.heartbeat(call(request)).await.unwrap().into_inner().keep_lease
}

/// A whole worker.
async fn work(coordinator: &Coordinator) -> Result<Ended, Failure> {
    let address = Address { coordinator: coordinator.address.clone(), token: TOKEN.to_string(), tls: ClientFiles::default() };
    let (_stay, leave) = watch::channel(false);
    session::run(&GrpcLink::connect(&address).await?, "worker", ready::get_ready, leave).await
}

#[tokio::test]
async fn two_workers_of_one_name_keep_their_own_leases() {
    let coordinator = start(|_| {}).await;
    let (first, held) = enter(&coordinator, "gpu").await;
    let (second, other) = enter(&coordinator, "gpu").await;
    assert_eq!((first.worker.as_str(), second.worker.as_str()), ("gpu", "gpu~2"));
    let partition = |a: &v1::Assignment| Assignment::try_from(a.clone()).unwrap().partition;
    assert_ne!(partition(&held), partition(&other));
    assert!(keeps_lease(&coordinator, &first, &held).await);
    assert!(keeps_lease(&coordinator, &second, &other).await);
    assert!(!keeps_lease(&coordinator, &first, &other).await);
}

#[tokio::test]
async fn a_worker_that_hangs_up_while_it_waits_is_forgotten_at_once() {
    let coordinator = start(|_| {}).await;
    let (_first, _second) = (enter(&coordinator, "gpu-1").await, enter(&coordinator, "gpu-2").await);
    // Nothing is left for the third: it waits.
    let third = register(&coordinator, "gpu-3").await;
    let mut client = CoordinatorClient::connect(coordinator.address.clone()).await.unwrap();
    let waits = client.lease(call(v1::LeaseRequest { worker: third.worker, report: None, run: third.run }));
    assert!(tokio::time::timeout(Duration::from_millis(500), waits).await.is_err(), "there was work for three");
    let mut view = coordinator.view.clone();
    let shown = tokio::time::timeout(Duration::from_secs(10), view.wait_for(|view| view.workers.len() == 2)).await;
    assert!(shown.is_ok(), "it is still shown");
    assert_eq!(register(&coordinator, "gpu-3").await.worker, "gpu-3", "its name is free again");
}

#[tokio::test]
async fn a_report_comes_with_the_request_for_more() {
    let coordinator = start(|_| {}).await;
    let (worker, first) = enter(&coordinator, "gpu").await;
    let report = |wire: &v1::Assignment| {
        let assignment = Assignment::try_from(wire.clone()).unwrap();
        Some(Report { assignment, outcome: Ok(Finished::default()) })
    };
    let second = lease(&coordinator, &worker, report(&first)).await;
    assert!(!keeps_lease(&coordinator, &worker, &first).await);
    let third = lease(&coordinator, &worker, report(&second)).await;
    // Each needs what was reported before.
    let place = |a: &v1::Assignment| (a.stage.clone(), a.partition);
    assert_eq!([&first, &second, &third].map(place), ["prompts", "pairs", "filter"].map(|stage| (stage.to_string(), 0)));
    // The answer may have been lost on the way: the same report once more changes nothing.
    assert_ne!(place(&lease(&coordinator, &worker, report(&second)).await), place(&second));
}

#[tokio::test]
async fn what_a_worker_of_another_run_says_counts_nothing() {
    let coordinator = start(|_| {}).await;
    let (known, held) = enter(&coordinator, "gpu").await;
    let leftover = Known { worker: known.worker.clone(), run: "of another plan".to_string() };
    assert!(!keeps_lease(&coordinator, &leftover, &held).await);
    let assignment = Assignment::try_from(held.clone()).unwrap();
    let report = Some(Report { assignment, outcome: Ok(Finished::default()) }.into());
    let mut client = CoordinatorClient::connect(coordinator.address.clone()).await.unwrap();
    let asked = v1::LeaseRequest { worker: leftover.worker.clone(), report, run: leftover.run.clone() };
    let told = v1::ReportRequest { worker: leftover.worker.clone(), report: asked.report.clone(), run: leftover.run.clone() };
    let failed = Some(Failure { cause: Cause::BadInput, message: "no such model".to_string() }.into());
    let unfit = v1::UnfitRequest { worker: leftover.worker, failed, run: leftover.run };
    let answers = [
        client.lease(call(asked)).await.map(drop).unwrap_err(),
        client.report(call(told)).await.map(drop).unwrap_err(),
        client.unfit(call(unfit)).await.map(drop).unwrap_err(),
    ];
    for status in answers {
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert!(status.message().contains("register again"), "{status:?}");
    }
    assert!(keeps_lease(&coordinator, &known, &held).await, "the worker of this run goes on");
}

#[tokio::test]
async fn a_worker_that_sees_another_store_stops_the_run_before_any_work() {
    let elsewhere = tempfile::tempdir().unwrap();
    let url = format!("file://{}", elsewhere.path().display());
    let coordinator = start(|welcome| welcome.store_url = url.clone()).await;
    let f = work(&coordinator).await.unwrap_err();
    assert_eq!(f.cause, Cause::BadInput, "the exit status of a wrong configuration");
    assert!(f.message.contains(&format!("does not see the run's store at {url}")), "{}", f.message);
    assert!(f.message.contains("use a shared one"), "{}", f.message);
    let Ending::Stopped(Stop::BadInput(reason)) = coordinator.ending.await.unwrap() else { panic!("another ending") };
    assert_eq!(reason, f.message, "who looks at the coordinator must see it too");
}

#[tokio::test]
async fn a_model_that_does_not_load_stops_the_run_before_any_work() {
    let coordinator = start(|welcome| {
        let broken = Path::new(&welcome.plan.spec.store["file://".len()..]).join("broken");
        std::fs::create_dir_all(&broken).unwrap();
        std::fs::write(broken.join("config.json"), "{}").unwrap();
        welcome.plan.spec.models.clip = broken.display().to_string();
    })
    .await;
    let f = work(&coordinator).await.unwrap_err();
    assert_eq!(f.cause, Cause::BadInput);
    assert!(f.message.contains("broken"), "{}", f.message);
    let Ending::Stopped(Stop::BadInput(reason)) = coordinator.ending.await.unwrap() else { panic!("another ending") };
    assert_eq!(reason, f.message);
    assert!(!coordinator.dir.path().join("run/prompts").exists());
}
