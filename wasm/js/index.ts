/// <reference lib="esnext.disposable" preserve="true" />
export {
  Admin,
  type AdminOptions,
  type AlterOptions,
  type ClusterDescription,
  type ConfigEntry,
  type ConfigResource,
  type GroupDescription,
  type GroupListing,
  type ListedOffset,
  type MemberDescription,
  type NewTopic,
  type PartitionDescription,
  type TopicDescription,
} from './admin.js';
export { Broker, type BrokerOptions } from './broker.js';
export {
  Consumer,
  type ConsumerOptions,
  type GroupMetadata,
  type OffsetAndMetadata,
  type PollOptions,
  type RebalanceListener,
  type RecordsOptions,
  type TopicPartitionOffset,
} from './consumer.js';
export { type ErrorKind, KafkaError, OttlaError } from './errors.js';
export { load, type ModuleSource } from './module.js';
export type { ClientOptions } from './options.js';
export { type Bytes, Producer, type ProducerOptions, type ProducerRecord, type RecordMetadata } from './producer.js';
export { ConsumerRecord, type RecordHeader, type TimestampType, type TopicPartition } from './record.js';
export type { Waiting } from './waiting.js';
