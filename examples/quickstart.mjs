// Kafka in one program: a broker in memory, a producer, and a consumer in a group. Run: node examples/quickstart.mjs
// (after `make wasm` and `npm install ./wasm`)
import { Broker } from 'ottla';

const broker = await Broker.open();
const consumer = broker.consumer({ groupId: 'readers', autoOffsetReset: 'earliest' });
await consumer.subscribe(['greetings']);

const producer = broker.producer({ compressionType: 'zstd' });
for (const name of ['Ottla', 'Franz', 'Elli']) {
  const { partition, offset } = await producer.send({
    topic: 'greetings',
    key: name,
    value: JSON.stringify({ hello: name }),
    headers: { language: 'en' },
  });
  console.log(`sent to partition ${partition} at offset ${offset}`);
}

let seen = 0;
for await (const record of consumer) {
  console.log(`offset ${record.offset}: ${record.keyText()} says`, record.json());
  seen += 1;
  if (seen === 3) {
    break;
  }
}
await consumer.commit();
const [committed] = await broker.admin().listConsumerGroupOffsets('readers');
console.log(`the group goes on at offset ${committed?.offset}`);

await broker.close();
