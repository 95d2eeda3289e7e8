"""From values to bytes and back.

A serializer is an object with `serialize(topic, headers, data)`. A function of one argument, as kafka-python 2 took
it, is wrapped, with a DeprecationWarning from the constructor that was given it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DefaultSerializer",
    "DeserializeWrapper",
    "Deserializer",
    "JsonSerializer",
    "SerializeWrapper",
    "Serializer",
]

Headers = list[tuple[str, bytes]]
"""A record's headers, in order; a name may repeat."""


class Serializer(ABC):
    """Makes bytes of a key or value; given to `KafkaProducer(key_serializer=…, value_serializer=…)`."""

    @abstractmethod
    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes | bytearray | memoryview | None:
        """Return the bytes that stand for `data`, or None for a null."""

    def close(self) -> None:
        """Give back what the serializer holds."""


class Deserializer(ABC):
    """Makes a key or value of bytes; given to `KafkaConsumer(key_deserializer=…, value_deserializer=…)`."""

    @abstractmethod
    def deserialize(self, topic: str, headers: Headers, data: bytes | None) -> Any:
        """Return what `data` stands for; None is a null."""

    def close(self) -> None:
        """Give back what the deserializer holds."""


class DefaultSerializer(Serializer, Deserializer):
    """Text in an encoding; bytes and None pass through when serializing."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes | bytearray | memoryview | None:
        """Return `data` encoded, or as it is if it is bytes or None."""
        del topic, headers
        if data is None or isinstance(data, bytes | bytearray | memoryview):
            return data
        encoded: bytes = data.encode(self.encoding)
        return encoded

    def deserialize(self, topic: str, headers: Headers, data: bytes | None) -> Any:
        """Return `data` decoded, or None for a null."""
        del topic, headers
        return None if data is None else data.decode(self.encoding)


class JsonSerializer(DefaultSerializer):
    """JSON text in an encoding; None is a null record, not the text `null`."""

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes | bytearray | memoryview | None:
        """Return `data` as JSON text, or None for None."""
        return None if data is None else super().serialize(topic, headers, json.dumps(data))

    def deserialize(self, topic: str, headers: Headers, data: bytes | None) -> Any:
        """Return what the JSON text says, or None for a null."""
        return None if data is None else json.loads(super().deserialize(topic, headers, data))


class SerializeWrapper(Serializer):
    """A function of one argument as a serializer."""

    def __init__(self, fn: Callable[[Any], bytes | None] | None) -> None:
        self.fn = fn

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes | bytearray | memoryview | None:
        """Return what the function makes of `data`."""
        del topic, headers
        return data if self.fn is None else self.fn(data)


class DeserializeWrapper(Deserializer):
    """A function of one argument as a deserializer."""

    def __init__(self, fn: Callable[[bytes | None], Any] | None) -> None:
        self.fn = fn

    def deserialize(self, topic: str, headers: Headers, data: bytes | None) -> Any:
        """Return what the function makes of `data`."""
        del topic, headers
        return data if self.fn is None else self.fn(data)
