//! The command line `ottla`: arguments to library calls, results to text.
//!
//! Data goes to stdout, everything said about it to stderr. With `--json` results are JSON, one object a line.
//! Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 what was asked for is not there; 4 the other side cannot be
//! reached or gave no answer in time; 5 access was refused; 6 data is damaged; 130 interrupted.

mod backup;
mod connection;
mod copies;
mod demo;
mod groups;
mod keys;
mod position;
mod promote;
mod records;
mod replicate;
mod repository;
mod restore;
mod serve;
mod status;
mod table;
mod topics;

use std::ffi::OsString;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Parser, Subcommand};
use indicatif::ProgressBar;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Error, ErrorKind, Result};

/// How long a command waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong command line; 3 not there; 4 unreachable or no answer in time; \
    5 refused; 6 damaged data; 130 interrupted.";

/// Kafka you can hold: a client, an embedded broker, local replicas and backups.
#[derive(Debug, Parser)]
#[command(name = "ottla", version, max_term_width = 100, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Results as JSON, one object a line
    #[arg(long, global = true)]
    json: bool,

    /// Say errors alone
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// Say more: -v what happens, -vv every detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker on a directory
    Serve(serve::Serve),
    /// List, describe, create, alter and delete topics
    Topics(topics::Topics),
    /// Produce records from standard input: JSON lines, or plain ones
    Produce(records::Produce),
    /// Print records: JSON lines, or plain ones
    Consume(records::Consume),
    /// List, show, reset and delete consumer groups
    Groups(groups::Groups),
    /// Copy topics into a local log, at the same offsets: all at first, what is new after
    Replicate(replicate::Replicate),
    /// Show the brokers of a cluster: who leads, who has what, and what mirroring costs
    Status(status::Status),
    /// Make a follower the leader
    Promote(promote::Promote),
    /// Make a repository for backups; the first backup does, too
    Init(keys::Init),
    /// Show, add, remove and rotate the keys of a repository
    Key(keys::Key),
    /// Back topics up into a repository: all at first, what is new after
    Backup(backup::Backup),
    /// Restore a snapshot at the same offsets: to a local log, a live cluster, or a stopped Kafka broker's log directories
    Restore(restore::Restore),
    /// Compare every record of a snapshot with what a cluster has
    Verify(restore::Verify),
    /// List the snapshots of a repository
    Snapshots(copies::Snapshots),
    /// Check a repository
    Check(repository::Check),
    /// List what is in a snapshot
    Ls(repository::Ls),
    /// Show how two snapshots differ
    Diff(repository::Diff),
    /// Find the records with a key in a snapshot
    Find(repository::Find),
    /// Remove snapshots, by rules or by name
    Forget(repository::Forget),
    /// Remove what no snapshot needs: marked first, removed by a later run
    Prune(repository::Prune),
    /// Copy snapshots to another repository
    Copy(repository::Copy),
    /// Show a record's whole way: produce, follow, back up, lose the leader, restore, compare
    Demo(demo::Demo),
    /// Run a Python script that imports kafka, on Ottla
    #[command(disable_help_flag = true)]
    Run {
        /// Arguments of `python -m ottla run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// What every command is given.
#[derive(Clone, Copy, Debug)]
struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// Prints a result: as JSON, or as the text a person reads.
    fn result(self, json: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) -> Result<()> {
        let line = if self.json { json().to_string() } else { text() };
        let mut out = Stdout::lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::from)
    }

    /// Prints a list: a JSON object a line, or a table.
    fn rows(self, lines: Vec<serde_json::Value>, table: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            return lines.into_iter().try_for_each(|line| self.result(|| line, String::new));
        }
        self.result(|| serde_json::Value::Null, table)
    }

    /// Whether progress is drawn; it is on stderr, and only if that is a terminal.
    fn shows_progress(self) -> bool {
        !self.quiet && !self.json
    }

    /// `bar` if progress is shown, else one that is not seen. What is said meanwhile is said above it.
    fn draws(self, bar: ProgressBar) -> ProgressBar {
        if !self.shows_progress() {
            return ProgressBar::hidden();
        }
        *DRAWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        bar
    }

    /// Says something about what is going on.
    fn say(self, text: impl AsRef<str>) {
        if !self.quiet {
            // As `eprintln!`: if nobody hears it, so be it.
            let _ = writeln!(Stderr, "{}", text.as_ref());
        }
    }
}

/// Runs the command line `args` (the program's name first) and returns the exit code.
pub fn main(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures; clap knows where each goes.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    init_log(cli.quiet, cli.verbose);
    let output = Output { json: cli.json, quiet: cli.quiet };
    let outcome = match cli.command {
        Command::Serve(command) => command.run(output),
        Command::Topics(command) => command.run(output),
        Command::Produce(command) => command.run(output),
        Command::Consume(command) => command.run(output),
        Command::Groups(command) => command.run(output),
        Command::Replicate(command) => command.run(output),
        Command::Status(command) => command.run(output),
        Command::Promote(command) => command.run(output),
        Command::Init(command) => command.run(output),
        Command::Key(command) => command.run(output),
        Command::Backup(command) => command.run(output),
        Command::Restore(command) => command.run(output),
        Command::Verify(command) => command.run(output),
        Command::Snapshots(command) => command.run(output),
        Command::Check(command) => command.run(output),
        Command::Ls(command) => command.run(output),
        Command::Diff(command) => command.run(output),
        Command::Find(command) => command.run(output),
        Command::Forget(command) => command.run(output),
        Command::Prune(command) => command.run(output),
        Command::Copy(command) => command.run(output),
        Command::Demo(command) => command.run(output),
        Command::Run { args } => return run_python(&args),
    };
    match outcome {
        Ok(()) => 0,
        // Who read our output has had enough, as `head` does.
        Err(_) if IS_UNREAD.load(Ordering::Relaxed) => BROKEN_PIPE,
        Err(error) => {
            if output.json {
                let line = serde_json::json!({
                    "error": error.to_string(),
                    "kind": format!("{:?}", error.kind()),
                    "code": error.code().map(|code| code.0),
                });
                eprintln!("{line}");
            } else {
                eprintln!("ottla: {error}");
            }
            exit_code(&error)
        }
    }
}

/// The signals that ask the process to end, heard from when this is made: before that they end it on the spot.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Called in a task of the runtime.
    fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when one has come.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// `ottla run` is the Python package's.
fn run_python(args: &[OsString]) -> u8 {
    // The one that this program was installed with, if it was by pip.
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("python3"));
    let python = beside.filter(|python| python.exists()).unwrap_or_else(|| "python3".into());
    match std::process::Command::new(&python).args(["-m", "ottla", "run"]).args(args).status() {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        Err(error) => {
            eprintln!("ottla: `ottla run` needs Python with the package ottla: {error}");
            1
        }
    }
}

/// What a shell says of a program that SIGPIPE has ended.
const BROKEN_PIPE: u8 = 141;

/// Whether who read our standard output has gone.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// Standard output, which notes when nobody reads it any more.
struct Stdout(std::io::StdoutLock<'static>);

impl Stdout {
    fn lock() -> Self {
        Self(std::io::stdout().lock())
    }

    fn note<T>(result: std::io::Result<T>) -> std::io::Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            IS_UNREAD.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::note(self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Self::note(self.0.flush())
    }
}

/// What is being drawn on standard error.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Standard error, above what is being drawn there.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let write = || std::io::stderr().write_all(bytes);
        match drawn.filter(|bar| !bar.is_finished()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
        // In one piece, so that lines of several threads do not mix.
        self.write_all(text.to_string().as_bytes())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::Unsupported => 2,
        ErrorKind::NotFound | ErrorKind::OutOfRange => 3,
        ErrorKind::Retriable | ErrorKind::Timeout => 4,
        ErrorKind::Denied => 5,
        ErrorKind::Corrupt => 6,
        _ => 1,
    }
}

/// Log lines to stderr, at a level by the options or the environment variable OTTLA_LOG.
fn init_log(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    // A logger that is set already (by Python) stays.
    let _ = env_logger::Builder::new()
        .filter_level(level)
        .parse_env("OTTLA_LOG")
        .target(env_logger::Target::Pipe(Box::new(Stderr)))
        .format(|out, record| writeln!(out, "ottla: {}: {}", record.level().as_str().to_lowercase(), record.args()))
        .try_init();
}
