"""`docs/formats.md` is all that it takes: a reader of repositories that knows nothing but that page."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).resolve().parents[2] / "data"


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode one MessagePack value: what it is, and where the next begins."""

    def number(form: str) -> tuple[Any, int]:
        return struct.unpack_from(">" + form, data, at + 1)[0], at + 1 + struct.calcsize(form)

    first = data[at]
    if first < 0x80:
        return first, at + 1
    if first >= 0xE0:
        return first - 0x100, at + 1
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at + 1
    if 0xCC <= first <= 0xD3:
        return number("BHIQbhiq"[first - 0xCC])
    size, at = {
        0x8: lambda: (first & 0x0F, at + 1),
        0x9: lambda: (first & 0x0F, at + 1),
        0xA: lambda: (first & 0x1F, at + 1),
        0xB: lambda: (first & 0x1F, at + 1),
        0xC: lambda: number("BHI"[first - 0xC4]),
        0xD: lambda: number({0xD9: "B", 0xDA: "H", 0xDB: "I", 0xDC: "H", 0xDD: "I", 0xDE: "H", 0xDF: "I"}[first]),
    }[first >> 4]()
    if first >> 4 in (0xA, 0xB) or first in (0xD9, 0xDA, 0xDB):
        return data[at : at + size].decode(), at + size
    if 0xC4 <= first <= 0xC6:
        return data[at : at + size], at + size
    if first >> 4 == 0x9 or first in (0xDC, 0xDD):
        array = []
        for _ in range(size):
            value, at = unpack(data, at)
            array.append(value)
        return array, at
    entries = {}
    for _ in range(size):
        key, at = unpack(data, at)
        entries[key], at = unpack(data, at)
    return entries, at


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def manifest(data: bytes, kind: str) -> dict[str, Any]:
    value, end = unpack(data)
    assert end == len(data), "nothing follows a manifest"
    assert (value["format"], value["kind"]) == (1, kind)
    assert isinstance(value, dict)
    return value


def derived(context: str, *parts: bytes) -> bytes:
    hasher = blake3(derive_key_context=context)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def agreed(context: str, secret: bytes, token: bytes, public: bytes) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(token))
    return derived(context, token, public, shared)


def opened(key: bytes, associated: bytes, sealed: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, associated)


class Reader:
    """A repository, plain or encrypted."""

    def __init__(self, directory: Path, unwrap: Callable[[bytes, bytes, dict[str, Any]], bytes | None]) -> None:
        self.directory = directory
        data = (directory / "ottla-repository").read_bytes()
        assert blake3(data[:-32]).digest() == data[-32:]
        self.about = manifest(data[:-32], "repository")
        self.generations: dict[bytes, dict[str, Any]] = {}
        if self.about["encryption"] == "none":
            assert self.about["hash"] == "blake3"
            return
        assert (self.about["hash"], self.about["encryption"]) == ("blake3-keyed", "x25519-chacha20poly1305")
        for path in (directory / "keys").iterdir():
            data = path.read_bytes()
            assert blake3(data).hexdigest() == path.name
            key, end = unpack(data)
            assert (key["format"], key["kind"]) == (1, "key")
            secrets = unwrap(self.about["id"] + data[:end], data[end:], key)
            if secrets is not None:
                for generation in manifest(secrets, "secrets")["generations"]:
                    self.generations[blake3(generation["public_key"]).digest()[:8]] = generation
        assert self.generations, "a key file was opened"

    def open(self, shelf: str, name: str) -> tuple[int, bytes]:
        """The size as stored, and what was sealed, if it was."""
        directory = f"{shelf}/{name[:2]}" if shelf in {"objects", "manifests"} else shelf
        data = (self.directory / directory / name).read_bytes()
        digest = name.rpartition("-")[2]
        if not self.generations:
            assert blake3(data).hexdigest() == digest
            return len(data), data
        form, generation_id, token = data[0], data[1:9], data[9:41]
        generation = self.generations[generation_id]
        names = derived("ottla repository names", generation["write_key"])
        manifests = derived("ottla repository manifests", generation["write_key"])
        assert blake3(data, key=names).hexdigest() == digest
        associated = self.about["id"] + data[:9] + shelf.encode()
        if shelf == "objects":
            assert form == 2
            key = agreed("ottla repository object", generation["read_key"], token, generation["public_key"])
            return len(data), opened(key, associated, data[41:])
        assert form == 1
        plain = opened(blake3(token, key=manifests).digest(), associated, data[41:])
        assert len(plain) >= 256
        assert len(data) == len(plain) + 57
        plain = plain.rstrip(b"\0")
        assert plain[-1] == 0x80
        return len(data), plain[:-1]

    def referred(self, reference: dict[str, Any], kind: str) -> dict[str, Any]:
        size, data = self.open("manifests", reference["name"].hex())
        assert size == reference["bytes"]
        return manifest(data, kind)


def batches(body: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """Offsets, records, leader epoch and bytes of an object's batches."""
    found = []
    at = 0
    while at < len(body):
        base, length, epoch, magic, crc = struct.unpack_from(">qiibI", body, at)
        batch = body[at : at + 12 + length]
        assert len(batch) == 12 + length
        assert magic == 2
        assert crc32c(batch[21:]) == crc
        (delta,) = struct.unpack_from(">i", batch, 23)
        (count,) = struct.unpack_from(">i", batch, 57)
        found.append((base, base + delta + 1, count, epoch, batch))
        at += 12 + length
    return found


def no_key(associated: bytes, wrapped: bytes, key: dict[str, Any]) -> bytes | None:
    raise AssertionError("a plain repository has no keys")


def by_passphrase(associated: bytes, wrapped: bytes, key: dict[str, Any]) -> bytes | None:
    if key["lock"] != "passphrase":
        return None
    cost = key["argon2"]
    argon2 = Argon2id(
        salt=cost["salt"], length=32, iterations=cost["passes"], lanes=cost["lanes"], memory_cost=cost["memory_kib"]
    )
    return opened(argon2.derive(b"correct horse"), associated, wrapped)


def by_identity(associated: bytes, wrapped: bytes, key: dict[str, Any]) -> bytes | None:
    """With the secret that is noted as AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33."""
    if key["lock"] != "age":
        return None
    secret = unbech("AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33")
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    assert unbech(key["recipient"]) == public
    return opened(agreed("ottla repository key", secret, wrapped[:32], public), associated, wrapped[32:])


def unbech(text: str) -> bytes:
    """The 32 bytes of a Bech32 string, whose checksum is not looked at."""
    digits = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(digit) for digit in text.lower().rsplit("1", 1)[1][:-6]]
    number = 0
    for digit in digits:
        number = number << 5 | digit
    return (number >> (5 * len(digits) - 256)).to_bytes(32, "big")


@pytest.mark.parametrize(
    ("name", "unwrap"),
    [("repository-1", no_key), ("encrypted-1", by_passphrase), ("encrypted-1", by_identity)],
    ids=["plain", "passphrase", "identity"],
)
def test_a_reader_that_knows_only_the_page_reads_everything(
    name: str, unwrap: Callable[[bytes, bytes, dict[str, Any]], bytes | None]
) -> None:
    reader = Reader(DATA / name, unwrap)
    referred = reader.referred

    names = sorted(path.name for path in (DATA / name / "snapshots").iterdir())
    snapshots = [manifest(reader.open("snapshots", name)[1], "snapshot") for name in names]
    assert [snapshot["extent"] for snapshot in snapshots] == ["full", "incremental"]
    assert snapshots[1]["parent"].hex() == names[0].split("-")[1]
    assert [int(name.split("-")[0]) for name in names] == [snapshot["time"] for snapshot in snapshots]

    latest = snapshots[-1]
    (group,) = referred(latest["groups"], "groups")["groups"]
    assert (group["group"], [offset["offset"] for offset in group["offsets"]]) == ("billing", [7])

    records = objects = size = 0
    ends = []
    for entry in referred(latest["topics"], "topics")["topics"]:
        topic = referred(entry["manifest"], "topic")
        assert (topic["topic"], topic["topic_id"]) == (entry["topic"], entry["topic_id"])
        for part in topic["partitions"]:
            partition = referred(part["manifest"], "partition")
            assert (partition["start"], partition["end"]) == (part["start"], part["end"])
            listed = [o for page in partition["pages"] for o in referred(page["page"], "page")["objects"]]
            last = None
            for item in listed + partition["objects"]:
                stored, body = reader.open("objects", item["name"].hex())
                assert item["encoding"] == "plain"
                assert (len(body), stored) == (item["bytes"], item["stored_bytes"])
                held = batches(body)
                assert (held[0][0], held[-1][1], len(held)) == (item["start"], item["end"], item["batches"])
                assert sum(batch[2] for batch in held) == item["records"]
                assert {batch[3] for batch in held} == {epoch["epoch"] for epoch in item["epochs"]}
                assert last is None or held[0][0] >= last
                last = held[-1][1]
                records += item["records"]
                objects += 1
                size += len(body)
            ends.append((part["partition"], last))
    assert ends == [(0, 12), (1, 15)]
    totals = latest["totals"]
    assert (totals["records"], totals["objects"], totals["bytes"]) == (records, objects, size)
