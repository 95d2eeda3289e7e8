"""The public surface is kafka-python's: names, bases, fields, signatures, defaults."""

import importlib
import inspect
import json
import re
import selectors
import subprocess
import sys
from pathlib import Path

import ottla
import pytest

SURFACE = json.loads((Path(__file__).parents[2] / "data" / "kafka_python_surface.json").read_text())
MODULES = SURFACE["modules"]

# What this version leaves out, by module: a reason for each. A name that is added here needs one, too.
LATER = {
    # Machinery of kafka-python's own networking, and mechanisms that come with SASL.
    "kafka.net.sasl.msk": {"AwsMskIamClient"},
    "kafka.net.sasl": {"get_sasl_mechanism", "register_sasl_mechanism"},
}
LATER_METHODS = {
    # The cluster's inner life; a partitioner asks three questions of it.
    "ClusterMetadata": None,
    # The core shares partitions out; a class in Python only names the way.
    "AbstractPartitionAssignor": {"assign", "metadata", "on_assignment"},
    "RangePartitionAssignor": {"assign", "metadata", "on_assignment"},
    "RoundRobinPartitionAssignor": {"assign", "metadata", "on_assignment"},
    "StickyPartitionAssignor": {"assign", "metadata", "on_assignment", "parse_member_metadata"},
    "CooperativeStickyAssignor": {"assign", "metadata", "on_assignment", "parse_member_metadata"},
    # Sensors take samples in Python; the core counts.
    "Metrics": {"ExpireSensorTask", "get_sensor", "remove_sensor", "sensor"},
    # Only kafka-python's own accumulator calls it.
    "FutureRecordMetadata": {"rebind"},
    # Message formats before Kafka 0.11 are not written.
    "KafkaProducer": {"max_usable_produce_magic"},
    # ACLs, quorums, reassignments, SCRAM users, transactions: an issue of their own.
    "KafkaAdminClient": {
        "api_versions",
        "abort_transaction",
        "alter_partition_reassignments",
        "alter_replica_log_dirs",
        "alter_user_scram_credentials",
        "create_acls",
        "delete_acls",
        "describe_acls",
        "describe_features",
        "describe_log_dirs",
        "describe_metadata_quorum",
        "describe_producers",
        "describe_topic_partitions",
        "describe_transactions",
        "describe_user_scram_credentials",
        "elect_leaders",
        "find_hanging_transactions",
        "get_broker_version_data",
        "list_config_resources",
        "list_partition_reassignments",
        "list_transactions",
        "update_features",
    },
}
# Where the signature is another on purpose.
OTHER_SIGNATURES = {
    # Python's own types and enumerations.
    "OffsetTimestamp",
}


def ours(module):
    return importlib.import_module("ottla" + module.removeprefix("kafka"))


def classes():
    return [
        pytest.param(module, name, facts, id=f"{module}.{name}")
        for module, content in MODULES.items()
        for name, facts in content.get("classes", {}).items()
        if name not in LATER.get(module, ())
    ]


def find(module, name):
    return getattr(ours(module), name)


def parameters(signature):
    """Names with defaults, without annotations."""
    found = []
    for parameter in signature.parameters.values():
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        found.append(f"{parameter.kind.name}:{parameter.name}{default}")
    return found


def parse(text):
    """Read a signature's text; defaults that are objects are read as their text."""
    names = {}

    def stand_in(match):
        name = f"_default_{len(names)}"
        names[name] = Text(match.group(0))
        return name

    source = re.sub(r"<[^<>]*>", stand_in, text)
    source = re.sub(r": (List|Tuple|Any|str|bytes)(\[[^=]*?\]\])?", "", source)
    namespace = dict(names)
    exec(f"def f{source}: pass", namespace)  # noqa: S102
    return inspect.signature(namespace["f"])


class Text:
    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"kafka.net.sasl.msk"}))
def test_every_module_is_there(module):
    ours(module)


@pytest.mark.parametrize(("module", "name", "facts"), classes())
def test_class_is_there_with_its_bases(module, name, facts):
    cls = find(module, name)
    assert isinstance(cls, type)
    known = {base.__name__ for base in cls.__mro__}
    for base in facts["bases"]:
        if base.endswith("AdminMixin") or base in ("AbstractMeasurable", "AbstractMetricsReporter"):
            continue
        assert base in known


@pytest.mark.parametrize(("module", "name", "facts"), [case for case in classes() if "fields" in case.values[2]])
def test_named_tuple_has_its_fields_and_defaults(module, name, facts):
    cls = find(module, name)
    assert list(cls._fields) == facts["fields"]
    assert cls._field_defaults == facts["defaults"]
    assert issubclass(cls, tuple)
    assert cls.__slots__ == ()


@pytest.mark.parametrize(("module", "name", "facts"), [case for case in classes() if "members" in case.values[2]])
def test_enumeration_has_its_members(module, name, facts):
    cls = find(module, name)
    assert {member.name: member.value for member in cls} == facts["members"]


@pytest.mark.parametrize(("module", "name", "facts"), [case for case in classes() if "constants" in case.values[2]])
def test_class_has_its_constants(module, name, facts):
    cls = find(module, name)
    for constant, value in facts["constants"].items():
        assert getattr(cls, constant) == value


@pytest.mark.parametrize(("module", "name", "facts"), classes())
def test_class_has_its_methods_with_their_signatures(module, name, facts):
    left_out = LATER_METHODS.get(name, ())
    if left_out is None or name in OTHER_SIGNATURES:
        return
    cls = find(module, name)
    for method, text in facts.get("methods", {}).items():
        if method in left_out:
            assert not hasattr(cls, method), f"{name}.{method} is there now: take it off the list"
            continue
        found = getattr(cls, method)
        if text is None or method in ("__iter__", "__next__", "__await__"):
            continue
        expected = parameters(parse(text))
        actual = parameters(inspect.signature(found))
        # Whether `self` counts depends on who looks.
        strip = [entry for entry in expected if not entry.endswith(":self")]
        if module == "kafka" and method == "__exit__":
            assert len(actual) == 4
            continue
        assert [entry for entry in actual if not entry.endswith(":self")] == strip, f"{name}.{method}"
    for name_ in facts.get("properties", ()):
        assert hasattr(cls, name_)


@pytest.mark.parametrize("module", [m for m in sorted(MODULES) if MODULES[m].get("functions")])
def test_functions_are_there(module):
    for function in MODULES[module]["functions"]:
        if function in LATER.get(module, ()):
            continue
        assert callable(find(module, function))


@pytest.mark.parametrize("module", [m for m in sorted(MODULES) if MODULES[m].get("reexports")])
def test_reexports_are_the_same_objects(module):
    for name, origin in MODULES[module]["reexports"].items():
        home, _, original = origin.rpartition(".")
        assert find(module, name) is find(home, original)


@pytest.mark.parametrize("name", ["KafkaProducer", "KafkaConsumer", "KafkaAdminClient"])
def test_options_and_defaults_are_kafka_pythons(name):
    expected = MODULES["kafka"]["classes"][name]["config"]
    actual = getattr(ottla, name).DEFAULT_CONFIG
    assert set(actual) == set(expected)
    for option, default in expected.items():
        mine = actual[option]
        if option in ("kafka_client", "client_id", "partitioner", "default_offset_commit_callback"):
            continue
        if option == "selector":
            assert mine is selectors.DefaultSelector
        elif option == "partition_assignment_strategy":
            assert [f"<class {cls.__name__}>" for cls in mine] == default
        elif option == "socket_options":
            assert [list(entry) for entry in mine] == default
        elif default == "inf":
            assert mine == float("inf")
        else:
            assert mine == default, option


@pytest.mark.parametrize(
    "name",
    ["KafkaConsumer", "KafkaProducer", "KafkaAdminClient", "TopicPartition", "OffsetAndMetadata", "IsolationLevel"],
)
def test_top_level_names_are_there(name):
    assert name in ottla.__all__


def test_every_name_is_there_and_importing_the_package_imports_little():
    code = """
import sys, ottla
heavy = {"ottla.pipe", "dataclasses", "inspect", "hashlib", "tempfile", "importlib.resources", "asyncio"}
print(sorted(heavy & set(sys.modules)))
print([name for name in ottla.__all__ if name not in dir(ottla) or getattr(ottla, name) is None])
print(ottla.backup is ottla.pipe.backup)
"""
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "[]", "True"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = ottla.nothing
