//! The command line. Commands print with [`say`]; what they print comes from functions that return values.

mod cluster;
mod plan;
mod read;
mod run;
mod serve;

use clap::{Args, Parser, Subcommand};
use ip2p_pipeline::error;
use ip2p_pipeline::spec::Spec;
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes InstructPix2Pix training data: captions in, training shards out
#[derive(Parser)]
#[command(name = "ip2p-coordinator", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args, Clone, Debug)]
struct LogArgs {
    /// More log lines: -v info, -vv debug (RUST_LOG overrides)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Log as JSON lines
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline; a broken run goes on where it was
    #[command(after_help = "Example:\n  ip2p-coordinator run configs/quickstart.yaml --set run.workers=1")]
    Run(RunArgs),
    /// The same as run
    Resume(RunArgs),
    /// Remove what a run has in its cluster, and nothing else; committed work stays
    #[command(after_help = "Example:\n  ip2p-coordinator cancel configs/cluster.yaml")]
    Cancel(PipelineArgs),
    /// Show what would run, and what is already done
    #[command(after_help = "Example:\n  ip2p-coordinator plan configs/sd15.yaml --set stages.pairs.steps=25")]
    Plan(PipelineArgs),
    /// Show how far a run is, from its store alone
    #[command(after_help = "Example:\n  ip2p-coordinator status configs/quickstart.yaml --json")]
    Status {
        #[command(flatten)]
        run: RunRef,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Prove from the store alone that every record is accounted for and every object is sound
    #[command(after_help = "Example:\n  ip2p-coordinator audit s3://bucket/datasets/my-run")]
    Audit {
        #[command(flatten)]
        run: RunRef,
        /// Check existence and length only, not checksums
        #[arg(long)]
        quick: bool,
    },
    /// Show a run on a page, from its store alone
    #[command(after_help = "Example:\n  ip2p-coordinator serve s3://bucket/datasets/my-run --web 127.0.0.1:8081")]
    Serve {
        #[command(flatten)]
        run: RunRef,
        #[command(flatten)]
        web: WebArgs,
    },
    /// Tell where a pair came from, and draw it again
    #[command(after_help = "Example:\n  ip2p-coordinator explain configs/quickstart.yaml 3f2a91 --draw /tmp/pair")]
    Explain {
        #[command(flatten)]
        run: RunRef,
        /// Id of a pair, or the beginning of one
        pair: String,
        /// Draw the pair again, bit for bit, into this folder
        #[arg(long, value_name = "DIR")]
        draw: Option<PathBuf>,
    },
    /// Remove objects that no manifest names
    #[command(after_help = "Example:\n  ip2p-coordinator gc configs/quickstart.yaml --dry-run")]
    Gc {
        #[command(flatten)]
        run: RunRef,
        /// Only list them
        #[arg(long)]
        dry_run: bool,
        /// Also remove the folders of stages that no plan of the run refers to
        #[arg(long)]
        unused_folders: bool,
        /// Leave alone what is younger: an attempt may still be at work
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        grace: String,
    },
    /// Work for a coordinator (what the local launcher starts)
    #[cfg(feature = "worker")]
    #[command(hide = true)]
    Worker(ip2p_worker::cli::WorkerArgs),
}

/// A pipeline file and overrides.
#[derive(Args, Clone, Debug)]
struct PipelineArgs {
    /// The pipeline file
    pipeline: PathBuf,
    /// Override a value of the file, e.g. --set stages.pairs.steps=25 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl PipelineArgs {
    fn load(&self) -> Result<Spec, Exit> {
        let text = self.pipeline.display().to_string();
        if text.contains("://") {
            return Err(Exit::bad_input(format!(
                "{text} is the URL of a run: this command needs its pipeline file (status, audit, serve, explain and gc take URLs)"
            )));
        }
        Spec::load(&self.pipeline, &self.overrides).map_err(|e| Exit::bad_input(e.to_string()))
    }
}

#[derive(Args, Clone, Debug)]
struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// No progress bars, only lines
    #[arg(long)]
    no_progress: bool,
    /// Read everything first, as `audit` does, and make damaged objects again
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    web: WebArgs,
    /// No page
    #[arg(long, conflicts_with = "web")]
    no_web: bool,
}

/// Where the page is.
#[derive(Args, Clone, Debug)]
struct WebArgs {
    /// Address of the page [default: 127.0.0.1:8080, or a free port]; other than loopback it asks for IP2P_TOKEN
    #[arg(long, value_name = "ADDR")]
    web: Option<String>,
}

/// A run: by its pipeline file, or by the URL of its folder.
#[derive(Args, Clone, Debug)]
struct RunRef {
    /// The pipeline file, or the URL of a run such as s3://bucket/prefix/name
    run: String,
    /// Override a value of the file (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// Prints what a command is for. A reader that has gone away, such as `head`, has had enough.
fn say(text: impl std::fmt::Display) -> Result<(), Exit> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Exit::bad_input(format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// The program as it was called, for commands that are printed to be run as they stand.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "ip2p-coordinator".to_string())
}

/// How the program ends when it does not end well.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    const BAD_INPUT: u8 = 2;
    const TOO_MANY_QUARANTINED: u8 = 3;
    const RESUMABLE: u8 = 4;
    /// Apart from the last, so that nothing starts the coordinator again by itself.
    const CANCELLED: u8 = 5;

    fn bad_input(message: impl Into<String>) -> Self {
        Exit { code: Self::BAD_INPUT, message: message.into() }
    }

    fn resumable(message: impl Into<String>) -> Self {
        Exit { code: Self::RESUMABLE, message: message.into() }
    }

    fn cancelled(message: impl Into<String>) -> Self {
        Exit { code: Self::CANCELLED, message: message.into() }
    }
}

/// A store may come back; all else needs the user.
impl From<ip2p_pipeline::Error> for Exit {
    fn from(error: ip2p_pipeline::Error) -> Self {
        match &error {
            ip2p_pipeline::Error::Store { action, source, .. } if *action != "open" && !error::needs_the_user(source) => {
                Exit::resumable(error.to_string())
            }
            _ => Exit::bad_input(error.to_string()),
        }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let Cli { command, log } = Cli::parse();
    #[cfg(feature = "worker")]
    if let Command::Worker(args) = command {
        ip2p_worker::logging::init(log.verbose, log.log_json);
        return ip2p_worker::cli::main(args);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start the async runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(command, log));
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit { code, message }) => {
            eprintln!("error: {message}");
            ExitCode::from(code)
        }
    }
}

async fn dispatch(command: Command, log: LogArgs) -> Result<(), Exit> {
    crate::tls::install();
    match command {
        Command::Run(args) | Command::Resume(args) => run::run(args, log).await,
        other => {
            crate::logging::init(log.verbose, log.log_json, std::io::stderr);
            read_only(other).await
        }
    }
}

async fn read_only(command: Command) -> Result<(), Exit> {
    match command {
        Command::Cancel(args) => cluster::cancel(args).await,
        Command::Plan(args) => plan::plan(args).await,
        Command::Status { run, json } => read::status(run, json).await,
        Command::Audit { run, quick } => read::audit(run, quick).await,
        Command::Serve { run, web } => serve::serve(run, &web).await,
        Command::Explain { run, pair, draw } => read::explain(run, &pair, draw).await,
        Command::Gc { run, dry_run, unused_folders, grace } => read::gc(run, dry_run, unused_folders, &grace).await,
        Command::Run(_) | Command::Resume(_) => Ok(()),
        #[cfg(feature = "worker")]
        Command::Worker(_) => Ok(()),
    }
}
