"""A future's semantic, as in kafka-python."""

import asyncio
import logging
import threading

import pytest
from ottla import errors
from ottla.future import Future


def test_callbacks_run_once_with_the_value_in_order():
    seen = []
    future = Future()
    assert not future.is_done
    assert future.add_callback(lambda *a, **k: seen.append((a, k)), 1, x=2) is future
    future.add_both(lambda value: seen.append(value))
    future.add_errback(lambda error: seen.append("never"))
    assert future.success("v") is future
    assert seen == [((1, "v"), {"x": 2}), "v"]
    future.add_callback(seen.append)
    assert seen[-1] == "v"
    assert future.succeeded()
    assert not future.failed()
    assert future.value == "v"
    assert future.exception is None


def test_errbacks_run_with_the_exception_and_a_class_is_made_one():
    seen = []
    future = Future().add_errback(seen.append).add_callback(lambda _: seen.append("never"))
    future.failure(errors.KafkaTimeoutError)
    assert seen == [errors.KafkaTimeoutError()]
    assert future.failed()
    assert future.retriable()
    assert not Future().failure(ValueError("x")).retriable()
    with pytest.raises(TypeError):
        Future().failure("not an exception")


def test_a_future_ends_once():
    future = Future().success(1)
    future.failure(ValueError("late"))
    assert future.value == 1
    assert future.succeeded()


def test_chain_ends_another_future():
    one, other = Future(), Future()
    one.chain(other)
    one.success(5)
    assert other.value == 5


def test_what_a_callback_raises_is_logged_and_the_others_run(caplog):
    seen = []

    def bad(_value):
        raise ZeroDivisionError

    future = Future().add_callback(bad).add_callback(seen.append)
    with caplog.at_level(logging.ERROR, logger="ottla.future"):
        future.success(1)
    assert seen == [1]
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_error_on_callbacks_raises_it_again(monkeypatch):
    class Strict(Future):
        error_on_callbacks = True

    def bad(_value):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Strict().add_callback(bad).success(1)


def test_a_coroutine_can_wait_for_what_another_thread_ends():
    async def wait():
        future = Future()
        threading.Timer(0.02, future.success, ("v",)).start()
        failing = Future()
        threading.Timer(0.02, failing.failure, (errors.KafkaTimeoutError("late"),)).start()
        with pytest.raises(errors.KafkaTimeoutError):
            await failing
        return await future

    assert asyncio.run(wait()) == "v"
