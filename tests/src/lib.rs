//! The process harness: writes small pipelines, starts real coordinators with real workers, kills them, and
//! compares what they leave behind.

pub mod chaos;
pub mod chat_server;
pub mod disk;
pub mod fuzz;
pub mod kube_server;
pub mod oracle;
pub mod servers;
pub mod simulation;

use ip2p_pipeline::records::{ImageRef, IndexRow};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::{NamedTempFile, TempDir, TempPath};

/// Longest time that any run of a test may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A pipeline in a folder of its own, with the bundled tiny models.
pub struct Pipeline {
    dir: TempDir,
    program: PathBuf,
    /// Where the run lies when that is no folder here.
    remote: Option<Remote>,
    /// Variables that the program does not see.
    hidden: Vec<&'static str>,
    /// Variables that it sees beside those of this process.
    variables: Vec<(&'static str, String)>,
}

/// A run on a server, read from code that does not wait.
struct Remote {
    run: Store,
    runtime: tokio::runtime::Runtime,
}

impl Remote {
    fn open(url: &str) -> Self {
        let run = Store::open(url).expect("a store").child("small");
        Remote { run, runtime: tokio::runtime::Runtime::new().expect("a runtime") }
    }

    fn list(&self, prefix: &str) -> Vec<String> {
        let listed = self.runtime.block_on(self.run.list(prefix)).expect("a list of the store");
        listed.into_iter().map(|(key, _)| key).collect()
    }

    fn read(&self, key: &str) -> Vec<u8> {
        self.runtime.block_on(self.run.require(key)).expect("an object of the run").to_vec()
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The smallest pipeline that passes through everything: a few captions, few steps, thresholds that some pairs pass.
pub fn small_pipeline() -> String {
    let models = repository().join("models/tiny");
    let models = models.display();
    format!(
        "version: 1
name: small
seed: 7
store: file://./out
corpus: {{ path: captions.jsonl }}
partition: {{ records: 3 }}
models:
  diffusion: {models}/diffusion
  clip: {models}/clip
  llm: {models}/llm
stages:
  prompts: {{ backend: local }}
  pairs: {{ samples: 3, steps: 3, batch: 2, resolution: 64, guidance: [2.0, 4.0] }}
  filter: {{ clip_text: -1.0, clip_direction: -0.2, clip_image: 0.2, keep: 2 }}
  shards: {{ formats: [webdataset, parquet, original], shard_bytes: 64KB }}
run:
  workers: 2
  chunk: 0s
  lease: 5s
"
    )
}

/// Captions of the world that the tiny models know.
pub fn small_captions() -> String {
    let text = std::fs::read_to_string(repository().join("models/tiny/captions.jsonl")).expect("the bundled captions");
    text.lines().take(8).map(|line| format!("{line}\n")).collect()
}

impl Pipeline {
    /// A fresh folder with `pipeline.yaml` and `captions.jsonl`. `program` is the binary under test.
    pub fn new(program: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pipeline = Pipeline { dir, program: program.into(), remote: None, hidden: Vec::new(), variables: Vec::new() };
        pipeline.write("pipeline.yaml", &small_pipeline());
        pipeline.write("captions.jsonl", &small_captions());
        pipeline
    }

    /// The same with its run at `url`, a prefix on a server that the environment describes. The program does not see
    /// the variables `hidden`; `options` are its `store_options`.
    pub fn on(program: &str, url: &str, options: &str, hidden: Vec<&'static str>) -> Self {
        let pipeline = Pipeline { remote: Some(Remote::open(url)), hidden, ..Pipeline::new(program) };
        let store = format!("store: {url}\nstore_options: {options}");
        pipeline.write("pipeline.yaml", &small_pipeline().replace("store: file://./out", &store));
        pipeline
    }

    /// Gives the program a variable.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.variables.push((name, value));
    }

    /// The run's URL.
    pub fn url(&self) -> String {
        match &self.remote {
            Some(remote) => remote.run.url().to_string(),
            None => format!("file://{}", self.path().join("out/small").display()),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the folder for a person to look at.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("a file in the temporary folder");
    }

    /// A copy of a bundled model, for a test that damages it.
    pub fn copy_model(&self, model: &str, name: &str) {
        let from = repository().join("models/tiny").join(model);
        let mut files = Vec::new();
        collect(&from, &mut files);
        for file in files {
            let to = self.path().join(name).join(file.strip_prefix(&from).expect("a path below the model"));
            to.parent().map(std::fs::create_dir_all).transpose().expect("a folder for the copy");
            std::fs::copy(&file, to).expect("a copy of the file");
        }
    }

    /// The program with the folder as its working directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.path()).env_remove("RUST_LOG").env_remove("IP2P_TOKEN");
        command.env("IP2P_CACHE", self.path().join("cache"));
        for name in &self.hidden {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub fn call(&self, arguments: &[&str]) -> Output {
        let child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        child.wait_with_output().expect("the program's output")
    }

    /// `run` with overrides; panics with the program's messages unless it ends with `code`.
    pub fn run_expecting(&self, code: i32, overrides: &[&str]) -> Output {
        let mut arguments = vec!["run", "pipeline.yaml"];
        overrides.iter().for_each(|o| arguments.extend(["--set", o]));
        let output = self.call(&arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(output.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", text(&output.stdout), text(&output.stderr));
        output
    }

    /// Starts `run` in the background.
    pub fn start(&self, overrides: &[&str]) -> Running {
        let mut arguments = vec!["run", "pipeline.yaml"];
        overrides.iter().for_each(|o| arguments.extend(["--set", o]));
        Running::start(self.command(&arguments))
    }

    /// Every verdict of the one index that was committed here.
    pub fn verdicts(&self) -> Vec<IndexRow> {
        let mut found = self.objects();
        found.retain(|key| key.ends_with("-index.parquet"));
        let [key] = &found[..] else { panic!("not one index: {found:?}") };
        IndexRow::decode(key, self.object(key).into()).expect("an index")
    }

    /// The bytes of an object of the run.
    pub fn object(&self, key: &str) -> Vec<u8> {
        match &self.remote {
            Some(remote) => remote.read(key),
            None => std::fs::read(self.path().join("out/small").join(key)).expect("an object of the run"),
        }
    }

    /// The bytes of a stored image.
    pub fn image(&self, image: &ImageRef) -> Vec<u8> {
        self.object(&image.object)[image.offset as usize..][..image.length as usize].to_vec()
    }

    /// Runs `audit`; panics with what it found unless everything is sound.
    pub fn assert_sound(&self, overrides: &[&str]) {
        let mut arguments = vec!["audit", "pipeline.yaml"];
        overrides.iter().for_each(|o| arguments.extend(["--set", o]));
        let output = self.call(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// Files below the run's folder, by path relative to it.
    pub fn objects(&self) -> Vec<String> {
        if let Some(remote) = &self.remote {
            return remote.list("");
        }
        let root = self.path().join("out/small");
        let mut files = Vec::new();
        collect(&root, &mut files);
        let relative = |file: &PathBuf| file.strip_prefix(&root).map(|p| p.display().to_string()).unwrap_or_default();
        let mut names: Vec<String> = files.iter().map(relative).collect();
        names.sort();
        names
    }

    /// Where the last complete run says that its dataset is.
    fn dataset_place(&self) -> String {
        let summary: serde_json::Value = serde_json::from_slice(&self.object("summary.json")).expect("a summary in JSON");
        summary["dataset"].as_str().expect("the dataset's place").to_string()
    }

    /// Folder of the dataset that the last complete run made.
    pub fn dataset_folder(&self) -> PathBuf {
        self.path().join(self.dataset_place().trim_start_matches("file://"))
    }

    /// Hashes of every file of the dataset that the last complete run made, by path within it.
    pub fn dataset(&self) -> BTreeMap<String, String> {
        let files = match &self.remote {
            Some(remote) => remote_files(remote, &self.dataset_place()),
            None => local_files(&self.dataset_folder()),
        };
        assert!(!files.is_empty(), "no dataset at {}", self.dataset_place());
        files.into_iter().map(|(path, bytes)| (path, blake3::hash(&bytes).to_hex().to_string())).collect()
    }
}

/// Paths below `root` and contents.
fn local_files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    collect(root, &mut files);
    let read = |file: PathBuf| {
        let bytes = std::fs::read(&file).expect("a file of the dataset");
        (file.strip_prefix(root).expect("a path below the dataset").display().to_string(), bytes)
    };
    files.into_iter().map(read).collect()
}

fn remote_files(remote: &Remote, place: &str) -> Vec<(String, Vec<u8>)> {
    let folder = place.strip_prefix(remote.run.url()).expect("a place in the run").trim_matches('/');
    let below = |key: &str| key.strip_prefix(folder).expect("a key of the dataset").trim_start_matches('/').to_string();
    remote.list(folder).into_iter().map(|key| (below(&key), remote.read(&key))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// A program in the background, a coordinator or a worker; killed when dropped, and a coordinator's workers with it.
pub struct Running {
    child: Child,
    /// Where it writes standard error.
    log: PathBuf,
    /// That file, if nobody wants it afterwards.
    _temporary: Option<TempPath>,
}

impl Running {
    pub fn start(command: Command) -> Self {
        let log = NamedTempFile::new().expect("a temporary file").into_temp_path();
        let mut running = Self::start_with_log(command, &log);
        running._temporary = Some(log);
        running
    }

    /// The same with a log that stays.
    pub fn start_with_log(mut command: Command, log: &Path) -> Self {
        let stderr = File::create(log).expect("a file for the log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("the program starts");
        Running { child, log: log.to_path_buf(), _temporary: None }
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written `text`; panics when it ends before.
    pub fn wait_to_say(&mut self, text: &str) {
        let log = self.log.clone();
        let said = || std::fs::read(&log).is_ok_and(|log| String::from_utf8_lossy(&log).contains(text));
        assert!(self.wait_until(said), "it ended without saying `{text}`: {}", self.log());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child's status")
    }

    /// Waits for the end; panics when it takes too long.
    pub fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "the run does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `done` says so; false when the run ended before.
    pub fn wait_until(&mut self, mut done: impl FnMut() -> bool) -> bool {
        let started = Instant::now();
        while !done() {
            if self.ended().is_some() {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "the awaited moment does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // It may have ended by itself in this moment.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Processes that this coordinator has started.
    pub fn workers(&self) -> Vec<u32> {
        let tasks = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.id())).unwrap_or_default();
        let mut children: Vec<u32> = tasks.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        // A child belongs to the thread that started it.
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.id())).into_iter().flatten().flatten() {
            let list = std::fs::read_to_string(entry.path().join("children")).unwrap_or_default();
            children.extend(list.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        children.sort_unstable();
        children.dedup();
        children
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command line of a process.
pub fn command_line(process: u32) -> String {
    let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}

/// Sends a signal, e.g. `KILL` or `TERM`.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).stderr(Stdio::null()).status();
    assert!(status.is_ok(), "the kill command runs");
}
