"""Topics, records and groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Serve, numbers, ok, run

#: Every kind of bytes: no text at all, text, nothing, null.
LINES: list[dict[str, Any]] = [
    {"key": {"base64": "AP8="}, "value": {"base64": "gIGC"}, "headers": [["h", {"base64": "/w=="}], ["h", None]]},
    {"key": "", "value": None, "headers": []},
    {"key": None, "value": "", "headers": [["", ""]]},
    {"key": 'käse\n\t"\\', "value": '{"a": 1}\r', "headers": [["a", "1"], ["b", "ü"]]},
    {"key": "base64", "value": '{"base64": "AP8="}', "headers": []},
]


@pytest.fixture(params=["address", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A running broker, or a directory that each command opens for itself."""
    if request.param == "address":
        leader: Serve = request.getfixturevalue("leader")
        return leader.address
    return str(tmp_path / "log")


def test_any_bytes_go_through_lines_and_back(place: str) -> None:
    sent = [dict(line, partition=0, timestamp=1_000 + number) for number, line in enumerate(LINES)]
    given = "\n".join(map(json.dumps, sent)).encode()
    assert ok("produce", place, "one", "--json", given=given).lines == [{"topic": "one", "records": len(LINES)}]
    first = ok("consume", place, "one")
    for offset, (line, wanted) in enumerate(zip(first.lines, sent, strict=True)):
        assert line == {"topic": "one", "offset": offset, **wanted}
    ok("produce", place, "two", given=first.out)
    second = ok("consume", place, "two")
    assert second.out == first.out.replace(b'"topic":"one"', b'"topic":"two"')


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_records_are_compressed_as_asked(place: str, codec: str) -> None:
    ok("produce", place, "t", "--lines", "-z", codec, given=numbers(1_000))
    assert ok("consume", place, "t", "--lines").out == numbers(1_000)


def test_lines_may_have_keys_and_all_records_headers(leader: Serve) -> None:
    ok("produce", leader.address, "t", "--lines", "-K", ":", "-H", "source=test", "-k", "none", given=b"a:1\nb::2\n3\n")
    printed = ok("consume", leader.address, "t", "-f", "%k|%K|%s|%S|%h|%p|%o|%t|%%\\n").text
    assert printed == "a|1|1|1|source=test|0|0|t|%\nb|1|:2|2|source=test|0|1|t|%\nnone|4|3|1|source=test|0|2|t|%\n"


def test_a_line_that_is_no_record_is_named(leader: Serve) -> None:
    for given in (b"nonsense", b"[1]", b'{"valeu": 1}', b'{"value": {"base64": "?"}}', b'{"partition": 1e99}'):
        done = run("produce", leader.address, "t", given=b'{"value": "fine"}\n' + given)
        assert done.code == 2
        assert "line 2: " in done.err


def test_consume_begins_and_ends_where_it_is_told(leader: Serve) -> None:
    records = "\n".join(json.dumps({"value": str(number), "timestamp": 1_000 * number}) for number in range(100))
    ok("produce", leader.address, "t", given=records.encode())

    def consumed(*options: str) -> list[int]:
        return [int(value) for value in ok("consume", leader.address, "t", "--lines", *options).text.split()]

    assert consumed() == list(range(100))
    assert consumed("--from", "90") == list(range(90, 100))
    assert consumed("--from", "-5") == list(range(95, 100))
    assert consumed("--from", "@50000") == list(range(50, 100))
    assert consumed("--from", "1970-01-01T00:01:00Z", "--until", "1970-01-01 00:01:03") == [60, 61, 62]
    assert consumed("--from", "10", "--until", "12") == [10, 11]
    assert consumed("--until=-97") == [0, 1, 2]
    assert consumed("-c", "3") == [0, 1, 2]
    assert consumed("--from", "end") == []
    assert consumed("--from", "1000") == [], "beyond the end is the end"


def test_a_group_goes_on_where_it_stands(leader: Serve) -> None:
    ok("topics", leader.address, "create", "t", "--partitions", "3")
    ok("produce", leader.address, "t", "--lines", "-K", ":", given=b"".join(b"%d:%d\n" % (n, n) for n in range(1_000)))
    first = ok("consume", leader.address, "t", "--lines", "-G", "readers", "-c", "400").text.split()
    assert len(first) == 400
    shown = ok("groups", leader.address, "show", "readers", "--json").lines
    assert sum(line["committed"] for line in shown) == 400
    assert sum(line["end"] for line in shown if line["committed"]) >= 400
    rest = ok("consume", leader.address, "t", "--lines", "-G", "readers").text.split()
    assert sorted(map(int, first + rest)) == list(range(1_000)), "each once"
    assert ok("consume", leader.address, "t", "--lines", "-G", "readers").text == ""
    assert ok("groups", leader.address, "--json").lines == [{"group": "readers", "state": "Empty", "type": "classic"}]

    dry = ok("groups", leader.address, "reset", "readers", "--to", "beginning", "--dry-run", "--json").lines
    assert [line["committed"] for line in dry] == [0, 0, 0]
    assert ok("consume", leader.address, "t", "--lines", "-G", "readers").text == "", "nothing was done"
    ok("groups", leader.address, "reset", "readers", "--to=-2")
    assert len(ok("consume", leader.address, "t", "--lines", "-G", "readers").text.split()) == 6
    ok("groups", leader.address, "delete", "readers")
    assert run("groups", leader.address, "show", "readers").code == 3
    assert run("groups", leader.address, "reset", "readers", "--to", "end").code == 3
    ok("groups", leader.address, "reset", "others", "--to", "end", "--topics", "t")
    assert ok("consume", leader.address, "t", "--lines", "-G", "others").text == ""


def test_topics_are_made_described_altered_and_deleted(place: str) -> None:
    ok("topics", place, "create", "t", "--partitions", "2", "--config", "retention.ms=-1")
    ok("produce", place, "t", "--lines", "-p", "1", given=numbers(10))
    assert ok("topics", place, "--json").lines == [{"topic": "t", "partitions": 2, "offsets": 10}]
    (described,) = ok("topics", place, "describe", "t", "--json").lines
    assert described["configs"] == {"retention.ms": "-1"}
    assert [(p["start"], p["end"]) for p in described["partitions"]] == [(0, 0), (0, 10)]
    assert "retention.ms   -1" in ok("topics", place, "describe", "t").text
    assert "segment.bytes" in ok("topics", place, "describe", "t", "--all").text
    ok(
        "topics",
        place,
        "alter",
        "t",
        "--partitions",
        "3",
        "--config",
        "max.message.bytes=99",
        "--delete-config",
        "retention.ms",
    )
    (described,) = ok("topics", place, "describe", "t", "--json").lines
    assert described["configs"] == {"max.message.bytes": "99"}
    assert len(described["partitions"]) == 3
    assert run("topics", place, "alter", "t", "--config", "nonsense=1").code == 2
    assert run("topics", place, "alter", "t", "--partitions", "1").code == 2
    assert run("topics", place, "create", "t").code == 1

    offsets = ok("topics", place, "offsets", "t", "--at=-3", "--json").lines
    assert [line["offset"] for line in offsets] == [0, 7, 0]
    deleted = ok("topics", place, "delete-records", "t", "--before", "4", "-p", "1", "--json").lines
    assert deleted == [{"topic": "t", "partition": 1, "start": 4}]
    assert ok("consume", place, "t", "--lines").out == numbers(6, 4)
    ok("topics", place, "delete", "t")
    assert ok("topics", place, "--json").lines == []
