"""Kafka in one program: a broker in memory, a producer, and a consumer in a group.

Run: python examples/quickstart.py
"""

import json

import ottla
from ottla import KafkaConsumer, KafkaProducer

# A real broker, in this process, ready in milliseconds: any Kafka client may connect to its port. With a directory,
# ottla.Broker("data"), it keeps its records.
with ottla.Broker() as broker:
    print(f"a broker listens on {broker.bootstrap_servers}")

    # The client has kafka-python's names and signatures: `from kafka import ...` works, too, under `ottla run`.
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for name in ("Ottla", "Franz", "Elli"):
            value = json.dumps({"hello": name}).encode()
            sent = producer.send("greetings", key=name.encode(), value=value, headers=[("language", b"en")])
            # Waits until it is acknowledged. With acks=all, the default, it is then on the disk, if there is one.
            where = sent.get(timeout=10)
            print(f"sent to partition {where.partition} at offset {where.offset}")

    with KafkaConsumer(
        "greetings",
        bootstrap_servers=broker.bootstrap_servers,
        group_id="readers",
        auto_offset_reset="earliest",
        consumer_timeout_ms=3000,  # a loop that waits longer for a record ends
    ) as consumer:
        seen = []
        for record in consumer:
            seen.append(json.loads(record.value)["hello"])
            print(f"offset {record.offset}: {record.key.decode()} says {record.value.decode()}")
            if len(seen) == 3:
                break
        consumer.commit()
        (partition,) = consumer.assignment()
        committed = consumer.committed(partition)

    print(f"the group goes on at offset {committed}")
    assert (seen, committed) == (["Ottla", "Franz", "Elli"], 3)
