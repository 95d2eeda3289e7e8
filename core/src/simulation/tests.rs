use super::*;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..3 {
        let (first, second) = (simulate(seed, Options::default()), simulate(seed, Options::default()));
        let other = first.trace.lines().zip(second.trace.lines()).find(|(first, second)| first != second);
        assert_eq!(other, None, "seed={seed}");
        assert_eq!(first.trace.len(), second.trace.len(), "seed={seed}");
    }
}

/// The rules hold in so many runs, which CI has time for; `--example simulate` does more.
const SEEDS: u64 = 300;

#[test]
fn the_rules_hold_whatever_fails() {
    let mut failed = Vec::new();
    for seed in 0..SEEDS {
        let outcome = simulate(seed, Options::default());
        if !outcome.broken.is_empty() {
            failed.push(format!("seed {seed}: {}", outcome.broken.join("\n  ")));
        }
    }
    assert!(failed.is_empty(), "{} of {SEEDS} runs broke a rule\n{}", failed.len(), failed.join("\n"));
}
