"""The README's script, unchanged but for its port, many times: embedded and on Kafka, its topic absent and there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clients import OTTLA, PYTHON
from servers import KafkaServer, kafka

#: How often each case runs, and how many at a time: they wait most of the time.
RUNS = int(os.environ.get("OTTLA_SCRIPT_RUNS", "100"))
AT_ONCE = 24

SCRIPT = """\
from kafka import KafkaProducer, KafkaConsumer
import json
producer = KafkaProducer(bootstrap_servers='localhost:9092')
consumer = KafkaConsumer('test', bootstrap_servers='localhost:9092', group_id='test_group')
producer.send('test', value=json.dumps({'key': 'value'}).encode('utf-8'))
for message in consumer:
    print(message.value.decode('utf-8'))
producer.close()
consumer.close()
"""
CREATE = """\
from kafka.admin import KafkaAdminClient, NewTopic
admin = KafkaAdminClient(bootstrap_servers='localhost:9092')
admin.create_topics([NewTopic('test', 3, 1)])
"""
MESSAGE = '{"key": "value"}\n'

#: Puts the address, a topic and a group of their own into a script.
Adapt = Callable[[str], str]


def command(tmp_path: Path, script: str, *options: str) -> list[str]:
    path = tmp_path / f"{uuid.uuid4().hex}.py"
    path.write_text(script)
    return [str(PYTHON), "-m", "ottla", "run", *options, str(path)]


def check_reaches_its_end(tmp_path: Path, script: str) -> None:
    run = command(tmp_path, script, "--idle-exit", "3s")
    done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, MESSAGE), done.stderr


def check_waits_and_is_interrupted(tmp_path: Path, script: str) -> None:
    run = command(tmp_path, script)
    with subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            said = b""
            patience = time.monotonic() + 60
            while b"Ctrl-C" not in said:
                line = process.stderr.readline()
                assert line, f"ended without a notice: {said.decode()}"
                assert time.monotonic() < patience, f"no notice after 60 s: {said.decode()}"
                said += line
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, out.decode()) == (130, MESSAGE), said.decode()


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def adapt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapt]:
    """Embedded: nothing listens at the script's address. Kafka: one for all, so each has its own topic and group."""
    if why := OTTLA.missing():
        pytest.skip(why)
    if request.param == "embedded":
        # Each takes a port of its own from those that were free when the tests began.
        ports = iter(kafka.free_ports(4 * RUNS + 4))
        yield lambda script: script.replace("9092", str(next(ports)))
        return
    if why := KafkaServer.missing():
        pytest.skip(why)
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))

    def on_kafka(script: str) -> str:
        name = uuid.uuid4().hex[:12]
        script = script.replace("localhost:9092", server.bootstrap)
        return script.replace("'test'", f"'t-{name}'").replace("'test_group'", f"'g-{name}'")

    try:
        server.start()
        yield on_kafka
    finally:
        server.stop(kill=True)


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Where the tests run in the background, SIGINT is ignored, and so it would be in the scripts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("topic_is_there", [False, True], ids=["topic-absent", "topic-there"])
@pytest.mark.parametrize("check", [check_reaches_its_end, check_waits_and_is_interrupted])
def test_the_script_prints_its_message_every_time(
    adapt: Adapt, check: Callable[[Path, str], None], topic_is_there: bool, tmp_path: Path
) -> None:
    script = CREATE + SCRIPT if topic_is_there else SCRIPT
    scripts = [adapt(script) for _ in range(RUNS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for finished in [pool.submit(check, tmp_path, each) for each in scripts]:
            finished.result()
