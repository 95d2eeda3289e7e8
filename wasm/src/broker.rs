//! The embedded broker, and the clients on it.

use std::sync::Arc;

use js_sys::{Function, Uint8Array};
use ottla::broker::{BrokerConfig, check_topic_config};
use ottla::client::config::Value;
use ottla::client::{self, Client, ClientConfig, ConsumerConfig, Options, ProducerConfig};
use ottla::clock::Clock;
use ottla::storage::memory::MemoryDevice;
use ottla::transport::{Embedded, RunInline};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;

use crate::admin::Admin;
use crate::clock::PlatformClock;
use crate::consumer::Consumer;
use crate::error::thrown;
use crate::producer::Producer;
use crate::values::{invalid, options};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(catch, js_namespace = crypto, js_name = getRandomValues)]
    fn random_values(into: &Uint8Array) -> Result<(), JsValue>;
}

/// A number that nobody can guess: what is left to chance begins with it.
fn seed() -> Result<u64, JsValue> {
    let array = Uint8Array::new_with_length(8);
    random_values(&array)?;
    let mut bytes = [0; 8];
    array.copy_to(&mut bytes);
    Ok(u64::from_le_bytes(bytes))
}

/// A broker in this module's memory.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Broker {
    embedded: Embedded,
    clock: Arc<dyn Clock>,
}

#[wasm_bindgen]
impl Broker {
    /// Opens a broker that keeps its logs in memory. `names` and `values` are configurations for topics that do not set them.
    #[wasm_bindgen(js_name = inMemory)]
    pub fn in_memory(config: &JsValue, names: Vec<String>, values: Vec<String>) -> Result<Self, JsValue> {
        let clock: Arc<dyn Clock> = Arc::new(PlatformClock);
        let device = Arc::new(MemoryDevice::new());
        let mut config = broker_config(&options(config)?)?;
        for (name, value) in names.into_iter().zip(values) {
            check_topic_config(&name, &value).map_err(invalid)?;
            config.topic_defaults.insert(name, value);
        }
        let embedded =
            Embedded::open(device, config, Arc::clone(&clock), Arc::new(RunInline), seed()?).map_err(thrown)?;
        spawn_local(embedded.drive());
        Ok(Self { embedded, clock })
    }

    /// The cluster's id.
    #[wasm_bindgen(getter, js_name = clusterId)]
    pub fn cluster_id(&self) -> Result<String, JsValue> {
        self.embedded.cluster_id().map_err(thrown)
    }

    /// A producer on it; see `Producer` for what the functions are told.
    pub fn producer(&self, config: &JsValue, delivered: Function, failed: Function) -> Result<Producer, JsValue> {
        let (client, config) = ProducerConfig::from_options(&options(config)?).map_err(thrown)?;
        let (producer, driver) = client::Producer::new(self.client(client)?, config);
        spawn_local(driver);
        Ok(Producer::new(producer, delivered, failed))
    }

    /// A consumer on it.
    pub fn consumer(&self, config: &JsValue) -> Result<Consumer, JsValue> {
        let (client, config) = ConsumerConfig::from_options(&options(config)?).map_err(thrown)?;
        let (consumer, driver) = client::Consumer::new(self.client(client)?, config);
        spawn_local(driver);
        Ok(Consumer::new(consumer))
    }

    /// An admin of it.
    pub fn admin(&self, config: &JsValue) -> Result<Admin, JsValue> {
        let config = ClientConfig::from_options(&options(config)?).map_err(thrown)?;
        Ok(Admin::new(client::Admin::new(self.client(config)?)))
    }

    /// Answers who waits, and gives everything back.
    pub fn close(&self) -> Result<(), JsValue> {
        self.embedded.close().map_err(thrown)
    }
}

impl Broker {
    fn client(&self, mut config: ClientConfig) -> Result<Client, JsValue> {
        if config.seed.is_none() {
            config.seed = Some(seed()?);
        }
        Ok(Client::new(Arc::new(self.embedded.clone()), Arc::clone(&self.clock), config))
    }
}

/// A broker's own options, in Kafka's names.
fn broker_config(options: &Options) -> Result<BrokerConfig, JsValue> {
    let mut config = BrokerConfig::default();
    for (name, value) in options.iter() {
        let wrong = |expected| invalid(format!("option is not valid, expected {expected} name={name} value={value}"));
        let number = |least: i64| match value {
            Value::Int(number) if *number >= least => i32::try_from(*number).map_err(|_| wrong("a smaller number")),
            _ => Err(wrong("a whole number that is large enough")),
        };
        match (name, value) {
            (_, Value::Null) => {}
            ("node_id", _) => config.node_id = number(0)?,
            ("num_partitions", _) => config.num_partitions = number(1)?,
            ("auto_create_topics_enable", Value::Bool(yes)) => config.auto_create_topics = *yes,
            ("auto_create_topics_enable", _) => return Err(wrong("true or false")),
            ("cluster_id", Value::Text(text)) => config.cluster_id = Some(text.clone()),
            ("cluster_id", _) => return Err(wrong("a text")),
            _ => return Err(invalid(format!("there is no such option name={name}"))),
        }
    }
    Ok(config)
}
