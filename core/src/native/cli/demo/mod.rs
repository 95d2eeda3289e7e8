//! `ottla demo`: a record's whole way. Produced, followed, backed up, its leader killed and deleted, restored, compared.

mod events;
mod processes;
mod summary;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use self::events::{Columns, Event};
use self::processes::Server;
use self::summary::{BackupCost, Copied, FollowerLoss, Summary};
use super::position::Position;
use super::topics::partitions_of;
use super::{Output, Signals, table};
use crate::backup::{Backup, BackupOptions, RestoreOptions, SnapshotSource, restore};
use crate::broker::BrokerConfig;
use crate::client::config::IsolationLevel;
use crate::client::{
    Admin, Client, ClientConfig, Consumer, ConsumerConfig, Listener, NewTopic, OffsetAndMetadata, Options, Producer,
    ProducerConfig, Ticket, TopicPartition,
};
use crate::native::repository::{Access, RepositoryPlace, write_new_passphrase};
use crate::native::{LocalBroker, Location, Runtime, pipe};
use crate::record::Record;
use crate::replication::{ClusterSource, LocalLogs, Selection};
use crate::{Error, ErrorKind, Result};

const PARTITIONS: i32 = 6;
/// How many records are sent one by one, to measure how long an acknowledgement takes.
const MEASURED: usize = 300;
/// How long anything may take before the demonstration has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How the burst is sent: so many records, then a pause.
const BURST_CHUNK: usize = 100;
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Arguments of `ottla demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// A file whose rows are the records; without it a sample is made up
    #[arg(long, value_name = "FILE", requires = "key", requires = "time")]
    csv: Option<PathBuf>,

    /// The column that is the key
    #[arg(long, value_name = "COLUMN", requires = "csv")]
    key: Option<String>,

    /// The column that is the timestamp, such as 2013-01-01T05:00:00Z
    #[arg(long, value_name = "COLUMN", requires = "csv")]
    time: Option<String>,

    /// A column that becomes a header; may be repeated
    #[arg(long = "header", value_name = "COLUMN", requires = "csv")]
    headers: Vec<String>,

    /// A real cluster that leads: one topic comes and goes there
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,

    /// Keep the followers' logs, the repository and the restored log in this directory, which must not be there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let home = Home::make(self.keep.as_deref())?;
        let story = Story {
            runtime: Runtime::new()?,
            output,
            began: Instant::now(),
            home: home.path.clone(),
            topic: format!("demo-{}", &random_id_text()[..8]),
        };
        story.remove_when_interrupted(&home)?;
        let events = story.phase("read the records", |bar| {
            let events = match (&self.csv, &self.key, &self.time) {
                (Some(csv), Some(key), Some(time)) => {
                    events::from_csv(csv, &Columns { key, time, headers: &self.headers }, bar)?
                }
                _ => events::sample(bar),
            };
            let what = if self.csv.is_some() { "records" } else { "records, made up: no --csv was given" };
            let said = format!("{} {what}", table::count_u64(events.len() as u64));
            Ok((events, said))
        })?;
        if events.len() < 20 {
            let message = format!("a demonstration takes 20 records at least records={}", events.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let summary = match &self.kafka {
            Some(address) => story.with_kafka(&events, address)?,
            None => story.with_followers(&events)?,
        };
        if let Some(dir) = &self.keep {
            output.say(format!("kept in {}", dir.display()));
        }
        let is_right = summary.is_right();
        output.result(|| summary.json(), || summary.text())?;
        if is_right { Ok(()) } else { Err(Error::new(ErrorKind::Internal, "what came back is not what was sent")) }
    }
}

fn random_id_text() -> String {
    pipe::random_id().simple().to_string()
}

/// The directory of it all; removed at the end unless it is to be kept.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    is_kept: bool,
}

impl Home {
    fn make(keep: Option<&Path>) -> Result<Self> {
        let path = match keep {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("ottla-demo-{}", random_id_text())),
        };
        std::fs::create_dir(&path)
            .map_err(|error| Error::from(error).context(format_args!("cannot make {}", path.display())))?;
        Ok(Self { path, is_kept: keep.is_some() })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nothing depends on it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Where clients go.
#[derive(Clone, Debug)]
enum Place {
    Address(String),
    Local(Arc<LocalBroker>),
}

/// The range of records that each step sends.
#[derive(Clone, Debug)]
struct Plan {
    /// Before the full backup: all but the next.
    first: Range<usize>,
    /// One by one, with acks=all and with acks=1.
    measured_all: Range<usize>,
    measured_one: Range<usize>,
    /// Before the incremental backup.
    more: Range<usize>,
    /// While the leader is killed, with acks=all and with acks=1.
    burst_all: Range<usize>,
    burst_one: Range<usize>,
}

impl Plan {
    fn of(count: usize, has_burst: bool) -> Self {
        let measured = MEASURED.min(count / 20);
        let (burst, more) = (if has_burst { count / 40 } else { 0 }, count / 10);
        let mut end = count;
        let mut take = |size: usize| {
            end -= size;
            end..end + size
        };
        let (burst_one, burst_all, more) = (take(burst), take(burst), take(more));
        let (measured_one, measured_all) = (take(measured), take(measured));
        Self { first: 0..end, measured_all, measured_one, more, burst_all, burst_one }
    }

    /// What the backups hold.
    fn backed_up(&self) -> Range<usize> {
        0..self.more.end
    }
}

/// Where each record is: partition and offset, once it was acknowledged.
type Places = Vec<Option<(i32, i64)>>;

/// A demonstration under way.
struct Story {
    runtime: Runtime,
    output: Output,
    began: Instant,
    home: PathBuf,
    /// The topic's name, and its group's.
    topic: String,
}

impl Story {
    /// An embedded leader, one synchronous and one asynchronous follower; the leader is killed.
    fn with_followers(&self, events: &[Event]) -> Result<Summary> {
        let plan = Plan::of(events.len(), true);
        let (mut leader, mut followers) = self.phase("start a leader and two followers", |_| {
            let leader = Server::start(&self.home, "leader", &[])?;
            let synchronous = ["--follow", &leader.address, "--topics", &self.topic, "--mirroring", "sync"];
            let asynchronous = ["--follow", &leader.address, "--topics", &self.topic, "--mirroring", "async"];
            // They follow whatever has the name, so that it can be made after.
            let synchronous = Server::start(&self.home, "synchronous", &synchronous)?;
            let asynchronous = Server::start(&self.home, "asynchronous", &asynchronous)?;
            Ok(((leader, [synchronous, asynchronous]), "3 processes".to_owned()))
        })?;
        let place = Place::Address(leader.address.clone());
        self.phase("make the topic, wait for the followers", |_| {
            self.create_topic(&place, &[("retention.ms", "-1"), ("min.insync.replicas", "2")])?;
            self.wait_until_in_sync(&place, 2)?;
            followers[1].wait_until_caught_up()?;
            Ok(((), format!("{} with {PARTITIONS} partitions", self.topic)))
        })?;
        let mut places: Places = vec![None; events.len()];
        let mut told = self.first_steps(&place, events, &plan, &mut places)?;

        let acknowledged = self.phase("kill the leader in a burst, delete its directory", |bar| {
            let acknowledged = self.burst(&place, events, &plan, &mut places, bar, || leader.kill())?;
            std::fs::remove_dir_all(self.home.join("leader"))?;
            let said = format!(
                "{} acknowledged with acks=all, {} with acks=1",
                table::count_u64(acknowledged.0),
                table::count_u64(acknowledged.1)
            );
            Ok((acknowledged, said))
        })?;
        let losses = self.phase("see what the followers have", |_| {
            for follower in &followers {
                follower.wait_until_alone()?;
            }
            for follower in &mut followers {
                follower.stop()?;
            }
            let synchronous = self.loss("synchronous", events, &places, &plan)?;
            let asynchronous = self.loss("asynchronous", events, &places, &plan)?;
            let said = format!(
                "acknowledged records lacking: synchronous {}, asynchronous {}",
                table::count_u64(synchronous.lacking_all),
                table::count_u64(asynchronous.lacking_one)
            );
            Ok(((synchronous, asynchronous), said))
        })?;
        told.followers = Some((acknowledged, losses.0, losses.1));
        self.last_steps(events, &plan, &places, &mut told)?;
        Ok(told)
    }

    /// A real cluster leads; its topic is deleted.
    fn with_kafka(&self, events: &[Event], address: &str) -> Result<Summary> {
        self.output
            .say("left out with --kafka, because they need an Ottla leader: the followers, and killing the leader");
        let plan = Plan::of(events.len(), false);
        let place = Place::Address(address.to_owned());
        self.phase("make the topic", |_| {
            self.runtime.block_on(self.admin(&place)?.client().connect(Duration::from_secs(5)))?;
            self.create_topic(&place, &[("retention.ms", "-1")])?;
            Ok(((), format!("{} with {PARTITIONS} partitions at {address}", self.topic)))
        })?;
        let steps = || {
            let mut places: Places = vec![None; events.len()];
            let told = self.first_steps(&place, events, &plan, &mut places)?;
            Ok((told, places))
        };
        let done: Result<(Summary, Places)> = steps();
        // Whatever became of it, nothing of ours stays there.
        let deleted = self.phase("delete the topic", |_| {
            let admin = self.admin(&place)?;
            // It may not have come to a group.
            drop(self.runtime.block_on(admin.delete_groups(&[&self.topic], PATIENCE)));
            for (_, deleted) in self.runtime.block_on(admin.delete_topics(&[&self.topic], PATIENCE))? {
                deleted?;
            }
            Ok(((), self.topic.clone()))
        });
        let (mut told, places) = done?;
        deleted?;
        self.last_steps(events, &plan, &places, &mut told)?;
        Ok(told)
    }

    /// Produces, measures, reads half in a group, backs up, produces more, backs up again.
    fn first_steps(&self, place: &Place, events: &[Event], plan: &Plan, places: &mut Places) -> Result<Summary> {
        let size = |range: &Range<usize>| events[range.clone()].iter().map(Event::size).sum::<u64>();
        let mut told = Summary { records: events.len() as u64, partitions: PARTITIONS, ..Summary::default() };
        told.data_bytes = events.iter().map(Event::size).sum();

        let (range, bytes) = (plan.first.clone(), size(&plan.first));
        let took = self.timed("produce, acks=all", |bar| {
            self.produce(place, events, range.clone(), places, bar)?;
            Ok(((), rate_text(range.len(), bytes, bar)))
        })?;
        told.copied.push(Copied::new("produce, acks=all", range.len() as u64, bytes, took.1));

        told.acknowledgement = self.phase("acknowledgement, one record at a time", |bar| {
            bar.set_length((plan.measured_all.len() + plan.measured_one.len()) as u64);
            let all = self.acknowledgement(place, events, plan.measured_all.clone(), "all", places, bar)?;
            let one = self.acknowledgement(place, events, plan.measured_one.clone(), "1", places, bar)?;
            Ok(((all, one), format!("p50 {} with acks=all, {} with acks=1", ms(all), ms(one))))
        })?;

        let half = plan.measured_one.end / 2;
        let mut seen = vec![0_u8; events.len()];
        let by_place = by_place(places);
        let ((), took) = self.timed("a group reads half", |bar| {
            self.read_in_group(place, half, &by_place, &mut seen, bar)?;
            Ok(((), format!("{} records", table::count_u64(half as u64))))
        })?;
        let bytes = events.iter().zip(&seen).filter(|(_, seen)| **seen > 0).map(|(event, _)| event.size()).sum();
        told.copied.push(Copied::new("a group reads half", half as u64, bytes, took));
        told.read_before = half as u64;

        let bytes = size(&(0..plan.measured_one.end));
        told.full = Some(self.back_up(place, "back up, full", bytes)?);
        let (range, more_bytes) = (plan.more.clone(), size(&plan.more));
        let ((), took) = self.timed("produce more, acks=all", |bar| {
            self.produce(place, events, range.clone(), places, bar)?;
            Ok(((), rate_text(range.len(), more_bytes, bar)))
        })?;
        told.copied.push(Copied::new("produce more, acks=all", range.len() as u64, more_bytes, took));
        told.incremental = Some(self.back_up(place, "back up, incremental", more_bytes)?);
        told.seen = seen;
        Ok(told)
    }

    /// Restores, lets the group go on, compares.
    fn last_steps(&self, events: &[Event], plan: &Plan, places: &Places, told: &mut Summary) -> Result<()> {
        let range = plan.backed_up();
        let bytes = events[range.clone()].iter().map(Event::size).sum();
        let (restored, took) = self.timed("restore", |bar| {
            let restored = self.open("restored")?;
            self.runtime.block_on(async {
                let repository = self.repository()?.open().await?;
                let snapshot = repository.find_snapshot("latest").await?;
                let source = SnapshotSource::open(repository, snapshot, &Selection::all()).await?;
                let options = RestoreOptions::default();
                restore(&source, restored.embedded(), &options, &|progress| super::copies::show(bar, progress)).await
            })?;
            Ok((restored, rate_text(range.len(), bytes, bar)))
        })?;
        told.copied.push(Copied::new("restore", range.len() as u64, bytes, took));
        let place = Place::Local(Arc::clone(&restored));

        // What was produced after the backup is not there.
        let mut backed_up = places.clone();
        backed_up[range.end..].fill(None);
        let by_place = by_place(&backed_up);
        let left = range.len() as u64 - told.read_before;
        let mut seen = std::mem::take(&mut told.seen);
        let ((), took) = self.timed("the group goes on", |bar| {
            self.read_in_group(&place, left as usize, &by_place, &mut seen, bar)?;
            Ok(((), format!("{} records", table::count_u64(left))))
        })?;
        told.copied.push(Copied::new("the group goes on", left, bytes / range.len() as u64 * left, took));
        told.read_after = left;
        told.read_once = seen[range.clone()].iter().all(|times| *times == 1);

        let found = self.phase("compare every record", |bar| {
            let found = self.compare(&place, events, &by_place, bar)?;
            let said = format!("{} compared", table::count_u64(found.equal));
            Ok((found, said))
        })?;
        told.compared = range.len() as u64;
        told.differing = range.len() as u64 - found.equal + found.strange;
        restored.close()
    }

    fn loss(&self, follower: &str, events: &[Event], places: &Places, plan: &Plan) -> Result<FollowerLoss> {
        let broker = self.open(follower)?;
        // Now they are its own topics, and all of its log may be read.
        self.runtime.block_on(broker.embedded().promote_copies(std::slice::from_ref(&self.topic)))?;
        let place = Place::Local(Arc::clone(&broker));
        let by_place = by_place(places);
        let found = self.compare(&place, events, &by_place, &ProgressBar::hidden())?;
        broker.close()?;
        let lacks = |range: &Range<usize>| {
            range.clone().filter(|event| places[*event].is_some() && !found.is_equal[*event]).count() as u64
        };
        Ok(FollowerLoss {
            lacking_all: lacks(&(0..plan.more.end)) + lacks(&plan.burst_all),
            lacking_one: lacks(&plan.burst_one),
            // Those that were not acknowledged may be there, too.
            unacknowledged: found.strange,
            after_backup: (plan.burst_all.clone().chain(plan.burst_one.clone()))
                .filter(|event| found.is_equal[*event])
                .count() as u64,
        })
    }

    fn open(&self, name: &str) -> Result<Arc<LocalBroker>> {
        LocalBroker::open(&self.runtime, Location::Directory(self.home.join(name)), BrokerConfig::default())
    }

    fn options(&self, place: &Place) -> Options {
        let mut options = Options::new();
        if let Place::Address(address) = place {
            options.set("bootstrap_servers", address.as_str());
        }
        options
    }

    fn client(&self, place: &Place, config: ClientConfig) -> Client {
        match place {
            Place::Address(_) => self.runtime.client(config),
            Place::Local(broker) => Client::new(Arc::new(broker.embedded().clone()), self.runtime.clock(), config),
        }
    }

    fn admin(&self, place: &Place) -> Result<Admin> {
        Ok(Admin::new(self.client(place, ClientConfig::from_options(&self.options(place))?)))
    }

    fn create_topic(&self, place: &Place, configs: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(self.topic.as_str()).partitions(PARTITIONS);
        for (name, value) in configs {
            topic = topic.config(*name, *value);
        }
        let admin = self.admin(place)?;
        for (_, created) in self.runtime.block_on(admin.create_topics(&[topic], false, PATIENCE))? {
            created?;
        }
        self.runtime.block_on(admin.wait_for_topics(&[&self.topic], PATIENCE))
    }

    /// Waits until so many replicas of each partition are in sync, with the leader.
    fn wait_until_in_sync(&self, place: &Place, replicas: usize) -> Result<()> {
        let admin = self.admin(place)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let topic = self.runtime.block_on(super::topics::topic(&admin, &self.topic))?;
            if topic.partitions.iter().all(|partition| partition.in_sync_replicas.len() >= replicas) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let message = format!("the synchronous follower does not come into sync topic={}", self.topic);
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn producer(&self, place: &Place, options: &[(&str, &str)]) -> Result<Producer> {
        let mut all = self.options(place);
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, config) = ProducerConfig::from_options(&all)?;
        let (producer, driver) = Producer::new(self.client(place, client), config);
        self.runtime.spawn(driver);
        self.runtime.block_on(producer.prepare(&self.topic, PATIENCE))?;
        Ok(producer)
    }

    fn send(&self, producer: &Producer, event: &Event) -> Result<Ticket> {
        let headers: Vec<(&str, Option<&[u8]>)> =
            event.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice()))).collect();
        let (key, value) = (Some(event.key.as_slice()), Some(event.value.as_slice()));
        self.runtime.block_on(producer.send_waiting(&self.topic, None, Some(event.timestamp), key, value, &headers))
    }

    fn produce(
        &self,
        place: &Place,
        events: &[Event],
        range: Range<usize>,
        places: &mut Places,
        bar: &ProgressBar,
    ) -> Result<()> {
        bar.set_length(range.len() as u64);
        let producer = self.producer(place, &[("acks", "all"), ("linger_ms", "5"), ("compression_type", "lz4")])?;
        let mut tickets = Vec::with_capacity(range.len());
        for at in range.clone() {
            tickets.push(self.send(&producer, &events[at])?);
            bar.inc(1);
        }
        self.runtime.block_on(producer.flush(PATIENCE))?;
        for (at, ticket) in range.zip(tickets) {
            let metadata = self.runtime.block_on(ticket.wait())?;
            places[at] = Some((metadata.partition, metadata.offset));
        }
        self.runtime.block_on(producer.close(PATIENCE))
    }

    /// The median time until a record is acknowledged that is sent alone.
    fn acknowledgement(
        &self,
        place: &Place,
        events: &[Event],
        range: Range<usize>,
        acks: &str,
        places: &mut Places,
        bar: &ProgressBar,
    ) -> Result<Duration> {
        let producer = self.producer(place, &[("acks", acks), ("linger_ms", "0")])?;
        let mut times = Vec::with_capacity(range.len());
        for at in range {
            let begun = Instant::now();
            let ticket = self.send(&producer, &events[at])?;
            let metadata = self.runtime.block_on(ticket.wait())?;
            times.push(begun.elapsed());
            places[at] = Some((metadata.partition, metadata.offset));
            bar.inc(1);
        }
        self.runtime.block_on(producer.close(PATIENCE))?;
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// Sends with acks=all and with acks=1 at once, calls `kill` in the midst of it, and notes what was acknowledged.
    fn burst(
        &self,
        place: &Place,
        events: &[Event],
        plan: &Plan,
        places: &mut Places,
        bar: &ProgressBar,
        kill: impl FnOnce() -> Result<()>,
    ) -> Result<(u64, u64)> {
        // What is under way when the leader dies is not waited for long.
        let options = [("linger_ms", "1"), ("request_timeout_ms", "2000"), ("delivery_timeout_ms", "4000")];
        let with = |acks| self.producer(place, &[&[("acks", acks)], &options[..]].concat());
        let (all, one) = (with("all")?, with("1")?);
        let sent: [Mutex<Vec<Ticket>>; 2] = Default::default();
        let total = plan.burst_all.len() + plan.burst_one.len();
        bar.set_length(total as u64);
        std::thread::scope(|scope| -> Result<()> {
            let ranges = [plan.burst_all.clone(), plan.burst_one.clone()];
            for ((producer, range), sent) in [&all, &one].into_iter().zip(ranges).zip(&sent) {
                scope.spawn(move || {
                    for (count, at) in range.enumerate() {
                        // Once the leader is gone the buffer may fill, and the producer is closed.
                        let Ok(ticket) = self.send(producer, &events[at]) else { return };
                        sent.lock().unwrap_or_else(PoisonError::into_inner).push(ticket);
                        if count % BURST_CHUNK == 0 {
                            std::thread::sleep(BURST_PAUSE);
                        }
                    }
                });
            }
            let deadline = Instant::now() + PATIENCE;
            let mut at = [0, 0];
            loop {
                for (at, sent) in at.iter_mut().zip(&sent) {
                    let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                    while sent.get(*at).is_some_and(|ticket| ticket.batch().is_settled()) {
                        *at += 1;
                    }
                }
                bar.set_position((at[0] + at[1]) as u64);
                if at.iter().sum::<usize>() >= total / 3 || Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            let killed = kill();
            for producer in [&all, &one] {
                // What is left fails: nobody is there any more.
                let _ = self.runtime.block_on(producer.close(Duration::from_millis(200)));
            }
            killed
        })?;
        let mut acknowledged = [0, 0];
        for ((range, sent), acknowledged) in
            [&plan.burst_all, &plan.burst_one].into_iter().zip(&sent).zip(&mut acknowledged)
        {
            let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, ticket) in range.clone().zip(sent.iter()) {
                if let Some(Ok(metadata)) = ticket.done() {
                    places[at] = Some((metadata.partition, metadata.offset));
                    *acknowledged += 1;
                }
            }
        }
        Ok((acknowledged[0], acknowledged[1]))
    }

    fn consumer(&self, place: &Place, options: &[(&str, &str)]) -> Result<Consumer> {
        let mut all = self.options(place);
        all.set("auto_offset_reset", "earliest").set("enable_auto_commit", false);
        for (name, value) in options {
            all.set(name, *value);
        }
        let (client, config) = ConsumerConfig::from_options(&all)?;
        let (consumer, driver) = Consumer::new(self.client(place, client), config);
        self.runtime.spawn(driver);
        Ok(consumer)
    }

    /// Reads `count` records as a member of the group, and commits; counts in `seen` how often each was read.
    fn read_in_group(
        &self,
        place: &Place,
        count: usize,
        by_place: &ByPlace,
        seen: &mut [u8],
        bar: &ProgressBar,
    ) -> Result<()> {
        bar.set_length(count as u64);
        let consumer = self.consumer(place, &[("group_id", &self.topic)])?;
        consumer.subscribe(&[&self.topic], Listener::None)?;
        let mut left = count;
        let mut quiet = Instant::now();
        let mut positions: HashMap<TopicPartition, OffsetAndMetadata> = HashMap::new();
        while left > 0 {
            if quiet.elapsed() > PATIENCE {
                let message = format!("the group gets nothing any more group={} left={left}", self.topic);
                return Err(Error::new(ErrorKind::Timeout, message));
            }
            let polled = self.runtime.block_on(consumer.poll(Duration::from_millis(500), Some(left.min(5_000))))?;
            for batch in &polled.batches {
                quiet = Instant::now();
                for record in batch.iter() {
                    if let Some(&event) = by_place.get(&(batch.partition.partition, record?.offset)) {
                        seen[event] = seen[event].saturating_add(1);
                    }
                }
                left = left.saturating_sub(batch.count);
                bar.inc(batch.count as u64);
                positions.insert(batch.partition.clone(), OffsetAndMetadata::new(batch.to));
            }
        }
        self.runtime.block_on(consumer.commit(Some(positions), PATIENCE))?;
        self.runtime.block_on(consumer.close(false, PATIENCE))
    }

    /// Reads everything, and compares each record with what was sent.
    fn compare(&self, place: &Place, events: &[Event], by_place: &ByPlace, bar: &ProgressBar) -> Result<Found> {
        bar.set_length(by_place.len() as u64);
        let consumer = self.consumer(place, &[])?;
        let client = consumer.client();
        let topic = self.runtime.block_on(client.topic(&self.topic, PATIENCE))?;
        let partitions = partitions_of(&topic);
        let ends = Position::End.offsets(client, &partitions, IsolationLevel::ReadUncommitted, PATIENCE);
        let ends = self.runtime.block_on(ends)?;
        consumer.assign(&partitions)?;
        consumer.seek_to_beginning(&partitions)?;
        let mut found = Found { equal: 0, strange: 0, is_equal: vec![false; events.len()] };
        let mut quiet = Instant::now();
        let mut behind: Vec<&TopicPartition> = partitions.iter().filter(|at| ends[*at] > 0).collect();
        while !behind.is_empty() {
            if quiet.elapsed() > PATIENCE {
                return Err(Error::new(ErrorKind::Timeout, format!("nothing comes any more topic={}", self.topic)));
            }
            let polled = self.runtime.block_on(consumer.poll(Duration::from_millis(200), Some(10_000)))?;
            for batch in &polled.batches {
                quiet = Instant::now();
                for record in batch.iter() {
                    let record = record?;
                    match by_place.get(&(batch.partition.partition, record.offset)) {
                        Some(&event) if is_equal(&events[event], &record)? && !found.is_equal[event] => {
                            found.is_equal[event] = true;
                            found.equal += 1;
                        }
                        _ => found.strange += 1,
                    }
                }
                bar.inc(batch.count as u64);
                behind.retain(|at| **at != batch.partition || batch.to < ends[*at]);
            }
        }
        self.runtime.block_on(consumer.close(false, PATIENCE))?;
        Ok(found)
    }

    /// The repository, whose key lies beside it: with `--keep` it can be opened.
    fn repository(&self) -> Result<RepositoryPlace> {
        let key = self.home.join("backup.key");
        if !key.exists() {
            write_new_passphrase(&key)?;
        }
        let access = Access { passphrase_file: Some(key), ..Access::default() };
        RepositoryPlace::new(&self.home.join("backup").to_string_lossy(), access)
    }

    fn back_up(&self, place: &Place, name: &str, data_bytes: u64) -> Result<BackupCost> {
        let (made, took) = self.timed(name, |bar| {
            let source = ClusterSource::new(self.client(place, ClientConfig::from_options(&self.options(place))?));
            let ours = Selection::new([&self.topic])?;
            let options = BackupOptions { topics: ours.clone(), groups: ours, ..BackupOptions::default() };
            let place = self.repository()?;
            let progress = |progress: &_| super::copies::show(bar, progress);
            let made: Backup = self.runtime.block_on(pipe::backup(&source, &place, &options, &progress))?;
            let costs = made.snapshot.manifest.costs;
            let said = format!(
                "{} records, {} stored",
                table::count_u64(costs.new_records),
                table::bytes(costs.new_stored_bytes)
            );
            Ok((made, said))
        })?;
        let costs = made.snapshot.manifest.costs;
        Ok(BackupCost {
            records: costs.new_records,
            data_bytes,
            batch_bytes: costs.new_bytes,
            stored_bytes: costs.new_stored_bytes + costs.manifest_bytes,
            seconds: took.as_secs_f64(),
        })
    }

    /// Does a step of the story: tells its name, shows how far it is, and tells what came of it and how long it took.
    fn phase<T>(&self, name: &str, act: impl FnOnce(&ProgressBar) -> Result<(T, String)>) -> Result<T> {
        self.timed(name, act).map(|(done, _)| done)
    }

    /// The same, and how long it took.
    fn timed<T>(&self, name: &str, act: impl FnOnce(&ProgressBar) -> Result<(T, String)>) -> Result<(T, Duration)> {
        let bar = self.output.draws(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("       {spinner} {prefix:<50} {how_far}") {
            bar.set_style(style.with_key("how_far", how_far));
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        bar.set_prefix(name.to_owned());
        bar.tick();
        let begun = Instant::now();
        let done = act(&bar);
        bar.finish_and_clear();
        let took = begun.elapsed();
        let at = self.began.elapsed().as_secs_f64();
        match done {
            Ok((done, said)) => {
                if !self.output.json {
                    self.output.say(format!("{at:>6.1} s {name:<50} {said} ({:.1} s)", took.as_secs_f64()));
                }
                Ok((done, took))
            }
            Err(error) => Err(error.context(format_args!("{name}"))),
        }
    }

    /// Ctrl-C and SIGTERM end it and leave nothing behind.
    fn remove_when_interrupted(&self, home: &Home) -> Result<()> {
        let path = (!home.is_kept).then(|| home.path.clone());
        let mut signals = self.runtime.block_on(async { Signals::listen() })?;
        self.runtime.spawn(async move {
            signals.wait().await;
            processes::kill_all();
            if let Some(path) = path {
                // Nothing depends on it.
                let _ = std::fs::remove_dir_all(path);
            }
            std::process::exit(130);
        });
        Ok(())
    }
}

/// A bar and a percentage, where it is known how far there is to go.
fn how_far(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    const WIDTH: usize = 20;
    if state.len().is_some_and(|length| length > 0) {
        let done = (f64::from(state.fraction()) * WIDTH as f64) as usize;
        let bar = "█".repeat(done) + &"░".repeat(WIDTH.saturating_sub(done));
        // A text that is drawn takes it all.
        let _ = write!(text, "{bar} {:>3.0} %", state.fraction() * 100.0);
    }
}

/// Which record is at a partition and offset.
type ByPlace = HashMap<(i32, i64), usize>;

fn by_place(places: &Places) -> ByPlace {
    places.iter().enumerate().filter_map(|(event, place)| Some(((*place)?, event))).collect()
}

/// What was found where records were looked for.
#[derive(Debug)]
struct Found {
    equal: u64,
    /// Records that are not those that were looked for.
    strange: u64,
    is_equal: Vec<bool>,
}

fn is_equal(event: &Event, record: &Record<'_>) -> Result<bool> {
    let mut headers = Vec::with_capacity(event.headers.len());
    for header in record.headers {
        let (name, value) = header?;
        headers.push((name, value));
    }
    Ok(record.key == Some(&event.key)
        && record.value == Some(&event.value)
        && record.timestamp == event.timestamp
        && headers
            .iter()
            .copied()
            .eq(event.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice())))))
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// "286,260 records, 107 MB/s".
fn rate_text(records: usize, bytes: u64, bar: &ProgressBar) -> String {
    let seconds = bar.elapsed().as_secs_f64().max(0.001);
    format!("{} records, {:.0} MB/s", table::count_u64(records as u64), bytes as f64 / 1e6 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_takes_every_record_once() {
        for (count, has_burst) in [(20, true), (20, false), (1_000, true), (336_776, true), (336_776, false)] {
            let plan = Plan::of(count, has_burst);
            let steps = [plan.first, plan.measured_all, plan.measured_one, plan.more, plan.burst_all, plan.burst_one];
            let mut end = 0;
            for step in steps {
                assert_eq!(step.start, end, "{count}");
                end = step.end;
            }
            assert_eq!(end, count);
        }
    }
}
