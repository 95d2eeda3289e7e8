//! Brokers as processes of their own, so that they can be killed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// How long a process may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The processes that run.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Kills all that run, because this program is about to end without dropping anything.
pub(super) fn kill_all() {
    for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// `ottla serve` in a process. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    child: Child,
    pid: Option<Pid>,
    /// Where its standard error goes.
    log: PathBuf,
    /// Where it serves.
    pub(super) address: String,
    /// What it said last.
    said: Arc<Mutex<Value>>,
}

impl Server {
    /// Starts `ottla serve` on a free port over `home/name`, with `arguments` more, and waits until it is ready.
    pub(super) fn start(home: &Path, name: &'static str, arguments: &[&str]) -> Result<Self> {
        let log = home.join(format!("{name}.log"));
        let program = std::env::current_exe()?;
        let mut child = Command::new(&program)
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--data"])
            .arg(home.join(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| Error::from(error).context(format_args!("cannot start {}", program.display())))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(pid);
        let said = Arc::new(Mutex::new(Value::Null));
        let (ready, is_ready) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                    let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
                    if let Some(address) = line["listening"].as_str() {
                        // Nobody waits for a second one.
                        let _ = ready.send(address.to_owned());
                    }
                    *said.lock().unwrap_or_else(PoisonError::into_inner) = line;
                }
            });
        }
        let mut server = Self { name, child, pid, log, address: String::new(), said };
        server.address = is_ready.recv_timeout(PATIENCE).map_err(|_| server.failure("does not serve"))?;
        Ok(server)
    }

    /// What it said last about what it follows.
    fn said(&self) -> Value {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the follower has what its leader has.
    pub(super) fn wait_until_caught_up(&self) -> Result<()> {
        self.wait("does not catch up", |said| said["event"] == "caught_up" && said["partitions"] != 0)
    }

    /// Waits until the follower has found that its leader is gone: it has taken in all that came from it.
    pub(super) fn wait_until_alone(&self) -> Result<()> {
        self.wait("does not notice that its leader is gone", |said| !said["error"].is_null())
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.said()) {
            if Instant::now() > deadline {
                return Err(self.failure(what));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it as `kill -9` does.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.forget();
        Ok(())
    }

    /// Its number may be another's from now on.
    fn forget(&self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| Some(*pid) != self.pid);
    }

    /// Asks it to end and waits until it has.
    pub(super) fn stop(&mut self) -> Result<()> {
        if let Some(pid) = self.pid {
            kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(self.failure("does not end"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.forget();
        Ok(())
    }

    fn failure(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().next_back().unwrap_or("it said nothing");
        Error::new(ErrorKind::Internal, format!("the process '{}' {what}: {last}", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.forget();
    }
}
