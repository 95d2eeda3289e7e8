import type { Producer as Handle } from '../build/glue.js';
import { alive, breathe, enter, isDue, later, leave } from './alive.js';
import { OttlaError } from './errors.js';
import type { ClientOptions } from './options.js';
import { aborted, type Waiting } from './waiting.js';

/** A key, value or header: bytes, or text that is sent as UTF-8. */
export type Bytes = string | Uint8Array | ArrayBuffer;

/** A record to send. */
export interface ProducerRecord {
  /** The topic; created if it is not there and the broker creates topics. */
  topic: string;
  /** The value; null (or nothing) is a tombstone in a compacted topic, and not the same as an empty one. */
  value?: Bytes | null;
  /** The key: it decides the partition as in Kafka's own client. */
  key?: Bytes | null;
  /** The partition; by key, or by turns, if it is left out. */
  partition?: number;
  /** Milliseconds since 1970, or a date; now, if it is left out. */
  timestamp?: number | Date;
  /** Headers: an object, or pairs where a key may occur more than once. */
  headers?: Readonly<Record<string, Bytes | null>> | Iterable<readonly [key: string, value: Bytes | null]>;
}

/** Where a record went. */
export interface RecordMetadata {
  topic: string;
  partition: number;
  /** The record's offset; -1 if the broker did not say (`acks: 0`, or it had the record already). */
  offset: number;
  /** The record's timestamp, or the broker's if the topic takes that. */
  timestamp: number;
}

/** Options of a producer: Kafka's names in camelCase, Kafka's defaults and units. */
export interface ProducerOptions extends ClientOptions {
  /** Whose acknowledgement to wait for; `'all'` by default. */
  acks?: 0 | 1 | -1 | 'all';
  /** Whether each record is written once and in order, whatever is retried; true by default. */
  enableIdempotence?: boolean;
  compressionType?: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd';
  /** How hard to compress, in the codec's own levels. */
  compressionLevel?: number;
  /** How long a batch waits for more records when it could be sent; 0 by default. */
  lingerMs?: number;
  /** The size at which a batch is closed, in bytes; 16384 by default. */
  batchSize?: number;
  /** How much may be on its way at once, in bytes; 33554432 by default. */
  bufferMemory?: number;
  /** How long a record may wait for metadata or for room in the buffer; 60000 by default. */
  maxBlockMs?: number;
  /** The largest request, and so the largest record, in bytes; 1048576 by default. */
  maxRequestSize?: number;
  /** How long a record may be on its way before it has failed; 120000 by default. */
  deliveryTimeoutMs?: number;
  /** How often a batch is sent again at most. */
  retries?: number;
}

/** How long `flush` and `close` wait when nothing is said. */
const FLUSH_TIMEOUT_MS = 120_000;

/** Frames are handed over at this size even if the caller goes on sending. */
const HANDOVER_BYTES = 1 << 20;

/** Somebody who waits to hear what became of a record. */
interface Sent {
  topic: string;
  resolve: (metadata: RecordMetadata) => void;
  reject: (error: unknown) => void;
}

// Only brokers make producers; set by the class.
let make: (open: OpenProducer, closed: () => void) => Producer;

/** How a producer of the module is opened: with what is told about records. */
type OpenProducer = (
  delivered: (partition: number, rows: Float64Array) => void,
  failed: (sequences: Float64Array, error: unknown) => void,
) => Handle;

/** @internal */
export const makeProducer: typeof make = (open, closed) => make(open, closed);

/**
 * Sends records.
 *
 * `send` takes a record and returns at once; records that are sent without waiting in between travel together. Nothing blocks: who
 * sends faster than the broker takes should wait for a send, or `flush`, now and then.
 *
 * @example
 * await using producer = broker.producer({ compressionType: 'zstd' });
 * const { partition, offset } = await producer.send({ topic: 'orders', key: 'k1', value: JSON.stringify({ id: 1 }) });
 */
export class Producer {
  readonly #handle: Handle;
  readonly #onClosed: () => void;
  readonly #topics = new Map<string, number>();
  readonly #sent = new Map<number, Sent>();
  readonly #frames = new Frames();
  /** The sequence number of the next record, and of the first one that was not handed over yet. */
  #next = 0;
  #staged = 0;
  #closing: Promise<void> | undefined;

  private constructor(open: OpenProducer, closed: () => void) {
    this.#onClosed = closed;
    this.#handle = open(
      (partition, rows) => (isDue() ? later(() => this.#delivered(partition, rows)) : this.#delivered(partition, rows)),
      (sequences, error) => this.#failed(sequences, error),
    );
  }

  static {
    make = (open, closed) => new this(open, closed);
  }

  /**
   * Sends a record; says where it went once the broker has acknowledged it.
   *
   * Bytes are taken over before this returns, so a buffer may be used again.
   */
  send(record: ProducerRecord): Promise<RecordMetadata> {
    return new Promise<RecordMetadata>((resolve, reject) => {
      if (this.#closing) {
        throw new OttlaError('closed', 'the producer is closed');
      }
      this.#frames.put(this.#topic(record.topic), record);
      this.#sent.set(this.#next, { topic: record.topic, resolve, reject });
      if (this.#sent.size === 1) {
        enter();
      }
      if (this.#next === this.#staged) {
        queueMicrotask(() => this.#handOver());
      }
      this.#next += 1;
      if (this.#frames.size >= HANDOVER_BYTES) {
        this.#handOver();
      }
    });
  }

  /**
   * Sends what was taken before this call without lingering, and waits until all of it is settled.
   *
   * Whether it succeeded, the promises of the sends say. Rejects with kind `timeout` when `timeoutMs` (two minutes by default) have
   * passed.
   */
  async flush({ timeoutMs = FLUSH_TIMEOUT_MS, signal }: Waiting = {}): Promise<void> {
    this.#handOver();
    await alive(aborted(signal, this.#handle.flush(timeoutMs)));
    await breathe();
  }

  /** Takes no more records, delivers those it has for up to `timeoutMs` (two minutes by default) and fails the rest. */
  close({ timeoutMs = FLUSH_TIMEOUT_MS }: { timeoutMs?: number } = {}): Promise<void> {
    this.#closing ??= alive(this.#close(timeoutMs));
    return this.#closing;
  }

  /** How many bytes are in the buffer or on their way. */
  get bufferedBytes(): number {
    return this.#closing ? 0 : this.#handle.bufferedBytes + this.#frames.size;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#handOver();
    try {
      await this.#handle.close(timeoutMs);
    } finally {
      this.#onClosed();
    }
  }

  #topic(name: string): number {
    let place = this.#topics.get(name);
    if (place === undefined) {
      if (typeof name !== 'string') {
        throw new OttlaError('invalid', 'a record has no topic');
      }
      place = this.#handle.topic(name);
      this.#topics.set(name, place);
    }
    return place;
  }

  #handOver(): void {
    const first = this.#staged;
    if (first === this.#next) {
      return;
    }
    this.#staged = this.#next;
    this.#handle.send(this.#frames.take(), first);
  }

  #delivered(partition: number, rows: Float64Array): void {
    for (let row = 0; row < rows.length; row += 3) {
      const sent = this.#take(rows[row]!);
      sent?.resolve({ topic: sent.topic, partition, offset: rows[row + 1]!, timestamp: rows[row + 2]! });
    }
  }

  #failed(sequences: Float64Array, error: unknown): void {
    for (const sequence of sequences) {
      this.#take(sequence)?.reject(error);
    }
  }

  #take(sequence: number): Sent | undefined {
    const sent = this.#sent.get(sequence);
    if (this.#sent.delete(sequence) && this.#sent.size === 0) {
      leave();
    }
    return sent;
  }
}

const encoder = new TextEncoder();

/** Records on their way to the module, one after the other; `Producer::send` in src/producer.rs has the layout. */
class Frames {
  #bytes = new Uint8Array(1 << 12);
  #view = new DataView(this.#bytes.buffer);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** What was put, valid until the next `put`. */
  take(): Uint8Array {
    const taken = this.#bytes.subarray(0, this.#size);
    this.#size = 0;
    return taken;
  }

  put(topic: number, record: ProducerRecord): void {
    const start = this.#size;
    try {
      const { partition = -1, timestamp = NaN, key, value, headers } = record;
      if (partition !== -1 && !(Number.isInteger(partition) && partition >= 0 && partition < 2 ** 31)) {
        throw new OttlaError('invalid', `a partition is a number from 0 on partition=${partition}`);
      }
      this.#reserve(28);
      this.#view.setUint32(start, topic, true);
      this.#view.setInt32(start + 4, partition, true);
      this.#view.setFloat64(start + 8, Number(timestamp), true);
      this.#size = start + 28;
      const keyLength = this.#put(key);
      const valueLength = this.#put(value);
      const count = headers ? this.#putHeaders(headers) : 0;
      this.#view.setInt32(start + 16, keyLength, true);
      this.#view.setInt32(start + 20, valueLength, true);
      this.#view.setUint32(start + 24, count, true);
    } catch (error) {
      // As if it had not been tried.
      this.#size = start;
      throw error;
    }
  }

  #putHeaders(headers: NonNullable<ProducerRecord['headers']>): number {
    const pairs = Symbol.iterator in headers ? headers : Object.entries(headers as Readonly<Record<string, Bytes | null>>);
    let count = 0;
    for (const [key, value] of pairs as Iterable<readonly [string, Bytes | null]>) {
      const start = this.#size;
      this.#reserve(8);
      this.#size = start + 8;
      const keyLength = this.#put(String(key));
      const valueLength = this.#put(value);
      this.#view.setInt32(start, keyLength, true);
      this.#view.setInt32(start + 4, valueLength, true);
      count += 1;
    }
    return count;
  }

  /** Puts bytes and returns how many; -1 for null. */
  #put(bytes: Bytes | null | undefined): number {
    if (bytes === null || bytes === undefined) {
      return -1;
    }
    const start = this.#size;
    if (typeof bytes === 'string') {
      // No letter takes more than three bytes.
      this.#reserve(3 * bytes.length);
      this.#size += encoder.encodeInto(bytes, this.#bytes.subarray(start)).written;
    } else {
      const array = bytes instanceof Uint8Array ? bytes : bytes instanceof ArrayBuffer ? new Uint8Array(bytes) : undefined;
      if (!array) {
        throw new OttlaError('invalid', 'a key, value or header is neither a text nor bytes nor null');
      }
      this.#reserve(array.length);
      this.#bytes.set(array, start);
      this.#size += array.length;
    }
    return this.#size - start;
  }

  #reserve(more: number): void {
    const needed = this.#size + more;
    if (needed > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
  }
}
