"""Exceptions: kafka-python's tree, and Ottla's own."""

import copy
import json
import pickle
from pathlib import Path

import pytest
from ottla import _ottla, errors

SURFACE = json.loads((Path(__file__).parents[2] / "data" / "kafka_python_surface.json").read_text())
CLASSES = SURFACE["modules"]["kafka.errors"]["classes"]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_has_its_bases_and_attributes(name):
    facts = CLASSES[name]
    cls = getattr(errors, name)
    assert [base.__name__ for base in cls.__bases__] == facts["bases"]
    assert cls.retriable == facts["retriable"]
    assert cls.invalid_metadata == facts["invalid_metadata"]
    if facts.get("errno") is not None:
        assert cls.errno == facts["errno"]
        assert cls.message == facts["message"]


def test_every_code_of_the_core_has_a_class_with_a_description():
    for code, name, description, _retriable, _metadata in _ottla.error_codes():
        cls = errors.for_code(code)
        assert cls.errno == code, name
        assert cls.description == description
        assert getattr(errors, cls.__name__) is cls


def test_a_code_that_nobody_knows_keeps_its_number():
    cls = errors.for_code(9999)
    assert cls.errno == 9999
    assert issubclass(cls, errors.UnknownError)
    assert str(cls("what")) == "[Error 9999] UnrecognizedBrokerError: what"


def test_text_of_an_error_is_kafka_pythons():
    assert str(errors.KafkaTimeoutError()) == "KafkaTimeoutError"
    assert str(errors.KafkaTimeoutError("after 3 s")) == "KafkaTimeoutError: after 3 s"
    assert str(errors.UnknownTopicOrPartitionError("x")) == "[Error 3] UnknownTopicOrPartitionError: x"


def test_errors_are_equal_by_class_and_arguments_and_can_be_hashed():
    assert errors.KafkaTimeoutError("a") == errors.KafkaTimeoutError("a")
    assert errors.KafkaTimeoutError("a") != errors.KafkaTimeoutError("b")
    assert errors.KafkaTimeoutError("a") != errors.KafkaConnectionError("a")
    assert len({errors.KafkaTimeoutError("a"), errors.KafkaTimeoutError("a")}) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NoBrokersAvailable", (errors.KafkaTimeoutError, errors.KafkaConnectionError)),
        ("UnavailableError", (errors.OttlaError, errors.KafkaConnectionError, ConnectionError)),
        ("NotFoundError", (errors.OttlaError, FileNotFoundError)),
        ("AlreadyExistsError", (errors.OttlaError, FileExistsError)),
        ("DeniedError", (errors.OttlaError, PermissionError)),
        ("InvalidError", (errors.OttlaError, ValueError, errors.KafkaConfigurationError)),
        ("TimedOutError", (errors.OttlaError, TimeoutError, errors.KafkaTimeoutError)),
        ("ClosedError", (errors.OttlaError, errors.IllegalStateError)),
        ("ForkedError", (errors.OttlaError, errors.IllegalStateError)),
        ("InternalError", (errors.OttlaError, RuntimeError)),
    ],
)
def test_errors_of_ottla_are_what_a_caller_would_catch(name, expected):
    error = getattr(errors, name)("facts")
    for cls in expected:
        assert isinstance(error, cls)
    assert isinstance(error, errors.KafkaError)
    assert str(error) == f"{name}: facts"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CorruptRecordException", "CorruptRecordError"),
        ("GroupCoordinatorNotAvailableError", "CoordinatorNotAvailableError"),
        ("NotCoordinatorForGroupError", "NotCoordinatorError"),
        ("AuthenticationFailedError", "SaslAuthenticationFailedError"),
    ],
)
def test_names_of_kafka_python_2_are_aliases(old, new):
    assert getattr(errors, old) is getattr(errors, new)


@pytest.mark.parametrize(
    "error",
    [
        errors.KafkaTimeoutError("a"),
        errors.TopicAlreadyExistsError("b"),
        errors.NotFoundError("c"),
        errors.CommitFailedError(),
        errors.LogTruncationError({"x": 1}),
    ],
)
def test_errors_can_be_pickled_and_copied(error):
    assert pickle.loads(pickle.dumps(error)) == error  # noqa: S301
    assert copy.copy(error) == error
