import type { Consumer as Handle, Stop } from '../build/glue.js';
import { alive, breathe } from './alive.js';
import { OttlaError } from './errors.js';
import type { ClientOptions } from './options.js';
import { type ConsumerRecord, type TopicPartition, unpack } from './record.js';
import type { Waiting } from './waiting.js';

/** Options of a consumer: Kafka's names in camelCase, Kafka's defaults and units. */
export interface ConsumerOptions extends ClientOptions {
  /** The group it belongs to; without one it neither shares partitions nor commits. */
  groupId?: string;
  /** A name that keeps its assignment over a restart (a static member). */
  groupInstanceId?: string;
  /** Where to start without a committed offset; `'latest'` by default, which means since `subscribe` has returned. */
  autoOffsetReset?: 'earliest' | 'latest' | 'none';
  /** Whether positions are committed from time to time; true by default. */
  enableAutoCommit?: boolean;
  /** How often; 5000 by default. */
  autoCommitIntervalMs?: number;
  /** How many records one poll returns at most; 500 by default. */
  maxPollRecords?: number;
  /** How long a member may go without a poll before its partitions go to others; 300000 by default. */
  maxPollIntervalMs?: number;
  /** How long a member may be silent before the group goes on without it; 45000 by default. */
  sessionTimeoutMs?: number;
  /** How often a member says that it is there; 3000 by default. */
  heartbeatIntervalMs?: number;
  /** How much a broker waits for before it answers, in bytes; 1 by default. */
  fetchMinBytes?: number;
  /** How long it waits for that; 500 by default. */
  fetchMaxWaitMs?: number;
  /** How much an answer holds at most, in bytes. */
  fetchMaxBytes?: number;
  /** How much an answer holds of one partition, in bytes. */
  maxPartitionFetchBytes?: number;
  /** Whether records of open and aborted transactions are returned. */
  isolationLevel?: 'read_uncommitted' | 'read_committed';
  /** How the group's leader shares partitions out, in order of preference. */
  partitionAssignmentStrategy?: 'range' | 'roundrobin' | ReadonlyArray<'range' | 'roundrobin'>;
}

/** What is told when a group member's assignment changes. What it returns is waited for. */
export interface RebalanceListener {
  /** These are about to go to others: the last moment to commit. */
  onPartitionsRevoked?(partitions: TopicPartition[]): unknown;
  /** These are ours now. */
  onPartitionsAssigned?(partitions: TopicPartition[]): unknown;
  /** These are others' already. */
  onPartitionsLost?(partitions: TopicPartition[]): unknown;
}

/** An offset to commit, or that was committed: the next one to consume. */
export interface OffsetAndMetadata {
  offset: number;
  /** What the application keeps with it. */
  metadata?: string;
  /** The leader epoch of the record before it. */
  leaderEpoch?: number | null;
}

/** The offset of something in a partition. */
export interface TopicPartitionOffset extends TopicPartition {
  offset: number;
}

/** What `poll` is told. */
export interface PollOptions extends Waiting {
  /** How many records to return at most; `maxPollRecords` by default. */
  maxRecords?: number;
}

/** What iteration is told. */
export interface RecordsOptions {
  /** Ends the loop when nothing has come for so long; without it, the loop waits for ever. */
  idleMs?: number;
  /** Ends the loop by an error: the signal's reason. */
  signal?: AbortSignal;
}

/** A consumer's place in its group. */
export interface GroupMetadata {
  groupId: string;
  /** -1 while it is in none. */
  generationId: number;
  memberId: string;
  groupInstanceId: string | null;
}

/** How long calls wait when nothing is said. */
const TIMEOUT_MS = 60_000;

/** How long a member that iterates waits at once. */
const ITERATION_MS = 60_000;

// Only brokers make consumers; set by the class.
let make: (handle: Handle, newStop: () => Stop, closed: () => void) => Consumer;

/** @internal */
export const makeConsumer: typeof make = (...parts) => make(...parts);

/**
 * Consumes records, by itself or as a member of a group.
 *
 * Either iterate (`for await`), where each record counts as consumed when the loop has it, or call {@link Consumer.poll}, where what a
 * poll returned counts as consumed when the next one is called. Breaking off a loop loses nothing: the next loop or poll goes on there.
 *
 * @example
 * await using consumer = broker.consumer({ groupId: 'billing', autoOffsetReset: 'earliest' });
 * await consumer.subscribe(['orders']);
 * for await (const record of consumer) {
 *   console.log(record.offset, record.keyText(), record.json());
 * }
 */
export class Consumer implements AsyncIterable<ConsumerRecord> {
  readonly #handle: Handle;
  readonly #newStop: () => Stop;
  readonly #onClosed: () => void;
  readonly #topicNames: string[] = [];
  /** Records that a loop has not come to, from `#next` on. */
  #ahead: ConsumerRecord[] = [];
  #next = 0;
  /** Offsets after the last record that a loop has had, by partition; told to the module when it matters. */
  #had = new Map<string, TopicPartitionOffset>();
  #listener: RebalanceListener | undefined;
  #polling = false;
  #closing: Promise<void> | undefined;

  private constructor(handle: Handle, newStop: () => Stop, closed: () => void) {
    this.#handle = handle;
    this.#newStop = newStop;
    this.#onClosed = closed;
  }

  static {
    make = (...parts) => new this(...parts);
  }

  /**
   * Consumes these topics (all of their partitions, or with a group those that it assigns), or those whose names match.
   *
   * With `autoOffsetReset: 'latest'` nothing is missed that is sent after this has returned.
   */
  async subscribe(
    topics: readonly string[] | RegExp,
    { listener, timeoutMs = TIMEOUT_MS }: { listener?: RebalanceListener; timeoutMs?: number } = {},
  ): Promise<void> {
    this.#checkOpen();
    const listens = listener !== undefined;
    if (topics instanceof RegExp) {
      // Without the state that flags `g` and `y` would keep between calls.
      const pattern = new RegExp(topics.source, topics.flags.replace(/[gy]/g, ''));
      this.#handle.subscribeMatching((name: string) => pattern.test(name), listens);
    } else {
      this.#handle.subscribe([...topics], listens);
    }
    this.#listener = listener;
    await alive(this.#handle.noteEnds(timeoutMs));
  }

  /** Gives up subscription and assignment, and leaves the group. */
  unsubscribe(): void {
    this.#checkOpen();
    this.#settle();
    this.#handle.unsubscribe();
    this.#forget();
  }

  /** The topics subscribed to. */
  subscription(): string[] {
    return this.#handle.subscription();
  }

  /** Consumes these partitions and no others; those that stay keep their positions. */
  assign(partitions: readonly TopicPartition[]): void {
    this.#checkOpen();
    this.#settle();
    this.#handle.assign(...split(partitions));
    this.#forget((record) => !partitions.some((partition) => isIn(record, partition)));
  }

  /** The partitions that are consumed now. */
  assignment(): TopicPartition[] {
    return joined(this.#handle.assignment());
  }

  /**
   * Waits for records, `timeoutMs` at most (not at all by default), and returns those that are there: an empty list when the time is up.
   *
   * What a poll returned counts as consumed when the next one is called; auto-commit goes by that.
   */
  async poll({ timeoutMs = 0, maxRecords, signal }: PollOptions = {}): Promise<ConsumerRecord[]> {
    this.#startPolling();
    try {
      if (this.#next < this.#ahead.length) {
        const rest = this.#ahead.slice(this.#next, maxRecords === undefined ? undefined : this.#next + maxRecords);
        this.#next += rest.length;
        rest.forEach((record) => this.#note(record));
        return rest;
      }
      this.#settle();
      return (await this.#poll(timeoutMs, maxRecords, false, signal)) ?? [];
    } finally {
      this.#polling = false;
    }
  }

  /**
   * The records as they come, one after the other; without options the consumer itself is the same.
   *
   * A record counts as consumed when the loop has it, so `commit` in the loop includes it.
   */
  async *records({ idleMs = Infinity, signal }: RecordsOptions = {}): AsyncGenerator<ConsumerRecord, void, undefined> {
    let deadline = performance.now() + idleMs;
    while (true) {
      while (this.#next < this.#ahead.length) {
        signal?.throwIfAborted();
        const record = this.#ahead[this.#next]!;
        this.#next += 1;
        this.#note(record);
        yield record;
        deadline = performance.now() + idleMs;
      }
      if (this.#closing) {
        return;
      }
      this.#startPolling();
      try {
        this.#settle();
        const left = Math.max(deadline - performance.now(), 0);
        const records = await this.#poll(Math.min(left, ITERATION_MS), undefined, true, signal);
        if (records) {
          this.#ahead = records;
          this.#next = 0;
        } else if (left <= ITERATION_MS) {
          return;
        }
      } catch (error) {
        if (this.#closing && error instanceof OttlaError && error.kind === 'closed') {
          return;
        }
        throw error;
      } finally {
        this.#polling = false;
      }
    }
  }

  [Symbol.asyncIterator](): AsyncGenerator<ConsumerRecord, void, undefined> {
    return this.records();
  }

  /** Goes on at this offset. */
  seek({ topic, partition, offset }: TopicPartitionOffset): void {
    this.#checkOpen();
    this.#settle();
    this.#handle.seek(topic, partition, whole(offset, 'offset'));
    this.#forget((record) => isIn(record, { topic, partition }));
  }

  /** Goes on at the first record of each partition; of all that are assigned if none is named. */
  seekToBeginning(partitions: readonly TopicPartition[] = []): void {
    this.#checkOpen();
    this.#settle();
    this.#handle.seekToBeginning(...split(partitions));
    this.#forget((record) => partitions.length === 0 || partitions.some((partition) => isIn(record, partition)));
  }

  /** Goes on after the last record of each partition; of all that are assigned if none is named. */
  seekToEnd(partitions: readonly TopicPartition[] = []): void {
    this.#checkOpen();
    this.#settle();
    this.#handle.seekToEnd(...split(partitions));
    this.#forget((record) => partitions.length === 0 || partitions.some((partition) => isIn(record, partition)));
  }

  /** The next offset to consume, once it is known. */
  async position({ topic, partition }: TopicPartition, { timeoutMs = TIMEOUT_MS } = {}): Promise<number> {
    this.#checkOpen();
    this.#settle();
    return alive(this.#handle.position(topic, partition, timeoutMs));
  }

  /** Returns no records of these partitions until they are resumed. */
  pause(partitions: readonly TopicPartition[]): void {
    this.#checkOpen();
    this.#settle();
    this.#handle.pause(...split(partitions));
    for (const partition of partitions) {
      // What was fetched ahead is fetched again when it is wanted.
      const first = this.#ahead.slice(this.#next).find((record) => isIn(record, partition));
      if (first) {
        this.#handle.seek(partition.topic, partition.partition, first.offset);
        this.#forget((record) => isIn(record, partition));
      }
    }
  }

  /** Returns records of these partitions again. */
  resume(partitions: readonly TopicPartition[]): void {
    this.#checkOpen();
    this.#handle.resume(...split(partitions));
  }

  /** The partitions that are paused. */
  paused(): TopicPartition[] {
    return joined(this.#handle.paused());
  }

  /**
   * Commits these offsets (each the next one to consume), or where the consumer stands in all its partitions; waits for the answer.
   *
   * @example
   * await consumer.commit([{ topic: 'orders', partition: 0, offset: record.offset + 1 }]);
   */
  async commit(
    offsets?: ReadonlyArray<TopicPartition & OffsetAndMetadata>,
    { timeoutMs = TIMEOUT_MS } = {},
  ): Promise<void> {
    this.#checkOpen();
    this.#settle();
    if (!offsets) {
      return alive(this.#handle.commitPositions(timeoutMs));
    }
    return alive(
      this.#handle.commit(
        ...split(offsets),
        Float64Array.from(offsets, ({ offset }) => whole(offset, 'offset')),
        offsets.map(({ metadata = '' }) => metadata),
        Int32Array.from(offsets, ({ leaderEpoch }) => leaderEpoch ?? -1),
        timeoutMs,
      ),
    );
  }

  /** What the group committed for each of these partitions, in their order; null where it did not. */
  async committed(
    partitions: readonly TopicPartition[],
    { timeoutMs = TIMEOUT_MS } = {},
  ): Promise<Array<Required<OffsetAndMetadata> | null>> {
    this.#checkOpen();
    const found: Array<[number, string, number] | null> = await alive(
      this.#handle.committed(...split(partitions), timeoutMs),
    );
    return found.map(
      (each) => each && { offset: each[0], metadata: each[1], leaderEpoch: each[2] < 0 ? null : each[2] },
    );
  }

  /** Where the logs of these partitions start, in their order. */
  async beginningOffsets(partitions: readonly TopicPartition[], { timeoutMs = TIMEOUT_MS } = {}): Promise<number[]> {
    this.#checkOpen();
    return [...(await alive(this.#handle.beginningOffsets(...split(partitions), timeoutMs)))];
  }

  /** Where the logs of these partitions end, in their order: the offset that the next record gets. */
  async endOffsets(partitions: readonly TopicPartition[], { timeoutMs = TIMEOUT_MS } = {}): Promise<number[]> {
    this.#checkOpen();
    return [...(await alive(this.#handle.endOffsets(...split(partitions), timeoutMs)))];
  }

  /** The first record of each partition whose timestamp is `timestamp` or later, in their order; null where there is none. */
  async offsetsForTimes(
    times: ReadonlyArray<TopicPartition & { timestamp: number | Date }>,
    { timeoutMs = TIMEOUT_MS } = {},
  ): Promise<Array<{ offset: number; timestamp: number; leaderEpoch: number | null } | null>> {
    this.#checkOpen();
    const at = Float64Array.from(times, ({ timestamp }) => whole(Number(timestamp), 'timestamp'));
    const found = await alive(this.#handle.offsetsForTimes(...split(times), at, timeoutMs));
    return times.map((_, index) => {
      const [offset, timestamp, epoch] = found.subarray(3 * index) as unknown as [number, number, number];
      return offset < 0 ? null : { offset, timestamp, leaderEpoch: epoch < 0 ? null : epoch };
    });
  }

  /** The names of all topics. */
  async topics({ timeoutMs = TIMEOUT_MS } = {}): Promise<string[]> {
    this.#checkOpen();
    return alive(this.#handle.topics(timeoutMs));
  }

  /** The partitions of a topic; null when there is no such topic. */
  async partitionsFor(topic: string, { timeoutMs = TIMEOUT_MS } = {}): Promise<TopicPartition[] | null> {
    this.#checkOpen();
    const count = await alive(this.#handle.partitionCount(topic, timeoutMs));
    return count === undefined ? null : Array.from({ length: count }, (_, partition) => ({ topic, partition }));
  }

  /** The place in the group; null without one. */
  groupMetadata(): GroupMetadata | null {
    const parts: [string, number, string, string | undefined] | undefined = this.#handle.groupMetadata() as never;
    return parts
      ? { groupId: parts[0], generationId: parts[1], memberId: parts[2], groupInstanceId: parts[3] ?? null }
      : null;
  }

  /** Commits if it does so by itself (unless `commit` is false), leaves the group and ends loops. */
  close({ commit = true, timeoutMs = TIMEOUT_MS }: { commit?: boolean; timeoutMs?: number } = {}): Promise<void> {
    this.#closing ??= alive(this.#close(commit, timeoutMs));
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(commit: boolean, timeoutMs: number): Promise<void> {
    this.#settle();
    this.#forget();
    try {
      await this.#handle.close(commit, timeoutMs);
    } finally {
      this.#onClosed();
    }
  }

  /** Records; undefined when the time is up. Tells the listener what happens on the way. */
  async #poll(
    timeoutMs: number,
    maxRecords: number | undefined,
    ahead: boolean,
    signal: AbortSignal | undefined,
  ): Promise<ConsumerRecord[] | undefined> {
    signal?.throwIfAborted();
    const deadline = performance.now() + timeoutMs;
    const stop = this.#newStop();
    const abort = (): void => stop.stop();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      while (true) {
        const left = Math.max(deadline - performance.now(), 0);
        const polled: Uint8Array | unknown[][] | undefined = await alive(
          this.#handle.poll(left, maxRecords, ahead, stop),
        );
        await breathe();
        if (!Array.isArray(polled)) {
          if (!polled) {
            signal?.throwIfAborted();
            return undefined;
          }
          return unpack(polled, this.#topicName);
        }
        for (const [name, ...partitions] of polled) {
          await this.#tell(name as string, joined(partitions));
        }
        signal?.throwIfAborted();
      }
    } finally {
      signal?.removeEventListener('abort', abort);
      stop.free();
    }
  }

  async #tell(event: string, partitions: TopicPartition[]): Promise<void> {
    const listener = this.#listener;
    if (event === 'revoked') {
      await listener?.onPartitionsRevoked?.(partitions);
    } else if (event === 'lost') {
      await listener?.onPartitionsLost?.(partitions);
    } else {
      await listener?.onPartitionsAssigned?.(partitions);
    }
  }

  #topicName = (place: number): string => (this.#topicNames[place] ??= this.#handle.topicName(place) ?? '');

  /** A loop has had this record. */
  #note({ topic, partition, offset }: ConsumerRecord): void {
    const key = `${partition} ${topic}`;
    const had = this.#had.get(key);
    if (had) {
      had.offset = offset + 1;
    } else {
      this.#had.set(key, { topic, partition, offset: offset + 1 });
    }
  }

  /** Tells the module what loops have had. */
  #settle(): void {
    if (this.#had.size > 0) {
      const had = [...this.#had.values()];
      this.#had.clear();
      this.#handle.advance(...split(had), Float64Array.from(had, ({ offset }) => offset));
    }
  }

  /** Drops records that were fetched ahead. */
  #forget(which: (record: ConsumerRecord) => boolean = () => true): void {
    this.#ahead = this.#ahead.slice(this.#next).filter((record) => !which(record));
    this.#next = 0;
  }

  #startPolling(): void {
    this.#checkOpen();
    if (this.#polling) {
      throw new OttlaError('invalid', 'the consumer is polled already: one poll or loop at a time');
    }
    this.#polling = true;
  }

  #checkOpen(): void {
    if (this.#closing) {
      throw new OttlaError('closed', 'the consumer is closed');
    }
  }
}

/** @internal Partitions as the module takes them. */
export function split(partitions: readonly TopicPartition[]): [string[], Int32Array] {
  return [
    partitions.map(({ topic }) => {
      if (typeof topic !== 'string') {
        throw new OttlaError('invalid', 'a partition has no topic');
      }
      return topic;
    }),
    Int32Array.from(partitions, ({ partition }) => {
      if (!Number.isInteger(partition) || partition < 0 || partition >= 2 ** 31) {
        throw new OttlaError('invalid', `a partition is a number from 0 on partition=${partition}`);
      }
      return partition;
    }),
  ];
}

/** @internal Partitions as the module returns them. */
export function joined(flat: readonly unknown[]): TopicPartition[] {
  const partitions: TopicPartition[] = [];
  for (let index = 0; index < flat.length; index += 2) {
    partitions.push({ topic: flat[index] as string, partition: flat[index + 1] as number });
  }
  return partitions;
}

function isIn(record: ConsumerRecord, { topic, partition }: TopicPartition): boolean {
  return record.partition === partition && record.topic === topic;
}

/** @internal A number that is whole, and exact. */
export function whole(number: number, name: string): number {
  if (!Number.isSafeInteger(number)) {
    throw new OttlaError('invalid', `expected a whole number name=${name} value=${number}`);
  }
  return number;
}
