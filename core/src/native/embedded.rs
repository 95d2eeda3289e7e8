//! Embedded brokers of this process, by the address that clients give: a directory, or `memory:NAME`.
//!
//! Clients that name the same address share one broker. A broker over a directory is closed when its last user lets go, which
//! frees the directory for other processes; a broker in memory lives as long as the process, or there would be nothing left
//! for a consumer that starts when the producer has finished.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use super::files::FileDevice;
use super::{Runtime, Server, ServerOptions};
use crate::broker::BrokerConfig;
use crate::client::{Client, ClientConfig};
use crate::storage::Device;
use crate::storage::memory::MemoryDevice;
use crate::transport::{Embedded, Runner};
use crate::{Error, ErrorKind, Result};

/// Where an embedded broker keeps its logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// In memory, under a name that clients in this process share.
    Memory(String),
    /// In a directory.
    Directory(PathBuf),
}

impl Location {
    /// What a bootstrap address names: `memory:`, `memory:NAME`, or a path that starts with `.`, `/` or `~`; `None` for
    /// anything else, which is `HOST:PORT`.
    pub fn parse(address: &str) -> Option<Self> {
        if let Some(name) = address.strip_prefix("memory:") {
            return Some(Self::Memory(name.trim_start_matches("//").to_owned()));
        }
        if let Some(path) = address.strip_prefix("file://") {
            return Some(Self::Directory(path.into()));
        }
        if let Some(rest) = address.strip_prefix("~/") {
            let home = std::env::var_os("HOME")?;
            return Some(Self::Directory(Path::new(&home).join(rest)));
        }
        let is_path = address == "." || address == ".." || address.contains(std::path::MAIN_SEPARATOR);
        is_path.then(|| Self::Directory(address.into()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(name) => write!(f, "memory:{name}"),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An embedded broker that is open in this process. The last clone of its [`Arc`] closes it.
#[derive(Debug)]
pub struct LocalBroker {
    embedded: Embedded,
    location: Location,
    runtime: Runtime,
}

impl LocalBroker {
    /// Opens the broker at `location`, or joins the one that this process has open there.
    ///
    /// `config` counts for whoever opens it first.
    ///
    /// # Errors
    /// `Fenced` if another process has the directory open; see also `Broker::open`.
    pub fn open(runtime: &Runtime, location: Location, mut config: BrokerConfig) -> Result<Arc<Self>> {
        let key = match &location {
            Location::Memory(_) => location.clone(),
            Location::Directory(path) => {
                std::fs::create_dir_all(path).map_err(|error| {
                    Error::from(error).context(format_args!("cannot make the directory {}", path.display()))
                })?;
                Location::Directory(path.canonicalize()?)
            }
        };
        let mut open = lock_registry();
        if let Some(broker) = open.get(&key).and_then(Entry::broker) {
            return Ok(broker);
        }
        if let Location::Directory(path) = &key {
            check_is_log_directory(path)?;
        }
        config.log_dir = key.to_string();
        let device: Arc<dyn Device> = match &key {
            Location::Memory(_) => Arc::new(MemoryDevice::new()),
            Location::Directory(path) => Arc::new(open_directory(path, open.contains_key(&key))?),
        };
        let broker = Arc::new(Self::start(runtime, key.clone(), device, config)?);
        let entry = match &key {
            Location::Memory(_) => Entry::Kept(Arc::clone(&broker)),
            Location::Directory(_) => Entry::Shared(Arc::downgrade(&broker)),
        };
        open.insert(key, entry);
        Ok(broker)
    }

    /// The broker that this process has open at `location`, if there is one. Opens and makes nothing.
    pub fn find(location: &Location) -> Option<Arc<Self>> {
        let key = match location {
            Location::Memory(_) => location.clone(),
            Location::Directory(path) => Location::Directory(path.canonicalize().ok()?),
        };
        lock_registry().get(&key).and_then(Entry::broker)
    }

    /// A broker in memory that nobody else can name, gone with its last handle.
    ///
    /// # Errors
    /// See `Broker::open`.
    pub fn in_memory(runtime: &Runtime, config: BrokerConfig) -> Result<Arc<Self>> {
        let location = Location::Memory(String::new());
        Ok(Arc::new(Self::start(runtime, location, Arc::new(MemoryDevice::new()), config)?))
    }

    fn start(runtime: &Runtime, location: Location, device: Arc<dyn Device>, config: BrokerConfig) -> Result<Self> {
        let embedded = Embedded::open(device, config, runtime.clock(), Arc::new(DeviceThreads::default()), seed())?;
        runtime.spawn(embedded.drive());
        Ok(Self { embedded, location, runtime: runtime.clone() })
    }

    /// The broker.
    pub fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    /// A client in this process, without any port.
    pub fn client(&self, config: ClientConfig) -> Client {
        Client::new(Arc::new(self.embedded.clone()), self.runtime.clock(), config)
    }

    /// Serves it on `listen`, `HOST:PORT` with port 0 for a free one, and tells clients to come there; where that is.
    ///
    /// # Errors
    /// See [`Server::start`].
    pub fn listen(&self, listen: &str) -> Result<(Server, String)> {
        let server = Server::start(&self.runtime, self.embedded.clone(), listen, ServerOptions::default())?;
        let address = server.address();
        let host = if address.ip().is_unspecified() { "localhost".to_owned() } else { address.ip().to_string() };
        self.embedded.advertise(&host, address.port())?;
        let shown = if host.contains(':') { format!("[{host}]") } else { host };
        Ok((server, format!("{shown}:{}", address.port())))
    }

    /// Where it keeps its logs.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The threads it runs on.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Lets it go. The last user of a directory closes it, and learns from this how that went.
    ///
    /// # Errors
    /// What the device answers; the next start recovers.
    pub fn release(self: Arc<Self>) -> Result<()> {
        Arc::into_inner(self).map_or(Ok(()), |broker| broker.embedded.close())
    }

    /// Closes it now, for everybody who uses it. Safe to repeat.
    ///
    /// # Errors
    /// What the device answers; the next start recovers.
    pub fn close(&self) -> Result<()> {
        for (location, entry) in lock_registry().iter_mut() {
            if *location == self.location && entry.broker().is_some_and(|broker| std::ptr::eq(&raw const *broker, self))
            {
                // Whoever opens it now waits until it is free, see `open_directory`.
                *entry = Entry::Shared(Weak::new());
            }
        }
        self.embedded.close()
    }
}

impl Drop for LocalBroker {
    fn drop(&mut self) {
        if let Err(error) = self.embedded.close() {
            log::error!(
                "an embedded broker could not be closed cleanly, its next start recovers location={} error={error}",
                self.location
            );
        }
    }
}

/// Refuses a directory that holds other things and no log: nothing is to be written beside somebody's files by mistake.
fn check_is_log_directory(path: &Path) -> Result<()> {
    let mut foreign = None;
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let is_numbered = name.rsplit_once('-').is_some_and(|(_, index)| index.parse::<u32>().is_ok());
        let is_partition = is_numbered && holds_segment(&path.join(&*name))?;
        let is_kafkas = is_partition
            || name == "meta.properties"
            || name == ".kafka_cleanshutdown"
            || name.ends_with("-offset-checkpoint");
        if is_kafkas {
            return Ok(());
        }
        if name != ".lock" && name != "lost+found" {
            foreign = Some(name.into_owned());
        }
    }
    match foreign {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "the directory is no log directory, choose an empty or a new one directory={} found={name}",
                path.display()
            ),
        )),
    }
}

/// Whether a directory is a partition's: it holds segments, or nothing yet.
fn holds_segment(path: &Path) -> Result<bool> {
    if !path.is_dir() {
        return Ok(false);
    }
    let mut is_empty = true;
    for entry in std::fs::read_dir(path)? {
        is_empty = false;
        if entry?.path().extension().is_some_and(|extension| extension == "log") {
            return Ok(true);
        }
    }
    Ok(is_empty)
}

/// Opens a directory. One that this process had open (`was_open`) may be just about to be let go by another thread.
fn open_directory(path: &Path, was_open: bool) -> Result<FileDevice> {
    let mut tries = if was_open { 400 } else { 0 };
    loop {
        match FileDevice::open(path) {
            Err(error) if error.kind() == ErrorKind::Fenced && tries > 0 => {
                tries -= 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

/// How the registry holds a broker.
enum Entry {
    Kept(Arc<LocalBroker>),
    Shared(Weak<LocalBroker>),
}

impl Entry {
    fn broker(&self) -> Option<Arc<LocalBroker>> {
        match self {
            Self::Kept(broker) => Some(Arc::clone(broker)),
            Self::Shared(broker) => broker.upgrade(),
        }
    }
}

fn lock_registry() -> std::sync::MutexGuard<'static, HashMap<Location, Entry>> {
    static REGISTRY: std::sync::LazyLock<Mutex<HashMap<Location, Entry>>> = std::sync::LazyLock::new(Mutex::default);
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A seed for what must differ between brokers: ids, session numbers.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    RandomState::new().hash_one(time)
}

/// A few threads for work that waits for the device; started when first needed, ended when idle.
#[derive(Clone, Debug, Default)]
struct DeviceThreads {
    shared: Arc<Jobs>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    state: Mutex<JobState>,
    arrived: Condvar,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct JobState {
    queue: std::collections::VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// How many syncs may be under way at once; a disk has little use for more.
const MAX_DEVICE_THREADS: usize = 4;
/// How long a device thread waits for work before it ends.
const DEVICE_THREAD_IDLE: std::time::Duration = std::time::Duration::from_secs(10);

impl Runner for DeviceThreads {
    fn run(&self, job: Job) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.queue.push_back(job);
        if state.idle < state.queue.len() && state.threads < MAX_DEVICE_THREADS {
            let shared = Arc::clone(&self.shared);
            match std::thread::Builder::new().name("ottla-device".to_owned()).spawn(move || shared.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    log::warn!("no thread can be started for the device, its work is done in place: {error}");
                    while let Some(job) = state.queue.pop_front() {
                        drop(state);
                        job();
                        state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                    }
                    return;
                }
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.arrived.notify_one();
    }
}

impl Jobs {
    fn work(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.idle += 1;
            let (woken, waited) =
                self.arrived.wait_timeout(state, DEVICE_THREAD_IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
