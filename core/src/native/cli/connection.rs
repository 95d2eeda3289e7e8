//! Where a command reads or writes: a cluster, or the directory of a log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::broker::BrokerConfig;
use crate::client::config::OptionInfo;
use crate::client::{Client, ClientConfig, Options};
use crate::native::pipe::{BOOTSTRAP_TIMEOUT_MS, Place, check_holds_something};
use crate::native::{LocalBroker, Location, Runtime, properties};
use crate::{Error, ErrorKind, Result};

/// Options of whatever speaks to a cluster.
#[derive(Clone, Debug, Args)]
pub(super) struct ConnectionArgs {
    /// A client's properties, as Kafka's own tools and librdkafka read them: TLS, SASL, timeouts
    #[arg(long = "command-config", value_name = "FILE", global = true)]
    properties: Option<PathBuf>,

    /// A client option in Kafka's words, such as request_timeout_ms=5000; may be repeated. A value may be env:NAME or
    /// file:PATH
    #[arg(short = 'X', value_name = "NAME=VALUE", global = true)]
    client_options: Vec<String>,
}

impl ConnectionArgs {
    fn options(&self) -> Result<Options> {
        let mut options = match &self.properties {
            Some(path) => properties::read(path)?,
            None => Options::new(),
        };
        for option in &self.client_options {
            // Not shown: it may hold a password.
            let (name, value) =
                option.split_once('=').ok_or_else(|| Error::new(ErrorKind::Invalid, "-X takes NAME=VALUE"))?;
            if !properties::set(&mut options, name, value)? {
                return Err(Error::new(ErrorKind::Invalid, format!("there is no such option name={name}")));
            }
        }
        if options.value("bootstrap_timeout_ms").is_none() {
            options.set("bootstrap_timeout_ms", BOOTSTRAP_TIMEOUT_MS);
        }
        Ok(options)
    }

    /// What was given of the options that all clients share.
    pub(super) fn client_options(&self) -> Result<Options> {
        Ok(own_options(&self.options()?, &[]))
    }
}

/// Those of `options` that are in `own` or that all clients share.
fn own_options(options: &Options, own: &[OptionInfo]) -> Options {
    let known = |name: &str| own.iter().chain(ClientConfig::OPTIONS).any(|option| option.name == name);
    options.iter().filter(|(name, _)| known(name)).map(|(name, value)| (name, value.clone())).collect()
}

/// Whether a directory may be made where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Make,
    Refuse,
}

/// An open cluster or log.
#[derive(Debug)]
pub(super) struct Connection {
    runtime: Runtime,
    options: Options,
    local: Option<Arc<LocalBroker>>,
}

impl Connection {
    /// Opens `address`, to read: `kafka://HOST:PORT[,…]`, `HOST:PORT`, `memory:NAME`, or the directory of a log.
    pub(super) fn open(address: &str, args: &ConnectionArgs) -> Result<Self> {
        Self::open_at(address, args, Missing::Refuse)
    }

    /// The same, to write: a directory is made when it is missing.
    pub(super) fn open_or_make(address: &str, args: &ConnectionArgs) -> Result<Self> {
        Self::open_at(address, args, Missing::Make)
    }

    fn open_at(address: &str, args: &ConnectionArgs, missing: Missing) -> Result<Self> {
        let place = Place::parse(address)?;
        let mut options = args.options()?;
        let runtime = Runtime::new()?;
        let location = match place {
            Place::Log(location) => location,
            Place::Cluster(servers) => {
                options.set("bootstrap_servers", servers);
                // A producer's and a consumer's own options are checked where there is one.
                let client = runtime.client(ClientConfig::from_options(&own_options(&options, &[]))?);
                let timeout = Duration::from_millis(client.config().bootstrap_timeout_ms);
                runtime.block_on(client.connect(timeout))?;
                return Ok(Self { runtime, options, local: None });
            }
        };
        if let (Location::Directory(path), Missing::Refuse) = (&location, missing) {
            check_holds_something(path)?;
        }
        let local = LocalBroker::open(&runtime, location, BrokerConfig::default())?;
        Ok(Self { runtime, options, local: Some(local) })
    }

    /// Waits for `future`.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The threads it runs on.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Those of the options given that are in `own` or that all clients share; a command adds its own.
    pub(super) fn options(&self, own: &[OptionInfo]) -> Options {
        own_options(&self.options, own)
    }

    /// A client by `config`.
    pub(super) fn client(&self, config: ClientConfig) -> Client {
        match &self.local {
            Some(local) => local.client(config),
            None => self.runtime.client(config),
        }
    }

    /// A client with the options given.
    pub(super) fn plain_client(&self) -> Result<Client> {
        Ok(self.client(ClientConfig::from_options(&self.options(&[]))?))
    }

    /// Closes the log, if it is one.
    pub(super) fn close(self) -> Result<()> {
        self.local.map_or(Ok(()), |local| local.close())
    }
}
