//! Chaos with real processes, from one seed: see `ip2p_tests::chaos`. `tests/chaos/run.sh` builds what it needs and
//! starts the server.
//!
//!     bash tests/chaos/run.sh VENV --seed 1 --minutes 180

use clap::Parser;
use ip2p_tests::chaos::schedule::Kind;
use ip2p_tests::chaos::{self, Reference, Setting};
use ip2p_tests::disk::{self, Entered};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// The first seed; each round takes the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most faults of a round
    #[arg(long, default_value_t = 8)]
    faults: u64,
    /// Rounds, unless --minutes is given
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Begin rounds for so long
    #[arg(long)]
    minutes: Option<u64>,
    /// What holds the run
    #[arg(long, value_enum, default_value = "local")]
    store: Kind,
    /// Also print what happened in rounds that are well
    #[arg(short, long)]
    verbose: bool,
    /// The program under test [default: ip2p-under-test beside this one]
    #[arg(long)]
    program: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { seed: first, faults, rounds, minutes, store, verbose, program } = Arguments::parse();
    let program = match program {
        Some(program) => program.canonicalize()?,
        None => std::env::current_exe()?.with_file_name("ip2p-under-test"),
    };
    if store == Kind::Disk {
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        match disk::enter(&arguments) {
            Entered::Inside => {}
            Entered::Done(status) => return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            Entered::NotPermitted => anyhow::bail!("nothing can be mounted here, neither as root nor in a user's namespace"),
        }
    }
    ip2p_worker::tls::install();
    let reference = Reference::make(&program);
    let setting = Setting { program: &program, kind: store, faults, reference: &reference, planted: None };
    let started = Instant::now();
    for seed in first.. {
        let over = match minutes {
            Some(minutes) => started.elapsed() >= Duration::from_secs(60 * minutes),
            None => seed - first >= rounds,
        };
        if over {
            break;
        }
        match chaos::round(setting, seed) {
            Ok(round) => {
                if verbose {
                    round.history.iter().for_each(|line| eprintln!("  {line}"));
                }
                eprintln!("{round}");
            }
            Err(broken) => {
                eprintln!("{broken}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
