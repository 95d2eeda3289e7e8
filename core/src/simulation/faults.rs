//! What goes wrong, when, and that all is well in the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::executor::{Owner, SimulatedClock};
use super::history::partitions_of;
use super::workload::{self, GROUP, TopicState};
use super::{CLIENTS, FLEETING, PATIENCE, STABLE, World, is_settled, lock};
use crate::client::{NewPartitions, NewTopic, TopicPartition};
use crate::protocol::ErrorCode;
use crate::replication::promote;
use crate::storage::memory::{Loss, MemoryDevice};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// How long one of the simulation's own calls is tried at a time.
const CALL: Duration = Duration::from_secs(5);
/// Longer than a request of a broken connection may still be under way.
const QUIET: Duration = Duration::from_secs(5);
/// The client that reads from whoever leads.
const READER: usize = CLIENTS + 10;
/// The first of those that read from one machine each.
const READER_AT: usize = CLIENTS + 20;
/// The client that hands leadership over.
const PROMOTER: usize = CLIENTS + 70;

/// From the first start to the last check.
pub(super) async fn story(world: &Arc<World>) {
    let executor = &world.executor;
    for number in 0..world.plan.machines {
        world.start(number);
    }
    create(world, STABLE, world.plan.partitions).await;
    executor.spawn(Owner::World, workload::produce(Arc::clone(world), CLIENTS, false));
    executor.spawn(Owner::World, workload::produce(Arc::clone(world), CLIENTS + 1, executor.hits(40)));
    executor.spawn(Owner::World, workload::read(Arc::clone(world), READER));
    for number in 0..world.plan.machines {
        executor.spawn(Owner::World, workload::read_at(Arc::clone(world), READER_AT + number, number));
    }
    executor.spawn(Owner::World, workload::commit(Arc::clone(world)));

    let under_way = Arc::new(AtomicUsize::new(0));
    trouble(world, &under_way, 5..14).await;
    if world.plan.loses_leader {
        lose_leader(world).await;
        trouble(world, &under_way, 1..5).await;
        if executor.hits(40) {
            lose_leader(world).await;
            trouble(world, &under_way, 0..3).await;
        }
    }
    finish(world, &under_way).await;
    world.is_over.store(true, Ordering::Relaxed);
}

/// Lets some faults happen, one after the other or at once.
async fn trouble(world: &Arc<World>, under_way: &Arc<AtomicUsize>, count: std::ops::Range<u64>) {
    let executor = &world.executor;
    for _ in 0..executor.draw(count) {
        executor.sleep(executor.draw_ms(20..1_500)).await;
        check(world);
        world.faults.fetch_add(1, Ordering::Relaxed);
        under_way.fetch_add(1, Ordering::Relaxed);
        let (world, under_way) = (Arc::clone(world), Arc::clone(under_way));
        executor.spawn(Owner::World, async move {
            fault(&world).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn check(world: &World) {
    let partitions = lock(&world.load).topics.get(STABLE).map_or(0, |topic| topic.partitions);
    lock(&world.history).check_logs(world.leader(), &world.checked_machines(), partitions);
}

async fn fault(world: &Arc<World>) {
    let executor = &world.executor;
    let number = executor.draw(0..world.plan.machines as u64) as usize;
    let is_leader = number == world.leader();
    match executor.draw(0..100) {
        0..20 => restart(world, number, Restart::Power).await,
        20..27 => restart(world, number, Restart::MidWrite).await,
        27..32 => restart(world, number, Restart::Kill).await,
        32..35 => restart(world, number, Restart::Clean).await,
        35..38 => {
            // The power of all goes at once.
            let all = (0..world.plan.machines).map(|number| restart(world, number, Restart::Power));
            futures::future::join_all(all).await;
        }
        38..50 => part(world).await,
        50..57 => {
            let (breaks, delay) = (executor.draw(5..30), executor.draw(5..400));
            world.say(format_args!("bad weather: {breaks} of 100 connections break, delays up to {delay} ms"));
            world.network.set_weather(breaks, delay);
            executor.sleep(executor.draw_ms(500..3_000)).await;
            world.network.set_weather(0, 3);
        }
        57..62 => {
            world.say(format_args!("machine {number} syncs slowly"));
            lock(&world.machines)[number].is_slow = true;
            executor.sleep(executor.draw_ms(500..3_000)).await;
            lock(&world.machines)[number].is_slow = false;
        }
        62..67 => fail_sync(world, number).await,
        67..72 => fill_disk(world, number).await,
        72..76 => {
            let ahead = [-36_000_000, -5_000, 5_000, 3_500_000, 36_000_000][executor.draw(0..5) as usize];
            world.say(format_args!("machine {number}'s wall clock is {ahead} ms ahead"));
            lock(&world.machines)[number].clock.set_ahead(ahead);
            executor.sleep(executor.draw_ms(500..4_000)).await;
            if executor.hits(50) {
                lock(&world.machines)[number].clock.set_ahead(0);
            }
        }
        76..86 => hand_over(world, number).await,
        86..88 if !is_leader && !world.plan.loses_leader => restart(world, number, Restart::Wiped).await,
        86..91 if world.plan.machines > 1 => {
            world.say(format_args!("machine {number} hears nothing of the others and tells them nothing"));
            if let Some(member) = &lock(&world.machines)[number].member {
                member.stop();
            }
            executor.sleep(executor.draw_ms(100..5_000)).await;
            if world.wait_for(PATIENCE, || world.claim(number)).await {
                if lock(&world.machines)[number].running.is_some() && !world.join(number) {
                    stop(world, number, Restart::Power).await;
                    bring_up(world, number).await;
                }
                world.release(number);
            }
        }
        86..95 => delete_records(world).await,
        95..97 => grow(world).await,
        _ => renew(world).await,
    }
}

/// How a machine is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Its power is cut.
    Power,
    /// Its power is cut in the middle of a write.
    MidWrite,
    /// The process is killed; the operating system has what it wrote.
    Kill,
    /// It is closed.
    Clean,
    /// It comes back with an empty disk.
    Wiped,
}

impl World {
    /// Reserves a machine for something that is done with it; one thing at a time.
    fn claim(&self, number: usize) -> bool {
        let place = &mut lock(&self.machines)[number];
        !std::mem::replace(&mut place.is_busy, true)
    }

    fn release(&self, number: usize) {
        lock(&self.machines)[number].is_busy = false;
    }

    fn device(&self, number: usize) -> MemoryDevice {
        lock(&self.machines)[number].device.clone()
    }

    fn loss(&self) -> Loss {
        let seed = self.executor.chance().next();
        match self.executor.draw(0..10) {
            0 => Loss::Nothing,
            1..5 => Loss::Unsynced,
            5..8 => Loss::Torn(seed),
            _ => Loss::Shuffled(seed),
        }
    }
}

/// Stops a machine in some manner and starts it again, unless something else is being done with it.
pub(super) async fn restart(world: &Arc<World>, number: usize, how: Restart) {
    if !world.claim(number) {
        return;
    }
    stop(world, number, how).await;
    world.executor.sleep(world.executor.draw_ms(1..3_000)).await;
    bring_up(world, number).await;
    world.release(number);
}

pub(super) async fn stop(world: &Arc<World>, number: usize, how: Restart) {
    let loss = world.loss();
    let (embedded, is_tainted) = {
        let machines = lock(&world.machines);
        (machines[number].running.clone(), machines[number].is_tainted)
    };
    match how {
        // A new process would read from the system's cache what the failed sync has dropped, and believe it.
        Restart::Kill | Restart::Clean if is_tainted => world.cut_power(number, loss),
        Restart::Power => world.cut_power(number, loss),
        Restart::MidWrite => {
            let device = world.device(number);
            device.power_off_at(device.operations() + world.executor.draw(0..30));
            world.wait_for(Duration::from_secs(3), || device.is_off()).await;
            world.cut_power(number, loss);
        }
        Restart::Kill => world.halt(number),
        Restart::Clean => {
            world.halt(number);
            if let Some(Err(error)) = embedded.map(|embedded| embedded.close()) {
                world.say(format_args!("machine {number} is not closed cleanly: {error}"));
            }
        }
        Restart::Wiped => {
            world.halt(number);
            let mut machines = lock(&world.machines);
            machines[number].device = MemoryDevice::durable();
            machines[number].wiped = Some(world.executor.now());
            machines[number].follow = Some(world.leader());
        }
    }
    world.say(format_args!("machine {number} is down: {how:?} {loss:?}"));
}

/// Starts a machine; its power may go again while it recovers.
pub(super) async fn bring_up(world: &Arc<World>, number: usize) {
    loop {
        let device = world.device(number);
        if world.is_troubled() && world.executor.hits(15) {
            device.power_off_at(device.operations() + world.executor.draw(0..40));
        }
        if world.start(number) && !device.is_off() {
            // What was to strike the recovery strikes nothing else.
            device.power_off_at(u64::MAX);
            return;
        }
        device.set_capacity(None);
        let loss = world.loss();
        world.say(format_args!("machine {number} loses power again: {loss:?}"));
        world.cut_power(number, loss);
        world.executor.sleep(world.executor.draw_ms(1..500)).await;
    }
}

/// Keeps two from each other for a while, or one of them from the other.
async fn part(world: &Arc<World>) {
    let executor = &world.executor;
    let machines = world.plan.machines;
    let place = || {
        let place = executor.draw(0..machines as u64 + 3) as usize;
        if place < machines { place } else { [CLIENTS, CLIENTS + 1, CLIENTS + 10][place - machines] }
    };
    let (from, to) = (place(), place());
    let both = executor.hits(60);
    if from == to {
        return;
    }
    world.say(format_args!("{from} is cut off from {to} both={both}"));
    world.network.cut(from, to);
    if both {
        world.network.cut(to, from);
    }
    executor.sleep(executor.draw_ms(200..6_000)).await;
    world.network.mend(from, to);
    world.network.mend(to, from);
}

/// One of the next syncs fails; then the machine loses power, for nothing less tells what its disk has.
async fn fail_sync(world: &Arc<World>, number: usize) {
    let device = world.device(number);
    world.say(format_args!("a sync of machine {number} fails soon"));
    lock(&world.machines)[number].is_tainted = true;
    device.fail_sync_at(device.syncs() + world.executor.draw(0..12));
    world.executor.sleep(world.executor.draw_ms(300..2_500)).await;
    world.wait_for(PATIENCE, || world.claim(number)).await;
    stop(world, number, Restart::Power).await;
    world.executor.sleep(world.executor.draw_ms(1..1_000)).await;
    bring_up(world, number).await;
    world.release(number);
}

/// There is no room for a while, and perhaps a restart meanwhile.
async fn fill_disk(world: &Arc<World>, number: usize) {
    if !world.claim(number) {
        return;
    }
    let device = world.device(number);
    let used: u64 = device.files().values().map(|file| file.len() as u64).sum();
    let capacity = used + world.executor.draw(0..1_500);
    world.say(format_args!("the disk of machine {number} is full at {capacity} bytes"));
    device.set_capacity(Some(capacity));
    world.executor.sleep(world.executor.draw_ms(300..3_000)).await;
    if world.executor.hits(20) {
        stop(world, number, Restart::Kill).await;
        bring_up(world, number).await;
    }
    world.device(number).set_capacity(None);
    world.say(format_args!("the disk of machine {number} has room again"));
    world.release(number);
}

/// Calls until it worked, it is known that it cannot, or there is no more to be seen of it.
async fn until_settled<T, F: Future<Output = Result<T>>>(world: &World, mut call: impl FnMut() -> F) -> Result<T> {
    let deadline = world.executor.now() + PATIENCE;
    loop {
        match call().await {
            Err(error) if !is_settled(&error) && world.executor.now() < deadline => {
                world.executor.sleep(Duration::from_millis(300)).await;
            }
            settled => return settled,
        }
    }
}

fn only<T>(results: Vec<(String, Result<T>)>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Internal, "no answer for the only topic"));
    results.into_iter().next().map_or_else(missing, |(_, result)| result)
}

/// Makes a topic, and lets clients have it.
pub(super) async fn create(world: &Arc<World>, name: &'static str, partitions: i32) {
    let admin = world.admin();
    let topic = NewTopic::new(name)
        .partitions(partitions)
        .config("min.insync.replicas", world.plan.min_insync.to_string())
        .config("retention.ms", "-1");
    let created =
        until_settled(world, || async { only(admin.create_topics(std::slice::from_ref(&topic), false, CALL).await?) })
            .await;
    match created {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            world.say(format_args!("{name} cannot be made: {error}"));
            if name == STABLE {
                world.break_rule(format!("{name} cannot be made: {error}"));
            }
        }
        _ => {
            let mut load = lock(&world.load);
            let creation = load.topics.get(name).map_or(0, |topic| topic.creation) + 1;
            world.say(format_args!("{name} is there, the {creation}."));
            load.topics.insert(name, TopicState { creation, partitions, is_open: true });
        }
    }
}

/// The topic that comes and goes: made, or deleted and made anew.
async fn renew(world: &Arc<World>) {
    if world.plan.loses_leader {
        // That a topic was made or deleted is not waited for by followers.
        return;
    }
    let known = {
        let mut load = lock(&world.load);
        let known = load.topics.get(FLEETING).copied();
        // One at a time: while it is being made it is there and closed.
        let placeholder = TopicState { creation: 0, partitions: 1, is_open: false };
        load.topics.entry(FLEETING).or_insert(placeholder).is_open = false;
        known
    };
    match known {
        None => {}
        Some(topic) if !topic.is_open => return,
        Some(_) => {
            let is_idle = || lock(&world.load).unsettled.get(FLEETING).copied().unwrap_or(0) == 0;
            if !world.wait_for(PATIENCE, is_idle).await {
                return world.break_rule("sends are not settled in time".to_owned());
            }
            world.executor.sleep(QUIET).await;
            world.say(format_args!("{FLEETING} is being deleted"));
            let admin = world.admin();
            let deleted = until_settled(world, || async { only(admin.delete_topics(&[FLEETING], CALL).await?) }).await;
            match deleted {
                Err(error) if error.code() != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => {
                    return world.say(format_args!("{FLEETING} cannot be deleted: {error}"));
                }
                _ => world.executor.sleep(QUIET).await,
            }
        }
    }
    create(world, FLEETING, 1).await;
}

async fn grow(world: &Arc<World>) {
    let Some(topic) = lock(&world.load).topics.get(STABLE).copied() else { return };
    if world.plan.loses_leader || topic.partitions > 2 {
        return;
    }
    let admin = world.admin();
    let wanted =
        BTreeMap::from([(STABLE.to_owned(), NewPartitions { total: topic.partitions + 1, assignments: None })]);
    let grown = until_settled(world, || async { only(admin.create_partitions(&wanted, false, CALL).await?) }).await;
    world.say(format_args!("{STABLE} gets another partition: {grown:?}"));
    // An answer that was lost is as good: the next try says that they are there.
    if grown.is_ok() || grown.is_err_and(|error| error.code() == Some(ErrorCode::INVALID_PARTITIONS)) {
        let mut load = lock(&world.load);
        if let Some(known) = load.topics.get_mut(STABLE) {
            known.partitions = known.partitions.max(topic.partitions + 1);
        }
    }
}

async fn delete_records(world: &Arc<World>) {
    let Some(topic) = lock(&world.load).topics.get(STABLE).copied() else { return };
    let index = world.executor.draw(0..topic.partitions as u64) as i32;
    let partition = TopicPartition::new(STABLE, index);
    let Some(mut end) = world.log_end(world.leader(), &partition) else { return };
    if world.plan.loses_leader {
        // Who lacks what is deleted does not know its senders, and takes what they send again for new.
        let ends = (0..world.plan.machines).map(|number| world.log_end(number, &partition).map_or(0, |end| end.end));
        end.end = ends.min().unwrap_or(0).max(end.start);
    }
    let offset = world.executor.draw(end.start as u64..end.end as u64 + 1) as i64;
    lock(&world.history).deleting(&partition, topic.creation, offset);
    let admin = world.admin();
    let wanted = HashMap::from([(partition.clone(), offset)]);
    let deleted = admin.delete_records(&wanted, CALL).await;
    world.say(format_args!("records below {offset} of {partition} are deleted: {deleted:?}"));
}

/// The leader hands over to another machine; once or twice.
async fn hand_over(world: &Arc<World>, number: usize) {
    if world.plan.machines == 1 || world.is_moving.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut next = number;
    loop {
        if world.executor.hits(40) {
            // At the worst moment the two do not hear each other any more.
            let (world, former) = (Arc::clone(world), world.leader());
            world.executor.clone().spawn(Owner::World, async move {
                world.executor.sleep(world.executor.draw_ms(0..60)).await;
                world.say(format_args!("{former} and {next} are cut off from each other"));
                world.network.cut(former, next);
                world.network.cut(next, former);
                world.executor.sleep(world.executor.draw_ms(200..20_000)).await;
                world.network.mend(former, next);
                world.network.mend(next, former);
            });
        }
        let outcome = promote_at(world, next, false).await;
        world.say(format_args!("machine {next} is to lead: {outcome:?}"));
        if outcome.is_err() {
            // It may go on all the same for a while.
            world.executor.sleep(QUIET * 2).await;
        }
        if outcome.is_err() || world.executor.hits(60) {
            break;
        }
        next = (next + 1) % world.plan.machines;
    }
    world.is_moving.store(false, Ordering::Relaxed);
}

pub(super) async fn promote_at(world: &World, number: usize, unclean: bool) -> Result<bool> {
    let client = world.client(PROMOTER, &SimulatedClock::new(&world.executor), &world.addresses());
    promote(&client, &Endpoint::new(format!("machine{number}"), 9092), unclean).await
}

/// The leader is lost for good: the furthest of all others is promoted, and what led before comes back later.
async fn lose_leader(world: &Arc<World>) {
    let executor = &world.executor;
    let may_begin = || !world.is_moving.swap(true, Ordering::Relaxed);
    if !world.wait_for(PATIENCE, may_begin).await {
        return world.break_rule("leadership moves for ever".to_owned());
    }
    lose_leader_alone(world).await;
    executor.sleep(QUIET).await;
    world.is_moving.store(false, Ordering::Relaxed);
}

async fn lose_leader_alone(world: &Arc<World>) {
    let executor = &world.executor;
    let former = world.leader();
    let followers: Vec<usize> = (0..world.plan.machines).filter(|number| *number != former).collect();
    let partitions = lock(&world.load).topics.get(STABLE).map_or(0, |topic| topic.partitions);
    let names = partitions_of(STABLE, partitions);
    // Everybody has what there is, also who came with a new disk when a leader was lost before.
    let end = |number: usize, name| world.log_end(number, name).map_or(0, |end| end.end);
    let goal: Vec<i64> = names.iter().map(|name| end(former, name)).collect();
    let has_all = |number: &usize| {
        let machines = lock(&world.machines);
        let Some(embedded) = &machines[*number].running else { return false };
        let copies = embedded.with(|broker, _| broker.copies()).unwrap_or_default();
        drop(machines);
        copies.iter().any(|copy| copy.name == STABLE && copy.partitions == partitions)
            && names.iter().zip(&goal).all(|(name, goal)| end(*number, name) >= *goal)
    };
    if !world.wait_for(PATIENCE, || followers.iter().all(has_all)).await {
        return world.break_rule("followers do not come to have the topic".to_owned());
    }
    if !world.wait_for(PATIENCE, || world.claim(former)).await {
        return world.break_rule(format!("machine {former} is busy for ever"));
    }
    let how = if executor.hits(30) { Restart::MidWrite } else { Restart::Power };
    stop(world, former, how).await;
    world.say(format_args!("machine {former}, which leads, is lost"));
    let promoted = loop {
        executor.sleep(executor.draw_ms(1..1_000)).await;
        // Whoever is chosen is not to be touched, or the choice would be another.
        let claimed: Vec<usize> = followers.iter().copied().filter(|number| world.claim(*number)).collect();
        let furthest = followers
            .iter()
            .copied()
            .max_by_key(|number| world.log_end(*number, &names[0]).map(|end| (end.leader_epoch, end.end)));
        let all_answer = claimed.len() == followers.len() && followers.iter().all(|number| world.is_up(*number));
        let mut promoted = None;
        if let Some(number) = furthest.filter(|_| all_answer) {
            let outcome = promote_at(world, number, true).await;
            world.say(format_args!("machine {number} is to lead, whatever it lacks: {outcome:?}"));
            // Its answer may be lost.
            world.note_leader(number);
            promoted = (world.leader() == number).then_some(number);
        }
        if promoted.is_some() {
            world.forget_unacknowledged();
        }
        for number in claimed {
            world.release(number);
        }
        if let Some(number) = promoted {
            break number;
        }
    };
    let epoch = lock(&world.leader).1;
    let knows = |number: &usize| world.follows(*number).is_some_and(|(_, known)| known >= epoch);
    if !world.wait_for(PATIENCE, || followers.iter().all(knows)).await {
        return world.break_rule(format!("followers are not told that machine {promoted} leads"));
    }
    executor.sleep(executor.draw_ms(1..4_000)).await;
    // It comes back with what it had, and takes itself for the leader until it is told; or with a new disk.
    if executor.hits(30) {
        stop(world, former, Restart::Wiped).await;
    }
    let astray = [READER, CLIENTS + 50, CLIENTS + 60, PROMOTER];
    for client in astray {
        world.network.cut(client, former);
    }
    bring_up(world, former).await;
    world.release(former);
    if !world.wait_for(PATIENCE, || knows(&former)).await {
        world.break_rule(format!("machine {former} is not told that another leads: {:?}", world.follows(former)));
    }
    for client in astray {
        world.network.mend(client, former);
    }
}

impl World {
    fn is_up(&self, number: usize) -> bool {
        let machines = lock(&self.machines);
        machines[number].running.is_some() && !machines[number].device.is_off()
    }
}

/// The faults end: everything is settled, everybody catches up, and all logs are the same.
async fn finish(world: &Arc<World>, under_way: &Arc<AtomicUsize>) {
    world.is_troubled.store(false, Ordering::Relaxed);
    world.say(format_args!("no more faults"));
    if !world.wait_for(PATIENCE * 2, || under_way.load(Ordering::Relaxed) == 0).await {
        return world.break_rule("a fault does not end".to_owned());
    }
    world.network.heal();
    for number in 0..world.plan.machines {
        world.device(number).set_capacity(None);
    }
    let is_quiet = || {
        let machines = lock(&world.machines);
        machines.iter().all(|place| !place.is_busy && place.running.is_some())
    };
    if !world.wait_for(PATIENCE, is_quiet).await {
        return world.break_rule("machines do not come up".to_owned());
    }
    check(world);
    let unsettled = || lock(&world.load).unsettled.values().sum::<usize>();
    if !world.wait_for(PATIENCE, || unsettled() == 0).await {
        return world.break_rule(format!("{} sends are not settled in time", unsettled()));
    }

    let topics: Vec<(&'static str, TopicState)> = lock(&world.load)
        .topics
        .iter()
        .map(|(name, topic)| (*name, *topic))
        .filter(|(_, topic)| topic.is_open)
        .collect();
    let partitions: Vec<(TopicPartition, u32)> = topics
        .iter()
        .flat_map(|(name, topic)| {
            partitions_of(name, topic.partitions).into_iter().map(|partition| (partition, topic.creation))
        })
        .collect();
    let astray = || {
        (0..world.plan.machines).find(|number| {
            let follows = world.follows(*number).map(|(leader, _)| leader);
            follows != Some((*number != world.leader()).then_some(world.leader() as i32))
        })
    };
    if !world.wait_for(PATIENCE, || astray().is_none()).await {
        let found: Vec<_> = (0..world.plan.machines).map(|number| world.follows(number)).collect();
        return world.break_rule(format!("machine {:?} does not know who leads: {found:?}", astray()));
    }
    let leader = world.leader();
    let behind = || {
        partitions.iter().find_map(|(partition, _)| {
            // Where they begin may differ: that records were deleted is not waited for by followers, nor by the deletion itself.
            let end = |number| world.log_end(number, partition).map(|end| end.end);
            let other = (0..world.plan.machines).find(|number| end(*number) != end(leader))?;
            Some(format!(
                "machine {other} does not catch up at {partition}: {:?}, leader {:?}, {:?}",
                world.log_end(other, partition),
                world.log_end(leader, partition),
                world.follower(other).map(|follower| (follower.error(), follower.status()))
            ))
        })
    };
    world.wait_for(PATIENCE, || behind().is_none()).await;
    if behind().is_some() {
        world.break_rule(behind().unwrap_or_default());
    }
    let lagging = || {
        let load = lock(&world.load);
        let readers = std::iter::once(READER).chain((0..world.plan.machines).map(|number| READER_AT + number));
        readers.into_iter().find_map(|reader| {
            let at = load.readers.get(&reader);
            partitions.iter().filter(|(partition, _)| *partition.topic == *STABLE).find_map(|(partition, _)| {
                let end = world.log_end(leader, partition).filter(|end| end.start < end.end)?;
                let next = at.and_then(|at| at.get(partition)).copied();
                (next != Some(end.end))
                    .then(|| format!("reader {reader} does not catch up at {partition}: {next:?} of {end:?}"))
            })
        })
    };
    if !world.wait_for(PATIENCE, || lagging().is_none()).await {
        world.break_rule(lagging().unwrap_or_default());
    }
    let machines = world.checked_machines();
    for (partition, creation) in &partitions {
        let start = world.log_end(leader, partition).map_or(0, |end| end.start);
        lock(&world.history).check_end(partition, *creation, start, leader, &machines);
    }

    let committed = lock(&world.load).least_committed();
    let admin = world.admin();
    let listed = until_settled(world, || admin.list_group_offsets(GROUP, None, CALL)).await;
    let found = listed.map(|offsets| offsets.get(&TopicPartition::new(STABLE, 0)).map_or(0, |found| found.offset));
    world.say(format_args!("committed offset: {found:?}, acknowledged: {committed}"));
    if !found.as_ref().is_ok_and(|found| *found >= committed) {
        world.break_rule(format!("a committed offset went back: {committed} was acknowledged, there is {found:?}"));
    }
    let load = lock(&world.load);
    world.say(format_args!("the end: {} sends failed", load.failed));
}
