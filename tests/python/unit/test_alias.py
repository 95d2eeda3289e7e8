"""`kafka` is Ottla: the same modules and classes, here and in processes that are spawned."""

import subprocess
import sys
import textwrap

MODULES = [
    "kafka",
    "kafka.admin",
    "kafka.codec",
    "kafka.consumer",
    "kafka.consumer.fetcher",
    "kafka.consumer.group",
    "kafka.consumer.subscription_state",
    "kafka.coordinator.assignors.range",
    "kafka.coordinator.assignors.roundrobin",
    "kafka.coordinator.assignors.sticky.sticky_assignor",
    "kafka.coordinator.assignors.cooperative_sticky",
    "kafka.errors",
    "kafka.future",
    "kafka.metrics",
    "kafka.net.sasl.oauth",
    "kafka.partitioner",
    "kafka.producer",
    "kafka.producer.future",
    "kafka.producer.kafka",
    "kafka.protocol.consumer",
    "kafka.serializer",
    "kafka.structs",
    "kafka.version",
]


def python(code, *, cwd=None, path=None):
    """Run code in a fresh interpreter and return what it prints."""
    file = None
    if path is not None:
        file = path / "script.py"
        file.write_text(textwrap.dedent(code))
    command = [sys.executable, str(file)] if file else [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_is_the_same_object_under_both_names():
    code = f"""
        import importlib, ottla
        ottla.install_as_kafka()
        ottla.install_as_kafka()
        for name in {MODULES!r}:
            theirs = importlib.import_module(name)
            ours = importlib.import_module('ottla' + name[5:])
            assert theirs is ours, name
            assert ours.__spec__.name == ours.__name__ == 'ottla' + name[5:], ours.__spec__
        from kafka.errors import KafkaError
        from kafka import KafkaProducer, errors
        import kafka.structs
        assert errors.KafkaError is KafkaError is ottla.errors.KafkaError
        assert kafka.structs is ottla.structs and kafka is ottla
        print('ok')
    """
    assert python(code) == "ok"


def test_what_is_not_there_is_a_module_not_found_by_kafkas_name():
    code = """
        import ottla; ottla.install_as_kafka()
        try:
            import kafka.vendor.six
        except ModuleNotFoundError as error:
            print(error)
    """
    assert python(code) == "No module named 'kafka.vendor'"


def test_pickles_name_ottla_and_old_ones_are_read():
    code = r"""
        import pickle, ottla; ottla.install_as_kafka()
        from kafka import TopicPartition
        assert b'ottla.structs' in pickle.dumps(TopicPartition('t', 1))
        assert pickle.loads(pickle.dumps(TopicPartition('t', 1))) == TopicPartition('t', 1)
        # As kafka-python itself pickles it.
        print(pickle.loads(b"ckafka.structs\nTopicPartition\n(Vt\nI1\ntR."))
    """
    assert python(code) == "TopicPartition(topic='t', partition=1)"


def test_a_spawned_process_imports_kafka_and_gets_the_same_values(tmp_path):
    code = """
        import multiprocessing
        import ottla
        if __name__ == '__main__':
            ottla.install_as_kafka()
        from kafka.errors import KafkaTimeoutError
        from kafka.structs import TopicPartition
        import kafka

        def work(partition):
            assert type(partition) is TopicPartition and kafka.__name__ == 'ottla'
            return kafka.TopicPartition(partition.topic, partition.partition + 1), KafkaTimeoutError('late')

        if __name__ == '__main__':
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                print(pool.apply(work, (TopicPartition('t', 1),)))
    """
    assert python(code, path=tmp_path) == "(TopicPartition(topic='t', partition=2), KafkaTimeoutError('late'))"


def test_another_kafka_that_is_loaded_already_is_refused(tmp_path):
    (tmp_path / "kafka.py").write_text("")
    code = """
        import sys; sys.path.insert(0, '.')
        import kafka, ottla
        try:
            ottla.install_as_kafka()
        except RuntimeError as error:
            print(str(error).split(':')[0].split(',')[0])
    """
    assert python(code, cwd=tmp_path) == "another kafka is imported already"
