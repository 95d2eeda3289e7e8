"""Ctrl-C, forks, the end of the interpreter, and `ottla run` with a broker."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import ottla
import pytest

EXAMPLE = """
from kafka import KafkaProducer, KafkaConsumer
import json
producer = KafkaProducer(bootstrap_servers='{servers}')
consumer = KafkaConsumer('test', bootstrap_servers='{servers}', group_id='test_group')
producer.send('test', value=json.dumps({{'key': 'value'}}).encode('utf-8'))
for message in consumer:
    print(message.value.decode('utf-8'))
producer.close()
consumer.close()
"""


def start(code, *arguments, script=None):
    command = [sys.executable, "-u", "-c", textwrap.dedent(code), *arguments]
    if script is not None:
        script.write_text(textwrap.dedent(code))
        command = [sys.executable, "-u", "-m", "ottla", "run", *arguments, str(script)]
    # Whoever runs the tests in the background has them ignore Ctrl-C, and their children with them.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no other thread runs)
    )


def finish(process, seconds=30):
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize(
    "call",
    [
        "next(consumer)",
        "consumer.poll(60_000)",
        "consumer.consume(1)",
        "producer.send('t', b'x').get()",
        "producer.flush()",
        "ottla.KafkaProducer(bootstrap_servers='127.0.0.1:1')",
        "ottla.backup('127.0.0.1:1', 'never-made')",
    ],
)
def test_ctrl_c_ends_a_blocked_call_within_a_quarter_of_a_second(call):
    code = f"""
        import socket, sys, time, threading, os, signal
        import ottla
        silent = socket.socket(); silent.bind(('127.0.0.1', 0)); silent.listen()
        with ottla.Broker() as broker:
            consumer = ottla.KafkaConsumer('t', bootstrap_servers=broker.bootstrap_servers)
            producer = ottla.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
            if 'producer' in {call!r}:
                producer.send('t', b'first').get()
                broker.close()
                producer.send('t', b'x')
            def interrupt():
                time.sleep(0.5)
                globals()['at'] = time.monotonic()
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt, daemon=True).start()
            try:
                {call}
            except KeyboardInterrupt:
                print('%.3f' % (time.monotonic() - at))
                sys.stdout.flush()
                os._exit(0)
    """
    code_, out, err = finish(start(code))
    assert code_ == 0, err
    assert float(out) < 0.25


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_gets_an_error_for_what_was_open_and_can_open_anew():
    code = """
        import os, sys, ottla
        from ottla import errors
        broker = ottla.Broker()
        servers = broker.bootstrap_servers
        producer = ottla.KafkaProducer(bootstrap_servers=servers)
        options = dict(auto_offset_reset='earliest', consumer_timeout_ms=9000)
        consumer = ottla.KafkaConsumer('t', bootstrap_servers=servers, **options)
        future = producer.send('t', b'parent'); future.get(10)
        pid = os.fork()
        if pid == 0:
            for call in (lambda: producer.send('t', b'x'), producer.flush, lambda: next(consumer), consumer.assignment,
                         lambda: ottla.KafkaProducer(bootstrap_servers='memory:')):
                try:
                    call()
                except errors.ForkedError as error:
                    assert 'fork' in str(error)
                else:
                    os._exit(3)
            assert future.value.offset == 0
            producer.close(); consumer.close(); broker.close()
            with ottla.KafkaProducer(bootstrap_servers=servers) as mine:
                mine.send('t', b'child').get(10)
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        print([next(consumer).value for _ in range(2)])
    """
    code_, out, err = finish(start(code))
    assert (code_, out) == (0, "[b'parent', b'child']\n"), err


def test_what_nobody_closed_is_delivered_at_exit():
    code = """
        import ottla, sys
        producer = ottla.KafkaProducer(bootstrap_servers=sys.argv[1], linger_ms=10_000)
        producer.send('t', b'last').add_callback(lambda metadata: print('at', metadata.offset))
    """
    with ottla.Broker() as broker:
        code_, out, err = finish(start(code, broker.bootstrap_servers))
        assert (code_, out, err) == (0, "at 0\n", "")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("present", [False, True], ids=["topic absent", "topic present"])
def test_the_example_prints_its_message_and_idle_exit_ends_it(tmp_path, present):
    servers = f"localhost:{free_port()}"
    code = EXAMPLE.format(servers=servers)
    if present:
        with ottla.Broker(listen=servers.replace("localhost", "127.0.0.1")) as broker:
            with ottla.KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
                producer.send("test", b"old").get(10)
            code_, out, err = finish(start(code, "--idle-exit", "500ms", script=tmp_path / "example.py"))
    else:
        code_, out, err = finish(start(code, "--idle-exit", "500ms", script=tmp_path / "example.py"))
        assert "an embedded broker" in err
    assert (code_, out) == (0, '{"key": "value"}\n'), err


def test_a_loop_that_waits_says_so_and_ctrl_c_ends_it(tmp_path):
    servers = f"127.0.0.1:{free_port()}"
    process = start(EXAMPLE.format(servers=servers), script=tmp_path / "example.py")
    notice = "still waiting for messages of topic test as a member of group test_group; Ctrl-C ends it"
    for line in process.stderr:
        if notice in line:
            break
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out, err) == (130, '{"key": "value"}\n', "ottla run: interrupted\n")


def test_no_broker_is_embedded_for_a_host_elsewhere(tmp_path):
    code = """
        from kafka import KafkaProducer
        from kafka.errors import NoBrokersAvailable
        try:
            KafkaProducer(bootstrap_servers='no-such-host.invalid:9092', bootstrap_timeout_ms=200)
        except NoBrokersAvailable as error:
            print('no-such-host.invalid:9092' in str(error))
    """
    code_, out, err = finish(start(code, script=tmp_path / "script.py"))
    assert (code_, out, err) == (0, "True\n", "")
