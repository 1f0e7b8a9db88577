//! Runs the simulation over many seeds, on all cores, and stops at the first that breaks a guarantee.
//!
//!     cargo run --release -p ip2p-tests --bin simulate -- --seeds 100000

use clap::Parser;
use ip2p_tests::simulation::{self, simulate};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

#[derive(Parser)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { from, seeds } = Arguments::parse();
    let plan = simulation::plan()?;
    let (next, faults, seconds) = (AtomicU64::new(from), AtomicU64::new(0), AtomicU64::new(0));
    let broken = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !broken.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    match simulate(seed, &plan, None) {
                        Ok(calm) => {
                            faults.fetch_add(calm.faults, Ordering::Relaxed);
                            seconds.fetch_add(calm.took.as_secs(), Ordering::Relaxed);
                        }
                        Err(found) => {
                            broken.store(true, Ordering::Relaxed);
                            eprintln!("{found}");
                        }
                    }
                }
            });
        }
    });
    let (faults, days) = (faults.into_inner(), seconds.into_inner() as f64 / 86_400.0);
    let done = next.into_inner().min(from + seeds) - from;
    eprintln!("{done} seeds, {faults} faults, {days:.1} days of virtual time in {:.1} s", started.elapsed().as_secs_f64());
    Ok(if broken.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
