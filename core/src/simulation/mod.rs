//! Whole systems in one thread: brokers, followers and clients over a network, devices and clocks that fail by a seed.
//!
//! Everything is the real thing but what it stands on: `broker::Broker` through `transport::Embedded`, `client`'s producers,
//! consumers and admin, `replication::Follower`. Below them are a seeded executor with a clock of its own, a network that
//! delays, breaks and parts, and devices in memory that lose what was not synced. The same seed gives the same run, event for
//! event: [`simulate`] says what happened.
//!
//! # Faults
//! Drawn from the seed, many at a time (the letters are those of our list of faults):
//! - Power cuts of any machine, or of all at once, that lose all, some or none of what was not synced, tear writes, lose names, or
//!   come in the middle of an operation or of the recovery itself; processes that are killed, and that are closed (D1, D2, D3).
//! - A sync that fails and drops its data (D4), slow syncs, a full disk that has room later (D5).
//! - Wall clocks that jump, each machine's its own (D7).
//! - Machines that are parted, one way or both; connections that break with the request or its answer on the way; requests that
//!   arrive late, after those of a newer connection (R1).
//! - Followers that stop, start, or come back empty (R1, R3); topics made, grown, deleted and made anew under the same name,
//!   records deleted (R4).
//! - The leader hands over to a follower, asked as users ask (ElectLeaders), and whatever happens meanwhile.
//! - The leader lost for good: a follower is promoted, and what led before comes back with what it had, is told, and follows; or
//!   it does on a new disk (R2). Then the next one is lost (the double failover).
//!
//! # Rules
//! - What a producer was told with `acks=all` is synced at that moment, on the leader and on as many machines together as
//!   `min.insync.replicas` says, and stays: whatever number of power cuts there are, one after the other or all at once.
//! - What was acknowledged under `min.insync.replicas` = m on R machines survives that any m - 1 of them are lost for good with
//!   their disks, if the follower that is promoted is the furthest (leader epoch, end) of R - m + 1.
//! - What anybody has read, of any machine, stands at that offset for good, unless the leader is lost for good: then what was
//!   acknowledged as above does. Nobody reads past the high watermark, which never goes back on a connection.
//! - An idempotent producer's records are there once, and in the order of `send` in each partition.
//! - Never do two brokers lead in one epoch; and who hands over takes nothing more.
//! - Logs have no gaps, leader epochs rise along them, and below a follower's high watermark it has the leader's bytes.
//! - Committed offsets that were acknowledged do not go back.
//! - A broker opens again after whatever has happened. When faults have ended, every send is settled, every follower and every
//!   reader catches up, and all logs are the same.
//!
//! Where the simulation is kinder than the world: a process that starts again after a sync has failed finds what the disk has,
//! because the power was cut between; wall clocks jump by less than a producer is remembered; a leader that was lost comes back when
//! those who answered at the promotion know of the next one (or they could acknowledge with it), and nobody reads from it or
//! commits there before it has been told (whoever asks a leader of the past is answered by it).
//!
//! Not simulated: transactions (the broker takes none), compaction and retention by time, bit rot (D6, `log`'s own tests).

mod executor;
mod faults;
mod history;
mod network;
mod sabotage;
mod workload;

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::executor::{Executor, Owner, SimulatedClock};
use self::history::{History, Machine};
use self::network::{Listening, Network};
pub use self::sabotage::Rule;
use crate::broker::BrokerConfig;
use crate::client::{Client, ClientConfig, TopicPartition};
use crate::protocol::{Request, Response};
use crate::replication::{Connect, Follower, LocalLogs, Member, MemberOptions};
use crate::storage::memory::{Loss, MemoryDevice};
use crate::transport::{Embedded, Endpoint, Runner};
use crate::{Error, ErrorKind};

/// The topic that is there from beginning to end.
const STABLE: &str = "orders";
/// The topic that is deleted and made anew.
const FLEETING: &str = "events";
/// Clients have numbers like machines, from here on.
const CLIENTS: usize = 100;
/// How long a client waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// By when everything has to be settled after the faults have ended: longer than `delivery_timeout_ms`.
const PATIENCE: Duration = Duration::from_secs(200);

/// What a simulation is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The rule that is broken on purpose, to see whether the checkers find out.
    pub broken: Option<Rule>,
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Every rule that was found broken, in words; empty when all is well.
    pub broken: Vec<String>,
    /// What happened, a line for each event, with the time since the beginning.
    pub trace: String,
    /// How long it was for those in it.
    pub simulated: Duration,
    /// How many faults there were.
    pub faults: u64,
    /// How many records were acknowledged with `acks=all`.
    pub acknowledged: u64,
    /// How many records were read.
    pub read: u64,
    /// How many turns tasks had.
    pub turns: u64,
}

/// Runs the simulation that `seed` describes.
pub fn simulate(seed: u64, options: Options) -> Outcome {
    let executor = Executor::new(seed);
    let world = World::new(&executor, seed, options, Plan::draw(&executor));
    let story = Arc::clone(&world);
    executor.spawn(Owner::World, async move { faults::story(&story).await });
    let ended = executor.run(|| world.is_over.load(Ordering::Relaxed));
    if let Err(why) = ended {
        world.break_rule(why);
    }
    let (simulated, turns) = (executor.now(), executor.turns());
    executor.clear();
    lock(&world.machines).clear();
    let history = lock(&world.history);
    Outcome {
        seed,
        broken: history.broken.clone(),
        trace: std::mem::take(&mut *lock(&world.trace)),
        simulated,
        faults: world.faults.load(Ordering::Relaxed),
        acknowledged: history.acknowledgements,
        read: history.reads,
        turns,
    }
}

/// Everything there is.
struct World {
    executor: Executor,
    network: Network,
    seed: u64,
    options: Options,
    plan: Plan,
    machines: Mutex<Vec<Place>>,
    history: Mutex<History>,
    trace: Mutex<String>,
    faults: AtomicU64,
    /// Whether leadership is being moved.
    is_moving: AtomicBool,
    /// Whether faults go on; clients send as long.
    is_troubled: AtomicBool,
    is_over: AtomicBool,
    /// Who leads, the number of a machine, and in which leader epoch.
    leader: Mutex<(usize, i32)>,
    load: Mutex<workload::Load>,
}

/// What the seed has decided beforehand.
#[derive(Clone, Copy, Debug)]
struct Plan {
    machines: usize,
    min_insync: usize,
    partitions: i32,
    /// Whether the leader is lost for good before the end.
    loses_leader: bool,
    segment_bytes: u64,
    delivery_timeout_ms: u64,
}

impl Plan {
    fn draw(executor: &Executor) -> Self {
        let machines = executor.draw(1..4) as usize;
        let min_insync = if machines == 1 { 1 } else { 1 + executor.draw(0..2) as usize };
        let loses_leader = min_insync == 2 && executor.hits(50);
        Self {
            machines,
            min_insync,
            // Of two followers each may be the furthest in another partition, and only one is promoted.
            partitions: if loses_leader && machines == 3 { 1 } else { executor.draw(1..3) as i32 },
            loses_leader,
            segment_bytes: [700, 2_000, 1 << 20][executor.draw(0..3) as usize],
            delivery_timeout_ms: [5_000, 60_000][executor.draw(0..2) as usize],
        }
    }
}

/// A machine: its disk, its clock, and what runs on it.
struct Place {
    device: MemoryDevice,
    clock: SimulatedClock,
    starts: u64,
    running: Option<Embedded>,
    member: Option<Member>,
    /// Whom it was told to follow when it was begun.
    follow: Option<usize>,
    /// Whether syncs are slow.
    is_slow: bool,
    /// Whether a sync may have failed: only a power cut makes clear what its disk has.
    is_tainted: bool,
    /// Whether something is being done with it: one thing at a time.
    is_busy: bool,
    /// When its disk was last replaced by an empty one.
    wiped: Option<Duration>,
}

impl World {
    fn new(executor: &Executor, seed: u64, options: Options, plan: Plan) -> Arc<Self> {
        let places = (0..plan.machines).map(|number| Place {
            device: MemoryDevice::durable(),
            clock: SimulatedClock::new(executor),
            starts: 0,
            running: None,
            member: None,
            follow: (number > 0).then_some(0),
            is_slow: false,
            is_tainted: false,
            is_busy: false,
            wiped: None,
        });
        let world = Arc::new(Self {
            executor: executor.clone(),
            network: Network::new(executor),
            seed,
            options,
            plan,
            machines: Mutex::new(places.collect()),
            history: Mutex::default(),
            trace: Mutex::default(),
            faults: AtomicU64::new(0),
            is_moving: AtomicBool::new(false),
            is_troubled: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
            leader: Mutex::new((0, 0)),
            load: Mutex::default(),
        });
        world.say(format_args!("{plan:?} broken={:?}", options.broken));
        if let Some(spoil) = options.broken.and_then(Rule::spoil) {
            world.network.spoil(spoil);
        }
        let observed = Arc::downgrade(&world);
        world.network.observe(Arc::new(move |seen| {
            if let Some(world) = observed.upgrade() {
                world.observe(seen);
            }
        }));
        world
    }

    /// Puts a line into the trace.
    fn say(&self, what: std::fmt::Arguments<'_>) {
        let now = self.executor.now();
        let _ = writeln!(lock(&self.trace), "{:>10.6} {what}", now.as_secs_f64());
    }

    fn break_rule(&self, what: String) {
        self.say(format_args!("BROKEN: {what}"));
        lock(&self.history).break_rule(what);
    }

    fn is_troubled(&self) -> bool {
        self.is_troubled.load(Ordering::Relaxed)
    }

    fn leader(&self) -> usize {
        lock(&self.leader).0
    }

    /// Looks whether a machine leads by now. Of two that say so it is the one in the later epoch; never are two in the same.
    fn note_leader(&self, number: usize) {
        let Some(embedded) = lock(&self.machines)[number].running.clone() else { return };
        let found = embedded.with(|broker, _| (broker.leader().is_none(), broker.promoted(), broker.leader_epoch()));
        let Ok((true, Ok(promoted), epoch)) = found else { return };
        let (leader, leads_in) = *lock(&self.leader);
        if promoted.is_none() && number != leader {
            // It looks for a leader.
            return;
        }
        if epoch == leads_in && number != leader {
            self.break_rule(format!("machines {leader} and {number} lead in one epoch {epoch}"));
        }
        if epoch > leads_in {
            self.say(format_args!("machine {number} leads in epoch {epoch}"));
            *lock(&self.leader) = (number, epoch);
            // Where the leader alone can acknowledge nobody leads without its hand, and from then on it takes nothing.
            let former = lock(&self.machines)[leader].running.clone().filter(|_| number != leader);
            let writes =
                former.map(|former| former.with(|broker, _| broker.leader().is_none() && !broker.stands_back()));
            if self.plan.min_insync == 1 && writes.is_some_and(|writes| writes.unwrap_or(false)) {
                self.break_rule(format!("machine {leader} takes records, and machine {number} was promoted"));
            }
            if number != leader && self.plan.min_insync == self.plan.machines {
                // It may have gone ahead without the leader: what all have acknowledged is there, whatever the rest.
                self.forget_unacknowledged();
            }
        }
    }

    /// From now on only what was acknowledged by enough has to be there.
    fn forget_unacknowledged(&self) {
        lock(&self.history).leader_lost();
        let mut load = lock(&self.load);
        load.generation += 1;
        load.committed = (0, Duration::ZERO);
        load.commits.clear();
        load.readers.clear();
    }

    /// Whether somebody takes himself for the leader who is it no more, and answers clients.
    fn has_former_leader(&self) -> bool {
        let leader = self.leader();
        (0..self.plan.machines).filter(|number| *number != leader).any(|number| {
            let Some(embedded) = lock(&self.machines)[number].running.clone() else { return false };
            let is_told = lock(&self.machines)[number].follow.is_some();
            let leads = embedded.with(|broker, _| {
                broker.leader().is_none() && (!is_told || broker.promoted().is_ok_and(|promoted| promoted.is_some()))
            });
            leads.unwrap_or_default()
        })
    }

    /// The addresses of all machines.
    fn addresses(&self) -> String {
        let addresses: Vec<String> = (0..self.plan.machines).map(|number| format!("machine{number}:9092")).collect();
        addresses.join(",")
    }

    fn observe(&self, seen: &network::Seen<'_>) {
        self.note_leader(seen.machine);
        match (seen.request, seen.response) {
            (Request::Produce(request), Response::Produce(response)) => {
                let machines = self.checked_machines();
                let now = self.executor.now();
                let is_recent = |at: Duration| at + Duration::from_secs(30) > now;
                let wiped = lock(&self.machines).iter().any(|place| place.wiped.is_some_and(is_recent));
                let (leader, min_insync) = (seen.machine, self.plan.min_insync);
                lock(&self.history).produced(leader, &machines, min_insync, wiped, request, response);
            }
            (Request::Fetch(request), Response::Fetch(response)) if self.is_readable(seen.machine) => {
                lock(&self.history).fetched(seen.owner, seen.connection, request, response);
            }
            _ => {}
        }
        let name = format!("{:?}", seen.request.api_key());
        let code = match seen.response {
            Response::Produce(response) => format!(
                "{:?}",
                response
                    .responses
                    .iter()
                    .flat_map(|topic| &topic.partition_responses)
                    .map(|answer| (answer.index, answer.error_code, answer.base_offset))
                    .collect::<Vec<_>>()
            ),
            Response::Fetch(response) => format!(
                "{:?} {:?}",
                response.error_code,
                response
                    .responses
                    .iter()
                    .flat_map(|topic| &topic.partitions)
                    .map(|data| (
                        data.partition_index,
                        data.error_code,
                        data.high_watermark,
                        data.records.as_ref().map_or(0, bytes::Bytes::len),
                        data.diverging_epoch.end_offset
                    ))
                    .collect::<Vec<_>>()
            ),
            _ => String::new(),
        };
        self.say(format_args!("machine {} answers connection {} {name} {code}", seen.machine, seen.connection));
    }

    /// What the checkers look at.
    fn checked_machines(&self) -> Vec<Machine> {
        let machines = lock(&self.machines);
        let checked = machines.iter().enumerate().map(|(number, place)| Machine {
            number,
            owner: Owner::Machine(number, place.starts),
            is_up: place.running.is_some() && !place.device.is_off(),
            device: place.device.clone(),
        });
        checked.collect()
    }

    /// A client that runs on `from`.
    fn client(&self, from: usize, clock: &SimulatedClock, bootstrap: &str) -> Client {
        let config = ClientConfig {
            bootstrap_servers: bootstrap
                .split(',')
                .map(|address| Endpoint::new(address.trim_end_matches(":9092"), 9092))
                .collect(),
            seed: Some(self.executor.chance().next()),
            ..ClientConfig::default()
        };
        Client::new(self.network.transport(from, REQUEST_TIMEOUT), Arc::new(clock.clone()), config)
    }

    fn broker_config(&self, number: usize) -> BrokerConfig {
        let mut config = BrokerConfig {
            node_id: number as i32,
            advertised_host: format!("machine{number}"),
            auto_create_topics: false,
            replica_lag_time_max_ms: 3_000,
            log_retention_check_interval_ms: 4_000,
            cluster_id: Some("simulated".to_owned()),
            ..BrokerConfig::default()
        };
        for (name, value) in [("segment.bytes", self.plan.segment_bytes.to_string()), ("retention.ms", "-1".to_owned())]
        {
            if let Err(error) = config.set(name, &value) {
                self.break_rule(format!("a configuration is not taken: {error}"));
            }
        }
        config
    }

    /// Starts what is on a machine. Says whether it runs: its power may go while it recovers, its disk may be full.
    fn start(self: &Arc<Self>, number: usize) -> bool {
        let (device, clock, owner) = {
            let mut machines = lock(&self.machines);
            let place = &mut machines[number];
            place.starts += 1;
            (place.device.clone(), place.clock.clone(), Owner::Machine(number, place.starts))
        };
        let runner = Arc::new(Jobs { world: Arc::downgrade(self), number, owner });
        let seed = self.executor.chance().next();
        let opened =
            Embedded::open(Arc::new(device.clone()), self.broker_config(number), Arc::new(clock.clone()), runner, seed);
        let embedded = match opened {
            Ok(embedded) => embedded,
            Err(error) => {
                self.executor.kill(owner);
                self.say(format_args!("machine {number} does not open: {error}"));
                let is_tainted = lock(&self.machines)[number].is_tainted;
                if !device.is_off() && !is_tainted && error.kind() != ErrorKind::Full {
                    self.break_rule(format!("machine {number} does not open: {error}"));
                }
                return false;
            }
        };
        let recovered = embedded.recovered().unwrap_or_default();
        self.say(format_args!("machine {number} is up, start {owner:?} recovered={recovered:?}"));
        self.executor.spawn(owner, embedded.drive());
        self.network.listen(number, Listening { embedded: embedded.clone(), device, owner });
        lock(&self.machines)[number].running = Some(embedded);
        self.join(number)
    }

    /// Makes the broker on a machine a member of the cluster. Says whether it is one: its disk may be off, or full.
    fn join(self: &Arc<Self>, number: usize) -> bool {
        let (embedded, clock, owner, follow) = {
            let machines = lock(&self.machines);
            let place = &machines[number];
            let Some(embedded) = place.running.clone() else { return false };
            (embedded, place.clock.clone(), Owner::Machine(number, place.starts), place.follow)
        };
        let world = Arc::downgrade(self);
        let connect: Connect = Arc::new(move |addresses| match world.upgrade() {
            Some(world) => Ok(world.client(number, &clock, addresses)),
            None => Err(Error::new(ErrorKind::Closed, "the simulation is over")),
        });
        let mut options = MemberOptions::new(connect, follow.map(|leader| format!("machine{leader}:9092")));
        options.follower.refresh_interval = Duration::from_millis(700);
        let logs: Arc<dyn LocalLogs> = match self.options.broken {
            Some(rule) => rule.logs(embedded.clone()),
            None => Arc::new(embedded.clone()),
        };
        let (member, driver) = match Member::with_logs(embedded, logs, options) {
            Ok(made) => made,
            Err(error) => {
                self.say(format_args!("machine {number} is no member: {error}"));
                return false;
            }
        };
        if let Some(before) = lock(&self.machines)[number].member.replace(member) {
            before.stop();
        }
        let world = Arc::clone(self);
        self.executor.spawn(owner, async move {
            let ended = driver.await;
            world.say(format_args!("machine {number} is a member no more: {ended:?}"));
            if ended.is_err() {
                // As who runs it would: after a sync that failed a new process cannot know what the disk has.
                let restarting = Arc::clone(&world);
                world.executor.spawn(Owner::World, async move {
                    restarting.wait_for(PATIENCE, || restarting.is_idle(number)).await;
                    faults::restart(&restarting, number, faults::Restart::Power).await;
                });
            }
        });
        true
    }

    /// Whether nothing is being done with a machine.
    fn is_idle(&self, number: usize) -> bool {
        !lock(&self.machines)[number].is_busy
    }

    /// What follows on a machine.
    fn follower(&self, number: usize) -> Option<Follower> {
        lock(&self.machines)[number].member.as_ref().and_then(Member::follower)
    }

    /// Whom a machine follows, and in which epoch it is; `None` while it is down.
    fn follows(&self, number: usize) -> Option<(Option<i32>, i32)> {
        let embedded = lock(&self.machines)[number].running.clone()?;
        embedded.with(|broker, _| (broker.leader().map(|leader| leader.node_id), broker.leader_epoch())).ok()
    }

    /// Ends everything on a machine at once. Its disk stays as it is.
    fn halt(&self, number: usize) {
        let owner = {
            let mut machines = lock(&self.machines);
            let place = &mut machines[number];
            place.running = None;
            place.member = None;
            Owner::Machine(number, place.starts)
        };
        self.network.silence(number);
        self.executor.kill(owner);
    }

    /// Takes the power away from a machine.
    fn cut_power(&self, number: usize, loss: Loss) {
        self.halt(number);
        let mut machines = lock(&self.machines);
        let place = &mut machines[number];
        place.device = place.device.crash(loss);
        (place.is_slow, place.is_tainted) = (false, false);
    }

    /// Waits until `is_so`, looking every now and then; says whether it came to that.
    async fn wait_for(&self, patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = self.executor.now() + patience;
        while !is_so() {
            if self.executor.now() >= deadline {
                return false;
            }
            self.executor.sleep(Duration::from_millis(100)).await;
        }
        true
    }

    /// The partitions of the topic that stays.
    fn names(&self) -> Vec<TopicPartition> {
        let partitions = lock(&self.load).topics.get(STABLE).map_or(0, |topic| topic.partitions);
        history::partitions_of(STABLE, partitions)
    }

    /// Whether what a machine shows is what the leader shows, or showed. After a leader was lost with its disk a follower is asked
    /// when it has settled with the next one: what it shows before that may be lost.
    fn is_readable(&self, number: usize) -> bool {
        if number == self.leader() {
            return true;
        }
        let status = self.follower(number).map(|follower| follower.status()).unwrap_or_default();
        let is_settled = |name: &TopicPartition| status.get(name).is_some_and(|status| status.at_end.is_some());
        self.follows(number).is_some_and(|(leader, _)| leader == Some(self.leader() as i32))
            && (lock(&self.load).generation == 0 || self.names().iter().all(is_settled))
    }

    /// Where a partition begins and ends on a machine, and in which epoch.
    fn log_end(&self, number: usize, partition: &TopicPartition) -> Option<crate::broker::CopyEnd> {
        let embedded = lock(&self.machines)[number].running.clone()?;
        embedded.with(|broker, _| broker.log_end(&partition.topic, partition.partition)).ok().flatten()
    }
}

/// Does what a machine's broker leaves to its device: soon, or slowly, and never after the machine was halted.
#[derive(Debug)]
struct Jobs {
    world: std::sync::Weak<World>,
    number: usize,
    owner: Owner,
}

impl Runner for Jobs {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        let Some(world) = self.world.upgrade() else { return };
        // While a broker is being opened its machine's lock is not held.
        let is_slow = lock(&world.machines)[self.number].is_slow;
        let pause = world.executor.draw_ms(if is_slow { 200..2_000 } else { 0..8 });
        let sleep = world.executor.sleep(pause);
        world.executor.spawn(self.owner, async move {
            sleep.await;
            job();
        });
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// What a call of the simulation's own met that it will not meet again.
fn is_settled(error: &Error) -> bool {
    !error.is_retriable() && error.kind() != ErrorKind::Timeout
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
