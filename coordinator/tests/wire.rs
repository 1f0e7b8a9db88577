//! The wire against peers that should not be served: a real server, over real TLS where it matters, and real workers.
#![cfg(feature = "worker")]

mod pki;

use ip2p_coordinator::door::Door;
use ip2p_coordinator::grpc::{self, LeaseAnswer, Registered, Request, Welcome};
use ip2p_pipeline::commit;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::plan::{ModelFingerprints, Partitioning, Plan};
use ip2p_pipeline::spec::{Spec, Tls, Unchecked};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Cause, Failure, Parting};
use ip2p_proto::v1::coordinator_client::CoordinatorClient;
use ip2p_proto::{MAX_MESSAGE_BYTES, PROTOCOL, TOKEN_KEY, v1};
use ip2p_worker::grpc::{Address, GrpcLink};
use ip2p_worker::ready;
use ip2p_worker::session::{self, Ended};
use ip2p_worker::tls::ClientFiles;
use pki::Pki;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Code, Status};

const TOKEN: &str = "correct-horse-7";
/// Strangers leave earlier than in earnest.
const PATIENCE: Duration = Duration::from_millis(400);
/// An answer that takes longer than a stranger has.
const SLOW: &str = "slow";

struct Server {
    address: std::net::SocketAddr,
    _dir: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(tls: Option<Tls>) -> Self {
        ip2p_coordinator::tls::install();
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let store = Store::open(&plan.spec.store).unwrap().child("run");
        store.put(&layout::plan(plan.fingerprint()), commit::encode(&plan).unwrap()).await.unwrap();
        let welcome = Welcome { plan, store_url: store.url().to_string(), lease: Duration::from_secs(30) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = tls.map(|tls| ip2p_coordinator::tls::server(&tls).unwrap());
        let (requests, inbox) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // Either side of the channel going away ends the server.
            let _ = stopped.await;
        };
        let door = Door::new(listener, tls).with_patience(PATIENCE);
        tokio::spawn(grpc::serve(door, TOKEN.to_string(), welcome, requests, shutdown));
        tokio::spawn(send_home(inbox));
        Server { address, _dir: dir, _stop: stop }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// A whole worker.
    async fn work(&self, scheme: &str, token: &str, tls: ClientFiles) -> Result<Ended, Failure> {
        let address = Address { coordinator: self.url(scheme), token: token.to_string(), tls };
        let (_stay, leave) = watch::channel(false);
        session::run(&GrpcLink::connect(&address).await?, "worker", ready::get_ready, leave).await
    }

    /// Expects that a worker is refused for good, in words that have all of `parts`.
    #[track_caller]
    fn refuses(&self, scheme: &str, tls: ClientFiles, parts: &'static [&'static str]) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            let f = self.work(scheme, TOKEN, tls).await.unwrap_err();
            assert!(started.elapsed() < Duration::from_secs(5), "{place}: a new try cannot help");
            assert_eq!(f.cause, Cause::BadInput, "{place}: {}", f.message);
            assert!(f.message.contains(&self.url(scheme)), "{place}: {}", f.message);
            for part in parts {
                assert!(f.message.contains(part), "{place}: `{part}` is not in: {}", f.message);
            }
        }
    }
}

fn plan(folder: &Path) -> Plan {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/tiny");
    let models = models.display();
    let text = format!(
        "version: 1\nname: run\nstore: file://{}\ncorpus: {{ path: c.jsonl }}\n\
         models: {{ diffusion: {models}/diffusion, clip: {models}/clip, llm: {models}/llm }}\nrun: {{ device: cpu }}\n",
        folder.display()
    );
    let spec = Spec::parse(&text, "p.yaml", &[], &Unchecked).unwrap();
    let any = Fingerprint::of(&["any"]);
    let models = ModelFingerprints { diffusion: any, vae: None, clip: any, llm: Some(any) };
    let corpus = StageDir { stage: Stage::Corpus, fingerprint: any };
    Plan::new(spec, corpus, any, models, Partitioning { records: 2, partition_records: 1 })
}

/// A run that is over.
async fn send_home(mut inbox: mpsc::Receiver<Request>) {
    while let Some(request) = inbox.recv().await {
        match request {
            Request::Register { worker, reply, .. } => drop(reply.send(Registered { worker, open_stages: Vec::new() })),
            Request::Lease { worker, reply } => {
                if worker == SLOW {
                    tokio::time::sleep(2 * PATIENCE).await;
                }
                drop(reply.send(LeaseAnswer::Leave(Parting::Done, "the run is over".to_string())));
            }
            // The others get no answer.
            _ => {}
        }
    }
}

fn call<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(TOKEN_KEY, format!("Bearer {token}").parse().unwrap());
    request
}

fn registration(protocol: u32, worker: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol,
        version: "0.0.9".to_string(),
        worker: worker.to_string(),
        device: "cpu".to_string(),
        ..Default::default()
    }
}

async fn client(server: &Server) -> CoordinatorClient<tonic::transport::Channel> {
    CoordinatorClient::connect(server.url("http")).await.unwrap().max_encoding_message_size(64 << 20)
}

/// Calls a method by its path.
async fn call_path(server: &Server, path: &'static str, token: &str) -> Status {
    let channel = tonic::transport::Endpoint::from_shared(server.url("http")).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::LeaseRequest, v1::LeaseResponse>::default();
    let request = call(v1::LeaseRequest { worker: "w".to_string(), ..Default::default() }, token);
    client.unary(request, path.parse().unwrap(), codec).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn tls_with_the_right_authority_works() {
    let pki = Pki::new();
    let server = Server::start(Some(pki.tls(false))).await;
    let ended = server.work("https", TOKEN, pki.trusting("ca")).await.unwrap();
    assert!(matches!(ended, Ended::Dismissed(Parting::Done, _)), "{ended:?}");
    let f = server.work("https", "battery-staple-9", pki.trusting("ca")).await.unwrap_err();
    assert!(f.cause == Cause::BadInput && f.message.contains("wrong or missing token"), "{}", f.message);
}

#[tokio::test]
async fn a_server_that_is_not_the_coordinator_gets_no_token() {
    let pki = Pki::new();
    let server = Server::start(Some(pki.tls(false))).await;
    server.refuses("https", pki.trusting("other-ca"), &["not signed by an authority", "--ca"]).await;
    server.refuses("https", ClientFiles::default(), &["not signed by an authority", "--ca"]).await;
    let elsewhere = Tls { cert: pki.path("elsewhere"), key: pki.path("elsewhere-key"), client_ca: None };
    let named_otherwise = Server::start(Some(elsewhere)).await;
    named_otherwise.refuses("https", pki.trusting("ca"), &["its certificate does not hold", "localhost"]).await;
}

#[tokio::test]
async fn mutual_tls_wants_a_certificate_of_the_right_authority() {
    let pki = Pki::new();
    let server = Server::start(Some(pki.tls(true))).await;
    let ended = server.work("https", TOKEN, pki.showing("worker")).await.unwrap();
    assert!(matches!(ended, Ended::Dismissed(Parting::Done, _)), "{ended:?}");
    server.refuses("https", pki.trusting("ca"), &["wants a certificate of this worker", "--cert and --key"]).await;
    server.refuses("https", pki.showing("stranger"), &["refused this worker's certificate"]).await;
}

#[tokio::test]
async fn plain_text_and_tls_do_not_mix_and_say_so() {
    let pki = Pki::new();
    let server = Server::start(Some(pki.tls(false))).await;
    server.refuses("http", ClientFiles::default(), &["it speaks TLS", "write https://"]).await;
    server.refuses("http", pki.trusting("ca"), &["--ca", "https://"]).await;
    let plain = Server::start(None).await;
    plain.refuses("https", pki.trusting("ca"), &["does not speak TLS", "write http://"]).await;
    let ended = plain.work("http", TOKEN, ClientFiles::default()).await.unwrap();
    assert!(matches!(ended, Ended::Dismissed(Parting::Done, _)), "{ended:?}");
}

#[tokio::test]
async fn files_that_do_not_fit_are_named_and_not_shown() {
    let pki = Pki::new();
    let tls = |cert: &str, key: &str, client_ca: Option<&str>| {
        let tls = Tls { cert: pki.path(cert), key: pki.path(key), client_ca: client_ca.map(|name| pki.path(name)) };
        ip2p_coordinator::tls::server(&tls).map(drop).unwrap_err()
    };
    let mixed = tls("cert", "worker-key", None);
    assert!(mixed.contains("do not go together") && mixed.contains(&pki.path("worker-key")), "{mixed}");
    let broken = tls("cert", "broken", None);
    assert!(broken.starts_with("run.tls.key: ") && broken.contains(&pki.path("broken")) && !broken.contains("AAAA"), "{broken}");
    assert!(tls("none", "key", None).starts_with("run.tls.cert: cannot read "));
    assert!(tls("cert", "key", Some("key")).contains("run.tls.client_ca: "));
    let plain = Server::start(None).await;
    let files = ClientFiles { cert: Some(pki.path("cert").into()), key: Some(pki.path("broken").into()), ca: None };
    let f = plain.work("https", TOKEN, files).await.unwrap_err();
    assert!(f.message.starts_with("--key: ") && f.message.contains("broken") && !f.message.contains("AAAA"), "{}", f.message);
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let server = Server::start(None).await;
    let mut known = client(&server).await;
    let register = known.register(call(registration(PROTOCOL, "w"), "wrong")).await.map(drop).unwrap_err();
    // Too large to be decoded, of another protocol, unknown methods and services: one answer to all.
    let large = registration(PROTOCOL, &"w".repeat(MAX_MESSAGE_BYTES + 1));
    let mut answers = vec![
        known.register(call(large, "wrong")).await.map(drop).unwrap_err(),
        known.register(registration(1, "w")).await.map(drop).unwrap_err(),
        known.lease(v1::LeaseRequest { worker: "w".to_string(), ..Default::default() }).await.map(drop).unwrap_err(),
    ];
    for path in ["/ip2p.v1.Coordinator/Lease", "/ip2p.v1.Coordinator/Nothing", "/no.Such/Service", "/"] {
        answers.push(call_path(&server, path, "").await);
    }
    for answer in answers {
        assert_eq!((answer.code(), answer.message()), (Code::Unauthenticated, register.message()));
        assert_eq!(answer.metadata().keys().count(), register.metadata().keys().count(), "{:?}", answer.metadata());
    }
    assert_eq!(call_path(&server, "/ip2p.v1.Coordinator/Nothing", TOKEN).await.code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_old_protocol_is_refused_in_words() {
    let server = Server::start(None).await;
    let status = client(&server).await.register(call(registration(PROTOCOL - 1, "old"), TOKEN)).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    for part in ["worker old (version 0.0.9)", &format!("speaks protocol {}", PROTOCOL - 1), "use the same version on both sides"] {
        assert!(status.message().contains(part), "{}", status.message());
    }
}

#[tokio::test]
async fn a_worker_of_another_run_is_refused_in_words() {
    let server = Server::start(None).await;
    let of_run = |name: &str| v1::RegisterRequest { run_name: name.to_string(), ..registration(PROTOCOL, "w") };
    let status = client(&server).await.register(call(of_run("other"), TOKEN)).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    for part in ["worker w is there for run other", "this coordinator runs run", "--run"] {
        assert!(status.message().contains(part), "{}", status.message());
    }
    client(&server).await.register(call(of_run("run"), TOKEN)).await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_server_goes_on() {
    let server = Server::start(None).await;
    let mut peer = client(&server).await;
    let large = registration(PROTOCOL, &"w".repeat(MAX_MESSAGE_BYTES + 1));
    assert_eq!(peer.register(call(large, TOKEN)).await.map(drop).unwrap_err().code(), Code::OutOfRange);
    for name in ["", "two\nlines", &"w".repeat(201)] {
        let status = peer.register(call(registration(PROTOCOL, name), TOKEN)).await.map(drop).unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("1 to 200 bytes"), "{status:?}");
    }
    for bytes in [20_000, 2_000_000] {
        let mut flood = call(registration(PROTOCOL, "w"), TOKEN);
        flood.metadata_mut().insert("flood", "x".repeat(bytes).parse().unwrap());
        let status = peer.register(flood).await.map(drop).unwrap_err();
        assert_ne!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    client(&server).await.register(call(registration(PROTOCOL, "w"), TOKEN)).await.unwrap();
}

#[tokio::test]
async fn a_connection_without_the_token_is_closed_and_one_with_it_is_not() {
    let server = Server::start(None).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(20 * PATIENCE, silent.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a silent connection stays open");
    let mut worker = client(&server).await;
    let run = worker.register(call(registration(PROTOCOL, SLOW), TOKEN)).await.unwrap().into_inner().run;
    // Takes twice as long as a stranger has.
    worker.lease(call(v1::LeaseRequest { worker: SLOW.to_string(), report: None, run }, TOKEN)).await.unwrap();
}
