//! Each test runs many simulations; a failing one is named by its seed, which `--example simulate -- --seed N --trace` repeats.

use super::*;

/// So many runs CI has time for; the example does more.
const SEEDS: u64 = 300;
/// Among so many runs each rule that is broken on purpose has to be found out.
const SABOTAGED: u64 = 150;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..6 {
        let (first, second) = (simulate(seed, Options::default()), simulate(seed, Options::default()));
        let other = first.trace.lines().zip(second.trace.lines()).find(|(first, second)| first != second);
        assert_eq!(other, None, "seed={seed}");
        assert_eq!(first.trace.len(), second.trace.len(), "seed={seed}");
        assert!(first.acknowledged > 0 && first.read > 0, "seed={seed}: nothing has happened");
    }
}

#[test]
fn the_rules_hold_whatever_fails() {
    let mut failed = Vec::new();
    let (mut acknowledged, mut read, mut faults) = (0, 0, 0);
    for seed in 0..SEEDS {
        let outcome = simulate(seed, Options::default());
        acknowledged += outcome.acknowledged;
        read += outcome.read;
        faults += outcome.faults;
        if !outcome.broken.is_empty() {
            failed.push(format!("seed {seed}: {}", outcome.broken.join("\n  ")));
        }
    }
    assert!(failed.is_empty(), "{} of {SEEDS} runs broke a rule\n{}", failed.len(), failed.join("\n"));
    // Or the rules hold because nothing happens.
    assert!(acknowledged > 40 * SEEDS && read > 100 * SEEDS && faults > 5 * SEEDS, "{acknowledged} {read} {faults}");
}

#[test]
fn a_rule_that_is_broken_on_purpose_is_found_out() {
    for rule in Rule::ALL {
        let options = Options { broken: Some(rule) };
        let found = (0..SABOTAGED).map(|seed| simulate(seed, options)).find(|outcome| !outcome.broken.is_empty());
        assert!(found.is_some(), "nobody noticed that a rule is broken: {rule:?}");
    }
}
