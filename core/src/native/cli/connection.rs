//! Where a command reads or writes: a cluster, or the directory of a log.

use std::sync::Arc;

use clap::Args;

use crate::broker::BrokerConfig;
use crate::client::{Client, ClientConfig, Options};
use crate::native::{LocalBroker, Location, Runtime};
use crate::{Error, ErrorKind, Result};

/// Options of whatever speaks to a cluster.
#[derive(Clone, Debug, Args)]
pub(super) struct ConnectionArgs {
    /// A client option in Kafka's words, such as request_timeout_ms=5000; may be repeated
    #[arg(short = 'X', value_name = "NAME=VALUE", global = true)]
    client_options: Vec<String>,
}

/// An open cluster or log.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) runtime: Runtime,
    options: Options,
    local: Option<Arc<LocalBroker>>,
}

impl Connection {
    /// Opens `address`: `kafka://HOST:PORT[,…]`, `HOST:PORT`, `memory:NAME`, or the directory of a log.
    pub(super) fn open(address: &str, args: &ConnectionArgs) -> Result<Self> {
        let runtime = Runtime::new()?;
        let cluster = address.strip_prefix("kafka://");
        let location = match cluster {
            Some(_) => None,
            None => Location::parse(address).or_else(|| {
                // A name that is a directory here and no HOST:PORT.
                std::path::Path::new(address).is_dir().then(|| Location::Directory(address.into()))
            }),
        };
        let mut options = Options::new();
        let local = match location {
            Some(location) => Some(LocalBroker::open(&runtime, location, BrokerConfig::default())?),
            None => {
                options.set("bootstrap_servers", cluster.unwrap_or(address).trim_end_matches('/'));
                None
            }
        };
        for option in &args.client_options {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("-X takes NAME=VALUE given={option}")))?;
            options.set(&name.replace('.', "_"), value);
        }
        Ok(Self { runtime, options, local })
    }

    /// Opens the log directory `path`, made when missing.
    pub(super) fn open_directory(path: &str) -> Result<Self> {
        let runtime = Runtime::new()?;
        let local = LocalBroker::open(&runtime, Location::Directory(path.into()), BrokerConfig::default())?;
        Ok(Self { runtime, options: Options::new(), local: Some(local) })
    }

    /// The options given, to which a command adds its own.
    pub(super) fn options(&self) -> Options {
        self.options.clone()
    }

    /// The embedded broker, if this is a directory.
    pub(super) fn local(&self) -> Option<&Arc<LocalBroker>> {
        self.local.as_ref()
    }

    /// A client by `config`.
    pub(super) fn client(&self, config: ClientConfig) -> Client {
        match &self.local {
            Some(local) => Client::new(Arc::new(local.embedded().clone()), self.runtime.clock(), config),
            None => self.runtime.client(config),
        }
    }

    /// A client with the options given.
    pub(super) fn plain_client(&self) -> Result<Client> {
        Ok(self.client(ClientConfig::from_options(&self.options)?))
    }

    /// Closes the log, if it is one.
    pub(super) fn close(self) -> Result<()> {
        self.local.map_or(Ok(()), |local| local.close())
    }
}
