"""Reading: `KafkaConsumer`."""

from ottla.consumer.group import KafkaConsumer

__all__ = ["KafkaConsumer"]
