//! Each test runs many simulations; a failing one is named by its seed, which `--example simulate -- --seed N --trace` repeats.

use uuid::Uuid;

use super::faults::{Restart, bring_up, create, promote_at, stop};
use super::*;
use crate::broker::{METADATA_TOPIC, TERM};
use crate::protocol::messages::broker_registration::{BrokerRegistrationRequest, Listener};
use crate::protocol::messages::vote::{RequestPartitionData as Asked, RequestTopicData as AskedTopic, VoteRequest};

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

/// Plays a story that is told, with so many machines that all are up; returns its trace.
fn play<F: Future<Output = ()> + Send + 'static>(
    machines: usize,
    story: impl FnOnce(Arc<World>) -> F + Send + 'static,
) -> String {
    let executor = Executor::new(7);
    let plan = Plan {
        machines,
        min_insync: 1,
        partitions: 1,
        loses_leader: false,
        segment_bytes: 1 << 20,
        delivery_timeout_ms: 60_000,
    };
    let world = World::new(&executor, 7, Options::default(), plan);
    let told = Arc::clone(&world);
    executor.spawn(Owner::World, async move {
        (0..machines).for_each(|number| assert!(told.start(number)));
        create(&told, STABLE, 1).await;
        expect(&told, "all are in sync", || all_in_sync(&told, 0)).await;
        story(Arc::clone(&told)).await;
        told.is_over.store(true, Ordering::Relaxed);
    });
    let ended = executor.run(|| world.is_over.load(Ordering::Relaxed));
    executor.clear();
    lock(&world.machines).clear();
    let trace = std::mem::take(&mut *lock(&world.trace));
    ended.unwrap_or_else(|why| panic!("{why}\n{trace}"));
    assert!(lock(&world.history).broken.is_empty(), "{:?}\n{trace}", lock(&world.history).broken);
    trace
}

async fn expect(world: &World, what: &str, is_so: impl FnMut() -> bool) {
    if !world.wait_for(Duration::from_secs(30), is_so).await {
        world.break_rule(format!("it does not come to be that {what}"));
    }
}

fn with_broker<T: Default>(world: &World, number: usize, look: impl FnOnce(&crate::broker::Broker) -> T) -> T {
    let embedded = lock(&world.machines)[number].running.clone();
    embedded.and_then(|embedded| embedded.with(|broker, _| look(broker)).ok()).unwrap_or_default()
}

/// Whether all others follow the machine and have been told that they are in sync.
fn all_in_sync(world: &World, leader: usize) -> bool {
    (0..world.plan.machines).filter(|number| *number != leader).all(|number| {
        world.follows(number).is_some_and(|(followed, _)| followed == Some(leader as i32))
            && with_broker(world, number, crate::broker::Broker::in_sync_partitions) == 1
    })
}

fn cut(world: &World, one: usize, other: usize) {
    world.network.cut(one, other);
    world.network.cut(other, one);
}

#[test]
fn a_leader_that_gave_its_vote_writes_nothing_until_it_knows_what_came_of_it() {
    play(2, |world| async move {
        let watching = Arc::clone(&world);
        world.executor.spawn(Owner::World, async move {
            // As soon as the other one leads they do not hear each other any more.
            while with_broker(&watching, 1, |broker| broker.promoted().is_ok_and(|at| at.is_none())) {
                watching.executor.sleep(Duration::from_micros(100)).await;
            }
            cut(&watching, 0, 1);
        });
        let _ = promote_at(&world, 1, false).await;
        expect(&world, "the other one leads", || with_broker(&world, 1, |broker| broker.leader_epoch() > TERM)).await;
        world.executor.sleep(Duration::from_secs(60)).await;
        assert!(with_broker(&world, 0, |broker| broker.stands_back()), "two would take records");
        // Nor after a restart.
        stop(&world, 0, Restart::Power).await;
        bring_up(&world, 0).await;
        world.executor.sleep(Duration::from_secs(60)).await;
        assert!(with_broker(&world, 0, |broker| broker.stands_back()), "two would take records");
        world.network.heal();
        expect(&world, "the former leader follows", || world.follows(0).is_some_and(|(leader, _)| leader == Some(1)))
            .await;
    });
}

#[test]
fn a_leader_whose_vote_was_for_nothing_goes_on() {
    play(2, |world| async move {
        let cluster_id = with_broker(&world, 0, |broker| Some(broker.cluster_id().to_owned()));
        let asked = Asked { replica_epoch: 2 * TERM, replica_id: 1, ..Asked::default() };
        let topics = vec![AskedTopic { topic_name: METADATA_TOPIC.to_owned(), partitions: vec![asked] }];
        let request = VoteRequest { cluster_id, voter_id: 0, topics };
        let transport = world.network.transport(1, REQUEST_TIMEOUT);
        let answer = transport.call(&Endpoint::new("machine0", 9092), request.into()).await;
        assert!(matches!(&answer, Ok(Response::Vote(vote)) if vote.topics[0].partitions[0].vote_granted), "{answer:?}");
        // Its wall clock says nothing of how long that is ago.
        lock(&world.machines)[0].clock.set_ahead(36_000_000);
        world.executor.sleep(Duration::from_secs(8)).await;
        assert!(with_broker(&world, 0, |broker| broker.stands_back()));
        expect(&world, "it goes on", || with_broker(&world, 0, |broker| !broker.stands_back())).await;
    });
}

#[test]
fn a_former_leader_is_told_until_it_answers_and_follows() {
    play(3, |world| async move {
        stop(&world, 0, Restart::Power).await;
        promote_at(&world, 1, true).await.unwrap();
        world.executor.sleep(Duration::from_secs(100)).await;
        bring_up(&world, 0).await;
        for number in [0, 2] {
            let follows = || world.follows(number).is_some_and(|(leader, _)| leader == Some(1));
            expect(&world, "all follow", follows).await;
        }
        expect(&world, "all are in sync", || all_in_sync(&world, 1)).await;
    });
}

#[test]
fn a_broker_that_was_promoted_leads_when_it_is_started_as_it_was_before() {
    let trace = play(2, |world| async move {
        promote_at(&world, 1, false).await.unwrap();
        expect(&world, "the former leader follows", || world.follows(0).is_some_and(|(leader, _)| leader == Some(1)))
            .await;
        stop(&world, 1, Restart::Clean).await;
        bring_up(&world, 1).await;
        world.executor.sleep(Duration::from_secs(20)).await;
        expect(&world, "all are in sync", || all_in_sync(&world, 1)).await;
    });
    assert!(!trace.contains("a member no more: Err"), "{trace}");
}

#[test]
fn a_second_broker_of_the_same_number_is_refused() {
    let trace = play(2, |world| async move {
        stop(&world, 1, Restart::Power).await;
        let (beating, transport) = (Arc::clone(&world), world.network.transport(1, REQUEST_TIMEOUT));
        world.executor.spawn(Owner::World, async move {
            loop {
                let listeners = vec![Listener { host: "elsewhere".to_owned(), port: 9092, ..Listener::default() }];
                let incarnation_id = Uuid::from_u128(1);
                let request =
                    BrokerRegistrationRequest { broker_id: 1, incarnation_id, listeners, ..Default::default() };
                let _ = transport.call(&Endpoint::new("machine0", 9092), request.into()).await;
                beating.executor.sleep(Duration::from_secs(1)).await;
            }
        });
        world.executor.sleep(Duration::from_secs(10)).await;
        bring_up(&world, 1).await;
        world.executor.sleep(Duration::from_secs(12)).await;
    });
    assert!(trace.contains("another broker that runs has this node id"), "{trace}");
}
