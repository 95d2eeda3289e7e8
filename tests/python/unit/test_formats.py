"""`docs/formats.md` is all that it takes: a reader of repositories that knows nothing but that page."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2] / "data" / "repository-1"


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


def referred(reference: dict[str, Any], kind: str) -> dict[str, Any]:
    name = reference["name"].hex()
    data = (REPOSITORY / "manifests" / name[:2] / name).read_bytes()
    assert len(data) == reference["bytes"]
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


def test_a_reader_that_knows_only_the_page_reads_everything() -> None:
    data = (REPOSITORY / "ottla-repository").read_bytes()
    repository = manifest(data[:-32], "repository")
    assert (repository["hash"], repository["encryption"]) == ("blake3", "none")

    names = sorted(path.name for path in (REPOSITORY / "snapshots").iterdir())
    snapshots = [manifest((REPOSITORY / "snapshots" / name).read_bytes(), "snapshot") for name in names]
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
                name = item["name"].hex()
                body = (REPOSITORY / "objects" / name[:2] / name).read_bytes()
                assert item["encoding"] == "plain"
                assert len(body) == item["bytes"] == item["stored_bytes"]
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
