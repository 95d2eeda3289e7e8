//! Whole systems with faults drawn from a seed, as many as asked for. Each failing seed is printed with what broke, and repeats.
//!
//! `cargo run --release -p ottla --example simulate --features simulation -- --seeds 10000 [--from 0] [--broken RULE]`, and
//! `-- --seed N --trace` to see one happen. Two threads take half of the seeds each with `--jobs 2`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use ottla::simulation::{Options, Outcome, Rule, simulate};

/// Runs simulations and says which seeds broke a rule.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this one alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happens, and the broker's log.
    #[arg(long)]
    trace: bool,
    /// How many threads run simulations, one each.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Break a rule on purpose: truncation, follower-sync, acks-all, high-watermark, idempotence, standing-back or fencing.
    #[arg(long, value_parser = rule)]
    broken: Option<Rule>,
}

fn rule(name: &str) -> Result<Rule, String> {
    let named = |rule: &Rule| format!("{rule:?}").to_lowercase() == name.replace('-', "");
    Rule::ALL.into_iter().find(named).ok_or_else(|| format!("there is no such rule name={name}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.trace {
        env_logger::Builder::new().filter_level(log::LevelFilter::Info).format_timestamp(None).init();
    }
    let (first, last) = match arguments.seed {
        Some(seed) => (seed, seed.saturating_add(1)),
        None => (arguments.from, arguments.from.saturating_add(arguments.seeds)),
    };
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    let outcome = simulate(seed, Options { broken: arguments.broken });
                    if arguments.trace {
                        println!("{}", outcome.trace);
                    }
                    if let Ok(mut total) = total.lock() {
                        total.add(&outcome);
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_default();
    println!(
        "{} seeds, {} failed, {:.1} s: {:.1} simulated hours, {} faults, {} records acknowledged, {} read, {} turns",
        total.seeds,
        total.failed,
        began.elapsed().as_secs_f64(),
        total.simulated / 3600.0,
        total.faults,
        total.acknowledged,
        total.read,
        total.turns
    );
    if total.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    failed: u64,
    simulated: f64,
    faults: u64,
    acknowledged: u64,
    read: u64,
    turns: u64,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        if !outcome.broken.is_empty() {
            self.failed += 1;
            for rule in outcome.broken.iter().take(4) {
                println!("seed {}: {rule}", outcome.seed);
            }
        }
        self.seeds += 1;
        self.simulated += outcome.simulated.as_secs_f64();
        self.faults += outcome.faults;
        self.acknowledged += outcome.acknowledged;
        self.read += outcome.read;
        self.turns += outcome.turns;
    }
}
