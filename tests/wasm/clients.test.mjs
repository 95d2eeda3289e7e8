// Producer, consumer and admin on an embedded broker, through the package's face.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Broker, Consumer, ConsumerRecord, KafkaError, OttlaError, Producer } from '../../wasm/pkg/node.mjs';

/** Runs `act` on a broker that is closed afterwards. */
async function onBroker(act, options) {
  const broker = await Broker.open(options);
  try {
    await act(broker);
  } finally {
    await broker.close();
  }
}

async function take(consumer, count, options = { idleMs: 10_000 }) {
  const records = [];
  for await (const record of consumer.records(options)) {
    records.push(record);
    if (records.length === count) {
      break;
    }
  }
  return records;
}

/** The first `count` records of a topic, read without a group. */
async function read(broker, topic, count) {
  const consumer = broker.consumer({ autoOffsetReset: 'earliest' });
  await consumer.subscribe([topic]);
  const records = await take(consumer, count);
  await consumer.close();
  return records;
}

const offsets = (records) => records.map(({ offset }) => offset);

describe('producing and consuming', () => {
  for (const compressionType of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) {
    test(`records compressed with ${compressionType} come back as they were sent`, () =>
      onBroker(async (broker) => {
        const producer = broker.producer({ compressionType, lingerMs: 5 });
        const sent = Array.from({ length: 200 }, (_, n) => ({
          topic: 't',
          key: `key-${n % 7}`,
          value: `value ${n} `.repeat(n % 50),
          timestamp: 1_700_000_000_000 + n,
        }));
        const metadata = await Promise.all(sent.map((record) => producer.send(record)));
        assert.deepEqual(offsets(metadata), sent.map((_, n) => n));
        const records = await read(broker, 't', sent.length);
        assert.deepEqual(
          records.map((record) => [record.offset, record.keyText(), record.text(), record.timestamp]),
          sent.map(({ key, value, timestamp }, n) => [n, key, value, timestamp]),
        );
      }));
  }

  test('null and empty are kept apart, in keys, values and headers', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      await producer.send({ topic: 't' });
      await producer.send({ topic: 't', key: null, value: null, headers: { none: null } });
      await producer.send({ topic: 't', key: '', value: new Uint8Array(), headers: [['empty', '']] });
      const [nothing, nulls, empty] = await read(broker, 't', 3);
      assert.equal(nothing.key, null);
      assert.equal(nothing.value, null);
      assert.deepEqual(nothing.headers, []);
      assert.equal(nulls.key, null);
      assert.equal(nulls.text(), null);
      assert.equal(nulls.json(), null);
      assert.equal(nulls.header('none'), null);
      assert.equal(nulls.header('other'), undefined);
      assert.deepEqual(empty.key, new Uint8Array());
      assert.deepEqual(empty.value, new Uint8Array());
      assert.deepEqual(empty.header('empty'), new Uint8Array());
    }));

  test('headers keep their order and their repetitions', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      await producer.send({ topic: 't', value: 'v', headers: [['a', '1'], ['b', new Uint8Array([0, 255])], ['a', 'zwölf']] });
      const [record] = await read(broker, 't', 1);
      assert.deepEqual(
        record.headers.map(({ key, value }) => [key, Buffer.from(value).toString('latin1')]),
        [['a', '1'], ['b', '\x00\xff'], ['a', Buffer.from('zwölf').toString('latin1')]],
      );
      assert.equal(new TextDecoder().decode(record.header('a')), 'zwölf');
    }));

  test('a record tells where it is and whose time it has', () =>
    onBroker(async (broker) => {
      await broker.admin().createTopics([
        { topic: 't', numPartitions: 4, configs: { 'message.timestamp.type': 'LogAppendTime' } },
      ]);
      const producer = broker.producer();
      const before = Date.now();
      const metadata = await producer.send({ topic: 't', partition: 3, value: '{"a":[1]}', timestamp: new Date(5) });
      assert.deepEqual([metadata.topic, metadata.partition, metadata.offset], ['t', 3, 0]);
      const [record] = await read(broker, 't', 1);
      assert.ok(record instanceof ConsumerRecord);
      assert.deepEqual([record.topic, record.partition, record.offset], ['t', 3, 0]);
      assert.deepEqual(record.json(), { a: [1] });
      assert.equal(record.timestampType, 'LogAppendTime');
      assert.ok(record.timestamp >= before && record.timestamp <= Date.now());
      assert.equal(record.timestamp, metadata.timestamp);
      assert.equal(record.leaderEpoch, 0);
    }));

  test('a buffer may be used again as soon as send has returned', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      const value = new Uint8Array([1, 2, 3]);
      const sent = producer.send({ topic: 't', value });
      value.fill(9);
      await sent;
      assert.deepEqual((await read(broker, 't', 1))[0].value, new Uint8Array([1, 2, 3]));
    }));

  test('ten thousand records go through in order, and keys stay with their partitions', () =>
    onBroker(
      async (broker) => {
        const producer = broker.producer({ compressionType: 'lz4', bufferMemory: 300_000, batchSize: 4096 });
        const count = 10_000;
        const started = performance.now();
        const sends = [];
        for (let n = 0; n < count; n++) {
          sends.push(producer.send({ topic: 't', key: `k${n % 100}`, value: JSON.stringify({ n, text: 'x'.repeat(80) }) }));
        }
        await producer.flush();
        const sent = performance.now();
        const metadata = await Promise.all(sends);
        const consumer = broker.consumer({ autoOffsetReset: 'earliest', maxPollRecords: 1000 });
        await consumer.subscribe(['t']);
        const records = await take(consumer, count);
        const consumed = performance.now();
        const last = new Map();
        const home = new Map();
        for (const record of records) {
          const { n } = record.json();
          assert.deepEqual([record.partition, record.offset], [metadata[n].partition, metadata[n].offset]);
          assert.ok(record.offset === (last.get(record.partition) ?? -1) + 1);
          last.set(record.partition, record.offset);
          assert.equal(home.get(record.keyText()) ?? record.partition, record.partition);
          home.set(record.keyText(), record.partition);
        }
        assert.equal(last.size, 3);
        console.log(
          `# 10,000 records of 100 B: sent in ${(sent - started).toFixed(0)} ms, consumed in ${(consumed - sent).toFixed(0)} ms`,
        );
      },
      { numPartitions: 3 },
    ));

  test('others have their turn while records flow', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      let turns = 0;
      const timer = setInterval(() => turns++, 1);
      const until = performance.now() + 300;
      while (performance.now() < until) {
        await producer.send({ topic: 't', value: 'x' });
      }
      clearInterval(timer);
      assert.ok(turns >= 5, `${turns} turns`);
    }));
});

describe('groups', () => {
  test('a group goes on where it has committed', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      for (let n = 0; n < 10; n++) {
        await producer.send({ topic: 't', value: String(n) });
      }
      const options = { groupId: 'g', autoOffsetReset: 'earliest', enableAutoCommit: false };
      const first = broker.consumer(options);
      await first.subscribe(['t']);
      assert.deepEqual(offsets(await take(first, 4)), [0, 1, 2, 3]);
      await first.commit();
      // What the loop has had counts, what was fetched ahead does not.
      assert.deepEqual(await first.committed([{ topic: 't', partition: 0 }]), [
        { offset: 4, metadata: '', leaderEpoch: 0 },
      ]);
      assert.deepEqual(offsets(await take(first, 2)), [4, 5]);
      await first.close();

      const second = broker.consumer(options);
      await second.subscribe(['t']);
      assert.deepEqual(offsets(await take(second, 6)), [4, 5, 6, 7, 8, 9]);
      await second.commit([{ topic: 't', partition: 0, offset: 7, metadata: 'seven' }]);
      assert.deepEqual(await broker.admin().listConsumerGroupOffsets('g'), [
        { topic: 't', partition: 0, offset: 7, metadata: 'seven', leaderEpoch: null },
      ]);
    }));

  test('two members share the partitions, and one takes over when the other leaves', () =>
    onBroker(
      async (broker) => {
        await broker.admin().createTopics([{ topic: 't' }]);
        const told = [];
        const open = async (name) => {
          const consumer = broker.consumer({ groupId: 'g', autoOffsetReset: 'earliest', heartbeatIntervalMs: 100 });
          await consumer.subscribe(['t'], {
            listener: {
              onPartitionsAssigned: (partitions) => told.push([name, 'assigned', partitions.length]),
              onPartitionsRevoked: (partitions) => told.push([name, 'revoked', partitions.length]),
            },
          });
          return consumer;
        };
        const one = await open('one');
        const two = await open('two');
        const until = async (condition) => {
          const deadline = performance.now() + 20_000;
          while (!condition()) {
            assert.ok(performance.now() < deadline, `${JSON.stringify(told)}`);
            await Promise.all([one, two].filter(Boolean).map((each) => each.poll({ timeoutMs: 20 }).catch(() => {})));
          }
        };
        await until(() => one.assignment().length === 2 && two.assignment().length === 2);
        const all = [...one.assignment(), ...two.assignment()].map(({ partition }) => partition).sort();
        assert.deepEqual(all, [0, 1, 2, 3]);
        const [group] = await broker.admin().describeConsumerGroups(['g']);
        assert.equal(group.state, 'Stable');
        assert.equal(group.members.length, 2);
        assert.equal(group.protocol, 'range');
        await two.close();
        await until(() => one.assignment().length === 4);
        assert.ok(told.some(([name, what, count]) => name === 'one' && what === 'revoked' && count === 2));
        assert.deepEqual(told.findLast(([name]) => name === 'one'), ['one', 'assigned', 4]);
        assert.equal((await one.groupMetadata()).groupId, 'g');
      },
      { numPartitions: 4 },
    ));

  test('latest means since subscribe has returned', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      await producer.send({ topic: 't', value: 'before' });
      const consumer = broker.consumer({ groupId: 'g' });
      await consumer.subscribe(['t']);
      await producer.send({ topic: 't', value: 'after' });
      const [record] = await take(consumer, 1);
      assert.equal(record.text(), 'after');
    }));

  test('a pattern subscribes to topics that come later, too', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      await producer.send({ topic: 'log.a', value: '1' });
      await producer.send({ topic: 'other', value: '2' });
      const consumer = broker.consumer({ autoOffsetReset: 'earliest', metadataMaxAgeMs: 100 });
      await consumer.subscribe(/^log\./g);
      assert.deepEqual((await take(consumer, 1)).map(({ topic }) => topic), ['log.a']);
      await producer.send({ topic: 'log.b', value: '3' });
      assert.deepEqual((await take(consumer, 1)).map(({ topic }) => topic), ['log.b']);
    }));
});

describe('positions', () => {
  const partition = { topic: 't', partition: 0 };
  const filled = (act) =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      for (let n = 0; n < 10; n++) {
        await producer.send({ topic: 't', value: String(n), timestamp: 1000 + n });
      }
      const consumer = broker.consumer({ autoOffsetReset: 'earliest' });
      consumer.assign([partition]);
      await act(consumer, broker);
    });

  test('breaking off a loop loses nothing, and seeking drops what was ahead', () =>
    filled(async (consumer) => {
      assert.deepEqual(offsets(await take(consumer, 3)), [0, 1, 2]);
      assert.equal(await consumer.position(partition), 3);
      assert.deepEqual(offsets(await consumer.poll({ timeoutMs: 1000, maxRecords: 2 })), [3, 4]);
      assert.deepEqual(offsets(await take(consumer, 1)), [5]);
      consumer.seek({ ...partition, offset: 1 });
      assert.deepEqual(offsets(await take(consumer, 2)), [1, 2]);
      consumer.seekToBeginning();
      assert.deepEqual(offsets(await take(consumer, 1)), [0]);
      consumer.seekToEnd([partition]);
      assert.equal(await consumer.position(partition), 10);
      assert.deepEqual(await consumer.poll({ timeoutMs: 50 }), []);
    }));

  test('a paused partition is silent, and goes on where it was', () =>
    filled(async (consumer) => {
      assert.deepEqual(offsets(await take(consumer, 2)), [0, 1]);
      consumer.pause([partition]);
      assert.deepEqual(consumer.paused(), [partition]);
      assert.deepEqual(await consumer.poll({ timeoutMs: 50 }), []);
      consumer.resume([partition]);
      assert.deepEqual(offsets(await take(consumer, 2)), [2, 3]);
    }));

  test('offsets are found by time and at the ends', () =>
    filled(async (consumer, broker) => {
      assert.deepEqual(await consumer.beginningOffsets([partition]), [0]);
      assert.deepEqual(await consumer.endOffsets([partition]), [10]);
      assert.deepEqual(
        await consumer.offsetsForTimes([{ ...partition, timestamp: new Date(1004) }, { ...partition, timestamp: 1004 }]),
        [{ offset: 4, timestamp: 1004, leaderEpoch: 0 }, { offset: 4, timestamp: 1004, leaderEpoch: 0 }],
      );
      assert.deepEqual(await consumer.offsetsForTimes([{ ...partition, timestamp: 5000 }]), [null]);
      const listed = await broker.admin().listOffsets([{ ...partition, at: 'maxTimestamp' }]);
      assert.deepEqual([listed[0].offset, listed[0].timestamp], [9, 1009]);
      assert.deepEqual(await consumer.topics(), ['t']);
      assert.deepEqual(await consumer.partitionsFor('t'), [partition]);
      assert.equal(await consumer.partitionsFor('none'), null);
    }));

  test('a loop ends when nothing comes for idleMs, and when the consumer is closed', () =>
    filled(async (consumer) => {
      assert.equal((await take(consumer, Infinity, { idleMs: 100 })).length, 10);
      const waiting = take(consumer, 1, {});
      await new Promise((resolve) => setTimeout(resolve, 50));
      await consumer.close();
      assert.deepEqual(await waiting, []);
    }));

  test('a signal ends a poll with its reason, and the record comes with the next', () =>
    filled(async (consumer, broker) => {
      await take(consumer, 10);
      const reason = new Error('enough');
      const controller = new AbortController();
      const polled = consumer.poll({ timeoutMs: 60_000, signal: controller.signal });
      controller.abort(reason);
      await assert.rejects(polled, reason);
      await assert.rejects(consumer.poll({ signal: controller.signal }), reason);
      await broker.producer().send({ topic: 't', value: 'next' });
      assert.equal((await consumer.poll({ timeoutMs: 10_000 }))[0].text(), 'next');
    }));
});

describe('administration', () => {
  test('topics are created, described, altered and deleted', () =>
    onBroker(async (broker) => {
      const admin = broker.admin();
      await admin.createTopics([{ topic: 'a', numPartitions: 2, configs: { 'retention.ms': 60_000 } }, { topic: 'b' }]);
      await admin.createTopics([{ topic: 'c' }], { validateOnly: true });
      assert.deepEqual(await admin.listTopics(), ['a', 'b']);
      const [a] = await admin.describeTopics(['a']);
      assert.match(a.topicId, /^[0-9a-f-]{36}$/);
      assert.deepEqual(a.partitions[1], {
        partition: 1,
        leader: 0,
        leaderEpoch: 0,
        replicas: [0],
        inSyncReplicas: [0],
      });
      await admin.createPartitions([{ topic: 'a', numPartitions: 3 }]);
      assert.equal((await admin.describeTopics(['a']))[0].partitions.length, 3);
      const retention = async () =>
        (await admin.describeConfigs({ topic: 'a' })).find(({ name }) => name === 'retention.ms');
      assert.equal((await retention()).value, '60000');
      assert.equal((await retention()).isDefault, false);
      await admin.incrementalAlterConfigs({ topic: 'a' }, { 'retention.ms': null, 'segment.bytes': 2_000_000 });
      assert.equal((await retention()).value, '604800000');
      assert.equal((await retention()).isDefault, true);
      await admin.deleteTopics(['a', 'b']);
      assert.deepEqual(await admin.listTopics(), []);
      const cluster = await admin.describeCluster();
      assert.equal(cluster.clusterId, broker.clusterId);
      assert.equal(cluster.brokers[0].nodeId, 0);
    }));

  test('deleted records are gone, and the start has moved', () =>
    onBroker(async (broker) => {
      const producer = broker.producer();
      for (let n = 0; n < 5; n++) {
        await producer.send({ topic: 't', value: String(n) });
      }
      const admin = broker.admin();
      assert.deepEqual(await admin.deleteRecords([{ topic: 't', partition: 0, offset: 3 }]), [3]);
      assert.deepEqual(offsets(await read(broker, 't', 2)), [3, 4]);
      assert.deepEqual(await admin.deleteRecords([{ topic: 't', partition: 0, offset: -1 }]), [5]);
    }));

  test('groups are listed, moved and deleted', () =>
    onBroker(async (broker) => {
      await broker.producer().send({ topic: 't', value: 'v' });
      const admin = broker.admin();
      await admin.alterConsumerGroupOffsets('g', [{ topic: 't', partition: 0, offset: 1, metadata: 'm' }]);
      assert.deepEqual((await admin.listConsumerGroups()).map(({ groupId }) => groupId), ['g']);
      await admin.deleteConsumerGroupOffsets('g', [{ topic: 't', partition: 0 }]);
      assert.deepEqual(await admin.listConsumerGroupOffsets('g'), []);
      await admin.alterConsumerGroupOffsets('g', [{ topic: 't', partition: 0, offset: 1 }]);
      await admin.deleteConsumerGroups(['g']);
      assert.deepEqual(await admin.listConsumerGroups(), []);
    }));
});

describe('errors', () => {
  test("a broker's refusal is a KafkaError with its code and name", () =>
    onBroker(async (broker) => {
      const admin = broker.admin();
      await admin.createTopics([{ topic: 't' }]);
      await assert.rejects(admin.createTopics([{ topic: 't' }, { topic: 'u' }]), (error) => {
        assert.ok(error instanceof KafkaError && error instanceof OttlaError && error instanceof Error);
        assert.deepEqual(
          [error.code, error.name, error.kind, error.retriable],
          [36, 'TOPIC_ALREADY_EXISTS', 'alreadyExists', false],
        );
        assert.match(error.message, /topic=t\b/);
        return true;
      });
      // The other one was done.
      assert.deepEqual(await admin.listTopics(), ['t', 'u']);
      await assert.rejects(admin.deleteTopics(['x', 'y', 't']), (error) => {
        assert.ok(error instanceof AggregateError);
        assert.deepEqual(error.errors.map(({ name }) => name), Array(2).fill('UNKNOWN_TOPIC_OR_PARTITION'));
        return true;
      });
      assert.deepEqual(await admin.listTopics(), ['u']);
    }));

  test('what is wrong before it is sent is an OttlaError that says what', () =>
    onBroker(async (broker) => {
      const kind = (expected, message) => (error) => {
        assert.ok(error instanceof OttlaError && !(error instanceof KafkaError), String(error));
        assert.equal(error.kind, expected);
        assert.match(error.message, message);
        return true;
      };
      assert.throws(() => broker.producer({ lingerMs: 'soon' }), kind('invalid', /linger_?ms/i));
      assert.throws(() => broker.consumer({ groupID: 'g' }), kind('invalid', /no such option/));
      await assert.rejects(Broker.open({ numPartitions: 0 }), kind('invalid', /num_?partitions/i));
      await assert.rejects(Broker.open({ topicDefaults: { 'retention.ms': 'x' } }), kind('invalid', /retention\.ms/));
      const producer = broker.producer();
      await assert.rejects(producer.send({ value: 'v' }), kind('invalid', /topic/));
      await assert.rejects(producer.send({ topic: 't', value: 5 }), kind('invalid', /neither a text nor bytes/));
      await assert.rejects(producer.send({ topic: 't', value: 'v', partition: 1.5 }), kind('invalid', /partition/));
      await assert.rejects(producer.send({ topic: 't', value: 'v', partition: 7 }), kind('invalid', /partition=7/));
      await assert.rejects(producer.send({ topic: 't', value: 'v'.repeat(2 ** 21) }), kind('invalid', /max_request_size/));
      // None of these has harmed the others.
      assert.equal((await producer.send({ topic: 't', value: 'fine' })).offset, 0);
      const consumer = broker.consumer();
      await assert.rejects(consumer.poll(), kind('invalid', /subscribed/));
      assert.throws(() => consumer.seek({ topic: 't', partition: 0, offset: 0 }), kind('invalid', /not assigned/));
      await assert.rejects(consumer.commit(), kind('invalid', /group/));
      consumer.assign([{ topic: 't', partition: 0 }]);
      const polled = consumer.poll({ timeoutMs: 100 });
      await assert.rejects(consumer.poll(), kind('invalid', /one poll or loop at a time/));
      await polled;
    }));

  test("a topic's name that is not one is Kafka's error, and waits for nobody", () =>
    onBroker(async (broker) => {
      await assert.rejects(broker.producer().send({ topic: '../up', value: 'v' }), { name: 'INVALID_TOPIC_EXCEPTION', code: 17 });
    }));

  test('what is closed says so', async () => {
    const broker = await Broker.open();
    const producer = broker.producer();
    const consumer = broker.consumer({ groupId: 'g' });
    await consumer.subscribe(['t']);
    const sent = producer.send({ topic: 't', value: 'last words' });
    await broker.close();
    assert.equal((await sent).offset, 0);
    const closed = { name: 'OttlaError', kind: 'closed' };
    await assert.rejects(producer.send({ topic: 't', value: 'v' }), closed);
    await assert.rejects(consumer.poll(), closed);
    assert.throws(() => broker.producer(), closed);
    assert.throws(() => broker.clusterId, closed);
    await broker.close();
  });

  test('only brokers make clients', () => {
    assert.ok(Producer.prototype && Consumer.prototype);
    assert.equal(typeof Symbol.asyncDispose, 'symbol');
    assert.equal(Producer.prototype[Symbol.asyncDispose].length, 0);
    assert.equal(typeof Consumer.prototype[Symbol.asyncIterator], 'function');
    assert.equal(typeof Broker.prototype[Symbol.asyncDispose], 'function');
  });
});
