// KafkaJS. The steps and their shapes are described in common.py.

import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'

const require = createRequire(`${process.env.KAFKAJS_HOME}/`)
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')
await zstd.init()

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})
const CODECS = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }
const PATIENCE = 45_000

const client = (bootstrap) => new Kafka({ clientId: 'ottla-tests', brokers: bootstrap.split(','), logLevel: logLevel.ERROR })
const encode = (data) => (data === null || data === undefined ? null : Buffer.from(data).toString('base64'))
const decode = (data) => (data === null ? null : Buffer.from(data, 'base64'))
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function until(condition, what) {
  const end = Date.now() + PATIENCE
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited too long for ${what}`)
    await pause(20)
  }
}

async function withAdmin(bootstrap, work) {
  const admin = client(bootstrap).admin()
  await admin.connect()
  try {
    return await work(admin)
  } finally {
    await admin.disconnect()
  }
}

const create = ({ bootstrap, topic, partitions }) =>
  withAdmin(bootstrap, async (admin) => {
    const made = await admin.createTopics({ topics: [{ topic, numPartitions: partitions, replicationFactor: 1 }], timeout: 20_000 })
    if (!made) throw new Error(`${topic} is there already`)
  })

const topics = ({ bootstrap }) =>
  withAdmin(bootstrap, async (admin) => {
    const { topics } = await admin.fetchTopicMetadata()
    return Object.fromEntries(topics.map((topic) => [topic.name, topic.partitions.length]))
  })

// KafkaJS keeps headers in an object: one name with several values is a list.
function headersIn(headers) {
  const result = {}
  for (const [name, value] of headers) {
    if (name in result) result[name] = [result[name], decode(value)].flat()
    else result[name] = decode(value)
  }
  return result
}

async function produce({ bootstrap, topic, codec, records }) {
  const producer = client(bootstrap).producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const messages = records.map((record) => ({
    partition: record.partition,
    key: decode(record.key),
    value: decode(record.value),
    timestamp: String(record.timestamp),
    headers: headersIn(record.headers),
  }))
  const results = await producer.send({ topic, messages, acks: -1, compression: CompressionTypes[CODECS[codec]] })
  await producer.disconnect()
  // It tells the base offset of each partition; the records of a partition keep their order.
  const next = new Map(results.map((result) => [result.partition, Number(result.baseOffset)]))
  return records.map(({ partition }) => {
    const offset = next.get(partition)
    next.set(partition, offset + 1)
    return [partition, offset]
  })
}

const out = (partition, message) => ({
  partition,
  offset: Number(message.offset),
  timestamp: Number(message.timestamp),
  key: encode(message.key),
  value: encode(message.value),
  headers: Object.entries(message.headers ?? {}).flatMap(([name, value]) => [value].flat().map((each) => [name, encode(each)])),
})

// A member of a group, its records and the partitions it has. It commits what it read when it is told to, and before it leaves.
async function member(bootstrap, group, topic, commits = true) {
  const consumer = client(bootstrap).consumer({
    groupId: group,
    sessionTimeout: 10_000,
    heartbeatInterval: 300,
    rebalanceTimeout: 10_000,
    maxWaitTimeInMs: 100,
  })
  const state = { consumer, records: [], partitions: [], failure: null }
  const read = new Map()
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    state.partitions = [...(payload.memberAssignment[topic] ?? [])].sort((a, b) => a - b)
  })
  consumer.on(consumer.events.REBALANCING, () => {
    state.partitions = []
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    state.failure = payload.error
  })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      state.records.push(out(partition, message))
      read.set(partition, Number(message.offset) + 1)
      if (commits) await consumer.commitOffsets([{ topic, partition, offset: String(Number(message.offset) + 1) }])
    },
  })
  state.leave = async () => {
    await consumer.disconnect()
    if (state.failure) throw state.failure
  }
  return state
}

async function consume({ bootstrap, topic, count }) {
  const reader = await member(bootstrap, `reader-${process.pid}-${Date.now()}`, topic, false)
  await until(() => reader.records.length >= count, `${count} records`)
  await reader.leave()
  return reader.records
}

const same = (a, b) => a.length === b.length && a.every((value, index) => value === b[index])

async function group({ bootstrap, topic, partitions, group, count }) {
  const everything = Array.from({ length: partitions }, (_, index) => index)
  const phases = []
  const first = await member(bootstrap, group, topic)
  await until(() => same(first.partitions, everything), "the first member's partitions")
  phases.push([first.partitions])
  const second = await member(bootstrap, group, topic)
  const shared = () => [...first.partitions, ...second.partitions].sort((a, b) => a - b)
  await until(
    () => first.partitions.length > 0 && second.partitions.length > 0 && same(shared(), everything),
    'partitions for both members',
  )
  phases.push([first.partitions, second.partitions])
  await until(() => first.records.length + second.records.length >= count, `${count} records`)
  await second.leave()
  await until(() => same(first.partitions, everything), 'the partitions of the member that left')
  phases.push([first.partitions])
  await first.leave()
  return { phases, records: [...first.records, ...second.records] }
}

async function resume({ bootstrap, topic, group, count }) {
  const found = await withAdmin(bootstrap, (admin) => admin.fetchOffsets({ groupId: group, topics: [topic] }))
  const committed = Object.fromEntries(found[0].partitions.map(({ partition, offset }) => [partition, Number(offset)]))
  const lone = await member(bootstrap, group, topic)
  await until(() => lone.records.length >= count, `${count} records`)
  await pause(1_000)
  await lone.leave()
  return { committed, records: lone.records }
}

const offsets = ({ bootstrap, topic, times }) =>
  withAdmin(bootstrap, async (admin) => {
    const ends = await admin.fetchTopicOffsets(topic)
    const pick = (name) => Object.fromEntries(ends.map((each) => [each.partition, Number(each[name])]))
    const latest = pick('high')
    const found = {}
    for (const time of times) {
      const answer = await admin.fetchTopicOffsetsByTimestamp(topic, time)
      // Where no record is that late, KafkaJS gives the end instead of Kafka's -1.
      const offset = (each) => (Number(each.offset) === latest[each.partition] ? -1 : Number(each.offset))
      found[time] = Object.fromEntries(answer.map((each) => [each.partition, offset(each)]))
    }
    return { earliest: pick('low'), latest, times: found }
  })

const deleteRecords = ({ bootstrap, topic, before }) =>
  withAdmin(bootstrap, async (admin) => {
    // It deletes only where it has looked before.
    await admin.fetchTopicOffsets(topic)
    const partitions = Object.entries(before).map(([partition, offset]) => ({ partition: Number(partition), offset: String(offset) }))
    await admin.deleteTopicRecords({ topic, partitions })
    const ends = await admin.fetchTopicOffsets(topic)
    return Object.fromEntries(ends.filter(({ partition }) => partition in before).map(({ partition, low }) => [partition, Number(low)]))
  })

const remove = ({ bootstrap, topic }) => withAdmin(bootstrap, (admin) => admin.deleteTopics({ topics: [topic], timeout: 20_000 }))

const STEPS = { create, topics, produce, consume, group, resume, offsets, delete_records: deleteRecords, delete: remove }

const request = JSON.parse(await text(process.stdin))
const result = await STEPS[request.step](request)
process.stdout.write(`${JSON.stringify(result ?? null)}\n`)
