"""`ottla.Repository`: what crosses into Python. What it does is tested in the core."""

import io
import pickle
import sys
from datetime import timedelta

import ottla
import pytest
from ottla import KafkaProducer, errors

RECIPIENT = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa"
IDENTITY = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33"


def produce(log, topic, count, start=0):
    with KafkaProducer(bootstrap_servers=str(log), linger_ms=5) as producer:
        for number in range(start, start + count):
            producer.send(topic, b"v%d" % number, b"k%d" % (number % 7))


@pytest.fixture
def log(tmp_path):
    produce(tmp_path / "log", "orders", 100)
    return tmp_path / "log"


@pytest.fixture
def repository(tmp_path):
    return ottla.Repository(tmp_path / "repository", passphrase="correct horse")


def test_what_the_command_line_can_do_is_a_method(log, repository, tmp_path):
    first = repository.backup(log)
    produce(log, "orders", 20, start=100)
    produce(log, "payments", 1)
    second = repository.backup(log, compression="zstd")
    assert (first.records, second.extent, second.new_records) == (100, "incremental", 21)
    assert [snapshot.id for snapshot in repository.snapshots()] == [first.id, second.id]
    assert second.id[:12] in repository.snapshots()._repr_html_()

    contents = repository.ls()
    assert [(part.topic, part.partition, part.start, part.end) for part in contents] == [
        ("orders", 0, 0, 120),
        ("payments", 0, 0, 1),
    ]
    assert "payments" in contents._repr_html_()
    assert len(repository.ls(first.id[:12])) == 1
    difference = repository.diff(first.id[:12])
    assert [(topic.topic, topic.change) for topic in difference.topics] == [
        ("orders", "changed"),
        ("payments", "added"),
    ]
    assert difference.topics[0].partitions[0][:4] == (0, (0, 100), (0, 120), 20)
    assert "0..120" in str(difference)
    assert not repository.diff(second.id, second.id)
    found = repository.find(b"k3", topics="orders")
    assert [record.offset for record in found] == list(range(3, 120, 7))
    assert found[0].value == b"v3"

    report = repository.check(read_data=True)
    assert report.is_sound
    assert report.read_bytes == report.stored_bytes
    assert repository.check(read_data=0.5).read_bytes <= report.read_bytes
    sample = repository.restore_sample()
    assert (sample.topics, sample.differing) == (("payments", "orders"), ()) or sorted(sample.topics) == [
        "orders",
        "payments",
    ]
    restored = repository.restore(tmp_path / "restored")
    assert restored.copied.records == 121

    other = ottla.Repository(tmp_path / "other", encryption=False)
    assert len(repository.copy(other).snapshots) == 2
    assert repository.copy(other).present == 2
    assert other.check(read_data=True).is_sound
    for value in (contents, difference, sample, report, found[0]):
        assert pickle.loads(pickle.dumps(value)) == value


def test_snapshots_are_forgotten_and_pruned(log, repository):
    first = repository.backup(log)
    produce(log, "orders", 20, start=100)
    second = repository.backup(log)
    with pytest.raises(errors.InvalidError, match="no rule"):
        repository.forget()
    with pytest.raises(ValueError, match="either"):
        repository.forget(first.id, keep_last=1)
    planned = repository.forget(keep_last=1, dry_run=True)
    assert [(fate.snapshot.id, fate.kept_by) for fate in planned] == [(first.id, ()), (second.id, ("last",))]
    assert len(repository.snapshots()) == 2
    assert "remove" in planned._repr_html_()
    assert repository.forget(keep_within=timedelta(days=1)).removed == ()
    assert [snapshot.id for snapshot in repository.forget(keep_daily=7, keep_last=1).removed] == [first.id]
    planned = repository.prune(timedelta(0), dry_run=True)
    assert planned.marked > 0
    assert repository.prune(timedelta(0)).removed == planned.marked
    marked = repository.prune()
    assert (marked.marked, marked.due) == (0, None)
    assert repository.check(read_data=True).unreferenced == 0


def test_keys_are_added_and_rotated(log, repository, tmp_path):
    repository.backup(log)
    identity = tmp_path / "identity"
    identity.write_text(IDENTITY)
    added = repository.add_key(recipient=RECIPIENT, access="write", label="host")
    assert (added.access, added.label, added.recipient) == ("write", "host", RECIPIENT)
    assert [key.is_used for key in repository.keys()] == [True, False]
    assert "host" in repository.keys()._repr_html_()
    host = ottla.Repository(repository.url, identity=identity)
    produce(log, "orders", 20, start=100)
    assert host.backup(log).new_records == 20
    with pytest.raises(errors.KafkaError, match="only writes"):
        host.restore(tmp_path / "refused")
    with pytest.raises(errors.KafkaError, match="wrong key"):
        ottla.Repository(repository.url, passphrase="another").snapshots()
    repository.add_key(key_file=tmp_path / "key")
    file = ottla.Repository(repository.url, passphrase_file=tmp_path / "key")
    assert len(file.snapshots()) == 2
    with pytest.raises(errors.InvalidError, match="without its passphrase"):
        repository.rotate()
    repository.remove_key(next(key.name for key in file.keys() if key.is_used))
    with pytest.raises(errors.InvalidError, match="who is to go on"):
        repository.rotate()
    assert repository.rotate(write_recipients=[RECIPIENT]) == 2
    assert repository.check(read_data=True).is_sound


def test_init_tells_where_the_key_is(log, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    repository = ottla.Repository(tmp_path / "repository")
    key = repository.init()
    assert key.parent == tmp_path / "configuration" / "ottla" / "keys"
    with pytest.raises(errors.AlreadyExistsError):
        repository.init()
    repository.backup(log)
    assert len(ottla.snapshots(repository)) == len(ottla.snapshots(repository.url)) == 1
    key.unlink()
    with pytest.raises(errors.KafkaError, match="is encrypted"):
        repository.snapshots()
    assert ottla.Repository(tmp_path / "plain", encryption=False).init() is None


def test_progress_is_a_bar_a_call_or_nothing(log, repository, tmp_path, monkeypatch):
    told = []
    produce(log, "orders", 50_000, start=100)
    repository.backup(log, progress=told.append)
    assert all(progress.total_partitions == 1 for progress in told)
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    repository.restore(tmp_path / "restored", progress=True)
    text = drawn.getvalue()
    assert not text or (text.startswith("\r") and text.endswith("\n") and "%" in text)
