"""Writing: `KafkaProducer`."""

from ottla.producer.kafka import KafkaProducer

__all__ = ["KafkaProducer"]
