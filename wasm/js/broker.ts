import type { Broker as Handle } from '../build/glue.js';
import { type Admin, makeAdmin } from './admin.js';
import { alive } from './alive.js';
import { type Consumer, type ConsumerOptions, makeConsumer } from './consumer.js';
import { OttlaError } from './errors.js';
import type { ClientOptions } from './options.js';
import { type Glue, module } from './module.js';
import { makeProducer, type Producer, type ProducerOptions } from './producer.js';

/** Options of a broker: Kafka's names in camelCase. */
export interface BrokerOptions {
  /** How many partitions a topic has that is created without saying; 1 by default. */
  numPartitions?: number;
  /** Whether a topic that is asked for is created; true by default. */
  autoCreateTopicsEnable?: boolean;
  /** Kafka's `node.id`; 0 by default. */
  nodeId?: number;
  /** The cluster's id; made up by default. */
  clusterId?: string;
  /** Configuration of topics that do not set it themselves, in Kafka's names: `{ 'retention.ms': 60000 }`. */
  topicDefaults?: Readonly<Record<string, string | number | boolean>>;
}

/** What a broker hands out and closes with itself. */
interface Closable {
  close(): Promise<void>;
}

/**
 * A Kafka broker inside this program.
 *
 * It keeps its logs in memory ({@link Broker.storage}): they last as long as the broker.
 *
 * @example
 * await using broker = await Broker.open();
 * await using producer = broker.producer();
 * await producer.send({ topic: 'greetings', value: 'hello' });
 */
export class Broker {
  readonly #glue: Glue;
  readonly #handle: Handle;
  readonly #open = new Set<Closable>();
  #closing: Promise<void> | undefined;

  private constructor(glue: Glue, handle: Handle) {
    this.#glue = glue;
    this.#handle = handle;
  }

  /** Opens a broker; loads the WebAssembly module if that has not been done. */
  static async open(options: BrokerOptions = {}): Promise<Broker> {
    const { topicDefaults = {}, ...own } = options;
    const glue = await alive(module());
    const names = Object.keys(topicDefaults);
    return new Broker(glue, glue.Broker.inMemory(own, names, names.map((name) => String(topicDefaults[name]))));
  }

  /** Where its logs are: in memory, so that they last as long as the broker. */
  get storage(): 'memory' {
    return 'memory';
  }

  /** The cluster's id. */
  get clusterId(): string {
    return this.#running().clusterId;
  }

  /** A producer on this broker. */
  producer(options: ProducerOptions = {}): Producer {
    const handle = this.#running();
    const producer: Producer = makeProducer(
      (delivered, failed) => handle.producer(options, delivered, failed),
      () => this.#open.delete(producer),
    );
    this.#open.add(producer);
    return producer;
  }

  /** A consumer on this broker. */
  consumer(options: ConsumerOptions = {}): Consumer {
    const handle = this.#running().consumer(options);
    const consumer: Consumer = makeConsumer(
      handle,
      () => new this.#glue.Stop(),
      () => this.#open.delete(consumer),
    );
    this.#open.add(consumer);
    return consumer;
  }

  /** Topics, configurations, groups and offsets of this broker. */
  admin(options: ClientOptions = {}): Admin {
    return makeAdmin(this.#running().admin(options));
  }

  /** Closes its clients (producers deliver what they have), then itself. What was in memory is gone. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const results = await Promise.allSettled([...this.#open].map((each) => each.close()));
    this.#handle.close();
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) {
      throw failed.reason;
    }
  }

  #running(): Handle {
    if (this.#closing) {
      throw new OttlaError('closed', 'the broker is closed');
    }
    return this.#handle;
  }
}
