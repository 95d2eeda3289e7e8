"""The embedded broker: addresses without a port, directories, the fixture, what is refused."""

import socket
import subprocess
import sys

import ottla
import pytest
from ottla import Broker, KafkaConsumer, KafkaProducer, errors

pytest_plugins = ["pytester"]


def test_memory_addresses_share_a_broker_by_name(topic):
    for address in ("memory:", f"memory:{topic}"):
        with KafkaProducer(bootstrap_servers=address) as producer:
            producer.send(topic, address.encode())
        with KafkaConsumer(
            topic, bootstrap_servers=address, auto_offset_reset="earliest", consumer_timeout_ms=5000
        ) as consumer:
            assert next(consumer).value == address.encode()


def test_a_directory_keeps_records_and_is_given_back(tmp_path, topic):
    data = str(tmp_path / "data")
    for number in range(3):
        with KafkaProducer(bootstrap_servers=data) as producer:
            assert producer.send(topic, b"x").get(10).offset == number
    with Broker(data) as broker:
        assert broker.data == data
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            assert producer.send(topic, b"x").get(10).offset == 3


def test_a_directory_has_one_owner(tmp_path):
    with Broker(tmp_path / "data"):
        code = "import sys, ottla; ottla.Broker(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "data")],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 1
    assert "FencedError" in done.stderr


def test_a_port_in_use_is_refused_by_name():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(errors.AlreadyExistsError, match=address):
            Broker(listen=address)


def test_options_are_kafkas_and_checked(topic):
    config = {"num.partitions": 3, "auto.create.topics.enable": True, "retention.ms": 1000}
    with Broker(config=config) as broker, KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        assert producer.partitions_for(topic) == {0, 1, 2}
    for config in ({"num.partitions": "many"}, {"no.such.option": 1}):
        with pytest.raises(errors.InvalidError, match=next(iter(config))):
            Broker(config=config)


def test_closing_gives_the_port_back_and_twice_does_no_harm():
    broker = Broker()
    address = broker.bootstrap_servers
    broker.close()
    broker.close()
    with Broker(listen=address) as again:
        assert again.bootstrap_servers == address


def test_a_topic_is_not_made_where_that_is_off(topic):
    with Broker(config={"auto.create.topics.enable": False}) as broker:
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, max_block_ms=300)
        with pytest.raises(errors.KafkaTimeoutError, match=topic):
            producer.send(topic, b"x")
        producer.close()


def test_the_fixture_gives_each_test_its_own_broker(pytester):
    pytester.makepyfile(
        """
        import ottla

        def test_one(ottla_broker):
            with ottla.KafkaProducer(bootstrap_servers=ottla_broker.bootstrap_servers) as producer:
                assert producer.send("t", b"x").get(10).offset == 0

        test_two = test_one
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_broker_is_an_ottla_broker():
    assert ottla.Broker is Broker
