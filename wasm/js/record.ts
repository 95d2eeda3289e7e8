/** A partition of a topic. */
export interface TopicPartition {
  topic: string;
  partition: number;
}

/** A header of a record. A key may occur more than once, and their order is kept. */
export interface RecordHeader {
  readonly key: string;
  readonly value: Uint8Array | null;
}

/** Whose time a record's timestamp is: its producer's, or the broker's when it was appended. */
export type TimestampType = 'CreateTime' | 'LogAppendTime';

const decoder = new TextDecoder();

// Only this module makes records; set by the class.
let makeRecord: (polled: Polled, index: number, run: number, topic: string, partition: number) => ConsumerRecord;

/**
 * A record as a consumer gets it.
 *
 * Key, value and headers are views into the buffer of the poll that brought them, made when they are looked at. A record that is
 * kept for long keeps that buffer: copy the value (`record.value?.slice()`) if that matters.
 */
export class ConsumerRecord implements TopicPartition {
  /** The topic. */
  readonly topic: string;
  /** The partition. */
  readonly partition: number;
  /** The record's number in its partition, for good. */
  readonly offset: number;
  /** Milliseconds since 1970. */
  readonly timestamp: number;
  readonly #polled: Polled;
  readonly #index: number;
  readonly #run: number;

  private constructor(polled: Polled, index: number, run: number, topic: string, partition: number) {
    this.topic = topic;
    this.partition = partition;
    this.offset = polled.floats[index]!;
    this.timestamp = polled.floats[polled.count + index]!;
    this.#polled = polled;
    this.#index = index;
    this.#run = run;
  }

  static {
    makeRecord = (...parts) => new this(...parts);
  }

  /** The key, or null. */
  get key(): Uint8Array | null {
    const { ints, data } = this.#polled;
    const at = this.#index * INTS;
    const start = ints[at + START]!;
    const length = ints[at + KEY]!;
    return length < 0 ? null : data.subarray(start, start + length);
  }

  /** The value, or null: a tombstone in a compacted topic. */
  get value(): Uint8Array | null {
    const { ints, data } = this.#polled;
    const at = this.#index * INTS;
    const start = ints[at + START]! + Math.max(ints[at + KEY]!, 0);
    const length = ints[at + VALUE]!;
    return length < 0 ? null : data.subarray(start, start + length);
  }

  /** The headers, in order. */
  get headers(): RecordHeader[] {
    const { ints, data } = this.#polled;
    const at = this.#index * INTS;
    let position = ints[at + START]! + Math.max(ints[at + KEY]!, 0) + Math.max(ints[at + VALUE]!, 0);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const take = (length: number) => data.subarray(position, (position += length));
    return Array.from({ length: ints[at + HEADERS]! }, () => {
      const keyLength = view.getInt32(position, true);
      const valueLength = view.getInt32(position + 4, true);
      position += 8;
      const key = decoder.decode(take(keyLength));
      return { key, value: valueLength < 0 ? null : take(valueLength) };
    });
  }

  /** Whose time the timestamp is. */
  get timestampType(): TimestampType {
    return this.#polled.runs[this.#run * RUN + TYPE] === 1 ? 'LogAppendTime' : 'CreateTime';
  }

  /** The leader epoch under which the record was written, or null if the broker does not say. */
  get leaderEpoch(): number | null {
    const epoch = this.#polled.runs[this.#run * RUN + EPOCH]!;
    return epoch < 0 ? null : epoch;
  }

  /** The value of the last header with this key: null if that is null, undefined if there is none. */
  header(key: string): Uint8Array | null | undefined {
    return this.headers.findLast((header) => header.key === key)?.value;
  }

  /** The value as UTF-8 text, or null. */
  text(): string | null {
    const value = this.value;
    return value && decoder.decode(value);
  }

  /** The value as JSON; null if the record has none. */
  json<T = unknown>(): T | null {
    const text = this.text();
    return text === null ? null : (JSON.parse(text) as T);
  }

  /** The key as UTF-8 text, or null. */
  keyText(): string | null {
    const key = this.key;
    return key && decoder.decode(key);
  }
}

/** The records of one poll, as src/consumer.rs packs them. */
interface Polled {
  count: number;
  /** Offsets, then timestamps. */
  floats: Float64Array;
  /** For each record: lengths of key and value (-1 is null), number of headers, where its bytes start. */
  ints: Int32Array;
  /** For each run of records: topic, partition, leader epoch, timestamp type, number of records. */
  runs: Int32Array;
  data: Uint8Array;
}

const INTS = 4;
const KEY = 0;
const VALUE = 1;
const HEADERS = 2;
const START = 3;

const RUN = 5;
const EPOCH = 2;
const TYPE = 3;
const COUNT = 4;

/** @internal Records from what a poll returned; `topic` tells the name of a topic by its place. */
export function unpack(packed: Uint8Array, topic: (place: number) => string): ConsumerRecord[] {
  const { buffer, byteOffset } = packed;
  const [count, runCount] = new Uint32Array(buffer, byteOffset, 2) as unknown as [number, number];
  let position = byteOffset + 8;
  const floats = new Float64Array(buffer, position, 2 * count);
  const ints = new Int32Array(buffer, (position += floats.byteLength), INTS * count);
  const runs = new Int32Array(buffer, (position += ints.byteLength), RUN * runCount);
  const data = new Uint8Array(buffer, (position += runs.byteLength), byteOffset + packed.byteLength - position);
  const polled: Polled = { count, floats, ints, runs, data };

  const records = new Array<ConsumerRecord>(count);
  let index = 0;
  for (let run = 0; run < runCount; run++) {
    const at = run * RUN;
    const name = topic(runs[at]!);
    const partition = runs[at + 1]!;
    for (const end = index + runs[at + COUNT]!; index < end; index++) {
      records[index] = makeRecord(polled, index, run, name, partition);
    }
  }
  return records;
}
