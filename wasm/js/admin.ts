import type { Admin as Handle } from '../build/glue.js';
import { alive } from './alive.js';
import { joined, type OffsetAndMetadata, split, type TopicPartitionOffset, whole } from './consumer.js';
import { OttlaError } from './errors.js';
import type { TopicPartition } from './record.js';

/** A topic to create. */
export interface NewTopic {
  topic: string;
  /** How many; the broker's default if left out. */
  numPartitions?: number;
  /** How many replicas of each; the broker's default if left out. */
  replicationFactor?: number;
  /** Its configuration, in Kafka's names: `{ 'cleanup.policy': 'compact' }`. */
  configs?: Readonly<Record<string, string | number | boolean>>;
}

/** A topic in detail. */
export interface TopicDescription {
  topic: string;
  topicId: string;
  isInternal: boolean;
  partitions: PartitionDescription[];
}

/** A partition in detail; brokers are numbers. */
export interface PartitionDescription {
  partition: number;
  leader: number | null;
  leaderEpoch: number | null;
  replicas: number[];
  inSyncReplicas: number[];
}

/** What has a configuration: a topic by name, or a broker by number. */
export type ConfigResource = { topic: string } | { broker: number };

/** A line of a configuration. */
export interface ConfigEntry {
  name: string;
  /** Null if it has none, or if it is sensitive and not shown. */
  value: string | null;
  readOnly: boolean;
  sensitive: boolean;
  /** Whether it is Kafka's default, as nobody has set it. */
  isDefault: boolean;
}

/** A group, as a list has it. */
export interface GroupListing {
  groupId: string;
  protocolType: string;
  state: string;
  groupType: string;
}

/** A group in detail. */
export interface GroupDescription {
  groupId: string;
  state: string;
  protocolType: string;
  /** The assignor that it uses. */
  protocol: string;
  members: MemberDescription[];
}

/** A member of a group. */
export interface MemberDescription {
  memberId: string;
  groupInstanceId: string | null;
  clientId: string;
  clientHost: string;
  assignment: TopicPartition[];
}

/** A record's place by time. */
export interface ListedOffset extends TopicPartitionOffset {
  /** -1 where there is none. */
  timestamp: number;
  leaderEpoch: number | null;
}

/** A cluster. */
export interface ClusterDescription {
  clusterId: string | null;
  controller: number | null;
  brokers: Array<{ nodeId: number; host: string; port: number }>;
}

/** How long a call waits for its answer; a minute by default. */
export interface AdminOptions {
  timeoutMs?: number;
}

/** As {@link AdminOptions}, for calls that can be tried without effect. */
export interface AlterOptions extends AdminOptions {
  /** Only says whether it could be done. */
  validateOnly?: boolean;
}

const TIMEOUT_MS = 60_000;

/** Kafka's number for a value that is a default. */
const DEFAULT_CONFIG = 5;

const TIMES = { latest: -1, earliest: -2, maxTimestamp: -3 };

/** The answer about one of many: its name, an error or undefined, and what was found. */
type Outcome = [name: string, error: OttlaError | undefined, ...found: unknown[]];

// Only brokers make admins; set by the class.
let make: (handle: Handle) => Admin;

/** @internal */
export const makeAdmin: typeof make = (handle) => make(handle);

/**
 * Topics, configurations, groups and offsets.
 *
 * A call about several things does what it can. If one of them failed, the call rejects with its {@link KafkaError}; if several failed,
 * with an `AggregateError` of theirs; the messages name them, and the others were done.
 *
 * @example
 * await broker.admin().createTopics([{ topic: 'orders', numPartitions: 6 }]);
 */
export class Admin {
  readonly #handle: Handle;

  private constructor(handle: Handle) {
    this.#handle = handle;
  }

  static {
    make = (handle) => new this(handle);
  }

  /** Creates topics. */
  async createTopics(
    topics: readonly NewTopic[],
    { timeoutMs = TIMEOUT_MS, validateOnly = false }: AlterOptions = {},
  ): Promise<void> {
    const created = this.#handle.createTopics(
      topics.map(({ topic }) => topic),
      Int32Array.from(topics, ({ numPartitions = -1 }) => whole(numPartitions, 'numPartitions')),
      Int16Array.from(topics, ({ replicationFactor = -1 }) => whole(replicationFactor, 'replicationFactor')),
      topics.map(({ configs = {} }) => Object.entries(configs).flatMap(([name, value]) => [name, String(value)])),
      validateOnly,
      timeoutMs,
    );
    check(await alive(created));
  }

  /** Deletes topics and all that is in them. */
  async deleteTopics(topics: readonly string[], { timeoutMs = TIMEOUT_MS }: AdminOptions = {}): Promise<void> {
    check(await alive(this.#handle.deleteTopics([...topics], timeoutMs)));
  }

  /** The names of all topics, in their order. */
  async listTopics({ timeoutMs = TIMEOUT_MS }: AdminOptions = {}): Promise<string[]> {
    const topics: Outcome[] = await alive(this.#handle.listTopics(timeoutMs));
    return topics.map(([name]) => name);
  }

  /** Topics with their partitions. */
  async describeTopics(
    topics: readonly string[],
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<TopicDescription[]> {
    return check(await alive(this.#handle.describeTopics([...topics], timeoutMs))).map(
      ([topic, , topicId, isInternal, partitions]) => ({
        topic,
        topicId: topicId as string,
        isInternal: isInternal as boolean,
        partitions: (partitions as Array<[number, number, Int32Array, Int32Array]>).map(
          ([leader, leaderEpoch, replicas, inSyncReplicas], partition) => ({
            partition,
            leader: known(leader),
            leaderEpoch: known(leaderEpoch),
            replicas: [...replicas],
            inSyncReplicas: [...inSyncReplicas],
          }),
        ),
      }),
    );
  }

  /** Gives topics more partitions: `numPartitions` is how many each shall have. */
  async createPartitions(
    topics: ReadonlyArray<{ topic: string; numPartitions: number }>,
    { timeoutMs = TIMEOUT_MS, validateOnly = false }: AlterOptions = {},
  ): Promise<void> {
    const created = this.#handle.createPartitions(
      topics.map(({ topic }) => topic),
      Int32Array.from(topics, ({ numPartitions }) => whole(numPartitions, 'numPartitions')),
      validateOnly,
      timeoutMs,
    );
    check(await alive(created));
  }

  /**
   * Raises log start offsets: records below are gone. An offset of -1 means all records. Returns the new log start offsets, in the
   * order of the partitions.
   */
  async deleteRecords(
    offsets: readonly TopicPartitionOffset[],
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<number[]> {
    const before = Float64Array.from(offsets, ({ offset }) => whole(offset, 'offset'));
    const deleted = await alive(this.#handle.deleteRecords(...split(offsets), before, timeoutMs));
    return check(deleted).map(([, , start]) => start as number);
  }

  /**
   * Offsets by time, in the order of the partitions: where a log starts (`'earliest'`) or ends (`'latest'`), its record with the
   * largest timestamp, or the first record of a time or later. An offset of -1 says that there is none.
   */
  async listOffsets(
    partitions: ReadonlyArray<TopicPartition & { at: 'earliest' | 'latest' | 'maxTimestamp' | number | Date }>,
    {
      timeoutMs = TIMEOUT_MS,
      isolationLevel = 'read_uncommitted',
    }: AdminOptions & { isolationLevel?: 'read_uncommitted' | 'read_committed' } = {},
  ): Promise<ListedOffset[]> {
    const times = Float64Array.from(partitions, ({ at }) => (typeof at === 'string' ? TIMES[at] : whole(Number(at), 'at')));
    const committed = isolationLevel === 'read_committed';
    const listed = await alive(this.#handle.listOffsets(...split(partitions), times, committed, timeoutMs));
    return check(listed).map(([, , offset, timestamp, leaderEpoch], index) => ({
      topic: partitions[index]!.topic,
      partition: partitions[index]!.partition,
      offset: offset as number,
      timestamp: timestamp as number,
      leaderEpoch: known(leaderEpoch as number),
    }));
  }

  /** The configuration of a topic or broker. */
  async describeConfigs(
    of: ConfigResource,
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<ConfigEntry[]> {
    const lines: Array<[string, string | null, boolean, boolean, number]> = await alive(
      this.#handle.describeConfigs(...resource(of), timeoutMs),
    );
    return lines.map(([name, value, readOnly, sensitive, source]) => ({
      name,
      value,
      readOnly,
      sensitive,
      isDefault: source === DEFAULT_CONFIG,
    }));
  }

  /** Changes lines of a configuration, and no others; null is the default again. */
  async incrementalAlterConfigs(
    of: ConfigResource,
    changes: Readonly<Record<string, string | number | boolean | null>>,
    { timeoutMs = TIMEOUT_MS, validateOnly = false }: AlterOptions = {},
  ): Promise<void> {
    const names = Object.keys(changes);
    const values = names.map((name) => (changes[name] == null ? null : String(changes[name])));
    await alive(this.#handle.alterConfigs(...resource(of), names, values, validateOnly, timeoutMs));
  }

  /** All groups, by name. */
  async listConsumerGroups({ timeoutMs = TIMEOUT_MS }: AdminOptions = {}): Promise<GroupListing[]> {
    const groups: Array<[string, string, string, string]> = await alive(this.#handle.listGroups(timeoutMs));
    return groups.map(([groupId, protocolType, state, groupType]) => ({ groupId, protocolType, state, groupType }));
  }

  /** Groups with their members. */
  async describeConsumerGroups(
    groupIds: readonly string[],
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<GroupDescription[]> {
    return check(await alive(this.#handle.describeGroups([...groupIds], timeoutMs))).map(
      ([groupId, , state, protocolType, protocol, members]) => ({
        groupId,
        state: state as string,
        protocolType: protocolType as string,
        protocol: protocol as string,
        members: (members as Array<[string, string | null, string, string, unknown[]]>).map(
          ([memberId, groupInstanceId, clientId, clientHost, assignment]) => ({
            memberId,
            groupInstanceId,
            clientId,
            clientHost,
            assignment: joined(assignment),
          }),
        ),
      }),
    );
  }

  /** Deletes groups that have no members, and what they committed. */
  async deleteConsumerGroups(
    groupIds: readonly string[],
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<void> {
    check(await alive(this.#handle.deleteGroups([...groupIds], timeoutMs)));
  }

  /** What a group committed. */
  async listConsumerGroupOffsets(
    groupId: string,
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<Array<TopicPartition & Required<OffsetAndMetadata>>> {
    const found: Array<[string, number, number, string, number]> = await alive(
      this.#handle.listGroupOffsets(groupId, timeoutMs),
    );
    return found.map(([topic, partition, offset, metadata, leaderEpoch]) => ({
      topic,
      partition,
      offset,
      metadata,
      leaderEpoch: known(leaderEpoch),
    }));
  }

  /** Commits offsets in a group's name; it must have no members that are subscribed to these topics. */
  async alterConsumerGroupOffsets(
    groupId: string,
    offsets: ReadonlyArray<TopicPartition & OffsetAndMetadata>,
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<void> {
    const altered = this.#handle.alterGroupOffsets(
      groupId,
      ...split(offsets),
      Float64Array.from(offsets, ({ offset }) => whole(offset, 'offset')),
      offsets.map(({ metadata = '' }) => metadata),
      timeoutMs,
    );
    check(await alive(altered));
  }

  /** Forgets what a group committed for these partitions. */
  async deleteConsumerGroupOffsets(
    groupId: string,
    partitions: readonly TopicPartition[],
    { timeoutMs = TIMEOUT_MS }: AdminOptions = {},
  ): Promise<void> {
    check(await alive(this.#handle.deleteGroupOffsets(groupId, ...split(partitions), timeoutMs)));
  }

  /** The brokers, the controller, the cluster's id. */
  async describeCluster({ timeoutMs = TIMEOUT_MS }: AdminOptions = {}): Promise<ClusterDescription> {
    const [clusterId, controller, brokers] = (await alive(this.#handle.describeCluster(timeoutMs))) as unknown as [
      string | null,
      number,
      Array<[number, string, number]>,
    ];
    return {
      clusterId,
      controller: known(controller),
      brokers: brokers.map(([nodeId, host, port]) => ({ nodeId, host, port })),
    };
  }
}

/** The outcomes, if all went well. */
function check(outcomes: Outcome[]): Outcome[] {
  const errors = outcomes.flatMap(([, error]) => error ?? []);
  if (errors.length > 1) {
    throw new AggregateError(errors, errors.map(({ message }) => message).join('; '));
  }
  if (errors[0]) {
    throw errors[0];
  }
  return outcomes;
}

function resource(of: ConfigResource): [kind: string, name: string] {
  return 'topic' in of ? ['topic', of.topic] : ['broker', String(of.broker)];
}

function known(number: number): number | null {
  return number < 0 ? null : number;
}
